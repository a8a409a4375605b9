"""What homework is made of, and how it is registered and judged."""

import random
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sltools import seeds
from sltools.checking.task import Answer, Judge, Task, Wrong, tensor
from sltools.errors import ExerciseError

STUB = '\n    raise NotImplementedError("your code here")\n'
NAME = re.compile(r"(?:def )?(\w+)")


@dataclass(frozen=True)
class Part:
    """A task of homework: the `text` below its title, the `stub` of the answer, and an example."""

    task: Task
    text: str
    stub: str
    example: str = ""


@dataclass(frozen=True)
class Homework:
    """What one learner is asked. `given` are the data in the first cell of the notebook, by name:
    tensors, numbers, texts, and lists and dictionaries of them.
    """

    given: Mapping[str, Any]
    parts: tuple[Part, ...]

    @property
    def tasks(self) -> list[Task]:
        """The tasks, in their order."""
        return [part.task for part in self.parts]


Draw = Callable[[random.Random, np.random.Generator], Homework]
_TOPICS: dict[str, tuple[str, Draw]] = {}


def homework(topic: str, title: str) -> Callable[[Draw], Draw]:
    """Register the decorated function, which draws the homework of a learner.

    It is given a stream for the constants and one for the data.
    """

    def register(made: Draw) -> Draw:
        _TOPICS[topic] = title, made
        return made

    return register


def topics() -> list[str]:
    """List the topics for which there is homework."""
    return sorted(_TOPICS)


def title(topic: str) -> str:
    """Return what the homework of a topic is about; raise ExerciseError if there is none.

    >>> from sltools.exercises import homework
    >>> homework.title("04")
    'inversion'
    """
    if topic not in _TOPICS:
        raise ExerciseError(
            f"there is no homework for topic {topic!r}; there is for {', '.join(topics())}"
        )
    return _TOPICS[topic][0]


def draw(topic: str, constants: int, data: int) -> Homework:
    """Draw the homework of a topic from seeds for its constants and its data.

    Both streams use every bit of their seeds: torch's generator uses 32, which could be tried out,
    one by one, upon what is public. Raises ExerciseError if there is no homework for the topic.

    >>> from sltools.exercises import homework
    >>> [task.key for task in homework.draw("03", constants=0, data=1).tasks]
    ['hw03.undo', 'hw03.places']
    """
    title(topic)
    return _TOPICS[topic][1](random.Random(constants), seeds.keyed(data, f"homework {topic}"))


def part(
    key: str,
    stub: str,
    title: str,
    points: int,
    text: str,
    judge: Judge,
    meaning: str,
    example: str = "",
) -> Part:
    """Make a part; `stub` is the head of a function, "def NAME(...):", or "NAME = ..."."""
    named = NAME.match(stub)
    is_function = stub.startswith("def ")
    assert named is not None
    made = Task(
        f"hw{key}",
        named[1],
        title,
        "implement" if is_function else "challenge",
        minutes=30,
        difficulty=3,
        points=points,
        purpose="homework",
        hints=(),
        meaning=meaning,
        judge=judge,
        trials=3 if is_function else 1,
    )
    return Part(made, text, stub + STUB if is_function else stub, example)


# ---- what is drawn -------------------------------------------------------------------------------


def normal(stream: np.random.Generator, *shape: int, digits: int = 3) -> Tensor:
    """Draw normal numbers of so many digits."""
    return torch.tensor(stream.normal(size=shape).round(digits), dtype=torch.float32)


def uniform(
    stream: np.random.Generator, *shape: int, low: float = 0.0, high: float = 1.0
) -> Tensor:
    """Draw numbers between `low` and `high`, of three digits."""
    return torch.tensor(stream.uniform(low, high, shape).round(3), dtype=torch.float32)


def order(stream: np.random.Generator, count: int) -> list[int]:
    """Draw an order of the numbers from 0 to `count` - 1."""
    return [int(place) for place in stream.permutation(count)]


# ---- how secrets are judged ----------------------------------------------------------------------


def recovers(images: Tensor, enough: float | None = None) -> Judge:
    """Judge recovered images by their mean squared error, beside that of a grey image.

    A quarter of it earns half the points, `enough` all of them: by default a hundredth of it.
    """

    def judge(answer: Answer, seed: int) -> str:
        got = tensor(answer.value, images.shape, "the recovered images")
        error = (got - images).square().mean().item()
        grey = (images - images.mean()).square().mean().item()
        told = f"the mean squared error is {error:.5f}, of a grey image {grey:.5f}"
        if error > grey / 4:
            raise Wrong(f"These are not your images: {told}.")
        if error > (grey / 100 if enough is None else enough):
            raise Wrong(f"Your images can be known more exactly than that: {told}.", share=0.5)
        return f"Recovered: {told}."

    return judge


def finds(secret: Sequence[Any], what: str) -> Judge:
    """Judge a list by how many of its entries are those of `secret`; all of them must be."""

    def judge(answer: Answer, seed: int) -> str:
        got = answer.value
        got = got.tolist() if isinstance(got, Tensor) else got
        if not isinstance(got, list) or len(got) != len(secret):
            raise Wrong(f"Give a list of {len(secret)} {what}.")
        right = sum(_plain(one) == two for one, two in zip(got, secret, strict=True))
        told = f"{right} of {len(secret)} {what} are right"
        if right < len(secret):
            raise Wrong(f"{told}.")
        return f"All {told}."

    return judge


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, Tensor) else value
