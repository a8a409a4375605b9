"""The lessons: find them, run one without a browser, copy them for a learner, open them in Lab."""

from sltools.lessons.catalog import Lesson, Parameter, appendix, course, find, lessons, read
from sltools.lessons.copying import MANIFEST, CopyReport, copy_course
from sltools.lessons.lab import START, open_lab
from sltools.lessons.running import CELL_TIMEOUT, check_timeout, headless_kernel, run

__all__ = [
    "CELL_TIMEOUT", "MANIFEST", "START", "CopyReport", "Lesson", "Parameter", "appendix",
    "check_timeout", "copy_course", "course", "find", "headless_kernel", "lessons", "open_lab",
    "read", "run",
]  # fmt: skip
