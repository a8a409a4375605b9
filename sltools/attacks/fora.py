"""FORA: an attacker who has images without labels and knows nothing of the client's network."""

from dataclasses import dataclass
from typing import ClassVar

from sltools.attacks.alignment import WassersteinCritic
from sltools.attacks.networks import Shape
from sltools.attacks.surrogate import Critics, SurrogateAttack
from sltools.errors import AttackError
from sltools.validation import attack_check


@dataclass(frozen=True)
class FORA(SurrogateAttack):
    """Feature-oriented reconstruction (Xu et al., CVPR 2024, section 3).

    The surrogate, a network of the attacker's own design, learns only that its smashed data be
    distributed as the client's: `mmd` weighs their MK-MMD, `adversarial` a Wasserstein critic that
    learns at `critic_lr` with gradient penalty times `penalty`. It uses no labels, nor the server's
    layers. Beyond the paper there is the fitted decoder (see SurrogateAttack). What is not the
    authors' in `published` either: the squared widths of our kernels are half of those in their
    code, a decoder network learns by cross-entropy, the critic's betas are (0.5, 0.999), and all
    rates fall along a cosine on a record.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import FORA
    >>> digits = data.load("digits")
    >>> secret, own = digits.test[:10], digits.test[10:]
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, digits.train, epochs=1)
    >>> FORA(steps=20)(session.observe(secret.images), own).knowledge
    ('smashed', 'auxiliary images (350)')
    """

    uses_labels: ClassVar[bool] = False

    adversarial: float = 0.02
    penalty: float = 10.0
    critic_lr: float = 5e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("adversarial", "penalty", "critic_lr"):
            attack_check.non_negative(name, getattr(self, name))
        if not (self.mmd or self.adversarial):
            raise AttackError("nothing aligns the surrogate: give mmd or adversarial above 0")

    @classmethod
    def published(cls, steps: int = 40_000, *, seed: int = 0, device: str | None = None) -> "FORA":
        """The terms and rates of the authors' run.sh.

        >>> from sltools.attacks import FORA
        >>> paper = FORA.published()
        >>> paper.mmd, paper.adversarial, paper.penalty
        (0.8, 0.2, 1000.0)
        """
        return cls(
            steps=steps, batch=64, lr=1e-4, decoder_lr=1e-4, mmd=0.8, adversarial=0.2,
            penalty=1000.0, critic_lr=3e-4, decoder="network", seed=seed, device=device,
        )  # fmt: skip

    def critics(self, image: Shape, smashed: Shape, classes: int) -> Critics:
        """A critic of smashed data."""
        critic = WassersteinCritic(smashed, lr=self.critic_lr, penalty=self.penalty, seed=self.seed)
        return {"smashed": critic}

    def weights(self) -> dict[str, float]:
        """The weights of the losses; 1 for those that are not named."""
        return super().weights() | {"smashed": self.adversarial}
