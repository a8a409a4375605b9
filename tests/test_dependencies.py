"""What a learner's installation is told to bring is what the library and the lessons import."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OPTIONAL = {"distributed", "nbgrader"}  # for --scheduler and --nbgrader, which say if they lack
SOURCES = sorted(
    path
    for pattern in ("sltools/**/*.py", "course/src/*.py", "solutions/src/*.py")
    for path in ROOT.glob(pattern)
)


def _names(requirements: list[str]) -> set[str]:
    return {re.match(r"[\w.-]+", text)[0].lower().replace("_", "-") for text in requirements}  # type: ignore[index]


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.partition(".")[0])
    return found - {*sys.stdlib_module_names, "sltools"}


def test_all_that_is_imported_is_a_dependency() -> None:
    known, declared = packages_distributions(), _names(PROJECT["dependencies"])
    missing = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in SOURCES
        for name in _imported(path)
        if not {part.lower().replace("_", "-") for part in known.get(name, [name])}
        & (declared | OPTIONAL)
    }
    assert missing == set()


def test_all_dependencies_have_a_tested_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pinned = _names([line for line in lines if line and not line.startswith("#")])
    extras = [text for texts in PROJECT["optional-dependencies"].values() for text in texts]
    assert _names([*PROJECT["dependencies"], *extras]) - pinned == set()


def test_the_version_is_known_without_an_installation(tmp_path: Path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import sltools; print(sltools.__version__)"
    )
    command = [sys.executable, "-I", "-S", "-c", code]  # without site-packages
    printed = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert re.fullmatch(r"\d+\.\d+\.\d+", printed.stdout.strip())


@pytest.mark.parametrize(
    "name", ["README.md", "docs/instructors/guide.md", "Makefile", *map(str, SOURCES)]
)
def test_nobody_is_told_to_install_another_project_of_our_name(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for arguments in re.findall(r"pip install ([^\n`]*)", text):
        assert not re.search(r"(?<![\w.-])sltools\b", arguments), arguments


def test_both_lines_that_install_by_hand_take_the_tested_versions() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    torch, rest = re.findall(r"^pip install (.*)$", readme, re.M)
    assert torch.startswith("-c constraints.txt --no-deps torch --index-url ")  # see install_torch
    assert rest == "-c constraints.txt ."
