"""Feature-space hijacking: what the malicious server changes, what it may know, what it gets."""

import copy
import dataclasses
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sltools import data, models, seeds
from sltools.attacks import Hijacking, HijackingServer, InversionResult, networks
from sltools.attacks.alignment import gradient_penalty
from sltools.attacks.hijacking import _Hijacker
from sltools.data import Split
from sltools.errors import AttackError, NotObservable
from sltools.messages import Message
from sltools.protocol import Client, Server, Session, train
from sltools.view import View
from tests.parties import noise_split, parties, record_of, weights

SHORT = Hijacking(warmup_steps=2, batch=8, critic_steps=1)
U_CUT = ("pool1", "fc2")


def _train(at: Any = "pool1", attack: Hijacking = SHORT, **options: Any) -> Session:
    client, server = parties(
        models.mnist_net(seed=0),
        at,
        server=HijackingServer,
        server_options={"public_images": noise_split(20, seed=9).images, "attack": attack},
    )
    return train(client, server, noise_split(), epochs=2, batch_size=4, **options)


@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_the_first_exchange_differs_in_the_cut_gradient_only(at: Any) -> None:
    hijacked = record_of(_train(at, record=True))
    client, server = parties(models.mnist_net(seed=0), at)
    honest = record_of(train(client, server, noise_split(), epochs=2, batch_size=4, record=True))
    first = [[m for m in messages if m.step == 0] for messages in (hijacked, honest)]
    for lie, truth in zip(*first, strict=True):
        assert lie.kind == truth.kind
        assert (lie.digest() == truth.digest()) == (lie.kind != "cut_gradient")
    facts = [
        [(m.step, m.batch, m.kind, m.phase, m.payload.shape, m.payload.dtype) for m in messages]
        for messages in (hijacked, honest)
    ]
    assert facts[0] == facts[1], "a client could tell from the form of the messages"


@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_with_the_honest_gradient_put_back_it_is_an_honest_server(
    at: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HijackingServer, "reply", Server.reply)
    tamed = record_of(_train(at, record=True))
    client, server = parties(models.mnist_net(seed=0), at)
    honest = record_of(train(client, server, noise_split(), epochs=2, batch_size=4, record=True))
    assert [m.digest() for m in tamed] == [m.digest() for m in honest]


def test_its_own_model_learns_from_the_task_as_an_honest_one() -> None:
    client, server = parties(models.mnist_net(seed=0), "pool1")
    train(client, server, noise_split(4), epochs=1, batch_size=4)
    honest = weights(server.model)
    client, server = parties(
        models.mnist_net(seed=0),
        "pool1",
        server=HijackingServer,
        server_options={"public_images": torch.rand(3, 1, 28, 28), "attack": SHORT},
    )
    train(client, server, noise_split(4), epochs=1, batch_size=4)
    assert all(map(torch.equal, weights(server.model), honest))


def test_the_gradient_sent_is_that_of_the_critics_score(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[Tensor, nn.Sequential]] = []
    adversarial_gradient = _Hijacker.adversarial_gradient

    def watched(self: _Hijacker, smashed: Tensor) -> Tensor:
        seen.append((smashed.detach().clone(), copy.deepcopy(self.critic)))
        return adversarial_gradient(self, smashed)

    monkeypatch.setattr(_Hijacker, "adversarial_gradient", watched)
    sent = [m.payload for m in record_of(_train(record=True)) if m.kind == "cut_gradient"]
    for (smashed, critic), gradient in zip(seen, sent, strict=True):
        smashed.requires_grad_()
        critic(smashed).mean().backward()
        torch.testing.assert_close(gradient, smashed.grad)
        shift = 1e-2 * gradient / gradient.norm()
        assert critic(smashed - shift).mean() < critic(smashed).mean()


def test_the_penalty_is_over_all_features_of_a_sample() -> None:
    """A linear critic has the same slope everywhere, so its penalty is known."""
    smashed = torch.rand(4, 2, 3, 3)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(18, 1))
    expected = (critic[1].weight.norm() - 1) ** 2
    found = gradient_penalty(critic, smashed, torch.rand_like(smashed), torch.Generator())
    torch.testing.assert_close(found, expected)


def test_it_holds_nothing_of_the_client() -> None:
    session = _train()
    mine = {id(weight) for weight in session.client.front.parameters()}
    server = session.server
    assert isinstance(server, HijackingServer) and server._hijacker is not None
    reached: list[Any] = []

    def walk(value: Any, depth: int) -> None:
        reached.append(value)
        if depth and hasattr(value, "__dict__"):
            for part in vars(value).values():
                walk(part, depth - 1)
        if depth and isinstance(value, (list, tuple, dict)):
            for part in value.values() if isinstance(value, dict) else value:
                walk(part, depth - 1)

    walk(server, 6)
    assert not any(id(value) in mine or isinstance(value, Client) for value in reached)


def test_public_images_are_copied() -> None:
    images = torch.rand(3, 1, 28, 28)
    server = HijackingServer(models.cut(models.mnist_net(), "pool1")[1], images)
    images.zero_()
    assert server.public_images.max() > 0


def test_it_touches_no_global_randomness_and_only_its_own_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    purposes = []
    generator, scope = seeds.generator, seeds.scope
    monkeypatch.setattr(seeds, "generator", lambda s, p: purposes.append(p) or generator(s, p))
    monkeypatch.setattr(seeds, "scope", lambda s, p: purposes.append(p) or scope(s, p))
    state = torch.get_rng_state()
    _Hijacker(SHORT, torch.rand(3, 1, 12, 12, generator=generator(0, "x")), torch.zeros(2, 4, 6, 6))
    assert torch.equal(state, torch.get_rng_state())
    assert sorted(purposes) == ["critic", "decoder", "gradient penalty", "pilot", "public order"]


def test_it_is_deterministic_per_seed() -> None:
    first, again = (record_of(_train(record=True)) for _ in range(2))
    other = record_of(_train(attack=Hijacking(warmup_steps=2, batch=8, seed=1), record=True))
    assert [m.digest() for m in first] == [m.digest() for m in again]
    assert [m.digest() for m in first] != [m.digest() for m in other]


@pytest.mark.parametrize("other", [{"penalty": 500.0}, {"pilot_lr": 1e-2}, {"critic_lr": 1e-2}])
def test_every_setting_changes_what_is_sent(other: dict[str, float]) -> None:
    first = record_of(_train(record=True))
    changed = record_of(_train(attack=dataclasses.replace(SHORT, **other), record=True))
    assert [m.digest() for m in first] != [m.digest() for m in changed]


SHAPES = [
    (8, 12, 12), (8, 24, 24), (16, 4, 4), (3, 1, 1), (2, 7, 5), (1, 28, 28), (2, 40, 33),
    (1, 1, 9), (84,), (1,),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("image", [(1, 28, 28), (3, 32, 32), (1, 8, 11), (1, 1, 1)], ids=str)
def test_networks_fit_any_shapes(shape: tuple[int, ...], image: tuple[int, ...]) -> None:
    pilot = networks.pilot(image, shape, rectified=True, seed=0)
    decoder = networks.decoder(shape, image, seed=0)
    smashed = pilot(torch.rand(3, *image))
    assert smashed.shape == (3, *shape) and smashed.min() >= 0
    decoded = decoder(smashed)
    assert decoded.shape == (3, *image)
    assert decoded.min() >= 0 and decoded.max() <= 1
    assert networks.critic(shape, seed=0)(smashed).shape == (3, 1)


def test_the_pilot_stands_on_the_clients_grid() -> None:
    """Else what is decoded would be shifted or enlarged: one pixel costs more than all the rest."""
    for cut, stride, window in [("conv1", 1, 5), ("pool1", 2, 6), ("pool2", 4, 16)]:
        front, _ = models.cut(models.mnist_net(), cut)
        shape = tuple(front(torch.zeros(1, 1, 28, 28)).shape[1:])
        first = networks.pilot((1, 28, 28), shape, rectified=False, seed=0)[0]
        assert first.stride == (stride, stride) and first.kernel_size == (window, window)


@pytest.mark.parametrize("at", ["conv1", "pool2", "fc1"])
def test_any_cut_can_be_hijacked(at: str) -> None:
    session = _train(at)
    server = session.server
    assert isinstance(server, HijackingServer)
    found = server.invert(session.observe(noise_split(3).images))
    assert found.inputs.shape == (3, 1, 28, 28)
    assert found.inputs.min() >= 0 and found.inputs.max() <= 1
    assert server.steps == 6


def test_rectified_pilots_are_for_clients_that_end_in_a_relu() -> None:
    for at, expected in [("conv1", False), ("pool1", True)]:
        server = _train(at).server
        assert isinstance(server, HijackingServer) and server._hijacker is not None
        assert isinstance(server._hijacker.pilot[-1], nn.ReLU) == expected


def test_losses_are_noted_every_fifty_steps() -> None:
    client, server = parties(
        models.mnist_net(), "pool2", server=HijackingServer,
        server_options={"public_images": noise_split(5).images, "attack": SHORT},
    )  # fmt: skip
    train(client, server, noise_split(60), epochs=1, batch_size=1)
    assert isinstance(server, HijackingServer)
    assert server.loss_steps.tolist() == [0, 50]
    assert set(server.losses) == {"decoder", "critic", "penalty"}
    assert all(len(values) == 2 and values.isfinite().all() for values in server.losses.values())


def test_a_result_says_what_was_known_and_how() -> None:
    session = _train()
    assert isinstance(session.server, HijackingServer)
    view = session.observe(noise_split(3).images)
    found = session.server.invert(view)
    assert found.knowledge == ("smashed", "public images")
    assert found.settings["warmup_steps"] == 2 and found.attack == "Hijacking"
    assert found.seconds > 0 and not found.interrupted
    assert torch.equal(found.inputs, session.server.reconstruct(view.smashed))
    z = view.smashed
    with torch.no_grad():
        error = (found.clone(found.inputs) - z).square().mean() / z.var(correction=0)
    assert found.feature_loss == pytest.approx(error.item(), rel=1e-4)


READ = """
import sys, torch
from sltools.attacks import InversionResult
found = InversionResult.open(sys.argv[1])
print(found.inputs.double().sum().item(), found.clone(found.inputs).double().sum().item())
"""


def test_a_result_opens_in_another_process(tmp_path: Path) -> None:
    session = _train()
    assert isinstance(session.server, HijackingServer)
    found = session.server.invert(session.observe(noise_split(3).images))
    again = InversionResult.open(found.save(tmp_path / "result"))
    for name in ("inputs", "loss_steps", "snapshots", "snapshot_steps"):
        assert torch.equal(getattr(again, name), getattr(found, name))
    run = [sys.executable, "-c", READ, str(tmp_path / "result")]
    printed = subprocess.run(run, capture_output=True, text=True, check=True).stdout.split()
    with torch.no_grad():
        sums = [found.inputs.double().sum(), found.clone(found.inputs).double().sum()]
    assert [float(value) for value in printed] == pytest.approx([s.item() for s in sums], rel=1e-6)


@pytest.mark.parametrize(
    "settings",
    [
        {"critic_steps": 0}, {"batch": 2.5}, {"warmup_steps": -1}, {"warmup_steps": 0.5},
        {"pilot_lr": -1}, {"critic_lr": math.nan}, {"penalty": "much"},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_be_are_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(AttackError, match=next(iter(settings))):
        Hijacking(**settings)


@pytest.mark.parametrize(
    "images",
    [
        None, torch.rand(28, 28), torch.rand(0, 1, 28, 28), torch.full((1, 1, 4, 4), 7.0),
        torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.zeros(1, 1, 4, 4).double(),
        torch.full((1, 1, 4, 4), math.nan),
    ],
    ids=["none", "one image", "empty", "bright", "bytes", "double", "nan"],
)  # fmt: skip
def test_public_images_that_cannot_be_are_refused(images: Any) -> None:
    with pytest.raises(AttackError, match="public images"):
        HijackingServer(models.cut(models.mnist_net(), "pool1")[1], images)


def test_settings_of_another_kind_are_refused() -> None:
    rest = models.cut(models.mnist_net(), "pool1")[1]
    with pytest.raises(AttackError, match="the settings are a Hijacking"):
        HijackingServer(rest, torch.rand(1, 1, 28, 28), {"seed": 1})  # type: ignore[arg-type]


def test_it_says_when_there_is_nothing_to_decode() -> None:
    server = HijackingServer(models.cut(models.mnist_net(), "pool1")[1], torch.rand(2, 1, 28, 28))
    with pytest.raises(AttackError, match="train a client"):
        server.reconstruct(torch.zeros(1, 8, 12, 12))
    session = _train()
    assert isinstance(session.server, HijackingServer)
    with pytest.raises(AttackError, match="another cut"):
        session.server.reconstruct(torch.zeros(1, 8, 24, 24))
    with pytest.raises(NotObservable):
        session.server.invert(View("server", []))


def test_a_diverged_training_is_named() -> None:
    front, rest = models.cut(models.mnist_net(), "pool1")
    server = HijackingServer(rest, torch.rand(2, 1, 28, 28), SHORT)
    server.reply(Message(0, 0, "labels", torch.zeros(2, dtype=torch.long)))
    with pytest.raises(AttackError, match="finite"):
        server.reply(Message(0, 0, "smashed", torch.full((2, 8, 12, 12), math.nan)))


@pytest.mark.proofs
@pytest.mark.slow
def test_the_client_is_hijacked_on_digits() -> None:
    digits = data.load("digits")
    public, private = digits.train.images[700:], digits.train[:640]
    client, server = parties(
        models.mnist_net(seed=4), "pool1", server=HijackingServer,
        server_options={"public_images": public, "attack": Hijacking(seed=3)},
    )  # fmt: skip
    assert isinstance(server, HijackingServer)
    session = train(client, server, private, epochs=10)
    unseen = digits.test.images[:100]
    found = server.invert(session.observe(unseen)).inputs
    error = (found - unseen).square().mean()
    mean_image = (public.mean(0) - unseen).square().mean()
    assert error < 0.6 * mean_image, f"{error:.4f} against {mean_image:.4f}"
    assert (server.public_images - public).abs().max() == 0


def test_an_honest_servers_client_is_not_decoded() -> None:
    """The negative control: pilot and decoder alone do not read a client that was not steered."""
    digits = data.load("digits")
    split = Split(digits.train.images[:200], digits.train.labels[:200])
    session = train(*parties(models.mnist_net(seed=4), "pool1"), split, epochs=2)
    smashed = session.observe(digits.test.images[:100]).smashed
    hijacker = _Hijacker(Hijacking(), digits.train.images[700:], smashed)
    error = (hijacker.decoder(smashed) - digits.test.images[:100]).square().mean()
    mean_image = (digits.train.images[700:].mean(0) - digits.test.images[:100]).square().mean()
    assert error > 0.8 * mean_image


@pytest.mark.gpu
def test_cuda_hijacks_too() -> None:
    session = _train(device="cuda")
    assert isinstance(session.server, HijackingServer)
    found = session.server.invert(session.observe(noise_split(3).images))
    assert found.device.startswith("cuda") and found.inputs.shape == (3, 1, 28, 28)
