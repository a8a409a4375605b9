"""Weights and images given by formulas, for figures that were measured outside this library."""

import torch
from torch import Tensor, nn


def fill(net: nn.Module, phase: float) -> nn.Module:
    """Set the i-th of all parameters of `net`, in order, to 0.2 sin(0.37 i + phase)."""
    start = 0
    with torch.no_grad():
        for parameter in net.parameters():
            index = torch.arange(start, start + parameter.numel(), dtype=torch.float64)
            values = 0.2 * torch.sin(0.37 * index + phase)
            parameter.copy_(values.reshape(parameter.shape))
            start += parameter.numel()
    return net


def image() -> Tensor:
    """Return 0.5 + 0.5 sin(0.3 row + 0.2 column), (1, 1, 28, 28)."""
    return image_batch(1)


def image_batch(n: int) -> Tensor:
    """Return n images (n, 1, 28, 28): in image b, the waves are b + 1 times as dense by rows."""
    waves = 0.3 * torch.arange(1, n + 1, dtype=torch.float64).reshape(n, 1, 1, 1)
    row = torch.arange(28, dtype=torch.float64).reshape(1, 1, 28, 1)
    column = torch.arange(28, dtype=torch.float64).reshape(1, 1, 1, 28)
    return (0.5 + 0.5 * torch.sin(waves * row + 0.2 * column)).float()
