"""Homework 09: a lie with a leash, and the lies among a training's messages."""

from random import Random

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sltools import seeds
from sltools.checking.task import Answer, compare, draw, tensor
from sltools.exercises.homework.parts import (
    Homework,
    Part,
    finds,
    homework,
    normal,
    part,
    uniform,
)

MESSAGES, BATCH, WIDTH, CLASSES = 12, 10, 6, 3


@homework("09", "a malicious server")
def _malicious(constants: Random, data: np.random.Generator) -> Homework:
    pulls = normal(data, CLASSES, WIDTH)
    pulls = 2 * normalize(pulls - pulls.mean(0))
    labels = torch.tensor(np.stack([data.permutation(BATCH) % CLASSES for _ in range(MESSAGES)]))
    lies = data.permutation(np.arange(MESSAGES) < data.integers(3, 10)).tolist()
    steered = 2 * normalize(normal(data, MESSAGES, 1, WIDTH), dim=2)  # lies are no longer
    spread = torch.tensor(lies).view(-1, 1, 1)
    meant = torch.where(spread, steered, pulls[labels])
    size = uniform(data, MESSAGES, BATCH, 1, low=0.2, high=2.0)
    gradients = size * (meant + 0.4 * normal(data, MESSAGES, BATCH, WIDTH))
    told = part(
        "09.lies",
        "lies = ...",
        "Which messages were lies?",
        6,
        f"A client kept {MESSAGES} cut-layer gradients, `gradients` "
        f"$({MESSAGES}, {BATCH}, {WIDTH})$, with the labels of their batches. Some of them are "
        "honest. In the others the server sent what suits it, without any regard to the labels. "
        f"Give a list of {MESSAGES} truth values: `True` for a lie.",
        finds(lies, "verdicts"),
        "An honest gradient knows the label. A client that keeps what it was sent can tell.",
    )
    given = {"labels": labels, "gradients": gradients}
    return Homework(given, (_lie(constants), told))


def _lie(constants: Random) -> Part:
    push, leash = constants.choice((0.5, 2.0, 3.0)), constants.choice((0.1, 0.2, 0.4))

    def judge(answer: Answer, seed: int) -> None:
        with seeds.scope(seed, "homework"):
            critic = nn.Sequential(nn.Flatten(), nn.Linear(18, 8), nn.Tanh(), nn.Linear(8, 1))
        z = draw(seed, 4 + seed % 3, 2, 3, 3)
        got = tensor(answer(critic, z), z.shape, "the gradient")

        def slope(value: Tensor) -> Tensor:
            (made,) = torch.autograd.grad(value, heard, retain_graph=True)
            return made

        heard = z.clone().requires_grad_()
        steep, held = slope(critic(heard).mean()), z / len(z)
        compare(
            got,
            push * steep + leash * held,
            {
                "This is the lie of the exercises.": steep,
                "The leash is missing.": push * steep,
                "The leash is missing its half: the gradient of half the square is z.": push * steep
                + 2 * leash * held,
                "The leash is a mean over the batch as well.": push * steep + leash * z,
                "The scores are to be averaged, not added.": push * steep * len(z) + leash * held,
                "The client would climb: send the gradient of the loss itself.": -(
                    push * steep + leash * held
                ),
            },
            "the gradient",
        )

    return part(
        "09.lie",
        "def lie(critic: nn.Module, z: Tensor) -> Tensor:",
        "A lie on a leash",
        4,
        f"A server wants the mean score of `critic(z)` to fall, {push} times, and the smashed data "
        f"to stay small: it adds {leash} times the mean over the batch of "
        "$\\frac{1}{2} \\lVert z \\rVert^2$ to its loss. Return the gradient at `z` that it "
        "sends.",
        judge,
        "A leash keeps the client's activations where its own loss does not notice the lie.",
    )
