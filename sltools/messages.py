"""What crosses the wire: messages.

A message is a detached copy that owns its memory. This is not hygiene: a smashed activation that
still carried its `grad_fn` would hand the receiver the whole graph, the private images included.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sltools.errors import ProtocolError

SENDERS = {
    "labels": "client",  # vanilla split learning only
    "smashed": "client",  # z, the activations at the cut
    "features": "server",  # u, what the server makes of z (label-private: the input of the head)
    "feature_gradient": "client",  # dL/du (label-private)
    "cut_gradient": "server",  # dL/dz
    "prediction": "server",  # logits, at inference in vanilla split learning
}
PHASES = ("training", "inference")


@dataclass(frozen=True, eq=False)
class Message:
    """One tensor on its way from one party to the other.

    `step` counts the exchanges of a run, `batch` those of an epoch, both from 0; `kind` is a key of
    SENDERS; `payload` is copied and detached; `phase` is "training" or "inference".

    >>> import torch
    >>> from sltools.messages import Message
    >>> message = Message(step=0, batch=0, kind="smashed", payload=torch.zeros(64, 8, 12, 12))
    >>> message
    Message(step 0, client to server: smashed (64, 8, 12, 12), 294,912 bytes)
    >>> message.digest() == message.copy().digest()
    True
    """

    step: int
    batch: int
    kind: str
    payload: Tensor
    phase: str = "training"

    def __post_init__(self) -> None:
        if self.kind not in SENDERS:
            raise ProtocolError(f"no message is called {self.kind!r}; there are {list(SENDERS)}")
        if self.phase not in PHASES:
            raise ProtocolError(f"a phase is one of {PHASES}, not {self.phase!r}")
        object.__setattr__(self, "payload", self.payload.detach().clone().contiguous())

    @property
    def sender(self) -> str:
        return SENDERS[self.kind]

    @property
    def receiver(self) -> str:
        return "server" if self.sender == "client" else "client"

    @property
    def nbytes(self) -> int:
        """Bytes of payload on the wire."""
        return self.payload.numel() * self.payload.element_size()

    def copy(self) -> "Message":
        """Return a message of its own memory, so that a receiver cannot rewrite the record."""
        return Message(self.step, self.batch, self.kind, self.payload, self.phase)

    def digest(self) -> str:
        """SHA-256 of everything in the message: equal digests mean equal messages, bit for bit."""
        payload = self.payload.cpu()
        content = payload.flatten().view(torch.uint8).numpy().tobytes()
        head = f"{self.step}/{self.batch}/{self.kind}/{self.phase}/{payload.dtype}/{payload.shape}/"
        return hashlib.sha256(head.encode() + content).hexdigest()

    def __repr__(self) -> str:
        return (
            f"Message(step {self.step}, {self.sender} to {self.receiver}: {self.kind} "
            f"{tuple(self.payload.shape)}, {self.nbytes:,} bytes)"
        )


def pack(messages: Sequence[Message]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Split messages into tensors and JSON-able facts, for a file.

    >>> import torch
    >>> from sltools.messages import Message, pack, unpack
    >>> tensors, facts = pack([Message(0, 0, "labels", torch.tensor([3, 1]))])
    >>> tensors
    {'message/0': tensor([3, 1])}
    >>> facts
    [{'step': 0, 'batch': 0, 'kind': 'labels', 'phase': 'training'}]
    >>> unpack(tensors, facts)
    [Message(step 0, client to server: labels (2,), 16 bytes)]
    """
    tensors = {f"message/{number}": message.payload for number, message in enumerate(messages)}
    facts = [
        {"step": message.step, "batch": message.batch, "kind": message.kind, "phase": message.phase}
        for message in messages
    ]
    return tensors, facts


def unpack(tensors: dict[str, Tensor], facts: list[dict[str, Any]]) -> list[Message]:
    """Undo `pack`."""
    return [Message(payload=tensors[f"message/{i}"], **fact) for i, fact in enumerate(facts)]
