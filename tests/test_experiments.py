"""Standard experiments: what is kept of an interrupted one, which baselines, what goes to JSON."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from sltools import experiments, metrics, protocol
from sltools.attacks import KnownWeightsInversion, UnSplit, inversion
from sltools.errors import SltoolsError

TINY = experiments.InversionSettings(targets=2, budget="tiny", victims=2, clones=2)
CEILING_STEPS = 20


@pytest.fixture(autouse=True, scope="module")
def _short_oracle() -> Iterator[None]:
    """Search no longer than needed with known weights: nothing here is about how good that is."""

    def short(steps: int) -> KnownWeightsInversion:
        return KnownWeightsInversion(steps=CEILING_STEPS)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments.inversion, "KnownWeightsInversion", short)
        yield


def interrupt(function: Callable[..., Any], at: int) -> Callable[..., Any]:
    """Wrap `function` so that its call number `at` is interrupted."""
    calls = 0

    def interrupted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise KeyboardInterrupt
        return function(*arguments, **options)

    return interrupted


def test_the_first_victim_interrupted_in_its_attack_is_reported_as_far_as_it_got(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inversion, "_step_optimizers", interrupt(inversion._step_optimizers, 30))
    outcome = experiments.run_inversion(TINY)
    facts = outcome.facts
    assert facts["interrupted"]
    assert [run["victim"] for run in facts["runs"]] == [0, 0]
    assert "known_weights" not in facts["baselines"]
    assert "unfinished attack on the first of 2 victims, stopped after step" in str(outcome)


def test_a_later_victim_interrupted_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    whole_victim = experiments.STEPS["tiny"] + CEILING_STEPS
    monkeypatch.setattr(
        inversion, "_step_optimizers", interrupt(inversion._step_optimizers, whole_victim + 30)
    )
    facts = experiments.run_inversion(TINY).facts
    assert facts["interrupted"]
    assert [run["victim"] for run in facts["runs"]] == [0, 0]
    assert "known_weights" in facts["baselines"]
    assert facts["done"] == "1 of 2 victims"


def test_interrupting_the_first_training_leaves_nothing_to_report(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("SLTOOLS_CACHE", raising=False)  # nobody trained it before
    monkeypatch.setattr(protocol.training, "_step", interrupt(protocol.training._step, 3))
    with pytest.raises(SltoolsError, match="interrupted before the first victim"):
        experiments.run_inversion(TINY)
    monkeypatch.setattr(protocol.training, "_step", interrupt(protocol.training._step, 3))
    with pytest.raises(SltoolsError, match="interrupted before the first victim"):
        experiments.run_labels(experiments.LabelSettings(budget="tiny"))


def test_attacks_and_oracle_get_the_victims_seed_and_no_other_knowledge(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seeds, granted = [], []
    runs, known = UnSplit.runs, KnownWeightsInversion.__call__

    def watched_runs(self: UnSplit, view: Any) -> Any:
        seeds.append(self.seed)
        granted.append(view.granted)
        return runs(self, view)

    def watched_known(self: KnownWeightsInversion, view: Any) -> Any:
        granted.append(view.granted)
        return known(self, view)

    monkeypatch.setattr(UnSplit, "runs", watched_runs)
    monkeypatch.setattr(KnownWeightsInversion, "__call__", watched_known)
    experiments.run_inversion(TINY)
    assert seeds == [0, 1]
    assert granted == [(), ("client_model",)] * 2


def test_victims_of_different_user_seeds_never_meet() -> None:
    settings = experiments.InversionSettings(budget="tiny", targets=1, victims=2, clones=1)
    outcomes = [experiments.run_inversion(replace(settings, seed=seed)) for seed in (0, 1)]
    victims = [run["victim_accuracy"] for o in outcomes for run in o.facts["runs"]]
    assert len(set(victims)) > 1
    assert not torch.equal(outcomes[0].arrays["inputs"], outcomes[1].arrays["inputs"])


def test_a_random_client_is_reported_at_its_best_and_the_attack_at_its_worst() -> None:
    facts = experiments.run_inversion(TINY).facts
    runs = facts["runs"]
    assert facts["metrics"]["random_accuracy"]["best"] == max(r["random_accuracy"] for r in runs)
    assert facts["metrics"]["clone_accuracy"]["worst"] == min(r["clone_accuracy"] for r in runs)
    assert len({run["random_accuracy"] for run in runs}) > 1  # one random client for each clone


def test_no_infinity_goes_to_json(monkeypatch: pytest.MonkeyPatch) -> None:
    def perfect(x: torch.Tensor, truth: torch.Tensor) -> metrics.ImageScores:
        return score(truth, truth)  # PSNR infinite

    score = metrics.score_images
    monkeypatch.setattr(metrics, "score_images", perfect)
    facts = experiments.run_inversion(TINY).facts
    assert facts["runs"][0]["psnr_median"] is None
    json.loads(json.dumps(facts, allow_nan=False))
