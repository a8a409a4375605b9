"""What can be measured without an attack's luck: the wire, other cuts, and simple defences."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from sltools import metrics, models, seeds
from sltools.attacks import networks
from sltools.audit.attackers import FEW_PUBLIC, decode
from sltools.audit.findings import Share
from sltools.audit.form import Shape, as_features, bare
from sltools.audit.system import System
from sltools.defenses import (
    GaussianNoise,
    Outgoing,
    Quantisation,
    TopK,
    distance_correlation,
)
from sltools.defenses.smashed import Clipping

PAIRS = 200  # of inputs and activations, whose distance correlation is measured
PUBLIC = 500  # samples that decoders are fitted to here
NOISE = (0.5, 1.0, 2.0)  # standard deviations of the activations
BITS, KEPT = (4, 2, 1), (0.25, 0.05)
CLIPPED = (0.5, 0.1)  # of the median norm

T = TypeVar("T")


@dataclass(frozen=True)
class Wire:
    """What crosses the wire for each sample, and what the client has to do for it.

    `numbers` and `bytes` are of one sample's activations, `inputs` the numbers of one input.
    `client_parameters` and `client_operations` (multiplications and additions) are beside those of
    the whole network, as far as it is known; torch counts those of matrix products and
    convolutions, not of recurrent layers. `correlation` is the distance correlation of inputs and
    activations of up to 200 samples, 0 to 1; few samples raise it, so `shuffled_correlation` has
    it for activations of other samples.
    """

    numbers: int
    bytes: int
    inputs: int
    client_parameters: int | None = None
    all_parameters: int | None = None
    client_operations: int | None = None
    all_operations: int | None = None
    correlation: float | None = None
    shuffled_correlation: float | None = None


@dataclass(frozen=True)
class Cut:
    """Another cut of the same network, and the error of a decoder that knows the weights."""

    name: str
    bytes: int
    client_parameters: int
    client_operations: int
    decoder_mse: float | None
    is_yours: bool = False


@dataclass(frozen=True)
class Defended:
    """A defence on what the trained client sends: what it costs, and what a decoder still gets.

    The decoder knows the client's weights and the defence. `accuracy` is that of client and server.
    """

    name: str
    accuracy: Share | None
    bytes: float
    decoder_mse: float | None


def wire(system: System) -> Wire:
    """What crosses the wire, and what the client does for it."""
    one, shape = system.smashed[:1], system.form.image_shape
    known: dict[str, int | float | None] = {}
    if system.sent is not None and len(system.smashed) > 1:
        pairs = system.sent.images[:PAIRS], system.smashed[:PAIRS]
        known["correlation"] = distance_correlation(*pairs).item()
        order = torch.randperm(len(pairs[0]), generator=seeds.generator(0, "shuffled pairs"))
        known["shuffled_correlation"] = distance_correlation(pairs[0], pairs[1][order]).item()
    if system.architecture is not None:
        client = system.architecture.build(0).eval()
        known["client_parameters"] = _parameters(client)
        known["client_operations"] = _operations(client, shape)
        if system.rest is not None:
            whole = nn.Sequential(client, system.rest)
            known["all_parameters"] = _parameters(whole)
            known["all_operations"] = _operations(whole, shape)
    return Wire(one.numel(), one.nbytes, torch.Size(shape).numel(), **known)  # type: ignore[arg-type]


def other_cuts(system: System) -> list[Callable[[], Cut]]:
    """The cuts of the network that change nothing about it, and those that the user named.

    None are known unless client and rest are nn.Sequential.
    """
    return [partial(_cut, system, *front) for front in _fronts(system)]


def _cut(system: System, name: str, front: nn.Module, is_yours: bool) -> Cut:
    made = _made(system, front, system.form.samples(torch.zeros(1, *system.form.image_shape)))
    return Cut(
        name, made.nbytes, _parameters(front), _operations(front, system.form.shape),
        _decoder_error(system, front, None), is_yours,
    )  # fmt: skip


def defended(system: System) -> list[Callable[[], Defended]]:
    """Defences that change what the trained client sends, at several strengths."""
    if system.client is None:
        return []
    defenses = [("none", None), *_defenses(system.smashed)]
    return [partial(_defended, system, name, defense) for name, defense in defenses]


def _defended(system: System, name: str, defense: Outgoing | None) -> Defended:
    assert system.client is not None
    one, error = system.smashed[:1], _decoder_error(system, bare(system.client), defense)
    size = float(one.nbytes) if defense is None else defense.nbytes(one)
    return Defended(name, _accuracy(system, defense), size, error)


def within(seconds: float, measures: Sequence[Callable[[], T]]) -> tuple[list[T], bool]:
    """What those of the `measures` find that begin within `seconds`, and whether these are all.

    >>> from sltools.audit.measures import within
    >>> within(9.0, [lambda: "a", lambda: "b"])
    (['a', 'b'], True)
    """
    found: list[T] = []
    end = time.monotonic() + seconds
    for measure in measures:
        if time.monotonic() > end:
            return found, False
        found.append(measure())
    return found, True


def _fronts(system: System) -> Iterator[tuple[str, nn.Module, bool]]:
    """Name each front that the network can be cut to, and say which one is the user's."""
    if system.client is None:
        return
    yield from ((name, bare(front), False) for name, front in system.also)
    parts = [bare(system.client)] + ([] if system.rest is None else [bare(system.rest)])
    if not all(isinstance(part, nn.Sequential) and models.is_plain_sequential(part)
               for part in parts):  # fmt: skip
        return
    layers = [layer for part in parts for layer in part._modules.items()]
    for count in range(1, len(layers) + (system.rest is None)):
        front = nn.Sequential(*(layer for _, layer in layers[:count])).eval()  # type: ignore[arg-type]
        name, layer = layers[count - 1]
        label = f"{count}: {type(layer).__name__}" if name.isdigit() else name
        yield label, front, count == len(parts[0])  # type: ignore[arg-type]


def _defenses(smashed: Tensor) -> Iterator[tuple[str, Outgoing]]:
    """Defences at strengths that suit the size of `smashed` (M, ...)."""
    spread = smashed.std().item() or 1.0
    norm = smashed.flatten(1).norm(dim=1).median().item() or 1.0
    for factor in NOISE:
        yield f"Gaussian noise, {factor:g} of the spread", GaussianNoise(factor * spread)
    for factor in CLIPPED:
        yield f"clipped to {factor:g} of the median norm", Clipping(factor * norm)
    for bits in BITS:
        yield f"quantised to {bits} bit{'s' if bits > 1 else ''}", Quantisation(bits)
    for share in KEPT:
        yield f"top {share:.0%} kept", TopK(share)


def _decoder_error(system: System, front: nn.Module, defense: Outgoing | None) -> float | None:
    """The median error of a decoder fitted to what `front` makes of the attacker's samples."""
    if system.public is None or len(system.public) < FEW_PUBLIC or system.truth is None:
        return None
    images = system.public.images[:PUBLIC]
    own = _made(system, front, system.form.samples(images))
    aims = _made(system, front, system.form.samples(system.truth))
    if defense is not None:
        own, aims = defense("smashed", own), defense("smashed", aims)
    decoded, _ = decode(own, images, aims, seed=0)
    return metrics.mse(decoded, system.truth).median().item()


def _made(system: System, front: nn.Module, samples: Tensor) -> Tensor:
    """Maps or vectors that a user's front makes of samples as it takes them."""
    return as_features(networks.in_chunks(front, samples))


def _accuracy(system: System, defense: Outgoing | None) -> Share | None:
    """The share of held-out samples that are classified rightly behind the defence."""
    held_out = system.held_out
    if system.rest is None or system.client is None or held_out is None or not len(held_out):
        return None
    sent = networks.in_chunks(system.client, held_out.images)
    sent = sent if defense is None else defense("smashed", sent)
    guess = networks.in_chunks(system.rest, sent).argmax(1)
    return Share.where(guess == held_out.labels) if (held_out.labels >= 0).all() else None


def _parameters(network: nn.Module) -> int:
    return sum(weight.numel() for weight in network.parameters())


def _operations(network: nn.Module, shape: Shape) -> int:
    """Multiplications and additions for one sample, as torch counts those of matrix products."""
    counter, fast = FlopCounterMode(display=False), torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it has no operations that are counted
    try:
        with counter, torch.no_grad():
            network(torch.zeros(1, *shape))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return int(counter.get_total_flops())
