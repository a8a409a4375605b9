"""A learner's progress: one local JSON file. Nothing leaves the machine."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from sltools import lessons, storage
from sltools.checking.judging import MARKS, Verdict
from sltools.checking.task import Task, tasks
from sltools.errors import ExerciseError

NAME = "my-progress.json"
VARIABLE = "SLTOOLS_PROGRESS"


@dataclass
class Entry:
    """What happened to one task so far: its best outcome, its points, attempts and hints taken."""

    outcome: str = "not attempted"
    points: float = 0.0
    attempts: int = 0
    hints: int = 0


def file() -> Path | None:
    """Return the file of progress: $SLTOOLS_PROGRESS, or in the copy of the course we are in.

    None outside of a copy: then nothing is kept.
    """
    if named := os.environ.get(VARIABLE):
        return Path(named).expanduser()
    here = Path.cwd()
    copies = (folder for folder in (here, *here.parents) if (folder / lessons.MANIFEST).exists())
    found = next(copies, None)
    return found and found / NAME


def read(path: Path | None) -> dict[str, Entry]:
    """Read the entries by task; a damaged file is set aside under another name, not lost.

    Raises ExerciseError if the file is there and cannot be read.
    """
    try:
        return {} if path is None or not path.exists() else _read(path)
    except OSError as error:
        raise ExerciseError(f"your progress in {path} cannot be read: {error}") from None


def _read(path: Path) -> dict[str, Entry]:
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        return {key: _entry(**entry) for key, entry in entries.items()}
    except (ValueError, TypeError, AttributeError):
        aside = path.with_suffix(f".damaged-{time.time_ns()}.json")
        path.replace(aside)
        print(f"{path.name} was damaged: it is now {aside.name}, and progress starts anew")
        return {}


def _entry(outcome: str, points: float, attempts: int, hints: int) -> Entry:
    """Return an entry as it was kept; raise ValueError if it cannot have been."""
    if outcome not in MARKS:
        raise ValueError(outcome)
    return Entry(outcome, float(points), int(attempts), int(hints))


def note_verdict(verdict: Verdict) -> None:
    """Count an attempt; the best outcome so far stays."""

    def change(entry: Entry) -> None:
        if verdict.outcome == "not attempted":
            return
        entry.attempts += 1
        if entry.outcome not in ("partly right", "right") or verdict:
            entry.outcome = verdict.outcome
        entry.points = max(entry.points, verdict.points)

    _change(verdict.task, change)


def note_hint(task: Task, number: int) -> None:
    """Note that hints up to `number` were read."""

    def change(entry: Entry) -> None:
        entry.hints = max(entry.hints, number)

    _change(task, change)


def hints_read(task: Task) -> int:
    """Return how many hints of `task` were read, in this session or an earlier one."""
    return max(_SESSION.get(task.key, Entry()).hints, read(file()).get(task.key, Entry()).hints)


_SESSION: dict[str, Entry] = {}  # what is remembered where nothing is kept


def _change(task: Task, change: Callable[[Entry], None]) -> None:
    """Change an entry and keep it; where it cannot be kept, say so and go on."""
    path = file()
    if path is None:
        change(_SESSION.setdefault(task.key, Entry()))
        return
    try:
        entries = read(path)
        change(entries.setdefault(task.key, Entry()))
        facts = {key: asdict(entry) for key, entry in entries.items()}
        storage.write_atomic(path, json.dumps(facts, indent=1) + "\n")
    except (OSError, ExerciseError) as error:
        print(f"this is not noted in {path.name}, which stays as it was: {error}")


def table(topic: str | None, path: Path | None) -> str:
    """One line for each task, of all topics or one, and the sum of points.

    The progress is the one kept in `path`, or of this session if that is None. Raises
    ExerciseError for a topic without tasks.
    """
    known = tasks(topic and topic.zfill(2))
    if not known:
        topics = sorted({task.topic for task in tasks()})
        raise ExerciseError(f"no exercises are called {topic!r}; there are: {', '.join(topics)}")
    entries = _SESSION if path is None else read(path)
    lines = []
    for task in known:
        entry = entries.get(task.key, Entry())
        tries = f"tried {entry.attempts} ×, hints {entry.hints}" if entry.attempts else ""
        lines.append(
            f"{MARKS[entry.outcome]} {task.key.ljust(16)} {entry.outcome.ljust(14)} "
            f"{entry.points:4g} of {task.points}  {tries}".rstrip()
        )
    earned = sum(entries.get(task.key, Entry()).points for task in known)
    total = sum(task.points for task in known)
    return "\n".join([*lines, f"{earned:g} of {total} points"])
