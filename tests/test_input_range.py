"""Clients whose images are standardised: the attacks are told, or say that something is wrong."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sltools import data, metrics, models, seeds
from sltools.attacks import (
    BlindDeconvolution,
    DecoderInversion,
    KnownWeightsInversion,
    UnSplit,
    unsplit,
)
from sltools.attacks.ensemble import Ensemble
from sltools.attacks.pixels import InputRange
from sltools.errors import AttackError, DataError
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View

MEAN, STD = 0.3, 0.32
RANGE = ((0 - MEAN) / STD, (1 - MEAN) / STD)
OUTSIDE = "explain these smashed data far better"
KNOWN = KnownWeightsInversion(steps=80, snapshots=1)
DECODER = DecoderInversion(steps=80, snapshots=1)


def standardised(images: Tensor) -> Tensor:
    return (images - MEAN) / STD


def pixels(inputs: Tensor) -> Tensor:
    return inputs * STD + MEAN


def digits(count: int = 4) -> Tensor:
    return data.load("digits").test.images[:count]


def front(cut: str = "pool1") -> nn.Sequential:
    return models.cut(models.mnist_net(seed=3), cut)[0]


def view(client: nn.Sequential, images: Tensor, scale: float = 0.0) -> View:
    """What the server sees, with noise of standard deviation `scale`."""
    with torch.no_grad():
        sent = client(images)
    noise = scale * torch.randn(sent.shape, generator=seeds.generator(0, "noise"))
    message = Message(0, 0, "smashed", sent + noise, "inference")
    shape = Architecture.of(client, images.shape[1:])
    return View("server", [message], shape, grants={"client_model": client})


@contextmanager
def no_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def error(inputs: Tensor, truth: Tensor) -> float:
    return metrics.mse(inputs, truth).median().item()


@pytest.mark.parametrize("cut", ["pool1", "pool2"])
def test_known_weights_warn_of_a_range_that_is_wrong_and_find_what_is_in_the_right_one(
    cut: str,
) -> None:
    seen = view(front(cut), standardised(digits()))
    with pytest.warns(UserWarning, match=OUTSIDE):
        wrong = KNOWN(seen)
    with no_warning():
        right = KNOWN(seen, input_range=RANGE)
    assert right.feature_loss < 0.02 < 0.05 < wrong.feature_loss
    assert right.inputs.min() >= RANGE[0] - 1e-5 and right.inputs.max() <= RANGE[1] + 1e-5
    assert torch.equal(right.snapshots[-1], right.inputs)
    assert "input range" in right.knowledge and "input range" not in wrong.knowledge
    assert right.settings["input_range"] == tuple(pytest.approx([bound]) for bound in RANGE)
    assert "input_range" not in wrong.settings
    made, sent = right.clone(right.inputs), seen.smashed
    loss = (made - sent).square().mean() / sent.var(correction=0)
    assert loss.item() == pytest.approx(right.feature_loss, rel=1e-3)
    if cut == "pool1":
        assert error(pixels(right.inputs), digits()) < 0.2 * error(wrong.inputs, digits())


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_noise_is_not_taken_for_a_range_that_is_wrong(scale: float) -> None:
    noisy = view(front(), digits(), scale)
    with no_warning():
        assert KNOWN(noisy).feature_loss > 0.05
        assert DECODER(noisy, data.load("digits").train.images[:200]).feature_loss > 0.05


def test_a_search_that_is_too_short_is_not_taken_for_a_range_that_is_wrong() -> None:
    with no_warning():
        assert replace(KNOWN, steps=2)(view(front(), digits())).feature_loss > 0.05


def test_the_decoder_warns_of_other_public_images_and_decodes_standardised_ones() -> None:
    seen, public = view(front(), standardised(digits())), data.load("digits").train.images[:400]
    with pytest.warns(UserWarning, match=OUTSIDE):
        wrong = DECODER(seen, public)
    with no_warning():
        right = DECODER(seen, standardised(public), input_range=RANGE)
    assert error(pixels(right.inputs).clamp(0, 1), digits()) < 0.5 * error(wrong.inputs, digits())
    assert torch.equal(right.snapshots[-1], right.inputs) and "input range" in right.knowledge
    with pytest.raises(AttackError, match=r"float32 in \[0, 1\].*input_range"):
        DECODER(seen, standardised(public))
    with pytest.raises(AttackError, match=r"float32 in \[-0.938, 2.19\]"):
        DECODER(seen, 255 * public, input_range=RANGE)


def test_unsplit_finds_standardised_images_and_not_their_negatives() -> None:
    torch.manual_seed(3)
    client = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2))
    seen, truth = view(client, standardised(digits(6))), digits(6)
    attack = UnSplit(steps=200, snapshots=1)
    right, wrong = attack(seen, input_range=RANGE), attack(seen)
    assert right.inputs.min() >= RANGE[0] - 1e-5 and right.inputs.max() <= RANGE[1] + 1e-5
    assert metrics.affine_align(pixels(right.inputs), truth).gain.min() > 0
    assert error(pixels(right.inputs), truth) < 0.5 * error(wrong.inputs, truth)
    assert "input range" in right.knowledge


@pytest.mark.parametrize("attack", [UnSplit(steps=20), replace(KNOWN, steps=20)])
def test_the_usual_range_changes_no_bit(attack: Any) -> None:
    seen = view(front(), digits())
    told = attack(seen, input_range=(0, 1))
    assert torch.equal(told.inputs, attack(seen).inputs)
    assert told.settings == attack(seen).settings and "input range" not in told.knowledge


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dense", [False, True])
def test_exposure_in_a_range_keeps_what_the_first_layer_computes(
    dense: bool, channels: int
) -> None:
    layers: list[nn.Module] = [nn.Conv2d(channels, 4, 5, padding=2)]
    if dense:
        layers = [nn.Flatten(), nn.Linear(channels * 64, 6)]
    span = InputRange(([-0.5, -1.0, -2.0][:channels], [2.0, 3.0, 1.0][:channels]), channels)
    clones = Ensemble([nn.Sequential(*layers)] * 2, span)
    images = torch.stack(  # a clone of dark images, and one of bright ones, as negatives are
        [0.3 * torch.rand(5, channels, 8, 8), 1 - 0.3 * torch.rand(5, channels, 8, 8)]
    )
    before = clones(images)
    unsplit._rescale_contrast(images, clones, 1.0)
    torch.testing.assert_close(clones(images), before)
    assert (span.inputs(images).flatten(1).median(1).values <= 0).all()
    reach = span.relative_quantile(span.inputs(images), 1.0)
    torch.testing.assert_close(reach, torch.ones_like(reach))


def test_a_range_may_differ_by_channel() -> None:
    span, images = InputRange(([-1, -2], [1, 4]), 2), torch.rand(3, 2, 4, 5)
    inputs = span.inputs(images)
    assert torch.equal(inputs[:, 0], -1 + 2 * images[:, 0])
    torch.testing.assert_close(inputs[:, 1], -2 + 6 * images[:, 1])
    torch.testing.assert_close(span.pixels(inputs), images)
    assert span.contains(inputs) and not span.contains(2 * inputs) and str(span) == "[-1/-2, 1/4]"


@pytest.mark.parametrize(
    "bounds", [None, 1.0, (0,), (0, 1, 2), (1, 0), (0, 0), (0, float("nan")), ("a", "b"),
               (0, float("inf")), ([0, 0, 0], 1), {"low": 0}],
)  # fmt: skip
def test_what_is_no_range_is_refused(bounds: Any) -> None:
    for attack in (UnSplit(steps=2), replace(KNOWN, steps=2)):
        with pytest.raises(AttackError, match="input_range is"):
            attack(view(front(), digits(1)), input_range=bounds)


def test_colours_are_told_in_the_usual_range_only() -> None:
    client = nn.Sequential(nn.Conv2d(3, 4, 3))
    with pytest.raises(AttackError, match="photographs"):
        UnSplit(photographs=True)(view(client, torch.rand(2, 3, 8, 8)), input_range=(-1, 1))


def test_blind_deconvolution_warns_where_black_is_not_zero() -> None:
    torch.manual_seed(3)
    client, images = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2)), digits(60)
    with no_warning():
        assert error(BlindDeconvolution()(view(client, images)).inputs, images) < 1e-3
    with pytest.warns(UserWarning, match="standardised"):
        BlindDeconvolution()(view(client, standardised(images)))
    without = nn.Sequential(nn.Conv2d(1, 8, 5))  # and a bias, which takes up any offset
    with no_warning():
        found = BlindDeconvolution()(view(without, standardised(images)))
    assert error(found.inputs, images) < 1e-3


def test_standardised_truth_is_refused_with_what_to_do() -> None:
    with pytest.raises(DataError, match="standardisation is to be undone"):
        metrics.mse(digits(), standardised(digits()))


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (MEAN, STD), (-1.0, 0.0)])
def test_a_fit_that_explains_next_to_nothing_is_warned_of(wrong: tuple[float, float]) -> None:
    seen = view(front(), 255 * digits())
    with pytest.warns(UserWarning, match="no reconstructions|explain these smashed data far"):
        KNOWN(seen, input_range=wrong)
