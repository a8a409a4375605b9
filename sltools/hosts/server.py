"""The server's host: waits for the clients, runs the rounds, answers."""

import select
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from sltools import devices, seeds, storage
from sltools.errors import HostError, ProtocolError, SltoolsError
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
from sltools.hosts.link import Link, check_seconds, linked
from sltools.interrupts import keep_partial
from sltools.messages import Message
from sltools.progress import bar
from sltools.protocol.parties import Server
from sltools.protocol.rounds import SCHEDULES, check_schedule
from sltools.protocol.training import Weights, mean

LABELS = Kind("int64", ())


@dataclass
class Served:
    """What the server's host keeps of a run.

    `losses` has for each client the mean loss of each epoch, NaN where the labels stay there;
    probes count, for the server cannot tell them. `journals` are files for `read_journal`.
    `interrupted` says that Ctrl-C stopped it.
    """

    server: Server
    losses: list[list[float]]
    journals: list[Path] = field(default_factory=list)
    interrupted: bool = False


def serve(
    server: Server,
    *,
    clients: int = 1,
    schedule: str = "in turn",
    epochs: int = 5,
    seed: int = 0,
    host: str = "127.0.0.1",
    port: int = 29500,
    timeout: float = 60,
    wait: float = 600,
    journals: str | Path | None = None,
    announce: Callable[[list[str]], None] = lambda addresses: None,
) -> Served:
    """Train `server` with clients on other hosts, as `protocol.train_clients` does with those here.

    `host` is the address of this machine at which the clients reach it. Each client has a port of
    its own, from `port` on (0: any that are free); `announce` is given the addresses, in the order
    of the clients, as soon as they can be joined. Clients are waited for `wait` seconds, an answer
    `timeout` seconds. With a folder for `journals`, all messages of a client are kept in a file
    there, each before it is answered. With several clients all start from the first one's layers.

    Raises HostError if a client does not come, is gone or silent, ProtocolError if one sends what
    is not due; all others are told, and no process is left. Ctrl-C ends the run for all, and what
    was learned is kept.
    """
    check_schedule(schedule, clients)
    check_seconds("wait", wait)
    paths = _journal_paths(journals, clients)
    served = Served(server, [[] for _ in range(clients)], [path for path in paths if path])
    names = [f"client {number + 1}" for number in range(clients)]

    def open_link(number: int) -> Link:
        return Link.open(0, host, port and port + number, names[number], timeout)

    with keep_partial() as work, linked(map(open_link, range(clients))) as links:
        announce([f"{host}:{link.port()}" for link in links])
        _wait_for_all(links, wait)
        participants = []
        for number, (link, path) in enumerate(zip(links, paths, strict=True)):
            hello = _hear(link, server)
            if path is not None:
                link.journal = Journal(path, hello.front, hello.head)
            welcome = Welcome(number, _trial(link, server, hello))
            link.send(welcome.note())
            participants.append(RemoteClient(link, hello, welcome.output))
        with bar(range(epochs), "training") as progress, seeds.scope(seed, "training"):
            rounds = SCHEDULES[schedule](participants, server, epochs, seed)
            for _, losses in zip(progress, rounds, strict=True):
                for kept, loss in zip(served.losses, losses, strict=True):
                    kept.append(loss)
        for participant in participants:
            participant.infer(server)
    served.interrupted = work.interrupted
    return served


class RemoteClient:
    """A client on another host, as a participant of the rounds: it is told when to do what.

    Each of its messages must be the next one of the protocol and of the kind that it announced in
    its `hello`. `output` is a sample of what the server answers.
    """

    def __init__(self, link: Link, hello: Hello, output: Kind) -> None:
        self._link = link
        self._hello = hello
        self._kinds = {"labels": LABELS, "smashed": hello.smashed, "feature_gradient": output}
        self._steps = 0  # exchanges of the training so far

    @property
    def samples(self) -> int:
        """How many images the client says it has."""
        return self._hello.samples

    def train(self, server: Server) -> float:
        """Let the client train for an epoch, and return the mean of the server's losses."""
        self._link.send(Note("train"))
        order = ["smashed", "feature_gradient"] if self._hello.private else ["labels", "smashed"]
        losses, first = [], self._steps
        while (
            self._exchange(server, order, "training", (self._steps, self._steps - first))
            is not None
        ):
            losses.append(torch.tensor(torch.nan) if server.loss is None else server.loss.detach())
            self._steps += 1
        return mean(losses)

    def infer(self, server: Server) -> None:
        """Answer the client's inferences, each of which counts from 0, until it has no more."""
        self._link.send(Note("infer"))
        step: int | None = -1
        while step is not None:
            places = (step + 1, step + 1), (0, 0)
            step = self._exchange(server, ["smashed"], "inference", *places)

    def weights(self) -> Weights:
        """Ask the client for its layers."""
        self._link.send(Note("give"))
        note = self._link.note(weights_rule("weights", self._hello.layers))
        return unpack_weights(note, self._hello.layers, self._link.peer)

    def load(self, weights: Weights) -> None:
        """Give the client other layers."""
        if {name: Kind.of(value) for name, value in weights.items()} != self._hello.layers:
            raise ProtocolError(
                f"{self._link.peer} has other layers than another client: all must cut the same "
                "network at the same stages"
            )
        self._link.send(pack_weights("take", weights))

    def _exchange(
        self, server: Server, order: Sequence[str], phase: str, *places: tuple[int, int]
    ) -> int | None:
        """Carry out an exchange of kinds `order` at one of `places` (step, batch).

        Return its step, or None if the client is done with its turn instead.
        """
        notes, samples = [NoteRule("done")], None
        for kind in order:
            rules = [self._rule(kind, place, phase, samples) for place in places]
            message = self._link.receive(*rules, *notes)
            if isinstance(message, Note):
                return None
            places, notes = ((message.step, message.batch),), []
            samples = len(message.payload)
            server.model.train(phase == "training")
            if not self._answer(server, message):
                break
        return places[0][0]

    def _rule(
        self, kind: str, place: tuple[int, int], phase: str, samples: int | None
    ) -> MessageRule:
        of = self._kinds[kind]
        return MessageRule(kind, *place, phase, of.dtype, of.shape, samples)

    def _answer(self, server: Server, message: Message) -> bool:
        """Send the server's reply, and say whether the exchange goes on."""
        moved = replace(message, payload=message.payload.to(devices.of(server.model)))
        try:
            reply = server.reply(moved)
        except ProtocolError as error:
            raise ProtocolError(f"{self._link.peer} sent {message}: {error}") from None
        if message.kind == "labels":
            return True  # they are not answered
        self._link.send(reply or Note("nothing"))
        return reply is not None


def _journal_paths(folder: str | Path | None, clients: int) -> list[Path | None]:
    """The file of each client; raise SltoolsError if one is there already, or none can be."""
    if folder is None:
        return [None] * clients
    folder = storage.writable_folder(folder)
    paths = [folder / f"client-{number + 1}.journal" for number in range(clients)]
    for path in paths:
        if path.exists():
            raise SltoolsError(f"{path} exists already: name another folder")
    return [*paths]


def _wait_for_all(links: Sequence[Link], seconds: float) -> None:
    """Wait until all clients are there; who comes early is told that we live."""
    deadline, waiting = time.monotonic() + seconds, list(links)
    while waiting:
        left = max(deadline - time.monotonic(), 0)
        ready, _, _ = select.select(waiting, [], [], left)
        if not ready:
            missing = " and ".join(link.peer for link in waiting)
            raise HostError(f"{missing} did not come within {seconds:g} s")
        for link in ready:
            link.meet(link.timeout)
            link.keep_alive()
            waiting.remove(link)


def _hear(link: Link, server: Server) -> Hello:
    hello = Hello.read(link.note(NoteRule("hello", GREETING)), link.peer)
    if hello.private != server.label_private:
        keeps = "keeps" if hello.private else "sends"
        raise ProtocolError(
            f"{link.peer} {keeps} its labels and this server expects otherwise: give both hosts "
            "the same cut and head"
        )
    return hello


def _trial(link: Link, server: Server, hello: Hello) -> Kind:
    try:
        return trial(server.model, hello.smashed)
    except ProtocolError as error:
        raise ProtocolError(f"{link.peer}: {error}") from None
