"""Checks of settings, shared by attacks, defences and detectors."""

import math
import operator
from typing import Any

from sltools.errors import AttackError, DefenseError, SltoolsError


class Checks:
    """Return a setting that is allowed, or raise `error` with its name, the rule and its value.

    >>> defense_check.positive("scale", 0.5)
    0.5
    >>> defense_check.integer("bits", 2.5)
    Traceback (most recent call last):
    ...
    sltools.errors.DefenseError: bits must be a whole number of at least 1, not 2.5
    """

    def __init__(self, error: type[SltoolsError]) -> None:
        self._error = error

    def integer(self, name: str, value: Any, least: int = 1) -> int:
        """A whole number of at least `least`."""
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self._error(f"{name} must be a whole number of at least {least}, not {value!r}")
        return value

    def positive(self, name: str, value: Any) -> float:
        """A finite number above 0."""
        if not _is_number(value) or not 0 < value < math.inf:
            raise self._error(f"{name} must be a finite number above 0, not {value!r}")
        return float(value)

    def non_negative(self, name: str, value: Any) -> float:
        """A finite number of at least 0."""
        if not _is_number(value) or not 0 <= value < math.inf:
            raise self._error(f"{name} must be a finite number of at least 0, not {value!r}")
        return float(value)

    def seed(self, value: Any) -> int:
        """A whole number; see `sltools.seeds` for what is made of it."""
        try:
            if isinstance(value, bool):
                raise TypeError
            return operator.index(value)  # NumPy's and torch's whole numbers too
        except TypeError:
            raise self._error(f"seed must be a whole number, not {value!r}") from None

    def share(self, name: str, value: Any) -> float:
        """A number above 0 and at most 1."""
        if not _is_number(value) or not 0 < value <= 1:
            raise self._error(f"{name}, a share, must be in (0, 1], not {value!r}")
        return float(value)


attack_check, defense_check = Checks(AttackError), Checks(DefenseError)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
