import inspect
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sltools import attacks, defenses, detectors, models, seeds
from sltools.errors import AttackError, DefenseError, SltoolsError
from sltools.models import Architecture
from tests.parties import noise_split, run, same, weights

few = settings(deadline=None, max_examples=40)
any_seed = st.integers(-(2**40), 2**40)
any_purpose = st.sampled_from(["victim", "clone", "order", "noise", "inputs", "training", "x/1"])


def unrelated(one, other):
    """Say whether two tensors look like draws from independent streams."""
    if torch.equal(one, other):
        return False
    likeness = torch.cosine_similarity(one.flatten(), other.flatten(), dim=0).abs()
    return one.numel() < 64 or likeness < 6 / one.numel() ** 0.5


def global_states():
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())


def draw(stream):
    return torch.rand(8, generator=stream)


@few
@given(any_seed, any_purpose)
def test_a_stream_is_reproducible(seed, purpose):
    assert torch.equal(draw(seeds.generator(seed, purpose)), draw(seeds.generator(seed, purpose)))


@few
@given(st.lists(st.tuples(any_seed, any_purpose), min_size=2, max_size=6, unique=True))
def test_streams_of_other_seeds_or_purposes_share_nothing(keys):
    derived = [seeds.derive(*key) for key in keys]
    assert len(set(derived)) == len(keys)
    assert all(0 <= value < 2**63 for value in derived)
    drawn = torch.cat([draw(seeds.generator(*key)) for key in keys])
    assert len(drawn.unique()) > len(drawn) - 3  # two of so few floats may meet, streams may not


@few
@given(any_seed, any_purpose)
def test_nothing_is_seeded_with_the_number_of_the_user(seed, purpose):
    assert seeds.generator(seed, purpose).initial_seed() != seed
    with seeds.scope(seed, purpose):
        assert torch.initial_seed() == seeds.derive(seed, purpose) != seed


def test_a_keyed_stream_heeds_more_than_32_bits():
    one, other = (torch.Generator().manual_seed(7 + high) for high in (0, 2**32))
    assert torch.equal(draw(one), draw(other)), "which is why what is hidden is keyed"
    numbers = {seeds.keyed(7 + (high << 32), "noise").random() for high in range(100)}
    assert len(numbers) == 100
    assert seeds.keyed(7, "noise").random() != seeds.keyed(7, "order").random()


def test_streams_stay_what_they_were_when_results_were_recorded():
    assert seeds.derive(0, "victim") == 6825578508826060191
    assert seeds.derive(1, "clone") == 8631312922690714918


SEEDED = {
    "UnSplit": attacks.UnSplit,
    "UnSplit.published": attacks.UnSplit.published,
    "KnownWeightsInversion": attacks.KnownWeightsInversion,
    "DecoderInversion": attacks.DecoderInversion,
    "LabelInference": attacks.LabelInference,
    "Hijacking": attacks.Hijacking,
    "GaussianNoise": lambda seed: defenses.GaussianNoise(0.5, seed),
    "MembershipInference": attacks.MembershipInference,
    "FORA": attacks.FORA,
    "PCAT": attacks.PCAT,
    "SDAR": attacks.SDAR,
    "SFI": attacks.SFI,
    "SLADV": attacks.SLADV,
    "Dullahan": attacks.Dullahan,
    "Fingerprint": lambda seed: defenses.Fingerprint(seed=seed),
    "Trigger": attacks.Trigger,
    "Backdoor": attacks.Backdoor,
    "LabelFlip": lambda seed: attacks.LabelFlip(3, 5, seed=seed),
    "LaplaceNoise": lambda seed: defenses.LaplaceNoise(0.5, seed),
    "LocalPrivacy": lambda seed: defenses.LocalPrivacy(1.0, 1.0, seed),
    "Quantisation": lambda seed: defenses.Quantisation(2, seed),
    "TopK": lambda seed: defenses.TopK(0.5, seed),
    "MaxNorm": defenses.MaxNorm,
    "Marvell": lambda seed: defenses.Marvell(1.0, seed=seed),
    "RandomisedResponse": lambda seed: defenses.RandomisedResponse(1.0, 10, seed),
    "PrivateOptimizer": lambda seed: defenses.PrivateOptimizer(
        models.cut(models.mnist_net(), "pool1")[0], 1.0, 1.0, seed=seed
    ),
    "SplitGuard": lambda seed: detectors.SplitGuard(seed=seed),
    "SplitOut": lambda seed: detectors.SplitOut(
        models.mnist_net(), noise_split(8), share=1.0, batch_size=4, seed=seed
    ),
}


@pytest.mark.parametrize("wrong", [1.5, "1", None, True, torch.tensor(0.5)])
@pytest.mark.parametrize("name", SEEDED)
def test_a_seed_that_is_no_whole_number_is_refused_when_the_settings_are_made(name, wrong):
    with pytest.raises((AttackError, DefenseError), match="^seed must be a whole number, not "):
        SEEDED[name](seed=wrong)
    SEEDED[name](seed=np.int64(3))


def test_all_that_has_a_seed_is_among_these():
    """A new attack, defence or detector with a seed checks it too."""
    found = {
        name
        for package in (attacks, defenses, detectors)
        for name in package.__all__
        if "seed" in inspect.signature(getattr(package, name)).parameters
    }
    results = {name for name in found if name.endswith("Result")}  # they only say what it was
    assert found - results - {"Outgoing"} == SEEDED.keys() - {"UnSplit.published"}


@pytest.mark.parametrize("seed", ["1", 1.0, None])
def test_a_seed_that_is_no_whole_number_is_refused(seed):
    with pytest.raises(SltoolsError, match="whole number"):
        seeds.derive(seed, "victim")
    assert seeds.derive(np.int64(3), "victim") == seeds.derive(3, "victim")


def test_no_two_streams_of_lessons_and_records_are_the_same_to_torch():
    """Its generator heeds 32 bits of a seed."""
    first, later = (
        torch.rand(4, generator=torch.Generator().manual_seed(s)) for s in (5, 5 + 2**40)
    )
    assert torch.equal(first, later), "it heeds more bits now: say so in sltools/seeds.py"
    purposes = ["victim", "order", "training", "noise", "clone", "public order", "random partition"]
    purposes += [f"{kind} {n}" for kind in ("clone", "random clone") for n in range(6)]
    streams = [seeds.derive(seed, purpose) % 2**32 for seed in range(250) for purpose in purposes]
    assert len({*streams}) == len(streams)


def test_a_generator_is_on_the_cpu():
    assert seeds.generator(0, "noise").device == torch.device("cpu")


def test_a_scope_gives_the_stream_and_restores_the_state():
    before = global_states()
    with seeds.scope(3, "noise"):
        first = torch.rand(4)
        with seeds.scope(3, "inputs"):
            inner = torch.rand(4)
        second = torch.rand(4)
    assert global_states() == before
    torch.manual_seed(123)
    with seeds.scope(3, "noise"):
        assert torch.equal(torch.cat([first, second]), torch.cat([torch.rand(4), torch.rand(4)]))
    assert not torch.equal(first, inner)
    stream = seeds.generator(3, "noise")
    assert torch.equal(first, torch.rand(4, generator=stream))


def test_a_scope_restores_the_state_after_an_error():
    before = global_states()
    with pytest.raises(RuntimeError, match="on purpose"), seeds.scope(3, "noise"):
        torch.rand(4)
        raise RuntimeError("on purpose")
    assert global_states() == before


def test_no_global_random_state_is_touched():
    before = global_states()
    net = models.cifar_net(seed=1)
    assert global_states() == before
    architecture = Architecture.of(models.cut(net, "pool1")[0])
    architecture.build(seed=1)
    repr(architecture)
    assert global_states() == before
    noisy = nn.Sequential(nn.Flatten(), nn.Linear(784, 8), nn.Dropout(), nn.Linear(8, 10))
    before = global_states()
    session = run("1", net=noisy, epochs=2, penalty=lambda images, z: (z * torch.rand(8)).sum())
    session.observe(noise_split().images)
    session.predict(noise_split().images)
    assert global_states() == before


def test_no_global_random_state_is_heeded():
    torch.manual_seed(1)
    first = weights(models.mnist_net(seed=0))
    dropping = [nn.Flatten(), nn.Linear(784, 8), nn.Dropout(), nn.Linear(8, 10)]
    with seeds.scope(0, "test"):
        nets = [nn.Sequential(*dropping)]
    nets.append(Architecture.of(nets[0]).build(seed=0))
    nets[1].load_state_dict(nets[0].state_dict())
    trained = []
    for number, net in enumerate(nets):
        torch.manual_seed(number)
        run("1", net=net, epochs=2)
        trained.append(weights(net))
    assert same(first, weights(models.mnist_net(seed=0)))
    assert same(*trained)


@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("cut", models.stages(models.mnist_net())[:-1])
def test_no_mnist_clone_starts_at_the_weights_of_the_victim(cut, seed):
    """A clone on the victim's own stream would make the attack look twenty times better."""
    for part in models.cut(models.mnist_net(seed), cut):
        clone = Architecture.of(part).build(seed)
        for own, cloned in zip(part.parameters(), clone.parameters(), strict=True):
            assert unrelated(own, cloned)


@pytest.mark.parametrize("cut", models.stages(models.cifar_net())[:-1])
def test_no_cifar_clone_starts_at_the_weights_of_the_victim(cut):
    front = models.cut(models.cifar_net(seed=0), cut)[0]
    clone = Architecture.of(front).build(seed=0)
    for own, cloned in zip(front.parameters(), clone.parameters(), strict=True):
        assert unrelated(own, cloned)


def test_no_cloned_head_starts_at_the_weights_of_the_victim():
    for first, last in [("pool1", "fc2"), ("conv1", "fc1")]:
        head = models.cut(models.mnist_net(seed=0), (first, last))[2]
        clone = Architecture.of(head).build(seed=0)
        assert all(map(unrelated, head.parameters(), clone.parameters()))


def test_a_network_and_its_clone_are_reproducible():
    assert same(weights(models.mnist_net(3)), weights(models.mnist_net(3)))
    architecture = Architecture.of(models.mnist_net())
    assert same(weights(architecture.build(3)), weights(architecture.build(3)))


def test_clones_of_other_seeds_differ_and_other_purposes_too():
    architecture = Architecture.of(models.mnist_net())
    built = [architecture.build(0), architecture.build(1), architecture.build(0, "restart")]
    for one, other in [(0, 1), (0, 2), (1, 2)]:
        assert not any(map(torch.equal, weights(built[one]), weights(built[other])))
    assert not any(map(torch.equal, weights(models.mnist_net(0)), weights(models.mnist_net(1))))
