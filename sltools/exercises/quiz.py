"""Review questions that need no server, no script and no mouse, and are never graded."""

import html
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question and its options, each with what to say to one who picks it; one is right."""

    text: str
    options: Sequence[tuple[str, bool, str]]


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
