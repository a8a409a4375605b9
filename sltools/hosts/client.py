"""A client's host: joins a server on another, and trains when it is told to."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from sltools import devices, seeds
from sltools.data import Split, expect
from sltools.errors import HostError, ProtocolError
from sltools.hosts.frames import MessageRule, Note, NoteRule
from sltools.hosts.greeting import (
    GREETING,
    Hello,
    Kind,
    Welcome,
    pack_weights,
    trial,
    unpack_weights,
    weights_rule,
)  # fmt: skip
from sltools.hosts.journal import Journal
from sltools.hosts.link import Link, linked
from sltools.interrupts import keep_partial
from sltools.messages import Message
from sltools.protocol.parties import Client, Server
from sltools.protocol.session import Session
from sltools.protocol.training import Trainee, check_parties, move

PEER = "the server"


def join(
    address: str,
    client: Client | nn.Sequential,
    split: Split,
    *,
    batch_size: int = 64,
    seed: int = 0,
    record: bool = False,
    device: str | torch.device = "cpu",
    share_layers: bool = False,
    timeout: float = 60,
    journal: str | Path | None = None,
    finish: Callable[[Session], None] = lambda session: None,
) -> Session:
    """Train `client` on `split` with the server at `address` ("HOST:PORT"), and return the session.

    The server says when and for how many epochs. With several clients it takes the layers of some
    and gives them to others (`protocol.train_clients`); a client allows that with `share_layers`,
    for split learning sends none otherwise. `finish` is called with the session at the end, while
    the server still answers inferences. The other arguments are those of `protocol.train`;
    `journal` is a new file to keep all messages in, each before it is answered. The server is
    waited for, and so are its answers, for `timeout` seconds.

    Raises HostError if there is no server, it is gone or silent or ends the run, ProtocolError if
    it sends what is not due. Ctrl-C ends the run for all, and returns the session as it stands
    (raises KeyboardInterrupt if there is none yet).
    """
    client = client if isinstance(client, Client) else Client(client)
    host, port = parse(address)
    place = devices.find(device)
    session = None
    with (
        keep_partial() as work,
        linked([Link.open(1, host, port, PEER, timeout)]) as (link,),
    ):
        _meet(link, address)
        remote = RemoteServer(link, label_private=client.head is not None)
        check_parties(client, remote, expect(Split, split), 1, batch_size)
        move(client, place)
        session = Session.of(client, remote, split.images)
        transcript = session.transcript
        if journal is not None:
            link.journal = Journal(journal, transcript.client, transcript.head)
        hello = _hello(client, session, split)
        link.send(hello.note())
        welcome = Welcome.read(link.note(NoteRule("welcome", GREETING)), PEER)
        remote.expect(hello.smashed, welcome.output)
        _check_head(client, welcome.output)
        trainee = Trainee(
            client, split, transcript if record else None,
            batch_size=batch_size, seed=seed, number=welcome.client,
        )  # fmt: skip
        with seeds.scope(seed, "training"):
            _obey(link, session, trainee, hello.layers if share_layers else None)
            finish(session)
            link.send(Note("done"))
            link.note(NoteRule("end"))
    if session is None:
        raise KeyboardInterrupt  # the two never met, so there is nothing to keep
    session.interrupted = work.interrupted
    return session


class RemoteServer(Server):
    """A server on another host: what it is told crosses the link, what it answers comes from there.

    Its model is not here, and its loss stays there.
    """

    def __init__(self, link: Link, *, label_private: bool) -> None:
        self.model = Elsewhere()
        self.label_private = label_private
        self.loss = None
        self._link = link

    def expect(self, smashed: Kind, output: Kind) -> None:
        """Take nothing but answers of these kinds: dL/dz as `smashed`, the rest as `output`."""
        self._kinds = {"cut_gradient": smashed, "features": output, "prediction": output}

    def reply(self, message: Message) -> Message | None:
        """Send `message` to the other host and return its answer; labels have none."""
        self._link.send(message)
        if message.kind == "labels":
            return None
        answer = self._link.receive(self._rule(message), NoteRule("nothing"))
        if isinstance(answer, Note):
            return None
        return replace(answer, payload=answer.payload.to(message.payload.device))

    def _rule(self, message: Message) -> MessageRule:
        """What answers `message`."""
        kind = "cut_gradient"
        if message.phase == "inference":
            kind = "features" if self.label_private else "prediction"
        elif self.label_private and message.kind == "smashed":
            kind = "features"
        of, samples = self._kinds[kind], len(message.payload)
        place = message.step, message.batch, message.phase
        return MessageRule(kind, *place, of.dtype, of.shape, samples)


class Elsewhere(nn.Sequential):
    """Stands where there is a network on another host."""

    def forward(self, input: Tensor) -> Tensor:
        """Raise ProtocolError."""
        raise ProtocolError("the server's layers are on another host: only its answers come here")


def _obey(link: Link, session: Session, trainee: Trainee, shared: dict[str, Kind] | None) -> None:
    """Train, give and take layers as the server says, until it waits for inferences only."""
    rules = [NoteRule("train"), NoteRule("infer"), NoteRule("give")]
    rules.append(NoteRule("take") if shared is None else weights_rule("take", shared))
    while (note := link.note(*rules)).kind != "infer":
        if note.kind == "train":
            session.losses.append(trainee.train(session.server))
            link.send(Note("done"))
        elif shared is None:
            raise ProtocolError(
                "the server trains several clients and wants this one's layers, which split "
                "learning does not send otherwise: allow it (share_layers, --share-layers) or not"
            )
        elif note.kind == "give":
            link.send(pack_weights("weights", trainee.weights()))
        else:
            trainee.load(unpack_weights(note, shared, PEER))


def _hello(client: Client, session: Session, split: Split) -> Hello:
    """What this client tells of itself."""
    images = Kind.of(split.images).sample()
    smashed = trial(client.front, images)
    layers = {name: Kind.of(value) for name, value in Trainee(client, split).weights().items()}
    described = session.transcript.client, session.transcript.head
    return Hello(len(split), client.head is not None, smashed, layers, *described)


def _check_head(client: Client, features: Kind) -> None:
    """Raise ProtocolError unless the features of the server fit the client's head."""
    if client.head is not None:
        try:
            trial(client.head, features)
        except ProtocolError as error:
            raise ProtocolError(f"{PEER}: {error}") from None


def _meet(link: Link, address: str) -> None:
    try:
        link.meet(link.timeout)
    except HostError as error:
        raise HostError(
            f"no server at {address}: {error}. Is `sltools serve` running there, and is the way to "
            "it open?"
        ) from None


def parse(address: str) -> tuple[str, int]:
    """Return host and port of "HOST:PORT", or raise HostError."""
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isascii() and port.isdigit() and 0 < int(port) < 2**16):
        raise HostError(
            f"a server is named HOST:PORT, as `sltools serve` prints it, not {address!r}"
        )
    return host.strip("[]"), int(port)
