import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from sltools import models
from sltools.errors import ModelError, SltoolsError
from sltools.models import Architecture
from tests.golden import fill, image
from tests.parties import same, weights

few = settings(deadline=None, max_examples=25)
MNIST_STAGES = "conv1 relu1 pool1 conv2 relu2 pool2 flatten fc1 relu3 fc2 relu4 fc3"
CIFAR_STAGES = (
    "conv1 relu1 conv2 relu2 pool1 conv3 relu3 conv4 relu4 pool2 conv5 relu5 conv6 relu6 pool3 "
    "flatten fc1 sigmoid fc2"
)
MNIST_STAGES, CIFAR_STAGES = MNIST_STAGES.split(), CIFAR_STAGES.split()
# Measured with the reference code's network on the weights and the image of tests/golden.py:
# the shape, the mean, the (unbiased) variance and the first eight values of the smashed data.
GOLDEN = {
    "conv1": (
        (1, 8, 24, 24),
        0.019610635936260223,
        0.16231141984462738,
        "0.65150148 0.68195075 0.69815236 0.69946003 0.68582225 0.65778172 0.61645728 0.56349599",
    ),
    "pool1": (
        (1, 8, 12, 12),
        0.1949235498905182,
        0.04497046396136284,
        "0.70068532 0.69946003 0.68582225 0.61645728 0.50100923 0.35770464 0.20916818 0.07885031",
    ),
    "conv2": (
        (1, 16, 8, 8),
        0.130219504237175,
        0.792669951915741,
        "0.44540933 0.46691927 0.56861985 0.68142915 0.74338698 0.72865701 0.66999412 0.59752369",
    ),
    "pool2": (
        (1, 16, 4, 4),
        0.49788039922714233,
        0.2969285249710083,
        "0.62840855 0.74433649 0.74338698 0.66999412 0.74433649 0.72865701 0.60376894 0.74197221",
    ),
}


def count(net):
    return sum(parameter.numel() for parameter in net.parameters())


# --- The paper's networks ---------------------------------------------------------------------


def test_the_mnist_network_is_the_papers():
    net = models.mnist_net()
    assert models.stages(net) == MNIST_STAGES
    assert count(net) == 45_278
    assert net(torch.zeros(3, 1, 28, 28)).shape == (3, 10)


def test_the_cifar_network_is_the_papers():
    net = models.cifar_net()
    assert models.stages(net) == CIFAR_STAGES
    assert count(net) == 1_609_546
    assert net(torch.zeros(3, 3, 32, 32)).shape == (3, 10)
    assert isinstance(net.sigmoid, nn.Sigmoid)


@pytest.mark.parametrize("cut", GOLDEN)
def test_the_smashed_data_are_those_of_the_reference_code(cut):
    shape, mean, variance, first = GOLDEN[cut]
    front, _ = models.cut(fill(models.mnist_net(), phase=0.0), cut)
    with torch.no_grad():
        smashed = front(image())
    assert smashed.shape == shape
    assert smashed.mean().item() == pytest.approx(mean, rel=1e-5)
    assert smashed.var().item() == pytest.approx(variance, rel=1e-5)
    expected = torch.tensor([float(value) for value in first.split()])
    torch.testing.assert_close(smashed.flatten()[:8], expected, rtol=1e-5, atol=1e-6)


def test_the_network_for_images_of_a_shape():
    assert models.stages(models.for_images((5, 1, 28, 28), seed=3)) == MNIST_STAGES
    assert models.stages(models.for_images((3, 32, 32))) == CIFAR_STAGES
    assert same(weights(models.for_images((1, 28, 28), seed=3)), weights(models.mnist_net(3)))
    with pytest.raises(ModelError, match=r"no network for images of shape \(1, 8, 8\).*28, 28"):
        models.for_images((1, 8, 8))


# --- Cutting ----------------------------------------------------------------------------------


@pytest.mark.parametrize("at", MNIST_STAGES[:-1])
def test_a_cut_divides_the_network_and_shares_its_weights(at):
    net = models.mnist_net()
    front, server = models.cut(net, at)
    assert models.stages(front)[-1] == at
    assert models.stages(front) + models.stages(server) == MNIST_STAGES
    parts = [*front.parameters(), *server.parameters()]
    assert [id(weight) for weight in parts] == [id(weight) for weight in net.parameters()]
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(server(front(images)), net(images))


@few
@given(st.lists(st.sampled_from(MNIST_STAGES), min_size=1, max_size=3))
def test_a_cut_is_an_ordered_partition_or_an_error(at):
    net = models.mnist_net()
    places = [MNIST_STAGES.index(name) for name in at]
    if places == sorted(set(places)) and places[-1] < len(MNIST_STAGES) - 1:
        parts = models.cut(net, at)
        assert sum(map(models.stages, parts), []) == MNIST_STAGES
        assert [models.stages(part)[-1] for part in parts] == [*at, "fc3"]
    else:
        with pytest.raises(ModelError, match="leaves a part empty"):
            models.cut(net, at)


@pytest.mark.parametrize("at", ["conv9", "", 1, None, (), [], ("pool1", "conv9"), ("pool1", 2)])
def test_an_unknown_stage_is_named_and_the_known_ones_listed(at):
    with pytest.raises(ModelError, match="no stage is called .*; the stages are conv1, relu1, "):
        models.cut(models.mnist_net(), at)


def test_only_a_sequential_network_can_be_cut():
    with pytest.raises(ModelError, match="only an nn.Sequential can be cut, not a Linear"):
        models.cut(nn.Linear(2, 2), "0")


class Residual(nn.Sequential):
    def forward(self, x):
        return x + super().forward(x)


def hooked():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    net.register_forward_hook(lambda module, inputs, output: -output)
    return net


def patched():
    net = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    net.forward = lambda x: x
    return net


@pytest.mark.parametrize(
    "make", [lambda: Residual(nn.Linear(4, 4), nn.Linear(4, 4)), hooked, patched]
)
def test_a_network_that_does_more_than_its_stages_is_not_cut_to_another_function(make):
    with pytest.raises(ModelError, match="more than its stages in order"):
        models.cut(make(), "0")


def test_a_sequential_class_of_its_own_without_a_forward_can_be_cut():
    class Block(nn.Sequential):
        pass

    net = Block(nn.Linear(4, 3), Residual(nn.Linear(3, 3)), nn.Linear(3, 2))
    front, back = models.cut(net, "1")
    images = torch.rand(5, 4)
    assert torch.equal(back(front(images)), net(images))


def test_a_network_without_names_is_cut_by_numbers():
    front, server = models.cut(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), "1")
    assert (models.stages(front), models.stages(server)) == (["0", "1"], ["2"])


def test_a_layer_used_twice_is_two_stages():
    relu = nn.ReLU()
    net = nn.Sequential(nn.Linear(2, 3), relu, nn.Linear(3, 4), relu, nn.Linear(4, 1))
    assert models.stages(net) == ["0", "1", "2", "3", "4"]
    front, server = models.cut(net, "2")
    rows = torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(server(front(rows)), net(rows))
    assert len(Architecture.of(net).build(0)) == 5


def test_no_cut_leaves_two_parties_with_the_same_weights():
    layer = nn.Linear(2, 2)
    net = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU())
    with pytest.raises(ModelError, match="leaves both sides with the same weights"):
        models.cut(net, "1")
    assert len(models.cut(net, "2")) == 2


# --- Architecture -----------------------------------------------------------------------------


@pytest.mark.parametrize("net", [models.mnist_net, models.cifar_net])
def test_an_architecture_knows_the_shape_and_no_weights(net):
    architecture = Architecture.of(net(0), (1, 28, 28))
    assert architecture == Architecture.of(net(1), (1, 28, 28))
    assert architecture.input_shape == (1, 28, 28)
    assert architecture.parameter_count == count(net(0))
    assert len(architecture.layers) < 10_000  # nothing the size of weights can be inside
    assert set(vars(architecture)) == {"layers", "input_shape"}
    assert repr(architecture).endswith(f"{count(net(0)):,} parameters, no weights)")
    assert repr(architecture).startswith("Architecture(conv1, relu1, ")
    built = architecture.build(0)
    assert repr(built) == repr(net(0))
    assert [w.shape for w in built.parameters()] == [w.shape for w in net(0).parameters()]


def test_training_does_not_show_in_the_architecture():
    net = nn.Sequential(nn.BatchNorm2d(1), nn.PReLU(init=0.1), nn.Flatten(), nn.Linear(4, 2))
    before = Architecture.of(net)
    net(torch.rand(3, 1, 2, 2))
    fill(net, phase=0.3)
    assert Architecture.of(net) == before


LAYERS = {
    "conv": lambda: nn.Conv2d(2, 4, 3, stride=2, padding=1, dilation=2, groups=2, bias=False),
    "conv_same": lambda: nn.Conv2d(2, 4, (3, 5), padding="same", padding_mode="reflect"),
    "conv_transpose": lambda: nn.ConvTranspose2d(3, 4, 3, stride=2, padding=1, output_padding=1),
    "conv1d": lambda: nn.Conv1d(1, 2, 3),
    "linear": lambda: nn.Linear(5, 4),
    "linear_unbiased": lambda: nn.Linear(5, 4, bias=False),
    "batch_norm": lambda: nn.BatchNorm2d(4, eps=1e-3, momentum=0.3),
    "batch_norm_plain": lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
    "group_norm": lambda: nn.GroupNorm(2, 4),
    "layer_norm": lambda: nn.LayerNorm([4, 3], bias=False),
    "instance_norm": lambda: nn.InstanceNorm2d(4, affine=True),
    "dropout": lambda: nn.Dropout(0.3),
    "dropout2d": lambda: nn.Dropout2d(0.2, inplace=True),
    "leaky": lambda: nn.LeakyReLU(0.3, inplace=True),
    "elu": lambda: nn.ELU(2.0),
    "gelu": lambda: nn.GELU("tanh"),
    "prelu": lambda: nn.PReLU(4, init=0.1),
    "silu": lambda: nn.SiLU(),
    "tanh": lambda: nn.Tanh(),
    "max_pool": lambda: nn.MaxPool2d((2, 3), stride=1, padding=1, ceil_mode=True),
    "average_pool": lambda: nn.AvgPool2d(2, count_include_pad=False),
    "adaptive_pool": lambda: nn.AdaptiveAvgPool2d((None, 1)),
    "upsample": lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True),
    "pixel_shuffle": lambda: nn.PixelShuffle(2),
    "pad": lambda: nn.ZeroPad2d((1, 2, 3, 4)),
    "flatten": lambda: nn.Flatten(start_dim=2),
    "unflatten": lambda: nn.Unflatten(1, (2, 2)),
    "softmax": lambda: nn.LogSoftmax(dim=1),
    "identity": lambda: nn.Identity(),
    "nested": lambda: nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 2)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_described_and_built(name):
    net = nn.Sequential(LAYERS[name]())
    built = Architecture.of(net).build(seed=0)
    assert repr(built) == repr(net)
    shapes = [{key: value.shape for key, value in n.state_dict().items()} for n in (net, built)]
    assert shapes[0] == shapes[1]
    built.load_state_dict(net.state_dict())
    assert Architecture.of(built) == Architecture.of(net)
    json.loads(Architecture.of(net).layers)


def test_a_rebuilt_network_computes_the_same():
    net = nn.Sequential(
        nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.LeakyReLU(0.3)),
        nn.ConvTranspose2d(4, 2, 2, stride=2),
        nn.GroupNorm(2, 2, eps=0.1),
        nn.MaxPool2d(3, stride=2),
        nn.Flatten(),
        nn.Linear(50, 3),
    )
    built = Architecture.of(net).build(seed=0)
    built.load_state_dict(net.state_dict())
    images = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(built(images), net(images))


class Linear(nn.Linear):
    """Named as a torch layer, and not one."""


class Doubling(nn.Module):
    def forward(self, x):
        return 2 * x


def spoilt():
    layer = nn.LeakyReLU()
    layer.negative_slope = torch.tensor(0.1)
    return layer


REFUSED = {
    "custom": (Doubling, "the layer Doubling is not from torch.nn"),
    "named_alike": (lambda: Linear(2, 2), "the layer Linear is not from torch.nn"),
    "nested": (lambda: nn.Sequential(Doubling()), "the layer Doubling is not from torch.nn"),
    "tensor_inside": (spoilt, "the architecture of LeakyReLU cannot be written down"),
    "forgetful": (lambda: nn.Embedding(2, 3), "Embedding cannot be read: it keeps no '_freeze'"),
    "variadic": (lambda: nn.LSTM(2, 3), "no LSTM can be made from its description"),
    "altered": (lambda: nn.utils.spectral_norm(nn.Linear(2, 2)), "one of the layers was altered"),
    "lazy": (lambda: nn.LazyLinear(2), "has none yet"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layer_that_cannot_be_rebuilt_is_refused(name):
    make, reason = REFUSED[name]
    with pytest.raises(ModelError, match=reason):
        Architecture.of(nn.Sequential(make()))


@pytest.mark.parametrize(
    "layers",
    [
        ["functional", {}],
        ["Parameter", {}],
        ["no_such_layer", {}],
        ["Linear", {"in_features": "many"}],
        ["Linear", {"in_features": 2, "out_features": 2, "secret": 1}],
        ["Sequential", [["0", ["__import__", {}]]]],
    ],
)
def test_a_corrupt_description_builds_nothing(layers):
    with pytest.raises(SltoolsError):
        Architecture(json.dumps(layers)).build(0)


def test_a_layer_with_another_forward_is_not_described() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    net[1].forward = lambda tensor: 3 * tensor
    with pytest.raises(ModelError, match="its `forward` was replaced"):
        models.Architecture.of(net)


def test_a_description_says_nothing_of_devices() -> None:
    arguments = {"in_features": 2, "out_features": 2, "bias": True, "device": "cpu"}
    layers = json.dumps(["Sequential", [["0", ["Linear", arguments]]]])
    with pytest.raises(ModelError, match="not made from 'device'"):
        models.Architecture(layers).build(0)
