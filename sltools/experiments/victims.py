"""Trained victims: the paper's network, cut, and trained as its data set and budget say."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from sltools import cache, data, devices, models, protocol
from sltools.experiments.presets import check_budget, training

MakeClient = Callable[..., protocol.Client]


def train_victim(
    dataset: data.Dataset,
    at: str | Sequence[str] = "pool1",
    *,
    budget: str = "quick",
    seed: int = 0,
    device: str = "cpu",
    client: MakeClient = protocol.Client,
    record: bool = False,
) -> protocol.Session:
    """Train the paper's network on `dataset`, cut after `at`, and return the session.

    One stage gives vanilla split learning, two give label-private. The paper trains for 10 epochs:
    that is `budget="full"` for its data sets. `client(front)` or `client(front, head)` makes the
    client, with its defences if it has any. `record` keeps what is sent, as in `protocol.train`.
    Raises SltoolsError for an unknown budget or cut.

    >>> from sltools import data, experiments
    >>> digits = data.load("digits")
    >>> session = experiments.train_victim(digits, "pool1", budget="tiny")
    >>> len(session.losses), session.accuracy(digits.test) > 0.7
    (4, True)
    """
    check_budget(budget)
    dataset = data.expect(data.Dataset, dataset)
    epochs, count = training(dataset.name, budget)
    net = models.for_images(dataset.train.images.shape, seed)
    ours, server = parties(net, at, client)
    split = dataset.train[: count or len(dataset.train)]
    train = partial(
        protocol.train, ours, server, split, epochs=epochs, seed=seed, device=device, record=record
    )
    if record or client is not protocol.Client or devices.find(device).type != "cpu":
        return train()
    session = protocol.Session.of(ours, server, split.images)
    return cache.trained(session, split, {"epochs": epochs, "seed": seed}, train)


def parties(
    net: nn.Sequential, at: str | Sequence[str], client: MakeClient = protocol.Client
) -> tuple[protocol.Client, protocol.Server]:
    """Cut `net` and give its parts to two parties: vanilla for one stage, label-private for two.

    >>> from sltools import experiments, models
    >>> client, server = experiments.parties(models.mnist_net(), ("pool1", "relu4"))
    >>> models.stages(client.head), server.label_private
    (['fc3'], True)
    """
    front, middle, *head = models.cut(net, at)
    return client(front, *head), protocol.Server(middle, label_private=bool(head))
