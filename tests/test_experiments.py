"""Standard experiments: what is kept of an interrupted one, which baselines, what goes to JSON."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from sltools import data, experiments, metrics, models, protocol
from sltools.attacks import InversionResult, KnownWeightsInversion, UnSplit, inversion
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


def test_an_unknown_budget_of_labels_is_told() -> None:
    with pytest.raises(SltoolsError, match="no budget is called 'huge'; there are tiny"):
        experiments.run_labels(experiments.LabelSettings(budget="huge"))


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


@pytest.fixture(scope="module")
def restarts() -> tuple[protocol.Session, torch.Tensor, list[InversionResult]]:
    digits = data.load("digits")
    session = experiments.train_victim(digits, "pool1", budget="tiny")
    truth = experiments.first_targets(digits, 3).images
    return session, truth, UnSplit(steps=5, restarts=2).runs(session.observe(truth))


def test_a_restart_is_scored_by_the_images_of_which_the_truth_is_held(restarts) -> None:
    session, truth, runs = restarts
    test = data.load("digits").test[:50]
    scores = experiments.score_restarts(runs, session, truth[:2], test)
    for run, raw, right in zip(runs, scores.raw, scores.accuracy, strict=True):
        assert raw == metrics.mse(run.inputs[:2], truth[:2]).mean()  # the median of two
        assert right == metrics.accuracy(nn.Sequential(run.clone, session.server.model), test)
    assert all(a <= raw for a, raw in zip(scores.aligned, scores.raw, strict=True))
    assert scores.kept is min(runs, key=lambda run: run.objective)


def test_half_a_restart_is_not_scored(restarts) -> None:
    session, truth, runs = restarts
    cut_short = [runs[0], replace(runs[1], interrupted=True)]
    with pytest.raises(KeyboardInterrupt):
        experiments.score_restarts(cut_short, session, truth, data.load("digits").test[:50])


@pytest.mark.parametrize(
    "after, verdict",
    [
        ([2, 3, 4], "higher from every start (x 1.50)"),
        ([0.5, 1, 2], "lower from every start (x 0.50)"),
        ([1, 2, 3], "the same"),
        ([2, 2, 3], "undecided: higher from 1 of 3 starts (x 1.00)"),
    ],
)
def test_a_verdict_needs_all_starts(after: list[float], verdict: str) -> None:
    assert experiments.paired_verdict([1, 2, 3], after) == verdict


@pytest.mark.parametrize("before, after", [([], []), ([1], [1, 2])])
def test_starts_that_make_no_pairs_have_no_verdict(before: list[int], after: list[int]) -> None:
    with pytest.raises(SltoolsError, match="make no pairs"):
        experiments.paired_verdict(before, after)


def test_a_head_of_every_size_can_be_cut_and_no_other() -> None:
    net = models.mnist_net()
    for layers in (1, 2, 3):
        head = models.cut(net, ("pool1", experiments.head_cut(net, layers)))[-1]
        assert sum(isinstance(layer, nn.Linear) for layer in head) == layers
    for layers in (0, 5, 6):  # the fifth from the end is the first stage of all
        with pytest.raises(SltoolsError, match=f"a head of {layers} layers"):
            experiments.head_cut(net, layers)


def test_a_recorded_epoch_gives_labels_in_the_order_of_its_messages() -> None:
    split = data.load("digits").train[:20]
    still = partial(torch.optim.SGD, lr=0.0)
    net = models.mnist_net()
    before = [weight.clone() for weight in net.parameters()]
    transcript, truth = experiments.record_epoch(net, split, batch_size=8, optimizer=still)
    assert all(map(torch.equal, net.parameters(), before))
    order = next(protocol.data_orders(len(split), seed=0))
    assert torch.equal(truth, split.labels[order])
    front = models.cut(net, "pool1")[0]
    assert torch.allclose(transcript.view("server").smashed, front(split.images[order]))


def test_half_a_recorded_epoch_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol.training, "_step", interrupt(protocol.training._step, 2))
    with pytest.raises(KeyboardInterrupt):
        experiments.record_epoch(models.mnist_net(), data.load("digits").train[:4])


def test_features_that_sort_the_classes_give_the_labels_away_without_a_gradient() -> None:
    stream = torch.Generator().manual_seed(0)
    truth = torch.arange(60) % 5
    features = 100 + torch.eye(5)[truth] + 0.05 * torch.randn(60, 5, generator=stream)
    clusters = experiments.cluster_features(SimpleNamespace(features=features), classes=5)
    assert metrics.cluster_accuracy(clusters, truth) == 1
