"""Detectors of a malicious server: their formulas, their neutrality, and what they find."""

import dataclasses
import math
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks import record_detection
from sltools import data, models, seeds
from sltools.attacks import Hijacking, HijackingServer, UnSplit
from sltools.defenses import NoPeek, PrivateOptimizer
from sltools.detectors import Detector, LabelGap, Scrutinizer, SplitGuard, SplitOut
from sltools.detectors.scrutinizer import Pairs, fit_error, gap, honesty, overlap, similarities
from sltools.detectors.splitguard import GradientSet, angle, contrast
from sltools.detectors.splitout import honest_gradients
from sltools.errors import DefenseError
from sltools.messages import Message
from sltools.models import Architecture
from sltools.protocol import Client, Server, Session, adam, train
from tests.parties import U_CUT, noise_split, parties, record_of, run, same, weights

few = settings(deadline=None, max_examples=50)
CUTS = ["pool1", U_CUT]
NOBODY = torch.zeros(1)


class Listed(Detector):
    """Says what it was told to, one suspicion after the other, and keeps what it saw."""

    def __init__(self, suspicions: Any = (), window: int = 1, threshold: float = 0.5) -> None:
        super().__init__(window, threshold)
        self._next = iter(suspicions)
        self.seen: list[dict[str, Any]] = []

    def judge(self, labels: Tensor, cut_gradient: Tensor, weight_gradient: Tensor, probe: bool):
        self.seen.append({"labels": labels, "cut": cut_gradient, "weight": weight_gradient})
        self.seen[-1]["probe"] = probe
        return next(self._next, None)


class Prober(Listed):
    """Probes every other batch, from the second, with all labels 1."""

    def probe(self, labels: Tensor) -> Tensor | None:
        return torch.ones_like(labels) if self._batch_count % 2 else None


def watch(detector: Detector, times: int) -> Detector:
    for _ in range(times):
        detector.watch(NOBODY, NOBODY, NOBODY, probe=False)
    return detector


def gradient_set(*gradients: list[float]) -> GradientSet:
    made = GradientSet()
    for gradient in gradients:
        made.add(torch.tensor(gradient))
    return made


# --- The base class -------------------------------------------------------------------------------


def test_a_score_is_the_mean_of_the_last_suspicions() -> None:
    detector = watch(Listed([None, 0.25, 0.75, None, 1.0, 0.0], window=2), 6)
    assert detector.scores == [0.5, 0.5, 0.875, 0.5]
    assert detector.batches == range(2, 6)
    assert detector.alarms == [4]  # 0.5 is not above 0.5
    assert detector.raised_at == 4


def test_without_a_score_there_is_no_alarm() -> None:
    detector = watch(Listed([1.0, 1.0], window=3), 5)
    assert (detector.scores, detector.alarms, detector.raised_at) == ([], [], None)
    assert detector.batches == range(5, 5)


@pytest.mark.parametrize("suspicion", [math.nan, math.inf])
def test_a_suspicion_that_is_no_number_is_an_alarm(suspicion: float) -> None:
    assert watch(Listed([suspicion]), 1).raised_at == 0


def test_a_detector_shows_its_settings_and_what_it_found() -> None:
    assert repr(Scrutinizer()) == (
        "Scrutinizer(window=10, threshold=0.8, warmup=50): no alarm in 0 batches"
    )
    alarmed = repr(watch(SplitGuard(), 3))
    assert alarmed.startswith("SplitGuard(window=5, threshold=0.4, probability=0.1, warmup=20, ")
    assert alarmed.endswith(": no alarm in 3 batches")
    assert repr(watch(Listed([0, 1]), 4)).endswith(": alarm at batch 1 in 4 batches")


@pytest.mark.parametrize(
    ("make", "wrong"),
    [
        (lambda: Scrutinizer(window=0), "window"),
        (lambda: Scrutinizer(window=1.5), "window"),  # type: ignore[arg-type]
        (lambda: Scrutinizer(threshold=1), "threshold"),
        (lambda: Scrutinizer(threshold=math.nan), "threshold"),
        (lambda: Scrutinizer(threshold="high"), "threshold"),  # type: ignore[arg-type]
        (lambda: Scrutinizer(threshold=-0.1), "threshold"),
        (lambda: Scrutinizer(warmup=-1), "warmup"),
        (lambda: SplitGuard(warmup=-1), "warmup"),
        (lambda: SplitGuard(changed=0), "changed"),
        (lambda: SplitGuard(classes=2.5), "classes"),  # type: ignore[arg-type]
        (lambda: SplitGuard(probability="often"), "probability"),  # type: ignore[arg-type]
        (lambda: SplitGuard(probability=0), "probability"),
        (lambda: SplitGuard(probability=1), "probability"),
        (lambda: SplitGuard(classes=1), "classes"),
        (lambda: SplitGuard(slope=0), "slope"),
        (lambda: SplitGuard(power=-1), "power"),
        (lambda: SplitOut(models.mnist_net(), noise_split(200), share=0), "share"),
        (lambda: SplitOut(models.mnist_net(), noise_split(200), share="all"), "share"),  # type: ignore[arg-type]
        (lambda: SplitOut(models.mnist_net(), noise_split(200), epochs=0), "epochs"),
        (lambda: SplitOut(models.mnist_net(), noise_split(200), batch_size=0), "batch_size"),
        (lambda: SplitOut(models.mnist_net(), noise_split(200), share=1.1), "share"),
        (lambda: SplitOut(models.mnist_net(), noise_split(64), share=1), "1 batches of 64"),
        (lambda: SplitOut(models.mnist_net(), noise_split(11)), "without two: take more"),
    ],
)
def test_senseless_settings_are_refused(make: Any, wrong: str) -> None:
    with pytest.raises(DefenseError, match=wrong):
        make()


# --- SplitGuard -----------------------------------------------------------------------------------


def test_the_angle_between_two_vectors() -> None:
    assert angle(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])) == pytest.approx(1.5707963)
    assert angle(torch.tensor([1.0, 1.0]), torch.tensor([3.0, 0.0])) == pytest.approx(0.7853982)
    third = torch.full((3,), 1 / 3)
    assert angle(third, third) == pytest.approx(0, abs=1e-3)  # its cosine may round to above 1
    assert angle(third, -third) == pytest.approx(math.pi, abs=1e-3)
    assert angle(third, torch.zeros(3)) == 0
    assert math.isnan(angle(third, third * math.inf))


def test_the_contrast_of_three_sets() -> None:
    # θ(F, R) = 90°, d = |4 - 2|; θ(R1, R2) = 0°, d = |1 - 3|: a half of a right angle.
    assert contrast(
        gradient_set([0, 4]), gradient_set([1, 0]), gradient_set([3, 0])
    ) == pytest.approx(0.7853982)
    # θ(F, R) = 0°, d = |3 - 1.5| = 1.5; θ(R1, R2) = 90°, d = |1 - 2| = 1: -1/2.5 right angles.
    turned = contrast(gradient_set([3, 1.5], [3, 1.5]), gradient_set([2, 0]), gradient_set([0, 1]))
    norm = math.hypot(3, 1.5)
    assert turned == pytest.approx(-1.5707963 / (norm - 1.5 + 1))
    # Gradients that cancel have norms, but no direction.
    assert contrast(
        gradient_set([5, 0], [-5, 0]), gradient_set([1, 0]), gradient_set([0, 1])
    ) == pytest.approx(0)
    assert contrast(gradient_set([0, 0]), gradient_set([0, 0]), gradient_set([0, 0])) == 0


def test_splitguards_score_is_that_of_the_papers_code() -> None:
    guard = SplitGuard(warmup=0, window=1)
    guard._first, guard._second = gradient_set([1, 0]), gradient_set([3, 0])
    guard.watch(NOBODY, NOBODY, torch.tensor([[0.0], [4.0]]), probe=True)
    # 1 - (1 + exp(-5 · 0.7853982))^-2
    assert guard.scores == [pytest.approx(0.0382710)]
    blind = SplitGuard(warmup=0, window=1)
    blind._first, blind._second = gradient_set([0, 0]), gradient_set([0, 0])
    blind.watch(NOBODY, NOBODY, torch.zeros(2), probe=True)
    assert blind.scores == [0.75]
    assert blind.raised_at == 0


def test_the_sets_are_drawn_at_random_and_not_in_turns() -> None:
    guard = SplitGuard(warmup=0)
    lead = []
    for _ in range(50):
        watch(guard, 1)
        lead.append(abs(guard._first.size - guard._second.size))
    assert max(lead) > 1


def test_a_probe_of_unknown_labels_is_refused() -> None:
    guard = SplitGuard(probability=0.999, warmup=0, classes=3)
    with pytest.raises(DefenseError, match="a label 7, and SplitGuard was told of 3 classes"):
        guard.probe(torch.tensor([0, 7]))


def test_a_probe_shifts_the_first_labels_by_one_number() -> None:
    guard, labels = SplitGuard(warmup=0, changed=64, probability=0.5), torch.arange(80) % 10
    found = [probe for probe in (guard.probe(labels) for _ in range(400)) if probe is not None]
    shifts = set()
    for probe in found:
        moved = (probe - labels) % 10
        assert len(set(moved[:64].tolist())) == 1
        assert not moved[64:].any()
        shifts.add(moved[0].item())
    assert shifts == set(range(1, 10))
    assert 150 < len(found) < 250
    assert torch.equal(labels, torch.arange(80) % 10), "the client's own labels must stay"


def test_splitguard_sends_no_probe_before_its_warmup_is_over() -> None:
    guard = SplitGuard(warmup=20, probability=0.99)
    for batch in range(25):
        probe = guard.probe(torch.zeros(4, dtype=torch.long))
        assert (probe is None) == (batch < 20)
        guard.watch(NOBODY, NOBODY, torch.rand(3), probe=probe is not None)
    assert guard._false.size == 5
    assert guard._first.size + guard._second.size == 0


def test_splitguard_divides_regular_batches_at_random() -> None:
    guard = watch(SplitGuard(warmup=10), 410)
    assert guard._first.size + guard._second.size == 400
    assert 150 < guard._first.size < 250
    assert guard.scores == []


def test_splitguards_draws_come_from_its_own_seed() -> None:
    def probes(seed: int) -> list[bool]:
        guard = SplitGuard(warmup=0, seed=seed)
        return [guard.probe(torch.zeros(2)) is None for _ in range(100)]

    assert probes(0) == probes(0) != probes(1)


@few
@given(
    st.lists(st.lists(st.floats(-10, 10, width=32), min_size=3, max_size=3), min_size=3, max_size=9)
)
def test_the_contrast_stays_between_two_straight_angles(rows: list[list[float]]) -> None:
    value = contrast(gradient_set(*rows[2:]), gradient_set(rows[0]), gradient_set(rows[1]))
    assert -math.pi <= value <= math.pi
    scaled = [[1000 * x for x in row] for row in rows]
    larger = contrast(gradient_set(*scaled[2:]), gradient_set(scaled[0]), gradient_set(scaled[1]))
    assert larger == pytest.approx(value, abs=1e-3), "a server cannot hide by scaling gradients"


# --- The scrutinizer ------------------------------------------------------------------------------


def test_similarities_of_pairs_of_one_label_and_of_two() -> None:
    gradients = torch.tensor([[1.0, 0.0], [9.0, 0.0], [0.0, 1e-20], [-1.0, 0.0]])
    # one label: 1 and ½; two labels: ½, 0, ½, 0
    found = similarities(gradients[:, :, None], torch.tensor([3, 3, 8, 8]))
    assert found == pytest.approx((0.75, 0.25, 0.25, 0.25))
    assert similarities(gradients, torch.tensor([1, 2, 3, 4])) is None
    assert similarities(gradients, torch.tensor([1, 1, 1, 1])) is None
    assert similarities(gradients[:1], torch.tensor([1])) is None
    zeros = similarities(torch.zeros(4, 2), torch.tensor([3, 3, 8, 8]))
    assert zeros == (0.5, 0.5, 0, 0)


def test_gap_and_overlap_of_two_bands() -> None:
    assert gap(Pairs(0.75, 0.25, 0, 0)) == 0.5
    assert gap(Pairs(0.25, 0.75, 0, 0)) == -0.5
    assert gap(Pairs(0, 0, 0, 0)) == 0
    assert overlap(Pairs(0.75, 0.25, 0.25, 0.25)) == 0  # [½, 1] and [0, ½]
    assert overlap(Pairs(0.75, 0.5, 0.25, 0.25)) == pytest.approx(1 / 3)  # [½, 1] and [¼, ¾]
    assert overlap(Pairs(0.5, 0.5, 0.5, 0.125)) == 0.25  # [0, 1] and [⅜, ⅝]
    assert overlap(Pairs(0.5, 0.5, 0, 0)) == 1
    assert overlap(Pairs(0.75, 0.25, 0, 0)) == 0


def test_the_fit_error_is_what_a_parabola_leaves() -> None:
    parabola = [Pairs(0.3 + 0.1 * t - 0.02 * t * t, 0.5, 0, 0) for t in range(9)]
    assert fit_error(parabola) == pytest.approx(0, abs=1e-12)
    # (0, 0, 0, 1) leaves (1, -3, 3, -1)/20, of norm 1/√20 and rms 1/√80; the other series nothing.
    jump = [Pairs(float(t == 3), 0.5, 0, 0) for t in range(4)]
    assert fit_error(jump) == pytest.approx(1 / math.sqrt(80) / 2)
    assert math.isnan(fit_error([Pairs(math.nan, 0.5, 0, 0)] * 4))


def test_honesty_by_numbers() -> None:
    # 0.5^0.2 · -log(exp(-3)) · -log(exp(-1)) = 0.8705506 · 3 · 1
    assert honesty(0.5, 0, 0) == pytest.approx(1 / (1 + math.exp(-6 * (2.6116517 - 0.7))))
    # 0.2^0.2 · 0.6990 · 0.3548 = 0.7248 · 0.2480
    assert honesty(0.2, 1 / 3, 0.05) == pytest.approx(0.0419089, abs=1e-6)
    assert honesty(-0.2, 1 / 3, 0.05) == pytest.approx(0.0051145, abs=1e-6)
    assert honesty(0, 1, 0) == pytest.approx(0.0147740, abs=1e-6)  # sigmoid(-4.2)


@few
@given(st.floats(0.01, 0.9), st.floats(0, 0.6), st.floats(0, 0.08))
def test_honesty_grows_with_the_gap_and_falls_with_overlap_and_error(
    apart: float, shared: float, error: float
) -> None:
    here = honesty(apart, shared, error)
    assert 0 < here < 1
    assert honesty(apart * 1.1, shared, error) >= here
    assert honesty(apart, shared + 0.01, error) <= here
    assert honesty(apart, shared, error + 0.01) <= here


def test_the_scrutinizer_waits_for_its_warmup_and_passes_over_probes() -> None:
    detector, labels = Scrutinizer(warmup=3, window=2), torch.tensor([0, 0, 1, 1])
    gradients = torch.rand(4, 5, generator=seeds.generator(0, "test"))
    for batch in range(12):
        kind = torch.arange(4) if batch == 1 else labels  # a batch without a pair of one label
        detector.watch(kind, gradients, NOBODY, probe=batch == 0)
    assert detector.batches == range(6, 12)  # 2 passed over, 3 of the warm-up, 1 more for the mean
    assert len(detector._history) == 10


def test_the_label_gap_is_one_minus_the_gap() -> None:
    detector = LabelGap(window=2)
    gradients, labels = (
        torch.tensor([[1.0, 0], [9, 0], [0, 1], [-1, 0]]),
        torch.tensor([3, 3, 8, 8]),
    )
    detector.watch(labels, gradients, NOBODY, probe=False)  # a gap of ½
    detector.watch(labels, torch.zeros(4, 2), NOBODY, probe=True)
    detector.watch(labels, torch.ones(4, 2), NOBODY, probe=False)
    detector.watch(labels, torch.full((4, 2), math.nan), NOBODY, probe=False)
    assert detector.scores == [0.75, 1]
    assert detector.alarms == [3]
    apart = LabelGap(window=1)
    apart.watch(torch.tensor([3, 8, 3, 8]), gradients, NOBODY, probe=False)
    assert apart.scores == [1]  # samples of one label are pulled apart: no gap at all


# --- SplitOut -------------------------------------------------------------------------------------


def tiny_net(seed: int = 0) -> nn.Sequential:
    with seeds.scope(seed, "tiny"):
        return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 10))


def test_honest_gradients_are_those_of_plain_training() -> None:
    net, split = tiny_net(), noise_split(20, (1, 2, 2))
    before = weights(net)
    found = honest_gradients(net, split, share=0.5, epochs=2, batch_size=4, seed=3)
    assert same(weights(net), before), "the network it is given is not the one it trains"
    assert len(found) == 6  # 10 images: 4, 4, 2, twice
    order = seeds.generator(3, "SplitOut")
    chosen, optimizer, expected = (
        torch.randperm(20, generator=order)[:10],
        adam(net.parameters()),
        [],
    )
    for _ in range(2):
        for rows in chosen[torch.randperm(10, generator=order)].split(4):
            optimizer.zero_grad()
            cross_entropy(net(split.images[rows]), split.labels[rows]).backward()
            expected.append(net[1].weight.grad.clone())
            optimizer.step()
    assert same(found, expected)


def test_splitout_asks_a_local_outlier_factor_with_all_neighbours() -> None:
    net, split = tiny_net(), noise_split(80, (1, 2, 2))
    detector = SplitOut(net, split, share=1.0, window=1, batch_size=4, seed=1)
    assert detector.gradients == 20
    usual = torch.stack(honest_gradients(net, split, 1.0, 1, 4, 1)).flatten(1)
    factor = LocalOutlierFactor(n_neighbors=19, novelty=True).fit(usual.numpy())
    tried = usual.mean(0) * torch.linspace(-30, 30, 21)[:, None]
    for gradient in tried:
        detector.watch(NOBODY, NOBODY, gradient.view(3, 4), probe=False)
    outliers = factor.predict(tried.numpy()) < 0
    assert 0 < outliers.sum() < 21
    assert detector.scores == outliers.astype(float).tolist()


def test_splitout_wants_a_majority_of_its_window() -> None:
    detector = SplitOut(tiny_net(), noise_split(40, (1, 2, 2)), share=1.0, batch_size=4)
    usual = torch.stack(honest_gradients(tiny_net(), noise_split(40, (1, 2, 2)), 1.0, 1, 4, 0))
    for number in range(12):
        strange = number >= 5
        gradient = torch.full((3, 4), 1e3) if strange else usual.mean(0)
        detector.watch(NOBODY, NOBODY, gradient, probe=False)
        detector.watch(NOBODY, NOBODY, torch.full((3, 4), math.nan), probe=True)
    assert detector.scores[::2] == pytest.approx([0.5, 0.6, 0.7])
    assert detector.raised_at == 20  # the sixth of ten; each second batch was a probe
    assert set(range(18, 20)).isdisjoint(detector.alarms)


def test_splitout_takes_what_is_no_number_for_an_outlier() -> None:
    detector = SplitOut(tiny_net(), noise_split(40, (1, 2, 2)), share=1.0, window=1, batch_size=4)
    detector.watch(NOBODY, NOBODY, torch.full((3, 4), math.inf), probe=False)
    assert detector.raised_at == 0


def test_splitout_refuses_a_client_with_another_first_layer() -> None:
    detector = SplitOut(tiny_net(), noise_split(40, (1, 2, 2)), share=1.0, batch_size=4)
    with pytest.raises(DefenseError, match=r"\(8, 1, 5, 5\), that of SplitOut's network \(3, 4\)"):
        run(detector=detector)


# --- In the protocol ------------------------------------------------------------------------------


def digests(session: Session) -> list[str]:
    return [message.digest() for message in record_of(session)]


@pytest.mark.parametrize("at", CUTS)
@pytest.mark.parametrize(
    "make",
    [
        lambda: Scrutinizer(warmup=1, window=1),
        lambda: LabelGap(window=1),
        lambda: SplitOut(
            models.mnist_net(seed=9), noise_split(), share=1.0, batch_size=4, window=1
        ),
        lambda: SplitGuard(warmup=99),
    ],
    ids=["Scrutinizer", "LabelGap", "SplitOut", "SplitGuard before its first probe"],
)
def test_a_detector_that_listens_leaves_the_run_bit_for_bit(at: Any, make: Any) -> None:
    plain, detector = run(at, epochs=3), make()
    watched = run(at, epochs=3, detector=detector)
    assert digests(watched) == digests(plain)
    assert watched.losses == plain.losses
    assert same(weights(watched.client.front), weights(plain.client.front))
    assert detector._batch_count == 9
    assert isinstance(detector, SplitGuard) or detector.scores


@pytest.mark.parametrize("at", CUTS)
def test_what_a_detector_is_shown(at: Any) -> None:
    detector = Listed()
    session = run(at, epochs=2, detector=detector, optimizer=lambda parameters: still(parameters))
    messages = record_of(session)
    received = [m.payload for m in messages if m.kind == "cut_gradient"]
    assert same([seen["cut"] for seen in detector.seen], received)
    labels = [page["labels"] for page in session.transcript.client_log.values()]
    assert same([seen["labels"] for seen in detector.seen], labels)
    assert not any(seen["probe"] for seen in detector.seen)
    # The client never moves here, so what it computed can be computed again.
    front, split = session.client.front, noise_split()
    order = torch.randperm(11, generator=seeds.generator(0, "order"))
    front.zero_grad()
    front(split.images[order[:4]]).backward(received[0])
    assert torch.equal(detector.seen[0]["weight"], front.conv1.weight.grad)
    assert not torch.equal(detector.seen[1]["weight"], detector.seen[0]["weight"])


def still(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.0)


@pytest.mark.parametrize("at", CUTS)
def test_the_client_does_not_learn_from_a_probe_but_the_server_does(at: Any) -> None:
    class Watchful(Prober):
        def probe(self, labels: Tensor) -> Tensor | None:
            steps.append([weights(*own), weights(server.model)])
            return super().probe(labels)

    steps: list[list[list[Tensor]]] = []
    client, server = parties(models.mnist_net(seed=0), at, detector=Watchful())
    own = [part for part in (client.front, client.head) if part is not None]
    train(client, server, noise_split(), epochs=3, batch_size=4)
    moved = [
        [not same(old, new) for old, new in zip(*pair, strict=True)]
        for pair in zip(steps, steps[1:], strict=False)
    ]
    assert moved == [[batch % 2 == 0, True] for batch in range(8)]
    assert [seen["probe"] for seen in client.detector.seen] == [b % 2 == 1 for b in range(9)]


def test_a_probe_takes_the_place_of_a_batch() -> None:
    plain, probed = run(epochs=3), run(epochs=3, detector=Prober())
    facts = [
        [(m.step, m.batch, m.kind, m.payload.shape) for m in record_of(session)]
        for session in (plain, probed)
    ]
    assert facts[0] == facts[1], "the form of the messages gives a probe away"
    truth = plain.transcript.view().payloads("labels")
    for number, sent in enumerate(probed.transcript.view().payloads("labels")):
        assert torch.equal(sent, torch.ones_like(sent) if number % 2 else truth[number])


def test_losses_are_those_of_the_batches_that_were_learned_from() -> None:
    frozen = {"optimizer": still, "server_options": {"optimizer": still}}
    split = noise_split(8)
    whole = run(split=split, epochs=1, **frozen)
    probed = run(split=split, epochs=1, detector=Prober(), **frozen)
    order = torch.randperm(8, generator=seeds.generator(0, "order"))
    first = split[order[:4]]
    net = nn.Sequential(*probed.client.front, *probed.server.model)
    assert probed.losses == [pytest.approx(cross_entropy(net(first.images), first.labels).item())]
    assert whole.losses != probed.losses
    only_probes = run(split=noise_split(4), epochs=2, detector=Prober())
    assert not math.isnan(only_probes.losses[0])
    assert math.isnan(only_probes.losses[1])


def test_extra_batches_are_shown_as_probes() -> None:
    detector = Listed()
    run(detector=detector, extra=lambda step, images, labels: [(images, labels)])
    assert [seen["probe"] for seen in detector.seen] == [False, True] * 3


def test_a_client_learns_again_after_a_probe_failed() -> None:
    class Failing(Prober):
        def judge(self, *arguments: Any) -> float | None:
            if arguments[-1]:
                raise RuntimeError("no probe today")
            return None

    client, server = parties(models.mnist_net(seed=0), "pool1", detector=Failing())
    with pytest.raises(RuntimeError, match="no probe today"):
        train(client, server, noise_split(), epochs=1, batch_size=4)
    before, client.detector = weights(client.front), None
    train(client, server, noise_split(), epochs=1, batch_size=4)
    assert not same(weights(client.front), before)


def test_a_detector_sees_trainings_only() -> None:
    detector = Listed()
    session = run(detector=detector)
    session.predict(noise_split().images)
    assert len(detector.seen) == 3


def test_detectors_work_beside_defences() -> None:
    pytest.importorskip("opacus")
    front, rest = models.cut(models.mnist_net(seed=0), "pool1")
    private = PrivateOptimizer(front, clip=1.0, multiplier=1.0, batch_size=4)
    detector = Listed()
    client = Client(front, optimizer=private, penalty=NoPeek(0.5), detector=detector)
    train(client, Server(rest), noise_split(), epochs=1, batch_size=4)
    assert [seen["weight"].shape for seen in detector.seen] == [(8, 1, 5, 5)] * 3


@pytest.mark.gpu
@pytest.mark.parametrize(
    "make",
    [
        lambda: Scrutinizer(warmup=1, window=1),
        lambda: LabelGap(window=1),
        lambda: SplitOut(
            models.mnist_net(seed=9), noise_split(), share=1.0, batch_size=4, window=1
        ),
        lambda: SplitGuard(warmup=0, window=1, probability=0.5),
    ],
)
def test_detectors_score_a_client_on_a_gpu(make: Any) -> None:
    client, server = parties(models.mnist_net(seed=0), "pool1", detector=make())
    train(client, server, noise_split(), epochs=5, batch_size=4, device="cuda")
    assert client.detector.scores


# --- Honest and malicious servers -----------------------------------------------------------------


class Noisy(Server):
    """Returns noise of one size, whatever it was sent."""

    def reply(self, message: Message) -> Message | None:
        answer = super().reply(message)
        if answer is None or answer.kind != "cut_gradient":
            return answer
        noise = torch.randn(answer.payload.shape, generator=seeds.generator(answer.step, "noise"))
        return dataclasses.replace(answer, payload=noise / len(noise))


class Critic(Server):
    """Steers the client towards a loss that no label enters, as a hijacker does."""

    size = 30.0

    def reply(self, message: Message) -> Message | None:
        answer = super().reply(message)
        if answer is None or answer.kind != "cut_gradient":
            return answer
        assert self._smashed is not None
        smashed = self._smashed.detach().requires_grad_()
        gradient = torch.autograd.grad(self.size * self.loss_at(smashed), smashed)[0]
        return dataclasses.replace(answer, payload=gradient)

    def loss_at(self, smashed: Tensor) -> Tensor:
        flat = smashed.flatten(1)
        with seeds.scope(0, "critic"):
            critic = nn.Sequential(nn.Linear(flat.shape[1], 64), nn.ReLU(), nn.Linear(64, 1))
        return critic(flat).mean()


class QuietCritic(Critic):
    """A critic whose gradients are as small as honest ones."""

    size = 0.5


class Decoding(Critic):
    """Trains the client for the loss of an autoencoder."""

    size = 1.0

    def loss_at(self, smashed: Tensor) -> Tensor:
        flat = smashed.flatten(1)
        with seeds.scope(0, "autoencoder"):
            narrow = nn.Linear(flat.shape[1], 8)
        return (narrow(flat) @ narrow.weight - flat).square().mean()


NAMES = ["SplitGuard", "Scrutinizer", "LabelGap", "SplitOut"]


def detector(name: str) -> Detector:
    if name == "SplitOut":
        digits = data.load("digits").train
        return SplitOut(models.mnist_net(1000), digits, share=0.5, epochs=5)
    if name == "SplitGuard":
        return SplitGuard(probability=0.25)
    return {"Scrutinizer": Scrutinizer, "LabelGap": LabelGap}[name]()


def hijacker(*arguments: Any, **options: Any) -> HijackingServer:
    public = data.load("digits").test.images
    attack = Hijacking(warmup_steps=20, critic_steps=1)
    return HijackingServer(*arguments, public_images=public, attack=attack, **options)


@cache
def panel(server: Any, at: Any) -> dict[str, Detector]:
    """Let all detectors watch one training on digits, 23 batches an epoch."""
    front, middle, *head = models.cut(models.mnist_net(seed=0), at)
    detectors = {name: detector(name) for name in NAMES}
    client = Client(front, *head, detector=record_detection.Panel(detectors))
    train(client, server(middle, label_private=bool(head)), data.load("digits").train, epochs=4)
    return detectors


def raised_at(server: Any, name: str, at: Any = "pool1") -> int | None:
    """Return the first alarm of a detector."""
    found = panel(server, at)[name]
    assert found.scores
    return found.raised_at


@pytest.mark.parametrize("at", CUTS)
@pytest.mark.parametrize("name", NAMES)
def test_an_honest_server_raises_no_alarm(name: str, at: Any) -> None:
    assert raised_at(Server, name, at) is None


@pytest.mark.parametrize(
    ("server", "name"),
    [
        (Critic, "SplitGuard"),
        (Critic, "Scrutinizer"),
        (Critic, "LabelGap"),
        (Critic, "SplitOut"),
        (Noisy, "Scrutinizer"),
        (Noisy, "LabelGap"),
        (Noisy, "SplitOut"),
        (Decoding, "SplitGuard"),
        (QuietCritic, "SplitGuard"),
        (QuietCritic, "Scrutinizer"),
        (QuietCritic, "LabelGap"),
    ],
)
def test_a_server_that_learns_something_else_raises_one(server: Any, name: str) -> None:
    assert raised_at(server, name) is not None


@pytest.mark.parametrize(("server", "name"), [(Decoding, "Scrutinizer"), (QuietCritic, "SplitOut")])
def test_what_each_detector_does_not_see(server: Any, name: str) -> None:
    assert raised_at(server, name) is None


@pytest.mark.proofs
@pytest.mark.slow
@pytest.mark.parametrize("at", CUTS)
@pytest.mark.parametrize("name", NAMES)
def test_feature_space_hijacking_raises_an_alarm(name: str, at: Any) -> None:
    assert raised_at(hijacker, name, at) is not None


def test_unsplit_during_the_training_changes_no_message_and_no_score() -> None:
    def watched(make: Any) -> tuple[Session, Detector]:
        front, rest = models.cut(models.mnist_net(seed=0), "pool1")
        client = Client(front, detector=Scrutinizer(warmup=3, window=1))
        server = make(rest, Architecture.of(front, (1, 28, 28)))
        split = data.load("digits").train[:256]
        return train(client, server, split, epochs=10, record=True), client.detector

    honest, plain = watched(lambda rest, client: Server(rest))
    curious, other = watched(
        lambda rest, client: record_detection.Curious(rest, client, UnSplit(steps=20))
    )
    assert curious.server.result.inputs.shape == (10, 1, 28, 28)
    assert digests(curious) == digests(honest)
    assert other.scores == plain.scores != []
    assert other.alarms == plain.alarms
