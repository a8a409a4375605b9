"""Review questions that need no server, no script and no mouse, and are never graded.

They stand in `questions/NN.md`: a heading is a question, a list item an option, `[x]` the right
one, and the item below it what to say to one who picks it.
"""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).with_name("questions")
_OPTION = re.compile(r"^- \[(?P<mark>[ x])\] (?P<text>.+)\n  - (?P<feedback>.+)$", re.M)


@dataclass(frozen=True)
class Question:
    """A question and its options, each with what to say to one who picks it; one is right."""

    text: str
    options: Sequence[tuple[str, bool, str]]


def topics() -> list[str]:
    """The topics that have a quiz, such as "04"."""
    return sorted(path.stem for path in FOLDER.glob("*.md"))


def read(topic: str) -> "Quiz":
    """Read the quiz of a topic."""
    asked = (FOLDER / f"{topic}.md").read_text(encoding="utf-8").split("## ")[1:]
    return Quiz(*map(_question, asked))


def _question(text: str) -> Question:
    options = [(o["text"], o["mark"] == "x", o["feedback"]) for o in _OPTION.finditer(text)]
    return Question(text.partition("\n")[0], options)


class Quiz:
    """Questions whose options unfold into feedback: by mouse, by Enter or Space, or as plain text.

    Each option is an HTML `details` element, which the browser itself makes usable by keyboard and
    readable to a screen reader, and which works in a saved page.
    """

    def __init__(self, *questions: Question) -> None:
        self.questions = questions

    def _repr_html_(self) -> str:
        return "".join(map(_question_html, range(1, len(self.questions) + 1), self.questions))

    def __repr__(self) -> str:
        """The questions, and the answers below all of them."""
        asked, told = [], ["Answers:"]
        for number, question in enumerate(self.questions, 1):
            asked.append(f"{number}. {question.text}")
            for letter, (option, right, feedback) in zip("abcdef", question.options, strict=False):
                asked.append(f"   {letter}) {option}")
                told.append(f"{number}{letter} {'right' if right else 'no'}: {feedback}")
        return "\n".join([*asked, "", *told])


def _question_html(number: int, question: Question) -> str:
    options = "".join(
        f"<li style='margin: 4px 0'><details><summary>{html.escape(option)}</summary>"
        f"<p style='margin: 4px 0 8px 16px'><b>{'✓ Right.' if right else '✗ No.'}</b> "
        f"{html.escape(feedback)}</p></details></li>"
        for option, right, feedback in question.options
    )
    return (
        f"<p><b>{number}.</b> {html.escape(question.text)}</p>"
        f"<ul style='list-style: none'>{options}</ul>"
    )
