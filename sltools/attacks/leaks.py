"""Leaks of a rare class through the gradients that a label-private client returns."""

import time
from dataclasses import asdict, dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from sltools.attacks.result import Provenance
from sltools.errors import AttackError
from sltools.view import View, fresh

RULES = ("norm", "cosine")
SHRINKAGE = 0.01  # of the mean variance, added to all: a batch is no larger than its covariance


@dataclass(eq=False, repr=False)
class LeakResult(Provenance):
    """A score for each sample, (N,), on the CPU: the greater, the likelier it has what is sought.

    `knowledge` names all that was read from the view.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import GradientLeak
    >>> some = data.load("digits").train[:64]
    >>> rare = data.Split(some.images, (some.labels == 3).long())
    >>> front, middle, head = models.cut(models.mnist_net(), ("pool1", "relu4"))
    >>> client = protocol.Client(front, head)
    >>> server = protocol.Server(middle, label_private=True)
    >>> session = protocol.train(client, server, rare, epochs=1, record=True)
    >>> view = session.transcript.view("server", grants=["anchor_labels"])
    >>> result = GradientLeak("cosine")(view)
    >>> tuple(result.scores.shape), result.settings
    ((64,), {'rule': 'cosine', 'positive_class': 1})
    >>> result.knowledge
    ('anchor labels (granted)', 'feature gradient')
    """

    scores: Tensor


@dataclass(frozen=True)
class GradientLeak:
    """Score samples by their gradient dL/du (Li et al., ICLR 2022, sections 3.1 and 3.2).

    "norm": how long it is. With two classes |p - y| is large where the client errs, and it errs on
    the rare class. Nothing is granted. "cosine": how well it points where that of one known sample
    of `positive_class` does; the label of that sample is the grant "anchor_labels".
    `metrics.leak_auc` scores either. Raises AttackError for an unknown rule, without an anchor of
    the class and for gradients that are not finite; NotObservable for missing ones.

    >>> import torch
    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import GradientLeak
    >>> some = data.load("digits").train[:320]
    >>> rare = data.Split(some.images, (some.labels == 3).long())  # a class in ten
    >>> front, middle, head = models.cut(models.mnist_net(), ("pool1", "relu4"))
    >>> client = protocol.Client(front, head)
    >>> server = protocol.Server(middle, label_private=True)
    >>> session = protocol.train(client, server, rare, epochs=1, record=True)
    >>> truth = torch.cat([page["labels"] for page in session.transcript.client_log.values()])
    >>> leak = GradientLeak("norm")(session.transcript.view("server"))
    >>> leak.knowledge
    ('feature gradient',)
    >>> metrics.leak_auc(leak.scores, truth == 1) > 0.9
    True
    """

    rule: str = "norm"
    positive_class: int = 1

    def __post_init__(self) -> None:
        if self.rule not in RULES:
            raise AttackError(f"rule is one of {RULES}, not {self.rule!r}")

    def __call__(self, view: View) -> LeakResult:
        """Score each of the N samples whose gradient is in `view`, in their order."""
        view, start = fresh(view), time.perf_counter()
        # L is a mean over its batch: of a smaller batch the gradients are longer.
        gradients = torch.cat([len(g) * g.flatten(1) for g in view.payloads("feature_gradient")])
        gradients = _check_finite(gradients.cpu().double())
        scores = gradients.norm(dim=1) if self.rule == "norm" else self._cosines(gradients, view)
        seconds = time.perf_counter() - start
        return LeakResult(
            scores.float(),
            attack=type(self).__name__,
            settings=asdict(self),
            knowledge=view.knowledge,
            device="cpu",
            seconds=seconds,
        )

    def _cosines(self, gradients: Tensor, view: View) -> Tensor:
        known = (view.anchor_labels.cpu() == self.positive_class).nonzero().flatten()
        if len(known) == 0:
            raise AttackError(
                f"no anchor of class {self.positive_class} lies in this part of the transcript: "
                "take a window with its first steps"
            )
        return torch.cosine_similarity(gradients, gradients[known[0]][None])


def whitened_line(gradients: Tensor, line: Tensor) -> Tensor:
    """Score the gradients (B, D) of one batch along `line` (D,), whitened: (B,), on the CPU.

    Σ⁻¹·`line`, with Σ the covariance of the batch, is Fisher's linear discriminant where `line` is
    the difference of the class means: of all scores that look along one line it is the best for
    normal classes of one covariance. It passes over directions in which the gradients scatter, and
    so over noise along them. Who knows the line is not said: with the true one this bounds what a
    server can find, to judge a defence. Raises AttackError for gradients that are not finite.

    >>> import torch
    >>> from sltools import metrics
    >>> from sltools.attacks.leaks import whitened_line
    >>> stream = torch.Generator().manual_seed(0)
    >>> positive = torch.arange(200) % 2 == 1
    >>> line = torch.tensor([1.0, 1.0])
    >>> scatter = torch.randn(200, 2, generator=stream) * torch.tensor([0.1, 5.0])
    >>> gradients = positive[:, None] * line + scatter
    >>> plain, whitened = gradients @ line, whitened_line(gradients, line)
    >>> metrics.leak_auc(plain, positive) < 0.8 < 0.95 < metrics.leak_auc(whitened, positive)
    True
    """
    flat = _check_finite(gradients.flatten(1).cpu().double())
    covariance = torch.cov(flat.T, correction=0).view(flat.shape[1], flat.shape[1])
    shrunk = covariance + SHRINKAGE * covariance.diagonal().mean() * torch.eye(len(covariance))
    return (flat @ torch.linalg.pinv(shrunk, hermitian=True) @ line.cpu().double()).float()


def near_rms(gradients: Tensor, line: Tensor | None = None) -> Tensor:
    """Score the gradients (B, D) of one batch by how near their lengths come to the RMS: (B,).

    Made for `defenses.MaxNorm`, which hardly changes the longest gradients and scatters all others
    about the same root-mean-square length: the long ones stay close to it. Nothing is granted. With
    `line` (D,), as for `whitened_line`, the coordinates along it stand for the lengths. On the CPU.
    Raises AttackError for gradients that are not finite.

    >>> import torch
    >>> from sltools import metrics
    >>> from sltools.attacks.leaks import near_rms
    >>> from sltools.defenses import MaxNorm
    >>> positive = torch.arange(200) % 10 == 0
    >>> gradients = torch.where(positive, 1.0, 0.1)[:, None] * torch.ones(200, 4)
    >>> sent = MaxNorm()("feature_gradient", gradients)
    >>> metrics.leak_auc(near_rms(sent), positive) > 0.95
    True
    """
    flat = _check_finite(gradients.flatten(1).cpu().double())
    lengths = flat.norm(dim=1)
    reach = lengths if line is None else flat @ normalize(line.cpu().double(), dim=0)
    return -(reach - lengths.square().mean().sqrt()).abs().float()


def _check_finite(gradients: Tensor) -> Tensor:
    if not gradients.isfinite().all():
        raise AttackError("the gradients hold NaN or infinite values: training has diverged")
    return gradients
