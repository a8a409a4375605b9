"""Defences of the labels that hide in returned gradients dL/du, of a label-private client.

With two classes of which one is rare, dL/du = (p - y)·w is long for the rare class and short for
the other, and points the other way (Li et al., ICLR 2022, arXiv 2102.08504).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from sltools import seeds
from sltools.defenses.outgoing import Outgoing
from sltools.validation import defense_check


class MaxNorm(Outgoing):
    """Stretches each gradient by a random factor, until all are as long as the longest on average.

    g becomes g·(1 + η) with η normal of variance |g_max|² / |g|² - 1: noise along g alone. The
    longest are hardly changed and so stay near the common root mean square, about which the others
    scatter: `attacks.leaks.near_rms` scores that. (Li et al., ICLR 2022, section 4.1.) Nothing is
    to be set but the `seed` of the noise.

    >>> import torch
    >>> from sltools import metrics
    >>> from sltools.defenses import MaxNorm
    >>> positive = torch.arange(1000) % 10 == 0  # a rare class, with long gradients
    >>> gradients = torch.where(positive, 1.0, 0.1)[:, None] * torch.ones(1000, 4)
    >>> sent = MaxNorm()("feature_gradient", gradients)
    >>> before, after = (metrics.leak_auc(g.norm(dim=1), positive) for g in (gradients, sent))
    >>> f"AUC of the norm: {before:.1f} before, {after:.1f} after"
    'AUC of the norm: 1.0 before, 0.7 after'
    >>> squares = sent.square().sum(1)
    >>> f"{squares[~positive].mean() / squares[positive].mean():.1f}"
    '1.0'
    """

    kind: ClassVar[str] = "feature_gradient"
    promises = "the squared norms of all gradients of a batch are equal on average"
    leaves = (
        "each gradient's line; which were long, as their norms scatter least: both tell classes"
    )

    def change(self, tensor: Tensor) -> Tensor:
        """Return the gradients `tensor` (B, D), stretched; zeros stay zeros."""
        norms = tensor.flatten(1).norm(dim=1)
        ratio = torch.where(norms > 0, norms.max() / norms, 1.0)
        deviation = (ratio.square() - 1).clamp_min(0).sqrt()
        noise = torch.randn(len(tensor), generator=self._generator).to(tensor)
        return tensor * (1 + deviation * noise).view(-1, *[1] * (tensor.ndim - 1))


@dataclass(frozen=True)
class NoisePlan:
    """Variances of Marvell's noise for the class 0 and for the class 1.

    `along` those in the direction in which the class means differ, `across` those in each other
    direction; `divergence` is the sum of both Kullback-Leibler divergences that remains.

    >>> from sltools.defenses.gradients import NoisePlan
    >>> plan = NoisePlan(along=(2.0, 1.0), across=(0.5, 0.0), divergence=0.25)
    >>> round(plan.auc_bound, 3)
    0.719
    """

    along: tuple[float, float]
    across: tuple[float, float]
    divergence: float

    @property
    def auc_bound(self) -> float:
        """No test can have a greater leak AUC: ½ + √ε/2 - ε/8 for a divergence ε < 4, else 1."""
        epsilon = self.divergence
        return 0.5 + math.sqrt(epsilon) / 2 - epsilon / 8 if epsilon < 4 else 1.0


def plan_noise(
    gap: float, spreads: tuple[float, float], dimension: int, share: float, power: float
) -> NoisePlan:
    """Find the noise of mean power `power` that makes two classes of gradients most alike.

    The gradients of class i are taken to be normal with variance `spreads`[i] in each of
    `dimension` directions; the squared distance of the class means is `gap` and class 1 has the
    `share` of all samples. Minimises KL(0|1) + KL(1|0), where noise may differ along and across the
    line of the means (Li et al., theorem 2: a problem in four variances). Two of them follow: noise
    across only levels the spreads, so the class of larger spread gets none; and all of the power is
    used. The other two are found by nested searches of a line.

    >>> from sltools.defenses.gradients import plan_noise
    >>> small, large = (
    ...     plan_noise(gap=1.0, spreads=(0.1, 0.1), dimension=8, share=0.1, power=power)
    ...     for power in (1.0, 10.0)
    ... )
    >>> f"AUC at most {small.auc_bound:.1f} and {large.auc_bound:.1f}"
    'AUC at most 0.9 and 0.6'
    """
    weights = (1 - share, share)
    rest, low = dimension - 1, 0 if spreads[0] <= spreads[1] else 1
    level = abs(spreads[0] - spreads[1])

    def best_given(across_low: float) -> NoisePlan:
        across = (across_low, 0.0) if low == 0 else (0.0, across_low)
        # Noise along the line is at least that across it; what is over is shared out.
        left = max(power - weights[low] * dimension * across_low, 0.0)

        def plan(part: float) -> NoisePlan:
            along = (
                across[0] + part * left / weights[0],
                across[1] + (1 - part) * left / weights[1],
            )
            return NoisePlan(along, across, _divergence(gap, spreads, rest, along, across))

        return plan(_minimum(lambda part: plan(part).divergence, 1.0))

    most = min(level, power / (weights[low] * dimension)) if rest else 0.0
    return best_given(_minimum(lambda across: best_given(across).divergence, most))


def _minimum(function: Callable[[float], float], highest: float) -> float:
    """Where in [0, highest] the convex `function` is least."""
    from scipy.optimize import minimize_scalar  # slow to import, and only needed here

    inside = minimize_scalar(function, bounds=(0, highest), method="bounded") if highest else None
    ends = [0.0, highest]
    return min(ends if inside is None else [*ends, float(inside.x)], key=function)


def _divergence(
    gap: float,
    spreads: tuple[float, float],
    rest: int,
    along: tuple[float, float],
    across: tuple[float, float],
) -> float:
    """KL(0|1) + KL(1|0) of two normal distributions with these variances."""
    a0, a1 = (spread + noise for spread, noise in zip(spreads, along, strict=True))
    c0, c1 = (spread + noise for spread, noise in zip(spreads, across, strict=True))
    if min(a0, a1) <= 0 or (rest and c0 != c1 and min(c0, c1) <= 0):
        return math.inf
    line = (a0 + gap) / a1 + (a1 + gap) / a0 - 2
    return (line + (rest * (c0 / c1 + c1 / c0 - 2) if rest and c0 != c1 else 0.0)) / 2


class Marvell:
    """Noise that makes the gradients of one class look like those of all others.

        Client(front, head, returning=Marvell(strength=4.0, positive_class=3))

    For each batch it finds the noise that minimises the divergence of the two classes of gradients
    (see `plan_noise`) at a mean power of `strength` times the squared distance of their means.
    (Li et al., ICLR 2022, section 4.2, for two classes; for more, one class against the rest.)
    `plan` is that of the last batch with both classes. Ours: a batch without one of them gets the
    noise planned before; before there is a plan, zeros are sent and the server learns nothing. That
    is all that batches of one ever get. Raises DefenseError unless `strength` is a finite number
    above 0 and `positive_class` a whole number of at least 0.

    >>> import torch
    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import GradientLeak
    >>> from sltools.defenses import Marvell
    >>> some = data.load("digits").train[:640]
    >>> rare = data.Split(some.images, (some.labels == 3).long())
    >>> def leak(**defense):
    ...     front, middle, head = models.cut(models.mnist_net(), ("pool1", "relu4"))
    ...     client = protocol.Client(front, head, **defense)
    ...     server = protocol.Server(middle, label_private=True)
    ...     session = protocol.train(client, server, rare, epochs=1, record=True)
    ...     pages = session.transcript.client_log.values()
    ...     truth = torch.cat([page["labels"] for page in pages])
    ...     scores = GradientLeak()(session.transcript.view("server")).scores
    ...     return metrics.leak_auc(scores, truth == 1)
    >>> defense = Marvell(strength=4.0)
    >>> f"AUC {leak():.1f} without it"
    'AUC 1.0 without it'
    >>> leak(returning=defense) < defense.plan.auc_bound < 0.75
    True
    """

    promises = "a bound on the leak AUC of any attack, as far as the gradients are normal"
    leaves = "the other classes, if there are more than two; and accuracy, for the noise is learned"

    def __init__(self, strength: float, positive_class: int = 1, seed: int = 0) -> None:
        self.strength = defense_check.positive("strength", strength)
        self.positive_class = defense_check.integer("positive_class", positive_class, 0)
        self.plan: NoisePlan | None = None
        self._line: Tensor | None = None
        self._generator = seeds.generator(defense_check.seed(seed), type(self).__name__)

    def __call__(self, gradient: Tensor, labels: Tensor) -> Tensor:
        """Return the gradients dL/du (B, D) of samples with `labels` (B,), plus noise."""
        flat, chosen = gradient.flatten(1).double().cpu(), (labels == self.positive_class).cpu()
        if chosen.any() and not chosen.all():
            self._line, self.plan = self._make_plan(flat, chosen)
        if self.plan is None or self._line is None:
            return torch.zeros_like(gradient)
        noise = torch.randn(flat.shape, generator=self._generator).double()
        more = torch.randn(len(flat), generator=self._generator).double()
        along, across = (
            torch.tensor(values, dtype=torch.float64)[chosen.long()]
            for values in (self.plan.along, self.plan.across)
        )
        noise = across.sqrt()[:, None] * noise
        noise += ((along - across).clamp_min(0).sqrt() * more)[:, None] * self._line
        return gradient + noise.to(gradient).view_as(gradient)

    def _make_plan(self, flat: Tensor, chosen: Tensor) -> tuple[Tensor, NoisePlan]:
        """The direction in which the class means differ, and the noise for this batch."""
        others, ours = flat[~chosen], flat[chosen]
        difference = ours.mean(0) - others.mean(0)
        gap = difference.square().sum().item()
        spreads = tuple(
            (part - part.mean(0)).square().sum(1).mean().item() / flat.shape[1]
            for part in (others, ours)
        )
        share = chosen.double().mean().item()
        plan = plan_noise(gap, (spreads[0], spreads[1]), flat.shape[1], share, self.strength * gap)
        return difference / difference.norm().clamp_min(1e-300), plan

    def __repr__(self) -> str:
        return f"Marvell(strength={self.strength!r}, positive_class={self.positive_class!r})"
