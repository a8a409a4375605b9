"""An inverse network in closed form: random features of the smashed data, and least squares."""

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from sltools import seeds

FEATURES = 2000
CHUNK = 500  # pairs whose features are held at once
TINY = 1e-12


class Moments(NamedTuple):
    """Mean and variance of each feature of smashed data, both of the shape of one sample."""

    mean: Tensor
    variance: Tensor

    @classmethod
    def of(cls, smashed: Tensor) -> "Moments":
        """Those of smashed data (N, ...)."""
        return cls(smashed.mean(0), smashed.var(0, correction=0))


def fitted_decoder(
    smashed: Tensor, images: Tensor, *, ridge: float, seed: int, sent: Moments | None = None
) -> nn.Sequential:
    """Fit an inverse network to pairs of smashed data (N, ...) and images (N, C, H, W) in [0, 1].

    A dense layer with random weights, a ReLU, and a dense layer whose weights have the least mean
    squared error plus a `ridge` on their squares (random features: Rahimi and Recht, NIPS 2007; the
    2,000 features count as divided by the root of their number). Weights come from the stream
    (`seed`, "random features").

    `sent` are the moments of the smashed data that it is to decode, if those come from elsewhere:
    then each feature is standardised on either side, and counts the less, the more its spread
    differs between the two. A feature that does not vary does not count.

    >>> import torch
    >>> from sltools.attacks.regression import fitted_decoder
    >>> images = torch.rand(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    >>> smashed = 3 * images.flatten(1) + 1
    >>> decoder = fitted_decoder(smashed, images, ridge=1e-6, seed=0)
    >>> decoder(smashed).shape == images.shape, (decoder(smashed) - images).abs().max() < 0.05
    (True, tensor(True))
    """
    flat, pixels = smashed.detach().flatten(1), images.flatten(1)
    own = Moments.of(flat)
    sent = own if sent is None else Moments(*(part.detach().flatten().to(flat) for part in sent))
    trust = _alike(own.variance.sqrt(), sent.variance.sqrt())
    weight, bias = _random_weights(flat, seed)
    mean = pixels.mean(0)
    parts = zip(flat.split(CHUNK), pixels.split(CHUNK), strict=True)
    pairs = (
        ((_standard(some, own, trust) @ weight.T + bias).relu(), wanted - mean)
        for some, wanted in parts
    )
    solution = _least_squares(pairs, ridge)
    read = weight * _standard(sent.mean + 1, sent, trust)  # weights for data that are not standard
    first = _dense(read, bias - read @ sent.mean)
    layers = [nn.Flatten(), first, nn.ReLU(), _dense(solution.T, mean)]
    shaped = [nn.Unflatten(1, tuple(images.shape[1:])), nn.Hardtanh(0.0, 1.0)]
    return nn.Sequential(*layers, *shaped).to(images.device).eval()


def _alike(one: Tensor, other: Tensor) -> Tensor:
    """The smaller of two spreads (D,), divided by the larger; 0 if one of them is 0."""
    larger = torch.maximum(one, other)
    return torch.where(larger > 0, torch.minimum(one, other) / larger.clamp_min(TINY), 0.0)


def _standard(flat: Tensor, moments: Moments, trust: Tensor) -> Tensor:
    """Features (..., D) with mean 0 and, as standard deviation, their `trust` (D,)."""
    return (flat - moments.mean) * trust / moments.variance.sqrt().clamp_min(TINY)


def _random_weights(inputs: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Weights (F, D) and biases (F,) whose outputs have about one size for standard inputs."""
    count, draw = inputs.shape[1], seeds.generator(seed, "random features")
    weight = torch.randn(FEATURES, count, generator=draw) / count**0.5
    return weight.to(inputs), torch.randn(FEATURES, generator=draw).to(inputs)


def _dense(weight: Tensor, bias: Tensor) -> nn.Linear:
    """A dense layer with these weights (F, D) and biases (F,)."""
    layer: nn.Linear = skip_init(nn.Linear, weight.shape[1], weight.shape[0])
    layer.load_state_dict({"weight": weight, "bias": bias})
    return layer


def _least_squares(pairs: Iterable[tuple[Tensor, Tensor]], ridge: float) -> Tensor:
    """Weights (F, P) that make the most of features (N, F) for wanted (N, P), given in parts."""
    count, gram, cross = 0, torch.zeros(()), torch.zeros(())
    for part, wanted in pairs:
        features = part.double()
        count += len(features)
        gram = gram.to(features) + features.T @ features
        cross = cross.to(features) + features.T @ wanted.double()
    gram.diagonal().add_(ridge * count * len(gram))
    return torch.linalg.solve(gram, cross).float()
