"""Train a network on labelled samples, for as long as there is time."""

import math
import time

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from sltools import seeds
from sltools.errors import DataError
from sltools.progress import bar

STEPS, BATCH, LR = 2000, 64, 1e-3
LEARNT = 0.01  # mean loss of an epoch, after which there is nothing left to learn


def fit(
    network: nn.Module, inputs: Tensor, labels: Tensor, *, seconds: float, seed: int
) -> tuple[int, float, bool]:
    """Train `network` in place on inputs (N, ...) and labels (N,).

    Returns the number of steps, the mean loss of the last epoch, and whether there was time for all
    of it.

    Adam with amsgrad at 1e-3, batches of 64 or a quarter of all, for about 2,000 steps or `seconds`
    at most (one step at least), or until the mean loss of an epoch is below 0.01. The order comes
    from the stream (`seed`, "order"). It is left in evaluation mode. Raises DataError if it
    diverges.

    >>> import torch
    >>> from torch import nn
    >>> from sltools.audit.training import fit
    >>> labels = torch.arange(100) % 2
    >>> inputs = labels[:, None].float()
    >>> steps, loss, whole = fit(nn.Linear(1, 2), inputs, labels, seconds=9, seed=0)
    >>> steps, loss < 0.5, whole
    (2000, True, True)
    """
    optimizer = Adam(network.parameters(), lr=LR, amsgrad=True)
    order = seeds.generator(seed, "order")
    size = max(2, min(BATCH, len(labels) // 4))
    epochs = -(-STEPS // -(-len(labels) // size))
    end, steps = time.monotonic() + seconds, 0
    network.train()
    for _ in bar(range(epochs), "training"):
        rows = torch.randperm(len(labels), generator=order).split(size)
        batches = [some for some in rows if len(some) > 1]  # normalisation over one sample is none
        losses = []
        for some in batches:
            losses.append(_step(network, optimizer, inputs[some], labels[some]))
            if time.monotonic() > end:
                break
        steps, mean = steps + len(losses), torch.stack(losses).mean().item()
        if not math.isfinite(mean):
            raise DataError("the training diverged: its loss is not a number. Are inputs scaled?")
        if mean < LEARNT or len(losses) < len(batches):
            break
    network.eval()
    whole = len(losses) == len(batches)
    return steps, mean, whole and (mean < LEARNT or steps == epochs * len(batches))


def _step(network: nn.Module, optimizer: Adam, inputs: Tensor, labels: Tensor) -> Tensor:
    loss = cross_entropy(network(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
