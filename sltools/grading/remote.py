"""A submission as a check sees it: an `Answer` whose calls go through the pipe to the sandbox."""

import builtins
import difflib
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from sltools import errors
from sltools.checking.judging import NOT_PLAIN, AnswerFailed, NotAttempted, NotPlain
from sltools.checking.task import Task
from sltools.errors import ExerciseError
from sltools.grading.cells import should_define
from sltools.grading.sandbox import Ended, Killed, Process, Sandbox, TimedOut
from sltools.grading.wire import TooLarge, WireError

MAX_MESSAGE = 2000  # characters of a message from the submission
UNSENT = (
    "The answer cannot be sent: it is larger than 4 MiB of text or 128 MiB of arrays, holds more "
    "than 5,000 tensors, or is nested too deeply."
)
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
    """The cells of a submission, run in the sandbox when first needed, and again if it ends.

    `setup` is run before them: the imports that the exercise came with, should they be lost. A cell
    that ends or hangs the process is left out the next time, so that it costs only what it defines.
    `errors` says by cell why it failed, `defined` in what cells a name is defined, `timed_out`
    whether anything took too long, `killed` whether the system killed it. Close it after use.
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
        self._process: Process | None = None

    def ask(self, request: dict[str, Any], seconds: float, task: TimeBudget) -> dict[str, Any]:
        """Send a request to the loaded notebook; raise AnswerFailed if it ends or takes too long.

        Raises ExerciseError if the sandbox cannot be started, WireError if the request cannot be
        sent.
        """
        process = self._loaded()
        try:
            return self._wait(process, request, seconds, task)
        except (Ended, TimedOut) as stopped:
            raise AnswerFailed(self._stopped(stopped, task)) from None

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

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.close()
        self._process = None

    def forget(self) -> None:
        """Go on in a fresh process, where nothing is left of earlier calls."""
        if self._process:
            self.close()
            self._starts_left += 1  # this end is not the notebook's fault

    def _loaded(self) -> Process:
        while self._process is None:
            if self._starts_left == 0:
                raise AnswerFailed("The notebook ended or hung too often to be started once more.")
            if self._time_budget.left == 0:
                self.timed_out = True
                raise AnswerFailed(str(self._time_budget))
            self._starts_left -= 1
            self._process = self._sandbox.start()
            try:
                self._load(self._process)
            except Exception:
                self.close()  # not to be asked when only half of its cells have run
                raise
        return self._process

    def _load(self, process: Process) -> None:
        try:
            process.ask({"cell": 0, "source": self._setup}, self.limits.cell)
        except (Ended, TimedOut) as stopped:
            raise ExerciseError(f"the imports of the exercise itself failed: {stopped}") from None
        defined: dict[str, list[int]] = defaultdict(list)
        for number, source in enumerate(self._cells, 1):
            if number in self._left_out:
                continue
            try:
                request = {"cell": number, "source": source}
                reply = self._wait(process, request, self.limits.cell)
            except WireError as error:
                self.errors[number] = f"It cannot be run: {error}."
                continue
            except (Ended, TimedOut) as stopped:
                self.errors[number] = self._stopped(stopped)
                self._left_out.add(number)
                return
            if reply.get("error") is not None:
                self.errors[number] = shortened(reply["error"])
            for name in _names(reply.get("defines")):
                if name in defined or len(defined) < MAX_NAMES:
                    defined[name].append(number)
        self.defined = dict(defined)

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
        self.timed_out |= isinstance(reason, TimedOut)
        self.killed |= isinstance(reason, Killed)
        self.close()
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

    def forget(self) -> None:
        self._notebook.forget()

    @property
    def value(self) -> Any:
        return self._ask(None)

    def _ask(self, arguments: list[Any] | None, gradient: bool = False) -> Any:
        names = list(dict.fromkeys([self.name, self._task.answer]))
        for name in names:
            request = {"answer": name, "arguments": arguments, "gradient": gradient}
            try:
                reply = self._notebook.ask(request, self._seconds, self._time_budget)
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
