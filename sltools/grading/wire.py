"""What crosses the pipe between grader and submission: JSON and arrays, never pickle.

A message is a tree of tensors, numbers, texts, lists and dictionaries; the grader also sends
networks, architectures and views, as recipes that are rebuilt on the other side.
"""

import json
import struct
import tempfile
from collections.abc import Callable
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from sltools import storage
from sltools.checking.judging import DTYPES, INTEGERS
from sltools.errors import ExerciseError, SltoolsError
from sltools.models import Architecture
from sltools.view import View

HEADER = struct.Struct("!II")  # bytes of JSON, bytes of arrays
LIMITS = 2**22, 2**27  # of these
LENGTH = struct.Struct("<Q")  # bytes of safetensors' own header, with which the arrays begin
MAX_HEADER, MAX_TENSORS, MAX_DIMENSIONS = 2**20, 5000, 64


class WireError(ExerciseError):
    """What came through the pipe is no message, or something cannot be sent through it."""


class TooLarge(WireError):
    """A message is larger, or has more parts, than either side takes."""


def pack(message: Any) -> bytes:
    """Write a message as bytes; raise WireError if it cannot be sent, TooLarge if for its size."""
    tensors: dict[str, Tensor] = {}
    try:
        text = json.dumps(_fold(message, tensors)).encode()
        arrays = safetensors.torch.save(tensors)
        _check_arrays(arrays)
    except RecursionError:
        raise TooLarge("it is nested too deeply") from None
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise WireError(f"it cannot be sent: {error}") from None
    _within_limits((len(text), len(arrays)))
    return HEADER.pack(len(text), len(arrays)) + text + arrays


def receive(read: Callable[[int], bytes], recipes: bool = False) -> Any:
    """Read a message; `read(n)` returns the next n bytes.

    Without `recipes` it holds tensors and plain Python only, whatever the other side sends. Raises
    WireError if it is none, or larger than LIMITS.
    """
    lengths = HEADER.unpack(read(HEADER.size))
    _within_limits(lengths)
    text, arrays = (read(length) for length in lengths)
    try:
        _check_arrays(arrays)
        tensors = safetensors.torch.load(arrays)
        return _unfold(json.loads(text), tensors, _PLAIN | _RECIPES if recipes else _PLAIN)
    except (
        *(LookupError, TypeError, ValueError, AttributeError, RuntimeError, RecursionError),
        *(SafetensorError, SltoolsError),
    ) as error:
        raise WireError(f"it is no message: {error}") from None


def _within_limits(lengths: tuple[int, ...]) -> None:
    if any(length > limit for length, limit in zip(lengths, LIMITS, strict=True)):
        most = [limit // 2**20 for limit in LIMITS]
        raise TooLarge(f"it is larger than {most[0]} MiB of text or {most[1]} MiB of arrays")


def _check_arrays(arrays: bytes) -> None:
    """Raise TooLarge if decoding would cost more than the number of bytes tells."""
    (length,) = LENGTH.unpack(arrays[: LENGTH.size].ljust(LENGTH.size, b"\0"))
    if length > MAX_HEADER:
        raise TooLarge(f"the header of its arrays is larger than {MAX_HEADER // 2**10} KiB")
    header = json.loads(arrays[LENGTH.size : LENGTH.size + length])
    if len(header) > MAX_TENSORS:
        raise TooLarge(f"it holds more than {MAX_TENSORS} tensors")
    for facts in header.values():
        shape = facts["shape"]
        if len(shape) > MAX_DIMENSIONS or any(size > LIMITS[1] for size in shape):
            raise TooLarge("a tensor has too many dimensions or too large a one")


# ---- from values to a tree, in which every object that is no plain one is {kind: content} --------


def _fold(value: Any, tensors: dict[str, Tensor]) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_fold(k, tensors), _fold(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_fold(part, tensors) for part in value]}
    if isinstance(value, Architecture):
        return {"architecture": [value.layers, list(value.input_shape)]}
    if isinstance(value, nn.Sequential):
        state = _fold(value.state_dict(), tensors)
        return {"network": [Architecture.of(value).layers, value.training, state]}
    if isinstance(value, View):
        with tempfile.TemporaryDirectory() as folder:
            arrays, facts = storage.read(value.save(folder))
        return {"view": [json.dumps(facts), _fold(arrays, tensors)]}
    raise WireError(f"an object of type {type(value).__name__} cannot be sent")


# ---- and back ------------------------------------------------------------------------------------


def _unfold(tree: Any, tensors: dict[str, Tensor], kinds: dict[str, Callable[..., Any]]) -> Any:
    if isinstance(tree, dict):
        ((kind, content),) = tree.items()
        return kinds[kind](content, lambda part: _unfold(part, tensors, kinds), tensors)
    if isinstance(tree, list) or (isinstance(tree, int) and abs(tree) >= INTEGERS):
        raise ValueError("a list without a kind, or an integer of more than 64 bits")
    return tree


def _tensor(name: str, unfold: Any, tensors: dict[str, Tensor]) -> Tensor:
    tensor = tensors.pop(name)  # once: a message unfolds to no more than was sent
    if tensor.dtype not in DTYPES:
        raise ValueError(f"a tensor of {tensor.dtype}")
    return tensor


def _network(content: Any, unfold: Any, tensors: Any) -> nn.Sequential:
    layers, training, state = content
    return Architecture(layers).restore(unfold(state)).train(training)


def _view(content: Any, unfold: Any, tensors: Any) -> View:
    facts, arrays = content
    with tempfile.TemporaryDirectory() as folder:
        return View.open(storage.write(folder, unfold(arrays), json.loads(facts)))


_PLAIN: dict[str, Callable[..., Any]] = {
    "tensor": _tensor,
    "list": lambda parts, unfold, _: [unfold(part) for part in parts],
    "dict": lambda pairs, unfold, _: {unfold(key): unfold(value) for key, value in pairs},
}
_RECIPES: dict[str, Callable[..., Any]] = {
    "tuple": lambda parts, unfold, _: tuple(unfold(part) for part in parts),
    "network": _network,
    "view": _view,
    "architecture": lambda parts, *_: Architecture(parts[0], tuple(parts[1])),
}
