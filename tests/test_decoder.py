"""Inversion by a trained decoder: what it is allowed to know, and what it gets."""

import math
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sltools import data, models
from sltools.attacks import DecoderInversion, InversionResult, decoder, networks
from sltools.defenses import GaussianNoise
from sltools.errors import AttackError, NotObservable
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View
from tests.parties import weights

SHORT = DecoderInversion(steps=12, batch=8, snapshots=3)


def _front(at: str = "pool1", seed: int = 3) -> nn.Sequential:
    return models.cut(models.mnist_net(seed=seed), at)[0]


def _view(front: nn.Sequential, images: Tensor, *, granted: bool = True, defense: Any = None):  # type: ignore[no-untyped-def]
    with torch.no_grad():
        sent = front(images)
    message = Message(0, 0, "smashed", defense("smashed", sent) if defense else sent, "inference")
    grants = {"client_model": front} if granted else None
    return View("server", [message], Architecture.of(front, images.shape[1:]), grants=grants)


def _images(count: int) -> Tensor:
    return data.load("digits").test.images[:count]


def _public(count: int = 200) -> Tensor:
    return data.load("digits").train.images[:count]


def test_it_beats_the_baselines() -> None:
    images, public = _images(50), _public(700)
    found = DecoderInversion(steps=100)(_view(_front(), images), public)
    error = (found.inputs - images).square().mean()
    assert error < 0.5 * (public.mean(0) - images).square().mean()
    assert error < 0.2 * images.square().mean()
    assert found.losses["decoder"][-1] < found.losses["decoder"][0]


def test_smashed_data_of_another_client_are_not_decoded() -> None:
    images, public = _images(50), _public()
    found = DecoderInversion(steps=60)(_view(_front(), images), public, front=_front(seed=8))
    assert (found.inputs - images).square().mean() > (public.mean(0) - images).square().mean()


def test_the_client_model_must_be_granted() -> None:
    with pytest.raises(NotObservable, match="grant"):
        SHORT(_view(_front(), _images(2), granted=False), _public())


def test_a_stolen_front_needs_no_grant_and_is_not_moved() -> None:
    front = _front()
    before = weights(front)
    found = SHORT(_view(front, _images(2), granted=False), _public(), front=front)
    assert found.knowledge == ("smashed", "public images", "stolen client")
    assert all(map(torch.equal, before, weights(front)))
    assert found.clone is not front
    granted = SHORT(_view(front, _images(2)), _public())
    assert granted.knowledge == ("client model (granted)", "smashed", "public images")
    assert torch.equal(granted.inputs, found.inputs)


def test_an_adaptive_attacker_trains_on_defended_data() -> None:
    kinds: list[str] = []

    def doubled(kind: str, tensor: Tensor) -> Tensor:
        kinds.append(kind)
        return 5 * tensor + 1

    images = _images(30)
    view = _view(_front(), images, defense=doubled)
    kinds.clear()
    attack = DecoderInversion(steps=50)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a defence is not taken for another range of inputs
        naive, adaptive = attack(view, _public()), attack(view, _public(), defense=doubled)
    assert kinds == ["smashed"] * 50
    errors = [(found.inputs - images).square().mean() for found in (naive, adaptive)]
    assert errors[1] < 0.7 * errors[0]
    assert "defence" in adaptive.knowledge and "defence" not in naive.knowledge


def test_the_defences_of_the_library_fit() -> None:
    found = SHORT(_view(_front(), _images(2)), _public(), defense=GaussianNoise(0.5))
    assert found.inputs.isfinite().all()


@pytest.mark.parametrize("at", ["conv1", "pool2", "fc1"])
@pytest.mark.parametrize("count", [1, 7])
def test_any_cut_and_number_of_targets(
    at: str, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    view = _view(_front(at), torch.rand(count, 1, 28, 28))
    whole = SHORT(view, _public()).inputs
    assert whole.shape == (count, 1, 28, 28)
    assert whole.min() >= 0 and whole.max() <= 1
    monkeypatch.setattr(networks, "CHUNK", 2)
    torch.testing.assert_close(SHORT(view, _public()).inputs, whole)


def test_it_is_deterministic_and_leaves_global_randomness_alone() -> None:
    view, public = _view(_front(), _images(2)), _public()
    state = torch.get_rng_state()
    first, again = SHORT(view, public), SHORT(view, public)
    other = replace(SHORT, seed=1)(view, public)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)


def test_losses_and_snapshots_tell_the_story() -> None:
    found = SHORT(_view(_front(), _images(2)), _public())
    assert found.snapshot_steps.tolist() == [0, 4, 8, 12]
    assert found.snapshots.shape == (4, 2, 1, 28, 28)
    assert torch.equal(found.snapshots[-1], found.inputs)
    assert len(found.losses["decoder"]) == len(found.loss_steps) == 12


def test_the_feature_loss_is_that_of_what_is_returned() -> None:
    view = _view(_front(), _images(3))
    found, z = SHORT(view, _public()), view.smashed
    with torch.no_grad():
        expected = (found.clone(found.inputs) - z).square().mean() / z.var(correction=0)
    assert found.feature_loss == found.objective == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("at_step", [1, 6])
def test_interrupting_keeps_the_partial_result(
    monkeypatch: pytest.MonkeyPatch, at_step: int
) -> None:
    calls = 0
    entropy = decoder.binary_cross_entropy

    def interrupted(*arguments: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == at_step:
            raise KeyboardInterrupt
        return entropy(*arguments)

    monkeypatch.setattr(decoder, "binary_cross_entropy", interrupted)
    found = SHORT(_view(_front(), _images(2)), _public())
    assert found.interrupted and found.snapshot_steps[-1] == at_step - 1
    assert found.inputs.isfinite().all()


READ = """
import sys
from sltools.attacks import DecoderInversion, InversionResult
found = InversionResult.open(sys.argv[1])
print(found.inputs.double().sum().item(), found.clone(found.inputs).double().sum().item())
"""


def test_a_view_and_a_result_open_in_another_process(tmp_path: Path) -> None:
    view = _view(_front(), _images(3))
    found = SHORT(view, _public())
    reopened = SHORT(View.open(view.save(tmp_path / "view")), _public())
    assert torch.equal(reopened.inputs, found.inputs)
    run = [sys.executable, "-c", READ, str(found.save(tmp_path / "result"))]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    with torch.no_grad():
        sums = [found.inputs.double().sum(), found.clone(found.inputs).double().sum()]
    assert [float(value) for value in printed] == pytest.approx([s.item() for s in sums], rel=1e-6)
    assert InversionResult.open(tmp_path / "result").knowledge == found.knowledge


@pytest.mark.parametrize(
    "settings",
    [{"steps": 0}, {"batch": 2.5}, {"snapshots": True}, {"lr": math.nan}, {"lr": "fast"}],
    ids=str,
)
def test_settings_that_cannot_be_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(AttackError, match=next(iter(settings))):
        DecoderInversion(**settings)


def test_data_that_do_not_fit_are_refused() -> None:
    view = _view(_front(), _images(2))
    with pytest.raises(AttackError, match="public images"):
        SHORT(view, 255 * _public())
    with pytest.raises(AttackError, match="public images"):
        SHORT(view, torch.rand(4, 3, 28, 28))
    with pytest.raises(AttackError, match="this cut"):
        SHORT(view, _public(), front=_front("pool2"))
    broken = View("server", [Message(0, 0, "smashed", torch.full((2, 8, 12, 12), math.nan))])
    with pytest.raises(AttackError, match="NaN"):
        SHORT(broken, _public(), front=_front())


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu() -> None:
    view = _view(_front(), _images(3))
    cpu, gpu = SHORT(view, _public()), replace(SHORT, device="cuda")(view, _public())
    assert gpu.device.startswith("cuda")
    torch.testing.assert_close(gpu.inputs.cpu(), cpu.inputs, atol=5e-3, rtol=0)
