"""What a teacher decides after the grader: points by hand, and what a late submission is worth.

Neither is kept with the results of the checks: both are applied anew in each run, and gone with the
line that asked for them.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from sltools.errors import ExerciseError
from sltools.grading.results import Result, TaskResult
from sltools.grading.roster import Roster, read_table

COLUMNS = ("learner", "task", "points", "reason")
DAY = 24 * 60 * 60  # seconds
STEP = re.compile(r"(\d+):(\d*\.?\d+)")


@dataclass(frozen=True)
class Adjustment:
    """The points of one task of one learner, or submission, set by hand for a `reason`."""

    learner: str
    task: str
    points: float
    reason: str


def read_adjustments(path: Path) -> list[Adjustment]:
    """Read a CSV file with the columns learner, task, points and reason.

    Raises ExerciseError for points that are no number, a missing reason, or a task set twice.
    """
    found: dict[tuple[str, str], Adjustment] = {}
    for number, row in enumerate(read_table(path, "file of adjustments", COLUMNS), 2):
        learner, task, text, reason = (row[name] for name in COLUMNS)
        try:
            points = float(text)
        except ValueError:
            points = math.nan
        problem = ""
        if not 0 <= points < math.inf:
            problem = f"points are a number from 0 up, not {text!r}"
        elif not (learner and task and reason):
            problem = "learner, task and reason must not be empty"
        elif (learner, task) in found:
            problem = f"{task} of {learner} is set twice"
        if problem:
            raise ExerciseError(f"row {number} of the adjustments {path}: {problem}")
        found[learner, task] = Adjustment(learner, task, points, reason)
    return list(found.values())


def adjust(results: Sequence[Result], adjustments: Iterable[Adjustment]) -> list[Result]:
    """Set points by hand, in all submissions of a learner, or in the one that is named so.

    Raises ExerciseError if there is no such learner or task, or for more points than it has.
    """
    adjusted = {result.submission or f"/{result.learner}": result for result in results}
    for change in adjustments:
        names = [
            name
            for name, result in adjusted.items()
            if change.learner in (result.submission, result.learner)
        ]
        if not names:
            raise ExerciseError(
                f"the adjustments name the learner {change.learner!r}, and there is none: give an "
                "id of the roster, or the name of a submission as in scores.csv"
            )
        for name in names:
            adjusted[name] = _adjusted(adjusted[name], change)
    return list(adjusted.values())


def _adjusted(result: Result, change: Adjustment) -> Result:
    if change.task not in [task.task for task in result.tasks]:
        known = ", ".join(task.task for task in result.tasks) or "none"
        raise ExerciseError(
            f"the adjustments name the task {change.task!r} of {change.learner}; there: {known}"
        )
    return replace(result, tasks=tuple(_task(task, change) for task in result.tasks))


def _task(task: TaskResult, change: Adjustment) -> TaskResult:
    if task.task != change.task:
        return task
    if change.points > task.out_of:
        raise ExerciseError(
            f"the adjustments give {change.learner} {change.points:g} points in {task.task}, "
            f"which has {task.out_of}"
        )
    return replace(task, points=change.points, judged=task.points, adjusted=change.reason)


# ---- late submissions ----------------------------------------------------------------------------


@dataclass(frozen=True)
class LatePolicy:
    """The share of its points that a late submission keeps: `steps` are (days, share), rising.

    Up to so many days late it keeps that share, and nothing after the last of them.

    >>> from sltools.grading.adjusting import LatePolicy
    >>> policy = LatePolicy.parse("1:0.9,3:0.5")
    >>> [policy.share(days) for days in (0, 1, 2, 4)]
    [1.0, 0.9, 0.5, 0.0]
    """

    steps: tuple[tuple[int, float], ...]

    @classmethod
    def parse(cls, text: str) -> "LatePolicy":
        """Read "DAYS:SHARE,DAYS:SHARE"; raise ExerciseError if days do not rise and shares fall."""
        found = [STEP.fullmatch(part.strip()) for part in text.split(",")]
        steps = tuple((int(step[1]), float(step[2])) for step in found if step)
        days, shares = [day for day, _ in steps], [share for _, share in steps]
        falling = shares == sorted(shares, reverse=True) and all(share <= 1 for share in shares)
        if len(steps) < len(found) or days != sorted(set(days)) or not falling:
            raise ExerciseError(
                f"a late policy is DAYS:SHARE, as 1:0.9,3:0.5, days rising and shares falling from "
                f"at most 1; not {text!r}"
            )
        return cls(steps)

    def share(self, days: int) -> float:
        """Return what is left of the points after so many days."""
        if days == 0:
            return 1.0
        return next((share for most, share in self.steps if days <= most), 0.0)

    def __str__(self) -> str:
        told = [f"up to {days} days late {share:.0%} of the points" for days, share in self.steps]
        return f"{', '.join(told)}, later none"


def late(
    results: Sequence[Result],
    roster: Roster,
    times: Mapping[str, float],
    policy: LatePolicy | None,
) -> list[Result]:
    """Say how late each submission is, and, by a `policy`, what is left of its points.

    By the roster's column `days_late`, a number for each learner, or else by `deadline`, a date
    that may have a time (ISO 8601, local unless it says otherwise), and by when the file was
    changed, from `times`.
    Raises ExerciseError for a day or a date that cannot be read.
    """
    told = []
    for result in results:
        days = _days_late(result, roster, times) if result.submission else None
        share = policy.share(days) if policy and days else 1.0
        told.append(replace(result, days_late=days, late_share=share))
    return told


def _days_late(result: Result, roster: Roster, times: Mapping[str, float]) -> int | None:
    given = roster.known(result.learner, "days_late")
    deadline = roster.known(result.learner, "deadline")
    try:
        if given:
            days = int(given)
            if days < 0:
                raise ValueError("it is below 0")
            return days
        if deadline:
            due = datetime.fromisoformat(deadline).timestamp()
            due += DAY if len(deadline) == len("2026-12-01") else 0  # a day lasts until its end
            return max(0, math.ceil((times[result.submission] - due) / DAY))
    except (ValueError, OverflowError, OSError) as error:
        raise ExerciseError(
            f"the roster's days_late or deadline of {result.learner} cannot be read: {error}; give "
            "a whole number, or a date and time such as 2026-12-01T23:59"
        ) from None
    return None
