"""Networks that an attacker builds from the shapes of images and of smashed data alone.

A client that cuts a (1, 28, 28) image down to (8, 12, 12) looks at every second pixel, through a
window of at least six: stride and window follow from the two sizes if strides are powers of two
and nothing, or the same on all sides, is padded. A pilot on another grid sees another scale, and
what is decoded from the client's data is then enlarged or shifted. Vectors have no grid; one of a
quarter of the image is assumed for them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from sltools import seeds
from sltools.attacks.pixels import InputRange
from sltools.errors import AttackError

Shape = Sequence[int]

WIDTH = 32
CHUNK = 500  # images or smashed data that pass a network at once
SLOPE = 0.2  # of the critic for negative inputs, as usual for critics


def pilot(image: Shape, smashed: Shape, *, rectified: bool, seed: int) -> nn.Sequential:
    """Make a stand-in for an unknown client: images (N, C, H, W) to the shape of smashed data.

    `image` and `smashed` are the shapes of one sample. `rectified` ends it with a ReLU, for smashed
    data that are never negative. Weights come from the stream (`seed`, "pilot").

    >>> import torch
    >>> from sltools.attacks import networks
    >>> pilot = networks.pilot((1, 28, 28), (8, 12, 12), rectified=True, seed=0)
    >>> tuple(pilot(torch.zeros(5, 1, 28, 28)).shape)
    (5, 8, 12, 12)
    """
    coarse = _map_shape(image, smashed)
    size, stride, window = _grid(image, coarse)
    with seeds.scope(seed, "pilot"):
        layers: list[nn.Module] = [] if size == tuple(image[1:]) else [nn.Upsample(size)]
        layers += [nn.Conv2d(image[0], WIDTH, window, stride), nn.ReLU()]
        if len(smashed) == 3:
            layers.append(nn.Conv2d(WIDTH, smashed[0], 1))
        else:
            inputs = WIDTH * coarse[1] * coarse[2]
            layers += [nn.Flatten(), nn.Linear(inputs, smashed[0])]
    return nn.Sequential(*layers, *([nn.ReLU()] if rectified else []))


def substitute(image: Shape, smashed: Shape, *, rectified: bool, seed: int) -> nn.Sequential:
    """Make a deeper stand-in than `pilot`, for an attacker that trains it by itself.

    `image` and `smashed` are the shapes of one sample. `rectified` ends it with a ReLU, for smashed
    data that are never negative. Weights come from the stream (`seed`, "substitute").

    >>> import torch
    >>> from sltools.attacks import networks
    >>> substitute = networks.substitute((1, 28, 28), (16, 4, 4), rectified=True, seed=0)
    >>> tuple(substitute(torch.zeros(5, 1, 28, 28)).shape)
    (5, 16, 4, 4)
    """
    coarse = _map_shape(image, smashed)
    size, stride, window = _grid(image, coarse)
    with seeds.scope(seed, "substitute"):
        layers: list[nn.Module] = [] if size == tuple(image[1:]) else [nn.Upsample(size)]
        layers += [nn.Conv2d(image[0], WIDTH // 2, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(WIDTH // 2, 2 * WIDTH, window, stride), nn.ReLU()]
        if len(smashed) == 3:
            layers += [nn.Conv2d(2 * WIDTH, 2 * WIDTH, 3, padding=1), nn.ReLU()]
            layers.append(nn.Conv2d(2 * WIDTH, smashed[0], 1))
        else:
            inputs = 2 * WIDTH * coarse[1] * coarse[2]
            layers += [nn.Flatten(), nn.Linear(inputs, 8 * WIDTH), nn.ReLU()]
            layers.append(nn.Linear(8 * WIDTH, smashed[0]))
    return nn.Sequential(*layers, *([nn.ReLU()] if rectified else []))


def decoder(smashed: Shape, image: Shape, *, seed: int) -> nn.Sequential:
    """Make an inverse network: smashed data (N, ...) to images (N, C, H, W) in [0, 1].

    `smashed` and `image` are the shapes of one sample. Weights come from the stream
    (`seed`, "decoder").

    >>> import torch
    >>> from sltools.attacks import networks
    >>> decoder = networks.decoder((8, 12, 12), (1, 28, 28), seed=0)
    >>> tuple(decoder(torch.zeros(5, 8, 12, 12)).shape)
    (5, 1, 28, 28)
    """
    coarse = _map_shape(image, smashed)
    size, stride, window = _grid(image, coarse)
    with seeds.scope(seed, "decoder"):
        layers: list[nn.Module] = []
        if len(smashed) == 1:
            outputs = coarse[0] * coarse[1] * coarse[2]
            layers += [nn.Linear(smashed[0], outputs), nn.ReLU(), nn.Unflatten(1, coarse)]
        layers += [nn.Conv2d(coarse[0], 2 * WIDTH, 3, padding=1), nn.ReLU()]
        layers += [nn.Conv2d(2 * WIDTH, WIDTH // 2, 3, padding=1), nn.ReLU()]
        layers += [nn.ConvTranspose2d(WIDTH // 2, WIDTH // 2, window, stride), nn.ReLU()]
        if size != tuple(image[1:]):
            layers.append(nn.AdaptiveAvgPool2d(tuple(image[1:])))
        layers += [nn.Conv2d(WIDTH // 2, image[0], 3, padding=1), nn.Sigmoid()]
    return nn.Sequential(*layers)


def critic(smashed: Shape, *, seed: int) -> nn.Sequential:
    """Make a critic that gives smashed data (N, ...) a score (N, 1), without bounds.

    `smashed` is the shape of one sample. Weights come from the stream (`seed`, "critic").

    >>> import torch
    >>> from sltools.attacks import networks
    >>> critic = networks.critic((8, 12, 12), seed=0)
    >>> tuple(critic(torch.zeros(5, 8, 12, 12)).shape)
    (5, 1)
    """
    with seeds.scope(seed, "critic"):
        if len(smashed) == 1:
            layers: list[nn.Module] = [nn.Linear(smashed[0], 8 * WIDTH), nn.LeakyReLU(SLOPE)]
            layers += [nn.Linear(8 * WIDTH, 8 * WIDTH), nn.LeakyReLU(SLOPE)]
            return nn.Sequential(*layers, nn.Linear(8 * WIDTH, 1))
        channels, *sides = smashed
        layers = []
        while not layers or max(sides) > 4:
            layers += [nn.Conv2d(channels, WIDTH, 3, 2, padding=1), nn.LeakyReLU(SLOPE)]
            channels, sides = WIDTH, [(side + 1) // 2 for side in sides]
        layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.LeakyReLU(SLOPE), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(WIDTH * sides[0] * sides[1], 1))


def in_chunks(network: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    """What `network` makes of inputs (N, ...), some hundred at a time and without gradients.

    >>> import torch
    >>> from sltools.attacks import networks
    >>> networks.in_chunks(torch.relu, torch.tensor([[-1.0], [2.0]]))
    tensor([[0.],
            [2.]])
    """
    with torch.no_grad():
        return torch.cat([network(part) for part in inputs.split(CHUNK)])


def dead_channels(network: nn.Sequential, inputs: Tensor) -> int:
    """How many channels, after any of its layers, are the same for all inputs (N, ...).

    A ReLU that is off for every input passes no gradient back, so its channel cannot recover.

    >>> import torch
    >>> from torch import nn
    >>> from sltools.attacks import networks
    >>> off = nn.Sequential(nn.Linear(1, 2), nn.ReLU())
    >>> _ = off.load_state_dict({"0.weight": torch.ones(2, 1), "0.bias": torch.tensor([0.0, -9.0])})
    >>> networks.dead_channels(off, torch.rand(5, 1))
    1
    """
    count = 0
    with torch.no_grad():
        for layer in network:
            inputs = layer(inputs)
            channels = inputs.transpose(0, 1).flatten(1)
            count += int((channels.amax(1) == channels.amin(1)).sum())
    return count


def relative_error(network: Callable[[Tensor], Tensor], inputs: Tensor, smashed: Tensor) -> float:
    """Mean squared error of `network` at `inputs` to smashed data, divided by their variance.

    >>> import torch
    >>> from sltools.attacks import networks
    >>> networks.relative_error(torch.zeros_like, torch.ones(2, 1), torch.tensor([[-1.0], [1.0]]))
    1.0
    """
    scale = smashed.var(correction=0).clamp_min(torch.finfo(smashed.dtype).tiny)
    return ((in_chunks(network, inputs) - smashed).square().mean() / scale).item()


def check_images(
    images: Tensor, input_range: Any = (0.0, 1.0), what: str = "public images"
) -> InputRange:
    """Return `input_range`, once checked; raise AttackError for images that are not in it.

    `images` must be (N, C, H, W), N at least 1, float32; `what` they are called in an error.
    """
    if not isinstance(images, Tensor) or images.ndim != 4 or images.numel() == 0:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise AttackError(
            f"{what} must be a tensor (N, C, H, W) of at least one image, not {shape}: take "
            "a split's `.images`"
        )
    span = InputRange(input_range, images.shape[1])
    if images.dtype != torch.float32 or not span.contains(images):
        raise AttackError(
            f"{what} must be float32 in {span}, and these are {images.dtype} from "
            f"{images.min():.3g} to {images.max():.3g}: {_advice(images, span)}"
        )
    return span


def _advice(images: Tensor, span: InputRange) -> str:
    """What to do about images that are not float32 in `span`."""
    if not images.isfinite().all():
        return "leave out the images with NaN or infinite values"
    if not images.is_floating_point() and span.contains(images / 255):
        return "divide 8-bit pixels by 255"
    if span.contains(images.float()):
        return "convert them with `.float()`"
    return (
        "divide 8-bit pixels by 255, and undo a standardisation, or give a decoder its input_range"
    )


def check_smashed(smashed: Tensor, shape: Shape | None = None) -> None:
    """Raise AttackError unless `smashed` is (B, C, H, W) or (B, D), of samples of `shape`."""
    if not isinstance(smashed, Tensor) or smashed.ndim not in (2, 4) or smashed.numel() == 0:
        what = tuple(smashed.shape) if isinstance(smashed, Tensor) else type(smashed).__name__
        raise AttackError(
            f"smashed data must be a tensor of maps (B, C, H, W) or vectors (B, D), not {what}"
        )
    if shape is not None and smashed.shape[1:] != torch.Size(shape):
        raise AttackError(
            f"the attack was made for smashed data of shape {tuple(shape)} for each image and met "
            f"{tuple(smashed.shape[1:])}: use a new one for another cut"
        )


def _map_shape(image: Shape, smashed: Shape) -> tuple[int, int, int]:
    """The shape of the smashed data as maps (channels, height, width)."""
    if len(smashed) == 3:
        return (smashed[0], smashed[1], smashed[2])
    return (WIDTH, max(1, image[1] // 4), max(1, image[2] // 4))


def _grid(image: Shape, coarse: Shape) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """Size of the image to look at, and stride and window that lead to the size of `coarse`."""
    size = (max(image[1], coarse[1]), max(image[2], coarse[2]))
    (high, window_high), (wide, window_wide) = map(_stride, size, coarse[1:])
    return size, (high, wide), (window_high, window_wide)


def _stride(whole: int, part: int) -> tuple[int, int]:
    """The largest power of two that divides `whole` pixels into `part`, and the least window."""
    stride = 1 << ((whole // part).bit_length() - 1)
    return stride, whole - (part - 1) * stride
