import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import nn

from sltools import metrics
from sltools.data import Split
from sltools.errors import DataError

few = settings(deadline=None, max_examples=40)
shapes = st.tuples(st.integers(1, 3), st.sampled_from([1, 3]), st.just(11), st.just(12))
bytes_ = arrays(np.uint8, shapes)


def image_batch(pixels):
    return torch.from_numpy(pixels).float() / 255


@st.composite
def image_pairs(draw):
    pixels = draw(bytes_)
    return image_batch(pixels), image_batch(draw(arrays(np.uint8, pixels.shape)))


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# --- Images ---------------------------------------------------------------------------------------


@few
@given(image_pairs())
def test_mse_is_zero_only_for_equal_images(pair):
    x, truth = pair
    assert torch.equal(metrics.mse(x, x), torch.zeros(len(x)))
    equal = (x == truth).flatten(1).all(1)
    assert torch.equal(metrics.mse(x, truth) == 0, equal)


@few
@given(image_pairs())
def test_psnr_is_the_logarithm_of_mse(pair):
    x, truth = pair
    expected = 10 * torch.log10(1 / metrics.mse(x, truth))
    torch.testing.assert_close(metrics.psnr(x, truth), expected, rtol=1e-4, atol=1e-3)


@few
@given(bytes_)
def test_ssim_of_an_image_with_itself_is_one(pixels):
    x = image_batch(pixels)
    torch.testing.assert_close(metrics.ssim(x, x), torch.ones(len(x)))


def test_hand_computed_scores():
    truth = torch.zeros(2, 3, 11, 11)
    x = truth.clone()
    x[0] += 0.5
    x[1, 0] = 1.0
    torch.testing.assert_close(metrics.mse(x, truth), torch.tensor([0.25, 1 / 3]))
    torch.testing.assert_close(metrics.psnr(x, truth), torch.tensor([6.0206, 4.7712]))
    assert metrics.psnr(truth, truth).isinf().all()


def test_ssim_of_constant_images_is_the_luminance_term():
    # Without contrast SSIM = (2ab + c) / (a² + b² + c), c = 0.01² for a data range of 1.
    a, b, c = 0.2, 0.6, 0.01**2
    x, truth = torch.full((1, 1, 20, 20), a), torch.full((1, 1, 20, 20), b)
    expected = (2 * a * b + c) / (a**2 + b**2 + c)
    torch.testing.assert_close(metrics.ssim(x, truth), torch.tensor([expected]), rtol=1e-4, atol=0)


def test_ssim_notices_lost_contrast():
    truth = noise(1, 1, 28, 28)
    assert metrics.ssim(0.1 * truth, truth) < 0.5


@pytest.mark.parametrize("score", [metrics.mse, metrics.psnr, metrics.ssim])
def test_scores_are_per_image_and_do_not_mix_the_batch(score):
    x, truth = noise(4, 3, 16, 16, seed=1), noise(4, 3, 16, 16, seed=2)
    alone = torch.cat([score(x[i : i + 1], truth[i : i + 1]) for i in range(4)])
    assert score(x, truth).shape == (4,)
    torch.testing.assert_close(score(x, truth), alone)


def test_a_score_carries_no_gradient():
    x = noise(1, 1, 11, 11).requires_grad_()
    assert not metrics.mse(x, noise(1, 1, 11, 11)).requires_grad


good = noise(2, 1, 12, 12)


@pytest.mark.parametrize("score", [metrics.mse, metrics.psnr, metrics.ssim, metrics.affine_align])
@pytest.mark.parametrize(
    ("x", "truth", "sentence"),
    [
        (good, good[:1], "equal batches"),
        (good[0], good[0], "batch of one"),
        (good[:0], good[:0], "empty batch"),
        (good * math.nan, good, "288 pixels .* diverged"),
        (good, good * math.nan, "true images"),
        (good, good * 255, "true images"),
        (good, good - 0.5, "true images"),
    ],
)
def test_images_that_cannot_be_compared(score, x, truth, sentence):
    with pytest.raises(DataError, match=sentence):
        score(x, truth)


def test_ssim_refuses_small_images():
    with pytest.raises(DataError, match="8 x 8"):
        metrics.ssim(noise(1, 1, 8, 8), noise(1, 1, 8, 8))


@few
@given(image_pairs())
def test_alignment_never_hurts(pair):
    x, truth = pair
    assert (metrics.affine_align(x, truth).mse <= metrics.mse(x, truth) + 1e-7).all()


@few
@given(image_pairs(), st.floats(0.2, 3) | st.floats(-3, -0.2), st.floats(-2, 2))
def test_alignment_forgets_gain_and_offset(pair, gain, offset):
    x, truth = pair
    torch.testing.assert_close(
        metrics.affine_align(gain * x + offset, truth).mse,
        metrics.affine_align(x, truth).mse,
        rtol=1e-3,
        atol=1e-4,
    )


@few
@given(image_pairs())
def test_alignment_is_least_squares(pair):
    x, truth = pair
    fit = metrics.affine_align(x, truth)
    for i in range(len(x)):
        column = x[i].double().flatten()
        design = torch.stack([column, torch.ones_like(column)], dim=1).numpy()
        best, *_ = np.linalg.lstsq(design, truth[i].double().flatten().numpy())
        if not (x[i] == x[i].flatten()[0]).all():
            assert fit.gain[i].item() == pytest.approx(best[0], abs=1e-5, rel=1e-5)
        error = np.mean((design @ best - truth[i].flatten().numpy()) ** 2)
        assert fit.mse[i].item() == pytest.approx(error, abs=1e-7)


def test_alignment_recognises_a_negative():
    truth = noise(3, 3, 14, 14).round()
    fit = metrics.affine_align(1 - truth, truth)
    assert metrics.mse(1 - truth, truth).eq(1).all()
    torch.testing.assert_close(fit.gain, -torch.ones(3))
    torch.testing.assert_close(fit.offset, torch.ones(3))
    torch.testing.assert_close(fit.aligned, truth, atol=1e-6, rtol=0)
    assert fit.mse.max() < 1e-12
    assert fit.aligned.dtype == fit.mse.dtype == torch.float32


@pytest.mark.parametrize("level", [0.0, 0.1, 1 / 3, 123.4])
def test_a_constant_image_has_gain_zero(level):
    truth = noise(2, 3, 28, 28)
    fit = metrics.affine_align(torch.full_like(truth, level), truth)
    assert fit.gain.eq(0).all()
    torch.testing.assert_close(fit.offset, truth.mean(dim=(1, 2, 3)))
    torch.testing.assert_close(fit.mse, truth.var(dim=(1, 2, 3), correction=0))


# --- Models ---------------------------------------------------------------------------------------


class Lookup(nn.Module):
    """Answers with the class written in the first pixel, shifted."""

    def __init__(self, shift=0):
        super().__init__()
        self.shift = shift

    def forward(self, images):
        classes = (images[:, 0, 0, 0].long() + self.shift) % 4
        return nn.functional.one_hot(classes, 4).float()


def written_classes(labels):
    images = torch.zeros(len(labels), 1, 2, 2)
    images[:, 0, 0, 0] = torch.tensor(labels)
    return images


def test_accuracy_and_agreement_by_hand():
    split = Split(written_classes([0, 1, 2, 3, 3]), torch.tensor([0, 1, 2, 0, 3]))
    assert metrics.accuracy(Lookup(), split) == pytest.approx(0.8)
    assert metrics.accuracy(Lookup(), split, batch_size=2) == pytest.approx(0.8)
    assert metrics.accuracy(Lookup(), split[3]) == 0
    assert metrics.agreement(Lookup(), Lookup(), split.images) == 1
    assert metrics.agreement(Lookup(), Lookup(shift=1), split.images) == 0
    assert metrics.agreement(Lookup(), lambda x: Lookup()(x), split.images) == 1


def test_a_model_is_evaluated_without_dropout_and_left_as_it_was():
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(4), nn.Dropout(0.9), nn.Linear(4, 3))
    model[1].eval()
    split = Split(noise(64, 1, 2, 2), torch.zeros(64, dtype=torch.int64))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert metrics.agreement(model, model, split.images) == 1
    metrics.accuracy(model, split)
    assert [part.training for part in model] == [True, False, True, True]
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_the_mode_is_restored_when_the_model_fails():
    model = nn.Sequential(nn.Flatten(), nn.Linear(5, 2))
    with pytest.raises(RuntimeError):
        metrics.accuracy(model, Split(noise(2, 1, 2, 2), torch.zeros(2)))
    assert model.training


def test_no_images_to_classify():
    with pytest.raises(DataError, match="empty batch"):
        metrics.accuracy(Lookup(), Split(torch.zeros(0, 1, 2, 2), torch.zeros(0)))


# --- Labels ---------------------------------------------------------------------------------------


def test_label_accuracy_by_hand():
    assert metrics.label_accuracy([0, 1, 2, 2], torch.tensor([0, 1, 1, 2])) == 0.75
    assert metrics.label_accuracy([3], [3]) == 1


def test_cluster_accuracy_by_hand():
    truth = [0, 0, 0, 1, 1, 1]
    assert metrics.cluster_accuracy([7, 7, 7, 4, 4, 4], truth) == 1
    assert metrics.cluster_accuracy([7, 7, 7, -1, -1, -1], truth) == 0.5  # -1: in no cluster
    assert metrics.cluster_accuracy([-1] * 6, truth) == 0
    assert metrics.cluster_accuracy([0, 0, 1, 1, 1, 1], truth) == pytest.approx(5 / 6)
    assert metrics.cluster_accuracy([0] * 6, truth) == 0.5  # fewer clusters than classes
    assert metrics.cluster_accuracy([0, 1, 2, 3, 4, 5], truth) == pytest.approx(2 / 6)  # more
    # A greedy choice of names would give cluster 0 to class 0 and score 3 of 7; the best is 4.
    assert metrics.cluster_accuracy([0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 0, 0, 1, 1]) == 4 / 7


labellings = st.lists(st.tuples(st.integers(0, 5), st.integers(0, 4)), min_size=1, max_size=60)


@few
@given(labellings, st.permutations(range(6)))
def test_cluster_accuracy_does_not_depend_on_cluster_numbers(pairs, names):
    clusters, truth = map(list, zip(*pairs, strict=True))
    score = metrics.cluster_accuracy(clusters, truth)
    assert metrics.cluster_accuracy([names[c] for c in clusters], truth) == score
    assert metrics.label_accuracy(clusters, truth) <= score <= 1


@pytest.mark.parametrize("score", [metrics.label_accuracy, metrics.cluster_accuracy])
@pytest.mark.parametrize(("guess", "truth"), [([0], [0, 1]), ([], []), ([[0]], [[0]])])
def test_labels_that_cannot_be_compared(score, guess, truth):
    with pytest.raises(DataError, match="equally long"):
        score(guess, truth)


# --- Reports --------------------------------------------------------------------------------------


def test_inversion_report_carries_its_baselines():
    truth = noise(4, 1, 14, 14)
    mean = truth.mean(dim=0)
    inputs = truth.clone()
    inputs[0] = 1 - truth[0]
    report = metrics.score_inversion(inputs, truth, mean, known_weights=truth)
    assert list(report.rows) == ["attack", "blank image", "mean image", "known weights"]
    assert list(metrics.score_inversion(inputs, truth, mean[None]).rows)[-1] == "mean image"

    rows = report.as_dict()
    blank = truth.square().mean(dim=(1, 2, 3))
    assert rows["attack"]["negatives"] == 0.25
    assert rows["attack"]["mse_median"] == 0
    assert rows["attack"]["mse_worst"] == metrics.mse(1 - truth, truth)[0].item()
    assert rows["attack"]["gain_worst"] == pytest.approx(-1)
    assert rows["attack"]["aligned_mse_worst"] < 1e-12
    assert rows["blank image"]["mse_worst"] == pytest.approx(blank.max().item())
    assert rows["blank image"]["mse_median"] == pytest.approx(np.median(blank))
    assert rows["blank image"]["gain_median"] == 0
    expected = metrics.mse(mean.expand_as(truth), truth)
    assert rows["mean image"]["mse_median"] == pytest.approx(np.median(expected))
    assert rows["mean image"]["ssim_worst"] < rows["known weights"]["ssim_worst"]


def test_reports_are_plain_json():
    truth = noise(2, 1, 12, 12)
    report = metrics.score_inversion(truth, truth, truth[0])
    assert json.loads(json.dumps(report.as_dict(), allow_nan=False)) == report.as_dict()
    assert report.as_dict()["attack"]["psnr_median"] is None


def assert_aligned_table(text, rows):
    lines = text.splitlines()
    assert len(lines) == rows
    assert len({len(line) for line in lines}) == 1


def test_inversion_report_prints_a_table():
    truth = noise(2, 1, 12, 12)
    text = str(metrics.score_inversion(truth, truth, truth[0]))
    assert_aligned_table(text, rows=4)
    assert "inf dB" in text and "blank image" in text


@pytest.fixture
def stolen():
    """A front that reads the image, a perfect clone of it, and a random clone that sees 0."""
    test = Split(written_classes([0, 1, 2, 3, 3, 0]), torch.tensor([0, 1, 2, 3, 3, 1]))
    return test, nn.Identity(), nn.Identity(), nn.Threshold(1e9, 0.0), Lookup()


def test_clone_report_scores_the_clone_before_the_rest(stolen):
    test, clone, front, random_clone, rest = stolen
    report = metrics.score_clone(clone, front, rest, test, random_clone)
    assert report.as_dict() == pytest.approx(
        {
            "clone_accuracy": 5 / 6,
            "victim_accuracy": 5 / 6,
            "random_accuracy": 1 / 6,
            "clone_agreement": 1,
            "random_agreement": 2 / 6,
        }
    )
    json.dumps(report.as_dict(), allow_nan=False)
    assert_aligned_table(str(report), rows=4)


def test_clone_accuracy_is_not_that_of_the_victims_front(stolen):
    # The published code's operands: victim's front, then something untrained. A good front must
    # not lend a useless clone its accuracy.
    test, _, front, useless, rest = stolen
    report = metrics.score_clone(useless, front, rest, test, useless)
    assert report.clone_accuracy == pytest.approx(1 / 6)
    assert report.victim_accuracy == pytest.approx(5 / 6)
    assert report.clone_agreement == pytest.approx(2 / 6)


def test_label_report_carries_its_baselines():
    truth = torch.tensor([0, 0, 0, 1, 2, 2, 1, 0])
    report = metrics.score_labels(truth, 4, guess=[0, 0, 0, 1, 2, 2, 1, 3], clusters=truth + 5)
    assert report.label_accuracy == 7 / 8
    assert report.cluster_accuracy == 1
    assert report.chance == 0.25
    assert report.majority == 0.5
    assert 0.375 <= report.random_partition < 1  # the largest cluster alone is worth 3 / 8
    assert report == metrics.score_labels(truth, 4, report_guess(), truth + 5)
    json.dumps(report.as_dict(), allow_nan=False)
    assert_aligned_table(str(report), rows=6)


def report_guess():
    return [0, 0, 0, 1, 2, 2, 1, 3]


def test_random_clusters_beat_chance_and_the_report_says_by_how_much():
    truth = torch.arange(100) % 10
    shuffled = truth[torch.randperm(100, generator=torch.Generator().manual_seed(7))]
    report = metrics.score_labels(truth, 10, clusters=shuffled)
    assert report.label_accuracy is None
    assert report.random_partition > 1.5 * report.chance
    assert report.cluster_accuracy == pytest.approx(report.random_partition, abs=0.06)
    assert "labels inferred" not in str(report)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"truth": [0, 1], "classes": 2}, "nothing to score"),
        ({"truth": [0, 2], "classes": 2, "guess": [0, 1]}, "0 to 1"),
        ({"truth": [-1, 1], "classes": 2, "guess": [0, 1]}, "0 to 1"),
        ({"truth": [], "classes": 2, "guess": []}, "0 to 1"),
        ({"truth": [0, 1], "classes": 2, "clusters": [0]}, "equally long"),
    ],
)
def test_labels_that_cannot_be_reported(arguments, sentence):
    with pytest.raises(DataError, match=sentence):
        metrics.score_labels(**arguments)


def test_the_global_random_state_is_left_alone():
    state = torch.get_rng_state()
    metrics.score_labels([0, 1, 1], 2, clusters=[0, 1, 0])
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.gpu
def test_scores_on_the_gpu_equal_those_on_the_cpu():
    x, truth = noise(3, 3, 16, 16, seed=1), noise(3, 3, 16, 16, seed=2)
    for score in (metrics.mse, metrics.psnr, metrics.ssim):
        on_gpu = score(x.cuda(), truth)
        assert on_gpu.is_cuda
        torch.testing.assert_close(on_gpu.cpu(), score(x, truth), rtol=1e-4, atol=1e-5)
    split = Split(truth, torch.arange(3))
    model = nn.Sequential(nn.Flatten(), nn.Linear(768, 3)).cuda()
    assert metrics.accuracy(model, split) == metrics.accuracy(model, split.to("cuda"))


@pytest.mark.parametrize("mask", [torch.tensor([True, False, False, False]), [1, 0, 0, 0]])
def test_labels_that_were_given_do_not_count_as_guessed(mask: Any) -> None:
    truth, guess = torch.tensor([0, 1, 1, 0]), torch.tensor([0, 1, 0, 0])
    assert metrics.score_labels(truth, 2, guess, given=mask).label_accuracy == pytest.approx(2 / 3)
    assert metrics.score_labels(truth, 2, guess, given=torch.as_tensor(mask)).label_accuracy == (
        pytest.approx(2 / 3)
    )


@pytest.mark.parametrize("mask", [torch.ones(4), torch.zeros(3)])
def test_a_mask_that_leaves_nothing_or_does_not_fit_is_refused(mask: torch.Tensor) -> None:
    with pytest.raises(DataError, match="given"):
        metrics.score_labels(torch.tensor([0, 1, 1, 0]), 2, torch.zeros(4), given=mask)


def test_reconstructions_in_another_range_are_warned_of() -> None:
    truth = torch.rand(2, 1, 12, 12, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match="undo a standardisation in both"):
        metrics.score_images((truth - 0.3) / 0.3, truth)
