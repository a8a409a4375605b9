"""Whatever goes wrong between hosts ends in one sentence that says who, and the record is kept.

Most faults are made by somebody in the middle, who changes one item on its way between two honest
parties in threads; deaths and stalls of whole processes are at the end.
"""

import json
import os
import re
import signal
import socket
import struct
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import torch

from sltools import hosts, relay, storage
from sltools.errors import HostError, ProtocolError, SltoolsError
from sltools.hosts import frames
from sltools.hosts.link import GRACE, Link
from tests import hosting
from tests.parties import noise_split

SPLIT = noise_split(8)
EPOCHS = 2
PATIENCE = 60
SHORT = 3.0  # seconds until a stalled party is given up
BOTH = ("vanilla", "private")


class Middle:
    """Carries items between two sockets, and hands the one at `point` of a direction to `fault`.

    Signs of life do not count. `fault(frame, rest)` returns what to send instead, and whether to go
    on after that: "on", "close" or "stall".
    """

    def __init__(self, direction=None, point=None, fault=None):
        self.ends = {}
        pairs = {name: socket.socketpair() for name in ("client", "server")}
        for name, (ours, theirs) in pairs.items():
            self.ends[name] = theirs
            ours.sendall(b"port 1".ljust(relay.SIGNAL) if name == "server" else b"")
            ours.sendall(b"met".ljust(relay.SIGNAL))
        self.stalled = threading.Event()
        inner = {name: ours for name, (ours, _) in pairs.items()}
        for source, target in (("client", "server"), ("server", "client")):
            chosen = (point, fault) if source == direction else (None, None)
            arguments = (inner[source], inner[target], *chosen)
            threading.Thread(target=self._carry, args=arguments, daemon=True).start()

    def open(self, rank, host, port, peer, timeout):
        return Link(self.ends["client" if rank else "server"], peer, timeout)

    def _carry(self, source, target, point, fault):
        number, go_on = 0, "on"
        with suppress(OSError):
            while go_on == "on":
                frame = bytearray(relay.FRAME)
                if not relay.fill(source, memoryview(frame)):
                    break
                rest = bytearray(sum(relay.chunks(frame)))
                relay.fill(source, memoryview(rest))
                item = bytes(frame), bytes(rest)
                if frames.decode(item[0]).note != "alive":
                    if number == point:
                        item, go_on = fault(*item)
                    number += 1
                target.sendall(b"".join(item))
            if go_on == "stall":
                self.stalled.wait(PATIENCE)
        for end, side in ((source, socket.SHUT_RD), (target, socket.SHUT_WR)):
            with suppress(OSError):
                end.shutdown(side)


def meet(monkeypatch, tmp_path, setting, middle, timeout=PATIENCE):
    """Let two honest parties train over `middle`; return what each ended with."""
    monkeypatch.setattr(Link, "open", middle.open)
    client, server = hosting.parties(setting)
    ends = {}
    parties = {
        "server": partial(
            hosts.serve, server, epochs=EPOCHS, timeout=timeout, wait=timeout, journals=tmp_path
        ),
        "client": partial(
            hosts.join, "127.0.0.1:1", client, SPLIT, batch_size=4, timeout=timeout,
            journal=tmp_path / "server.journal", finish=lambda session: session.accuracy(SPLIT),
        ),
    }  # fmt: skip

    def run(name):
        try:
            ends[name] = parties[name]()
        except SltoolsError as error:
            ends[name] = error
        except BaseException as error:
            ends[name] = AssertionError(f"{name}: {error!r}")

    threads = [threading.Thread(target=run, args=(name,), daemon=True) for name in parties]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout + 3 * GRACE + PATIENCE)
    assert set(ends) == set(parties), "a party hangs"
    middle.stalled.set()
    return ends


def digests(tmp_path, name):
    path = tmp_path / name
    return hosting.digests(hosts.read_journal(path).messages) if path.exists() else []


@pytest.fixture(scope="module")
def honest(tmp_path_factory):
    """The digests of all messages of a run in which nothing goes wrong, for each setting."""
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        for setting in BOTH:
            folder = tmp_path_factory.mktemp(setting)
            ends = meet(patch, folder, setting, Middle())
            assert not any(isinstance(end, Exception) for end in ends.values()), ends
            found[setting] = digests(folder, "client-1.journal")
            assert digests(folder, "server.journal") == found[setting]
    return found


def changed(frame, rest, change):
    """The item with facts or payload changed: `change(facts, payload)` returns the new ones."""
    length, size = relay.HEAD.unpack_from(frame)
    begin = relay.HEAD.size
    facts = json.loads(frame[begin:][:length])
    payload = (frame[begin + length :] + rest)[:size]
    facts, payload = change(facts, payload)
    text = json.dumps(facts).encode()
    room = relay.FRAME - begin - len(text)
    head = relay.HEAD.pack(len(text), len(payload)) + text + payload[:room]
    return head.ljust(relay.FRAME, b"\0"), payload[room:]


def cut(frame, rest):
    return ((frame, rest[: len(rest) // 2]) if rest else (frame[:1000], b"")), "close"


def die(frame, rest):
    return (b"", b""), "close"


def stall(frame, rest):
    return (b"", b""), "stall"


def garbage(frame, rest):
    return (os.urandom(relay.FRAME), rest), "on"


def large(frame, rest):
    """Only announced: 1 GiB, which would have to be there before it is refused."""
    length, _ = relay.HEAD.unpack_from(frame)
    facts = json.loads(frame[relay.HEAD.size :][:length])
    sample = frames.DTYPES[facts["dtype"]].itemsize
    for side in facts["shape"][1:]:
        sample *= side
    facts["shape"][0] = 2**30 // sample + 1
    text = json.dumps(facts).encode()
    head = relay.HEAD.pack(len(text), facts["shape"][0] * sample) + text
    return (head.ljust(relay.FRAME, b"\0"), rest), "on"


def by_change(change):
    return lambda frame, rest: (changed(frame, rest, change), "on")


def _shape(facts, payload):
    return facts | {"shape": [*facts["shape"], 1]}, payload


def _dtype(facts, payload):
    other = {"float32": "bfloat16", "int64": "float64"}[facts["dtype"]]
    kept = len(payload) * frames.DTYPES[other].itemsize // frames.DTYPES[facts["dtype"]].itemsize
    return facts | {"dtype": other}, payload[:kept]


def _numbers(facts, payload):
    bad = struct.pack("<q", 10**6) if facts["dtype"] == "int64" else struct.pack("<f", torch.nan)
    return facts, bad + payload[len(bad) :]


def _kind(facts, payload):
    return facts | {"kind": "features" if facts["kind"] == "prediction" else "prediction"}, payload


def _step(facts, payload):
    return facts | {"step": facts["step"] + 3}, payload


def _phase(facts, payload):
    phase = {"training": "inference", "inference": "training"}[facts["phase"]]
    return facts | {"phase": phase}, payload


def _lie(facts, payload):
    return facts, payload[:-8]


def _version(facts, payload):
    told = json.loads(payload)
    return facts, json.dumps(told | {"format": 99, "version": "9.9"}).encode()


def _greeting(facts, payload):
    return facts, json.dumps({"format": frames.FORMAT, "samples": -1}).encode()


def twice(frame, rest):
    return (frame + rest, frame + rest), "on"


FAULTS = {  # by name: the fault, and what the sentence of whoever notices it says
    "cut off": (cut, "cut off after|in the middle of a frame"),
    "gone": (die, "is gone"),
    "stalled": (stall, "was silent for 3 s"),
    "no frame": (garbage, "no frame of this version"),
    "too large": (large, "more than|samples, not"),
    "another shape": (by_change(_shape), r"of (float32|int64) \(.*, not (float32|int64) \(N"),
    "another dtype": (by_change(_dtype), "of (bfloat16|float64) .*, not (float32|int64)"),
    "no numbers": (by_change(_numbers), "that are no numbers|there is no loss"),
    "out of turn": (by_change(_kind), "out of turn: due was"),
    "of another step": (by_change(_step), "out of turn: due was"),
    "of another phase": (by_change(_phase), "out of turn: due was"),
    "of a size that contradicts its shape": (by_change(_lie), "contradict each other"),
    "twice": (twice, "out of turn: due was"),
    "of another version": (by_change(_version), "another version of sltools .'9.9', format 99"),
    "no greeting": (by_change(_greeting), "a greeting that makes no sense"),
}
GREETINGS = ["of another version", "no greeting"]
NOTES = ["cut off", "gone", "stalled", "no frame"]
MESSAGES = [name for name in FAULTS if name not in GREETINGS]

# The items of each direction, in their order: of 2 epochs of 2 batches, and an inference.
ITEMS = {
    ("client", "vanilla"): "hello L S L S done L S L S done S done",
    ("server", "vanilla"): "welcome train G G train G G infer P end",
    ("client", "private"): "hello S F S F done S F S F done S done",
    ("server", "private"): "welcome train U G U G train U G U G infer U end",
}


def cases():
    for (direction, setting), words in ITEMS.items():
        items = words.split()
        for point, item in enumerate(items):
            names = MESSAGES if len(item) == 1 else NOTES
            for name in names + (GREETINGS if item in ("hello", "welcome") else []):
                last = item == "S" and items[point + 1 :] == ["done"]
                if name == "twice" and last:
                    continue  # each inference counts from 0: this is another one
                if (item, name) == ("end", "stalled") or (item, name) == ("end", "gone"):
                    continue  # all was said
                if name == "stalled" and point % 7:
                    continue  # each takes seconds
                quick = name != "stalled" and point in (0, 2, 4) and setting == "vanilla"
                yield pytest.param(
                    direction, setting, point, name,
                    id=f"{direction}-{setting}-{point}-{name}".replace(" ", "-"),
                    marks=() if quick else pytest.mark.proofs,
                )  # fmt: skip


@pytest.mark.parametrize(("direction", "setting", "point", "name"), list(cases()))
def test_a_fault_ends_in_one_sentence(
    direction, setting, point, name, honest, monkeypatch, tmp_path
):
    fault, told = FAULTS[name]
    timeout = SHORT if name == "stalled" else PATIENCE
    began = time.monotonic()
    ends = meet(monkeypatch, tmp_path, setting, Middle(direction, point, fault), timeout)
    assert time.monotonic() - began < timeout + 3 * GRACE + 5
    noticed = ends["server" if direction == "client" else "client"]
    sender = "client 1" if direction == "client" else "the server"
    assert isinstance(noticed, (HostError, ProtocolError)), noticed
    assert str(noticed).startswith(sender), noticed
    assert re.search(told, str(noticed)), noticed
    if direction == "server" and point >= len(ITEMS[direction, setting].split()) - 2:
        ends = {"client": noticed}  # the server has had all that it waits for
    for end in ends.values():
        assert isinstance(end, SltoolsError), end
        sentence = str(end)
        assert ("client 1" in sentence or "the server" in sentence) and "\n" not in sentence
        assert len(sentence) < 700
    for journal in ("client-1.journal", "server.journal"):
        kept = digests(tmp_path, journal)
        whole = kept[:-2] if name == "no numbers" else kept  # labels show with what follows them
        assert whole == honest[setting][: len(whole)], "the record of what came before is kept"
    noticer = "client-1.journal" if direction == "client" else "server.journal"
    before = ITEMS[direction, setting].split()[:point]
    assert len(digests(tmp_path, noticer)) >= sum(len(item) == 1 for item in before)


def test_there_are_more_than_a_hundred_and_each_at_eight_points():
    found = [case.values for case in cases()]
    assert len(found) > 100
    for name in MESSAGES:
        assert sum(case[3] == name for case in found) >= 8, name


# Whole processes: a death leaves no time for a word, and a stall is a process that is stopped.

# The signal, and before which reply of the server, or of the messages that the client defends.
STRIKES = [(signal.SIGKILL, number) for number in (1, 2, 5, 8)]
STRIKES += [(signal.SIGSTOP, 2), (signal.SIGSTOP, 5)]  # each takes seconds


def group_is_empty(process):
    """Say whether nothing that a process has started still runs, within a few seconds."""
    for _ in range(100):
        if not any(map(_runs_in(process.pid), Path("/proc").glob("[0-9]*/stat"))):
            return True
        time.sleep(0.1)
    return False


def _runs_in(group):
    def runs(stat):
        try:
            state, _, own = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:  # it has just ended
            return False
        return int(own) == group and state != "Z"

    return runs


@pytest.mark.proofs
@pytest.mark.parametrize(("kind", "number"), STRIKES)
@pytest.mark.parametrize("victim", ["client", "server"])
def test_a_party_that_is_killed_or_stopped_is_noticed(victim, kind, number, tmp_path):
    addresses = hosting.PROCESSES.Queue()
    hits = {victim: (kind, number)}
    timeout = 5 if kind == signal.SIGSTOP else PATIENCE
    common = {"timeout": timeout, "fork": True}
    server = hosting.start(
        hosting.serve, tmp_path, addresses, "vanilla", hit=hits.get("server"), epochs=2, **common
    )
    (address,) = addresses.get(timeout=PATIENCE)
    client = hosting.start(
        hosting.join, tmp_path, address, "vanilla", hit=hits.get("client"), **common
    )
    hit, other = (client, server) if victim == "client" else (server, client)
    other.join(PATIENCE + timeout)
    assert other.exitcode == 0 and group_is_empty(other)
    folder = tmp_path / ("server" if victim == "client" else "client-1")
    error = storage.read(folder)[1]["error"]
    told = "is gone" if kind == signal.SIGKILL else "was silent for 5 s"
    assert error.startswith("client 1 " if victim == "client" else "the server "), error
    assert told in error, error
    if kind == signal.SIGSTOP:
        hit.kill()
    hit.join(PATIENCE)
    assert group_is_empty(hit)
    records = [
        hosting.digests(hosts.read_journal(tmp_path / path).messages)
        for path in ("journals/client-1.journal", "client-1.journal")
    ]
    shorter, longer = sorted(records, key=len)
    assert longer[: len(shorter)] == shorter
    assert len(shorter) >= 3 * ((number - 1) // 2), "of each exchange before, three messages"


@pytest.mark.proofs
@pytest.mark.parametrize("victim", ["client", "server"])
def test_ctrl_c_ends_the_run_for_all_and_keeps_what_was_learned(victim, tmp_path):
    addresses = hosting.PROCESSES.Queue()
    hits = {victim: (signal.SIGINT, 8)}  # in the second epoch
    server = hosting.start(
        hosting.serve, tmp_path, addresses, "vanilla", hit=hits.get("server"), epochs=2
    )
    (address,) = addresses.get(timeout=PATIENCE)
    client = hosting.start(hosting.join, tmp_path, address, "vanilla", hit=hits.get("client"))
    for process in (client, server):
        process.join(PATIENCE)
        assert process.exitcode == 0 and group_is_empty(process)
    facts = {
        "server": storage.read(tmp_path / "server")[1],
        "client": storage.read(tmp_path / "client-1")[1],
    }
    kept = facts.pop(victim)
    assert kept["error"] is None
    assert len(kept["losses"] if victim == "client" else kept["losses"][0]) == 1
    (other,) = facts.values()
    assert other["error"].endswith("ended the run: interrupted there with Ctrl-C"), other
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Link, "open", _interrupted)
        hosts.join("127.0.0.1:1", hosting.parties("vanilla")[0], SPLIT)


def _interrupted(*arguments):
    raise KeyboardInterrupt


@pytest.mark.proofs
def test_the_other_clients_are_told_who_failed(tmp_path):
    addresses = hosting.PROCESSES.Queue()
    options = {"clients": 2, "epochs": 2, "schedule": "in turn"}
    server = hosting.start(hosting.serve, tmp_path, addresses, "vanilla", **options)
    clients = [
        hosting.start(
            hosting.join, tmp_path, address, "vanilla", number, share_layers=True,
            hit=(signal.SIGKILL, 3) if number == 0 else None,
        )
        for number, address in enumerate(addresses.get(timeout=PATIENCE))
    ]  # fmt: skip
    clients[1].join(PATIENCE)
    server.join(PATIENCE)
    assert all(map(group_is_empty, [server, *clients]))
    assert "client 1 is gone" in storage.read(tmp_path / "server")[1]["error"]
    told = storage.read(tmp_path / "client-2")[1]["error"]
    assert told.startswith("the server ended the run: client 1 is gone"), told


@pytest.mark.proofs
def test_a_client_that_comes_late_and_one_that_finds_no_server_are_told(tmp_path):
    addresses = hosting.PROCESSES.Queue()
    server = hosting.start(hosting.serve, tmp_path, addresses, "vanilla", wait=1)
    (address,) = addresses.get(timeout=PATIENCE)
    server.join(PATIENCE)
    assert storage.read(tmp_path / "server")[1]["error"] == "client 1 did not come within 1 s"
    client = hosting.start(hosting.join, tmp_path, address, "vanilla", timeout=2)
    client.join(PATIENCE)
    error = storage.read(tmp_path / "client-1")[1]["error"]
    assert error.startswith(f"no server at {address}: "), error
    assert "sltools serve" in error and "\n" not in error
    assert group_is_empty(server) and group_is_empty(client)


@pytest.mark.proofs
def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        addresses = hosting.PROCESSES.Queue()
        server = hosting.start(hosting.serve, tmp_path, addresses, "vanilla", port=port)
        server.join(PATIENCE)
    error = storage.read(tmp_path / "server")[1]["error"]
    assert str(port) in error and "client 1" in error and "\n" not in error


def _send_a_longer_frame(address):
    """Be a client whose frames are longer than the server waits for, which ends gloo there."""
    torch.set_num_threads(1)
    os.setpgid(0, 0)
    host, port = address.split(":")
    store = relay.TCPStore(host, int(port), 2, False, relay.FOREVER, wait_for_workers=False)
    relay.dist.init_process_group("gloo", store=store, rank=1, world_size=2)
    relay.dist.send(torch.zeros(2 * relay.FRAME, dtype=torch.uint8), 0)
    time.sleep(PATIENCE)


@pytest.mark.proofs
def test_a_client_that_ends_the_engine_ends_the_run_and_no_more(tmp_path):
    addresses = hosting.PROCESSES.Queue()
    server = hosting.start(hosting.serve, tmp_path, addresses, "vanilla")
    (address,) = addresses.get(timeout=PATIENCE)
    client = hosting.start(_send_a_longer_frame, address)
    server.join(PATIENCE)
    client.kill()
    error = storage.read(tmp_path / "server")[1]["error"]
    assert error == "client 1 sent frames of other sizes than it announced: the engine gave up"
    assert group_is_empty(server)
