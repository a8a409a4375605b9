"""A link to the party on another host: items go out and come in, each within a time limit."""

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import IO

import torch

from sltools import relay
from sltools.errors import HostError, ProtocolError, SltoolsError
from sltools.hosts import frames
from sltools.hosts.frames import Announced, MessageRule, Note, NoteRule
from sltools.hosts.journal import Journal
from sltools.messages import Message

GRACE = 2.0  # seconds in which the other host may read why we leave
BEATS = 4  # signs of life in the time after which a host is given up
MOST = 1_000_000  # seconds that one can wait
REASON = 500  # characters that are told of another host's words
SIOCGIFADDR = 0x8915  # Linux: the address of an interface


class Link:
    """Carries items to `peer` ("client 1", "the server") and back.

    `own` is a socket at whose other end somebody carries frames on: `open` starts the process that
    does. Whatever goes wrong is raised as one sentence that names the peer: HostError if it is
    gone, silent for `timeout` seconds or has ended the run, ProtocolError if it sent what is not
    due now. `journal` keeps all messages: what came before it is answered, what leaves before it
    does.

    >>> import socket
    >>> from sltools.hosts.frames import Note, NoteRule
    >>> from sltools.hosts.link import Link
    >>> here, there = socket.socketpair()
    >>> server, client = Link(here, "client 1", timeout=5), Link(there, "the server", timeout=5)
    >>> server.send(Note("train"))
    >>> client.receive(NoteRule("train"))
    Note(kind='train', body=b'')
    >>> server.close()
    >>> client.receive(NoteRule("train"))
    Traceback (most recent call last):
    ...
    sltools.errors.HostError: the server is gone: it closed the connection, or its host did
    >>> client.close()
    """

    def __init__(
        self,
        own: socket.socket,
        peer: str,
        timeout: float,
        process: subprocess.Popen[bytes] | None = None,
        log: IO[bytes] | None = None,
    ) -> None:
        self.peer = peer
        self.timeout = timeout
        self.journal: Journal | None = None
        self._in, self._out = own, own.dup()  # each with a time limit of its own
        self._sending = threading.Lock()
        self._closed = threading.Event()
        self._over = False  # the peer has said its last
        self._process = process
        self._log = log

    @classmethod
    def open(cls, rank: int, host: str, port: int, peer: str, timeout: float) -> "Link":
        """Start the process that carries frames: rank 0 is the server's, which waits at `port`.

        `host` is the server's address. Raises HostError where there are no such processes,
        and for a timeout that is none.
        """
        check_seconds("timeout", timeout)
        if sys.platform == "win32":
            raise HostError("links between hosts work on Linux and macOS, not on Windows")
        here, there = socket.socketpair()
        log = tempfile.TemporaryFile()  # noqa: SIM115, closed with the link
        process = _start_relay(there, rank, host, port, log)
        there.close()
        return cls(here, peer, timeout, process, log)

    def port(self) -> int:
        """Wait until the link of a server listens, and return its port."""
        return int(self._signal(time.monotonic() + self.timeout).removeprefix(b"port "))

    def meet(self, seconds: float) -> None:
        """Wait up to `seconds` for the other host."""
        try:
            self._signal(time.monotonic() + seconds)
        except TimeoutError:
            raise HostError(f"{self.peer} did not come within {seconds:g} s") from None

    def _signal(self, deadline: float) -> bytes:
        buffer = bytearray(relay.SIGNAL)
        if self._read(memoryview(buffer), deadline) < relay.SIGNAL:
            raise self._gone()
        return bytes(buffer).rstrip()

    def fileno(self) -> int:
        """For `select`: ready to read when something has come."""
        return self._in.fileno()

    def send(self, item: Message | Note) -> None:
        """Send an item; a message is in the journal before it leaves."""
        frame, rest = frames.encode(item)
        with self._sending:
            if self.journal is not None and isinstance(item, Message):
                self.journal.append(item)
            self._out.settimeout(self.timeout)
            try:
                self._out.sendall(frame)
                self._out.sendall(rest)
            except TimeoutError:
                raise HostError(
                    f"{self.peer} took nothing of {item} for {self.timeout:g} s"
                ) from None
            except OSError:
                raise self._last_words() from None

    def receive(self, *rules: MessageRule | NoteRule, patient: bool = False) -> Message | Note:
        """Wait for an item that one of `rules` allows.

        Signs of life of the peer do not count, unless one is `patient` and waits for one's turn.
        """
        deadline = time.monotonic() + self.timeout
        while True:
            try:
                announced = self._announced(deadline)
                if announced.note == "alive":
                    deadline = time.monotonic() + self.timeout if patient else deadline
                    continue
                self._check(announced, rules)
                return self._complete(announced, deadline)
            except TimeoutError:
                due = " or ".join(map(str, rules))
                raise HostError(
                    f"{self.peer} was silent for {self.timeout:g} s: due was {due}"
                ) from None

    def note(self, *rules: NoteRule) -> Note:
        """Wait for a note, as long as the peer lives: it may be the turn of others."""
        note = self.receive(*rules, patient=True)
        assert isinstance(note, Note)
        return note

    def _announced(self, deadline: float) -> Announced:
        frame = bytearray(relay.FRAME)
        count = self._read(memoryview(frame), deadline)
        if count < relay.FRAME:
            raise self._gone(f"in the middle of a frame ({count} bytes)" if count else "")
        try:
            return frames.decode(bytes(frame))
        except ProtocolError as error:
            raise ProtocolError(f"{self.peer} sent {error}") from None

    def _check(self, announced: Announced, rules: tuple[MessageRule | NoteRule, ...]) -> None:
        try:
            announced.check(*rules, NoteRule("stop", 4 * REASON))
        except ProtocolError as error:
            raise ProtocolError(f"{self.peer} sent {error}") from None

    def _complete(self, announced: Announced, deadline: float) -> Message | Note:
        """Read the payload, and look into it: it must be of finite numbers."""
        payload = torch.empty(announced.size, dtype=torch.uint8)
        view = relay.raw(payload)
        known = len(announced.start)
        view[:known] = announced.start
        count = known + self._read(view[known:], deadline)
        if count < announced.size:
            raise self._gone(f"{announced} was cut off after {count:,} of {announced.size:,} bytes")
        item = announced.item(payload)
        if isinstance(item, Note):
            self._over = item.kind in ("stop", "end")
            if item.kind == "stop":
                raise HostError(f"{self.peer} ended the run: {_told(item.body)}")
            return item
        if self.journal is not None:
            self.journal.append(item)
        if not torch.isfinite(item.payload).all():
            raise ProtocolError(f"{self.peer} sent {announced} with values that are no numbers")
        return item

    def _read(self, buffer: memoryview, deadline: float) -> int:
        """Read until `buffer` is full or the link ends; return how much it was."""
        total = len(buffer)
        while buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._in.settimeout(left)
            try:
                count = self._in.recv_into(buffer)
            except TimeoutError:
                raise
            except OSError:
                count = 0
            if not count:
                break
            buffer = buffer[count:]
        return total - len(buffer)

    def keep_alive(self) -> None:
        """From now on tell the peer, who waits for its turn, that this process lives."""
        threading.Thread(target=self._beat, daemon=True).start()

    def _beat(self) -> None:
        with suppress(HostError, OSError):  # who waits for an answer will notice, too
            while not self._closed.wait(self.timeout / BEATS):
                self.send(Note("alive"))

    def _last_words(self) -> HostError:
        """Why a link broke to which nothing can be sent any more: the peer may have said so."""
        deadline = time.monotonic() + GRACE
        try:
            while True:
                announced = self._announced(deadline)
                rest = bytearray(min(announced.size - len(announced.start), relay.CHUNK))
                self._read(memoryview(rest), deadline)
                if announced.note == "stop":
                    return HostError(f"{self.peer} ended the run: {_told(announced.start)}")
        except HostError as error:
            return error
        except (TimeoutError, ProtocolError):
            return self._gone()

    def _gone(self, what: str = "") -> HostError:
        """Say how the link ended."""
        code = None
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                code = self._process.wait(GRACE)
        if code == -signal.SIGABRT:
            return HostError(
                f"{self.peer} sent frames of other sizes than it announced: the engine gave up"
            )
        if code not in (None, 0, relay.GONE):
            return HostError(f"there is no connection to {self.peer}: {self._logged()}")
        what = what or "it closed the connection, or its host did"
        return HostError(f"{self.peer} is gone: {what}")

    def _logged(self) -> str:
        """The last line that the process of this link wrote."""
        assert self._log is not None
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").strip().splitlines()
        return _told((lines or ["its process was ended"])[-1].encode())

    def leave(self, note: Note) -> None:
        """Send a last note, give the peer a moment to read it, and close the link."""
        if self._over:
            return self.close()
        with suppress(HostError, OSError):
            self._out.settimeout(GRACE)
            with self._sending:
                self._out.sendall(frames.encode(note)[0])
            deadline = time.monotonic() + GRACE
            buffer = bytearray(relay.CHUNK)
            while self._read(memoryview(buffer), deadline):
                pass
        self.close()

    def close(self) -> None:
        """Close the link; its process ends."""
        self._closed.set()
        for end in (self._in, self._out):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        if self._process is not None:
            try:
                self._process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._log is not None:
            self._log.close()
        if self.journal is not None:
            self.journal.close()


@contextmanager
def linked(opened: Iterable[Link]) -> Iterator[list[Link]]:
    """Keep links open for a block; the others are told how it ended, and no process is left."""
    links: list[Link] = []
    last = Note("end")
    try:
        for link in opened:
            links.append(link)
        yield links
    except BaseException as error:
        last = Note("stop", _reason(error).encode())
        raise
    finally:
        with ThreadPoolExecutor(max(len(links), 1)) as pool:
            for link in links:
                pool.submit(link.leave, last)


def _reason(error: BaseException) -> str:
    """What the others are told; a mistake of ours is not theirs to read."""
    if isinstance(error, KeyboardInterrupt):
        return "interrupted there with Ctrl-C"
    return str(error)[:REASON] if isinstance(error, SltoolsError) else "an error on its side"


def _start_relay(
    end: socket.socket, rank: int, host: str, port: int, log: IO[bytes]
) -> subprocess.Popen[bytes]:
    """Start the process of `sltools.relay`, which takes over `end` and knows nothing of us."""
    arguments = map(str, (end.fileno(), rank, host, port))
    return subprocess.Popen(
        [sys.executable, "-P", relay.__file__, *arguments],
        pass_fds=[end.fileno()],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=log,
        env={**os.environ, **_interface(host), "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is for the party, which tells the other why it leaves
    )


def check_seconds(name: str, value: float) -> None:
    """Raise HostError unless somebody can wait so long."""
    if not 0 < value <= MOST:
        raise HostError(f"{name} is above 0 and at most {MOST:,} seconds, not {value}")


def address_towards(host: str) -> str:
    """Return the address of this host on the way to `host`; raise HostError if there is no way."""
    try:
        family, _, _, _, place = socket.getaddrinfo(host, 1, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(place)  # sends nothing
            return str(probe.getsockname()[0])
    except OSError as error:
        raise HostError(f"there is no way from here to {host!r}: {error}") from None


def _interface(host: str) -> dict[str, str]:
    """What tells the engine to listen where `host` can reach it; else it asks for its own name."""
    address = address_towards(host)
    for _, name in socket.if_nameindex():
        if _address(name) == address:
            return {"GLOO_SOCKET_IFNAME": name}
    return {}


def _address(interface: str) -> str | None:
    """The IPv4 address of an interface; None where it has none, or the system does not say."""
    import fcntl  # Windows has none, and no links

    request = struct.pack("256s", interface.encode()[:15])
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return socket.inet_ntoa(fcntl.ioctl(probe, SIOCGIFADDR, request)[20:24])
    return None


def _told(words: bytes) -> str:
    """Words of another host, as they may be printed here."""
    return re.sub(r"[^\x20-\x7e]+", " ", words.decode(errors="replace"))[:REASON].strip()
