"""What a client with poisoned data sends: nothing that an honest client could not send."""

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from sltools import seeds
from sltools.attacks.auxiliary import LabelledImages
from sltools.attacks.trigger import Trigger
from sltools.errors import AttackError
from sltools.messages import Message
from sltools.protocol import Client
from sltools.validation import attack_check

Own = TypeVar("Own", bound=LabelledImages)  # what the client has: a Split


@dataclass(frozen=True)
class LabelFlip:
    """Gives the images of one class, `source`, the label of another, `target`.

    All messages are those of an honest client, and the network shall answer `target` to `source`
    (targeted label flipping, Tolpegin et al., ESORICS 2020). `rate` is the share of the images of
    `source` that are flipped, drawn from the stream (`seed`, "poison"). All data are repeated
    `copies` times: in SplitFed a client then trains as much longer in a round, and counts as much
    more in an average that is weighted by samples.

    Raises AttackError for senseless settings, and for data that hold no image to flip.

    >>> from sltools import data
    >>> from sltools.attacks import LabelFlip
    >>> honest = data.load("digits").train[:10]
    >>> honest.labels.tolist()
    [3, 9, 1, 3, 1, 9, 4, 4, 2, 8]
    >>> LabelFlip(source=9, target=0).poison(honest).labels.tolist()
    [3, 0, 1, 3, 1, 0, 4, 4, 2, 8]
    """

    source: int
    target: int
    rate: float = 1.0
    copies: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        attack_check.integer("source", self.source, 0)
        attack_check.integer("target", self.target, 0)
        attack_check.share("rate", self.rate)
        attack_check.integer("copies", self.copies)
        attack_check.seed(self.seed)
        if self.source == self.target:
            raise AttackError(f"source and target are both {self.source}: nothing would be flipped")

    def poison(self, split: Own) -> Own:
        """Return a copy of the client's data with false labels."""
        labels = split.labels.clone()
        stream = seeds.generator(self.seed, "poison")
        labels[_drawn(labels == self.source, self.rate, stream)] = self.target
        return _repeated(split, split.images, labels, self.copies)


@dataclass(frozen=True)
class Backdoor:
    """Stamps a `trigger` on a share `rate` of the images and gives them its target's label.

    The network shall do its task, and answer the trigger's target whenever it sees the trigger
    (BadNets, Gu et al. 2017; by a client of split learning, Yu et al. 2023). Images of the target
    class stay as they are. Which ones are stamped comes from the stream (`seed`, "poison").
    `copies` is as in `LabelFlip`.

    Raises AttackError for senseless settings, and for data that hold no image to stamp.

    >>> from sltools import data
    >>> from sltools.attacks import Backdoor, Trigger
    >>> honest = data.load("digits").train[:10]
    >>> poisoned = Backdoor(Trigger(target=0), rate=0.5).poison(honest)
    >>> poisoned.labels.tolist()
    [0, 9, 1, 3, 0, 0, 0, 0, 2, 8]
    >>> int((poisoned.images != honest.images).flatten(1).any(1).sum())
    5
    """

    trigger: Trigger = Trigger()
    rate: float = 0.5
    copies: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.trigger, Trigger):
            raise AttackError(f"the trigger is a Trigger(...), not {self.trigger!r}")
        attack_check.share("rate", self.rate)
        attack_check.integer("copies", self.copies)
        attack_check.seed(self.seed)

    def poison(self, split: Own) -> Own:
        """Return a copy of the client's data with stamped images."""
        stream = seeds.generator(self.seed, "poison")
        images, labels, _ = self.stamp(split.images, split.labels, stream)
        return _repeated(split, images, labels, self.copies)

    def stamp(
        self, images: Tensor, labels: Tensor, stream: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Stamp a share of `images` (N, C, H, W) with `labels` (N,), drawn from `stream`.

        Return copies of both, and the places of those that were stamped.
        """
        rows = _drawn(labels != self.trigger.target, self.rate, stream)
        images, labels = images.clone(), labels.clone()
        images[rows] = self.trigger.stamp(images[rows])
        labels[rows] = self.trigger.target
        return images, labels, rows


class StealthyClient(Client):
    """A client with a head that plants a backdoor there, and shows the server honest gradients.

    It stamps a share of each batch, as `backdoor` says, and lets its head learn from all of it; but
    of stamped images it returns a gradient dL/du of zero. So the server's layers, and the client's
    front, learn from its honest images alone, and the backdoor travels in the head, which the next
    client is handed or the average takes in. With a `volume` above 0 it returns that share of their
    true gradient instead. Ours, for a defence that looks at the server's layers
    (`sltools.defenses.SafeSplit`). `options` are those of `Client`, without `returning`.

    Raises AttackError without a head, and for a senseless setting.

    >>> from sltools import data, models
    >>> from sltools.attacks import Backdoor, StealthyClient
    >>> from sltools.messages import Message
    >>> front, middle, head = models.cut(models.mnist_net(), ("pool1", "relu4"))
    >>> client = StealthyClient(front, head, Backdoor(rate=0.25))
    >>> batch = data.load("digits").train[:8]
    >>> _ = client.open(batch.images, batch.labels)
    >>> u = Message(0, 0, "features", middle(front(batch.images)).detach())
    >>> returned = client.reply(u).payload
    >>> int((returned == 0).all(1).sum())  # of two images the server learns nothing
    2
    """

    def __init__(
        self,
        front: nn.Sequential,
        head: nn.Sequential,
        backdoor: Backdoor,
        volume: float = 0.0,
        **options: Any,
    ) -> None:
        if head is None:
            raise AttackError("a client without a head has no layer to hide a backdoor in")
        super().__init__(front, head, returning=self._hide, **options)
        self.backdoor = backdoor
        self.volume = attack_check.non_negative("volume", volume)
        self._stream = seeds.generator(backdoor.seed, "poison")
        self._stamped = torch.empty(0, dtype=torch.long)

    def open(self, images: Tensor, labels: Tensor | None = None, **place: Any) -> list[Message]:
        """Start an exchange, about images some of which are stamped, if it is for learning."""
        if labels is not None:
            images, labels, self._stamped = self.backdoor.stamp(images, labels, self._stream)
        return super().open(images, labels, **place)

    def _hide(self, gradient: Tensor, labels: Tensor) -> Tensor:
        faint = gradient.clone()
        faint[self._stamped] *= self.volume
        return faint


def _drawn(candidates: Tensor, rate: float, stream: torch.Generator) -> Tensor:
    """Draw a share of those that are True, at least one; return their places, in order."""
    places = candidates.nonzero()[:, 0]
    if not len(places):
        raise AttackError("these data hold no image that this attack would change")
    drawn = torch.randperm(len(places), generator=stream)[: max(1, round(rate * len(places)))]
    return places[drawn.sort().values.to(places.device)]


def _repeated(split: Own, images: Tensor, labels: Tensor, copies: int) -> Own:
    """Data of the same kind with these images and labels, all of them `copies` times."""
    own: Any = split
    times = torch.arange(len(labels), device=labels.device).repeat(copies)
    changed: Own = replace(own, images=images[times], labels=labels[times])
    return changed
