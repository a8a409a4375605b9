import pytest
import torch
from torch import nn

from sltools import models
from sltools.errors import ModelError, NotObservable
from sltools.protocol import recut
from tests.parties import U_CUT, noise_split, run

IMAGES = noise_split().images


@pytest.mark.parametrize("at", ["conv1", "pool1", "fc2", U_CUT])
@pytest.mark.parametrize("first", ["pool1", U_CUT])
def test_the_network_is_the_same_wherever_it_is_cut(first, at):
    session = run(first)
    again = recut(session, at)
    assert torch.equal(again.predict(IMAGES), session.predict(IMAGES))


def test_what_is_sent_is_what_the_layers_before_the_new_cut_make():
    net = models.mnist_net(seed=1)
    session = run("pool1", net=net)
    view = recut(session, "conv2").observe(IMAGES, grants=["client_model"])
    front, _ = models.cut(net, "conv2")
    with torch.no_grad():
        assert torch.equal(view.smashed, front(IMAGES))
    assert models.stages(view.client_model) == ["conv1", "relu1", "pool1", "conv2"]
    assert view.architecture.parameter_count == sum(w.numel() for w in front.parameters())


def test_the_weights_are_shared_and_not_copied():
    session = run("pool1")
    again = recut(session, "conv1")
    with torch.no_grad():
        next(session.client.front.parameters()).add_(1)
    assert torch.equal(again.predict(IMAGES), session.predict(IMAGES))


def test_the_record_of_the_training_does_not_come_along():
    again = recut(run("pool1"), "conv2")
    assert again.losses == [] and again.transcript.messages == []
    with pytest.raises(NotObservable):
        _ = again.transcript.view("server").smashed


def test_an_unknown_stage_is_refused():
    with pytest.raises(ModelError, match="pool9"):
        recut(run("pool1"), "pool9")


def test_an_unnamed_network_can_be_cut_again():
    net = nn.Sequential(nn.Flatten(), nn.Linear(784, 16), nn.ReLU(), nn.Linear(16, 10))
    session = run("1", net=net)
    assert recut(session, "2").observe(IMAGES).smashed.min() >= 0


def test_parts_with_stages_of_one_name_cannot_be_joined():
    session = run("pool1")
    session.client.front = nn.Sequential(nn.Flatten(), nn.Linear(784, 8))
    session.server.model = nn.Sequential(nn.ReLU(), nn.Linear(8, 10))
    with pytest.raises(ModelError, match="one name"):
        recut(session, "0")
