"""SplitOut: the client trains the whole network for a moment and learns what is usual."""

import copy

import torch
from sklearn.neighbors import LocalOutlierFactor
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sltools import seeds
from sltools.data import Split
from sltools.detectors.detector import Detector
from sltools.errors import DefenseError
from sltools.protocol import adam


class SplitOut(Detector):
    """Looks for gradients of the front's first layer that honest training would not make.

        SplitOut(models.mnist_net(seed=1), dataset.train)

    Before the split training starts, the client trains a copy of `net`, a whole network that begins
    with a front like its own, for one epoch on a `share` of its images in batches of `batch_size`
    (protocol.adam, cross-entropy), and keeps the gradients of the first layer's weights. To the N
    of them it fits a local outlier factor with N - 1 neighbours. A score is the share of outliers
    among the last `window` gradients; more than half of them is an alarm, `window` gradients have
    to be there first. (Erdoğan, Tekşen, Çeliktenyıldız, Küpçü, Çiçek, CANS 2024, arXiv 2302.08618;
    as published: `share` 0.01, `window` 1 or 10.) Ours: probes are passed over.

    The order of the images comes from the stream (`seed`, "SplitOut"). Raises DefenseError if the
    share makes fewer than two batches, or if a front's first layer is not that of `net`.
    """

    def __init__(
        self,
        net: nn.Sequential,
        split: Split,
        share: float = 0.01,
        window: int = 10,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__(threshold=0.5)
        self.share, self.window = share, window
        count = round(share * len(split))
        if not 0 < share <= 1 or count <= batch_size:
            raise DefenseError(
                f"the share {share} of {len(split)} images is {count}, and an outlier cannot be "
                f"told without at least two batches of {batch_size}: take a larger share, up to 1"
            )
        gradients = honest_gradients(net, split, count, batch_size, seed)
        self.gradients = len(gradients)
        self._shape = gradients[0].shape
        self._usual = LocalOutlierFactor(n_neighbors=len(gradients) - 1, novelty=True)
        self._usual.fit(torch.stack(gradients).flatten(1).numpy())
        self._outliers: list[bool] = []

    def judge(
        self, labels: Tensor, cut_gradient: Tensor, weight_gradient: Tensor, probe: bool
    ) -> float | None:
        """Ask whether the gradient is an outlier; None before `window` of them are seen."""
        if probe:
            return None
        if weight_gradient.shape != self._shape:
            raise DefenseError(
                f"the client's first layer has weights of shape {tuple(weight_gradient.shape)}, "
                f"that of SplitOut's network {tuple(self._shape)}: give it a network that begins "
                "with the client's front"
            )
        self._outliers.append(self._is_outlier(weight_gradient))
        recent = self._outliers[-self.window :]
        return sum(recent) / self.window if len(recent) == self.window else None

    def _is_outlier(self, gradient: Tensor) -> bool:
        row = gradient.flatten()[None].cpu()
        return not row.isfinite().all() or self._usual.predict(row.numpy())[0] < 0


def honest_gradients(
    net: nn.Sequential, split: Split, count: int, batch_size: int, seed: int
) -> list[Tensor]:
    """Train a copy of `net` for an epoch on `count` images of `split`; return the gradients of its
    first weights, one for each batch, on the CPU.
    """
    net = copy.deepcopy(net).cpu().train()
    first = next(net.parameters())
    optimizer = adam(net.parameters())
    order = torch.randperm(len(split), generator=seeds.generator(seed, "SplitOut"))
    gradients = []
    with seeds.scope(seed, "SplitOut training"):
        for rows in order[:count].split(batch_size):
            optimizer.zero_grad()
            cross_entropy(net(split.images[rows].cpu()), split.labels[rows].cpu()).backward()
            assert first.grad is not None
            gradients.append(first.grad.clone())
            optimizer.step()
    return gradients
