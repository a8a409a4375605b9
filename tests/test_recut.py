from collections import OrderedDict

import pytest
import torch
from torch import nn

from sltools import models
from sltools.errors import ModelError, NotObservable
from sltools.protocol import Client, Server, Session, recut, train
from sltools.transcript import Transcript
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


class Shortcut(nn.Sequential):
    """Adds its input to what its stages make of it."""

    def forward(self, images):
        return images + super().forward(images)


class Functional(nn.Module):
    """A client as it is often written: what stands between its layers is in `forward` alone."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, images):
        return self.second(torch.relu(self.first(images)))


class InOrder(Functional):
    """Written alike, but nothing is between the layers."""

    def forward(self, images):
        return self.second(self.first(images))


def trained(front, back):
    return train(Client(front), Server(back), noise_split(), epochs=1, batch_size=4)


def rest(channels):
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), last=nn.Linear(channels * 784, 10)))


def doubled(net):
    net.register_forward_hook(lambda module, inputs, output: 2 * output)
    return net


def patched(net):
    forward = net.forward
    net.forward = lambda images: forward(images) ** 2
    return net


def convolution():
    return OrderedDict(conv=nn.Conv2d(1, 1, 3, padding=1))


MORE_THAN_ITS_STAGES = {
    "shortcut": lambda: trained(Shortcut(convolution()), rest(1)),
    "functional activation": lambda: trained(Functional(), rest(4)),
    "hook": lambda: trained(doubled(nn.Sequential(convolution())), rest(1)),
    "patched forward": lambda: trained(patched(nn.Sequential(convolution())), rest(1)),
    "the server's": lambda: trained(
        nn.Sequential(OrderedDict(c=nn.Conv2d(1, 1, 1), flat=nn.Flatten())),
        Shortcut(OrderedDict(last=nn.Linear(784, 784))),
    ),
    "stages that do not fit": lambda: trained(_Tuple(), rest(1)),
}


class _Tuple(nn.Module):
    """Its stage gives two tensors, of which it takes one."""

    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(28, 4)

    def forward(self, images):
        rows = images[:, 0]
        return self.attention(rows, rows, rows)[0][:, None]


@pytest.mark.parametrize("name", MORE_THAN_ITS_STAGES)
def test_a_part_that_does_more_than_its_stages_is_never_joined_to_another_function(name):
    session = MORE_THAN_ITS_STAGES[name]()
    with pytest.raises(ModelError, match="joined network gives another output"):
        recut(session, "flatten" if name != "the server's" else "c")


def test_a_part_with_a_forward_of_its_own_can_be_joined_if_that_is_its_stages_in_order():
    session = trained(InOrder(), rest(4))
    again = recut(session, "first")
    assert torch.equal(again.predict(IMAGES), session.predict(IMAGES))
    watched = run("pool1")
    watched.client.front.register_forward_hook(lambda *_: None)
    assert torch.equal(recut(watched, "conv1").predict(IMAGES), watched.predict(IMAGES))


def test_what_was_never_compared_is_not_joined():
    parties = Client(InOrder()), Server(rest(4))
    with pytest.raises(ModelError, match="another output"):
        recut(Session(*parties, Transcript()), "first")
