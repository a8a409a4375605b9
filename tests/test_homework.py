"""Homework of every topic: its author gets all the points, a plausible wrong answer none."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from sltools import exercises
from sltools.checking.judging import LocalAnswer, judge
from sltools.errors import ExerciseError
from sltools.exercises import homework
from sltools.grading import assignment, grade, sandbox
from sltools.grading.submissions import Submission
from tests.homework import ANSWERS, solved
from tests.submissions import notebook

SALT = bytes(range(40))
TOPICS = homework.topics()
WRONG = ("04", "10", "15")  # topics of which the wrong answers too are run in the sandbox


def _cells(plan: assignment.Assignment, learner: str) -> list[str]:
    made = assignment._notebook(plan, learner).cells
    return [cell.source for cell in made if cell.cell_type == "code"]


def _run(*sources: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    for source in sources:
        exec(source, names)
    return names


def test_every_topic_with_exercises_has_homework() -> None:
    assert {task.topic for task in exercises.tasks()} == set(TOPICS) == ANSWERS.keys()
    with pytest.raises(ExerciseError, match=r"no homework for topic '00'; there is for 01, 02"):
        assignment.Assignment(SALT, ("ann",), "00")


@pytest.mark.parametrize("topic", TOPICS)
def test_who_solves_it_gets_all_points_and_wrong_answers_their_reason(topic: str) -> None:
    plan = assignment.Assignment(SALT, ("ann", "bob"), topic)
    asked = plan.homework("ann")
    assert sum(task.points for task in asked.tasks) == 10 and len(asked.tasks) >= 2
    first = _cells(plan, "ann")[0]
    for code, right in ((solved(topic, asked), True), (ANSWERS[topic].wrong, False)):
        names = _run(first, code)
        for task in asked.tasks:
            verdict = judge(task, LocalAnswer(names[task.answer]), (7, 2**61 + 5, 12_345))
            assert verdict.share == right, verdict
            told = ANSWERS[topic].told[task.key.partition(".")[2]]
            assert right or told in verdict.message


@pytest.mark.parametrize("topic", TOPICS)
def test_a_learners_homework_says_what_it_asks_and_not_the_answer(topic: str) -> None:
    plan = assignment.Assignment(SALT, ("ann", "bob"), topic)
    asked, others = plan.homework("ann"), plan.homework("bob")
    cells = _cells(plan, "ann")
    names = _run(*cells)
    for task in asked.tasks:
        verdict = judge(task, LocalAnswer(names[task.answer]), [1])
        assert verdict.outcome == "not attempted"
    for name, value in asked.given.items():  # what stands in the notebook is what was drawn
        if isinstance(value, torch.Tensor):
            assert names[name].dtype == value.dtype
            assert torch.allclose(names[name], value, atol=1e-5)
        else:
            assert names[name] == value
    assert assignment._first_cell(plan, "ann") != assignment._first_cell(plan, "bob")
    mine = _run(assignment._first_cell(plan, "ann"), solved(topic, asked))
    secret = others.tasks[-1]
    verdict = judge(secret, LocalAnswer(mine[secret.answer]), [1])
    assert not verdict.share, "another learner's answer is worth nothing"
    examples = [part.example for part in asked.parts if part.example]
    assert all(f"# {example}" in cells for example in examples)
    for example in examples:
        call, told = example.split("# is ")
        got = torch.as_tensor(eval(call, mine)).flatten()
        wanted = torch.tensor([float(text) for text in re.findall(r"-?[\d.]+", told)])
        assert torch.allclose(got.float(), wanted, atol=1e-4), example


def test_homework_of_another_topic_is_told_by_its_code() -> None:
    plans = {topic: assignment.Assignment(SALT, ("ann", "bob"), topic) for topic in TOPICS}
    handed = Submission("x", tuple(_cells(plans["03"], "bob")))
    assert plans["03"].learner(handed) == "bob" and plans["03"].other(handed) == ""
    assert {plans[topic].other(handed) for topic in TOPICS if topic != "03"} == {"homework 03"}
    assert len({plan.code("ann") for plan in plans.values()}) == len(TOPICS)


def test_secrets_come_from_streams_that_use_every_bit() -> None:
    for topic in TOPICS:
        one, two = (homework.draw(topic, 1, data).given for data in (1, 1 + 2**32))
        assert repr(one) != repr(two)


@dataclass(frozen=True)
class EveryTopic:
    """The homework of all topics as one plan, so that processes are started once."""

    plans: tuple[assignment.Assignment, ...]
    salt: bytes = SALT
    title: str = "homework of every topic"

    def roster(self) -> tuple[str, ...]:
        return ()

    def given(self) -> list[Any]:
        return [cells for plan in self.plans for cells in plan.given()]

    def __getattr__(self, name: str) -> Any:
        if name not in ("tasks", "learner", "other", "doubt", "setup"):
            raise AttributeError(name)
        return lambda submission: getattr(self._of(submission), name)(submission)

    def _of(self, submission: Submission) -> assignment.Assignment:
        return next(plan for plan in self.plans if plan.learner(submission))


@pytest.mark.proofs
@pytest.mark.slow
def test_homework_of_every_topic_is_graded_as_expected(tmp_path: Path) -> None:
    box = sandbox.Sandbox()
    if reason := sandbox.refusal(box):
        pytest.skip(f"submissions cannot be isolated here: {reason}")
    plans = tuple(assignment.Assignment(SALT, ("ann", "bob"), topic) for topic in TOPICS)
    (subs := tmp_path / "subs").mkdir()
    for plan in plans:
        made = dict(zip(plan.learners, assignment.write(plan, tmp_path / plan.topic), strict=True))
        for learner in plan.learners if plan.topic in WRONG else ("ann",):
            cells = json.loads(made[learner].read_text(encoding="utf-8"))["cells"]
            code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
            right = solved(plan.topic, plan.homework(learner))
            code += [right if learner == "ann" else ANSWERS[plan.topic].wrong]
            (subs / f"{plan.topic} {learner}.ipynb").write_text(notebook(code))
    results = grade.grade(subs, tmp_path / "out", EveryTopic(plans), box, 2)
    told = {r.submission[:6]: (r.learner, r.status, r.points, r.cells) for r in results}
    for topic in TOPICS:
        assert told[f"{topic} ann"] == ("ann", "graded", 10, {}), topic
        assert topic not in WRONG or told[f"{topic} bob"] == ("bob", "graded", 0, {}), topic
    outcomes = {task.outcome for r in results if r.learner == "bob" for task in r.tasks}
    assert outcomes == {"wrong"}
