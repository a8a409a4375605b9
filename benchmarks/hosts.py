"""What does it cost to have the parties in processes of their own, joined by `sltools.hosts`?

    python -m benchmarks.hosts

Trains the paper's network on the digits at batch 64 over loopback, and between every two epochs one
in process, so that both meet the same machine; reported is the median of the ratios of neighbours.
So for 1, 2, 4 and 8 clients, in turn, each with its part of the same data, and for one client at
several cuts. The first epochs do not count. Bytes are payloads, and what crosses with headers and
padding; notes and signs of life are not counted.

Then links that are no loopback. The parties take turns, so the seconds of an epoch are a sum:
client, server, engine (the share that loopback adds to both) and link, which is round trips plus
bytes over bandwidth. Client and server are seconds of a core, for on a shared machine others would
count. Two of the links are also put in the way, as delays between the client and its engine, and
stand beside what the sum says. Takes some minutes; writes --path, by default
course/results/hosts.json. With --computers, only client and server are measured again.
"""

import json
import multiprocessing
import os
import queue
import socket
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any

import torch
import typer
from torch import nn

from benchmarks import check_writable, write_facts
from sltools import data, devices, hosts, lessons, models, protocol
from sltools.errors import SltoolsError
from sltools.hosts import frames, link
from sltools.messages import Message
from sltools.protocol.rounds import SCHEDULES

BATCH = 64
CLIENTS = (1, 2, 4, 8)
CUTS = ("pool1", "pool2", "fc1")
PATIENCE = 600.0  # seconds
Facts = dict[str, Any]
Clock = Callable[[], float]


@dataclass(frozen=True)
class Way:
    """A way between two hosts: `delay` in seconds in each direction, `rate` in bits a second.

    >>> from benchmarks.hosts import Way
    >>> Way(delay=0.01, rate=8e6).seconds(turns=10, count=1_000_000)  # there and back, and bytes
    1.2
    """

    delay: float
    rate: float

    def seconds(self, turns: int, count: float) -> float:
        """How long it takes to send `count` bytes in `turns` questions, each with an answer."""
        return 2 * self.delay * turns + 8 * count / self.rate


WAYS = {
    "data centre": Way(0.0001, 10e9),
    "office network": Way(0.0005, 1e9),
    "fibre, another city": Way(0.01, 500e6),
    "DSL, the same country": Way(0.02, 40e6),
    "mobile, another continent": Way(0.1, 10e6),
}
TRIED = ("fibre, another city", "DSL, the same country")  # put in the way as delays


def main(
    epochs: Annotated[int, typer.Option(min=2, help="Of each kind, in process and over.")] = 20,
    computers: Annotated[
        bool, typer.Option("--computers", help="Only client and server; the rest is kept.")
    ] = False,
    path: Annotated[Path | None, typer.Option(help="The JSON file, written anew.")] = None,
) -> None:
    """Measure on this machine and write the result."""
    torch.set_num_threads(1)
    path = path or lessons.course() / "results" / "hosts.json"
    check_writable(path)
    split = data.load("digits").train
    facts = json.loads(path.read_text(encoding="utf-8")) if computers else _links(split, epochs)
    found = _computers(split, epochs)
    facts["cuts"] = [row | found[row["cut"]] for row in facts["cuts"]]
    write_facts(path, facts)
    print(*tables(facts), sep="\n\n")


def _links(split: data.Split, epochs: int) -> Facts:
    """All that needs processes."""
    load = [os.getloadavg()[0]]
    clients = [_pairs(split, CUTS[0], count, epochs) for count in CLIENTS]
    cuts = [clients[0], *(_pairs(split, cut, 1, epochs) for cut in CUTS[1:])]
    tried = [{"way": name, **_pairs(split, CUTS[0], 1, epochs // 2, WAYS[name])} for name in TRIED]
    return {
        "command": f"python -m benchmarks.hosts --epochs {epochs}",
        "setting": {"dataset": "digits", "batch_size": BATCH, "threads": 1},
        "clients": clients,
        "cuts": [row | _crossing(split, row["cut"]) for row in cuts],
        "tried": tried,
        "ways": {name: {"delay": way.delay, "rate": way.rate} for name, way in WAYS.items()},
        "cores": os.cpu_count(),
        "load": [*load, os.getloadavg()[0]],  # of a minute, before and after; ours counts
        "versions": devices.versions(),
    }


def parts_of_an_epoch(row: Facts, way: Way) -> dict[str, float]:
    """Seconds that an epoch of `row` spends in each place if the parties are joined by `way`."""
    more = statistics.median(row["ratios"]) - 1
    return {
        "client": row["client"],
        "server": row["server"],
        "engine": more * (row["client"] + row["server"]),
        "link": way.seconds(row["turns"], row["bytes"]),
    }


def tables(facts: Facts) -> tuple[str, ...]:
    """What stands in docs/hosts.md."""
    return clients_table(facts), cuts_table(facts), ways_table(facts), tried_table(facts)


def clients_table(facts: Facts) -> str:
    """Markdown: what loopback costs with several clients."""
    lines = ["| clients | an epoch takes times as long: median [least, most] |", "|---|---|"]
    lines += [f"| {row['clients']} | {_spread(row['ratios'])} |" for row in facts["clients"]]
    return "\n".join(lines)


def cuts_table(facts: Facts) -> str:
    """Markdown: where an epoch's seconds and bytes go, by the cut."""
    lines = [
        "| cut after | client | server | engine | times as long | payload | with headers |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in facts["cuts"]:
        parts = parts_of_an_epoch(row, Way(0, float("inf")))
        cells = [f"{1000 * parts[name]:.0f} ms" for name in ("client", "server", "engine")]
        cells += [_spread(row["ratios"])]
        cells += [f"{row[name] / 2**20:.2f} MiB" for name in ("payload", "bytes")]
        lines.append(f"| {row['cut']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def ways_table(facts: Facts) -> str:
    """Markdown: seconds of an epoch over other links, and what takes most of them."""
    lines = [
        "| link (one way, rate) | " + " | ".join(row["cut"] for row in facts["cuts"]) + " |",
        "|---|" + "---|" * len(facts["cuts"]),
    ]
    for name, given in facts["ways"].items():
        way = Way(**given)
        cells = [_way_cell(parts_of_an_epoch(row, way)) for row in facts["cuts"]]
        what = f"{name} ({1000 * way.delay:g} ms, {way.rate / 1e6:,.0f} Mbit/s)"
        lines.append(f"| {what} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tried_table(facts: Facts) -> str:
    """Markdown: links that were put in the way, and what the sum says of the same machine."""
    crossing = facts["cuts"][0]
    more = statistics.median(facts["clients"][0]["ratios"])
    lines = ["| link | the sum says | put in the way |", "|---|---|---|"]
    for row in facts["tried"]:
        way = Way(**facts["ways"][row["way"]])
        told = more * row["in_process"] + way.seconds(crossing["turns"], crossing["bytes"])
        lines.append(f"| {row['way']} | {told:.2f} s | {row['over_loopback']:.2f} s |")
    return "\n".join(lines)


def _way_cell(parts: dict[str, float]) -> str:
    total, most = sum(parts.values()), max(parts, key=lambda name: parts[name])
    return f"{total:.2f} s: {most} {parts[most] / total:.0%}"


def _spread(ratios: list[float]) -> str:
    return f"{statistics.median(ratios):.2f} [{min(ratios):.2f}, {max(ratios):.2f}]"


def _pairs(split: data.Split, cut: str, clients: int, epochs: int, way: Way | None = None) -> Facts:
    """Epochs of all clients in process and over loopback, in turns; the first pair is left out."""
    server = _Timed(_network(cut)[1], _in_process(split, cut, clients), clients)
    _serve(server, cut, clients, epochs + 2, way)
    alone, hosted = server.alone[1 : epochs + 1], server.hosted[1:]
    found = {
        "cut": cut,
        "clients": clients,
        "in_process": statistics.median(alone),
        "over_loopback": statistics.median(hosted),
        "ratios": [there / here for here, there in zip(alone, hosted, strict=True)],
    }
    print(found, flush=True)
    return found


def _computers(split: data.Split, epochs: int) -> dict[str, Facts]:
    """Seconds of a core that client and server take for an epoch at each cut, in turns: medians."""
    parties = {cut: _in_process(split, cut, 1, time.thread_time) for cut in CUTS}
    whole = [{cut: alone.run() for cut, alone in parties.items()} for _ in range(epochs + 1)]
    found = {}
    for cut, alone in parties.items():
        server = statistics.median(alone.server.seconds[1:])  # the first loads the optimiser
        total = statistics.median(run[cut] for run in whole[1:])
        found[cut] = {"client": total - server, "server": server}
    return found


def _crossing(split: data.Split, cut: str) -> Facts:
    """Bytes and turns of an epoch of one client."""
    front, rest = _network(cut)
    session = protocol.train(front, rest, split, epochs=1, batch_size=BATCH, record=True)
    messages = session.transcript.messages
    return {
        "payload": session.transcript.nbytes(),
        "bytes": sum(len(part) for message in messages for part in frames.encode(message)),
        "turns": 1 + sum(message.kind == "smashed" for message in messages),  # 1: "train", "done"
    }


def _network(cut: str) -> tuple[nn.Sequential, ...]:
    return models.cut(models.mnist_net(), cut)


class _Answering(protocol.Server):
    """A server that notes how long it answered, epoch by epoch."""

    def __init__(self, model: nn.Sequential, clock: Clock) -> None:
        super().__init__(model)
        self.seconds: list[float] = []
        self.clock = clock

    def reply(self, message: Message) -> Message | None:
        start = self.clock()
        answer = super().reply(message)
        self.seconds[-1] += self.clock() - start
        return answer


@dataclass
class _Alone:
    """Several clients and their server in this process; `run` trains for an epoch of all."""

    server: _Answering
    rounds: Iterator[list[float]]

    def run(self) -> float:
        """Return how long the epoch took."""
        self.server.seconds.append(0.0)
        start = self.server.clock()
        next(self.rounds)
        return self.server.clock() - start


def _in_process(
    split: data.Split, cut: str, clients: int, clock: Clock = time.perf_counter
) -> _Alone:
    server = _Answering(_network(cut)[1], clock)
    trainees = [
        protocol.Trainee(protocol.Client(_network(cut)[0]), part, batch_size=BATCH, number=number)
        for number, part in enumerate(data.parts(split, clients))
    ]
    return _Alone(server, SCHEDULES["in turn"](trainees, server, 10**6, 0))


class _Timed(protocol.Server):
    """A server of clients elsewhere that, before each of their epochs, trains `local` for one.

    `hosted` is how long theirs took, from one's first message to the next one's, without that.
    """

    def __init__(self, model: nn.Sequential, local: _Alone, clients: int) -> None:
        super().__init__(model)
        self.alone: list[float] = []
        self.hosted: list[float] = []
        self._run, self._clients = local.run, clients
        self._turns, self._resumed = 0, 0.0

    def reply(self, message: Message) -> Message | None:
        if message.kind == "labels" and message.batch == 0:
            if self._turns % self._clients == 0:
                if self._turns:
                    self.hosted.append(time.perf_counter() - self._resumed)
                self.alone.append(self._run())
                self._resumed = time.perf_counter()
            self._turns += 1
        return super().reply(message)


def _serve(server: _Timed, cut: str, clients: int, epochs: int, way: Way | None) -> None:
    """Train with clients in processes of their own, over loopback, with `way` between."""
    context = multiprocessing.get_context("spawn")
    processes = []

    def announce(addresses: list[str]) -> None:
        for number, address in enumerate(addresses):
            process = context.Process(target=_join, args=(address, cut, number, clients, way))
            process.start()
            processes.append(process)

    hosts.serve(
        server, clients=clients, epochs=epochs, port=0, timeout=PATIENCE, announce=announce
    )  # fmt: skip
    for process in processes:
        process.join()


def _join(address: str, cut: str, number: int, clients: int, way: Way | None) -> None:
    torch.set_num_threads(1)
    if way is not None:
        _put_in_the_way(way)
    part = data.parts(data.load("digits").train, clients)[number]
    front = _network(cut)[0]
    hosts.join(address, front, part, batch_size=BATCH, share_layers=clients > 1, timeout=PATIENCE)


def _put_in_the_way(way: Way) -> None:
    """Let all that the links of this process carry take as long as over `way`."""
    start = link._start_relay

    def slow(
        end: socket.socket, rank: int, host: str, port: int, log: IO[bytes]
    ) -> subprocess.Popen[bytes]:
        party, engine = end.dup(), socket.socketpair()
        for source, target in ((party, engine[0]), (engine[0], party)):
            waiting: queue.Queue[tuple[float, bytes]] = queue.Queue()
            for work in (_take_in, _give_out):
                other = source if work is _take_in else target
                arguments = (other, way, waiting)
                threading.Thread(target=work, args=arguments, daemon=True).start()
        process = start(engine[1], rank, host, port, log)
        engine[1].close()
        return process

    link._start_relay = slow


def _take_in(source: socket.socket, way: Way, waiting: "queue.Queue[tuple[float, bytes]]") -> None:
    """Note for each piece when it has arrived at the other end: one after another, then delayed."""
    free = 0.0
    while piece := source.recv(2**16):
        free = max(free, time.perf_counter()) + 8 * len(piece) / way.rate
        waiting.put((free + way.delay, piece))
    waiting.put((free + way.delay, b""))


def _give_out(target: socket.socket, _: Way, waiting: "queue.Queue[tuple[float, bytes]]") -> None:
    while True:
        due, piece = waiting.get()
        time.sleep(max(due - time.perf_counter(), 0))
        if not piece:
            return target.shutdown(socket.SHUT_WR)
        target.sendall(piece)


if __name__ == "__main__":
    try:
        typer.run(main)
    except SltoolsError as error:
        raise SystemExit(f"error: {error}") from None
