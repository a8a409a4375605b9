"""Attributes and members: what attackers may know, what they find, and what they refuse."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from benchmarks.record_attribute_membership import REGIMES, ink, member_parts, share_of_class
from sltools import data, experiments, metrics, models, protocol
from sltools.attacks import PCAT, AttributeInference, MembershipInference
from sltools.data import Split
from sltools.errors import AttackError, DataError, NotObservable
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View

BRIEF: dict[str, Any] = {"shadows": 2, "epochs": 1}


def _session(cut: str | tuple[str, str] = "pool1", device: str = "cpu", **options: Any) -> Any:
    client, server = experiments.parties(models.mnist_net(seed=3), cut)
    split = data.load("digits").train[:96]
    return protocol.train(client, server, split, epochs=1, device=device, **options)


def _own(count: int = 60) -> Split:
    return data.load("digits").test[:count]


def _inky(images: Tensor) -> Tensor:
    return ink(images) > ink(_own().images).median()


def _secret(count: int = 20) -> Tensor:
    return data.load("digits").test.images[-count:]


# Attributes


@pytest.mark.parametrize("at", ["smashed", "output"])
def test_the_attribute_is_in_what_the_client_sends(at: str) -> None:
    session, own = _session(), data.load("digits").test
    private = data.load("digits").train.images[:400]
    view = session.observe(private, grants=["client_model"])
    found = AttributeInference(at)(view, own.images, _inky(own.images))
    assert metrics.leak_auc(found.scores, _inky(private)) > (0.95 if at == "smashed" else 0.65)
    shuffled = _inky(own.images)[torch.randperm(360, generator=torch.Generator().manual_seed(0))]
    control = AttributeInference(at)(view, own.images, shuffled)
    assert abs(metrics.leak_auc(control.scores, _inky(private)) - 0.5) < 0.25


def test_the_class_does_not_tell_the_ink() -> None:
    shares = share_of_class(_own(360), _inky(_own(360).images))
    assert shares.shape == (10,) and shares.min() > 0.2 and shares.max() < 0.8


def test_a_surrogate_is_enough_and_is_named() -> None:
    view, own = _session().observe(_secret()), _own()
    clone = PCAT(steps=4, batch=8)(view, own).clone
    found = AttributeInference("output")(view, own.images, _inky(own.images), front=clone)
    assert found.knowledge == (
        "own model", "smashed", "surrogate of the client", "auxiliary images (60)",
        "auxiliary attributes (60)",
    )  # fmt: skip
    with pytest.raises(NotObservable, match="client_model"):
        AttributeInference()(view, own.images, _inky(own.images))


@given(size=st.integers(1, 9), seed=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_any_number_of_images_is_scored_alike(size: int, seed: int) -> None:
    front, _ = models.cut(models.mnist_net(seed=seed), "pool1")
    smashed = torch.rand(9, 8, 12, 12, generator=torch.Generator().manual_seed(seed))
    own = _own()

    def scores(some: Tensor) -> Tensor:
        view = View("server", [Message(0, 0, "smashed", some, "inference")])
        return AttributeInference()(view, own.images, _inky(own.images), front=front).scores

    found = scores(smashed[:size])
    assert found.shape == (size,) and found.dtype == torch.float32
    torch.testing.assert_close(found, scores(smashed)[:size], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("images", "attribute", "message"),
    [
        (torch.rand(20, 1, 28), torch.arange(20) > 9, "must be a tensor \\(N, C, H, W\\)"),
        (torch.rand(20, 1, 28, 28) * 255, torch.arange(20) > 9, "divide 8-bit pixels"),
        (torch.rand(20, 1, 32, 32), torch.arange(20) > 9, "smashed data of shape"),
        (torch.rand(20, 3, 28, 28), torch.arange(20) > 9, "do not fit the front"),
        (torch.rand(20, 1, 28, 28), torch.arange(20), "a tensor of booleans"),
        (torch.rand(20, 1, 28, 28), torch.arange(9) > 3, "one boolean for each image"),
        (torch.rand(20, 1, 28, 28), torch.arange(20) > -1, "learns from both"),
    ],
)
def test_images_and_attributes_that_will_not_do_are_refused(
    images: Tensor, attribute: Tensor, message: str
) -> None:
    view = _session().observe(_secret(), grants=["client_model"])
    with pytest.raises(AttackError, match=message):
        AttributeInference()(view, images, attribute)


# Members


def test_whoever_kept_the_messages_of_the_training_knows_its_members() -> None:
    session = _session(record=True)
    asked = torch.cat([data.load("digits").train.images[:96], data.load("digits").test.images[:96]])
    view, kept = session.observe(asked), session.transcript.view()
    found = MembershipInference("recording")(view, recording=kept)
    assert metrics.leak_auc(found.scores, torch.arange(192) < 96) > 0.9
    assert found.knowledge == ("smashed", "smashed data of the training")


@pytest.mark.slow
def test_a_victim_that_was_trained_too_long_gives_its_members_away() -> None:
    parts = member_parts(data.load("digits"), "trained too long", 4)
    front, rest = models.cut(models.mnist_net(seed=4), "pool1")
    session = protocol.train(front, rest, parts["members"], epochs=100, seed=4)
    asked = torch.cat([parts["members"].images, parts["others"].images])
    found = MembershipInference("confidence")(session.observe(asked))
    assert metrics.leak_auc(found.scores, torch.arange(400) < 200) > 0.54


@pytest.mark.parametrize("regime", REGIMES)
def test_members_others_and_auxiliary_images_are_three_parts(regime: str) -> None:
    parts = member_parts(data.load("digits"), regime, victim=1)
    experiments.check_disjoint(parts["own"], parts["members"].images)
    experiments.check_disjoint(parts["own"], parts["others"].images)
    experiments.check_disjoint(parts["others"], parts["members"].images)


@pytest.mark.parametrize(
    ("signal", "knowledge"),
    [
        ("confidence", ("own model", "smashed")),
        (
            "shadows",
            ("client architecture", "own model", "smashed", "labels of the images",
             "auxiliary images (60)", "auxiliary labels (60)"),
        ),
    ],
)  # fmt: skip
def test_knowledge_is_named(signal: str, knowledge: tuple[str, ...]) -> None:
    view = _session().observe(_secret())
    labels = data.load("digits").test.labels[-20:] if signal == "shadows" else None
    found = MembershipInference(signal, **BRIEF)(view, _own(), labels=labels)
    assert found.knowledge == knowledge and found.scores.shape == (20,)


@pytest.mark.parametrize("signal", ["shadows", "calibrated"])
def test_the_same_seed_finds_the_same(signal: str) -> None:
    view, state = _session().observe(_secret()), torch.get_rng_state()
    found = [
        MembershipInference(signal, **BRIEF, seed=seed)(view, _own(), decoded=_secret()).scores
        for seed in (0, 0, 1)
    ]
    assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])
    assert torch.equal(state, torch.get_rng_state())


def test_an_image_of_which_all_are_sure_is_no_member_for_that() -> None:
    session, images = _session(), _secret()
    scores = MembershipInference("calibrated", **BRIEF)(
        session.observe(images), _own(), decoded=images
    ).scores
    confidence = MembershipInference("confidence")(session.observe(images)).scores
    assert not torch.equal(scores.argsort(), confidence.argsort()) and scores.isfinite().all()


@given(size=st.integers(1, 9))
@settings(max_examples=8, deadline=None)
def test_any_number_of_images_can_be_asked_about(size: int) -> None:
    message = Message(0, 0, "smashed", torch.rand(size, 12), "inference")
    view = View("server", [message], own_model=nn.Sequential(nn.Linear(12, 3)))
    found = MembershipInference()(view)
    assert found.scores.shape == (size,) and bool((found.scores <= 0).all())


def _asked(output: nn.Module | None = None) -> View:
    message = Message(0, 0, "smashed", torch.rand(6, 1, 28, 28), "inference")
    client = Architecture.of(nn.Sequential(nn.Identity()), (1, 28, 28))
    server = nn.Sequential(nn.Flatten(), output or nn.Linear(784, 10))
    return View("server", [message], client, own_model=server)


@pytest.mark.parametrize(
    ("signal", "given_", "message"),
    [
        ("recording", {}, "give recording="),
        ("shadows", {}, "needs auxiliary data"),
        ("shadows", {"auxiliary": _own()[:0]}, "needs auxiliary data"),
        ("shadows", {"auxiliary": Split(torch.rand(9, 1, 20, 20), torch.arange(9))}, "do not fit"),
        (
            "shadows",
            {"auxiliary": Split(torch.rand(40, 1, 28, 28), torch.arange(40))},
            "labels of its classes",
        ),
        ("calibrated", {"auxiliary": _own()}, "give decoded="),
        ("calibrated", {"auxiliary": _own(), "decoded": torch.rand(2, 1, 28, 28)}, "give decoded="),
        ("confidence", {"labels": torch.zeros(6)}, "labels must be int64"),
        ("confidence", {"labels": torch.zeros(5).long()}, "labels must be int64"),
        ("confidence", {"labels": torch.full((6,), 10)}, "from 0 to 9"),
    ],
)
def test_what_is_missing_or_does_not_fit_is_named(
    signal: str, given_: dict[str, Any], message: str
) -> None:
    with pytest.raises(AttackError, match=message):
        MembershipInference(signal, **BRIEF)(_asked(), **given_)


def test_parties_that_cannot_attack_so_are_told_what_can() -> None:
    private = _session(("pool1", "relu4")).observe(_secret())
    with pytest.raises(AttackError, match='use MembershipInference\\("recording"\\)'):
        MembershipInference()(private)
    with pytest.raises(AttackError, match="no classes to be sure of"):
        MembershipInference()(_asked(nn.Linear(784, 1)))
    client = _session().infer(_secret()).view("client")
    with pytest.raises(AttackError, match="take the server's view"):
        MembershipInference()(client)
    with pytest.raises(AttackError, match="take the server's view"):
        AttributeInference()(client, _own().images, _inky(_own().images))
    broken = nn.Linear(784, 10)
    nn.init.constant_(broken.weight, torch.inf)
    with pytest.raises(AttackError, match="NaN or infinite"):
        MembershipInference()(_asked(broken))


@pytest.mark.parametrize(
    ("attack", "wrong"),
    [
        (MembershipInference, {"signal": "luck"}),
        (MembershipInference, {"shadows": 0}),
        (MembershipInference, {"epochs": 1.5}),
        (MembershipInference, {"seed": "0"}),
        (AttributeInference, {"at": "image"}),
        (AttributeInference, {"strength": 0.0}),
    ],
)
def test_senseless_settings_are_refused(attack: Any, wrong: dict[str, Any]) -> None:
    with pytest.raises(AttackError, match=next(iter(wrong))):
        attack(**wrong)


# The score


@given(st.integers(0, 20), st.integers(0, 50))
@settings(max_examples=20, deadline=None)
def test_the_share_found_at_few_false_alarms_counts_right(found: int, seed: int) -> None:
    positive = torch.arange(220) < 20
    scores = torch.rand(220, generator=torch.Generator().manual_seed(seed))
    scores[:20] = -1.0
    scores[:found] = 2.0
    assert metrics.tpr_at(scores, positive) == found / 20
    assert metrics.tpr_at(torch.zeros(220), positive) == 0
    with pytest.raises(DataError, match="samples of both classes"):
        metrics.tpr_at(scores[:20], positive[:20])


@pytest.mark.gpu
def test_they_work_on_a_gpu() -> None:
    session, own = _session(device="cuda"), _own()
    view = session.observe(_secret(), grants=["client_model"])
    assert AttributeInference("output")(view, own.images, _inky(own.images)).scores.shape == (20,)
    found = MembershipInference("shadows", **BRIEF)(view, own)
    assert found.scores.shape == (20,) and found.device.startswith("cuda")
