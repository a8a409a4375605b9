"""PCAT: an attacker who has labelled images and knows nothing of the client's network."""

from dataclasses import dataclass

from sltools.attacks.surrogate import SurrogateAttack


@dataclass(frozen=True)
class PCAT(SurrogateAttack):
    """Pseudo-client attack (Gao and Zhang, USENIX Security 2023, section 4).

    A pseudo-client of the attacker's own design learns through the server's layers, which it leaves
    as they are, to classify the attacker's images; each batch has the labels of the client's.
    Beside a training it lets the first `late_start` batches pass, while the server knows nothing.
    In the label-private setting a pseudo-head learns along, and the labels are not aligned.

    Beyond the paper there are `mmd` and `consistency` (see SurrogateAttack); `published` is
    without. The paper then fine-tunes each image until the pseudo-client returns the smashed data;
    `consistency` trains the decoder to that end instead.

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

    @classmethod
    def published(cls, steps: int = 10_000, *, seed: int = 0, device: str | None = None) -> "PCAT":
        """The terms of the paper; its rates are not in it, and there is no code of its authors.

        >>> from sltools.attacks import PCAT
        >>> PCAT.published().mmd, PCAT.published().late_start
        (0.0, 100)
        """
        return cls(steps=steps, mmd=0.0, consistency=0.0, seed=seed, device=device)
