"""Verdicts that a notebook's cell asked for and did not show are shown at its end.

A cell shows the value of its last line only: of `check(...)` above it one would see nothing.
"""

import sys
from typing import Any

_QUEUED: list[Any] = []


def queue_display(verdict: Any) -> None:
    """See to it that `verdict` is seen once the running cell ends; outside IPython do nothing."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is not None:
        _QUEUED.append(verdict)
        shell.events.register("post_run_cell", _show_queued)  # IPython keeps it once


def mark_shown(verdict: Any) -> None:
    """Note that the cell itself has shown or printed `verdict`."""
    _QUEUED[:] = [other for other in _QUEUED if other is not verdict]


def _show_queued(*_: Any) -> None:
    from IPython.display import display

    for verdict in list(_QUEUED):
        display(verdict)
