"""Which images are attacked, and which are left for an attacker to have."""

import math

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample

from sltools import data, seeds
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


def redrawn(split: data.Split, seed: int, purpose: str) -> data.Split:
    """The images of `split` in another order, each turned by up to 15° and moved a little.

    By up to 15% of half its width; what comes in is black. So no image can be looked up among
    public ones. Order, turns and moves come from the stream (`seed`, `purpose`).

    >>> from sltools import data, experiments
    >>> digits = data.load("digits").test
    >>> moved = experiments.redrawn(digits, 0, "private")
    >>> moved.images.shape == digits.images.shape, bool((moved.images[0] == digits.images).any())
    (True, True)
    """
    draws = seeds.generator(seed, purpose)
    split = split[torch.randperm(len(split), generator=draws)]
    angle = (torch.rand(len(split), generator=draws) - 0.5) * math.pi / 6
    move = (torch.rand(len(split), 2, generator=draws) - 0.5) * 0.3
    rows = [(angle.cos(), -angle.sin(), move[:, 0]), (angle.sin(), angle.cos(), move[:, 1])]
    turn = torch.stack([torch.stack(row, 1) for row in rows], 1)
    grid = affine_grid(turn, list(split.images.shape), align_corners=False)
    turned = grid_sample(split.images, grid, align_corners=False)
    return data.Split(turned.clamp(0, 1), split.labels)
