"""What inversion attacks share: priors on images, one optimisation loop, one kind of result."""

import json
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.optim import Adam
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from sltools import storage
from sltools.errors import AttackError
from sltools.models import Architecture
from sltools.progress import bar

READ_EVERY = 50  # steps between two looks at the loss: each look waits for the device


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, down plus across (reference code, util.py).

    `images` is (N, C, H, W); returns a scalar.
    """
    down = (images[..., 1:, :] - images[..., :-1, :]).square().mean()
    across = (images[..., :, 1:] - images[..., :, :-1]).square().mean()
    return down + across


def energy(images: Tensor) -> Tensor:
    """Mean squared pixel, the paper's L2 prior: it prefers dark images. Returns a scalar."""
    return images.square().mean()


@dataclass
class InversionResult:
    """What an inversion attack found, and how.

    `inputs` (N, C, H, W) are the reconstructions, `clone` the copy of the client's network.
    `losses` maps a name to values (R,) at `loss_steps` (R,); `snapshots` (S, N, C, H, W) are the
    reconstructions at `snapshot_steps` (S,). `knowledge` names all that was read from the view.
    """

    inputs: Tensor
    clone: nn.Sequential
    losses: dict[str, Tensor]
    loss_steps: Tensor
    snapshots: Tensor
    snapshot_steps: Tensor
    attack: str
    settings: dict[str, Any]
    knowledge: tuple[str, ...]
    seed: int
    device: str
    seconds: float
    interrupted: bool = False
    versions: dict[str, str] = field(
        default_factory=lambda: {"torch": torch.__version__, "python": platform.python_version()}
    )

    @property
    def feature_loss(self) -> float:
        """The last recorded feature loss: how well clone and inputs explain the smashed data."""
        return self.losses["feature"][-1].item()

    def save(self, folder: str | Path) -> Path:
        """Write the result into a new `folder` (safetensors and JSON)."""
        architecture = Architecture.of(self.clone, self.inputs.shape[1:])
        tensors = {name: getattr(self, name) for name in _TENSORS}
        tensors |= {f"loss/{name}": values for name, values in self.losses.items()}
        tensors |= {f"clone/{name}": value for name, value in self.clone.state_dict().items()}
        facts = {name: getattr(self, name) for name in _FACTS}
        return storage.write(folder, tensors, facts | {"architecture": asdict(architecture)})

    @classmethod
    def open(cls, folder: str | Path) -> "InversionResult":
        """Read a saved result; raise SltoolsError if it is missing or damaged."""
        tensors, facts = storage.read(folder)
        try:
            clone = Architecture(**facts.pop("architecture")).build(seed=0)
            clone.load_state_dict(_under("clone/", tensors))
            facts["knowledge"] = tuple(facts["knowledge"])
            kept = {name: tensors[name] for name in _TENSORS}
            return cls(clone=clone, losses=_under("loss/", tensors), **kept, **facts)
        except (KeyError, TypeError, RuntimeError) as error:
            raise AttackError(f"{folder} does not hold an inversion result: {error!r}") from None


_TENSORS = ("inputs", "loss_steps", "snapshots", "snapshot_steps")
_FACTS = ("attack", "settings", "knowledge", "seed", "device", "seconds", "interrupted", "versions")
