"""What a submission uses, with all processes that it has started, as its jail's /proc shows it."""

import math
import os
from contextlib import suppress

from sltools.grading.jail import WORK

TICKS, PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")


class Usage:
    """Of process `number`, and of all that its jail holds if `whole`; 0 where there is no /proc.

    `jailed` says whether it has a jail at all.
    """

    def __init__(self, number: str, jailed: bool) -> None:
        self._places: list[int] = []
        self._seen: dict[str, int] = {}
        self._proc = _folder(f"/proc/{number}/root/proc")
        self._work = _folder(f"/proc/{number}/root{WORK}")
        self.whole = jailed and bool(self._numbers())
        if not self.whole:
            self.close()
            self._proc, self._work = _folder("/proc"), -1
        self._number = number

    def cpu_seconds(self) -> float:
        """Return the processor time so far, that of processes that have ended included.

        Of those that nobody waited for, what the last look saw.
        """
        now = 0
        for number in self._all():
            times = _times(self._read(f"{number}/stat"))
            now += sum(times)
            self._seen[number] = sum(times[:2])
        return max(now, sum(self._seen.values())) / TICKS

    def delay_seconds(self) -> float:
        """Return for how long it could have run and got no processor, or infinity if not known."""
        delays = [self._read(f"{n}/schedstat").split()[1:2] for n in self._all()]
        known = [int(delay[0]) for delay in delays if delay]
        return sum(known) / 1e9 if known else math.inf

    def memory(self, most: int) -> int:
        """Return the bytes in use, the working folder's included; exactly if more than `most`."""
        if not self.whole:
            return 0
        files = os.fstatvfs(self._work)
        stored = (files.f_blocks - files.f_bfree) * files.f_frsize
        numbers = self._numbers()
        used = sum(_second(self._read(f"{number}/statm")) * PAGE for number in numbers)
        if stored + used > most:  # what processes share was counted more than once
            used = sum(_shared(self._read(f"{number}/smaps_rollup")) for number in numbers)
        return stored + used

    def close(self) -> None:
        """Let go of the jail's file system."""
        for folder in (self._proc, self._work):
            with suppress(OSError):
                os.close(folder)

    def _all(self) -> list[str]:
        return self._numbers() if self.whole else [self._number]

    def _numbers(self) -> list[str]:
        try:
            return [name for name in os.listdir(self._proc) if name.isdecimal()]
        except OSError:
            return []

    def _read(self, name: str) -> str:
        """Read a file of /proc; return "" if its process has ended."""
        try:
            file = os.open(name, os.O_RDONLY, dir_fd=self._proc)
        except OSError:
            return ""
        try:
            return os.read(file, 4096).decode(errors="replace")
        except OSError:
            return ""
        finally:
            os.close(file)


def _folder(path: str) -> int:
    """Open a folder; return -1 if there is none."""
    try:
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        return -1


def _times(stat: str) -> list[int]:
    """Return ticks in user and system mode, of a process and of the children it waited for."""
    return [int(ticks) for ticks in stat.rpartition(")")[2].split()[11:15]]


def _second(statm: str) -> int:
    """Return the pages of a process that are in memory."""
    return int(statm.split()[1]) if statm else 0


def _shared(rollup: str) -> int:
    """Return the bytes of a process, of pages that n processes share the nth part."""
    found = [line.split()[1] for line in rollup.splitlines() if line.startswith("Pss:")]
    return int(found[0]) * 1024 if found else 0
