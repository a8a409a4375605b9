"""The colours of photographs: what they are told by, and that mixing does not matter."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_sample_image
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from sltools import seeds
from sltools.attacks import colours

SPREAD = torch.tensor([0.08, 0.03, 0.4])  # red-blue, green-magenta, brightness
AXES = torch.tensor([[2.0, -1.0, 2.0], [0.0, 2.0, 2.0], [-2.0, -1.0, 2.0]])  # in red, green, blue
CAST = torch.tensor([0.6, 0.5, 0.35]).view(3, 1, 1)  # of a yellowish light


def _photographs(seed: int, count: int = 40) -> Tensor:
    """Images (1, count, 3, 16, 16) that vary along the axes as photographs do."""
    up = torch.linspace(1, -1, 16).view(-1, 1).expand(16, 16)
    out = torch.ones(16, 16)
    out[3:13, 3:13] = 0
    trends = torch.stack([-up, out - out.mean(), torch.zeros_like(out)])
    noise = torch.randn(count, 3, 16, 16, generator=seeds.generator(seed, "photographs"))
    along = SPREAD.view(3, 1, 1) * (noise + 0.3 * trends)
    lengths = AXES.square().sum(0).sqrt()
    return torch.einsum("ca,nahw->nchw", AXES / lengths, along).unsqueeze(0) + CAST


def _weights(seed: int) -> Tensor:
    """Weights (1, 64, 3, 25) of a first layer as it is initialised."""
    return torch.rand(1, 64, 3, 25, generator=seeds.generator(seed, "weights")) - 0.5


def _apply(matrix: Tensor, images: Tensor) -> Tensor:
    return torch.einsum("edc,enchw->endhw", matrix, images)


def _mixed(matrix: Tensor, images: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Other images and weights of which the first layer computes the same."""
    return _apply(matrix, images), torch.einsum("eocp,ecd->eodp", weights, torch.linalg.inv(matrix))


def _varying(images: Tensor) -> Tensor:
    return images - images.mean((1, 3, 4), keepdim=True)


def _mixture(values: list[float]) -> Tensor:
    return torch.tensor(values).view(1, 3, 3)


mixtures = (
    st.lists(st.floats(-1, 1), min_size=9, max_size=9)
    .map(_mixture)
    .filter(lambda matrix: torch.linalg.svdvals(matrix).min() > 0.1)
)


@settings(deadline=None, max_examples=25)
@given(mixture=mixtures, seed=st.integers(0, 5))
def test_colours_come_back_whatever_the_mixture(mixture: Tensor, seed: int) -> None:
    truth = _photographs(seed)
    images, weights = _mixed(mixture, truth, _weights(seed))
    found = _apply(colours.correction(images, weights), images)
    level = (_varying(found) * _varying(truth)).mean() / _varying(found).square().mean()
    error = (level * _varying(found) - _varying(truth)).square().mean()
    assert level > 0 and error < 0.01 * _varying(truth).square().mean()


def test_images_below_zero_are_turned_and_members_are_independent() -> None:
    one, other = _photographs(0), _photographs(1)
    images = torch.cat([one, -one, other])
    weights = torch.cat([_weights(0), -_weights(0), _weights(1)])
    matrices = colours.correction(images, weights)
    torch.testing.assert_close(matrices[1], -matrices[0])
    for number, matrix in enumerate(matrices):
        alone = colours.correction(images[number, None], weights[number, None])
        torch.testing.assert_close(alone[0], matrix)


def test_what_has_its_colours_keeps_them() -> None:
    images, weights = _photographs(0), _weights(0)
    corrected = _mixed(colours.correction(images, weights), images, weights)
    torch.testing.assert_close(colours.correction(*corrected)[0], torch.eye(3), atol=1e-4, rtol=0)


def test_what_tells_nothing_is_left_alone() -> None:
    images, weights = _photographs(0).repeat(6, 1, 1, 1, 1), _weights(0).repeat(6, 1, 1, 1)
    images[0] = 0.5
    images[1, 3, 2, 1, 1] = torch.nan
    images[2, :, 1] = 0.3 * images[2, :, 0] + 0.7 * images[2, :, 2]  # no third axis
    weights[3, 5, 1, 3] = torch.inf
    weights[4] = 0
    matrices = colours.correction(images, weights)
    for matrix in matrices[:5]:
        assert torch.equal(matrix, torch.eye(3))
    torch.testing.assert_close(matrices[5], colours.correction(_photographs(0), _weights(0))[0])


def _crops(name: str, count: int) -> Tensor:
    """Large cuttings (1, count, 3, 32, 32) of a photograph that comes with scikit-learn."""
    photograph = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1) / 255
    draw = seeds.generator(0, f"crops of {name}")
    height, width = (round(0.7 * side) for side in photograph.shape[1:])
    found = []
    for _ in range(count):
        top, left = (
            int(torch.randint(whole - part, (1,), generator=draw))
            for whole, part in zip(photograph.shape[1:], (height, width), strict=True)
        )
        found.append(photograph[None, :, top : top + height, left : left + width])
    return torch.cat([adaptive_avg_pool2d(crop, 32) for crop in found]).unsqueeze(0)


@settings(deadline=None, max_examples=10)
@given(mixture=mixtures, seed=st.integers(0, 5))
def test_a_real_photograph_gets_its_colours_back(mixture: Tensor, seed: int) -> None:
    truth = _crops("china.jpg", 8)
    images, weights = _mixed(mixture, truth, _weights(seed))
    found = _apply(colours.correction(images, weights), images)
    level = (_varying(found) * _varying(truth)).mean() / _varying(found).square().mean()
    error = (level * _varying(found) - _varying(truth)).square().mean()
    assert level > 0 and error < 0.05 * _varying(truth).square().mean()
