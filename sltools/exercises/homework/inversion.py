"""Homework 04: a prior with weights, a client for another sensor, and private images."""

from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import conv2d

from sltools import seeds
from sltools.checking.task import Answer, Wrong, compare, tensor
from sltools.exercises.homework.parts import (
    Homework,
    Part,
    homework,
    normal,
    part,
    recovers,
    uniform,
)

IMAGES, PIXELS, UNITS = 3, 16, 64


@homework("04", "inversion")
def _inversion(constants: Random, data: np.random.Generator) -> Homework:
    weight, bias = normal(data, UNITS, PIXELS) / 4, normal(data, UNITS) / 10
    images = uniform(data, IMAGES, PIXELS)
    given = {"weight": weight, "bias": bias, "smashed": (images @ weight.T + bias).relu()}
    recover = part(
        "04.recover",
        "recovered = ...",
        "Your private images",
        5,
        f"{IMAGES} images of {PIXELS} pixels, each in $[0, 1]$, passed the client's layer "
        "$z = \\operatorname{relu}(W x + b)$. You know `weight`, `bias` and `smashed`. Recover the "
        f"images as a tensor $({IMAGES}, {PIXELS})$.",
        recovers(images),
        "Whoever holds the client's weights sees what a single layer sends.",
    )
    return Homework(given, (_prior(constants), _sensor(constants), recover))


def _prior(constants: Random) -> Part:
    below, beside = constants.sample(range(2, 10), 2)
    power = constants.choice((3, 4))

    def weighted(images: Tensor, below: int, beside: int) -> Tensor:
        down, across = images.diff(dim=2).abs(), images.diff(dim=3).abs()
        return below * down.pow(power).mean() + beside * across.pow(power).mean()

    def judge(answer: Answer, seed: int) -> None:
        images = torch.rand(3, 2, 6, 9, generator=seeds.generator(seed, "homework"))
        down, across = images.diff(dim=2), images.diff(dim=3)
        compare(
            tensor(answer(images), (), "the prior of a batch"),
            weighted(images, below, beside),
            {
                "This is the prior of the exercises; the homework's has weights and a power.": (
                    down.square().mean() + across.square().mean()
                ),
                "The two weights are swapped.": weighted(images, beside, below),
                "Take the absolute values of the differences before the power.": below
                * down.pow(power).mean()
                + beside * across.pow(power).mean(),
            },
            "the prior",
        )

    shown = weighted(torch.linspace(0, 1, 24).view(1, 1, 4, 6).sin(), below, beside)
    return part(
        "04.prior",
        "def prior(images: Tensor) -> Tensor:",
        "A prior with weights",
        2,
        "Over all pairs of pixels that are neighbours, take the mean of the absolute difference to "
        f"the power {power}; {below} times for pairs above each other, plus {beside} times for "
        "pairs side by side. `images` is $(N, C, H, W)$; return a tensor of shape ().",
        judge,
        "The weights say which edges the attacker expects, the power how much it minds them.",
        f"prior(torch.linspace(0, 1, 24).view(1, 1, 4, 6).sin())  # is {shown:.6f}",
    )


def _sensor(constants: Random) -> Part:
    gain = constants.choice((-2.0, -1.5, -0.8, -0.5))
    offset = constants.choice((0.2, 0.3, 0.7))

    def judge(answer: Answer, seed: int) -> None:
        generator = seeds.generator(seed, "homework")
        weight = torch.rand(4, 2, 3, 3, generator=generator) - 0.5
        bias = torch.rand(4, generator=generator) - 0.5
        images = torch.rand(2, 2, 6, 6, generator=generator)
        got = answer(weight, bias)
        if not isinstance(got, list) or len(got) != 2:
            raise Wrong("Return two tensors: the new weight and the new bias.")
        new = tensor(got[0], weight.shape, "the new weight")
        sums = weight.sum((1, 2, 3))
        seen = gain * images + offset

        def sent(weight: Tensor, bias: Tensor) -> Tensor:
            return conv2d(seen, weight, bias)

        compare(
            sent(new, tensor(got[1], bias.shape, "the new bias")),
            conv2d(images, weight, bias),
            {
                "This is the client of the exercises, for 1 - x.": sent(-weight, bias + sums),
                "Divide the weight by the gain.": sent(weight * gain, bias - offset * sums * gain),
                "The bias is unchanged: it must take up the offset.": sent(weight / gain, bias),
                "The offset passes the new weight, which was divided by the gain.": sent(
                    weight / gain, bias - offset * sums
                ),
            },
            "what the new client sends",
        )

    return part(
        "04.sensor",
        "def sensor_client(weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:",
        "A client for another sensor",
        3,
        "A client's first layer is a convolution without padding, $z = W * x + b$. Another sensor "
        f"gives $x' = {gain} \\, x + {offset}$ where the first gives $x$. Return the weight and "
        "the bias of a layer that sends, for $x'$, the same $z$. `weight` is $(K, C, k, k)$, "
        "`bias` $(K,)$.",
        judge,
        "What is sent does not tell the sensors apart: the attack cannot know the brightness.",
    )
