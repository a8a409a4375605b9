"""From an answer to a verdict: not attempted, wrong, error or right."""

import copy
import html
import inspect
import linecache
import traceback
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FunctionType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sltools import seeds
from sltools.checking import display
from sltools.checking.task import Answer, Task, Wrong

MARKS = {  # never colour alone
    "not attempted": "○",
    "wrong": "✗",
    "error": "!",
    "partly right": "◐",
    "right": "✓",
}
OUTCOMES = tuple(MARKS)
COLOURS = dict.fromkeys(OUTCOMES, "#a34700") | {"not attempted": "#595959", "right": "#00603f"}
HOME_SEEDS = range(1, 1000)
LIBRARY = Path(seeds.__file__).parent
PLAIN_TYPES = (str, bool, int, float, type(None))
DTYPES = {
    *(torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64),
    *(torch.bfloat16, torch.float16, torch.float32, torch.float64),
}
INTEGERS = 2**63  # whole numbers are smaller
NOT_PLAIN = {
    "no function": "a function is asked for, not {}.",
    "function": "a value is asked for, not a function: call it.",
    "object": "the answer holds an object of type {}; give tensors, numbers, texts, and lists or "
    "dictionaries of them.",
    "array": "the answer holds an array of {}; give arrays of numbers.",
    "tensor": "the answer holds a tensor of the kind {}; give an ordinary one, as of float32.",
    "integer": "the answer holds a whole number of more than 64 bits.",
    "deep": "the answer is nested too deeply.",
}


class NotAttempted(Exception):
    """The answer is still the stub."""


class AnswerFailed(Exception):
    """The answer itself raised an exception; the text says which, and in what line.

    `kind` is its type, `place` the file and line of the learner's own code, where they are known.
    """

    def __init__(self, text: str, kind: str = "", place: tuple[str, int] | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.place = place


class NotPlain(Wrong):
    """An answer is no plain value, for the reason in NOT_PLAIN, which names a `kind`."""

    def __init__(self, cause: str, kind: str = "") -> None:
        super().__init__(NOT_PLAIN[cause].format(kind))
        self.cause = cause
        self.kind = kind


@dataclass(frozen=True)
class Verdict:
    """What a check found. `share`, 0 to 1, of the task's points is earned."""

    task: Task
    outcome: str
    message: str
    share: float

    @property
    def points(self) -> float:
        """The points earned."""
        return self.share * self.task.points

    def __bool__(self) -> bool:
        return self.outcome == "right"

    def __repr__(self) -> str:
        display.mark_shown(self)
        return f"{self._title()}\n{self.message}"

    def _title(self) -> str:
        earned = f", {self.points:g} of {self.task.points} points" if self.share else ""
        return f"{MARKS[self.outcome]} {self.task.key}: {self.outcome}{earned}"

    def _repr_html_(self) -> str:
        style = f"border-left: 4px solid {COLOURS[self.outcome]}; padding: 2px 0 2px 10px"
        message = html.escape(self.message).replace("\n", "<br>")
        return f'<div style="{style}"><b>{html.escape(self._title())}</b><br>{message}</div>'


def judge(task: Task, answer: Answer, data_seeds: Iterable[int] | None = None) -> Verdict:
    """Judge `answer` on `task.trials` seeds, by default those used at home; the worst counts."""
    remark = None
    for seed, _ in zip(data_seeds or HOME_SEEDS, range(task.trials), strict=False):
        try:
            remark = task.judge(answer, seed)
        except NotAttempted:
            name = getattr(answer, "name", task.answer)
            return Verdict(task, "not attempted", f"Write {name} first.", 0.0)
        except Wrong as wrong:
            outcome = "partly right" if wrong.share else "wrong"
            return Verdict(task, outcome, wrong.reason, wrong.share)
        except AnswerFailed as failed:
            return Verdict(task, "error", str(failed), 0.0)
    return Verdict(task, "right", "\n".join(filter(None, [task.meaning, remark])), 1.0)


class LocalAnswer:
    """An answer in this process: the object that the learner passed to `check`."""

    def __init__(self, answer: Any) -> None:
        self._answer = answer

    @property
    def name(self) -> str:
        """What the learner calls it, which in a lesson is not the task's own name for it."""
        if not isinstance(self._answer, FunctionType):
            raise AttributeError("a value has no name")
        return self._answer.__name__

    def __call__(self, *arguments: Any) -> Any:
        if self._answer is ... or self._answer is None:
            raise NotAttempted
        if not callable(self._answer):
            raise NotPlain("no function", type(self._answer).__name__)
        return call(self._answer, arguments)

    def gradient(self, *arguments: Any) -> Any:
        return call(partial(_gradient, self._answer), arguments)

    @property
    def value(self) -> Any:
        if self._answer is ... or self._answer is None:
            raise NotAttempted
        if callable(self._answer):
            raise NotPlain("function")
        return call(lambda: self._answer, ())


def call(function: Any, arguments: Iterable[Any]) -> Any:
    """Call an answer with copies of `arguments` and return what it returns, made plain.

    torch's global random state is fixed for the call and restored after it. Raises NotAttempted if
    the function is a stub, AnswerFailed if it raises.
    """
    with seeds.scope(0, "answer"):
        try:
            return plain(function(*copy.deepcopy(tuple(arguments))))
        except Wrong:
            raise
        except NotImplementedError as error:
            if _is_stub(function, error):
                raise NotAttempted from None
            raise _failed(error) from None
        except Exception as error:
            raise _failed(error) from None


def _gradient(function: Any, *arguments: Any) -> Any:
    """The gradient at the first of `arguments` of the sum of what `function` returns, or None."""
    first = arguments[0].requires_grad_()
    try:
        returned = function(first.clone(), *arguments[1:])  # an answer may write on its arguments
    except RuntimeError as error:
        if "that requires grad" in str(error):  # so numpy() refuses it
            return None
        raise
    if not isinstance(returned, Tensor) or not returned.requires_grad:
        return None
    return torch.autograd.grad(returned.sum(), first, allow_unused=True)[0]


def plain(value: Any) -> Any:
    """Return `value` as tensors on the CPU, numbers, texts, lists and dictionaries.

    Raises NotPlain for anything else: an object of a class of one's own could equal everything.
    """
    try:
        return _plain(value)
    except RecursionError:
        raise NotPlain("deep") from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind in "biuf":
        value = torch.as_tensor(np.array(value))
    if isinstance(value, Tensor):
        return _plain_tensor(torch.Tensor.detach(value))
    if type(value) is int and abs(value) >= INTEGERS:
        raise NotPlain("integer")
    if type(value) in PLAIN_TYPES:
        return value
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): _plain(part) for name, part in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        raise NotPlain("array", value.dtype.type.__name__)
    raise NotPlain("object", type(value).__name__)


def _plain_tensor(value: Tensor) -> Tensor:
    for kind, is_plain in (
        (value.device.type, not value.is_meta),
        (value.layout, value.layout is torch.strided),
        (value.dtype, value.dtype in DTYPES),
    ):
        if not is_plain:
            raise NotPlain("tensor", str(kind).removeprefix("torch."))
    return value.cpu().clone()


def _is_stub(function: Any, error: NotImplementedError) -> bool:
    """Say whether `error` was raised by the answer itself, and not in something that it calls.

    The answer itself is what a decorator wraps.
    """
    frames = traceback.extract_tb(error.__traceback__)
    function = inspect.unwrap(function) if isinstance(function, FunctionType) else None
    code = getattr(function, "__code__", None)
    return code is not None and (frames[-1].filename, frames[-1].name) == (
        code.co_filename,
        code.co_name,
    )


def _failed(error: Exception) -> AnswerFailed:
    """Say what was raised, and at which line of the learner's own code."""
    kind, text = type(error).__name__, f"{type(error).__name__}: {error}".strip().rstrip(".")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_learner_code(frame.filename) and frame.lineno is not None:
            line = linecache.getline(frame.filename, frame.lineno).strip()
            text = f"{text}.\nIn line {frame.lineno} of your cell, in {frame.name}: {line}"
            return AnswerFailed(text, kind, (frame.filename, frame.lineno))
    return AnswerFailed(f"{text}.\nIs it called with the arguments that the task names?", kind)


def _is_learner_code(filename: str) -> bool:
    """Say whether a frame is from a notebook's cell (or a test), not from an installed package."""
    return "site-packages" not in filename and not Path(filename).is_relative_to(LIBRARY)
