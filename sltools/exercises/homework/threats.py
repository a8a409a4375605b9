"""Homework 02: a guesser with several guesses, and labels in two messages at once."""

from itertools import combinations
from random import Random

import numpy as np
import torch

from sltools import seeds
from sltools.checking.task import Answer, compare, number, pair
from sltools.exercises.homework.parts import Homework, Part, finds, homework, part

CLASSES, IMAGES, KNOWN, COLUMNS = 4, 24, 8, 6


@homework("02", "threat models")
def _threats(constants: Random, data: np.random.Generator) -> Homework:
    while True:
        labels = np.concatenate([np.arange(KNOWN), data.integers(CLASSES, size=IMAGES - KNOWN)])
        labels[:KNOWN] = data.permutation(labels[:KNOWN] % CLASSES)
        code = data.permutation(CLASSES)[labels]
        bits = [code // 2, code % 2, *data.integers(2, size=(COLUMNS - 2, IMAGES))]
        telling = [pair for pair in combinations(range(COLUMNS), 2) if _tells(bits, pair, labels)]
        if telling == [(0, 1)]:
            break
    names = [f"message {letter}" for letter in data.permutation(list("ABCDEF"))]
    values = [data.choice(np.arange(10, 100), 2, replace=False) for _ in bits]
    columns = zip(names, values, bits, strict=True)
    messages = {str(name): two[column].tolist() for name, two, column in columns}
    leak = part(
        "02.labels",
        "labels = ...",
        "Two messages that say nothing alone",
        6,
        f"Of {IMAGES} images of {CLASSES} classes, {COLUMNS} messages crossed the wire, a number "
        "for each image. None of the messages tells the label, and two of them do together: each "
        f"class has its own pair of numbers there. You know the labels of the first {KNOWN} "
        f"images, `known`. Give the list of all {IMAGES} labels.",
        finds(labels.tolist(), "labels"),
        "No message held the labels, and the wire did: look at what messages say together.",
    )
    given = {"messages": dict(sorted(messages.items())), "known": labels[:KNOWN].tolist()}
    return Homework(given, (_baselines(constants), leak))


def _tells(bits: list[np.ndarray], columns: tuple[int, int], labels: np.ndarray) -> bool:
    """Say whether two columns together may give the labels, by the images whose labels are known"""
    pairs = list(zip(*(bits[column][:KNOWN] for column in columns), strict=True))
    return len(set(pairs)) == len({*zip(pairs, labels[:KNOWN], strict=True)}) == CLASSES


def _baselines(constants: Random) -> Part:
    guesses = constants.choice((2, 3, 4))

    def judge(answer: Answer, seed: int) -> None:
        classes, count = 8, 90
        shares = torch.tensor([0.5, 3.0, 1.0, 0.0, 1.5, 0.7, 0.0, 1.2])
        generator = seeds.generator(seed, "homework")
        labels = torch.multinomial(shares, count, replacement=True, generator=generator)
        got = torch.tensor([number(value) for value in pair(answer(labels, classes))])
        counts = labels.bincount(minlength=classes).sort(descending=True).values
        chance, majority = guesses / classes, counts[:guesses].sum().item() / count
        present = int((counts > 0).sum())
        compare(
            got,
            torch.tensor([chance, majority]),
            {
                "These are the baselines of the exercises, for one guess.": torch.tensor(
                    [1 / classes, counts[0].item() / count]
                ),
                "The two numbers are swapped: the random guesser first.": torch.tensor(
                    [majority, chance]
                ),
                "A random guesser does not know which classes occur: count all of them.": (
                    torch.tensor([guesses / present, majority])
                ),
                "The guesses are of different classes; you let the same one be guessed again.": (
                    torch.tensor([1 - (1 - 1 / classes) ** guesses, majority])
                ),
            },
            "the pair of baselines",
            tolerance=1e-5,
        )

    return part(
        "02.baselines",
        "def baselines(labels: Tensor, classes: int) -> tuple[float, float]:",
        "Several guesses",
        4,
        f"An attack may name {guesses} different classes for each image, and is right if the label "
        "is among them. `labels` are whole numbers below `classes`. Return two shares of images, "
        "of what one gets without any attack: by naming classes at random, and by always naming "
        "those that occur most often.",
        judge,
        "More guesses, and a higher bar: whoever reports the one must report the other.",
    )
