"""SDAR: an attacker who knows the client's architecture and has labelled images."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from sltools import seeds
from sltools.attacks import networks
from sltools.attacks.alignment import Discriminator
from sltools.attacks.networks import Shape
from sltools.attacks.surrogate import Critics, SurrogateAttack
from sltools.errors import AttackError
from sltools.models import Architecture
from sltools.validation import attack_check

STARTS = 8  # networks of the client's shape, of which the surrogate is the least crippled


@dataclass(frozen=True)
class SDAR(SurrogateAttack):
    """Simulator decoding with adversarial regularisation (Zhu et al., NDSS 2025, section 4).

    The surrogate, of the client's architecture, learns to please the server's own layers and to
    deceive a discriminator of smashed data (weight `adversarial`); a decoder network learns to
    invert it and to deceive a discriminator of images (weight `realism`). Where the server was sent
    the labels, both discriminators are told them; the label-private client keeps them, and then the
    surrogate has a simulated head, which is taught each label with probability `flip` as one drawn
    anew. The discriminators learn at `critic_lr`.

    Narrow networks may start crippled: the surrogate is the one of eight starts, from the streams
    (seed derived for "start 0" to "start 7", "surrogate"), that has the fewest dead channels.

    Beyond the paper there are those starts, `mmd` and the fitted decoder (see SurrogateAttack).
    What is not the authors' in `published` either: the starts; each batch has the client's classes,
    as in PCAT; a decoder is not told the labels, and learns by cross-entropy (theirs by squared
    error); both discriminators learn at one rate (their second at 5e-9), with Adam's betas (0.5,
    0.999) and smoothed labels, on smashed data that are standardised; all rates fall along a cosine
    on a record; the simulated head is one linear layer, where theirs has the shape of the client's.

    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import SDAR
    >>> digits = data.load("digits")
    >>> secret, own = digits.test[:10], digits.test[10:]
    >>> front, rest = models.cut(models.mnist_net(), "fc1")
    >>> session = protocol.train(front, rest, digits.train, epochs=3)
    >>> found = SDAR(steps=60)(session.observe(secret.images), own)
    >>> found.knowledge  # doctest: +NORMALIZE_WHITESPACE
    ('client architecture', 'own model', 'smashed', 'auxiliary images (350)',
     'auxiliary labels (350)')
    >>> tuple(found.inputs.shape), found.clone.conv1
    ((10, 1, 28, 28), Conv2d(1, 8, kernel_size=(5, 5), stride=(1, 1)))
    """

    uses_architecture: ClassVar[bool] = True

    lr: float = 3e-3
    adversarial: float = 0.1
    realism: float = 0.0
    flip: float = 0.0
    critic_lr: float = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("adversarial", "realism", "critic_lr", "flip"):
            attack_check.non_negative(name, getattr(self, name))
        if self.flip:
            attack_check.share("flip", self.flip)
        if self.realism and self.decoder != "network":
            raise AttackError(
                'realism teaches a decoder that learns along: give decoder="network", or realism=0'
            )

    @classmethod
    def published(cls, steps: int = 20_000, *, seed: int = 0, device: str | None = None) -> "SDAR":
        """The terms and rates of the authors' code.

        >>> from sltools.attacks import SDAR
        >>> paper = SDAR.published()
        >>> paper.batch, paper.adversarial, paper.realism, paper.mmd
        (128, 0.02, 1e-05, 0.0)
        """
        return cls(
            steps=steps, batch=128, lr=1e-3, decoder_lr=5e-4, adversarial=0.02, realism=1e-5,
            flip=0.2, critic_lr=2e-5, mmd=0.0, decoder="network",
            seed=seed, device=device,
        )  # fmt: skip

    def surrogate_of(
        self, client: Architecture | None, images: Tensor, smashed: Tensor
    ) -> nn.Sequential:
        """A network of the client's shape: of some starts, the one with the fewest dead channels.

        They are counted at some of the attacker's `images` (M, C, H, W).
        """
        assert client is not None
        some = images[: networks.CHUNK]
        starts = [
            client.build(seeds.derive(self.seed, f"start {number}"), "surrogate").to(some.device)
            for number in range(STARTS)
        ]
        return min(starts, key=lambda start: networks.dead_channels(start.eval(), some))

    def known_labels(self, labels: Tensor, classes: int, draw: torch.Generator) -> Tensor:
        """The attacker's labels (N,), each with probability `flip` one that is drawn anew."""
        flipped = torch.rand(len(labels), generator=draw).to(labels.device) < self.flip
        anew = torch.randint(classes, labels.shape, generator=draw).to(labels.device)
        return torch.where(flipped, anew, labels)

    def critics(self, image: Shape, smashed: Shape, classes: int) -> Critics:
        """A discriminator of smashed data and one of images, both told the labels if known."""
        return {
            name: Discriminator(shape, classes=classes, lr=self.critic_lr, seed=self.seed)
            for name, shape in (("smashed", smashed), ("images", image))
        }

    def weights(self) -> dict[str, float]:
        """The weights of the losses; 1 for those that are not named."""
        return super().weights() | {"smashed": self.adversarial, "images": self.realism}
