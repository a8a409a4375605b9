"""After the checks: grading only some anew, points by hand, lateness, pages and gradebooks."""

import csv
import json
import os
import re
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from sltools.errors import ExerciseError
from sltools.grading import adjusting, class_statistics, gradebooks, report, roster
from sltools.grading import assignment as homework
from sltools.grading import grade as grading
from sltools.grading.adjusting import Adjustment, LatePolicy
from sltools.grading.results import NOT_YET, Result, TaskResult
from sltools.grading.sandbox import Sandbox
from tests.test_cli import call

SALT = bytes(range(40))
LEARNERS = ("ann", "Ωμέγα", "bob\u202e")
KEYS = ("hw03.undo", "hw03.places")
NOON = datetime.fromisoformat("2026-12-01T12:00").timestamp()
DAY = 24 * 60 * 60


@dataclass
class Class:
    """Three learners who have handed in homework 03, and checks that give what `points` says."""

    folder: Path
    plan: homework.Assignment
    points: dict[str, float] = field(default_factory=lambda: {KEYS[0]: 4, KEYS[1]: 0})
    judged: list[tuple[str, str]] = field(default_factory=list)
    people: roster.Roster = roster.Roster(LEARNERS)

    def grade(self, *only: str, **policy: Any) -> list[Result]:
        self.judged.clear()
        rules = grading.Policy(policy.pop("roster", self.people), **policy)
        place = self.folder / "subs", self.folder / "out", self.plan, Sandbox(), 1
        return grading.grade(*place, only, rules)

    def examine(
        self, plan: Any, todo: Sequence[Any], *_: Any
    ) -> Iterator[tuple[Any, grading.Result]]:
        partly: Mapping[str, Collection[str]] = _[-1]
        for sub in todo:
            tasks = []
            for task in plan.tasks(sub):
                if task.key not in (partly.get(sub.name) or KEYS):
                    continue
                self.judged.append((plan.learner(sub), task.key))
                got = self.points[task.key]
                outcome = "right" if got == task.points else "wrong"
                said = f"{len(tasks) + 1} of 8 places are right." if outcome == "wrong" else ""
                tasks.append(TaskResult(task.key, task.title, outcome, said, got, task.points))
            yield sub, Result(sub.name, grading.GRADED, plan.learner(sub), tuple(tasks))

    def rows(self) -> dict[str, dict[str, str]]:
        with (self.folder / "out" / "scores.csv").open(newline="", encoding="utf-8") as file:
            return {row["learner"]: row for row in csv.DictReader(file)}

    def page(self, learner: str) -> str:
        (name,) = (row["feedback"] for who, row in self.rows().items() if who == learner)
        return (self.folder / "out" / "feedback" / name).read_text(encoding="utf-8")


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Class:
    plan = homework.Assignment(SALT, LEARNERS, "03")
    made = Class(tmp_path, plan)
    for place, path in enumerate(homework.write(plan, tmp_path / "subs")):
        path.write_bytes(path.read_bytes() + b"\n" * place)
        os.utime(path, (NOON, NOON + place * DAY))
    (tmp_path / "subs" / homework.INDEX).unlink()
    monkeypatch.setattr(grading, "_examine_all", made.examine)
    monkeypatch.setattr(grading, "not_enforced", lambda _: [])
    monkeypatch.setattr(grading, "_compare", lambda *_: grading._Similarities({}, {}))
    return made


def _earned(results: Sequence[Result]) -> dict[str, float | None]:
    return {result.learner: result.points for result in results}


# ---- only some anew ------------------------------------------------------------------------------


def test_only_these_are_graded_anew(room: Class, monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(_earned(room.grade()).values()) == {4}
    room.points = {KEYS[0]: 0, KEYS[1]: 6}
    assert set(_earned(room.grade()).values()) == {4} and not room.judged
    assert _earned(room.grade("ann")) == {"ann": 6, "Ωμέγα": 4, "bob\u202e": 4}
    assert room.judged == [("ann", key) for key in KEYS]
    assert _earned(room.grade(KEYS[1], "Ωμέγα"))["Ωμέγα"] == 10
    assert room.judged == [("Ωμέγα", KEYS[1])], "the other task is as it was"
    # A check has changed since: what is not chosen stays, and is graded anew by the next plain run.
    monkeypatch.setattr(grading.ResultCache, "__init__", _with_another_release)
    (name,) = (r.submission for r in room.grade(KEYS[1]) if r.learner == "bob\u202e")
    assert [key for _, key in room.judged] == [KEYS[1]] * 3
    assert _earned(room.grade(name)) == {"ann": 6, "Ωμέγα": 10, "bob\u202e": 6}
    assert {who for who, _ in room.judged} == {"bob\u202e"}
    assert set(_earned(room.grade()).values()) == {6}
    assert {who for who, _ in room.judged} == {"ann", "Ωμέγα"}


_INIT = grading.ResultCache.__init__


def _with_another_release(cache: Any, *arguments: Any) -> None:
    _INIT(cache, *arguments)
    cache._conditions = "of another release"


def test_what_was_never_graded_is_not_by_the_way(room: Class) -> None:
    results = {result.learner: result for result in room.grade("ann")}
    assert (results["ann"].status, results["ann"].points) == (grading.GRADED, 4)
    assert (results["Ωμέγα"].status, results["Ωμέγα"].points) == (NOT_YET, None)
    assert {result.status for result in room.grade()} == {grading.GRADED}
    with pytest.raises(ExerciseError, match=r"no learner, submission or task 'hw03.und' .*undo\?"):
        room.grade("hw03.und")


def test_a_merged_result_keeps_what_another_task_was_told() -> None:
    task = TaskResult("a", "A", "right", "", 2, 2)
    old = Result("x", grading.GRADED, tasks=(task, replace(task, task="b", points=1)))
    fault = Result("x", grading.FAULT, tasks=(replace(task, points=None),) * 2, flags=("why",))
    new = replace(fault, tasks=(fault.tasks[0], replace(fault.tasks[0], task="b")))
    merged = grading._merged(old, new, {"a"})
    assert [t.points for t in merged.tasks] == [None, 1] and merged.flags == ("why",)


# ---- points by hand ------------------------------------------------------------------------------


def test_points_by_hand_survive_a_regrade_and_are_marked(room: Class) -> None:
    by_hand = [Adjustment("Ωμέγα", KEYS[1], 5, "right up to <one> sign")]
    for _ in range(2):
        results = {result.learner: result for result in room.grade(adjustments=by_hand)}
        assert results["Ωμέγα"].points == 9 and results["ann"].points == 4
    assert not room.judged, "what a teacher sets changes no check"
    room.grade("Ωμέγα", adjustments=by_hand)
    row = room.rows()["Ωμέγα"]
    assert (row["points"], row[KEYS[1]]) == ("9", "5")
    assert row["adjusted"] == f"{KEYS[1]}: 0 -> 5, right up to <one> sign"
    assert "which were 0:</b> right up to &lt;one&gt; sign" in room.page("Ωμέγα")
    assert "Your teacher" not in room.page("ann") and not room.rows()["ann"]["adjusted"]
    assert _earned(room.grade())["Ωμέγα"] == 4, "without the line it is as it was"


def test_points_by_hand_reach_who_handed_in_nothing(room: Class) -> None:
    next((room.folder / "subs").glob("ann*")).unlink()
    oral = [Adjustment("ann", key, 3, "orally") for key in KEYS]
    results = room.grade(adjustments=oral)
    assert (results[-1].status, results[-1].points) == (grading.MISSING, 6)
    name = results[0].submission
    assert room.grade(adjustments=[Adjustment(name, KEYS[0], 1, "x")])[0].points == 1


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ("ann,hw03.undo,x,why", "row 2 .* points are a number from 0 up, not 'x'"),
        ("ann,hw03.undo,-1,why", "not '-1'"),
        ("ann,hw03.undo,nan,why", "not 'nan'"),
        ("ann,hw03.undo,1,", "must not be empty"),
        ("ann,hw03.undo,1,a\nann,hw03.undo,2,b", "row 3 .* hw03.undo of ann is set twice"),
        ("zoe,hw03.undo,1,why", "the learner 'zoe', and there is none"),
        ("ann,hw03.nothing,1,why", "the task 'hw03.nothing' of ann; there: hw03.undo, hw03.places"),
        ("ann,hw03.undo,5,why", "give ann 5 points in hw03.undo, which has 4"),
    ],
)
def test_adjustments_that_cannot_be_meant_are_refused(
    lines: str, told: str, room: Class, tmp_path: Path
) -> None:
    (path := tmp_path / "adjustments.csv").write_text(f"learner,task,points,reason\n{lines}\n")
    with pytest.raises(ExerciseError, match=told):
        room.grade(adjustments=adjusting.read_adjustments(path))
    path.write_text("learner;task;points;reason\nann;hw03.undo;1;why\n")
    with pytest.raises(ExerciseError, match="no column `learner`.* semicolons"):
        adjusting.read_adjustments(path)
    assert not (tmp_path / "out" / "scores.csv").exists(), "nothing half adjusted is written"


# ---- late ----------------------------------------------------------------------------------------


def test_lateness_is_told_and_costs_what_the_policy_says(room: Class) -> None:
    rows = {
        "ann": {"deadline": "2026-12-01T12:00"},
        "Ωμέγα": {"deadline": "2026-12-01T12:00"},
        "bob\u202e": {"deadline": "2026-12-01", "days_late": "3"},
    }
    people = roster.Roster(LEARNERS, ("deadline", "days_late"), rows)
    told = {r.learner: (r.days_late, r.points) for r in room.grade(roster=people)}
    assert told == {"ann": (0, 4), "Ωμέγα": (1, 4), "bob\u202e": (3, 4)}, "told, and free"
    late = LatePolicy.parse("1:0.8, 2:.5")
    told = {r.learner: (r.days_late, r.points) for r in room.grade(roster=people, late=late)}
    assert told == {"ann": (0, 4), "Ωμέγα": (1, 3.2), "bob\u202e": (3, 0)}
    row = room.rows()["Ωμέγα"]
    assert (row["points"], row["days_late"], row["late_share"]) == ("3.2", "1", "0.8")
    said = "3.2 of 10 points (graded), handed in 1 day late: 80% of the points count"
    assert said in room.page("Ωμέγα") and "late" not in room.page("ann")
    whole_day = roster.Roster(LEARNERS, (), dict.fromkeys(LEARNERS, {"Deadline": "2026-12-01"}))
    days = {r.learner: r.days_late for r in room.grade(roster=whole_day)}
    assert days == {"ann": 0, "Ωμέγα": 1, "bob\u202e": 2}
    assert "up to 1 days late 80%" in str(late)


@pytest.mark.parametrize("text", ["1", "2:0.5,1:0.4", "1:0.5,2:0.9", "1:1.5", "", "1:0.5;2:0.2"])
def test_a_late_policy_that_makes_no_sense_is_refused(text: str) -> None:
    with pytest.raises(ExerciseError, match="a late policy is DAYS:SHARE"):
        LatePolicy.parse(text)


@pytest.mark.parametrize("column", [{"deadline": "tomorrow"}, {"days_late": "-1"}])
def test_a_deadline_that_cannot_be_read_is_told(room: Class, column: dict[str, str]) -> None:
    people = roster.Roster(LEARNERS, tuple(column), {"ann": column})
    with pytest.raises(ExerciseError, match="days_late or deadline of ann cannot be read"):
        room.grade(roster=people)


# ---- files, people and pages ---------------------------------------------------------------------


def test_an_index_says_which_file_is_whose(room: Class, tmp_path: Path) -> None:
    rows = {learner: {"name": f"Name of {learner}"} for learner in LEARNERS}
    people = roster.Roster(LEARNERS, ("name",), rows)
    made = homework.write(room.plan, tmp_path / "made", people)
    with (tmp_path / "made" / homework.INDEX).open(newline="", encoding="utf-8") as file:
        index = list(csv.DictReader(file))
    assert [row["file"] for row in index] == [path.name for path in made]
    assert [row["id"] for row in index] == ["ann", "Ωμέγα", r"bob\u202e"]
    assert index[1]["code"] == room.plan.code("Ωμέγα") and index[0]["name"] == "Name of ann"
    more = homework.Assignment(SALT, (*LEARNERS, "dan"), "03")
    homework.write(more, tmp_path / "made", replace(people, ids=more.learners))
    (tmp_path / "made" / homework.INDEX).write_text("mine\n")
    with pytest.raises(ExerciseError, match="is another and stays as it is"):
        homework.write(room.plan, tmp_path / "made", people)

    room.grade(roster=people)
    with (tmp_path / "out" / "index.csv").open(newline="", encoding="utf-8") as file:
        index = list(csv.DictReader(file))
    assert {row["learner"]: row["name"] for row in index}["Ωμέγα"] == "Name of Ωμέγα"
    assert all((tmp_path / "out" / "feedback" / row["feedback"]).exists() for row in index)


def test_pages_carry_the_id_and_show_what_would_not_be_seen(room: Class) -> None:
    room.grade()
    assert "<p>For Ωμέγα</p>" in room.page("Ωμέγα")
    page = room.page(r"bob\u202e")
    assert r"<p>For bob\u202e</p>" in page and "\u202e" not in page
    hostile = TaskResult("t", "T", "wrong", "a\u202eb\x1b[2J\n\u2066c\ud800", 0, 2)
    page = report._page(Result("x\u200f.ipynb", "graded", "y", (hostile,)), "Topic")
    assert r"a\u202eb\x1b[2J<br>\u2066c\ud800" in page and r"x\u200f.ipynb" in page
    assert not report.CONTROL.search(page)


class _Outline(HTMLParser):
    """The tags of a page, and what its headings, captions and labels say."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


def test_statistics_count_what_the_checks_said() -> None:
    task = TaskResult("04.tv", "A <prior>", "right", "", 2, 2)
    wrong = replace(task, outcome="wrong", message="3 of 8 are right.\nmore", points=0)
    answers = [task, wrong, replace(wrong, message="5 of 8 are right."), replace(wrong, points=1)]
    answers[3] = replace(answers[3], message="no\u202e", adjusted="by hand", judged=0)
    results = [Result(f"{n}", "graded", tasks=(answer,)) for n, answer in enumerate(answers)]
    results += [replace(results[0], submission="older", counts=False)]
    unknown = replace(task, outcome="grader_error", points=None)
    results += [Result("y", "grader_error", tasks=(unknown,)), Result("", "nothing handed in")]
    (counted,) = class_statistics.of_tasks(results)
    assert (counted.judged, counted.share_right, counted.points) == (4, 0.25, 0.5)
    assert dict(zip(class_statistics.OUTCOMES, counted.outcomes, strict=True))["wrong"] == 3
    assert counted.reasons == (("… of … are right.", 2), ("no\u202e", 1))
    bars = class_statistics.histogram(results)
    assert [bar.count for bar in bars] == [2, 0, 0, 0, 0, 1, 0, 0, 0, 1]
    page = class_statistics.page("Topic 04", results)
    assert "25%" in page and r"1 times: no\u202e" in page and "A &lt;prior&gt;" in page
    assert "4 submissions by their points" in page and "\u202e" not in page
    outline = _Outline(page)
    names = [tag for tag, _ in outline.tags]
    assert dict(outline.tags)["html"] == {"lang": "en"} and names.count("h1") == 1
    assert names.count("caption") == names.count("table") == 2, "the histogram is a table as well"
    assert all("scope" in facts for tag, facts in outline.tags if tag == "th")
    (picture,) = (facts for tag, facts in outline.tags if tag == "svg")
    labels = (picture["aria-labelledby"] or "").split()
    assert picture["role"] == "img" and all(f'id="{label}"' in page for label in labels)
    assert not re.search(r"https?:|<script|<link|src=|url\(", page), "it needs nothing else"
    assert class_statistics.of_tasks([]) == [] and "Nothing was wrong" in class_statistics.page(
        "", []
    )


# ---- gradebooks ----------------------------------------------------------------------------------


def _scored(folder: Path, key: str, points: Mapping[str, float | None], late: float = 1) -> Path:
    folder.mkdir(parents=True)
    results = []
    for who, got in points.items():
        task = TaskResult(key, "T", "right", "", got, 4)
        results.append(Result(f"{who}.ipynb", "graded", who, (task,), late_share=late))
    report.write(folder, "it", results, roster.Roster(()))
    return folder


def _rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_totals_over_topics_for_the_gradebooks_of_others(tmp_path: Path) -> None:
    first = _scored(tmp_path / "a", "hw03.undo", {"ann": 4, "Ωμέγα": None})
    second = _scored(tmp_path / "b", "04.tv", {"ann": 1.5}, late=0.5)
    (people := tmp_path / "roster.csv").write_text(
        "id,Name,email\nann,=Ann,a@b.org\nΩμέγα,,\ncat,Cat,\n", encoding="utf-8"
    )
    book = gradebooks.read([first, second], roster.read(people))
    totals, moodle, canvas = map(_rows, gradebooks.write(book, tmp_path / "books"))
    assert totals == [
        ["id", "Name", "email", "homework 03", "topic 04", "total", "out_of"],
        ["ann", "'=Ann", "a@b.org", "4", "0.75", "4.75", "8"],
        ["Ωμέγα", "", "", "", "", "0", "8"],
        ["cat", "Cat", "", "", "", "0", "8"],
    ]
    assert moodle[0] == ["ID number", "Username", "Email address", "homework 03", "topic 04"]
    assert moodle[1] == ["ann", "", "a@b.org", "4", "0.75"]
    assert canvas[0][:5] == ["Student", "ID", "SIS User ID", "SIS Login ID", "Section"]
    assert canvas[1] == ["Points Possible", "", "", "", "", "4", "4"]
    assert canvas[2:4] == [
        ["'=Ann", "", "", "ann", "", "4", "0.75"],
        ["Ωμέγα", "", "", "Ωμέγα", "", "", ""],
    ]
    assert gradebooks.read([first]).roster.ids == ("ann", "Ωμέγα")
    with pytest.raises(ExerciseError, match="b holds scores of topic 04, and so does another"):
        gradebooks.read([second, second])
    with pytest.raises(ExerciseError, match="name folders that `sltools grade` wrote"):
        gradebooks.read([tmp_path])


def test_a_gradebook_of_nbgrader_takes_the_points(tmp_path: Path) -> None:
    pytest.importorskip("nbgrader", reason="nbgrader is not installed")
    from nbgrader.api import Gradebook

    first = _scored(tmp_path / "a", "hw03.undo", {"ann": 4, "bob": None}, late=0.5)
    path = tmp_path / "gradebook.db"
    with Gradebook(f"sqlite:///{path}") as database:
        database.add_student("ann", first_name="Ann")
        database.add_assignment("other")
    for _ in range(2):  # the second time in place of the first
        assert gradebooks.to_nbgrader(gradebooks.read([first]), path) == 2
    with Gradebook(f"sqlite:///{path}") as database:
        assert {a.name for a in database.assignments} == {"other", "homework-03"}
        assert database.find_student("ann").first_name == "Ann", "what is there stays"
        submission = database.find_submission("homework-03", "ann")
        assert (submission.score, submission.max_score) == (2, 4)
        assert database.find_submission("homework-03", "bob").needs_manual_grade
    rows = json.loads((first / "scores.json").read_text(encoding="utf-8"))
    rows[0]["tasks"][0] |= {"points": 3, "judged": 4, "adjusted": "by hand"}
    (first / "scores.json").write_text(json.dumps(rows), encoding="utf-8")
    gradebooks.to_nbgrader(gradebooks.read([first]), path)
    with Gradebook(f"sqlite:///{path}") as database:
        grade = database.find_grade("hw03.undo", "homework-03", "homework-03", "ann")
        assert (grade.auto_score, grade.manual_score, grade.score) == (2, 1.5, 1.5)


def test_without_nbgrader_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nbgrader.api", None)
    first = _scored(tmp_path / "a", "04.tv", {"ann": 4})
    with pytest.raises(ExerciseError, match="pip install nbgrader"):
        gradebooks.to_nbgrader(gradebooks.read([first]), tmp_path / "gradebook.db")


# ---- the commands --------------------------------------------------------------------------------


def test_commands_make_and_grade_homework_of_any_topic(
    room: Class, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    (tmp_path / "salt").write_bytes(SALT)
    (tmp_path / "roster.csv").write_text(
        "id,deadline\nann,2026-12-01\nΩμέγα,2026-12-01\nbob\u202e,2026-12-01\n", encoding="utf-8"
    )
    (tmp_path / "changes.csv").write_text("learner,task,points,reason\nann,hw03.places,6,seen\n")
    monkeypatch.chdir(tmp_path)
    told = ("--salt", "salt", "--roster", "roster.csv", "--topic", "3")
    assert call(monkeypatch, "assignment", "new", *told, "--out", "made") == 0
    made = {path.name for path in (tmp_path / "made").glob("*.ipynb")}
    assert made == {path.name for path in (tmp_path / "subs").glob("*.ipynb")}
    more = ("--late", "1:0.5", "--adjustments", "changes.csv", "--only", "ann")
    assert call(monkeypatch, "grade", "subs", *told, "--out", "out", *more) == 0
    assert "late policy: up to 1 days late 50%" in capsys.readouterr().out
    assert room.rows()["ann"]["points"] == "10" and {who for who, _ in room.judged} == {"ann"}
    command = ("gradebook", "out", "--roster", "roster.csv", "--out", "books")
    assert call(monkeypatch, *command) == 0
    assert "totals.csv" in capsys.readouterr().out and (tmp_path / "books/moodle.csv").exists()
    assert call(monkeypatch, "assignment", "new", *told[:-1], "77", "--out", "none") == 1
    assert "no homework for topic '77'" in capsys.readouterr().err
    alone = ("grade", "subs", "--salt", "none", "--out", "none", "--late", "1:0.5")
    assert call(monkeypatch, *alone) == 1
    assert "give --roster as well" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_the_order_and_a_second_run_change_nothing(room: Class) -> None:
    policy: dict[str, Any] = {"adjustments": [Adjustment("ann", KEYS[0], 1, "why")]}
    room.grade(**policy)
    files = ("scores.csv", "scores.json", "index.csv", "statistics.html")
    first = [(room.folder / "out" / name).read_bytes() for name in files]
    room.grade(**policy)
    assert first == [(room.folder / "out" / name).read_bytes() for name in files]
    assert not room.judged
