"""SafeSplit: the server looks at what a client's turn did to its layers, and may undo the turn."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from sltools.defenses.aggregation import flatten
from sltools.protocol.rounds import Checkpoint
from sltools.protocol.training import Weights
from sltools.validation import defense_check

EARLIEST = 3  # turns: of two, each is as near to the other


class Signature(NamedTuple):
    """What one turn did to the server's layers, as two vectors."""

    frequency: Tensor
    rotation: Tensor


@dataclass(frozen=True)
class Verdict:
    """The server's judgement of one turn, the last of the `window` last ones.

    `static` and `rotational` are the scores E and R of the turns in the window, oldest first;
    `benign` says which are among the lowest in both; `rollback` is how many turns back the newest
    of these is, 0 if the turn stands.
    """

    static: list[float]
    rotational: list[float]
    benign: list[bool]
    rollback: int


class SafeSplit:
    """A guard for training in turn, with clients of which less than half lie (Rieger et al. 2025).

    After each turn t the server describes what the turn made of its layers B by two vectors: the
    low frequencies of the change, S = DCT(B_t - B_s), where B_s is what the turn began with, and
    its rotation, (arctan(B_t) - arctan(B_s)) / 2π. A turn's score E is the sum of the distances of
    its S to the nearest N/2 + 1 of the others, among the last N turns, R the same of rotations. A
    turn is benign if it is among the N/2 + 1 lowest in both. If the last is not, all parties go
    back to the state after the newest turn that is (arXiv 2501.06650 v2).

    `window` is N, the number of clients. No code of the authors is known to us. Ours: the DCT is of
    each weight as a matrix (rows are outputs), its low frequencies those with i/rows + j/columns <
    `low`; the server's optimiser goes back as well; before N turns were seen, those that were stand
    for them, and the first two pass.

    `verdicts` has an entry for each turn but these. Use a new guard for each training.
    Raises DefenseError for a senseless setting.

    >>> from sltools import data, models, protocol
    >>> from sltools.defenses import SafeSplit
    >>> parts = data.parts(data.load("digits").train[:80], 4)
    >>> fronts = [models.cut(models.mnist_net(), "pool1")[0] for _ in parts]
    >>> _, rest = models.cut(models.mnist_net(), "pool1")
    >>> guard = SafeSplit(window=4)
    >>> sessions = protocol.train_clients(fronts, rest, parts, epochs=1, defense=guard)
    >>> len(sessions), len(guard.verdicts)  # the first two turns of four pass
    (4, 2)
    """

    promises = "a backdoor is undone that moves the server's layers otherwise than most turns do"
    leaves = "what lies in the clients' layers, or moves the server's as an honest turn does"

    def __init__(self, window: int = 10, low: float = 0.5) -> None:
        self.window = defense_check.integer("window", window, EARLIEST)
        self.low = defense_check.share("low", low)
        self.verdicts: list[Verdict] = []
        self._history: deque[tuple[Signature, Checkpoint]] = deque(maxlen=window)

    def keep(self, before: Checkpoint, after: Checkpoint) -> Checkpoint:
        """Return the state to go on with: `after`, or an earlier one."""
        signature = describe(before.server, after.server, self.low)
        self._history.append((signature, after))
        if len(self._history) < EARLIEST:
            return after
        signatures = [signature for signature, _ in self._history]
        verdict = judge(signatures)
        self.verdicts.append(verdict)
        return self._history[-1 - verdict.rollback][1]


def describe(before: Weights, after: Weights, low: float = 0.5) -> Signature:
    """Describe a turn by the low frequencies of the change and by the rotation of the weights.

    >>> import torch
    >>> from sltools.defenses.safesplit import describe
    >>> still, moved = {"w": torch.zeros(2, 4)}, {"w": torch.ones(2, 4)}
    >>> frequency, rotation = describe(still, moved)
    >>> frequency.round(decimals=3)
    tensor([2.8280, 0.0000])
    >>> rotation.unique()
    tensor([0.1250])
    """
    changes = [
        after[name].detach().float().cpu() - start.detach().float().cpu()
        for name, start in before.items()
        if start.is_floating_point()
    ]
    frequency = torch.cat([_low_frequencies(change, low) for change in changes])
    turned = flatten(after).arctan() - flatten(before).arctan()
    return Signature(frequency, turned / (2 * math.pi))


def judge(signatures: Sequence[Signature]) -> Verdict:
    """Compare the turns with each other, and the last with the majority."""
    static, rotational = (
        _closeness(torch.stack(vectors)) for vectors in zip(*signatures, strict=True)
    )
    benign = _lowest(static) & _lowest(rotational)  # never empty: both hold more than half
    newest = int(benign.nonzero().max())
    return Verdict(
        static.tolist(), rotational.tolist(), benign.tolist(), len(signatures) - 1 - newest
    )


def _low_frequencies(change: Tensor, low: float) -> Tensor:
    from scipy.fft import dctn  # slow to import, and only needed here

    matrix = change.reshape(len(change), -1) if change.ndim > 1 else change.reshape(1, -1)
    spectrum = torch.from_numpy(dctn(matrix.numpy(), norm="ortho"))
    rows, columns = (torch.arange(size) / size for size in matrix.shape)
    return spectrum[rows[:, None] + columns < low]


def _closeness(vectors: Tensor) -> Tensor:
    """The sum of the distances of each vector (N, D) to the nearest N/2 + 1 of the others."""
    distances = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = min(len(vectors) // 2 + 1, len(vectors) - 1)
    return distances.sort(1).values[:, 1 : nearest + 1].sum(1)


def _lowest(scores: Tensor) -> Tensor:
    """Which of N scores are among the N/2 + 1 lowest."""
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[scores.argsort(stable=True)[: len(scores) // 2 + 1]] = True
    return chosen
