"""How a class did, task by task, as one page for the teacher that needs nothing else."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

from sltools.checking.judging import MARKS

if TYPE_CHECKING:
    from sltools.grading.results import Result, TaskResult

NUMBER = re.compile(r"-?\d[\d.,]*(e[+-]?\d+)?%?")
REASONS = 5  # of each task
BARS = 10  # of the histogram
OUTCOMES = tuple(reversed(MARKS))  # right first


@dataclass(frozen=True)
class TaskStatistics:
    """How many of the `judged` answers to a task had which outcome, and why most were wrong.

    `outcomes` are in the order of `OUTCOMES`; `points` is their mean, as the checks gave them.
    """

    task: str
    title: str
    judged: int
    outcomes: tuple[int, ...]
    points: float
    out_of: int
    reasons: tuple[tuple[str, int], ...]

    @property
    def share_right(self) -> float:
        """The share of right answers, 0 to 1."""
        return self.outcomes[0] / self.judged if self.judged else 0.0


@dataclass(frozen=True)
class Bar:
    """How many submissions have points from `low` to `high`."""

    low: float
    high: float
    count: int


def of_tasks(results: Sequence["Result"]) -> list[TaskStatistics]:
    """Count the outcomes of each task over the submissions that count.

    What no check has judged, such as nothing handed in, is left out.
    """
    found: dict[str, list[TaskResult]] = {}
    for result in results:
        for task in result.tasks:
            found.setdefault(task.task, [])
            if result.counts and result.submission and task.outcome in OUTCOMES:
                found[task.task].append(task)
    titles = {task.task: task for result in results for task in result.tasks}
    return [_statistics(titles[key], judged) for key, judged in found.items()]


def _statistics(task: "TaskResult", judged: Sequence["TaskResult"]) -> TaskStatistics:
    counts = Counter(one.outcome for one in judged)
    points = [one.judged if one.adjusted else one.points for one in judged]
    reasons = Counter(_reason(one.message) for one in judged if one.outcome != "right")
    return TaskStatistics(
        task.task,
        task.title,
        len(judged),
        tuple(counts[outcome] for outcome in OUTCOMES),
        sum(value or 0.0 for value in points) / max(1, len(judged)),
        task.out_of,
        tuple(reasons.most_common(REASONS)),
    )


def _reason(message: str) -> str:
    """The first line of a message, whatever the numbers in it."""
    return NUMBER.sub("…", message.partition("\n")[0]) or "nothing was said"


def histogram(results: Sequence["Result"]) -> list[Bar]:
    """Count the submissions that count by their points, in tenths of the most there are."""
    known = [r.points for r in results if r.counts and r.submission and r.points is not None]
    most = max((result.out_of for result in results), default=0)
    step = most / BARS
    places = Counter(min(BARS - 1, int(points / step)) for points in known) if step else Counter()
    return [Bar(place * step, (place + 1) * step, places[place]) for place in range(BARS)]


def page(title: str, results: Sequence["Result"]) -> str:
    """Return the page: a table of tasks, the reasons of each, and a histogram of points."""
    # Imported here: it takes a tenth of a second, and the page is written once.
    from jinja2 import Environment

    from sltools.grading.report import visible

    source = (
        resources.files("sltools.grading")
        .joinpath("class_statistics.html.jinja")
        .read_text("utf-8")
    )
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["visible"] = visible
    bars = histogram(results)
    return environment.from_string(source).render(
        title=title,
        statuses=Counter(result.status for result in results),
        tasks=of_tasks(results),
        outcomes=OUTCOMES,
        bars=bars,
        total=sum(bar.count for bar in bars),
        highest=max(1, *(bar.count for bar in bars)),
        adjusted=sum(bool(task.adjusted) for result in results for task in result.tasks),
        late=sum(bool(result.days_late) for result in results),
    )
