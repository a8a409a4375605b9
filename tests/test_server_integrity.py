"""Servers that lie: adversarial examples, backdoors, and by what a stolen network is known."""

import dataclasses
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sltools import data, experiments, metrics, models
from sltools.attacks import (
    FORA,
    PCAT,
    SDAR,
    SFI,
    SLADV,
    Dullahan,
    SFIServer,
    Trigger,
    adversarial,
    networks,
)
from sltools.data import Split
from sltools.defenses import Fingerprint
from sltools.errors import AttackError, DefenseError, NotObservable
from sltools.models import Architecture
from sltools.protocol import Session, recut, train
from sltools.view import View
from tests.parties import noise_split, parties, record_of, same, weights

U_CUT = ("pool1", "fc2")
TRIGGER = Trigger(target=7, size=6, row=-7, column=-7)
ELSEWHERE = Trigger(target=7, size=6, row=1, column=1, seed=1)


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits")


@pytest.fixture(scope="module")
def victim(digits: data.Dataset) -> Session:
    return experiments.train_victim(digits, "pool1", budget="tiny", seed=3)


@pytest.fixture(scope="module")
def asked(digits: data.Dataset) -> Split:
    return digits.test[:100]


@pytest.fixture(scope="module")
def granted(victim: Session, digits: data.Dataset) -> View:
    return victim.observe(digits.train.images[:200], grants=["client_model"])


@pytest.fixture(scope="module")
def private() -> View:
    client, server = parties(models.mnist_net(seed=0), U_CUT)
    session = train(client, server, noise_split(), epochs=1, batch_size=4)
    return session.observe(noise_split(6).images, grants=["client_model"])


def stranger(view: View) -> nn.Sequential:
    """A front of the client's architecture that nobody trained."""
    return view.architecture.build(9, "stranger")


def head() -> nn.Sequential:
    return Architecture.of(models.cut(models.mnist_net(seed=4), U_CUT)[2]).build(0)


def right(session: Session, images: Tensor, asked: Split) -> float:
    return session.accuracy(Split(images, asked.labels))


# ---- adversarial examples ------------------------------------------------------------------------


def test_examples_fool_the_split_and_noise_in_the_same_bounds_does_not(
    victim: Session, granted: View, asked: Split
) -> None:
    found = SLADV(epsilon=0.2)(granted, asked.images)
    assert right(victim, found.examples, asked) < 0.2
    assert right(victim, found.noise, asked) > victim.accuracy(asked) - 0.1
    for changed in (found.examples, found.noise):
        assert (changed - asked.images).abs().max() <= 0.2 + 1e-6
        assert changed.min() >= 0 and changed.max() <= 1
    ends = (found.noise - asked.images).abs()
    inside = (found.noise > 0) & (found.noise < 1)
    assert torch.allclose(ends[inside], torch.tensor(0.2), atol=1e-6)


def test_no_layer_of_the_server_is_needed_to_do_harm_but_it_helps(
    victim: Session, digits: data.Dataset, asked: Split
) -> None:
    deep = recut(victim, "fc1")
    view = deep.observe(digits.train.images[:50], grants=["client_model"])
    blind = SLADV("intermediate", epsilon=0.2)(view, asked.images)
    assert blind.knowledge == ("client model (granted)", "images (100)")
    fooled = SLADV("class", epsilon=0.2)(view, asked.images)
    accuracy = [right(deep, found, asked) for found in (fooled.examples, blind.examples)]
    assert accuracy[0] < accuracy[1] < right(deep, blind.noise, asked) - 0.1


def test_a_front_that_is_no_copy_makes_worse_examples(
    victim: Session, granted: View, asked: Split
) -> None:
    copied = SLADV(epsilon=0.1)(granted, asked.images)
    other = SLADV(epsilon=0.1)(granted, asked.images, front=stranger(granted))
    accuracy = [right(victim, found.examples, asked) for found in (copied, other)]
    assert accuracy[0] < accuracy[1] - 0.2
    assert "surrogate of the client" in other.knowledge
    assert not any("granted" in known for known in other.knowledge)


def test_what_arrives_at_the_cut_is_changed_within_its_own_bounds(
    victim: Session, asked: Split
) -> None:
    view = victim.observe(asked.images)
    smashed = view.smashed
    found = SLADV("smashed", epsilon=0.5)(victim.observe(asked.images))
    assert found.knowledge == ("own model", "smashed")
    reach = 0.5 * smashed.std(correction=0)
    assert (found.examples - smashed).abs().max() <= reach * 1.0001
    assert found.examples.min() >= smashed.min() and found.examples.max() <= smashed.max()
    rest = victim.server.model
    accuracy = [
        metrics.accuracy(rest, Split(made, asked.labels)) for made in (found.examples, found.noise)
    ]
    assert accuracy[0] < accuracy[1] - 0.3


def test_a_label_private_split_is_attacked_with_a_head_or_by_its_features(private: View) -> None:
    images = noise_split(6).images
    without = SLADV(steps=3)(private, images)
    having = SLADV(steps=3)(private, images, head=head())
    assert not torch.equal(without.examples, having.examples)
    assert having.knowledge == (
        "client model (granted)", "own model", "images (6)", "surrogate of the head",
    )  # fmt: skip
    at_the_cut = SLADV("smashed", steps=3)(private, head=head())
    assert at_the_cut.examples.shape == private.smashed.shape


@pytest.mark.parametrize("aim", adversarial.AIMS)
def test_examples_are_the_same_with_the_same_seed(granted: View, aim: str) -> None:
    images = None if aim == "smashed" else noise_split(5).images
    first, again, other = (SLADV(aim, steps=2, seed=seed)(granted, images) for seed in (0, 0, 1))
    for name in ("examples", "noise"):
        assert torch.equal(getattr(first, name), getattr(again, name))
        assert not torch.equal(getattr(first, name), getattr(other, name))


def test_examples_do_not_depend_on_how_many_pass_at_once(
    granted: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = noise_split(7).images
    at_once = SLADV(steps=3)(granted, images).examples
    monkeypatch.setattr(networks, "CHUNK", 3)
    assert torch.allclose(SLADV(steps=3)(granted, images).examples, at_once, atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "given", "message"),
    [
        ({"aim": "all"}, {}, "aim is one of"),
        ({"epsilon": 0}, {}, "epsilon"),
        ({"steps": 0}, {}, "steps"),
        ({}, {"images": None}, "images must be a tensor"),
        ({}, {"images": torch.rand(2, 1, 20, 20)}, "do not fit"),
        ({}, {"head": nn.Identity()}, "leave it out"),
        ({"aim": "smashed"}, {}, "give no images"),
        ({"aim": "smashed"}, {"images": None, "front": nn.Identity()}, "give no front"),
    ],
    ids=["aim", "epsilon", "steps", "none", "size", "head", "images", "front"],
)
def test_what_cannot_be_attacked_is_named(
    granted: View, settings: Any, given: Any, message: str
) -> None:
    given = {"images": noise_split(2).images} | given
    with pytest.raises(AttackError, match=message):
        SLADV(**settings)(granted, given.pop("images"), **given)


@pytest.mark.parametrize("attack", [SLADV(), Dullahan()])
def test_without_a_front_the_clients_must_be_granted(victim: Session, attack: Any) -> None:
    images = noise_split(3).images
    more = [TRIGGER] if isinstance(attack, Dullahan) else []
    with pytest.raises(NotObservable, match="client_model"):
        attack(victim.observe(images), images, *more)


@pytest.mark.parametrize("attack", [SLADV(), Dullahan()])
def test_ctrl_c_keeps_what_there_is(
    granted: View, attack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(steps: Any, name: str) -> Any:
        yield from list(steps)[:1]
        raise KeyboardInterrupt

    module = "adversarial" if isinstance(attack, SLADV) else "dullahan"
    monkeypatch.setattr(f"sltools.attacks.{module}.bar", interrupted)
    more = [TRIGGER] if isinstance(attack, Dullahan) else []
    assert attack(granted, noise_split(3).images, *more).interrupted


# ---- a trigger in the server's layers ------------------------------------------------------------


@pytest.fixture(scope="module")
def poisoned(granted: View, digits: data.Dataset) -> nn.Sequential:
    found = Dullahan(steps=150)(granted, digits.test.images[100:300], TRIGGER)
    assert found.settings["trigger"] == dataclasses.asdict(TRIGGER)
    return nn.Sequential(granted.client_model, found.model)


def test_the_served_network_obeys_the_trigger_and_is_as_good_as_before(
    poisoned: nn.Sequential, victim: Session, asked: Split
) -> None:
    def success(net: nn.Module, trigger: Trigger) -> float:
        return metrics.attack_success(net, asked, trigger.target, trigger.stamp)

    honest = nn.Sequential(victim.client.front, victim.server.model)
    assert success(poisoned, TRIGGER) > 0.8
    assert success(poisoned, ELSEWHERE) < 0.3 and success(honest, TRIGGER) < 0.1
    assert metrics.accuracy(poisoned, asked) > victim.accuracy(asked) - 0.05


def test_a_front_that_is_no_copy_plants_no_trigger(
    granted: View, victim: Session, digits: data.Dataset, asked: Split
) -> None:
    found = Dullahan(steps=150)(
        granted, digits.test.images[100:300], TRIGGER, front=stranger(granted)
    )
    net = nn.Sequential(victim.client.front, found.model)
    assert metrics.attack_success(net, asked, 7, TRIGGER.stamp) < 0.4


def test_the_layers_of_the_view_and_the_stand_ins_stay_as_they_are(
    granted: View, victim: Session
) -> None:
    front = stranger(granted)
    before = weights(front, victim.server.model)
    Dullahan(steps=2)(granted, noise_split(4).images, TRIGGER, front=front)
    assert same(before, weights(front, victim.server.model))


def test_a_backdoor_is_the_same_with_the_same_seed(granted: View) -> None:
    first, again, other = (
        weights(Dullahan(steps=2, seed=seed)(granted, noise_split(9).images, TRIGGER).model)
        for seed in (0, 0, 1)
    )
    assert same(first, again) and not same(first, other)


def test_a_label_private_server_needs_a_head_of_its_own(private: View) -> None:
    images = noise_split(6).images
    with pytest.raises(AttackError, match="give a head"):
        Dullahan(steps=2)(private, images, TRIGGER)
    found = Dullahan(steps=2)(private, images, TRIGGER, head=head())
    assert "surrogate of the head" in found.knowledge


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"trigger": Trigger(target=10)}, "the target is class 10"),
        ({"head": nn.Identity()}, "leave out the head"),
        ({"images": torch.rand(2, 3, 28, 28)}, "do not fit the front"),
        ({"images": torch.rand(2, 28, 28)}, "images must be a tensor"),
    ],
    ids=["target", "head", "size", "shape"],
)
def test_what_cannot_be_planted_is_named(granted: View, given: Any, message: str) -> None:
    given = {"images": noise_split(2).images, "trigger": TRIGGER} | given
    with pytest.raises(AttackError, match=message):
        Dullahan(steps=1)(granted, given.pop("images"), given.pop("trigger"), **given)


# ---- chronic poisoning ---------------------------------------------------------------------------

SHORT = SFI(steal=2, tune=2, batch=8)
THEFT = PCAT(batch=8, late_start=0)


def poison(at: Any = "pool2", settings: SFI = SHORT, **options: Any) -> Session:
    client, server = parties(
        models.mnist_net(seed=0), at, server=SFIServer,
        server_options={"theft": THEFT, "auxiliary": noise_split(20, seed=9), "trigger": TRIGGER,
                        "settings": settings},
    )  # fmt: skip
    return train(client, server, noise_split(24), epochs=1, batch_size=4, **options)


@pytest.mark.parametrize("at", ["pool2", ("pool2", "fc2")])
def test_chronic_poisoning_is_honest_until_the_theft_is_over(at: Any) -> None:
    client, server = parties(models.mnist_net(seed=0), at)
    honest = train(client, server, noise_split(24), epochs=1, batch_size=4, record=True)
    lying = poison(at, record=True)
    pairs = list(zip(record_of(honest), record_of(lying), strict=True))
    early = [one.digest() == other.digest() for one, other in pairs if one.step < 2]
    late = [
        one.digest() == other.digest()
        for one, other in pairs
        if one.step >= 2 and one.kind == "cut_gradient"
    ]
    assert all(early) and not any(late)
    assert [(m.kind, m.payload.shape) for m, _ in pairs] == [
        (m.kind, m.payload.shape) for _, m in pairs
    ]
    assert isinstance(lying.server, SFIServer)
    assert (lying.server.steps, lying.server.implanted) == (2, 4)


def test_from_then_on_its_layers_stay_as_they_are() -> None:
    server = poison().server
    assert isinstance(server, SFIServer) and server._steering is not None
    before = weights(server.model, server._steering._surrogate)
    client, _ = parties(models.mnist_net(seed=1), "pool2")
    train(client, server, noise_split(8), epochs=1, batch_size=4)
    assert same(before, weights(server.model, server._steering._surrogate))


def test_the_pull_has_the_strength_that_is_asked_for() -> None:
    runs = {
        strength: record_of(poison(settings=dataclasses.replace(SHORT, strength=strength),
                                   record=True))
        for strength in (0.0, 0.5)
    }  # fmt: skip
    plain, pulled = (
        next(m.payload for m in messages if m.kind == "cut_gradient" and m.step == 2)
        for messages in runs.values()
    )
    assert (pulled - plain).norm() / plain.norm() == pytest.approx(0.5, rel=1e-3)


def test_chronic_poisoning_is_deterministic_and_says_what_it_knew() -> None:
    first, again = poison(), poison()
    assert same(weights(first.client.front), weights(again.client.front))
    other = poison(settings=dataclasses.replace(SHORT, seed=1))
    assert not same(weights(first.client.front), weights(other.client.front))
    assert isinstance(first.server, SFIServer)
    assert first.server.knowledge == (
        "labels", "own model", "smashed", "auxiliary images (20)", "auxiliary labels (20)",
    )  # fmt: skip


def test_with_its_architecture_the_surrogate_is_of_the_clients_shape() -> None:
    front, rest = models.cut(models.mnist_net(seed=0), "pool2")
    server = SFIServer(
        rest, SDAR(batch=8), noise_split(20, seed=9), TRIGGER, SHORT,
        client=Architecture.of(front, (1, 28, 28)),
    )  # fmt: skip
    train(front, server, noise_split(12), epochs=1, batch_size=4)
    assert "client architecture" in server.knowledge and server.implanted == 1


@pytest.mark.parametrize(
    "settings",
    [{"steal": 0}, {"tune": 1.5}, {"batch": 0}, {"strength": -1}, {"lr": math.nan}],
    ids=str,
)
def test_settings_of_chronic_poisoning_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(AttackError, match=next(iter(settings))):
        SFI(**settings)


@pytest.mark.parametrize(
    ("theft", "settings", "message"),
    [(FORA(batch=8), SHORT, "needs labelled images"), (THEFT, {"seed": 1}, "settings are an SFI")],
)
def test_what_cannot_poison_is_named(theft: Any, settings: Any, message: str) -> None:
    rest = models.cut(models.mnist_net(), "pool2")[1]
    with pytest.raises(AttackError, match=message):
        SFIServer(rest, theft, noise_split(20), TRIGGER, settings)


def test_a_target_that_is_no_class_ends_the_training_with_a_sentence() -> None:
    front, rest = models.cut(models.mnist_net(seed=0), "pool2")
    server = SFIServer(rest, THEFT, noise_split(20), Trigger(target=10), SHORT)
    with pytest.raises(AttackError, match="the target is class 10"):
        train(front, server, noise_split(12), epochs=1, batch_size=4)


# ---- the fingerprint -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def owned(victim: Session) -> nn.Sequential:
    return nn.Sequential(victim.client.front, victim.server.model)


@pytest.fixture(scope="module")
def points(owned: nn.Sequential, digits: data.Dataset) -> Split:
    return Fingerprint(points=40)(owned, digits.train)


def test_a_copy_matches_and_an_independent_network_does_not(
    owned: nn.Sequential, points: Split, digits: data.Dataset, asked: Split
) -> None:
    other = experiments.train_victim(digits, "pool1", budget="tiny", seed=4)
    independent = nn.Sequential(other.client.front, other.server.model)
    assert metrics.accuracy(owned, points) == 1.0
    assert metrics.agreement(independent, owned, asked.images) > 0.85
    assert metrics.accuracy(independent, points) < 0.8
    assert points.images.min() >= 0 and points.images.max() <= 1


def test_the_points_lie_near_the_border(
    owned: nn.Sequential, points: Split, digits: data.Dataset
) -> None:
    def gap(images: Tensor) -> Tensor:
        with torch.no_grad():
            best = owned(images).topk(2).values
        return (best[:, 0] - best[:, 1]).median()

    assert gap(points.images) < 0.5 * gap(digits.train.images[:100])


def test_the_owners_network_stays_as_it_is(owned: nn.Sequential, digits: data.Dataset) -> None:
    before = weights(owned)
    owned.train()
    first, again, other = (
        Fingerprint(points=5, steps=3, seed=seed)(owned, digits.train) for seed in (0, 0, 1)
    )
    assert owned.training and owned[0].training
    owned.eval()
    assert same(before, weights(owned))
    assert torch.equal(first.images, again.images) and torch.equal(first.labels, again.labels)
    assert not torch.equal(first.images, other.images)


@pytest.mark.parametrize(
    ("settings", "network", "message"),
    [
        ({"points": 0}, None, "points"), ({"lr": 0}, None, "lr"), ({"margin": -1}, None, "margin"),
        ({"points": 50}, None, "give more images"),
        ({"points": 2}, nn.Flatten(0), "two classes at least"),
        ({"points": 2}, nn.Linear(3, 3), "do not fit the network"),
    ],
    ids=str,
)  # fmt: skip
def test_what_has_no_fingerprint_is_named(settings: Any, network: Any, message: str) -> None:
    with pytest.raises(DefenseError, match=message):
        Fingerprint(**settings)(network or models.mnist_net(), noise_split(20))
