"""Small parties and data that the tests of the protocol, the transcript and the views share."""

import torch
from torch import nn

from sltools import models
from sltools.data import Split
from sltools.protocol import Client, Server, Session, train

U_CUT = ("pool1", "fc2")


def noise_split(n=11, shape=(1, 28, 28), classes=10, seed=5):
    """Images of noise: no value occurs twice, so that a leaked one can be searched for."""
    stream = torch.Generator().manual_seed(seed)
    images = torch.rand(n, *shape, generator=stream)
    return Split(images, torch.randint(0, classes, (n,), generator=stream))


def parties(net, at, *, server=Server, server_options=None, **options):
    """Cut `net` and give its parts to a client (with hooks `options`) and a server."""
    front, middle, *head = models.cut(net, at)
    private = bool(head)
    client = Client(front, head[0] if private else None, **options)
    return client, server(middle, label_private=private, **(server_options or {}))


def run(at="pool1", *, net=None, split=None, epochs=1, batch_size=4, record=True, **options):
    """Train the paper's network, or `net`, split at `at`, on a little noise."""
    client, server = parties(models.mnist_net(seed=0) if net is None else net, at, **options)
    split = noise_split() if split is None else split
    return train(client, server, split, epochs=epochs, batch_size=batch_size, record=record)


def weights(*parts: nn.Module):
    """Copy all parameters of `parts`."""
    return [weight.detach().clone() for part in parts for weight in part.parameters()]


def same(left, right):
    """Say whether two lists of tensors are equal bit for bit."""
    return len(left) == len(right) and all(map(torch.equal, left, right))


def holds(haystack: torch.Tensor, needle: torch.Tensor) -> bool:
    """Say whether the bytes of `needle` occur in those of `haystack`, whatever their shapes."""
    return _bytes(needle) in _bytes(haystack)


def _bytes(tensor):
    return tensor.detach().cpu().contiguous().numpy().tobytes()


def record_of(session: Session):
    return session.transcript.messages
