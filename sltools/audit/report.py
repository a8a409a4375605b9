"""The report of an audit: facts as JSON, and one page that needs nothing else."""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sltools import __version__, devices, plots, storage
from sltools.audit.attackers import ATTACKERS, LEVELS
from sltools.audit.findings import Finding, Scores, not_tried, typical
from sltools.audit.running import Work
from sltools.audit.system import System
from sltools.audit.verdicts import Setting, Verdict, gain, verdicts, word
from sltools.data import Split
from sltools.defenses import __all__ as ALL_DEFENSES

PAGE, FACTS = "report.html", "report.json"
TRIED_DEFENSES = ("GaussianNoise", "Quantisation", "TopK")
ALIKE = 0.01  # of the error of the mean; of 200 digits, photographs or rows none came below 0.04
NO_DEFENSES = ("Compose", "Outgoing", "distance_correlation")


@dataclass(frozen=True, eq=False, repr=False)
class Report:
    """What an audit found; `print` it, or `save` it as a page and as JSON.

    `facts` are all that the page says, fit for JSON.
    """

    facts: dict[str, Any]
    page: str

    @property
    def interrupted(self) -> bool:
        """Whether Ctrl-C left attackers untried."""
        return bool(self.facts["interrupted"])

    @property
    def verdicts(self) -> list[Verdict]:
        """The sentences that the report begins with."""
        return [Verdict(**verdict) for verdict in self.facts["verdicts"]]

    def __repr__(self) -> str:
        return f"Report(audit of {self.facts['name']}, {len(self.verdicts)} verdicts)"

    def __str__(self) -> str:
        lines = [f"{verdict.question}\n  {verdict.answer}" for verdict in self.verdicts]
        return "\n".join([f"Audit of {self.facts['name']}", *lines])

    def save(self, folder: str | Path) -> Path:
        """Write report.html and report.json into `folder`, new or empty; return the page's path.

        The page shows private inputs, so it is for its owner alone to read.
        """
        return self.write(storage.new_folder(folder))

    def write(self, folder: Path) -> Path:
        """Write both files into `folder`, in place of what they were before."""
        facts = json.dumps(_fit_for_json(self.facts), indent=1, allow_nan=False)
        storage.write_atomic(folder / FACTS, facts + "\n")
        storage.write_private(folder / PAGE, self.page)  # it shows private inputs
        return folder / PAGE


def _fit_for_json(facts: Any) -> Any:
    """Facts with None for infinities and NaN, which JSON does not know."""
    if isinstance(facts, dict):
        return {name: _fit_for_json(fact) for name, fact in facts.items()}
    if isinstance(facts, (list, tuple)):
        return [_fit_for_json(fact) for fact in facts]
    return None if isinstance(facts, float) and not math.isfinite(facts) else facts


def make(system: System, work: Work, settings: dict[str, Any]) -> Report:
    """Write up what was found; `settings` tell how to do it again."""
    from jinja2 import Environment

    facts = _facts(system, work, settings)
    template = resources.files("sltools.audit").joinpath("report.html.jinja")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["short"] = _short
    page = environment.from_string(template.read_text(encoding="utf-8")).render(
        facts=facts, picture=_picture(system, work), rows=_rows(system, work), best=_best(work)
    )
    return Report(facts, page)


def _facts(system: System, work: Work, settings: dict[str, Any]) -> dict[str, Any]:
    findings = _in_order(system, work)
    setting = Setting.of(system)
    said = verdicts(findings, work.guesses, setting)
    return {
        "name": system.name,
        "interrupted": work.interrupted,
        "verdicts": [verdict._asdict() for verdict in said],
        "system": {
            "input shape": list(system.form.shape),
            "inputs scaled from their own range": not system.form.is_default,
            "architecture": repr(system.architecture) if system.architecture else None,
            "samples that crossed the wire": len(system.smashed),
            "targets": system.targets,
            "attacker's own samples": _count(system.public),
            "attacker's samples are labelled": system.public_is_labelled,
            "held-out samples": _count(system.held_out),
            "copies are scored on": setting.scored_on,
            "samples trained on here": _count(system.training if system.trained else None),
            "notes": [*system.notes, *_near_duplicates(system)],
        },
        "wire": asdict(work.wire) if work.wire else None,
        "guesses": asdict(work.guesses),
        "findings": [asdict(finding) for finding in findings],
        "cuts": [asdict(cut) for cut in work.cuts or []],
        "defences": [asdict(defense) for defense in work.defenses or []],
        "not tried": list(_untried(findings, work)),
        "settings": settings,
        "versions": devices.versions() | {"sltools": __version__},
    }  # fmt: skip


def _in_order(system: System, work: Work) -> list[Finding]:
    """Findings from the weakest to the strongest attacker, one for each there is."""
    found = [work.findings.get(a.name) or not_tried(system, a, "not reached") for a in ATTACKERS]
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _untried(findings: list[Finding], work: Work) -> Iterator[str]:
    for finding in findings:
        if not finding.runs:
            yield f"{finding.attacker} ({finding.level}): {finding.reason}."
    for what in work.not_done:
        yield f"{what[0].upper()}{what[1:]}."
    others = [name for name in ALL_DEFENSES if name not in (*TRIED_DEFENSES, *NO_DEFENSES)]
    yield (
        f"Other defences, of which most change the training: {', '.join(sorted(others))}. Lesson "
        "08 and `sltools arena` try them."
    )
    yield (
        "A probe of the activations: a classifier by somebody who knows the labels of some of them."
    )
    yield (
        "Attackers with more: many more steps or samples, several messages about one input, the "
        "gradients of a training, a defence of the client that is not in what was given here."
    )


def _best(work: Work) -> str:
    """The best guess without an attack, in a sentence."""
    best = work.guesses.best_image
    return "" if best is None else f"The best guess, {best[0]}, has {_short(best[1])}."


@dataclass(frozen=True)
class _Row:
    """A row of the table of attackers, as text."""

    attacker: str
    level: str
    source: str
    word: str
    error: str
    ratio: str
    aligned: str
    structure: str
    identified: str
    copy: str
    labels: str
    effort: str
    reason: str


def _rows(system: System, work: Work) -> list[_Row]:
    return [_row(finding, work) for finding in _in_order(system, work)]


def _row(finding: Finding, work: Work) -> _Row:
    middle, ratio = finding.middle or Scores(), gain(finding, work.guesses)
    error = typical(finding)
    steps = (finding.settings or {}).get("steps")
    effort = f"{steps:,} steps, " if steps else ""
    return _Row(
        finding.attacker,
        finding.level,
        finding.source,
        word(finding, work.guesses) if error is not None else "",
        _short(error),
        "" if ratio is None else f"{ratio:.2g}",
        _short(middle.aligned_mse),
        "" if middle.structure is None else f"{middle.structure:.2f}",
        str(middle.identified or ""),
        str(middle.agreement or ""),
        str(middle.groups or ""),
        f"{effort}{len(finding.runs)} run{'s' if len(finding.runs) > 1 else ''}, "
        f"{finding.seconds:.0f} s each" if finding.runs else "",
        finding.reason,
    )  # fmt: skip


def _picture(system: System, work: Work) -> str:
    """An <img> of the targets above what each attacker made of them."""
    order = [
        finding.attacker for finding in _in_order(system, work) if finding.attacker in work.images
    ]
    if not order:
        return ""
    rows = {name: _drawable(work.images[name]) for name in order}
    if system.truth is None:
        return plots.gallery(rows).html()
    return plots.reconstructions(_drawable(system.truth), rows).html()


def _drawable(images: Tensor) -> Tensor:
    """Images (N, 1 or 3, H, W): rows of a table as stripes, other channels as their mean."""
    if images.shape[2:] == (1, 1):
        images = images.permute(0, 2, 3, 1)
    if images.shape[1] not in (1, 3):
        images = images.mean(1, keepdim=True)
    return images.clamp(0, 1)


def _short(value: float | None) -> str:
    return "" if value is None else f"{value:.2g}"


def _count(split: Split | None) -> int:
    return 0 if split is None else len(split)


def _near_duplicates(system: System) -> Iterator[str]:
    """Say so if the attacker's own samples come as near to targets as frames of one film do."""
    if system.truth is None or system.public is None:
        return
    aims, own = system.truth.flatten(1), system.public.images.flatten(1)
    nearest = torch.cdist(aims, own).amin(1).square() / aims.shape[1]
    count = int((nearest < ALIKE * (aims - own.mean(0)).square().mean(1)).sum())
    if count:
        yield (
            f"{count} of {len(aims)} targets almost equal a sample of the attacker's own, as frames"
            " of one film do: whoever has those samples may have got the targets from them, and not"
            " from the activations. Leave such copies out."
        )
