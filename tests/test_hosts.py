"""Split learning between hosts is split learning in one process, bit for bit."""

import pytest
import torch

from sltools import data, hosts, protocol, storage
from tests import hosting
from tests.hosting import PATIENCE, PROCESSES, SPLIT


def ended(*processes):
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    return True


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setting", "fork"),
    [("private", True), pytest.param("vanilla", False, marks=pytest.mark.proofs)],
)
def test_one_client_over_loopback_is_trained_as_in_process(setting, fork, tmp_path):
    addresses = PROCESSES.Queue()
    server = hosting.start(hosting.serve, tmp_path, addresses, setting, fork, epochs=2)
    (address,) = addresses.get(timeout=PATIENCE)
    client = hosting.start(hosting.join, tmp_path, address, setting, fork=fork)
    assert ended(client, server)

    torch.set_num_threads(1)
    ours = hosting.parties(setting)
    session = protocol.train(*ours, SPLIT, epochs=2, batch_size=32, record=True)
    layers, served = storage.read(tmp_path / "server")
    assert equal(layers, session.server.model.state_dict())
    layers, joined = storage.read(tmp_path / "client-1")
    assert equal(layers, hosting.client_layers(session.client))
    assert (served["error"], joined["error"]) == (None, None)
    knows = served["losses"][0] if setting == "vanilla" else joined["losses"]
    assert knows == session.losses and len(knows) == 2
    assert joined["accuracy"] == [session.accuracy(SPLIT)]
    assert joined["digests"] == hosting.digests(session.transcript.messages)
    inference = session.infer(SPLIT.images)
    whole = hosting.digests(session.transcript.messages + inference.messages)
    for journal in ("journals/client-1.journal", "client-1.journal"):
        kept = hosts.read_journal(tmp_path / journal)
        assert hosting.digests(kept.messages) == whole
        assert (kept.client, kept.head) == (session.transcript.client, session.transcript.head)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("schedule", "by", "setting", "clients"),
    [
        ("splitfed v1", "class", "private", 2),
        pytest.param("in turn", "even", "vanilla", 3, marks=pytest.mark.proofs),
        pytest.param("splitfed v2", "class", "vanilla", 3, marks=pytest.mark.proofs),
    ],
)
def test_several_clients_are_trained_as_in_process(schedule, by, setting, clients, tmp_path):
    addresses = PROCESSES.Queue()
    served_as = {"clients": clients, "schedule": schedule, "epochs": 2}
    server = hosting.start(hosting.serve, tmp_path, addresses, setting, **served_as)
    splits = data.parts(SPLIT, clients, by)
    joined = [
        hosting.start(hosting.join, tmp_path, address, setting, number, split, share_layers=True)
        for number, (address, split) in enumerate(
            zip(addresses.get(timeout=PATIENCE), splits, strict=True)
        )
    ]
    assert ended(*joined, server)

    torch.set_num_threads(1)
    ours = [hosting.parties(setting, seed)[0] for seed in range(clients)]
    sessions = protocol.train_clients(
        ours, hosting.parties(setting)[1], splits,
        schedule=schedule, epochs=2, batch_size=32, record=True,
    )  # fmt: skip
    layers, served = storage.read(tmp_path / "server")
    assert served["error"] is None
    assert equal(layers, sessions[0].server.model.state_dict())
    for number, session in enumerate(sessions):
        layers, joined = storage.read(tmp_path / f"client-{number + 1}")
        assert joined["error"] is None
        assert equal(layers, hosting.client_layers(session.client))
        knows = served["losses"][number] if setting == "vanilla" else joined["losses"]
        assert knows == session.losses and len(knows) == 2
        assert joined["digests"] == hosting.digests(session.transcript.messages)
        assert joined["accuracy"] == [session.accuracy(SPLIT)]


def equal(layers, others):
    """Say whether two sets of named weights are the same, bit for bit."""
    return layers.keys() == others.keys() and all(
        torch.equal(value, others[name]) for name, value in layers.items()
    )
