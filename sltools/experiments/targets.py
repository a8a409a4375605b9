"""Which images are attacked, and which are left for an attacker to have."""

import torch
from torch import Tensor

from sltools import data
from sltools.errors import SltoolsError

TARGETS = {"cifar10": 50}  # 10 for others: fewer photographs do not tell their colours


def usual_targets(dataset: str) -> int:
    """How many images of `dataset` an attack needs to do well.

    >>> from sltools import experiments
    >>> experiments.usual_targets("digits"), experiments.usual_targets("cifar10")
    (10, 50)
    """
    return TARGETS.get(dataset, 10)


def first_targets(dataset: data.Dataset, count: int) -> data.Split:
    """The first test image of each class, then the second of each, up to `count`.

    Raises SltoolsError unless there are so many test images.

    >>> from sltools import data, experiments
    >>> experiments.first_targets(data.load("digits"), 12).labels.tolist()
    [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0, 1]
    """
    dataset = data.expect(data.Dataset, dataset)
    if not 1 <= count <= len(dataset.test):
        raise SltoolsError(
            f"{count} targets cannot be attacked: give 1 to {len(dataset.test)}, the number of "
            f"test images of {dataset.name}"
        )
    classes = len(dataset.classes)
    rounds = -(-count // classes)
    if rounds > dataset.test.labels.bincount(minlength=classes).min():
        return dataset.test[:count]
    by_class = dataset.test.first_per_class(rounds)
    return by_class[torch.arange(len(by_class)).view(classes, rounds).T.flatten()[:count]]


def public_rows(dataset: data.Dataset, targets: int) -> Tensor:
    """The test images (rows) that are not among `first_targets`: what an attacker may have.

    >>> from sltools import data, experiments
    >>> digits = data.load("digits")
    >>> rows = experiments.public_rows(digits, targets=10)
    >>> len(digits.test), len(rows)
    (360, 350)
    """
    taken = first_targets(dataset, targets).images
    private = (dataset.test.images[:, None] == taken).flatten(2).all(2).any(1)
    return (~private).nonzero().flatten()
