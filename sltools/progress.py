"""Progress bars for long work: on by default, off in headless notebook runs."""

import os
from collections.abc import Iterable
from typing import Any

from tqdm.auto import tqdm


def static() -> bool:
    """Say whether this is a headless run (SLTOOLS_STATIC=1), where live widgets can hang."""
    return os.environ.get("SLTOOLS_STATIC") == "1"


def bar(work: Iterable[Any] | None, description: str, **options: Any) -> tqdm:
    """Wrap `work` in a tqdm bar that disappears when done; without `work`, update it by hand."""
    return tqdm(work, desc=description, leave=False, disable=static(), **options)
