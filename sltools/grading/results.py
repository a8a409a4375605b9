"""What became of a submission, and the results that an earlier run left."""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sltools import storage
from sltools.grading import secrets
from sltools.grading.forkserver import LIBRARY
from sltools.grading.sandbox import Sandbox
from sltools.grading.submissions import Submission

if TYPE_CHECKING:
    from sltools.grading.grade import Plan

GRADED, UNREADABLE, REVIEW, FAULT = "graded", "unreadable", "needs review", "grader_error"
MISSING, NOT_YET = "nothing handed in", "not graded yet"


@dataclass(frozen=True)
class TaskResult:
    """What a check found; `points` is None where that is not known, by no fault of the learner.

    Points set by hand are `adjusted`, for that reason; `judged` are those that the check gave.
    """

    task: str
    title: str
    outcome: str
    message: str
    points: float | None
    out_of: int
    adjusted: str = ""
    judged: float | None = None


@dataclass(frozen=True)
class Result:
    """What became of a submission.

    `remarks` are for the learner, `flags` and `notes` for the teacher alone: a flag asks to be
    looked at. `cells` says, by number, which code cells failed. Of several submissions of one
    learner one `counts`. `days_late` is None where that is not known, `late_share` what is left of
    the points.
    """

    submission: str
    status: str
    learner: str = ""
    tasks: tuple[TaskResult, ...] = ()
    remarks: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    cells: dict[str, str] = field(default_factory=dict)
    timed_out: bool = False
    killed: bool = False
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    counts: bool = True
    days_late: int | None = None
    late_share: float = 1.0

    @property
    def points(self) -> float | None:
        """The sum of the points, what is left of it if it came late, or None.

        None if the points of a task are not known, or there are no tasks.
        """
        known = [task.points for task in self.tasks if task.points is not None]
        whole = self.tasks and len(known) == len(self.tasks)
        return round(sum(known) * self.late_share, 6) if whole else None

    @property
    def out_of(self) -> int:
        """The points that could be earned."""
        return sum(task.out_of for task in self.tasks)


@dataclass(frozen=True)
class Kept:
    """A result of an earlier run, and whether checks, limits and library are still the same."""

    result: Result
    conditions: str
    current: bool


class ResultCache:
    """Results of an earlier run, in a folder; their names tell nothing of the salt."""

    def __init__(self, folder: Path, plan: "Plan", sandbox: Sandbox) -> None:
        self._folder = storage.writable_folder(folder)
        self._plan = plan
        conditions = [asdict(sandbox.limits), sandbox.isolate, _release()]
        self._conditions = hashlib.sha256(json.dumps(conditions).encode()).hexdigest()

    def read(self, submission: Submission) -> Kept | None:
        """Return what is kept of a submission, if it can be read."""
        try:
            kept = json.loads(self._path(submission).read_text(encoding="utf-8"))
            facts, conditions = kept["result"], str(kept["conditions"])
            facts |= {name: tuple(facts[name]) for name in ("remarks", "flags", "notes")}
            facts["tasks"] = tuple(TaskResult(**task) for task in facts["tasks"])
            return Kept(Result(**facts), conditions, conditions == self._conditions)
        except (OSError, ValueError, TypeError, LookupError):
            return None

    def write(self, submission: Submission, result: Result, conditions: str = "") -> None:
        """Keep a result that was found under other `conditions`, or under those of now."""
        kept = {"conditions": conditions or self._conditions, "result": asdict(result)}
        storage.write_atomic(self._path(submission), json.dumps(kept, indent=1) + "\n")

    def _path(self, submission: Submission) -> Path:
        keys = [task.key for task in self._plan.tasks(submission)]
        content = [submission.name, submission.digest, self._plan.learner(submission), keys]
        return (
            self._folder / f"{secrets.derive(self._plan.salt, json.dumps(content)).hex()[:32]}.json"
        )


@cache
def _release() -> str:
    """Hash all of the library: whatever a check may use."""
    digest = hashlib.sha256()
    for path in sorted(LIBRARY.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
