"""PCAT: an attacker who has labelled images and knows nothing of the client's network."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Adam

from sltools.attacks import networks
from sltools.attacks.surrogate import SurrogateAttack
from sltools.validation import attack_check

FINE_TUNING_LR = 0.01  # in pixels, per step


@dataclass(frozen=True)
class PCAT(SurrogateAttack):
    """Pseudo-client attack (Gao and Zhang, USENIX Security 2023, section 4).

    A pseudo-client of the attacker's own design learns through the server's layers, which it leaves
    as they are, to classify the attacker's images; each batch has the labels of the client's.
    Beside a training it lets the first `late_start` batches pass, while the server knows nothing.
    In the label-private setting a pseudo-head learns along, and the labels are not aligned.
    At last it takes `fine_tuning` steps on the pixels of each decoded image, towards one that the
    pseudo-client would send as the client did.

    Beyond the paper there are `mmd` and the fitted decoder (see SurrogateAttack).

    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import PCAT
    >>> digits = data.load("digits")
    >>> secret, own = digits.test[:10], digits.test[10:]
    >>> front, rest = models.cut(models.mnist_net(), "fc1")
    >>> session = protocol.train(front, rest, digits.train, epochs=3)
    >>> PCAT(steps=20)(session.observe(secret.images), own).knowledge
    ('own model', 'smashed', 'auxiliary images (350)', 'auxiliary labels (350)')
    """

    late_start: int = 100
    fine_tuning: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        attack_check.integer("fine_tuning", self.fine_tuning, 0)

    @classmethod
    def published(cls, steps: int = 10_000, *, seed: int = 0, device: str | None = None) -> "PCAT":
        """The terms of the paper; the rates and batch are ours, for its authors published no code.

        >>> from sltools.attacks import PCAT
        >>> PCAT.published().mmd, PCAT.published().late_start
        (0.0, 100)
        """
        return cls(
            steps=steps, batch=64, mmd=0.0, decoder="network", fine_tuning=100, seed=seed,
            device=device,
        )  # fmt: skip

    def refine(self, surrogate: nn.Sequential, images: Tensor, smashed: Tensor) -> Tensor:
        """Images (N, C, H, W), fine-tuned until the surrogate makes of them what was sent."""
        refined = [
            self._fine_tuned(surrogate.requires_grad_(False), *some)
            for some in zip(
                images.split(networks.CHUNK), smashed.split(networks.CHUNK), strict=True
            )
        ]
        return torch.cat(refined)

    def _fine_tuned(self, surrogate: nn.Sequential, images: Tensor, smashed: Tensor) -> Tensor:
        pixels = images.clone().requires_grad_()
        optimizer = Adam([pixels], lr=FINE_TUNING_LR)
        for _ in range(self.fine_tuning):
            optimizer.zero_grad()
            (surrogate(pixels) - smashed).square().sum().backward()
            optimizer.step()
            with torch.no_grad():
                pixels.clamp_(0, 1)
        return pixels.detach()
