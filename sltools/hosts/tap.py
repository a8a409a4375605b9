"""Somebody on the way between two hosts, who carries on what crosses, and reads it."""

import re
import socket
import struct
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import suppress
from types import TracebackType

import torch

from sltools.errors import HostError
from sltools.hosts import frames
from sltools.hosts.client import parse
from sltools.hosts.frames import Note
from sltools.hosts.greeting import Hello
from sltools.messages import Message
from sltools.relay import FRAME, chunks, raw
from sltools.transcript import Transcript

ADDRESS = re.compile(rb"(?:\x02\0|\x10\x02)(..)(....)\0{8}", re.S)  # the system's form: port, IPv4
GREETING = 8  # bytes with which the engine's connection begins, from who opened it
OPERATION = struct.Struct("=6Q")  # before each piece of it: its bytes, its kind, four of a buffer's
SENT = 1  # the kind that brings values; the others say that somebody is ready
PIECE = 2**16  # bytes read at once
Change = Callable[[bytes], bytes]


class Tap:
    """Carries on what a client and the server at `address` tell each other, and keeps it.

    It stands for a router, an access point or a provider on the way, and changes nothing of what
    the parties say: join `Tap.address` in place of the server's, on the same machine, and read
    `items`. The engine opens a further connection, at a port that it names in the rendezvous; as
    that is plain, the tap names a port of its own there, as routers do which translate addresses.

    >>> from sltools.hosts import Tap
    >>> with Tap("127.0.0.1:29500") as tap:
    ...     tap.address.startswith("127.0.0.1:"), tap.items
    (True, [])
    """

    def __init__(self, address: str) -> None:
        self.items: list[Message | Note] = []  # in the order in which they had crossed
        self._sockets: list[socket.socket] = []
        self._doors: dict[bytes, bytes] = {}  # ports of the parties and of the tap, as they cross
        self.address = "{}:{}".format(*self._open(parse(address), self._rendezvous))

    def transcript(self) -> Transcript:
        """What was overheard: messages, and the client's architectures, which its greeting tells.

        Raises ProtocolError if the greeting is none.
        """
        found = Transcript()
        for item in self.items:
            if isinstance(item, Message):
                found.messages.append(item)
            elif item.kind == "hello":
                hello = Hello.read(item, "the client")
                found.client, found.head = hello.front, hello.head
        return found

    def _open(self, target: tuple[str, int], listen: Callable[[bool], Change]) -> tuple[str, int]:
        """Carry what comes to a new port on to `target`; return where that port is."""
        try:
            door = socket.create_server((target[0], 0))
        except OSError as error:
            raise HostError(f"a tap listens on this machine, not at {target[0]}: {error}") from None
        self._sockets.append(door)
        threading.Thread(target=self._accept, args=(door, target, listen), daemon=True).start()
        name: tuple[str, int] = door.getsockname()
        return name

    def _accept(
        self, door: socket.socket, target: tuple[str, int], listen: Callable[[bool], Change]
    ) -> None:
        with suppress(OSError):  # the door is closed
            while True:
                ends = door.accept()[0], socket.create_connection(target)
                self._sockets += ends
                for inward in (True, False):
                    arguments = (*(ends if inward else reversed(ends)), listen(inward))
                    threading.Thread(target=_carry, args=arguments, daemon=True).start()

    def _rendezvous(self, inward: bool) -> Change:
        """Of what is said at the server's port, change where the engine is to be found."""
        return lambda piece: ADDRESS.sub(self._translate, piece)

    def _translate(self, found: re.Match[bytes]) -> bytes:
        """An address as the other party is told it: a port of the tap that leads there."""
        port = found[1]
        if port not in (*self._doors, *self._doors.values()):
            self._doors[port] = self._lead_to(socket.inet_ntoa(found[2]), port)
        return found[0].replace(port, self._doors.get(port, port), 1)

    def _lead_to(self, host: str, port: bytes) -> bytes:
        """Open a port that leads to `port`.

        Of two parties the engine lets the one with the lower address wait, and the other one
        connect. Each knows its own port and what it is told of the other's; both must agree.
        """
        target = host, int.from_bytes(port, "big")
        while True:
            own = self._open(target, self._engine)[1].to_bytes(2, "big")
            lower = [_order(first) < _order(own) for first in self._doors]
            if lower == [_order(told) < _order(port) for told in self._doors.values()]:
                return own

    def _engine(self, inward: bool) -> Change:
        """Keep the items that the engine carries in one direction; change nothing."""
        reader = _items(inward, self.items)
        buffer, due = bytearray(), next(reader)

        def change(piece: bytes) -> bytes:
            nonlocal due
            buffer.extend(piece)
            while len(buffer) >= due:
                part = bytes(buffer[:due])
                del buffer[:due]
                due = reader.send(part)
            return piece

        return change

    def __enter__(self) -> "Tap":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections; what was heard stays."""
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def _items(opened: bool, found: list[Message | Note]) -> Generator[int, bytes, None]:
    """Append to `found` what one direction of the engine's connection brings.

    Yields how many bytes it needs next, and is sent them. `opened` says that who sends opened the
    connection.
    """
    if opened:
        yield GREETING
    heard = bytearray()
    while True:
        size, kind, *_ = OPERATION.unpack((yield OPERATION.size))
        values = yield size - OPERATION.size
        heard += values if kind == SENT else b""
        if len(heard) >= FRAME and len(heard) == FRAME + sum(chunks(bytes(heard[:FRAME]))):
            announced = frames.decode(bytes(heard[:FRAME]))
            payload = torch.empty(announced.size, dtype=torch.uint8)
            raw(payload)[:] = announced.start + heard[FRAME:]
            found.append(announced.item(payload))
            heard.clear()


def _carry(source: socket.socket, target: socket.socket, change: Change) -> None:
    with suppress(OSError):  # one of the two is gone
        try:
            while piece := source.recv(PIECE):
                target.sendall(change(piece))
        finally:
            target.shutdown(socket.SHUT_WR)


def _order(port: bytes) -> int:
    """By which of two ports of one host the engine goes: as this machine reads what crosses."""
    return int.from_bytes(port, sys.byteorder)
