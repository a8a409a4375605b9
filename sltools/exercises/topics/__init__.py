"""The tasks of each topic, in the order of the lessons: one file each, and its review questions."""

from sltools.exercises.quiz import Quiz
from sltools.exercises.topics import (
    depth,
    inversion,
    labels,
    leakage,
    malicious,
    privacy,
    protocol,
    theft,
    threats,
)

QUIZZES: dict[str, Quiz] = {
    "01": protocol.QUIZ,
    "02": threats.QUIZ,
    "03": leakage.QUIZ,
    "04": inversion.QUIZ,
    "05": depth.QUIZ,
    "06": theft.QUIZ,
    "07": labels.QUIZ,
    "08": privacy.QUIZ,
    "09": malicious.QUIZ,
}
