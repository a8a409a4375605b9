"""Homework 08: another kind of randomised answers, and noise of several sizes."""

from random import Random

import numpy as np
import torch

from sltools import seeds
from sltools.checking.task import Answer, compare, tensor
from sltools.exercises.homework.parts import (
    Homework,
    Part,
    homework,
    normal,
    order,
    part,
    recovers,
    uniform,
)

IMAGES, PIXELS, UNITS = 3, 9, 20
SIZES = (0.05, 0.1, 0.2, 0.5)  # of the noise of the releases


@homework("08", "defences")
def _privacy(constants: Random, data: np.random.Generator) -> Homework:
    images, weight = uniform(data, IMAGES, PIXELS), normal(data, UNITS, PIXELS) / 2
    sizes = torch.tensor([SIZES[place] for place in order(data, len(SIZES))])
    noise = normal(data, len(SIZES), IMAGES, UNITS)
    releases = images @ weight.T + sizes.view(-1, 1, 1) * noise
    # What the release of least noise allows, in the mean over noises.
    enough = SIZES[0] ** 2 * (weight.T @ weight).inverse().trace().item() / PIXELS
    recover = part(
        "08.recover",
        "recovered = ...",
        "Four releases, four noises",
        6,
        f"A client sent the smashed data of {IMAGES} images, $z = W x$ with {PIXELS} pixels in "
        f"$[0, 1]$, {len(SIZES)} times. `releases` is $({len(SIZES)}, {IMAGES}, {UNITS})$; the "
        "standard deviation of the independent noise in each release stands in `sizes`. You know "
        f"`weight`. Recover the images as a tensor $({IMAGES}, {PIXELS})$, as exactly as you can: "
        "the plain mean over the releases earns half the points.",
        recovers(images, 2 * enough),
        "A defence is worth its weakest release: whoever weighs them hardly sees the others' "
        "noise.",
    )
    given = {"weight": weight, "sizes": sizes, "releases": releases}
    return Homework(given, (_shares(constants), recover))


def _shares(constants: Random) -> Part:
    truth = constants.choice((0.3, 0.4, 0.6, 0.7))

    def judge(answer: Answer, seed: int) -> None:
        classes = 3 + seed % 3
        generator = seeds.generator(seed, "homework")
        labels = torch.multinomial(
            torch.rand(classes, generator=generator) + 0.1, 300, True, generator=generator
        )
        lots = torch.randint(classes, labels.shape, generator=generator)
        honest = torch.rand(len(labels), generator=generator) < truth
        answers = torch.where(honest, labels, lots)
        seen = answers.bincount(minlength=classes) / len(answers)
        lie = (1 - truth) / classes
        other = (1 - truth) / (classes - 1)
        compare(
            tensor(answer(answers, classes), (classes,), "the shares"),
            (seen - lie) / truth,
            {
                "Those are the shares of the answers, lies and all.": seen,
                "Here who lies draws among all classes; in the exercises it was among the "
                "others.": (seen - other) / (truth - other),
                "You subtracted the lies and did not scale what is left.": seen - lie,
                "You divided, and did not subtract the lies.": seen / truth,
                "Those are numbers of people; give shares.": (seen - lie) / truth * len(answers),
            },
            "the shares",
        )

    return part(
        "08.shares",
        "def true_shares(answers: Tensor, classes: int) -> Tensor:",
        "Answers drawn by lot",
        4,
        f"Everybody sends the true label with probability {truth}, and otherwise one drawn from "
        "all classes alike, the true one included. Estimate the shares of the true labels from "
        "`answers`, whole numbers below `classes`, so that the estimate is right in the mean: a "
        "tensor of `classes` numbers.",
        judge,
        "How people lie is part of the defence, and the estimate must know it.",
    )
