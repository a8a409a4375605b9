"""Which images are attacked, and which are left for an attacker to have."""

import torch
from torch import Tensor

from sltools import data
from sltools.errors import SltoolsError

TARGETS = {"cifar10": 50}  # 10 for others: fewer photographs do not tell their colours


def usual_targets(dataset: str) -> int:
    """How many images of `dataset` an attack needs to do well."""
    return TARGETS.get(dataset, 10)


def first_targets(dataset: data.Dataset, count: int) -> data.Split:
    """The first test image of each class, then the second of each, up to `count`."""
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
    """The test images (rows) that are not among `first_targets`: what an attacker may have."""
    taken = first_targets(dataset, targets).images
    private = (dataset.test.images[:, None] == taken).flatten(2).all(2).any(1)
    return (~private).nonzero().flatten()
