"""What crosses between hosts, as bytes: JSON facts, then the raw values of a tensor.

An item is a `Message` of the protocol or a `Note` of those who run it. The first frame says what
comes and how long it is. Whoever receives it compares that with what may come now, and takes memory
for it afterwards. Nothing is unpickled.
"""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sltools.errors import ProtocolError
from sltools.messages import Message
from sltools.relay import FRAME, HEAD, raw

FORMAT = 1  # of these frames and of the order of the notes: both parties must have the same
LIMIT = 2**28  # bytes of the largest payload
DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
}


@dataclass(frozen=True)
class Note:
    """What the two hosts tell each other about the run; no message of split learning.

    >>> from sltools.hosts.frames import Note
    >>> Note("stop", b"Ctrl-C")
    Note(kind='stop', body=b'Ctrl-C')
    """

    kind: str
    body: bytes = b""

    @classmethod
    def of(cls, kind: str, facts: dict[str, Any]) -> "Note":
        """Make a note of JSON-able facts."""
        return cls(kind, json.dumps(facts).encode())

    @property
    def facts(self) -> dict[str, Any]:
        """Its JSON facts; raises ProtocolError if it holds none."""
        return _json(self.body)


@dataclass(frozen=True)
class NoteRule:
    """A note that may come now, of at most `limit` bytes."""

    kind: str
    limit: int = 0

    def objection(self, facts: dict[str, Any], size: int) -> str:
        """Say what is wrong with an announced item, or "" if it may come."""
        if facts.get("note") != self.kind:
            return f"not {self}"
        return f"of {size:,} bytes, more than {self.limit:,}" if size > self.limit else ""

    def __str__(self) -> str:
        return f"the note {self.kind!r}"


@dataclass(frozen=True)
class MessageRule:
    """A message that may come now: its place in the run, its dtype and the shape of a sample.

    `samples` is the size of its batch, None if that is for the sender to say.
    """

    kind: str
    step: int
    batch: int
    phase: str
    dtype: str
    shape: tuple[int, ...]
    samples: int | None = None

    def objection(self, facts: dict[str, Any], size: int) -> str:
        """Say what is wrong with an announced item, or "" if it may come."""
        place = {name: getattr(self, name) for name in ("kind", "step", "batch", "phase")}
        if facts.get("kind") != self.kind or any(facts[name] != place[name] for name in place):
            return f"not {self}"
        batch, *shape = facts["shape"] or (0,)
        if facts["dtype"] != self.dtype or tuple(shape) != self.shape or batch < 1:
            return f"of {facts['dtype']} {_shape(facts)}, not {self.dtype} {self._batches()}"
        if self.samples is not None and batch != self.samples:
            return f"for {batch} samples, not {self.samples}"
        return f"of {size:,} bytes, more than {LIMIT:,}" if size > LIMIT else ""

    def _batches(self) -> str:
        return f"({', '.join(map(str, ('N', *self.shape)))})"

    def __str__(self) -> str:
        return f"{self.kind} of step {self.step} ({self.phase})"


@dataclass(frozen=True)
class Announced:
    """What a first frame says: the facts, the size of the payload, and where it begins."""

    facts: dict[str, Any]
    size: int
    start: bytes

    @property
    def note(self) -> str | None:
        """The kind of a note, None for a message."""
        return self.facts.get("note")

    def check(self, *rules: NoteRule | MessageRule) -> None:
        """Raise ProtocolError unless one of `rules` allows this item."""
        objections = [rule.objection(self.facts, self.size) for rule in rules]
        if "" in objections:
            return
        closer = [text for text in objections if not text.startswith("not ")]
        what = closer[0] if closer else f"out of turn: due was {' or '.join(map(str, rules))}"
        raise ProtocolError(f"{self}, {what}")

    def item(self, payload: Tensor) -> Message | Note:
        """Make the item of its payload, uint8 of `size`."""
        if self.note is not None:
            return Note(self.note, payload.numpy().tobytes())
        values = payload.view(DTYPES[self.facts["dtype"]]).reshape(self.facts["shape"])
        place = {name: self.facts[name] for name in ("step", "batch", "kind", "phase")}
        return Message(payload=values, **place)

    def __str__(self) -> str:
        if self.note is not None:
            return f"the note {self.note!r}"
        return "{kind} of step {step} ({phase})".format(**self.facts)


def encode(item: Message | Note) -> tuple[bytes, memoryview]:
    """Return the first frame of an item and what is left of its payload.

    Raises ProtocolError for a tensor that no frame can carry.

    >>> import torch
    >>> from sltools.hosts.frames import decode, encode
    >>> from sltools.messages import Message
    >>> frame, rest = encode(Message(0, 0, "smashed", torch.ones(2, 8, 12, 12)))
    >>> announced = decode(frame)
    >>> len(frame), announced.size - len(announced.start) == len(rest)
    (4096, True)
    >>> print(announced)
    smashed of step 0 (training)
    """
    if isinstance(item, Note):
        facts: dict[str, Any] = {"note": item.kind}
        payload = memoryview(item.body)
    else:
        values = item.payload.cpu().contiguous()
        facts = {name: getattr(item, name) for name in ("kind", "step", "batch", "phase")}
        facts |= {"dtype": name_of(values.dtype), "shape": list(values.shape)}
        payload = raw(values.flatten().view(torch.uint8))
    if len(payload) > LIMIT:
        raise ProtocolError(
            f"{item} is larger than the {LIMIT:,} bytes of a payload: use smaller batches"
        )
    text = json.dumps(facts).encode()
    room = FRAME - HEAD.size - len(text)
    if room < 0:
        raise ProtocolError(f"{item} has too many dimensions for a frame")
    start = HEAD.pack(len(text), len(payload)) + text + bytes(payload[:room])
    return start.ljust(FRAME, b"\0"), payload[room:]


def decode(frame: bytes) -> Announced:
    """Read the first frame of an item; raise ProtocolError if it is none of this format."""
    length, size = HEAD.unpack_from(frame)
    if length > FRAME - HEAD.size:
        raise ProtocolError("something that is no frame of this version of sltools")
    text, start = frame[HEAD.size :][:length], frame[HEAD.size + length :][:size]
    facts = _json(text)
    sound = isinstance(facts.get("note"), str) if "note" in facts else _is_message(facts, size)
    if not sound:
        raise ProtocolError("a frame whose facts contradict each other")
    return Announced(facts, size, start)


def name_of(dtype: torch.dtype) -> str:
    """Return the name of a dtype that frames can carry; raise ProtocolError for others."""
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ProtocolError(f"a tensor of {name} cannot be sent; there are {', '.join(DTYPES)}")
    return name


def _json(text: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(text)
    except (ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict):
        raise ProtocolError("something that is no frame of this version of sltools")
    return facts


def _is_message(facts: dict[str, Any], size: int) -> bool:
    """Say whether the facts are those of a message whose tensor has `size` bytes."""
    shape = facts.get("shape")
    if not isinstance(shape, list) or not all(map(_is_count, shape)):
        return False
    if not all(_is_count(facts.get(name)) for name in ("step", "batch")):
        return False
    if not all(isinstance(facts.get(name), str) for name in ("kind", "phase")):
        return False
    values = 1
    for side in shape:
        values *= side
    dtype = facts.get("dtype")
    return isinstance(dtype, str) and dtype in DTYPES and values * DTYPES[dtype].itemsize == size


def _is_count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _shape(facts: dict[str, Any]) -> str:
    return str(tuple(facts["shape"]))
