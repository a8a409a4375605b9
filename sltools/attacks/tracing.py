"""Which layer its inputs meet first, found by running a network: its code may be anybody's."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from sltools import seeds

PROBES = 2


def first_layer_name(network: nn.Module, shape: Sequence[int]) -> str | None:
    """Name the convolution or dense layer that inputs of `shape` (C, H, W) meet first.

    None unless brighter inputs and weights that are smaller by the same factor, in each channel,
    give the same output: that is tried on random inputs.

    >>> from torch import nn
    >>> from sltools.attacks.tracing import first_layer_name
    >>> stem = nn.Conv2d(3, 8, 3)
    >>> first_layer_name(nn.Sequential(nn.Sequential(stem, nn.ReLU())), (3, 8, 8))
    '0.0'
    >>> first_layer_name(nn.Sequential(nn.Sigmoid(), stem), (3, 8, 8)) is None
    True
    """
    network = copy.deepcopy(network).eval()
    inputs = torch.rand(PROBES, *shape, generator=seeds.generator(0, "first layer"))
    names = {
        layer: name
        for name, layer in network.named_modules()
        if isinstance(layer, (nn.Conv2d, nn.Linear))
    }
    met: list[nn.Module] = []
    for layer in names:
        layer.register_forward_pre_hook(lambda layer, _: met.append(layer))
    with torch.no_grad():
        before = network(inputs)
        if not met or not _takes(met[0], shape):
            return None
        first = met[0]
        factors = torch.linspace(0.5, 0.9, shape[0]).view(1, -1, 1, 1)
        assert isinstance(first, (nn.Conv2d, nn.Linear))
        first.weight /= _for_weights(factors, first.weight, shape)
        after = network(inputs * factors)
    same = torch.allclose(before, after, rtol=1e-3, atol=1e-4 * before.abs().max().item())
    return names[first] if same else None


def _takes(layer: nn.Module, shape: Sequence[int]) -> bool:
    """Say whether a layer's weights have a place for each channel, or each pixel, of the inputs."""
    if isinstance(layer, nn.Conv2d):
        return layer.groups == 1 and layer.in_channels == shape[0]
    return isinstance(layer, nn.Linear) and layer.in_features == torch.Size(shape).numel()


def _for_weights(factors: Tensor, weight: Tensor, shape: Sequence[int]) -> Tensor:
    """Factors (1, C, 1, 1) in the shape of convolutional or dense weights."""
    return factors if weight.ndim == 4 else factors.expand(1, *shape).flatten(1)
