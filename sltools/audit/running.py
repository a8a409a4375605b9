"""The order of an audit: from cheap to dear, within its time; it goes on where it was left."""

import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from torch import Tensor

from sltools.audit import measures
from sltools.audit.attackers import ATTACKERS, Attacker
from sltools.audit.findings import (
    Finding,
    Guesses,
    better,
    guess,
    guessed_images,
    not_tried,
    score,
)
from sltools.audit.measures import Cut, Defended, Wire
from sltools.audit.system import System
from sltools.errors import SltoolsError
from sltools.interrupts import keep_partial
from sltools.progress import bar

SEEDS = 3  # attackers of each kind, if there is time
MEASURES_SHARE = 0.15  # of the time, that other cuts and defences may take, each
TRIAL_STEPS = (4, 12)  # to see how long an attack takes
MORE = 1.5  # times as many steps as before are worth another try
T = TypeVar("T")
MARGIN = 1.1  # on the time that a repetition is expected to take


@dataclass
class Work:
    """What an audit has found so far; `images` (T, C, H, W) are those of each attack's first run.

    `not_done` says what else could not be measured and why, `whole` which measures were finished,
    and `interrupted` that Ctrl-C ended it.
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
            interrupted = not_tried(system, attacker, "interrupted before its turn")
            work.findings.setdefault(attacker.name, interrupted)
    keep(work)
    return work


def _measure(system: System, work: Work, seconds: float, seed: int) -> None:
    share = MEASURES_SHARE * seconds
    work.wire = work.wire or _or_told(work, "the wire", lambda: measures.wire(system))
    if guesses := _or_told(work, "guesses", lambda: guess(system, share, seed)):
        work.guesses = better(work.guesses, guesses)
    if not work.whole.get("other cuts"):
        work.cuts = _within(work, "other cuts", share, lambda: measures.other_cuts(system))
    if not work.whole.get("defences"):
        work.defenses = _within(work, "defences", share, lambda: measures.defended(system))


def _within(
    work: Work, what: str, seconds: float, measured: Callable[[], Sequence[Callable[[], T]]]
) -> list[T]:
    """What those measures find for which there is time, and that do not fail."""
    waiting = _or_told(work, what, measured)
    tried, in_time = measures.within(
        seconds, [partial(_or_told, work, what, measure) for measure in waiting or []]
    )
    if not in_time:
        work.not_done.append(
            f"{what}, after the first {len(tried)}: there was no time; give more --minutes"
        )
    found = [one for one in tried if one is not None]
    work.whole[what] = in_time and waiting is not None and len(found) == len(tried)
    return found


def _or_told(work: Work, what: str, measure: Callable[[], T]) -> T | None:
    """What `measure` finds; None, and a word in `work`, if it fails at the user's code or data."""
    try:
        return measure()
    except Exception as error:
        if (told := f"{what}: {_failure(error)}") not in work.not_done:
            work.not_done.append(told)
        return None


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
            work.findings[attacker.name] = not_tried(system, attacker, reason)
        elif not reason and (before is None or planned > MORE * before):
            _try(system, work, attacker, planned, seed, anew=True)
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
            again = attacker.is_seeded and attacker.most
            if again and len(found.runs) == number and MARGIN * found.seconds < left:
                steps = (found.settings or {})["steps"]
                _try(system, work, attacker, steps, seed + 1000 * number)
                keep(work)


def _try(
    system: System, work: Work, attacker: Attacker, steps: int, seed: int, *, anew: bool = False
) -> None:
    """One run of an attack, scored, beside earlier ones or, `anew`, in their place.

    One that fails is told as what was not tried, unless there are runs of it.
    """
    start, name = time.monotonic(), attacker.name
    before = work.findings.get(name)
    try:
        found = attacker.run(system, steps, seed)
        scores = score(system, found, guessed_images(system))
    except Exception as error:  # it runs the user's own code
        if before is None or not before.runs:
            work.findings[name] = not_tried(system, attacker, _failure(error))
        return
    earlier = [] if before is None or anew else before.runs
    if found.images is not None and not earlier:
        work.images[name] = found.images
    seconds = before.seconds if before and earlier else time.monotonic() - start
    work.findings[name] = Finding(
        name, attacker.level_in(system), attacker.source, "", found.settings, found.knowledge,
        seconds, [*earlier, scores],
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
        fixed, each = _cost(system, attacker, seed, allowed)
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


def _cost(system: System, attacker: Attacker, seed: int, allowed: float) -> tuple[float, float]:
    """The seconds that an attack takes besides its steps, and for each of them.

    One trial, shared out among its steps, is enough of an attack that takes all that is `allowed`
    for it.
    """
    times, counts = [], []
    for steps in TRIAL_STEPS:
        start = time.monotonic()
        with warnings.catch_warnings():  # of a search that has hardly begun
            warnings.simplefilter("ignore")
            found = attacker.run(system, steps, seed)
        times.append(time.monotonic() - start)
        counts.append((found.settings or {}).get("steps", steps))
        if times[0] > allowed:
            return 0.0, times[0] / counts[0]
    each = (times[1] - times[0]) / (counts[1] - counts[0]) if counts[1] > counts[0] else 0.0
    each = each if each > 0 else times[1] / counts[1]
    return max(0.0, times[0] - counts[0] * each), each
