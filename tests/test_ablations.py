"""What else might help UnSplit: each idea is what its name says, and the record is theirs."""

import copy
import json
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from benchmarks import ablations
from benchmarks.ablations import (
    IDEAS,
    LabelledTargets,
    OtherVariation,
    SecondOrderFinish,
    SigmoidPixels,
)
from sltools import data, experiments, lessons, models, protocol
from sltools.attacks import InversionResult, UnSplit
from sltools.attacks.ensemble import Ensemble
from sltools.attacks.unsplit import RESCALE_EVERY
from sltools.errors import SltoolsError
from sltools.models import Architecture
from sltools.transcript import Transcript
from sltools.view import View

RECORD = lessons.course() / "results" / "ablations.json"
HEAVY = LabelledTargets(labels_weight=30.0)
STEP = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 1, 3, 4)  # (E, N, C, H, W): one edge


@pytest.fixture(scope="module")
def view() -> View:
    """What the server sees of three images of digits and of their labels."""
    source = data.load("digits")
    client, server = experiments.parties(models.for_images(source.train.images.shape, 5), "pool1")
    batch = source.test[:3]
    messages = client.open(batch.images, batch.labels)
    shape = batch.images.shape[1:]
    return Transcript(
        Architecture.of(client.front, shape), None, {"server": server.model}, messages
    ).view()


def brief(attack: UnSplit) -> UnSplit:
    """The same idea, with little time."""
    attack = replace(attack, steps=12, restarts=2, seed=1)
    return replace(attack, rounds=1) if isinstance(attack, SecondOrderFinish) else attack


def _run(attack: UnSplit, view: View) -> list[InversionResult]:
    return brief(attack).runs(view)


@pytest.mark.parametrize("name", IDEAS)
def test_an_idea_gives_images_and_a_clone_from_every_start(name: str, view: View) -> None:
    runs = _run(IDEAS[name].attacks[0], view)
    assert len(runs) == 2
    for run in runs:
        assert run.inputs.shape == (3, 1, 28, 28)
        assert 0 <= run.inputs.min() < run.inputs.max() <= 1
        assert run.clone(run.inputs).isfinite().all()
    assert not torch.equal(runs[0].inputs, runs[1].inputs)


def test_variations_of_one_edge() -> None:
    # Of 3 x 3 pairs side by side, three differ by 1.
    assert ablations.absolute_variation(STEP).item() == pytest.approx(1 / 3)
    assert ablations.absolute_variation(STEP.transpose(-1, -2)).item() == pytest.approx(1 / 3)
    # Of 3 x 4 pixels, three have a neighbour that differs.
    assert ablations.isotropic_variation(STEP).item() == pytest.approx(1 / 4, abs=1e-3)


def test_an_edge_that_is_spread_costs_squares_less_and_absolutes_the_same() -> None:
    spread = torch.tensor([0.0, 0.5, 0.5, 1.0]).expand_as(STEP)
    assert ablations.absolute_variation(spread) == ablations.absolute_variation(STEP)
    corner = torch.zeros(1, 1, 1, 2, 2)
    corner[..., 1, 1] = 1
    both, one = ablations.isotropic_variation(corner), ablations.absolute_variation(corner)
    assert both < one  # which counts the rise down and that across, each over fewer pairs


def test_variations_are_taken_of_each_clones_images() -> None:
    two = torch.cat([STEP, torch.zeros_like(STEP)])
    for variation in ablations.VARIATIONS.values():
        assert variation(two)[0] == variation(STEP)[0]
        assert variation(two)[1] < 1e-3


def test_a_term_of_weight_zero_changes_nothing(view: View) -> None:
    usual = _run(UnSplit(tv=0.0), view)[0]
    without_labels = _run(LabelledTargets(tv=0.0, labels_weight=0.0), view)[0]
    assert torch.allclose(without_labels.inputs, usual.inputs, atol=1e-4)
    assert torch.allclose(_run(OtherVariation(tv=0.0), view)[0].inputs, usual.inputs, atol=1e-4)


def test_labels_are_read_and_lead_where_they_say(view: View) -> None:
    usual, labelled = (_run(attack, view)[0] for attack in (UnSplit(), HEAVY))
    assert {"labels", "own model"} <= set(labelled.knowledge)
    assert not {"labels", "own model"} & set(usual.knowledge)

    def surprise(run: InversionResult, labels: torch.Tensor) -> float:
        return cross_entropy(view.model(run.clone(run.inputs)), labels).item()

    assert surprise(labelled, view.labels) < surprise(usual, view.labels)
    assert surprise(labelled, view.labels) < surprise(labelled, view.labels.flip(0))


def test_sigmoid_pixels_are_exposed_and_the_weights_to_match(view: View) -> None:
    attack = SigmoidPixels(leak=0.0)
    networks = Ensemble([view.architecture.build(1)])
    images = 0.6 * data.load("digits").test.images[None, :3].clamp(0.01, 0.99)
    free = images.logit() / 4 + 0.5
    before = networks(images)
    attack._before_step(RESCALE_EVERY, free, networks)
    exposed = ablations._pixels(free)
    assert exposed.quantile(0.99) > 0.99
    inside = images < 0.9 * images.max()  # the brightest pixels are cut off
    factor = (exposed / images)[inside]
    assert torch.allclose(factor, factor.mean().expand_as(factor), rtol=0.02)
    assert torch.allclose(networks(exposed), before, atol=0.05)


def test_sigmoid_pixels_start_as_the_usual_ones_do() -> None:
    free = torch.tensor([0.5], requires_grad=True)
    pixel = ablations._pixels(free)
    pixel.backward()
    assert (pixel.item(), free.grad.item()) == (0.5, 1.0)


def test_painted_images_start_grey_and_are_exposed(view: View) -> None:
    attack = ablations.DeepImagePrior(leak=0.0)
    networks = ablations._Painted(Ensemble([view.architecture.build(i) for i in (0, 1)]), view, 3)
    grey = networks.paint().detach()
    assert grey.shape == (2, 3, 1, 28, 28)
    assert 0.4 < grey.min() < grey.max() < 0.6
    before = networks(grey)
    attack._before_step(RESCALE_EVERY, grey, networks)
    exposed = networks.paint().detach()
    assert exposed.flatten(1).quantile(0.99, dim=1).tolist() == pytest.approx([1, 1], abs=0.01)
    assert torch.allclose(networks(exposed), before, atol=0.01)  # the weights were changed to match


def test_every_idea_evaluates_its_objective_as_often(
    view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {attack.steps for attack in IDEAS["L-BFGS finish"].attacks} == {500, 800}
    for name, idea in IDEAS.items():
        for attack in idea.attacks:
            rounds = attack.rounds if isinstance(attack, SecondOrderFinish) else 0
            assert attack.steps + rounds * ablations.ROUND == ablations.STEPS, name
    calls = []
    losses = UnSplit._losses

    def counted(self: UnSplit, *arguments: Any) -> Any:
        calls.append(1)
        return losses(self, *arguments)

    monkeypatch.setattr(UnSplit, "_losses", counted)
    SecondOrderFinish(steps=7, rounds=2).runs(view)
    ends = 2  # after the steps, and after the rounds
    ended = 5  # evaluations by which a line search may go beyond its round
    assert 7 + 2 < len(calls) - ends <= 7 + 2 * (ablations.ROUND + ended)


def test_l_bfgs_leaves_images_exposed_and_reports_what_it_found(view: View) -> None:
    run = SecondOrderFinish(steps=60, rounds=1).runs(view)[0]
    assert run.inputs.quantile(0.99) > 0.98
    loss = (run.clone(run.inputs) - view.smashed).square().mean() / view.smashed.var(correction=0)
    assert run.feature_loss == pytest.approx(loss.item(), rel=1e-3)


def test_l_bfgs_explains_the_smashed_data_better(view: View) -> None:
    class Plain(SecondOrderFinish):
        """Without the exposure, which is not meant to lower the objective."""

        def _prepare(self, *_: Any) -> None: ...

    def loss(run: InversionResult) -> float:
        return (run.clone(run.inputs) - view.smashed).square().mean().item()

    before = Plain(steps=30, tv=0.0, l1=0.0, rounds=0).runs(view)[0]
    after = Plain(steps=30, tv=0.0, l1=0.0, rounds=1).runs(view)[0]
    assert loss(after) < loss(before) / 2


# ---- the measurement -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sent() -> ablations.Target:
    """A victim of one epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(experiments.victims, "training", lambda *_: (1, 192))
        return ablations.target.__wrapped__("digits", "pool1", 3)


def test_the_targets_are_sent_with_their_labels(sent: ablations.Target) -> None:
    seen = sent.view(None)
    with torch.no_grad():
        assert torch.equal(seen.smashed, sent.session.client.front(sent.images))
    assert seen.labels.tolist() == list(range(10))


@pytest.mark.parametrize("when", [*ablations.WHEN, ablations.TOGETHER])
def test_further_images_follow_the_targets(when: str, sent: ablations.Target) -> None:
    smashed = sent.view(when).smashed
    assert len(smashed) == ablations.TARGETS + ablations.FURTHER
    assert torch.equal(smashed[: ablations.TARGETS], sent.view(None).smashed)


def test_further_images_are_of_the_weights_of_their_time(sent: ablations.Target) -> None:
    source = data.load("digits")
    train = source.train[:192]
    rows = next(protocol.data_orders(192, seed=3)).split(64)
    net = models.mnist_net(3)
    client, server = experiments.parties(net, "pool1")
    fronts = []
    for batch in rows:
        fronts.append(copy.deepcopy(client.front))
        protocol.train(client, server, train[batch], epochs=1, batch_size=64)
    with torch.no_grad():
        for when, number in (("sent half-way", 1), ("sent at the end", 2)):
            expected = fronts[number](train.images[rows[number][-20:]])
            assert torch.allclose(sent.others[when].payload, expected, atol=1e-4), when
        others = experiments.first_targets(source, 30).images[10:]
        now = sent.session.client.front(others)
    assert torch.equal(sent.others[ablations.TOGETHER].payload, now)


def test_settings_are_chosen_by_other_images(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(experiments.victims, "training", lambda *_: (1, 192))
    chosen_by = ablations.target.__wrapped__("digits", "pool1", ablations.CHOOSING).images
    reported = experiments.first_targets(data.load("digits"), 30).images
    assert len(chosen_by) == 10
    assert not (chosen_by[:, None] == reported).flatten(2).all(2).any()


def test_an_attack_meets_each_victim_with_its_seed_and_only_targets_are_scored(
    sent: ablations.Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def runs(self: UnSplit, view: View) -> list[Any]:
        asked.append((self.seed, self.restarts, len(view.smashed)))
        padded = torch.cat([sent.images, torch.zeros(20, 1, 28, 28)])
        clone = sent.session.client.front
        return [SimpleNamespace(inputs=padded, clone=clone, interrupted=False)] * self.restarts

    monkeypatch.setattr(UnSplit, "runs", runs)
    scores = ablations.attacked(UnSplit(), sent, ablations.TOGETHER)
    assert asked == [(sent.seed, ablations.CLONES, 30)]
    accuracy = sent.session.accuracy(sent.test)
    assert scores == 3 * [
        {"raw_mse": 0.0, "aligned_mse": pytest.approx(0), "clone_accuracy": pytest.approx(accuracy)}
    ]


def test_settings_are_chosen_on_another_victim(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def attacked(attack: UnSplit, victim: Any, further: str | None) -> list[dict[str, float]]:
        asked.append((victim.seed, attack.tv, further))
        return [{"raw_mse": abs(attack.tv - 0.5)}] * 3

    monkeypatch.setattr(ablations, "target", lambda *place: SimpleNamespace(seed=place[-1]))
    monkeypatch.setattr(ablations, "attacked", attacked)
    found = ablations.try_idea("digits", "pool1", replace(IDEAS["tv chosen"], further="late"))
    assert asked[:3] == [(ablations.CHOOSING, tv, None) for tv in (0.2, 0.5, 1.0)]
    assert asked[3:] == [(seed, 0.5, "late") for seed in ablations.VICTIMS]
    assert found["settings"]["tv"] == 0.5 and found["further"] == "late"
    assert found["errors"] == pytest.approx([0.3, 0, 0.5])
    assert ablations.CHOOSING not in ablations.VICTIMS


def test_a_setting_that_diverges_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = {0.2: [0.01, math.nan, math.nan], 0.5: [0.02] * 3, 1.0: [0.03] * 3}

    def attacked(attack: UnSplit, *_: Any) -> list[dict[str, float]]:
        return [{"raw_mse": score} for score in scores[attack.tv]]

    monkeypatch.setattr(ablations, "target", lambda *place: SimpleNamespace(seed=place[-1]))
    monkeypatch.setattr(ablations, "attacked", attacked)
    found = ablations.try_idea("digits", "pool1", IDEAS["tv chosen"])
    assert (found["settings"]["tv"], found["errors"]) == (0.5, [None, 0.02, 0.03])
    scores |= {0.5: [math.nan] * 3, 1.0: [math.nan] * 3}
    with pytest.raises(SltoolsError, match="with none of its settings UnSplit ends"):
        ablations.try_idea("digits", "pool1", IDEAS["tv chosen"])


def test_what_is_there_with_the_same_settings_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def try_idea(dataset: str, cut: str, idea: ablations.Idea) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((dataset, cut, idea))
        tried = [ablations._settings(attack) for attack in idea.attacks]
        return {"tried": tried, "further": idea.further, "runs": []}

    monkeypatch.setattr(ablations, "try_idea", try_idea)
    monkeypatch.setattr(ablations, "_baselines", lambda *_: {})
    monkeypatch.setattr(ablations, "PLACES", [("digits", "pool1")])
    path = tmp_path / "ablations.json"
    with pytest.raises(KeyboardInterrupt):
        ablations._try_all(path)
    kept, done[:] = list(done), []
    with pytest.raises(KeyboardInterrupt):
        ablations._try_all(path)
    assert [idea for *_, idea in kept + done] == list(IDEAS.values())[:6]

    changed = json.loads(path.read_text(encoding="utf-8"))
    changed["places"]["digits pool1"]["as it is"]["tried"][0]["steps"] += 1
    path.write_text(json.dumps(changed), encoding="utf-8")
    done.clear()
    with pytest.raises(KeyboardInterrupt):
        ablations._try_all(path)
    assert done[0][2] is IDEAS["as it is"]

    changed["design"]["clones"] += 1
    path.write_text(json.dumps(changed), encoding="utf-8")
    with pytest.raises(SltoolsError, match="by another design"):
        ablations._try_all(path)


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(SltoolsError, match="is no record of"):
        ablations.read(path)


def test_the_table_compares_clone_by_clone() -> None:
    def record(*errors: float) -> dict[str, Any]:
        return {"runs": [{"raw_mse": error, "clone_accuracy": 0.5} for error in errors]}

    facts = {"places": {"digits pool1": {"as it is": record(1, 4, 2), "idea": record(2, 2, 2)}}}
    assert "| as it is | 2 [1, 4] | 1 [1, 1] | same |" in ablations.table(facts)
    assert ablations.table(facts).splitlines()[-1] == (
        "| digits pool1 | idea | 2 [2, 2] | 1 [0.5, 2] | 1 of 3 | 50.0% [50.0%, 50.0%] |"
    )


def test_the_record_is_whole_and_of_these_ideas() -> None:
    facts = ablations.read(RECORD)
    assert facts["design"] == ablations.DESIGN
    assert list(facts["places"]) == [" ".join(place) for place in ablations.PLACES]
    for tried in facts["places"].values():
        assert list(tried) == list(IDEAS)
        for name, record in tried.items():
            assert ablations._is_of(record, IDEAS[name]), name
            assert record["settings"] in record["tried"]
            pairs = [(run["victim"], run["clone"]) for run in record["runs"]]
            assert pairs == [(v, c) for v in ablations.VICTIMS for c in range(ablations.CLONES)]
            assert all(math.isfinite(run["raw_mse"]) for run in record["runs"])
