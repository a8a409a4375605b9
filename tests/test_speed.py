"""Time to quality: both criteria count, the schedule is extrapolated, fresh clones are reported."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import check_writable, speed, throughput
from sltools import data, experiments
from sltools.attacks import UnSplit, inversion
from sltools.errors import SltoolsError

GOAL = {"aligned_mse": 0.02, "clone_accuracy": 0.9}


@pytest.mark.parametrize(
    ("aligned", "accuracy", "good"),
    [(0.02, 0.9, True), (0.01, 0.95, True), (0.03, 0.95, False), (0.01, 0.89, False)],
)
def test_a_run_is_good_by_both_criteria(aligned: float, accuracy: float, good: bool) -> None:
    assert speed._good({"aligned_mse": aligned, "clone_accuracy": accuracy}, GOAL) == good


def test_the_published_schedule_is_extrapolated_to_all_its_rounds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        UnSplit,
        "__call__",
        lambda self, view: SimpleNamespace(
            seconds=self.steps / 500, settings={"steps": self.steps}, interrupted=False
        ),
    )
    session: Any = SimpleNamespace(observe=lambda truth: None)
    truth: Any = None
    assert speed._published_seconds(session, truth) == pytest.approx(1000 * (100 + 100) / 500)


def test_steps_are_chosen_by_most_clones_of_the_first_attack_that_serves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def runs(attack: UnSplit, seeds: Any, *_: Any) -> Iterator[dict[str, float]]:
        better = {50: 11, 75: 12, 100: 18}[attack.steps]
        return [  # type: ignore[return-value]
            {"seed": seed, "aligned_mse": 0.01, "clone_accuracy": 0.95 if n < better else 0.5}
            for n, seed in enumerate(seeds)
        ]

    monkeypatch.setattr(speed, "_runs", runs)
    monkeypatch.setattr(UnSplit, "__call__", lambda self, view: None)
    session: Any = SimpleNamespace(observe=lambda truth: None)
    attacks = [UnSplit(steps=steps) for steps in (50, 75, 100)]
    rest: tuple[Any, ...] = (None, None, GOAL)
    steps, found = speed._first_good_enough(attacks, speed.CHOOSING, session, *rest)
    assert steps == 75 and len(found) == 18
    assert speed._first_good_enough(attacks[:1], speed.CHOOSING, session, *rest)[0] is None
    assert not {*speed.CHOOSING} & {*speed.REPORTED}


def test_an_interrupted_run_is_no_measurement_and_a_lost_path_no_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    digits = data.load("digits")
    session = experiments.train_victim(digits, budget="tiny")
    truth = experiments.first_targets(digits, 2).images
    monkeypatch.setattr(inversion, "_step_optimizers", interrupted)
    with pytest.raises(KeyboardInterrupt):
        speed._runs(UnSplit(steps=2), [0], session, truth, digits.test)
    with pytest.raises(KeyboardInterrupt):
        speed._published_seconds(session, truth)
    with pytest.raises(KeyboardInterrupt):
        throughput._more_steps(UnSplit, session.observe(truth), 2)
    with pytest.raises(SltoolsError, match="give a --path"):
        check_writable(tmp_path / "nowhere" / "speed.json")
    check_writable(tmp_path / "speed.json")
    assert not list(tmp_path.iterdir())


def test_each_run_stands_beside_what_the_published_schedule_took_around_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    timings = iter([99.0, 10.0, 20.0, 40.0])  # the first one warms up
    monkeypatch.setattr(speed, "_published_seconds", lambda session, truth: next(timings))
    monkeypatch.setattr(speed, "_runs", lambda attack, seeds, *rest: [{"seed": s} for s in seeds])
    none: Any = None
    runs = speed._paired_runs(UnSplit(), (200, 201), none, none, none)
    assert runs == [
        {"seed": 200, "published_seconds": 15.0},
        {"seed": 201, "published_seconds": 30.0},
    ]
