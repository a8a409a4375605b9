"""Homework for topic 04 whose data and constants come from a salt.

The course's published solutions do not solve it: two tasks are theirs with other constants, and
one, without a published solution, has data of its own; both are drawn for each learner. Its check
is in the library for all to read; without the salt it tells nobody what is right.
"""

import base64
import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
import torch
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook
from torch import Tensor
from torch.nn.functional import conv2d

from sltools import seeds, storage
from sltools.checking.task import Answer, Judge, Task, Wrong, compare, tensor
from sltools.errors import ExerciseError
from sltools.grading import cells, report, secrets
from sltools.grading.grade import checked, topics_of
from sltools.grading.submissions import Submission

SEPARATORS = {";": "semicolons", "\t": "tabs", "|": "bars"}  # that stand in rosters for commas
IMAGES, PIXELS, UNITS = 3, 16, 64  # of each learner's data
STUB = '    raise NotImplementedError("your code here")\n'


@dataclass(frozen=True)
class Assignment:
    """The homework of the `learners`, a roster of ids; a plan for `sltools.grading.grade`."""

    salt: bytes
    learners: tuple[str, ...]

    @property
    def title(self) -> str:
        """The homework's number and name."""
        return "homework 04, inversion"

    def constants(self, learner: str) -> "Constants":
        """Draw the constants of a learner's tasks."""
        return Constants.draw(secrets.seed(self.salt, f"constants/{learner}"))

    def code(self, learner: str) -> str:
        """Return the short code that a learner's notebook shows."""
        text = base64.b32encode(secrets.derive(self.salt, f"code/{learner}")[:5]).decode()
        return f"{text[:4]}-{text[4:]}"

    def data(self, learner: str) -> "Data":
        """Draw the data of a learner."""
        return Data.draw(secrets.seed(self.salt, f"data/{learner}"))

    def tasks(self, submission: Submission) -> list[Task]:
        """List the tasks of the learner whose code is in the submission."""
        learner = self.learner(submission)
        constants = self.constants(learner)
        return [
            _prior_task(constants),
            _sensor_task(constants),
            _recover_task(self.data(learner)),
        ]

    def learner(self, submission: Submission) -> str:
        """Return the id whose code is in the submission, or ""."""
        codes = {self.code(learner): learner for learner in self.learners}
        return codes.get(cells.code(submission.cells), "")

    def other(self, submission: Submission) -> str:
        """Return "topic NN" if the notebook is an exercise: it calls `check`, and has no code."""
        if cells.code(submission.cells) or not checked(submission):
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


def read_roster(path: Path) -> tuple[str, ...]:
    """Read the ids in the column `id` of a CSV file.

    Raises ExerciseError if there is no such column, or an id is empty or there twice.
    """
    try:
        with path.expanduser().open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, ValueError, csv.Error) as error:
        raise ExerciseError(
            f"the roster {path} cannot be read ({error}); give a CSV file with a column `id`"
        ) from None
    if rows and "id" not in rows[0]:
        head = ",".join(filter(None, rows[0]))
        found = next((name for mark, name in SEPARATORS.items() if mark in head), "")
        raise ExerciseError(
            f"the roster {path} has no column `id`: its first line is {head!r}"
            + (f", with {found} between the columns" if found else "")
            + "; put commas between the columns and call one of them id"
        )
    ids = tuple((row["id"] or "").strip() for row in rows)
    if not ids or not all(ids) or len(set(ids)) < len(ids):
        raise ExerciseError(f"the roster {path} needs ids that are not empty and all different")
    return ids


def write(assignment: Assignment, folder: Path) -> list[Path]:
    """Write a notebook for each learner into `folder` and return their paths.

    One that is there already stays, and so the same call goes on where it was stopped. Raises
    ExerciseError if one is there that is not the learner's, and SltoolsError if they cannot be
    written.
    """
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
    except OSError as error:
        raise ExerciseError(f"cannot write to {folder}: {error}; name a new folder") from None
    return paths


# ---- what is drawn -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Constants:
    """What tells a learner's tasks from the published ones, and mostly from those of others."""

    down: int
    across: int
    power: int
    gain: float
    offset: float

    @classmethod
    def draw(cls, seed: int) -> "Constants":
        """Draw the constants of a seed."""
        chosen = random.Random(seed)
        down, across = chosen.sample(range(2, 10), 2)
        gain = chosen.choice((-2.0, -1.5, -0.8, -0.5))
        return cls(down, across, chosen.choice((3, 4)), gain, chosen.choice((0.2, 0.3, 0.7)))


@dataclass(frozen=True)
class Data:
    """The data of one learner: a client's layer, relu(weight x + bias), and what it sent.

    `weight` is (units, pixels), `bias` (units,), `smashed` (images, units), and the secret
    `images` (images, pixels).
    """

    weight: Tensor
    bias: Tensor
    smashed: Tensor
    images: Tensor

    @classmethod
    def draw(cls, seed: int) -> "Data":
        """Draw the data of a seed, in numbers of few digits.

        The images are drawn from a stream that uses every bit of its seed: torch's generator uses
        32, which could be tried out, one by one, upon the weights, that are public.
        """
        generator = seeds.generator(seed, "homework")
        weight = torch.randn(UNITS, PIXELS, generator=generator).div(4).round(decimals=3)
        bias = torch.randn(UNITS, generator=generator).div(10).round(decimals=3)
        secret = random.Random(seeds.derive(seed, "homework/images"))
        images = torch.tensor([[secret.random() for _ in range(PIXELS)] for _ in range(IMAGES)])
        smashed = (images @ weight.T + bias).relu().round(decimals=5)
        return cls(weight, bias, smashed, images)


# ---- the tasks -----------------------------------------------------------------------------------


def prior(images: Tensor, constants: Constants) -> Tensor:
    """Return the prior of a batch (N, C, H, W): the right answer to the first task."""
    down, across = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    power = constants.power
    return constants.down * down.pow(power).mean() + constants.across * across.pow(power).mean()


def _prior_task(constants: Constants) -> Task:
    def judge(answer: Answer, seed: int) -> None:
        images = torch.rand(3, 2, 6, 9, generator=seeds.generator(seed, "homework"))
        down, across = images.diff(dim=2), images.diff(dim=3)
        swapped = Constants(constants.across, constants.down, constants.power, 1, 0)
        compare(
            tensor(answer(images), (), "the prior of a batch"),
            prior(images, constants),
            {
                "This is the prior of the exercises; the homework's has weights and a power.": (
                    down.square().mean() + across.square().mean()
                ),
                "The two weights are swapped.": prior(images, swapped),
                "Take the absolute values of the differences before the power.": constants.down
                * down.pow(constants.power).mean()
                + constants.across * across.pow(constants.power).mean(),
            },
            "the prior",
        )

    meaning = "The weights say which edges the attacker expects, the power how much it minds them."
    return _task("prior", "prior", "A prior with weights", "implement", 2, meaning, judge)


def _sensor_task(constants: Constants) -> Task:
    gain, offset = constants.gain, constants.offset

    def judge(answer: Answer, seed: int) -> None:
        generator = seeds.generator(seed, "homework")
        weight = torch.rand(4, 2, 3, 3, generator=generator) - 0.5
        bias = torch.rand(4, generator=generator) - 0.5
        images = torch.rand(2, 2, 6, 6, generator=generator)
        got = answer(weight, bias)
        if not isinstance(got, list) or len(got) != 2:
            raise Wrong("Return two tensors: the new weight and the new bias.")
        new = tensor(got[0], weight.shape, "the new weight")
        sums = weight.sum((1, 2, 3))
        seen = gain * images + offset

        def sent(weight: Tensor, bias: Tensor) -> Tensor:
            return conv2d(seen, weight, bias)

        compare(
            sent(new, tensor(got[1], bias.shape, "the new bias")),
            conv2d(images, weight, bias),
            {
                "This is the client of the exercises, for 1 - x.": sent(-weight, bias + sums),
                "Divide the weight by the gain.": sent(weight * gain, bias - offset * sums * gain),
                "The bias is unchanged: it must take up the offset.": sent(weight / gain, bias),
                "The offset passes the new weight, which was divided by the gain.": sent(
                    weight / gain, bias - offset * sums
                ),
            },
            "what the new client sends",
        )

    meaning = "What is sent does not tell the sensors apart: the attack cannot know the brightness."
    title = "A client for another sensor"
    return _task("sensor", "sensor_client", title, "implement", 3, meaning, judge)


def _recover_task(data: Data) -> Task:
    def judge(answer: Answer, seed: int) -> str:
        got = tensor(answer.value, data.images.shape, "the recovered images")
        error = (got - data.images).square().mean().item()
        grey = (data.images - 0.5).square().mean().item()
        told = f"the mean squared error is {error:.5f}, of a grey image {grey:.5f}"
        if error > grey / 4:
            raise Wrong(f"These are not your images: {told}.")
        if error > grey / 100:
            raise Wrong(f"Your images can be guessed, more exactly than that: {told}.", share=0.5)
        return f"Recovered: {told}."

    meaning = "Whoever holds the client's weights sees what a single layer sends."
    title = "Your private images"
    return _task("recover", "recovered", title, "challenge", 5, meaning, judge, trials=1)


def _task(
    key: str,
    answer: str,
    title: str,
    kind: str,
    points: int,
    meaning: str,
    judge: Judge,
    trials: int = 3,
) -> Task:
    return Task(
        f"hw04.{key}",
        answer,
        title,
        kind,
        minutes=30,
        difficulty=3,
        points=points,
        purpose="homework",
        hints=(),
        meaning=meaning,
        judge=judge,
        trials=trials,
    )


# ---- the notebook --------------------------------------------------------------------------------


def _notebook(assignment: Assignment, learner: str) -> nbformat.NotebookNode:
    """Write the homework of a learner; the same salt and id give the same notebook."""
    constants = assignment.constants(learner)
    example = prior(torch.linspace(0, 1, 24).view(1, 1, 4, 6).sin(), constants)
    cells = [
        new_markdown_cell(
            "# Homework 04: inversion\n\nThe first cell below holds your code and your own data. "
            "Leave it as it is: homework is graded by its code. Each cell may run for some seconds."
        ),
        new_code_cell(_first_cell(assignment, learner)),
        new_markdown_cell(
            "## A prior with weights (2 points)\n\nOver all pairs of pixels that are neighbours, "
            f"take the mean of the absolute difference to the power {constants.power}; "
            f"{constants.down} times for pairs above each other, plus {constants.across} times "
            "for pairs side by side. `images` is $(N, C, H, W)$; return a tensor of shape ()."
        ),
        new_code_cell(f"def prior(images: Tensor) -> Tensor:\n{STUB}"),
        new_code_cell(
            f"# prior(torch.linspace(0, 1, 24).view(1, 1, 4, 6).sin())  # is {example:.6f}"
        ),
        new_markdown_cell(
            "## A client for another sensor (3 points)\n\nA client's first layer is a convolution "
            "without padding, $z = W * x + b$. Another sensor gives "
            f"$x' = {constants.gain} \\, x + {constants.offset}$ where the first gives $x$. Return "
            "the weight and the bias of a layer that sends, for $x'$, the same $z$. `weight` is "
            "$(K, C, k, k)$, `bias` $(K,)$."
        ),
        new_code_cell(
            "def sensor_client(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:\n" + STUB
        ),
        new_markdown_cell(
            f"## Your private images (5 points)\n\n{IMAGES} images of {PIXELS} pixels, each in "
            "$[0, 1]$, passed the client's layer $z = \\operatorname{relu}(W x + b)$. You know "
            "`weight`, `bias` and `smashed`. Recover the images as a tensor "
            f"$({IMAGES}, {PIXELS})$."
        ),
        new_code_cell("recovered = ..."),
    ]
    for place, cell in enumerate(cells):
        cell.id = f"homework-{place}"
    return new_notebook(cells=cells)


def _first_cell(assignment: Assignment, learner: str) -> str:
    data = assignment.data(learner)
    return (
        "import torch\nfrom torch import Tensor, nn\n\n"
        f'code = "{assignment.code(learner)}"\n'
        f"weight = torch.tensor({_digits(data.weight)})\n"
        f"bias = torch.tensor({_digits(data.bias)})\n"
        f"smashed = torch.tensor({_digits(data.smashed)})"
    )


def _digits(values: Tensor) -> str:
    """Write numbers as Python does, without the noise of 32 bits."""
    rounded: Sequence[object] = values.double().round(decimals=5).tolist()
    return repr(rounded)
