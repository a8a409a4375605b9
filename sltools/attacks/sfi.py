"""Chronic poisoning (SFI): a server that teaches the client to pass a trigger on."""

import copy
import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from torch.optim import Adam

from sltools import seeds
from sltools.attacks.alignment import Discriminator, Samples
from sltools.attacks.auxiliary import LabelledImages
from sltools.attacks.curious import CuriousServer
from sltools.attacks.surrogate import SurrogateAttack, SurrogateTraining
from sltools.attacks.trigger import Trigger
from sltools.errors import AttackError
from sltools.messages import Message
from sltools.protocol import Server
from sltools.validation import attack_check


@dataclass(frozen=True)
class SFI:
    """Settings of the attack (Yu et al., *Chronic Poisoning*, AAAI 2024): steal, tune, implant.

    For `steal` batches the server is honest, and a surrogate of the client learns beside it. Then,
    in `tune` steps of Adam at `lr`, its layers, the surrogate and an auxiliary classifier, which
    asks whether an image had the trigger, learn together, on batches of `batch` of the attacker's
    images: with the trigger they are of its target, without it of their own class. From there on
    the server's layers and the surrogate stay as they are, and the client is sent the honest
    gradient plus, `strength` times as long, that which makes a discriminator, learning at
    `critic_lr`, take the client's smashed data for the surrogate's.

    We know the stages from an abstract and a review; the discriminator is SDAR's, one layer asks
    for the trigger, and all numbers are ours. With `strength` 0 nobody steers the client: what it
    then does is due to the server's own layers.

    Raises AttackError for a number that is not finite, negative or, for a count, not whole.

    >>> from sltools.attacks import SFI
    >>> SFI().strength, SFI(steal=20).steal
    (0.3, 20)
    """

    steal: int = 100
    tune: int = 200
    batch: int = 64
    lr: float = 2e-3
    critic_lr: float = 5e-4
    strength: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steal", "tune", "batch"):
            attack_check.integer(name, getattr(self, name))
        for name in ("lr", "critic_lr", "strength"):
            attack_check.non_negative(name, getattr(self, name))
        attack_check.seed(self.seed)


class SFIServer(CuriousServer):
    """A server that is honest at first, and then trains the client to pass `trigger` on.

    `theft` is the attack that makes its surrogate of the client, an SDAR(...) or PCAT(...), with
    the attacker's own labelled images `auxiliary` and, for SDAR, the architecture of the `client`.
    `options` are those of `Server`. The auxiliary classifier has the stream (`settings.seed`,
    "auxiliary classifier"), the discriminator (`settings.seed`, "critic"). Raises AttackError for
    auxiliary data without labels, and for a target that is no class.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import PCAT, SFI, SFIServer, Trigger
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool2")
    >>> theft, settings = PCAT(late_start=0, batch=8), SFI(steal=5, tune=5, batch=8)
    >>> server = SFIServer(rest, theft, digits.test, Trigger(target=7), settings)
    >>> session = protocol.train(front, server, digits.train[:640], epochs=1)
    >>> server.steps, server.implanted  # of ten batches
    (5, 5)
    >>> server.knowledge
    ('labels', 'own model', 'smashed', 'auxiliary images (360)', 'auxiliary labels (360)')
    """

    def __init__(
        self,
        model: nn.Sequential,
        theft: SurrogateAttack,
        auxiliary: LabelledImages,
        trigger: Trigger,
        settings: SFI | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, theft, auxiliary, **options)
        if not theft.uses_labels:
            raise AttackError("chronic poisoning needs labelled images: give an SDAR or a PCAT")
        if settings is not None and not isinstance(settings, SFI):
            raise AttackError(f"the settings are an SFI(...), not {settings!r}")
        self.trigger, self.settings = trigger, settings or SFI()
        self.implanted = 0
        self._steering: _Steering | None = None

    @property
    def knowledge(self) -> tuple[str, ...]:
        """What it has used so far."""
        labels = () if self.label_private else ("labels",)
        shape = () if self._client is None else ("client architecture",)
        own = () if self._training is None else self._training.auxiliary.knowledge
        return (*shape, *labels, "own model", "smashed", *own)

    def reply(self, message: Message) -> Message | None:
        """Answer as an honest server does until the theft is over, and then steer the client."""
        if self._steering is None:
            answer = super().reply(message)
            if self.steps >= self.settings.steal and self._training is not None:
                self._begin(self._training)
            return answer
        if message.kind == "labels":
            self._sent_labels = message.payload.clone()
        answer = Server.reply(self, message)
        if answer is None or answer.kind != "cut_gradient":
            return answer
        assert self._smashed is not None
        start = time.perf_counter()
        labels = None if self.label_private else self._sent_labels
        pull = self._steering.pull(self._smashed.detach().float(), labels).to(answer.payload)
        scale = self.settings.strength * answer.payload.norm() / pull.norm().clamp_min(1e-12)
        self.implanted += 1
        self.seconds += time.perf_counter() - start
        return replace(answer, payload=answer.payload + scale * pull)

    def _begin(self, theft: SurrogateTraining) -> None:
        """Tune the server's layers and the surrogate, and let them be."""
        start = time.perf_counter()
        mode = self.model.training
        self._steering = _Steering(
            self.settings, self.model, theft, self.trigger, told=not self.label_private
        )
        self.model.train(mode).requires_grad_(False)
        self.seconds += time.perf_counter() - start


class _Steering:
    """The tuned surrogate, and the discriminator that tells the client's smashed data from its.

    `told` says whether the client's labels are known.
    """

    def __init__(
        self,
        settings: SFI,
        model: nn.Sequential,
        theft: SurrogateTraining,
        trigger: Trigger,
        told: bool,
    ) -> None:
        self._own = theft.auxiliary
        self._surrogate = copy.deepcopy(theft.surrogate).eval().requires_grad_(True)
        network = nn.Sequential(
            self._surrogate, model, *([] if theft.head is None else [theft.head])
        )
        classes = self._tuned(network.eval(), settings, trigger)
        self._surrogate.requires_grad_(False)
        self._critic = Discriminator(
            theft.shape, classes=classes if told else 0, lr=settings.critic_lr, seed=settings.seed
        )
        self._critic.to(theft.device)

    def _tuned(self, network: nn.Sequential, settings: SFI, trigger: Trigger) -> int:
        """Train surrogate and server together to know the trigger; return how many classes are."""
        with torch.no_grad():
            made, logits = network[0](self._own.images[:1]), network(self._own.images[:1])
        if logits.shape[1] <= trigger.target:
            raise AttackError(
                f"the target is class {trigger.target}, and there are {logits.shape[1]}: choose "
                "one that there is"
            )
        with seeds.scope(settings.seed, "auxiliary classifier"):
            asks = nn.Sequential(nn.Flatten(), nn.Linear(made[0].numel(), 1)).to(made)
        optimizer = Adam([*network.parameters(), *asks.parameters()], settings.lr)
        for _ in range(settings.tune):
            images, labels = self._own.batch(settings.batch)
            assert labels is not None
            smashed = network[0](torch.cat([images, trigger.stamp(images)]))
            has_trigger = torch.arange(len(smashed), device=smashed.device) >= len(images)
            wanted = torch.cat([labels, torch.full_like(labels, trigger.target)])
            loss = cross_entropy(network[1:](smashed.clone()), wanted)
            said = asks(smashed)[:, 0]
            loss = loss + binary_cross_entropy_with_logits(said, has_trigger.to(said))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return logits.shape[1]

    def pull(self, smashed: Tensor, labels: Tensor | None) -> Tensor:
        """The gradient that makes `smashed` data (B, ...) look like the surrogate's."""
        images, own_labels = self._own.batch(len(smashed), labels)
        with torch.no_grad():
            wanted = self._surrogate(images)
        smashed = smashed.requires_grad_()
        samples = Samples(smashed, wanted, labels, own_labels)
        gradient = torch.autograd.grad(self._critic.loss(samples), smashed)[0]
        self._critic.learn(samples)
        return gradient
