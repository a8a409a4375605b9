"""Defences that change what a client is about to send."""

import math
from typing import Any, ClassVar

from torch import Tensor

from sltools import seeds
from sltools.errors import DefenseError


class Outgoing:
    """Changes messages of one `kind` (see `sltools.messages`); all others pass.

    A subclass defines `change`. It works inside the client's own graph, so that the client learns
    with its defence in place. Noise comes from the stream (`seed`, name of the class), drawn on the
    CPU, and goes on from message to message: a repeated query meets fresh noise.
    """

    kind: ClassVar[str] = "smashed"
    promises: ClassVar[str]
    leaves: ClassVar[str]

    def __init__(self, seed: int = 0) -> None:
        self._generator = seeds.generator(seed, type(self).__name__)

    def __call__(self, kind: str, tensor: Tensor) -> Tensor:
        """Return what is sent in place of `tensor`."""
        return self.change(tensor) if kind == self.kind else tensor

    def change(self, tensor: Tensor) -> Tensor:
        """Return `tensor` (B, ...), changed, of the same shape and on the same device."""
        raise NotImplementedError

    def nbytes(self, tensor: Tensor) -> float:
        """Bytes that a message in place of `tensor` needs on the wire, without its header."""
        return float(tensor.nbytes)

    def __repr__(self) -> str:
        settings = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"


class Together:
    """Several defences, applied one after the other."""

    def __init__(self, *defenses: Outgoing) -> None:
        self.defenses = defenses

    def __call__(self, kind: str, tensor: Tensor) -> Tensor:
        """Return what is sent in place of `tensor`."""
        for defense in self.defenses:
            tensor = defense(kind, tensor)
        return tensor

    def nbytes(self, tensor: Tensor) -> float:
        """Bytes that a message in place of `tensor` needs: those of the tersest of the defences."""
        return min((defense.nbytes(tensor) for defense in self.defenses), default=tensor.nbytes)

    def __repr__(self) -> str:
        return f"Together({', '.join(map(repr, self.defenses))})"


def positive(name: str, value: Any) -> float:
    """Return `value`; raise DefenseError unless it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise DefenseError(f"{name} must be a finite number above 0, not {value!r}")
    return float(value)
