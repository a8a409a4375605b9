"""Several clients and one server: in turn, or SplitFed. Wherever the clients are."""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sltools import devices, seeds
from sltools.data import Split, expect
from sltools.errors import ProtocolError
from sltools.interrupts import keep_partial
from sltools.progress import bar
from sltools.protocol.parties import Client, Server
from sltools.protocol.session import Session
from sltools.protocol.training import Trainee, Weights, check_parties, move

Losses = list[float]  # one for each participant


class Participant(Protocol):
    """A client with its data, as whoever runs the rounds sees it: on this host, or on another."""

    @property
    def samples(self) -> int:
        """How many images it has: its weight in an average."""

    def train(self, server: Server) -> float:
        """Train for an epoch and return the mean loss, as far as it is known here."""

    def weights(self) -> Weights:
        """Copies of the weights and buffers of the client's parts, by name."""

    def load(self, weights: Weights) -> None:
        """Take over weights and buffers."""


@dataclass(frozen=True)
class Checkpoint:
    """Where a training in turn stands: copies of all layers, and of the server's optimiser.

    `client` and `server` are weights and buffers by name. A `Guard` is given two of them.

    >>> from sltools.protocol import Checkpoint
    >>> sorted(Checkpoint(client={}, server={}, optimizer={}).__dict__)
    ['client', 'optimizer', 'server']
    """

    client: Weights
    server: Weights
    optimizer: dict[str, Any]

    @classmethod
    def take(cls, participant: Participant, server: Server) -> "Checkpoint":
        """Copy what the two hold now."""
        layers = {name: value.clone() for name, value in server.model.state_dict().items()}
        return cls(participant.weights(), layers, copy.deepcopy(server.optimizer.state_dict()))

    def restore(self, participant: Participant, server: Server) -> None:
        """Give it back to the two."""
        participant.load(self.client)
        server.model.load_state_dict(self.server)
        server.optimizer.load_state_dict(copy.deepcopy(self.optimizer))


@runtime_checkable
class Guard(Protocol):
    """Looks at each turn of a training in turn, and may undo it; `defenses.SafeSplit` is one.

    >>> from sltools.protocol import Checkpoint
    >>> class UndoesEverything:
    ...     def keep(self, before, after):
    ...         return before
    >>> start, end = Checkpoint({}, {}, {}), Checkpoint({}, {}, {})
    >>> UndoesEverything().keep(start, end) is start
    True
    """

    def keep(self, before: Checkpoint, after: Checkpoint) -> Checkpoint:
        """Return the state to go on with: `after`, or another in place of it."""


Aggregate = Callable[[Sequence[Weights], Sequence[int]], Weights]


def train_clients(
    clients: Sequence[Client | nn.Sequential],
    server: Server | nn.Sequential,
    splits: Sequence[Split],
    *,
    schedule: str = "in turn",
    epochs: int = 5,
    batch_size: int = 64,
    seed: int = 0,
    record: bool = False,
    device: str | torch.device = "cpu",
    defense: Guard | Aggregate | None = None,
) -> list[Session]:
    """Train several clients, each on its own split, with one server; return a session for each.

    `schedule` is a key of SCHEDULES:

    - "in turn": a client trains for an epoch and hands its layers on to the next, as in Gupta and
      Raskar (2018, section 3.2). In the end all have the last one's.
    - "splitfed v1", "splitfed v2": all start from the first client's layers, train for an epoch,
      and get the average of their layers, weighted by samples (Thapa et al. 2022, SFLV1 and
      SFLV2). In V1 each is answered by a copy of the server's model, and these are averaged as
      well; in V2 all are answered by the same model, one client after another in random order.

    `defense` is the server's against clients that lie: for SplitFed a rule of aggregation in place
    of `average`, in turn a `Guard`, which is shown the state before and after each turn and says
    which to go on with. Losses are of the turns as they were trained.

    Optimisers are not handed on: each party keeps its own. The other arguments are those of
    `train`; one client in turn is trained exactly as there. The order of the clients comes from the
    stream (`seed`, "clients").

    Raises ProtocolError for an unknown schedule, one that does not fit the number of clients or the
    defence, or parties and data that do not fit each other.

    >>> from sltools import data, models, protocol
    >>> splits = data.parts(data.load("digits").train[:200], 2)
    >>> fronts = [models.cut(models.mnist_net(seed), "pool1")[0] for seed in (0, 1)]
    >>> rest = models.cut(models.mnist_net(), "pool1")[1]
    >>> sessions = protocol.train_clients(fronts, rest, splits, schedule="splitfed v2", epochs=2)
    >>> [len(session.losses) for session in sessions]
    [2, 2]
    >>> bool((fronts[0].conv1.weight == fronts[1].conv1.weight).all())
    True
    """
    parties = [client if isinstance(client, Client) else Client(client) for client in clients]
    server = server if isinstance(server, Server) else Server(server)
    splits = [expect(Split, split) for split in splits]
    if len(parties) != len(splits):
        raise ProtocolError(f"{len(parties)} clients need as many splits, not {len(splits)}")
    check_schedule(schedule, len(parties), defense)
    place = devices.find(device)
    for client, split in zip(parties, splits, strict=True):
        check_parties(client, server, split, epochs, batch_size)
        move(client, place)
    move(server, place)
    pairs = list(zip(parties, splits, strict=True))
    sessions = [Session.of(client, server, split.images) for client, split in pairs]
    trainees = [
        Trainee(
            client, split, session.transcript if record else None,
            batch_size=batch_size, seed=seed, number=number,
        )
        for number, ((client, split), session) in enumerate(zip(pairs, sessions, strict=True))
    ]  # fmt: skip
    with (
        bar(range(epochs), "training") as progress,
        seeds.scope(seed, "training"),
        keep_partial() as work,
    ):
        rounds = SCHEDULES[schedule](trainees, server, epochs, seed, defense)
        for _, losses in zip(progress, rounds, strict=True):
            for session, loss in zip(sessions, losses, strict=True):
                session.losses.append(loss)
    for session in sessions:
        session.interrupted = work.interrupted
    return sessions


def check_schedule(schedule: str, clients: int, defense: Guard | Aggregate | None = None) -> None:
    """Raise ProtocolError unless there is such a schedule, for so many clients and this defence."""
    if schedule not in SCHEDULES:
        raise ProtocolError(f"no schedule is called {schedule!r}; there are {list(SCHEDULES)}")
    least = 1 if schedule == "in turn" else 2
    if clients < least:
        raise ProtocolError(f"{schedule} needs at least {least} clients, not {clients}")
    ready = isinstance(defense, Guard) if schedule == "in turn" else callable(defense)
    if defense is not None and (isinstance(defense, type) or not ready):
        wanted = "a guard, such as SafeSplit()" if least == 1 else "a rule, such as Krum(1)"
        raise ProtocolError(f"a defence of {schedule} is {wanted}, not {defense!r}")


def _in_turn(
    participants: Sequence[Participant],
    server: Server,
    rounds: int,
    seed: int,
    guard: Guard | None = None,
) -> Iterator[Losses]:
    """One after another; the newest layers go to whoever is next."""
    newest = participants[0]
    for number in range(rounds):
        losses = []
        for participant in participants:
            if participant is not newest:
                participant.load(newest.weights())
            newest = participant
            losses.append(_turn(participant, server, guard))
        if number == rounds - 1:
            _share(newest, participants)
        yield losses


def _turn(participant: Participant, server: Server, guard: Guard | None) -> float:
    """Let one client train for an epoch, and the guard say what is to stay of it."""
    if guard is None:
        return participant.train(server)
    before = Checkpoint.take(participant, server)
    loss = participant.train(server)
    after = Checkpoint.take(participant, server)
    kept = guard.keep(before, after)
    if kept is not after:
        kept.restore(participant, server)
    return loss


def _splitfed_v1(
    participants: Sequence[Participant],
    server: Server,
    rounds: int,
    seed: int,
    aggregate: Aggregate | None = None,
) -> Iterator[Losses]:
    """Each client with a copy of the server; all layers are averaged."""
    _share(participants[0], participants)
    server.loss = None  # it hangs on a graph, which cannot be copied
    servers = [copy.deepcopy(server) for _ in participants]
    for _ in range(rounds):
        pairs = zip(participants, servers, strict=True)
        losses = [participant.train(own) for participant, own in pairs]
        _merge_clients(participants, aggregate or average)
        models = [own.model.state_dict() for own in servers]
        merge = aggregate or average
        merged = merge(models, [participant.samples for participant in participants])
        for own in (server, *servers):
            own.model.load_state_dict(merged)
        yield losses


def _splitfed_v2(
    participants: Sequence[Participant],
    server: Server,
    rounds: int,
    seed: int,
    aggregate: Aggregate | None = None,
) -> Iterator[Losses]:
    """All clients with one server, in random order; the clients' layers are averaged."""
    _share(participants[0], participants)
    stream = seeds.generator(seed, "clients")
    for _ in range(rounds):
        order = torch.randperm(len(participants), generator=stream).tolist()
        losses = {number: participants[number].train(server) for number in order}
        _merge_clients(participants, aggregate or average)
        yield [losses[number] for number in range(len(participants))]


Schedule = Callable[..., Iterator[Losses]]  # which takes its own sort of defence
SCHEDULES: dict[str, Schedule] = {
    "in turn": _in_turn,
    "splitfed v1": _splitfed_v1,
    "splitfed v2": _splitfed_v2,
}


def _share(source: Participant, participants: Sequence[Participant]) -> None:
    """Give the layers of `source` to all others."""
    others = [participant for participant in participants if participant is not source]
    if others:
        weights = source.weights()
        for participant in others:
            participant.load(weights)


def _merge_clients(participants: Sequence[Participant], aggregate: Aggregate) -> None:
    states = [participant.weights() for participant in participants]
    merged = aggregate(states, [participant.samples for participant in participants])
    for participant in participants:
        participant.load(merged)


def average(states: Sequence[Weights], samples: Sequence[int]) -> Weights:
    """The average of weights and buffers by name, weighted by `samples`: federated averaging.

    What is no floating-point number (the batches that a BatchNorm has counted) is the first one's.

    >>> import torch
    >>> from sltools.protocol.rounds import average
    >>> average([{"w": torch.tensor(1.0)}, {"w": torch.tensor(5.0)}], [3, 1])
    {'w': tensor(2.)}
    """
    shares = [count / sum(samples) for count in samples]

    def merge(name: str) -> Tensor:
        values = [state[name] for state in states]
        if not values[0].is_floating_point():
            return values[0].clone()
        weighted = (value * share for value, share in zip(values, shares, strict=True))
        return torch.stack(list(weighted)).sum(0)

    return {name: merge(name) for name in states[0]}
