"""Training: batches in a private order, probes and extra batches among them."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from sltools import devices, seeds
from sltools.data import Split, expect
from sltools.errors import ProtocolError
from sltools.interrupts import keep_partial
from sltools.progress import bar
from sltools.protocol.parties import Batch, Client, Server, exchange
from sltools.protocol.session import Session, set_mode
from sltools.transcript import Transcript

Weights = dict[str, Tensor]


def train(
    client: Client | nn.Sequential,
    server: Server | nn.Sequential,
    split: Split,
    *,
    epochs: int = 5,
    batch_size: int = 64,
    seed: int = 0,
    record: bool = False,
    device: str | torch.device = "cpu",
) -> Session:
    """Train two parties on `split` by exchanging messages and return their session.

    Give parties, or the two parts of a cut network for vanilla split learning with the paper's
    settings (Adam with amsgrad, 1e-3, cross-entropy). The order of the samples is that of
    `data_orders`. Parties may be trained on: they keep their optimisers. `record` keeps every
    message (memory: 2 x N x |z| floats for each epoch) and the client's log. Interrupting (Ctrl-C)
    returns the session as it stands, marked `interrupted`.

    >>> from sltools import data, models, protocol
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> vanilla = protocol.train(front, rest, digits.train, epochs=2)
    >>> len(vanilla.losses), vanilla.accuracy(digits.test) > 0.5
    (2, True)

    Cut twice, the client holds the last layers as well, and the labels stay with it.

    >>> front, middle, head = models.cut(models.mnist_net(), ("pool1", "relu4"))
    >>> client = protocol.Client(front, head)
    >>> server = protocol.Server(middle, label_private=True)
    >>> private = protocol.train(client, server, digits.train[:128], epochs=1, record=True)
    >>> sorted(private.transcript.view("server").kinds)
    ['cut_gradient', 'feature_gradient', 'features', 'smashed']
    """
    client = client if isinstance(client, Client) else Client(client)
    server = server if isinstance(server, Server) else Server(server)
    split = expect(Split, split)
    check_parties(client, server, split, epochs, batch_size)
    session = Session.of(client, server, split.images)
    trainee = Trainee(
        client, split, session.transcript if record else None, batch_size=batch_size, seed=seed
    )
    place = devices.find(device)
    move(client, place)
    move(server, place)
    with (
        bar(range(epochs), "training") as progress,
        seeds.scope(seed, "training"),
        keep_partial() as work,
    ):
        for _ in progress:
            session.losses.append(trainee.train(server))
            progress.set_postfix(loss=f"{session.losses[-1]:.3f}")
    session.interrupted = work.interrupted
    return session


def data_orders(samples: int, seed: int, client: int = 0) -> Iterator[Tensor]:
    """Yield the order (samples,) of the samples in each epoch of a training, without end.

    It comes from the stream (`seed`, "order"), that of a further `client` (1, 2, ...) from one of
    its own. A client keeps it to itself: for scoring only.

    >>> from sltools.protocol import data_orders
    >>> [order.tolist() for _, order in zip(range(2), data_orders(4, seed=0))]
    [[3, 2, 0, 1], [3, 0, 1, 2]]
    """
    generator = seeds.generator(seed, f"order/{client}" if client else "order")
    while True:
        yield torch.randperm(samples, generator=generator)


class Trainee:
    """A client with its data, and where it stands in its training: one epoch after another.

    `number` counts the clients of a server from 0. It computes where the client's layers lie.

    >>> from sltools import data, models
    >>> from sltools.protocol import Client, Server, Trainee
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> trainee = Trainee(Client(front), data.load("digits").train[:128])
    >>> server = Server(rest)
    >>> first, second = trainee.train(server), trainee.train(server)
    >>> second < first, trainee.samples
    (True, 128)
    """

    def __init__(
        self,
        client: Client,
        split: Split,
        transcript: Transcript | None = None,
        *,
        batch_size: int = 64,
        seed: int = 0,
        number: int = 0,
    ) -> None:
        self.client = client
        self.split = split
        self.transcript = transcript
        self.batch_size = batch_size
        self._orders = data_orders(len(split), seed, number)
        self._steps = 0  # exchanges so far

    @property
    def samples(self) -> int:
        """How many images the client has."""
        return len(self.split)

    def train(self, server: Server) -> float:
        """Train for an epoch; return the mean loss of its batches, without probes (or NaN)."""
        losses, first = [], self._steps
        device = devices.of(self.client.front)
        for rows in next(self._orders).split(self.batch_size):
            batch = self.split.images[rows].to(device), self.split.labels[rows].to(device)
            place = self._steps, self._steps - first
            loss, exchanges = _step(self.client, server, batch, *place, self.transcript)
            losses += loss
            self._steps += exchanges
        return mean(losses)

    def weights(self) -> Weights:
        """Copies of all weights and buffers of the client's parts, by name."""
        return {name: value.detach().clone() for name, value in self._parts.state_dict().items()}

    def load(self, weights: Weights) -> None:
        """Take over weights and buffers of a client with the same layers."""
        self._parts.load_state_dict(weights)

    @property
    def _parts(self) -> nn.ModuleDict:
        held = {"front": self.client.front, "head": self.client.head}
        return nn.ModuleDict({name: part for name, part in held.items() if part is not None})


def mean(losses: list[Tensor]) -> float:
    """The mean of the losses of some batches; NaN if there are none."""
    return torch.stack(losses).mean().item() if losses else math.nan


def _step(
    client: Client,
    server: Server,
    batch: Batch,
    step: int,
    number: int,
    transcript: Transcript | None,
) -> tuple[list[Tensor], int]:
    """One batch or the probe in its place, then the extra batches of the client's hook.

    All are numbered as one sequence: nothing on the wire tells a probe or an extra batch from a
    real one. Return the loss, in a list that is empty after a probe, and the number of exchanges.
    """
    images, labels = batch
    probe = None if client.detector is None else client.detector.probe(labels)
    exchanges = 1
    sent = (images, labels if probe is None else probe)
    loss = _train_step(client, server, sent, step, number, transcript, learn=probe is None)
    for extra in client.extra(step, *batch):
        place = step + exchanges, number + exchanges
        _train_step(client, server, extra, *place, transcript, learn=False)
        exchanges += 1
    return [loss] if probe is None else [], exchanges


def _train_step(
    client: Client,
    server: Server,
    batch: Batch,
    step: int,
    number: int,
    transcript: Transcript | None,
    *,
    learn: bool,
) -> Tensor:
    """Carry out one exchange of the training and return its loss, NaN if no party knows it."""
    set_mode(client, server, training=True)
    for message in client.open(*batch, step=step, batch=number, learn=learn):
        exchange(client, server, message, transcript)
    computed = client.close()
    if transcript is not None:
        transcript.client_log[step] = client.log_entry()
    loss = server.loss if client.head is None else computed.loss
    return torch.full((), torch.nan, device=batch[0].device) if loss is None else loss.detach()


def move(party: Client | Server, device: torch.device) -> None:
    """Move a party's layers, and what its optimiser remembers, to `device`."""
    held = [party.front, party.head] if isinstance(party, Client) else [party.model]
    for part in held:
        if part is not None:
            part.to(device)
    party.optimizer.load_state_dict(party.optimizer.state_dict())


def check_parties(
    client: Client, server: Server, split: Split, epochs: int, batch_size: int
) -> None:
    """Raise ProtocolError unless the two can train on `split`."""
    if (client.head is not None) != server.label_private:
        raise ProtocolError(
            "the parties disagree: a client with a head keeps its labels and needs "
            "Server(..., label_private=True); a client without one needs label_private=False"
        )
    if len(split) == 0 or epochs < 1 or batch_size < 1:
        raise ProtocolError(
            f"nothing to train: {len(split)} images, {epochs} epochs, batches of {batch_size}; "
            "all must be at least 1"
        )
