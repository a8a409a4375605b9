"""A sweep runs a grid of settings in other processes, into one CSV, and goes on where it was."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sltools import cli, lessons, sweep
from sltools.errors import LessonError

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
    assert not (tmp_path / "out").exists()


def test_another_sweep_is_not_mixed_in(lesson: lessons.Lesson, tmp_path: Path) -> None:
    (tmp_path / sweep.FILE).write_text("run,lesson\n99_other-1,99_other\n")
    with pytest.raises(LessonError, match="99_other"):
        sweep.sweep(lesson, {"seed": [1]}, tmp_path)
    (tmp_path / sweep.FILE).write_text("my,own\n1,2\n")
    with pytest.raises(LessonError, match="another folder"):
        sweep.sweep(lesson, {"seed": [1]}, tmp_path)
    assert (tmp_path / sweep.FILE).read_text() == "my,own\n1,2\n"


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
    monkeypatch.setattr(sweep, "PATIENCE", 1)
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
    arguments = ["sweep", "04", "-p", "seed=0,1", "-p", "cut=pool1", "--out", str(tmp_path)]
    monkeypatch.setattr("sys.argv", ["sltools", *arguments, "--jobs", "2"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1, "a failed run is not passed over"
    assert seen["grid"] == {"seed": [0, 1], "cut": ["pool1"]} and seen["jobs"] == 2
    assert "1 of 2" in capsys.readouterr().out


class _Now:
    """An executor that runs at once, in this process."""

    def submit(self, function: Any, *arguments: Any) -> Any:
        from concurrent.futures import Future

        future: Any = Future()
        future.set_result(function(*arguments))
        return future


def _in_this_process(*_: Any) -> Any:
    from contextlib import contextmanager

    @contextmanager
    def opened() -> Iterator[_Now]:
        yield _Now()

    return opened()
