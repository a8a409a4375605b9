"""Homework 10: crowds compared by a polynomial kernel, and images by alignment."""

from random import Random

import numpy as np
import torch
from torch import Tensor

from sltools.checking.task import Answer, compare, draw, tensor
from sltools.exercises.homework.parts import (
    Homework,
    Part,
    homework,
    normal,
    part,
    recovers,
    uniform,
)

IMAGES, PIXELS, UNITS = 60, 6, 12


@homework("10", "attackers with data")
def _auxiliary(constants: Random, data: np.random.Generator) -> Homework:
    weight = normal(data, UNITS, PIXELS)
    own, private = (uniform(data, IMAGES, PIXELS) for _ in range(2))
    gain = uniform(data, UNITS, low=0.3, high=3.0)
    offset = 2 * normal(data, UNITS)
    given = {"own": own, "made": own @ weight.T, "smashed": gain * (private @ weight.T) + offset}
    align = part(
        "10.recover",
        "recovered = ...",
        "Aligned, and then decoded",
        6,
        f"An attacker has {IMAGES} images of its own, `own`, and the smashed data that its "
        f"surrogate makes of them, `made`. The client sent `smashed`, of {IMAGES} other images of "
        "the same kind, and no pair is known. The surrogate is right but for one thing: each of "
        f"the client's {UNITS} units has a positive gain and an offset that nobody told you. "
        f"Recover the client's images as a tensor $({IMAGES}, {PIXELS})$; a fifth of the error of "
        "a grey image is enough.",
        recovers(private, 0.2 / 12),
        "Two crowds of the same kind give gain and offset away, without a single pair.",
    )
    return Homework(given, (_mmd(constants), align))


def _mmd(constants: Random) -> Part:
    power, constant = constants.choice((2, 3)), constants.choice((0.5, 1.0, 2.0))

    def kernel(one: Tensor, two: Tensor, width: int | None = None) -> Tensor:
        return (one @ two.T / (width or one.shape[1]) + constant) ** power

    def squared(made: Tensor, real: Tensor, width: int | None = None) -> Tensor:
        own = kernel(made, made, width).mean() + kernel(real, real, width).mean()
        return own - 2 * kernel(made, real, width).mean()

    def judge(answer: Answer, seed: int) -> None:
        made, real = 2 * draw(seed, 5 + seed % 3, 6), 1.5 * draw(seed + 1, 9, 6) + 0.4
        cross = kernel(made, real).mean()
        compare(
            tensor(answer(made, real), (), "the squared MMD"),
            squared(made, real),
            {
                "Divide the inner products by the number of features.": squared(made, real, 1),
                "The cross term is to be taken twice.": squared(made, real) + cross,
                "The cross term is to be subtracted.": squared(made, real) + 4 * cross,
                "That is the difference of the two means, squared: another kernel.": (
                    (made.mean(0) - real.mean(0)).square().sum()
                ),
            },
            "the squared MMD",
        )

    shown = squared(torch.eye(3), torch.ones(2, 3))
    return part(
        "10.mmd",
        "def squared_mmd(made: Tensor, real: Tensor) -> Tensor:",
        "Crowds, by a polynomial kernel",
        4,
        f"Take $k(x, y) = (x^\\top y / D + {constant})^{power}$ for rows of $D$ features. Return "
        "the squared MMD of `made` $(N, D)$ and `real` $(M, D)$: the mean of $k$ over all pairs "
        "within `made`, each row with itself included, plus that within `real`, minus twice that "
        "over all pairs of one and the other.",
        judge,
        f"This kernel sees moments up to the {power}, and no others.",
        f"squared_mmd(torch.eye(3), torch.ones(2, 3))  # is {shown:.6f}",
    )
