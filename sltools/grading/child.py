"""The submission's side of the pipe: runs its cells and answers calls. Nothing here is secret.

A submission can change all of this process, and forge what it sends. It gains nothing by that: the
grader, which alone knows what is right, asks for values and judges them.
"""

import ast
import linecache
import os
import socket
import sys
import traceback
from types import ModuleType
from typing import Any

from sltools.checking.judging import AnswerFailed, LocalAnswer, NotAttempted
from sltools.checking.task import Wrong
from sltools.grading import wire
from sltools.grading.cells import defined, without_magics


def without_checks() -> ModuleType:
    """What a submission finds as `sltools.exercises`: `check` and the others do nothing here."""
    package = ModuleType("sltools.exercises")
    for name in ("check", "hint", "progress", "quiz"):
        setattr(package, name, lambda *_: None)
    return package


class Notebook:
    """The namespace in which the cells of a submission run."""

    def __init__(self) -> None:
        self.module = ModuleType("__main__")
        self.module.__dict__.update(display=lambda *_, **__: None, get_ipython=lambda: None)
        sys.modules["__main__"] = self.module
        sys.modules["sltools.exercises"] = without_checks()

    def run(self, number: int, source: str) -> dict[str, Any]:
        """Run a cell; return what it defines, and its `error` or None."""
        name = f"<cell {number}>"
        defines: list[str] = []
        try:
            source = without_magics(source)
            linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
            tree = ast.parse(source, name)
            defines = [target for statement in tree.body for target in defined(statement)]
            exec(compile(tree, name, "exec"), self.module.__dict__)
        except BaseException as error:
            text = "".join(traceback.format_exception_only(error)).strip()
            return {"error": text, "defines": defines}
        return {"error": None, "defines": defines}

    def answer(
        self, name: str, arguments: list[Any] | None, gradient: bool = False
    ) -> dict[str, Any]:
        """Call the function `name`, or its gradient; or return that value without arguments."""
        if name not in self.module.__dict__:
            return {"missing": True}
        answer = LocalAnswer(self.module.__dict__[name])
        try:
            if arguments is None:
                return {"returned": answer.value}
            called = answer.gradient if gradient else answer
            return {"returned": called(*arguments)}
        except NotAttempted:
            return {"not attempted": True}
        except Wrong as wrong:
            return {"wrong": wrong.reason}
        except AnswerFailed as failed:
            return {"failed": str(failed)}
        except BaseException as error:  # SystemExit, for example
            return {"failed": f"{type(error).__name__}: {error}"}


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
            reply = notebook.run(request["cell"], request["source"])
        else:
            reply = notebook.answer(request["answer"], request["arguments"], request["gradient"])
        try:
            message = wire.pack(reply)
        except wire.WireError as error:
            message = wire.pack({"failed": f"The answer cannot be sent: {error}"})
        channel.sendall(message)


if __name__ == "__main__":
    try:
        serve(socket.socket(fileno=int(sys.argv[1])))
    except (EOFError, OSError):
        sys.exit(0)
