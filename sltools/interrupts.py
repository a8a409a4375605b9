"""Ctrl-C: long work keeps its partial result and marks it; who needs a whole one passes it on."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, TypeVar


class Interruptible(Protocol):
    """A result that says whether Ctrl-C cut it short."""

    @property
    def interrupted(self) -> bool:
        """Whether there is less of it than was asked for."""


@dataclass
class Work:
    """What `keep_partial` yields; ask it after the block."""

    interrupted: bool = False


Result = TypeVar("Result", bound=Interruptible)


@contextmanager
def keep_partial() -> Iterator[Work]:
    """Run a block that Ctrl-C may end early; what it did until then is kept.

    >>> with keep_partial() as work:
    ...     raise KeyboardInterrupt
    >>> work.interrupted
    True
    """
    work = Work()
    try:
        yield work
    except KeyboardInterrupt:
        work.interrupted = True


def finished(result: Result) -> Result:
    """Return `result`; raise KeyboardInterrupt if it was cut short, where half of it is none.

    >>> finished(Work()).interrupted
    False
    """
    if result.interrupted:
        raise KeyboardInterrupt
    return result
