"""A submission as a check sees it: an `Answer` whose calls go through the pipe to the sandbox."""

import builtins
import difflib
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sltools import errors
from sltools.checking.judging import NOT_PLAIN, AnswerFailed, NotAttempted, NotPlain
from sltools.checking.task import OWN, Task, Wrong
from sltools.errors import ExerciseError
from sltools.grading.cells import reaching, should_define
from sltools.grading.sandbox import Ended, Killed, Process, Sandbox, TimedOut
from sltools.grading.wire import TooLarge, WireError

MAX_MESSAGE = 2000  # characters of a message from the submission
UNSENT = (
    "The answer cannot be sent: it is larger than 4 MiB of text or 128 MiB of arrays, holds more "
    "than 5,000 tensors, or is nested too deeply."
)
SLOW_SECONDS = 0.5  # of a cell that is not run for each call if it need not be
BATCH = 2**19  # characters of cells in a message
MAX_NAMES = 1000  # names that a notebook defines
MAX_NAME = 200  # characters


@dataclass
class TimeBudget:
    """How many `seconds` by the clock the grader waits for a task or submission, `what`."""

    what: str
    seconds: float
    waited: float = 0.0

    @property
    def left(self) -> float:
        """The seconds that are left."""
        return max(0.0, self.seconds - self.waited)

    def __str__(self) -> str:
        return (
            f"{self.what} took more than {self.seconds:g} s by the clock in all; what was not "
            "judged by then gets no points."
        )


class RemoteNotebook:
    """The cells of a submission, run in the sandbox when first needed, and anew for each call.

    A call has a process of its own, so that it knows of no other. `setup` is run before the cells:
    the imports that the exercise came with, should they be lost. A cell that ends or hangs the
    process is left out from then on, so that it costs only what it defines; so is, for a call, one
    that took long and reaches nothing of the answer. `errors` says by cell why it failed, `defined`
    in what cells a name is defined, `timed_out` whether anything took too long that may not on a
    quiet machine, `killed` whether the system killed it.
    """

    def __init__(self, cells: Sequence[str], sandbox: Sandbox, setup: str = "") -> None:
        self.limits = sandbox.limits
        self.errors: dict[int, str] = {}
        self.defined: dict[str, list[int]] = {}
        self.timed_out = False
        self.killed = False
        self._time_budget = TimeBudget("The notebook", self.limits.submission)
        self._cells = cells
        self._setup = setup
        self._sandbox = sandbox
        self._starts_left = self.limits.starts
        self._left_out: set[int] = set()
        self._seconds: dict[int, float] = {}  # that cells took, by their numbers
        self._loads = False

    def ask(
        self,
        request: dict[str, Any],
        names: Sequence[str],
        seconds: float,
        task: TimeBudget,
        refused: Sequence[str] = (),
    ) -> dict[str, Any]:
        """Send a request on what is called by one of `names` to a process that has run the cells.

        What is `refused`, functions of sltools, the answer must not call.

        Raises AnswerFailed if it ends or takes too long, ExerciseError if the sandbox cannot be
        started, WireError if the request cannot be sent.
        """
        self._learn()
        process = self._sandbox.start()
        try:
            self._set_up(process, refused)
            self._run_again(process, names, task)
            return self._wait(process, request, seconds, task)
        except (Ended, TimedOut) as stopped:
            raise AnswerFailed(self._stopped(stopped, task)) from None
        finally:
            process.close()

    def failure(self, names: Iterable[str]) -> str:
        """Say which cell should define one of `names` and failed, and why; "" if there is none."""
        for number, error in sorted(self.errors.items()):
            for name in names:
                if should_define(self._cells[number - 1], name):
                    return f"Code cell {number}, which should define `{name}`, failed:\n{error}"
        return ""

    def known(self, name: str) -> str:
        """Return the name of a type, if it can carry no data: one of ours, or of the notebook's."""
        ours = any(name in vars(module) for module in (builtins, errors, torch, torch.nn))
        own = name.isidentifier() and any(name in cell for cell in self._cells)
        return name if ours or own else "an unknown type"

    def failed(self, kind: str, cell: int, line: int) -> str:
        """Say that a call failed: by the type, and the line as it was handed in.

        What an exception says is not told. A submission could write the hidden data there.
        """
        told = f"{self.known(kind)} was raised."
        lines = self._cells[cell - 1].splitlines() if 0 < cell <= len(self._cells) else []
        if not 0 < line <= len(lines):
            return f"{told}\nIs it called with the arguments that the task names?"
        return f"{told}\nIn line {line} of code cell {cell}: {lines[line - 1].strip()}"

    def _learn(self) -> None:
        """Run the cells one by one, and see what becomes of them, until the process lasts."""
        while not self._loads:
            if self._starts_left == 0:
                raise AnswerFailed("The notebook ended or hung too often to be started once more.")
            if self._time_budget.left == 0:
                self.timed_out = True
                raise AnswerFailed(str(self._time_budget))
            self._starts_left -= 1
            process = self._sandbox.start()
            try:
                self._loads = self._load(process)
            finally:
                process.close()

    def _load(self, process: Process) -> bool:
        """Run the cells; return whether the process is still there after the last one."""
        self._set_up(process)
        defined: dict[str, list[int]] = defaultdict(list)
        for number, source in enumerate(self._cells, 1):
            if number in self._left_out:
                continue
            start = time.monotonic()
            try:
                request = {"cell": number, "source": source}
                reply = self._wait(process, request, self.limits.cell)
            except WireError as error:
                self.errors[number] = f"It cannot be run: {error}."
                self._left_out.add(number)
                continue
            except (Ended, TimedOut) as stopped:
                self.errors[number] = self._stopped(stopped)
                self._left_out.add(number)
                return False
            self._seconds[number] = time.monotonic() - start
            if reply.get("error") is not None:
                self.errors[number] = shortened(reply["error"])
            for name in _names(reply.get("defines")):
                if name in defined or len(defined) < MAX_NAMES:
                    defined[name].append(number)
        self.defined = dict(defined)
        return True

    def _set_up(self, process: Process, refused: Sequence[str] = ()) -> None:
        request = {"cell": 0, "source": self._setup, "refused": list(refused)}
        try:
            process.ask(request, self.limits.cell)
        except (Ended, TimedOut) as stopped:
            raise ExerciseError(f"the imports of the exercise itself failed: {stopped}") from None

    def _run_again(self, process: Process, names: Sequence[str], task: TimeBudget) -> None:
        """Run the cells that what is called by `names` may need, in a few messages."""
        slow = {number for number, seconds in self._seconds.items() if seconds > SLOW_SECONDS}
        if slow:
            slow -= reaching(self._cells, names)
        chosen = [number for number in self._seconds if number not in self._left_out | slow]
        seconds = sum(self._seconds[number] for number in chosen)
        for numbers in self._batches(chosen):
            cells = [[number, self._cells[number - 1]] for number in numbers]
            self._wait(process, {"cells": cells}, 2 * seconds + self.limits.cell, task)

    def _batches(self, numbers: Iterable[int]) -> Iterator[list[int]]:
        """Yield cells, by their numbers, that fit into one message; a large one alone."""
        batch: list[int] = []
        size = 0
        for number in numbers:
            length = len(self._cells[number - 1])
            if batch and size + length > BATCH:
                yield batch
                batch, size = [], 0
            batch.append(number)
            size += length
        if batch:
            yield batch

    def _wait(
        self, process: Process, request: dict[str, Any], seconds: float, *task: TimeBudget
    ) -> dict[str, Any]:
        """Ask, and wait for no longer than the submission and the task may take."""
        budgets = (self._time_budget, *task)
        left = min(one.left for one in budgets)
        if left == 0:
            raise TimedOut("It had no time left.")
        start = time.monotonic()
        try:
            return process.ask(request, seconds, left)
        finally:
            for one in budgets:
                one.waited += time.monotonic() - start

    def _stopped(self, reason: Ended | TimedOut, *task: TimeBudget) -> str:
        self.timed_out |= isinstance(reason, TimedOut) and not reason.asleep
        self.killed |= isinstance(reason, Killed)
        used_up = [str(one) for one in (self._time_budget, *task) if one.left == 0]
        return used_up[0] if used_up and isinstance(reason, TimedOut) else str(reason)


class RemoteAnswer:
    """The answer of a submission to one task; see `sltools.checking.task.Answer`.

    `name` is what the learner calls it; where nothing is called so, the task's own name counts.
    """

    def __init__(
        self, notebook: RemoteNotebook, task: Task, seconds: float, name: str = ""
    ) -> None:
        self.name = name or task.answer
        self._notebook = notebook
        self._task = task
        self._seconds = seconds
        self._time_budget = TimeBudget("The task", notebook.limits.task)

    def __call__(self, *arguments: Any) -> Any:
        return self._ask(list(arguments))

    def gradient(self, *arguments: Any) -> Any:
        return self._ask(list(arguments), gradient=True)

    @property
    def value(self) -> Any:
        return self._ask(None)

    def _ask(self, arguments: list[Any] | None, gradient: bool = False) -> Any:
        names = list(dict.fromkeys([self.name, self._task.answer]))
        for name in names:
            refused = self._task.library if self._task.rule == OWN else ()
            request = {"answer": name, "arguments": arguments, "gradient": gradient}
            try:
                reply = self._notebook.ask(
                    request, names, self._seconds, self._time_budget, refused
                )
            except TooLarge as error:
                raise AnswerFailed(
                    f"What came back cannot be given to another call: {error}."
                ) from None
            except WireError as error:
                raise TypeError(f"the check of {self._task.key} gives arguments: {error}") from None
            if "missing" not in reply:
                break
        if "returned" in reply:
            return reply["returned"]
        if "not attempted" in reply:
            if failure := self._notebook.failure(names):
                raise AnswerFailed(failure)
            raise NotAttempted
        if "missing" in reply:
            raise AnswerFailed(self._missing(names))
        if "unsent" in reply:
            raise AnswerFailed(UNSENT)
        match reply:
            case {"refused": str(name)} if name in self._task.library:
                raise Wrong(f"Write it yourself: your answer calls {name}, which does this task.")
            case {"wrong": [str(cause), str(kind)]} if cause in NOT_PLAIN:
                raise NotPlain(cause, self._notebook.known(kind))
            case {"failed": [str(kind), int(cell), int(line)]}:
                raise AnswerFailed(self._notebook.failed(kind, cell, line))
        raise AnswerFailed("What came back cannot be understood.")

    def _missing(self, names: Sequence[str]) -> str:
        """Say that the answer is not there, and what may have become of it."""
        if failure := self._notebook.failure(names):
            return failure
        text = f"The notebook does not define `{'` or `'.join(names)}`."
        others = [name for name in self._notebook.defined if name not in names]
        if near := difflib.get_close_matches(self._task.answer, others, n=1):
            text += f" Was it renamed to `{near[0]}`?"
        failed = [f"\ncell {n}: {error}" for n, error in sorted(self._notebook.errors.items())]
        return shortened(f"{text} Code cells that failed:{''.join(failed)}") if failed else text


def shortened(text: Any) -> str:
    """Return what a submission said as a text of bearable length."""
    text = text if isinstance(text, str) else "What came back cannot be understood."
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}…"


def _names(names: Any) -> list[str]:
    known = names if isinstance(names, list) else []
    return [n for n in known[:MAX_NAMES] if isinstance(n, str) and len(n) <= MAX_NAME]
