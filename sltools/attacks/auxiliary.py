"""What an attacker brings along: images of its own, with or without labels."""

from typing import Protocol

import torch
from torch import Tensor

from sltools import seeds
from sltools.attacks import networks
from sltools.errors import AttackError


class LabelledImages(Protocol):
    """What an attacker may have, such as a Split: images (N, C, H, W) and their labels (N,)."""

    @property
    def images(self) -> Tensor:
        """(N, C, H, W), float32 in [0, 1]."""

    @property
    def labels(self) -> Tensor:
        """(N,), int64; an attack that uses no labels does not look at them."""


class Auxiliary:
    """The attacker's own images, and their labels if it uses them.

    Batches are drawn from the stream (`seed`, "auxiliary order"). Raises AttackError for images or
    labels that are none, and for fewer than a batch.

    >>> import torch
    >>> from sltools import data
    >>> from sltools.attacks.auxiliary import Auxiliary
    >>> own = data.load("digits").test
    >>> known = Auxiliary(own, labelled=True, batch=64, seed=0, device=torch.device("cpu"))
    >>> known.knowledge
    ['auxiliary images (360)', 'auxiliary labels (360)']
    >>> images, labels = known.batch(4, like=torch.tensor([3, 1, 3, 9]))
    >>> labels
    tensor([3, 1, 3, 9])
    """

    def __init__(
        self,
        auxiliary: LabelledImages | None,
        *,
        labelled: bool,
        batch: int,
        seed: int,
        device: torch.device,
    ) -> None:
        self.images = _checked_images(auxiliary, batch).to(device)
        self.labels = _checked_labels(auxiliary).to(device) if labelled else None
        self.classes = 0 if self.labels is None else int(self.labels.max()) + 1
        self.knowledge = [f"auxiliary images ({len(self.images)})"]
        if self.labels is not None:
            self.knowledge.append(f"auxiliary labels ({len(self.images)})")
            self._by_class = self.labels.argsort(stable=True)
            self._counts = self.labels.bincount(minlength=self.classes)
        self._order = seeds.generator(seed, "auxiliary order")

    def batch(self, size: int, like: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Draw `size` images and their labels, with replacement.

        They have the labels `like` (size,), those of the client's batch, as far as there are such
        images (PCAT's alignment of labels, its section 4); without, they are any.
        """
        place = torch.rand(size, generator=self._order, dtype=torch.float64).to(self.images.device)
        rows = (place * len(self.images)).long()
        if self.labels is None:
            return self.images[rows], None
        if like is not None:
            known = like < self.classes
            label = like.where(known, 0)
            count = self._counts[label].where(known, 0)
            first = self._counts.cumsum(0)[label] - self._counts[label]
            aligned = (first + (place * count).long()).clamp_max(len(self.images) - 1)
            rows = torch.where(count > 0, self._by_class[aligned], rows)
        return self.images[rows], self.labels[rows]


def _checked_images(auxiliary: LabelledImages | None, batch: int) -> Tensor:
    """The images of `auxiliary`; raise AttackError if they are none or too few."""
    images = getattr(auxiliary, "images", None)
    if not isinstance(images, Tensor) or len(images) == 0:
        what = "an empty one" if isinstance(images, Tensor) else type(auxiliary).__name__
        raise AttackError(
            "this attack needs auxiliary data, images of the attacker's own: give a split, such as "
            f"dataset.test, not {what}"
        )
    networks.check_images(images, what="auxiliary images")
    if len(images) < batch:
        raise AttackError(
            f"{len(images)} auxiliary images are fewer than a batch of {batch}: give more, "
            f"or a batch of at most {len(images)}"
        )
    return images


def _checked_labels(auxiliary: LabelledImages | None) -> Tensor:
    """The labels of `auxiliary`; raise AttackError unless each image has one, of two classes."""
    labels, count = getattr(auxiliary, "labels", None), len(getattr(auxiliary, "images", ()))
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 1:
        raise AttackError(
            f"this attack needs the labels of its {count} auxiliary images, int64 of shape (N,): "
            "give a split that has them, or use FORA, which needs none"
        )
    if len(labels) != count:
        raise AttackError(
            f"there are {count} auxiliary images and {len(labels)} labels: give one label for each "
            "image, or use FORA, which needs none"
        )
    if labels.min() < 0:
        raise AttackError(
            f"auxiliary labels count the classes from 0, and the least is {labels.min()}: leave "
            "out images of unknown class, number the classes from 0, or use FORA, which needs none"
        )
    if len(labels.unique()) < 2:
        raise AttackError(
            f"all auxiliary images have the label {labels[0]}: give images of other classes as "
            "well, or use FORA, which needs no labels"
        )
    return labels
