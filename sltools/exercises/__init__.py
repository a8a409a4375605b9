"""Exercises: tasks, their checks and hints, progress and review questions.

    from sltools.exercises import check, hint, progress, quiz

    check("04.tv", total_variation)    # not attempted, wrong and why, error and where, or right
    hint("04.tv")                      # the next hint

A check computes what is right from data it draws itself; it never compares with a solution's text.
"""

from typing import Any

from sltools.checking import display
from sltools.checking.judging import LocalAnswer, Verdict, judge
from sltools.checking.task import Task, find, tasks
from sltools.errors import ExerciseError
from sltools.exercises import quizzes, record, topics
from sltools.exercises.quizzes import Quiz

__all__ = ["Task", "Verdict", "check", "find", "hint", "progress", "quiz", "tasks"]


def check(key: str, answer: Any) -> Verdict:
    """Check your answer to a task, a function or a value; the verdict is true if it is right.

    It is noted in your progress file (see `progress`), and shown at the end of the cell if the cell
    itself does not show it. Raises ExerciseError for an unknown task.
    """
    verdict = judge(find(key), LocalAnswer(answer))
    record.note_verdict(verdict)
    display.queue_display(verdict)
    return verdict


def hint(key: str) -> None:
    """Print the next hint for a task, and the earlier ones above it."""
    task = find(key)
    number = min(record.hints_read(task) + 1, len(task.hints))
    record.note_hint(task, number)
    for place, text in enumerate(task.hints[:number], 1):
        print(f"hint {place} of {len(task.hints)}: {text}")
    if number == len(task.hints):
        print("That was the last hint.")


def progress(topic: str | None = None) -> None:
    """Print how far you are, in all topics or in one such as "04"."""
    path = record.file()
    kept = "in this session" if path is None else f"kept in {path.name}, on this machine only"
    print(f"{record.table(topic, path)}, {kept}")


def quiz(topic: str) -> Quiz:
    """Return the review questions of a topic such as "04"; they are never graded."""
    if topic not in quizzes.topics():
        raise ExerciseError(f"there is no quiz {topic!r}; there are: {', '.join(quizzes.topics())}")
    return quizzes.read(topic)
