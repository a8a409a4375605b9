"""Label inference: the paper's own figures, the algebra, the wire, and what it must refuse."""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sltools import data, metrics, models, protocol, seeds
from sltools.attacks import LabelInference, LabelResult, labels
from sltools.errors import AttackError, NotObservable, SltoolsError
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View
from tests import golden

ONE_LAYER = ("pool1", "relu4")
WITH_RELU = ("pool1", "fc2")
TWO_LAYERS = ("pool1", "relu3")
few = settings(deadline=None, max_examples=25)
numbers = st.integers(0, 2**31)

# The reference code on the formula-made client and clone: the true label, and the distances.
PUBLISHED = {
    0: [
        *(0.009139643050730228, 0.08107990026473999, 0.08608731627464294, 0.08896773308515549),
        *(0.09070835262537003, 0.09210038185119629, 0.09388956427574158, 0.09710390120744705),
        *(0.10331103205680847, 0.1141667440533638),
    ],
    3: [
        *(0.057304881513118744, 0.06524848192930222, 0.07025589793920517, 0.009139643050730228),
        *(0.07487692683935165, 0.07626894861459732, 0.07805813103914261, 0.08127246797084808),
        *(0.0874796211719513, 0.09833531081676483),
    ],
    9: [
        *(0.03210589289665222, 0.040049485862255096, 0.04505689814686775, 0.047937314957380295),
        *(0.04967793449759483, 0.0510699488222599, 0.05285913869738579, 0.05607347935438156),
        *(0.06228061392903328, 0.009139643050730228),
    ],
}


def linear_head(classes: int, width: int, scale: float, seed: int) -> nn.Sequential:
    """A one-layer head with logits of about `scale`."""
    stream = torch.Generator().manual_seed(seed)
    layer = nn.Linear(width, classes)
    with torch.no_grad():
        layer.weight.copy_(scale * torch.randn(classes, width, generator=stream) / width**0.5)
        layer.bias.copy_(0.1 * scale * torch.randn(classes, generator=stream))
    return nn.Sequential(layer)


def watch(head: nn.Sequential, batches: Sequence[tuple[Tensor, Tensor]], *granted: str) -> View:
    """What the server sees while a client applies an unchanging `head` to (u, labels)."""
    last = [layer for layer in head.modules() if isinstance(layer, nn.Linear)][-1]
    messages, weight, bias = [], {}, {}
    for step, (features, truth) in enumerate(batches):
        u = features.clone().requires_grad_()
        loss = cross_entropy(head(u), truth)
        received, weight[step], bias[step] = torch.autograd.grad(loss, [u, last.weight, last.bias])
        messages += [
            Message(step, step, "features", u),
            Message(step, step, "feature_gradient", received),
        ]
    grants = {"head_weight_gradients": weight, "head_bias_gradients": bias}
    shape = batches[0][0].shape[1:]
    known = {name: grants[name] for name in granted}
    return View("server", messages, None, Architecture.of(head, shape), None, known)


def samples(count: int, width: int, classes: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features as a ReLU makes them, and labels."""
    stream = torch.Generator().manual_seed(seed)
    features = torch.randn(count, width, generator=stream).relu()
    return features, torch.randint(0, classes, (count,), generator=stream)


@functools.cache
def training(
    cut: tuple[str, str] = ONE_LAYER, batch_size: int = 64, count: int = 320, seed: int = 0
) -> tuple[protocol.Session, Tensor]:
    """The first steps of a label-private training on digits, and the labels in their order."""
    front, middle, head = models.cut(models.mnist_net(seed), at=cut)
    session = protocol.train(
        protocol.Client(front, head),
        protocol.Server(middle, label_private=True),
        data.load("digits").train[:count],
        epochs=1,
        batch_size=batch_size,
        seed=seed,
        record=True,
    )
    return session, torch.cat([page["labels"] for page in session.transcript.client_log.values()])


def view_of(session: protocol.Session, *grants: str) -> View:
    return session.transcript.view("server", grants)


# --- Published ------------------------------------------------------------------------------------


@pytest.mark.parametrize("label", PUBLISHED)
def test_the_distances_are_those_of_the_reference_code(label: int) -> None:
    client, clone = (golden.fill(models.mnist_net(), phase) for phase in (0.0, 1.0))
    assert isinstance(client, nn.Sequential) and isinstance(clone, nn.Sequential)
    features = client[:-1](golden.image()).detach()
    view = watch(client[-1:], [(features, torch.tensor([label]))], "head_weight_gradients")
    (gradient,) = view.head_weight_gradients
    found = labels.matching_distances(clone[-1:], features, gradient)
    assert found.detach() == pytest.approx(PUBLISHED[label], abs=1e-7)
    assert found.argmin() == label


def demo(view: View, clone: str, seed: int) -> Tensor:
    """The distances of the reference code's loop, written out: (N, classes)."""
    head = view.head_architecture.build(seed, "clone")
    last = [layer for layer in head if isinstance(layer, nn.Linear)][-1]
    optimizer = torch.optim.Adam(head.parameters(), lr=0.001, amsgrad=True)
    table = []
    for u, target in zip(view.payloads("features"), view.head_weight_gradients, strict=True):
        logits, distances = head(u), []
        for candidate in range(last.out_features):
            loss = cross_entropy(logits, torch.tensor([candidate]))
            (gradient,) = torch.autograd.grad(loss, last.weight, retain_graph=True)
            distances.append(nn.functional.mse_loss(gradient, target).item())
        table.append(distances)
        if clone == "co-trained":
            optimizer.zero_grad()
            guess = torch.tensor([distances.index(min(distances))])
            cross_entropy(logits, guess).backward()
            optimizer.step()
    return torch.tensor(table)


@pytest.mark.parametrize("cut", [ONE_LAYER, TWO_LAYERS])
@pytest.mark.parametrize("clone", labels.CLONES)
def test_the_published_attack_is_the_loop_of_the_demo(cut: tuple[str, str], clone: str) -> None:
    view = view_of(training(cut, batch_size=1, count=40)[0], "head_weight_gradients")
    result, expected = LabelInference(clone=clone, seed=5)(view), demo(view, clone, seed=5)
    assert result.scores is not None and result.labels is not None
    torch.testing.assert_close(result.scores, expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(result.labels, expected.argmin(1))


def test_the_clone_learns_as_in_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    adam = Mock(wraps=torch.optim.Adam)  # only thousands of steps would show what amsgrad does
    monkeypatch.setattr(labels, "Adam", adam)
    LabelInference()(view_of(training(batch_size=1, count=1)[0], "head_weight_gradients"))
    assert adam.call_args.kwargs == {"lr": 1e-3, "amsgrad": True}


@pytest.mark.parametrize("cut", [ONE_LAYER, WITH_RELU])
def test_a_co_trained_clone_finds_every_label_of_an_online_training(cut: tuple[str, str]) -> None:
    session, truth = training(cut, batch_size=1, count=200)
    result = LabelInference()(view_of(session, "head_weight_gradients"))
    assert torch.equal(torch.as_tensor(result.labels), truth)
    assert result.knowledge == ("features", "head architecture", "head weight gradients (granted)")


def test_a_frozen_clone_fails_against_a_confident_client() -> None:
    features, _ = samples(200, 30, 10, seed=1)
    head = linear_head(10, 30, scale=50, seed=2)
    truth = head(features).argmax(1)
    batches = list(zip(features.split(1), truth.split(1), strict=True))
    result = LabelInference(clone="frozen")(watch(head, batches, "head_weight_gradients"))
    assert (torch.as_tensor(result.labels) == truth).float().mean() < 0.5


def test_a_clone_does_not_start_where_the_client_started() -> None:
    front, _, head = models.cut(models.mnist_net(3), at=ONE_LAYER)
    session, _ = training(batch_size=1, count=1, seed=3)
    view = view_of(session, "head_weight_gradients")
    clone = view.head_architecture.build(3, "clone")
    for ours, theirs in zip(clone.parameters(), head.parameters(), strict=True):
        assert not torch.isclose(ours, theirs).any()
    (u,), (gradient,) = view.payloads("features"), view.head_weight_gradients
    true_start = labels.matching_distances(head, u, gradient).min()
    scores = LabelInference(seed=3)(view).scores
    assert scores is not None and scores.min() > 1e4 * true_start


@few
@given(seed=numbers, classes=st.integers(2, 12), scale=st.floats(0.1, 30))
def test_the_matching_condition_says_when_the_attack_is_right(
    seed: int, classes: int, scale: float
) -> None:
    features, truth = samples(20, 6, classes, seed)
    features, truth = features[kept := features.any(1)], truth[kept]
    head = linear_head(classes, 6, scale, seed)
    batches = list(zip(features.split(1), truth.split(1), strict=True))
    view = watch(head, batches, "head_weight_gradients")
    clone = view.head_architecture.build(seed, "clone")
    p, q = head(features).softmax(1).detach(), clone(features).softmax(1).detach()
    margin = 1 - ((p - q).gather(1, truth[:, None]) - (p - q)).scatter(1, truth[:, None], -1)
    clear = margin.abs().amin(1) > 1e-3
    right = LabelInference(clone="frozen", seed=seed)(view).labels == truth
    assert torch.equal(labels.matching_condition(p, q, truth)[clear], right[clear])


def test_the_matching_condition_by_hand() -> None:
    p = torch.tensor([[0.9, 0.1], [0.9, 0.1], [1.0, 0.0]])
    q = torch.tensor([[0.5, 0.5], [0.2, 0.8], [0.5, 0.5]])
    y = torch.tensor([0, 0, 0])  # 0.8 < 1 + 0;  0.8 < 1 - 0.6 fails;  1 < 1 fails
    assert labels.matching_condition(p, q, y).tolist() == [True, False, False]


def test_features_of_zero_name_no_label_and_teach_nothing() -> None:
    features, truth = samples(3, 8, 10, seed=0)
    features[1] = 0
    batches = list(zip(features.split(1), truth.split(1), strict=True))
    view = watch(linear_head(10, 8, 1, seed=1), batches, "head_weight_gradients")
    for setting in ("published", "closed-form"):
        if setting == "published":
            found = LabelInference(setting)(view).labels
            assert found is not None and found[1] == -1 and found[0] == truth[0]
        else:
            with pytest.raises(AttackError, match="rank 0 but the batch has 1 samples"):
                LabelInference(setting)(view)


def test_an_interrupted_attack_keeps_what_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    session, truth = training(batch_size=1, count=40)
    view = view_of(session, "head_weight_gradients")
    done = 0
    measure = labels.matching_distances

    def interrupted(*arguments: Tensor) -> Tensor:
        nonlocal done
        done += 1
        if done > 3:
            raise KeyboardInterrupt
        return measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(labels, "matching_distances", interrupted)
    result = LabelInference()(view)
    assert result.interrupted
    assert torch.equal(torch.as_tensor(result.labels), truth.where(torch.arange(40) < 3, -1))


# --- Closed form ----------------------------------------------------------------------------------


@few
@given(seed=numbers, classes=st.integers(2, 12), batch=st.integers(1, 12))
def test_the_closed_form_finds_every_label_of_a_batch(seed: int, classes: int, batch: int) -> None:
    features, truth = samples(batch, 40, classes, seed)
    assume(torch.linalg.cond(features.double()) < 1e3)
    head = linear_head(classes, 40, 1, seed)
    result = LabelInference("closed-form")(
        watch(head, [(features, truth)], "head_weight_gradients")
    )
    assert torch.equal(torch.as_tensor(result.labels), truth)
    expected = head(features).softmax(1) - nn.functional.one_hot(truth, classes)
    torch.testing.assert_close(result.scores, expected.double(), rtol=0, atol=1e-3)


@few
@given(seed=numbers, scale=st.floats(10, 1000), batch=st.integers(1, 24))
def test_the_closed_form_names_no_wrong_label_however_sure_the_client(
    seed: int, scale: float, batch: int
) -> None:
    features, truth = samples(batch, 30, 10, seed)
    head = linear_head(10, 30, scale, seed)
    agreed = torch.arange(batch) % 2 == 0  # half of the samples the client has learnt
    truth = torch.where(agreed, head(features).argmax(1), truth)
    view = watch(head, [(features, truth)], "head_weight_gradients")
    try:
        found = torch.as_tensor(LabelInference("closed-form")(view).labels)
    except AttackError:
        return  # no full rank
    assert torch.equal(found[found >= 0], truth[found >= 0])


def test_the_closed_form_is_not_shier_than_it_must_be() -> None:
    named = []
    for seed in range(40):
        features, _ = samples(16, 40, 10, seed)
        head = linear_head(10, 40, 5, seed)  # about sure: at half the samples p_y is nearly 1
        truth = torch.where(torch.arange(16) % 2 == 0, head(features).argmax(1), 0)
        view = watch(head, [(features, truth)], "head_weight_gradients")
        named.append(torch.as_tensor(LabelInference("closed-form")(view).labels) >= 0)
    assert torch.cat(named).float().mean() > 0.92


@pytest.mark.parametrize("cut", [ONE_LAYER, WITH_RELU])
@pytest.mark.parametrize(("batch_size", "spare"), [(1, []), (32, ["head_bias_gradients"])])
def test_the_closed_form_finds_every_label_of_a_training(
    cut: tuple[str, str], batch_size: int, spare: list[str]
) -> None:
    session, truth = training(cut, batch_size, count=100)
    view = view_of(session, "head_weight_gradients", *spare)
    assert len(view.smashed) == 100  # what was read before is not the attack's
    result = LabelInference("closed-form")(view)
    assert torch.equal(torch.as_tensor(result.labels), truth)
    assert result.knowledge == ("features", "head architecture", "head weight gradients (granted)")


def test_without_full_rank_the_closed_form_does_not_guess_but_counts() -> None:
    features, truth = samples(8, 5, 10, seed=0)
    batch = [(features, truth)]
    head = linear_head(10, 5, 0.01, seed=0)
    granted = "head_weight_gradients", "head_bias_gradients"
    attack = LabelInference("closed-form")
    with pytest.raises(AttackError, match="rank 5 but the batch has 8 samples"):
        attack(watch(head, batch, *granted))
    mixed = torch.stack([features[0], features[1], (features[0] + features[1]) / 3])
    with pytest.raises(AttackError, match="rank 2 but the batch has 3 samples"):
        attack(watch(head, [(mixed, truth[:3])], *granted))
    result = attack.count(watch(head, batch, *granted))
    assert torch.as_tensor(result.counts).tolist() == [truth.bincount(minlength=10).tolist()]
    assert "head weight gradients (granted)" not in result.knowledge
    assert result.labels is None


@few
@given(seed=numbers, scale=st.floats(0, 100), batch=st.integers(1, 64))
def test_counts_at_least_are_certain(seed: int, scale: float, batch: int) -> None:
    features, truth = samples(batch, 20, 10, seed)
    head = linear_head(10, 20, scale, seed)
    result = LabelInference().count(watch(head, [(features, truth)], "head_bias_gradients"))
    counts, at_least = torch.as_tensor(result.counts)[0], torch.as_tensor(result.counts_at_least)[0]
    true = truth.bincount(minlength=10)
    sums = head(features).softmax(1).sum(0)
    assert (at_least <= true).all() and (at_least <= counts).all()
    if (sums < 0.99).all():  # then no count is hidden, and the attacker can see it from the sum
        assert torch.equal(at_least, true)
    if ((sums - batch / 10).abs() < 0.49).all():
        assert torch.equal(counts, true)


def test_a_sure_client_hides_its_counts_but_not_by_a_wrong_certainty() -> None:
    features, truth = samples(30, 20, 10, seed=4)
    head = linear_head(10, 20, 1000, seed=4)
    truth = head(features).argmax(1)
    result = LabelInference().count(watch(head, [(features, truth)], "head_bias_gradients"))
    assert torch.as_tensor(result.counts_at_least).sum() == 0
    assert torch.as_tensor(result.counts).unique().tolist() == [3]


@pytest.mark.parametrize("cut", [ONE_LAYER, TWO_LAYERS])
def test_the_bias_gradient_of_one_sample_is_enough_at_any_depth(cut: tuple[str, str]) -> None:
    session, truth = training(cut, batch_size=1, count=40)
    view = view_of(session, "head_weight_gradients", "head_bias_gradients")
    result = LabelInference("closed-form")(view)
    assert torch.equal(torch.as_tensor(result.labels), truth)
    assert result.knowledge == ("features", "head architecture", "head bias gradients (granted)")


def test_saturation_in_float32_leaves_the_label_the_least_entry() -> None:
    head = linear_head(3, 1, 0, seed=0)
    with torch.no_grad():
        head[0].bias.copy_(torch.tensor([30.0, 0.0, -5.0]))  # type: ignore[union-attr]
    batches = [(torch.ones(1, 1), torch.tensor([0]))]
    view = watch(head, batches, "head_bias_gradients")
    assert (view.head_bias_gradients[0] >= 0).all()  # the sign rule would find nothing
    assert torch.as_tensor(LabelInference("closed-form")(view).labels).tolist() == [0]
    with torch.no_grad():
        head[0].bias.mul_(10)  # type: ignore[union-attr]
    view = watch(head, batches, "head_bias_gradients")
    assert not view.head_bias_gradients[0].any()  # nothing left at all
    assert torch.as_tensor(LabelInference("closed-form")(view).labels).tolist() == [-1]


@pytest.mark.parametrize(
    "layers",
    [
        [nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3)],
        [nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 3))],
        [nn.Dropout(), nn.Linear(4, 3)],
        [nn.BatchNorm1d(4, affine=False), nn.Linear(4, 3)],
    ],
)
def test_the_closed_form_refuses_what_hides_the_inputs_of_the_last_layer(
    layers: list[nn.Module],
) -> None:
    head = nn.Sequential(*layers)
    view = watch(head, [samples(2, 4, 3, seed=0)], "head_weight_gradients")
    with pytest.raises(AttackError, match="head of one linear layer"):
        LabelInference("closed-form")(view)


# --- Wire -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("cut", [ONE_LAYER, WITH_RELU])
def test_early_gradients_fall_into_one_cluster_per_label(cut: tuple[str, str], seed: int) -> None:
    session, truth = training(cut, seed=seed)
    result = LabelInference("wire", seed=seed)(view_of(session))
    assert result.clusters is not None
    assert metrics.cluster_accuracy(result.clusters, truth) >= 0.99
    assert result.labels is None
    assert result.knowledge == ("feature gradient", "head architecture")


def test_anchors_name_the_clusters_and_change_none() -> None:
    session, truth = training()
    attack = LabelInference("wire")
    plain, named = attack(view_of(session)), attack(view_of(session, "anchor_labels"))
    assert torch.equal(torch.as_tensor(plain.clusters), torch.as_tensor(named.clusters))
    assert torch.equal(torch.as_tensor(named.labels), truth)
    assert "anchor labels (granted)" in named.knowledge


def test_a_cluster_without_an_anchor_stays_nameless() -> None:
    clusters = torch.tensor([0, 0, 1, 1, 2, -1])
    distances = torch.eye(3)[[0, 0, 1, 1, 2, 2]].sub(1).neg()
    distances[5] = torch.nan
    anchors = torch.tensor([7, -1, -1, 4, -1, 5])
    assert labels._name_clusters(clusters, distances, anchors).tolist() == [7, 7, 4, 4, -1, -1]


def test_a_later_window_without_anchors_is_refused() -> None:
    view = view_of(training()[0], "anchor_labels")
    named = max(step for step, part in enumerate(view.anchor_labels.split(64)) if (part >= 0).any())
    with pytest.raises(AttackError, match="no anchor"):
        LabelInference("wire")(view.window(named + 1, 5))


def test_a_sample_without_a_gradient_is_in_no_cluster() -> None:
    head = linear_head(3, 6, 0.1, seed=0)
    features, truth = samples(30, 6, 3, seed=0)
    view = watch(head, [(features, truth)])
    for message in view._messages:
        if message.kind == "feature_gradient":
            message.payload[4] = 0
            message.payload[5] *= 1e-30  # its square underflows in float32
    result = LabelInference("wire")(view)
    kept = torch.arange(30) != 4
    assert result.clusters is not None and result.scores is not None
    assert result.clusters[4] == -1 and result.scores[4].isnan().all()
    assert metrics.cluster_accuracy(result.clusters[kept], truth[kept]) == 1


def test_clusters_do_not_depend_on_the_sizes_of_the_batches() -> None:
    head = linear_head(5, 12, 0.1, seed=0)
    features, truth = samples(60, 12, 5, seed=0)
    clusters = [
        LabelInference("wire")(watch(head, list(zip(*parts, strict=True)))).clusters
        for parts in [([features], [truth]), (features.split([7, 53]), truth.split([7, 53]))]
    ]
    assert metrics.cluster_accuracy(*map(torch.as_tensor, clusters)) == 1


# --- All of them ----------------------------------------------------------------------------------


def result_of(setting: str) -> LabelResult:
    grants = {"published": ["head_weight_gradients"], "closed-form": ["head_weight_gradients"]}
    session, _ = training(batch_size=1, count=40)
    view = view_of(session, *grants.get(setting, ["anchor_labels"]))
    return LabelInference(setting, seed=1)(view)


@pytest.mark.parametrize("setting", labels.SETTINGS)
def test_a_result_survives_saving_and_is_the_same_again(setting: str, tmp_path: Path) -> None:
    result = result_of(setting)
    loaded = LabelResult.open(result.save(tmp_path / "result"))
    again = result_of(setting)
    for name, value in vars(result).items():
        if isinstance(value, Tensor):
            torch.testing.assert_close(getattr(loaded, name), value, rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(getattr(again, name), value, rtol=0, atol=0, equal_nan=True)
        else:
            assert getattr(loaded, name) == value
    assert result.settings["setting"] == setting and result.seed == 1
    assert result.versions["torch"] == torch.__version__
    assert result.labels is not None and result.labels.dtype == torch.int64


def test_a_folder_of_something_else_is_no_result(tmp_path: Path) -> None:
    folder = view_of(training()[0]).save(tmp_path / "view")
    with pytest.raises(SltoolsError, match="does not hold a label result"):
        LabelResult.open(folder)


@pytest.mark.parametrize("setting", labels.SETTINGS)
def test_no_attack_touches_the_global_random_state(setting: str) -> None:
    with seeds.scope(0, "test"):
        before = torch.get_rng_state()
        result_of(setting)
        assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    "options", [{"setting": "telepathy"}, {"clone": "thawed"}, {"lr": 0.0}, {"lr": float("nan")}]
)
def test_settings_are_checked(options: dict) -> None:
    with pytest.raises(AttackError, match=re.escape(str(next(iter(options.values()))))):
        LabelInference(**options)


@pytest.mark.parametrize("setting", labels.SETTINGS)
def test_a_vanilla_client_needs_no_attack(setting: str) -> None:
    client, server = models.cut(models.mnist_net(0), at="pool1")
    split = data.load("digits").train[:4]
    view = view_of(protocol.train(client, server, split, epochs=1, record=True))
    with pytest.raises(AttackError, match="simply sends its labels"):
        LabelInference(setting)(view)


@pytest.mark.parametrize("setting", labels.SETTINGS)
def test_an_inference_has_no_gradients(setting: str) -> None:
    view = training()[0].observe(data.load("digits").test.images[:20])
    with pytest.raises(NotObservable):
        LabelInference(setting)(view)


@pytest.mark.parametrize("setting", ["published", "closed-form"])
def test_gradients_beyond_the_wire_must_be_granted(setting: str) -> None:
    with pytest.raises(NotObservable, match="grant it by name"):
        LabelInference(setting)(view_of(training(batch_size=1, count=40)[0]))


def test_the_published_rule_takes_one_label_per_batch() -> None:
    with pytest.raises(AttackError, match="one label per batch and a batch here has 64 samples"):
        LabelInference()(view_of(training()[0], "head_weight_gradients"))


def test_too_few_samples_do_not_cluster() -> None:
    head = linear_head(10, 6, 0.1, seed=0)
    with pytest.raises(AttackError, match="9 samples with a gradient cannot form 10 clusters"):
        LabelInference("wire")(watch(head, [samples(9, 6, 10, seed=0)]))


@pytest.mark.parametrize("setting", labels.SETTINGS)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_diverged_training_is_refused(setting: str, value: float) -> None:
    batches = [samples(1, 6, 3, seed) for seed in range(9)]
    view = watch(linear_head(3, 6, 0.1, seed=0), batches, "head_weight_gradients")
    view._messages[5].payload[0, 0] = value  # a gradient dL/du
    view._grants["head_weight_gradients"][2][0, 0] = value
    with pytest.raises(AttackError, match="NaN or infinite"):
        LabelInference(setting)(view)


@pytest.mark.parametrize("setting", ["published", "closed-form"])
def test_gradients_of_another_network_are_refused(setting: str) -> None:
    batches = [samples(1, 6, 3, seed) for seed in range(3)]
    view = watch(linear_head(3, 6, 0.1, seed=0), batches, "head_weight_gradients")
    other = Architecture.of(linear_head(4, 6, 0.1, seed=0))
    mixed = View("server", view._messages, None, other, None, view._grants)
    with pytest.raises(AttackError, match=r"\(3, 6\) does not fit the head.*\(4, 6\)"):
        LabelInference(setting)(mixed)


def test_extra_batches_have_no_granted_gradient() -> None:
    view = watch(linear_head(3, 6, 0.1, seed=0), [samples(1, 6, 3, 0)] * 3, "head_weight_gradients")
    extra = Message(2, 2, "features", torch.ones(1, 6))
    longer = View("server", [*view._messages, extra], None, view._head, None, view._grants)
    with pytest.raises(AttackError, match="4 batches of features but 3 gradients"):
        LabelInference("closed-form")(longer)


def test_a_head_without_a_linear_layer_is_refused() -> None:
    view = watch(linear_head(3, 3, 0.1, seed=0), [samples(4, 3, 3, seed=0)])
    odd = Architecture.of(nn.Sequential(nn.ReLU()))
    with pytest.raises(AttackError, match="no linear layer"):
        LabelInference("wire")(View("server", view._messages, None, odd))


@pytest.mark.gpu
@pytest.mark.parametrize("setting", labels.SETTINGS)
def test_the_device_changes_nothing(setting: str) -> None:
    head = linear_head(5, 12, 0.1, seed=0)
    batches = [samples(1, 12, 5, seed) for seed in range(40)]
    here = LabelInference(setting)(watch(head, batches, "head_weight_gradients"))
    cuda = [(features.cuda(), truth.cuda()) for features, truth in batches]
    view = watch(head.cuda(), cuda, "head_weight_gradients")
    there = LabelInference(setting)(view)
    for name in ("labels", "clusters"):
        ours, theirs = getattr(here, name), getattr(there, name)
        assert (ours is None) == (theirs is None)
        assert ours is None or torch.equal(ours, theirs)
    assert there.device == ("cpu" if setting == "wire" else "cuda:0")
