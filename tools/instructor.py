"""Write the parts of INSTRUCTOR.md that follow from the course: minutes, and wrong answers.

    python -m tools.instructor            rewrite them
    python -m tools.instructor --check    say whether they are what they should be

The wrong answers are those of the bank that proves the checks, with what each of them is told.
"""

import argparse
import re
import sys
from collections.abc import Callable

from sltools import exercises, lessons
from sltools.checking import judging
from sltools.checking.judging import LocalAnswer
from sltools.exercises import Task
from tests import bank
from tools.notebooks import ROOT

PAGE = ROOT / "INSTRUCTOR.md"
MARK = re.compile(r"(<!-- made by tools.instructor: (\w+) -->\n).*?(<!-- end -->)", re.S)


def minutes() -> str:
    """Return the table of lessons and exercises with their minutes."""
    rows = ["| | lesson | exercises | tasks |", "|---|---|---|---|"]
    for lesson in lessons.lessons():
        tasks = exercises.tasks(f"{lesson.number:02}")
        spent = str(sum(task.minutes for task in tasks)) if tasks else ""
        listed = ", ".join(f"{task.key.partition('.')[2]} {task.minutes}" for task in tasks)
        rows.append(
            f"| {lesson.number:02} {lesson.title} | {lesson.minutes} | {spent} | {listed} |"
        )
    return "\n".join(rows)


def wrong_answers() -> str:
    """Return, for each task, what learners do and what the check tells them."""
    return "\n\n".join(map(_section, exercises.tasks()))


def _section(task: Task) -> str:
    lines = [f"**{task.key}, {task.title}**", ""]
    for name, answer in bank.proofs()[task.key].wrong.items():
        told = "" if task.kind == "challenge" else f": {_told(task, answer)}"
        lines.append(f"- *{name}*{told}")
    return "\n".join(lines)


def _told(task: Task, answer: object) -> str:
    """Return what the check says, without the figures of this run."""
    message = judging.judge(task, LocalAnswer(answer), [1]).message
    return message.partition("\n")[0].replace("|", "\\|")


PARTS: dict[str, Callable[[], str]] = {"minutes": minutes, "wrong_answers": wrong_answers}


def page() -> str:
    """Return the whole page with its made parts written anew."""
    text = PAGE.read_text(encoding="utf-8")
    return MARK.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[3]}", text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line described above; return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m tools.instructor", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, compare only")
    if not parser.parse_args(arguments).check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    same = page() == PAGE.read_text(encoding="utf-8")
    print("INSTRUCTOR.md is up to date" if same else "run: python -m tools.instructor")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
