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
MARGIN = 1.1  # on the time that a repetition is expected to take


@dataclass
class Work:
    """What an audit has found so far; `images` (T, C, H, W) are those of each attack's first run.

    `not_done` says what the time did not allow, `interrupted` that Ctrl-C ended it.
    """

    findings: dict[str, Finding] = field(default_factory=dict)
    images: dict[str, Tensor] = field(default_factory=dict)
    guesses: Guesses = field(default_factory=Guesses)
    wire: Wire | None = None
    cuts: list[Cut] | None = None
    defenses: list[Defended] | None = None
    not_done: list[str] = field(default_factory=list)
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
    if work.wire is None:
        work.wire = measures.wire(system)
        work.guesses = guess(system, MEASURES_SHARE * seconds, seed)
    if work.cuts is None:
        cuts, whole = measures.within(MEASURES_SHARE * seconds, measures.other_cuts(system))
        work.cuts = cuts
        if not whole:
            work.not_done.append(f"cuts after the {len(cuts)}th")
    if work.defenses is None:
        tried, whole = measures.within(MEASURES_SHARE * seconds, measures.defended(system))
        work.defenses = tried
        if not whole:
            work.not_done.append(f"defences after the {len(tried)}th")


def _attack_once(
    system: System, work: Work, deadline: float, seed: int, keep: Callable[[Work], None]
) -> None:
    """Try each attacker that was not tried yet."""
    waiting = [
        attacker
        for attacker in ATTACKERS
        if not (done := work.findings.get(attacker.name)) or not done.runs
    ]
    for number, attacker in enumerate(bar(waiting, "attackers")):
        allowed = (deadline - time.monotonic()) / (len(waiting) - number)
        reason, steps = _plan(system, attacker, allowed, deadline, seed)
        if reason:
            work.findings[attacker.name] = not_tried(attacker, reason)
        else:
            _try(system, work, attacker, steps, seed)
        keep(work)


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
    except Exception as error:  # it runs the user's own code
        if before is None or not before.runs:
            work.findings[attacker.name] = not_tried(attacker, _failure(error))
        return
    scores = score(system, found, guessed_images(system))
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
