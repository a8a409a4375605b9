"""Each defence does what its formula says, inside the protocol and with a client that learns."""

import math
import statistics
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sltools import data, defenses, detectors, experiments, metrics, models, protocol, seeds
from sltools.attacks import DecoderInversion, KnownWeightsInversion, UnSplit
from sltools.data import Split
from sltools.defenses.accounting import epsilon
from sltools.errors import DefenseError, ProtocolError

SENDERS: dict[str, Callable[[int], defenses.Outgoing]] = {
    "gaussian": lambda seed: defenses.GaussianNoise(0.5, seed=seed),
    "laplace": lambda seed: defenses.LaplaceNoise(0.5, seed=seed),
    "private": lambda seed: defenses.LocalPrivacy(1.0, 0.3, seed=seed),
    "quantised": lambda seed: defenses.Quantisation(2, seed=seed),
    "top-k": lambda seed: defenses.TopK(0.1, seed=seed),
}
every_sender = pytest.mark.parametrize("make", SENDERS.values(), ids=SENDERS)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=seeds.generator(seed, "test"))


def split(count: int = 64) -> Split:
    images = torch.rand(count, 1, 28, 28, generator=seeds.generator(0, "images"))
    return Split(images, torch.arange(count) % 10)


def session(**options: Any) -> protocol.Session:
    front, rest = models.cut(models.mnist_net(1), "pool1")
    client = protocol.Client(front, **options)
    return protocol.train(client, protocol.Server(rest), split(), epochs=1, record=True)


# ---- all that change what is sent ----------------------------------------------------------------


@every_sender
def test_the_server_gets_the_defended_data_and_the_client_still_learns(make: Any) -> None:
    defended, plain = session(outgoing=make(3)), session()
    z, z_plain = (s.transcript.view("server").smashed for s in (defended, plain))
    assert z.shape == z_plain.shape
    assert not torch.equal(z[:64], z_plain[:64])
    start = models.cut(models.mnist_net(1), "pool1")[0].state_dict()
    moved = [not torch.equal(v, start[k]) for k, v in defended.client.front.state_dict().items()]
    assert all(moved)


@every_sender
def test_a_defence_is_determined_by_its_seed_and_leaves_other_messages_alone(make: Any) -> None:
    z = draw(5, 3, 4, 4)
    before = torch.get_rng_state()
    assert torch.equal(make(1)("smashed", z), make(1)("smashed", z))
    labels = torch.arange(5)
    assert make(1)("labels", labels) is labels
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["gaussian", "laplace", "private"])
def test_noise_is_fresh_at_every_message_and_other_with_another_seed(name: str) -> None:
    z, defense = draw(4, 6), SENDERS[name](1)
    first, second = defense("smashed", z), defense("smashed", z)
    assert not torch.equal(first, second)
    assert not torch.equal(first, SENDERS[name](2)("smashed", z))


def test_together_applies_all_in_order() -> None:
    both = defenses.Compose(defenses.TopK(0.5), defenses.RandomisedResponse(50.0, classes=10))
    z, labels = draw(4, 10), torch.arange(4)
    assert (both("smashed", z) == 0).sum() == 20
    assert torch.equal(both("labels", labels), labels)
    assert repr(both) == "Compose(TopK(share=0.5), RandomisedResponse(epsilon=50.0, classes=10))"


def test_noise_on_top_of_zeros_saves_no_bytes_and_is_not_drawn_twice() -> None:
    z = torch.randn(3, 100, generator=seeds.generator(0, "z"))
    terse, noise = defenses.TopK(0.03), defenses.GaussianNoise(1.0)
    assert defenses.Compose(noise, terse).nbytes(z) == terse.nbytes(z) < z.nbytes
    assert defenses.Compose(terse, noise).nbytes(z) == z.nbytes
    labels = defenses.RandomisedResponse(1.0, classes=10)
    assert defenses.Compose(terse, labels).nbytes(z) == terse.nbytes(z)
    assert defenses.Compose(labels).nbytes(z) == z.nbytes
    with pytest.raises(DefenseError, match="its own seed"):
        defenses.Compose(noise, defenses.GaussianNoise(2.0))
    two = defenses.Compose(noise, defenses.GaussianNoise(1.0, seed=1))
    assert two("smashed", torch.zeros(100, 100)).std().item() == pytest.approx(2**0.5, rel=0.05)


@pytest.mark.parametrize("labels", [[7], [-1], [0.5]])
def test_a_label_that_no_lie_can_name_is_refused(labels: list[float]) -> None:
    with pytest.raises(DefenseError, match="from 0 to 4"):
        defenses.RandomisedResponse(0.1, classes=5)("labels", torch.tensor(labels))


@pytest.mark.parametrize(
    "wrong",
    [(-1.0, 1), (0.0, 1), (math.nan, 1), (1.0, 0), (1.0, 2.5), (1.0, True), (1.0, 1, 1.0),
     (1.0, 1, 0.0), (1.0, 1, "small"), (1.0, 1, 1e-5, 1.5)],
)  # fmt: skip
def test_senseless_numbers_have_no_epsilon(wrong: Any) -> None:
    pytest.importorskip("opacus")
    with pytest.raises(DefenseError):
        epsilon(*wrong)


@pytest.mark.parametrize("delta", [1e-3, 1e-8])
def test_epsilon_is_near_the_exact_one_of_the_gaussian_mechanism(delta: float) -> None:
    """Balle and Wang 2018, theorem 8: the delta of one release at epsilon, in closed form."""
    pytest.importorskip("opacus")
    claimed = defenses.LocalPrivacy(5.0, 2.0).epsilon(1, delta)
    normal, sigma = statistics.NormalDist().cdf, 2.0

    def spent(e: float) -> float:
        half = 1 / (2 * sigma)
        return normal(half - e * sigma) - math.exp(e) * normal(-half - e * sigma)

    assert spent(claimed) <= delta, "it promises more than there is"
    assert spent(0.8 * claimed) > delta, "it gives away a fifth"


def test_a_privacy_that_counts_no_batch_is_refused() -> None:
    front = nn.Sequential(nn.Linear(2, 2))
    for size in (0, 2.5, True):
        with pytest.raises(DefenseError, match="batch_size"):
            defenses.PrivateOptimizer(front, 1.0, 1.0, batch_size=size)
    pytest.importorskip("opacus")
    made = defenses.PrivateOptimizer(front, 1.0, 1.0)
    assert made.epsilon(1000, 10, 1e-8) > 1.1 * made.epsilon(1000, 10, 1e-3)
    with pytest.raises(DefenseError, match="samples"):
        made.epsilon(0, 10)


# ---- the mechanisms ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("defense", "deviation", "kurtosis"),
    [
        (defenses.GaussianNoise(0.7), 0.7, 3.0),
        (defenses.LaplaceNoise(0.7), 0.7 * math.sqrt(2), 6.0),
    ],
)
def test_noise_has_its_scale_and_shape(
    defense: defenses.Outgoing, deviation: float, kurtosis: float
) -> None:
    count = 400_000
    noise = defense("smashed", torch.zeros(count, 1)).flatten().double()
    assert abs(noise.mean().item()) < 5 * deviation / math.sqrt(count)
    assert noise.std().item() == pytest.approx(deviation, rel=0.01)
    fourth = (noise / noise.std()).pow(4).mean().item()
    assert fourth == pytest.approx(kurtosis, rel=0.05)


def test_the_mean_of_repeated_queries_loses_the_noise() -> None:
    z, defense = draw(2, 500), defenses.GaussianNoise(1.0)
    one = defense("smashed", z) - z
    many = torch.stack([defense("smashed", z) for _ in range(100)]).mean(0) - z
    assert many.std() == pytest.approx(one.std().item() / 10, rel=0.1)


@given(st.integers(0, 1000), st.floats(0.1, 10), st.integers(1, 5))
@settings(max_examples=30, deadline=None)
def test_clipping_bounds_every_sample_and_spares_the_small(
    seed: int, clip: float, count: int
) -> None:
    z = 3 * draw(count, 2, 3, seed=seed)
    defense = defenses.LocalPrivacy(clip, 1e-9)
    sent = defense("smashed", z)
    norms, before = sent.flatten(1).norm(dim=1), z.flatten(1).norm(dim=1)
    assert (norms <= clip * 1.0001 + 1e-5).all()
    small = before <= clip
    assert torch.allclose(sent[small], z[small], atol=1e-5)
    shown = nn.functional.cosine_similarity(sent.flatten(1), z.flatten(1))
    assert (shown > 0.999).all()


def test_the_client_learns_through_the_clipping() -> None:
    """A clipped sample has one length, so no gradient points along it."""
    z = (3 * draw(4, 6)).requires_grad_()
    sent = defenses.LocalPrivacy(1.0, 1e-9)("smashed", z)
    (sent * draw(4, 6, seed=1)).sum().backward()
    assert z.grad is not None
    assert (z.grad * z).sum(1).abs().max() < 1e-5 < z.grad.norm(dim=1).min()


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_what_cannot_be_clipped_or_rounded_is_refused(wrong: float) -> None:
    z = torch.tensor([[1.0, wrong]])
    for defense in (defenses.LocalPrivacy(1.0, 1.0), defenses.Quantisation(2)):
        with pytest.raises(DefenseError, match="diverged"):
            defense("smashed", z)


def test_the_noise_of_local_privacy_is_scaled_to_the_sensitivity() -> None:
    defense = defenses.LocalPrivacy(clip=0.5, multiplier=3.0)
    noise = defense("smashed", torch.zeros(1000, 100))
    assert noise.std().item() == pytest.approx(2 * 0.5 * 3.0, rel=0.02)


def test_epsilon_is_that_of_the_gaussian_mechanism() -> None:
    pytest.importorskip("opacus")
    defense = defenses.LocalPrivacy(1.0, 5.0)
    # RDP of n releases at order a is n·a / (2·s²); its best conversion lies below the classic one.
    classic = math.sqrt(10 / 25 * 2 * math.log(1e5)) + 10 / 50
    assert 0.5 * classic < defense.epsilon(10) <= classic
    assert defense.epsilon(1) < defense.epsilon(10) < defense.epsilon(100)
    assert defenses.LocalPrivacy(9.0, 5.0).epsilon(10) == defense.epsilon(10)
    with pytest.raises(DefenseError, match="releases"):
        defense.epsilon(0)


@given(st.integers(0, 1000), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_quantised_data_have_few_levels_and_are_near(seed: int, bits: int) -> None:
    z = draw(4, 50, seed=seed)
    sent = defenses.Quantisation(bits)("smashed", z)
    step = (z.max() - z.min()) / (2**bits - 1)
    levels = sent.unique().diff() > step / 2  # the same level may differ in its last bit
    assert levels.sum() < 2**bits
    assert (sent - z).abs().max() <= step / 2 + 1e-5


def test_a_constant_can_be_quantised() -> None:
    assert torch.equal(defenses.Quantisation(1)("smashed", torch.ones(2, 3)), torch.ones(2, 3))


def test_top_k_rounds_the_share_up() -> None:
    assert ((defenses.TopK(0.15)("smashed", draw(6, 10)) != 0).sum(1) == 2).all()


def test_top_k_keeps_the_largest_of_each_sample() -> None:
    z = draw(6, 20)
    sent = defenses.TopK(0.1)("smashed", z)
    assert ((sent != 0).sum(1) == 2).all()
    for row, kept in zip(z, sent, strict=True):
        assert set(row.abs().topk(2).indices.tolist()) == set(kept.nonzero().flatten().tolist())


@pytest.mark.parametrize(("epsilon", "classes"), [(0.5, 2), (2.0, 10)])
def test_randomised_response_answers_at_its_rates(epsilon: float, classes: int) -> None:
    defense, count = defenses.RandomisedResponse(epsilon, classes), 200_000
    sent = defense("labels", torch.zeros(count, dtype=torch.int64))
    rates = sent.bincount(minlength=classes).double() / count
    expected = math.exp(epsilon) / (math.exp(epsilon) + classes - 1)
    assert defense.truth == pytest.approx(expected)
    tolerance = 5 / math.sqrt(count)
    assert rates[0].item() == pytest.approx(expected, abs=tolerance)
    assert (rates[1:] - (1 - expected) / (classes - 1)).abs().max() < tolerance
    assert not torch.equal(sent, defense("labels", torch.zeros_like(sent))), "the same lies twice"
    # The promise: no answer is more than e^epsilon times as likely under one label as another.
    assert (rates[0] / rates[1:]).max() < math.exp(epsilon) * 1.1


# ---- NoPeek --------------------------------------------------------------------------------------


def test_nopeek_weighs_the_distance_correlation() -> None:
    x, z = draw(8, 3), draw(8, 4, seed=1)
    expected = 0.7 * defenses.distance_correlation(x, z).item()
    assert defenses.NoPeek(0.7)(x, z).item() == pytest.approx(expected)


def test_nopeek_has_the_gradient_it_should_have() -> None:
    x = draw(5, 3).double()
    z = draw(5, 4, seed=1).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda z: defenses.NoPeek(0.7)(x, z), z)


def test_distance_correlation_knows_copies_and_independence() -> None:
    x = draw(300, 5)
    assert defenses.distance_correlation(x, 2 * x + 1).item() == pytest.approx(1, abs=1e-4)
    rotation, _ = torch.linalg.qr(draw(5, 5, seed=2))
    assert defenses.distance_correlation(x, x @ rotation).item() == pytest.approx(1, abs=1e-3)
    square = defenses.distance_correlation(x[:, :1], x[:, :1].square()).item()
    apart = defenses.distance_correlation(x, draw(300, 5, seed=1)).item()
    assert apart < 0.4 < square  # Pearson's correlation of the first pair is about 0
    assert defenses.distance_correlation(x, torch.ones(300, 2)).item() < 1e-3


def test_distance_correlation_follows_its_definition() -> None:
    x, z = draw(6, 2).double(), draw(6, 3, seed=1).double()
    a, b = (torch.cdist(v, v) for v in (x, z))
    a, b = (d - d.mean(0) - d.mean(1, keepdim=True) + d.mean() for d in (a, b))
    expected = ((a * b).mean() / ((a * a).mean() * (b * b).mean()).sqrt()).sqrt()
    assert defenses.distance_correlation(x, z).item() == pytest.approx(expected.item(), rel=1e-6)


def test_nopeek_lowers_the_correlation_in_training() -> None:
    digits = data.load("digits").train[:300]
    found = []
    for options in ({}, {"penalty": defenses.NoPeek(5.0)}):
        front, rest = models.cut(models.mnist_net(1), "pool2")
        client = protocol.Client(front, **options)
        trained = protocol.train(client, protocol.Server(rest), digits, epochs=8, batch_size=32)
        z = trained.observe(digits.images).smashed
        found.append(defenses.distance_correlation(digits.images, z).item())
    assert found[1] < 0.9 * found[0]  # at pool1 it hardly moves: there is too little to learn


def test_one_image_alone_has_no_penalty() -> None:
    assert defenses.NoPeek(1.0)(draw(1, 3), draw(1, 2)).item() == 0
    with pytest.raises(DefenseError, match="at least 2"):
        defenses.distance_correlation(draw(1, 3), draw(1, 2))
    for wrong in (torch.arange(3), torch.tensor(1.0)):
        with pytest.raises(DefenseError, match="of floats"):
            defenses.distance_correlation(draw(3, 2), wrong)


# ---- DP-SGD on the client ------------------------------------------------------------------------


def private_client(clip: float, multiplier: float, **options: Any) -> protocol.Client:
    front = models.cut(models.mnist_net(1), "pool1")[0]
    optimizer = defenses.PrivateOptimizer(front, clip, multiplier, inner=sgd, **options)
    return protocol.Client(front, optimizer=optimizer)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1.0)


def one_step(client: protocol.Client, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return what a batch adds to the client's weights, as one vector."""
    before = nn.utils.parameters_to_vector(client.front.parameters()).clone()
    rest = models.cut(models.mnist_net(1), "pool1")[1]
    server = protocol.Server(rest)
    for message in client.open(images, labels):
        protocol.exchange(client, server, message, None)
    return nn.utils.parameters_to_vector(client.front.parameters()) - before


def test_dp_sgd_clips_the_gradient_of_each_sample() -> None:
    pytest.importorskip("opacus")
    some = split(8)
    free = [
        one_step(
            private_client(1e6, 1e-12, batch_size=1), some.images[i, None], some.labels[i, None]
        )
        for i in range(8)
    ]
    clip = torch.stack(free).norm(dim=1).median().item()
    assert clip < torch.stack(free).norm(dim=1).max()
    shares = [min(1.0, clip / step.norm().item()) for step in free]
    expected = sum(share * step for share, step in zip(shares, free, strict=True)) / 8
    found = one_step(private_client(clip, 1e-9, batch_size=8), some.images, some.labels)
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_noise_of_dp_sgd_is_scaled_to_the_clipping_norm() -> None:
    pytest.importorskip("opacus")
    some = split(4)
    quiet = one_step(private_client(0.5, 1e-9, batch_size=4), some.images, some.labels)
    noise = [
        one_step(private_client(0.5, 3.0, batch_size=4, seed=i), some.images, some.labels) - quiet
        for i in range(20)
    ]
    assert torch.cat(noise).std().item() == pytest.approx(3.0 * 0.5 / 4, rel=0.05)
    again = one_step(private_client(0.5, 3.0, batch_size=4, seed=0), some.images, some.labels)
    assert torch.equal(again - quiet, noise[0])


def test_dp_sgd_protects_no_message(tmp_path: Any) -> None:
    pytest.importorskip("opacus")
    front, rest = models.cut(models.mnist_net(1), "pool1")
    client = protocol.Client(front, optimizer=defenses.PrivateOptimizer(front, 1.0, 1.0))
    some = split(64)
    trained = protocol.train(client, protocol.Server(rest), some, epochs=1, record=True)
    start = models.cut(models.mnist_net(1), "pool1")[0]
    order = torch.randperm(64, generator=seeds.generator(0, "order"))
    sent = trained.transcript.view("server").smashed
    assert torch.allclose(sent, start(some.images[order]), atol=1e-6)
    view = trained.observe(some.images, grants=["client_model"])
    assert torch.equal(view.client_model(some.images), view.smashed)
    view.save(tmp_path / "view")


def test_inputs_can_be_searched_under_a_client_trained_with_dp_sgd() -> None:
    pytest.importorskip("opacus")
    front, rest = models.cut(models.mnist_net(1), "pool1")
    client = protocol.Client(front, optimizer=defenses.PrivateOptimizer(front, 1.0, 1.0))
    trained = protocol.train(client, protocol.Server(rest), split(64), epochs=1)
    few, others = split(4).images, torch.rand(8, 1, 28, 28)
    view = trained.observe(few, grants=["client_model"])
    found = KnownWeightsInversion(steps=150)(view)
    assert found.feature_loss < 0.1
    for given_front in (None, front):
        decoded = DecoderInversion(steps=2)(view, others, front=given_front)
        assert decoded.inputs.shape == few.shape


def test_accounting_reproduces_the_accountants_own_example() -> None:
    pytest.importorskip("opacus")
    # opacus/tests/accountants/accountants_test.py: multiplier 1.5, rate 0.04, 90 epochs
    assert epsilon(1.5, 2250, 1e-5, rate=0.04) == pytest.approx(7.32911117143)
    front = models.cut(models.mnist_net(1), "pool1")[0]
    private = defenses.PrivateOptimizer(front, 1.0, 1.5, batch_size=40)
    assert private.epsilon(1000, 2250) == pytest.approx(7.32911117143)
    with pytest.raises(DefenseError, match="rate"):
        epsilon(1.0, 1, rate=0.0)


def test_dp_sgd_refuses_batches_larger_than_it_accounts_for() -> None:
    pytest.importorskip("opacus")
    front, rest = models.cut(models.mnist_net(1), "pool1")
    optimizer = defenses.PrivateOptimizer(front, 1.0, 1.0, batch_size=32)
    client = protocol.Client(front, optimizer=optimizer)
    with pytest.raises(DefenseError, match="batch of 64 images, and DP-SGD was told of 32"):
        protocol.train(client, protocol.Server(rest), split(), epochs=1)
    protocol.train(client, protocol.Server(rest), split(), epochs=1, batch_size=32).observe(
        split().images  # an inference may be larger: nothing is learned from it
    )


def test_dp_sgd_is_for_the_front_alone() -> None:
    pytest.importorskip("opacus")
    front, _, head = models.cut(models.mnist_net(1), ("pool1", "relu4"))
    with pytest.raises(DefenseError, match="vanilla client"):
        protocol.Client(front, head, optimizer=defenses.PrivateOptimizer(front, 1.0, 1.0))
    protocol.Client(front, optimizer=defenses.PrivateOptimizer(front, 1.0, 1.0))
    with pytest.raises(DefenseError, match="cut a new network"):
        protocol.Client(front, optimizer=defenses.PrivateOptimizer(front, 1.0, 1.0))


# ---- a client that would be left alone ---------------------------------------------------------


@pytest.mark.parametrize(
    ("label_private", "options"),
    [
        (True, {"outgoing": defenses.RandomisedResponse(1.0, 10)}),
        (False, {"outgoing": defenses.MaxNorm()}),
        (False, {"outgoing": defenses.Compose(defenses.TopK(0.1), defenses.MaxNorm())}),
        (False, {"returning": defenses.Marvell(1.0)}),
    ],
)
def test_a_defence_that_would_do_nothing_is_refused(label_private: bool, options: Any) -> None:
    front, _, head = models.cut(models.mnist_net(1), ("pool1", "relu4"))
    parts = (front, head) if label_private else (front,)
    with pytest.raises(ProtocolError, match="would do nothing: a client with"):
        protocol.Client(*parts, **options)
    protocol.Client(*((front,) if label_private else (front, head)), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"outgoing": "noise"},
        {"outgoing": defenses.GaussianNoise},
        {"outgoing": [defenses.GaussianNoise(1.0)]},
        {"penalty": defenses.NoPeek},
        {"detector": detectors.SplitGuard},
        {"detector": "SplitGuard"},
    ],
)
def test_a_hook_that_cannot_be_used_is_refused_by_name(options: Any) -> None:
    front, _ = models.cut(models.mnist_net(1), "pool1")
    with pytest.raises(ProtocolError, match=f"{next(iter(options))} must be a function or an obj"):
        protocol.Client(front, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"outgoing": lambda kind, tensor: None}, "outgoing must return a tensor, not None"),
        ({"penalty": lambda images, z: 0.5}, "penalty must return a tensor, not 0.5"),
        ({"penalty": defenses.GaussianNoise(1.0)}, "penalty must return one number"),
    ],
)
def test_what_a_hook_returns_is_checked(options: Any, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        session(**options)


def test_labels_that_the_network_has_no_output_for_are_named() -> None:
    for kind in (RuntimeError, IndexError):
        assert not issubclass(ProtocolError, kind)
    front, rest = models.cut(models.mnist_net(1), "pool1")
    some = split(20)
    strange = Split(some.images, some.labels + 5)
    with pytest.raises(ProtocolError, match="no loss of an output of shape .20, 10."):
        protocol.train(front, rest, strange, epochs=1)


# ---- bad settings --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: defenses.GaussianNoise(0),
        lambda: defenses.GaussianNoise(math.nan),
        lambda: defenses.LaplaceNoise(-1),
        lambda: defenses.LocalPrivacy(True, 1.0),
        lambda: defenses.Quantisation(0),
        lambda: defenses.Quantisation(2.5),  # type: ignore[arg-type]
        lambda: defenses.TopK(1.5),
        lambda: defenses.RandomisedResponse(1.0, 1),
        lambda: defenses.NoPeek("much"),  # type: ignore[arg-type]
    ],
)
def test_senseless_settings_are_refused(make: Callable[[], Any]) -> None:
    with pytest.raises(DefenseError, match="must be"):
        make()


def test_every_defence_says_what_it_promises_and_what_not() -> None:
    for name in defenses.__all__:
        found = getattr(defenses, name)
        if isinstance(found, type) and name not in ("Outgoing", "Compose"):
            assert len(found.promises) > 10 and len(found.leaves) > 10, name


@pytest.mark.proofs
@pytest.mark.slow
def test_the_default_experiment_takes_a_defended_client() -> None:
    """Noise costs UnSplit quality: its error grows with the scale."""
    digits = data.load("digits")
    targets = experiments.first_targets(digits, 5).images
    errors = []
    for scale in (0.05, 2.0):
        front, rest = models.cut(models.mnist_net(2), "pool1")
        client = protocol.Client(front, outgoing=defenses.GaussianNoise(scale))
        victim = protocol.train(client, protocol.Server(rest), digits.train, epochs=3)
        found = UnSplit(steps=300)(victim.observe(targets))
        errors.append(metrics.mse(found.inputs, targets).median().item())
    assert errors[1] > 2 * errors[0]
