"""NoPeek: teach the client that its smashed data should not vary with the images."""

import torch
from torch import Tensor

from sltools.errors import DefenseError
from sltools.validation import defense_check


def distance_correlation(x: Tensor, z: Tensor) -> Tensor:
    """Distance correlation of two batches (B, ...) and (B, ...), 0 to 1: a tensor of shape ().

    0 only for independent variables, in the limit of many samples; a small batch is biased upwards
    (B = 2 always gives 1, or 0 for constants). Of Euclidean distances, not of their squares, of
    which the theorem does not speak (Székely et al. 2007). Raises DefenseError for fewer than two
    samples or batches of different length.

    >>> import torch
    >>> from sltools.defenses import distance_correlation
    >>> stream = torch.Generator().manual_seed(0)
    >>> images = torch.rand(200, 1, 28, 28, generator=stream)
    >>> f"{distance_correlation(images, 3 * images + 1):.2f}"
    '1.00'
    >>> x, unrelated = torch.randn(2, 200, 1, generator=stream)
    >>> f"{distance_correlation(x, x.square()):.1f}, {distance_correlation(x, unrelated):.1f}"
    '0.6, 0.1'
    """
    if not all(isinstance(v, Tensor) and v.ndim and v.is_floating_point() for v in (x, z)):
        raise DefenseError("distance correlation compares two tensors (B, ...) of floats")
    if len(x) != len(z) or len(x) < 2:
        raise DefenseError(
            f"distance correlation compares two batches of one length of at least 2, not {len(x)} "
            f"and {len(z)}"
        )
    a, b = _centred(x), _centred(z)
    covariance, variances = (a * b).mean(), (a * a).mean() * (b * b).mean()
    # The square root has no slope at 0, where constants are.
    return (covariance.clamp_min(0) / variances.clamp_min(1e-20).sqrt()).clamp_min(1e-12).sqrt()


def _centred(values: Tensor) -> Tensor:
    """The distances between all samples, less their row and column means, plus the mean."""
    flat = values.flatten(1)
    flat = flat if flat.dtype == torch.float64 else flat.float()  # cdist knows no half precision
    # Not by products of norms: that is inexact for neighbours.
    distances = torch.cdist(flat, flat, compute_mode="donot_use_mm_for_euclid_dist")
    return distances - distances.mean(0) - distances.mean(1, keepdim=True) + distances.mean()


class NoPeek:
    """A penalty at the cut: `weight` times the distance correlation of images and smashed data.

    (Vepakomma et al. 2020, who weight the two terms α and 1 - α; `weight` is their quotient.)
    Raises DefenseError unless `weight` is a finite number above 0.

    >>> from sltools import data, models, protocol
    >>> from sltools.defenses import NoPeek, distance_correlation
    >>> split = data.load("digits").train
    >>> def dependence(penalty):
    ...     front, rest = models.cut(models.mnist_net(), "pool1")
    ...     client = protocol.Client(front, penalty=penalty)
    ...     session = protocol.train(client, rest, split, epochs=1)
    ...     images = split.images[:100]
    ...     return distance_correlation(images, session.observe(images).smashed).item()
    >>> dependence(NoPeek(weight=10.0)) < dependence(None)
    True
    """

    promises = "a lower distance correlation on the training images; how low, it does not say"
    leaves = "the variation that remains: it can still be enough to recover the image"

    def __init__(self, weight: float) -> None:
        self.weight = defense_check.positive("weight", weight)

    def __call__(self, images: Tensor, smashed: Tensor) -> Tensor:
        """Return the penalty of a batch; one image alone has none."""
        if len(images) < 2:
            return 0.0 * smashed.sum()
        return self.weight * distance_correlation(images, smashed)

    def __repr__(self) -> str:
        return f"NoPeek(weight={self.weight})"
