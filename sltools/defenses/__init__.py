"""What can be done about it. Against servers, nearly each is one argument of `protocol.Client`:

    Client(front, outgoing=GaussianNoise(0.5))                    # changes what is sent
    Client(front, outgoing=Compose(TopK(0.1), RandomisedResponse(1.0, classes=10)))
    Client(front, penalty=NoPeek(0.5))                            # changes what is learned
    Client(front, head, returning=Marvell(4.0))                   # changes dL/du
    Client(front, optimizer=PrivateOptimizer(front, 1.0, 1.0))    # changes how the front learns
    Fingerprint()(nn.Sequential(front, rest), split)              # recognises a stolen copy

Against clients that cheat, each is the `defense` of `protocol.train_clients`:

    train_clients(..., schedule="in turn", defense=SafeSplit(window=10))  # undoes turns
    train_clients(..., schedule="splitfed v1", defense=Krum(malicious=2))  # in place of the average

Each says in `promises` what it promises and in `leaves` what it leaves open.
"""

from sltools.defenses.aggregation import CoordinateMedian, Krum, TrimmedMean
from sltools.defenses.correlation import NoPeek, distance_correlation
from sltools.defenses.fingerprint import Fingerprint
from sltools.defenses.gradients import Marvell, MaxNorm
from sltools.defenses.labels import RandomisedResponse
from sltools.defenses.outgoing import Compose, Outgoing
from sltools.defenses.safesplit import SafeSplit
from sltools.defenses.smashed import (
    GaussianNoise,
    LaplaceNoise,
    LocalPrivacy,
    Quantisation,
    TopK,
)
from sltools.defenses.weights import PrivateOptimizer

__all__ = [
    "CoordinateMedian",
    "Fingerprint",
    "GaussianNoise",
    "Krum",
    "LaplaceNoise",
    "LocalPrivacy",
    "Marvell",
    "MaxNorm",
    "NoPeek",
    "Outgoing",
    "PrivateOptimizer",
    "Quantisation",
    "RandomisedResponse",
    "SafeSplit",
    "Compose",
    "TopK",
    "TrimmedMean",
    "distance_correlation",
]
