"""Measurements that take long: what they find is kept in `course/results/`."""

from pathlib import Path

from sltools.attacks import InversionResult
from sltools.errors import SltoolsError


def uninterrupted(result: InversionResult) -> InversionResult:
    """Return `result`; raise KeyboardInterrupt if it was interrupted: half a run says nothing."""
    if result.interrupted:
        raise KeyboardInterrupt
    return result


def check_writable(path: Path) -> None:
    """Raise SltoolsError, before the work, unless a file can be written at `path`."""
    new = not path.exists()
    try:
        path.open("a").close()
    except OSError as error:
        raise SltoolsError(f"what is measured cannot be written: {error}; give a --path") from None
    if new:
        path.unlink()
