"""What is given in place of a split, of a tensor, of float32: one sentence, or converted."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from sltools import data, defenses, experiments, metrics, models, protocol
from sltools.attacks import (
    BlindDeconvolution,
    DecoderInversion,
    GradientLeak,
    Hijacking,
    HijackingServer,
    KnownWeightsInversion,
    LabelInference,
    UnSplit,
)
from sltools.errors import NotObservable, SltoolsError
from sltools.messages import Message
from sltools.models import Architecture
from sltools.transcript import Transcript
from sltools.view import View
from tests.parties import noise_split, run

SPLIT = noise_split(6)
TORCH = TensorDataset(SPLIT.images, SPLIT.labels)
DATASET = data.Dataset("noise", SPLIT, SPLIT, tuple("0123456789"))
NO_SPLIT: dict[str, Any] = {
    "DataLoader": DataLoader(TORCH, 2),
    "torch's Dataset": TORCH,
    "tuple": (SPLIT.images, SPLIT.labels),
    "Dataset": DATASET,
    "array": SPLIT.images.numpy(),
    "tensor": SPLIT.images,
    "None": None,
}
NO_TENSOR: dict[str, Any] = {
    **{name: NO_SPLIT[name] for name in ("DataLoader", "torch's Dataset", "tuple", "Dataset")},
    "array": NO_SPLIT["array"],
    "Split": SPLIT,
    "None": None,
}
SESSION = run()
NET = models.mnist_net()
VIEW = SESSION.observe(SPLIT.images, ["client_model"])
OF_SPLITS: dict[str, Callable[[Any], Any]] = {
    "train": lambda split: protocol.train(*models.cut(models.mnist_net(), "pool1"), split),
    "Session.accuracy": SESSION.accuracy,
    "metrics.accuracy": lambda split: metrics.accuracy(NET, split),
    "score_clone": lambda split: metrics.score_clone(
        SESSION.client.front, SESSION.client.front, SESSION.server.model, split, NET[:3]
    ),
}
OF_TENSORS: dict[str, Callable[[Any], Any]] = {
    "observe": SESSION.observe,
    "predict": SESSION.predict,
    "infer": SESSION.infer,
    "decoder": lambda images: DecoderInversion(steps=2)(VIEW, images),
    "hijacker": lambda images: HijackingServer(SESSION.server.model, images),
    "mse": lambda images: metrics.mse(images, SPLIT.images),
    "psnr": lambda images: metrics.psnr(SPLIT.images, images),
    "ssim": lambda images: metrics.ssim(SPLIT.images, images),
    "affine_align": lambda images: metrics.affine_align(images, SPLIT.images),
    "score_images": lambda images: metrics.score_images(SPLIT.images, images),
    "score_inversion": lambda images: metrics.score_inversion(images, SPLIT.images, images),
    "mean image": lambda image: metrics.score_inversion(SPLIT.images, SPLIT.images, image),
    "agreement": lambda images: metrics.agreement(NET, NET, images),
    "distance correlation": lambda z: defenses.distance_correlation(SPLIT.images, z),
    "from_tensors": lambda x: data.from_tensors("a", x, SPLIT.labels, SPLIT.images, SPLIT.labels),
    "labels of from_tensors": lambda y: data.from_tensors("a", SPLIT.images, y, SPLIT.images, y),
    "Split": lambda images: data.Split(images, SPLIT.labels),
    "labels of a Split": lambda labels: data.Split(SPLIT.images, labels),
}


def _refused(action: Callable[[Any], Any], given: Any) -> None:
    with pytest.raises(SltoolsError) as refusal:
        action(given)
    said = str(refusal.value)
    assert type(given).__name__ in said and len(said) < 300


@pytest.mark.parametrize("given", NO_SPLIT)
@pytest.mark.parametrize("action", OF_SPLITS)
def test_what_is_no_split_is_one_sentence(action: str, given: str) -> None:
    _refused(OF_SPLITS[action], NO_SPLIT[given])


@pytest.mark.parametrize("given", NO_TENSOR)
@pytest.mark.parametrize("action", OF_TENSORS)
def test_what_is_no_tensor_is_one_sentence(action: str, given: str) -> None:
    with pytest.raises(SltoolsError):
        OF_TENSORS[action](NO_TENSOR[given])


@pytest.mark.parametrize("given", [name for name in NO_SPLIT if name != "Dataset"])
def test_what_is_no_data_set_is_one_sentence(given: str) -> None:
    for action in (experiments.train_victim, lambda data: experiments.first_targets(data, 2)):
        _refused(action, NO_SPLIT[given])


@pytest.mark.parametrize("given", ["DataLoader", "Dataset", "None"])
def test_what_are_no_labels_is_one_sentence(given: str) -> None:
    for score in (metrics.label_accuracy, metrics.cluster_accuracy):
        _refused(lambda labels, score=score: score(labels, SPLIT.labels), NO_SPLIT[given])
    _refused(lambda labels: metrics.score_labels(labels, 10, SPLIT.labels), NO_SPLIT[given])


def test_a_split_has_a_label_for_each_image_and_a_mean_image_the_shape_of_one() -> None:
    with pytest.raises(SltoolsError, match="6 images and 5 labels"):
        data.Split(SPLIT.images, SPLIT.labels[:5])
    with pytest.raises(SltoolsError, match=r"mean image has the shape of an image, \(1, 28, 28\)"):
        metrics.score_inversion(SPLIT.images, SPLIT.images, torch.zeros(3, 28, 28))
    assert metrics.label_accuracy(np.array([1, 2]), [1, 3]) == 0.5  # type: ignore[arg-type]


@pytest.mark.parametrize("party", ["eve", "", None, 3])
def test_views_of_parties_that_there_are_not_are_one_sentence(party: Any) -> None:
    for look in (lambda: View(party, []), lambda: Transcript().view(party)):
        with pytest.raises(NotObservable, match="the parties are 'server' and 'client', not"):
            look()


# ---- other precisions ----------------------------------------------------------------------------

FRONT = models.cut(models.mnist_net(seed=3), "pool1")[0]
CONV = models.cut(models.cifar_net(seed=3), "conv1")[0]
COLOURFUL = noise_split(4, (3, 32, 32)).images
OTHERS = [torch.float16, torch.bfloat16, torch.float64]


def _view(front: nn.Sequential, images: torch.Tensor, kind: torch.dtype) -> View:
    with torch.no_grad():
        message = Message(0, 0, "smashed", front(images).to(kind), "inference")
    architecture = Architecture.of(front, images.shape[1:])
    granted = {"client_model": models.Architecture.of(front).build(0).to(kind)}
    granted["client_model"].load_state_dict(front.state_dict())
    return View("server", [message], architecture, grants=granted)


ATTACKS: dict[str, Callable[[View], Any]] = {
    "UnSplit": UnSplit(steps=5),
    "published": UnSplit.published(rounds=1, input_steps=2, clone_steps=2),
    "known weights": KnownWeightsInversion(steps=5),
    "decoder": lambda view: DecoderInversion(steps=3)(view, SPLIT.images),
}


@pytest.mark.parametrize("kind", OTHERS)
@pytest.mark.parametrize("name", ATTACKS)
def test_smashed_data_of_another_precision_are_converted(name: str, kind: torch.dtype) -> None:
    found, usual = (
        ATTACKS[name](_view(FRONT, SPLIT.images, each)) for each in (kind, torch.float32)
    )
    assert found.inputs.dtype == torch.float32 and found.inputs.isfinite().all()
    if kind == torch.float64:
        assert torch.equal(found.inputs, usual.inputs)
    else:
        assert found.feature_loss == pytest.approx(usual.feature_loss, rel=0.1)


def test_blind_deconvolution_takes_doubles() -> None:
    double, single = (
        BlindDeconvolution()(_view(CONV, COLOURFUL, kind)) for kind in (torch.float64, torch.float)
    )
    assert torch.equal(double.inputs, single.inputs)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_client_of_another_precision_is_hijacked(kind: torch.dtype) -> None:
    class Sent(nn.Module):
        def forward(self, z: torch.Tensor) -> torch.Tensor:
            return z.to(kind)

    front, rest = models.cut(models.mnist_net(seed=3), "pool1")
    server = HijackingServer(
        nn.Sequential(Back(), rest), SPLIT.images, Hijacking(warmup_steps=1, batch=4)
    )
    session = protocol.train(nn.Sequential(front, Sent()), server, SPLIT, epochs=1, batch_size=3)
    found = server.invert(session.observe(SPLIT.images))
    assert found.inputs.shape == SPLIT.images.shape and found.feature_loss > 0


class Back(nn.Module):
    """Takes up single precision again."""

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return z.float()


@pytest.mark.parametrize("kind", OTHERS)
def test_label_attacks_and_measures_take_other_precisions(kind: torch.dtype) -> None:
    session = run(("pool1", "relu4"), split=noise_split(12), batch_size=1)
    transcript = session.transcript
    transcript.messages = [
        Message(m.step, m.batch, m.kind, m.payload.to(kind), m.phase) for m in transcript.messages
    ]
    view = transcript.view("server", ["head_weight_gradients"])
    assert len(LabelInference("published")(view).labels) == 12
    assert len(GradientLeak()(view).scores) == 12
    z = view.smashed
    assert defenses.distance_correlation(SPLIT.images.repeat(2, 1, 1, 1), z) > 0
    assert metrics.mse(SPLIT.images.to(kind), SPLIT.images).max() < 1e-4


# ---- small images --------------------------------------------------------------------------------


def test_images_smaller_than_the_window_of_ssim_have_all_other_scores() -> None:
    x, truth = (noise_split(3, (1, 8, 8), seed=seed).images for seed in (1, 2))
    scores = metrics.score_images(x, truth)
    assert scores.ssim is None and torch.equal(scores.mse, metrics.mse(x, truth))
    assert {name.partition("_")[0] for name in scores.summary()} == {
        "mse", "psnr", "aligned", "gain", "negatives"
    }  # fmt: skip
    report = metrics.score_inversion(x, truth, truth.mean(0))
    assert report.as_dict()["attack"].keys() == scores.summary().keys()
    assert str(report).splitlines()[1].split()[-2] == "-"
    found = experiments.inversion._image_metrics([scores])
    assert found.keys() == {"raw_mse", "aligned_mse"}
