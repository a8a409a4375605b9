"""What does it cost to have the parties in processes of their own, joined by `sltools.hosts`?

    python -m benchmarks.hosts

Trains the paper's network on the digits at batch 64, in one process and over loopback, one after
the other several times in the same run; reported is the median of the ratios of neighbours. Seconds
are those of all epochs but the first, without the start of processes. Bytes are payloads, and what
crosses with headers and padding (the journal holds what crosses). With 1, 2, 4 and 8 clients, in
turn, each with its part of the same data: how the cost grows. Prints JSON and writes --path, by
default course/results/hosts.json.
"""

import json
import multiprocessing
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import nn

from benchmarks import check_writable, write_facts
from sltools import data, devices, hosts, lessons, models, protocol, relay
from sltools.errors import SltoolsError
from sltools.messages import Message

CUT, EPOCHS, BATCH = "pool1", 4, 64
CLIENTS = (1, 2, 4, 8)


def main(
    repeats: Annotated[int, typer.Option(min=1, help="Pairs of runs, in process and over.")] = 5,
    path: Annotated[Path | None, typer.Option(help="The JSON file, written anew.")] = None,
) -> None:
    """Measure on this machine, which takes some minutes, and write the result."""
    torch.set_num_threads(1)
    path = path or lessons.course() / "results" / "hosts.json"
    check_writable(path)
    split = data.load("digits").train
    pairs = [(_in_process(split), _over_loopback(split, 1)) for _ in range(repeats)]
    ratios = [hosted / alone for alone, hosted in pairs]
    facts = {
        "command": f"python -m benchmarks.hosts --repeats {repeats}",
        "setting": {"dataset": "digits", "cut": CUT, "batch_size": BATCH, "threads": 1},
        "seconds_per_epoch": [
            {"in_process": alone, "over_loopback": hosted} for alone, hosted in pairs
        ],
        "ratio": {"median": statistics.median(ratios), "least": min(ratios), "most": max(ratios)},
        "bytes_per_epoch": _bytes(split),
        "seconds_per_epoch_by_clients": {
            str(clients): _over_loopback(split, clients) for clients in CLIENTS
        },
        "cores": os.cpu_count(),
        "versions": devices.versions(),
    }
    print(json.dumps(facts, indent=1))
    write_facts(path, facts)


def _network() -> tuple[nn.Sequential, ...]:
    return models.cut(models.mnist_net(), CUT)


class _Timed(protocol.Server):
    """A server that notes when each epoch of a client begins, and when the last reply is there."""

    def __init__(self, model: nn.Sequential) -> None:
        super().__init__(model)
        self.began: list[float] = []
        self.ended = 0.0

    def reply(self, message: Message) -> Message | None:
        if message.kind == "labels" and message.batch == 0:
            self.began.append(time.perf_counter())
        answer = super().reply(message)
        self.ended = time.perf_counter()
        return answer

    def seconds(self, clients: int) -> float:
        """Seconds of an epoch of all clients: all epochs but the first."""
        return (self.ended - self.began[clients]) / (EPOCHS - 1)


def _in_process(split: data.Split) -> float:
    front, rest = _network()
    server = _Timed(rest)
    protocol.train(front, server, split, epochs=EPOCHS, batch_size=BATCH)
    return server.seconds(1)


def _over_loopback(split: data.Split, clients: int, journals: Path | None = None) -> float:
    """Seconds per epoch with clients in processes of their own, in turn, each with its part."""
    context = multiprocessing.get_context("spawn")
    processes = []

    def announce(addresses: list[str]) -> None:
        for number, address in enumerate(addresses):
            process = context.Process(target=_join, args=(address, number, clients))
            process.start()
            processes.append(process)

    server = _Timed(_network()[1])
    hosts.serve(
        server, clients=clients, epochs=EPOCHS, port=0, timeout=600, announce=announce,
        journals=journals,
    )  # fmt: skip
    for process in processes:
        process.join()
    return server.seconds(clients)


def _join(address: str, number: int, clients: int) -> None:
    torch.set_num_threads(1)
    split = data.parts(data.load("digits").train, clients)[number]
    several = clients > 1
    hosts.join(address, _network()[0], split, batch_size=BATCH, share_layers=several, timeout=600)


def _bytes(split: data.Split) -> dict[str, int]:
    """Bytes of an epoch, as payload and as they cross; notes and signs of life are not counted."""
    with tempfile.TemporaryDirectory() as folder:
        _over_loopback(split, 1, Path(folder))
        (journal,) = Path(folder).glob("*.journal")
        facts = relay.FRAME  # the journal's own first frame
        payload = hosts.read_journal(journal).nbytes()
        return {
            "payload": payload // EPOCHS,
            "with_headers": (journal.stat().st_size - facts) // EPOCHS,
        }


if __name__ == "__main__":
    try:
        typer.run(main)
    except SltoolsError as error:
        raise SystemExit(f"error: {error}") from None
