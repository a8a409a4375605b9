"""One attack from several starts: its scores, and whether all starts agree on what a change did."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from sltools import data, metrics, protocol
from sltools.attacks import InversionResult
from sltools.errors import SltoolsError
from sltools.interrupts import finished


@dataclass(frozen=True, eq=False)
class RestartScores:
    """What each of an attack's R restarts found; all lists are (R,).

    raw, aligned: the median MSE over its images, see `metrics.affine_align`; accuracy: that of the
    stolen clone before the victim's server, in [0, 1].

    >>> from sltools import experiments
    >>> scores = experiments.RestartScores([], raw=[0.02, 0.03], aligned=[0.01, 0.01],
    ...                                    accuracy=[0.75, 0.5])
    >>> scores.mistakes
    [0.25, 0.5]
    """

    runs: Sequence[InversionResult]
    raw: Sequence[float]
    aligned: Sequence[float]
    accuracy: Sequence[float]

    @property
    def mistakes(self) -> list[float]:
        """The share of test images that each clone gets wrong: (R,)."""
        return [1 - right for right in self.accuracy]

    @property
    def kept(self) -> InversionResult:
        """The run that the attacker keeps: that of least objective."""
        return min(self.runs, key=lambda run: run.objective)


def score_restarts(
    runs: Sequence[InversionResult], session: protocol.Session, truth: Tensor, test: data.Split
) -> RestartScores:
    """Score every restart by the images whose `truth` (N, C, H, W) is held, and by its clone.

    Of the images that were attacked, `truth` holds the first N. Raises KeyboardInterrupt if a run
    was interrupted: half a search would pass for a weak attack.

    >>> from sltools import attacks, data, experiments
    >>> digits = data.load("digits")
    >>> session = experiments.train_victim(digits, "pool1", budget="tiny")
    >>> images = digits.test.images[:2]
    >>> runs = attacks.UnSplit(steps=5, restarts=3).runs(session.observe(images))
    >>> scores = experiments.score_restarts(runs, session, images, digits.test[:100])
    >>> len(scores.raw), scores.kept.objective == min(run.objective for run in runs)
    (3, True)
    """
    images = [metrics.score_images(finished(run).inputs[: len(truth)], truth) for run in runs]
    return RestartScores(
        runs,
        [statistics.median(scores.mse.tolist()) for scores in images],
        [statistics.median(scores.aligned_mse.tolist()) for scores in images],
        [metrics.accuracy(nn.Sequential(run.clone, session.server.model), test) for run in runs],
    )


def paired_verdict(before: Sequence[float], after: Sequence[float]) -> str:
    """Say what a change did to a score (R,), if all R starts agree; factors are of medians.

    Both are in the order of the starts. Raises SltoolsError for lists of two lengths or of none.

    >>> from sltools import experiments
    >>> experiments.paired_verdict([0.01, 0.02, 0.03], [0.02, 0.04, 0.06])
    'higher from every start (x 2.00)'
    >>> experiments.paired_verdict([0.01, 0.02, 0.03], [0.02, 0.01, 0.02])
    'undecided: higher from 1 of 3 starts (x 1.00)'
    """
    if not 0 < len(before) == len(after):
        raise SltoolsError(
            f"{len(before)} and {len(after)} starts make no pairs: give both scores of each start"
        )
    pairs = list(zip(before, after, strict=True))
    higher, lower = sum(b > a for a, b in pairs), sum(b < a for a, b in pairs)
    if not higher and not lower:
        return "the same"
    factor = f"(x {statistics.median(after) / statistics.median(before):.2f})"
    if len(pairs) in (higher, lower):
        return f"{'higher' if higher else 'lower'} from every start {factor}"
    return f"undecided: higher from {higher} of {len(pairs)} starts {factor}"


def restart_table(outcomes: Mapping[str, RestartScores]) -> str:
    """A row for each attack: the median and range of its restarts, as text.

    "clone" is the median accuracy of the stolen clones, "worst" the least of them.

    >>> from sltools import experiments
    >>> scores = experiments.RestartScores([], raw=[0.02, 0.03, 0.05], aligned=[0.01, 0.02, 0.03],
    ...                                    accuracy=[0.75, 0.5, 0.9])
    >>> print(experiments.restart_table({"UnSplit": scores}))
                        raw MSE from start to start   aligned   clone   worst
    UnSplit              0.0300 [0.0200 to 0.0500]     0.0200   75.0%   50.0%
    """
    lines = [
        f"{'':18}{'raw MSE':>9} {'from start to start':20}{'aligned':>9}{'clone':>8}{'worst':>8}"
    ]
    for name, scores in outcomes.items():
        spread = f"[{min(scores.raw):.4f} to {max(scores.raw):.4f}]"
        lines.append(
            f"{name:18}{statistics.median(scores.raw):9.4f} {spread:20}"
            f"{statistics.median(scores.aligned):9.4f}"
            f"{statistics.median(scores.accuracy):8.1%}{min(scores.accuracy):8.1%}"
        )
    return "\n".join(lines)
