"""The tasks of each topic, in the order of the lessons: one file each, and its review questions."""

from sltools.exercises.quiz import Quiz
from sltools.exercises.topics import inversion

QUIZZES: dict[str, Quiz] = {"04": inversion.QUIZ}
