"""An inverse network in closed form: least squares on features of the smashed data."""

from collections.abc import Iterable
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import skip_init

from sltools import seeds

Features = Literal["linear", "random"]
FEATURES: tuple[Features, ...] = ("linear", "random")
RANDOM = 2000  # features
RIDGES = tuple(10.0 ** (power / 2) for power in range(-16, 1))  # among which to choose: 1e-8 to 1
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


class Fit(NamedTuple):
    """How a decoder is fitted: on which `features` of the smashed data, and with which `ridge`."""

    features: Features
    ridge: float


def cross_validated(smashed: Tensor, images: Tensor, *, seed: int) -> Fit:
    """Choose how to fit a decoder, by nothing but the pairs that it is fitted to.

    Of linear and random features and of the RIDGES, the two with the least error of images
    (N, C, H, W) that are left out one by one, each decoded by a fit to the smashed data (N, ...)
    and images of all others: the median of their mean squared errors. N is 2 at least.

    >>> import torch
    >>> from sltools.attacks.regression import cross_validated, fitted_decoder
    >>> images = torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    >>> smashed = 3 * images.flatten(1) + 1
    >>> best = cross_validated(smashed, images, seed=0)
    >>> decoder = fitted_decoder(smashed, images, **best._asdict(), seed=0)
    >>> best, (decoder(smashed) - images).abs().max() < 1e-3
    (Fit(features='linear', ridge=1e-08), tensor(True))
    """
    from sklearn.linear_model import RidgeCV

    flat, pixels = smashed.detach().flatten(1), images.flatten(1)
    own = Moments.of(flat)
    standard = _standard(flat, own, _alike(own.variance, own.variance))
    errors = {}
    for name in FEATURES:
        made = standard if name == "linear" else _hidden(flat, seed).of(standard)
        features = made.double().cpu()
        # The ridge counts as in `_least_squares`. With the mean of all images taken out before, and
        # no intercept, the image that is left out would follow from the others: they sum to zero.
        alphas = [ridge * features.numel() for ridge in RIDGES]
        search = RidgeCV(alphas, scoring=_score)
        search.fit(features, pixels.double().cpu())
        ridge = float(search.alpha_) / features.numel()
        errors[Fit(name, ridge)] = -search.best_score_
    return min(errors, key=errors.__getitem__)


def _score(_: object, decoded: np.ndarray, images: np.ndarray) -> float:
    """The negative median error over the images (N, P), as scikit-learn calls it."""
    return -float(np.median(np.square(decoded.clip(0, 1) - images).mean(1)))


def fitted_decoder(
    smashed: Tensor,
    images: Tensor,
    *,
    ridge: float,
    seed: int,
    sent: Moments | None = None,
    features: Features = "random",
) -> nn.Sequential:
    """Fit an inverse network to pairs of smashed data (N, ...) and images (N, C, H, W) in [0, 1].

    A dense layer with random weights, a ReLU, and a dense layer whose weights have the least mean
    squared error plus a `ridge` on their squares (random features: Rahimi and Recht, NIPS 2007; the
    2,000 features count as divided by the root of their number). Weights come from the stream
    (`seed`, "random features"). With "linear" `features` the last layer works on the smashed data
    themselves, standardised. `cross_validated` chooses both.

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
    scale = _standard(sent.mean + 1, sent, trust)  # makes what was sent standard
    mean = pixels.mean(0)
    if features == "linear":
        standard = _standard(flat, own, trust)
        read = (_linear_least_squares(standard, pixels - mean, ridge) * scale[:, None]).T
        layers: list[nn.Module] = [_dense(read, mean - read @ sent.mean)]
    else:
        hidden = _hidden(flat, seed)
        parts = zip(flat.split(CHUNK), pixels.split(CHUNK), strict=True)
        pairs = ((hidden.of(_standard(some, own, trust)), wanted - mean) for some, wanted in parts)
        solution = _least_squares(pairs, ridge)
        read = hidden.weight * scale
        first = _dense(read, hidden.bias - read @ sent.mean)
        layers = [first, nn.ReLU(), _dense(solution.T, mean)]
    shaped = [nn.Unflatten(1, tuple(images.shape[1:])), nn.Hardtanh(0.0, 1.0)]
    return nn.Sequential(nn.Flatten(), *layers, *shaped).to(images.device).eval()


def _alike(one: Tensor, other: Tensor) -> Tensor:
    """The smaller of two spreads (D,), divided by the larger; 0 if one of them is 0."""
    larger = torch.maximum(one, other)
    return torch.where(larger > 0, torch.minimum(one, other) / larger.clamp_min(TINY), 0.0)


def _standard(flat: Tensor, moments: Moments, trust: Tensor) -> Tensor:
    """Features (..., D) with mean 0 and, as standard deviation, their `trust` (D,)."""
    return (flat - moments.mean) * trust / moments.variance.sqrt().clamp_min(TINY)


class _Hidden(NamedTuple):
    """What makes random features (N, F) of standard inputs (N, D): weights (F, D), biases (F,)."""

    weight: Tensor
    bias: Tensor

    def of(self, standard: Tensor) -> Tensor:
        return (standard @ self.weight.T + self.bias).relu()


def _hidden(inputs: Tensor, seed: int) -> _Hidden:
    """Random features, of about one size for standard inputs (N, D)."""
    count = inputs.shape[1]
    draw = seeds.generator(seed, "random features")
    weight = torch.randn(RANDOM, count, generator=draw) / count**0.5
    bias = torch.randn(RANDOM, generator=draw)
    return _Hidden(weight.to(inputs), bias.to(inputs))


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


def _linear_least_squares(inputs: Tensor, wanted: Tensor, ridge: float) -> Tensor:
    """The same weights (D, P) for inputs (N, D), by the smaller of two systems: D or N equations.

    X' (X X' + c)^-1 Y equals (X' X + c)^-1 X' Y.
    """
    count, size = inputs.shape
    if size <= count:
        return _least_squares(zip(inputs.split(CHUNK), wanted.split(CHUNK), strict=True), ridge)
    gram = torch.zeros(count, count, dtype=torch.float64, device=inputs.device)
    for part in inputs.split(CHUNK, 1):
        columns = part.double()
        gram += columns @ columns.T
    gram.diagonal().add_(ridge * count * size)
    solution = torch.linalg.solve(gram, wanted.double())
    return torch.cat([(part.double().T @ solution).float() for part in inputs.split(CHUNK, 1)])
