"""Audit a split: what does your own system give away, and to whom?

    sltools audit --client net.py:client --rest net.py:rest --images scans/ --labels labels.csv
                  --out my-audit

or, in Python,

    from sltools import audit
    report = audit.run(client=make_client, rest=make_rest, images=images, labels=labels)
    print(report)
    report.save("my-audit")

The network may be any `torch.nn.Module`. Attackers are tried from cheap to dear, within the
minutes that there are; each result stands beside what a guess without an attack has.
"""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from sltools import seeds
from sltools.audit import report as reporting
from sltools.audit.attackers import ATTACKERS, LEVELS
from sltools.audit.findings import Finding, Share
from sltools.audit.folder import Folder
from sltools.audit.report import PAGE, Report
from sltools.audit.running import Work, carry_out
from sltools.audit.sources import (
    Samples,
    checked_activations,
    checked_builder,
    checked_samples,
    checked_view,
    checked_weights,
)
from sltools.audit.system import TARGETS, Kept, Parts, System, build
from sltools.audit.verdicts import Verdict
from sltools.errors import SltoolsError
from sltools.view import View

__all__ = [
    "ATTACKERS", "LEVELS", "PAGE", "Finding", "Parts", "Report", "Samples", "Share", "System",
    "Verdict", "build", "run", "run_parts",
]  # fmt: skip

IDLE = 0.7  # of the time, for which a machine works on an audit at least if nothing else is on it


def run(
    client: Callable[[], nn.Module] | None = None,
    images: Tensor | None = None,
    labels: Tensor | None = None,
    rest: Callable[[], nn.Module] | None = None,
    *,
    weights: dict[str, Tensor] | None = None,
    smashed: Tensor | None = None,
    public: Tensor | None = None,
    public_labels: Tensor | None = None,
    view: View | None = None,
    also: Sequence[Callable[[], nn.Module]] = (),
    name: str = "your split",
    minutes: float = 5,
    targets: int = TARGETS,
    seed: int = 0,
    folder: str | Path | None = None,
) -> Report:
    """Audit a split within about `minutes`, and return the report.

    `client` and `rest` each build a network with fresh weights: what the client runs, and what the
    server runs. `images` are what the client's network takes, (N, C, H, W), or rows (N, D), and
    `labels` (N,) their classes. `weights` by name are those of the trained client, and of the rest
    if its names differ; without them both are trained here. `smashed` are recorded activations
    instead, in the order of `images` if those are given too; or a saved `view`. `public` samples,
    with `public_labels`, are the attacker's own; without them some of `images` are set aside.
    `also` builds other fronts of the same network. With a `folder` all is kept there on the way,
    and the same call goes on with it.

    Raises SltoolsError, with what is wrong and what to do. Ctrl-C returns the report of what is
    done.

    >>> from torch import nn
    >>> from sltools import audit, data
    >>> def client():
    ...     return nn.Sequential(nn.Conv2d(1, 4, 5, stride=2), nn.ReLU())
    >>> def rest():
    ...     return nn.Sequential(nn.Flatten(), nn.Linear(4 * 12 * 12, 10))
    >>> digits = data.load("digits").train[:300]
    >>> report = audit.run(client, digits.images, digits.labels, rest, minutes=0.01)
    >>> report.verdicts[-1].question, report.facts["system"]["targets"]
    ('What do the activations tell of the labels?', 10)
    """
    parts = Parts(
        checked_builder(client, "client"), checked_builder(rest, "rest"),
        checked_samples(images, labels, "images"), checked_weights(weights),
        checked_activations(smashed), checked_samples(public, public_labels, "public"),
        checked_view(view), tuple(checked_builder(each, "also") for each in also), name,
    )  # fmt: skip
    return run_parts(parts, minutes=minutes, targets=targets, seed=seed, folder=folder)


def run_parts(
    parts: Parts,
    *,
    minutes: float = 5,
    targets: int = TARGETS,
    seed: int = 0,
    folder: str | Path | None = None,
    command: str = "audit.run(...)",
) -> Report:
    """Audit `parts` as `run` does; `command` is what the report says to type to do it again."""
    if not isinstance(minutes, (int, float)) or not 0 <= minutes < math.inf:
        raise SltoolsError(f"minutes must be a finite number of at least 0, not {minutes!r}")
    if not isinstance(targets, int) or targets < 1:
        raise SltoolsError(f"targets must be a whole number of at least 1, not {targets!r}")
    settings = {"command": command, "minutes": minutes, "seed": seed}
    if folder is None:
        return _carry_out(parts, minutes, targets, seed, settings, None)
    key = {"parts": parts.digest, "targets": targets, "seed": seed}
    place = Folder(Path(folder).expanduser(), key)
    with place.opened():
        return _carry_out(parts, minutes, targets, seed, settings, place)


def _carry_out(
    parts: Parts,
    minutes: float,
    targets: int,
    seed: int,
    settings: dict[str, Any],
    place: Folder | None,
) -> Report:
    start, seconds = _Clock(), 60 * minutes
    kept = place.victim() if place else None
    with seeds.scope(seed, "audited network"):  # it may draw at random when it is used
        system = build(parts, targets=targets, seconds=seconds, seed=seed, kept=kept)
        if place and system.trained and not (kept and kept.is_taught):
            place.keep_victim(Kept(system.trained, system.is_taught))
        work = place.work() if place else Work()

        def report() -> Report:
            return reporting.make(system, work, settings | start.told(minutes))

        def keep(work: Work) -> None:
            if place:
                place.keep(work, report(), again=not system.is_taught)

        left = max(0.0, seconds - start.elapsed)
        carry_out(system, work, seconds=left, seed=seed, keep=keep)
        return report()


class _Clock:
    """How long an audit took, and how much of that the machine worked on it."""

    def __init__(self) -> None:
        self._start, self._start_of_work = time.monotonic(), time.process_time()

    @property
    def elapsed(self) -> float:
        """Seconds until now."""
        return time.monotonic() - self._start

    def told(self, minutes: float) -> dict[str, str]:
        """The time taken, and whether the machine was busy with something else, for the report."""
        taken, worked = self.elapsed / 60, (time.process_time() - self._start_of_work) / 60
        told = f"{taken:.1f}"
        if taken > max(minutes, 0.1) and worked < IDLE * taken:
            told += (
                f", of which this audit had the processor for {worked:.1f}: the machine was busy "
                "with other work, so attackers had fewer steps than they may have elsewhere"
            )
        return {"minutes taken": told}
