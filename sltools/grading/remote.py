"""A submission as a check sees it: an `Answer` whose calls go through the pipe to the sandbox."""

import difflib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from sltools.exercises.judging import AnswerFailed, NotAttempted
from sltools.exercises.task import Task, Wrong
from sltools.grading.sandbox import Ended, Process, Sandbox, TimedOut
from sltools.grading.wire import WireError

LONGEST = 2000  # characters of a message from the submission
MOST = 1000  # names that a cell defines


class RemoteNotebook:
    """The cells of a submission, run in the sandbox when first needed, and again if it ends.

    A cell that ends or hangs the process is left out the next time, so that it costs only what it
    defines. `errors` says by cell why it failed, `defined` in what cells a name is defined, and
    `timed_out` whether anything took too long. Close it after use.
    """

    def __init__(self, cells: Sequence[str], sandbox: Sandbox) -> None:
        self.errors: dict[int, str] = {}
        self.defined: dict[str, list[int]] = {}
        self.timed_out = False
        self._cells = cells
        self._sandbox = sandbox
        self._starts_left = sandbox.limits.starts
        self._left_out: set[int] = set()
        self._process: Process | None = None

    def ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """Send a request to the loaded notebook; raise AnswerFailed if it ends or takes too long.

        Raises ExerciseError if the sandbox cannot be started.
        """
        try:
            return self._loaded().ask(request, seconds)
        except (Ended, TimedOut) as stopped:
            raise AnswerFailed(self._stopped(stopped)) from None

    def close(self) -> None:
        """End the process."""
        if self._process:
            self._process.close()
        self._process = None

    def _loaded(self) -> Process:
        while self._process is None:
            if self._starts_left == 0:
                raise AnswerFailed("The notebook ended or hung too often to be started once more.")
            self._starts_left -= 1
            self._process = self._sandbox.start()
            self._load(self._process)
        return self._process

    def _load(self, process: Process) -> None:
        defined: dict[str, list[int]] = defaultdict(list)
        for number, source in enumerate(self._cells, 1):
            if number in self._left_out:
                continue
            try:
                request = {"cell": number, "source": source}
                reply = process.ask(request, self._sandbox.limits.cell)
            except (Ended, TimedOut) as stopped:
                self.errors[number] = self._stopped(stopped)
                self._left_out.add(number)
                return
            if reply.get("error") is not None:
                self.errors[number] = shortened(reply["error"])
            for name in _names(reply.get("defines")):
                defined[name].append(number)
        self.defined = dict(defined)

    def _stopped(self, reason: Ended | TimedOut) -> str:
        self.timed_out |= isinstance(reason, TimedOut)
        self.close()
        return str(reason)


class RemoteAnswer:
    """The answer of a submission to one task; see `sltools.exercises.task.Answer`."""

    def __init__(self, notebook: RemoteNotebook, task: Task, seconds: float) -> None:
        self._notebook = notebook
        self._task = task
        self._seconds = seconds

    def __call__(self, *arguments: Any) -> Any:
        return self._ask(list(arguments))

    @property
    def value(self) -> Any:
        return self._ask(None)

    def _ask(self, arguments: list[Any] | None) -> Any:
        request = {"answer": self._task.answer, "arguments": arguments}
        try:
            reply = self._notebook.ask(request, self._seconds)
        except WireError as error:
            raise TypeError(f"the check of {self._task.key} gives arguments: {error}") from None
        if "returned" in reply:
            return reply["returned"]
        if "not attempted" in reply:
            raise NotAttempted
        if "wrong" in reply:
            raise Wrong(shortened(reply["wrong"]))
        if "missing" in reply:
            raise AnswerFailed(self._missing())
        raise AnswerFailed(shortened(reply.get("failed")))

    def _missing(self) -> str:
        """Say that the answer is not there, and what may have become of it."""
        text = f"The notebook does not define `{self._task.answer}`."
        if near := difflib.get_close_matches(self._task.answer, self._notebook.defined, n=1):
            text += f" Was it renamed to `{near[0]}`?"
        if self._notebook.errors:
            cells = ", ".join(map(str, sorted(self._notebook.errors)))
            text += f" Code cells that failed: {cells}."
        return text


def shortened(text: Any) -> str:
    """Return what a submission said as a text of bearable length."""
    text = text if isinstance(text, str) else "What came back cannot be understood."
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"


def _names(names: Any) -> list[str]:
    known = names if isinstance(names, list) else []
    return [name for name in known[:MOST] if isinstance(name, str)]
