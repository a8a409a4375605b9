"""What a user's samples and activations look like, and how attacks meet them.

Attacks work on images (N, C, H, W) in [0, 1], and on smashed data that are maps (N, C, H, W) or
vectors (N, D). A row of a table is an image of one pixel with a channel for each column; tokens
(N, T, D) are maps if they make a square; what lies outside of [0, 1] is scaled.
"""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sltools.errors import DataError, ModelError
from sltools.models import Architecture

Builder = Callable[[], nn.Module]
Shape = tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Form:
    """The `shape` of one sample as the client's network takes it, and its range.

    `low` and `high` are (C, 1, 1) for images (C, H, W), (D, 1, 1) for rows (D,): what the network
    is given for 0 and for 1.

    >>> import torch
    >>> from sltools.audit.form import Form
    >>> rows = torch.tensor([[0.0, 20.0], [1.0, 30.0]])
    >>> form = Form.of(rows)
    >>> form.pixels(rows).flatten(1).tolist(), form.is_rows
    ([[0.0, 0.0], [1.0, 1.0]], True)
    >>> bool((form.samples(form.pixels(rows)) == rows).all())
    True
    """

    shape: Shape
    low: Tensor
    high: Tensor

    @classmethod
    def of(cls, samples: Tensor, *others: Tensor) -> "Form":
        """That of samples (N, C, H, W) or (N, D): [0, 1], or else the range of each channel.

        `others` are more samples, that share the range. Raises DataError for other shapes.
        """
        shape = tuple(samples.shape[1:])
        if len(shape) not in (1, 3):
            raise DataError(
                f"samples are images (N, C, H, W) or rows (N, D), not {tuple(samples.shape)}"
            )
        for some in others:
            if tuple(some.shape[1:]) != shape:
                raise DataError(
                    f"private samples are of shape {shape} and public ones of "
                    f"{tuple(some.shape[1:])}: give samples of one shape"
                )
        by_channel = [some.transpose(0, 1).flatten(1) for some in (samples, *others) if len(some)]
        low = torch.stack([values.amin(1) for values in by_channel]).amin(0)
        high = torch.stack([values.amax(1) for values in by_channel]).amax(0)
        if low.min() >= 0 and high.max() <= 1:
            low, high = torch.zeros_like(low), torch.ones_like(high)
        high = torch.where(high > low, high, low + 1)
        return cls(shape, low.view(-1, 1, 1), high.view(-1, 1, 1))

    @property
    def is_rows(self) -> bool:
        """Whether samples are rows of a table."""
        return len(self.shape) == 1

    @property
    def is_default(self) -> bool:
        """Whether the network takes pixels in [0, 1] as they are."""
        return bool((self.low == 0).all() and (self.high == 1).all())

    @property
    def image_shape(self) -> Shape:
        """The shape of a sample as an image (C, H, W)."""
        return (self.shape[0], 1, 1) if self.is_rows else self.shape

    def pixels(self, samples: Tensor) -> Tensor:
        """Samples (N, ...) as images (N, C, H, W) in [0, 1]."""
        images = samples.view(-1, *self.image_shape).float()
        if self.is_default:
            return images
        return ((images - self.low) / (self.high - self.low)).clamp(0, 1)

    def samples(self, pixels: Tensor) -> Tensor:
        """Images (N, C, H, W) in [0, 1] as the network takes them."""
        low, high = self.low.to(pixels), self.high.to(pixels)
        return (low + (high - low) * pixels).view(-1, *self.shape)


class _Client(nn.Module):
    """A user's client as attacks meet it: images in [0, 1] to maps or vectors."""

    def __init__(self, module: nn.Module, form: Form) -> None:
        super().__init__()
        self.module = module
        self._form = form

    def forward(self, pixels: Tensor) -> Tensor:
        """Maps or vectors of images (N, C, H, W)."""
        return as_features(self.module(self._form.samples(pixels)))


class _Rest(nn.Module):
    """The rest of a user's network, given what `as_features` made of activations of `shape`."""

    def __init__(self, module: nn.Module, shape: Shape) -> None:
        super().__init__()
        self.module = module
        self._shape = shape

    def forward(self, features: Tensor) -> Tensor:
        """What the rest makes of maps or vectors (N, ...)."""
        return self.module(undo_features(features, self._shape).clone())  # it may work in place


def as_features(activations: Tensor) -> Tensor:
    """Activations (N, ...) as maps (N, C, H, W) or vectors (N, D).

    >>> import torch
    >>> from sltools.audit.form import as_features
    >>> tokens, marked = torch.zeros(2, 16, 32), torch.zeros(2, 17, 32)
    >>> tuple(as_features(tokens).shape), tuple(as_features(marked).shape)
    ((2, 32, 4, 4), (2, 544))
    """
    if activations.ndim in (2, 4):
        return activations
    side = _token_side(tuple(activations.shape[1:]))
    if side:
        return activations.transpose(1, 2).unflatten(2, (side, side))
    return activations.flatten(1)


def undo_features(features: Tensor, shape: Shape) -> Tensor:
    """Undo `as_features` for activations of `shape` each."""
    if len(shape) in (1, 3):
        return features
    if _token_side(shape):
        return features.flatten(2).transpose(1, 2)
    return features.view(-1, *shape)


def _token_side(shape: Shape) -> int:
    """The side of the square that tokens (T, D) make, or 0."""
    side = math.isqrt(shape[0]) if len(shape) == 2 else 0
    return side if side > 1 and side * side == shape[0] else 0


def client_architecture(builder: Builder, form: Form) -> Architecture:
    """The architecture of the client that `builder` makes, as attacks meet it."""

    def build() -> nn.Module:
        return _Client(_module(builder()), form)

    build.__qualname__ = getattr(builder, "__qualname__", "the client")
    return _known(build, form.image_shape)


def rest_of(builder: Builder, shape: Shape, features: Shape) -> Architecture:
    """The architecture of the rest, given activations of `shape` in the form of `features`."""

    def build() -> nn.Module:
        return _Rest(_module(builder()), shape)

    build.__qualname__ = getattr(builder, "__qualname__", "the rest")
    return _known(build, features)


def _known(build: Builder, shape: Shape) -> Architecture:
    try:
        return Architecture.from_callable(build, shape)
    except ModelError as error:  # the user's names are without those of what is around
        raise ModelError(str(error).replace("network.module.", "")) from None


def _module(made: Any) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise TypeError(f"it must return a torch.nn.Module, not a {type(made).__name__}")
    return made


def bare(network: nn.Sequential) -> nn.Module:
    """The user's own module inside of a client, or a rest, as attacks meet it."""
    module: nn.Module = network[0].module  # type: ignore[assignment]
    return module


def activation_shape(module: nn.Module, samples: Tensor, who: str) -> Shape:
    """The shape of one of the activations that `module` makes of samples (N, ...).

    Raises ModelError, about `who`, for a module of several inputs or outputs, one that fails at the
    samples or mixes them, and for activations that are no finite numbers. One that draws at random
    is not asked whether it mixes them, see `is_random`.
    """
    _check_one_input(module, who)
    try:
        with torch.no_grad():
            one, two = (module(samples[:count].clone()) for count in (1, 2))
    except Exception as error:  # the user's own code, of which nothing is known
        raise ModelError(
            f"{who} fails at an input of shape {tuple(samples[:1].shape)}: "
            f"{type(error).__name__}: {error}. {_advice(tuple(samples.shape[1:]), who)}"
        ) from None
    for made, count in ((one, 1), (two, len(samples[:2]))):
        if not isinstance(made, Tensor) or made.ndim < 2 or len(made) != count:
            what = tuple(made.shape) if isinstance(made, Tensor) else type(made).__name__
            raise ModelError(
                f"{who} must return one tensor (N, ...) with a row for each of {count} inputs, not "
                f"{what}"
            )
        if not made.is_floating_point() or not made.isfinite().all():
            raise ModelError(f"{who} makes NaN, infinite or whole numbers of the samples")
    if not _is_close(one, two[:1]) and not is_random(module, samples):
        raise ModelError(
            f"{who} makes something else of a sample when another is beside it; every sample must "
            "be worked on by itself"
        )
    return tuple(one.shape[1:])


def is_random(module: nn.Module, samples: Tensor) -> bool:
    """Whether `module` makes something else of the same samples (N, ...) the next time.

    >>> import torch
    >>> from torch import nn
    >>> from sltools.audit.form import is_random
    >>> is_random(nn.Dropout(), torch.ones(2, 64)), is_random(nn.ReLU(), torch.ones(2, 64))
    (True, False)
    """
    with torch.no_grad():
        one, again = (module(samples[:2].clone()) for _ in range(2))
    return not _is_close(one, again)


def _is_close(one: Tensor, other: Tensor) -> bool:
    return torch.allclose(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def _check_one_input(module: nn.Module, who: str) -> None:
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wanted = [
        name
        for name, parameter in inspect.signature(module.forward).parameters.items()
        if parameter.kind in kinds and parameter.default is parameter.empty
    ]
    if len(wanted) > 1:
        raise ModelError(
            f"{who} takes several inputs ({', '.join(wanted)}); only a network of one is audited: "
            "write a module that takes the private one and fixes the others"
        )


def _advice(shape: Shape, who: str) -> str:
    if who == "the rest":
        return f"Are the client's activations, {shape} for each sample, what it takes?"
    if len(shape) == 3:
        return (
            f"Are images of {shape[0]} channels and {shape[1]} x {shape[2]} pixels what it takes?"
        )
    return f"Are rows of {shape[0]} columns what it takes?"
