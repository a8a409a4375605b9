"""Attackers with data: what they are allowed to know, what they get, and that they are passive."""

import copy
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from sltools import data, defenses, experiments, metrics, models, protocol, seeds
from sltools.attacks import FORA, PCAT, SDAR, CuriousServer, SurrogateResult, networks
from sltools.attacks.alignment import Samples, mk_mmd
from sltools.attacks.auxiliary import Auxiliary
from sltools.attacks.regression import (
    RIDGES,
    Moments,
    _least_squares,
    cross_validated,
    fitted_decoder,
)
from sltools.attacks.surrogate import SurrogateTraining
from sltools.data import Split
from sltools.errors import AttackError, DataError, NotObservable
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View
from tests.parties import noise_split, same, weights

SHORT: dict[str, Any] = {"steps": 4, "batch": 8}
ATTACKS = {"SDAR": SDAR(**SHORT), "PCAT": PCAT(**SHORT, late_start=0), "FORA": FORA(**SHORT)}
each = pytest.mark.parametrize("name", ATTACKS)
labelled = pytest.mark.parametrize("name", ["SDAR", "PCAT"])


def _session(cut: str | tuple[str, str] = "fc1", epochs: int = 1, **options: Any) -> Any:
    client, server = experiments.parties(models.mnist_net(seed=3), cut)
    split = data.load("digits").train[:96]
    return protocol.train(client, server, split, epochs=epochs, batch_size=32, **options)


def _own(count: int = 60) -> Split:
    return data.load("digits").test[:count]


def _secret(count: int = 20) -> Tensor:
    return data.load("digits").test.images[-count:]


def _networks(result: SurrogateResult) -> list[Tensor]:
    heads = [] if result.head is None else [result.head]
    return weights(result.clone, result.decoder, *heads)


# What they get


@pytest.mark.slow
@labelled
def test_behind_a_dense_layer_labelled_data_beat_the_baselines_and_shuffled_smashed_data_do_not(
    name: str,
) -> None:
    digits = data.load("digits")
    session = protocol.recut(experiments.train_victim(digits, seed=5), "fc1")
    own, _ = experiments.auxiliary_data(digits, 200, seed=5)
    targets = experiments.first_targets(digits, 10)
    view = session.observe(torch.cat([targets.images, digits.train.images[:250]]))
    attack = replace(ATTACKS[name], steps=300, batch=32)
    mean = own.images.mean(0).expand_as(targets.images)
    floor = metrics.mse(mean, targets.images).median()
    found = attack(view, own)
    assert metrics.mse(found.inputs[:10], targets.images).median() < 0.75 * floor
    stolen = nn.Sequential(found.clone, session.server.model)
    assert metrics.accuracy(stolen, digits.test) > 0.85
    control = replace(attack, steps=60)(_shuffled(view), own)
    assert metrics.mse(control.inputs[:10], targets.images).median() > 0.8 * floor


def _shuffled(view: View) -> View:
    """The same view, with each feature of the smashed data shuffled between the images."""
    smashed = view.smashed.flatten(1)
    draws = torch.rand(smashed.shape, generator=torch.Generator().manual_seed(0))
    message = Message(0, 0, "smashed", smashed.gather(0, draws.argsort(0)), "inference")
    return View("server", [message], view._client, own_model=view._own_model)


@pytest.mark.slow
@labelled
def test_a_label_private_clients_labels_are_inferred(name: str) -> None:
    digits = data.load("digits")
    session = experiments.train_victim(digits, ("pool1", "relu4"), budget="tiny", seed=5)
    own, _ = experiments.auxiliary_data(digits, 200, seed=5)
    attack = replace(ATTACKS[name], steps=200, batch=32)
    found = attack(session.observe(digits.test.images), own)
    assert found.labels is not None and found.head is not None
    truth = digits.test.labels
    assert metrics.label_accuracy(found.labels, truth) > session.accuracy(digits.test) - 0.1


# What they know


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("SDAR", ("client architecture", "own model", "smashed")),
        ("PCAT", ("own model", "smashed")),
        ("FORA", ("smashed",)),
    ],
)
def test_knowledge_is_named(name: str, read: tuple[str, ...]) -> None:
    found = ATTACKS[name](_session().observe(_secret()), _own())
    labels = () if name == "FORA" else ("auxiliary labels (60)",)
    assert found.knowledge == (*read, "auxiliary images (60)", *labels)


@labelled
def test_a_recorded_training_tells_the_labels_too(name: str) -> None:
    transcript = _session(record=True).transcript
    found = ATTACKS[name](transcript.view().window(1, 3), _own())
    assert "labels" in found.knowledge and len(found.inputs) == 64


def test_labels_are_not_looked_at_by_an_attack_without() -> None:
    view = _session().observe(_secret())
    own = _own()
    told, other = (FORA(**SHORT)(view, part) for part in (own, Split(own.images, own.labels * 0)))
    assert same(_networks(told), _networks(other))


def test_without_what_it_reads_there_is_no_attack() -> None:
    message = Message(0, 0, "smashed", torch.rand(20, 120), "inference")
    with pytest.raises(NotObservable, match="own model"):
        PCAT(**SHORT)(View("server", [message]), _own())
    with pytest.raises(NotObservable, match="client architecture"):
        model = nn.Sequential(nn.Linear(120, 10))
        SDAR(**SHORT)(View("server", [message], own_model=model), _own())
    with pytest.raises(AttackError, match="looks at a view"):
        FORA(**SHORT)(_session(), _own())  # type: ignore[arg-type]


# That they are deterministic, leave things alone, and come back from disk


@each
def test_the_same_seed_gives_the_same_bits_and_another_others(name: str) -> None:
    view, attack = _session().observe(_secret()), ATTACKS[name]
    torch.manual_seed(1)
    first = attack(view, _own())
    torch.manual_seed(2)
    again = attack(view, _own())
    other = replace(attack, seed=1)(view, _own())
    assert same(_networks(first), _networks(again)) and torch.equal(first.inputs, again.inputs)
    assert not torch.equal(first.inputs, other.inputs)


@each
def test_the_global_state_and_the_victim_stay_as_they_are(name: str) -> None:
    session = _session()
    before = weights(session.client.front, session.server.model)
    state = torch.get_rng_state()
    ATTACKS[name](session.observe(_secret()), _own())
    assert torch.equal(state, torch.get_rng_state())
    assert same(before, weights(session.client.front, session.server.model))


def test_no_network_starts_at_the_victims_weights() -> None:
    net = models.mnist_net(seed=0)
    front, rest = models.cut(net, "pool1")
    session = protocol.Session.of(protocol.Client(front), protocol.Server(rest), _secret())
    found = SDAR(steps=1, batch=8, lr=0.0, decoder_lr=0.0)(session.observe(_secret()), _own())
    assert not same(weights(front), weights(found.clone))


@each
@pytest.mark.parametrize("cut", ["fc1", ("pool1", "relu4")])
def test_a_result_comes_back_from_disk(name: str, cut: Any, tmp_path: Any) -> None:
    view = _session(cut).observe(_secret())
    found = ATTACKS[name](view, _own())
    again = SurrogateResult.open(found.save(tmp_path / "result"))
    assert same(_networks(found), _networks(again)) and again.knowledge == found.knowledge
    assert not any(part.training for part in (again.clone, again.decoder))
    assert torch.equal(again.reconstruct(view.smashed), found.reconstruct(view.smashed))
    assert (again.labels is None) == (found.labels is None)


def test_normalisation_learns_and_dropout_draws_nothing() -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5), nn.Flatten(),
        nn.Linear(4 * 576, 10), nn.Linear(10, 10),
    )  # fmt: skip
    client, server = experiments.parties(net, "4")
    session = protocol.train(client, server, data.load("digits").train[:64], epochs=1)
    state = torch.get_rng_state()
    found = SDAR(**SHORT)(session.observe(_secret()), _own())
    assert torch.equal(state, torch.get_rng_state())
    assert found.clone[1].num_batches_tracked > 0 and not found.clone[1].training  # type: ignore[operator]


def test_the_surrogate_of_a_known_shape_is_the_least_crippled_of_its_starts() -> None:
    front, _ = models.cut(models.mnist_net(), "pool1")
    client, images = Architecture.of(front, (1, 28, 28)), _own().images
    starts = [client.build(seeds.derive(4, f"start {number}"), "surrogate") for number in range(8)]
    dead = [networks.dead_channels(start, images) for start in starts]
    assert min(dead) < max(dead)
    chosen = SDAR(seed=4).surrogate_of(client, images, torch.zeros(1, 8, 12, 12))
    assert networks.dead_channels(chosen, images) == min(dead)


@pytest.mark.parametrize("flip", [0.0, 0.4, 1.0])
def test_labels_are_flipped_as_often_as_was_asked(flip: float) -> None:
    labels = torch.arange(10).repeat(1000)
    draw = torch.Generator().manual_seed(0)
    taught = SDAR(flip=flip).known_labels(labels, 10, draw)
    assert (taught != labels).double().mean().item() == pytest.approx(0.9 * flip, abs=0.02)
    assert taught.bincount(minlength=10).min() > 900


def test_flipped_labels_change_the_simulated_head_alone() -> None:
    private, vanilla = (_session(cut).observe(_secret()) for cut in (("pool1", "relu4"), "pool1"))
    for view, differs in ((private, True), (vanilla, False)):
        runs = [SDAR(**SHORT, flip=flip)(view, _own()) for flip in (0.0, 1.0)]
        assert same(*map(_networks, runs)) != differs


@each
@pytest.mark.parametrize("cut", ["pool1", "fc1"])
def test_a_decoder_network_learns_along_as_published(name: str, cut: str, tmp_path: Any) -> None:
    view = _session(cut).observe(_secret())
    published = type(ATTACKS[name]).published(steps=3)
    found = replace(published, batch=8)(view, _own())
    assert found.settings["decoder"] == "network" and "decoder" in found.losses
    again = SurrogateResult.open(found.save(tmp_path / "result"))
    assert torch.equal(again.reconstruct(view.smashed), found.reconstruct(view.smashed))
    fitted = replace(published, batch=8, decoder="least squares", **_without_network(name))
    assert same(_networks(found)[:2], _networks(fitted(view, _own()))[:2])  # one surrogate


def _without_network(name: str) -> dict[str, Any]:
    return {"SDAR": {"realism": 0.0}, "PCAT": {"fine_tuning": 0}, "FORA": {}}[name]


def test_a_defence_is_named_copied_and_checked() -> None:
    view, noise = _session("pool1").observe(_secret()), defenses.GaussianNoise(1.0, 0)
    runs = [FORA(**SHORT)(view, _own(), defense=noise) for _ in range(2)]
    assert same(*map(_networks, runs)) and "client's defence" in runs[0].knowledge
    with pytest.raises(AttackError, match="a function of a message's kind"):
        FORA(**SHORT)(view, _own(), defense="noise")  # type: ignore[arg-type]
    with pytest.raises(AttackError, match="keeps their shape"):
        FORA(**SHORT)(view, _own(), defense=lambda kind, sent: sent[:1])


def test_one_image_is_decoded_as_well_as_among_many() -> None:
    digits = data.load("digits")
    session = _session("pool1", epochs=2)
    surrogate = FORA(steps=60, batch=32)(session.observe(digits.train.images[:100]), _own())
    training = SurrogateTraining(
        FORA(batch=8), _own(), session.observe(_secret()).smashed, server=None, client=None,
        label_private=False,
    )  # fmt: skip
    training.surrogate.load_state_dict(surrogate.clone.state_dict())
    errors = []
    for count in (1, 60):
        images = digits.test.images[100 : 100 + count]
        found = training.result(session.observe(images).smashed, (), 0.0)
        errors.append(metrics.mse(found.inputs[:1], images[:1]).item())
    mean = metrics.mse(_own().images.mean(0)[None], digits.test.images[100:101]).item()
    assert errors[0] < max(2 * errors[1], 0.5 * mean)


def test_fine_tuned_images_explain_more_of_the_smashed_data() -> None:
    view = _session("pool1").observe(_secret())
    coarse, fine = (PCAT(**SHORT, fine_tuning=steps)(view, _own()) for steps in (0, 30))
    assert same(_networks(coarse), _networks(fine))
    assert fine.feature_loss < coarse.feature_loss
    assert fine.inputs.min() >= 0 and fine.inputs.max() <= 1


@pytest.mark.slow
def test_knowing_of_noise_helps() -> None:
    digits = data.load("digits")
    front, rest = models.cut(models.mnist_net(), "pool1")
    client = protocol.Client(front, outgoing=defenses.GaussianNoise(1.0, 0))
    session = protocol.train(client, rest, digits.train, epochs=1)
    own, _ = experiments.auxiliary_data(digits, 200)
    truth = digits.train.images[:300]
    view, attack = session.observe(truth), PCAT(steps=150)
    errors = [
        metrics.mse(attack(view, own, defense=known).inputs, truth).median().item()
        for known in (None, defenses.GaussianNoise(1.0, 7))
    ]
    assert errors[1] < 0.7 * errors[0]


def test_ctrl_c_keeps_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    from sltools.attacks.surrogate import SurrogateTraining

    learn = SurrogateTraining.learn

    def interrupted(self: Any, *arguments: Any) -> None:
        if self.step == 2:
            raise KeyboardInterrupt
        learn(self, *arguments)

    monkeypatch.setattr(SurrogateTraining, "learn", interrupted)
    found = FORA(**SHORT)(_session().observe(_secret()), _own())
    assert found.interrupted and len(found.inputs) == 20


@given(size=st.integers(1, 9), seed=st.integers(0, 3))
@settings(max_examples=8, deadline=None)
def test_any_number_of_images_is_decoded(size: int, seed: int) -> None:
    message = Message(0, 0, "smashed", torch.rand(size, 4, 6, 6), "inference")
    found = FORA(steps=1, batch=3, seed=seed)(View("server", [message]), noise_split(3))
    assert found.inputs.shape == (size, 1, 28, 28) and found.inputs.dtype == torch.float32
    assert bool(((found.inputs >= 0) & (found.inputs <= 1)).all())


@pytest.mark.gpu
@each
def test_they_work_on_a_gpu(name: str) -> None:
    session = _session(device="cuda")
    found = ATTACKS[name](session.observe(_secret()), _own())
    assert found.inputs.is_cuda and found.device.startswith("cuda")


# That they are passive


class _Honest(protocol.Server):
    """An honest server of the same signature."""


def _train_beside(server: protocol.Server, net: nn.Sequential, cut: Any) -> Any:
    front, _, *head = models.cut(net, cut)
    split = data.load("digits").train[:96]
    client = protocol.Client(front, *head)
    return protocol.train(client, server, split, epochs=1, batch_size=16, record=True)


@each
@pytest.mark.parametrize("cut", ["pool2", ("pool1", "relu4")])
@pytest.mark.parametrize("dropout", [False, True])
def test_the_client_receives_what_an_honest_server_sends(
    name: str, cut: Any, dropout: bool
) -> None:
    net = models.mnist_net(seed=3)
    if dropout:
        net.relu3 = nn.Dropout(0.3)  # its noise comes from the training's stream
    sessions = []
    for curious in (False, True):
        own = copy.deepcopy(net)
        front, middle, *_ = models.cut(own, cut)
        private = not isinstance(cut, str)
        if curious:
            shape = Architecture.of(front, (1, 28, 28))
            server: protocol.Server = CuriousServer(
                middle, ATTACKS[name], _own(), client=shape, label_private=private
            )
        else:
            server = _Honest(middle, label_private=private)
        sessions.append(_train_beside(server, own, cut))
    honest, watched = (session.transcript.digests("client") for session in sessions)
    assert honest == watched and len(honest) >= 6
    assert sessions[1].server.steps == 6
    assert sessions[0].losses == sessions[1].losses or cut != "pool2"


@each
def test_beside_a_training_it_learns_to_decode(name: str) -> None:
    net = models.mnist_net(seed=3)
    front, rest = models.cut(net, "pool1")
    shape = Architecture.of(front, (1, 28, 28))
    server = CuriousServer(rest, ATTACKS[name], _own(), client=shape)
    session = protocol.train(
        front, server, data.load("digits").train[:320], epochs=1, batch_size=16
    )
    found = server.invert(session.observe(_secret()))
    assert found.inputs.shape == (20, 1, 28, 28) and found.losses["mmd"].isfinite().all()
    assert "auxiliary images (60)" in found.knowledge and "smashed" in found.knowledge


def test_what_goes_wrong_with_the_attack_is_hidden_from_the_client() -> None:
    split = data.load("digits").train[:64]
    split.images[3] = 1e30  # no loss is finite from here on
    found = []
    for curious in (False, True):
        front, rest = models.cut(models.mnist_net(seed=3), "pool1")
        attack = PCAT(steps=4, batch=8, late_start=0)
        server = CuriousServer(rest, attack, _own()) if curious else protocol.Server(rest)
        session = protocol.train(front, server, split, epochs=1, batch_size=16, record=True)
        found.append(session.transcript.digests("client"))
    assert found[0] == found[1]
    with pytest.raises(AttackError, match="the attack (ended after|diverged)"):
        server.invert(_session("pool1").observe(_secret()))  # type: ignore[union-attr]


def test_a_late_start_lets_the_first_batches_pass() -> None:
    front, rest = models.cut(models.mnist_net(), "pool1")
    server = CuriousServer(rest, PCAT(late_start=4, batch=8), _own())
    with pytest.raises(AttackError, match="has learnt nothing yet"):
        server.invert(_session("pool1").observe(_secret()))
    protocol.train(front, server, data.load("digits").train[:96], epochs=1, batch_size=16)
    assert server.steps == 2


def test_a_curious_server_says_what_it_lacks() -> None:
    _, rest = models.cut(models.mnist_net(), "pool1")
    with pytest.raises(AttackError, match=r"give client=Architecture\.of"):
        CuriousServer(rest, SDAR(), _own())
    with pytest.raises(AttackError, match="the attack is an SDAR"):
        CuriousServer(rest, "SDAR", _own())  # type: ignore[arg-type]


@labelled
def test_a_server_that_works_in_place_leaves_the_smashed_data_alone(name: str) -> None:
    net = nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(4 * 576, 10)
    )
    client, server = experiments.parties(net, "0")
    session = protocol.train(client, server, data.load("digits").train[:32], epochs=1)
    view = session.observe(_secret())
    found = ATTACKS[name](view, _own())
    assert found.inputs.isfinite().all() and view.smashed.min() < 0


@labelled
@pytest.mark.parametrize("cut", ["fc1", ("pool1", "relu4")])
def test_half_of_the_classes_may_be_missing(name: str, cut: Any) -> None:
    own = _own(200)
    half = own[(own.labels < 5).nonzero().flatten()]
    found = ATTACKS[name](_session(cut).observe(_secret()), half)
    assert found.inputs.isfinite().all()


# Bad input


def _without(own: Split, label: int) -> Split:
    return own[(own.labels != label).nonzero().flatten()]


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (None, "needs auxiliary data"),
        (_own()[:0], "needs auxiliary data"),
        (Split(torch.rand(20, 1, 28), torch.arange(20) % 2), "must be a tensor \\(N, C, H, W\\)"),
        (Split(torch.rand(20, 1, 28, 28) * 255, torch.arange(20) % 2), "divide 8-bit pixels"),
        (Split(torch.rand(20, 1, 28, 28), torch.rand(20)), "needs the labels of its 20"),
        (Split(torch.rand(20, 1, 28, 28), torch.zeros(20).long()), "images of other classes"),
        (Split(torch.rand(20, 1, 28, 28), torch.arange(20) % 2 - 1), "from 0, and the least is -1"),
        (
            SimpleNamespace(images=torch.rand(20, 1, 28, 28), labels=torch.arange(19) % 2),
            "20 auxiliary images and 19 labels",
        ),
        (
            SimpleNamespace(images=torch.rand(20, 1, 28, 28).double(), labels=torch.arange(20) % 2),
            "convert them with `.float\\(\\)`$",
        ),
        (
            SimpleNamespace(
                images=torch.full((20, 1, 28, 28), torch.nan), labels=torch.arange(20) % 2
            ),
            "leave out the images with NaN",
        ),
        (
            SimpleNamespace(images=torch.ones(20, 1, 28, 28).byte(), labels=torch.arange(20) % 2),
            "divide 8-bit pixels by 255$",
        ),
        (Split(torch.rand(20, 1, 28, 28), torch.arange(20)), "the server has 10 classes"),
        (_own(5), "5 auxiliary images are fewer than a batch of 8"),
        (Split(torch.rand(20, 1, 32, 32), torch.arange(20) % 2), "images of the size"),
        (Split(torch.rand(20, 3, 28, 28), torch.arange(20) % 2), "images of the size"),
    ],
)
def test_auxiliary_data_that_will_not_do_are_refused(own: Any, message: str) -> None:
    with pytest.raises(AttackError, match=message):
        SDAR(**SHORT)(_session().observe(_secret()), own)


def test_auxiliary_data_that_contain_the_targets_are_refused() -> None:
    own, secret = _own(), _secret()
    experiments.check_disjoint(own, secret)
    with pytest.raises(DataError, match="2 of 60 auxiliary images are among the private ones"):
        experiments.check_disjoint(own, torch.cat([secret, own.images[3:5]]))


def test_private_images_are_a_tensor() -> None:
    with pytest.raises(DataError, match="not a Split: take a split's `.images`"):
        experiments.check_disjoint(_own(), _own())  # type: ignore[arg-type]


def test_a_rival_needs_two_classes() -> None:
    one = Split(torch.rand(20, 1, 28, 28), torch.full((20,), 3))
    with pytest.raises(DataError, match="all 20 auxiliary images are of one class"):
        experiments.support_vectors(one, _secret())


@pytest.mark.parametrize("name", ["PCAT", "FORA"])
def test_without_the_architecture_images_have_the_size_of_the_auxiliary_ones(name: str) -> None:
    own = Split(torch.rand(20, 3, 32, 32), torch.arange(20) % 2)
    found = ATTACKS[name](_session().observe(_secret()), own)
    assert found.inputs.shape == (20, 3, 32, 32)


@given(count=st.integers(1, 349), seed=st.integers(0, 5))
@settings(max_examples=5, deadline=None)
def test_auxiliary_data_are_neither_trained_on_nor_attacked(count: int, seed: int) -> None:
    digits = data.load("digits")
    own, held_out = experiments.auxiliary_data(digits, count, seed=seed)
    targets = experiments.first_targets(digits, 10)
    for private in (digits.train.images, targets.images, held_out.images):
        experiments.check_disjoint(own, private)
    assert len(own) + len(held_out) == 350


@given(count=st.integers(2, 40), seed=st.integers(0, 5))
@settings(max_examples=10, deadline=None)
def test_no_other_weights_have_less_squared_error(count: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    features, wanted = (torch.rand(count, width, generator=draw) for width in (20, 3))
    parts = zip(features.split(7), wanted.split(7), strict=True)
    found = _least_squares(parts, ridge=0.01)
    slope = features.T @ (features @ found - wanted) + 0.01 * count * 20 * found
    assert slope.abs().max() < 1e-3


@given(count=st.integers(1, 30), seed=st.integers(0, 5))
@settings(max_examples=5, deadline=None)
def test_a_fitted_decoder_decodes_any_number_to_pixels(count: int, seed: int) -> None:
    images = noise_split(12).images
    state = torch.get_rng_state()
    one, two = (
        fitted_decoder(3 * images, images, ridge=1e-6, seed=number) for number in (seed, seed + 1)
    )
    assert torch.equal(state, torch.get_rng_state()) and not same(weights(one), weights(two))
    sent = torch.randn(count, *images.shape[1:], generator=torch.Generator().manual_seed(seed))
    assert one(sent).shape == (count, *images.shape[1:])
    assert one(sent).min() >= 0 and one(sent).max() <= 1
    assert (one(3 * images) - images).abs().max() < 0.1


@pytest.mark.parametrize("linear", [True, False])
def test_what_is_left_out_tells_how_to_fit_a_decoder(linear: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    smashed = torch.randn(260, 2, generator=draw)
    bright = smashed[:, 0] if linear else smashed[:, 0].square() - 2
    noise = 0.02 * torch.randn(260, 1, 2, 2, generator=draw)
    images = (bright.view(-1, 1, 1, 1) / 10 + 0.5 + noise).clamp(0, 1)

    def error(**fit: Any) -> float:
        decoder = fitted_decoder(smashed[:60], images[:60], **fit, seed=0)
        return metrics.mse(decoder(smashed[60:]), images[60:]).mean().item()

    state = torch.get_rng_state()
    best = cross_validated(smashed[:60], images[:60], seed=0)
    assert torch.equal(state, torch.get_rng_state())
    assert best.features == ("linear" if linear else "random")
    rivals = [("random" if linear else "linear", best.ridge)]
    rivals += [(best.features, ridge) for ridge in (RIDGES[0], RIDGES[-1]) if ridge != best.ridge]
    assert error(**best._asdict()) < 1.05 * min(error(features=f, ridge=r) for f, r in rivals)


def test_no_ridge_is_chosen_that_learns_noise_by_heart() -> None:
    """With more features than images nearly any image can be fitted; none follows from others."""
    draw = torch.Generator().manual_seed(0)
    smashed, images = torch.randn(30, 60, generator=draw), torch.rand(30, 1, 3, 3, generator=draw)
    assert cross_validated(smashed, images, seed=0).ridge >= 0.1


def test_a_linear_decoder_is_standardised_for_what_it_decodes() -> None:
    images = noise_split(40).images
    smashed = images.flatten(1)
    sent = Moments.of(5 * smashed - 2)
    decoder = fitted_decoder(smashed, images, ridge=1e-8, seed=0, sent=sent, features="linear")
    # Spreads that differ by a factor of five make features count less, not wrong.
    assert (decoder(5 * smashed - 2) - images).abs().max() < 0.05
    assert not [part for part in decoder if isinstance(part, nn.ReLU)]


def test_a_unit_that_is_always_off_does_no_harm() -> None:
    images = noise_split(12).images
    dark = torch.cat([images.flatten(1), torch.zeros(12, 3)], 1)
    assert fitted_decoder(dark, images, ridge=1e-3, seed=0)(dark).isfinite().all()
    assert fitted_decoder(0 * dark, images, ridge=1e-3, seed=0)(dark).isfinite().all()
    fit = cross_validated(dark, images, seed=0)
    assert fitted_decoder(dark, images, **fit._asdict(), seed=0)(dark).isfinite().all()


def test_what_does_not_fit_is_refused() -> None:
    session = _session()
    view = session.observe(_secret())
    found = FORA(**SHORT)(view, _own())
    with pytest.raises(AttackError, match="smashed data of shape"):
        found.reconstruct(torch.rand(2, 60))
    with pytest.raises(AttackError, match="NaN or infinite"):
        found.reconstruct(torch.full((2, 120), torch.nan))
    with pytest.raises(AttackError, match="take the server's view"):
        PCAT(**SHORT)(session.infer(_secret()).view("client"), _own())
    regression = nn.Sequential(nn.Linear(120, 1))
    message = Message(0, 0, "smashed", torch.rand(20, 120), "inference")
    with pytest.raises(AttackError, match="no classes to learn from"):
        PCAT(**SHORT)(View("server", [message], own_model=regression), _own())
    other = nn.Sequential(nn.Linear(60, 10))
    with pytest.raises(AttackError, match="does not fit the smashed data"):
        PCAT(**SHORT)(View("server", [message], own_model=other), _own())


def test_copies_of_the_targets_in_another_precision_are_found_too() -> None:
    own = _own()
    with pytest.raises(DataError, match="3 of 60"):
        experiments.check_disjoint(own, own.images[:3].double())


def test_the_rivals_images_are_moved_one_by_one() -> None:
    from sltools.experiments.auxiliary import _shifted

    image = torch.zeros(1, 1, 9, 9)
    image[..., 4, 4] = 1
    moved = _shifted(image.repeat(200, 1, 1, 1), torch.Generator().manual_seed(0))
    assert moved.shape == (200, 1, 9, 9) and torch.equal(moved.sum((1, 2, 3)), torch.ones(200))
    places = moved.flatten(1).argmax(1)
    assert len(places.unique()) == 25 and set((places // 9).tolist()) == {2, 3, 4, 5, 6}


@pytest.mark.parametrize("count", [0, 350, 1000])
def test_more_auxiliary_data_than_there_are_cannot_be_drawn(count: int) -> None:
    with pytest.raises(DataError, match="give 1 to 349"):
        experiments.auxiliary_data(data.load("digits"), count)


@pytest.mark.parametrize(
    "wrong", [{"steps": 0}, {"lr": -1.0}, {"mmd": float("nan")}, {"batch": 2.5}]
)
@each
def test_senseless_settings_are_refused(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(AttackError, match=next(iter(wrong))):
        replace(ATTACKS[name], **wrong)


# The parts


@given(st.integers(2, 12), st.integers(2, 12), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_the_discrepancy_is_that_of_a_squared_distance(ours: int, theirs: int, seed: int) -> None:
    stream = torch.Generator().manual_seed(seed)
    made = torch.rand(ours, 3, 2, generator=stream)
    real = torch.rand(theirs, 3, 2, generator=stream)
    there, back = mk_mmd(Samples(made, real)), mk_mmd(Samples(real, made))
    torch.testing.assert_close(there, back)
    assert there > -1e-5 and abs(mk_mmd(Samples(made, made))) < 1e-5


def test_with_labels_only_samples_of_one_class_are_compared() -> None:
    samples = torch.tensor([[0.0], [1.0], [0.0], [1.0]])
    labels = torch.tensor([0, 1, 0, 1])
    assert abs(mk_mmd(Samples(samples, samples, labels, labels))) < 1e-5
    assert mk_mmd(Samples(samples, samples, labels, 1 - labels)) > 0.5
    assert abs(mk_mmd(Samples(samples, samples))) < 1e-5


def test_batches_have_the_labels_of_the_clients_where_there_are_such() -> None:
    own = Auxiliary(_without(_own(), 3), labelled=True, batch=8, seed=0, device=torch.device("cpu"))
    wanted = torch.arange(10).repeat(6)
    images, labels = own.batch(60, like=wanted)
    assert labels is not None and len(images) == 60
    known = wanted != 3
    assert torch.equal(labels[known], wanted[known]) and 3 not in labels
    assert own.batch(60, like=torch.full((60,), 12))[1] is not None
    assert len(own.batch(200)[1].unique()) == 9  # type: ignore[union-attr]
