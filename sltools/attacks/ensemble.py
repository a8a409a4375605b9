"""Several networks of one architecture, run and trained as one batched network."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from sltools.attacks.pixels import InputRange
from sltools.attacks.tracing import first_layer_name
from sltools.errors import ModelError
from sltools.models import Architecture


class Ensemble:
    """E networks of one architecture whose weights are stacked along a leading axis.

    Called with (E, N, ...) pixels, one batch for each network, it returns (E, N, ...); the networks
    are given what pixels are in their `input_range`, by default the same. On a CPU
    thread, six of these small networks and their gradients take about half of the time of six
    separate calls.

    Networks with layers of other than `torch.nn` are called one after the other, for not all code
    can be batched.

    All are in evaluation mode. The running mean of a normalisation without weights of its own is
    among the `weights`: a clone begins with 0, and where the layer before it has no bias nothing
    else could take its place. (For its variance the weights of the layer before it can make up.)

    >>> import torch
    >>> from sltools import models
    >>> from sltools.attacks.ensemble import Ensemble
    >>> fronts = [models.cut(models.mnist_net(seed), "pool1")[0] for seed in range(3)]
    >>> together = Ensemble(fronts)
    >>> images = torch.rand(3, 5, 1, 28, 28)  # five for each network
    >>> tuple(together(images).shape)
    (3, 5, 8, 12, 12)
    >>> torch.allclose(together(images)[2], fronts[2](images[2]), atol=1e-5)
    True
    """

    def __init__(
        self, networks: Sequence[nn.Sequential], input_range: InputRange | None = None
    ) -> None:
        self.size = len(networks)
        self.input_range = input_range or InputRange()
        self._template = copy.deepcopy(networks[0]).eval()
        self._network = _searchable(copy.deepcopy(self._template))
        stacked, self._buffers = stack_module_state([network.eval() for network in networks])
        for name, layer in self._network.named_modules():
            if isinstance(layer, _LearnableMeanNorm):
                mean = f"{name}.running_mean"
                stacked[mean] = self._buffers.pop(mean)
        self._weights = {name: weight.detach().requires_grad_() for name, weight in stacked.items()}
        self._described = _is_described(networks[0])
        self._first: dict[tuple[int, ...], str | None] = {}

    @property
    def weights(self) -> list[Tensor]:
        """The stacked weights, each (E, ...)."""
        return list(self._weights.values())

    def __call__(self, inputs: Tensor) -> Tensor:
        seen = self.input_range.inputs(inputs)
        if self._described:
            return vmap(self._apply)(self._weights, self._buffers, seen)
        return torch.stack([
            self._apply(_row(self._weights, i), _row(self._buffers, i), one)
            for i, one in enumerate(seen)
        ])  # fmt: skip

    def _apply(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(self._network, (weights, buffers), (one,))

    def set_leak(self, slope: float) -> None:
        """Let each ReLU pass its negative inputs times `slope`, so that a dead one can recover."""
        for layer in self._network.modules():
            if isinstance(layer, _LeakyReLU):
                layer.negative_slope = slope

    def first_layer(self, shape: Sequence[int] = ()) -> Tensor | None:
        """The stacked weights that the inputs meet first, (E, ...).

        None unless that is a convolution, not in groups, or a dense layer that meets all pixels.
        With layers of other than `torch.nn`, inputs of `shape` (C, H, W) tell which it is.
        """
        if not self._described:
            return self._traced_first_layer(tuple(shape))
        flat = False
        for name, layer in self._template.named_children():
            if isinstance(layer, nn.Linear if flat else nn.Conv2d):
                return self._weights[f"{name}.weight"] if getattr(layer, "groups", 1) == 1 else None
            if not isinstance(layer, nn.Flatten) or (layer.start_dim, layer.end_dim) != (1, -1):
                break
            flat = True
        return None

    def _traced_first_layer(self, shape: tuple[int, ...]) -> Tensor | None:
        if shape not in self._first:
            self._first[shape] = first_layer_name(self.member(0).cpu(), shape)
        name = self._first[shape]
        return None if name is None else self._weights[f"{name}.weight"]

    def member(self, index: int) -> nn.Sequential:
        """Return a copy of one network."""
        network = copy.deepcopy(self._template)
        state = {name: value[index].detach() for name, value in self._weights.items()}
        state |= {name: value[index] for name, value in self._buffers.items()}
        network.load_state_dict(state)
        return network


def _row(stacked: dict[str, Tensor], index: int) -> dict[str, Tensor]:
    """What one of the networks has of all that is stacked."""
    return {name: values[index] for name, values in stacked.items()}


def _is_described(network: nn.Sequential) -> bool:
    """Say whether `network` is made of layers of `torch.nn` alone."""
    try:
        Architecture.of(network)
    except ModelError:
        return False
    return True


class _LeakyReLU(nn.LeakyReLU):
    """Stands where a network has a ReLU. With slope 0 it is one."""


class _LearnableMeanNorm(nn.Module):
    """Stands where a network has a normalisation without weights; its mean can be searched for."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self.eps: float = layer.eps
        for name, buffer in layer.named_buffers():
            self.register_buffer(name, buffer)

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalise inputs (N, C, ...) as the layer does in evaluation mode."""
        mean, deviation = self.running_mean, (self.running_var + self.eps).sqrt()
        along = (1, -1, *[1] * (inputs.ndim - 2))
        return (inputs - mean.view(along)) / deviation.view(along)


def _searchable(network: nn.Sequential) -> nn.Sequential:
    """Replace, in place, the layers that would hold a search up."""
    for parent in list(network.modules()):
        for name, layer in parent.named_children():
            if type(layer) is nn.ReLU:
                setattr(parent, name, _LeakyReLU(0.0))
            if getattr(layer, "running_mean", None) is not None and layer.weight is None:
                setattr(parent, name, _LearnableMeanNorm(layer))
    return network
