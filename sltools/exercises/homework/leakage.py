"""Homework 03: a leaky layer undone, and images found at an unknown volume."""

from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu

from sltools.checking.task import Answer, compare, draw, tensor
from sltools.exercises.homework.parts import (
    Homework,
    Part,
    finds,
    homework,
    normal,
    order,
    part,
    uniform,
)

GALLERY, SENT, PIXELS, UNITS = 12, 8, 9, 14


@homework("03", "smashed data")
def _leakage(constants: Random, data: np.random.Generator) -> Homework:
    gallery, weight = uniform(data, GALLERY, PIXELS), normal(data, UNITS, PIXELS)
    places = order(data, GALLERY)[:SENT]
    gain = uniform(data, SENT, 1, low=0.2, high=3.0)
    smashed = gain * (gallery[places] @ weight.T).relu() + 0.02 * normal(data, SENT, UNITS)
    match = part(
        "03.places",
        "places = ...",
        "Whose smashed data?",
        6,
        f"A client sent the smashed data of {SENT} of the {GALLERY} images in `gallery`, "
        "$z = g \\operatorname{relu}(W x)$ and a little noise. The gain $g > 0$ is another one for "
        "each image, and nobody told you. You know `weight` and `smashed`. Give the list of the "
        "places in `gallery` of the images that were sent.",
        finds(places, "places"),
        "A gain for each image hides how bright it is, and not which one it is.",
    )
    given = {"gallery": gallery, "weight": weight, "smashed": smashed}
    return Homework(given, (_undo(constants), match))


def _undo(constants: Random) -> Part:
    slope = constants.choice((0.05, 0.1, 0.2, 0.25))
    gain = constants.choice((-3.0, -1.5, -0.5, 0.4))
    offset = constants.choice((-0.7, 0.3, 0.6, 1.2))

    def undone(smashed: Tensor) -> Tensor:
        inner = (smashed - offset) / gain
        return torch.where(inner > 0, inner, inner / slope)

    def judge(answer: Answer, seed: int) -> None:
        smashed = gain * leaky_relu(4 * draw(seed, 3, 4, 5) - 2, slope) + offset
        inner, early = (smashed - offset) / gain, smashed / gain
        compare(
            tensor(answer(smashed), smashed.shape, "the activations"),
            undone(smashed),
            {
                "Divide by the slope: you multiplied by it.": leaky_relu(inner, slope),
                "The layer is linear on each side, and you undid only one.": inner,
                "The offset was added after the gain: take it away first.": torch.where(
                    early > offset, early - offset, (early - offset) / slope
                ),
                "The gain turns the sign, or moves it: divide before you ask which side it is.": (
                    torch.where(smashed - offset > 0, inner, inner / slope)
                ),
            },
            "what the layer was given",
        )

    return part(
        "03.undo",
        "def undo(smashed: Tensor) -> Tensor:",
        "Undo a leaky layer",
        4,
        f"A client sends $z = {gain} \\, \\ell(a) + {offset}$, where $\\ell(a)$ is $a$ for "
        f"$a > 0$, and ${slope} \\, a$ otherwise. Return the activations $a$, in the shape of "
        "`smashed`.",
        judge,
        "A leaky ReLU makes negative numbers small. Nothing is destroyed, and everything is sent.",
        f"undo(torch.tensor([0.0, 1.0]))  # is {undone(torch.tensor([0.0, 1.0])).tolist()}",
    )
