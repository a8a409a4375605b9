"""Adversarial examples by a server that holds the rest of a network and a copy of its front."""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sltools import seeds
from sltools.attacks import networks
from sltools.attacks.inversion import as_targets
from sltools.attacks.result import Provenance
from sltools.errors import AttackError
from sltools.interrupts import keep_partial
from sltools.progress import bar
from sltools.validation import attack_check
from sltools.view import View, as_server

AIMS = ("class", "intermediate", "smashed")
STEP = 2.5  # of epsilon, over all steps together: every corner of the bounds can be reached


@dataclass(eq=False)
class AdversarialResult(Provenance):
    """Changed images, or changed smashed data, (N, ...), on the attack's device.

    `noise` (N, ...) is the baseline: the same samples, each value at one end of the same bounds,
    drawn from the stream (`seed`, "noise").

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import SLADV
    >>> images = data.load("digits").test.images[:3]
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, data.load("digits").train[:64], epochs=1)
    >>> found = SLADV("class", epsilon=0.25)(session.observe(images, ["client_model"]), images)
    >>> [round(float((made - images).abs().max()), 2) for made in (found.examples, found.noise)]
    [0.25, 0.25]
    """

    examples: Tensor
    noise: Tensor


@dataclass(frozen=True)
class SLADV:
    """Adversarial examples for a split network, made by its server (Fan et al., arXiv 2307.07916).

    The server lacks the client's layers and puts a `front` of its own in their place: a surrogate
    (`PCAT(...)(view, own).clone`), UnSplit's clone, or the client's own, if granted: a bound. Then
    it climbs by projected gradient ascent (PGD), from a random start, within `epsilon` of each
    value. Three aims:

    "class": images of the server's choice are changed until front and rest answer otherwise. Where
    the client keeps its head, with a `head` of the server's own in its place (PCAT finds one), or
    without, by moving the features away from where they were. "intermediate": they are changed
    until the front's smashed data are far from what they were; that takes neither the rest nor
    labels, as in the paper, of which we know the abstract. "smashed": no image is changed, but the
    data of `view` on their way into the server's own layers, within `epsilon` of their standard
    deviations and the range of all of them; no front is needed.

    No label is used: what the network answers to the unchanged sample stands for it. The random
    start comes from the stream (`seed`, "random start"). Raises AttackError for a senseless setting
    and for images or networks that do not fit.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import SLADV
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, digits.train, epochs=3)
    >>> some = digits.test[:50]
    >>> view = session.observe(some.images, grants=["client_model"])
    >>> found = SLADV(epsilon=0.2)(view, some.images)
    >>> found.knowledge
    ('client model (granted)', 'own model', 'images (50)')
    >>> hit, missed = (data.Split(made, some.labels) for made in (found.examples, found.noise))
    >>> session.accuracy(hit) < 0.2 < 0.7 < session.accuracy(missed)
    True
    """

    aim: str = "class"
    epsilon: float = 0.1
    steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        if self.aim not in AIMS:
            raise AttackError(f"aim is one of {AIMS}, not {self.aim!r}")
        attack_check.positive("epsilon", self.epsilon)
        attack_check.integer("steps", self.steps)
        attack_check.seed(self.seed)

    def __call__(
        self,
        view: View,
        images: Tensor | None = None,
        *,
        front: nn.Module | None = None,
        head: nn.Module | None = None,
    ) -> AdversarialResult:
        """Change `images` (N, C, H, W), in [0, 1], or with the aim "smashed" what `view` shows.

        `front` and `head` stand for the client's parts. Ctrl-C returns the partial result, marked
        `interrupted`. NotObservable without a `front` or its grant.
        """
        view, start = as_server(view), time.perf_counter()
        private = "features" in view.kinds
        if head is not None and (not private or self.aim == "intermediate"):
            raise AttackError(
                "a head stands for the one that a label-private client keeps, beside the server's "
                "own layers: leave it out here"
            )
        clean, bounds = self._start(view, images)
        layers = self._layers(view, front, head)
        network = nn.Sequential(*(copy.deepcopy(part) for part in layers)).to(clean.device)
        network.eval().requires_grad_(False)
        classes = self.aim != "intermediate" and (not private or head is not None)
        examples, interrupted = self._climb(_loss(network, clean, classes), bounds)
        extra = [f"images ({len(clean)})"] if self.aim != "smashed" else []
        extra += ["surrogate of the client"] if front is not None else []
        extra += ["surrogate of the head"] if head is not None else []
        return AdversarialResult(
            examples,
            bounds.corner(seeds.generator(self.seed, "noise")),
            attack=type(self).__name__,
            settings=asdict(self),
            knowledge=(*view.knowledge, *extra),
            seed=self.seed,
            device=str(clean.device),
            seconds=time.perf_counter() - start,
            interrupted=interrupted,
        )

    def _start(self, view: View, images: Tensor | None) -> tuple[Tensor, "Bounds"]:
        """What is to be changed, and how far."""
        if self.aim == "smashed":
            if images is not None:
                raise AttackError('the aim "smashed" changes what the view shows: give no images')
            smashed = view.smashed
            networks.check_smashed(smashed)
            smashed = as_targets(smashed)
            reach = self.epsilon * smashed.std(correction=0).item()
            return smashed, Bounds.around(
                smashed, reach, smashed.min().item(), smashed.max().item()
            )
        networks.check_images(images, what="images")  # type: ignore[arg-type]  # None is refused
        assert images is not None
        return images, Bounds.around(images, self.epsilon, 0.0, 1.0)

    def _layers(
        self, view: View, front: nn.Module | None, head: nn.Module | None
    ) -> list[nn.Module]:
        """The layers from what is changed to what is looked at."""
        if self.aim == "smashed":
            if front is not None:
                raise AttackError('the aim "smashed" begins at the cut: give no front')
            return [view.model, *([] if head is None else [head])]
        front = view.client_model if front is None else front
        if self.aim == "intermediate":
            return [front]
        return [front, view.model, *([] if head is None else [head])]

    def _climb(
        self, loss: Callable[[Tensor, slice], Tensor], bounds: "Bounds"
    ) -> tuple[Tensor, bool]:
        """Raise the loss within the bounds; return what was reached, and if Ctrl-C ended it."""
        draw = seeds.generator(self.seed, "random start")
        share = torch.rand(bounds.low.shape, generator=draw).to(bounds.low)
        changed = bounds.low + share * (bounds.high - bounds.low)
        pace = STEP / self.steps * bounds.reach
        with keep_partial() as work:
            for _ in bar(range(self.steps), type(self).__name__):
                for first in range(0, len(changed), networks.CHUNK):
                    rows = slice(first, first + networks.CHUNK)
                    here = changed[rows].clone().requires_grad_()
                    slope = torch.autograd.grad(loss(here, rows), here)[0]
                    changed[rows] = bounds.nearest(changed[rows] + pace * slope.sign(), rows)
        return changed, work.interrupted


class Bounds(NamedTuple):
    """Least and greatest values (N, ...) that are allowed, at most `reach` from a sample's own.

    >>> import torch
    >>> from sltools.attacks.adversarial import Bounds
    >>> bounds = Bounds.around(torch.tensor([[0.0, 0.5]]), 0.25, 0.0, 1.0)
    >>> bounds.low, bounds.high
    (tensor([[0.0000, 0.2500]]), tensor([[0.2500, 0.7500]]))
    """

    low: Tensor
    high: Tensor
    reach: float

    @classmethod
    def around(cls, clean: Tensor, reach: float, least: float, most: float) -> "Bounds":
        """Within `reach` of `clean` (N, ...), and from `least` to `most`."""
        return cls((clean - reach).clamp_min(least), (clean + reach).clamp_max(most), reach)

    def nearest(self, changed: Tensor, rows: slice) -> Tensor:
        """What is allowed and nearest to `changed`, which are the samples `rows`."""
        return changed.clamp(self.low[rows], self.high[rows])

    def corner(self, draw: torch.Generator) -> Tensor:
        """Each value at one of its two ends, by chance."""
        upper = torch.rand(self.low.shape, generator=draw).to(self.low) < 0.5
        return torch.where(upper, self.high, self.low)


def _loss(network: nn.Module, clean: Tensor, classes: bool) -> Callable[[Tensor, slice], Tensor]:
    """How far what `network` makes of changed samples is from what it makes of the `clean` ones.

    With `classes` its outputs are logits. Raises AttackError if the samples do not fit.
    """
    try:
        usual = networks.in_chunks(network, clean.clone())
    except RuntimeError as error:
        raise AttackError(
            f"the samples do not fit front, rest and head: {error}. Give images of the client's "
            "size, and parts of this cut"
        ) from None

    def loss(changed: Tensor, rows: slice) -> Tensor:
        made = network(changed.clone())  # its first layer may work in place
        if classes:
            return cross_entropy(made, usual[rows].argmax(1), reduction="sum")
        return (made - usual[rows]).square().sum()

    return loss
