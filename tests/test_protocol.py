import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy, one_hot
from torch.optim import SGD

from sltools import models, seeds
from sltools.data import Split
from sltools.errors import ModelError, NotObservable, ProtocolError
from sltools.messages import Message
from sltools.protocol import Client, Server, Session, adam, data_orders, exchange, train
from sltools.transcript import Transcript
from tests.parties import U_CUT, holds, noise_split, parties, run, same, weights

few = settings(deadline=None, max_examples=60)
CUTS = ["conv1", "relu1", "pool1", "conv2", "flatten", "fc1", ("pool1", "fc2"), ("conv1", "conv2")]


def sgd(parameters):
    return SGD(parameters, lr=0.01, momentum=0.9)


def train_whole(net, split, *, epochs, batch_size, optimizer, seed=0, penalty=None, loss=None):
    """Train `net` in one piece, on one optimiser; `penalty` is (number of stages, function)."""
    losses, order = [], seeds.generator(seed, "order")
    criterion = loss or cross_entropy
    net.train()
    with seeds.scope(seed, "training"):
        for _ in range(epochs):
            epoch = []
            for rows in torch.randperm(len(split), generator=order).split(batch_size):
                optimizer.zero_grad()
                images, labels = split.images[rows], split.labels[rows]
                if penalty is None:
                    value = criterion(net(images), labels)
                    value.backward()
                else:
                    depth, function = penalty
                    z = net[:depth](images)
                    value = criterion(net[depth:](z), labels)
                    (value + function(images, z)).backward()
                optimizer.step()
                epoch.append(value.detach())
            losses.append(torch.stack(epoch).mean().item())
    return losses


def assert_same_training(net, session, twin, optimizer):
    """Compare weights, buffers and optimiser states of a split and a whole network, bit for bit."""
    for name, value in twin.state_dict().items():
        assert_identical(net.state_dict()[name], value)
    states = [session.client.optimizer.state, session.server.optimizer.state]
    for weight, whole in zip(net.parameters(), twin.parameters(), strict=True):
        (found,) = [state[weight] for state in states if weight in state]
        expected = optimizer.state[whole]
        assert set(found) == set(expected) != set()
        for name, value in expected.items():
            assert_identical(found[name], value)


def assert_identical(one, other):
    """Demand bit-equal tensors (a training that diverges must do so in the same way)."""
    torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def compare(net, at, split, *, epochs=2, batch_size=4, seed=0, make=adam, **hooks):
    """Train `net` split at `at`, a twin of it whole, and demand that nothing differs."""
    twin = copy.deepcopy(net)
    client, server = parties(net, at, optimizer=make, server_options={"optimizer": make}, **hooks)
    session = train(client, server, split, epochs=epochs, batch_size=batch_size, seed=seed)
    optimizer = make(twin.parameters())
    losses = train_whole(
        twin, split, epochs=epochs, batch_size=batch_size, optimizer=optimizer, seed=seed
    )
    assert_same_training(net, session, twin, optimizer)
    assert session.losses == pytest.approx(losses, rel=0, abs=0, nan_ok=True)
    assert len(losses) == epochs


# --- The split run is the whole training --------------------------------------------------------


@pytest.mark.parametrize("batch_size", [4, 11, 1])
@pytest.mark.parametrize("at", CUTS)
def test_split_training_equals_whole_training_bit_for_bit(at, batch_size):
    compare(models.mnist_net(seed=1), at, noise_split(), batch_size=batch_size, seed=3)


@st.composite
def small_networks(draw):
    """A random network for (N, 1, 6, 6) images and three classes, and a place or two to cut it."""
    width = draw(st.integers(1, 4))
    activations = [nn.ReLU(), nn.LeakyReLU(0.2), nn.Tanh(), nn.Sigmoid(), nn.Dropout(0.3)]
    spatial = [
        *activations,
        nn.BatchNorm2d(2 * width),
        nn.GroupNorm(2, 2 * width),
        nn.Conv2d(2 * width, 2 * width, 3, padding=1),
        nn.AvgPool2d(3, stride=1, padding=1),
        nn.MaxPool2d(3, stride=1, padding=1),
    ]
    in_place = [nn.ReLU(inplace=True)]  # a part that begins by overwriting its input
    layers = [
        nn.Conv2d(1, 2 * width, 3, padding=1),
        *draw(st.sampled_from([[], in_place])),
        *draw(st.lists(st.sampled_from(spatial), max_size=4)),
        nn.Flatten(),
        nn.Linear(72 * width, 5),
        *draw(st.sampled_from([[], in_place])),
        *draw(st.lists(st.sampled_from(activations), max_size=2)),
        nn.Linear(5, 3),
    ]
    layers = [copy.deepcopy(layer) for layer in layers]
    hidden = [index for index, layer in enumerate(layers[:-1]) if index]
    first = draw(st.sampled_from(hidden))
    weighty = [index for index in hidden if any(map(_weighty, layers[first + 1 : index + 1]))]
    second = draw(st.sampled_from([None, *weighty]))
    net = nn.Sequential(*layers)
    with seeds.scope(draw(st.integers(0, 99)), "test"):
        for layer in net:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
    return net, str(first) if second is None else (str(first), str(second))


def _weighty(layer):
    return any(True for _ in layer.parameters())


@few
@given(
    small_networks(),
    st.integers(1, 9),
    st.integers(1, 10),
    st.integers(1, 3),
    st.integers(0, 99),
    st.sampled_from([adam, sgd]),
)
def test_any_network_trains_split_as_it_does_whole(drawn, n, batch_size, epochs, seed, make):
    net, at = drawn
    split = noise_split(n, (1, 6, 6), classes=3, seed=seed)
    compare(net, at, split, epochs=epochs, batch_size=batch_size, seed=seed, make=make)


def test_training_goes_on_where_it_stopped():
    net, split = models.mnist_net(seed=1), noise_split()
    twin = copy.deepcopy(net)
    client, server = parties(net, U_CUT)
    optimizer = adam(twin.parameters())
    for seed in (0, 1):
        session = train(client, server, split, epochs=1, batch_size=4, seed=seed)
        train_whole(twin, split, epochs=1, batch_size=4, optimizer=optimizer, seed=seed)
    assert_same_training(net, session, twin, optimizer)
    states = [*client.optimizer.state.values(), *server.optimizer.state.values()]
    assert {int(state["step"]) for state in states} == {6}


def test_training_is_reproducible_and_the_seed_orders_the_data():
    first, again = run(U_CUT), run(U_CUT)
    assert first.transcript.digests("server") == again.transcript.digests("server")
    client, server = parties(models.mnist_net(seed=0), "pool1")
    other = train(client, server, noise_split(), epochs=1, batch_size=4, seed=1, record=True)
    labels = [session.transcript.view().labels for session in (run("pool1"), other)]
    assert not torch.equal(*labels)
    assert torch.equal(labels[0].sort().values, labels[1].sort().values)


def test_every_epoch_has_an_order_of_its_own_and_sees_everything_once():
    labels = run("pool1", epochs=2).transcript.view().labels
    truth = noise_split().labels
    assert not torch.equal(labels[:11], labels[11:])
    for epoch in (labels[:11], labels[11:]):
        assert torch.equal(epoch.sort().values, truth.sort().values)


def test_parts_of_a_network_are_trained_as_the_paper_does():
    front, server = models.cut(models.mnist_net(seed=0), "pool1")
    session = train(front, server, noise_split(), epochs=1, batch_size=4, record=True)
    for party in (session.client, session.server):
        (group,) = party.optimizer.param_groups
        assert type(party.optimizer) is torch.optim.Adam
        assert (group["lr"], group["amsgrad"], group["weight_decay"]) == (1e-3, True, 0)
    assert session.transcript.digests("server") == run("pool1").transcript.digests("server")
    assert session.client.front is front


# --- What crosses the wire ----------------------------------------------------------------------


VANILLA = ["labels", "smashed", "cut_gradient"]
PRIVATE = ["smashed", "features", "feature_gradient", "cut_gradient"]


@pytest.mark.parametrize(("at", "kinds"), [("pool1", VANILLA), (U_CUT, PRIVATE)])
def test_messages_are_exchanged_in_order_and_numbered(at, kinds):
    messages = run(at, epochs=2).transcript.messages
    assert [message.kind for message in messages] == kinds * 6
    numbers = [(message.step, message.batch) for message in messages]
    expected = [(0, 0), (1, 1), (2, 2), (3, 0), (4, 1), (5, 2)]
    assert numbers == [number for number in expected for _ in kinds]
    assert {message.phase for message in messages} == {"training"}
    sizes = [len(m.payload) for m in messages if m.kind == "smashed"]
    assert sizes == [4, 4, 3, 4, 4, 3]


@pytest.mark.parametrize(("at", "kinds"), [("pool1", VANILLA), (U_CUT, PRIVATE)])
def test_payloads_have_the_values_that_their_names_say(at, kinds):
    net = models.mnist_net(seed=0)
    front, middle, *head = models.cut(copy.deepcopy(net), at)
    messages = run(at, net=net, batch_size=11).transcript.messages
    sent = {message.kind: message.payload for message in messages}
    order = next(data_orders(11, seed=0))
    split = noise_split()[order]
    z = front(split.images)
    u = middle(z)
    logits = head[0](u) if head else u
    loss = cross_entropy(logits, split.labels)
    expected = {
        "labels": split.labels,
        "smashed": z,
        "features": u,
        "feature_gradient": torch.autograd.grad(loss, u, retain_graph=True)[0],
        "cut_gradient": torch.autograd.grad(loss, z)[0],
    }
    for kind in kinds:
        assert torch.equal(sent[kind], expected[kind]), kind


@pytest.mark.parametrize("at", ["conv1", "pool1", "flatten", U_CUT, ("conv1", "fc1")])
def test_no_message_carries_an_image(at):
    split = noise_split()
    session = run(at, epochs=2)
    payloads = [m.payload for m in session.transcript.messages]
    payloads += [m.payload for m in session.infer(split.images).messages]
    assert len(payloads) > 12
    for payload in payloads:
        assert not any(holds(payload, row) for row in split.images.reshape(-1, 28))
        assert payload.shape[1:] != split.images.shape[1:]


def test_the_search_for_images_finds_them_where_they_are():
    """A client without a layer that mixes pixels leaks: the search above would tell."""
    net = nn.Sequential(nn.PReLU(), nn.Flatten(), nn.Linear(784, 10))  # x at x > 0
    payload = run("1", net=net).transcript.messages[1].payload
    assert any(holds(payload, row) for row in noise_split().images.reshape(-1, 28))


@pytest.mark.parametrize("at", [U_CUT, ("conv1", "fc1"), ("fc1", "fc2")])
def test_no_message_of_a_label_private_client_carries_its_labels(at):
    session = run(at, epochs=2)
    pages = [page["labels"] for page in session.transcript.client_log.values()]
    assert [len(page) for page in pages] == [4, 4, 3, 4, 4, 3]
    assert torch.equal(torch.cat(pages[:3]).sort().values, noise_split().labels.sort().values)
    types = [torch.int64, torch.int32, torch.int16, torch.uint8, torch.float32, torch.float64]
    disguises = [labels.to(kind) for labels in pages for kind in types]
    disguises += [one_hot(labels, 10).float() for labels in pages]
    for message in session.transcript.messages:
        assert message.payload.is_floating_point()
        assert not any(holds(message.payload, labels) for labels in disguises)


def test_the_search_for_labels_finds_them_where_they_are():
    transcript = run("pool1").transcript
    assert holds(transcript.messages[0].payload, transcript.client_log[0]["labels"])


@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_no_party_ever_receives_a_graph(at):
    seen = []

    def watch(party):
        reply = party.reply

        def watched(message):
            payload = message.payload
            assert (payload.grad_fn, payload.requires_grad, payload.grad) == (None, False, None)
            assert type(payload) is torch.Tensor
            seen.append(message)
            return reply(message)

        party.reply = watched

    client, server = parties(models.mnist_net(seed=0), at)
    watch(client)
    watch(server)
    session = train(client, server, noise_split(), epochs=1, batch_size=4, record=True)
    session.observe(noise_split().images)
    assert len(seen) == len(session.transcript.messages) + 2
    for message in session.transcript.messages:
        assert message.payload.grad_fn is None
        assert not message.payload.requires_grad
        assert message.payload.untyped_storage().nbytes() == message.nbytes


class Hoarder(Server):
    """Keeps all messages it gets and sends, and scribbles over them later."""

    def reply(self, message):
        self.kept = [*getattr(self, "kept", []), message]
        answer = super().reply(message)
        if answer is not None:
            self.kept.append(answer)
        return answer


def test_a_server_cannot_watch_what_the_client_does_with_its_features():
    """dL/du before the client's defence must not be readable from the features that were sent."""
    silent = {"outgoing": lambda kind, x: 0 * x if kind == "feature_gradient" else x}
    session = run(U_CUT, server=Hoarder, **silent)
    features = [message for message in session.server.kept if message.kind == "features"]
    assert len(features) == 3
    assert all(message.payload.grad is None for message in features)
    gradients = [message for message in session.server.kept if message.kind == "feature_gradient"]
    assert all((message.payload == 0).all() for message in gradients)


@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_no_party_can_rewrite_the_record_or_what_the_other_got(at):
    honest = run(at, epochs=2).transcript

    class Scribbler(Hoarder):
        def reply(self, message):
            answer = super().reply(message)
            for kept in self.kept:
                if kept is not answer and kept.kind != "labels":  # it needs those itself
                    kept.payload.detach().fill_(7)
            return answer

    scribbled = run(at, epochs=2, server=Scribbler).transcript
    for receiver in ("server", "client"):
        assert scribbled.digests(receiver) == honest.digests(receiver)


def test_nothing_is_recorded_unless_asked_for():
    session = run("pool1", record=False)
    assert session.transcript.messages == []
    assert session.transcript.client_log == {}
    with pytest.raises(NotObservable, match="train with record=True"):
        _ = session.transcript.view().smashed


def test_the_client_log_holds_what_the_client_computed():
    net = models.mnist_net(seed=0)
    front, middle, head = models.cut(copy.deepcopy(net), U_CUT)
    session = run(U_CUT, net=net, batch_size=11)
    order = next(data_orders(11, seed=0))
    split = noise_split()[order]
    loss = cross_entropy(head(middle(front(split.images))), split.labels)
    loss.backward()
    (page,) = session.transcript.client_log.values()
    assert torch.equal(page["labels"], split.labels)
    assert torch.equal(page["head_weight_gradients"], head.fc3.weight.grad)
    assert torch.equal(page["head_bias_gradients"], head.fc3.bias.grad)
    assert set(run("pool1").transcript.client_log[0]) == {"labels"}


def test_the_client_log_is_of_the_last_linear_layer_if_there_is_one():
    shallow = run(("pool1", "flatten"), batch_size=11).transcript.client_log[0]
    assert shallow["head_weight_gradients"].shape == (10, 84)
    convolutional = nn.Sequential(
        nn.Conv2d(1, 4, 5, stride=4), nn.Conv2d(4, 4, 3), nn.Conv2d(4, 10, 4), nn.Flatten()
    )
    assert set(run(("0", "1"), net=convolutional).transcript.client_log[0]) == {"labels"}
    unbiased = nn.Sequential(
        nn.Conv2d(1, 2, 28), nn.Flatten(), nn.Linear(2, 4), nn.Linear(4, 10, bias=False)
    )
    page = run(("1", "2"), net=unbiased).transcript.client_log[0]
    assert set(page) == {"labels", "head_weight_gradients"}


# --- Inference ------------------------------------------------------------------------------------


@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_inference_computes_what_the_whole_network_does(at):
    net = models.mnist_net(seed=0)
    session = run(at, net=net)
    before = weights(net)
    images = noise_split(seed=6).images
    net.eval()
    with torch.no_grad():
        expected = net(images)
    assert torch.equal(session.predict(images), expected)
    torch.testing.assert_close(session.predict(images, batch_size=3), expected)
    assert not session.predict(images).requires_grad
    assert same(weights(net), before)
    split = Split(images, expected.argmax(1))
    assert session.accuracy(split) == 1.0
    split.labels[:3] = (split.labels[:3] + 1) % 10
    assert session.accuracy(split) == pytest.approx(8 / 11)


def test_inference_turns_training_behaviour_off_and_training_turns_it_on():
    net = nn.Sequential(nn.Conv2d(1, 2, 28), nn.Dropout(0.9), nn.Flatten(), nn.Linear(2, 10))
    client, server = parties(net, "1")
    session = train(client, server, noise_split(), epochs=1, batch_size=4)
    first = session.predict(noise_split().images)
    assert torch.equal(first, session.predict(noise_split().images))
    assert not net[1].training
    train(client, server, noise_split(), epochs=1, batch_size=4)
    assert net[1].training


@pytest.mark.parametrize(
    ("at", "kinds"), [("pool1", ["smashed", "prediction"]), (U_CUT, ["smashed", "features"])]
)
def test_an_observed_inference_is_an_ordinary_transcript(at, kinds):
    session = run(at, record=False)
    images = noise_split().images
    transcript = session.infer(images, batch_size=4)
    assert [message.kind for message in transcript.messages] == kinds * 3
    assert {message.phase for message in transcript.messages} == {"inference"}
    steps = [(message.step, message.batch) for message in transcript.messages]
    assert steps == [(step, step) for step in (0, 0, 1, 1, 2, 2)]
    assert transcript.client_log == {}
    view = session.observe(images)
    with torch.no_grad():
        assert torch.equal(view.smashed, session.client.front(images))
    assert view.architecture.input_shape == (1, 28, 28)
    assert session.transcript.messages == []


@pytest.mark.parametrize("images", [torch.rand(1, 28, 28), noise_split(), None])
def test_an_inference_wants_a_batch_of_images(images):
    session = run("pool1")
    for ask in (session.observe, session.predict, session.infer):
        with pytest.raises(
            ProtocolError, match=r"a tensor of images \(N, C, H, W\).*`images\[:1\]`"
        ):
            ask(images)


# --- The client's hooks ---------------------------------------------------------------------------


class Double(nn.Module):
    def forward(self, x):
        return 2 * x


@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_outgoing_changes_smashed_data_inside_the_clients_graph(at):
    net, split = models.mnist_net(seed=0), noise_split()
    stages = list(copy.deepcopy(net))
    twin = nn.Sequential(*stages[:3], Double(), *stages[3:])
    double = {"outgoing": lambda kind, x: 2 * x if kind == "smashed" else x}
    session = run(at, net=net, **double)
    optimizer = adam(twin.parameters())
    train_whole(twin, split, epochs=1, batch_size=4, optimizer=optimizer)
    assert same(weights(net), weights(twin))
    assert torch.equal(session.predict(split.images), twin.eval()(split.images))
    observed = session.observe(split.images).smashed
    with torch.no_grad():
        assert torch.equal(observed, 2 * session.client.front(split.images))


def test_outgoing_changes_labels():
    shifted = run("pool1", outgoing=lambda kind, x: (x + 1) % 10 if kind == "labels" else x)
    plain = run("pool1")
    seen = shifted.transcript.view().labels
    assert torch.equal(seen, (plain.transcript.view().labels + 1) % 10)
    truth = noise_split()
    lied = run("pool1", split=Split(truth.images, (truth.labels + 1) % 10))
    assert lied.transcript.digests("server") == shifted.transcript.digests("server")
    kept = torch.cat([page["labels"] for page in shifted.transcript.client_log.values()])
    assert torch.equal(kept, plain.transcript.view().labels)  # the log tells the truth


def test_outgoing_changes_feature_gradients_but_not_the_head():
    halved = run(U_CUT, outgoing=lambda kind, x: x / 2 if kind == "feature_gradient" else x)
    plain = run(U_CUT)
    pairs = zip(
        halved.transcript.view().payloads("feature_gradient"),
        plain.transcript.view().payloads("feature_gradient"),
        strict=True,
    )
    half, whole = next(pairs)
    assert torch.equal(half, whole / 2)
    pages = [session.transcript.client_log[0] for session in (halved, plain)]
    assert torch.equal(pages[0]["head_weight_gradients"], pages[1]["head_weight_gradients"])
    gradients = [
        session.transcript.view().payloads("cut_gradient")[0] for session in (halved, plain)
    ]
    assert torch.equal(gradients[0], gradients[1] / 2)


def test_outgoing_is_told_the_kind_of_all_that_leaves():
    for at, kinds in [("pool1", ["smashed", "labels"]), (U_CUT, ["smashed", "feature_gradient"])]:
        told = []

        def note(kind, tensor, told=told):
            told.append(kind)
            return tensor

        session = run(at, batch_size=11, outgoing=note)
        assert told == kinds
        session.predict(noise_split().images)
        assert told == [*kinds, "smashed"]


def test_outgoing_that_cuts_the_graph_is_an_error():
    with pytest.raises(ProtocolError, match="`outgoing` detached the smashed data"):
        run("pool1", outgoing=lambda kind, x: x.detach())


def test_a_clients_criterion_is_the_loss_at_its_head():
    def smooth(logits, labels):
        return 3 * cross_entropy(logits, labels, label_smoothing=0.2)

    net, split = models.mnist_net(seed=0), noise_split()
    twin = copy.deepcopy(net)
    session = run(U_CUT, net=net, epochs=2, criterion=smooth)
    optimizer = adam(twin.parameters())
    losses = train_whole(twin, split, epochs=2, batch_size=4, optimizer=optimizer, loss=smooth)
    assert_same_training(net, session, twin, optimizer)
    assert session.losses == losses


def test_a_servers_criterion_is_the_loss_of_vanilla_split_learning():
    def smooth(logits, labels):
        return 3 * cross_entropy(logits, labels, label_smoothing=0.2)

    net, split = models.mnist_net(seed=0), noise_split()
    twin = copy.deepcopy(net)
    session = run("pool1", net=net, epochs=2, server_options={"criterion": smooth})
    losses = train_whole(
        twin, split, epochs=2, batch_size=4, optimizer=adam(twin.parameters()), loss=smooth
    )
    assert same(weights(net), weights(twin))
    assert session.losses == losses


@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_a_penalty_changes_training_exactly_as_in_one_network(at):
    def penalty(images, z):
        return 0.3 * (z.flatten(1).norm(dim=1) / images.flatten(1).norm(dim=1)).square().mean()

    net, split = models.mnist_net(seed=0), noise_split()
    twin, plain = copy.deepcopy(net), copy.deepcopy(net)
    session = run(at, net=net, epochs=2, penalty=penalty)
    optimizer = adam(twin.parameters())
    losses = train_whole(
        twin, split, epochs=2, batch_size=4, optimizer=optimizer, penalty=(3, penalty)
    )
    assert_same_training(net, session, twin, optimizer)
    assert session.losses == losses  # the task's loss alone
    run(at, net=plain, epochs=2)
    assert not torch.equal(net.conv1.weight, plain.conv1.weight)


def test_a_penalty_does_not_reach_the_wire():
    gradients = []
    for hooks in ({}, {"penalty": lambda images, z: z.square().sum()}):
        view = run("pool1", batch_size=11, **hooks).transcript.view()
        gradients.append(view.cut_gradients)
    assert torch.equal(*gradients)


def test_the_clients_optimiser_is_its_own():
    net, split = models.mnist_net(seed=0), noise_split()
    session = run(U_CUT, net=net, optimizer=sgd)
    assert isinstance(session.client.optimizer, SGD)
    assert isinstance(session.server.optimizer, torch.optim.Adam)
    compare(models.mnist_net(seed=0), U_CUT, split, make=sgd)


# --- Extra batches --------------------------------------------------------------------------------


def probes(step, images, labels):
    """After the batches of steps 0 and 4, send two probes and one."""
    if step == 0:
        yield images.flip(3), labels.flip(0)
        yield images[:2].flip(2), labels[:2]
    elif step == 4:
        yield 1 - images, labels


@pytest.mark.parametrize(("at", "kinds"), [("pool1", VANILLA), (U_CUT, PRIVATE)])
def test_extra_batches_are_sent_recorded_and_numbered_with_the_others(at, kinds):
    transcript = run(at, epochs=2, extra=probes).transcript
    assert [message.kind for message in transcript.messages] == kinds * 9
    numbers = [(message.step, message.batch) for message in transcript.messages]
    # Steps 1, 2 and 5 are extra; the second epoch begins at step 5 with the batch number 0.
    expected = [(0, 0), (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 0), (7, 1), (8, 2)]
    assert numbers == [number for number in expected for _ in kinds]
    sizes = [len(message.payload) for message in transcript.messages if message.kind == "smashed"]
    assert sizes == [4, 4, 2, 4, 3, 3, 4, 4, 3]
    assert sorted(transcript.client_log) == list(range(9))
    view = transcript.view("server", ["anchor_labels"])
    assert len(view.anchor_labels) == len(view.smashed)


def test_extra_batches_carry_what_the_hook_yields():
    net = models.mnist_net(seed=0)
    session = run("pool1", net=net, extra=probes, epochs=1)
    order = next(data_orders(11, seed=0))
    first = noise_split()[order[:4]]
    view = session.transcript.view()
    labels = view.payloads("labels")
    assert torch.equal(labels[0], first.labels)
    assert torch.equal(labels[1], first.labels.flip(0))
    assert torch.equal(labels[2], first.labels[:2])


@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_the_client_does_not_learn_from_extra_batches_but_the_server_does(at):
    net = models.mnist_net(seed=0)
    client, server = parties(net, at)
    own = [part for part in (client.front, client.head) if part is not None]
    seen = []

    def extra(step, images, labels):
        before, other = weights(*own), weights(server.model)
        yield images.flip(3), labels
        assert same(weights(*own), before)
        assert not same(weights(server.model), other)
        assert client.front.conv1.weight.grad.abs().sum() > 0  # a detector may look at it
        seen.append(step)

    client.extra = extra
    session = train(client, server, noise_split(), epochs=2, batch_size=4)
    assert seen == [0, 2, 4, 6, 8, 10]
    assert {int(state["step"]) for state in client.optimizer.state.values()} == {6}
    assert {int(state["step"]) for state in server.optimizer.state.values()} == {12}
    assert len(session.losses) == 2


def test_the_losses_are_those_of_the_real_batches():
    def hopeless(step, images, labels):
        yield 1000 * images, labels

    frozen = {"optimizer": lambda parameters: SGD(parameters, lr=0.0)}
    plain = run("pool1", server_options=frozen, **frozen)
    probed = run("pool1", server_options=frozen, extra=hopeless, **frozen)
    assert probed.losses == plain.losses


def test_a_client_learns_again_after_its_hook_failed():
    def failing(step, images, labels):
        raise RuntimeError("no probe today")

    client, server = parties(models.mnist_net(seed=0), "pool1", extra=failing)
    with pytest.raises(RuntimeError, match="no probe today"):
        train(client, server, noise_split(), epochs=1, batch_size=4)
    before, client.extra = weights(client.front), lambda *batch: ()
    train(client, server, noise_split(), epochs=1, batch_size=4)
    assert not same(weights(client.front), before)


# --- Malicious and mistaken parties ---------------------------------------------------------------


class Hijacker(Server):
    """Ignores labels and its own model, and steers the client by a gradient of its choice."""

    def reply(self, message):
        if message.kind == "labels":
            return None
        if message.phase == "inference":
            return super().reply(message)
        return Message(message.step, message.batch, "cut_gradient", message.payload)


def test_a_server_that_overrides_its_reply_steers_the_client():
    net, split = models.mnist_net(seed=0), noise_split()
    twin = copy.deepcopy(net)
    session = run("pool1", net=net, server=Hijacker, batch_size=11, optimizer=sgd)
    z = twin[:3](split.images[torch.randperm(11, generator=seeds.generator(0, "order"))])
    (0.5 * z.square().sum()).backward()  # dL/dz = z
    sgd(twin.parameters()).step()
    assert same(weights(net), weights(twin))
    (loss,) = session.losses
    assert loss != loss  # NaN: nobody told
    assert session.predict(split.images).shape == (11, 10)


class Answering(Server):
    """Answers smashed data by a message of the class attributes' choice."""

    kind, phase, value = "cut_gradient", "training", None

    def reply(self, message):
        if message.kind != "smashed":
            return None
        value = message.payload if self.value is None else self.value
        return Message(message.step, message.batch, self.kind, value, self.phase)


@pytest.mark.parametrize("kind", ["smashed", "labels", "feature_gradient"])
def test_a_server_cannot_speak_for_the_client(kind):
    server = type("Forger", (Answering,), {"kind": kind})
    with pytest.raises(ProtocolError, match=f"the server may not answer .*smashed.* with .*{kind}"):
        run("pool1", server=server)


@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_a_server_cannot_train_the_client_during_an_inference(at):
    session = run(at)
    before = weights(session.client.front)
    for phase in ("training", "inference"):
        liar = type("Liar", (Answering,), {"phase": phase})
        session.server.reply = liar(session.server.model).reply
        with pytest.raises(ProtocolError):
            session.predict(noise_split().images)
    assert same(weights(session.client.front), before)


def test_a_server_that_does_not_answer_an_inference_is_found_out():
    session = run("pool1")
    session.predict(noise_split().images)
    session.server.reply = lambda message: None
    with pytest.raises(ProtocolError, match="did not answer"):
        session.predict(noise_split().images)


def one(kind, phase="training", shape=(2, 84)):
    return Message(0, 0, kind, torch.zeros(shape), phase)


def new_client(private=False):
    front, _, head = models.cut(models.mnist_net(), U_CUT)
    return Client(front, head if private else None)


def new_server(private=False):
    return Server(models.cut(models.mnist_net(), U_CUT)[1], label_private=private)


@pytest.mark.parametrize("private", [False, True])
@pytest.mark.parametrize("kind", ["smashed", "labels", "feature_gradient"])
def test_a_client_refuses_its_own_kinds_of_message(kind, private):
    with pytest.raises(ProtocolError, match="this client has no reply to .*" + kind):
        new_client(private).reply(one(kind))


def test_a_client_without_a_head_refuses_features():
    with pytest.raises(ProtocolError, match="this client has no reply to .*features"):
        new_client().reply(one("features"))


@pytest.mark.parametrize("kind", ["features", "cut_gradient", "prediction"])
def test_a_server_refuses_its_own_kinds_of_message(kind):
    with pytest.raises(ProtocolError, match="a server has no reply to .*" + kind):
        new_server().reply(one(kind))


@pytest.mark.parametrize(
    ("party", "message"),
    [
        (new_client(), one("cut_gradient", shape=(2, 8, 12, 12))),
        (new_client(private=True), one("features")),
        (new_server(), one("smashed", shape=(2, 8, 12, 12))),
        (new_server(private=True), one("feature_gradient")),
    ],
)
def test_a_message_out_of_turn_is_refused(party, message):
    with pytest.raises(ProtocolError, match="came out of turn"):
        party.reply(message)


def test_no_gradient_is_accepted_twice():
    images, labels = noise_split().images, noise_split().labels
    client, server = parties(models.mnist_net(seed=0), U_CUT)
    transcript = Transcript()
    for message in client.open(images, labels):
        exchange(client, server, message, transcript)
    for party, kind in [(client, "cut_gradient"), (server, "feature_gradient")]:
        (message,) = [m for m in transcript.messages if m.kind == kind]
        with pytest.raises(ProtocolError, match="came out of turn"):
            party.reply(message.copy())


def test_parties_must_agree_who_keeps_the_labels():
    front, middle, head = models.cut(models.mnist_net(), U_CUT)
    for client, server in [
        (Client(front, head), Server(middle)),
        (Client(front), Server(middle, label_private=True)),
    ]:
        with pytest.raises(ProtocolError, match=r"the parties disagree.*label_private=True"):
            train(client, server, noise_split())


@pytest.mark.parametrize(
    ("images", "epochs", "batch_size"), [(0, 1, 4), (5, 0, 4), (5, -1, 4), (5, 1, 0)]
)
def test_there_must_be_something_to_train(images, epochs, batch_size):
    client, server = parties(models.mnist_net(), "pool1")
    facts = f"{images} images, {epochs} epochs, batches of {batch_size}"
    with pytest.raises(ProtocolError, match=f"nothing to train: {facts}"):
        train(client, server, noise_split(5)[:images], epochs=epochs, batch_size=batch_size)


def test_a_party_needs_weights_to_train():
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 10), nn.LogSoftmax(1))
    for at in ("0", "1"):
        with pytest.raises(ModelError, match="no weights to train: cut the network elsewhere"):
            parties(net, at)


def test_frozen_layers_are_an_error_for_the_client_only():
    net = models.mnist_net()
    net.conv1.requires_grad_(False)
    with pytest.raises(ProtocolError, match="all of its layers are frozen"):
        run("pool1", net=net)
    net = models.mnist_net()
    net.fc3.requires_grad_(False)
    before = weights(net.fc3)
    assert set(run(U_CUT, net=net).transcript.client_log[0]) == {"labels"}
    assert same(weights(net.fc3), before)


# --- Interruption ---------------------------------------------------------------------------------


def interrupt_at(number, kind="smashed"):
    """Make a hook that raises KeyboardInterrupt at the `number`-th message of `kind`."""
    count = iter(range(1000))

    def outgoing(sent, tensor):
        if sent == kind and next(count) == number:
            raise KeyboardInterrupt
        return tensor

    return outgoing


@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_an_interrupted_training_keeps_what_it_has(at, capsys):
    complete = run(at, epochs=1)
    before = torch.get_rng_state()
    session = run(at, epochs=9, outgoing=interrupt_at(4))
    assert torch.equal(torch.get_rng_state(), before)
    assert session.interrupted
    assert session.losses == complete.losses
    digests = session.transcript.digests("server")
    assert digests[: len(complete.transcript.digests("server"))] == complete.transcript.digests(
        "server"
    )
    assert {message.step for message in session.transcript.messages} == {0, 1, 2, 3}
    assert session.predict(noise_split().images).shape == (11, 10)
    again = train(session.client, session.server, noise_split(), epochs=1, batch_size=4)
    assert len(again.losses) == 1


def test_an_interruption_in_an_extra_batch_leaves_the_client_learning():
    def extra(step, images, labels):
        if step == 1:
            raise KeyboardInterrupt
        return []

    session = run("pool1", epochs=9, extra=extra)
    assert session.losses == []
    before = weights(session.client.front)
    session.client.extra = lambda *batch: []
    train(session.client, session.server, noise_split(), epochs=1, batch_size=4)
    assert not same(weights(session.client.front), before)


def test_other_errors_are_not_swallowed():
    def broken(kind, tensor):
        raise ValueError("a bug in a hook")

    before = torch.get_rng_state()
    with pytest.raises(ValueError, match="a bug in a hook"):
        run("pool1", outgoing=broken)
    assert torch.equal(torch.get_rng_state(), before)


# --- Looks ----------------------------------------------------------------------------------------


def test_a_session_describes_itself_in_a_line():
    session = run("pool1", epochs=2)
    assert repr(session) == f"Session(2 epochs, {session.transcript!r})"
    assert isinstance(session, Session)


def test_the_progress_bar_is_off_in_headless_runs(monkeypatch, capsys):
    monkeypatch.setenv("SLTOOLS_STATIC", "1")
    run("pool1")
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("SLTOOLS_STATIC")
    run("pool1")
    assert "training" in capsys.readouterr().err


# --- On a GPU -------------------------------------------------------------------------------------


@pytest.mark.gpu
@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_training_runs_on_a_gpu_and_comes_back(at, tmp_path):
    client, server = parties(models.mnist_net(seed=0), at)
    arguments = {"epochs": 2, "batch_size": 4, "record": True}
    session = train(client, server, noise_split(), device="cuda", **arguments)
    assert {w.device.type for w in [*client.front.parameters(), *server.model.parameters()]} == {
        "cuda"
    }
    assert session.predict(noise_split().images).device.type == "cuda"
    assert 0 <= session.accuracy(noise_split()) <= 1
    saved = Transcript.open(session.transcript.save(tmp_path / "gpu"))
    assert saved.digests("server") == session.transcript.digests("server")
    again = train(client, server, noise_split(), device="cpu", **arguments)
    states = [*client.optimizer.state.values(), *server.optimizer.state.values()]
    assert {state["exp_avg"].device.type for state in states} == {"cpu"}
    assert all(torch.isfinite(torch.tensor(again.losses)))


@pytest.mark.gpu
@pytest.mark.parametrize("at", ["pool1", "conv2", U_CUT])
def test_on_a_gpu_the_split_run_is_close_to_the_whole_training(at):
    split = noise_split()
    net = models.mnist_net(seed=0)
    twin = copy.deepcopy(net).cuda()
    client, server = parties(net, at, optimizer=sgd, server_options={"optimizer": sgd})
    session = train(client, server, split, epochs=2, batch_size=4, device="cuda")
    losses = train_whole(
        twin, split.to("cuda"), epochs=2, batch_size=4, optimizer=sgd(twin.parameters())
    )
    assert session.losses == pytest.approx(losses, rel=1e-3)
    for one_weight, other in zip(net.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one_weight, other, rtol=1e-2, atol=1e-4)


class Misshaping(Server):
    """Returns a gradient with a row too many."""

    def reply(self, message):
        answer = super().reply(message)
        if answer is None or answer.kind != "cut_gradient":
            return answer
        payload = torch.cat([answer.payload, answer.payload[:1]])
        return Message(answer.step, answer.batch, answer.kind, payload)


@pytest.mark.parametrize("at", ["pool1", U_CUT])
def test_a_gradient_of_another_shape_is_refused(at):
    with pytest.raises(ProtocolError, match=r"cut_gradient .* does not fit"):
        run(at, server=Misshaping)


def test_images_that_do_not_fit_the_client_are_refused_in_one_sentence():
    session = run()
    with pytest.raises(ProtocolError, match=r"client cannot process .*\(2, 3, 28, 28\)"):
        session.observe(torch.rand(2, 3, 28, 28))
    with pytest.raises(ProtocolError, match=r"server cannot process"):
        session.observe(torch.rand(2, 1, 20, 20))


def test_the_head_answers_once_for_each_batch():
    class Insisting(Server):
        def reply(self, message):
            if message.kind == "feature_gradient":
                return Message(message.step, message.batch, "features", self._features)
            return super().reply(message)

    with pytest.raises(ProtocolError, match="answers once for each batch"):
        run(U_CUT, server=Insisting)


def test_labels_serve_one_batch_only():
    front, rest = models.cut(models.mnist_net(0), "pool1")
    client, server = Client(front), Server(rest)
    split = noise_split(4)
    for message in client.open(split.images, split.labels):
        server.reply(message)
    _, smashed = client.open(split.images, split.labels, step=1)
    with pytest.raises(ProtocolError, match="out of turn"):
        server.reply(smashed)
