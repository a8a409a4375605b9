"""Split learning between hosts is split learning in one process, bit for bit."""

import shlex
import shutil
import subprocess
import sys

import pytest
import torch

from sltools import data, hosts, protocol, storage
from sltools.errors import SltoolsError
from sltools.hosts import Tap, commands
from sltools.hosts.frames import Note
from sltools.messages import Message
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
    with Tap(address) as tap:  # which changes nothing
        client = hosting.start(hosting.join, tmp_path, tap.address, setting, fork=fork)
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
    overheard = tap.transcript()
    assert hosting.digests(overheard.messages) == whole
    assert (overheard.client, overheard.head) == (kept.client, kept.head)
    kinds = [item.kind for item in tap.items if isinstance(item, Note)]
    assert kinds[:3] == ["hello", "welcome", "train"] and kinds[-1] == "end"


ACROSS = """
trap 'kill $(jobs -p) 2>/dev/null' EXIT
ip link set lo up
unshare --net sleep 600 & OTHER=$!
until [ "$(readlink /proc/$OTHER/ns/net)" != "$(readlink /proc/$$/ns/net)" ]; do sleep 0.1; done
ip link add here type veth peer name there netns $OTHER
ip addr add 192.168.99.1/24 dev here
ip link set here up
nsenter -t $OTHER -n ip addr add 192.168.99.2/24 dev there
nsenter -t $OTHER -n ip link set there up
"$1" -c "$2" serve "$3" & SERVER=$!
nsenter -t $OTHER -n "$1" -c "$2" join "$3"
wait $SERVER
"""
PARTY = """
import queue, sys
from tests import hosting
role, folder = sys.argv[1:]
if role == "serve":
    options = {"host": "192.168.99.1", "port": 29500, "epochs": 2}
    hosting.serve(folder, queue.Queue(), "vanilla", **options)
else:
    hosting.join(folder, "192.168.99.1:29500", "vanilla")
"""


@pytest.mark.proofs
def test_a_client_in_a_network_namespace_of_its_own_is_trained_as_in_process(tmp_path):
    alone = ["unshare", "--map-root-user", "--net"]  # the two have no other way than the veth pair
    if not shutil.which("ip") or subprocess.run([*alone, "true"], capture_output=True).returncode:
        pytest.skip("this system allows no network namespaces")
    script = [*alone, "bash", "-euc", ACROSS, "across", sys.executable, PARTY, tmp_path]
    ran = subprocess.run(script, capture_output=True, text=True, timeout=2 * PATIENCE)
    assert ran.returncode == 0, ran.stderr

    torch.set_num_threads(1)
    session = protocol.train(*hosting.parties("vanilla"), SPLIT, epochs=2, batch_size=32)
    layers, joined = storage.read(tmp_path / "client-1")
    assert joined["error"] is None
    assert equal(layers, hosting.client_layers(session.client))
    assert equal(storage.read(tmp_path / "server")[0], session.server.model.state_dict())


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


@pytest.mark.proofs
def test_the_commands_do_what_the_functions_do(tmp_path):
    """What `serve` prints is what `join` takes, and what both write can be opened."""
    sltools = [sys.executable, "-m", "sltools"]
    options = ["--epochs", "2", "--port", "0", "--cut", "pool1", "--head", "relu4"]
    server = subprocess.Popen(
        [*sltools, "serve", *options, "--out", tmp_path / "served"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    line = next(line for line in server.stdout if "sltools join" in line)
    command = [*sltools, *shlex.split(line)[1:], "--out", tmp_path / "joined"]
    joined = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert joined.returncode == 0, joined.stderr
    assert server.wait(PATIENCE) == 0
    source = data.load("digits")
    session = protocol.train(*hosting.parties("private"), source.train, epochs=2)
    assert f"test accuracy: {session.accuracy(source.test):.1%}" in joined.stdout
    found = commands.open_layers(tmp_path / "served" / commands.LAYERS)
    assert equal(found["model"].state_dict(), session.server.model.state_dict())
    found = commands.open_layers(tmp_path / "joined" / commands.LAYERS)
    assert equal(found["front"].state_dict(), session.client.front.state_dict())
    assert equal(found["head"].state_dict(), session.client.head.state_dict())
    transcript = hosts.read_journal(tmp_path / "served" / "client-1.journal")
    assert transcript.view("server").kinds == {
        "smashed", "features", "feature_gradient", "cut_gradient"
    }  # fmt: skip


def test_a_client_gives_no_layers_that_it_was_not_told_to_share(tmp_path):
    addresses = PROCESSES.Queue()
    served_as = {"clients": 2, "schedule": "splitfed v2", "epochs": 1}
    server = hosting.start(hosting.serve, tmp_path, addresses, "vanilla", **served_as)
    joined = [
        hosting.start(hosting.join, tmp_path, address, "vanilla", number)
        for number, address in enumerate(addresses.get(timeout=PATIENCE))
    ]
    assert ended(*joined, server)
    told = storage.read(tmp_path / "client-1")[1]["error"]
    assert told.startswith("the server trains several clients and wants this one's layers"), told
    assert "client 1 ended the run: " in storage.read(tmp_path / "server")[1]["error"]


def test_a_journal_that_was_cut_off_is_read_up_to_its_last_whole_message(tmp_path):
    smashed = Message(0, 0, "smashed", torch.rand(5, 9999))
    messages = [Message(0, 0, "labels", torch.arange(5)), smashed]
    path = tmp_path / "journal"
    with hosts.Journal(path) as journal:
        for message in messages:
            journal.append(message)
    whole = path.read_bytes()
    assert hosting.digests(hosts.read_journal(path).messages) == hosting.digests(messages)
    for length, count in ((len(whole) - 1, 1), (len(whole) - 200_000, 1), (2 * 4096, 1), (5000, 0)):
        path.write_bytes(whole[:length])
        kept = hosts.read_journal(path).messages
        assert hosting.digests(kept) == hosting.digests(messages[:count])
    path.write_bytes(whole[:4096] + b"x" * 5000)
    with pytest.raises(SltoolsError, match="damaged or no journal"):
        hosts.read_journal(path)
    with pytest.raises(SltoolsError, match="cannot be written"):
        hosts.Journal(path)


def equal(layers, others):
    """Say whether two sets of named weights are the same, bit for bit."""
    return layers.keys() == others.keys() and all(
        torch.equal(value, others[name]) for name, value in layers.items()
    )
