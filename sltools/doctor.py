"""What this machine has, and how long the lessons will take on it."""

import platform
import sys
import time
from importlib.metadata import PackageNotFoundError, version

import torch

from sltools import __version__, data, lessons, models
from sltools.attacks import UnSplit
from sltools.attacks.ensemble import Ensemble
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View

PACKAGES = (
    "torch", "numpy", "scikit-learn", "torchmetrics", "jupyterlab", "ipywidgets", "papermill",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Versions of Python, sltools and what it stands on; "missing" for what is not installed."""
    found = {"python": sys.version.split()[0], "system": platform.platform()}
    found["sltools"] = __version__
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    return found


def devices() -> dict[str, str]:
    """The devices that lessons and attacks can run on, by the name to give them."""
    found = {"cpu": f"{torch.get_num_threads()} threads"}
    if torch.cuda.is_available():
        found["cuda"] = torch.cuda.get_device_name()
    return found


def calibrate(steps: int = 100) -> float:
    """Seconds that `steps` steps of the default UnSplit on ten targets at pool1 take here."""
    front, _ = models.cut(models.mnist_net(), "pool1")
    architecture = Architecture.of(front, (1, 28, 28))
    smashed = Message(0, 0, "smashed", front(torch.rand(10, 1, 28, 28)), "inference")
    view = View("server", [smashed], architecture)
    UnSplit(steps=5).search(view, Ensemble([architecture.build(0)]))  # warm up
    start = time.perf_counter()
    UnSplit(steps=steps).search(view, Ensemble([architecture.build(0)]))
    return time.perf_counter() - start


def predicted_seconds(here: float) -> dict[str, float]:
    """Seconds each lesson will take at budget "quick", from a calibration `here`.

    A lesson's own seconds and the calibration of the machine that built it are in its metadata.
    """
    return {
        lesson.name: lesson.seconds * here / lesson.calibration
        for lesson in lessons.lessons()
        if lesson.seconds and lesson.calibration
    }


def data_sets() -> dict[str, str]:
    """Where each data set would be loaded from."""
    return data.available()
