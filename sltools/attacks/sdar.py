"""SDAR: an attacker who knows the client's architecture and has labelled images."""

from dataclasses import dataclass
from typing import ClassVar

from sltools.attacks.alignment import Discriminator
from sltools.attacks.networks import Shape
from sltools.attacks.surrogate import Critics, SurrogateAttack
from sltools.validation import attack_check


@dataclass(frozen=True)
class SDAR(SurrogateAttack):
    """Simulator decoding with adversarial regularisation (Zhu et al., NDSS 2025, section 4).

    The surrogate, of the client's architecture, learns to please the server's own layers and to
    deceive a discriminator of smashed data (weight `adversarial`); the decoder learns to invert it
    and to deceive a discriminator of images (weight `realism`). Where the server was sent the
    labels, both discriminators are told them; the label-private client keeps them, and then the
    surrogate has a simulated head. The discriminators learn at `critic_lr`.

    Beyond the paper there are `mmd` and `consistency` (see SurrogateAttack); `published` is
    without. The paper's head has the shape of the client's, ours one linear layer, and it flips
    labels of the attacker's images there, which we do not.

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
    critic_lr: float = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("adversarial", "realism", "critic_lr"):
            attack_check.non_negative(name, getattr(self, name))

    @classmethod
    def published(cls, steps: int = 20_000, *, seed: int = 0, device: str | None = None) -> "SDAR":
        """The terms and rates of the authors' code for the vanilla setting.

        >>> from sltools.attacks import SDAR
        >>> paper = SDAR.published()
        >>> paper.batch, paper.adversarial, paper.realism, paper.mmd
        (128, 0.02, 1e-05, 0.0)
        """
        return cls(
            steps=steps, batch=128, lr=1e-3, decoder_lr=5e-4, adversarial=0.02, realism=1e-5,
            critic_lr=2e-5, mmd=0.0, consistency=0.0, seed=seed, device=device,
        )  # fmt: skip

    def critics(self, image: Shape, smashed: Shape, classes: int) -> Critics:
        """A discriminator of smashed data and one of images, both told the labels if known."""
        return {
            name: Discriminator(shape, classes=classes, lr=self.critic_lr, seed=self.seed)
            for name, shape in (("smashed", smashed), ("images", image))
        }

    def weights(self) -> dict[str, float]:
        """The weights of the losses; 1 for those that are not named."""
        return super().weights() | {"smashed": self.adversarial, "images": self.realism}
