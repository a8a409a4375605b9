"""Homework 15: identified among several, and what was done to recordings."""

from random import Random

import numpy as np
import torch
from scipy.stats import binomtest
from torch import Tensor
from torch.nn.functional import normalize

from sltools.checking.task import Answer, Wrong, compare, draw, number
from sltools.exercises.homework.parts import Homework, Part, finds, homework, normal, order, part

TREATMENTS = (
    *("nothing", "noise", "rounding", "clipping", "top-k"),
    *("top-k and clipping", "top-k and rounding"),
)
SAMPLES, UNITS, KEPT = 6, 10, 3


@homework("15", "audits")
def _audits(constants: Random, data: np.random.Generator) -> Homework:
    secret = [TREATMENTS[place] for place in order(data, len(TREATMENTS))]
    recordings = torch.stack([_recording(treatment, data) for treatment in secret])
    told = part(
        "15.treatments",
        "treatments = ...",
        "What was done to these numbers?",
        6,
        f"{len(secret)} clients with a ReLU at the cut each sent the smashed data of {SAMPLES} "
        f"images twice: `recordings` is $({len(secret)}, 2, {SAMPLES}, {UNITS})$. Each of these "
        f"was done by one of them: {', '.join(f'`{name!r}`' for name in TREATMENTS)}. Clipping "
        "bounds the norm of a sample, top-k keeps as many entries of each, rounding goes to "
        "multiples of a step. Give the list of what was done, client by client.",
        finds(secret, "clients"),
        "Each treatment leaves a mark in what it makes, and two leave two.",
    )
    return Homework({"recordings": recordings}, (_identified(constants), told))


def _recording(treatment: str, data: np.random.Generator) -> Tensor:
    """Draw smashed data and treat them; return two recordings."""
    while True:
        z = (normal(data, SAMPLES, UNITS) + 0.4).relu()
        alive = (z > 0).sum(1)
        if alive.min() >= KEPT and len(alive.unique()) > 2:  # else it looks like top-k
            break
    if "top-k" in treatment:
        z = torch.where(z >= z.topk(KEPT, 1).values[:, -1:], z, 0.0)
        z = torch.where(z > 0, z + 0.5, 0.0)  # so that no entry that is kept is rounded to 0
    if "clipping" in treatment:
        z = z * (z.norm(dim=1).amin() / z.norm(dim=1, keepdim=True))
    if "rounding" in treatment:
        z = z.div(0.25).round().mul(0.25)
    noise = 0.2 if treatment == "noise" else 0.0
    return torch.stack([z + noise * normal(data, SAMPLES, UNITS) for _ in range(2)])


def _identified(constants: Random) -> Part:
    among, level = constants.choice((2, 3)), constants.choice((0.8, 0.9, 0.99))

    def count(found: Tensor, truth: Tensor, among: int) -> float:
        rows, owners = (
            normalize(x.flatten(1) - x.flatten(1).mean(1, True)) for x in (found, truth)
        )
        best = (rows @ owners.T).topk(among, 1).indices
        return float((best == torch.arange(len(rows))[:, None]).any(1).sum())

    def report(found: Tensor, truth: Tensor, among: int, level: float) -> Tensor:
        hits = count(found, truth, among)
        ends = binomtest(int(hits), len(truth)).proportion_ci(level, method="wilson")
        return torch.tensor([hits, float(ends.low), float(ends.high)])

    def judge(answer: Answer, seed: int) -> None:
        truth = draw(seed, 14, 1, 5, 5)
        found = 0.4 * truth + 0.5 * draw(seed + 1, 14, 1, 5, 5)
        got = answer(found, truth)
        if not isinstance(got, list) or len(got) != 3:
            raise Wrong("Return three numbers: how many are identified, low and high.")
        compare(
            torch.tensor([number(value) for value in got]),
            report(found, truth, among, level),
            {
                "This is the count and the interval of the exercises.": report(
                    found, truth, 1, 0.95
                ),
                "The interval is that of 95%.": report(found, truth, among, 0.95),
                "Only the most alike counts for you.": report(found, truth, 1, level),
                "You look for owners of originals; look for originals of reconstructions.": report(
                    truth, found, among, level
                ),
            },
            "the report",
            tolerance=1e-4,
        )

    return part(
        "15.identified",
        "def identified(found: Tensor, truth: Tensor) -> tuple[int, float, float]:",
        "Among the most alike",
        4,
        f"A reconstruction in `found` is identified if its own original is among the {among} of "
        "`truth` with the highest correlation, over pixels, with it. `found` and `truth` are "
        "$(N, C, H, W)$. Return how many are identified, and the two ends of Wilson's interval, "
        f"two-sided, of {level:.0%}, as shares.",
        judge,
        "A larger circle of suspects has more hits, and a stricter level a wider interval.",
    )
