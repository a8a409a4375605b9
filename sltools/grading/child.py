"""The submission's side of the pipe: runs its cells and answers a call. Nothing here is secret.

The fork server of `jail` imports this module, and with it what notebooks use; then it calls `main`
in each process that it makes.

A submission can change all of this process, and forge what it sends. It gains nothing by that: the
grader, which alone knows what is right, asks for values and judges them.
"""

import ast
import asyncio
import functools
import getopt
import importlib
import inspect
import linecache
import os
import socket
import sys
import timeit
import traceback
from collections.abc import Callable
from contextlib import suppress
from pydoc import locate
from types import CodeType, FunctionType, ModuleType
from typing import Any

from sltools.checking.judging import AnswerFailed, LocalAnswer, NotAttempted, NotPlain
from sltools.errors import ExerciseError
from sltools.grading import wire
from sltools.grading.cells import defined, parse

# What notebooks import, imported once for all of them.
PRELOADED = (
    "torch._dynamo",  # by the first step of an optimiser
    *("scipy.stats", "sklearn.cluster", "matplotlib.pyplot", "sltools.claims", "sltools.plots"),
    *("sltools.attacks", "sltools.defenses", "sltools.detectors", "sltools.experiments.unseen"),
)


def without_checks() -> ModuleType:
    """What a submission finds as `sltools.exercises`: `check` and the others do nothing here."""
    package = ModuleType("sltools.exercises")
    for name in ("check", "hint", "progress", "quiz"):
        setattr(package, name, lambda *_: None)
    return package


class Shell:
    """What a submission finds as `get_ipython()`: magics do nothing, but that `%timeit -o` times.

    Commands are not run: a submission needs none, and `!pip install` would wait for a network.
    """

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace

    def run_line_magic(self, name: str, line: str) -> Any:
        """Time a statement once for `%timeit -o`; do nothing else."""
        if name != "timeit":
            return None
        options, statement = getopt.getopt(line.split(), "n:r:tcp:qov:")
        if ("-o", "") not in options:
            return None
        from IPython.core.magics.execution import TimeitResult  # takes a quarter of a second

        seconds = timeit.timeit(" ".join(statement), number=1, globals=self._namespace)
        return TimeitResult(1, 1, seconds, seconds, [seconds], 0.0, 3)

    def run_cell_magic(self, name: str, line: str, cell: str) -> None:
        """Do nothing: what runs its cell was made a part of the notebook's code."""

    def system(self, command: str) -> None:
        """Run no command."""

    def getoutput(self, command: str) -> list[str]:
        """Return the output of no command."""
        return []


class Refused(ExerciseError):
    """A notebook's answer calls what the library has for this task, which is to be written."""


class Notebook:
    """The namespace in which the cells of a submission run.

    `refused` says, by its full name, what the answer called last and may not.
    """

    def __init__(self) -> None:
        self.refused = ""
        self._stand_ins: dict[Callable[..., Any], str] = {}
        self._answers = False
        self.module = ModuleType("__main__")
        self._loop: asyncio.AbstractEventLoop | None = None
        self._numbers: dict[str, int] = {}
        shell = Shell(self.module.__dict__)
        self.module.__dict__.update(display=lambda *_, **__: None, get_ipython=lambda: shell)
        sys.modules["__main__"] = self.module
        sys.modules["sltools.exercises"] = without_checks()

    def refuse(self, names: list[str]) -> None:
        """Let functions and methods of sltools raise where the notebook's answer calls them itself.

        Cells may, to compare; and so may what else of sltools the answer calls.
        """
        for name in names:
            function = locate(name)
            assert isinstance(function, FunctionType)
            stand_in = self._refusing(function, name)
            self._stand_ins[stand_in] = name
            loaded = [made for key, made in sys.modules.items() if key.startswith("sltools")]
            for owner in [locate(name.rpartition(".")[0]), *loaded]:
                for known in [key for key, made in vars(owner).items() if made is function]:
                    setattr(owner, known, stand_in)

    def _refusing(self, function: FunctionType, name: str) -> Callable[..., Any]:
        @functools.wraps(function)
        def stand_in(*arguments: Any, **named: Any) -> Any:
            if self._answers and sys._getframe(1).f_globals is self.module.__dict__:
                self.refused = name
                raise Refused(f"{name} answers this task: write it yourself")
            return function(*arguments, **named)

        return stand_in

    def run(self, number: int, source: str) -> dict[str, Any]:
        """Run a cell; return what it defines, and its `error` or None."""
        name = f"<cell {number}>"
        self._numbers[name] = number
        defines: list[str] = []
        try:
            linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
            tree = parse(source, name)
            defines = [target for statement in tree.body for target in defined(statement)]
            self._run(compile(tree, name, "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT))
        except BaseException as error:
            text = "".join(traceback.format_exception_only(error)).strip()
            return {"error": text, "defines": defines}
        return {"error": None, "defines": defines}

    def _run(self, code: CodeType) -> None:
        """Run code of the notebook, which may await something at its top level."""
        if code.co_flags & inspect.CO_COROUTINE:
            self._loop = self._loop or asyncio.new_event_loop()
            self._loop.run_until_complete(eval(code, self.module.__dict__))
        else:
            exec(code, self.module.__dict__)

    def run_all(self, cells: list[tuple[int, str]]) -> dict[str, Any]:
        """Run cells once more, by their numbers: what they say is known."""
        for number, source in cells:
            self.run(number, source)
        return {}

    def answer(
        self, name: str, arguments: list[Any] | None, gradient: bool = False
    ) -> dict[str, Any]:
        """Call the function `name`, or its gradient; or return that value without arguments."""
        if name not in self.module.__dict__:
            return {"missing": True}
        value = self.module.__dict__[name]
        if isinstance(value, FunctionType) and value in self._stand_ins:
            return {"refused": self._stand_ins[value]}
        answer = LocalAnswer(value)
        self._answers = True
        try:
            if arguments is None:
                return {"returned": answer.value}
            called = answer.gradient if gradient else answer
            return {"returned": called(*arguments)}
        except NotAttempted:
            return {"not attempted": True}
        except NotPlain as wrong:
            return {"wrong": [wrong.cause, wrong.kind]}
        except AnswerFailed as failed:
            if failed.kind == Refused.__name__ and self.refused:
                return {"refused": self.refused}
            return {"failed": [failed.kind, *self._place(failed)]}
        except BaseException as error:  # SystemExit, for example
            return {"failed": [type(error).__name__, 0, 0]}

    def _place(self, failed: AnswerFailed) -> tuple[int, int]:
        """The number of the cell, and of the line in it, where an answer failed; or zeros."""
        name, line = failed.place or ("", 0)
        return (self._numbers[name], line) if name in self._numbers else (0, 0)


def serve(channel: socket.socket) -> None:
    """Answer requests until the grader goes away."""
    stream = channel.makefile("rb")

    def read(length: int) -> bytes:
        received = stream.read(length)
        if len(received) < length:
            raise EOFError
        return received

    channel.sendall(wire.pack({"ready": True}))
    os.dup2(1, 2)  # from here on nobody reads what is printed
    notebook = Notebook()
    while True:
        request = wire.receive(read, recipes=True)
        if "cell" in request:
            notebook.refuse(request.get("refused", []))
            reply = notebook.run(request["cell"], request["source"])
        elif "cells" in request:
            reply = notebook.run_all(request["cells"])
        else:
            reply = notebook.answer(request["answer"], request["arguments"], request["gradient"])
        try:
            message = wire.pack(reply)
        except wire.WireError:
            message = wire.pack({"unsent": True})
        channel.sendall(message)


def main(channel: int) -> None:
    """Serve on the socket of this number, until its other end is closed."""
    with suppress(EOFError, OSError):
        serve(socket.socket(fileno=channel))
    os._exit(0)


for _name in PRELOADED:
    importlib.import_module(_name)
