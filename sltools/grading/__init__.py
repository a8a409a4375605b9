"""Grading: submissions run in a sandbox and answer calls; the checks stay outside and judge.

    sltools grade SUBMISSIONS/ --salt ../salt --out scores

`grade` finds submissions, keeps results and writes reports; `remote` is one submission as a check
sees it; `sandbox` has its processes made, each in a `jail`, by a `forkserver`, and holds them to
their limits by their `usage`; in them `child` serves over `wire`. `cells` reads source without
running it, `similarity` compares it. `assignment` makes homework for a `roster`, whose data and
constants come from a salt. `adjusting` is what a teacher decides after the checks,
`class_statistics` says how a class did, `gradebooks` adds topics up.
"""

import sys

from sltools.errors import ExerciseError

if sys.platform == "win32":
    raise ExerciseError("grading needs Linux, or macOS without isolation; on Windows use WSL")
