"""Judges meet answers of every wrong type and shape: they say what is wrong, and never fail."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sltools.checking import judging
from sltools.checking.judging import LocalAnswer
from sltools.checking.task import Task, find
from sltools.data import Split
from sltools.exercises.topics import theft
from tests.test_exercises import _solution, every_challenge, every_task

SEED = 7000
Path = tuple[Any, ...]


class Own:
    """An object of a class of one's own."""


class Trap(dict):
    """A dictionary that cannot be read."""

    def items(self) -> Any:
        raise KeyError("trap")


def _nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


ODD: dict[str, Any] = {
    **{repr(value): value for value in (None, True, "x", "", b"x", 0, -1, 0.5, 1j, [], {}, ...)},
    "a huge integer": 10**5000,
    "infinity": float("inf"),
    "nan": float("nan"),
    "integers": [1, 2],
    "huge integers": [10**5000] * 3,
    "texts": ["a", "b"],
    "nothings": [None, None],
    "truth values": [True, False],
    "ragged": [[1], [2, 3]],
    "mixed": [1, "a", torch.zeros(2)],
    "tensors": [torch.zeros(2), torch.zeros(3)],
    "dictionaries": [{}, {"a": None}],
    "a dictionary": {0: 1, None: torch.zeros(2)},
    "a scalar": torch.tensor(1.0),
    "several truth values": torch.tensor([True, False]),
    "an empty tensor": torch.zeros(0),
    "a matrix": torch.zeros(2, 3),
    "many dimensions": torch.zeros([1] * 12),
    "small integers": torch.tensor([1, 200], dtype=torch.uint8),
    "large integers": torch.tensor([2**63 - 1, -(2**63)]),
    "half precision": torch.zeros(2, dtype=torch.bfloat16),
    "complex numbers": torch.zeros(2, dtype=torch.complex64),
    "a sparse tensor": torch.eye(3).to_sparse(),
    "a tensor without data": torch.zeros(3, device="meta"),
    "a parameter": torch.nn.Parameter(torch.zeros(3)),
    "an array": np.zeros(3),
    "an array of texts": np.array(["a"]),
    "an array of objects": np.array([None, 1], dtype=object),
    "an array of dates": np.array(["2020"], dtype="M8[D]"),
    "a set": {1, 2},
    "an object": Own(),
    "a class": Own,
    "a trap": Trap(a=1),
    "nested": _nested(100),
    "nested deeply": _nested(5000),
    "half a character": "\ud800",
}


def _forms(value: Any) -> dict[str, Any]:
    """Return a right value in wrong forms."""
    if isinstance(value, Tensor):
        flat = value.flatten()
        return {
            "truth values": value > 0,
            "integers": value.long(),
            "negative": -value - 1,
            "large": torch.full(value.shape, 9e14),
            "one nan": value.float().index_fill(0, torch.tensor(0), torch.nan)
            if value.ndim
            else value * torch.nan,
            "one dimension more": value[None],
            "flat": flat,
            "more": torch.cat([flat, flat]),
            "less": flat[:-1],
            "a list": value.tolist(),
            "a list of tensors": list(flat[:50]),
            "text": str(value),
            "an array": value.float().numpy(),
        }
    if isinstance(value, bool | int | float):
        one = torch.tensor(value)
        return {
            "a tensor": one,
            "a tensor of one": one[None],
            "a tensor of two": torch.stack([one, one]),
            "truth values": torch.tensor([True, False]),
            "negative": -value - 1,
            "text": str(value),
            "a list": [value],
        }
    if isinstance(value, dict):
        return {"items": list(value.items()), "values": [*value.values()], "keys": list(value)}
    if isinstance(value, list):
        return {
            "a dictionary": dict(enumerate(value)),
            "twice": value * 2,
            "less": value[:-1],
            "reversed": value[::-1],
            "one list more": [value],
        }
    return {"a list": [value]}


def _places(value: Any, path: Path = ()) -> Iterator[Path]:
    """Yield the paths to a value and its parts, of long lists to the first ones."""
    yield path
    parts = value if isinstance(value, dict) else {}
    if isinstance(value, list):
        parts = dict(enumerate(value[:3]))
    for key, part in parts.items():
        yield from _places(part, (*path, key))


def _changed(value: Any, path: Path, change: Callable[[Any], Any]) -> Any:
    """Return `value` with the part at `path` changed, if it is there."""
    if not path:
        return change(value)
    if isinstance(value, dict):
        return {k: _changed(v, path[1:], change) if k == path[0] else v for k, v in value.items()}
    parts = enumerate(value if isinstance(value, list) else ())
    return [_changed(v, path[1:], change) if k == path[0] else v for k, v in parts]


@cache
def recorded(task: Task, seed: int) -> list[Any]:
    """What the solution returns to the judge, call by call; or the value that it is."""
    right = _solution(task)
    if not callable(right):
        return [judging.plain(right)]
    returned = []

    def answer(*arguments: Any) -> Any:
        value = right(*arguments)
        returned.append(judging.plain(value))
        return value

    assert judging.judge(task, LocalAnswer(answer), [seed])
    return returned


def replayed(task: Task, values: list[Any], change: Callable[[Any], Any] = lambda v: v) -> Any:
    """An answer that returns `values`, changed, call by call, and the last one for ever."""
    if not callable(_solution(task)):
        return change(values[0])
    left = list(values)
    return lambda *_: change(left.pop(0) if len(left) > 1 else left[0])


def _judge_forms(task: Task) -> None:
    values = recorded(task, SEED)

    def judged(path: Path, change: Callable[[Any], Any]) -> None:
        answer = replayed(task, values, lambda value: _changed(value, path, change))
        verdict = judging.judge(task, LocalAnswer(answer), [SEED])  # raises if the judge does
        assert verdict.message and verdict.outcome in judging.OUTCOMES

    for path in _places(values[0]):
        for odd in ODD.values():
            judged(path, lambda _, odd=odd: odd)
        for form in {form for value in values for form in _forms_at(value, path)}:
            judged(path, lambda value, form=form: _forms(value).get(form))


def _forms_at(value: Any, path: Path) -> list[str]:
    found: list[str] = []
    _changed(value, path, lambda part: found.extend(_forms(part)))
    return found


@every_task
def test_no_judge_fails_whatever_it_is_given(task: Task) -> None:
    _judge_forms(task)


@pytest.mark.proofs
@pytest.mark.slow
@every_challenge
def test_no_judge_of_a_challenge_fails_whatever_it_is_given(task: Task) -> None:
    _judge_forms(task)


# ---- answers that know nothing of the data -------------------------------------------------------

HIDDEN = range(7000, 7003)
OTHERS = range(7100, 7110)


def _filled(value: Any, number: float) -> Any:
    """Return `value` with `number` in the place of all numbers."""
    if isinstance(value, Tensor):
        return torch.full_like(value, number) if value.dtype != torch.bool else value < number
    if isinstance(value, list):
        return [_filled(part, number) for part in value]
    if isinstance(value, dict):
        return {key: _filled(part, number) for key, part in value.items()}
    if isinstance(value, bool):
        return number > 0
    return type(value)(number) if isinstance(value, int | float) else value


def _earned(task: Task, answer: Any) -> float:
    return judging.judge(task, LocalAnswer(answer), HIDDEN).share


def _points_for_nothing(task: Task) -> list[str]:
    """Which answers earn points without a look at the data: recorded, constant, or echoed."""
    earned = []
    for seed in OTHERS:
        if _earned(task, replayed(task, recorded(task, seed))):
            earned.append(f"the answers to seed {seed}")
    form = recorded(task, OTHERS[0])
    for number in (0.0, 1.0, 0.5, -1.0, 2.0, 0.1):
        if _earned(task, replayed(task, form, lambda value, n=number: _filled(value, n))):
            earned.append(f"{number} in all places")
    for place in range(5):
        if _earned(task, lambda *given, place=place: given[place]):
            earned.append(f"argument {place} itself")
    return earned


@every_task
def test_nothing_is_earned_without_a_look_at_the_data(task: Task) -> None:
    assert not _points_for_nothing(task)


# ---- calls that tell more than they should -------------------------------------------------------


def test_no_call_of_a_detector_can_be_compared_with_another() -> None:
    """With the same message under true and under shuffled labels the truer would be known."""
    seen = []

    def suspicion(payload: Tensor, labels: Tensor) -> float:
        seen.append(payload.numpy().tobytes())
        return float(labels[0] + 1)

    judging.judge(find("02.challenge"), LocalAnswer(suspicion), [SEED])
    assert len(set(seen[:90])) == 90


def test_a_control_of_stolen_clones_looks_like_any_other_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = torch.rand(theft.IMAGES, 1, 4, 4), torch.zeros(theft.IMAGES).long()
    stolen, strangers = (
        [nn.Sequential(nn.Flatten(), nn.Linear(16, 3)) for _ in range(theft.CLONES)]
        for _ in range(2)
    )
    made = stolen[0], nn.Sequential(), stolen, strangers, Split(images, labels)
    monkeypatch.setattr(theft, "_stolen_victim", lambda seed, place: made)
    calls = []

    def craft(clones: Any, g: Any, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        own = torch.equal(clones[0][1].weight, stolen[0].get_parameter("1.weight"))
        calls.append((own, images.shape, labels.shape, epsilon))
        return images

    for seed in range(5):
        judging.judge(find("06.challenge"), LocalAnswer(craft), [seed])
    assert len({call[1:] for call in calls}) == 1
    first = [own for own, *_ in calls[::2]]
    assert 0 < sum(first) < len(first), "its place says nothing either"
    assert sum(own for own, *_ in calls) == len(calls) / 2
