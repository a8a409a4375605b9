"""The gradients scrutinizer: samples of one class should be pulled the same way."""

import math
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sltools.detectors.detector import Detector
from sltools.validation import defense_check


class Pairs(NamedTuple):
    """Mean and spread (standard deviation) of the similarities of one batch's pairs, 0 to 1."""

    same: float
    different: float
    same_spread: float
    different_spread: float


class Scrutinizer(Detector):
    """Compares the gradients dL/dz that samples of one label and of two labels get.

    The similarity of two samples is ½ + ½·cos of their gradients (see `similarities`). A server
    that learns the labels pulls those of one label together and the others apart, and does so
    steadily. After `warmup` batches each batch is scored by three numbers: the gap g = (s - d) /
    (s + d) between the mean similarities s of pairs of one label and d of the others; the overlap o
    of the bands mean ± standard deviation (intersection over union); and the fit error e, how far
    s and d of all batches so far stray from a parabola (root mean square, mean of both). The score
    of honesty is

        sigmoid(6·(sign(g)·|g|^0.2 · -log(9·e + exp(-3)) · -log(o + exp(-1)) - 0.7))

    and a suspicion here is 1 minus that. (Fu et al., NDSS 2023. The three numbers are those of the
    authors' code; how they combine, the constants and `warmup` are those of another group's
    implementation, for the authors' could not be read.) Ours: the mean over a `window` of batches,
    `threshold`, and that probes and batches without a pair of each sort are passed over.

    Sends nothing, so the server cannot tell that it is there. A loss without labels may pass, if it
    pulls images that look alike the same way; and as |g|^0.2 is large even for a small gap, so may
    a hijacker (see `LabelGap`). Raises DefenseError for a senseless setting.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import Hijacking, HijackingServer
    >>> from sltools.detectors import Scrutinizer
    >>> digits = data.load("digits")
    >>> def watched(make_server):
    ...     front, rest = models.cut(models.mnist_net(), "pool2")
    ...     client = protocol.Client(front, detector=Scrutinizer(warmup=5))
    ...     protocol.train(client, make_server(rest), digits.train[:960], epochs=1)
    ...     return client.detector
    >>> watched(protocol.Server)
    Scrutinizer(window=10, threshold=0.8, warmup=5): no alarm in 15 batches
    >>> attack = Hijacking(warmup_steps=20, batch=8)
    >>> watched(lambda rest: HijackingServer(rest, digits.test.images, attack))
    Scrutinizer(window=10, threshold=0.8, warmup=5): alarm at batch 14 in 15 batches
    """

    def __init__(self, warmup: int = 50, window: int = 10, threshold: float = 0.8) -> None:
        super().__init__(window, threshold)
        self.warmup = defense_check.integer("warmup", warmup, 0)
        self._history: list[Pairs] = []

    def judge(
        self, labels: Tensor, cut_gradient: Tensor, weight_gradient: Tensor, probe: bool
    ) -> float | None:
        """Compare the gradients of one batch; None before the end of the warm-up."""
        pairs = None if probe else similarities(cut_gradient, labels)
        if pairs is None:
            return None
        self._history.append(pairs)
        if len(self._history) <= self.warmup:
            return None
        return 1 - honesty(gap(pairs), overlap(pairs), fit_error(self._history))


class LabelGap(Detector):
    """Asks only for the gap between pairs of one label and of two; ours, not published.

    A suspicion is 1 minus the gap g of a batch (see `Scrutinizer`): a mean gap below 0.1 over a
    `window` of batches is an alarm. It needs no warm-up, for the gap is there before anything is
    learned. What passes the scrutinizer passes here as well. Probes are passed over, and so are
    batches without a pair of each sort. Raises DefenseError for a senseless setting.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import Hijacking, HijackingServer
    >>> from sltools.detectors import LabelGap
    >>> digits = data.load("digits")
    >>> def watched(make_server):
    ...     front, rest = models.cut(models.mnist_net(), "pool2")
    ...     client = protocol.Client(front, detector=LabelGap())
    ...     protocol.train(client, make_server(rest), digits.train[:960], epochs=1)
    ...     return client.detector
    >>> watched(protocol.Server)
    LabelGap(window=10, threshold=0.9): no alarm in 15 batches
    >>> attack = Hijacking(warmup_steps=20, batch=8)
    >>> watched(lambda rest: HijackingServer(rest, digits.test.images, attack))
    LabelGap(window=10, threshold=0.9): alarm at batch 9 in 15 batches
    """

    def __init__(self, window: int = 10, threshold: float = 0.9) -> None:
        super().__init__(window, threshold)

    def judge(
        self, labels: Tensor, cut_gradient: Tensor, weight_gradient: Tensor, probe: bool
    ) -> float | None:
        """Compare the gradients of one batch."""
        pairs = None if probe else similarities(cut_gradient, labels)
        return None if pairs is None else 1 - max(0.0, gap(pairs))


def similarities(gradients: Tensor, labels: Tensor) -> Pairs | None:
    """Compare all pairs of `gradients` (B, ...) with `labels` (B,).

    None if there is no pair of one label or none of two. A gradient of zero is at right angles to
    all others.

    >>> import torch
    >>> from sltools.detectors.scrutinizer import gap, similarities
    >>> labels = torch.tensor([0, 0, 1, 1])
    >>> honest = torch.tensor([[1.0, 0.0], [2.0, 0.0], [-1.0, 0.0], [-3.0, 0.0]])
    >>> blind = torch.ones(4, 2)
    >>> gap(similarities(honest, labels)), gap(similarities(blind, labels))
    (1.0, 0.0)
    """
    flat = gradients.flatten(1).double()
    unit = flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-300)
    above = torch.ones(len(flat), len(flat), device=flat.device).triu(1).bool()
    likeness = (0.5 + 0.5 * unit @ unit.T)[above]
    alike = (labels[:, None] == labels)[above]
    same, different = likeness[alike], likeness[~alike]
    if not len(same) or not len(different):
        return None
    means = (same.mean().item(), different.mean().item())
    return Pairs(*means, same.std(correction=0).item(), different.std(correction=0).item())


def gap(pairs: Pairs) -> float:
    """How much more alike pairs of one label are than pairs of two, -1 to 1."""
    total = pairs.same + pairs.different
    return (pairs.same - pairs.different) / total if total else 0.0


def overlap(pairs: Pairs) -> float:
    """Intersection over union of the two bands mean ± spread, 0 to 1.

    >>> from sltools.detectors.scrutinizer import Pairs, overlap
    >>> overlap(Pairs(same=0.9, different=0.5, same_spread=0.1, different_spread=0.1))
    0.0
    >>> overlap(Pairs(same=0.5, different=0.5, same_spread=0.1, different_spread=0.1))
    1.0
    """
    bands = (
        (pairs.same - pairs.same_spread, pairs.same + pairs.same_spread),
        (pairs.different - pairs.different_spread, pairs.different + pairs.different_spread),
    )
    (low, inner_low), (inner_high, high) = (sorted(ends) for ends in zip(*bands, strict=True))
    return max(0.0, inner_high - inner_low) / (high - low) if high > low else 1.0


def fit_error(history: list[Pairs]) -> float:
    """How far the mean similarities of the batches of `history` stray from a parabola, in rms."""
    series = np.array([(pairs.same, pairs.different) for pairs in history])
    if not np.isfinite(series).all():
        return math.nan
    times = np.linspace(-1, 1, len(series))
    powers = np.vander(times, 3)
    weights = np.linalg.lstsq(powers, series, rcond=None)[0]
    return float(np.sqrt(np.square(series - powers @ weights).mean(0)).mean())


def honesty(gap: float, overlap: float, error: float) -> float:
    """Combine the three numbers into the score of an honest server, 0 to 1 (see `Scrutinizer`)."""
    steady = -math.log(9 * error + math.exp(-3))
    apart = -math.log(overlap + math.exp(-1))
    value = math.copysign(abs(gap) ** 0.2, gap) * steady * apart
    return 1 / (1 + math.exp(-6 * (value - 0.7)))
