"""Measurements that take long: what they find is kept in `course/results/`."""

import json
import statistics
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from sltools import data, experiments, protocol, storage
from sltools.errors import SltoolsError
from sltools.interrupts import finished


@cache
def quick_victim(dataset: data.Dataset, cut: str | tuple[str, str], seed: int) -> protocol.Session:
    """Train the victim of a recorder as a lesson does at "quick"; it is kept."""
    return finished(experiments.train_victim(dataset, cut, budget="quick", seed=seed))


def check_writable(path: Path) -> None:
    """Raise SltoolsError, before the work, unless a file can be written at `path`."""
    new = not path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise SltoolsError(f"what is measured cannot be written: {error}; give a --path") from None
    if new:
        path.unlink()


def middle(values: Iterable[float | None], form: str) -> str:
    """The median of what is known, for a table; a dash if nothing is.

    >>> from benchmarks import middle
    >>> middle([0.5, None, 0.7], ".1%"), middle([None], ".1%")
    ('60.0%', '–')
    """
    known = [value for value in values if value is not None]
    return f"{statistics.median(known):{form}}" if known else "–"


def spread(values: Iterable[float | None], worst: Callable[[list[float]], float], form: str) -> str:
    """The median of what is known, and in brackets the worst; a dash if nothing is.

    >>> from benchmarks import spread
    >>> spread([0.5, None, 0.7], min, ".1%"), spread([None], min, ".1%")
    ('60.0% [50.0%]', '–')
    """
    known = [value for value in values if value is not None]
    return f"{middle(known, form)} [{worst(known):{form}}]" if known else "–"


def write_facts(path: Path, facts: dict[str, Any]) -> None:
    """Write JSON in one step. Facts that cannot be written are printed, for they took long.

    Raises OSError then.
    """
    text = json.dumps(facts, indent=1) + "\n"
    try:
        storage.write_atomic(path, text)
    except OSError:
        print(text)
        raise


def write_arrays(path: Path, **arrays: np.ndarray) -> None:
    """Write a compressed .npz in one step; raise OSError, leaving what was there, if that fails."""
    with storage.atomic_path(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
