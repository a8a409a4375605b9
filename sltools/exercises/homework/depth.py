"""Homework 05: a count with a prior, and images behind two layers that only a prior gives back."""

from random import Random

import numpy as np
import torch
from torch import Tensor, nn

from sltools import seeds
from sltools.checking.task import Answer, compare, draw, number, pair
from sltools.exercises.homework.parts import (
    Homework,
    Part,
    homework,
    normal,
    part,
    recovers,
    uniform,
)

IMAGES, SMALL, SIDE, HIDDEN, UNITS = 3, 2, 4, 20, 10


@homework("05", "depth")
def _depth(constants: Random, data: np.random.Generator) -> Homework:
    while True:
        first, bias = normal(data, HIDDEN, SIDE**2) / 2, 0.5 * normal(data, HIDDEN)
        second = normal(data, UNITS, HIDDEN) / 2
        small = uniform(data, IMAGES, SMALL, SMALL)
        images = small.repeat_interleave(2, 1).repeat_interleave(2, 2).flatten(1)
        hidden = (images @ first.T + bias).relu()
        if (hidden > 0).sum(1).min() >= UNITS:  # fewer may leave a choice
            break
    smashed = hidden @ second.T
    recover = part(
        "05.recover",
        "recovered = ...",
        "Fewer numbers than pixels",
        6,
        f"{IMAGES} images of {SIDE} x {SIDE} pixels, row by row, passed two layers: "
        "$z = V \\operatorname{relu}(W x + b)$. You know `first`, $W$, `bias`, $b$, `second`, $V$, "
        f"and `smashed`: {UNITS} numbers for {SIDE**2} pixels. And you know that each image was "
        f"enlarged from {SMALL} x {SMALL} pixels in $[0, 1]$, each of them to a square of 2 x 2. "
        f"Recover the images as a tensor $({IMAGES}, {SIDE**2})$.",
        recovers(images, 0.003),
        "Counted in pixels the equations were too few. Counted in what is unknown they were not.",
    )
    given = {"first": first, "bias": bias, "second": second, "smashed": smashed}
    return Homework(given, (_count(constants), recover))


def _count(constants: Random) -> Part:
    larger, times = constants.choice((2, 3, 4)), constants.choice((2, 3, 5))

    def judge(answer: Answer, seed: int) -> None:
        images = draw(seed, 3 + seed % 4, 1, 12, 12)
        with seeds.scope(seed, "homework"):
            client = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(500, 40))
        got = torch.tensor([number(value) for value in pair(answer(client, images))])
        weights = sum(weight.numel() for weight in client.parameters())
        biases = sum(weight.numel() for weight in client.parameters() if weight.ndim == 1)
        pixels, sent = images.numel(), 40 * len(images)
        small, shifts = pixels // larger**2, 2 * times * len(images)
        known = weights - biases

        def counts(unknowns: int, equations: int) -> Tensor:
            return torch.tensor([float(unknowns), float(equations)])

        compare(
            got,
            counts(small + known + shifts, times * sent),
            {
                "This is the count of the exercises.": counts(pixels + weights, sent),
                "The pixels of the small images are unknown, and no others.": counts(
                    pixels + known + shifts, times * sent
                ),
                "An image is larger in height and in width.": counts(
                    pixels // larger + known + shifts, times * sent
                ),
                "The biases are known.": counts(small + weights + shifts, times * sent),
                "The shifts are unknown too, two numbers for each.": counts(
                    small + known, times * sent
                ),
                "Each image is sent several times, and each gives equations.": counts(
                    small + known + shifts, sent
                ),
            },
            "the pair of unknowns and equations",
            tolerance=1e-6,
        )

    return part(
        "05.count",
        "def unknowns_and_equations(client: nn.Module, images: Tensor) -> tuple[int, int]:",
        "Unknowns and equations, with a prior",
        4,
        f"The attacker knows that each image was enlarged {larger} times, in height and in width, "
        f"from a small one, and knows the biases of the client. Each image was sent {times} times, "
        "each time shifted by two unknown numbers, down and across. `images` is $(N, C, H, W)$, "
        "not shifted yet. Return how many numbers are unknown, and how many equations there are.",
        judge,
        "A prior takes unknowns away, and asking again adds equations. Depth does neither.",
    )
