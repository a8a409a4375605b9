"""The README is short, and what it says of the lessons is what the notebooks hold."""

import re
from pathlib import Path

from sltools import lessons

README = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
MOST_LINES = 160


def test_the_readme_is_read_in_one_sitting() -> None:
    assert len(README.splitlines()) <= MOST_LINES
    assert README.count("\n|---|") == 2  # the lessons, and one table of results


def test_the_lesson_table_is_true() -> None:
    rows = re.findall(r"^\| (\d\d) (.+?) \| (\d+) \|", README, re.M)
    found = [
        (f"{lesson.number:02}", lesson.title, str(lesson.minutes)) for lesson in lessons.lessons()
    ]
    assert rows == found
