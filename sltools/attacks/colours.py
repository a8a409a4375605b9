"""The colours of photographs, which a linear first layer leaves open."""

import torch
from torch import Tensor

# Red-blue, green-magenta and brightness, in columns of length 1. These are nearly the principal
# components of the colours of photographs (Ohta, Kanade, Sakai 1980: I2, I3 and I1).
COLOUR_AXES = torch.nn.functional.normalize(
    torch.tensor([[1.0, -0.5, 1.0], [0.0, 1.0, 1.0], [-1.0, -0.5, 1.0]]), dim=0
)
MIN_VARIANCE = 1e-7  # variance below which there is nothing to tell by


def correction(images: Tensor, weights: Tensor) -> Tensor:
    """Return matrices (E, 3, 3) that turn channels of images (E, N, 3, H, W) to red, green, blue.

    `weights` (E, O, 3, P) are those of the first layer, which meet the channels. For every matrix A
    the layer computes the same of A x with its weights times the inverse of A. But as networks are
    initialised, and still after training, weights spread alike over all colours: A must make that
    so, which leaves a rotation. That is told by what photographs have in common: their pixels vary
    most in brightness, less from red to blue, and least from green to magenta. Which way these axes
    point is told by this: brightness is positive, further up photographs are bluer, and towards
    their edges greener. The more images, the surer. The matrix is the identity where images or
    weights do not vary along some axis.
    """
    pixels = (images - images.mean((1, 3, 4), keepdim=True)).transpose(1, 2).flatten(2)
    met = _covariance(weights.transpose(1, 2).flatten(2))
    size = met.diagonal(dim1=1, dim2=2).mean(1).view(-1, 1, 1)
    even = _matrix_sqrt(met / size)  # makes the weights spread alike
    variance = even @ _covariance(pixels) @ even
    usable = variance.isfinite().flatten(1).all(1)
    one = torch.eye(3).to(variance)
    variance = torch.where(usable.view(-1, 1, 1), variance, one)
    spread, axes = torch.linalg.eigh(variance)
    usable &= spread.amin(1) > MIN_VARIANCE
    found = even @ axes[..., [1, 0, 2]]  # from the least variance to the most
    seen = torch.einsum("eca,echw->eahw", found.to(images), images.mean(1))
    signs = torch.where((seen * _spatial_priors(seen)).sum((2, 3)) < 0, -1.0, 1.0)
    matrix = (COLOUR_AXES.to(images) * signs.unsqueeze(1)) @ found.to(images).mT
    return torch.where(usable.view(-1, 1, 1), matrix, one.to(images))


def _covariance(values: Tensor) -> Tensor:
    """The mean products of values (E, C, M) of C channels: (E, C, C), in double precision."""
    return (values @ values.mT / values.shape[2]).double()


def _matrix_sqrt(matrix: Tensor) -> Tensor:
    """The symmetric square root of (E, C, C); of a matrix that is not finite, NaN."""
    finite = matrix.isfinite().flatten(1).all(1).view(-1, 1, 1)
    values, vectors = torch.linalg.eigh(torch.where(finite, matrix, 0.0))
    root = (vectors * values.clamp_min(0).sqrt().unsqueeze(1)) @ vectors.mT
    return torch.where(finite, root, torch.nan)


def _spatial_priors(seen: Tensor) -> Tensor:
    """Where photographs have more red than blue, more green, and brightness at all: (3, H, W)."""
    height, width = seen.shape[2:]
    up = torch.linspace(1, -1, height).view(-1, 1).expand(height, width)
    out = torch.ones(height, width)
    out[height // 5 : height - height // 5, width // 5 : width - width // 5] = 0
    return torch.stack([-up, out - out.mean(), torch.ones_like(out)]).to(seen)
