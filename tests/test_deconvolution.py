"""Blind deconvolution: exact for any convolution it is for, and honest about the others."""

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sltools import data, metrics, seeds
from sltools.attacks import BlindDeconvolution, UnSplit, deconvolution
from sltools.errors import AttackError, NotObservable
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View


def _layer(*shape: int, seed: int = 0, **options: Any) -> nn.Conv2d:
    with seeds.scope(seed, "a convolution"):
        return nn.Conv2d(shape[0], shape[1], tuple(shape[2:]), **options)


def _view(*layers: nn.Module, images: Tensor) -> View:
    front = nn.Sequential(*layers)
    with torch.no_grad():
        message = Message(0, 0, "smashed", front(images), "inference")
    return View("server", [message], Architecture.of(front, images.shape[1:]))


def _images(seed: int, count: int, channels: int = 1, size: tuple[int, int] = (12, 11)) -> Tensor:
    """Black images (count, channels, H, W) with white rectangles and a little grey in them."""
    draw = seeds.generator(seed, "images")
    images = 0.2 * torch.rand(count, channels, *size, generator=draw)
    images[:, :, 2:5, 3:6] = 1.0
    return images


@settings(deadline=None, max_examples=15)
@given(
    seed=st.integers(0, 100),
    count=st.integers(2, 6),
    kernel=st.sampled_from([(2, 2), (3, 2), (1, 3), (3, 3)]),
    filters=st.integers(6, 12),
    padding=st.sampled_from([0, 1]),
    bias=st.booleans(),
)
def test_one_channel_comes_back_exactly_from_any_convolution(
    seed: int, count: int, kernel: tuple[int, int], filters: int, padding: int, bias: bool
) -> None:
    images = _images(seed, count)
    layer = _layer(1, filters, *kernel, seed=seed, padding=padding, bias=bias)
    found = BlindDeconvolution()(_view(layer, images=images))
    assert metrics.affine_align(found.inputs, images).mse.max() < 1e-6
    assert metrics.mse(found.inputs, images).max() < 1e-3, "the exposure is a guess"
    assert found.feature_loss < 1e-6
    others = _images(seed + 1000, 3)  # not in the transcript
    expected = layer(others)
    assert (found.clone(others) - expected).square().mean() < 0.01 * expected.var()


def test_real_digits_and_the_layer_come_back_far_better_than_by_a_search() -> None:
    images, layer = data.load("digits").test.images[:5], _layer(1, 8, 5, 5)
    view = _view(layer, images=images)
    found, searched = BlindDeconvolution()(view), UnSplit(steps=100)(view)
    errors = metrics.mse(found.inputs, images)
    assert errors.max() < 1e-3 and errors.max() < 0.01 * metrics.mse(searched.inputs, images).min()
    torch.testing.assert_close(found.clone[0].weight, layer.weight, atol=0.01, rtol=0)
    assert found.knowledge == ("client architecture", "smashed")
    assert found.attack == "BlindDeconvolution" and not found.losses


def test_photographs_come_back_up_to_a_mixture_of_their_colours() -> None:
    images = _images(0, 12, channels=3, size=(9, 8))
    layer = _layer(3, 30, 3, 3, padding=1)
    found = BlindDeconvolution()(_view(layer, images=images))
    assert found.feature_loss < 0.05  # pixels beyond [0, 1] are cut off
    seen, truth = (x.transpose(0, 1).flatten(1).T.double() for x in (found.inputs, images))
    inside = ((seen > 0) & (seen < 1)).all(1)
    best = torch.linalg.lstsq(seen[inside], truth[inside]).solution
    assert (seen[inside] @ best - truth[inside]).square().mean() < 1e-6


def test_without_a_bias_images_need_not_be_on_black() -> None:
    images = 1 - _images(0, 4)
    found = BlindDeconvolution()(_view(_layer(1, 8, 3, 3, bias=False), images=images))
    assert metrics.mse(found.inputs, images).max() < 1e-3 and found.feature_loss < 1e-4


@pytest.mark.parametrize("shape", [(1, 6, 1, 1), (1, 3, 3, 3), (1, 5, 4, 3)])
def test_small_and_few_filters_take_larger_windows(shape: tuple[int, ...]) -> None:
    images = _images(0, 6, size=(16, 16))
    found = BlindDeconvolution()(_view(_layer(*shape), images=images))
    assert metrics.affine_align(found.inputs, images).mse.max() < 1e-6


def test_a_relu_makes_it_inexact_and_the_layer_is_fitted_where_it_is_on() -> None:
    images = data.load("digits").test.images[:5]
    layer = _layer(1, 16, 3, 3)
    found = BlindDeconvolution()(_view(layer, nn.ReLU(), images=images))
    errors = metrics.affine_align(found.inputs, images).mse
    assert 1e-8 < errors.median() < 1e-3
    assert isinstance(found.clone[1], nn.ReLU) and found.feature_loss < 5e-4
    others = data.load("digits").test.images[50:80]
    with torch.no_grad():
        expected = layer(others).relu()
        error = (found.clone(others) - expected).square().mean() / expected.var()
    assert error < 0.01


def test_more_images_than_are_needed_are_read_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(deconvolution, "SOLVE_IMAGES", 3)
    images = _images(0, 7)
    found = BlindDeconvolution()(_view(_layer(1, 8, 3, 3), images=images))
    assert metrics.affine_align(found.inputs, images).mse.max() < 1e-6


def test_the_exposure_says_how_many_pixels_are_white() -> None:
    images = _images(0, 4).clamp(max=0.5)
    view = _view(_layer(1, 8, 3, 3, padding=1), images=images)
    found = BlindDeconvolution(exposure=0.9)(view)
    assert 0.05 < (found.inputs >= 0.999).float().mean() < 0.15


def _noisy(view: View, deviation: float) -> View:
    noise = torch.randn(view.smashed.shape, generator=seeds.generator(0, "noise"))
    message = Message(0, 0, "smashed", view.smashed + deviation * noise, "inference")
    return View("server", [message], view._client)


def test_a_little_noise_does_a_little_harm() -> None:
    images = _images(0, 6)
    view = _view(_layer(1, 12, 3, 3), images=images)
    errors = [
        metrics.mse(BlindDeconvolution()(_noisy(view, deviation)).inputs, images).median()
        for deviation in (1e-4, 1e-3, 1e-2)
    ]
    assert errors[0] < errors[1] < errors[2] < 0.02


@pytest.mark.parametrize("deviation", [0.0, 1e-5, 1e-3])
@pytest.mark.parametrize("kind", ["alike", "of sum zero", "drowned"])
def test_what_cannot_be_told_is_not_guessed(kind: str, deviation: float) -> None:
    layer = _layer(1, 8, 3, 3)
    with torch.no_grad():
        if kind == "alike":
            layer.weight.copy_(layer.weight[:1].expand_as(layer.weight).clone())
        elif kind == "of sum zero":
            layer.weight -= layer.weight.mean((2, 3), keepdim=True)
    noise = 3.0 if kind == "drowned" else deviation
    with pytest.raises(AttackError, match="do not tell"):
        BlindDeconvolution()(_noisy(_view(layer, images=_images(0, 6)), noise))


def test_filters_that_would_take_hours_are_refused_at_once() -> None:
    with pytest.raises(AttackError, match="too large"):
        BlindDeconvolution()(_view(_layer(1, 8, 9, 9), images=_images(0, 4, size=(24, 24))))


def test_chunks_change_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    view = _view(_layer(1, 8, 3, 3), images=_images(0, 7))
    state = torch.get_rng_state()
    whole = BlindDeconvolution()(view)
    monkeypatch.setattr(deconvolution, "CHUNK", 3)
    parts = BlindDeconvolution()(view)
    assert torch.equal(state, torch.get_rng_state())
    torch.testing.assert_close(parts.inputs, whole.inputs, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("layers", "reason"),
    [
        ([nn.Conv2d(1, 8, 3), nn.Tanh()], "one Conv2d"),
        ([nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2)], "one Conv2d"),
        ([nn.Flatten(), nn.Linear(132, 200)], "one Conv2d"),
        ([nn.Conv2d(1, 8, 3, stride=2)], "stride"),
        ([nn.Conv2d(1, 8, 3, dilation=2)], "dilation"),
        ([nn.Conv2d(1, 8, 3, padding=1, padding_mode="reflect")], "padded with zeros"),
        ([nn.Conv2d(1, 8, 3, padding="same")], "padded with zeros"),
        ([nn.Conv2d(1, 8, 3, padding=(1, 0))], "padded with zeros"),
        ([nn.Conv2d(1, 1, 3)], "too few"),
    ],
)
def test_other_clients_are_refused(layers: list[nn.Module], reason: str) -> None:
    with pytest.raises(AttackError, match=reason):
        BlindDeconvolution()(_view(*layers, images=_images(0, 4)))


@pytest.mark.parametrize(("channels", "padding"), [(2, 1), (3, 0)])
def test_channels_that_nothing_tells_apart_are_refused(channels: int, padding: int) -> None:
    layer = _layer(channels, 40, 3, 3, padding=padding)
    with pytest.raises(AttackError, match="mix the channels"):
        BlindDeconvolution()(_view(layer, images=_images(0, 4, channels)))


def test_images_that_do_not_tell_are_refused() -> None:
    rising = torch.linspace(0, 1, 12).view(1, 1, 12, 1).expand(4, 1, 12, 12)
    for padding, images in itertools.product((0, 1), (torch.full_like(rising, 0.3), rising)):
        with pytest.raises(AttackError, match="too few or too much alike"):
            BlindDeconvolution()(_view(_layer(1, 8, 3, 3, padding=padding), images=images))
    view = _view(_layer(1, 8, 3, 3), images=_images(0, 2))
    poisoned = Message(0, 0, "smashed", torch.full((2, 8, 10, 9), float("nan")), "inference")
    with pytest.raises(AttackError, match="NaN"):
        BlindDeconvolution()(View("server", [poisoned], view._client))
    with pytest.raises(NotObservable, match="architecture"):
        BlindDeconvolution()(View("server", view._messages))
    with pytest.raises(AttackError, match="does not fit"):
        front = nn.Sequential(_layer(1, 8, 3, 3))
        BlindDeconvolution()(View("server", view._messages, Architecture.of(front, (1, 15, 5))))


def test_images_that_are_all_but_black_are_refused_not_stretched() -> None:
    draw = seeds.generator(3, "dots")
    images = torch.zeros(20, 1, 28, 28)
    for image in images:
        image.view(-1)[torch.randperm(784, generator=draw)[:5]] = 1.0
    for layer in (_layer(1, 8, 5, 5), _layer(1, 8, 5, 5, padding=2)):
        view = _view(layer, images=images)
        with pytest.raises(AttackError, match="give a larger exposure"):
            BlindDeconvolution()(view)
        found = BlindDeconvolution(exposure=0.999)(view)
        assert metrics.mse(found.inputs, images).max() < 1e-4


@pytest.mark.parametrize("settings", [{"exposure": 0}, {"exposure": "all"}], ids=str)
def test_settings_that_cannot_be_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(AttackError, match="exposure"):
        BlindDeconvolution(**settings)


@pytest.mark.gpu
def test_cuda_agrees_with_the_cpu() -> None:
    view = _view(_layer(1, 8, 3, 3), images=_images(0, 4))
    cpu, gpu = BlindDeconvolution()(view), BlindDeconvolution(device="cuda")(view)
    assert gpu.device.startswith("cuda")
    torch.testing.assert_close(gpu.inputs.cpu(), cpu.inputs, atol=1e-3, rtol=0)
