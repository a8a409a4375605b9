"""Homework 06: agreement with a sure victim, and a thief among suspects."""

from random import Random

import numpy as np
import torch
from torch import Tensor

from sltools import seeds
from sltools.checking.task import Answer, compare, number
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

SUSPECTS, CHANNELS, ENTRIES = 4, 8, 9


@homework("06", "model theft")
def _theft(constants: Random, data: np.random.Generator) -> Homework:
    victim = normal(data, CHANNELS, ENTRIES)
    suspects = normal(data, SUSPECTS, CHANNELS, ENTRIES)
    thief, decoy = order(data, SUSPECTS)[:2]
    channels = order(data, CHANNELS)
    scale = uniform(data, CHANNELS, 1, low=0.3, high=3.0)
    suspects[thief] = scale * victim[channels] + 0.1 * normal(data, CHANNELS, ENTRIES)
    length = victim.norm(dim=1, keepdim=True) / suspects[decoy].norm(dim=1, keepdim=True)
    suspects[decoy] *= length  # as long as the victim's, channel by channel, and no copy
    found = part(
        "06.thief",
        "thief = ...",
        "The thief among the suspects",
        6,
        f"One of the {SUSPECTS} layers in `suspects` was stolen: its channels are those of "
        "`victim` in another order, each times a positive factor, and trained a little since. Give "
        f"a list of {CHANNELS + 1} numbers: the place of the thief in `suspects`, and then, for "
        "each of its channels, which channel of `victim` it was.",
        finds([thief, *channels], "numbers"),
        "Order and length can be changed for nothing, and neither hides a direction.",
    )
    return Homework({"victim": victim, "suspects": suspects}, (_agreement(constants), found))


def _agreement(constants: Random) -> Part:
    likely, sure = constants.choice((2, 3)), constants.choice((0.5, 0.6, 0.7))

    def share(victim: Tensor, clone: Tensor, likely: int, sure: float) -> Tensor:
        among = victim.topk(likely, 1).indices
        hits = (among == clone.argmax(1, keepdim=True)).any(1)
        return hits[victim.softmax(1).amax(1) > sure].double().mean().float()

    def judge(answer: Answer, seed: int) -> None:
        generator = seeds.generator(seed, "homework")
        victim, clone = 2 * torch.randn(2, 150, 6, generator=generator)
        clone = clone + 0.7 * victim
        compare(
            torch.tensor(number(answer(victim, clone))),
            share(victim, clone, likely, sure),
            {
                "Count only images of which the victim is sure.": share(victim, clone, likely, 0),
                "The victim's likeliest classes, and the clone's first: that is the other way "
                "round.": share(clone, victim, likely, sure),
                "That is agreement on the first class, as in the exercises.": share(
                    victim, clone, 1, 0
                ),
                "That is agreement on the victim's first class alone.": share(
                    victim, clone, 1, sure
                ),
            },
            "the agreement",
            tolerance=1e-5,
        )

    shown = share(torch.eye(6) * 4, torch.eye(6).roll(1, 0) + torch.eye(6) / 2, likely, sure)
    return part(
        "06.agreement",
        "def agreement(victim: Tensor, clone: Tensor) -> float:",
        "Agreement where the victim is sure",
        4,
        "`victim` and `clone` are the logits $(N, K)$ of two networks for the same images. Look "
        f"at the images for which the victim's largest probability is above {sure}. For which "
        f"share of these is the clone's most likely class among the victim's {likely} most likely "
        "ones?",
        judge,
        "What counts as agreement is a choice, and an easy one makes every clone a good one.",
        "agreement(torch.eye(6) * 4, torch.eye(6).roll(1, 0) + torch.eye(6) / 2)"
        f"  # is {shown:.4f}",
    )
