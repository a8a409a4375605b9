"""The wheel holds the library and the notebooks: no sources of the lessons, no tests."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from sltools import __version__

ROOT = Path(__file__).resolve().parents[1]


def _built(folder: Path) -> Path:
    """Build a wheel from a copy of the repository that holds leftovers of every kind."""
    copy = folder / "copy"
    leftovers = shutil.ignore_patterns(".venv*", ".git", ".*cache", ".hypothesis", "my-course")
    shutil.copytree(ROOT, copy, ignore=leftovers)
    for leftover in ("sltools/__pycache__/x.pyc", "course/.ipynb_checkpoints/x.ipynb"):
        (copy / leftover).parent.mkdir(exist_ok=True)
        (copy / leftover).write_text("")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", folder, copy], check=True, timeout=120)
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_holds_the_library_and_the_lessons_and_nothing_else(tmp_path: Path) -> None:
    names = set(zipfile.ZipFile(_built(tmp_path)).namelist())
    folders = ("course", "exercises", "solutions")
    notebooks = {
        path.relative_to(ROOT).as_posix() for f in folders for path in (ROOT / f).rglob("*.ipynb")
    }
    material = {n.removeprefix("sltools/_material/") for n in names if "/_material/" in n}
    assert notebooks == {name for name in material if name.endswith(".ipynb")}
    assert {"sltools/lessons/running.py", "sltools/cli.py"} <= names
    assert "sltools/fieldmap/works.json" in names
    facts = f"attacking_split_learning-{__version__}.dist-info"
    assert {Path(name).parts[0] for name in names} == {"sltools", facts}
    unwanted = {"src", "tests", "tools", "__pycache__", ".ipynb_checkpoints"}
    assert not [name for name in names if unwanted & set(Path(name).parts)]
