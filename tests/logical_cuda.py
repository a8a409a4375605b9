"""A logical CUDA device: what can be shown of code for a GPU on a machine that has none.

    with logical_cuda.device():
        network.to("cuda")(images)  # RuntimeError: these are on two devices, cuda:0 and cpu

Everything is computed on the CPU. Each tensor is tagged with the device it was made on or moved to,
and says that it is there. What a GPU would refuse is refused: operands on two devices (a number,
which is a tensor without axes, may come from the CPU), numpy of what is on the GPU, and a generator
of the CPU that draws there.

It cannot see: kernels, their rounding and their speed; memory; streams and what runs late; captured
graphs and compiled code; generators of the GPU, which cannot be made; hooks of a backward pass and
other threads, where no mode of torch reaches; assignments by index, which may take values from the
CPU or may not; and pickled tensors, which come back on the CPU.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch._functorch import vmap
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

CPU, CUDA = torch.device("cpu"), torch.device("cuda:0")
_ASKED = {
    Tensor.device.__get__: lambda device: device,  # type: ignore[attr-defined]
    Tensor.is_cuda.__get__: lambda device: device == CUDA,  # type: ignore[attr-defined]
    Tensor.is_cpu.__get__: lambda device: device == CPU,  # type: ignore[attr-defined]
    Tensor.get_device: lambda device: 0 if device == CUDA else -1,
}
_TO_NUMPY = (Tensor.numpy, Tensor.__array__)
_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
# These take tensors of two devices: for their shape, to copy them, in one graph, or as indices.
_MIXED = {
    "__getitem__", "__setitem__", "_has_compatible_shallow_copy_type", "_make_subclass", "backward",
    "copy_", "expand_as", "grad", "reshape_as", "view_as",
}  # fmt: skip


class _Logical(TorchFunctionMode):
    """Tags tensors with their device, and refuses what a GPU would refuse."""

    def __init__(self) -> None:
        super().__init__()
        self._on_cuda = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> torch.device:
        """The device that `tensor` is tagged with."""
        return CUDA if tensor in self._on_cuda else CPU

    def tag(self, found: Any, device: torch.device) -> Any:
        """Tag all tensors in `found`, and return it."""

        def put(tensor: Tensor) -> Tensor:
            if device == CUDA:
                self._on_cuda[tensor] = True
            else:
                self._on_cuda.pop(tensor, None)
            return tensor

        return tree_map_only(Tensor, put, found)

    def asked(
        self, args: Sequence[Any], kwargs: dict[str, Any]
    ) -> tuple[torch.device | None, list[Any], dict[str, Any]]:
        """The device that arguments of `to` ask for, and these with the CPU in its place."""
        device, kwargs = _take_device(kwargs)
        plain = []
        for value in args:
            if isinstance(value, (str, torch.device)):
                device, value = _known(value), CPU
            elif isinstance(value, Tensor):
                device = self.of(value)
            plain.append(value)
        return device, plain, kwargs

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if func in _ASKED:
            return _ASKED[func](self.of(args[0]))
        if func == _SET_DATA:
            self.tag(args[0], self.of(args[1]))
            return func(*args)
        if func in _TO_NUMPY and self.of(args[0]) == CUDA:
            raise TypeError("can't convert cuda:0 device type tensor to numpy: use Tensor.cpu()")
        if func in (Tensor.to, Tensor.cuda, Tensor.cpu):
            return self._moved(func, args, kwargs)
        asked, kwargs = _take_device(kwargs)
        tensors = [value for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)]
        if getattr(func, "__name__", "") in ("__getitem__", "__setitem__"):
            self._check_indices(args[0], args[1])
        device = asked or self._common_device(func, tensors)
        if device == CUDA and kwargs.get("generator") is not None:
            raise RuntimeError("Expected a 'cuda' device type for generator but found 'cpu'")
        return self.tag(func(*args, **kwargs), device)

    def _common_device(self, func: Callable[..., Any], tensors: list[Tensor]) -> torch.device:
        """The device of `tensors`; raise RuntimeError if there are two that `func` cannot take."""
        name = getattr(func, "__name__", "")
        if name in ("__get__", "__set__"):  # of an attribute
            name = func.__self__.__name__  # type: ignore[attr-defined]
        devices = [self.of(tensor) for tensor in tensors] or [CPU]
        whole = [self.of(tensor) for tensor in tensors if tensor.ndim > 0]
        if name in _MIXED:
            return devices[0]
        if CUDA in devices and CPU in whole:
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but {name} found two: cuda:0, cpu"
            )
        return CUDA if CUDA in devices else CPU

    def _check_indices(self, tensor: Tensor, indices: Any) -> None:
        found = [value for value in tree_flatten(indices)[0] if isinstance(value, Tensor)]
        if self.of(tensor) == CPU and any(self.of(index) == CUDA for index in found):
            raise RuntimeError("indices should be either on cpu or on the same device (cpu)")

    def _moved(self, func: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        tensor, *rest = args
        if func is not Tensor.to:
            rest, kwargs = [CUDA if func is Tensor.cuda else CPU], {}
        asked, plain, kwargs = self.asked(rest, kwargs)
        target = asked or self.of(tensor)
        moved = tensor.to(*plain, **kwargs) if plain or kwargs else tensor
        if moved is tensor:
            if target == self.of(tensor):
                return tensor
            moved = tensor.clone()
        return self.tag(moved, target)


def _known(name: Any) -> torch.device:
    device = torch.device(name)
    return CUDA if device.type == "cuda" else device


def _take_device(kwargs: dict[str, Any]) -> tuple[torch.device | None, dict[str, Any]]:
    """The device that is asked for by name, and the arguments with the CPU in its place."""
    if kwargs.get("device") is None:
        return None, kwargs
    asked = _known(kwargs["device"])
    return asked, kwargs | {"device": CPU if asked == CUDA else asked}


@contextmanager
def device() -> Iterator[None]:
    """Have a logical CUDA device: torch says that there is one, and tensors can be moved to it."""
    logical = _Logical()
    new, parse = nn.Parameter.__new__, torch._C._nn._parse_to  # type: ignore[attr-defined]

    def parameter(cls: Any, data: Any = None, requires_grad: bool = True) -> Any:
        made = new(cls, data, requires_grad)
        return logical.tag(made, logical.of(data)) if isinstance(data, Tensor) else made

    def parsed(*args: Any, **kwargs: Any) -> Any:
        """What `nn.Module.to` was asked for, which C++ looks at."""
        asked, plain, kwargs = logical.asked(args, kwargs)
        _, *others = parse(*plain, **kwargs)
        return (asked, *others)

    def same(name: str) -> Callable[..., Any]:
        """A step of `vmap` that C++ takes, which leaves the device as it was."""
        step = getattr(vmap, name)

        def wrapped(tensor: Any, *args: Any) -> Any:
            found = step(tensor, *args)
            is_new = isinstance(found, Tensor) and isinstance(tensor, Tensor)
            return logical.tag(found, logical.of(tensor)) if is_new else found

        return wrapped

    with (
        mock.patch.object(nn.Parameter, "__new__", parameter),
        mock.patch.object(torch._C._nn, "_parse_to", parsed),
        mock.patch.object(vmap, "_add_batch_dim", same("_add_batch_dim")),
        mock.patch.object(vmap, "_remove_batch_dim", same("_remove_batch_dim")),
        mock.patch.object(torch.cuda, "is_available", lambda: True),
        mock.patch.object(torch.cuda, "get_device_name", lambda *_: "logical"),
        mock.patch.object(torch.cuda, "synchronize", lambda *_: None),
        logical,
    ):
        yield
