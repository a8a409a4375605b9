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
from sltools.protocol.session import Session, parts, set_mode
from sltools.transcript import Transcript


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
    _check_parties(client, server, split, epochs, batch_size)
    _move(client, server, devices.find(device))
    session = Session.of(client, server, split.images)
    transcript = session.transcript if record else None
    step = 0
    with (
        bar(range(epochs), "training") as progress,
        seeds.scope(seed, "training"),
        keep_partial() as work,
    ):
        for _, order in zip(progress, data_orders(len(split), seed), strict=False):
            losses, first = [], step
            for rows in order.split(batch_size):
                batch = split.images[rows].to(device), split.labels[rows].to(device)
                loss, exchanges = _step(client, server, batch, step, step - first, transcript)
                losses += loss
                step += exchanges
            session.losses.append(torch.stack(losses).mean().item() if losses else math.nan)
            progress.set_postfix(loss=f"{session.losses[-1]:.3f}")
    session.interrupted = work.interrupted
    return session


def data_orders(samples: int, seed: int) -> Iterator[Tensor]:
    """Yield the order (samples,) of the samples in each epoch of a training, without end.

    It comes from the stream (`seed`, "order"). A client keeps it to itself: for scoring only.

    >>> from sltools.protocol import data_orders
    >>> [order.tolist() for _, order in zip(range(2), data_orders(4, seed=0))]
    [[3, 2, 0, 1], [3, 0, 1, 2]]
    """
    generator = seeds.generator(seed, "order")
    while True:
        yield torch.randperm(samples, generator=generator)


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


def _move(client: Client, server: Server, device: torch.device) -> None:
    """Move the parties, and what their optimisers remember, to `device`."""
    for part in parts(client, server):
        part.to(device)
    for party in (client, server):
        party.optimizer.load_state_dict(party.optimizer.state_dict())


def _check_parties(
    client: Client, server: Server, split: Split, epochs: int, batch_size: int
) -> None:
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
