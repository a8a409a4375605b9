"""Run a lesson without a browser, with other parameters, into a new notebook."""

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sltools import storage
from sltools.errors import LessonError, SltoolsError
from sltools.lessons.catalog import PACKAGE, Lesson
from sltools.lessons.lab import threads

MAX_TIMEOUT = 1e6  # seconds, eleven days: what waits for a kernel takes no more
CELL_TIMEOUT = 3600.0  # seconds; a headless run always has a limit, for a widget can hang for ever


def run(
    lesson: Lesson,
    parameters: Mapping[str, Any] | None = None,
    output: Path | None = None,
    timeout: float = CELL_TIMEOUT,
    progress: bool = False,
) -> Path:
    """Run `lesson` with other parameters and return the executed notebook, a new file.

    `output` is that file or the folder it goes to, by default the current one; the kernel works in
    that folder. `timeout` is in seconds and holds for each cell. Raises LessonError if a parameter
    or the timeout is refused, the output would overwrite a file or cannot be written, or the lesson
    fails; the notebook is then kept as far as it got.
    """
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    check_timeout(timeout)
    values = dict(parameters or {})
    _check_device(lesson.settings(values).get("device", "cpu"))  # before the output is there
    output = _reserve(output or Path.cwd(), lesson)
    _use_atomic_writes(output)
    # After Ctrl-C it would log, with a traceback, that nobody asked what became of the kernel.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        papermill.execute_notebook(
            _literal(lesson.path),
            _literal(output),
            values,
            kernel_name="python3",
            progress_bar=progress,
            execution_timeout=math.ceil(timeout),  # papermill takes whole seconds
            kernel_manager_class=headless_kernel(),
            resources={"metadata": {"path": str(output.parent)}},
            store_widget_state=False,
        )
    except papermill.PapermillExecutionError as error:
        reason = f"in cell [{error.exec_count}] with {error.ename}: {_first_line(error.evalue)}"
    except CellTimeoutError:
        reason = f"in cell [{_last_started_cell(output)}], which took longer than {timeout:g} s"
    except DeadKernelError:
        reason = f"in cell [{_last_started_cell(output)}], where its process died (out of memory?)"
    except OSError as error:  # a full disk, a kernel that does not start
        if output.stat().st_size == 0:
            output.unlink()
        raise LessonError(
            f"lesson {lesson.name} stopped: {error}; what was written of it before is in {output}"
        ) from None
    else:
        return output
    raise LessonError(f"lesson {lesson.name} stopped {reason}; see what it did so far in {output}")


def check_timeout(seconds: float) -> None:
    """Raise LessonError unless a cell can be given so many `seconds`."""
    if not 0 < seconds <= MAX_TIMEOUT:
        raise LessonError(
            f"the timeout of a cell is above 0 and at most {MAX_TIMEOUT:,.0f} seconds, not "
            f"{seconds}"
        )


def _use_atomic_writes(output: Path) -> None:
    """Let papermill write `output` in one step: a full disk then leaves its last state."""
    from papermill.iorw import LocalHandler, papermill_io

    class AtomicHandler(LocalHandler):
        def write(self, buf: str, path: str) -> None:
            storage.write_atomic(Path(path), buf)

    papermill_io.register(str(output), AtomicHandler())


def headless_kernel() -> type:
    """Return a kernel manager class for runs that nobody watches.

    Its kernel is this very interpreter with this very sltools, whatever kernels are installed, and
    draws static pictures in place of widgets and progress bars.
    """
    from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    from jupyter_client.kernelspec import KernelSpec
    from jupyter_client.manager import AsyncKernelManager

    path = [str(PACKAGE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    settings = {"SLTOOLS_STATIC": "1", "PYTHONPATH": os.pathsep.join(path), **threads()}
    # Quiet: else every kernel prints a warning about local, unencrypted sockets, and one that is
    # stopped at work the traceback of an answer that nobody waits for. Its cells still tell theirs.
    launch = get_kernel_dict(extra_arguments=["--log-level=CRITICAL"])

    class HeadlessKernel(AsyncKernelManager):
        @property
        def kernel_spec(self) -> KernelSpec:
            return KernelSpec(resource_dir=RESOURCES, env=settings, **launch)

    return HeadlessKernel


def _reserve(output: Path, lesson: Lesson) -> Path:
    """Create the file a run will fill, so that nobody's file is overwritten even by a race."""
    output = output.expanduser().absolute()
    if output.is_dir():
        output /= f"run-{lesson.name}-{time.strftime('%Y%m%d-%H%M%S')}.ipynb"
    if output.suffix != ".ipynb":
        raise LessonError(f"the output {output} must be an existing folder or a name in .ipynb")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch(exist_ok=False)
    except OSError as error:
        if output.exists():
            raise LessonError(f"{output} exists and stays as it is; give another name") from None
        raise LessonError(f"cannot write {output} ({error.strerror}); give another place") from None
    return output


def _literal(path: Path) -> str:
    """Escape the braces that papermill would otherwise fill with parameters."""
    return str(path).replace("{", "{{").replace("}", "}}")


def _first_line(text: str) -> str:
    return text.strip().splitlines()[0] if text.strip() else "no message"


def _last_started_cell(executed: Path) -> int:
    """Count the code cells that papermill began, which is the number of the one it stopped in.

    By their time of start: it marks those that it never came to as completed.
    """
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    started = [bool(cell["metadata"]["papermill"].get("start_time")) for cell in cells]
    return sum(s for s, cell in zip(started, cells, strict=True) if cell["cell_type"] == "code")


def _check_device(name: str) -> None:
    from sltools import devices

    try:
        devices.find(name)
    except SltoolsError as error:
        raise LessonError(f"parameter device: {error}") from None
