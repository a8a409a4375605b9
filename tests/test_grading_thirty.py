"""Acceptance: thirty submissions, each with exactly the points it deserves, and no trace left."""

import csv
import json
import secrets
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

import sltools
from sltools.grading import grade as grading
from sltools.grading import report
from sltools.grading.sandbox import Limits, Sandbox, refusal
from tests import submissions

LIMITS = Limits(cell=4, call=3, memory=2 * 2**30)
# Those that end or hang take long; the second time, in another order, are every third of the rest.
SLOW = ("exits", "forks", "hog", "loops", "strange types", "magics", "conflict", "half", "flood")


@pytest.fixture
def server() -> Iterator[socket.socket]:
    """A local server that nobody may reach."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.1)
        yield listening


def _grade(folder: Path, cases: dict[str, submissions.Case], salt: Path) -> dict[str, dict]:
    """Grade cases in this order and return their rows of scores.json by the case's name."""
    (folder / "subs").mkdir(parents=True)
    names = submissions.write(folder / "subs", cases, list(cases))
    plan = grading.HomeTasks(salt.read_bytes(), "04", challenges=False)
    grading.grade(folder / "subs", folder / "out", plan, Sandbox(True, (str(salt),), LIMITS), 2)
    rows = json.loads((folder / "out" / "scores.json").read_text(encoding="utf-8"))
    by_submission = {row["submission"]: row for row in rows}
    assert set(by_submission) == set(names.values()), "a row for every submission"
    return {name: by_submission[names[name]] for name in names}


def _points(row: dict) -> dict[str, float]:
    return {task["task"].removeprefix("04."): task["points"] for task in row["tasks"]}


@pytest.mark.proofs
@pytest.mark.slow
def test_thirty_submissions_get_what_they_deserve(
    tmp_path: Path, server: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    if reason := refusal(Sandbox()):
        pytest.skip(f"submissions cannot be isolated here: {reason}")
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    (salt := tmp_path / "secret" / "salt").parent.mkdir()
    salt.write_bytes(secrets.token_bytes(32))
    first, second = tmp_path / "first", tmp_path / "second"
    forbidden = [str(salt.parent), str(first / "subs"), str(first / "out"), str(tmp_path)]
    outside = [f"{folder}/written" for folder in forbidden]
    cases = submissions.cases(outside, server.getsockname()[1])
    assert len(cases) == 30

    rows = _grade(first, cases, salt)
    missed: dict[tuple[str, str], dict[str, str]] = {}
    for name, case in cases.items():
        assert (rows[name]["status"], _points(rows[name])) == (case.status, case.points), name
        told = {task["task"].removeprefix("04."): task["message"] for task in rows[name]["tasks"]}
        failed = [f"cell {number}: {text}" for number, text in rows[name]["cells"].items()]
        told[""] = "\n".join([*rows[name]["remarks"], *failed])
        missed |= {(name, key): told for key, text in case.says.items() if text not in told[key]}
    assert not missed

    _assert_nothing_left(outside, temporary, server)
    _assert_harmless_reports(first / "out", salt.read_bytes())
    rest = [name for name in reversed(cases) if name not in SLOW][::3]
    shuffled = {name: cases[name] for name in rest}
    again = _grade(second, shuffled, salt)
    assert {name: _points(row) for name, row in again.items()} == {
        name: _points(rows[name]) for name in shuffled
    }


def _assert_nothing_left(outside: list[str], temporary: Path, server: socket.socket) -> None:
    assert not [place for place in outside if Path(place).exists()]
    for folder in (Path.home(), Path(sltools.__file__).parent):
        assert not (folder / "x").exists()
    assert not list(temporary.iterdir()), "working folders are removed"
    assert not _running(submissions.MARKER), "a process has got away"
    with pytest.raises(TimeoutError):
        server.accept()


def _running(marker: str) -> list[str]:
    """List the processes with `marker` in their command, seen from outside of all jails."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found += [path.parent.name] if marker.encode() in path.read_bytes() else []
        except OSError:  # it has just ended
            continue
    return found


def _assert_harmless_reports(out: Path, salt: bytes) -> None:
    with (out / "scores.csv").open(newline="", encoding="utf-8") as file:
        table = list(csv.reader(file))
    assert len(table) == 31 and len({len(row) for row in table}) == 1
    assert not [cell for row in table for cell in row if report.FORMULA.match(cell)]
    assert any(cell.startswith("'=cmd") for row in table for cell in row)
    pages = [path.read_text(encoding="utf-8") for path in (out / "feedback").iterdir()]
    assert len(pages) == 30
    assert not [page for page in pages if "<script" in page]
    assert any("&lt;script&gt;alert(1)" in page for page in pages)
    written = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert salt not in written and salt.hex().encode() not in written
