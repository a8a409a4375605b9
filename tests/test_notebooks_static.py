"""The committed notebooks, read without running them."""

import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

from sltools import exercises, lessons
from tools import notebooks

COURSE = notebooks.COURSE
LESSONS = sorted(COURSE.glob("*.ipynb"))
APPENDIX = sorted(notebooks.APPENDIX.glob("*.ipynb"))
TAGS = {"parameters", "nbval-ignore-output", "nbval-skip", "skip-execution", "hide-input"}
MAX_BYTES = 1_500_000
MAX_SECONDS, MAX_SECONDS_COURSE = 55, 360  # the README promises less than a minute
MOST = (3000, 14)  # words of Markdown and figures of a lesson
SHORTER = {"05_how_deep": (2800, 12)}
QUIET = 0.25  # calibration of two cores with nothing else to do; a busy machine has a larger one

SOLUTIONS = sorted(notebooks.SOLUTIONS.glob("*.ipynb"))
EXERCISES = sorted((notebooks.ROOT / "exercises").glob("*.ipynb"))
ALL = [*LESSONS, *APPENDIX, *SOLUTIONS, *EXERCISES]


def _name(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


lesson = pytest.mark.parametrize("path", LESSONS, ids=_name)
run = pytest.mark.parametrize("path", [*LESSONS, *APPENDIX], ids=_name)
executed = pytest.mark.parametrize("path", [*LESSONS, *APPENDIX, *SOLUTIONS], ids=_name)
exercise = pytest.mark.parametrize("path", EXERCISES, ids=_name)
every = pytest.mark.parametrize("path", ALL, ids=_name)


def test_every_notebook_is_what_its_source_builds() -> None:
    for folder in notebooks.FOLDERS:
        assert notebooks.differences(folder) == [], "run: make notebooks"


def test_every_topic_has_a_lesson_an_exercise_and_a_solution() -> None:
    stems = [path.stem for path in EXERCISES]
    assert stems == [path.stem for path in SOLUTIONS]
    assert set(stems) <= {path.stem for path in LESSONS}
    assert {stem[:2] for stem in stems} == {task.topic for task in exercises.tasks()}


@exercise
def test_an_exercise_holds_no_solution_and_nothing_was_run(path: Path) -> None:
    for cell in _code(path):
        assert not cell.outputs and cell.execution_count is None
        assert "SOLUTION" not in cell.source and "# stub:" not in cell.source


def test_lessons_have_their_numbers() -> None:
    assert [path.name[:2] for path in LESSONS] == [f"{number:02}" for number in (*range(13), 15)]


@executed
def test_code_was_run_once_and_in_order(path: Path) -> None:
    counts = [c.execution_count for c in _code(path) if "skip-execution" not in _tags(c)]
    assert counts == list(range(1, len(counts) + 1))


@executed
def test_outputs_are_there_and_none_is_an_error(path: Path) -> None:
    kinds = {output.output_type for cell in _code(path) for output in cell.outputs}
    assert kinds, "no cell shows anything"
    assert "error" not in kinds


@every
def test_no_widget_state_or_live_widget_is_stored(path: Path) -> None:
    assert "widgets" not in _read(path).metadata
    for cell in _code(path):
        for output in cell.outputs:
            assert notebooks.WIDGET not in output.get("data", {}), cell.source


@every
def test_tags_are_known_and_mean_the_same_to_every_runner(path: Path) -> None:
    for cell in _read(path).cells:
        tags = _tags(cell)
        assert tags <= TAGS, cell.source
        # nbval knows only the one tag, papermill and nbclient only the other.
        assert ("nbval-skip" in tags) == ("skip-execution" in tags), cell.source


@every
def test_a_cell_that_is_not_compared_says_why(path: Path) -> None:
    for cell in _code(path):
        if _tags(cell) & {"nbval-ignore-output", "nbval-skip"}:
            assert re.search(r"^# not compared: \w+", cell.source, re.M), cell.source


@every
def test_every_picture_has_alt_text(path: Path) -> None:
    for cell in _code(path):
        for output in cell.outputs:
            for kind in output.get("data", {}):
                if kind.startswith("image/"):
                    assert output.metadata.get(kind, {}).get("alt", "").strip(), cell.source
    for alt in re.findall(r"!\[(.*?)\]\(", _prose(path)):
        assert alt.strip()
    for tag in re.findall(r"<img\b[^>]*>", _prose(path)):
        assert re.search(r'alt="[^"]+"', tag), tag


@every
def test_links_stay_inside_what_a_learner_has(path: Path) -> None:
    for target in _links(path):
        linked = (path.parent / target.split("#")[0]).resolve()
        assert linked.parent in (COURSE, notebooks.APPENDIX, notebooks.ROOT / "exercises"), target
        assert linked.exists(), target


@run
def test_parameters_are_the_ones_every_lesson_has(path: Path) -> None:
    tagged = [cell for cell in _code(path) if "parameters" in _tags(cell)]
    if not tagged and path.name.startswith("00_"):
        return
    assert len(tagged) == 1
    parameters = {p.name: p for p in lessons.read(path).parameters}
    assert [n for n in parameters if n != "cut"] == ["dataset", "budget", "seed", "device"]
    assert all(p.help for p in parameters.values()), "a parameter has no comment"
    assert parameters["budget"].choices == ("tiny", "quick", "full")
    assert parameters["budget"].default == "quick"


@lesson
def test_the_parts_of_a_lesson_are_there(path: Path) -> None:
    prose = _prose(path).lower()
    facts = _read(path).metadata.sltools
    assert facts.minutes > 0 and re.search(rf"\b{facts.minutes}\s+minutes\b", prose)
    if path != LESSONS[-1]:
        following = LESSONS[LESSONS.index(path) + 1].name
        assert following in _links(path), "no link to the next lesson"
    if facts.number == 0:
        return
    for part in ("objectives", "prerequisites", "further reading", "review questions"):
        assert re.search(rf"^(#+|\*\*).*\b{part}", prose, re.M), f"no {part}"
    answers = prose[prose.index("review questions") :]
    assert answers.count("<details>") == answers.count("</details>") > 0, "answers are not folded"
    if any(re.search(r"\battacks\b", cell.source) for cell in _code(path)):
        assert "threat card" in prose, "an attack needs a threat card"


@run
def test_minutes_follow_from_the_rule(path: Path) -> None:
    notebook = _read(path)
    told, rule = notebook.metadata.sltools.minutes, notebooks.minutes(notebook)
    assert abs(told - rule) <= 5, f"the header says {told} minutes, the rule {rule}"


@lesson
def test_a_lesson_is_as_short_as_it_promises(path: Path) -> None:
    most_words, most_figures = SHORTER.get(path.stem, MOST)
    pictures = [
        output
        for cell in _code(path)
        for output in cell.outputs
        if any(kind.startswith("image/") for kind in output.get("data", {}))
    ]
    assert len(_prose(path).split()) <= most_words
    assert len(pictures) <= most_figures


@every
def test_a_notebook_is_small(path: Path) -> None:
    assert path.stat().st_size < MAX_BYTES


def test_the_course_runs_in_a_coffee_break() -> None:
    facts = {path.stem: _read(path).metadata.sltools for path in [*LESSONS, *APPENDIX]}
    seconds = {
        name: fact.seconds * min(1, QUIET / fact.calibration) for name, fact in facts.items()
    }
    assert all(s <= MAX_SECONDS for s in seconds.values()), seconds
    assert sum(seconds[path.stem] for path in LESSONS) <= MAX_SECONDS_COURSE, seconds


@run
def test_the_alternative_settings_are_allowed(path: Path) -> None:
    found = lessons.read(path)
    for name, value in _read(path).metadata.sltools.get("alternative", {}).items():
        assert found.parameter(name).check(value) != found.parameter(name).default


def _read(path: Path) -> NotebookNode:
    return nbformat.reads(path.read_text(encoding="utf-8"), as_version=4)


def _code(path: Path) -> list[NotebookNode]:
    return notebooks.code_cells(_read(path))


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


def _prose(path: Path) -> str:
    return "\n\n".join(cell.source for cell in _read(path).cells if cell.cell_type == "markdown")


def _links(path: Path) -> list[str]:
    """Return the targets of Markdown links to files, web addresses and anchors left out."""
    targets = re.findall(r"\]\(([^)\s#][^)\s]*)", _prose(path))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]
