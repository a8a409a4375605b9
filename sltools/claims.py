"""What a lesson says of its results, with the sizes it rests on, and what the learner guessed."""

import operator
from collections.abc import Callable
from numbers import Real
from typing import Any

import torch

RELATIONS: dict[str, Callable[[Any, Any], torch.Tensor]] = {
    "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge, "==": operator.eq,
}  # fmt: skip


class Claims:
    """Print a claim beside the sizes that it rests on; a lesson makes one and calls it `claim`.

    `claim(text, sizes, relation, bound)`, with numbers, or sequences or tensors of numbers of which
    every one must hold. With `as_shown`, where the lesson runs as it is printed, it raises
    AssertionError for a claim that does not hold; with other settings it says so and goes on.

    >>> from sltools.claims import Claims
    >>> claim = Claims(as_shown=True)
    >>> claim("every clone misses less than a tenth", [0.031, 0.0582], "<", 0.1)
    every clone misses less than a tenth: 0.031 and 0.058 < 0.1, holds
    """

    def __init__(self, as_shown: bool) -> None:
        self._as_shown = as_shown

    def __call__(self, text: str, sizes: Any, relation: str, bound: Any) -> None:
        left, right = _numbers(sizes), _numbers(bound)
        told = left.numel() > 0 and right.numel() > 0  # of nothing, nothing holds
        holds = told and bool(RELATIONS[relation](left, right).all())
        said = "holds" if holds else "does not hold"
        print(f"{text}: {_format_all(left)} {relation} {_format_all(right)}, {said}")
        assert holds or not self._as_shown, text


def compare(guess: Any, measured: Any, what: str) -> None:
    """Print a learner's guess beside what was measured; None means that nothing was guessed.

    >>> from sltools.claims import compare
    >>> compare(0.5, 0.1234, "share of the error that is left")
    share of the error that is left: 0.12; your guess: 0.5
    >>> compare(None, 7, "images recognised")
    images recognised: 7; your guess: none; put one in its cell and run both again
    """
    yours = "none; put one in its cell and run both again" if guess is None else _format(guess)
    print(f"{what}: {_format(measured)}; your guess: {yours}")


def _numbers(sizes: Any) -> torch.Tensor:
    if isinstance(sizes, torch.Tensor):
        sizes = sizes.tolist()
    return torch.as_tensor(sizes, dtype=torch.float64).flatten()


def _format_all(numbers: torch.Tensor) -> str:
    """All of a few numbers, and the range of many."""
    values = numbers.tolist()
    if len(values) > 4:
        return " to ".join(dict.fromkeys(_format(f(values)) for f in (min, max)))
    return " and ".join(_format(value) for value in values)


def _format(value: Any) -> str:
    """A number in two digits, a whole one in all of its own; anything else as it is."""
    if not isinstance(value, Real):
        return str(value)
    return f"{value:.0f}" if float(value).is_integer() else f"{value:.2g}"
