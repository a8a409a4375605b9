"""Write the parts of docs/instructors/ that follow from the course, such as minutes and mistakes.

    python -m tools.instructor            rewrite them
    python -m tools.instructor --check    say whether they are what they should be

The wrong answers are those of the bank that proves the checks, with what each of them is told. A
number before `<!-- minutes: L04 04.tv 15 -->` is what lesson 04, the task 04.tv (`04.*`: all tasks
of the topic) and 15 minutes take together; before `<!-- hours: ... -->` the same in half hours.
"""

import argparse
import re
import sys
from collections.abc import Callable
from pathlib import Path

from sltools import exercises, lessons
from sltools.checking import judging
from sltools.checking.judging import LocalAnswer
from sltools.exercises import Task, homework
from sltools.grading.jail import INODES
from sltools.grading.sandbox import Limits
from tests import bank
from tools.notebooks import ROOT

FOLDER = ROOT / "docs" / "instructors"
PAGES = tuple(FOLDER / f"{name}.md" for name in ("guide", "homework", "grading", "wrong-answers"))
MARK = re.compile(r"(<!-- made by tools.instructor: (\w+) -->\n).*?(<!-- end -->)", re.S)
NUMBER = re.compile(r"[\d½]+( <!-- (minutes|hours): (.+?) -->)")


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


def appendix() -> str:
    """Return the table of the notebooks that go deeper, with their minutes."""
    rows = ["| goes deeper than | notebook | minutes |", "|---|---|---|"]
    rows += [f"| {n.number:02} | {n.title} | {n.minutes} |" for n in lessons.appendix()]
    return "\n".join(rows)


def homework_tasks() -> str:
    """Return the table of the homework of each topic: what stays the same for all learners."""
    rows = ["| | functions, with constants drawn for each learner | data of one's own |"]
    rows.append("|---|---|---|")
    for topic in homework.topics():
        *functions, own = homework.draw(topic, constants=0, data=0).tasks
        asked = "; ".join(map(_asked, functions))
        rows.append(f"| {topic}, {homework.title(topic)} | {asked} | {_asked(own)} |")
    return "\n".join(rows)


def _asked(task: Task) -> str:
    return f"{task.title} (`{task.key}`, {task.points} points)"


def rules() -> str:
    """Return the table of what answers may be made of, and of what is refused in them."""
    rows = ["| task | rule | refused, if the answer calls it itself |", "|---|---|---|"]
    for task in exercises.tasks():
        refused = ", ".join(f"`{name.removeprefix('sltools.')}`" for name in task.library)
        rows.append(f"| {task.key} | {task.rule} | {refused} |")
    return "\n".join(rows)


def limits() -> str:
    """Return the table of what a submission may use."""
    most = Limits()
    rows = [
        ("a cell, computing", f"{most.cell:g} s"),
        ("a call of a task, of a challenge, computing", f"{most.call:g} s, {most.challenge:g} s"),
        ("by the clock, of these", f"{most.patience:g} times as long"),
        ("all calls of a task, by the clock", f"{most.task:g} s"),
        ("all cells and calls, by the clock", f"{most.submission:g} s"),
        ("memory, with the working folder", f"{most.memory / 2**30:g} GiB"),
        ("the working folder", f"{most.disk / 2**20:g} MiB and {INODES:,} files"),
        ("processes and threads", f"{most.processes}"),
        ("open files of a process", f"{most.files}"),
    ]
    lines = [f"| {what} | {limit} |" for what, limit in rows]
    return "\n".join(["| of what | at most |", "|---|---|", *lines])


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


PARTS: dict[str, Callable[[], str]] = {
    "minutes": minutes,
    "appendix": appendix,
    "homework": homework_tasks,
    "rules": rules,
    "limits": limits,
    "wrong_answers": wrong_answers,
}


def spent(what: str) -> int:
    """Add up minutes: `what` names lessons (L04), tasks (04.tv, 04.*) and numbers of minutes."""
    return sum(map(_minutes, what.split()))


def _minutes(name: str) -> int:
    if name.isdecimal():
        return int(name)
    if name.startswith("L"):
        return lessons.find(name[1:]).minutes
    if name.endswith(".*"):
        return sum(task.minutes for task in exercises.tasks(name[:2]))
    return exercises.find(name).minutes


def _number(found: re.Match[str]) -> str:
    total = spent(found[3])
    halves = round(total / 30)
    hours = f"{halves // 2}{'½' * (halves % 2)}"
    return f"{total if found[2] == 'minutes' else hours}{found[1]}"


def page(path: Path) -> str:
    """Return the whole page with its made parts and numbers written anew."""
    text = path.read_text(encoding="utf-8")
    text = MARK.sub(lambda found: f"{found[1]}\n{PARTS[found[2]]()}\n\n{found[3]}", text)
    return NUMBER.sub(_number, text)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line described above; return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.instructor",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check", action="store_true", help="write nothing, compare only")
    if not parser.parse_args(arguments).check:
        for path in PAGES:
            path.write_text(page(path), encoding="utf-8")
        return 0
    same = all(page(path) == path.read_text(encoding="utf-8") for path in PAGES)
    print("docs/instructors is up to date" if same else "run: python -m tools.instructor")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
