"""How two hosts begin: each says what it will send, which is what it may send."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from sltools import __version__, devices, saved
from sltools.errors import ProtocolError
from sltools.hosts.frames import DTYPES, FORMAT, LIMIT, Note, NoteRule, name_of
from sltools.models import Architecture
from sltools.protocol.training import Weights
from sltools.saved import Unsaved

GREETING = 2**20  # bytes
PER_TENSOR = 1024  # bytes that a tensor's name and shape may take beside its values


@dataclass(frozen=True)
class Kind:
    """The dtype and the shape of one sample of what is sent in batches, or of a whole tensor."""

    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, tensor: Tensor) -> "Kind":
        """The kind of a whole tensor."""
        return cls(name_of(tensor.dtype), tuple(tensor.shape))

    @classmethod
    def read(cls, fact: Any) -> "Kind":
        """Undo `fact`; raise ValueError or LookupError if it is none."""
        dtype, shape = fact
        if dtype not in DTYPES or not all(type(side) is int and side >= 0 for side in shape):
            raise ValueError("no tensor")
        return cls(dtype, tuple(shape))

    @property
    def fact(self) -> list[Any]:
        """What JSON holds of it."""
        return [self.dtype, self.shape]

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize

    def sample(self) -> "Kind":
        """The kind of one sample of a batch of this kind."""
        return Kind(self.dtype, self.shape[1:])


@dataclass(frozen=True)
class Hello:
    """What a client says of itself: nothing of its data but how many there are.

    `front` and `head` are its architectures, which the server of the paper knows; `layers` what
    weights it has, without their values.
    """

    samples: int
    private: bool
    smashed: Kind
    layers: dict[str, Kind]
    front: Architecture | Unsaved | None
    head: Architecture | Unsaved | None

    def note(self) -> Note:
        """Make the note that tells it."""
        facts = {
            **_versions(),
            "samples": self.samples,
            "private": self.private,
            "smashed": self.smashed.fact,
            "layers": {name: kind.fact for name, kind in self.layers.items()},
            "front": saved.pack_architecture(self.front),
            "head": saved.pack_architecture(self.head),
        }
        return Note.of("hello", facts)

    @classmethod
    def read(cls, note: Note, peer: str) -> "Hello":
        """Undo `note`; raise ProtocolError for another version, or a hello that makes no sense."""
        facts = _same_version(note, peer)
        try:
            hello = cls(
                facts["samples"],
                facts["private"] is True,
                Kind.read(facts["smashed"]),
                {name: Kind.read(kind) for name, kind in facts["layers"].items()},
                saved.unpack_architecture(facts["front"]),
                saved.unpack_architecture(facts["head"]),
            )
            total = sum(kind.size for kind in hello.layers.values())
            if type(hello.samples) is not int or hello.samples < 1:
                raise ValueError("no samples")
            if max(total, hello.smashed.size) > LIMIT:
                raise ValueError(f"more than {LIMIT:,} bytes")
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            raise ProtocolError(f"{peer} sent a greeting that makes no sense: {error}") from None
        return hello


@dataclass(frozen=True)
class Welcome:
    """What a server says: the client's number, from 0, and a sample of what it will answer."""

    client: int
    output: Kind

    def note(self) -> Note:
        """Make the note that tells it."""
        return Note.of(
            "welcome", {**_versions(), "client": self.client, "output": self.output.fact}
        )

    @classmethod
    def read(cls, note: Note, peer: str) -> "Welcome":
        """Undo `note`; raise ProtocolError for another version, or one that makes no sense."""
        facts = _same_version(note, peer)
        try:
            welcome = cls(facts["client"], Kind.read(facts["output"]))
            if type(welcome.client) is not int or not 0 <= welcome.client < 2**31:
                raise ValueError("no number")
        except (LookupError, TypeError, ValueError) as error:
            raise ProtocolError(f"{peer} sent a greeting that makes no sense: {error}") from None
        return welcome


def _versions() -> dict[str, Any]:
    return {"format": FORMAT, "version": __version__}


def _same_version(note: Note, peer: str) -> dict[str, Any]:
    facts = note.facts
    if facts.get("format") != FORMAT:
        raise ProtocolError(
            f"{peer} has another version of sltools ({str(facts.get('version'))[:20]!r}, format "
            f"{str(facts.get('format'))[:20]}; here {__version__!r}, format {FORMAT}): install the "
            "same on both hosts"
        )
    return facts


def trial(part: nn.Sequential, kind: Kind) -> Kind:
    """Return what `part` makes of a sample; it stays as it is. Raise ProtocolError if it cannot."""
    modes = {module: module.training for module in part.modules()}
    zeros = torch.zeros(1, *kind.shape, dtype=DTYPES[kind.dtype], device=devices.of(part))
    try:
        with torch.no_grad():
            return Kind.of(part.eval()(zeros)).sample()
    except (RuntimeError, ValueError) as error:
        raise ProtocolError(
            f"the {kind.dtype} {kind.shape} of a sample do not fit the next layers, so the hosts "
            f"cut elsewhere or have other data: {error}"
        ) from None
    finally:
        for module, mode in modes.items():
            module.training = mode


def weights_rule(kind: str, layers: dict[str, Kind]) -> NoteRule:
    """How large a note may be that brings the values of `layers`."""
    return NoteRule(kind, sum(layer.size + PER_TENSOR for layer in layers.values()) + PER_TENSOR)


def pack_weights(kind: str, weights: Weights) -> Note:
    """Make a note of weights and buffers (safetensors)."""
    return Note(kind, save({name: value.cpu().contiguous() for name, value in weights.items()}))


def unpack_weights(note: Note, layers: dict[str, Kind], peer: str) -> Weights:
    """Undo `pack_weights`; raise ProtocolError unless they are those of `layers`, and numbers."""
    try:
        weights = load(note.body)
    except (SafetensorError, ValueError, LookupError) as error:
        raise ProtocolError(f"{peer} sent weights that cannot be read: {error}") from None
    found = {name: Kind.of(value) for name, value in weights.items()}
    if found != layers:
        raise ProtocolError(f"{peer} sent weights of other layers than it announced")
    if not all(bool(torch.isfinite(value).all()) for value in weights.values()):
        raise ProtocolError(f"{peer} sent weights that are no numbers")
    return weights
