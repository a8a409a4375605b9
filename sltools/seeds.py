"""One user seed, one random stream for each purpose, unrelated to those of the others.

A clone that started at the victim's own initial weights would make the attack look twenty times
better than it is. So nothing in this library seeds a generator with the user's number itself.

torch's CPU generator heeds only 32 bits of a seed: two given streams are the same one with
probability 2**-32. Among many thousands of user seeds some pair is; among those of the lessons and
records none (tests/test_seeds.py).
"""

import hashlib
import operator
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from sltools.errors import SltoolsError


def derive(seed: int, purpose: str) -> int:
    """Hash `seed` and `purpose` into a 63-bit seed; different purposes give unrelated seeds.

    Raises SltoolsError for a seed that is no whole number.

    >>> from sltools import seeds
    >>> seeds.derive(0, "clone") == seeds.derive(0, "clone")
    True
    >>> seeds.derive(0, "clone") == seeds.derive(0, "victim")
    False
    """
    try:
        number = operator.index(seed)
    except TypeError:
        raise SltoolsError(f"a seed is a whole number, not {seed!r}") from None
    digest = hashlib.sha256(f"{purpose}/{number}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(seed: int, purpose: str) -> torch.Generator:
    """Return a CPU generator on the stream (`seed`, `purpose`).

    Draw on the CPU and move the result: the numbers are then the same on every device.

    >>> import torch
    >>> from sltools import seeds
    >>> first, again = (torch.rand(3, generator=seeds.generator(0, "noise")) for _ in range(2))
    >>> other = torch.rand(3, generator=seeds.generator(0, "order"))
    >>> torch.equal(first, again), torch.equal(first, other)
    (True, False)
    """
    return torch.Generator().manual_seed(derive(seed, purpose))


def keyed(seed: int, purpose: str) -> np.random.Generator:
    """Return a generator with a key of 128 bits on the stream (`seed`, `purpose`).

    For what must stay hidden from one who sees a part of it: the 32 bits that torch's generator
    heeds can be tried out, one by one, on the first numbers drawn, and tell all others. The key is
    no longer than the seed: of 62 bits, in grading.

    >>> from sltools import seeds
    >>> first, again = (seeds.keyed(0, "noise").random(3) for _ in range(2))
    >>> bool((first == again).all()), bool((first == seeds.keyed(1, "noise").random(3)).all())
    (True, False)
    """
    digest = hashlib.sha256(f"keyed/{purpose}/{operator.index(seed)}".encode()).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "big")))


@contextmanager
def scope(seed: int, purpose: str) -> Iterator[None]:
    """Run a block with torch's CPU random state on the stream (`seed`, `purpose`).

    For code that can only use the global state, such as the initialisation of a layer. The state
    is restored afterwards, so nothing outside the block notices.

    >>> from torch import nn
    >>> from sltools import seeds
    >>> def layer(seed):
    ...     with seeds.scope(seed, "victim"):
    ...         return nn.Linear(3, 2).weight
    >>> bool((layer(0) == layer(0)).all()), bool((layer(0) == layer(1)).all())
    (True, False)
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive(seed, purpose))
        yield
