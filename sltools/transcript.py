"""The record of what crossed the wire."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from sltools.messages import Message
from sltools.models import Architecture
from sltools.saved import Network, Unsaved
from sltools.view import View, read_view


@dataclass
class Transcript:
    """Everything that crossed the wire, in order, and what the parties could say about it.

    `client` and `head` are the architectures of the client's parts, or the reason why they cannot
    be described. `models` holds each party's own network and `client_log` what the client computed
    and kept to itself, by step: both are there for views of this process only. `save` writes the
    messages, the architectures and the server's own model: what a server could have kept.

    >>> from sltools import data, models, protocol
    >>> split = data.load("digits").train[:128]
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, split, epochs=1, record=True)
    >>> transcript = session.transcript
    >>> transcript
    Transcript(6 messages, 1,180,672 bytes)
    >>> for message in transcript.messages[:3]:
    ...     print(message)
    Message(step 0, client to server: labels (64,), 512 bytes)
    Message(step 0, client to server: smashed (64, 8, 12, 12), 294,912 bytes)
    Message(step 0, server to client: cut_gradient (64, 8, 12, 12), 294,912 bytes)
    >>> transcript.nbytes("smashed"), transcript.nbytes("labels")
    (589824, 1024)
    >>> transcript.view("server")
    View(server: 6 messages of cut_gradient, labels, smashed)
    """

    client: Architecture | Unsaved | None = None
    head: Architecture | Unsaved | None = None
    models: dict[str, Network] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    client_log: dict[int, dict[str, Tensor]] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Transcript({len(self.messages):,} messages, {self.nbytes():,} bytes)"

    def append(self, message: Message) -> None:
        """Record a copy of `message`."""
        self.messages.append(message.copy())

    def nbytes(self, kind: str | None = None) -> int:
        """Bytes of payload of one kind of message, or of all."""
        return sum(message.nbytes for message in self.messages if kind in (None, message.kind))

    def digests(self, receiver: str) -> list[str]:
        """Digests of all messages to `receiver`, in order."""
        return [message.digest() for message in self.messages if message.receiver == receiver]

    def view(self, party: str = "server", grants: Iterable[str] = ()) -> View:
        """Return what `party` ("server" or "client") may look at.

        `grants` names knowledge beyond the wire (see `sltools.view.GRANTS`); an attack's result
        reports what it used of it. Raises NotObservable for an unknown or unavailable grant.
        """
        return View.of(self, party, grants)

    def save(self, folder: str | Path) -> Path:
        """Write the transcript into a new `folder` (safetensors and JSON); see `View.save`."""
        return self.view("server").save(folder)

    @classmethod
    def open(cls, folder: str | Path) -> "Transcript":
        """Read a transcript back, in this or another process, without its client log."""
        kept = read_view(folder)
        models = {} if kept["own_model"] is None else {kept["party"]: kept["own_model"]}
        return cls(kept["client"], kept["head"], models, kept["messages"])
