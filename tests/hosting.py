"""Parties in processes of their own, for the tests of hosts: forked from one that has all loaded."""

import multiprocessing
from functools import partial
from pathlib import Path

import torch

from sltools import data, hosts, models, protocol, storage
from sltools.errors import SltoolsError

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.hosting"])
PATIENCE = 120  # seconds: processes start slowly on a machine that is busy
SPLIT = data.load("digits").train[:96]
CUTS = {"vanilla": "pool1", "private": ("pool1", "relu4")}


def parties(setting, seed=0):
    """A client and a server of `setting`, of the same network."""
    front, middle, *head = models.cut(models.mnist_net(seed), CUTS[setting])
    return protocol.Client(front, *head), protocol.Server(middle, label_private=bool(head))


def start(target, *arguments, **options):
    """Run a function in a process of its own."""
    process = PROCESSES.Process(target=target, args=arguments, kwargs=options)
    process.start()
    return process


def serve(folder, addresses, setting, **options):
    """Serve, and keep what the server knows in the end, or its error, in `folder`."""
    torch.set_num_threads(1)
    server = parties(setting)[1]
    options = {"port": 0, "timeout": PATIENCE, "wait": PATIENCE, "announce": addresses.put} | options
    journals = Path(folder) / "journals"
    found, error = _try(partial(hosts.serve, server, journals=journals, **options))
    facts = {"losses": found and found.losses, "error": error}
    storage.write(Path(folder) / "server", server.model.state_dict(), facts)


def join(folder, address, setting, number=0, split=SPLIT, **options):
    """Join, and keep what the client knows in the end, or its error, in `folder`."""
    torch.set_num_threads(1)
    client = parties(setting, seed=number)[0]
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


def _try(work):
    try:
        return work(), None
    except SltoolsError as error:
        return None, str(error)


def digests(messages):
    return [message.digest() for message in messages]
