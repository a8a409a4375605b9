"""The arena: attacks against defences, what each attack gains and what each defence costs.

    sltools arena my-arena --budget quick

A row of the CSV is one measure of one trial: `value`, and as `baseline` what somebody reaches who
attacks nobody. A trial that is in the file already is not run again.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sltools import data, storage
from sltools.arena import attacks
from sltools.arena.attacks import DECODER_STEPS, LABEL_SAMPLES
from sltools.arena.defenses import DEFENSES, NONE, Defense
from sltools.arena.report import (
    CSV,
    FIGURE,
    IMAGE_ATTACKS,
    SETTINGS,
    add_time,
    append,
    best_attacks,
    check_settings,
    explain_full_disk,
    frontier,
    medians,
    read,
    table,
    working,
)  # fmt: skip
from sltools.arena.trial import Row, Settings, Trial
from sltools.errors import SltoolsError
from sltools.interrupts import keep_partial
from sltools.progress import bar

__all__ = [
    "CSV", "DECODER_STEPS", "DEFENSES", "FIGURE", "IMAGE_ATTACKS", "NONE", "SETTINGS", "Defense",
    "Outcome", "Row", "Settings", "Trial", "best_attacks", "frontier", "medians", "read", "run",
    "table", "working",
]  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """The rows that a folder has now; `interrupted` says that Ctrl-C left trials undone."""

    rows: list[Row]
    interrupted: bool = False


def run(settings: Settings, folder: Path, only: Sequence[str] = ()) -> Outcome:
    """Run what `folder`/arena.csv lacks, in the order of victims; return its rows, draw the figure.

    `only` names the defences to try (default: all). Ctrl-C keeps all finished trials, and so does a
    full disk: the same call goes on with the rest. Raises SltoolsError for an unknown defence or
    budget, for a folder of other settings (only `victims` may be more than before), and for one
    that cannot be written: the rows of a trial that it had no room for are in the message.

    >>> from pathlib import Path
    >>> from sltools import arena
    >>> arena.run(arena.Settings(), Path("my-arena"), only=["firewall"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    sltools.errors.SltoolsError: no defence is called 'firewall'; there are none, Gaussian ...
    """
    known = {defense.name: defense for defense in DEFENSES}
    if unknown := [name for name in only if name not in known]:
        raise SltoolsError(f"no defence is called {unknown[0]!r}; there are {', '.join(known)}")
    if settings.budget not in LABEL_SAMPLES:
        raise SltoolsError(
            f"a budget is one of {', '.join(LABEL_SAMPLES)}, not {settings.budget!r}"
        )
    dataset = data.load(settings.dataset)
    folder = storage.writable_folder(folder)
    with storage.exclusive_lock(folder):
        interrupted = _run_missing(
            settings, dataset, [known[name] for name in only or known], folder
        )
        kept = read(folder / CSV)
        if any(row.attack == "service" for row in kept):
            with explain_full_disk([], folder):
                frontier(kept).save(folder / FIGURE)
    return Outcome(kept, interrupted)


def _run_missing(
    settings: Settings, dataset: data.Dataset, tried: Sequence[Defense], folder: Path
) -> bool:
    """Run what the file lacks, a trial after the other; say whether Ctrl-C ended it."""
    kept: dict[tuple[object, ...], list[Row]] = {}
    for row in read(folder / CSV):
        kept.setdefault(row.key, []).append(row)
    with explain_full_disk([], folder):
        check_settings(settings, attacks.settings_with_data(settings.budget), folder)
    trials = [
        Trial(settings, dataset, defense, strength, victim, malicious)
        for malicious in (False, True)
        for victim in range(settings.victims)
        for defense in tried
        for strength in defense.strengths
    ]
    with keep_partial() as work:
        lacking = [t for t in trials if attacks.unmeasured(t, kept.get(t.key, ()))]
        for trial in bar(lacking, "arena"):
            start = time.process_time()
            found = attacks.rows(trial, kept.get(trial.key, ()))
            with explain_full_disk(found, folder):
                append(folder / CSV, found)
                add_time(folder, time.process_time() - start)
    return work.interrupted
