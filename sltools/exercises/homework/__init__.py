"""Homework: for each topic, tasks whose constants and data are drawn for each learner.

The course's published solutions do not solve it. One task of each, without a published solution,
has data of its own: what is asked was drawn first, and the data made of it. Its check is here for
all to read; without the salt, of which the learner's seeds are made, it tells nobody what is right.
"""

from sltools.exercises.homework import (
    audits,
    auxiliary,
    depth,
    inversion,
    labels,
    leakage,
    malicious,
    poisoning,
    privacy,
    protocol,
    theft,
    threats,
)
from sltools.exercises.homework.parts import Homework, Part, draw, title, topics

__all__ = ["Homework", "Part", "draw", "title", "topics"]
