"""Networks in files: layers, weights, buffers and modes, or the reason why they are not there.

Only networks that can be described in `torch.nn` layers are written, for to open any other would
run code. What else is in the file does not depend on that.
"""

import copy
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from sltools import storage
from sltools.errors import ModelError
from sltools.models import Architecture


@dataclass(frozen=True)
class Unsaved:
    """Stands where there was a network that could not be described, and says why."""

    reason: str

    def __str__(self) -> str:
        return self.reason


Network = nn.Sequential | Unsaved


def pack(name: str, network: Network) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Split a network into tensors, called `name`/..., and JSON-able facts, for a file."""
    if isinstance(network, Unsaved):
        return {}, {"unsaved": network.reason}
    try:
        layers = Architecture.of(network).layers
    except ModelError as error:
        return {}, {"unsaved": str(error)}
    state, training = _state_and_modes(network)
    tensors = {f"{name}/{key}": value for key, value in state.items()}
    return tensors, {"layers": layers, "training": training}


def unpack(name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> Network:
    """Undo `pack`; a file of an earlier release, without modes, gives evaluation mode.

    Raises LookupError, RuntimeError or ModelError for damaged facts or tensors.
    """
    if "unsaved" in facts:
        return Unsaved(facts["unsaved"])
    state = storage.with_prefix(f"{name}/", tensors)
    return Architecture(facts["layers"]).restore(state, facts.get("training", ()))


def pack_architecture(value: Architecture | Unsaved | None) -> Any:
    """Return JSON-able facts of an architecture, or of why there is none."""
    if isinstance(value, Unsaved):
        return {"unsaved": value.reason}
    if value and not value.layers:
        return {"unsaved": "it is known by the callable that builds it, which no file holds"}
    return value and [value.layers, value.input_shape]


def unpack_architecture(fact: Any) -> Architecture | Unsaved | None:
    """Undo `pack_architecture`; raise LookupError, TypeError or ValueError for damaged facts."""
    if isinstance(fact, dict):
        return Unsaved(str(fact["unsaved"]))
    if not fact:
        return None
    layers, input_shape = fact
    return Architecture(layers, tuple(input_shape))


KINDS = {  # by the class that opens it: a name that only such a folder has, and what it holds
    "View": ("messages", "a view"),
    "SurrogateResult": ("decoder architecture", "what an attacker with data found"),
    "InversionResult": ("feature_loss", "an inversion result"),
    "LabelResult": ("counts_at_least", "a label result"),
}


def other_kind(expected: str, tensors: Collection[str], facts: Any) -> str:
    """Say what a folder holds that does not open as `expected`, or "" if it holds nothing else.

    >>> from sltools import saved
    >>> saved.other_kind("InversionResult", [], {"party": "server", "messages": []})
    'it holds a view: open it with View.open'
    """
    names = {*tensors, *(facts if isinstance(facts, dict) else ())}  # a damaged file may hold any
    for kind, (name, what) in KINDS.items():
        if kind != expected and name in names:
            return f"it holds {what}: open it with {kind}.open"
    return ""


def without_sample_gradients(network: nn.Sequential) -> nn.Sequential:
    """Copy `network` without the hooks that opacus sets for DP-SGD.

    They belong to the training: no inputs could be searched under a copy that has them.
    """
    copied = copy.deepcopy(network)
    if not hasattr(network, "autograd_grad_sample_hooks"):
        return copied
    bare = Architecture.of(network).restore(*_state_and_modes(copied))
    for name, weight in bare.named_parameters():
        weight.requires_grad_(network.get_parameter(name).requires_grad)
    return bare


def _state_and_modes(network: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """The weights and buffers of `network`, and the names of its parts in training mode."""
    parts = network.named_modules(remove_duplicate=False)
    return network.state_dict(), [name for name, part in parts if part.training]
