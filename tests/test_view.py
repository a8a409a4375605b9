import copy
import gc
from types import FunctionType, ModuleType
from typing import Any

import pytest
import torch
from torch import nn

from sltools import models, view
from sltools.errors import AttackError, NotObservable, SltoolsError
from sltools.models import Architecture
from sltools.protocol import train
from sltools.view import ABSENT, GRANTS, SECRETS, View
from tests.parties import U_CUT, noise_split, run, same, weights

ALL = tuple(sorted(GRANTS))


@pytest.fixture(scope="module")
def vanilla():
    return run("pool1", epochs=2)


@pytest.fixture(scope="module")
def private():
    return run(U_CUT, epochs=2)


@pytest.fixture(scope="module")
def views(vanilla, private):
    """What a server sees of a training and of an inference, in both settings."""
    images = noise_split().images
    return {
        "vanilla training": vanilla.transcript.view(),
        "private training": private.transcript.view(),
        "vanilla inference": vanilla.observe(images),
        "private inference": private.observe(images),
    }


def payloads(session, kind):
    return [m.payload for m in session.transcript.messages if m.kind == kind]


# --- What may be seen ---------------------------------------------------------------------------


def test_the_server_of_vanilla_training_sees_its_messages(vanilla, views):
    seen = views["vanilla training"]
    assert torch.equal(seen.smashed, torch.cat(payloads(vanilla, "smashed")))
    assert torch.equal(seen.labels, torch.cat(payloads(vanilla, "labels")))
    assert torch.equal(seen.cut_gradients, torch.cat(payloads(vanilla, "cut_gradient")))
    assert (seen.smashed.shape, seen.labels.shape) == ((22, 8, 12, 12), (22,))
    assert [len(payload) for payload in seen.payloads("labels")] == [4, 4, 3, 4, 4, 3]


def test_the_server_of_label_private_training_sees_its_messages(private, views):
    seen = views["private training"]
    assert torch.equal(seen.smashed, torch.cat(payloads(private, "smashed")))
    assert torch.equal(seen.features, torch.cat(payloads(private, "features")))
    assert torch.equal(seen.feature_gradients, torch.cat(payloads(private, "feature_gradient")))
    assert torch.equal(seen.cut_gradients, torch.cat(payloads(private, "cut_gradient")))
    assert seen.features.shape == seen.feature_gradients.shape == (22, 84)
    assert seen.head_architecture.build(0).fc3.weight.shape == (10, 84)
    assert seen.head_architecture == Architecture.of(private.client.head)


def test_the_server_sees_the_shape_of_the_client_and_its_own_model(vanilla, views):
    seen = views["vanilla training"]
    assert seen.architecture == Architecture.of(vanilla.client.front, (1, 28, 28))
    assert same(weights(seen.model), weights(vanilla.server.model))
    assert not same(weights(seen.architecture.build(0)), weights(vanilla.client.front))


def test_a_view_shows_the_models_as_they_were_when_it_was_made():
    session = run("pool1")
    seen = session.transcript.view("server", grants=["client_model"])
    before = weights(session.server.model), weights(session.client.front)
    train(session.client, session.server, noise_split(), epochs=1)
    assert same(weights(seen.model), before[0])
    assert same(weights(seen.client_model), before[1])
    later = session.transcript.view("server", grants=["client_model"])
    assert same(weights(later.model), weights(session.server.model))
    assert same(weights(later.client_model), weights(session.client.front))
    assert not same(weights(later.client_model), before[1])


def test_the_client_sees_the_same_wire_and_its_own_model(vanilla):
    seen = vanilla.transcript.view("client")
    assert seen.party == "client"
    assert torch.equal(seen.cut_gradients, torch.cat(payloads(vanilla, "cut_gradient")))
    assert same(weights(seen.model), weights(vanilla.client.front))


# --- What may not be seen -----------------------------------------------------------------------

FORBIDDEN = [
    *((name, setting, SECRETS[name]) for name in SECRETS for setting in ("vanilla training",)),
    *((name, "private training", GRANTS[name]) for name in GRANTS),
    *((name, "vanilla training", GRANTS[name]) for name in GRANTS),
    *((name, "private inference", GRANTS[name]) for name in GRANTS),
    ("labels", "private training", ABSENT["labels"]),
    ("labels", "private inference", ABSENT["labels"]),
    ("labels", "vanilla inference", ABSENT["labels"]),
    ("features", "vanilla training", ABSENT["features"]),
    ("features", "vanilla inference", ABSENT["features"]),
    ("feature_gradients", "vanilla training", ABSENT["feature_gradient"]),
    ("feature_gradients", "private inference", ABSENT["feature_gradient"]),
    ("cut_gradients", "vanilla inference", ABSENT["cut_gradient"]),
    ("cut_gradients", "private inference", ABSENT["cut_gradient"]),
    ("head_architecture", "vanilla training", "this transcript says nothing of the head architect"),
]


@pytest.mark.parametrize(("name", "setting", "rule"), FORBIDDEN)
def test_what_is_not_sent_cannot_be_seen_and_the_error_names_the_rule(views, name, setting, rule):
    seen = views[setting].fresh()
    with pytest.raises(NotObservable) as caught:
        getattr(seen, name)
    assert rule in str(caught.value)
    if "says nothing" not in rule:
        kind = name.removesuffix("s") if name in ("feature_gradients", "cut_gradients") else name
        assert str(caught.value).startswith(f"the server cannot see {kind}: ")
    assert seen.knowledge == ()


def test_an_error_about_a_grant_says_how_to_grant_it(views):
    with pytest.raises(NotObservable, match=r"grants=\['client_model'\]"):
        _ = views["vanilla training"].client_model


@pytest.mark.parametrize("kind", ["labels", "prediction", "images"])
def test_payloads_of_other_kinds_cannot_be_seen(views, kind):
    with pytest.raises(NotObservable, match=f"the server cannot see {kind}: "):
        views["private training"].payloads(kind)


def test_the_rules_cover_all_messages_and_grants():
    from sltools.messages import SENDERS

    assert set(ABSENT) == set(SENDERS)
    assert all(isinstance(getattr(View, grant), property) for grant in GRANTS)


def reachable(root):
    """All tensors that can be reached from `root` through attributes and containers."""
    found, queue = {}, [root]
    while queue:
        thing = queue.pop()
        if id(thing) in found or isinstance(thing, (type, ModuleType, FunctionType)):
            continue
        found[id(thing)] = thing
        queue += gc.get_referents(thing)
    return [thing for thing in found.values() if isinstance(thing, torch.Tensor)]


def test_no_secret_can_be_reached_from_a_view(private):
    images = noise_split().images
    secrets = [*weights(private.client.front, private.client.head), images]
    pages = list(private.transcript.client_log.values())
    secrets += [page[name] for page in pages for name in ("labels", "head_weight_gradients")]
    for seen in (private.transcript.view(), private.observe(images)):
        tensors = reachable(seen)
        assert any(torch.equal(seen.model.conv2.weight, tensor) for tensor in tensors)
        assert not any(torch.equal(secret, tensor) for secret in secrets for tensor in tensors)
    assert any(torch.equal(secrets[0], tensor) for tensor in reachable(private))


def test_an_unknown_name_is_an_ordinary_mistake(views):
    with pytest.raises(AttributeError, match="a view has no 'smased'"):
        _ = views["vanilla training"].smased
    assert copy.copy(views["vanilla training"]).party == "server"


def test_there_are_two_parties(vanilla):
    with pytest.raises(NotObservable, match="the parties are 'server' and 'client', not 'spy'"):
        vanilla.transcript.view("spy")


# --- Grants -------------------------------------------------------------------------------------


def test_what_is_granted_is_the_truth(private):
    seen = private.transcript.view("server", grants=ALL)
    assert seen.granted == ALL
    log = private.transcript.client_log.values()
    assert same(weights(seen.client_model), weights(private.client.front))
    assert same(seen.head_weight_gradients, [page["head_weight_gradients"] for page in log])
    assert same(seen.head_bias_gradients, [page["head_bias_gradients"] for page in log])
    assert seen.head_weight_gradients[0].shape == (10, 84)


def test_anchors_are_the_first_label_of_each_class(private):
    anchors = private.transcript.view("server", grants=["anchor_labels"]).anchor_labels
    labels = torch.cat([page["labels"] for page in private.transcript.client_log.values()])
    assert anchors.shape == labels.shape == (22,)
    seen = set()
    for anchor, label in zip(anchors.tolist(), labels.tolist(), strict=True):
        assert anchor == (-1 if label in seen else label)
        seen.add(label)
    assert len(seen) < 11  # or nothing was hidden in the first epoch


def test_a_grant_gives_nothing_else(private):
    seen = private.transcript.view("server", grants=["head_weight_gradients"])
    assert seen.granted == ("head_weight_gradients",)
    for name in [*(set(GRANTS) - {"head_weight_gradients"}), "labels", "images"]:
        with pytest.raises(NotObservable):
            getattr(seen, name)


def test_a_grant_of_an_inference_is_the_clients_model_alone(private):
    images = noise_split().images
    seen = private.observe(images, grants=["client_model"])
    assert torch.equal(seen.client_model(images), seen.smashed)
    for name in set(GRANTS) - {"client_model"}:
        with pytest.raises(NotObservable, match=f"{name} cannot be granted, it is not on record"):
            private.observe(images, grants=[name])


@pytest.mark.parametrize("grants", [["images"], ["labels"], ["client"], "client_model"])
def test_an_unknown_grant_is_refused_and_the_known_ones_listed(private, grants):
    with pytest.raises(NotObservable, match="no grant is called .*; there are client_model, "):
        private.transcript.view("server", grants=grants)


def test_what_was_not_recorded_cannot_be_granted(vanilla):
    for name in ("head_weight_gradients", "head_bias_gradients"):
        with pytest.raises(NotObservable, match="a client with a linear layer in its head"):
            vanilla.transcript.view("server", grants=[name])
    unrecorded = run(U_CUT, record=False)
    for name in set(GRANTS) - {"client_model"}:
        with pytest.raises(NotObservable, match="record=True"):
            unrecorded.transcript.view("server", grants=[name])


# --- Nothing that is read can be spoilt -----------------------------------------------------------


def test_working_on_what_was_read_changes_neither_view_nor_session(private):
    seen = private.transcript.view("server", grants=ALL)
    digests, front = private.transcript.digests("server"), weights(private.client.front)
    kept = [seen.smashed.clone(), seen.head_weight_gradients[0].clone(), seen.anchor_labels.clone()]
    models_before = weights(seen.model, seen.client_model)
    seen.payloads("smashed")[0].requires_grad_()
    for tensor in (seen.smashed, seen.payloads("smashed")[0].detach(), seen.anchor_labels):
        tensor.zero_()
    for tensor in (*seen.head_weight_gradients, *seen.head_bias_gradients):
        tensor.zero_()
    for network in (seen.model, seen.client_model):
        for weight in network.parameters():
            weight.detach().zero_()
    again = [seen.smashed, seen.head_weight_gradients[0], seen.anchor_labels]
    assert same(again, kept)
    assert not seen.payloads("smashed")[0].requires_grad
    assert same(weights(seen.model, seen.client_model), models_before)
    assert private.transcript.digests("server") == digests
    assert same(weights(private.client.front), front)


# --- The ledger of what was read ------------------------------------------------------------------

READS = {
    "smashed": "smashed",
    "features": "features",
    "feature_gradients": "feature gradient",
    "cut_gradients": "cut gradient",
    "architecture": "client architecture",
    "head_architecture": "head architecture",
    "model": "own model",
    "client_model": "client model (granted)",
    "head_weight_gradients": "head weight gradients (granted)",
    "head_bias_gradients": "head bias gradients (granted)",
    "anchor_labels": "anchor labels (granted)",
}


@pytest.mark.parametrize("name", READS)
def test_what_is_read_is_noted(private, name):
    seen = private.transcript.view("server", grants=ALL)
    assert seen.knowledge == ()
    getattr(seen, name)
    getattr(seen, name)
    assert seen.knowledge == (READS[name],)


def test_the_ledger_adds_up_and_starts_afresh(private):
    seen = private.transcript.view("server", grants=ALL)
    for name in READS:
        getattr(seen, name)
    assert seen.knowledge == tuple(sorted(READS.values()))
    fresh = seen.fresh()
    assert fresh.knowledge == ()
    assert fresh.granted == ALL
    assert torch.equal(fresh.smashed, seen.smashed)
    assert same(weights(fresh.model, fresh.client_model), weights(seen.model, seen.client_model))
    assert (fresh.architecture, fresh.party) == (seen.architecture, "server")
    assert torch.equal(fresh.anchor_labels, seen.anchor_labels)
    assert len(seen.knowledge) == len(READS)


def test_labels_and_single_payloads_are_noted_too(vanilla):
    seen = vanilla.transcript.view()
    _ = seen.labels
    seen.payloads("cut_gradient")
    assert seen.knowledge == ("cut gradient", "labels")


def test_reading_a_window_is_noted_in_the_whole_view(private):
    seen = private.transcript.view()
    _ = seen.window(0, 2).window(1, 2).smashed
    assert seen.knowledge == ("smashed",)


# --- Windows --------------------------------------------------------------------------------------


def test_a_window_is_a_part_by_steps(private):
    whole = private.transcript.view("server", grants=ALL)
    part = whole.window(1, 3)
    assert [message.step for message in part._messages] == [1] * 4 + [2] * 4
    assert torch.equal(part.smashed, whole.smashed[4:11])
    assert torch.equal(part.anchor_labels, whole.anchor_labels[4:11])
    assert same(part.head_weight_gradients, whole.head_weight_gradients[1:3])
    assert same(part.head_bias_gradients, whole.head_bias_gradients[1:3])
    assert same(weights(part.client_model), weights(whole.client_model))
    assert part.granted == ALL
    assert (part.party, part.architecture) == ("server", whole.architecture)
    assert part.head_architecture == whole.head_architecture
    assert same(weights(part.model), weights(whole.model))
    assert [m.digest() for m in whole.window(0, 99)._messages] == [
        m.digest() for m in whole._messages
    ]


def test_an_empty_window_shows_nothing(private):
    part = private.transcript.view("server", grants=ALL).window(6, 99)
    for name in ("smashed", "features", "head_weight_gradients", "anchor_labels"):
        with pytest.raises(NotObservable):
            getattr(part, name)
    assert part.granted == ALL


# --- Saving and opening ---------------------------------------------------------------------------


@pytest.mark.parametrize("grants", [(), ("client_model",), ("anchor_labels",), ALL])
def test_a_view_is_opened_as_it_was_saved(private, tmp_path, grants):
    seen = private.transcript.view("server", grants=grants)
    again = View.open(seen.save(tmp_path / "view"))
    assert again.party == "server"
    assert again.granted == tuple(sorted(grants))
    assert again.knowledge == ()
    assert [m.digest() for m in again._messages] == [m.digest() for m in seen._messages]
    assert again.architecture == seen.architecture
    assert again.architecture.input_shape == (1, 28, 28)
    assert again.head_architecture == seen.head_architecture
    assert same(weights(again.model), weights(seen.model))
    for name in GRANTS:
        if name not in grants:
            with pytest.raises(NotObservable):
                getattr(again, name)
        elif name == "client_model":
            assert same(weights(again.client_model), weights(seen.client_model))
        elif name == "anchor_labels":
            assert torch.equal(again.anchor_labels, seen.anchor_labels)
        else:
            assert same(getattr(again, name), getattr(seen, name))
    part = again.window(1, 3)
    assert torch.equal(part.smashed, seen.window(1, 3).smashed)


def test_an_inference_is_opened_as_it_was_saved(vanilla, tmp_path):
    seen = vanilla.observe(noise_split().images, grants=["client_model"])
    again = View.open(str(seen.save(str(tmp_path / "view"))))
    assert [m.digest() for m in again._messages] == [m.digest() for m in seen._messages]
    assert torch.equal(again.client_model(noise_split().images), seen.smashed)
    with pytest.raises(NotObservable, match="says nothing of the head architecture"):
        _ = again.head_architecture


def test_buffers_and_number_types_survive(tmp_path):
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(1352, 2))
    net(torch.rand(3, 1, 28, 28))
    seen = View("server", [], own_model=net.double())
    state = View.open(seen.save(tmp_path / "view")).model.state_dict()
    assert list(state) == list(net.state_dict())
    for name, value in net.state_dict().items():
        assert value.dtype == state[name].dtype
        assert torch.equal(value, state[name])
    opened = View.open(tmp_path / "view").model
    assert all(weight.requires_grad for weight in opened.parameters())


def test_a_window_can_be_saved(private, tmp_path):
    part = private.transcript.view("server", grants=ALL).window(2, 4)
    again = View.open(part.save(tmp_path / "window"))
    assert torch.equal(again.smashed, part.smashed)
    assert torch.equal(again.anchor_labels, part.anchor_labels)


def test_a_view_that_is_no_view_is_one_clear_error(tmp_path):
    with pytest.raises(SltoolsError, match="does not exist"):
        View.open(tmp_path / "nowhere")
    view.storage.write(tmp_path / "other", {"x": torch.ones(1)}, {"kind": "result"})
    with pytest.raises(SltoolsError, match="does not hold a view or is damaged"):
        View.open(tmp_path / "other")


# --- Looks ----------------------------------------------------------------------------------------


def test_a_view_describes_itself_in_a_line(views, private):
    assert repr(views["vanilla inference"]) == "View(server: 2 messages of prediction, smashed)"
    granted = private.transcript.view("server", grants=["client_model"])
    assert repr(granted) == (
        "View(server: 24 messages of cut_gradient, feature_gradient, features, smashed; "
        "granted: client_model)"
    )


@pytest.mark.parametrize("wrong", [None, "view", [1]])
def test_an_attack_wants_a_view(wrong: Any) -> None:
    with pytest.raises(AttackError, match="session.observe"):
        view.fresh(wrong)


def test_a_grant_in_a_string_is_no_list_of_letters(vanilla):
    with pytest.raises(NotObservable, match="give a list, such as"):
        vanilla.transcript.view("server", "client_model")


@pytest.mark.parametrize(
    ("smashed", "told"),
    [
        (torch.full((2, 8, 12, 12), torch.nan), "contain NaN or infinite"),
        (torch.full((2, 8, 12, 12), torch.inf), "contain NaN or infinite"),
        (torch.rand(2, 8, 12, 11), r"are \(8, 12, 11\) .* the architecture makes \(8, 12, 12\)"),
        (torch.rand(2, 1152), "are they of this network, at this cut"),
        (torch.ones(2, 3).long(), "a tensor of floats"),
    ],
)
def test_what_are_no_activations_of_this_network_makes_no_view(smashed, told):
    front, _ = models.cut(models.mnist_net(), "pool1")
    known = models.Architecture.of(front, (1, 28, 28))
    with pytest.raises(AttackError, match=told):
        View.of_activations(smashed, known)


def test_an_architecture_that_does_not_take_its_inputs_makes_no_view():
    front, _ = models.cut(models.mnist_net(), "pool1")
    known = models.Architecture.of(front, (3, 28, 28))
    with pytest.raises(AttackError, match="does not take its inputs"):
        View.of_activations(torch.rand(2, 8, 12, 12), known)
