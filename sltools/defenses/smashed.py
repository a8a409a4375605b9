"""Defences on the smashed data: noise, local differential privacy, and saying less."""

import math

import torch
from torch import Tensor

from sltools.defenses import accounting
from sltools.defenses.outgoing import Outgoing
from sltools.errors import DefenseError
from sltools.validation import defense_check


class GaussianNoise(Outgoing):
    """Adds noise of standard deviation `scale`, in units of the activations, to the smashed data.

    (The extension that UnSplit, section 5, is tested against.) Raises DefenseError unless `scale`
    is a finite number above 0.

    >>> from sltools import data, models, protocol
    >>> from sltools.defenses import GaussianNoise
    >>> images = data.load("digits").train[:64]
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> client = protocol.Client(front, outgoing=GaussianNoise(0.5))
    >>> session = protocol.train(client, rest, images, epochs=1)
    >>> same = images.images[:1].expand(100, 1, 28, 28)  # one image, sent a hundred times
    >>> noise = session.observe(same).smashed - front(same).detach()
    >>> f"{noise.std():.1f} in each message, {noise.mean(0).std():.2f} in their mean"
    '0.5 in each message, 0.05 in their mean'
    """

    promises = "nothing that is stated: no bound on the activations is set to measure the noise by"
    leaves = "the same image sent n times: the mean of n messages has noise of scale / sqrt(n)"

    def __init__(self, scale: float, seed: int = 0) -> None:
        super().__init__(seed)
        self.scale = defense_check.positive("scale", scale)

    def change(self, tensor: Tensor) -> Tensor:
        """Return `tensor` plus noise."""
        noise = torch.randn(tensor.shape, generator=self._generator)
        return tensor + self.scale * noise.to(tensor)


class LaplaceNoise(Outgoing):
    """Adds Laplace noise of `scale` b (standard deviation b·sqrt(2)), as Titcombe et al. do.

    (arXiv 2104.05743; they add it to z, without a bound on z.) Raises DefenseError unless `scale`
    is a finite number above 0.

    >>> import torch
    >>> from sltools.defenses import LaplaceNoise
    >>> defense = LaplaceNoise(scale=0.5)
    >>> sent = defense("smashed", torch.zeros(100, 8, 12, 12))
    >>> f"standard deviation {sent.std():.1f}, mean size {sent.abs().mean():.1f}"
    'standard deviation 0.7, mean size 0.5'
    """

    promises = GaussianNoise.promises
    leaves = GaussianNoise.leaves

    def __init__(self, scale: float, seed: int = 0) -> None:
        super().__init__(seed)
        self.scale = defense_check.positive("scale", scale)

    def change(self, tensor: Tensor) -> Tensor:
        """Return `tensor` plus noise."""
        # The difference of two exponential variables is a Laplace variable.
        exponentials = [
            torch.empty(tensor.shape).exponential_(generator=self._generator) for _ in "ab"
        ]
        return tensor + self.scale * (exponentials[0] - exponentials[1]).to(tensor)


class Clipping(Outgoing):
    """Shortens each sample's smashed data to norm `clip`, where it is longer.

    Raises DefenseError unless `clip` is a finite number above 0.

    >>> import torch
    >>> from sltools.defenses.smashed import Clipping
    >>> Clipping(clip=1.0)("smashed", torch.tensor([[3.0, 4.0], [0.3, 0.4]]))
    tensor([[0.6000, 0.8000],
            [0.3000, 0.4000]])
    """

    promises = "nothing by itself: a bound, which noise can be measured by"
    leaves = "the direction of the smashed data, which tells nearly all"

    def __init__(self, clip: float, seed: int = 0) -> None:
        super().__init__(seed)
        self.clip = defense_check.positive("clip", clip)

    def change(self, tensor: Tensor) -> Tensor:
        """Return `tensor` clipped; raise DefenseError for NaN and infinite values."""
        return _clipped(tensor, self.clip)


class LocalPrivacy(Outgoing):
    """Local differential privacy of one release: clip each z to norm `clip`, add Gaussian noise.

    Two images' smashed data differ by at most 2·`clip` (replacement), so the noise has standard
    deviation `multiplier`·2·`clip`. `epsilon` accounts for all releases of one image. Sampling
    batches amplifies nothing: the server sees who takes part.

    It is a promise about the messages of an image that the front has not learnt from, as those of a
    trained service. A front that trains on an image learns from it without noise, and then its
    messages about other images depend on that image too; `epsilon` does not count these. And the
    noise comes from a reproducible stream, for experiments: who knows the seed subtracts it.

    Raises DefenseError unless `clip` and `multiplier` are finite numbers above 0.

    >>> import torch
    >>> from sltools.defenses import LocalPrivacy
    >>> defense = LocalPrivacy(clip=1.0, multiplier=2.0)
    >>> sent = defense("smashed", 100 * torch.ones(100, 8, 12, 12))
    >>> f"{sent.std():.1f}"  # multiplier x 2 x clip
    '4.0'
    >>> [round(defense.epsilon(releases)) for releases in (1, 10, 100)]
    [2, 8, 35]
    """

    promises = "(epsilon, delta) for the messages of an image that the front has not learnt from"
    leaves = (
        "accuracy; epsilon grows with each release, and a front that trains on images tells more"
    )

    def __init__(self, clip: float, multiplier: float, seed: int = 0) -> None:
        super().__init__(seed)
        self.clip = defense_check.positive("clip", clip)
        self.multiplier = defense_check.positive("multiplier", multiplier)

    def change(self, tensor: Tensor) -> Tensor:
        """Return `tensor` with each sample clipped, plus noise.

        Raises DefenseError for NaN and infinite values: what cannot be clipped has no promise.
        """
        clipped = _clipped(tensor, self.clip)
        noise = torch.randn(tensor.shape, generator=self._generator)
        return clipped + 2 * self.clip * self.multiplier * noise.to(tensor)

    def epsilon(self, releases: int, delta: float = 1e-5) -> float:
        """Return epsilon of an image's own `releases`, by opacus' RDP accountant.

        For an image that the front trains on it is a lower bound (see the class).
        """
        return accounting.epsilon(self.multiplier, releases, delta)  # never sampled: always there


class Quantisation(Outgoing):
    """Rounds each activation to one of 2^`bits` levels between the least and greatest of its batch.

    The client's gradient passes as if nothing had been rounded (straight-through). Raises
    DefenseError unless `bits` is a whole number from 1 to 16.

    >>> import torch
    >>> from sltools.defenses import Quantisation
    >>> z = torch.linspace(0, 3, 1000).view(10, 100)
    >>> defense = Quantisation(bits=2)
    >>> defense("smashed", z).round(decimals=3).unique()
    tensor([0., 1., 2., 3.])
    >>> z.nbytes, defense.nbytes(z)
    (4000, 258.0)
    """

    promises = "fewer bits on the wire"
    leaves = "all that the levels tell, over a range set by the whole batch; an attacker rounds too"

    def __init__(self, bits: int, seed: int = 0) -> None:
        super().__init__(seed)
        self.bits = defense_check.integer("bits", bits)
        if bits > 16:
            raise DefenseError(f"bits must be at most 16, not {bits}")

    def change(self, tensor: Tensor) -> Tensor:
        """Return `tensor` rounded; raise DefenseError for NaN and infinite values."""
        _check_finite(tensor)
        values = tensor.detach()
        low, high = values.min(), values.max()
        step = ((high - low) / (2**self.bits - 1)).clamp_min(1e-12)
        rounded = low + ((values - low) / step).round() * step
        return tensor + (rounded - values)

    def nbytes(self, tensor: Tensor) -> float:
        """Bytes of the numbers of the levels, and of the two ends."""
        return tensor.numel() * self.bits / 8 + 2 * tensor.element_size()


class TopK(Outgoing):
    """Sends the `share` of each sample's activations that is largest in size, and zeros else.

    At least one is sent. Raises DefenseError unless `share` is in (0, 1].

    >>> import torch
    >>> from sltools.defenses import TopK
    >>> z = torch.tensor([[0.1, -3.0, 0.2, 2.0]])
    >>> TopK(share=0.5)("smashed", z)
    tensor([[ 0., -3.,  0.,  2.]])
    """

    promises = "fewer numbers on the wire"
    leaves = "the largest activations, which tell most, and where they are"

    def __init__(self, share: float, seed: int = 0) -> None:
        super().__init__(seed)
        self.share = defense_check.positive("share", share)
        if share > 1:
            raise DefenseError(f"share must be in (0, 1], not {share}")

    def change(self, tensor: Tensor) -> Tensor:
        """Return `tensor` with the smaller activations replaced by zero."""
        sizes = tensor.detach().flatten(1).abs()
        kept = sizes.topk(math.ceil(self.share * sizes.shape[1]), dim=1).indices
        mask = torch.zeros_like(sizes).scatter_(1, kept, 1.0)
        return tensor * mask.view_as(tensor)

    def nbytes(self, tensor: Tensor) -> float:
        """Bytes of the values kept, and one bit for each place to say which they are."""
        places = tensor[0].numel()
        kept = math.ceil(self.share * places)
        return len(tensor) * min(kept * tensor.element_size() + places / 8, tensor[0].nbytes)


def _clipped(tensor: Tensor, clip: float) -> Tensor:
    """Return `tensor` (B, ...) with each sample shortened to norm `clip`, where it is longer."""
    _check_finite(tensor)
    norms = tensor.flatten(1).norm(dim=1).clamp_min(1e-12)
    shares = (clip / norms).clamp_max(1.0).view(-1, *[1] * (tensor.ndim - 1))
    return tensor * shares


def _check_finite(smashed: Tensor) -> None:
    if not bool(smashed.isfinite().all()):
        raise DefenseError(
            "the smashed data contain NaN or infinite values: the client's training has diverged"
        )
