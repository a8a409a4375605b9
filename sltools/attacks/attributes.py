"""What smashed data tell of an image beside what the task needs: attribute inference."""

import time
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from sltools import devices
from sltools.attacks import networks
from sltools.attacks.inversion import as_targets
from sltools.attacks.leaks import LeakResult
from sltools.errors import AttackError
from sltools.validation import attack_check
from sltools.view import View, as_server

PLACES = ("smashed", "output")


@dataclass(frozen=True)
class AttributeInference:
    """Tell which images have an attribute that the task does not need (Song and Shmatikov, 2020).

    (*Overlearning Reveals Sensitive Attributes*, ICLR 2020, section 3.) The attacker has images of
    its own of which it knows the attribute. A `front` makes smashed data of them: the surrogate of
    an attacker with data (`PCAT(...)(view, own).clone`), or the client's own model, if it is
    granted: a bound. A linear classifier (logistic regression, C = `strength`) learns from these
    and is given the client's. It looks at the smashed data or, with `at` "output", at what the
    server's layers make of both. `metrics.leak_auc` scores what it finds.

    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import AttributeInference
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, digits.train, epochs=1)
    >>> own, private = digits.test.images, digits.train.images[:300]
    >>> typical = own.mean((1, 2, 3)).median()  # how much ink
    >>> view = session.observe(private, grants=["client_model"])
    >>> found = AttributeInference()(view, own, own.mean((1, 2, 3)) > typical)
    >>> found.knowledge
    ('client model (granted)', 'smashed', 'auxiliary images (360)', 'auxiliary attributes (360)')
    >>> metrics.leak_auc(found.scores, private.mean((1, 2, 3)) > typical) > 0.9
    True
    """

    at: str = "smashed"
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.at not in PLACES:
            raise AttackError(f"at is one of {PLACES}, not {self.at!r}")
        attack_check.positive("strength", self.strength)

    def __call__(
        self, view: View, images: Tensor, attribute: Tensor, *, front: nn.Module | None = None
    ) -> LeakResult:
        """Give each image of `view` the log-odds that it has the attribute, in their order.

        `images` (M, C, H, W) are the attacker's, `attribute` (M,) booleans. Raises AttackError for
        an attribute that all or none of them have, or that does not fit; NotObservable without a
        `front` or its grant.
        """
        view, start = as_server(view), time.perf_counter()
        networks.check_images(images, what="auxiliary images")
        check_attribute(attribute, len(images))
        smashed = view.smashed
        networks.check_smashed(smashed)
        smashed = as_targets(smashed)
        extra = [] if front is None else ["surrogate of the client"]
        front = view.client_model if front is None else front
        made = _made(front, images).to(smashed)
        networks.check_smashed(smashed, made.shape[1:])
        if self.at == "output":
            server = view.model.to(smashed).eval()
            made, smashed = networks.in_chunks(server, made), networks.in_chunks(server, smashed)
        return LeakResult(
            log_odds(made, attribute, smashed, self.strength),
            attack=type(self).__name__,
            settings=asdict(self),
            knowledge=(
                *view.knowledge,
                *extra,
                f"auxiliary images ({len(images)})",
                f"auxiliary attributes ({len(images)})",
            ),
            device=str(smashed.device),
            seconds=time.perf_counter() - start,
        )


def _made(front: nn.Module, images: Tensor) -> Tensor:
    """What `front` makes of `images`; raise AttackError if they do not fit it."""
    try:
        return networks.in_chunks(front.eval(), images.to(devices.of(front)))
    except RuntimeError as error:
        raise AttackError(
            f"the auxiliary images do not fit the front: {error}. Give images of the client's size"
        ) from None


def check_attribute(attribute: Tensor, count: int) -> None:
    """Raise AttackError unless `attribute` holds `count` booleans, of both kinds."""
    if not isinstance(attribute, Tensor) or attribute.dtype != torch.bool:
        raise AttackError("the attribute must be a tensor of booleans, one for each image")
    if attribute.shape != (count,):
        raise AttackError(
            f"there are {count} auxiliary images and attributes of shape {tuple(attribute.shape)}: "
            "give one boolean for each image"
        )
    if attribute.all() or not attribute.any():
        raise AttackError(
            "all auxiliary images have the attribute or none has it: a classifier learns from both"
        )


def log_odds(known: Tensor, positive: Tensor, asked: Tensor, strength: float) -> Tensor:
    """Log-odds (N,) that `asked` (N, ...) are positive, learnt from `known` (M, ...), on the CPU.

    By logistic regression on standardised features; `strength` is the inverse of its penalty.

    >>> import torch
    >>> from sltools.attacks.attributes import log_odds
    >>> known, asked = torch.arange(-5.0, 6)[:, None], torch.tensor([[-3.0], [4.0]])
    >>> log_odds(known, known[:, 0] > 0.5, asked, strength=1.0) > 0
    tensor([False,  True])
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    learner = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=1000))
    learner.fit(_features(known), positive.cpu().numpy())
    return torch.from_numpy(learner.decision_function(_features(asked))).float()


def _features(samples: Tensor) -> Any:
    if not samples.isfinite().all():
        raise AttackError("the features hold NaN or infinite values: the network has diverged")
    return samples.flatten(1).cpu().double().numpy()
