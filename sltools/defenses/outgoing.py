"""Defences that change what a client is about to send."""

from typing import ClassVar

from torch import Tensor

from sltools import seeds
from sltools.errors import DefenseError
from sltools.validation import defense_check


class Outgoing:
    """Changes messages of one `kind` (see `sltools.messages`); all others pass.

    A subclass defines `change`. It works inside the client's own graph, so that the client learns
    with its defence in place. Noise comes from the stream (`seed`, name of the class), drawn on the
    CPU, and goes on from message to message: a repeated query meets fresh noise. It is
    reproducible, for experiments: who knows the seed subtracts it. A client in earnest needs a
    secret seed and a cryptographic generator.

    >>> import torch
    >>> from sltools.defenses import Outgoing
    >>> class Sign(Outgoing):  # says of each activation only whether it is above zero
    ...     def change(self, tensor):
    ...         return tensor + (tensor.sign() - tensor).detach()  # the gradient passes
    >>> z = torch.tensor([[0.3, 0.0, 2.0]])
    >>> Sign()("smashed", z)
    tensor([[1., 0., 1.]])
    >>> Sign()("labels", z) is z
    True
    """

    kind: ClassVar[str] = "smashed"
    promises: ClassVar[str]
    leaves: ClassVar[str]

    def __init__(self, seed: int = 0) -> None:
        self._generator = seeds.generator(defense_check.seed(seed), type(self).__name__)

    def __call__(self, kind: str, tensor: Tensor) -> Tensor:
        """Return what is sent in place of `tensor`."""
        return self.change(tensor) if kind == self.kind else tensor

    def change(self, tensor: Tensor) -> Tensor:
        """Return `tensor` (B, ...), changed, of the same shape and on the same device."""
        raise NotImplementedError

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of message that it changes."""
        return frozenset([self.kind])

    @property
    def stream(self) -> int:
        """What seeds its noise: equal for two of one class and seed."""
        return self._generator.initial_seed()

    def nbytes(self, tensor: Tensor) -> float:
        """Bytes that a message in place of `tensor` needs on the wire, without its header."""
        return float(tensor.nbytes)

    def __repr__(self) -> str:
        settings = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in settings.items())})"


class Compose:
    """Several defences, applied one after the other.

    Raises DefenseError for two of one class and seed, whose noise would be the same.

    >>> import torch
    >>> from sltools.defenses import Compose, Quantisation, RandomisedResponse, TopK
    >>> defense = Compose(TopK(0.5), Quantisation(bits=1), RandomisedResponse(1.0, classes=10))
    >>> defense("smashed", torch.tensor([[0.1, 3.0, 0.2, 2.0]]))
    tensor([[0., 3., 0., 3.]])
    >>> sorted(defense.kinds)
    ['labels', 'smashed']
    """

    def __init__(self, *defenses: Outgoing) -> None:
        self.defenses = defenses
        if len({defense.stream for defense in defenses}) < len(defenses):
            raise DefenseError("two of these defences draw the same noise: give each its own seed")

    def __call__(self, kind: str, tensor: Tensor) -> Tensor:
        """Return what is sent in place of `tensor`."""
        for defense in self.defenses:
            tensor = defense(kind, tensor)
        return tensor

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of message that they change."""
        return frozenset(defense.kind for defense in self.defenses)

    def nbytes(self, tensor: Tensor) -> float:
        """Bytes that smashed data in place of `tensor` need: what the last to change them says.

        Noise on top of zeros leaves nothing to save.
        """
        last = [defense for defense in self.defenses if defense.kind == Outgoing.kind][-1:]
        return last[0].nbytes(tensor) if last else float(tensor.nbytes)

    def __repr__(self) -> str:
        return f"Compose({', '.join(map(repr, self.defenses))})"
