"""Starts a submission's process in a jail, talks to it, and holds it to its limits.

Full isolation needs Linux 5.14 or newer and the right to make namespaces: root has it, and so has
everybody where user namespaces are allowed. Elsewhere `Sandbox(isolate=False)` limits time, memory
and output on any POSIX system, but hides no file, leaves the network on and trusts submissions not
to run away.
"""

import fcntl
import json
import math
import os
import shutil
import signal
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
from sltools.grading.jail import REFUSED, WORK, can_filter

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
UNSAFE = (
    "submissions run without isolation. They can read and change every file that you can, use the "
    "network, and leave processes behind; for root, processes are not even counted."
)
SCRATCH = "sltools-grading-"  # how the names of working folders begin
START_SECONDS = 120.0  # to import torch, on a busy machine
TOTAL_SECONDS = 900  # of CPU time for one process, whatever it does
END_SECONDS = 1.0  # from the end of its pipe to that of a process
POLL_SECONDS = 0.1  # seconds between two looks at the clock


class Ended(ExerciseError):
    """The submission's process has ended, or says nothing that can be understood."""


class Killed(Ended):
    """The system, or somebody else, has killed the submission's process."""


class TimedOut(ExerciseError):
    """The submission's process took longer than it may."""


@dataclass(frozen=True)
class Limits:
    """What a submission may use.

    `cell`, `call` and `challenge` are seconds of CPU time to run a cell, and to answer one call of
    a task, or of a task of the kind "challenge"; by the clock it may take `patience` times as long,
    for the machine may be busy or the submission asleep. `task` and `submission` are seconds by the
    clock for all calls of a task, and for all calls and cells of a submission. `memory` of one
    process and `disk` are in bytes; `files` are those open at a time in one process, each of at
    most `disk` bytes even where it lies in memory; `starts` is how often a submission is started
    that ends or hangs.
    """

    cell: float = 20.0
    call: float = 10.0
    challenge: float = 150.0
    patience: float = 4.0
    task: float = 600.0
    submission: float = 900.0
    memory: int = 4 * 2**30
    disk: int = 2**26
    processes: int = 16
    files: int = 64
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


def not_enforced() -> list[str]:
    """List what submissions are not held to on this machine, isolated as they are."""
    missing = ["limits on memory and processor time hold for each process, not for a submission"]
    if not can_filter():
        missing.append("system calls are not filtered: one submission may leave keys for another")
    return missing


def clean() -> None:
    """Delete the working folders of graders that were killed; those of living ones are locked."""
    for folder in Path(tempfile.gettempdir()).glob(f"{SCRATCH}*"):
        with suppress(OSError):
            unlocked = _lock(str(folder))
            if time.time() - folder.stat().st_mtime > START_SECONDS:  # or not locked yet
                shutil.rmtree(folder, ignore_errors=True)
            os.close(unlocked)


def _lock(folder: str) -> int:
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


class Process:
    """A process in the sandbox that runs the cells of a submission and answers calls.

    Raises ExerciseError if it cannot be started: that is not the submission's fault.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._patience = sandbox.limits.patience
        self._scratch = tempfile.TemporaryDirectory(prefix=SCRATCH)
        self._lock = _lock(self._scratch.name)
        self._channel, theirs = socket.socketpair()
        self._channel.settimeout(POLL_SECONDS)
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

    def ask(
        self, request: dict[str, Any], seconds: float, most: float = math.inf
    ) -> dict[str, Any]:
        """Send a request; return the reply, which may take `seconds` of CPU time, `most` in all.

        Raises TimedOut, Ended, and WireError if the request cannot be sent; the process must then
        be closed.
        """
        message = wire.pack(request)
        patience = min(seconds * self._patience, most)
        try:
            self._channel.settimeout(patience)
            self._channel.sendall(message)
        except TimeoutError:
            raise TimedOut(f"It took no call within {patience:g} s.") from None
        except OSError:
            raise self._gone() from None
        finally:
            self._channel.settimeout(POLL_SECONDS)
        return self._answer(seconds, patience)

    def close(self) -> None:
        """End the process and all it started, and remove its working folder."""
        self._channel.close()
        self._jail.communicate()  # closes its input, upon which it kills
        self._clean()

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
                        raise self._gone()
                    received += part
            return bytes(received)

        try:
            answer = wire.receive(read)
        except OSError:
            raise self._gone() from None
        except wire.WireError:
            raise Ended("What came back cannot be understood.") from None
        if not isinstance(answer, dict):
            raise Ended("What came back cannot be understood.")
        return answer

    def _gone(self) -> Ended:
        """Say how the process ended, or that it only closed its side of the pipe."""
        with suppress(subprocess.TimeoutExpired):
            self._jail.wait(END_SECONDS)
        if self._jail.returncode == 128 + signal.SIGKILL:
            return Killed("Its process was killed, as happens when the machine's memory runs out.")
        return Ended("It ended the process it runs in.")

    def _cpu_seconds(self) -> float:
        """Return the CPU time of the process so far; 0 on a system that has no /proc."""
        try:
            text = Path(f"/proc/{self._number}/stat").read_text(errors="replace")
        except OSError:
            return 0.0
        user, system, *of_children = text.rpartition(")")[2].split()[11:15]
        ticks = sum(map(int, (user, system, *of_children)))
        return ticks / os.sysconf("SC_CLK_TCK")

    def _clean(self) -> None:
        """Remove the working folder."""
        self._scratch.cleanup()
        os.close(self._lock)

    def _complaint(self, error: Exception) -> str:
        """End the process that did not start and return what it said."""
        self._channel.close()
        _, said = self._jail.communicate()
        self._clean()
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
            "RLIMIT_NOFILE": limits.files,
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
