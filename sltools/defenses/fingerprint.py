"""A fingerprint of a network: images by whose answers its owner recognises a copy."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot, relu
from torch.optim import Adam

from sltools import devices, seeds
from sltools.data import Split, expect
from sltools.errors import DefenseError
from sltools.validation import defense_check


@dataclass(frozen=True)
class Fingerprint:
    """Images near the border between two classes, with what the owner's network answers to them.

    `points` images are drawn and changed for `steps` steps of Adam at `lr`, within [0, 1], until
    the network's logit of another class, drawn by chance, is `margin` above that of the class it
    named before, and both are above all others (IPGuard: Cao, Jia and Gong, AsiaCCS 2021, section
    4). A network that answers most of them alike is taken for a copy: the matching rate is
    `metrics.accuracy(suspect, fingerprint)`. Put it beside that of a network that nobody stole.

    Nothing is done to the client or its messages, and the accuracy stays as it is. It takes the
    gradients of the whole network, so the one who makes it has both parts of it; Lin et al.
    (arXiv 2503.04825) make theirs from adversarial examples within the training instead.

    Images and classes come from the stream (`seed`, "fingerprint"). Raises DefenseError for a
    senseless setting, for a network without two classes and for fewer images than points.

    >>> from torch import nn
    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.defenses import Fingerprint
    >>> digits = data.load("digits")
    >>> owned, other = models.mnist_net(seed=0), models.mnist_net(seed=1)
    >>> for net in (owned, other):
    ...     _ = protocol.train(*models.cut(net, "pool1"), digits.train, epochs=3)
    >>> points = Fingerprint(points=20)(owned, digits.train)
    >>> metrics.accuracy(owned, points), metrics.accuracy(other, points) < 0.9
    (1.0, True)
    """

    promises: ClassVar[str] = "its owner recognises a copy of the whole network by its answers"
    leaves: ClassVar[str] = (
        "prevents no theft; says little of a copy that was changed enough, and of one that shares "
        "the server's layers honestly"
    )

    points: int = 50
    margin: float = 1.0
    steps: int = 200
    lr: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("points", "steps"):
            defense_check.integer(name, getattr(self, name))
        defense_check.non_negative("margin", self.margin)
        defense_check.positive("lr", self.lr)
        defense_check.seed(self.seed)

    def __call__(self, network: nn.Module, split: Split) -> Split:
        """The fingerprint of `network` (images to logits), made from images of `split`."""
        split = expect(Split, split)
        if len(split) < self.points:
            raise DefenseError(
                f"{self.points} points are made from as many images, and there are {len(split)}: "
                "give more images, or ask for fewer points"
            )
        draw = seeds.generator(self.seed, "fingerprint")
        chosen = torch.randperm(len(split), generator=draw)[: self.points]
        images = split.images[chosen].to(devices.of(network))
        modes = {part: part.training for part in network.modules()}
        network.eval()
        try:
            named = _answers(network, images)
            classes = named.shape[1]
            first = named.argmax(1)
            other = torch.randint(1, classes, (self.points,), generator=draw).to(first)
            pixels = self._moved(network, images, first, (first + other) % classes)
            return Split(pixels.cpu(), _answers(network, pixels).argmax(1).cpu())
        finally:
            for part, training in modes.items():
                part.training = training

    def _moved(self, network: nn.Module, images: Tensor, first: Tensor, other: Tensor) -> Tensor:
        """Move images (N, C, H, W) over the border from the class `first` (N,) to `other`."""
        pixels = images.clone().requires_grad_()
        optimizer = Adam([pixels], self.lr)
        for _ in range(self.steps):
            logits = network(pixels.clone())  # its first layer may work in place
            from_first, to_other = (logits.gather(1, at[:, None])[:, 0] for at in (first, other))
            pair = one_hot(first, logits.shape[1]) + one_hot(other, logits.shape[1])
            rest = logits.masked_fill(pair.bool(), -torch.inf).amax(1)
            loss = relu(from_first - to_other + self.margin) + relu(rest - from_first)
            (pixels.grad,) = torch.autograd.grad(loss.sum(), pixels)
            before = pixels.detach().clone()
            optimizer.step()
            with torch.no_grad():  # who has arrived stays, or momentum would carry it on
                there = (loss == 0).view(-1, 1, 1, 1)
                pixels.copy_(torch.where(there, before, pixels.clamp(0, 1)))
        return pixels.detach()


def _answers(network: nn.Module, images: Tensor) -> Tensor:
    """Logits (N, K) of images (N, C, H, W); raise DefenseError unless they are of two classes."""
    try:
        with torch.no_grad():
            logits: Tensor = network(images.clone())
    except RuntimeError as error:
        raise DefenseError(f"the images do not fit the network: {error}") from None
    if logits.ndim != 2 or logits.shape[1] < 2 or not logits.isfinite().all():
        raise DefenseError(
            f"a fingerprint needs finite logits of two classes at least, and the network answers "
            f"{tuple(logits.shape)}: give front and rest together, trained"
        )
    return logits
