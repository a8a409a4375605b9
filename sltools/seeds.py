"""Random streams that never meet: one user seed, one independent stream per purpose.

A clone that started at the victim's own initial weights would make the attack look twenty times
better than it is. So nothing in this library seeds a generator with the user's number itself.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(seed: int, purpose: str) -> int:
    """Hash `seed` and `purpose` into a 63-bit seed; different purposes give unrelated seeds."""
    digest = hashlib.sha256(f"{purpose}/{seed}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return a CPU generator on the stream (`seed`, `purpose`).

    Draw on the CPU and move the result: the numbers are then the same on every device.
    """
    return torch.Generator().manual_seed(derive(seed, purpose))


@contextmanager
def scope(seed: int, purpose: str) -> Iterator[None]:
    """Run a block with torch's CPU random state on the stream (`seed`, `purpose`).

    For code that can only use the global state, such as the initialisation of a layer. The state
    is restored afterwards, so nothing outside the block notices.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, purpose))
        yield
