"""Every check is proven: right answers pass, wrong ones are told why, a stub is not attempted."""

import re
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any

import nbformat
import pytest
import torch

from sltools import exercises
from sltools.checking import judging
from sltools.checking.judging import LocalAnswer
from sltools.exercises import Task, quizzes
from sltools.lessons import headless_kernel
from tests import bank
from tools import notebooks

PROOFS = bank.proofs()
ROOT = notebooks.ROOT
SOLUTIONS = sorted(notebooks.SOLUTIONS.glob("*.ipynb"))
HIDDEN = range(7000, 7003)
QUICK = [task for task in exercises.tasks() if task.kind != "challenge"]
CHALLENGES = [task for task in exercises.tasks() if task.kind == "challenge"]
every_task = pytest.mark.parametrize("task", QUICK, ids=lambda task: task.key)
every_challenge = pytest.mark.parametrize("task", CHALLENGES, ids=lambda task: task.key)


def test_no_task_is_without_proof() -> None:
    wanting = {
        task.key: proof and (len(proof.wrong), len(proof.right))
        for task in exercises.tasks()
        if not (proof := PROOFS.get(task.key)) or len(proof.wrong) < 4 or len(proof.right) < 3
    }
    assert wanting == {}


def _told(task: Task) -> dict[str, str]:
    """Return what each wrong answer in the bank is told; each must be wrong or fail."""
    told = {}
    for name, answer in PROOFS[task.key].wrong.items():
        verdict = judging.judge(task, LocalAnswer(answer), HIDDEN)
        assert verdict.outcome in ("wrong", "error", "partly right"), f"{name}: {verdict}"
        assert verdict.share < 1
        told[name] = verdict.message
    return told


def _prove_wrong(task: Task) -> None:
    told = _told(task)
    assert len(set(told.values())) == len(told), f"two mistakes are told the same: {told}"
    assert not [name for name, text in told.items() if " is off: " in text], told


@every_task
def test_every_wrong_answer_is_told_its_own_reason(task: Task) -> None:
    _prove_wrong(task)


def _prove_right(task: Task, seeds: range) -> None:
    for answer in [*PROOFS[task.key].right, _solution(task)]:
        for seed in seeds:
            verdict = judging.judge(task, LocalAnswer(answer), [seed])
            assert verdict, f"seed {seed}: {verdict}"


@every_task
def test_right_answers_in_other_words_pass(task: Task) -> None:
    _prove_right(task, PROOFS[task.key].seeds[:1])


@pytest.mark.proofs
@every_task
def test_right_answers_in_other_words_pass_on_hidden_seeds(task: Task) -> None:
    _prove_right(task, PROOFS[task.key].seeds[1:])


def _inflated(value: Any, number: float) -> Any:
    """Return `value` with `number` in the place of all numbers."""
    if isinstance(value, torch.Tensor):
        return torch.full(value.shape, number, dtype=torch.float64)
    if isinstance(value, (list, tuple)):
        return [_inflated(entry, number) for entry in value]
    if isinstance(value, dict):
        return {key: _inflated(entry, number) for key, entry in value.items()}
    return value if isinstance(value, str) or value is None else number


@pytest.mark.parametrize("number", [1e300, 3e38, -1e20, float("inf"), float("nan")])
@every_task
def test_no_number_is_large_enough_to_be_right(task: Task, number: float) -> None:
    right = _solution(task)
    if not callable(right):
        return

    numbers = False

    def answer(*arguments: Any) -> Any:
        nonlocal numbers
        returned = right(*arguments)
        numbers |= repr(_inflated(returned, number)) != repr(_inflated(returned, 0.5))
        return _inflated(returned, number)

    verdict = judging.judge(task, LocalAnswer(answer), [7000])
    assert verdict.outcome in ("wrong", "error") or not numbers


@pytest.mark.proofs
@pytest.mark.slow
@every_challenge
def test_a_challenge_is_proven(task: Task) -> None:
    _prove_wrong(task)
    _prove_right(task, PROOFS[task.key].seeds)


@pytest.mark.proofs
@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_an_untouched_exercise_runs_and_attempts_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes: dict[str, str] = {}

    def check(key: str, answer: Any) -> None:
        outcomes[key] = judged(key, answer).outcome

    judged = exercises.check
    monkeypatch.setattr(exercises, "check", check)
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, Any] = {}
    for cell in notebooks.code_cells(nbformat.read(ROOT / "exercises" / path.name, as_version=4)):
        exec(compile(cell.source, path.name, "exec"), namespace)
    keys = [task.key for task in exercises.tasks(path.name[:2])]
    assert outcomes == dict.fromkeys(keys, "not attempted")
    assert not list(tmp_path.iterdir()), "running an exercise outside a course copy left a file"


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_a_notebook_asks_for_every_task_of_its_topic_once(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    code = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")
    text = "\n".join(cell.source for cell in notebook.cells)
    topic = exercises.tasks(path.name[:2])
    assert 4 <= len(topic) <= 7
    for task in topic:
        assert code.count(f'check("{task.key}", {task.answer})') == 1
        assert text.count(f"## Task {task.key}: ") == 1
        assert text.count(f'hint("{task.key}")') == 1
    assert f'quiz("{path.name[:2]}")' in code


@pytest.mark.parametrize("path", SOLUTIONS, ids=lambda path: path.stem)
def test_a_solution_earned_all_points_when_it_ran(path: Path) -> None:
    cells = notebooks.code_cells(nbformat.read(path, as_version=4))
    (shown,) = [cell.outputs[0].text for cell in cells if cell.source.startswith("progress(")]
    points = sum(task.points for task in exercises.tasks(path.name[:2]))
    assert f"\n{points:g} of {points:g} points" in shown


@cache
def _namespace(path: Path) -> dict[str, Any]:
    """Run the cells of a solution that define its answers, and nothing that checks them."""
    namespace: dict[str, Any] = {}
    for cell in notebooks.code_cells(nbformat.read(path, as_version=4)):
        lines = cell.source.splitlines()
        kept = [line for line in lines if not line.startswith(("check(", "quiz(", "progress("))]
        exec(compile("\n".join(kept), path.name, "exec"), namespace)
    return namespace


def _solution(task: Task) -> Any:
    path = next(path for path in SOLUTIONS if path.name.startswith(task.topic))
    return _namespace(path)[task.answer]


# ---- verdicts ------------------------------------------------------------------------------------


def test_an_error_names_the_line_of_the_learner() -> None:
    def total_variation(images: Any) -> Any:
        wrong = images.missing
        return wrong

    verdict = exercises.check("04.tv", total_variation)
    assert verdict.outcome == "error"
    assert "wrong = images.missing" in verdict.message and "AttributeError" in verdict.message


@pytest.mark.parametrize("stub", [..., None])
def test_a_placeholder_is_not_attempted(stub: Any) -> None:
    assert exercises.check("04.tv", stub).outcome == "not attempted"


def test_not_implemented_deeper_down_is_an_error() -> None:
    def helper() -> None:
        raise NotImplementedError

    assert exercises.check("04.tv", lambda images: helper()).outcome == "error"


def test_an_object_that_can_be_called_is_no_stub() -> None:
    class Callable:
        def __call__(self, images: Any) -> Any:
            raise NotImplementedError

    assert exercises.check("04.tv", Callable()).outcome == "error"


@pytest.mark.parametrize("factor", [0.0, -1.0, 0.5, 100.0])
@pytest.mark.parametrize("key", ["04.tv", "04.feature_loss", "09.penalty", "10.mmd"])
def test_a_forged_gradient_earns_nothing(key: str, factor: float) -> None:
    """With the right number: it is what a process would send that answers for the learner."""
    task = exercises.find(key)

    class Forged(LocalAnswer):
        def gradient(self, *arguments: Any) -> Any:
            return factor * super().gradient(*arguments)

    verdict = judging.judge(task, Forged(_solution(task)), HIDDEN)
    assert (verdict.outcome, verdict.share) == ("wrong", 0) and "gradient" in verdict.message


def test_an_object_equal_to_everything_is_wrong() -> None:
    class Equal:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    verdict = exercises.check("04.tv", lambda images: Equal())
    assert verdict.outcome == "wrong" and "Equal" in verdict.message


def test_an_answer_may_write_on_its_arguments() -> None:
    def total_variation(images: Any) -> Any:
        value = images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()
        images.zero_()
        return value

    assert exercises.check("04.tv", total_variation)


def test_a_disguised_copy_is_compared_beside_a_network_that_nobody_stole() -> None:
    """Weight by weight the copy is as far away as a stranger; matched by channels it is found."""
    task = exercises.find("06.disguise")
    for seed in range(20):
        verdict = judging.judge(task, LocalAnswer(PROOFS[task.key].right[0]), [seed])
        told = [float(number) for number in re.findall(r"\d+(?:\.\d+)?", verdict.message)]
        copy_apart, stranger_apart, copy_like, most, stranger_like = told
        assert copy_apart > 0.9 * stranger_apart, verdict.message
        assert copy_like == most == 1 and stranger_like < 0.8, verdict.message


def test_a_verdict_is_shown_by_more_than_colour() -> None:
    html = exercises.check("04.tv", ...)._repr_html_()
    assert "○ 04.tv: not attempted" in html
    assert isinstance(_solution(exercises.find("04.tv")), FunctionType)


def test_every_verdict_of_a_cell_is_shown_once(tmp_path: Path) -> None:
    from nbclient import NotebookClient

    shown = {
        'check("04.tv", ...)': ["execute_result"],
        'check("04.tv", ...)\nx = 1': ["display_data"],
        'for key in ("04.tv", "04.step"):\n    check(key, ...)': ["display_data"] * 2,
        'verdict = check("04.tv", ...)\nverdict': ["execute_result"],
        'print(check("04.tv", ...))': ["stream"],
        'assert check("04.tv", ...)': ["error", "display_data"],
        'check("04.tv", ...)\ncheck("04.step", ...)': ["execute_result", "display_data"],
        "1 + 1": ["execute_result"],
    }
    start = "from sltools.exercises import check"
    cells = [nbformat.v4.new_code_cell(source) for source in (start, *shown)]
    notebook = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(
        notebook,
        timeout=120,
        allow_errors=True,
        kernel_manager_class=headless_kernel(),
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    outputs = {cell.source: cell.outputs for cell in notebook.cells[1:]}
    kinds = {source: [each.output_type for each in found] for source, found in outputs.items()}
    assert kinds == shown
    one, other = (found[0].data for found in list(outputs.values())[:2])
    assert one == other and "○ 04.tv: not attempted" in one["text/plain"]


def test_an_unknown_task_is_refused() -> None:
    from sltools.errors import ExerciseError

    for call in (lambda: exercises.check("99.x", 1), lambda: exercises.hint("99.x")):
        with pytest.raises(ExerciseError, match="there are: "):
            call()
    with pytest.raises(ExerciseError, match="no quiz"):
        exercises.quiz("99")


# ---- hints, progress, quiz -----------------------------------------------------------------------


def test_hints_come_one_after_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLTOOLS_PROGRESS", str(tmp_path / "p.json"))
    texts = exercises.find("04.step").hints
    for number in (1, 2, 3, 3):
        exercises.hint("04.step")
        printed = capsys.readouterr().out
        assert [text in printed for text in texts] == [place < number for place in range(3)]


def test_progress_keeps_the_best_and_counts_attempts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "p.json"
    monkeypatch.setenv("SLTOOLS_PROGRESS", str(path))
    right = PROOFS["04.tv"].right[0]
    for answer in (lambda images: 0.0, right, lambda images: 0.0):
        exercises.check("04.tv", answer)
    exercises.progress("04")
    printed = capsys.readouterr().out
    assert "✓ 04.tv" in printed and "tried 3 ×" in printed and "2 of 22 points" in printed
    assert [p.name for p in tmp_path.iterdir()] == ["p.json"]


def test_damaged_progress_is_set_aside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    path.write_text("{broken")
    monkeypatch.setenv("SLTOOLS_PROGRESS", str(path))
    exercises.check("04.tv", lambda images: 0.0)
    assert sorted(p.read_text() for p in tmp_path.glob("*damaged*")) == ["{broken"]
    assert '"attempts": 1' in path.read_text()


@pytest.mark.parametrize("topic", quizzes.topics())
def test_a_quiz_reads_without_a_browser_and_unfolds_in_one(topic: str) -> None:
    shown = exercises.quiz(topic)
    source = (quizzes.FOLDER / f"{topic}.md").read_text(encoding="utf-8")
    assert source.count("- [") == sum(len(question.options) for question in shown.questions)
    assert source.count("- [x]") == source.count("## ") == len(shown.questions) > 1
    html, text = shown._repr_html_(), repr(shown)
    assert html.count("<details>") == html.count("</details>") == html.count("<summary>")
    for question in shown.questions:
        assert sum(right for _, right, _ in question.options) == 1 < len(question.options)
        assert question.text in text
    assert text.index("Answers:") > text.index(shown.questions[-1].text)
    assert "<script" not in html


def test_the_instructors_page_follows_from_the_course() -> None:
    from tools import instructor

    assert instructor.main(["--check"]) == 0, "run: python -m tools.instructor"
