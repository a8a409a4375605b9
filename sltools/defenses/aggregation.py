"""Rules of aggregation that some lying clients cannot move at will: for SplitFed.

Each is given to `protocol.train_clients(..., defense=...)` and takes the place of the average, both
of the clients' layers and, in V1, of the server's copies. They look at layers alone, not at data,
and do not weight by samples, for a client that lies may name any number.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sltools.errors import DefenseError
from sltools.protocol.training import Weights
from sltools.validation import defense_check


@dataclass(frozen=True)
class Krum:
    """Takes the layers of the one client that is nearest to its neighbours (Blanchard et al. 2017).

    Of n clients at most `malicious`, f, lie. The score of a client is the sum of its squared
    distances to the n - f - 2 nearest others, and the lowest score wins: the layers of one client,
    and what all others learned in the round is lost. The proof asks for n > 2f + 2 and clients with
    equally distributed data. Raises DefenseError for a senseless number, and for too few clients.

    >>> import torch
    >>> from sltools.defenses import Krum
    >>> states = [{"w": torch.tensor([w])} for w in (1.0, 1.1, 1.2, 0.9, 50.0)]
    >>> Krum(malicious=1)(states, samples=[1, 1, 1, 1, 1])
    {'w': tensor([1.])}
    """

    malicious: int
    promises = "nearness to most of the others, where clients' data are alike"
    leaves = "a change that is as small as the differences between honest clients"

    def __post_init__(self) -> None:
        defense_check.integer("malicious", self.malicious, 0)

    def __call__(self, states: Sequence[Weights], samples: Sequence[int]) -> Weights:
        """Return a copy of one of the clients' layers."""
        chosen = states[self.choose(states)]
        return {name: value.clone() for name, value in chosen.items()}

    def choose(self, states: Sequence[Weights]) -> int:
        """The number of the client whose layers are taken; the first, if several are as near."""
        nearest = len(states) - self.malicious - 2
        if nearest <= self.malicious:
            raise DefenseError(
                f"Krum with {self.malicious} malicious clients needs at least "
                f"{2 * self.malicious + 3} clients, not {len(states)}"
            )
        vectors = torch.stack([flatten(state) for state in states])
        distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
        # Each is nearest to itself, at 0, which adds nothing to the sum.
        scores = distances.square().sort(1).values[:, : nearest + 1].sum(1)
        return int(scores.argmin())


@dataclass(frozen=True)
class TrimmedMean:
    """Leaves out the `trim` largest and smallest values of each weight, and averages the rest.

    It withstands `trim` clients that lie, if there are more than twice as many in all (Yin et al.,
    ICML 2018). Raises DefenseError for a senseless number, and for too few clients.

    >>> import torch
    >>> from sltools.defenses import TrimmedMean
    >>> states = [{"w": torch.tensor([w])} for w in (1.0, 2.0, 3.0, -90.0, 90.0)]
    >>> TrimmedMean(trim=1)(states, samples=[1, 1, 1, 1, 1])
    {'w': tensor([2.])}
    """

    trim: int
    promises = "each weight between values that honest clients have"
    leaves = "what is within their range, weight by weight"

    def __post_init__(self) -> None:
        defense_check.integer("trim", self.trim, 0)

    def __call__(self, states: Sequence[Weights], samples: Sequence[int]) -> Weights:
        """Return the trimmed mean of weights and buffers by name."""
        if len(states) <= 2 * self.trim:
            raise DefenseError(
                f"a mean without the {self.trim} largest and smallest needs at least "
                f"{2 * self.trim + 1} clients, not {len(states)}"
            )
        return _middle(states, self.trim)


@dataclass(frozen=True)
class CoordinateMedian:
    """Takes the median of each weight: a mean trimmed of all but the middle (Yin et al. 2018).

    It withstands any number of clients that lie, short of half.

    >>> import torch
    >>> from sltools.defenses import CoordinateMedian
    >>> states = [{"w": torch.tensor([w])} for w in (1.0, 2.0, 90.0)]
    >>> CoordinateMedian()(states, samples=[1, 1, 1])
    {'w': tensor([2.])}
    """

    promises = TrimmedMean.promises
    leaves = TrimmedMean.leaves

    def __call__(self, states: Sequence[Weights], samples: Sequence[int]) -> Weights:
        """Return the medians of weights and buffers by name; of two in the middle, their mean."""
        return _middle(states, (len(states) - 1) // 2)


def flatten(weights: Weights) -> Tensor:
    """All weights and buffers as one vector (D,) on the CPU; whole numbers count nothing.

    >>> import torch
    >>> from sltools.defenses.aggregation import flatten
    >>> flatten({"w": torch.ones(2, 2), "batches": torch.tensor(7)})
    tensor([1., 1., 1., 1.])
    """
    return torch.cat([
        value.detach().flatten().float().cpu()
        for value in weights.values()
        if value.is_floating_point()
    ])  # fmt: skip


def _middle(states: Sequence[Weights], trim: int) -> Weights:
    """Average the values that are left when `trim` were dropped at both ends."""

    def merge(name: str) -> Tensor:
        values = torch.stack([state[name] for state in states])
        if not values.is_floating_point():
            return values[0]
        return values.sort(0).values[trim : len(states) - trim].mean(0)

    return {name: merge(name) for name in states[0]}
