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
MISSING = "nothing handed in"


@dataclass(frozen=True)
class TaskResult:
    """What a check found; `points` is None where that is not known, by no fault of the learner."""

    task: str
    title: str
    outcome: str
    message: str
    points: float | None
    out_of: int


@dataclass(frozen=True)
class Result:
    """What became of a submission.

    `remarks` are for the learner, `flags` and `notes` for the teacher alone: a flag asks to be
    looked at. `cells` says, by number, which code cells failed. Of several submissions of one
    learner one `counts`.
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

    @property
    def points(self) -> float | None:
        """The sum of the points, or None if one of them is not known, or there are no tasks."""
        known = [task.points for task in self.tasks if task.points is not None]
        return sum(known) if self.tasks and len(known) == len(self.tasks) else None

    @property
    def out_of(self) -> int:
        """The points that could be earned."""
        return sum(task.out_of for task in self.tasks)


class ResultCache:
    """Results of an earlier run, in a folder; their names tell nothing of the salt."""

    def __init__(self, folder: Path, plan: "Plan", sandbox: Sandbox) -> None:
        self._folder = storage.writable_folder(folder)
        self._plan = plan
        self._conditions = [asdict(sandbox.limits), sandbox.isolate, _release()]

    def read(self, submission: Submission) -> Result | None:
        try:
            facts = json.loads(self._path(submission).read_text(encoding="utf-8"))
            facts |= {name: tuple(facts[name]) for name in ("remarks", "flags", "notes")}
            facts["tasks"] = tuple(TaskResult(**task) for task in facts["tasks"])
            return Result(**facts)
        except (OSError, ValueError, TypeError, LookupError):
            return None

    def write(self, submission: Submission, result: Result) -> None:
        storage.write_atomic(self._path(submission), json.dumps(asdict(result), indent=1) + "\n")

    def _path(self, submission: Submission) -> Path:
        keys = [task.key for task in self._plan.tasks(submission)]
        content = [submission.name, submission.digest, self._plan.learner(submission), keys]
        text = json.dumps([*content, *self._conditions])
        return self._folder / f"{secrets.derive(self._plan.salt, text).hex()[:32]}.json"


@cache
def _release() -> str:
    """Hash all of the library: whatever a check may use."""
    digest = hashlib.sha256()
    for path in sorted(LIBRARY.rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
