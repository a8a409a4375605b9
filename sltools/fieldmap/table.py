"""Works in print: a table of many, the card of one, and how many need what to get what."""

import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from itertools import zip_longest
from typing import Any

from sltools.fieldmap.catalog import GETS, NEEDS, Threat, Work, works

UNKNOWN = "not known to us"
NOTHING = "nothing more"
COLUMNS = {"work": 22, "kind, world": 16, "needs > gets": 27, "here": 9}  # letters; 80 with gaps
LABEL, WIDTH = 13, 80


def table(found: Sequence[Work]) -> str:
    """Return works as a table of 80 columns: a line or more for each, and how many there are.

    >>> from sltools import fieldmap
    >>> print(fieldmap.table(fieldmap.find(text="iDLG")))
    work                    kind, world       needs > gets                 here
    ----------------------  ----------------  ---------------------------  ---------
    iDLG (2020)             attack            weight gradients > labels    explained
                            federated                                        02 07
    <BLANKLINE>
    1 work
    """
    rules = ["-" * width for width in COLUMNS.values()]
    rows = [*_row([[name] for name in COLUMNS]), *_row([[rule] for rule in rules])]
    for work in found:
        threats = [_in_one_line(threat) for threat in work.threats] or [
            "" if work.gist else UNKNOWN
        ]
        rows += _row([
            [f"{work.name} ({work.year or 'undated'})"],
            [", ".join(work.kinds) or UNKNOWN, ", ".join(work.worlds)],
            threats,
            [" ".join([work.status, *(name[:2] for name in work.lessons)])],
        ])  # fmt: skip
    count = f"{len(found)} work{'' if len(found) == 1 else 's'}"
    return "\n".join([*rows, "", count])


def _row(cells: Sequence[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of one row, each cell a list of paragraphs."""
    wrapped = [
        [line for paragraph in cell for line in _wrap(paragraph, later="  ", width=width)]
        for cell, width in zip(cells, COLUMNS.values(), strict=True)
    ]
    for line in zip_longest(*wrapped, fillvalue=""):
        padded = (part.ljust(width) for part, width in zip(line, COLUMNS.values(), strict=True))
        yield "  ".join(padded).rstrip()


def _in_one_line(threat: Threat) -> str:
    return f"{_needs(threat)} > {', '.join(threat.gets)}"


def _needs(threat: Threat) -> str:
    if threat.needs is None:
        return UNKNOWN
    return ", ".join(threat.needs) or NOTHING


def card(work: Work) -> str:
    """Return all that the map says of one work, in lines of 80 letters; addresses may be longer.

    >>> from sltools import fieldmap
    >>> print(fieldmap.card(fieldmap.find(text="iDLG")[0]))
    iDLG: Improved Deep Leakage from Gradients
    B. Zhao, K. R. Mopuri, H. Bilen, 2020
    <BLANKLINE>
    kind         attack
    world        federated
    who attacks  honest-but-curious server
      needs      weight gradients
      gets       labels
    in short     For a single sample the gradient of the last layer has one row of
                 another sign, and that row is the label.
    answered by  not known to us
    source       https://arxiv.org/abs/2001.02610
    code         not known to us
    here         explained, 02_threat_model, 07_label_inference
    """
    place = ", ".join(filter(None, [work.authors, work.venue]))
    if not (work.year and str(work.year) in work.venue):
        place = ", ".join(filter(None, [place, str(work.year or "undated")]))
    head = [work.title, *(f"also: {title}" for title in work.other_titles), place]
    lines = [line for text in head for line in _wrap(text)] + [""]
    return "\n".join([*lines, *(line for entry in _entries(work) for line in _below(*entry))])


def _entries(work: Work) -> Iterator[tuple[str, str]]:
    """Yield label and text of each entry of a card; a text that we do not know is empty."""
    names = {other.id: other.name for other in works()}
    about_attacks = not work.kinds or set(work.kinds) - {"survey", "framework"}
    yield "kind", ", ".join(work.kinds)
    yield "world", ", ".join(work.worlds)
    for threat in work.threats:
        yield "who attacks", threat.attacker
        yield "  needs", _needs(threat)
        yield "  gets", ", ".join(threat.gets)
    if about_attacks and not work.threats:
        yield "who attacks", ""
    yield "in short", work.gist
    if work.answers:
        yield "answers", ", ".join(names[key] for key in work.answers)
    if about_attacks:
        yield "answered by", ", ".join(names[key] for key in work.answered_by)
    yield from (("source", link) for link in work.sources or [""])
    yield from (("code", link) for link in work.code or [""])
    yield "here", ", ".join([work.status, *work.runs, *work.lessons])


def _below(label: str, text: str) -> list[str]:
    """Wrap a text beside its label; an address is left whole."""
    return _wrap(text or UNKNOWN, label.ljust(LABEL), " " * LABEL)


def _wrap(text: str, first: str = "", later: str = "", width: int = WIDTH) -> list[str]:
    return textwrap.wrap(
        text, width, initial_indent=first, subsequent_indent=later, break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip


def facts(work: Work) -> dict[str, Any]:
    """Return a card for JSON, with its status and the works that answer it.

    >>> from sltools import fieldmap
    >>> facts = fieldmap.facts(fieldmap.find(text="fsha")[0])
    >>> facts["status"], facts["year"], facts["threats"][0]["gets"]
    ('runs', 2021, ('inputs', 'attributes'))
    """
    return {**asdict(work), "status": work.status, "answered_by": work.answered_by}


def needs_and_gets(found: Iterable[Work]) -> dict[str, dict[str, int]]:
    """Count the works with an attacker that needs the one (rows) and gets the other (columns).

    A work counts once in a cell, and in as many cells as it fits. Rows and columns that would be
    empty are left out.

    >>> from sltools import fieldmap
    >>> for need, row in fieldmap.needs_and_gets(fieldmap.find(text="unsplit search")).items():
    ...     print(need, row)
    smashed data {'inputs': 1, 'labels': 0, 'model': 1}
    weight gradients {'inputs': 0, 'labels': 1, 'model': 0}
    architecture {'inputs': 1, 'labels': 0, 'model': 1}
    """
    cells = Counter(cell for work in found for cell in _cells(work))
    needs, gets = {need for need, _ in cells}, {get for _, get in cells}
    return {
        need: {get: cells[need, get] for get in GETS if get in gets}
        for need in (*NEEDS, NOTHING, UNKNOWN)
        if need in needs
    }


def _cells(work: Work) -> set[tuple[str, str]]:
    return {(need, get) for t in work.threats for need in _rows_of(t) for get in t.gets}


def _rows_of(threat: Threat) -> tuple[str, ...]:
    return (UNKNOWN,) if threat.needs is None else threat.needs or (NOTHING,)
