"""Parties in processes of their own, for the tests of hosts, forked from one with all loaded."""

import math
import multiprocessing
import os
import subprocess
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import torch

from sltools import data, hosts, models, protocol, relay, storage
from sltools.errors import SltoolsError
from sltools.hosts import link

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.hosting"])
PATIENCE = 120  # seconds: processes start slowly on a machine that is busy
SPLIT = data.load("digits").train[:96]
CUTS = {"vanilla": "pool1", "private": ("pool1", "relu4")}


def parties(setting, seed=0):
    """A client and a server of `setting`, of the same network."""
    front, middle, *head = models.cut(models.mnist_net(seed), CUTS[setting])
    return protocol.Client(front, *head), protocol.Server(middle, label_private=bool(head))


parties("vanilla")  # what an optimiser loads when the first is made takes seconds


class ForkedRelay:
    """A relay forked from the party: torch is loaded there already, which takes seconds."""

    def __init__(self, end, rank, host, port, log):
        arguments = (end.fileno(), rank, host, port)
        fork = multiprocessing.get_context("fork")
        self._process = fork.Process(target=self._run, args=(arguments, log.fileno()))
        self._process.start()

    @staticmethod
    def _run(arguments, log):
        os.environ |= link._interface(arguments[2])
        os.dup2(log, 2)
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            if descriptor > 2 and descriptor != arguments[0]:  # as it is where a program is started
                with suppress(OSError):
                    os.close(descriptor)
        sys.argv = ["relay", *map(str, arguments)]
        relay.main()

    def wait(self, seconds=math.inf):
        """As of `subprocess.Popen`. `join` would not time out: what it waits on is closed there."""
        deadline = time.monotonic() + seconds
        while self._process.exitcode is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("relay", seconds)
            time.sleep(0.01)
        return self._process.exitcode

    def kill(self):
        self._process.kill()


def start(target, *arguments, **options):
    """Run a function in a process of its own."""
    process = PROCESSES.Process(target=target, args=arguments, kwargs=options)
    process.start()
    return process


def serve(folder, addresses, setting, fork=True, hit=None, **options):
    """Serve, and keep what the server knows in the end, or its error, in `folder`.

    `hit` is a signal for this process, and before which of its replies that comes.
    """
    _prepare(fork)
    server = parties(setting)[1]
    protocol.Server.reply = struck(protocol.Server.reply, hit)  # of copies of the server, too
    options = {
        "port": 0,
        "timeout": PATIENCE,
        "wait": PATIENCE,
        "announce": addresses.put,
    } | options
    journals = Path(folder) / "journals"
    found, error = _try(partial(hosts.serve, server, journals=journals, **options))
    facts = {"losses": found and found.losses, "error": error}
    storage.write(Path(folder) / "server", server.model.state_dict(), facts)


def join(folder, address, setting, number=0, split=SPLIT, fork=True, hit=None, **options):
    """Join, and keep what the client knows in the end, or its error; `hit` as in `serve`."""
    _prepare(fork)
    client = parties(setting, seed=number)[0]
    client.outgoing = struck(client.outgoing, hit)
    name = f"client-{number + 1}"
    tested = []
    options = {
        "batch_size": 32, "timeout": PATIENCE, "record": True,
        "journal": Path(folder) / f"{name}.journal",
        "finish": lambda session: tested.append(session.accuracy(SPLIT)),
    } | options  # fmt: skip
    session, error = _try(partial(hosts.join, address, client, split, **options))
    facts = {
        "losses": session and session.losses,
        "digests": session and digests(session.transcript.messages),
        "accuracy": tested,
        "error": error,
    }
    storage.write(Path(folder) / name, client_layers(client), facts)


def client_layers(client):
    """All weights of a client, by name."""
    return client.front.state_dict() | (client.head.state_dict() if client.head else {})


def struck(function, hit):
    """`function`, which sends a signal to its own process when it is called for the n-th time."""
    calls = []

    def called(*arguments):
        calls.append(arguments)
        if hit is not None and len(calls) == hit[1]:
            os.kill(os.getpid(), hit[0])
        return function(*arguments)

    return called


def _prepare(fork):
    os.setpgid(0, 0)  # all that this process starts is of its group
    torch.set_num_threads(1)
    if fork:
        link._start_relay = ForkedRelay


def _try(work):
    try:
        return work(), None
    except SltoolsError as error:
        return None, str(error)


def digests(messages):
    return [message.digest() for message in messages]
