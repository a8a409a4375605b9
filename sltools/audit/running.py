"""The order of an audit: from cheap to dear, within its time; it goes on where it was left."""

import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from sltools.audit import measures
from sltools.audit.attackers import ATTACKERS, Attacker
from sltools.audit.findings import Finding, Guesses, Scores, guess, guessed_images, not_tried, score
from sltools.audit.measures import Cut, Defended, Wire
from sltools.audit.system import System
from sltools.errors import SltoolsError
from sltools.interrupts import keep_partial
from sltools.progress import bar

SEEDS = 3  # attackers of each kind, if there is time
MEASURES_SHARE = 0.15  # of the time, that other cuts and defences may take, each
TRIAL_STEPS = (4, 12)  # to see how long an attack takes
MORE = 1.5  # times as many steps as before are worth another try
MARGIN = 1.1  # on the time that a repetition is expected to take


@dataclass
class Work:
    """What an audit has found so far; `images` (T, C, H, W) are those of each attack's first run.

    `not_done` says what the time did not allow, `whole` which measures were finished, and
    `interrupted` that Ctrl-C ended it.
    """

    findings: dict[str, Finding] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    guesses: Guesses = field(default_factory=Guesses)
    wire: Wire | None = None
    cuts: list[Cut] | None = None
    defenses: list[Defended] | None = None
    not_done: list[str] = field(default_factory=list)
    whole: dict[str, bool] = field(default_factory=dict)
    interrupted: bool = False


def carry_out(
    system: System, work: Work, *, seconds: float, seed: int, keep: Callable[[Work], None]
) -> Work:
    """Do what `work` lacks, within about `seconds`; call `keep` after each part of it.

    Ctrl-C returns what there is, marked. What was not tried for want of time is tried again.
    """
    deadline = time.monotonic() + seconds
    work.not_done, work.interrupted = [], False
    with keep_partial() as interruption:
        _measure(system, work, seconds, seed)
        keep(work)
        _attack_once(system, work, deadline, seed, keep)
        _repeat(system, work, deadline, seed, keep)
    work.interrupted = interruption.interrupted
    if work.interrupted:
        for attacker in ATTACKERS:
            interrupted = not_tried(attacker, "interrupted before its turn")
            work.findings.setdefault(attacker.name, interrupted)
    keep(work)
    return work


def _measure(system: System, work: Work, seconds: float, seed: int) -> None:
    share = MEASURES_SHARE * seconds
    work.wire = work.wire or measures.wire(system)
    work.guesses = guess(system, share, seed)  # anew: a rival may have more time than before
    if not work.whole.get("other cuts"):
        work.cuts, work.whole["other cuts"] = measures.within(share, measures.other_cuts(system))
    if not work.whole.get("defences"):
        found, work.whole["defences"] = measures.within(share, measures.defended(system))
        work.defenses = found
    for what, tried in {"other cuts": work.cuts, "defences": work.defenses}.items():
        if not work.whole[what]:
            work.not_done.append(f"{what}, after the first {len(tried or [])}")


def _attack_once(
    system: System, work: Work, deadline: float, seed: int, keep: Callable[[Work], None]
) -> None:
    """Try each attacker that was not tried yet, then those that could take more steps."""
    steps = {attacker.name: _steps(work.findings.get(attacker.name)) for attacker in ATTACKERS}
    waiting = [attacker for attacker in ATTACKERS if steps[attacker.name] is None]
    waiting += [a for a in ATTACKERS if (done := steps[a.name]) is not None and done < a.most]
    for number, attacker in enumerate(bar(waiting, "attackers")):
        allowed = (deadline - time.monotonic()) / (len(waiting) - number)
        reason, planned = _plan(system, attacker, allowed, deadline, seed)
        before = steps[attacker.name]
        if reason and before is None:
            work.findings[attacker.name] = not_tried(attacker, reason)
        elif not reason and (before is None or planned > MORE * before):
            work.findings.pop(attacker.name, None)
            work.images.pop(attacker.name, None)
            _try(system, work, attacker, planned, seed)
        keep(work)


def _steps(finding: Finding | None) -> int | None:
    """How many steps an attack took before; None if it was not tried."""
    if finding is None or not finding.runs:
        return None
    return int((finding.settings or {}).get("steps", 0))


def _repeat(
    system: System, work: Work, deadline: float, seed: int, keep: Callable[[Work], None]
) -> None:
    """Try them again with other seeds, as long as there is time."""
    for number in range(1, SEEDS):
        for attacker in ATTACKERS:
            found = work.findings[attacker.name]
            left = deadline - time.monotonic()
            if len(found.runs) == number and MARGIN * found.seconds < left and attacker.most:
                steps = (found.settings or {})["steps"]
                _try(system, work, attacker, steps, seed + 1000 * number)
                keep(work)


def _try(system: System, work: Work, attacker: Attacker, steps: int, seed: int) -> None:
    """One run of an attack, scored; one that fails is told as what was not tried."""
    start = time.monotonic()
    before = work.findings.get(attacker.name)
    try:
        found = attacker.run(system, steps, seed)
        scores = score(system, found, guessed_images(system))
    except Exception as error:  # it runs the user's own code
        if before is None or not before.runs:
            work.findings[attacker.name] = not_tried(attacker, _failure(error))
        return
    if found.images is not None and attacker.name not in work.images:
        work.images[attacker.name] = found.images
    runs: list[Scores] = [*(before.runs if before else []), scores]
    seconds = before.seconds if before and before.runs else time.monotonic() - start
    work.findings[attacker.name] = Finding(
        attacker.name, attacker.level, attacker.source, "", found.settings, found.knowledge,
        seconds, runs,
    )  # fmt: skip


def _failure(error: Exception) -> str:
    kind = "" if isinstance(error, SltoolsError) else f"{type(error).__name__}: "
    return f"it failed: {kind}{error}"


def _plan(
    system: System, attacker: Attacker, allowed: float, deadline: float, seed: int
) -> tuple[str, int]:
    """Why an attacker cannot be tried, or how many steps it may take."""
    if reason := attacker.lacking(system):
        return reason, 0
    if deadline < time.monotonic():
        return "there was no time left: give more --minutes", 0
    if not attacker.most:
        return "", 0
    try:
        fixed, each = _cost(system, attacker, seed)
    except Exception as error:  # it runs the user's own code
        return _failure(error), 0
    left = deadline - time.monotonic()
    steps = min(attacker.most, int((allowed - fixed) / each))
    if steps < attacker.least and fixed + attacker.least * each < left:
        steps = attacker.least
    if steps < attacker.least:
        needed = fixed + attacker.least * each
        return (
            f"the {attacker.least} steps that it takes at least need about {needed:.0f} s, and "
            f"{max(0, left):.0f} s were left: give more --minutes"
        ), 0
    return "", steps


def _cost(system: System, attacker: Attacker, seed: int) -> tuple[float, float]:
    """The seconds that an attack takes besides its steps, and for each of them."""
    times, counts = [], []
    for steps in TRIAL_STEPS:
        start = time.monotonic()
        with warnings.catch_warnings():  # of a search that has hardly begun
            warnings.simplefilter("ignore")
            found = attacker.run(system, steps, seed)
        times.append(time.monotonic() - start)
        counts.append((found.settings or {}).get("steps", steps))
    each = (times[1] - times[0]) / (counts[1] - counts[0]) if counts[1] > counts[0] else 0.0
    each = each if each > 0 else times[1] / counts[1]
    return max(0.0, times[0] - counts[0] * each), each
