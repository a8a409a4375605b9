"""The wheel alone is enough: no checkout, no sources of the lessons, no tests."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
PATIENCE = 60  # seconds for JupyterLab to answer, on a busy machine


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wheel built from a copy of the repository that holds leftovers of every kind."""
    folder = tmp_path_factory.mktemp("wheel")
    copy = folder / "copy"
    leftovers = shutil.ignore_patterns(".venv*", ".git", ".*_cache", ".hypothesis", "my-course")
    shutil.copytree(ROOT, copy, ignore=leftovers)
    for leftover in ("sltools/__pycache__/x.pyc", "course/.ipynb_checkpoints/x.ipynb"):
        (copy / leftover).parent.mkdir(exist_ok=True)
        (copy / leftover).write_text("")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, copy], check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def sltools(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `sltools` command of a new environment: the wheel, over the packages installed here."""
    venv = tmp_path_factory.mktemp("installed") / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True, timeout=60)
    (site,) = venv.glob("lib/python*/site-packages")
    # A .pth file inside the folder it names is not read, so a checkout installed here is not seen.
    (site / "here.pth").write_text(sysconfig.get_path("purelib"))
    pip = [sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "install", "--quiet"]
    subprocess.run([*pip, "--no-deps", "--no-index", wheel], check=True, timeout=120)
    return venv / "bin" / "sltools"


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Nothing of this checkout or this user, but the JupyterLab pages that are installed here."""
    jupyter = {
        "JUPYTERLAB_DIR": f"{sys.prefix}/share/jupyter/lab",
        "JUPYTER_CONFIG_PATH": f"{sys.prefix}/etc/jupyter",
    }
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, **jupyter, "HOME": str(tmp_path / "home")}


@pytest.fixture
def empty(tmp_path: Path) -> Path:
    folder = tmp_path / "empty"
    folder.mkdir()
    return folder


def test_the_wheel_holds_the_library_and_the_lessons_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    folders = ("course", "exercises", "solutions")
    notebooks = {f"{f}/{path.name}" for f in folders for path in (ROOT / f).glob("*.ipynb")}
    material = {n.removeprefix("sltools/_material/") for n in names if "/_material/" in n}
    assert notebooks == {name for name in material if name.endswith(".ipynb")}
    assert {"sltools/lessons.py", "sltools/cli.py"} <= names
    assert {Path(name).parts[0] for name in names} == {"sltools", "sltools-0.1.0.dist-info"}
    unwanted = {"src", "tests", "tools", "__pycache__", ".ipynb_checkpoints"}
    assert not [name for name in names if unwanted & set(Path(name).parts)]


def test_lab_copies_the_course_and_serves_it(
    sltools: Path, environment: dict[str, str], empty: Path
) -> None:
    port, token = _free_port(), "secret"
    command = [sltools, "lab", "my-course", "--no-browser", f"--port={port}"]
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


def test_the_installed_library_is_the_one_in_use(
    sltools: Path, environment: dict[str, str], empty: Path
) -> None:
    code = "from sltools import lessons; print(lessons.course()); print(len(lessons.lessons()))"
    printed = subprocess.run(
        [sltools.with_name("python"), "-c", code],
        cwd=empty,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout.split()
    assert Path(printed[0]).is_relative_to(sltools.parents[1])
    assert int(printed[1]) == len(list((ROOT / "course").glob("*.ipynb")))


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
