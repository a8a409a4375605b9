"""Homework 07: a closed form for another loss, and labels of pairs."""

from random import Random

import numpy as np
import torch
from torch.nn.functional import one_hot

from sltools import seeds
from sltools.checking.task import Answer, compare, tensor
from sltools.exercises.homework.parts import (
    Homework,
    Part,
    finds,
    homework,
    normal,
    part,
    uniform,
)

CLASSES, FEATURES, MESSAGES = 4, 8, 12


@homework("07", "label inference")
def _labels(constants: Random, data: np.random.Generator) -> Homework:
    pulls = normal(data, CLASSES, FEATURES)
    pulls = pulls - pulls.mean(0) / 2
    pairs = np.sort([data.permutation(CLASSES)[:2] for _ in range(MESSAGES)])
    sizes = uniform(data, MESSAGES, 2, 1, low=0.4, high=1.5)
    messages = (sizes * pulls[pairs]).mean(1) + 0.02 * normal(data, MESSAGES, FEATURES)
    single = uniform(data, CLASSES, 1, low=0.4, high=1.5) * pulls
    mixed = part(
        "07.pairs",
        "pairs = ...",
        "Gradients of two",
        6,
        "A client of a one-layer head sent cut-layer gradients early in its training, when the "
        "gradient of a sample has the direction of its class, in whatever length. Each of the "
        f"{MESSAGES} rows of `messages` is the mean of the gradients of two samples of different "
        f"classes, and a little noise. `single` holds one gradient of each of the {CLASSES} "
        "classes. Give the list of the pairs of labels, the smaller label of each pair first.",
        finds(pairs.tolist(), "pairs"),
        "A mean over samples is no protection either while the directions are independent.",
    )
    return Homework({"single": single, "messages": messages}, (_closed_form(constants), mixed))


def _closed_form(constants: Random) -> Part:
    factor, decay = constants.choice((0.5, 2.0, 3.0, 5.0)), constants.choice((0.1, 0.2, 0.5))

    def judge(answer: Answer, seed: int) -> None:
        generator = seeds.generator(seed, "homework")
        batch, classes, width = 4, 5, 7
        u, weight = (torch.randn(rows, width, generator=generator) for rows in (batch, classes))
        labels = torch.randint(classes, (batch,), generator=generator)
        right = (u @ weight.T).softmax(1) - one_hot(labels, classes)
        sent = factor / batch * right.T @ u + decay * weight
        solved = batch * (sent @ torch.linalg.pinv(u)).T
        decayed = batch * decay * (weight @ torch.linalg.pinv(u)).T
        compare(
            tensor(answer(u, sent, weight), right.shape, "P - Y"),
            right,
            {
                "This is the closed form of the exercises, of the bare mean.": solved,
                "The decay is still in it: take it away first.": solved / factor,
                "The factor of the loss is still in it.": solved - decayed,
                "The decay is not multiplied by the factor of the loss.": solved / factor - decayed,
                "The factor B is missing: the loss is a mean.": right / batch,
                "The sign is turned: this is Y - P.": -right,
            },
            "P - Y",
            tolerance=5e-3,
        )

    return part(
        "07.closed_form",
        "def closed_form(u: Tensor, gradient: Tensor, weight: Tensor) -> Tensor:",
        "A closed form for another loss",
        4,
        f"A client minimises ${factor}$ times the mean cross-entropy of its batch plus "
        f"$\\frac{{{decay}}}{{2}} \\lVert W \\rVert^2$. Its head has one layer, "
        "$p = \\operatorname{softmax}(W u)$. You are given the features `u`, $(B, D)$ with "
        "$B \\le D$ and of full rank, the gradient of the loss with respect to $W$, $(K, D)$, and "
        "`weight`, $W$. Return $P - Y$, $(B, K)$: probabilities minus one-hot labels.",
        judge,
        "A factor and a decay that the server knows hide nothing from it.",
    )
