"""A transcript in one file that grows with each message: what is there outlives the process."""

from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from sltools import saved
from sltools.errors import ProtocolError, SltoolsError
from sltools.hosts import frames
from sltools.hosts.frames import Note
from sltools.messages import Message
from sltools.models import Architecture
from sltools.relay import FRAME
from sltools.saved import Unsaved
from sltools.transcript import Transcript


class Journal:
    """Writes messages to a new file at `path`, each before `append` returns.

    They lie there as they cross between hosts. A message that was cut off by the end of the process
    is the last, and `read` leaves it out. Raises SltoolsError rather than overwrite a file.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import torch
    >>> from sltools.hosts import Journal, read_journal
    >>> from sltools.messages import Message
    >>> with TemporaryDirectory() as folder:
    ...     path = Path(folder) / "client-1.journal"
    ...     with Journal(path) as journal:
    ...         journal.append(Message(0, 0, "labels", torch.tensor([3, 1])))
    ...     read_journal(path)
    Transcript(1 messages, 16 bytes)
    """

    def __init__(
        self,
        path: str | Path,
        client: Architecture | Unsaved | None = None,
        head: Architecture | Unsaved | None = None,
    ) -> None:
        self.path = Path(path).expanduser()
        try:
            self._file = self.path.open("xb", buffering=0)
        except OSError as error:
            raise SltoolsError(f"the journal {self.path} cannot be written: {error}") from None
        facts = {"client": client, "head": head}
        packed = {name: saved.pack_architecture(value) for name, value in facts.items()}
        self._write(Note.of("transcript", packed))

    def append(self, message: Message) -> None:
        """Write a message; raise SltoolsError if it cannot be kept."""
        self._write(message)

    def _write(self, item: Message | Note) -> None:
        frame, rest = frames.encode(item)
        try:
            for part in (memoryview(frame), rest):
                while part:
                    part = part[self._file.write(part) :]
        except OSError as error:
            raise SltoolsError(f"the journal {self.path} cannot be written: {error}") from None

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_journal(path: str | Path) -> Transcript:
    """Read what a `Journal` wrote, up to the last whole message.

    Raises SltoolsError if it is missing or damaged.
    """
    path = Path(path).expanduser()
    transcript = Transcript()
    try:
        with path.open("rb") as file:
            while (item := _next(file)) is not None:
                if isinstance(item, Message):
                    transcript.messages.append(item)
                else:
                    facts = item.facts
                    transcript.client = saved.unpack_architecture(facts["client"])
                    transcript.head = saved.unpack_architecture(facts["head"])
    except (OSError, ProtocolError, LookupError, TypeError, ValueError) as error:
        raise SltoolsError(f"{path} cannot be read, it is damaged or no journal: {error}") from None
    return transcript


def _next(file: Any) -> Message | Note | None:
    """The next item, or None at the end or where the last was cut off."""
    frame = file.read(FRAME)
    if len(frame) < FRAME:
        return None
    announced = frames.decode(frame)
    if announced.size > frames.LIMIT:
        raise ProtocolError(f"{announced} of {announced.size:,} bytes")
    rest = file.read(announced.size - len(announced.start))
    payload = announced.start + rest
    if len(payload) < announced.size:
        return None
    return announced.item(torch.frombuffer(bytearray(payload), dtype=torch.uint8))
