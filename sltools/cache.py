"""Trained victims, kept in the folder that SLTOOLS_CACHE names; without it nothing is kept.

The tests and lessons of one run meet the same victims again and again. What is kept is named by
all that decides its bits: settings, data, machine, and the code of this package. Where the network
was cut is not among these, because split training computes what whole training does.
"""

import functools
import hashlib
import json
import os
import pickle
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sltools import storage
from sltools.data import Split
from sltools.protocol import Session

TrainedParts = list[tuple[list[nn.Sequential], Optimizer]]


def trained(
    session: Session, split: Split, facts: dict[str, Any], train: Callable[[], Session]
) -> Session:
    """Return what `train()` makes of the parties of a new `session`, from the folder if it can.

    `facts`, JSON-able, are all that it depends on beside `split`, the network and its initial
    weights. The parties are on the CPU and have no hooks; their messages are not kept, nor is a
    training that was interrupted.
    """
    if not (root := os.environ.get("SLTOOLS_CACHE")):
        return train()
    path = Path(root).expanduser() / f"{_cache_key(session, split, facts)}.pt"
    if kept := _load(path):
        _restore(session, kept)
        return session
    made = train()
    if not made.interrupted:
        _save(path, made)
    return made


def _load(path: Path) -> dict[str, Any] | None:
    """Read a kept victim; None if there is none, or if its file is damaged: it is made again."""
    try:
        return dict(torch.load(path, weights_only=True))
    except (OSError, RuntimeError, ValueError, EOFError, pickle.UnpicklingError):
        return None


def _cache_key(session: Session, split: Split, facts: dict[str, Any]) -> str:
    machine = [
        torch.__version__, torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(),
        platform.machine(), platform.processor(),
    ]  # fmt: skip
    found = hashlib.sha256(json.dumps([facts, machine, _code_hash()], sort_keys=True).encode())
    data = {"images": split.images, "labels": split.labels}
    for name, tensor in [*sorted(_weights(session).items()), *data.items()]:
        found.update(f"{name} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().contiguous().numpy().data)
    return found.hexdigest()[:32]


@functools.cache
def _code_hash() -> str:
    """Hash the package: cheap, and nothing that could matter is forgotten."""
    sources = [path.read_bytes() for path in sorted(Path(__file__).parent.rglob("*.py"))]
    return hashlib.sha256(b"\0".join(sources)).hexdigest()


def _trained_parts(session: Session) -> TrainedParts:
    client, server = session.client, session.server
    ours = [client.front] if client.head is None else [client.front, client.head]
    return [(ours, client.optimizer), ([server.model], server.optimizer)]


def _weights(session: Session) -> dict[str, Tensor]:
    """All weights and buffers by their names in the network before it was cut."""
    parts = [part for parts, _ in _trained_parts(session) for part in parts]
    return {name: value for part in parts for name, value in part.state_dict().items()}


def _restore(session: Session, kept: dict[str, Any]) -> None:
    session.losses += kept["losses"]
    session.client.input_shape = kept["input_shape"]
    for parts, optimizer in _trained_parts(session):
        for part in parts:
            part.load_state_dict({name: kept["weights"][name] for name in part.state_dict()})
            for name, weight in part.named_parameters():
                optimizer.state[weight] = kept["optimizers"][name]


def _save(path: Path, session: Session) -> None:
    optimizers = {
        name: optimizer.state[weight]
        for parts, optimizer in _trained_parts(session)
        for part in parts
        for name, weight in part.named_parameters()
    }
    kept = {
        "weights": _weights(session),
        "optimizers": optimizers,
        "losses": session.losses,
        "input_shape": session.client.input_shape,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with storage.atomic_path(path) as part:  # others may be reading, or keeping the same
        torch.save(kept, part)
