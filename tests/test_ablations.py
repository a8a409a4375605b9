"""What else might help UnSplit: each idea is what its name says, and the record is theirs."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import ablations
from benchmarks.ablations import IDEAS, LabelledTargets, OtherVariation, SecondOrderFinish
from sltools import data, experiments, lessons, protocol
from sltools.attacks import InversionResult, UnSplit
from sltools.attacks.ensemble import Ensemble
from sltools.errors import SltoolsError
from sltools.models import Architecture
from sltools.transcript import Transcript
from sltools.view import View

RECORD = lessons.course() / "results" / "ablations.json"
STEP = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(1, 1, 1, 3, 4)  # (E, N, C, H, W): one edge


@pytest.fixture(scope="module")
def view() -> View:
    """What the server sees of three images of digits and of their labels."""
    source = data.load("digits")
    client, server = experiments.parties(
        ablations.models.for_images(source.train.images.shape, 5), "pool1"
    )
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


def test_labels_count_and_are_named_as_knowledge(view: View) -> None:
    usual, labelled = (_run(attack, view)[0] for attack in (UnSplit(), LabelledTargets()))
    assert not torch.equal(usual.inputs, labelled.inputs)
    assert {"labels", "own model"} <= set(labelled.knowledge)
    assert not {"labels", "own model"} & set(usual.knowledge)


def test_sigmoid_pixels_start_as_the_usual_ones_do() -> None:
    free = torch.tensor([0.5], requires_grad=True)
    pixel = ablations._pixels(free)
    pixel.backward()
    assert (pixel.item(), free.grad.item()) == (0.5, 1.0)


def test_painted_images_use_the_whole_range(view: View) -> None:
    clones = Ensemble([view.architecture.build(0), view.architecture.build(1)])
    images = ablations._Painted(clones, view, seed=3).paint()
    assert images.shape == (2, 3, 1, 28, 28)
    assert images.flatten(1).max(1).values.tolist() == [1.0, 1.0]


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
        patch.setattr(experiments, "training", lambda *_: (1, 192))
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


def test_only_those_sent_together_are_of_the_same_weights(sent: ablations.Target) -> None:
    source = data.load("digits")
    others = experiments.first_targets(source, 30).images[10:]
    with torch.no_grad():
        now = sent.session.client.front(others)
    assert torch.equal(sent.others[ablations.TOGETHER].payload, now)
    order = torch.randperm(192, generator=protocol.seeds.generator(3, "order"))
    first = source.train[:192].images[order[:64]][-20:]
    untrained = ablations.models.cut(ablations.models.mnist_net(3), "pool1")[0]
    with torch.no_grad():
        assert torch.equal(sent.others["sent at the start"].payload, untrained(first))


def test_settings_are_chosen_on_another_victim(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def attacked(attack: UnSplit, victim: int, further: str | None) -> list[dict[str, float]]:
        asked.append((victim, attack.tv, attack.restarts))
        return [{"raw_mse": abs(attack.tv - 0.5)}] * attack.restarts

    monkeypatch.setattr(ablations, "target", lambda dataset, cut, seed: seed)
    monkeypatch.setattr(ablations, "_attacked", attacked)
    found = ablations.try_idea("digits", "pool1", IDEAS["tv chosen"])
    assert asked[:3] == [(ablations.CHOOSING, tv, 3) for tv in (0.2, 0.5, 1.0)]
    assert asked[3:] == [(seed, 0.5, ablations.CLONES) for seed in ablations.VICTIMS]
    assert found["settings"]["tv"] == 0.5
    assert ablations.CHOOSING not in ablations.VICTIMS


def test_what_is_there_with_the_same_settings_is_not_run_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = []

    def try_idea(dataset: str, cut: str, idea: ablations.Idea) -> dict[str, Any]:
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append((dataset, cut, idea))
        tried = [ablations.asdict(attack) for attack in idea.attacks]
        return {"tried": tried, "settings": tried[0], "runs": []}

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


def test_a_foreign_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text('{"mine": 1}', encoding="utf-8")
    with pytest.raises(SltoolsError, match="is no record of"):
        ablations.read(path)


def test_the_table_compares_clone_by_clone() -> None:
    def record(*errors: float) -> dict[str, Any]:
        return {"runs": [{"raw_mse": error, "clone_accuracy": 0.5} for error in errors]}

    facts = {"places": {"digits pool1": {"as it is": record(1, 4, 2), "idea": record(2, 2, 2)}}}
    assert ablations.table(facts).splitlines()[-1] == (
        "| digits pool1 | idea | 2 [2, 2] | 1 [0.5, 2] | 1 of 3 | 50.0% [50.0%, 50.0%] |"
    )


def test_the_record_is_whole_and_of_these_ideas() -> None:
    facts = ablations.read(RECORD)
    assert facts["design"] == json.loads(json.dumps(ablations.DESIGN))
    assert list(facts["places"]) == [" ".join(place) for place in ablations.PLACES]
    for tried in facts["places"].values():
        assert list(tried) == list(IDEAS)
        for name, record in tried.items():
            assert record["tried"] == json.loads(json.dumps(ablations._tried(name)))
            assert record["settings"] in record["tried"]
            pairs = [(run["victim"], run["clone"]) for run in record["runs"]]
            assert pairs == [(v, c) for v in ablations.VICTIMS for c in range(ablations.CLONES)]
