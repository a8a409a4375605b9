"""Homework 12: a mean without extremes, and the cheaters among a training's clients."""

from random import Random

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sltools.checking.task import Answer, compare, draw, tensor
from sltools.exercises.homework.parts import (
    Homework,
    Part,
    finds,
    homework,
    normal,
    part,
)

ROUNDS, CLIENTS, WEIGHTS = 8, 10, 12
PUSH = 3.0  # the length of what a cheater adds; the rest of a change has one of about 3.5


@homework("12", "clients who cheat")
def _poisoning(constants: Random, data: np.random.Generator) -> Homework:
    cheats = data.permutation(np.arange(CLIENTS) < data.integers(2, 5)).tolist()
    wanted = PUSH * normalize(normal(data, WEIGHTS), dim=0)
    drift = 2 * normal(data, ROUNDS, 1, WEIGHTS)
    pushed = torch.tensor(cheats).float()[:, None] * wanted
    changes = drift + pushed + normal(data, ROUNDS, CLIENTS, WEIGHTS)
    found = part(
        "12.cheaters",
        "cheaters = ...",
        "Who cheats?",
        6,
        f"In each of {ROUNDS} rounds of SplitFed the server noted what each of {CLIENTS} clients "
        f"did to {WEIGHTS} weights: `changes` $({ROUNDS}, {CLIENTS}, {WEIGHTS})$. A round has a "
        "drift that all have in common, and everybody's data add noise of their own. Two to four "
        "clients want something else, the same in every round, and hide it in a change that is no "
        f"longer than others'. Give a list of {CLIENTS} truth values: `True` for a cheater.",
        finds(cheats, "verdicts"),
        "One round hides a cheater in the noise; many rounds average the noise away.",
    )
    return Homework({"changes": changes}, (_mean(constants), found))


def _mean(constants: Random) -> Part:
    low, high = constants.choice(((1, 2), (2, 1), (1, 3), (3, 1)))

    def trimmed(states: Tensor, low: int = low, high: int = high) -> Tensor:
        return states.sort(0).values[low : len(states) - high].mean(0)

    def judge(answer: Answer, seed: int) -> None:
        states = draw(seed, 7 + seed % 3, 5)
        by_length = states[states.norm(dim=1).argsort()]
        compare(
            tensor(answer(states), (5,), "the layers"),
            trimmed(states),
            {
                "That is the mean of all clients.": states.mean(0),
                "That is the median of each weight.": states.median(0).values,
                "As many are left out on either side; the task has two numbers.": trimmed(
                    states, low, low
                ),
                "The two numbers are exchanged.": trimmed(states, high, low),
                "Whole clients are left out; each weight is to be sorted by itself.": by_length[
                    low : len(states) - high
                ].mean(0),
            },
            "the layers",
        )

    shown = trimmed(torch.arange(6.0)[:, None])
    return part(
        "12.trim",
        "def trimmed(states: Tensor) -> Tensor:",
        "Without some of the extremes",
        4,
        "A server has seen clients that make weights too small and others that make them too "
        f"large. Of each weight of `states` $(C, D)$, C clients, leave out the {low} smallest and "
        f"the {high} largest values, and return the mean of the others, $(D,)$.",
        judge,
        "A rule that knows on which side the lies are keeps more of the honest.",
        f"trimmed(torch.arange(6.0)[:, None])  # is {shown.item():.2f}",
    )
