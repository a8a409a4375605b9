"""Homework of a topic for everyone on a roster; its data and constants come from a salt."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from torch import Tensor

from sltools import storage
from sltools.checking.task import Task
from sltools.errors import ExerciseError
from sltools.exercises import homework
from sltools.exercises.homework import Homework
from sltools.grading import cells, report, secrets
from sltools.grading.grade import checked, topics_of
from sltools.grading.roster import Roster
from sltools.grading.submissions import Submission

INDEX = "index.csv"
IMPORTS = "import torch\nfrom torch import Tensor, nn\n\n"


@dataclass(frozen=True)
class Assignment:
    """The homework of a topic for `learners`, a roster of ids; a plan for `sltools.grading.grade`.

    Raises ExerciseError for a topic without homework.
    """

    salt: bytes
    learners: tuple[str, ...]
    topic: str = "04"

    def __post_init__(self) -> None:
        homework.title(self.topic)

    @property
    def title(self) -> str:
        """The homework's number and name."""
        return f"homework {self.topic}, {homework.title(self.topic)}"

    def homework(self, learner: str) -> Homework:
        """Draw the homework of a learner."""
        seeds = (self._seed(purpose, learner) for purpose in ("constants", "data"))
        return homework.draw(self.topic, *seeds)

    def code(self, learner: str) -> str:
        """Return the short code that a learner's notebook shows."""
        return _code(self.salt, self.topic, learner)

    def tasks(self, submission: Submission) -> list[Task]:
        """List the tasks of the learner whose code is in the submission."""
        return self.homework(self.learner(submission)).tasks

    def learner(self, submission: Submission) -> str:
        """Return the id whose code is in the submission, or ""."""
        return self._codes(self.topic).get(cells.code(submission.cells), "")

    def other(self, submission: Submission) -> str:
        """Return "homework NN", by the code, or "topic NN" if the notebook is an exercise.

        An exercise calls `check`, and has no code.
        """
        if code := cells.code(submission.cells):
            topics = (topic for topic in homework.topics() if code in self._codes(topic))
            topic = next(topics, self.topic)
            return f"homework {topic}" if topic != self.topic else ""
        if not checked(submission):
            return ""
        return f"topic {topics_of(submission).most_common(1)[0][0]}"

    def doubt(self, submission: Submission) -> str:
        """Say that the code in a submission is missing, or belongs to nobody on the roster."""
        if self.learner(submission):
            return ""
        code = cells.code(submission.cells)
        missing = "the code cell with the short code, the first one, is missing or was changed"
        return f"the short code {code} in its first code cell is on no roster" if code else missing

    def roster(self) -> tuple[str, ...]:
        """List the ids of all learners."""
        return self.learners

    def setup(self, submission: Submission) -> str:
        """Return the first code cell of the learner's homework: imports, short code and data."""
        return _first_cell(self, self.learner(submission))

    def given(self) -> list[Sequence[str]]:
        """List the homework, by its cells: all are alike in that."""
        made = _notebook(self, learner="").cells
        return [[cell.source for cell in made if cell.cell_type == "code"]]

    def _seed(self, purpose: str, learner: str) -> int:
        return secrets.seed(self.salt, f"{purpose}/{self.topic}/{learner}")

    def _codes(self, topic: str) -> Mapping[str, str]:
        return _codes(self.salt, topic, self.learners)


def _code(salt: bytes, topic: str, learner: str) -> str:
    text = base64.b32encode(secrets.derive(salt, f"code/{topic}/{learner}")[:5]).decode()
    return f"{text[:4]}-{text[4:]}"


@lru_cache(maxsize=32)  # of each topic, for each submission
def _codes(salt: bytes, topic: str, learners: tuple[str, ...]) -> Mapping[str, str]:
    """Map the short codes of a homework to the ids of its learners."""
    return {_code(salt, topic, learner): learner for learner in learners}


def write(assignment: Assignment, folder: Path, roster: Roster | None = None) -> list[Path]:
    """Write a notebook for each learner into `folder` and return their paths.

    `index.csv` says which file is whose, with what else the `roster` knows of them. A notebook that
    is there already stays, and so the same call goes on where it was stopped. Raises ExerciseError
    if one is there that is not the learner's, and SltoolsError if they cannot be written.
    """
    roster = roster or Roster(assignment.learners)
    folder = storage.writable_folder(folder)
    paths = []
    try:
        for learner in assignment.learners:
            path = folder / report.page_name(learner).replace(".html", ".ipynb")
            content = (nbformat.writes(_notebook(assignment, learner)) + "\n").encode()
            if not path.exists():
                storage.write_atomic(path, content)
            elif path.read_bytes() != content:
                raise ExerciseError(f"{path} is another and stays as it is; name a new folder")
            paths.append(path)
        _write_index(folder / INDEX, assignment, paths, roster)
    except OSError as error:
        raise ExerciseError(f"cannot write to {folder}: {error}; name a new folder") from None
    return paths


def _write_index(path: Path, assignment: Assignment, paths: Sequence[Path], roster: Roster) -> None:
    rows = [["id", "file", "code", *roster.columns]]
    for learner, made in zip(assignment.learners, paths, strict=True):
        rows.append([learner, made.name, assignment.code(learner), *roster.row(learner)])
    text = report.table(rows)
    if path.exists() and not set(path.read_text(encoding="utf-8").splitlines()) <= set(
        text.splitlines()
    ):
        raise ExerciseError(f"{path} is another and stays as it is; name a new folder")
    storage.write_atomic(path, text)


# ---- the notebook --------------------------------------------------------------------------------


def _notebook(assignment: Assignment, learner: str) -> nbformat.NotebookNode:
    """Write the homework of a learner; the same salt and id give the same notebook."""
    cells = [
        new_markdown_cell(
            f"# {assignment.title.replace(',', ':', 1).capitalize()}\n\nThe first cell below "
            "holds your code and your own data. Leave it as it is: homework is graded by its code. "
            "Each cell may run for some seconds."
        ),
        new_code_cell(_first_cell(assignment, learner)),
    ]
    for part in assignment.homework(learner).parts:
        heading = f"## {part.task.title} ({part.task.points} points)"
        cells += [new_markdown_cell(f"{heading}\n\n{part.text}"), new_code_cell(part.stub)]
        cells += [new_code_cell(f"# {part.example}")] if part.example else []
    for place, cell in enumerate(cells):
        cell.id = f"homework-{place}"
    return new_notebook(cells=cells)


def _first_cell(assignment: Assignment, learner: str) -> str:
    given = assignment.homework(learner).given
    lines = [f"{name} = {_source(value)}" for name, value in given.items()]
    return "\n".join([f'{IMPORTS}code = "{assignment.code(learner)}"', *lines])


def _source(value: Any) -> str:
    """Write a value as Python does, tensors without the noise of 32 bits."""
    if not isinstance(value, Tensor):
        return repr(value)
    exact = value.double().round(decimals=5) if value.dtype == torch.float32 else value
    return f"torch.tensor({exact.tolist()!r})"
