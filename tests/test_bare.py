"""`pip install .` is enough: lessons, exercises and commands with nothing else installed."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from PIL import Image

from sltools import lessons
from sltools.lessons import Lesson
from tests.test_data import idx_content, write
from tools import notebooks

pytestmark = [pytest.mark.proofs, pytest.mark.slow]

ROOT = notebooks.ROOT
CELL_TIMEOUT = 120  # seconds
PATIENCE = 60  # seconds for JupyterLab to answer, on a busy machine
START = 25  # seconds in which what a command lacks shows
INTERRUPTED = 130
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^(sltools (?!lab)[^#\n]+)", README, re.M)
EXERCISES = sorted((ROOT / "exercises").glob("*.ipynb"))

# At the end of the notebook its own variables say whether the settings arrived.
PROBE = "print({{name: globals()[name] for name in {names!r}}})"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Nothing of this checkout or this user but the victims that were trained already."""
    passed = ("PATH", "LANG", "OMP_NUM_THREADS", "SLTOOLS_STATIC", "SLTOOLS_CACHE")
    kept = {name: os.environ[name] for name in passed if name in os.environ}
    return {**kept, "HOME": str(tmp_path / "home")}


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def _run(*command: Any, cwd: Path, env: dict[str, str]) -> str:
    done = subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


def test_the_library_in_use_is_the_installed_one_and_developers_packages_are_not(
    bare: Path, environment: dict[str, str], empty: Path
) -> None:
    code = (
        "import importlib.util, sltools.lessons as lessons\n"
        "print(lessons.course(), len(lessons.lessons()))\n"
        "print([name for name in ('pytest', 'hypothesis', 'jupytext', 'distributed')"
        " if importlib.util.find_spec(name)])"
    )
    printed = _run(bare / "python", "-c", code, cwd=empty, env=environment).split()
    assert Path(printed[0]).is_relative_to(bare.parent)
    assert printed[1:] == [str(len(list((ROOT / "course").glob("*.ipynb")))), "[]"]


def other_settings(lesson: Lesson) -> dict[str, Any]:
    """Return the tiny budget, another seed, and the alternative that the lesson itself names."""
    known = {parameter.name: parameter for parameter in lesson.parameters}
    facts = nbformat.read(lesson.path, as_version=4).metadata.sltools
    others = {"budget": "tiny", "seed": 3, **facts.get("alternative", {})}
    return {name: value for name, value in others.items() if name in known}


@pytest.mark.parametrize(
    "lesson",
    [*lessons.lessons(notebooks.COURSE), *lessons.appendix(notebooks.COURSE)],
    ids=lambda lesson: lesson.name,
)
def test_a_lesson_runs_with_other_settings(
    lesson: Lesson, bare: Path, environment: dict[str, str], empty: Path
) -> None:
    settings = other_settings(lesson)
    notebook = nbformat.read(lesson.path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE.format(names=sorted(settings))))
    probed = empty / lesson.path.name
    nbformat.write(notebook, probed)
    options = [part for name, value in settings.items() for part in ("-p", f"{name}={value}")]
    output = empty / "executed.ipynb"
    command = (bare / "sltools", "run", probed, *options, "-o", output, "--timeout", CELL_TIMEOUT)
    _run(*command, cwd=empty, env=environment)
    executed = nbformat.read(output, as_version=4)
    assert executed.cells[-1].outputs[0].text.strip() == str(dict(sorted(settings.items())))


@pytest.mark.parametrize("exercise", EXERCISES, ids=lambda path: path.stem)
def test_an_exercise_notebook_runs(
    exercise: Path, bare: Path, environment: dict[str, str], empty: Path
) -> None:
    output = empty / "executed.ipynb"
    _run(bare / "sltools", "run", exercise, "-o", output, cwd=empty, env=environment)
    cells = nbformat.read(output, as_version=4).cells
    ran = [cell for cell in cells if cell.cell_type == "code" and cell.source.strip()]
    assert all(cell.execution_count for cell in ran)
    told = [text for cell in ran for text in _texts(cell) if ": not attempted" in text]
    assert len(told) == sum("\ncheck(" in cell.source for cell in ran) > 0


def _texts(cell: Any) -> list[str]:
    return [output.data.get("text/plain", "") for output in cell.outputs if "data" in output]


NETWORK = """
from torch import nn
def Front(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
def Rest(): return nn.Sequential(nn.Flatten(), nn.Linear(144, 2))
"""


@pytest.fixture
def prepared(empty: Path, environment: dict[str, str]) -> Path:
    """What the commands of the README suppose: data, notebooks to grade, a split to audit."""
    (empty / "submissions").mkdir()
    notebook = nbformat.read(ROOT / "exercises" / "04_inversion_and_stealing.ipynb", as_version=4)
    nbformat.write(notebook, empty / "submissions" / "ann.ipynb")
    (mnist := empty / "data" / "mnist").mkdir(parents=True)
    write(mnist, idx_content(train=3000, test=200))
    environment["SLTOOLS_DATA_DIR"] = str(mnist.parent)
    (empty / "net.py").write_text(NETWORK)
    for number in range(40):
        folder = empty / "scans" / f"class {number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        colour = (100 * (number % 2) + number, number, 2 * number)
        Image.new("RGB", (8, 8), colour).save(folder / f"{number}.png")
    return empty


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_readme_starts(
    command: str, bare: Path, environment: dict[str, str], prepared: Path
) -> None:
    name, *arguments = shlex.split(command)
    process = subprocess.Popen(
        [bare / name, *arguments],
        cwd=prepared,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=START)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGINT)
        printed, _ = process.communicate(timeout=60)
    assert process.returncode in (0, INTERRUPTED), printed
    assert "Traceback" not in printed


def test_the_arena_has_what_its_dearest_defence_needs(
    bare: Path, environment: dict[str, str], empty: Path
) -> None:
    options = ["--defense", "DP-SGD", "--budget", "tiny", "--victims", 1, "--clones", 1]
    printed = _run(bare / "sltools", "arena", "arena", *options, cwd=empty, env=environment)
    assert "| DP-SGD 1 |" in printed


def test_lab_copies_the_course_and_serves_it(
    bare: Path, environment: dict[str, str], empty: Path
) -> None:
    port, token = _free_port(), "secret"
    command = [bare / "sltools", "lab", "my-course", "--no-browser", f"--port={port}"]
    lab = subprocess.Popen(
        [*command, "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}"],
        cwd=empty,
        env=environment,
    )
    try:
        address = f"http://127.0.0.1:{port}/api/contents/course?token={token}"
        served = {entry["name"] for entry in _ask(address, lab)["content"]}
    finally:
        lab.terminate()
        lab.wait(30)
    shipped = {path.name for path in (ROOT / "course").glob("*.ipynb")}
    assert shipped <= served
    assert {path.name for path in (empty / "my-course" / "course").glob("*.ipynb")} == shipped


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ask(address: str, server: subprocess.Popen[bytes]) -> dict:
    for _ in _until(PATIENCE):
        assert server.poll() is None, "JupyterLab ended by itself"
        try:
            with urllib.request.urlopen(address, timeout=5) as answer:
                return dict(json.load(answer))
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            continue
    raise AssertionError(f"no answer within {PATIENCE} s")


def _until(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield
        time.sleep(0.3)
