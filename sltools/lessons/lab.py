"""JupyterLab on a learner's copy, and the environment that its kernels get."""

import os
from collections.abc import Sequence
from pathlib import Path

from sltools.lessons.catalog import PACKAGE

START = "course/00_start_here.ipynb"


def open_lab(folder: Path, arguments: Sequence[str] = ()) -> None:
    """Start JupyterLab on a learner's copy, in this process, and return when it is stopped.

    `arguments` go to JupyterLab as they are, for example "--no-browser" or "--port=8899".
    """
    from jupyterlab.labapp import LabApp

    os.environ.update(_lab_environment())
    LabApp.launch_instance([*_lab_options(folder), *arguments])


def _lab_options(folder: Path) -> list[str]:
    options = [f"--ServerApp.root_dir={folder.resolve()}"]
    if (folder / START).exists():
        options.append(f"--LabApp.default_url=/lab/tree/{START}")
    if hasattr(os, "geteuid") and os.geteuid() == 0:  # Windows has no root, and no geteuid
        options.append("--allow-root")
    return options


def _lab_environment() -> dict[str, str]:
    """Return defaults that the user's own settings still override: no news pop-up, one thread."""
    path = [os.environ.get("JUPYTER_CONFIG_PATH"), str(PACKAGE / "jupyter")]
    return {
        "JUPYTER_CONFIG_PATH": os.pathsep.join(filter(None, path)),
        # This environment's python3 kernel comes before one that the user installed elsewhere.
        "JUPYTER_PREFER_ENV_PATH": "1",
        **threads(),
    }


def threads() -> dict[str, str]:
    """Return the number of threads of a lesson: one, unless the user's OMP_NUM_THREADS says more.

    The networks are too small to gain from more, the numbers are then the same on any number of
    cores, and a second program on a busy machine slows the lesson down by two and not by twenty.
    """
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
