"""Starts a submission's processes in jails, talks to them, and holds each to its limits.

Each process has a jail of its own. With all that it starts it is held to one limit on memory and
processor time, by looks at it, ten a second; when it ends nothing of it is left.

Full isolation needs Linux 5.14 or newer and the right to make namespaces: root has it, and so has
everybody where user namespaces are allowed. Elsewhere `Sandbox(isolate=False)` limits time, memory
and output on any POSIX system, but hides no file, leaves the network on and trusts submissions not
to run away.
"""

import math
import signal
import socket
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from sltools.errors import ExerciseError
from sltools.grading import forkserver, wire
from sltools.grading.jail import WORK, can_filter
from sltools.grading.usage import Usage

UNSAFE = (
    "submissions run without isolation. They can read and change every file that you can, use the "
    "network, and leave processes behind; for root, processes are not even counted."
)
START_SECONDS = 120.0  # to make a process, on a busy machine
TOTAL_SECONDS = 900  # of CPU time for one process, whatever it does
END_SECONDS = 1.0  # from the end of its pipe to that of a process
ASLEEP = 0.1  # of the time: who missed a processor for less did not end for reasons of its own
POLL_SECONDS = 0.1  # seconds between two looks at it


class Ended(ExerciseError):
    """The submission's process has ended, or says nothing that can be understood."""


class Killed(Ended):
    """The system, or somebody else, has killed the submission's process."""


class TimedOut(ExerciseError):
    """The submission's process took longer than it may; `asleep`, where no processor was missed."""

    def __init__(self, text: str, asleep: bool = False) -> None:
        super().__init__(text)
        self.asleep = asleep


@dataclass(frozen=True)
class Limits:
    """What a submission may use.

    `cell`, `call` and `challenge` are seconds of CPU time to run a cell, and to answer one call of
    a task, or of a task of the kind "challenge"; by the clock it may take `patience` times as long,
    for the machine may be busy or the submission asleep. `task` and `submission` are seconds by the
    clock for all calls of a task, and for all calls and cells of a submission. `memory`, of all its
    processes and its working folder, and `disk`, of that folder, are in bytes; `files` are those
    open at a time in one process; `starts` is how often the cells are run anew because one of them
    hangs or ends the process.
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


def not_enforced(sandbox: Sandbox) -> list[str]:
    """List what submissions are not held to on this machine, isolated as they are.

    Raises ExerciseError if the jail fails.
    """
    process = sandbox.start()
    process.close()
    missing = [] if sandbox.isolate else [UNSAFE]
    if sandbox.isolate and not process.counts_all:
        missing.append(
            "a jail has no /proc here: limits on memory and processor time hold for each process, "
            "not for all that a submission starts"
        )
    if not can_filter():
        missing.append("system calls are not filtered: one submission may leave keys for another")
    return missing


class Process:
    """A process in the sandbox that runs the cells of a submission and answers calls.

    `counts_all` says whether limits hold for all that it starts. Raises ExerciseError if it cannot
    be started: that is not the submission's fault.
    """

    def __init__(self, sandbox: Sandbox) -> None:
        self._limits = sandbox.limits
        server = forkserver.running(sandbox.isolate, sandbox.hidden, sandbox.limits.disk)
        self._folder = tempfile.TemporaryDirectory(dir=server.folder.name)
        self._channel, theirs = socket.socketpair()
        self._watch, told = socket.socketpair(socket.AF_UNIX, forkserver.PACKETS)
        self._channel.settimeout(POLL_SECONDS)
        self._watch.settimeout(START_SECONDS)
        self._usage = Usage("", jailed=False)
        try:
            with theirs, told:
                server.order(_order(sandbox, self._folder.name), theirs, told)
            self.number = self._watch.recv(64).decode()
            self._watch.settimeout(END_SECONDS)
            self._answer(START_SECONDS, START_SECONDS)  # that it is ready
        except (OSError, Ended, TimedOut):
            self.close()
            text = f"the sandbox does not start: {server.complaint()}"
            raise ExerciseError(text) from None
        self._usage.close()
        self._usage = Usage(self.number, sandbox.isolate)  # which looks into the jail that is made
        self.counts_all = self._usage.whole

    def ask(
        self, request: dict[str, Any], seconds: float, most: float = math.inf
    ) -> dict[str, Any]:
        """Send a request; return the reply, which may take `seconds` of CPU time, `most` in all.

        Raises TimedOut, Ended, and WireError if the request cannot be sent; the process must then
        be closed.
        """
        message = wire.pack(request)
        patience = min(seconds * self._limits.patience, most)
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
        """End the process and all it started."""
        self._channel.close()
        with suppress(OSError):
            self._watch.shutdown(socket.SHUT_WR)  # upon which it is killed
        self._watch.settimeout(START_SECONDS)
        self._exit_code()
        self._watch.close()
        self._usage.close()
        self._folder.cleanup()

    def _answer(self, seconds: float, patience: float) -> dict[str, Any]:
        spent, deadline = self._usage.cpu_seconds() + seconds, time.monotonic() + patience
        delayed = self._usage.delay_seconds()

        def read(length: int) -> bytes:
            received = bytearray()
            while len(received) < length:
                self._check(spent, seconds)
                if time.monotonic() > deadline:
                    asleep = self._usage.delay_seconds() - delayed < ASLEEP * patience
                    raise TimedOut(f"It had not ended after {patience:g} s.", asleep)
                try:
                    part = self._channel.recv(min(length - len(received), 2**20))
                except TimeoutError:
                    continue
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
        if self._exit_code() == str(128 + signal.SIGKILL):
            return Killed("Its process was killed, as happens when the machine's memory runs out.")
        return Ended("It ended the process it runs in.")

    def _exit_code(self) -> str:
        """Wait for the end of the process, and return how it ended; "" if that is not known."""
        try:
            return self._watch.recv(64).decode()
        except OSError:
            return ""

    def _check(self, spent: float, seconds: float) -> None:
        """Raise TimedOut or Ended if it has used more than it may."""
        if self._usage.cpu_seconds() > spent:
            raise TimedOut(f"It took more than {seconds:g} s of computing time.")
        most = self._limits.memory
        if self._usage.memory(most) > most:
            raise Ended(f"It took more than {most / 2**30:g} GiB of memory in all.")


def _order(sandbox: Sandbox, folder: str) -> dict[str, Any]:
    limits = sandbox.limits
    place = WORK if sandbox.isolate else folder
    return {
        "folder": place,
        "disk": limits.disk,
        "environment": {"HOME": place, "TMPDIR": place},
        "limits": {
            "RLIMIT_AS": limits.memory,
            "RLIMIT_NPROC": limits.processes,
            "RLIMIT_NOFILE": limits.files,
            "RLIMIT_FSIZE": limits.disk,
            "RLIMIT_CPU": TOTAL_SECONDS,
            "RLIMIT_CORE": 0,
        },
    }
