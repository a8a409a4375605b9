"""What all detectors share: a client that watches what the server returns."""

import math

from torch import Tensor

from sltools.errors import DefenseError
from sltools.validation import defense_check


class Detector:
    """Watches the exchanges of one client and scores how suspicious the server is.

        client = Client(front, detector=SplitGuard())
        train(client, server, split)
        client.detector.raised_at  # the first batch with an alarm, or None

    `scores` holds one number for each batch from the first that could be scored, the mean of the
    last `window` suspicions: from 0 to 1, higher is more suspicious. `batches` are the numbers of
    these batches, from 0; a probe is a batch like any other, for it takes the place of one. A score
    above `threshold` is an alarm, and so is one that is not a number. `alarms` holds the batches
    with an alarm. An alarm does not stop the training.

    A subclass defines `judge`, and `probe` if it is more than a listener. A detector that only
    listens leaves the training as it is, bit for bit. Use a new one for each client. Raises
    DefenseError for a senseless setting.

    >>> import torch
    >>> from sltools.detectors import Detector
    >>> class Silence(Detector):  # suspects a server whose gradients are zero
    ...     def judge(self, labels, cut_gradient, weight_gradient, probe):
    ...         return float(cut_gradient.abs().max() == 0)
    >>> detector = Silence(window=2, threshold=0.5)
    >>> labels, of_weights = torch.tensor([0, 1]), torch.ones(3)
    >>> for gradient in (torch.ones(2, 4), torch.zeros(2, 4), torch.zeros(2, 4)):
    ...     detector.watch(labels, gradient, of_weights, probe=False)
    >>> detector.scores, list(detector.batches)
    ([0.5, 1.0], [1, 2])
    >>> detector
    Silence(window=2, threshold=0.5): alarm at batch 2 in 3 batches
    """

    def __init__(self, window: int, threshold: float) -> None:
        self.window = defense_check.integer("window", window)
        if isinstance(threshold, bool) or not isinstance(threshold, int | float):
            raise DefenseError(f"threshold must be a number, not {threshold!r}")
        if not 0 <= threshold < 1:
            raise DefenseError(f"scores are from 0 to 1: threshold must be too, not {threshold!r}")
        self.threshold = float(threshold)
        self.scores: list[float] = []
        self.alarms: list[int] = []
        self._suspicions: list[float] = []
        self._batch_count = 0

    def probe(self, labels: Tensor) -> Tensor | None:
        """Return false labels to send in place of `labels` (B,), or None to leave the batch."""
        return None

    def judge(
        self, labels: Tensor, cut_gradient: Tensor, weight_gradient: Tensor, probe: bool
    ) -> float | None:
        """Return the suspicion that one exchange raises, 0 to 1, or None if it tells nothing."""
        raise NotImplementedError

    def watch(
        self, labels: Tensor, cut_gradient: Tensor, weight_gradient: Tensor, *, probe: bool
    ) -> None:
        """Take note of one exchange, after the backward pass and before the client's step.

        `labels` (B,) are those the exchange was about, false ones in a probe; `cut_gradient`
        (B, ...) is dL/dz as received; `weight_gradient` is that of the front's first layer; `probe`
        says that the client does not learn from this batch.
        """
        suspicion = self.judge(labels, cut_gradient, weight_gradient, probe)
        if suspicion is not None:
            self._suspicions.append(suspicion)
        recent = self._suspicions[-self.window :]
        if len(recent) == self.window:
            score = math.fsum(recent) / self.window
            self.scores.append(score)
            if not score <= self.threshold:  # a server cannot hide behind NaN
                self.alarms.append(self._batch_count)
        self._batch_count += 1

    @property
    def batches(self) -> range:
        """The numbers of the batches that `scores` belong to."""
        return range(self._batch_count - len(self.scores), self._batch_count)

    @property
    def raised_at(self) -> int | None:
        """The first batch with an alarm, or None."""
        return self.alarms[0] if self.alarms else None

    def __repr__(self) -> str:
        settings = {k: v for k, v in vars(self).items() if not k.startswith("_")}
        settings = {k: v for k, v in settings.items() if k not in ("scores", "alarms")}
        found = f"alarm at batch {self.raised_at}" if self.alarms else "no alarm"
        written = ", ".join(f"{name}={value!r}" for name, value in settings.items())
        return f"{type(self).__name__}({written}): {found} in {self._batch_count} batches"
