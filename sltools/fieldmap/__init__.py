"""The field map: works on attacking and protecting split learning, one threat card each.

    fieldmap.find(needs="labelled data", gets="inputs")  # who wants this, and has that
    fieldmap.find(world="vfl", kind="defence")           # what protects vertical learning
    print(fieldmap.card(fieldmap.find(text="splitguard")[0]))

`sltools map` asks the same on the command line. The cards are in `works.json` beside this file.
"""

from sltools.fieldmap.catalog import (
    GETS,
    KINDS,
    NEEDS,
    STATUSES,
    WORLDS,
    Threat,
    Work,
    find,
    in_words,
    works,
)
from sltools.fieldmap.table import NOTHING, UNKNOWN, card, facts, needs_and_gets, table

__all__ = [
    "GETS", "KINDS", "NEEDS", "NOTHING", "STATUSES", "UNKNOWN", "WORLDS", "Threat", "Work", "card",
    "facts", "find", "in_words", "needs_and_gets", "table", "works",
]  # fmt: skip
