"""Where tensors live and what computes on them."""

import platform
from importlib.metadata import version

import torch
from torch import nn

from sltools.errors import SltoolsError


def find(name: str | torch.device) -> torch.device:
    """Return the device called `name` ("cpu", "cuda", "cuda:1", ...).

    Raises SltoolsError if torch does not know it or this machine does not have it.

    >>> from sltools import devices
    >>> devices.find("cpu")
    device(type='cpu')
    """
    try:
        device = torch.device(name)
        torch.zeros(1, device=device).item()  # "meta" has no numbers
    except (RuntimeError, AssertionError, NotImplementedError, ImportError, TypeError):
        raise SltoolsError(
            f"there is no device {str(name)!r} on this machine; use cpu"
            + (" or cuda" if torch.cuda.is_available() else " (torch finds no CUDA device)")
        ) from None
    return device


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, torch and `packages`, to keep beside a result."""
    installed = {name: version(name) for name in packages}
    return {"python": platform.python_version(), "torch": torch.__version__, **installed}


def of(model: nn.Module) -> torch.device:
    """Return the device of a model's parameters; the CPU if it has none."""
    return next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
