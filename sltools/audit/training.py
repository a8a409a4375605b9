"""Train a network on labelled samples, for as long as there is time."""

import time

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from sltools import seeds
from sltools.errors import DataError
from sltools.progress import bar

EPOCHS, BATCH, LR = 30, 64, 1e-3


def fit(
    network: nn.Module, inputs: Tensor, labels: Tensor, *, seconds: float, seed: int
) -> tuple[int, float]:
    """Train `network` in place on inputs (N, ...) and labels (N,); return epochs and last loss.

    Adam with amsgrad at 1e-3, batches of 64, at most 30 epochs and about `seconds`. The order comes
    from the stream (`seed`, "order"). It is left in evaluation mode. Raises DataError if it
    diverges.

    >>> import torch
    >>> from torch import nn
    >>> from sltools.audit.training import fit
    >>> labels = torch.arange(100) % 2
    >>> epochs, loss = fit(nn.Linear(1, 2), labels[:, None].float(), labels, seconds=9, seed=0)
    >>> epochs, loss < 0.8
    (30, True)
    """
    optimizer = Adam(network.parameters(), lr=LR, amsgrad=True)
    order = seeds.generator(seed, "order")
    end, loss = time.monotonic() + seconds, torch.tensor(0.0)
    network.train()
    for epoch in bar(range(EPOCHS), "training"):
        if epoch and time.monotonic() > end:
            epoch -= 1
            break
        for rows in torch.randperm(len(labels), generator=order).split(BATCH):
            if len(rows) > 1 or len(labels) == 1:  # normalisation over one sample is none
                loss = _step(network, optimizer, inputs[rows], labels[rows])
        if not loss.isfinite():
            raise DataError("the training diverged: its loss is not a number. Are inputs scaled?")
    network.eval()
    return epoch + 1, loss.item()


def _step(network: nn.Module, optimizer: Adam, inputs: Tensor, labels: Tensor) -> Tensor:
    loss = cross_entropy(network(inputs), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()
