"""The defences of the arena, each in several strengths: a new one is an entry here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from sltools import defenses

Options = Callable[[float, nn.Sequential, int], dict[str, Any]]


@dataclass(frozen=True)
class Defense:
    """A defence in several strengths; `options(strength, front, seed)` are given to the client.

    `label_private` says who holds the head. Some defences only make sense for a vanilla client.
    `response(strength, seed)` changes the labels once for all, before the client trains.

    >>> from sltools import defenses
    >>> from sltools.arena import DEFENSES, Defense
    >>> [defense.name for defense in DEFENSES][:3]
    ['none', 'Gaussian noise', 'Laplace noise']
    >>> mine = Defense(
    ...     "one bit",
    ...     lambda strength, front, seed: {"outgoing": defenses.Quantisation(1, seed)},
    ... )
    >>> mine.options(0.0, None, 7)
    {'outgoing': Quantisation(bits=1)}
    """

    name: str
    options: Options
    strengths: tuple[float, ...] = (0.0,)
    label_private: bool = True
    response: Callable[[float, int], defenses.Outgoing] | None = None


def _sends(make: Callable[[float, int], defenses.Outgoing]) -> Options:
    return lambda strength, front, seed: {"outgoing": make(strength, seed)}


NONE = Defense("none", lambda *_: {})
DEFENSES = (
    NONE,
    Defense("Gaussian noise", _sends(defenses.GaussianNoise), (0.5, 2, 8)),
    Defense("Laplace noise", _sends(defenses.LaplaceNoise), (0.5, 2)),
    Defense(
        "local privacy",
        _sends(lambda strength, seed: defenses.LocalPrivacy(20.0, strength, seed)),
        (0.01, 0.1, 1),
    ),
    Defense(
        "quantisation", _sends(lambda bits, seed: defenses.Quantisation(int(bits), seed)), (4, 2, 1)
    ),
    Defense("top-k", _sends(defenses.TopK), (0.3, 0.1, 0.03)),
    Defense("NoPeek", lambda strength, *_: {"penalty": defenses.NoPeek(strength)}, (10, 30)),
    Defense("max-norm", _sends(lambda _, seed: defenses.MaxNorm(seed))),
    Defense(
        "Marvell",
        lambda strength, _, seed: {"returning": defenses.Marvell(strength, 0, seed)},
        (1, 4),
    ),
    Defense("none, vanilla", lambda *_: {}, label_private=False),
    Defense(
        "randomised response",
        lambda *_: {},
        (4, 2, 1),
        label_private=False,
        response=lambda epsilon, seed: defenses.RandomisedResponse(epsilon, 10, seed),
    ),
    Defense(
        "DP-SGD",
        lambda strength, front, seed: {
            "optimizer": defenses.PrivateOptimizer(front, 1.0, strength, seed=seed)
        },
        (1,),
        label_private=False,
    ),
)
