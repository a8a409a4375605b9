"""What a client can do about it: each defence is one argument of `protocol.Client`.

    Client(front, outgoing=GaussianNoise(0.5))                    # changes what is sent
    Client(front, outgoing=Together(TopK(0.1), RandomisedResponse(1.0, classes=10)))
    Client(front, penalty=NoPeek(0.5))                            # changes what is learned

Each says in `promises` what it promises and in `leaves` what it leaves open.
"""

from sltools.defenses.correlation import NoPeek, distance_correlation
from sltools.defenses.labels import RandomisedResponse
from sltools.defenses.outgoing import Outgoing, Together
from sltools.defenses.smashed import (
    GaussianNoise,
    LaplaceNoise,
    LocalPrivacy,
    Quantisation,
    TopK,
)

__all__ = [
    "GaussianNoise",
    "LaplaceNoise",
    "LocalPrivacy",
    "NoPeek",
    "Outgoing",
    "Quantisation",
    "RandomisedResponse",
    "Together",
    "TopK",
    "distance_correlation",
]
