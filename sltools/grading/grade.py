"""Grades a folder of submissions: each in a sandbox, several at a time, once and not again.

Results are kept beside the scores, by submission and salt, with the checks and limits they were
found under: an interrupted run goes on, a changed check grades anew, and `Selection` says which are
to be graded anew in any case, and leaves the others as they are.
"""

import difflib
import inspect
import multiprocessing
import os
import time
import traceback
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from pathlib import Path
from pydoc import locate
from types import FunctionType
from typing import Protocol

import torch

from sltools import exercises, lessons, storage
from sltools.checking import judging
from sltools.checking.task import Task
from sltools.errors import ExerciseError
from sltools.grading import adjusting, cells, jail, report, secrets, similarity, submissions
from sltools.grading.adjusting import Adjustment, LatePolicy
from sltools.grading.forkserver import clean
from sltools.grading.remote import RemoteAnswer, RemoteNotebook, shortened
from sltools.grading.results import (
    FAULT,
    GRADED,
    MISSING,
    NOT_YET,
    REVIEW,
    UNREADABLE,
    Kept,
    Result,
    ResultCache,
    TaskResult,
)  # fmt: skip
from sltools.grading.roster import Roster
from sltools.grading.sandbox import Sandbox, not_enforced
from sltools.grading.submissions import Submission
from sltools.progress import bar

CACHE = ".results"
NOT_ENFORCED = "not-enforced.txt"  # of what submissions are held to, a line each
OTHER = "other topic"


class Plan(Protocol):
    """What is graded; see `HomeTasks` and `sltools.grading.assignment.Assignment`."""

    @property
    def salt(self) -> bytes:
        """The secret of the hidden data."""

    @property
    def title(self) -> str:
        """What is graded, for the feedback pages."""

    def tasks(self, submission: Submission) -> list[Task]:
        """List the tasks of this submission."""

    def learner(self, submission: Submission) -> str:
        """Return the learner's id, or "" if it is not known."""

    def other(self, submission: Submission) -> str:
        """Return what else the submission is, if it is not what is graded, or ""."""

    def doubt(self, submission: Submission) -> str:
        """Return why a person must look at the submission before it can be graded, or ""."""

    def roster(self) -> tuple[str, ...]:
        """List the ids of all learners, as far as they are known."""

    def setup(self, submission: Submission) -> str:
        """Return the cell of imports that the learner was given, to be run before all others."""

    def given(self) -> list[Sequence[str]]:
        """List the notebooks, by their cells, that learners were given for it."""


@dataclass(frozen=True)
class HomeTasks:
    """The exercises of a topic, with fresh data; `challenges`, which take minutes, if wanted.

    Raises ExerciseError for a topic without exercises.
    """

    salt: bytes
    topic: str
    challenges: bool = True

    def __post_init__(self) -> None:
        if not exercises.tasks(self.topic):
            raise ExerciseError(f"there are no exercises of topic {self.topic!r}; try 04")

    @property
    def title(self) -> str:
        """The topic's number and name."""
        return f"topic {self.topic}, {lessons.find(self.topic).title}"

    def tasks(self, submission: Submission) -> list[Task]:
        """List the tasks of the topic."""
        return [t for t in exercises.tasks(self.topic) if self.challenges or t.kind != "challenge"]

    def learner(self, submission: Submission) -> str:
        """Return "": exercises have no roster."""
        return ""

    def other(self, submission: Submission) -> str:
        """Return "topic NN" if the notebook is one of another topic, "homework" if it is that."""
        if any(exercises.find(key).topic == self.topic for key in checked(submission)):
            return ""
        topics = topics_of(submission)
        if not topics and cells.code(submission.cells):
            return "homework"
        most = max(topics.values(), default=0)
        if topics[self.topic] == most:
            return ""
        return f"topic {next(topic for topic, number in topics.items() if number == most)}"

    def doubt(self, submission: Submission) -> str:
        """Return "": exercises are the same for all."""
        return ""

    def roster(self) -> tuple[str, ...]:
        """Return nothing: exercises have no roster."""
        return ()

    def setup(self, submission: Submission) -> str:
        """Return the imports of the exercise."""
        return next(iter(_published("exercises", self.topic)))[0]

    def given(self) -> list[Sequence[str]]:
        """List nothing: the course's own notebooks are known."""
        return []


def checked(submission: Submission) -> list[str]:
    """List the tasks that a notebook checks, by their keys."""
    known = {task.key for task in exercises.tasks()}
    return [key for key, _ in cells.checks(submission.cells) if key in known]


def topics_of(submission: Submission) -> Counter[str]:
    """Count, by topic, the tasks that a notebook checks, or whose answer it defines."""
    keys = set(checked(submission))
    names = {n for made in cells.statements(submission.cells) for n in cells.defined(made)}
    return Counter(t.topic for t in exercises.tasks() if t.key in keys or t.answer in names)


@dataclass(frozen=True)
class Policy:
    """What is done with results: who is on the `roster`, points by hand, and what lateness costs.

    The default changes nothing.
    """

    roster: Roster = Roster(())
    adjustments: Sequence[Adjustment] = ()
    late: LatePolicy | None = None

    def apply(self, results: Sequence[Result], times: Mapping[str, float]) -> list[Result]:
        """Return the results as they are to be reported."""
        adjusted = adjusting.adjust(results, self.adjustments)
        return adjusting.late(adjusted, self.roster, times, self.late)


@dataclass(frozen=True)
class Selection:
    """Whose submissions are graded anew, by id or name, and which tasks of them; empty means all"""

    people: frozenset[str]
    tasks: frozenset[str]

    @classmethod
    def of(cls, names: Iterable[str], plan: Plan, found: Sequence[Submission]) -> "Selection":
        """Tell learners and submissions from tasks; raise ExerciseError for what is neither."""
        names = set(names)
        tasks = {task.key for sub in found for task in plan.tasks(sub)}
        people = {name for sub in found for name in (sub.name, plan.learner(sub)) if name}
        for name in sorted(names - tasks - people):
            near = difflib.get_close_matches(name, tasks | people, n=1)
            advice = f"did you mean {near[0]}?" if near else "see the rows of scores.csv"
            raise ExerciseError(f"there is no learner, submission or task {name!r} here; {advice}")
        return cls(frozenset(names & people), frozenset(names & tasks))

    def takes(self, name: str, learner: str) -> bool:
        """Say whether a submission is graded anew."""
        return not self.people or bool(self.people & {name, learner})


def grade(
    folder: Path,
    out: Path,
    plan: Plan,
    sandbox: Sandbox,
    jobs: int | None = None,
    only: Collection[str] = (),
    policy: Policy = Policy(),
) -> list[Result]:
    """Grade all submissions in `folder` and write scores and feedback pages to `out`.

    `jobs` processes work at the same time, by default one for each core. What took too long, was
    killed, or failed by a fault of the grader, is tried once more, alone. `only` names learners,
    submissions and tasks: these are graded anew, and all others stay as they were, even if a check
    has changed since. Raises ExerciseError if the sandbox does not work here, for a folder without
    submissions, for unknown names, if `out` lies in the folder, and if `out` cannot be written:
    what was graded until then is kept, and not graded again.
    """
    folder, out = folder.expanduser(), out.expanduser()
    if out.resolve().is_relative_to(folder.resolve()):
        raise ExerciseError(
            f"{out} lies in the folder of submissions and would be taken for one the next time; "
            "name an --out elsewhere"
        )
    found = submissions.discover(folder)
    chosen = Selection.of(only, plan, found) if only else None
    private = tuple(str(path.resolve()) for path in (folder, out))
    sandbox = replace(sandbox, hidden=(*sandbox.hidden, *private))
    clean()
    try:
        missing = not_enforced(sandbox)
    except ExerciseError as reason:
        raise ExerciseError(
            f"submissions cannot be run safely here: {reason}. Grade on Linux 5.14 or newer, as "
            "root or where user namespaces are allowed; or, if you trust every submission, with "
            "--no-isolation"
        ) from None
    kept = ResultCache(out / CACHE, plan, sandbox)
    try:
        storage.write_atomic(out / NOT_ENFORCED, "".join(f"{one}\n" for one in missing))
        graded = _grade(found, kept, plan, sandbox, jobs or os.cpu_count() or 1, chosen)
        reported = policy.apply(graded, {sub.name: sub.changed for sub in found})
        report.write(out, plan.title, reported, policy.roster)
    except OSError as error:
        raise ExerciseError(
            f"the grading had to stop: {error}. What was graded is kept in {out}; put that right "
            "and run the same again"
        ) from error
    return reported


def _grade(
    found: Sequence[Submission],
    kept: ResultCache,
    plan: Plan,
    sandbox: Sandbox,
    jobs: int,
    chosen: Selection | None,
) -> list[Result]:
    """Grade what is `chosen`, or else what is not `kept` yet."""
    before = {sub.name: kept.read(sub) for sub in found}
    results = {sub.name: _without_running(plan, sub) for sub in found}
    for sub in found:
        if results[sub.name] is None:
            results[sub.name] = _known(plan, sub, before[sub.name], chosen)
    pending = [sub for sub in found if results[sub.name] is None]
    tasks = chosen.tasks if chosen else frozenset()
    partly = {sub.name: tasks for sub in pending if before[sub.name]}

    def examine(subs: Sequence[Submission], jobs: int, last: bool) -> None:
        description = "once more, alone" if last else "grading"
        for sub, result in _examine_all(plan, subs, sandbox, jobs, description, partly):
            old = before[sub.name] if partly.get(sub.name) else None
            whole = _merged(old.result, result, tasks) if old else result
            results[sub.name] = whole
            if not _needs_retry(result) or (last and result.status != FAULT):
                kept.write(sub, whole, old.conditions if old else "")

    examine(pending, jobs, last=False)
    examine([sub for sub in pending if _needs_retry(results[sub.name])], 1, last=True)
    similarities = _compare(plan, found)
    times = {sub.name: sub.changed for sub in found}
    flagged = _with_flags([result for result in results.values() if result], similarities, times)
    return [*flagged, *_missing(plan, flagged)]


def _known(
    plan: Plan, submission: Submission, kept: Kept | None, chosen: Selection | None
) -> Result | None:
    """Return the result of a submission that is not graded in this run, or None."""
    if chosen is None:
        return kept.result if kept and kept.current else None
    learner = plan.learner(submission)
    if chosen.takes(submission.name, learner):
        return None
    if kept:
        return kept.result
    tasks = tuple(_unjudged(t, NOT_YET, "", None) for t in plan.tasks(submission))
    return Result(submission.name, NOT_YET, learner, tasks)


def _merged(old: Result, new: Result, tasks: Collection[str]) -> Result:
    """Return `new`, with the tasks that were not judged anew as they were."""
    judged = {task.task: task for task in new.tasks if task.task in tasks}
    return replace(new, tasks=tuple(judged.get(task.task, task) for task in old.tasks))


def _missing(plan: Plan, results: Sequence[Result]) -> list[Result]:
    """Return a result for each learner who handed in nothing: without points, not with zero."""
    seen = {result.learner for result in results}
    none = Submission("")
    return [
        Result(
            "",
            MISSING,
            learner,
            tuple(_unjudged(task, "not attempted", "", None) for task in plan.tasks(none)),
        )
        for learner in plan.roster()
        if learner not in seen
    ]


def summary(results: Sequence[Result]) -> str:
    """Count the submissions by what became of them."""
    counts = Counter(result.status for result in results)
    flagged = sum(bool(result.flags) for result in results)
    told = ", ".join(f"{number} {status}" for status, number in counts.items())
    handed_in = sum(bool(result.submission) for result in results)
    return f"{handed_in} submissions, {told}; {flagged} with flags"


def _needs_retry(result: Result | None) -> bool:
    return result is not None and (result.timed_out or result.killed or result.status == FAULT)


def _without_running(plan: Plan, submission: Submission) -> Result | None:
    """Return the result of a submission that cannot be run, or None."""
    learner = plan.learner(submission)
    if problem := submission.problem:
        tasks = tuple(_unjudged(t, "not attempted", "", 0.0) for t in plan.tasks(submission))
        return Result(submission.name, UNREADABLE, learner, tasks, remarks=(problem,))
    if other := plan.other(submission):
        text = f"This notebook belongs to {other}; here {plan.title} is graded."
        return Result(submission.name, OTHER, learner, remarks=(text,))
    if doubt := submission.doubt or plan.doubt(submission):
        text = f"Your teacher has to look at this: {doubt}."
        tasks = tuple(_unjudged(t, REVIEW, "", None) for t in plan.tasks(submission))
        return Result(submission.name, REVIEW, learner, tasks, (text,), (doubt,))
    return None


def _examine_all(
    plan: Plan,
    pending: Sequence[Submission],
    sandbox: Sandbox,
    jobs: int,
    description: str,
    partly: Mapping[str, Collection[str]],
) -> Iterator[tuple[Submission, Result]]:
    """Yield each submission and its result, as they come, from `jobs` processes.

    `partly` names, by submission, the tasks to judge; of others all are.
    """
    if not pending:
        return
    # Processes, for judges use torch's global random state; not forked: a fork of a process with
    # threads can hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(min(jobs, len(pending)), context, _prepare) as pool:
        running = {
            pool.submit(_examine, plan, sub, sandbox, partly.get(sub.name, ())): sub
            for sub in pending
        }
        try:
            for future in bar(as_completed(running), description, total=len(running)):
                sub = running[future]
                error = future.exception()
                yield sub, _grader_fault(plan, sub, error) if error else future.result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _prepare() -> None:
    """Set up a process of the pool."""
    jail.die_with_parent()
    torch.set_num_threads(1)


# ---- one submission ------------------------------------------------------------------------------


def _examine(
    plan: Plan, submission: Submission, sandbox: Sandbox, only: Collection[str] = ()
) -> Result:
    """Run a submission in the sandbox and judge its answers, or those to some tasks."""
    start = time.monotonic()
    notebook = RemoteNotebook(submission.cells, sandbox, plan.setup(submission))
    names = cells.answer_names(submission.cells)
    flags: list[str] = []
    tasks = []
    for task in plan.tasks(submission):
        if only and task.key not in only:
            continue
        limits = sandbox.limits
        seconds = limits.challenge if task.kind == "challenge" else limits.call
        answer = RemoteAnswer(notebook, task, seconds, names.get(task.key, ""))
        try:
            seeds = secrets.seeds_of(plan.salt, task.key, submission.digest)
            tasks.append(_judge(task, answer, seeds))
        except Exception:
            flags.append(f"{task.key}: {shortened(traceback.format_exc(limit=-5))}")
            tasks.append(_unjudged(task, FAULT, "The grader failed here, not you.", None))
    return Result(
        submission.name,
        FAULT if flags else GRADED,
        plan.learner(submission),
        tuple(tasks),
        _remarks(notebook, [names.get(t.key, t.answer) for t in plan.tasks(submission)]),
        tuple(flags),
        {str(number): text for number, text in sorted(notebook.errors.items())},
        notebook.timed_out,
        notebook.killed,
        round(time.monotonic() - start, 1),
    )


def _judge(task: Task, answer: RemoteAnswer, seeds: Iterator[int]) -> TaskResult:
    verdict = judging.judge(task, answer, seeds)
    message = shortened(verdict.message)
    return TaskResult(task.key, task.title, verdict.outcome, message, verdict.points, task.points)


def _unjudged(task: Task, outcome: str, message: str, points: float | None) -> TaskResult:
    return TaskResult(task.key, task.title, outcome, message, points, task.points)


def _grader_fault(plan: Plan, submission: Submission, error: BaseException) -> Result:
    """Return the result of a submission whose grading failed altogether."""
    text = "The grader failed here, not you."
    tasks = tuple(_unjudged(task, FAULT, text, None) for task in plan.tasks(submission))
    flags = (f"{type(error).__name__}: {error}",)
    return Result(submission.name, FAULT, plan.learner(submission), tasks, flags=flags)


def _remarks(notebook: RemoteNotebook, names: Sequence[str]) -> tuple[str, ...]:
    remarks = []
    for name in names:
        places = notebook.defined.get(name, [])
        if len(places) > 1:
            listed = " and ".join(map(str, places))
            remarks.append(f"`{name}` is defined in code cells {listed}; the last counts.")
    return tuple(remarks)


# ---- all of them ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Similarities:
    """What shows when submissions are compared: by name, flags and notes."""

    flags: Mapping[str, list[str]]
    notes: Mapping[str, list[str]]


def _compare(plan: Plan, found: Sequence[Submission]) -> _Similarities:
    """Compare the submissions with each other, and with what is published."""
    exercise, solution = (list(_published(folder)) for folder in ("exercises", "solutions"))
    given = [*exercise, *plan.given()]
    stubs = set[str]().union(*map(similarity.definitions, given))
    solved = set[str]().union(*map(similarity.definitions, solution)) - stubs
    answers = {sub.name: _answers(plan, sub) for sub in found if not plan.other(sub)}
    flags: dict[str, list[str]] = defaultdict(list)
    for name, others in similarity.same_cells(found, given).items():
        flags[name] += [f"the same cells as {', '.join(others)}"] if others else []
    for name, shared in similarity.same_answers(answers, stubs | solved).items():
        for keys, others in shared.items():
            told = f"{', '.join(keys)}: the same code but for names as {', '.join(others)}"
            flags[name].append(told)
    public = [*_published("course"), *given, *solution]
    for name, others in similarity.similar(found, public).items():
        flags[name].append(f"nearly the same code as {', '.join(others)}")
    for name, sources in similarity.pasted(found, _sources(plan, found), public).items():
        flags[name] += [f"nearly the source of {one}" for one in sources]
    notes = {}
    for name, forms in answers.items():
        equal = [key for key, form in forms.items() if form in solved]
        notes[name] = [f"{', '.join(equal)}: a published solution"] if equal else []
    for sub in found:
        called = [key for key, name in _names(plan, sub).items() if cells.borrowed(sub.cells, name)]
        if called and sub.name in notes:
            notes[sub.name].append(f"{', '.join(called)}: one call of sltools, and no more")
    return _Similarities(flags, notes)


def _names(plan: Plan, submission: Submission) -> dict[str, str]:
    """Return what a submission calls its answers, by task."""
    names = cells.answer_names(submission.cells)
    return {task.key: names.get(task.key, task.answer) for task in plan.tasks(submission)}


def _sources(plan: Plan, found: Sequence[Submission]) -> dict[str, str]:
    """Return the library's source of what the submissions' tasks ask learners to write."""
    asked = {name for sub in found for task in plan.tasks(sub) for name in task.library}
    functions = {name: locate(name) for name in sorted(asked)}
    return {
        name: inspect.getsource(function)
        for name, function in functions.items()
        if isinstance(function, FunctionType)
    }


def _answers(plan: Plan, submission: Submission) -> dict[str, str]:
    """Return the answers of a submission in a form that can be compared, by task."""
    wanted = _names(plan, submission)
    given = cells.statements([plan.setup(submission)])
    kept = {name for statement in given for name in cells.defined(statement)}
    return similarity.forms(submission.cells, wanted, kept)


def _with_flags(
    results: Sequence[Result], similarities: _Similarities, times: Mapping[str, float]
) -> list[Result]:
    """Add what only shows when submissions are compared; nothing is deducted for it.

    Of several submissions of one learner that whose file was changed last counts, and of those
    changed at the same time the last by name.
    """
    by_learner: dict[str, list[str]] = {}
    for result in results:
        by_learner.setdefault(result.learner, []).append(result.submission)
    flagged = []
    for result in results:
        flags = [*result.flags, *similarities.flags.get(result.submission, [])]
        notes = tuple(similarities.notes.get(result.submission, []))
        names = by_learner[result.learner] if result.learner else [result.submission]
        last = max(names, key=lambda name: (times[name], name))
        if len(names) > 1:
            flags.append(f"{result.learner} handed in {', '.join(names)}; {last} counts")
        counts = result.submission == last
        flagged.append(replace(result, flags=tuple(flags), notes=notes, counts=counts))
    return flagged


def _published(folder: str, topic: str = "") -> Iterator[Sequence[str]]:
    """Yield the code of the course's own notebooks in `folder`, of all topics or one."""
    for path in sorted((lessons.course().parent / folder).glob(f"{topic}*.ipynb")):
        yield submissions.parse(path.read_bytes())
