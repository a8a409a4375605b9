"""Starts a submission's process in a jail, talks to it, and holds it to its limits.

Full isolation needs Linux 5.14 or newer and the right to make namespaces: root has it, and so has
everybody where user namespaces are allowed. Elsewhere `Sandbox(isolate=False)` limits time, memory
and output on any POSIX system, but hides no file, leaves the network on and trusts submissions not
to run away.
"""

import json
import os
import site
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sltools.errors import ExerciseError
from sltools.grading import wire
from sltools.grading.jail import REFUSED, WORK

LIBRARY = Path(__file__).resolve().parents[1]
JAIL = Path(__file__).with_name("jail.py")
# What Python and its libraries need of the system, besides the folders they are installed in.
SYSTEM = (
    *("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/nix/store"),
    *("/etc/ld.so.cache", "/etc/alternatives", "/sys/devices/system/cpu"),
)
# What the course installs and a submission must not read: the checks, and the solutions.
HIDDEN = tuple(str(LIBRARY / part) for part in ("exercises/topics", "_material"))
UNSAFE = (
    "submissions run without isolation. They can read and change every file that you can, use the "
    "network, and leave processes behind; for root, processes are not even counted."
)
START_SECONDS = 120.0  # to import torch, on a busy machine
TOTAL_SECONDS = 900  # of CPU time for one process, whatever it does
PERIOD = 0.1  # seconds between two looks at the clock


class Ended(ExerciseError):
    """The submission's process has ended, or says nothing that can be understood."""


class TimedOut(ExerciseError):
    """The submission's process took longer than it may."""


@dataclass(frozen=True)
class Limits:
    """What a submission may use.

    `cell`, `call` and `challenge` are seconds of CPU time to run a cell, and to answer one call of
    a task, or of a task of the kind "challenge"; by the clock it may take `patience` times as long,
    for the machine may be busy or the submission asleep. `memory` of one process and `disk` are
    in bytes; `starts` is how often a submission is started that ends or hangs.
    """

    cell: float = 20.0
    call: float = 10.0
    challenge: float = 150.0
    patience: float = 4.0
    memory: int = 4 * 2**30
    disk: int = 2**26
    processes: int = 16
    starts: int = 6


@dataclass(frozen=True)
class Sandbox:
    """How submissions are run. `hidden` are paths that they must not read, beside the checks."""

    isolate: bool = True
    hidden: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def start(self) -> "Process":
        """Start a process that can load a notebook; raise ExerciseError if the jail fails."""
        return Process(self)


def refusal(sandbox: Sandbox) -> str:
    """Start and end a process; return why that fails, or "" if it works."""
    try:
        sandbox.start().close()
    except ExerciseError as error:
        return str(error)
    return ""


class Process:
    """A process in the sandbox that runs the cells of a submission and answers calls.

    Raises ExerciseError if it cannot be started: that is not the submission's fault.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._patience = sandbox.limits.patience
        self._scratch = tempfile.TemporaryDirectory(prefix="sltools-grading-")
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(PERIOD)
        settings = _settings(sandbox, theirs.fileno(), self._scratch.name)
        with theirs:
            self._jail = subprocess.Popen(
                [sys.executable, "-I", "-S", str(JAIL), json.dumps(settings)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        assert self._jail.stdout
        self._number = self._jail.stdout.readline().strip().decode()
        try:
            if not self._number:
                raise Ended("its jail cannot be made")
            self._answer(START_SECONDS, START_SECONDS)  # that it is ready
        except (Ended, TimedOut) as error:
            raise ExerciseError(f"the sandbox does not start: {self._complaint(error)}") from None

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send a request and return the reply, which may take `seconds` of CPU time.

        Raises TimedOut, Ended, and WireError if the request cannot be sent; the process must then
        be closed.
        """
        message = wire.pack(request)
        patience = seconds * self._patience
        try:
            self._channel.settimeout(patience)
            self._channel.sendall(message)
        except TimeoutError:
            raise TimedOut(f"It took no call within {patience:g} s.") from None
        except OSError:
            raise Ended("It ended the process it runs in.") from None
        finally:
            self._channel.settimeout(PERIOD)
        return self._answer(seconds, patience)

    def close(self) -> None:
        """End the process and all it started, and remove its working folder."""
        self._channel.close()
        self._jail.communicate()  # closes its input, upon which it kills
        self._scratch.cleanup()

    def _answer(self, seconds: float, patience: float) -> dict[str, Any]:
        spent, deadline = self._cpu_seconds() + seconds, time.monotonic() + patience

        def read(length: int) -> bytes:
            received = bytearray()
            while len(received) < length:
                if self._cpu_seconds() > spent:
                    raise TimedOut(f"It took more than {seconds:g} s of computing time.")
                if time.monotonic() > deadline:
                    raise TimedOut(f"It had not ended after {patience:g} s.")
                with suppress(TimeoutError):
                    part = self._channel.recv(min(length - len(received), 2**20))
                    if not part:
                        raise Ended("It ended the process it runs in.")
                    received += part
            return bytes(received)

        try:
            answer = wire.receive(read)
        except OSError:
            raise Ended("It ended the process it runs in.") from None
        except wire.WireError as error:
            raise Ended(f"What came back cannot be understood: {error}.") from None
        if not isinstance(answer, dict):
            raise Ended("What came back cannot be understood.")
        return answer

    def _cpu_seconds(self) -> float:
        """Return the CPU time of the process so far; 0 on a system that has no /proc."""
        try:
            text = Path(f"/proc/{self._number}/stat").read_text(errors="replace")
        except OSError:
            return 0.0
        user, system, *of_children = text.rpartition(")")[2].split()[11:15]
        ticks = sum(map(int, (user, system, *of_children)))
        return ticks / os.sysconf("SC_CLK_TCK")

    def _complaint(self, error: Exception) -> str:
        """End the process that did not start and return what it said."""
        self._channel.close()
        _, said = self._jail.communicate()
        self._scratch.cleanup()
        text = said.decode(errors="replace").strip()
        if self._jail.returncode == REFUSED:
            return f"the system does not allow it ({text})"
        return text[-2000:] or str(error)


def _settings(sandbox: Sandbox, channel: int, scratch: str) -> dict[str, Any]:
    limits = sandbox.limits
    return {
        "isolate": sandbox.isolate,
        "scratch": scratch,
        "visible": _visible(),
        "hidden": [*HIDDEN, *sandbox.hidden],
        "disk": limits.disk,
        "limits": {
            "RLIMIT_AS": limits.memory,
            "RLIMIT_NPROC": limits.processes,
            "RLIMIT_FSIZE": limits.disk,
            "RLIMIT_CPU": TOTAL_SECONDS,
            "RLIMIT_CORE": 0,
        },
        "command": [sys.executable, "-s", "-m", "sltools.grading.child", str(channel)],
        "environment": {
            "PATH": "/usr/bin:/bin",
            "HOME": WORK if sandbox.isolate else scratch,
            "TMPDIR": WORK if sandbox.isolate else scratch,
            "USER": "learner",
            "LANG": "C.UTF-8",
            "PYTHONPATH": os.pathsep.join([str(LIBRARY.parent), *_packages()]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONSAFEPATH": "1",
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
            "MPLBACKEND": "agg",
            "SLTOOLS_STATIC": "1",
        },
    }


def _visible() -> list[str]:
    """List the paths that a submission may read: Python, its packages, the library; outer first."""
    installed = [sys.prefix, sys.base_prefix, sys.executable, *_packages(), str(LIBRARY)]
    real = [os.path.realpath(path) for path in installed]
    return sorted({*SYSTEM, *installed, *real}, key=lambda path: (len(Path(path).parts), path))


def _packages() -> list[str]:
    return [path for path in (*site.getsitepackages(), site.getusersitepackages()) if path]
