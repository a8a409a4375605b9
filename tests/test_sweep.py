"""A sweep runs a grid of settings in other processes, into one CSV, and goes on where it was."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor, Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from sltools import cli, lessons, storage, sweep
from sltools.errors import LessonError, SltoolsError

RESULT = '\n# %%\ncollected = {"noisy": 2 * noise, "seed_again": seed}\n'


@pytest.fixture
def lesson(little_course: Path) -> lessons.Lesson:
    """A lesson that offers a result, and fails for seed 7."""
    from tools import notebooks

    script = little_course / "src" / "03_little.py"
    notebook = notebooks.generate(script)
    notebook.cells.append(notebooks.nbformat.v4.new_code_cell(RESULT))
    notebooks.nbformat.write(notebook, little_course / "03_little.ipynb")
    return lessons.find("3", little_course)


def read(folder: Path) -> list[dict[str, str]]:
    with (folder / sweep.FILE).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_combination_is_a_row_and_failures_are_tried_again(
    lesson: lessons.Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "sweep"
    grid: dict[str, list[Any]] = {"seed": [1, 7], "noise": [0.5, 1]}
    sweep.sweep(lesson, grid, out, jobs=2)
    rows = {(row["seed"], row["noise"]): row for row in read(out)}
    assert set(rows) == {("1", "0.5"), ("1", "1"), ("7", "0.5"), ("7", "1")}
    assert rows["1", "1"]["noisy"] == "2" and rows["1", "1"]["status"] == "done"
    assert rows["1", "0.5"]["dataset"] == "digits", "defaults are settings too"
    assert rows["7", "1"]["status"] == "failed" and "seven is too much" in rows["7", "1"]["error"]
    assert all((out / f"{row['run']}.ipynb").exists() for row in rows.values())

    tried = []
    run = lessons.run
    monkeypatch.setattr(sweep, "_executor", _in_this_process)
    monkeypatch.setattr(lessons, "run", lambda *a, **k: (tried.append(a[1]), run(*a, **k))[1])
    sweep.sweep(lesson, grid, out)
    assert [values["seed"] for values in tried] == [7, 7]
    assert len(read(out)) == 4


def test_a_wrong_value_is_refused_before_anything_runs(
    lesson: lessons.Lesson, tmp_path: Path
) -> None:
    for grid in ({"colour": ["red"]}, {"seed": ["one"]}):
        with pytest.raises(LessonError):
            sweep.sweep(lesson, grid, tmp_path / "out")
    with pytest.raises(LessonError, match="no stage is called 'pool9'"):
        sweep.sweep(lessons.find("04"), {"cut": ["pool1", "pool9"]}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_else_a_lesson_says_at_its_end_is_passed_over(tmp_path: Path) -> None:
    streams = [("stdout", "so\n"), ("stdout", '{"noisy": 2.0}\n'), ("stderr", "a warning\n")]
    outputs = [{"output_type": "stream", "name": name, "text": [text]} for name, text in streams]
    executed = tmp_path / "executed.ipynb"
    executed.write_text(json.dumps({"cells": [{"outputs": outputs}]}))
    assert sweep._exported_numbers(executed) == {"noisy": 2.0}


HEADER = "run,lesson,status\n"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"run,lesson\n99_other-1,99_other\n", "99_other"),
        (b"my,own\n1,2\n", "another folder"),
        (b"my,own,header\n", "other columns"),
        (HEADER.encode() + b"03_little-1,03_li", "too few"),
        (HEADER.encode() + b"a,03_little,done,more\n", "too many"),
        (HEADER.encode() + b"\xff,03_little,done\n", "another folder"),
    ],
)
def test_what_is_no_sweep_of_this_lesson_is_not_mixed_in(
    lesson: lessons.Lesson, tmp_path: Path, content: bytes, reason: str
) -> None:
    (tmp_path / sweep.FILE).write_bytes(content)
    with pytest.raises(LessonError, match=reason):
        sweep.sweep(lesson, {"seed": [1]}, tmp_path)
    assert (tmp_path / sweep.FILE).read_bytes() == content


def test_a_folder_of_something_else_and_one_at_work_are_refused(
    lesson: lessons.Lesson, tmp_path: Path
) -> None:
    (tmp_path / "own" / "letters").mkdir(parents=True)
    with pytest.raises(LessonError, match="something else"):
        sweep.sweep(lesson, {"seed": [1]}, tmp_path / "own")
    assert {path.name for path in (tmp_path / "own").iterdir()} == {"letters"}
    (tmp_path / "file").touch()
    with pytest.raises(SltoolsError, match="cannot be used"):
        sweep.sweep(lesson, {"seed": [1]}, tmp_path / "file")
    busy = tmp_path / "busy"
    busy.mkdir()
    (busy / sweep.FILE).write_text(HEADER)
    with storage.exclusive_lock(busy), pytest.raises(SltoolsError, match="another run is at work"):
        sweep.sweep(lesson, {"seed": [1]}, busy)
    with pytest.raises(LessonError, match="jobs=0"):
        sweep.sweep(lesson, {"seed": [1]}, busy, jobs=0)


def test_a_file_that_excel_saved_and_a_very_long_error_do_not_end_the_sweep(
    lesson: lessons.Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(lesson: Any, values: Any, output: Path, timeout: float) -> None:
        raise LessonError("\ud800" + 200_000 * "x")

    monkeypatch.setattr(sweep, "_executor", _in_this_process)
    monkeypatch.setattr(lessons, "run", fails)
    sweep.sweep(lesson, {"seed": [1]}, tmp_path / "out")
    saved = tmp_path / "out" / sweep.FILE
    saved.write_bytes(b"\xef\xbb\xbf" + saved.read_bytes())
    assert len(sweep.sweep(lesson, {"seed": [1, 2]}, tmp_path / "out")) == 2


def test_a_value_given_twice_runs_once_and_columns_are_not_overwritten(
    lesson: lessons.Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_executor", _in_this_process)
    monkeypatch.setattr(lessons, "run", lambda lesson, values, output, timeout: output.touch())
    monkeypatch.setattr(sweep, "_exported_numbers", lambda executed: {"noisy": 1.0})
    assert len(sweep.sweep(lesson, {"seed": [1, 1], "noise": [0.5]}, tmp_path / "twice")) == 1
    monkeypatch.setattr(sweep, "_exported_numbers", lambda executed: {"noisy": 1.0, "seed": 5.0})
    [row] = sweep.sweep(lesson, {"seed": [1]}, tmp_path / "taken")
    assert (row["status"], row["seed"]) == ("failed", "1") and "must not use seed" in row["error"]


def test_a_worker_that_dies_is_one_sentence_and_keeps_the_rows(
    lesson: lessons.Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_executor", _in_this_process)
    monkeypatch.setattr(sweep, "_run", _dies_at_two)
    with pytest.raises(LessonError, match="process of the sweep died"):
        sweep.sweep(lesson, {"seed": [1, 2]}, tmp_path / "out")
    assert [row["seed"] for row in read(tmp_path / "out")] == ["1"]


def _dies_at_two(lesson: lessons.Lesson, values: dict[str, Any], *_: Any) -> dict[str, str]:
    if values["seed"] == 2:
        raise BrokenExecutor
    return {"status": "done", "error": "", "seconds": "0.1"}


def _disk_full_at_two(lesson: lessons.Lesson, values: dict[str, Any], *_: Any) -> dict[str, str]:
    if values["seed"] == 2:
        raise OSError(28, "No space left on device")
    return {"status": "done", "error": "", "seconds": "0.1"}


def test_a_full_disk_is_one_sentence_and_keeps_runs_that_ended_unasked(
    lesson: lessons.Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_executor", _in_this_process)
    monkeypatch.setattr(sweep, "_run", _disk_full_at_two)
    # The full disk is the first that is heard of, though all three runs ended.
    monkeypatch.setattr(sweep, "as_completed", lambda futures: list(futures)[1:])
    with pytest.raises(LessonError, match="had to stop: .*No space left"):
        sweep.sweep(lesson, {"seed": [1, 2, 3]}, tmp_path / "out")
    assert [row["seed"] for row in read(tmp_path / "out")] == ["1", "3"]


def test_a_disk_that_is_full_for_the_table_is_one_sentence_and_can_be_gone_on_with(
    lesson: lessons.Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_executor", _in_this_process)
    monkeypatch.setattr(sweep, "_run", lambda *_: {"status": "done", "error": "", "seconds": "1"})

    def full(table: Any) -> None:
        (table.folder / f".{sweep.FILE}.1.part").touch()
        raise OSError(28, "No space left on device")

    write = sweep._Table._write
    monkeypatch.setattr(sweep._Table, "_write", full)
    with pytest.raises(LessonError, match="had to stop: .*No space left"):
        sweep.sweep(lesson, {"seed": [1, 2]}, tmp_path / "out")
    monkeypatch.setattr(sweep._Table, "_write", write)
    assert len(sweep.sweep(lesson, {"seed": [1]}, tmp_path / "out")) == 1
    monkeypatch.setattr(sweep._Table, "_write", full)
    with pytest.raises(LessonError, match="had to stop: .*No space left"):
        sweep.sweep(lesson, {"seed": [1, 2, 3]}, tmp_path / "out")
    assert [row["seed"] for row in read(tmp_path / "out")] == ["1"]


def test_another_release_runs_anew_and_says_which_it_is(
    lesson: lessons.Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "_executor", _in_this_process)
    monkeypatch.setattr(sweep, "_run", _disk_full_at_two)
    for version in ("1.0", "1.0", "2.0"):
        monkeypatch.setattr(sweep, "__version__", version)
        rows = sweep.sweep(lesson, {"seed": [1]}, tmp_path / "out")
        assert [row["release"][:4] for row in rows] == [f"{version}+"], "of this call alone"
    assert [row["release"][:4] for row in read(tmp_path / "out")] == ["1.0+", "2.0+"]


INTERRUPTED = """
import sys
from pathlib import Path
from sltools import lessons, sweep
if __name__ == "__main__":
    lesson = lessons.find("3", Path(sys.argv[1]))
    sweep.sweep(lesson, {"seed": [1, 8, 2]}, Path(sys.argv[2]))
"""


@pytest.fixture
def at_work(lesson: lessons.Lesson, tmp_path: Path) -> "subprocess.Popen[str]":
    """A sweep into tmp_path/out, in a group of processes, whose second run sleeps for a minute."""
    (tmp_path / "script.py").write_text(INTERRUPTED)
    out = tmp_path / "out"
    command = [sys.executable, tmp_path / "script.py", lesson.path.parent, out]
    swept = subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True)
    while not (out / sweep.FILE).exists() or not read(out):
        assert swept.poll() is None
        time.sleep(0.05)
    return swept


@pytest.mark.proofs
@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals to a group of processes")
def test_an_interrupt_ends_the_runs_at_work_and_keeps_those_that_ended(
    at_work: "subprocess.Popen[str]", tmp_path: Path
) -> None:
    os.killpg(at_work.pid, signal.SIGINT)  # as a terminal does
    _, said = at_work.communicate(timeout=50)
    assert at_work.returncode != 0 and said.count("Traceback") == 1, said
    assert said.rstrip().endswith("KeyboardInterrupt")
    assert [row["seed"] for row in read(tmp_path / "out")] == ["1"]


@pytest.mark.proofs
@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="sends signals to a group of processes")
def test_nothing_goes_on_when_a_sweep_is_killed(at_work: "subprocess.Popen[str]") -> None:
    at_work.kill()
    at_work.communicate(timeout=50)  # which waits for all that hold its stderr: workers and kernels


@pytest.mark.proofs
@pytest.mark.slow
def test_a_dask_worker_that_dies_is_one_sentence_too(
    lesson: lessons.Lesson, tmp_path: Path
) -> None:
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    lesson.path.write_text(
        lesson.path.read_text(encoding="utf-8").replace(
            "collected =", "import os; seed == 2 and os.kill(os.getppid(), 9)\\ncollected ="
        ),
        encoding="utf-8",
    )
    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        distributed.LocalCluster(n_workers=1, **options) as cluster,
        pytest.raises(LessonError, match="process of the sweep died"),
    ):
        address = cluster.scheduler_address
        sweep.sweep(lesson, {"seed": [1, 2]}, tmp_path / "out", scheduler=address)
    assert [row["seed"] for row in read(tmp_path / "out")] == ["1"]


@pytest.mark.proofs
@pytest.mark.slow
def test_dask_workers_do_the_same(lesson: lessons.Lesson, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    options = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(n_workers=2, **options) as cluster:
        address = cluster.scheduler_address
        rows = sweep.sweep(lesson, {"seed": [1, 2, 7]}, tmp_path / "dask", scheduler=address)
    assert {row["seed"]: row["status"] for row in rows} == {"1": "done", "2": "done", "7": "failed"}
    assert {row["seed_again"] for row in read(tmp_path / "dask")} == {"1", "2", ""}


def test_a_scheduler_that_is_not_there_is_one_sentence(
    lesson: lessons.Lesson, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr(sweep, "SCHEDULER_TIMEOUT", 1)
    with pytest.raises(LessonError, match="no Dask scheduler"):
        sweep.sweep(lesson, {"seed": [1]}, tmp_path / "out", scheduler="tcp://127.0.0.1:9")


def test_the_command_line_splits_values(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def note(lesson: lessons.Lesson, grid: Any, folder: Path, **options: Any) -> list[Any]:
        seen.update(name=lesson.name, grid=grid, folder=folder, **options)
        return [{"status": "done"}, {"status": "failed"}]

    monkeypatch.setattr(sweep, "sweep", note)
    arguments = ["sweep", "04", "-p", "seed=0", "-p", "cut=pool1", "-p", "seed=1"]
    arguments += ["--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["sltools", *arguments, "--jobs", "2"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1, "a failed run is not passed over"
    assert seen["grid"] == {"seed": [0, 1], "cut": ["pool1"]} and seen["jobs"] == 2
    assert "1 of 2" in capsys.readouterr().out

    facts = dict.fromkeys(sweep.FACTS, "") | {"status": "done", "cut": "pool1"}
    for number, said in (({}, True), ({"clone_accuracy": "0.9"}, False)):
        monkeypatch.setattr(sweep, "sweep", lambda *_, n=number, **__: [facts | n])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        assert ("offers no numbers" in capsys.readouterr().out) == said

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep, "sweep", interrupted)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == cli.INTERRUPTED
    assert "the same command goes on" in capsys.readouterr().out


class _Now:
    """An executor that runs at once, in this process."""

    def submit(self, function: Any, *arguments: Any) -> Any:
        future: Any = Future()
        try:
            future.set_result(function(*arguments))
        except Exception as error:
            future.set_exception(error)
        return future


@contextmanager
def _in_this_process(*_: Any) -> Iterator[_Now]:
    yield _Now()
