"""A grid of a lesson's parameters, each run through papermill in a process of its own, in one CSV.

A lesson offers its numbers in a dictionary called `collected`. A sweep can be stopped and goes on
where it was; what failed is tried again.
"""

import csv
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import (
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    as_completed,
)
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat

from sltools import __version__, lessons, storage
from sltools.errors import LessonError
from sltools.lessons import Lesson
from sltools.progress import bar

FILE = "sweep.csv"
FACTS = ("run", "lesson", "release", "status", "seconds", "error")
DONE = "done"
MAX_ERROR = 10_000  # characters of an error: csv reads no more than 131,072 in a cell
SCHEDULER_TIMEOUT = 10.0  # seconds to wait for a Dask scheduler
EXPORT_CELL = """\
# What the sweep keeps of this run.
import json
print(json.dumps({name: float(value) for name, value in globals().get("collected", {}).items()}))"""

Row = dict[str, str]


def sweep(
    lesson: Lesson,
    grid: Mapping[str, Sequence[Any]],
    folder: Path,
    *,
    jobs: int = 1,
    scheduler: str | None = None,
    timeout: float = lessons.CELL_TIMEOUT,
) -> list[Row]:
    """Run `lesson` with every combination of `grid`; return their rows in `folder`/sweep.csv.

    `jobs` processes work at the same time, or the workers of a Dask `scheduler` (its address); they
    must see `folder`. The executed notebooks are kept there. `timeout` is in seconds for each cell.
    Whatever ends a sweep, the rows of all runs that ended are kept, if they can be written. Ctrl-C
    ends those at work, too, but for Dask's: a worker ends the run that it has begun.

    Raises LessonError for a parameter, value or timeout that cannot be, a folder of something
    else or at work, a worker that died, a run that could not be begun or written, and a scheduler
    that cannot be reached.
    """
    if jobs < 1:
        raise LessonError(f"a sweep needs at least 1 process, not jobs={jobs}")
    lessons.check_timeout(timeout)
    settings = [lesson.settings(values) for values in _combinations(lesson, grid)]
    worker_deaths = _worker_death_errors(scheduler)
    table = _Table(folder.expanduser().absolute(), lesson)
    _check_folder(table.folder)
    with storage.exclusive_lock(table.folder):
        futures: dict[Future[Row], dict[str, Any]] = {}
        try:
            table.open()
            missing = [values for values in settings if not table.has(values)]
            lesson_with_export = _with_export_cell(lesson, table.folder)
            with _executor(jobs, scheduler) as executor:
                with _ignore_sigint():
                    for values in missing:
                        arguments = (
                            lesson_with_export,
                            values,
                            table.folder,
                            table.name(values),
                            timeout,
                        )
                        futures[executor.submit(_run, *arguments)] = values
                for future in bar(as_completed(futures), "sweeping", total=len(futures)):
                    table.add(futures[future], future.result())
                    del futures[future]
        except worker_deaths:
            raise LessonError(
                "a process of the sweep died, perhaps for want of memory. The rows of all runs "
                f"that ended are in {table.path}; run the sweep again, with fewer processes"
            ) from None
        except (OSError, RuntimeError) as error:  # a full disk, a kernel that does not start
            raise LessonError(
                f"the sweep had to stop: {error}. The rows of all runs that ended are in "
                f"{table.path}; put that right and run the sweep again"
            ) from error
        finally:
            _save_finished(futures, table)
    return [table.row(values) for values in settings]


def _worker_death_errors(scheduler: str | None) -> tuple[type[Exception], ...]:
    """What is raised for a run whose process died; LessonError if Dask is needed and missing."""
    if scheduler is None:
        return (BrokenExecutor,)
    try:
        from distributed import KilledWorker
    except ImportError:
        raise LessonError("a scheduler needs Dask: pip install distributed") from None
    return KilledWorker, CancelledError  # the latter if the scheduler died


def _save_finished(futures: Mapping[Future[Row], dict[str, Any]], table: "_Table") -> None:
    """Add the rows of runs that ended before they were asked for, as far as they can be written."""
    for future, values in futures.items():
        if future.done() and not future.cancelled() and future.exception() is None:
            with suppress(OSError):  # what was heard of first is told
                table.add(values, future.result())


@contextmanager
def _ignore_sigint() -> Iterator[None]:
    """Ctrl-C reaches a terminal's every process; those begun here leave it to this one."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set signals
        yield
        return
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)


def _check_folder(folder: Path) -> None:
    """Raise LessonError, before anything is written, if `folder` is in use for something else."""
    if not folder.is_dir() or (folder / FILE).exists():
        return
    if not all(
        path.name == storage.LOCK or storage.is_temporary(path) for path in folder.iterdir()
    ):
        raise LessonError(f"{folder} holds something else; name a new folder")


def _combinations(lesson: Lesson, grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    checked = [[lesson.parameter(name).check(v) for v in values] for name, values in grid.items()]
    for values in itertools.product(*map(dict.fromkeys, checked)):  # each value once
        yield dict(zip(grid, values, strict=True))


def _with_export_cell(lesson: Lesson, folder: Path) -> Lesson:
    """Copy the lesson to `folder`, with a last cell that prints what the sweep wants to know."""
    notebook = nbformat.read(lesson.path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(EXPORT_CELL))
    path = folder / lesson.path.name
    storage.write_atomic(path, nbformat.writes(notebook))
    return replace(lesson, path=path)


def _run(lesson: Lesson, values: dict[str, Any], folder: Path, name: str, timeout: float) -> Row:
    """Run one combination and return what the CSV says of it; a lesson that fails is a row too."""
    start = time.monotonic()
    output = folder / f"{name}.ipynb"
    output.unlink(missing_ok=True)  # of an earlier attempt, which failed or was interrupted
    facts = {"status": DONE, "error": ""}
    numbers: dict[str, float] = {}
    try:
        lessons.run(lesson, values, output, timeout)
        numbers = _exported_numbers(output)
        if taken := numbers.keys() & {*FACTS, *values}:
            raise LessonError(
                f"the lesson's `collected` must not use {', '.join(sorted(taken))}, which are "
                "columns of the sweep: rename them in its last cell"
            )
    except LessonError as error:
        facts, numbers = {"status": "failed", "error": str(error)[:MAX_ERROR]}, {}
    facts["seconds"] = f"{time.monotonic() - start:.1f}"
    return facts | {key: f"{value:.6g}" for key, value in numbers.items()}


def _exported_numbers(executed: Path) -> dict[str, float]:
    """Read what the probe printed."""
    last = json.loads(executed.read_text(encoding="utf-8"))["cells"][-1]
    printed = [output for output in last["outputs"] if output.get("name") == "stdout"]
    text = "".join("".join(output["text"]) for output in printed)
    numbers: dict[str, float] = json.loads(text.splitlines()[-1])
    return numbers


class _Table:
    """The rows of a sweep, by the name of their run; written anew, in one step, at every change."""

    def __init__(self, folder: Path, lesson: Lesson) -> None:
        self.folder = folder
        self.path = folder / FILE
        content = hashlib.sha256(lesson.path.read_bytes()).hexdigest()
        self._release = f"{__version__}+{content[:8]}"
        self._lesson = lesson
        self._rows: dict[str, Row] = {}

    def open(self) -> None:
        """Begin the file, or take over its rows; raise LessonError if they are no sweep's."""
        if self.path.exists():
            self._read()
        else:
            self._write()

    def _read(self) -> None:
        try:
            with self.path.open(newline="", encoding="utf-8-sig") as file:  # Excel adds a mark
                reader = csv.DictReader(file, strict=True)
                lines = list(reader)
            if not {*FACTS[:2]} <= {*(reader.fieldnames or ())}:
                raise ValueError("it has other columns")
            self._rows = {line["run"]: line for line in lines}
            names = {line["lesson"] for line in lines}
            if any(None in (*line, *line.values()) for line in lines):
                raise ValueError("a line has too few or too many cells")
        except (OSError, KeyError, ValueError, csv.Error) as error:
            raise LessonError(
                f"{self.path} is no sweep that can be continued ({error!r}); name another folder"
            ) from None
        if other := names - {self._lesson.name}:
            raise LessonError(f"{self.folder} holds a sweep of {other.pop()}; name another folder")

    def name(self, values: Mapping[str, Any]) -> str:
        """Name a run by its settings and its release: another sltools or lesson runs anew."""
        text = json.dumps([self._release, values], sort_keys=True)
        return f"{self._lesson.name}-{hashlib.sha256(text.encode()).hexdigest()[:10]}"

    def has(self, values: Mapping[str, Any]) -> bool:
        return self._rows.get(self.name(values), {}).get("status") == DONE

    def row(self, values: Mapping[str, Any]) -> Row:
        return self._rows[self.name(values)]

    def add(self, values: Mapping[str, Any], facts: Row) -> None:
        run = self.name(values)
        row = {"run": run, "lesson": self._lesson.name, "release": self._release}
        self._rows[run] = row | {k: str(v) for k, v in values.items()} | facts
        self._write()

    def _write(self) -> None:
        rows = list(self._rows.values())
        found = {column for row in rows for column in row}
        settings = [parameter.name for parameter in self._lesson.parameters]
        columns = [*FACTS[:3], *settings, *FACTS[3:]]
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, [*columns, *sorted(found - set(columns))], restval="")
        writer.writeheader()
        writer.writerows(rows)
        storage.write_atomic(self.path, file.getvalue().encode(errors="backslashreplace"))


def _end_with_parent() -> None:
    """Let this worker end when the sweep does, even if that was killed."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def end() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=end, daemon=True).start()


@contextmanager
def _executor(jobs: int, scheduler: str | None) -> Iterator[Executor]:
    """What works on the runs; an interrupt ends its work."""
    if scheduler is None:
        others = {*multiprocessing.active_children()}
        # Not forked: a fork of a process with threads, as torch's are, can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(jobs, context, initializer=_end_with_parent) as pool:
            try:
                yield pool
            except KeyboardInterrupt:
                for worker in {*multiprocessing.active_children()} - others:
                    worker.kill()  # its kernel ends with it
                raise
            except BaseException:
                pool.shutdown(cancel_futures=True)  # after the runs at work
                raise
        return
    from distributed import Client

    try:
        client = Client(scheduler, timeout=SCHEDULER_TIMEOUT)
    except (OSError, ValueError) as error:
        raise LessonError(f"there is no Dask scheduler at {scheduler}: {error}") from None
    with client:
        executor = client.get_executor()
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False)  # cancels
            raise
