"""What the pages of the project name is there: files, names of the library, sections, sums."""

import pkgutil
import re
from pathlib import Path

import pytest

from tools import notebooks

ROOT = notebooks.ROOT
PATTERNS = ("*.md", "docs/**/*.md", ".github/**/*.md")
PAGES = sorted(path for pattern in PATTERNS for path in ROOT.glob(pattern))
GUIDE = (ROOT / "docs" / "instructors" / "guide.md").read_text(encoding="utf-8")
TOP = r"(?:\.ci|\.github|benchmarks|course|docs|exercises|sltools|solutions|tests|tools)"
# Those of notebooks count as there: one that is still empty is not in the repository.
FOLDERS = {place for folder in notebooks.FOLDERS for place in (folder, folder / "src")}
every_page = pytest.mark.parametrize(
    "page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix()
)


@every_page
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target in re.findall(r"\]\((?![a-z]+:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert not anchor or anchor in _anchors(linked), target


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@every_page
def test_every_file_that_is_named_exists(page: Path) -> None:
    named = re.findall(rf"`({TOP}/[^\s`]*)`", page.read_text(encoding="utf-8"))
    assert [name for name in named if not _exists(name)] == []


def _exists(name: str) -> bool:
    path = ROOT / name
    place = path.parent if "NN_name" in name else path  # of a notebook that is yet to be written
    return place in FOLDERS or place.exists()


@every_page
def test_every_name_of_the_library_exists(page: Path) -> None:
    for name in re.findall(r"`(sltools(?:\.\w+)+)`", page.read_text(encoding="utf-8")):
        assert pkgutil.resolve_name(name)


def test_what_a_row_says_of_a_file_is_in_the_file() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `((?:sltools|tests)/[\w/]+\.py)` \| (.*)$", page, re.M)
    for file, told in rows:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert [name for name in re.findall(r"`(\w+)`", told) if name not in text] == [], file
    assert len(rows) > 10


def test_the_flow_of_one_image_runs(capsys: pytest.CaptureFixture[str]) -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", page, re.S)
    exec(compile(code, "architecture.md", "exec"), {})
    printed = capsys.readouterr().out
    assert printed.startswith("('client architecture', 'smashed')\n") and "mean image" in printed


def test_sections_that_the_plans_name_are_there() -> None:
    for row in re.finditer(r"^\|.*\blesson (\d\d)\b.*$", GUIDE, re.M):
        (script,) = (notebooks.COURSE / "src").glob(f"{row[1]}_*.py")
        for section in re.findall(r'"([^"]+)"', row[0]):
            assert f"\n# ## {section}\n" in script.read_text(encoding="utf-8"), section


def test_the_minutes_of_a_plan_add_up_and_fit_into_half_a_day() -> None:
    plans = re.findall(r"\n\| minutes \|.*?In all (\d+) ", GUIDE, re.S)
    tables = re.findall(r"\n(\| minutes \|.*?)\n\n", GUIDE, re.S)
    for total, table in zip(plans, tables, strict=True):
        assert sum(map(int, re.findall(r"^\| (\d+) ", table, re.M))) == int(total) <= 255
    assert len(plans) == 2
