"""Clients that nobody has looked at yet: each made from a seed, with the truth for who judges.

Another network, another cut, perhaps a defence on what is sent, perhaps a server that steered the
training and hid it: its gradients have the norms of an honest server's. Whoever audits one is given
`view`, `own`, `labels` and `gradients`, and no more.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d
from torch.optim import Adam

from sltools import data, models, protocol, seeds
from sltools.attacks import Hijacking, HijackingServer, networks
from sltools.data import Split
from sltools.defenses import GaussianNoise, Outgoing, Quantisation, TopK
from sltools.defenses.smashed import Clipping
from sltools.detectors import Detector
from sltools.experiments.targets import redrawn
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View

OWN, TRAINED, SENT = 300, 768, 60  # images of the auditor, of the client's training, and sent
BATCH, EPOCHS, KEPT = 64, 3, 12  # batches of the training that the client has kept, the last
LEARNING = partial(Adam, lr=3e-3, amsgrad=True)  # for few steps
DEFENCES = ("none", "noise", "quantised", "top-k", "clipped")


@dataclass(frozen=True, eq=False)
class Unseen:
    """A client to be audited; digits of 14 x 14 pixels, turned and moved so that none is public.

    `view` is of what was sent: the activations of 60 private images, sent twice, the architecture,
    and the client's weights, granted. `own` are the auditor's 300 images. `labels` (N,) and
    `gradients` (N, ...) are those of the last batches of the training: what the client asked about
    and was sent. The rest is the truth: the images sent, the kind of `defence`, whether the
    training was `hijacked`, and the `server`'s part of the network, which the vendor keeps.
    """

    view: View
    own: Split
    labels: Tensor
    gradients: Tensor
    private: Split
    defence: str
    hijacked: bool
    server: nn.Sequential


def make(seed: int, defence: str | None = None, hijacked: bool | None = None) -> Unseen:
    """Make the client of `seed`; its defence and its server are drawn, if not named.

    Equal arguments make the same client, on one machine to the last bit.

    >>> from sltools.experiments import unseen
    >>> client = unseen.make(3, defence="quantised", hijacked=False)
    >>> first, again = client.view.payloads("smashed")
    >>> len(first), bool((first == again).all()), len(first.unique()) <= 16
    (60, True, True)
    """
    draws = seeds.generator(seed, "unseen client")
    kind, steered = torch.rand(2, generator=draws).tolist()
    if defence is None:
        defence = DEFENCES[int(kind * len(DEFENCES))]
    return _made(seed, defence, steered < 0.5 if hijacked is None else hijacked)


@lru_cache(maxsize=16)
def _made(seed: int, defence: str, hijacked: bool) -> Unseen:
    own, training, private = _images(seed)
    front, rest, kept = _trained(seed, training, partial(protocol.Server, optimizer=LEARNING))
    if hijacked:
        norms = [gradient.flatten(1).norm(dim=1, keepdim=True) for _, gradient in kept]
        settings = Hijacking(seed=seed, warmup_steps=10, critic_steps=1, batch=16)
        front, rest, kept = _trained(
            seed, training, lambda rest: _Disguised(rest, own.images, settings, norms)
        )
    sent = networks.in_chunks(front, private.images)
    outgoing = _defense(defence, sent, seed)
    messages = [
        Message(step, step, "smashed", outgoing("smashed", sent) if outgoing else sent, "inference")
        for step in range(2)
    ]
    architecture = Architecture.of(front, private.images.shape[1:])
    view = View("server", messages, architecture, None, None, {"client_model": front})
    labels, gradients = (torch.cat(part) for part in zip(*kept[-KEPT:], strict=True))
    return Unseen(view, own, labels, gradients, private, defence, hijacked, rest)


def _trained(
    seed: int, training: Split, make_server: Callable[[nn.Sequential], protocol.Server]
) -> tuple[nn.Sequential, nn.Sequential, list[tuple[Tensor, Tensor]]]:
    """Front and rest, trained, and the labels and gradient of each batch."""
    front, rest = _parts(seed)
    keeper, server = _Keeper(), make_server(rest)
    client = protocol.Client(front, optimizer=LEARNING, detector=keeper)
    protocol.train(client, server, training, epochs=EPOCHS, batch_size=BATCH, seed=seed)
    return front.eval(), rest.eval(), keeper.kept


class _Disguised(HijackingServer):
    """A hijacker whose gradients are, sample by sample, as long as an honest server's were.

    So their `norms`, (B, 1) for each step of the honest training, tell nothing.
    """

    def __init__(
        self, model: nn.Sequential, images: Tensor, attack: Hijacking, norms: list[Tensor]
    ) -> None:
        super().__init__(model, images, attack, optimizer=LEARNING)
        self._norms = norms

    def steer(self, honest: Tensor) -> Tensor:
        """Return the gradient that hijacks, with the norms that an honest one had at this step."""
        norms = self._norms[self.steps]
        sent = super().steer(honest).flatten(1)
        return (norms * nn.functional.normalize(sent)).view_as(honest)


class _Keeper(Detector):
    """Keeps the labels and the gradient of each batch."""

    def __init__(self) -> None:
        super().__init__(window=1, threshold=0)
        self.kept: list[tuple[Tensor, Tensor]] = []

    def watch(
        self, labels: Tensor, cut_gradient: Tensor, weight_gradient: Tensor, *, probe: bool
    ) -> None:
        """Keep labels and gradient."""
        self.kept.append((labels.clone(), cut_gradient.clone()))


def _images(seed: int) -> tuple[Split, Split, Split]:
    """The auditor's own images, those that the client learns from, and those that it sends."""
    digits = data.load("digits")
    order = torch.randperm(len(digits.train), generator=seeds.generator(seed, "auditor's own"))
    parts = {
        "own": digits.train[order[:OWN]],
        "training": digits.train[order[OWN : OWN + TRAINED]],
        "private": digits.test,
    }
    small = {
        name: Split(avg_pool2d(some.images, 2), some.labels)
        for name, some in ((name, redrawn(part, seed, name)) for name, part in parts.items())
    }
    return small["own"], small["training"], small["private"][:SENT]


def _parts(seed: int) -> tuple[nn.Sequential, nn.Sequential]:
    """Front and rest of a network that is drawn, at a cut that is drawn."""
    draws = seeds.generator(seed, "network and cut")
    build, cuts = NETWORKS[int(torch.randint(len(NETWORKS), (), generator=draws))]
    cut = cuts[int(torch.randint(len(cuts), (), generator=draws))]
    with seeds.scope(seed, "victim"):
        front, rest = models.cut(build(), str(cut))
    return front, rest


def _pooled() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(16 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def _strided() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 12, 5, 2, 2), nn.Tanh(), nn.Conv2d(12, 16, 3, padding=1), nn.LeakyReLU(0.1),
        nn.Flatten(), nn.Linear(16 * 7 * 7, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def _normalised() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.SiLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.SiLU(),
        nn.Flatten(), nn.Linear(16 * 7 * 7, 10),
    )  # fmt: skip


def _dense() -> nn.Sequential:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(14 * 14, 160), nn.Tanh(), nn.Linear(160, 120), nn.LeakyReLU(0.2),
        nn.Linear(120, 10),
    )  # fmt: skip


NETWORKS: tuple[tuple[Callable[[], nn.Sequential], tuple[int, ...]], ...] = (
    (_pooled, (2, 4)), (_strided, (1, 3)), (_normalised, (2, 5)), (_dense, (2, 4)),
)  # fmt: skip


def _defense(kind: str, sent: Tensor, seed: int) -> Outgoing | None:
    """A defence of this kind, at a strength that is drawn and suits what is sent."""
    strength = torch.rand((), generator=seeds.generator(seed, "strength")).item()
    norm = sent.flatten(1).norm(dim=1).median().item()
    defenses: dict[str, Callable[[], Outgoing]] = {
        "noise": lambda: GaussianNoise((0.2 + 0.3 * strength) * sent.std().item(), seed),
        "quantised": lambda: Quantisation(4),  # with fewer, long tails leave little to read
        "top-k": lambda: TopK(0.2 + 0.1 * strength),
        "clipped": lambda: Clipping((0.4 + 0.3 * strength) * norm),
    }
    return defenses[kind]() if kind in defenses else None
