"""The trigger: where it lies, what it leaves alone, and how its success is counted."""

from dataclasses import replace

import pytest
import torch

from sltools import metrics
from sltools.attacks import Trigger
from sltools.data import Split
from sltools.errors import AttackError, DataError
from tests.parties import noise_split

IMAGES = noise_split(6, shape=(3, 12, 10)).images


def test_only_the_pixels_of_the_mask_change_and_in_all_channels():
    trigger = Trigger(size=3)
    before, stamped = IMAGES.clone(), trigger.stamp(IMAGES)
    mask = trigger.mask(12, 10)
    assert torch.equal(stamped[..., ~mask], IMAGES[..., ~mask]) and torch.equal(IMAGES, before)
    assert torch.equal(stamped[..., mask], trigger.patch.flatten().expand(6, 3, 9))
    assert mask.nonzero().min(0).values.tolist() == [5, 3]


def test_opacity_blends_the_patch_with_the_image():
    solid, faint = Trigger(size=3), Trigger(size=3, opacity=0.25)
    expected = 0.75 * IMAGES + 0.25 * solid.stamp(IMAGES)
    assert torch.allclose(faint.stamp(IMAGES), expected, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_half_of_the_patch_is_white_and_another_seed_is_another_patch(size):
    patches = [Trigger(size=size, seed=seed).patch for seed in range(4)]
    assert all(patch.sum() == (size**2 + 1) // 2 for patch in patches)
    assert size < 5 or len({tuple(patch.flatten().tolist()) for patch in patches}) == 4


def test_a_batch_is_stamped_as_its_images_are():
    trigger = Trigger(size=2)
    assert torch.equal(trigger.stamp(IMAGES)[2:3], trigger.stamp(IMAGES[2:3]))
    assert trigger.stamp(IMAGES[:0]).shape == (0, 3, 12, 10)


@pytest.mark.parametrize("setting", [
    {"size": 0}, {"target": -1}, {"opacity": 0}, {"opacity": 1.5}, {"row": 1.5}, {"size": True},
])  # fmt: skip
def test_senseless_settings_are_refused_by_name(setting):
    with pytest.raises(AttackError, match=f"^{next(iter(setting))}"):
        Trigger(**setting)


@pytest.mark.parametrize("place", [{"row": -13}, {"row": 10}, {"column": 8}, {"column": -2}])
def test_a_trigger_that_does_not_fit_is_refused(place):
    with pytest.raises(AttackError, match="does not fit on images of 12 x 10"):
        replace(Trigger(size=3, row=0, column=0), **place).stamp(IMAGES)


@pytest.mark.parametrize("images", [IMAGES[0], [1.0], None])
def test_what_is_no_batch_of_images_is_refused(images):
    with pytest.raises(AttackError, match=r"images \(N, C, H, W\)"):
        Trigger().stamp(images)


def test_success_is_counted_on_images_of_other_classes():
    labels = torch.tensor([0, 0, 1, 1, 2, 2])

    def model(images):  # class 0 if the first pixel is white, else class 1
        white = images[:, 0, 0, 0] == 1
        return torch.stack([white, ~white], 1).float()

    split = Split(IMAGES, labels)
    trigger = Trigger(size=1, row=0, column=0)
    assert metrics.attack_success(model, split, 0, trigger.stamp) == 1
    assert metrics.attack_success(model, split, 0) == 0
    assert metrics.attack_success(model, split, 1) == 1
    with pytest.raises(DataError, match="all images are of class 0"):
        metrics.attack_success(model, split[:2], 0)
