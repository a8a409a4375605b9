"""What a client's network is given for a pixel: its value in [0, 1], or a standardised one."""

import copy
import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Adam

from sltools.errors import AttackError

ROUNDING = 1e-4  # of the range
POOR_FIT = 0.05  # of the variance of smashed data: more than that, and the fit is looked into
OUTSIDE_RATIO = 0.25  # of the error inside the range: with less outside, the range is wrong
NO_FIT = 1.0  # of the variance: one guess for all would do better
TRIAL_TARGETS, TRIAL_STEPS = 4, 60  # targets and steps to find out


class InputRange:
    """What a client's network is given for black, and for white.

    `bounds` are two numbers, or for each of them one number for each of `channels`: (0, 1) for
    pixels as they are, ((0 - mean) / std, (1 - mean) / std) for standardised ones. Raises
    AttackError for anything else.

    >>> import torch
    >>> from sltools.attacks.pixels import InputRange
    >>> mean, deviation = 0.5, 0.25
    >>> span = InputRange(((0 - mean) / deviation, (1 - mean) / deviation))
    >>> print(span)
    [-2, 2]
    >>> grey = torch.full((1, 1, 1), 0.5)
    >>> span.inputs(grey).item(), span.pixels(span.inputs(grey)).item()
    (0.0, 0.5)
    """

    def __init__(self, bounds: Any = (0.0, 1.0), channels: int = 1) -> None:
        try:
            low, high = (torch.as_tensor(bound, dtype=torch.float32) for bound in bounds)
            self.low, self.high = (bound.expand(channels).view(-1, 1, 1) for bound in (low, high))
            valid = bool((low.isfinite() & high.isfinite() & (low < high)).all())
        except (TypeError, ValueError, RuntimeError):
            valid = False
        if not valid:
            raise AttackError(
                "input_range is (black, white) as the client's network gets them, each a number or "
                f"one for each of the {channels} channels, black below white, not {bounds!r}"
            )
        self.bounds = tuple(bound.flatten().tolist() for bound in (self.low, self.high))
        self.is_default = bool((self.low == 0).all() and (self.high == 1).all())
        self.signed = bool((self.low < 0).any() and (self.high > 0).any())

    def inputs(self, pixels: Tensor) -> Tensor:
        """What the network is given for pixels (..., C, H, W) in [0, 1]."""
        if self.is_default:
            return pixels
        low, high = self.low.to(pixels), self.high.to(pixels)
        return low + (high - low) * pixels

    def pixels(self, inputs: Tensor) -> Tensor:
        """The pixels for which the network is given inputs (..., C, H, W)."""
        if self.is_default:
            return inputs
        low, high = self.low.to(inputs), self.high.to(inputs)
        return (inputs - low) / (high - low)

    def contains(self, inputs: Tensor) -> bool:
        """Say whether inputs (..., C, H, W) are in the range; what was computed may be rounded."""
        pixels, rounding = self.pixels(inputs), 0.0 if self.is_default else ROUNDING
        return bool(((pixels >= -rounding) & (pixels <= 1 + rounding)).all())

    def __str__(self) -> str:
        black, white = ("/".join(f"{value:.3g}" for value in bound) for bound in self.bounds)
        return f"[{black}, {white}]"

    def relative_quantile(self, inputs: Tensor, share: float) -> Tensor:
        """How far inputs (E, N, C, H, W) go on the way from 0 to a bound, by channel: (E, C).

        All but the share 1 - `share` of them, on the side where they go further: 1 is the bound.
        """
        ordered = inputs.transpose(1, 2).flatten(2).sort(dim=2).values  # torch.quantile: too few
        last = ordered.shape[2] - 1
        place = int(share * last)
        low, high = self.low.flatten().to(inputs), self.high.flatten().to(inputs)
        up = torch.where(high > 0, ordered[..., place] / high, 0.0)
        down = torch.where(low < 0, ordered[..., last - place] / low, 0.0)
        return torch.maximum(up, down)


def warn_of_range(
    network: nn.Module,
    smashed: Tensor,
    shape: Sequence[int],
    span: InputRange,
    left: float = 0.0,
) -> None:
    """Warn if inputs outside of `span` explain `smashed` (N, ...) far better than those inside.

    `network` made the smashed data of inputs of `shape` (C, H, W). It says nothing where other
    reasons are likelier: no inputs explain noise and defences well, and to a search that was too
    short the range makes no difference. A search for the best inputs says what share of the
    variance it `left`: it also warns where one guess for all would have done better.
    """
    network, few = copy.deepcopy(network).eval().requires_grad_(False), smashed[:TRIAL_TARGETS]
    inside, outside = (_least_error(network, few, shape, span, inside) for inside in (True, False))
    if outside < min(POOR_FIT, OUTSIDE_RATIO * inside):
        warnings.warn(
            f"inputs outside {span} explain these smashed data far better than any "
            f"inside: they leave {outside:.1%} of their variance, not {inside:.1%}. Was the client "
            "trained on standardised images? Then call the attack with input_range=((0 - mean) / "
            "std, (1 - mean) / std), and give a decoder public images that are standardised alike",
            stacklevel=3,
        )
    elif left > NO_FIT:
        warnings.warn(
            f"the best inputs in {span} leave {left:.1%} of the variance of the smashed data: "
            "these are no reconstructions. Is input_range what the client's network gets for "
            "(black, white), as ((0 - mean) / std, (1 - mean) / std)? Did the client change its "
            "messages?",
            stacklevel=3,
        )


def _least_error(
    network: nn.Module, smashed: Tensor, shape: Sequence[int], span: InputRange, inside: bool
) -> float:
    """What a short search leaves of the variance of `smashed`."""
    pixels = torch.full((len(smashed), *shape), 0.5, device=smashed.device, requires_grad=True)
    optimizer, error = Adam([pixels], lr=0.1), math.inf
    for step in range(TRIAL_STEPS):
        loss = (network(span.inputs(pixels)) - smashed).square().mean()
        optimizer.zero_grad()
        loss.backward()
        error = loss.item()
        optimizer.param_groups[0]["lr"] = 0.1 * (1 - step / TRIAL_STEPS)
        optimizer.step()
        if inside:
            pixels.data.clamp_(0, 1)
    return error / max(smashed.var(correction=0).item(), torch.finfo(smashed.dtype).tiny)
