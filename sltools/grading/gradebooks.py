"""The points of several topics together, and the files that gradebooks of others take.

Moodle and Canvas take CSV files; nbgrader is handed the points through its own library, where that
is installed.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sltools import storage
from sltools.errors import ExerciseError
from sltools.grading import report
from sltools.grading.roster import Roster

Row = Mapping[str, Any]  # of scores.json
MOODLE = {  # the column, and where the roster may have it
    "ID number": ("ID number", "idnumber"),
    "Username": ("username", "user"),
    "Email address": ("email address", "email", "e-mail", "mail"),
}
CANVAS = {
    "Student": ("student", "name", "full name"),
    "ID": ("canvas id",),
    "SIS User ID": ("sis user id",),
    "SIS Login ID": ("sis login id", "login"),
    "Section": ("section",),
}


@dataclass(frozen=True)
class Gradebook:
    """The rows that count, by learner, for each topic in its order; `out_of` are its points."""

    roster: Roster
    topics: tuple[str, ...]
    out_of: Mapping[str, float]
    rows: Mapping[tuple[str, str], Row]

    def points(self, learner: str, topic: str) -> float | None:
        """Return the points of a learner in a topic, or None if they are not known."""
        points = self.rows.get((learner, topic), {}).get("points")
        return None if points is None else float(points)

    def total(self, learner: str) -> float:
        """Add up the points that are known."""
        return sum(self.points(learner, topic) or 0.0 for topic in self.topics)


def read(folders: Iterable[Path], roster: Roster | None = None) -> Gradebook:
    """Read what `sltools grade` wrote into `folders`, a topic each.

    Without a roster, learners are the ids that occur, or, where there are none, the submissions.
    Raises ExerciseError for a folder without scores, or of a topic that another has too.
    """
    found: dict[tuple[str, str], Row] = {}
    out_of: dict[str, float] = {}
    for folder in folders:
        rows = [row for row in _read(folder) if row["tasks"]]
        names = {_topic(task["task"]) for row in rows for task in row["tasks"]}
        for name in sorted(names & out_of.keys()):
            raise ExerciseError(f"{folder} holds scores of {name}, and so does another folder")
        out_of |= {name: max(float(row["out_of"]) for row in rows) for name in names}
        for row in rows:
            if row["counts"]:
                learner = row["learner"] or row["submission"].removesuffix(".ipynb")
                found[learner, _topic(row["tasks"][0]["task"])] = row
    people = roster or Roster(tuple(dict.fromkeys(learner for learner, _ in found)))
    return Gradebook(people, tuple(out_of), out_of, found)


def _read(folder: Path) -> list[dict[str, Any]]:
    path = folder.expanduser() / "scores.json"
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))
        return [dict(row) for row in rows if row["counts"] in (True, False)]
    except (OSError, ValueError, TypeError, LookupError) as error:
        raise ExerciseError(
            f"{path} cannot be read ({error}); name folders that `sltools grade` wrote with --out"
        ) from None


def _topic(task: str) -> str:
    """Name the topic of a task: "topic 04" of "04.tv", "homework 04" of "hw04.prior"."""
    head = task.partition(".")[0]
    return f"homework {head[2:]}" if head.startswith("hw") else f"topic {head}"


def write(book: Gradebook, out: Path) -> list[Path]:
    """Write totals.csv, moodle.csv and canvas.csv into `out`, and return their paths.

    Raises SltoolsError if they cannot be written.
    """
    out = storage.writable_folder(out)
    tables = {"totals.csv": _totals(book), "moodle.csv": _moodle(book), "canvas.csv": _canvas(book)}
    try:
        for name, rows in tables.items():
            storage.write_atomic(out / name, report.table(rows))
    except OSError as error:
        raise ExerciseError(f"cannot write to {out}: {error}; name another folder") from None
    return [out / name for name in tables]


def _totals(book: Gradebook) -> list[Sequence[Any]]:
    head = ["id", *book.roster.columns, *book.topics, "total", "out_of"]
    most = f"{sum(book.out_of.values()):g}"
    rows: list[Sequence[Any]] = [head]
    for learner in book.roster.ids:
        total = f"{book.total(learner):g}"
        rows.append([learner, *book.roster.row(learner), *_points(book, learner), total, most])
    return rows


def _moodle(book: Gradebook) -> list[Sequence[Any]]:
    rows: list[Sequence[Any]] = [[*MOODLE, *book.topics]]
    for learner in book.roster.ids:
        known = {name: book.roster.known(learner, *names) for name, names in MOODLE.items()}
        known["ID number"] = known["ID number"] or learner
        rows.append([*known.values(), *_points(book, learner)])
    return rows


def _canvas(book: Gradebook) -> list[Sequence[Any]]:
    most = (f"{book.out_of[topic]:g}" for topic in book.topics)
    blank = [""] * (len(CANVAS) - 1)
    rows: list[Sequence[Any]] = [[*CANVAS, *book.topics], ["Points Possible", *blank, *most]]
    for learner in book.roster.ids:
        known = {name: book.roster.known(learner, *names) for name, names in CANVAS.items()}
        known["Student"] = known["Student"] or learner
        known["SIS Login ID"] = known["SIS Login ID"] or learner
        rows.append([*known.values(), *_points(book, learner)])
    return rows


def _points(book: Gradebook, learner: str) -> list[str]:
    known = (book.points(learner, topic) for topic in book.topics)
    return ["" if points is None else f"{points:g}" for points in known]


# ---- nbgrader ------------------------------------------------------------------------------------


def to_nbgrader(book: Gradebook, path: Path) -> int:
    """Write the points into the gradebook of an nbgrader course, and return how many submissions.

    Each topic is an assignment of one notebook, each task a grade cell of it; what is there of
    these is replaced, the rest stays. Points that are not known mark their submission as one that
    needs manual grading. Raises ExerciseError if nbgrader is not installed.
    """
    try:
        from nbgrader.api import Gradebook as Database
    except ImportError:
        raise ExerciseError("nbgrader is not installed here: pip install nbgrader") from None
    try:
        with Database(f"sqlite:///{path.expanduser().absolute()}") as database:
            return sum(_hand_over(database, book, topic) for topic in book.topics)
    except Exception as error:  # its own, SQLAlchemy's, and those of the program alembic
        raise ExerciseError(
            f"nbgrader cannot write {path}: {error}. Is it a course's gradebook.db, and is the "
            "environment of nbgrader activated?"
        ) from error


def _hand_over(database: Any, book: Gradebook, topic: str) -> int:
    """Write the points of a topic, and return how many submissions these are."""
    rows = {who: row for (who, name), row in book.rows.items() if name == topic}
    name = topic.replace(" ", "-")
    _describe(database, name, next(iter(rows.values()))["tasks"])
    handed_in = [who for who in book.roster.ids if who in rows and rows[who]["submission"]]
    for learner in handed_in:
        _submit(database, name, learner, rows[learner])
    return len(handed_in)


def _describe(database: Any, name: str, tasks: Sequence[Row]) -> None:
    """Tell nbgrader of an assignment and its grade cells."""
    database.update_or_create_assignment(name)
    database.update_or_create_notebook(name, name)
    for task in tasks:
        database.update_or_create_grade_cell(
            task["task"], name, name, max_score=task["out_of"], cell_type="code"
        )


def _submit(database: Any, name: str, learner: str, row: Row) -> None:
    """Write the points of a learner, in place of earlier ones."""
    database.update_or_create_student(learner)
    if learner in {submission.student.id for submission in database.assignment_submissions(name)}:
        database.remove_submission(name, learner)  # its cells may be those of another release
    database.add_submission(name, learner)
    for task in row["tasks"]:
        grade = database.find_grade(task["task"], name, name, learner)
        points = task["points"]
        grade.needs_manual_grade = points is None
        judged, kept = task["judged"] if task["adjusted"] else points, row["late_share"]
        grade.auto_score = None if judged is None else judged * kept
        grade.manual_score = points * kept if task["adjusted"] else None
    database.db.commit()
