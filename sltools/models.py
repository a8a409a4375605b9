"""The paper's two networks, where to cut a network, and what "knowing the architecture" means."""

import inspect
import json
from collections import OrderedDict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from sltools import seeds
from sltools.errors import ModelError


def mnist_net(seed: int = 0) -> nn.Sequential:
    """Build the paper's network for (N, 1, 28, 28) images: 45,278 parameters, logits (N, 10).

    Layer by layer as `MnistNet` in the reference code. The initial weights come from the stream
    (`seed`, "victim").

    >>> import torch
    >>> from sltools import models
    >>> net = models.mnist_net(seed=0)
    >>> tuple(net(torch.zeros(5, 1, 28, 28)).shape)
    (5, 10)
    >>> sum(weights.numel() for weights in net.parameters())
    45278
    """
    with seeds.scope(seed, "victim"):
        return _sequential(
            conv1=nn.Conv2d(1, 8, 5),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(8, 16, 5),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(256, 120),
            relu3=nn.ReLU(),
            fc2=nn.Linear(120, 84),
            relu4=nn.ReLU(),
            fc3=nn.Linear(84, 10),
        )


def cifar_net(seed: int = 0) -> nn.Sequential:
    """Build the paper's network for (N, 3, 32, 32) images: logits (N, 10).

    Layer by layer as `CifarNet` in the reference code. The initial weights come from the stream
    (`seed`, "victim").

    >>> import torch
    >>> from sltools import models
    >>> net = models.cifar_net(seed=0)
    >>> tuple(net(torch.zeros(5, 3, 32, 32)).shape)
    (5, 10)
    """
    with seeds.scope(seed, "victim"):
        return _sequential(
            conv1=nn.Conv2d(3, 64, 3, padding=1),
            relu1=nn.ReLU(),
            conv2=nn.Conv2d(64, 64, 3, padding=1),
            relu2=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv3=nn.Conv2d(64, 128, 3, padding=1),
            relu3=nn.ReLU(),
            conv4=nn.Conv2d(128, 128, 3, padding=1),
            relu4=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            conv5=nn.Conv2d(128, 128, 3, padding=1),
            relu5=nn.ReLU(),
            conv6=nn.Conv2d(128, 128, 3, padding=1),
            relu6=nn.ReLU(),
            pool3=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc1=nn.Linear(2048, 512),
            sigmoid=nn.Sigmoid(),
            fc2=nn.Linear(512, 10),
        )


def for_images(shape: Sequence[int], seed: int = 0) -> nn.Sequential:
    """Return the paper's network for images of `shape` (..., C, H, W), or raise ModelError.

    >>> from sltools import data, models
    >>> digits = data.load("digits")
    >>> net = models.for_images(digits.train.images.shape, seed=1)
    >>> net.conv1
    Conv2d(1, 8, kernel_size=(5, 5), stride=(1, 1))
    """
    size = tuple(shape[-3:])
    builders = {(1, 28, 28): mnist_net, (3, 32, 32): cifar_net}
    if size not in builders:
        raise ModelError(
            f"the paper has no network for images of shape {size}; it has them for (1, 28, 28) and "
            "(3, 32, 32). Resize the images, or cut an nn.Sequential of your own."
        )
    return builders[size](seed)


def stages(net: nn.Sequential) -> list[str]:
    """Name the stages of `net`, in order: the places where it can be cut.

    >>> from sltools import models
    >>> models.stages(models.mnist_net())[:4]
    ['conv1', 'relu1', 'pool1', 'conv2']
    """
    return list(net._modules)  # named_children would pass over a layer that is used twice


def cut(net: nn.Sequential, at: str | Sequence[str]) -> tuple[nn.Sequential, ...]:
    """Cut `net` after the stage or stages named in `at`; the parts share its parameters.

    `at="pool1"` gives (client part, server part). `at=("pool1", "fc2")` gives the U-shape
    (client's front, server's middle, client's head). Any `nn.Sequential` can be cut; one without
    names has the stages "0", "1", ... Raises ModelError for an unknown stage, for stages out of
    order, for a cut that leaves a part empty or two parts with the same weights, and for a network
    that does more than call its stages in order, which its parts would not do.

    >>> import torch
    >>> from sltools import models
    >>> net, images = models.mnist_net(), torch.rand(2, 1, 28, 28)
    >>> client, server = models.cut(net, "pool1")
    >>> tuple(client(images).shape)  # what crosses the wire
    (2, 8, 12, 12)
    >>> bool((server(client(images)) == net(images)).all())
    True
    >>> front, middle, head = models.cut(net, ("pool1", "relu4"))
    >>> models.stages(head)
    ['fc3']
    """
    if not isinstance(net, nn.Sequential):
        raise ModelError(f"only an nn.Sequential can be cut, not a {type(net).__name__}")
    if not is_plain_sequential(net):
        raise ModelError(
            f"this {type(net).__name__} cannot be cut: it has a `forward` or hooks of its own, so "
            "it is more than its stages in order, and the parts would make another function. Put "
            "what it does besides into a stage, and remove hooks from the network as a whole"
        )
    known = stages(net)
    names: list[Any] = list(at) if isinstance(at, (list, tuple)) and at else [at]
    for name in names:
        if name not in known:
            raise ModelError(f"no stage is called {name!r}; the stages are {', '.join(known)}")
    edges = [0, *(known.index(name) + 1 for name in names), len(known)]
    if any(left >= right for left, right in zip(edges, edges[1:], strict=False)):
        raise ModelError(
            f"cutting after {' and '.join(names)} leaves a part empty; name stages in their order "
            f"({', '.join(known)}) and not the last one"
        )
    layers = list(net._modules.items())
    parts = tuple(
        _sequential(**dict(layers[left:right]))
        for left, right in zip(edges, edges[1:], strict=False)
    )
    if sum(len(list(part.parameters())) for part in parts) > len(list(net.parameters())):
        raise ModelError(
            f"cutting after {' and '.join(names)} leaves both sides with the same weights: the "
            "network uses a layer twice; cut where all uses of it are on one side"
        )
    return parts


def is_plain_sequential(net: nn.Module) -> bool:
    """Say whether calling `net` is calling its stages in order, and nothing else.

    >>> from torch import nn
    >>> from sltools import models
    >>> class Residual(nn.Sequential):
    ...     def forward(self, images):
    ...         return images + super().forward(images)
    >>> layers = nn.Conv2d(1, 1, 3, padding=1), nn.ReLU()
    >>> models.is_plain_sequential(nn.Sequential(*layers))
    True
    >>> models.is_plain_sequential(Residual(*layers))
    False
    """
    plain = isinstance(net, nn.Sequential) and type(net).forward is nn.Sequential.forward
    return plain and "forward" not in vars(net) and not any(getattr(net, name) for name in _HOOKS)


_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass(frozen=True)
class Architecture:
    """The shape of a network without its weights: what the paper's server knows of the client.

    `layers` is a JSON text; nothing learned can hide in it. `input_shape` is that of one sample.
    `build` makes a network of this shape with fresh weights.

    >>> from sltools import models
    >>> from sltools.models import Architecture
    >>> front, _ = models.cut(models.mnist_net(), "pool1")
    >>> known = Architecture.of(front, input_shape=(1, 28, 28))
    >>> known
    Architecture(conv1, relu1, pool1; 208 parameters, no weights)
    >>> clone = known.build(seed=7)
    >>> models.stages(clone) == models.stages(front)
    True
    >>> bool((clone.conv1.weight == front.conv1.weight).any())
    False
    """

    layers: str
    input_shape: tuple[int, ...] = ()

    @classmethod
    def of(cls, net: nn.Sequential, input_shape: Sequence[int] = ()) -> "Architecture":
        """Describe `net`, an nn.Sequential of torch.nn layers, or raise ModelError."""
        described = cls(json.dumps(_describe(net)), tuple(input_shape))
        lazy = any(is_lazy(weight) for weight in net.parameters())
        if lazy or _weight_shapes(described._empty()) != _weight_shapes(net):
            raise ModelError(
                "the architecture cannot be described: one of the layers was altered after it was "
                "made, shares its weights with another, or has none yet"
            )
        return described

    @classmethod
    def from_callable(
        cls, builder: Callable[[], nn.Module], input_shape: Sequence[int]
    ) -> "Architecture":
        """Describe a network of any layers by what makes it: `builder()`, called for each clone.

        It must return another network each time, with fresh weights of torch's random numbers, and
        is part of no file: a view that is saved with it cannot be asked for it later. Raises
        ModelError for a builder that fails, returns no network, or the same weights twice: a clone
        that began as the victim would be no theft.

        >>> from torch import nn
        >>> from sltools.models import Architecture
        >>> class Residual(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.conv = nn.Conv2d(1, 1, 3, padding=1)
        ...     def forward(self, images):
        ...         return images + self.conv(images)
        >>> Architecture.from_callable(Residual, input_shape=(1, 28, 28))
        Architecture(Residual; 10 parameters, no weights)
        """
        described = _BuiltArchitecture("", tuple(input_shape), builder)
        one, other = (dict(described.build(seed, "fresh").named_parameters()) for seed in range(2))
        if stale := [name for name, weight in one.items() if _is_stale(weight, other.get(name))]:
            raise ModelError(
                f"{_name_of(builder)} returns the same weights each time ({stale[0]}); it must "
                "build a fresh network, without weights of a file and without a seed of its own"
            )
        return described

    def build(self, seed: int, purpose: str = "clone") -> nn.Sequential:
        """Make the network with initial weights from the stream (`seed`, `purpose`)."""
        with seeds.scope(seed, purpose):
            return self._construct()

    def _construct(self) -> nn.Sequential:
        network: nn.Sequential = _construct(json.loads(self.layers))
        return network

    def restore(
        self, state: dict[str, torch.Tensor], training: Collection[str] = ()
    ) -> nn.Sequential:
        """Make the network with the weights of `state`; raise RuntimeError if they do not fit.

        Its layers named in `training` are in training mode, all others in evaluation mode. It is
        described before it is filled: a damaged description asks for no memory.
        """
        with torch.device("meta"):
            network = self.build(seed=0)
        network.load_state_dict(state, assign=True)
        for name, layer in network.named_modules(remove_duplicate=False):
            layer.training = name in training
        return network

    @property
    def parameter_count(self) -> int:
        """How many weights and biases such a network has."""
        return sum(parameter.numel() for parameter in self._empty().parameters())

    def _empty(self) -> nn.Sequential:
        """Make the network with weights that have a shape but no values."""
        with torch.device("meta"):
            return self._construct()

    @property
    def _names(self) -> str:
        return ", ".join(name for name, *_ in json.loads(self.layers)[1])

    def __repr__(self) -> str:
        return f"Architecture({self._names}; {self.parameter_count:,} parameters, no weights)"


@dataclass(frozen=True, repr=False)
class _BuiltArchitecture(Architecture):
    """What `Architecture.from_callable` returns."""

    builder: Callable[[], nn.Module] = nn.Identity

    def _construct(self) -> nn.Sequential:
        try:
            network = self.builder()
        except Exception as error:  # the user's own code, of which nothing is known
            raise ModelError(
                f"{_name_of(self.builder)} cannot build a network: {type(error).__name__}: {error}"
            ) from None
        if not isinstance(network, nn.Module):
            raise ModelError(
                f"{_name_of(self.builder)} must return a torch.nn.Module, not a "
                f"{type(network).__name__}"
            )
        return as_sequential(network)

    def _empty(self) -> nn.Sequential:
        return self.build(seed=0)  # what a foreign layer does on the meta device is its own affair

    @property
    def _names(self) -> str:
        return ", ".join(type(layer).__name__ for layer in self._empty())


def _is_stale(weight: nn.Parameter, other: nn.Parameter | None) -> bool:
    """Say whether two builds share a weight, or begin it with the same numbers (not all alike)."""
    if is_lazy(weight):
        raise ModelError("a layer has no weights before it has met an input: give it its size")
    if other is None or weight.shape != other.shape:
        return False
    varied = bool((weight != weight.flatten()[0]).any())
    return weight is other or (varied and torch.equal(weight, other))


def as_sequential(net: nn.Module) -> nn.Sequential:
    """Return `net` if calling it is calling its stages in order, else a network of one stage.

    >>> from torch import nn
    >>> from sltools import models
    >>> models.stages(models.as_sequential(nn.Bilinear(2, 2, 1)))
    ['network']
    """
    if isinstance(net, nn.Sequential) and is_plain_sequential(net):
        return net
    return nn.Sequential(OrderedDict(network=net))


def _name_of(builder: Callable[[], nn.Module]) -> str:
    return getattr(builder, "__qualname__", repr(builder))


def _sequential(**layers: nn.Module) -> nn.Sequential:
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net


def _weight_shapes(net: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, weight.shape) for name, weight in net.named_parameters()]


def _describe(module: nn.Module) -> list[Any]:
    """Return [class name, arguments], where a Sequential's arguments are [name, layer] pairs."""
    kind = type(module).__name__
    if getattr(nn, kind, None) is not type(module):
        raise ModelError(
            f"the layer {kind} is not from torch.nn, so its architecture cannot be described; "
            "use an nn.Sequential of torch.nn layers"
        )
    if "forward" in vars(module):
        raise ModelError(
            f"the architecture of {kind} cannot be described: its `forward` was replaced; write a "
            "layer of its own for what it does"
        )
    if isinstance(module, nn.Sequential):
        return [kind, [[name, _describe(layer)] for name, layer in module._modules.items()]]
    wanted = _arguments(type(module))
    arguments = {name: getattr(module, name) for name in wanted if hasattr(module, name)}
    for name, parameter in wanted.items():
        # A default of None is one that another argument stands for, as Hardtanh's `min_value`.
        if name not in arguments and parameter.default is not None:
            raise ModelError(f"the architecture of {kind} cannot be read: it keeps no {name!r}")
    if "bias" in arguments:
        arguments["bias"] = arguments["bias"] is not None
    try:
        json.dumps(arguments)
    except TypeError as error:
        raise ModelError(f"the architecture of {kind} cannot be written down: {error}") from None
    return [kind, arguments]


def _arguments(kind: type) -> dict[str, inspect.Parameter]:
    """What a layer is made from; where its weights lie, and how precise they are, is not of it."""
    return {
        name: parameter
        for name, parameter in inspect.signature(kind).parameters.items()
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD and name not in ("device", "dtype")
    }


def _construct(description: list[Any]) -> Any:
    kind, arguments = description
    layer = getattr(nn, kind, None)
    if not (isinstance(layer, type) and issubclass(layer, nn.Module)):
        raise ModelError(f"{kind!r} is not a layer of torch.nn; the description is corrupt")
    if issubclass(layer, nn.Sequential):
        return _sequential(**{name: _construct(part) for name, part in arguments})
    if unknown := arguments.keys() - _arguments(layer).keys():
        raise ModelError(f"a {kind} is not made from {min(unknown)!r}; the description is corrupt")
    try:
        return layer(**{name: _tupled(value) for name, value in arguments.items()})
    except Exception as error:  # what a layer raises at senseless arguments is its own affair
        raise ModelError(f"no {kind} can be made from its description: {error}") from None


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
