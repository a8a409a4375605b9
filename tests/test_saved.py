"""What is saved comes back as it was, and what cannot be saved takes nothing else along."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sltools import models, protocol, storage
from sltools.attacks import InversionResult, KnownWeightsInversion, LabelResult
from sltools.errors import AttackError, NotObservable, SltoolsError
from sltools.models import Architecture
from sltools.transcript import Transcript
from sltools.view import View
from tests.parties import noise_split

IMAGES = noise_split(6, (1, 12, 12)).images


class Residual(nn.Module):
    """A block that is no layer of torch.nn."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.inner(x))


def _front(*more: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 4, 5), *more)


def _session(front: nn.Sequential, rest: nn.Sequential | None = None) -> protocol.Session:
    classifier = nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, 10))
    split = noise_split(12, (1, 12, 12))
    return protocol.train(front, rest or classifier, split, epochs=1, batch_size=4, record=True)


def _tied() -> nn.Sequential:
    layer = nn.Conv2d(4, 4, 3, padding=1)
    return _front(layer, nn.ReLU(), layer)


def _transformer() -> nn.Sequential:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return _front(nn.Flatten(1, 2), layer, nn.Unflatten(1, (4, 8)))


REASONS = {  # which layer it is, or what is wrong with it
    "residual": r"client architecture: the layer Residual is not from torch.nn",
    "tied": r"client architecture: .* shares its weights with another",
    "transformer": r"client architecture: ",
}
UNUSUAL = {"residual": lambda: _front(Residual()), "tied": _tied, "transformer": _transformer}
NORMAL = {
    "BatchNorm": lambda: nn.BatchNorm2d(4),
    "Dropout": lambda: nn.Dropout(0.5),
    "without affine weights": lambda: nn.BatchNorm2d(4, affine=False),
    "cumulative": lambda: nn.BatchNorm2d(4, momentum=None),
    "InstanceNorm": lambda: nn.InstanceNorm2d(4, track_running_stats=True),
}


@pytest.mark.parametrize("name", NORMAL)
def test_a_granted_client_that_was_saved_explains_its_own_smashed_data(
    name: str, tmp_path: Path
) -> None:
    view = _session(_front(NORMAL[name](), nn.ReLU())).observe(IMAGES, grants=["client_model"])
    again = View.open(view.save(tmp_path / "view"))
    with torch.no_grad():
        assert torch.equal(again.client_model(IMAGES), view.smashed)
    assert torch.equal(again.smashed, view.smashed)


@pytest.mark.parametrize("training", [True, False])
def test_every_part_of_a_network_keeps_its_own_mode_and_buffers(
    training: bool, tmp_path: Path
) -> None:
    inner = nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
    shared = nn.ReLU()
    session = _session(_front(inner, shared, nn.Dropout(), shared))
    front = session.client.front
    front.train(training)
    inner.train(not training)
    view = session.transcript.view("server", ["client_model"])
    opened = View.open(View.open(view.save(tmp_path / "1")).save(tmp_path / "2"))
    found = dict(opened.client_model.named_modules())
    for layer, part in front.named_modules(remove_duplicate=False):
        assert found[layer].training == part.training, layer
    state = opened.client_model.state_dict()
    assert state["1.0.num_batches_tracked"] > 0
    assert all(torch.equal(state[key], value) for key, value in front.state_dict().items())


def test_the_own_model_of_a_view_and_of_a_transcript_keep_their_modes(tmp_path: Path) -> None:
    rest = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(), nn.Flatten(), nn.Linear(256, 10))
    session = _session(_front(), rest)
    views = {"trained": session.transcript.view(), "observed": session.observe(IMAGES)}
    for name, view in views.items():
        opened = View.open(view.save(tmp_path / name))
        assert opened.model.training == view.model.training == (name == "trained")
    saved = Transcript.open(session.infer(IMAGES).save(tmp_path / "transcript"))
    logits = saved.view().model(saved.view().smashed)
    assert torch.equal(logits, session.predict(IMAGES))


def test_the_clone_of_a_result_keeps_its_mode_and_buffers(tmp_path: Path) -> None:
    session = _session(_front(nn.BatchNorm2d(4), nn.Dropout()))
    view = session.observe(IMAGES, grants=["client_model"])
    found = KnownWeightsInversion(steps=3)(view)
    again = InversionResult.open(found.save(tmp_path / "found"))
    assert torch.equal(again.clone(IMAGES), found.clone(IMAGES))
    again.clone.train()
    assert InversionResult.open(again.save(tmp_path / "again")).clone.training


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_network_that_cannot_be_described_takes_no_messages_along(
    name: str, tmp_path: Path
) -> None:
    session = _session(UNUSUAL[name]())
    transcript = Transcript.open(session.transcript.save(tmp_path / "transcript"))
    assert transcript.digests("server") == session.transcript.digests("server")
    view = session.observe(IMAGES, grants=["client_model"])
    opened = View.open(View.open(view.save(tmp_path / "1")).save(tmp_path / "2"))
    assert torch.equal(opened.smashed, view.smashed)
    assert opened.model(opened.smashed).shape == (6, 10)
    assert opened.granted == ("client_model",)
    for part in (opened, opened.window(0, 9)):
        with pytest.raises(NotObservable, match="client model is not among what was saved here: "):
            _ = part.client_model
    assert opened.knowledge == ("own model", "smashed")
    for part in (view, opened):
        with pytest.raises(NotObservable, match=REASONS[name]):
            _ = part.architecture


def test_a_server_that_cannot_be_described_is_left_out_of_the_transcript(tmp_path: Path) -> None:
    rest = nn.Sequential(Residual(), nn.Flatten(), nn.Linear(256, 10))
    saved = _session(_front(), rest).transcript.save(tmp_path / "transcript")
    view = Transcript.open(saved).view()
    assert view.architecture.parameter_count == 104 and len(view.smashed) == 12
    with pytest.raises(NotObservable, match=r"own model is not .* the layer Residual is not from"):
        _ = view.model


@pytest.mark.parametrize("name", UNUSUAL)
def test_a_result_whose_clone_cannot_be_described_keeps_images_and_losses(
    name: str, tmp_path: Path
) -> None:
    found = _result(UNUSUAL[name]())
    again = InversionResult.open(found.save(tmp_path / "found"))
    twice = InversionResult.open(again.save(tmp_path / "again"))
    for result in (again, twice):
        assert torch.equal(result.inputs, found.inputs)
        assert torch.equal(result.losses["feature"], found.losses["feature"])
        assert "objective" in repr(result)
        with pytest.raises(AttackError, match="the clone is not among what was saved of this "):
            _ = result.clone


def _result(clone: nn.Sequential) -> InversionResult:
    view = _session(_front()).observe(IMAGES, grants=["client_model"])
    found = KnownWeightsInversion(steps=3)(view)
    found.clone = clone
    return found


def test_what_an_earlier_release_wrote_can_be_opened(tmp_path: Path) -> None:
    """Its networks had no modes: they are in evaluation mode, as those that attacks use are."""
    session = _session(_front(nn.BatchNorm2d(4)))
    view = session.observe(IMAGES, grants=["client_model"])
    tensors, facts = storage.read(view.save(tmp_path / "view"))
    facts["networks"] = {name: net["layers"] for name, net in facts["networks"].items()}
    old = View.open(storage.write(tmp_path / "old", tensors, facts))
    assert torch.equal(old.client_model(IMAGES), view.smashed)
    found = _result(_front(nn.Dropout()).eval())
    tensors, facts = storage.read(found.save(tmp_path / "result"))
    facts["architecture"] = {"layers": facts["architecture"]["layers"], "input_shape": [1, 12, 12]}
    result = InversionResult.open(storage.write(tmp_path / "older", tensors, facts))
    assert torch.equal(result.clone(IMAGES), found.clone(IMAGES))


@pytest.mark.parametrize(
    "layer", [nn.Hardtanh(-0.5, 2.0, inplace=True), nn.Hardtanh(), nn.ReLU6(), nn.Hardswish()]
)
def test_layers_with_arguments_that_others_stand_for_are_described(layer: nn.Module) -> None:
    described = Architecture.of(_front(layer))
    built: Any = described.build(0)[1]
    assert repr(built) == repr(layer)
    assert torch.equal(built(IMAGES * 4 - 2), layer(IMAGES * 4 - 2))
    assert models.stages(described.build(0)) == ["0", "1"]


def test_what_is_opened_as_another_kind_is_told_what_it_is(tmp_path: Path) -> None:
    """Not by the name of a part that is missing."""
    session = _session(_front())
    view = session.observe(IMAGES, grants=["client_model"])
    found = KnownWeightsInversion(steps=3)(view).save(tmp_path / "found")
    seen = view.save(tmp_path / "view")
    with pytest.raises(
        AttackError, match="an inversion result: it holds a view: open it with View"
    ):
        InversionResult.open(seen)
    with pytest.raises(AttackError, match="a label result: it holds a view"):
        LabelResult.open(seen)
    for opened in (View, Transcript):
        with pytest.raises(SltoolsError, match="it holds an inversion result: open it with Inv"):
            opened.open(found)
    with pytest.raises(AttackError, match="it holds an inversion result"):
        LabelResult.open(found)
    path = seen / storage.FACTS
    path.write_text(path.read_text().replace('"granted_steps"', '"other"'))
    with pytest.raises(SltoolsError, match="view or is damaged: KeyError"):
        View.open(seen)
