"""Every command that writes: on a full disk, where it may not write, and killed while it writes.

The work itself is replaced by a moment's; what is written, and how, is the command's own.
"""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import click
import joblib  # noqa: F401 - now: where a disk is full it finds no room for semaphores
import nbformat
import numpy as np
import papermill
import pytest
import torch
import typer
from safetensors.torch import save_file

from sltools import (
    arena,
    audit,
    cli,
    exercises,
    experiments,
    lessons,
    plots,
    protocol,
    storage,
    sweep,
)
from sltools.errors import LessonError
from sltools.exercises import record
from sltools.grading import grade as grading
from tests.submissions import notebook
from tests.test_cli import call
from tests.test_sweep import _in_this_process

Disk = Callable[[int], AbstractContextManager[None]]
PICTURE = plots.Picture(b"\x89PNG" + bytes(2000), "a picture", 300)
OUTCOME = experiments.Outcome(
    {"attack": "none", "runs": [], "seconds": 0, "interrupted": False, "knowledge": []}
    | {"metrics": {}, "baselines": {}, "long": "x" * 2000},
    {"inputs": torch.zeros(1000)},
    PICTURE,
)
WRITERS = {  # the command, and what it is told; PLACE is where it writes
    "lab": ["lab", "PLACE"],
    "run": ["run", "3", "-o", "PLACE/out.ipynb"],
    "sweep": ["sweep", "3", "-p", "seed=1,2", "--out", "PLACE"],
    "arena": ["arena", "PLACE", "--budget", "tiny", "--victims", "2", "--defense", "none"],
    "grade": ["grade", "subs", "--salt", "salt", "--out", "PLACE"],
    "gradebook": ["gradebook", "graded", "--roster", "roster.csv", "--out", "PLACE"],
    "assignment new": [
        *("assignment", "new", "--salt", "salt", "--roster", "roster.csv", "--out", "PLACE")
    ],
    "audit": [
        *("audit", "--client", "net.py:client", "--weights", "w.safetensors"),
        *("--images", "images.npy", "--minutes", "0.1", "--out", "PLACE"),
    ],
    "attack inversion": ["attack", "inversion", "--save", "PLACE", "--json"],
    "attack labels": ["attack", "labels", "--save", "PLACE", "--json"],
}
SCORES = {
    "submission": "a.ipynb",
    "learner": "ann",
    "counts": True,
    "points": 2,
    "out_of": 2,
    "tasks": [{"task": "hw04.prior", "points": 2, "out_of": 2}],
}
READERS = {"doctor", "check", "map"}  # `check` only sets a damaged file of progress aside
HOSTS = {"serve", "join"}  # they wait for each other: see test_cli and test_hosts
AUDIT = {"work.json", "report.json", "report.html"}  # tell the command and how long it took


@pytest.fixture(autouse=True)
def _moments(tmp_path: Path, little_course: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A little course, a roster, a submission and a salt, and no work that takes long."""
    (little_course.parent / "exercises").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(lessons.catalog, "material", lambda: little_course.parent)
    monkeypatch.setattr(lessons, "open_lab", lambda *_: None)
    monkeypatch.setattr(papermill, "execute_notebook", _execute)
    monkeypatch.setattr(sweep, "_executor", _in_this_process)
    monkeypatch.setattr(sweep, "_run", lambda *_: {"status": "done", "error": "", "seconds": "1"})
    monkeypatch.setattr(arena.attacks, "rows", _rows)
    monkeypatch.setattr(arena.attacks, "CURIOUS", {arena.attacks.service: ("service",)})
    monkeypatch.setattr(grading, "not_enforced", lambda sandbox: [])
    monkeypatch.setattr(grading, "_examine_all", _graded)
    monkeypatch.setattr(grading, "_compare", lambda *_: grading._Similarities({}, {}))
    monkeypatch.setattr(experiments, "run_inversion", lambda settings: OUTCOME)
    monkeypatch.setattr(experiments, "run_labels", lambda settings: OUTCOME)
    monkeypatch.setattr(audit.running, "ATTACKERS", ())
    Path("net.py").write_text("from torch import nn\ndef client(): return nn.Conv2d(1, 1, 1)\n")
    save_file(torch.nn.Conv2d(1, 1, 1).state_dict(), "w.safetensors")
    np.save("images.npy", np.random.default_rng(0).random((20, 1, 4, 4), np.float32))
    Path("subs").mkdir()
    Path("subs/one.ipynb").write_text(notebook(["x = 1"]))
    Path("salt").write_bytes(bytes(range(40)))
    Path("roster.csv").write_text(f"id,name\nann,{'a' * 700}\nbob,Bob\n")
    Path("graded").mkdir()
    Path("graded/scores.json").write_text(json.dumps([SCORES]))


def _execute(source: str, output: str, *_: Any, **__: Any) -> None:
    papermill.iorw.write_ipynb(nbformat.read(source, as_version=4), output)


def _rows(trial: Any, _: Any) -> list[arena.Row]:
    if trial.malicious:
        return [trial.row("hijacking", "seen", 1.0, 0.0)]
    return [
        trial.row("service", "accuracy", 0.9, 0.1),
        trial.row("UnSplit", "aligned_mse", 0.1, 0.2, clone=0),
        trial.row("decoder", "aligned_mse", 0.3, 0.2),
    ]


def _graded(plan: Any, todo: Any, *_: Any) -> Iterator[Any]:
    for submission in todo:
        yield submission, grading.Result(submission.name, grading.GRADED)


def _tree(place: Path) -> dict[str, bytes]:
    """What lies in a folder, without locks and what a killed program left."""
    files = [path for path in place.rglob("*") if path.is_file()]
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in files
        if not storage.is_temporary(path) and path.name != storage.LOCK
    }


def _told(name: str, place: object) -> list[str]:
    return [word.replace("PLACE", str(place)) for word in WRITERS[name]]


def test_no_command_is_left_out() -> None:
    def names(command: Any, *above: str) -> Iterator[str]:
        if isinstance(command, click.Group) or hasattr(command, "commands"):
            for name, inner in command.commands.items():
                yield from names(inner, *above, name)
        else:
            yield " ".join(above)

    assert {*names(typer.main.get_command(cli.app))} == WRITERS.keys() | READERS | HOSTS


@pytest.mark.parametrize("room", [0, 600])
@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on(
    name: str,
    room: int,
    full_disk: Disk,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    place = tmp_path / "place"
    with full_disk(room):
        assert call(monkeypatch, *_told(name, place)) == 1
    said = capsys.readouterr()
    assert "error: " in said.err and "Traceback" not in said.err
    if name.startswith("attack"):
        assert json.loads(said.out) == OUTCOME.facts
    whole = _tree(place)
    assert not any(path.stat().st_size == 0 for path in place.rglob("*.ipynb"))
    assert call(monkeypatch, *_told(name, place)) == 0
    after = _tree(place)
    changing = {"arena.json", "arena.csv", "sweep.csv", "facts.json", *AUDIT}
    assert all(after[file] == content for file, content in whole.items() if file not in changing)
    assert after.keys() > whole.keys() or name == "sweep"


@pytest.mark.parametrize("at", [0, 1])
@pytest.mark.parametrize("name", WRITERS)
def test_what_is_killed_while_it_writes_leaves_only_whole_files(
    name: str, at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if (name, at) == ("run", 1):
        pytest.skip("writes one file")
    place, left = tmp_path / "place", tmp_path / "left"
    assert call(monkeypatch, *_told(name, place)) == 0
    whole = _tree(place)
    with monkeypatch.context() as patch:
        _kill(patch, at)
        patch.setattr(sys, "argv", ["sltools", *_told(name, left)])
        with pytest.raises(_Killed):
            cli.main()
    files = _tree(left)
    stamped = {"arena.json", "arena.csv", "sweep.csv", ".sltools-course.json", *AUDIT}
    for file, content in files.items():
        assert file in stamped or content == whole[file] or (name, content) == ("run", b""), file
    if name == "run":
        (left / "out.ipynb").unlink()  # an output is never written over, so it is another's name
    assert call(monkeypatch, *_told(name, left)) == 0
    assert _tree(left).keys() == whole.keys()


class _Killed(BaseException):
    """The end of the process, as seen from within: nothing can be done about it."""


def _kill(patch: pytest.MonkeyPatch, at: int) -> None:
    """Let the process end in the middle of writing file number `at`, which it cannot clear away."""
    write, unlink, written = Path.write_bytes, Path.unlink, []

    def half(path: Path, content: bytes) -> int:
        if len(written) < at:
            written.append(path)
            return write(path, content)
        write(path, content[: len(content) // 2])
        raise _Killed

    def clear(path: Path, **options: Any) -> None:
        if not storage.is_temporary(path):
            unlink(path, **options)

    patch.setattr(Path, "write_bytes", half)
    patch.setattr(Path, "unlink", clear)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/sltools"])
def test_where_it_may_not_write_is_one_sentence(
    name: str,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if place.startswith("/proc") and not Path("/proc").is_dir():
        pytest.skip("has no file system that nobody can write to")
    Path("file").write_text("mine")
    assert call(monkeypatch, *_told(name, place)) == 1
    said = capsys.readouterr()
    assert "error: " in said.err and "Traceback" not in said.err and said.out == ""
    assert Path("file").read_text() == "mine"


@pytest.mark.parametrize("name", WRITERS)
def test_a_home_directory_is_found(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert call(monkeypatch, *_told(name, "~/place")) == 0
    assert _tree(tmp_path / "home" / "place")
    assert not (tmp_path / "~").exists()


# ---- more than that ------------------------------------------------------------------------------


def test_an_arena_keeps_its_trials_and_tells_the_one_it_has_no_room_for(
    full_disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def command(victims: int) -> list[str]:
        told = _told("arena", tmp_path / "place")
        return [*told[:-3], str(victims), *told[-2:]]

    assert call(monkeypatch, *command(30)) == 0  # so many that the rows are the largest file
    kept = (tmp_path / "place/arena.csv").read_bytes()
    capsys.readouterr()
    with full_disk(len(kept) + 20):  # room for half a row
        assert call(monkeypatch, *command(31)) == 1
    assert (tmp_path / "place/arena.csv").read_bytes() == kept
    unkept = capsys.readouterr().err.split("if it is not there:\n")[1]
    assert unkept.strip().splitlines()[0] == "digits,tiny,none,0,30,service,-1,accuracy,0.9,0.1"
    assert call(monkeypatch, *command(31)) == 0
    whole = (tmp_path / "place/arena.csv").read_bytes()
    assert whole.startswith(kept) and whole.count(b"service") == 31


def test_a_notebook_that_runs_keeps_its_last_state_on_a_full_disk(
    full_disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(source: str, output: str, *_: Any, **__: Any) -> None:
        _execute(source, output)
        with full_disk(600):
            _execute(source, output)

    monkeypatch.setattr(papermill, "execute_notebook", execute)
    with pytest.raises(LessonError, match=r"stopped: .*; what was written of it before is in"):
        lessons.run(lessons.find("3"), output=tmp_path / "out.ipynb")
    assert nbformat.read(tmp_path / "out.ipynb", as_version=4).cells


def test_an_edited_lesson_and_the_manifest_outlive_an_update_on_a_full_disk(
    full_disk: Disk, little_course: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "place"
    lessons.copy_course(place)
    (place / "course/03_little.ipynb").write_text("my notes")
    before = _tree(place)
    for path in little_course.glob("*.ipynb"):
        path.write_text("release 2" * 200)
    with full_disk(600), pytest.raises(LessonError, match="cannot copy the course"):
        lessons.copy_course(place)
    assert _tree(place) == before
    assert lessons.copy_course(place).beside == ("course/03_little.new.ipynb",)


@pytest.mark.parametrize("fault", ["full", "folder", "nowhere"])
def test_a_verdict_is_told_where_it_cannot_be_noted(
    fault: str, full_disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    path = tmp_path / {"nowhere": "no/where.json"}.get(fault, "progress.json")
    monkeypatch.setenv(record.VARIABLE, str(path))
    if fault == "folder":
        path.mkdir()
    if fault == "full":
        exercises.check("04.tv", 1)
    before = path.read_bytes() if path.is_file() else None
    with full_disk(10 if fault == "full" else 10**9):
        verdict = exercises.check("04.tv", 1)
    assert verdict.outcome != "right" and "not noted in" in capsys.readouterr().out
    assert (path.read_bytes() if path.is_file() else None) == before


def test_a_salt_that_has_no_room_is_not_half_there(
    full_disk: Disk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    Path("salt").unlink()
    with full_disk(10):
        assert call(monkeypatch, *_told("assignment new", tmp_path / "place")) == 1
    assert "cannot write the salt" in capsys.readouterr().err
    assert not Path("salt").exists()


@pytest.mark.parametrize("seconds", ["1e400", "1e300"])
@pytest.mark.parametrize("name", ["run", "sweep"])
def test_a_timeout_without_end_is_one_sentence(
    name: str, seconds: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    assert call(monkeypatch, *_told(name, tmp_path / "place"), "--timeout", seconds) == 1
    assert "at most 1,000,000 seconds" in capsys.readouterr().err
    assert not (tmp_path / "place").exists()
    for wrong in (float("nan"), 0, -1):
        with pytest.raises(LessonError, match="above 0 and at most"):
            lessons.run(lessons.find("3"), output=tmp_path / "place/out.ipynb", timeout=wrong)


@pytest.mark.parametrize("name", ["inversion", "labels"])
def test_an_interrupt_before_the_first_victim_ends_as_any_other(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.undo()
    monkeypatch.delenv("SLTOOLS_CACHE", raising=False)  # a kept victim is not trained

    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(protocol, "train", interrupt)
    assert call(monkeypatch, "attack", name, "--budget", "tiny") == cli.INTERRUPTED
    assert "nothing to report" in capsys.readouterr().err
