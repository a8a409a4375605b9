"""What makes a surrogate's smashed data look like the client's: a kernel distance and two critics.

Nobody knows which of the client's activations belongs to which of the attacker's images, so only
the two distributions can be compared. With labels they are compared class by class.
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, one_hot
from torch.optim import Adam

from sltools import seeds
from sltools.attacks import networks

BANDWIDTHS = tuple(2.0**k for k in range(-3, 2))  # of the mean squared distance; FORA: twice
CERTAIN = 0.9  # what a discriminator is told of real samples, so that it never gets sure


class Samples(NamedTuple):
    """Made samples (N, ...) and real ones (M, ...), with labels (N,) and (M,) where known."""

    made: Tensor
    real: Tensor
    made_labels: Tensor | None = None
    real_labels: Tensor | None = None


def mk_mmd(samples: Samples) -> Tensor:
    """Squared maximum mean discrepancy of made and real samples, with five kernels: a number.

    Gaussian kernels whose bandwidths are 1/8 to 2 times the mean squared distance (Gretton et al.
    2012; FORA, arXiv 2405.04115). 0 for two equal samples, above 0 for others. Where both labels
    are known, only samples of one class are compared.

    >>> import torch
    >>> from sltools.attacks.alignment import Samples, mk_mmd
    >>> one = torch.rand(64, 8, generator=torch.Generator().manual_seed(0))
    >>> mk_mmd(Samples(one, one)).item() < 1e-6, mk_mmd(Samples(one, one + 1)).item() > 0.5
    (True, True)
    """
    both = torch.cat([samples.made, samples.real]).flatten(1)
    norms = both.square().sum(1)
    distances = (norms[:, None] + norms[None] - 2 * both @ both.T).clamp_min(0)
    compared = torch.ones_like(distances)
    if samples.made_labels is not None and samples.real_labels is not None:
        labels = torch.cat([samples.made_labels, samples.real_labels])
        compared = (labels[:, None] == labels[None]).to(distances)
    weights = compared / compared.mean()
    scale = (weights * distances.detach()).mean().clamp_min(torch.finfo(distances.dtype).tiny)
    kernels = torch.stack([torch.exp(-distances / (width * scale)) for width in BANDWIDTHS])
    kernel, count = weights * kernels.sum(0), len(samples.made)
    across = kernel[:count, count:].mean()
    return kernel[:count, :count].mean() + kernel[count:, count:].mean() - 2 * across


class Critic(Protocol):
    """A network that learns to tell made samples from real ones, and so how to make them alike."""

    def to(self, device: torch.device) -> None:
        """Move to `device`, before the first step."""

    def loss(self, samples: Samples) -> Tensor:
        """The less, the more it takes made samples for real: a number. Its weights get no part."""

    def learn(self, samples: Samples) -> None:
        """Take one step to tell the two apart."""


class Discriminator:
    """A critic that says how likely a sample is real, given its label (SDAR, arXiv 2310.10483).

    `shape` is that of one sample; without labels, `classes` is 0. Weights come from the stream
    (`seed`, "critic").

    >>> import torch
    >>> from sltools.attacks.alignment import Discriminator, Samples
    >>> critic = Discriminator((120,), classes=10, lr=1e-3, seed=0)
    >>> labels = torch.arange(4)
    >>> samples = Samples(torch.zeros(4, 120), torch.ones(4, 120), labels, labels)
    >>> before = critic.loss(samples)
    >>> for _ in range(5):
    ...     critic.learn(samples)
    >>> bool(critic.loss(samples) > before)  # it is surer that they are made
    True
    """

    def __init__(self, shape: Sequence[int], *, classes: int, lr: float, seed: int) -> None:
        self._classes = classes
        self._network = networks.critic((shape[0] + classes, *shape[1:]), seed=seed)
        self._optimizer = Adam(self._network.parameters(), lr, (0.5, 0.999))

    def to(self, device: torch.device) -> None:
        """Move to `device`, before the first step."""
        self._network.to(device)

    def loss(self, samples: Samples) -> Tensor:
        """Cross-entropy of taking made samples for real."""
        self._network.requires_grad_(False)
        logits = self._logits(samples.made, samples.made_labels)
        return binary_cross_entropy_with_logits(logits, torch.ones_like(logits))

    def learn(self, samples: Samples) -> None:
        """Take one step to tell the two apart."""
        self._network.requires_grad_(True)
        real = self._logits(samples.real.detach(), samples.real_labels)
        made = self._logits(samples.made.detach(), samples.made_labels)
        loss = binary_cross_entropy_with_logits(real, torch.full_like(real, CERTAIN))
        loss = loss + binary_cross_entropy_with_logits(made, torch.zeros_like(made))
        self._optimizer.zero_grad()
        loss.backward()
        self._optimizer.step()

    def _logits(self, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """Scores (N, 1) of inputs (N, ...), with the labels (N,) as further channels."""
        if self._classes:
            assert labels is not None
            planes = one_hot(labels, self._classes).to(inputs)
            planes = planes.view(*planes.shape, *[1] * (inputs.ndim - 2))
            inputs = torch.cat([inputs, planes.expand(-1, -1, *inputs.shape[2:])], dim=1)
        return self._network(inputs)


class WassersteinCritic:
    """A critic without bounds or labels, with gradient penalty (FORA, arXiv 2405.04115).

    `shape` is that of one sample. Weights come from the stream (`seed`, "critic"), the mixing of
    the penalty from (`seed`, "gradient penalty").

    >>> import torch
    >>> from sltools.attacks.alignment import Samples, WassersteinCritic
    >>> critic = WassersteinCritic((120,), lr=1e-3, penalty=10.0, seed=0)
    >>> samples = Samples(torch.zeros(4, 120), torch.ones(4, 120))
    >>> before = critic.loss(samples)
    >>> critic.learn(samples)
    >>> bool(critic.loss(samples) > before)
    True
    """

    def __init__(self, shape: Sequence[int], *, lr: float, penalty: float, seed: int) -> None:
        self._network = networks.critic(shape, seed=seed)
        self._penalty = penalty
        self._mixing = seeds.generator(seed, "gradient penalty")
        self._optimizer = Adam(self._network.parameters(), lr, (0.5, 0.999))

    def to(self, device: torch.device) -> None:
        """Move to `device`, before the first step."""
        self._network.to(device)

    def loss(self, samples: Samples) -> Tensor:
        """Its mean score of made samples, which is high for what it knows as such."""
        self._network.requires_grad_(False)
        return self._network(samples.made).mean()

    def learn(self, samples: Samples) -> None:
        """Take one step to score made samples above real ones."""
        self._network.requires_grad_(True)
        made, real = samples.made.detach(), samples.real.detach()
        penalty = gradient_penalty(self._network, real, made, self._mixing)
        gap = self._network(real).mean() - self._network(made).mean()
        self._optimizer.zero_grad()
        (gap + self._penalty * penalty).backward()
        self._optimizer.step()


def gradient_penalty(
    critic: nn.Module, real: Tensor, made: Tensor, mixing: torch.Generator
) -> Tensor:
    """How far the critic's slope between `real` and `made` (N, ...) is from 1: (norm - 1)^2.

    The norm is over all features of a sample (Gulrajani et al. 2017); `mixing` draws where.
    """
    share = torch.rand((len(real), *[1] * (real.ndim - 1)), generator=mixing).to(real)
    mixed = (share * real + (1 - share) * made).requires_grad_()
    slope = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)[0]
    return (slope.flatten(1).norm(dim=1) - 1).square().mean()
