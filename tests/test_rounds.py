"""Several clients with one server, in one process."""

import copy
from functools import partial

import pytest
import torch
from torch.optim import SGD

from sltools import data, models, protocol, seeds
from sltools.errors import DataError, ProtocolError
from tests.parties import noise_split, parties, record_of, same, weights

SPLITS = data.parts(noise_split(24), 2)
sgd = partial(SGD, lr=0.1)


def train(schedule, *, at="pool1", splits=SPLITS, nets=(1, 2), epochs=2, **options):
    pairs = [parties(models.mnist_net(seed), at, **options) for seed in nets]
    clients, server = [client for client, _ in pairs], pairs[0][1]
    return protocol.train_clients(
        clients, server, splits, schedule=schedule, epochs=epochs, batch_size=4, record=True
    )


@pytest.mark.parametrize("at", ["pool1", ("pool1", "relu4")])
def test_one_client_in_turn_is_trained_as_by_itself(at):
    (session,) = train("in turn", at=at, splits=SPLITS[:1], nets=(1,))
    client, server = parties(models.mnist_net(1), at)
    alone = protocol.train(client, server, SPLITS[0], epochs=2, batch_size=4, record=True)
    assert session.losses == alone.losses
    assert same(weights(session.client.front), weights(client.front))
    digests = [message.digest() for message in record_of(session)]
    assert digests == [message.digest() for message in record_of(alone)]


def test_clients_in_turn_are_one_client_that_sees_all_data():
    """With SGD, which remembers nothing, who holds the layers makes no difference."""
    sgd_server = {"server_options": {"optimizer": sgd}}
    sessions = train("in turn", optimizer=sgd, **sgd_server)
    client, server = parties(models.mnist_net(1), "pool1", optimizer=sgd, **sgd_server)
    visitors = [
        protocol.Trainee(client, split, batch_size=4, number=number)
        for number, split in enumerate(SPLITS)
    ]
    for _ in range(2):
        for visitor in visitors:
            visitor.train(server)
    for session in sessions:
        assert same(weights(session.client.front), weights(client.front))
    assert same(weights(sessions[0].server.model), weights(server.model))


@pytest.mark.parametrize("schedule", ["splitfed v1", "splitfed v2"])
def test_splitfed_averages_what_each_client_learned_alone(schedule):
    """One round of V1, by hand; in V2 the server goes on from client to client."""
    sessions = train(schedule, epochs=1, splits=[SPLITS[0], SPLITS[1][:4]])
    front, rest = models.cut(models.mnist_net(1), "pool1")
    server = protocol.Server(rest)
    own, answered = [], []
    order = [0, 1]
    if schedule == "splitfed v2":
        stream = seeds.generator(0, "clients")
        order = torch.randperm(2, generator=stream).tolist()
    for number in order:
        split = SPLITS[0] if number == 0 else SPLITS[1][:4]
        client = protocol.Client(copy.deepcopy(front))
        if schedule == "splitfed v1":
            server = protocol.Server(copy.deepcopy(rest))
        protocol.Trainee(client, split, batch_size=4, number=number).train(server)
        own.append((len(split), weights(client.front)))
        answered.append((len(split), weights(server.model)))
    for session in sessions:
        assert close(weights(session.client.front), mixed(own))
    expected = mixed(answered) if schedule == "splitfed v1" else answered[-1][1]
    assert close(weights(sessions[0].server.model), expected)


def mixed(parts):
    total = sum(count for count, _ in parts)
    layers = zip(*(layer for _, layer in parts), strict=True)
    counts = [count for count, _ in parts]
    return [
        sum(value * count for value, count in zip(same_layer, counts, strict=True)) / total
        for same_layer in layers
    ]


def close(ours, theirs):
    return all(torch.allclose(a, b, atol=1e-6) for a, b in zip(ours, theirs, strict=True))


def test_every_schedule_learns_and_leaves_all_clients_with_the_same_layers():
    digits = data.load("digits")
    for schedule in protocol.SCHEDULES:
        nets = [models.cut(models.mnist_net(seed), "pool1") for seed in (1, 2)]
        sessions = protocol.train_clients(
            [front for front, _ in nets], nets[0][1], data.parts(digits.train, 2),
            schedule=schedule, epochs=3,
        )  # fmt: skip
        assert same(*(weights(session.client.front) for session in sessions)), schedule
        assert all(session.accuracy(digits.test) > 0.5 for session in sessions), schedule


def test_a_server_that_was_trained_before_is_copied_for_v1():
    client, server = parties(models.mnist_net(1), "pool1")
    protocol.train(client, server, SPLITS[0], epochs=1, batch_size=4)
    fronts = [models.cut(models.mnist_net(seed), "pool1")[0] for seed in (1, 2)]
    sessions = protocol.train_clients(fronts, server, SPLITS, schedule="splitfed v1", epochs=1)
    assert sessions[0].server is server


def test_each_client_has_an_order_of_its_own():
    orders = [next(protocol.data_orders(50, seed=0, client=number)) for number in range(3)]
    assert not torch.equal(orders[0], orders[1]) and not torch.equal(orders[1], orders[2])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"schedule": "at once"}, "no schedule is called 'at once'"),
        ({"schedule": "splitfed v1", "splits": SPLITS[:1], "nets": (1,)}, "at least 2 clients"),
        ({"schedule": "in turn", "splits": SPLITS[:1]}, "2 clients need as many splits, not 1"),
        ({"schedule": "in turn", "splits": [], "nets": ()}, "at least 1 clients"),
    ],
)
def test_what_does_not_fit_is_refused(options, told):
    nets = [models.cut(models.mnist_net(seed), "pool1") for seed in options.get("nets", (1, 2))]
    rest = models.cut(models.mnist_net(), "pool1")[1]
    splits = options.get("splits", SPLITS)
    with pytest.raises(ProtocolError, match=told):
        protocol.train_clients(
            [front for front, _ in nets], rest, splits, schedule=options["schedule"]
        )


def test_parts_are_disjoint_and_make_up_the_whole():
    split = noise_split(50)
    for by in ("even", "class"):
        parts = data.parts(split, 3, by)
        images = torch.cat([part.images for part in parts]).flatten(1)
        assert len(images.unique(dim=0)) == len(split) == sum(map(len, parts))
    sizes = [len(part) for part in data.parts(split, 3)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize(
    ("count", "by", "told"),
    [(0, "even", "each needs one"), (60, "even", "each needs one"), (2, "size", "not 'size'")],
)
def test_parts_that_cannot_be_are_refused(count, by, told):
    with pytest.raises(DataError, match=told):
        data.parts(noise_split(50), count, by)
