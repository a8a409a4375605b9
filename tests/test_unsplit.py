"""UnSplit and its search: the paper's own figures, what it may know, and how it fails."""

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import Adam

from sltools import data, models, seeds
from sltools.attacks import InversionResult, KnownWeightsInversion, UnSplit, inversion, unsplit
from sltools.attacks.ensemble import Ensemble
from sltools.attacks.inversion import brightness, energy, total_variation
from sltools.errors import AttackError, NotObservable, SltoolsError
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View
from tests import golden

SHORT = UnSplit(steps=30, snapshots=3)

# The reference code (attacks.py, commit 4d972bf) on the formula-made victim, clone and image: cut,
# (main, input, model) iterations, first pixels, sum of squared pixels, feature loss, first weights.
PUBLISHED = [
    ("conv1", (1, 1, 0), 0.49900001, 195.216796875, 0.1223173663020134, 0.16829419),
    ("conv1", (1, 3, 0), 0.49700025, 193.65528869628906, 0.1215241476893425, 0.16829419),
    ("conv1", (2, 3, 2), 0.49400192, 191.33111572265625, 0.09677805006504059, 0.1683308),
    ("pool1", (1, 1, 0), 0.49900001, 195.216796875, 0.06548711657524109, 0.16829419),
    ("pool1", (1, 3, 0), 0.49700028, 193.6563720703125, 0.065000019967556, 0.16829419),
    ("pool1", (2, 3, 2), 0.49399686, 191.40174865722656, 0.05211023986339569, 0.17212489),
    ("conv2", (1, 1, 0), 0.49900001, 195.44879150390625, 1.498858094215393, 0.16829419),
    ("conv2", (1, 3, 0), 0.49703449, 194.42935180664062, 1.4901808500289917, 0.16829419),
    ("conv2", (2, 3, 2), 0.49407843, 192.9427032470703, 0.809175968170166, 0.16433053),
    ("pool2", (1, 1, 0), 0.49900001, 195.52877807617188, 0.7101004719734192, 0.16829419),
    ("pool2", (1, 3, 0), 0.49708873, 194.6703643798828, 0.7072928547859192, 0.16829419),
    ("pool2", (2, 3, 2), 0.49423653, 193.55722045898438, 0.40139052271842957, 0.16433497),
]


def test_the_priors_are_those_of_the_reference_code() -> None:
    one, two = golden.image(), golden.image_batch(2)
    assert total_variation(one).item() == pytest.approx(0.01601349003612995, rel=1e-5)
    assert total_variation(two).item() == pytest.approx(0.03224186226725578, rel=1e-5)
    assert energy(one).item() == pytest.approx(0.3702545166015625, rel=1e-5)
    assert energy(two).item() == pytest.approx(0.36996012926101685, rel=1e-5)
    assert total_variation(torch.stack([two, two])).shape == (2,)
    row = torch.tensor([0.0, 1.0, 1.0]).view(1, 1, 1, 3)
    assert total_variation(row) == total_variation(row.mT) == 0.5
    assert total_variation(row[..., :1]) == 0


@pytest.mark.parametrize(("cut", "iterations", "pixel", "squares", "loss", "weight"), PUBLISHED)
def test_the_published_schedule_is_exact(
    cut: str,
    iterations: tuple[int, int, int],
    pixel: float,
    squares: float,
    loss: float,
    weight: float,
) -> None:
    victim, _ = models.cut(golden.fill(models.mnist_net(), 0.0), cut)
    clone, _ = models.cut(golden.fill(models.mnist_net(), 1.0), cut)
    view = _view(victim, golden.image())
    [found] = UnSplit.published(*iterations).search(view, Ensemble([clone]))
    assert found.inputs.flatten()[0].item() == pytest.approx(pixel, abs=2e-7)
    assert found.inputs.square().sum().item() == pytest.approx(squares, rel=1e-6)
    feature = nn.functional.mse_loss(found.clone(found.inputs), view.smashed)
    assert feature.item() == pytest.approx(loss, rel=1e-5)
    assert found.clone.conv1.weight.flatten()[0].item() == pytest.approx(weight, abs=2e-7)


def test_the_published_schedule_carries_the_clone_from_image_to_image() -> None:
    victim, _ = models.cut(golden.fill(models.mnist_net(), 0.0), "pool1")
    clone, _ = models.cut(golden.fill(models.mnist_net(), 1.0), "pool1")
    images, attack = golden.image_batch(2), UnSplit.published(2, 3, 2)
    [both] = attack.search(_view(victim, images), Ensemble([clone]))
    [first] = attack.search(_view(victim, images[:1]), Ensemble([clone]))
    [second] = attack.search(_view(victim, images[1:]), Ensemble([first.clone]))
    torch.testing.assert_close(both.inputs, torch.cat([first.inputs, second.inputs]))
    torch.testing.assert_close(both.clone.state_dict(), second.clone.state_dict())


@pytest.mark.parametrize("cut", ["conv1", "relu1", "pool1", "conv2", "pool2", "fc1", "fc2"])
def test_no_clone_starts_at_the_victims_weights(cut: str, monkeypatch: pytest.MonkeyPatch) -> None:
    front, _ = models.cut(models.mnist_net(seed=5), cut)
    started: list[list[nn.Sequential]] = []
    monkeypatch.setattr(inversion.InputSearch, "search", _spy(started))
    replace(SHORT, seed=5, restarts=3).runs(_view(front, torch.rand(2, 1, 28, 28)))
    assert len(started[0]) == 3
    for clone in started[0]:
        for stolen, true in zip(clone.parameters(), front.parameters(), strict=True):
            assert not torch.equal(stolen, true)
    assert not torch.equal(*(next(clone.parameters()) for clone in started[0][:2]))


def test_restarts_are_independent_runs() -> None:
    runs = replace(SHORT, restarts=3, seed=2).runs(_view(_front(), _images(3)))
    assert not torch.allclose(runs[0].inputs, runs[1].inputs, atol=1e-3)
    assert len({run.objective for run in runs}) == 3


def test_the_least_objective_is_kept_and_never_one_that_diverged(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = _view(_front(), _images(2))
    run = SHORT(view)
    pairs = [(math.nan, 0.0), (0.5, 0.1), (0.4, 0.3)]  # objective, feature loss
    runs = [replace(run, objective=total, feature_loss=feature) for total, feature in pairs]
    monkeypatch.setattr(UnSplit, "runs", lambda self, view, **_: runs)
    assert UnSplit()(view) is runs[2]


def _explained(found: InversionResult, view: View) -> float:
    """The feature loss, recomputed from what the result holds."""
    z = view.smashed
    with torch.no_grad():
        return ((found.clone(found.inputs) - z).square().mean() / z.var(correction=0)).item()


@pytest.mark.parametrize("interrupted_at", [None, 5])
def test_losses_are_those_of_the_network_and_images_as_returned(
    monkeypatch: pytest.MonkeyPatch, interrupted_at: int | None
) -> None:
    view = _view(_front(), _images(3))
    if interrupted_at:
        step, calls = inversion._step_optimizers, 0

        def interrupted(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == interrupted_at:
                raise KeyboardInterrupt
            step(*arguments)

        monkeypatch.setattr(inversion, "_step_optimizers", interrupted)
    found = UnSplit(steps=24, leak=0.5)(view)  # shorter than the time between two looks at the leak
    assert found.interrupted == bool(interrupted_at)
    assert found.feature_loss == pytest.approx(_explained(found, view), rel=1e-4)
    x, settings = found.inputs, found.settings
    prior = settings["tv"] * total_variation(x) + settings["l1"] * brightness(x)
    assert found.objective == pytest.approx(_explained(found, view) + prior.item(), rel=1e-4)
    assert x.min() >= 0 and x.max() <= 1
    assert found.snapshots.min() >= 0 and found.snapshots.max() <= 1


def test_the_last_steps_settle_without_leak_or_rescaling(monkeypatch: pytest.MonkeyPatch) -> None:
    slopes: list[float] = []
    rescaled: list[int] = []
    leak, expose = Ensemble.set_leak, unsplit._rescale_contrast

    def watched_leak(self: Ensemble, slope: float) -> None:
        slopes.append(slope)
        leak(self, slope)

    def watched_expose(*arguments: Any) -> None:
        rescaled.append(len(slopes))
        expose(*arguments)

    monkeypatch.setattr(Ensemble, "set_leak", watched_leak)
    monkeypatch.setattr(unsplit, "_rescale_contrast", watched_expose)
    UnSplit(steps=200)(_view(_front(), _images(2)))
    assert slopes == pytest.approx([0.1, 0.075, 0.05, 0.025, 0, 0, 0, 0, 0])  # each 25 steps, end
    assert rescaled == [2, 3, 4, 5, 6, 7, 8]  # not at the start; step 175 is before 95%
    rescaled.clear()
    slopes.clear()
    monkeypatch.setattr(unsplit, "RESCALE_UNTIL", 0.5)
    UnSplit(steps=200)(_view(_front(), _images(2)))
    assert rescaled == [2, 3, 4]


def test_total_variation_fades_to_its_end_and_the_result_is_judged_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weights: list[float] = []
    losses = UnSplit._losses

    def watched(self: UnSplit, *arguments: Any) -> Any:
        weights.append(arguments[-1])
        return losses(self, *arguments)

    monkeypatch.setattr(UnSplit, "_losses", watched)
    view = _view(_front(), _images(2))
    found = replace(SHORT, steps=10, tv=0.5, tv_end=0.05)(view)
    falling, settled = weights[:8], weights[8:]
    factors = [after / before for before, after in itertools.pairwise([*falling, settled[0]])]
    assert weights[0] == 0.5 and factors == pytest.approx([0.1 ** (1 / 8)] * 8)
    assert settled == pytest.approx([0.05] * 3)  # the last is of the result
    x = found.inputs
    prior = 0.05 * total_variation(x) + SHORT.l1 * brightness(x)
    assert found.objective == pytest.approx(_explained(found, view) + prior.item(), rel=1e-4)


def test_an_end_that_is_the_beginning_changes_nothing() -> None:
    view = _view(_front(), _images(2))
    same, plain = replace(SHORT, tv_end=SHORT.tv)(view), SHORT(view)
    assert torch.equal(same.inputs, plain.inputs) and same.objective == plain.objective


def test_restarts_stall_one_by_one_and_the_search_waits_for_the_last() -> None:
    stall = inversion._EarlyStopping(100)
    assert not stall.should_stop(0, torch.tensor([1.0, 1.0]))
    assert not stall.should_stop(100, torch.tensor([1.0, 0.5]))
    assert not stall.should_stop(150, torch.tensor([math.nan, 0.4]))
    assert not stall.should_stop(200, torch.tensor([1.0, 0.4]))
    assert stall.should_stop(250, torch.tensor([1.0, 0.4]))


def test_groups_and_exposure_exclude_each_other() -> None:
    with pytest.raises(AttackError, match="exposure=None"):
        UnSplit(group=2)


def test_the_attack_is_deterministic_and_leaves_global_randomness_alone() -> None:
    view = _view(_front(), _images(3))
    state = torch.get_rng_state()
    first, second, other = SHORT(view), SHORT(view), replace(SHORT, seed=1)(view)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.inputs, second.inputs)
    assert not torch.equal(first.inputs, other.inputs)


def test_it_reads_smashed_data_and_architecture_only() -> None:
    assert SHORT(_view(_front(), _images(2))).knowledge == ("client architecture", "smashed")


def test_it_recovers_images_that_the_blank_image_does_not_explain() -> None:
    images = _images(4)
    found = UnSplit(steps=400)(_view(_front(), images))
    assert (found.inputs - images).square().mean() < 0.25 * images.square().mean()
    assert found.losses["feature"][-1] < 0.1 * found.losses["feature"][0]


def test_known_weights_need_the_grant_and_do_not_move_the_network() -> None:
    front, images = _front(), _images(2)
    view = _view(front, images)
    with pytest.raises(NotObservable, match="grant"):
        KnownWeightsInversion(steps=5)(view)
    granted = View("server", view._messages, view._client, grants={"client_model": front})
    found = KnownWeightsInversion(steps=300)(granted)
    torch.testing.assert_close(found.clone.state_dict(), front.state_dict())
    assert (found.inputs - images).square().mean() < 0.05 * images.square().mean()
    assert "client model (granted)" in found.knowledge


@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_targets_and_groups(count: int) -> None:
    found = replace(SHORT, group=2, steps=4, exposure=None)(_view(_front(), _images(count)))
    assert found.inputs.shape == (count, 1, 28, 28)
    assert found.inputs.amin() >= 0 and found.inputs.amax() <= 1
    assert (found.inputs != 0.5).flatten(1).any(1).all(), "a target was forgotten"


def test_unbounded_pixels_leave_the_range() -> None:
    attack = UnSplit(steps=60, bounded=False, input_lr=0.1, tv=0, l1=0)
    found = attack(_view(_front(), _images(2)))
    assert found.inputs.amin() < 0 or found.inputs.amax() > 1


def test_bounded_pixels_stay_in_the_range_at_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Tensor] = []
    prepare = UnSplit._before_step

    def watched(self: UnSplit, step: int, inputs: Tensor, networks: Ensemble) -> None:
        seen.append(inputs.clone())
        prepare(self, step, inputs, networks)

    monkeypatch.setattr(UnSplit, "_before_step", watched)
    UnSplit(steps=60, input_lr=0.1, tv=0, l1=0)(_view(_front(), _images(2)))
    assert min(images.min().item() for images in seen) == 0
    assert max(images.max().item() for images in seen) == 1


def test_patience_stops_early() -> None:
    view = _view(_front(), _images(2))
    hopeless = UnSplit(steps=1000, input_lr=0.0, clone_lr=0.0, patience=50)
    assert hopeless(view).snapshot_steps[-1] < 200
    assert replace(hopeless, patience=None, steps=200)(view).snapshot_steps[-1] == 200


def test_losses_and_snapshots_tell_the_story() -> None:
    found = UnSplit(steps=40, snapshots=4)(_view(_front(), _images(2)))
    assert found.snapshot_steps.tolist() == [0, 10, 20, 30, 40]
    assert found.snapshots.shape == (5, 2, 1, 28, 28)
    assert torch.equal(found.snapshots[0], torch.full((2, 1, 28, 28), 0.5))
    assert torch.equal(found.snapshots[-1], found.inputs)
    assert len(found.loss_steps) == 40
    settings = found.settings
    weighted = (
        found.losses["feature"]
        + settings["tv"] * found.losses["tv"]
        + settings["l2"] * found.losses["l2"]
        + settings["l1"] * found.losses["l1"]
    )
    torch.testing.assert_close(found.losses["total"], weighted)


def test_interrupting_keeps_the_partial_result(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0
    step = inversion._step_optimizers

    def interrupted(*arguments: object) -> None:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise KeyboardInterrupt
        step(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(inversion, "_step_optimizers", interrupted)
    found = UnSplit(steps=1000)(_view(_front(), _images(2)))
    assert found.interrupted
    assert found.snapshot_steps[-1] == 20
    assert (found.inputs != 0.5).any()


def test_a_result_can_be_saved_and_reopened(tmp_path: Path) -> None:
    found = SHORT(_view(_front(), _images(2)))
    again = InversionResult.open(found.save(tmp_path / "result"))
    for name in ("inputs", "loss_steps", "snapshots", "snapshot_steps"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    torch.testing.assert_close(again.clone.state_dict(), found.clone.state_dict())
    assert again.losses.keys() == found.losses.keys()
    assert (again.settings, again.knowledge, again.versions) == (
        found.settings,
        found.knowledge,
        found.versions,
    )
    with pytest.raises(SltoolsError, match="not empty"):
        found.save(tmp_path / "result")
    with pytest.raises(SltoolsError, match="does not exist"):
        InversionResult.open(tmp_path / "nowhere")


def test_bad_observations_and_settings_are_refused() -> None:
    view = _view(_front(), _images(2))
    poisoned = Message(0, 0, "smashed", torch.full((2, 8, 12, 12), float("nan")), "inference")
    with pytest.raises(AttackError, match="NaN"):
        SHORT(View("server", [poisoned], view._client))
    with pytest.raises(AttackError, match="no targets"):
        nothing = Message(0, 0, "smashed", torch.zeros(0, 8, 12, 12), "inference")
        SHORT(View("server", [nothing], view._client))
    with pytest.raises(AttackError, match="float32, not torch.int64"):
        whole = Message(0, 0, "smashed", torch.zeros(2, 8, 12, 12, dtype=torch.long), "inference")
        SHORT(View("server", [whole], view._client))
    with pytest.raises(AttackError, match="input_shape"):
        SHORT(View("server", view._messages, Architecture.of(_front())))
    with pytest.raises(NotObservable, match="smashed"):
        SHORT(View("server", [], view._client))
    with pytest.raises(NotObservable, match="architecture"):
        SHORT(View("server", view._messages))
    with pytest.raises(AttackError, match="does not fit"):
        SHORT(View("server", view._messages, Architecture.of(_front("pool2"), (1, 28, 28))))
    for settings in ({"steps": 0}, {"group": 0}, {"restarts": 0}, {"alternate": (0, 0)}):
        with pytest.raises(AttackError):
            UnSplit(**settings)  # type: ignore[arg-type]


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu() -> None:
    view = _view(_front(), _images(3))
    cpu, gpu = SHORT(view), replace(SHORT, device="cuda")(view)
    assert gpu.device.startswith("cuda")
    torch.testing.assert_close(gpu.inputs.cpu(), cpu.inputs, atol=5e-3, rtol=0)


def test_an_ensemble_equals_its_members() -> None:
    networks = [Architecture.of(_front()).build(seed) for seed in range(3)]
    ensemble, inputs = Ensemble(networks), torch.rand(3, 2, 1, 28, 28)
    outputs = ensemble(inputs)
    for index, network in enumerate(networks):
        torch.testing.assert_close(outputs[index], network(inputs[index]))
        torch.testing.assert_close(ensemble.member(index).state_dict(), network.state_dict())


def _front(cut: str = "pool1") -> nn.Sequential:
    return models.cut(models.mnist_net(seed=3), cut)[0]


def _images(count: int) -> Tensor:
    return data.load("digits").test.images[:count]


def _view(front: nn.Sequential, images: Tensor) -> View:
    with torch.no_grad():
        message = Message(0, 0, "smashed", front(images), "inference")
    return View("server", [message], Architecture.of(front, images.shape[1:]))


def _spy(started: list[list[nn.Sequential]]):  # type: ignore[no-untyped-def]
    def search(self: UnSplit, view: View, networks: Ensemble) -> list[InversionResult]:
        started.append([networks.member(index) for index in range(networks.size)])
        return []

    return search


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 2.5}, {"steps": True}, {"steps": 0}, {"steps": None}, {"snapshots": None},
        {"group": 0}, {"patience": 1.5}, {"input_lr": float("nan")}, {"tv": float("inf")},
        {"tv_end": -1.0}, {"tv_end": 0}, {"tv": 0.0, "tv_end": 0.1}, {"tv_end": float("nan")},
        {"l1": -0.1}, {"l2": "much"}, {"clone_lr": -1e-3}, {"restarts": 1.5},
        {"leak": -1}, {"exposure": 0}, {"exposure": 1.5},
        {"alternate": (1, 2, 3)}, {"alternate": (0.5, 1)}, {"alternate": (0, 0)}, {"alternate": 3},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(AttackError, match=next(iter(settings))):
        UnSplit(**settings)


def test_constant_smashed_data_are_attacked_without_dividing_by_their_variance() -> None:
    front = _front()
    for weight in front.parameters():
        weight.data.zero_()
    view = _view(front, _images(2))
    assert view.smashed.var() == 0
    found = UnSplit(steps=20)(view)
    assert found.inputs.isfinite().all() and math.isfinite(found.feature_loss)


def _by_hand(view: View, attack: UnSplit, clone: nn.Sequential, rows: slice) -> Tensor:
    """The joint search, written out with the ordinary Adam."""
    z = view.smashed[rows]
    x = torch.full((len(z), 1, 28, 28), 0.5, requires_grad=True)
    optimizers = [Adam([x], attack.input_lr), Adam(clone.parameters(), attack.clone_lr)]
    for step in range(attack.steps):
        loss = (clone(x) - z).square().mean() / z.var(correction=0)
        loss = loss + attack.tv * total_variation(x) + attack.l1 * brightness(x)
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        for optimizer in optimizers:
            rate = (1 + math.cos(math.pi * step / attack.steps)) / 2
            optimizer.param_groups[0]["lr"] = optimizer.defaults["lr"] * rate
            optimizer.step()
        x.data.clamp_(0, 1)
    return x.detach()


@pytest.mark.parametrize("at", ["pool1", "pool2", "fc1"])  # gradients come in several layouts
def test_the_search_is_the_plain_loop_for_every_clone_and_group(at: str) -> None:
    view = _view(_front(at), _images(4))
    attack = UnSplit(steps=4, group=2, restarts=2, exposure=None, leak=0.0)
    for number, found in enumerate(attack.runs(view)):
        clone = view.architecture.build(0, f"clone {number}")
        parts = [_by_hand(view, attack, clone, rows) for rows in (slice(2), slice(2, 4))]
        apart = (found.inputs - torch.cat(parts)).abs()
        # Early steps of Adam are signs: a gradient near 0 turns rounding into a step of a pixel,
        # and that, after some steps more, into other images (some processors do at pool1).
        assert apart.median() < 1e-5 and apart.max() < 0.2


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dense", [False, True])
def test_exposure_keeps_what_the_first_layer_computes(dense: bool, channels: int) -> None:
    size = channels * 28 * 28
    layers = [nn.Flatten(), nn.Linear(size, 5)] if dense else [nn.Conv2d(channels, 4, 3)]
    clones = Ensemble([nn.Sequential(*layers)] * 2)
    light = torch.tensor([0.3, 0.6, 0.45])[:channels].view(-1, 1, 1)
    images = torch.stack([light * _images(3), (1 - light) * _images(3)])
    before, old = clones(images), images.clone()
    unsplit._rescale_contrast(images, clones, 0.99)
    torch.testing.assert_close(clones(images), before)
    assert not torch.allclose(images, old, atol=0.1)
    for channel in images.transpose(1, 2).flatten(0, 1):
        assert (channel > 1).float().mean() < 0.011 and channel.max() >= 1


def test_a_client_without_weights_is_one_sentence() -> None:
    with pytest.raises(AttackError, match="nothing to steal"):
        UnSplit(steps=2)(_view(nn.Sequential(nn.Flatten()), _images(2)))


def _coloured(*layers: nn.Module) -> tuple[Ensemble, Tensor]:
    """Two networks, and for each six random images in a yellowish light."""
    images = torch.rand(2, 6, 3, 8, 8, generator=seeds.generator(0, "photographs"))
    light = torch.tensor([0.7, 0.4, 0.3]).view(3, 1, 1)
    network = nn.Sequential(*layers)
    for weight in network.parameters():
        weight.data.normal_(generator=seeds.generator(0, "weights"))
    return Ensemble([network, network]), 0.2 + images * light


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Conv2d(3, 4, 3)],
        [nn.Flatten(), nn.Linear(3 * 8 * 8, 5)],
        [nn.Conv2d(3, 4, 3, padding=1)],
    ],
)
def test_recolouring_keeps_what_the_first_layer_computes(layers: list[nn.Module]) -> None:
    clones, images = _coloured(*layers)
    before, old = clones(images), images.clone()
    unsplit._recolour(images, clones, 0.95)
    torch.testing.assert_close(clones(images), before, atol=1e-4, rtol=1e-3)
    assert not torch.allclose(images, old, atol=0.1)
    for found in images:
        assert 0.04 < (found > 1).float().mean() < 0.06


def test_recolouring_leaves_black_images_and_other_first_layers_alone() -> None:
    clones, images = _coloured(nn.Tanh(), nn.Conv2d(3, 4, 3))
    old = images.clone()
    unsplit._recolour(images, clones, 0.95)
    assert torch.equal(images, old)
    clones, _ = _coloured(nn.Conv2d(3, 4, 3))
    black = torch.full((2, 6, 3, 8, 8), 0.1)
    unsplit._recolour(black, clones, 0.95)
    assert torch.equal(black, torch.full_like(black, 0.1))


def test_photographs_are_recoloured_and_others_exposed(monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    monkeypatch.setattr(unsplit, "_rescale_contrast", lambda *_: steps.append("exposed"))
    monkeypatch.setattr(unsplit, "_recolour", lambda *_: steps.append("recoloured"))
    front = nn.Sequential(nn.Conv2d(3, 2, 3))
    view = _view(front, torch.rand(2, 3, 8, 8, generator=seeds.generator(0, "colours")))
    replace(SHORT, steps=100)(view)
    assert steps == ["exposed"] * 3
    steps.clear()
    replace(SHORT, steps=100, photographs=True)(view)
    assert steps == ["recoloured"] * 4  # the last in the end


def test_photographs_have_three_channels_and_an_exposure() -> None:
    with pytest.raises(AttackError, match="needs one"):
        replace(SHORT, photographs=True, exposure=None)
    with pytest.raises(AttackError, match=r"three channels.*not \(1, 28, 28\)"):
        replace(SHORT, photographs=True)(_view(_front(), _images(2)))


def test_exposure_leaves_black_images_and_other_first_layers_alone() -> None:
    clones = Ensemble([_front("conv1")])
    before = [weight.clone() for weight in clones.weights]
    for dark in (torch.zeros(1, 2, 1, 28, 28), -0.5 * _images(2)[None]):
        kept = dark.clone()
        unsplit._rescale_contrast(dark, clones, 0.99)
        assert torch.equal(dark, kept)
        assert all(map(torch.equal, clones.weights, before))
    dim = 0.5 * _images(2)[None]
    unsplit._rescale_contrast(dim, Ensemble([nn.Sequential(nn.Tanh(), nn.Conv2d(1, 2, 3))]), 0.99)
    assert torch.equal(dim, 0.5 * _images(2)[None])


def test_dense_layers_that_do_not_meet_all_pixels_are_left_alone() -> None:
    by_row = nn.Sequential(nn.Linear(28, 5), nn.Flatten(), nn.Linear(140, 3))
    by_channel = nn.Sequential(nn.Flatten(2), nn.Linear(784, 3))
    dense = nn.Sequential(nn.Flatten(), nn.Linear(784, 3))
    assert Ensemble([by_row]).first_layer() is None
    assert Ensemble([by_channel]).first_layer() is None
    assert Ensemble([dense]).first_layer() is not None
    assert Ensemble([nn.Sequential(nn.Conv2d(2, 4, 3, groups=2))]).first_layer() is None
    found = replace(SHORT, steps=60)(_view(by_row, _images(2)))
    assert found.inputs.isfinite().all()


@pytest.mark.parametrize("attack", [SHORT, replace(SHORT, restarts=2)])
def test_a_search_that_diverges_from_every_start_says_so(attack: UnSplit) -> None:
    view = _view(_front(), _images(2))
    with pytest.raises(AttackError, match="diverged"):
        replace(attack, clone_lr=1e38, exposure=None)(view)


def test_each_restart_has_its_own_snapshots() -> None:
    one, other = replace(SHORT, restarts=2).runs(_view(_front(), _images(2)))
    assert one.snapshots.shape == other.snapshots.shape == (4, 2, 1, 28, 28)
    for run in (one, other):
        assert torch.equal(run.snapshots[-1], run.inputs)
        memory = run.snapshots.untyped_storage().nbytes()
        assert memory == run.snapshots.nbytes, "who keeps one restart keeps no other"


def test_exposure_restores_the_contrast_that_priors_take() -> None:
    view = _view(_front(), _images(3))
    strong = UnSplit(steps=400, tv=3.0)
    held, fading = strong(view), replace(strong, exposure=None)(view)
    assert fading.inputs.max() < 0.9 < held.inputs.max()


def test_a_leak_wakes_units_that_are_off_for_every_image() -> None:
    front = _front("relu1")
    front[0].bias.data[1] = -50.0  # the second unit is off whatever it sees
    clones = Ensemble([front])
    images = _images(2)[None]

    def reached() -> Tensor:
        (gradient,) = torch.autograd.grad(clones(images).sum(), [clones.weights[1]])
        return gradient[0, 1].abs()

    assert reached() == 0
    clones.set_leak(0.1)
    assert reached() > 0
    clones.set_leak(0.0)
    torch.testing.assert_close(clones(images)[0], front(images[0]))
    assert isinstance(clones.member(0)[1], nn.ReLU)


@pytest.mark.parametrize("turns", [None, (1, 1)])
def test_chunks_change_nothing_but_the_memory(
    monkeypatch: pytest.MonkeyPatch, turns: tuple[int, int] | None
) -> None:
    view = _view(_front("pool2"), _images(7))
    attack = UnSplit(steps=8, restarts=2, alternate=turns)
    whole = attack.runs(view)
    monkeypatch.setattr(inversion, "CHUNK", {"cpu": 5})  # 2 images for each of 2 networks
    for found, expected in zip(attack.runs(view), whole, strict=True):
        apart = (found.inputs - expected.inputs).abs()
        assert apart.median() < 1e-5 and apart.max() < 0.1
        assert found.objective == pytest.approx(expected.objective, rel=1e-3)


UNWEIGHTED = {
    "batch norm": lambda: nn.BatchNorm2d(4, affine=False),
    "instance norm": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
    "batch norm of rows": lambda: nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(4, affine=False)),
}


def _normalised(layer: nn.Module) -> nn.Sequential:
    """A client without any bias whose normalisation has the statistics of a training."""
    front = nn.Sequential(nn.Conv2d(1, 4, 5, bias=False), layer, nn.ReLU())
    with torch.no_grad():
        for _ in range(50):
            front(torch.rand(20, 1, 12, 12))
    return front.eval()


@pytest.mark.parametrize("kind", UNWEIGHTED)
def test_an_ensemble_normalises_as_its_members_do(kind: str) -> None:
    fronts = [_normalised(UNWEIGHTED[kind]()) for _ in range(2)]
    clones, images = Ensemble(fronts), torch.rand(2, 3, 1, 12, 12)
    for number, front in enumerate(fronts):
        torch.testing.assert_close(clones(images)[number], front(images[number]))
        torch.testing.assert_close(clones.member(number).state_dict(), front.state_dict())


@pytest.mark.parametrize("kind", UNWEIGHTED)
def test_a_mean_that_no_weight_can_stand_in_for_is_searched_for(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = _view(_normalised(UNWEIGHTED[kind]()), _images(6)[..., ::2, ::2])
    attack = UnSplit(steps=200, clone_lr=1e-2)
    found = attack(view)
    means = [value for name, value in found.clone.state_dict().items() if "running_mean" in name]
    assert means[0].abs().max() > 0.1
    others = property(lambda self: [w for n, w in self._weights.items() if "mean" not in n])
    monkeypatch.setattr(Ensemble, "weights", others)
    assert found.feature_loss < 0.85 * attack(view).feature_loss


def test_normalisation_with_weights_of_its_own_keeps_its_statistics() -> None:
    front = _normalised(nn.BatchNorm2d(4))
    clone = SHORT(_view(front, torch.rand(2, 1, 12, 12))).clone
    assert clone[1].running_mean.abs().max() == 0 and clone[1].weight.std() > 0
