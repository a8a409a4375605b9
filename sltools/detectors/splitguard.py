"""SplitGuard: send false labels now and then, and see whether the server cares."""

import math

import torch
from torch import Tensor

from sltools import seeds
from sltools.detectors.detector import Detector
from sltools.errors import DefenseError
from sltools.validation import defense_check


class SplitGuard(Detector):
    """Sends batches with shifted labels; gradients that do not differ betray the server.

    After `warmup` batches each batch becomes a probe with `probability`: the labels of its first
    `changed` samples are shifted by a random number of classes. The gradients of the front's first
    layer are kept in three sets: F from probes, R1 and R2 from the others, at random. With θ the
    angle between two mean gradients, d the difference of the mean norms and R the union of R1 and
    R2,

        S = (θ(F, R)·|d(F, R)| - θ(R1, R2)·|d(R1, R2)|) / (|d(F, R)| + |d(R1, R2)|)

    and SplitGuard's score is (1 + exp(-`slope`·S))^-`power`, near 1 for an honest server (Erdoğan,
    Küpçü, Çiçek, arXiv 2108.09052; settings of their code). A suspicion here is 1 minus that, one
    for each probe; a server that is blind to labels has S near 0, a suspicion of ¾. Ours, for their
    code decides nothing: the mean over a `window` of probes, and `threshold`, above what two probes
    of five can do alone. Noise in place of gradients may pass, as probes are few and their mean
    norm strays.

    Draws from the stream (`seed`, "SplitGuard"). Raises DefenseError for a senseless setting.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import Hijacking, HijackingServer
    >>> from sltools.detectors import SplitGuard
    >>> digits = data.load("digits")
    >>> def watched(make_server):
    ...     front, rest = models.cut(models.mnist_net(), "pool2")
    ...     client = protocol.Client(front, detector=SplitGuard(probability=0.3, warmup=5))
    ...     protocol.train(client, make_server(rest), digits.train[:960], epochs=1, batch_size=32)
    ...     return client.detector
    >>> honest = watched(protocol.Server)
    >>> len(honest.scores) > 0, honest.raised_at
    (True, None)
    >>> attack = Hijacking(warmup_steps=20, batch=8)
    >>> hijacked = watched(lambda rest: HijackingServer(rest, digits.test.images, attack))
    >>> hijacked.raised_at is None
    False
    """

    def __init__(
        self,
        probability: float = 0.1,
        warmup: int = 20,
        changed: int = 64,
        classes: int = 10,
        slope: float = 5.0,
        power: float = 2.0,
        window: int = 5,
        threshold: float = 0.4,
        seed: int = 0,
    ) -> None:
        super().__init__(window, threshold)
        if not 0 < defense_check.positive("probability", probability) < 1:
            raise DefenseError(
                f"the probability of a probe is between 0 and 1, not {probability!r}"
            )
        self.probability = probability
        self.warmup, self.changed = (
            defense_check.integer("warmup", warmup, 0),
            defense_check.integer("changed", changed),
        )
        self.classes = defense_check.integer("classes", classes, 2)
        self.slope, self.power = (
            defense_check.positive("slope", slope),
            defense_check.positive("power", power),
        )
        self._generator = seeds.generator(defense_check.seed(seed), "SplitGuard")
        self._false, self._first, self._second = GradientSet(), GradientSet(), GradientSet()

    def probe(self, labels: Tensor) -> Tensor | None:
        """Return `labels` (B,), the first of them shifted, or None if this is no probe.

        Raises DefenseError for a label outside of `classes`.
        """
        if self._batch_count < self.warmup or self._uniform() >= self.probability:
            return None
        if (labels >= self.classes).any():
            raise DefenseError(
                f"a label {int(labels.max())}, and SplitGuard was told of {self.classes} classes"
            )
        shift = 1 + int(self._uniform() * (self.classes - 1))
        shifted = labels.clone()
        shifted[: self.changed] = (labels[: self.changed] + shift) % self.classes
        return shifted

    def judge(
        self, labels: Tensor, cut_gradient: Tensor, weight_gradient: Tensor, probe: bool
    ) -> float | None:
        """Add the gradient to a set; after a probe, compare the sets."""
        if self._batch_count < self.warmup:
            return None
        regular = self._first if self._uniform() < 0.5 else self._second
        (self._false if probe else regular).add(weight_gradient)
        if not probe or not (self._first.size and self._second.size):
            return None
        raw = contrast(self._false, self._first, self._second)
        return 1 - (1 + math.exp(-self.slope * raw)) ** -self.power

    def _uniform(self) -> float:
        return torch.rand((), generator=self._generator).item()


class GradientSet:
    """A growing set of gradients, of which only the mean and the mean norm are kept."""

    def __init__(self) -> None:
        self.size = 0
        self._sum: Tensor = torch.zeros(())
        self._norms = 0.0

    def add(self, gradient: Tensor) -> None:
        """Add one `gradient` of any shape."""
        flat = gradient.flatten().double().cpu()
        self._sum = self._sum + flat
        self._norms += flat.norm().item()
        self.size += 1

    @property
    def mean(self) -> Tensor:
        return self._sum / self.size

    @property
    def norm(self) -> float:
        """The mean of the norms."""
        return self._norms / self.size


def contrast(false: GradientSet, first: GradientSet, second: GradientSet) -> float:
    """Return SplitGuard's S of three sets (see `SplitGuard`), in radians, from -π to π.

    >>> import torch
    >>> from sltools.detectors.splitguard import GradientSet, contrast
    >>> false, first, second = GradientSet(), GradientSet(), GradientSet()
    >>> first.add(torch.tensor([1.0, 0.0]))
    >>> second.add(torch.tensor([1.0, 0.1]))
    >>> false.add(torch.tensor([-5.0, 0.0]))  # the server pulls the other way, and harder
    >>> f"{contrast(false, first, second):.1f}"
    '3.1'
    """
    regular = (first.mean + second.mean) / 2
    probed = abs(false.norm - (first.norm + second.norm) / 2)
    usual = abs(first.norm - second.norm)
    if probed + usual == 0:
        return 0.0
    turned = angle(false.mean, regular) * probed - angle(first.mean, second.mean) * usual
    return turned / (probed + usual)


def angle(left: Tensor, right: Tensor) -> float:
    """The angle between two vectors in radians, 0 if one of them is zero."""
    norms = left.norm().item() * right.norm().item()
    if norms == 0:
        return 0.0
    cosine = torch.dot(left, right).item() / norms
    return math.acos(max(-1.0, min(1.0, cosine))) if math.isfinite(cosine) else math.nan
