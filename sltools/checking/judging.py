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


class NotAttempted(Exception):
    """The answer is still the stub."""


class AnswerFailed(Exception):
    """The answer itself raised an exception; the text says which, and in what line."""


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
            raise Wrong(f"a function is asked for, not {type(self._answer).__name__}.")
        return call(self._answer, arguments)

    def gradient(self, *arguments: Any) -> Any:
        return call(partial(_gradient, self._answer), arguments)

    def forget(self) -> None:
        """Who keeps something back at home cheats nobody else."""

    @property
    def value(self) -> Any:
        if self._answer is ... or self._answer is None:
            raise NotAttempted
        if callable(self._answer):
            raise Wrong("a value is asked for, not a function: call it.")
        return plain(self._answer)


def call(function: Any, arguments: Iterable[Any]) -> Any:
    """Call an answer with copies of `arguments` and return what it returns, made plain.

    torch's global random state is fixed for the call and restored after it. Raises NotAttempted if
    the function is a stub, AnswerFailed if it raises.
    """
    with seeds.scope(0, "answer"):
        try:
            returned = function(*copy.deepcopy(tuple(arguments)))
        except NotImplementedError as error:
            if _is_stub(function, error):
                raise NotAttempted from None
            raise AnswerFailed(_explain(error)) from None
        except Exception as error:
            raise AnswerFailed(_explain(error)) from None
    return plain(returned)


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

    Raises Wrong for anything else: an object of a class of one's own could equal everything.
    """
    if isinstance(value, Tensor):
        return torch.Tensor.detach(value).cpu().clone()
    if isinstance(value, np.ndarray | np.generic):
        return torch.as_tensor(np.array(value))
    if type(value) in PLAIN_TYPES:
        return value
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    if isinstance(value, Mapping):
        return {str(name): plain(part) for name, part in value.items()}
    raise Wrong(
        f"the answer holds an object of type {type(value).__name__}; give tensors, numbers, texts, "
        "and lists or dictionaries of them."
    )


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


def _explain(error: Exception) -> str:
    """Say what was raised, and at which line of the learner's own code."""
    text = f"{type(error).__name__}: {error}".strip().rstrip(".")
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if _is_learner_code(frame.filename) and frame.lineno is not None:
            line = linecache.getline(frame.filename, frame.lineno).strip()
            return f"{text}.\nIn line {frame.lineno} of your cell, in {frame.name}: {line}"
    return f"{text}.\nIs it called with the arguments that the task names?"


def _is_learner_code(filename: str) -> bool:
    """Say whether a frame is from a notebook's cell (or a test), not from an installed package."""
    return "site-packages" not in filename and not Path(filename).is_relative_to(LIBRARY)
