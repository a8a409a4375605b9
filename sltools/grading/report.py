"""Writes scores and feedback; what submissions said is text in them, and never code."""

import csv
import hashlib
import html
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import date
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sltools import storage
from sltools.checking.judging import MARKS
from sltools.grading import class_statistics
from sltools.grading.roster import Roster

if TYPE_CHECKING:
    from sltools.grading.results import Result, TaskResult

FEEDBACK = "feedback"
# Where a spreadsheet looks for one: in a cell, or after what it may take for the end of a cell.
FORMULA = re.compile(r"(?<![^;])(?=\s*[=+\-@\uff0b\uff0d\uff1d\uff20|%])")
# What moves the cursor, turns the direction of writing, or is half a character: shown, not sent.
CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]"
)
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; max-width: 50em; margin: 2em auto; padding: 0 1em; }}
table {{ border-collapse: collapse; width: 100%; }}
th, td {{ border-bottom: 1px solid #bbb; padding: 6px; text-align: left; vertical-align: top; }}
pre {{ white-space: pre-wrap; overflow-wrap: anywhere; margin: 0; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{graded}</p>
{learner}
<p><b>{total}</b></p>
{remarks}
{tasks}
{cells}
</body>
</html>
"""
TABLE = """\
<table>
<tr><th scope="col">Task</th><th scope="col">Outcome</th><th scope="col">Points</th>
<th scope="col">What the check says</th></tr>
{rows}
</table>
"""
PAGE_NAME = re.compile(r"([A-Za-z0-9-]*-)?[0-9a-f]{8}\.html")


def write(out: Path, title: str, results: Sequence["Result"], roster: Roster) -> None:
    """Write `scores.csv`, `scores.json`, and a page for each submission, into the folder `out`.

    Who handed in nothing has a row, and no page. `index.csv` says which page is whose, with what
    the `roster` knows of them; `statistics.html` is for the teacher. `title` says on the pages what
    was graded. Pages of submissions that are gone are deleted.
    """
    (out / FEEDBACK).mkdir(parents=True, exist_ok=True)
    _write(out / "scores.csv", _csv(results))
    facts = [asdict(r) | {"points": r.points, "out_of": r.out_of} for r in results]
    _write(out / "scores.json", json.dumps(facts, indent=1) + "\n")
    graded = f"{title[:1].upper()}{title[1:]}, graded on {date.today().isoformat()}"
    _write(out / "statistics.html", class_statistics.page(graded, results))
    _write(out / "index.csv", _index(results, roster))
    handed_in = [result for result in results if result.submission]
    pages = {page_name(result.submission): _page(result, graded) for result in handed_in}
    for name, page in pages.items():
        _write(out / FEEDBACK / name, page)
    for path in (out / FEEDBACK).iterdir():
        if PAGE_NAME.fullmatch(path.name) and path.name not in pages:
            path.unlink()


def page_name(submission: str) -> str:
    """Name the page of a submission: readable, and no other's, whatever the submission is called"""
    slug = re.sub(r"[^A-Za-z0-9]+", "-", submission.removesuffix(".ipynb")).strip("-")[:60]
    digest = hashlib.sha256(submission.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{slug}{'-' if slug else ''}{digest[:8]}.html"  # a dash before it looks like an option


def visible(text: str) -> str:
    """Return a text with what would not be seen in it written out.

    >>> from sltools.grading.report import visible
    >>> print(visible("ann\\u202e\\x1b[31m"))
    ann\\u202e\\x1b[31m
    """
    return CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def safe_cell(value: Any) -> Any:
    """Return a value for a CSV file that no spreadsheet takes for a formula, in one line."""
    if not isinstance(value, str):
        return value
    return FORMULA.sub("'", visible(re.sub(r"[\t\n\r]", " ", value)))


def table(rows: Iterable[Sequence[Any]]) -> str:
    """Return rows as CSV, of safe cells."""
    file = StringIO()
    csv.writer(file).writerows([safe_cell(value) for value in row] for row in rows)
    return file.getvalue()


def _write(path: Path, text: str) -> None:
    storage.write_atomic(path, text.encode(errors="replace"))


def _index(results: Sequence["Result"], roster: Roster) -> str:
    rows = [["learner", "submission", "feedback", *roster.columns]]
    for result in results:
        page = page_name(result.submission) if result.submission else ""
        rows.append([result.learner, result.submission, page, *roster.row(result.learner)])
    return table(rows)


def _csv(results: Sequence["Result"]) -> str:
    keys = list(dict.fromkeys(task.task for result in results for task in result.tasks))
    head = ["submission", "learner", "status", "points", "out_of"]
    tail = ["seconds", "flags", "notes", "feedback", "counts"]
    rows: list[Sequence[Any]] = [[*head, *keys, *tail, "adjusted", "days_late", "late_share"]]
    for result in results:
        points = {task.task: _number(task.points) for task in result.tasks}
        row = [
            *(result.submission, result.learner, result.status),
            *(_number(result.points), result.out_of or ""),
            *(points.get(key, "") for key in keys),
            *(result.seconds, " / ".join(result.flags), " / ".join(result.notes)),
            page_name(result.submission) if result.submission else "",
            "yes" if result.counts else "no",
            " / ".join(f"{task.task}: {_change(task)}" for task in result.tasks if task.adjusted),
            *("" if result.days_late is None else result.days_late, f"{result.late_share:g}"),
        ]
        rows.append(row)
    return table(rows)


def _change(task: "TaskResult") -> str:
    return f"{_number(task.judged) or 'unknown'} -> {_number(task.points)}, {task.adjusted}"


def _number(points: float | None) -> str:
    return "" if points is None else f"{points:g}"


def _page(result: "Result", graded: str) -> str:
    return PAGE.format(
        title=_shown(f"Feedback for {result.submission}"),
        graded=_shown(graded),
        learner=f"<p>For {_shown(result.learner)}</p>" if result.learner else "",
        total=_shown(_total(result)),
        remarks=_list(result.remarks),
        tasks=TABLE.format(rows="\n".join(map(_row, result.tasks))) if result.tasks else "",
        cells=_failed(result.cells),
    )


def _total(result: "Result") -> str:
    if not result.tasks:
        return f"Not graded here ({result.status})"
    points = "not known yet" if result.points is None else f"{result.points:g}"
    told = f"{points} of {result.out_of} points ({result.status})"
    if result.days_late:
        share = "" if result.late_share == 1 else f": {result.late_share:.0%} of the points count"
        told += f", handed in {result.days_late} day{'s' * (result.days_late > 1)} late{share}"
    return told


def _row(task: "TaskResult") -> str:
    points = "?" if task.points is None else f"{task.points:g}"
    return (
        f'<tr><th scope="row">{_shown(task.task)}<br>{_shown(task.title)}</th>'
        f"<td>{MARKS.get(task.outcome, '?')} {_shown(task.outcome)}</td>"
        f"<td>{points} of {task.out_of}</td><td>{_text(task)}{_by_hand(task)}</td></tr>"
    )


def _by_hand(task: "TaskResult") -> str:
    if not task.adjusted:
        return ""
    was = _number(task.judged) or "?"
    return f"<br><b>Your teacher set the points, which were {was}:</b> {_shown(task.adjusted)}"


def _shown(text: str) -> str:
    return html.escape(visible(text))


def _text(task: "TaskResult") -> str:
    text = _shown(task.message)
    return f"<pre>{text}</pre>" if task.outcome == "error" else text.replace("\n", "<br>")


def _failed(cells: dict[str, str]) -> str:
    items = "\n".join(
        f"<li>cell {_shown(number)}:<pre>{_shown(text)}</pre></li>"
        for number, text in cells.items()
    )
    return f"<h2>Code cells that failed</h2>\n<ul>\n{items}\n</ul>" if cells else ""


def _list(texts: Sequence[str]) -> str:
    items = "\n".join(f"<li>{_shown(text)}</li>" for text in texts)
    return f"<ul>\n{items}\n</ul>" if texts else ""
