"""Every lesson runs with other settings than the ones it is shown with."""

from pathlib import Path
from typing import Any

import nbformat
import pytest

from sltools import lessons
from sltools.lessons import Lesson
from tools import notebooks

pytestmark = [pytest.mark.notebooks, pytest.mark.slow]
CELL_TIMEOUT = 120  # seconds

# At the end of the notebook its own variables say whether the settings arrived.
PROBE = "print({{name: globals()[name] for name in {names!r}}})"


def other_settings(lesson: Lesson) -> dict[str, Any]:
    """Return the tiny budget, another seed, and the alternative that the lesson itself names."""
    known = {parameter.name: parameter for parameter in lesson.parameters}
    facts = nbformat.read(lesson.path, as_version=4).metadata.sltools
    others = {"budget": "tiny", "seed": 3, **facts.get("alternative", {})}
    return {name: value for name, value in others.items() if name in known}


@pytest.mark.parametrize(
    "lesson", lessons.lessons(notebooks.COURSE), ids=lambda lesson: lesson.name
)
def test_a_lesson_runs_with_other_settings(
    lesson: Lesson, tmp_path: Path, record_property: Any
) -> None:
    settings = other_settings(lesson)
    notebook = nbformat.read(lesson.path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(PROBE.format(names=sorted(settings))))
    probed = tmp_path / lesson.path.name
    nbformat.write(notebook, probed)

    output = lessons.run(lessons.read(probed), settings, tmp_path, timeout=CELL_TIMEOUT)

    executed = nbformat.read(output, as_version=4)
    assert executed.cells[-1].outputs[0].text.strip() == str(dict(sorted(settings.items())))
    record_property("seconds", executed.metadata.papermill.duration)
