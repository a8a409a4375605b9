"""The tasks of each topic, in the order of the lessons: one file each, and its review questions."""

from sltools.exercises.quiz import Quiz

# Tasks are listed in the order of these imports.
# isort: off
from sltools.exercises.topics import protocol
from sltools.exercises.topics import threats
from sltools.exercises.topics import leakage
from sltools.exercises.topics import inversion
from sltools.exercises.topics import depth
from sltools.exercises.topics import labels
# isort: on

QUIZZES: dict[str, Quiz] = {
    "01": protocol.QUIZ,
    "02": threats.QUIZ,
    "03": leakage.QUIZ,
    "04": inversion.QUIZ,
    "05": depth.QUIZ,
    "07": labels.QUIZ,
}
