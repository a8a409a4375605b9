"""Starts the fork server of `jail`, one for each kind of jail, and has it make processes."""

import atexit
import fcntl
import json
import os
import shutil
import site
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from sltools.errors import ExerciseError
from sltools.grading.jail import REFUSED, WORK

LIBRARY = Path(__file__).resolve().parents[1]
JAIL = Path(__file__).with_name("jail.py")
# What Python and its libraries need of the system, besides the folders they are installed in.
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store"),
    *("/etc/ld.so.cache", "/etc/alternatives", "/sys/devices/system/cpu"),
)
# What the course installs and a submission must not read: the checks, at home and of homework,
# and the solutions; and of the grader all that the submission's own side of the pipe does not need.
GRADER = Path(__file__).parent
NEEDED = {"__init__.py", "child.py", "wire.py", "cells.py"}
HIDDEN = (
    *(str(LIBRARY / part) for part in ("exercises/topics", "exercises/homework", "_material")),
    *(str(GRADER / name) for name in sorted({*os.listdir(GRADER), "__pycache__"} - NEEDED)),
)
SCRATCH = "sltools-grading-"  # how the names of working folders begin
START_SECONDS = 120.0  # to import torch, on a busy machine
END_SECONDS = 5.0  # to end, on a busy machine
MODULE = "sltools.grading.child"  # what runs in the jails
# Sockets that keep messages apart; macOS has none, and there the few short ones hardly ever meet.
PACKETS = socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_STREAM


class ForkServer:
    """The process that forks those of submissions, and its folder; see `sltools.grading.jail`.

    `hidden` are paths that they must not read, beside the checks. Raises ExerciseError if it cannot
    be started: that is no submission's fault.
    """

    def __init__(self, isolate: bool, hidden: tuple[str, ...], disk: int) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix=SCRATCH)
        self._lock = lock(self.folder.name)
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, PACKETS)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", str(JAIL), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env=_environment(WORK if isolate else self.folder.name),
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._orders.settimeout(START_SECONDS)
        settings = {
            "isolate": isolate,
            "scratch": self.folder.name,
            "visible": _visible(),
            "hidden": [*HIDDEN, *hidden],
            "disk": disk,
            "module": MODULE,
        }
        try:
            self._orders.send(json.dumps(settings).encode())
            ready = bool(self._orders.recv(64))
        except OSError:
            ready = False
        if not ready:
            self.close()
            raise ExerciseError(f"the sandbox does not start: {self.complaint()}")

    def order(self, order: dict[str, Any], *ends: socket.socket) -> None:
        """Have a process made that serves on the first of two sockets, and is told of on the other.

        Raises OSError if the server is gone.
        """
        descriptors = [end.fileno() for end in ends]
        socket.send_fds(self._orders, [json.dumps(order).encode()], descriptors)

    def runs(self) -> bool:
        """Say whether it has not ended."""
        return self._process.poll() is None

    def complaint(self) -> str:
        """Return what was said of why no process could be started."""
        assert self._process.stderr
        os.set_blocking(self._process.stderr.fileno(), False)
        said = (self._process.stderr.read() or b"").decode(errors="replace").strip()
        if self._process.poll() == REFUSED:
            return f"the system does not allow it ({said})"
        return said[-2000:] or "it ended, and said nothing"

    def close(self) -> None:
        """End it, and remove its folder."""
        self._orders.close()
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self.folder.cleanup()
        with suppress(OSError):  # closed before
            os.close(self._lock)


_servers: dict[tuple[Any, ...], ForkServer] = {}


def running(isolate: bool, hidden: tuple[str, ...], disk: int) -> ForkServer:
    """Return the fork server of such jails, started if it does not run."""
    kind = isolate, hidden, disk
    server = _servers.get(kind)
    if server and not server.runs():
        server.close()
        server = None
    _servers[kind] = server or ForkServer(*kind)
    return _servers[kind]


def close_all() -> None:
    """End all fork servers of this process."""
    while _servers:
        _servers.popitem()[1].close()


atexit.register(close_all)


def clean() -> None:
    """Delete the working folders of graders that were killed; those of living ones are locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with suppress(OSError):
            unlocked = lock(str(folder))
            if time.time() - folder.stat().st_mtime > START_SECONDS:  # or not locked yet
                shutil.rmtree(folder, ignore_errors=True)
            os.close(unlocked)


def lock(folder: str) -> int:
    """Lock a folder for as long as this process lives, or until the descriptor is closed.

    Raises OSError if another process holds it, or if it is none of this user's.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        if os.fstat(descriptor).st_uid != os.geteuid():
            raise PermissionError
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _environment(home: str) -> dict[str, str]:
    return {
        "PATH": "/usr/bin:/bin",
        "HOME": home,
        "TMPDIR": home,
        "USER": "learner",
        "LANG": "C.UTF-8",
        "PYTHONPATH": os.pathsep.join([str(LIBRARY.parent), *_packages()]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONSAFEPATH": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
        "SLTOOLS_STATIC": "1",
    }


def _visible() -> list[str]:
    """List the paths that a submission may read: Python, its packages, the library; outer first."""
    installed = [sys.prefix, sys.base_prefix, sys.executable, *_packages(), str(LIBRARY)]
    real = [os.path.realpath(path) for path in installed]
    return sorted({*SYSTEM, *installed, *real}, key=lambda path: (len(Path(path).parts), path))


def _packages() -> list[str]:
    return [path for path in (*site.getsitepackages(), site.getusersitepackages()) if path]
