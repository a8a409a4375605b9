"""A process that carries frames between a party on this host and `torch.distributed`.

    python -m sltools.relay FD RANK HOST PORT

The engine (gloo) ends its whole process when it is sent more than it waits for. So it runs in one
of its own, which knows nothing but frames: what it is given over the socket FD it sends to the
other host, and what comes from there it gives back. It ends when either side does. Rank 0 waits for
rank 1 at PORT (0: any that is free), with a static TCPStore; two are the whole group.
"""

import os
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

FRAME = 4096  # bytes of the first frame of an item: HEAD, facts, and what fits of the payload
CHUNK = 2**20  # bytes of each further frame; the last has what is left
HEAD = struct.Struct(">IQ")  # the lengths of facts and payload
SIGNAL = 16  # bytes in which the relay says at which port it waits, and that the two have met
GONE = 3  # exit code: the other host closed the connection
FOREVER = timedelta(days=365)  # how long to wait is for the party to say, which ends this process


def chunks(frame: bytes | memoryview) -> Iterator[int]:
    """Yield the sizes of the frames that follow the first `frame` of an item.

    >>> from sltools.relay import FRAME, HEAD, chunks
    >>> list(chunks(HEAD.pack(100, 5).ljust(FRAME))), list(chunks(HEAD.pack(4084, 2**21)))
    ([], [1048576, 1048576])
    """
    facts, payload = HEAD.unpack_from(frame)
    rest = payload - (FRAME - HEAD.size - facts)
    while rest > 0:
        yield min(rest, CHUNK)
        rest -= CHUNK


def fill(source: socket.socket, buffer: memoryview) -> bool:
    """Read until `buffer` is full; return False if the other end was closed before."""
    with suppress(ConnectionResetError):  # closed before it had read all that we gave it
        while buffer and (count := source.recv_into(buffer)):
            buffer = buffer[count:]
    return not buffer


def raw(values: Tensor) -> memoryview:
    """The memory of a uint8 tensor on the CPU, to read from and to write to."""
    return values.numpy().data


def main() -> None:
    """Carry frames until a side ends."""
    descriptor, rank, port = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4])
    own = socket.socket(fileno=descriptor)
    met = threading.Event()
    threading.Thread(target=_outwards, args=(own, 1 - rank, met), daemon=True).start()
    store = TCPStore(sys.argv[3], port, 2, rank == 0, FOREVER, wait_for_workers=False)
    if rank == 0:
        own.sendall((b"port %d" % store.port).ljust(SIGNAL))
    dist.init_process_group("gloo", store=store, rank=rank, world_size=2, timeout=FOREVER)
    own.sendall(b"met".ljust(SIGNAL))
    met.set()
    try:
        _inwards(own, 1 - rank)
    except RuntimeError as error:  # what the engine raises when the other host is gone
        print(error, file=sys.stderr, flush=True)
        own.shutdown(socket.SHUT_WR)
        os._exit(GONE)
    except OSError:  # the party closed its end
        os._exit(0)


def _outwards(own: socket.socket, peer: int, met: threading.Event) -> None:
    """Send what the party gives; end this process when it closes its end, or ends."""
    buffer = _buffer()
    frame = raw(buffer[:FRAME])
    with suppress(RuntimeError):  # the other host is gone; what it sent before may be on its way
        while fill(own, frame):
            met.wait()
            sizes = list(chunks(frame))
            dist.send(buffer[:FRAME], peer)
            for size in sizes:
                if fill(own, raw(buffer[:size])):
                    dist.send(buffer[:size], peer)
    while fill(own, frame):
        pass
    os._exit(0)


def _inwards(own: socket.socket, peer: int) -> None:
    """Give the party what comes from the other host."""
    buffer = _buffer()
    while True:
        dist.recv(buffer[:FRAME], peer)
        sizes = [FRAME, *chunks(raw(buffer[:FRAME]))]
        for number, size in enumerate(sizes):
            if number:
                dist.recv(buffer[:size], peer)
            own.sendall(raw(buffer[:size]))


def _buffer() -> Tensor:
    return torch.empty(CHUNK, dtype=torch.uint8)


if __name__ == "__main__":
    main()
