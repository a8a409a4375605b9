"""SplitOut: the client trains the whole network for a moment and learns what is usual."""

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from sltools import seeds
from sltools.data import Split
from sltools.detectors.detector import Detector
from sltools.errors import DefenseError
from sltools.protocol import adam
from sltools.validation import defense_check


class SplitOut(Detector):
    """Looks for gradients of the front's first layer that honest training would not make.

        SplitOut(models.mnist_net(seed=1), dataset.train)

    Before the split training starts, the client trains a copy of `net`, a whole network that begins
    with a front like its own, for `epochs` on a `share` of its images in batches of `batch_size`
    (protocol.adam, cross-entropy), and keeps the gradients of the first layer's weights. To the N
    of them it fits a local outlier factor with N - 1 neighbours. A suspicion is 1 for an outlier
    and 0 for others; more than half of the last `window` gradients are an alarm. (Erdoğan, Tekşen,
    Çeliktenyıldız, Küpçü, Çiçek, CANS 2024, arXiv 2302.08618.)

    As published, `share` is 0.01, `epochs` 1 and `window` 1 or 10. That makes ten gradients of all
    of MNIST, and fewer of a smaller set, all from before the network learns anything: then honest
    gradients are outliers too. Take as many epochs as make fifty. `gradients` says how many there
    are. Ours: `epochs`, and that probes are passed over. What it notices first is the size of the
    gradients, which a client with Adam ignores.

    The choice and order of the images come from the stream (`seed`, "SplitOut"). Raises
    DefenseError if there are fewer than two batches, or if a front's first layer is not that of
    `net`.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import Hijacking, HijackingServer
    >>> from sltools.detectors import SplitOut
    >>> digits = data.load("digits")
    >>> def watched(make_server):
    ...     detector = SplitOut(models.mnist_net(seed=1), digits.train, share=0.25, epochs=5)
    ...     front, rest = models.cut(models.mnist_net(), "pool2")
    ...     client = protocol.Client(front, detector=detector)
    ...     protocol.train(client, make_server(rest), digits.train[:960], epochs=1)
    ...     return client.detector
    >>> honest = watched(protocol.Server)
    >>> honest.gradients, len(honest.scores), honest.raised_at
    (30, 6, None)
    >>> attack = Hijacking(warmup_steps=20, batch=8)
    >>> hijacked = watched(lambda rest: HijackingServer(rest, digits.test.images, attack))
    >>> hijacked.raised_at is None
    False
    """

    def __init__(
        self,
        net: nn.Sequential,
        split: Split,
        share: float = 0.1,
        epochs: int = 1,
        window: int = 10,
        batch_size: int = 64,
        seed: int = 0,
    ) -> None:
        from sklearn.neighbors import LocalOutlierFactor  # slow to import, and only needed here

        super().__init__(window, threshold=0.5)
        if defense_check.positive("share", share) > 1:
            raise DefenseError(f"a share of the images is above 0 and at most 1, not {share!r}")
        self.share, self.epochs = share, defense_check.integer("epochs", epochs)
        defense_check.integer("batch_size", batch_size)
        defense_check.seed(seed)
        gradients = honest_gradients(net, split, share, epochs, batch_size, seed)
        self.gradients = len(gradients)
        if self.gradients < 2:
            raise DefenseError(
                f"{epochs} epochs on a share {share} of {len(split)} images are {len(gradients)} "
                f"batches of {batch_size}, and an outlier cannot be told without two: take more"
            )
        self._shape = gradients[0].shape
        self._outlier_factor = LocalOutlierFactor(n_neighbors=len(gradients) - 1, novelty=True)
        self._outlier_factor.fit(torch.stack(gradients).flatten(1).numpy())

    def judge(
        self, labels: Tensor, cut_gradient: Tensor, weight_gradient: Tensor, probe: bool
    ) -> float | None:
        """Ask whether the gradient is an outlier."""
        if probe:
            return None
        if weight_gradient.shape != self._shape:
            raise DefenseError(
                f"the client's first layer has weights of shape {tuple(weight_gradient.shape)}, "
                f"that of SplitOut's network {tuple(self._shape)}: give it a network that begins "
                "with the client's front"
            )
        return float(self._is_outlier(weight_gradient))

    def _is_outlier(self, gradient: Tensor) -> bool:
        row = gradient.flatten()[None].cpu()
        return not row.isfinite().all() or self._outlier_factor.predict(row.numpy())[0] < 0


def honest_gradients(
    net: nn.Sequential, split: Split, share: float, epochs: int, batch_size: int, seed: int
) -> list[Tensor]:
    """Train a copy of `net` on a `share` of `split`, 0 to 1, for `epochs`.

    Return the gradients of its first weights, one for each batch, on the CPU.
    """
    net = copy.deepcopy(net).cpu().train()
    first = next(net.parameters())
    optimizer = adam(net.parameters())
    order = seeds.generator(seed, "SplitOut")
    chosen = torch.randperm(len(split), generator=order)[: round(share * len(split))]
    gradients = []
    with seeds.scope(seed, "SplitOut training"):
        for _ in range(epochs):
            for rows in chosen[torch.randperm(len(chosen), generator=order)].split(batch_size):
                optimizer.zero_grad()
                images, labels = split.images[rows].cpu(), split.labels[rows].cpu()
                cross_entropy(net(images), labels).backward()
                assert first.grad is not None
                gradients.append(first.grad.clone())
                optimizer.step()
    return gradients
