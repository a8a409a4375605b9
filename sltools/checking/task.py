"""What a task is, and how its check says what is wrong with an answer."""

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from sltools import seeds
from sltools.errors import ExerciseError

MAX_ABSOLUTE = 1e15  # of an answer; no right one comes near, and squares of these still fit float32
KINDS = ("implement", "predict", "flaw", "challenge")
OWN, ALL = RULES = ("write it yourself", "all of sltools")


class Answer(Protocol):
    """A learner's answer as a check sees it, at home or through the grader's pipe.

    What comes back is plain: tensors on the CPU, numbers, texts, and lists and dictionaries of
    them. The arguments are copied, so an answer may write on them. In the grader calls share
    nothing: what one of them keeps, no other finds.
    """

    def __call__(self, *arguments: Any) -> Any:
        """Call the answer, a function."""

    def gradient(self, *arguments: Any) -> Any:
        """Return the gradient of what the answer returns, summed, at its first argument.

        None if the answer cannot be differentiated there.
        """

    @property
    def value(self) -> Any:
        """Return the answer itself, if it is no function."""


class Wrong(Exception):
    """A check's verdict: wrong, for this `reason`; `share` of the points is earned all the same."""

    def __init__(self, reason: str, share: float = 0.0) -> None:
        super().__init__(reason)
        self.reason = reason
        self.share = share


Judge = Callable[[Answer, int], str | None]


@dataclass(frozen=True)
class Task:
    """One task of an exercise.

    `judge(answer, seed)` draws its own data from `seed`, computes what is right, and returns, if it
    likes with a remark, or raises `Wrong`. It runs on `trials` seeds. `answer` is the name that the
    answer has in the notebook. `difficulty` goes from 1 to 5, `minutes` are a learner's. `meaning`
    is told when the answer is right: what it bought the attacker, or saved the evaluator from.
    `rule` says what the answer may be made of; where it is OWN, graders refuse the `library`, the
    functions and methods of sltools that answer the task, by their full names.
    """

    key: str
    answer: str
    title: str
    kind: str
    minutes: int
    difficulty: int
    points: int
    purpose: str
    hints: tuple[str, ...]
    meaning: str
    judge: Judge
    trials: int = 3
    rule: str = OWN
    library: tuple[str, ...] = ()

    @property
    def topic(self) -> str:
        """The number of its lesson, as "04"."""
        return self.key.partition(".")[0]

    def header(self) -> str:
        """The line above the task in the notebook."""
        return (
            f"{self.kind} · {self.minutes} minutes · difficulty {self.difficulty} of 5 · "
            f"{self.points} points · {self.rule} · {self.purpose}"
        )


_TASKS: dict[str, Task] = {}


def task(key: str, *, rule: str, **facts: Any) -> Callable[[Judge], Judge]:
    """Register the decorated function as the judge of a new task `key`; see `Task`."""

    def register(judge: Judge) -> Judge:
        made = Task(key=key, judge=judge, rule=rule, **facts)
        known = made.kind in KINDS and 1 <= made.difficulty <= 5 and rule in RULES
        if key in _TASKS or not known:
            raise ExerciseError(
                f"task {key} is there already, or its kind, difficulty or rule is unknown"
            )
        _TASKS[key] = made
        return judge

    return register


def tasks(topic: str | None = None) -> list[Task]:
    """List all tasks, or those of a topic ("04"), in the order of their notebooks."""
    known = sorted(_TASKS.values(), key=lambda made: made.topic)  # stable: in their order within
    return [made for made in known if topic in (None, made.topic)]


def find(key: str) -> Task:
    """Return the task `key`; raise ExerciseError, with the known ones, if there is none."""
    if key not in _TASKS:
        known = [made.key for made in tasks()]
        near = difflib.get_close_matches(key, known, n=1)
        advice = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        raise ExerciseError(f"there is no task {key!r}; {advice}")
    return _TASKS[key]


# ---- what judges draw, take and say --------------------------------------------------------------


def draw(seed: int, *shape: int) -> Tensor:
    """Draw a tensor from [0, 1)."""
    return torch.rand(shape, generator=seeds.generator(seed, "exercise"))


def pair(value: Any) -> list[Any]:
    """Return `value` as a list of two, or raise Wrong."""
    if not isinstance(value, list) or len(value) != 2:
        raise Wrong("Return two things, in the order that the task names.")
    return value


def tensor(value: Any, shape: Sequence[int], what: str = "the result") -> Tensor:
    """Return `value` as a float32 tensor, or raise Wrong if it is none of this shape, or too large.

    A number stands for a tensor of shape (), a list of numbers for one of shape (N,).
    """
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = torch.tensor(_float(value))
    if isinstance(value, list) and value and all(map(_is_number, value)):
        value = torch.tensor([_float(entry) for entry in value])
    if not isinstance(value, Tensor):
        raise Wrong(f"{what} must be a tensor of shape {tuple(shape)}, not {_name(value)}.")
    if value.shape != torch.Size(shape):
        raise Wrong(f"{what} must have shape {tuple(shape)}, yours has {tuple(value.shape)}.")
    value = value.float()
    if not (value.abs() < MAX_ABSOLUTE).all():  # nor is NaN
        raise Wrong(f"{what} contains NaN, infinite or impossibly large values.")
    return value


def number(value: Any, what: str = "the result") -> float:
    """Return `value` as a finite float, or raise Wrong."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Wrong(f"{what} must be a number, not {_name(value)}.")
    if not abs(value) < MAX_ABSOLUTE:
        raise Wrong(f"{what} must be a finite number of possible size, not {_float(value):g}.")
    return float(value)


def close(got: Tensor, right: Tensor, tolerance: float = 1e-3) -> bool:
    """Say whether two tensors of one shape are equal up to `tolerance` of the larger one's RMS."""
    size = max(_rms(got), _rms(right), 1e-12)
    return _rms(got - right) <= tolerance * size


def compare(
    got: Tensor,
    right: Tensor,
    mistakes: Mapping[str, Tensor],
    what: str = "the result",
    tolerance: float = 1e-3,
) -> None:
    """Raise Wrong unless `got` is `right`.

    `mistakes` maps a reason to what one gets by making that mistake: an answer equal to one of
    these is told that reason. A mistake that happens to give the right result is none.
    """
    if close(got, right, tolerance):
        return
    for reason, value in mistakes.items():
        if value.shape == got.shape and close(got, value, tolerance):
            raise Wrong(reason)
    if _is_rounded(got, right):
        raise Wrong(f"{what} is rounded; give all its digits.")
    if close(got, 100 * right, tolerance) or _is_rounded(got, 100 * right, whole=True):
        raise Wrong(f"{what} is in per cent, 100 times what is asked for: 1 means all.")
    raise Wrong(f"{what} is off: {_difference(got, right)}.")


def dictionary(value: Any, keys: Sequence[str]) -> dict[str, Any]:
    """Return `value` if it is a dictionary with just these keys, or raise Wrong and name others."""
    asked = f"Return a dictionary with the keys {', '.join(map(repr, keys))}"
    if not isinstance(value, dict):
        raise Wrong(f"{asked}, not {'a list' if isinstance(value, list) else _name(value)}.")
    parts = {
        "lacks": [key for key in keys if key not in value],
        "has no use for": [key for key in value if key not in keys],
    }
    told = [f"{verb} {', '.join(map(repr, names))}" for verb, names in parts.items() if names]
    if told:
        raise Wrong(f"{asked}: yours {' and '.join(told)}.")
    return value


def differentiable(
    answer: Answer, right: Callable[..., Tensor], *arguments: Any, tolerance: float = 1e-3
) -> None:
    """Raise Wrong unless what `answer` returns has the gradient of `right` at its first argument.

    A gradient that is merely there could be made of anything.
    """
    slope = answer.gradient(*arguments)
    if slope is None:
        raise Wrong(
            "The number is right, and no gradient flows from it back to the images: in an attack "
            "it would not move them. Return a tensor that torch computed from them, without "
            "`.item()`, `.detach()`, `no_grad` or numpy."
        )
    first = arguments[0].clone().requires_grad_()
    (true,) = torch.autograd.grad(right(first, *arguments[1:]), first)
    if not close(tensor(slope, true.shape, "the gradient"), true, tolerance):
        raise Wrong(
            "The number is right, and its gradient is not: an attack would move the images "
            "elsewhere. Detach nothing on the way from them to the number."
        )


def _difference(got: Tensor, right: Tensor) -> str:
    if right.numel() == 1:
        return f"yours is {got.item():.4g}, expected {right.item():.4g}"
    place = int((got - right).abs().flatten().argmax())
    return (
        f"at the worst of its {right.numel():,} places yours is {got.flatten()[place]:.4g}, "
        f"expected {right.flatten()[place]:.4g}"
    )


def _is_rounded(got: Tensor, right: Tensor, whole: bool = False) -> bool:
    """Say whether `got` is `right`, each entry rounded, to whole numbers only if `whole`."""
    if not whole and torch.equal(got, got.round()):
        return False  # ones and zeros are answers of their own
    forms = [right.round(decimals=places) for places in range(0 if whole else 1, 5)]
    forms = [form.where(form != 0, right) for form in forms]
    return bool(torch.stack([torch.isclose(got, form) for form in (right, *forms)]).any(0).all())


def _rms(value: Tensor) -> float:
    return value.double().square().mean().sqrt().item() if value.numel() else 0.0


def _float(value: Any) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number may be of any size
        return math.inf


def _is_number(value: Any) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _name(value: Any) -> str:
    if value is None:
        return "None (is there a `return`? a `.grad` is None without `requires_grad_()`)"
    if isinstance(value, list) and value and isinstance(value[0], Tensor):
        return f"{len(value)} of them in a tuple or list (take one, `[0]`, or stack them)"
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{value!r}" if isinstance(value, (int, float, bool)) else f"a {type(value).__name__}"
