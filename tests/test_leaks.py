"""Leaks of a rare class through dL/du, and the defences against them."""

import math
import statistics
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sltools import data, defenses, metrics, models, protocol, seeds
from sltools.attacks import GradientLeak
from sltools.attacks.leaks import near_rms, whitened_line
from sltools.data import Split
from sltools.defenses.gradients import plan_noise
from sltools.errors import AttackError, DataError, DefenseError, NotObservable
from sltools.messages import Message
from sltools.view import View


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=seeds.generator(seed, "test"))


def rare_class(seed: int = 0, **options: Any) -> tuple[View, Tensor]:
    """Train on "is it a 3?" and return the server's view, with anchors, and the labels in order."""
    digits = data.load("digits").train[:960]
    split = Split(digits.images, (digits.labels == 3).long())
    net = models.mnist_net(seed)
    with seeds.scope(seed, "head"):
        net.fc3 = nn.Linear(84, 2)
    front, middle, head = models.cut(net, ("pool1", "relu4"))
    client = protocol.Client(front, head, **options)
    server = protocol.Server(middle, label_private=True)
    trained = protocol.train(client, server, split, epochs=1, seed=seed, record=True)
    labels = torch.cat([page["labels"] for page in trained.transcript.client_log.values()])
    return trained.transcript.view("server", ["anchor_labels"]), labels


def auc(rule: str, view: View, labels: Tensor) -> float:
    """The mean over the batches of 64: from batch to batch the client's certainty changes."""
    scores = GradientLeak(rule)(view).scores
    found = [
        metrics.leak_auc(some, truth)
        for some, truth in zip(scores.split(64), (labels == 1).split(64), strict=True)
        if 0 < truth.sum() < len(truth)
    ]
    return sum(found) / len(found)


# ---- the attack ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["norm", "cosine"])
def test_gradients_tell_a_rare_class(rule: str) -> None:
    view, labels = rare_class()
    assert auc(rule, view, labels) > 0.8
    shuffled = labels[torch.randperm(len(labels), generator=seeds.generator(0, "shuffle"))]
    assert abs(auc(rule, view, shuffled) - 0.5) < 0.2


def test_the_leak_says_what_it_knows() -> None:
    view, _ = rare_class()
    assert GradientLeak("norm")(view).knowledge == ("feature gradient",)
    assert GradientLeak("cosine")(view).knowledge == ("anchor labels (granted)", "feature gradient")
    with pytest.raises(AttackError, match="anchor of class 7"):
        GradientLeak("cosine", positive_class=7)(view)
    with pytest.raises(AttackError, match="rule is one of"):
        GradientLeak("length")


def gradients_view(*batches: Tensor) -> View:
    return View("server", [Message(i, i, "feature_gradient", g) for i, g in enumerate(batches)])


def test_the_norms_are_those_of_single_samples_whatever_the_batch() -> None:
    g = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    scores = GradientLeak("norm")(gradients_view(g / 2, g[:1])).scores
    assert scores.tolist() == pytest.approx([5.0, 1.0, 5.0])


def test_bad_gradients_are_refused() -> None:
    with pytest.raises(AttackError, match="diverged"):
        GradientLeak("norm")(gradients_view(torch.tensor([[math.nan]])))
    with pytest.raises(NotObservable, match="anchor_labels"):
        GradientLeak("cosine")(gradients_view(torch.ones(2, 2)))
    with pytest.raises(NotObservable, match="train with record=True"):
        GradientLeak("norm")(gradients_view())


def test_leak_auc_on_examples() -> None:
    positive = torch.tensor([True, True, False, False])
    assert metrics.leak_auc(torch.tensor([3.0, 1.0, 2.0, 0.0]), positive) == 0.75
    assert metrics.leak_auc(torch.tensor([0.0, 0.0, 0.0, 0.0]), positive) == 0.5
    for wrong in (torch.ones(4, dtype=torch.bool), positive[:3]):
        with pytest.raises(DataError, match="both classes"):
            metrics.leak_auc(torch.zeros(4), wrong)
    with pytest.raises(DataError, match="NaN"):
        metrics.leak_auc(torch.full((4,), math.nan), positive)


def test_the_whitened_line_is_fishers_discriminant() -> None:
    """Two normal classes 2 apart along the first axis, in noise that is shared with the second."""
    classes = torch.arange(2).repeat(500)
    noise = draw(1000, 3)
    noise[:, 0] += 4 * noise[:, 1]  # along the line of the means: 4.1 times the gap
    gradients = noise + 2 * classes[:, None] * torch.tensor([1.0, 0, 0])
    line = torch.tensor([1.0, 0, 0])
    best = torch.distributions.Normal(0, 1).cdf(torch.tensor(2 / math.sqrt(2))).item()  # 0.92
    positive = classes == 1
    plain = metrics.leak_auc(gradients @ line, positive)
    white = metrics.leak_auc(whitened_line(gradients, line), positive)
    assert plain < 0.7 < 0.9 < white < best + 0.02


def test_the_whitened_line_takes_odd_batches_and_refuses_broken_ones() -> None:
    for g in (
        draw(1, 3),
        draw(2, 3),
        draw(3, 1),
        torch.ones(4, 3),
        torch.zeros(4, 3),
        draw(5, 2, 2),
    ):
        scores = whitened_line(g, draw(g[0].numel(), seed=1))
        assert scores.shape == g.shape[:1] and scores.isfinite().all()
    with pytest.raises(AttackError, match="diverged"):
        whitened_line(torch.tensor([[math.nan], [1.0]]), torch.ones(1))


def test_near_rms_scores_the_distance_to_the_rms_length() -> None:
    g = torch.tensor([[3.0, 4.0], [-1.0, 0.0], [0.0, 7.0]])  # lengths 5, 1, 7: RMS 5
    assert near_rms(g).tolist() == pytest.approx([0, -4, -2])
    assert near_rms(g, torch.tensor([2.0, 0.0])).tolist() == pytest.approx([-2, -6, -5])
    assert near_rms(g.view(3, 2, 1)).tolist() == near_rms(g).tolist()
    assert near_rms(torch.zeros(2, 2), torch.zeros(2)).tolist() == [0, 0]
    with pytest.raises(AttackError, match="diverged"):
        near_rms(torch.tensor([[math.nan], [1.0]]))


# ---- MaxNorm -------------------------------------------------------------------------------------


def test_max_norm_makes_all_norms_equal_on_average_and_keeps_the_line() -> None:
    g = draw(4, 5) * torch.tensor([[0.1], [1.0], [3.0], [0.0]])
    defense = defenses.MaxNorm()
    sent = torch.stack([defense("feature_gradient", g) for _ in range(4000)])
    squares = sent.square().sum(2).mean(0)
    longest = g.square().sum(1).max()
    assert torch.allclose(squares[:3], longest.expand(3), rtol=0.15)
    assert (sent[:, 3] == 0).all()
    assert torch.allclose(sent[:, 2], g[2].expand(4000, -1))  # the longest stays as it is
    lines = torch.cosine_similarity(sent[:, :3], g[:3].expand(4000, -1, -1), dim=2).abs()
    assert (lines > 0.999).all()
    assert torch.allclose(sent.mean(0)[:3], g[:3], atol=0.3)  # unbiased


def max_norm_leaks(outputs: int, seed: int) -> dict[str, float]:
    """Mean leak AUCs of the second epoch, under max-norm, of a head with so many outputs."""
    digits = data.load("digits").train[:640]
    split = Split(digits.images, (digits.labels == 0).long())
    net = models.mnist_net(seed)
    with seeds.scope(seed, "head"):
        net.fc3 = nn.Linear(84, outputs)
    front, middle, head = models.cut(net, ("pool1", "relu4"))
    lines = []

    def returning(gradient: Tensor, labels: Tensor) -> Tensor:
        lines.append(gradient[labels == 1].mean(0) - gradient[labels == 0].mean(0))
        return gradient

    client = protocol.Client(front, head, returning=returning, outgoing=defenses.MaxNorm(seed))
    server = protocol.Server(middle, label_private=True)
    transcript = protocol.train(client, server, split, epochs=2, seed=seed, record=True).transcript
    truths = [page["labels"] == 1 for page in transcript.client_log.values()]
    view = transcript.view("server", ["anchor_labels"])
    sent = view.payloads("feature_gradient")
    scores = {
        "near": [near_rms(g) for g in sent],
        "near line": [near_rms(g, line) for g, line in zip(sent, lines, strict=True)],
        "cosine": GradientLeak("cosine")(view).scores.split(64),
        "line": [g @ line for g, line in zip(sent, lines, strict=True)],
        "whitened": [whitened_line(g, line) for g, line in zip(sent, lines, strict=True)],
    }
    late = [i for i in range(len(sent) // 2, len(sent)) if 0 < truths[i].sum() < len(truths[i])]
    return {
        name: statistics.fmean(metrics.leak_auc(found[i], truths[i]) for i in late)
        for name, found in scores.items()
    }


@pytest.mark.parametrize("seed", [0, 1])
def test_max_norm_hides_a_class_of_ten_outputs_from_no_attacker_who_whitens(seed: int) -> None:
    ten, two = (max_norm_leaks(outputs, seed) for outputs in (10, 2))
    assert ten["line"] < 0.95
    assert min(ten["whitened"], ten["cosine"]) > 0.99
    assert two["whitened"] == pytest.approx(two["line"], abs=0.01) and two["line"] < 0.9  # one line
    assert min(ten["near"], two["near"]) > 0.75 and two["near line"] > 0.88  # long ones stay close


# ---- Marvell -------------------------------------------------------------------------------------

spread = st.floats(0.001, 2)


def on_a_grid(
    gap: float, spreads: tuple[float, float], dimension: int, share: float, power: float
) -> float:
    """The least divergence over 60,000 ways to spend the power, some of them on one or two ends."""
    generator = torch.Generator().manual_seed(0)
    ways = torch.empty(60_000, 4, dtype=torch.float64).exponential_(generator=generator)
    ways *= torch.rand(ways.shape, generator=generator, dtype=torch.float64) < 0.7
    ways = ways[ways.sum(1) > 0]
    weights = torch.tensor([1 - share, share, (1 - share) * dimension, share * dimension])
    along0, along1, across0, across1 = (power * ways / ways.sum(1, keepdim=True) / weights).T
    a0, a1 = spreads[0] + along0 + across0, spreads[1] + along1 + across1
    c0, c1 = spreads[0] + across0, spreads[1] + across1
    line = (a0 + gap) / a1 + (a1 + gap) / a0 - 2
    return float(((line + (dimension - 1) * (c0 / c1 + c1 / c0 - 2)) / 2).min())


@given(
    st.floats(0.05, 4), spread, spread, st.integers(1, 40), st.floats(0.02, 0.9), st.floats(0.1, 8)
)
@settings(max_examples=40, deadline=None)
def test_marvells_optimum_is_not_beaten_by_a_grid(
    gap: float, u: float, v: float, dimension: int, share: float, strength: float
) -> None:
    power = strength * gap
    plan = plan_noise(gap, (u, v), dimension, share, power)
    best = on_a_grid(gap, (u, v), dimension, share, power)
    assert plan.divergence <= best * 1.0001
    assert plan.divergence >= 0.5 * best - 1e-9 or best > 0.05  # the grid comes near
    spent = sum(
        weight * (along + (dimension - 1) * across)
        for weight, along, across in zip((1 - share, share), plan.along, plan.across, strict=True)
    )
    assert spent <= power * 1.0001
    pairs = list(zip(plan.along, plan.across, strict=True))
    assert all(along >= across * 0.9999 >= 0 for along, across in pairs)


def test_the_divergence_is_that_of_two_normal_distributions() -> None:
    plan = plan_noise(2.0, (0.3, 0.7), 3, 0.2, 5.0)
    normals = []
    for mean, spread, along, across in zip(
        (0.0, math.sqrt(2.0)), (0.3, 0.7), plan.along, plan.across, strict=True
    ):
        location = torch.tensor([mean, 0.0, 0.0]).double()
        variances = torch.tensor([along, across, across]).double() + spread
        normals.append(torch.distributions.MultivariateNormal(location, variances.diag()))
    kl = torch.distributions.kl_divergence
    total = kl(normals[0], normals[1]) + kl(normals[1], normals[0])
    assert plan.divergence == pytest.approx(total.item(), rel=1e-6)


def test_the_bound_on_the_leak_holds_for_the_best_test_of_two_normals() -> None:
    """Where the spreads are equal, the best test is linear and has an AUC of Φ(√(ε / 2))."""
    for gap in (0.1, 0.5, 1.0, 2.0, 3.5):
        plan = plan_noise(gap, (1.0, 1.0), 1, 0.5, 1e-12)
        best = torch.distributions.Normal(0, 1).cdf(torch.tensor(math.sqrt(gap / 2))).item()
        assert plan.divergence == pytest.approx(gap, rel=1e-6)
        assert 0.5 < best <= plan.auc_bound < 1
    assert plan_noise(9.0, (1.0, 1.0), 1, 0.5, 1e-12).auc_bound == 1.0


def test_marvells_noise_has_the_planned_variances() -> None:
    generator = seeds.generator(0, "gradients")
    labels = torch.tensor([0, 0, 0, 1]).repeat(16)
    g = torch.randn(64, 3, generator=generator) * 0.2
    g[labels == 1] += torch.tensor([2.0, 0.0, 0.0])
    defense = defenses.Marvell(strength=2.0)
    noise = torch.stack([defense(g, labels) - g for _ in range(1000)])
    assert defense.plan is not None
    means = [g[labels == c].mean(0) for c in (0, 1)]
    line = (means[1] - means[0]) / (means[1] - means[0]).norm()
    for c in (0, 1):
        some = noise[:, labels == c].flatten(0, 1)
        along = some @ line
        across = some - along[:, None] * line
        assert along.var().item() == pytest.approx(defense.plan.along[c], rel=0.05, abs=1e-6)
        expected = 2 * defense.plan.across[c]
        assert across.square().sum(1).mean().item() == pytest.approx(expected, rel=0.05, abs=1e-6)
    power = noise.square().sum(2).mean().item()
    assert power == pytest.approx(2.0 * (means[1] - means[0]).square().sum().item(), rel=0.05)


def test_marvells_plan_is_of_the_class_and_the_batch_at_hand() -> None:
    """Three classes of which the second lies apart along one axis, the third along another."""
    labels = torch.arange(3).repeat(20)
    for positive, axis in ((1, 1), (2, 0)):
        g = draw(60, 3) * 0.2
        g[labels == 1, 1] += 2
        g[labels == 2, 0] += 2
        defense = defenses.Marvell(0.01, positive_class=positive)
        for size in (1.0, 10.0):
            defense(size * g, labels)
            ours, others = (size * g[labels == positive], size * g[labels != positive])
            gap = (ours.mean(0) - others.mean(0)).square().sum().item()
            spreads = [(part - part.mean(0)).square().mean().item() for part in (others, ours)]
            expected = plan_noise(gap, (spreads[0], spreads[1]), 3, 1 / 3, 0.01 * gap)
            assert defense.plan is not None
            assert defense.plan.along == pytest.approx(expected.along, rel=1e-3, abs=1e-9)
            assert defense.plan.divergence == pytest.approx(expected.divergence, rel=1e-3)
        assert defense._line is not None and defense._line.abs().argmax() == axis


def test_before_there_is_a_plan_nothing_is_told() -> None:
    """Batches of one, or without the class, would otherwise go out as they are."""
    defense, g = defenses.Marvell(1.0), draw(8, 3)
    for row, label in zip(g, torch.ones(8), strict=True):
        assert not defense(row[None], label[None]).any()
    assert defense.plan is None


def test_a_batch_of_one_class_gets_the_noise_of_the_batch_before() -> None:
    defense, g = defenses.Marvell(1.0), draw(8, 3)
    ones, mixed = torch.ones(8), torch.tensor([0, 1] * 4)
    defense(g, mixed)
    assert not torch.equal(defense(g, ones), g)


def test_marvell_takes_odd_batches() -> None:
    labels = torch.tensor([0, 1])
    for g in (draw(2, 3), torch.zeros(2, 3), draw(2, 1), draw(2, 2, 2)):
        sent = defenses.Marvell(1.0)(g, labels)
        assert sent.shape == g.shape and sent.isfinite().all()


@pytest.mark.parametrize(
    ("options", "most"),
    [({"outgoing": defenses.MaxNorm()}, 0.8), ({"returning": defenses.Marvell(4.0)}, 0.65)],
)
def test_the_leak_shrinks_under_the_defences(options: Any, most: float) -> None:
    view, labels = rare_class(**options)
    assert 1 - most < auc("norm", view, labels) < most
    (defense,) = options.values()
    if isinstance(defense, defenses.Marvell):
        assert defense.plan is not None and defense.plan.auc_bound < 0.8


@pytest.mark.parametrize(
    "make",
    [
        lambda: defenses.Marvell(0),
        lambda: defenses.Marvell(math.nan),
        lambda: defenses.Marvell(1.0, positive_class="a"),  # type: ignore[arg-type]
    ],
)
def test_senseless_settings_are_refused(make: Any) -> None:
    with pytest.raises(DefenseError, match="must be"):
        make()
