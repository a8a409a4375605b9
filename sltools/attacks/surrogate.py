"""Attackers with data: a surrogate of the client, a decoder, and what aligns them with the wire.

A server that has images of its own need not search for the client's inputs. It trains a surrogate
of the client until the surrogate's smashed data look like the client's, and a decoder to invert the
surrogate; then the decoder inverts the client as well. The attacks of this family differ in what
they know and in how they compare the two: see SDAR, PCAT and FORA.

All of them are passive. Each works on what was recorded, or beside an honest server while it trains
(`CuriousServer`): what the client receives is the same, bit for bit.
"""

import copy
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy, cross_entropy
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Adam

from sltools import devices, seeds
from sltools.attacks import networks
from sltools.attacks.alignment import Critic, Samples, mk_mmd
from sltools.attacks.auxiliary import Auxiliary, LabelledImages
from sltools.attacks.inversion import LOSS_POINTS, as_targets, cosine
from sltools.attacks.regression import Moments, fitted_decoder
from sltools.attacks.result import InversionResult
from sltools.errors import AttackError
from sltools.interrupts import keep_partial
from sltools.models import Architecture
from sltools.progress import bar
from sltools.validation import attack_check
from sltools.view import View, as_server

Critics = dict[str, Critic]
Defense = Callable[[str, Tensor], Tensor]  # the signature of a client's `outgoing`

MEMORY = 0.05  # of the running mean and variance of the smashed data, for each batch
FLOOR = 0.1  # least scale of a feature, as a share of the mean: some units are all but off
DRAWS = 8  # of a known defence for each image that the decoder is fitted to,
ENOUGH = 4000  # up to so many pairs
FEW = 30  # smashed data, of which the moments say little


@dataclass(repr=False)
class SurrogateResult(InversionResult):
    """What an attacker with data found: images, the surrogate as `clone`, and how to decode more.

    `decoder` makes images of smashed data. In the label-private setting `head` stands for the
    client's head and `labels` (N,) are what it makes of the features; None otherwise.
    `feature_loss` says how well surrogate and images explain the smashed data, divided by their
    variance.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import FORA
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, digits.train[:64], epochs=1)
    >>> found = FORA(steps=5, batch=16)(session.observe(digits.train.images[:64]), digits.test)
    >>> later = session.observe(digits.train.images[64:67])
    >>> tuple(found.reconstruct(later.smashed).shape), found.labels
    ((3, 1, 28, 28), None)
    """

    NETWORKS: ClassVar[tuple[str, ...]] = ("clone", "decoder", "head")
    TENSORS: ClassVar[tuple[str, ...]] = (*InversionResult.TENSORS, "labels")

    decoder: nn.Sequential = field(kw_only=True)
    head: nn.Sequential | None = field(default=None, kw_only=True)
    labels: Tensor | None = field(default=None, kw_only=True)

    def reconstruct(self, smashed: Tensor) -> Tensor:
        """Decode smashed data (N, ...) to images (N, C, H, W); AttackError if they do not fit."""
        shape = networks.in_chunks(self.clone, self.inputs[:1]).shape[1:]
        networks.check_smashed(smashed, shape)
        return networks.in_chunks(self.decoder, as_targets(smashed).to(devices.of(self.decoder)))


@dataclass(frozen=True)
class SurrogateAttack:
    """Settings that the attacks with data share; use one of them: SDAR, PCAT or FORA.

    Each of `steps` steps takes `batch` of the attacker's images and as many of the client's smashed
    data. The surrogate learns at `lr` that the server's own layers shall tell the classes of the
    attacker's images by what it makes of them (if there are labels), and that its smashed data be
    distributed as the client's: `mmd` weighs their MK-MMD, by class where labels are known.

    The `decoder`, which inverts the surrogate, is fitted at the end, with `ridge`, by "least
    squares" (`fitted_decoder`), or it is a "network" that learns along at `decoder_lr`, as in the
    papers; that costs three times as much, and pays with a thousand images or more, after
    convolutions.

    Rates fall to zero along a cosine on a record, and stay beside a training, where there is one
    step for each message but the first `late_start`.

    Weights come from the streams (`seed`, "substitute"), (`seed`, "decoder") or (`seed`, "random
    features"), and (`seed`, "simulated head"), the images from (`seed`, "auxiliary order"), the
    client's data from (`seed`, "traffic order") and flipped labels from (`seed`, "label flips").
    """

    uses_labels: ClassVar[bool] = True
    uses_architecture: ClassVar[bool] = False

    steps: int = 1000
    batch: int = 64
    lr: float = 2e-3
    decoder: Literal["least squares", "network"] = "least squares"
    ridge: float = 2e-4
    decoder_lr: float = 3e-3
    mmd: float = 1.0
    late_start: int = 0
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            attack_check.integer(name, getattr(self, name))
        attack_check.integer("late_start", self.late_start, 0)
        attack_check.seed(self.seed)
        for name in ("lr", "decoder_lr", "mmd"):
            attack_check.non_negative(name, getattr(self, name))
        attack_check.positive("ridge", self.ridge)
        if self.decoder not in ("least squares", "network"):
            raise AttackError(
                f'the decoder is fitted by "least squares" or a "network", not {self.decoder!r}'
            )

    def __call__(
        self, view: View, auxiliary: LabelledImages, *, defense: Defense | None = None
    ) -> SurrogateResult:
        """Attack what `view` shows with the help of `auxiliary`, a split of the attacker's own.

        `view` is of an inference, the more images the better, or of a recorded training (better a
        `window` of its end, where the client hardly moves). `defense` is what the client does to
        its messages: an attacker who knows of it does the same to those of the surrogate. Ctrl-C
        returns the partial result, marked `interrupted`. Raises AttackError for auxiliary data that
        do not fit, NotObservable for a view without what the attack reads.

        Reconstructions have the size and channels of the auxiliary images. Whether the client's are
        like that, only an attack that knows its architecture can tell, and refuses others. Nor does
        an attack notice that `auxiliary` holds images of the client's
        (`experiments.check_disjoint` does).
        """
        start, view = time.perf_counter(), as_server(view)
        smashed = view.smashed
        networks.check_smashed(smashed)
        smashed = as_targets(smashed).to(devices.find(self.device or smashed.device))
        server = view.model.to(smashed) if self.uses_labels else None
        training = SurrogateTraining(
            self,
            auxiliary,
            smashed,
            server=server,
            client=view.architecture if self.uses_architecture else None,
            label_private="features" in view.kinds,
            defense=defense,
        )
        labels = self._labels_of(view, smashed, training)
        traffic = seeds.generator(self.seed, "traffic order")
        with keep_partial() as work:
            for step in bar(range(self.steps), type(self).__name__):
                rows = torch.randint(len(smashed), (self.batch,), generator=traffic)
                rows = rows.to(smashed.device)
                rate = cosine(step, self.steps)
                training.learn(smashed[rows], None if labels is None else labels[rows], rate)
        return training.result(
            smashed,
            knowledge=(*view.knowledge, *(["client's defence"] if defense else [])),
            seconds=time.perf_counter() - start,
            interrupted=work.interrupted,
        )

    def _labels_of(
        self, view: View, smashed: Tensor, training: "SurrogateTraining"
    ) -> Tensor | None:
        """What the server takes for the labels of `smashed`: those it was sent, or its own guess.

        None if it can tell nothing: without a use for labels, or where the client has the head.
        """
        if training.server is None or training.head is not None:
            return None
        if "labels" not in view.kinds:
            return networks.in_chunks(training.classify, smashed).argmax(1)
        labels = view.labels.to(smashed.device)
        if labels.shape != smashed.shape[:1] or labels.is_floating_point():
            raise AttackError(
                f"there are {len(smashed)} smashed data and labels of shape {tuple(labels.shape)}, "
                f"{labels.dtype}: take a view of training alone, with a whole number for each"
            )
        return labels

    def critics(self, image: networks.Shape, smashed: networks.Shape, classes: int) -> Critics:
        """What else compares the two sides, by what it looks at: "smashed" data or "images".

        `image` and `smashed` are the shapes of one sample; `classes` is 0 where the client's labels
        are not known.
        """
        return {}

    def weights(self) -> dict[str, float]:
        """The weights of the losses; 1 for those that are not named."""
        return {"mmd": self.mmd}

    def surrogate_of(
        self, client: Architecture | None, images: Tensor, smashed: Tensor
    ) -> nn.Sequential:
        """A network that makes smashed data (N, ...), such as the client's, of images (M, C, H, W).

        `client` is the client's architecture, for an attack that knows it.
        """
        rectified = bool((smashed >= 0).all())  # the server sees whether a ReLU came last
        return networks.substitute(
            images.shape[1:], smashed.shape[1:], rectified=rectified, seed=self.seed
        )

    def known_labels(self, labels: Tensor, classes: int, draw: torch.Generator) -> Tensor:
        """What a simulated head is taught of the attacker's `labels` (N,), 0 to `classes` - 1."""
        return labels

    def refine(self, surrogate: nn.Sequential, images: Tensor, smashed: Tensor) -> Tensor:
        """The reconstructions that are made of decoded images (N, C, H, W) of smashed data."""
        return images


class SurrogateTraining:
    """One attack on its way: its networks, their optimiser and random streams.

    `smashed` (N, ...) are the client's, all there are or the first batch. `server` is a copy of the
    server's own part and `client` the architecture of the client's, if the attack uses them;
    `defense` is what the client does to its messages, if it is known.
    """

    def __init__(
        self,
        attack: SurrogateAttack,
        auxiliary: LabelledImages,
        smashed: Tensor,
        *,
        server: nn.Module | None,
        client: Architecture | None,
        label_private: bool,
        defense: Defense | None = None,
    ) -> None:
        self.attack, self.device, self.shape = attack, smashed.device, tuple(smashed.shape[1:])
        self._defense = _checked_defense(defense)
        self.auxiliary = Auxiliary(
            auxiliary,
            labelled=attack.uses_labels,
            batch=attack.batch,
            seed=attack.seed,
            device=self.device,
        )
        image = tuple(self.auxiliary.images.shape[1:])
        self.surrogate = self._fitting_surrogate(client, smashed)
        self.decoder = None
        if attack.decoder == "network":
            self.decoder = networks.decoder(self.shape, image, seed=attack.seed).to(self.device)
        self.server = None if server is None else server.eval().requires_grad_(False)
        width = self._server_width(smashed, label_private)
        self.head = self._simulated_head(width) if label_private and width else None
        critics = attack.critics(image, self.shape, 0 if label_private else width)
        self.critics = {on: critic for on, critic in critics.items() if attack.weights()[on]}
        for critic in self.critics.values():
            critic.to(self.device)
        self._scale = _Scale(smashed)
        self._flips = seeds.generator(attack.seed, "label flips")
        rates = {self.surrogate: attack.lr, self.head: attack.lr, self.decoder: attack.decoder_lr}
        self._rates = {part: rate for part, rate in rates.items() if part is not None}
        self._optimizer = Adam([{"params": list(part.parameters())} for part in self._rates])
        self.step = 0
        self.losses: dict[str, list[Tensor]] = {}
        self.loss_steps: list[int] = []

    def learn(self, smashed: Tensor, labels: Tensor | None, rate: float = 1.0) -> None:
        """Take one step beside the client's `smashed` (B, ...), of `labels` (B,) if known.

        `rate` is a factor on the learning rates. Raises AttackError if the networks diverged.
        """
        smashed = smashed.to(self.device, torch.float32)
        self._scale.follow(smashed)
        images, own_labels = self.auxiliary.batch(len(smashed), labels)
        made = self._defended(self.surrogate(images))
        self._check_finite(made)
        alike = Samples(self._scale(made), self._scale(smashed), own_labels, labels)
        compared, losses = {"smashed": alike}, {}
        if self.attack.mmd:
            losses["mmd"] = mk_mmd(alike)
        if self.decoder is not None:
            redone = self.decoder(made.detach())
            self._check_finite(redone)
            # Cross-entropy: with the squared error, dark images drive the sigmoid to 0, for good.
            losses["decoder"] = binary_cross_entropy(redone, images)
            if "images" in self.critics:
                compared["images"] = Samples(self.decoder(smashed), images, labels, own_labels)
        if own_labels is not None:
            losses["task"] = cross_entropy(self.classify(made), self._taught(own_labels))
        losses |= {on: critic.loss(compared[on]) for on, critic in self.critics.items()}
        self._descend(losses, rate)
        for on, critic in self.critics.items():
            critic.learn(compared[on])
        self._count(losses)

    def classify(self, smashed: Tensor) -> Tensor:
        """Logits of what the server's layers, and a simulated head if there is one, make of it."""
        assert self.server is not None
        features: Tensor = self.server(smashed.clone())  # its first layer may work in place
        return features if self.head is None else self.head(features)

    def follow(self, server: nn.Module) -> None:
        """Take over the weights of the honest `server`, which went on training."""
        if self.server is not None:
            self.server.load_state_dict(server.state_dict())

    def result(
        self, smashed: Tensor, knowledge: tuple[str, ...], seconds: float, interrupted: bool = False
    ) -> SurrogateResult:
        """Decode `smashed` (N, ...) and say what was found."""
        networks.check_smashed(smashed, self.shape)
        surrogate = _evaluating(self.surrogate)
        head = None if self.head is None else _evaluating(self.head)
        smashed = smashed.to(self.device, torch.float32)
        learned = None if self.decoder is None else _evaluating(self.decoder)
        decoder = learned or self._fitted(surrogate, smashed)
        inputs = self.attack.refine(surrogate, networks.in_chunks(decoder, smashed), smashed)
        if not inputs.isfinite().all():
            raise AttackError("the attack diverged: give a smaller lr")
        loss = networks.relative_error(surrogate, inputs, smashed)
        labels = (
            None if head is None else networks.in_chunks(self.classify, smashed).argmax(1).cpu()
        )
        return SurrogateResult(
            inputs,
            surrogate,
            {name: torch.stack(values).cpu() for name, values in self.losses.items()},
            torch.tensor(self.loss_steps),
            inputs.new_empty(0, *inputs.shape).cpu(),
            torch.tensor([], dtype=torch.int64),
            attack=type(self.attack).__name__,
            settings=asdict(self.attack) | {"steps": self.step},
            knowledge=(*knowledge, *self.auxiliary.knowledge),
            seed=self.attack.seed,
            device=str(self.device),
            seconds=seconds,
            feature_loss=loss,
            objective=loss,
            interrupted=interrupted,
            decoder=decoder,
            head=head,
            labels=labels,
        )

    def _fitted(self, surrogate: nn.Sequential, smashed: Tensor) -> nn.Sequential:
        """A decoder of what the surrogate, and a known defence, make of the attacker's images.

        If there are enough, it is made for `smashed` (N, ...), whose moments may be others.
        """
        images = self.auxiliary.images
        if self._defense is not None:
            images = images.repeat(min(DRAWS, max(1, ENOUGH // len(images))), 1, 1, 1)
        made = self._defended(networks.in_chunks(surrogate, images))
        self._check_finite(made)
        sent = Moments.of(smashed) if len(smashed) >= FEW else None
        return fitted_decoder(
            made, images, ridge=self.attack.ridge, seed=self.attack.seed, sent=sent
        )

    def _defended(self, made: Tensor) -> Tensor:
        """What the surrogate's messages would be; gradients pass as if nothing had been done."""
        if self._defense is None:
            return made
        sent = self._defense("smashed", made.detach())
        if sent.shape != made.shape:
            raise AttackError(
                f"the defense makes {tuple(sent.shape)} of smashed data {tuple(made.shape)}: give "
                "one that keeps their shape"
            )
        return made + (sent.to(made) - made).detach()

    def _taught(self, labels: Tensor) -> Tensor:
        if self.head is None:
            return labels
        return self.attack.known_labels(labels, self.auxiliary.classes, self._flips)

    def _descend(self, losses: dict[str, Tensor], rate: float) -> None:
        """Move all networks but the critics down the weighted sum of `losses`."""
        weights = self.attack.weights()
        self._optimizer.zero_grad()
        torch.stack(
            [weights.get(name, 1.0) * loss for name, loss in losses.items()]
        ).sum().backward()
        for group, full in zip(self._optimizer.param_groups, self._rates.values(), strict=True):
            group["lr"] = full * rate
        self._optimizer.step()

    def _count(self, losses: dict[str, Tensor]) -> None:
        """Count a step, and note its losses if due."""
        if self.step % max(1, self.attack.steps // LOSS_POINTS) == 0:
            for name, loss in losses.items():
                self.losses.setdefault(name, []).append(loss.detach())
            self.loss_steps.append(self.step)
        self.step += 1

    def _check_finite(self, *made: Tensor) -> None:
        """Raise AttackError if the networks make what are no numbers."""
        if not all(bool(part.isfinite().all()) for part in made):
            raise AttackError(
                f"the attack diverged before step {self.step}: its networks make NaN or infinite "
                "values. Give a smaller lr"
            )

    def _server_width(self, smashed: Tensor, label_private: bool) -> int:
        """How many numbers the server's part makes of an image; 0 if the attack does not use it.

        Raises AttackError if it makes no classes where it should, or fewer than the labels need.
        """
        if self.server is None:
            return 0
        try:
            made = networks.in_chunks(self.server, smashed[:1].clone())
        except RuntimeError as error:
            raise AttackError(
                f"the server's own part does not fit the smashed data: {error}. Take a view that "
                "shows the model of this cut"
            ) from None
        if label_private:
            return made.flatten(1).shape[1]
        if made.ndim != 2 or made.shape[1] < 2:
            raise AttackError(
                f"the server makes {tuple(made.shape[1:])} of an image, which are no classes to "
                "learn from: use FORA, which needs neither classes nor labels"
            )
        if self.auxiliary.classes > made.shape[1]:
            raise AttackError(
                f"the auxiliary labels go up to {self.auxiliary.classes - 1}, and the server has "
                f"{made.shape[1]} classes: leave out images of other classes"
            )
        return made.shape[1]

    def _simulated_head(self, width: int) -> nn.Sequential:
        """What stands for the client's head: one linear layer on the server's features."""
        with seeds.scope(self.attack.seed, "simulated head"):
            head = nn.Sequential(nn.Flatten(), nn.Linear(width, self.auxiliary.classes))
        return head.to(self.device)

    def _fitting_surrogate(self, client: Architecture | None, smashed: Tensor) -> nn.Sequential:
        """Make the surrogate; raise AttackError unless it makes smashed data of their shape."""
        images = self.auxiliary.images
        try:
            surrogate = self.attack.surrogate_of(client, images, smashed).to(self.device).eval()
            made = networks.in_chunks(surrogate, images[:1])
        except RuntimeError as error:
            raise AttackError(
                f"the auxiliary images do not fit the client's architecture: {error}. Give images "
                "of the size of the client's"
            ) from None
        if (shape := tuple(made.shape[1:])) != self.shape:
            raise AttackError(
                f"auxiliary images of shape {tuple(images.shape[1:])} give smashed data of shape "
                f"{shape}, the client sent {self.shape}: give images of the size of the client's"
            )
        _training(surrogate)
        return surrogate


class _Scale:
    """Brings each feature of smashed data to a mean of 0 and a variance of about 1."""

    def __init__(self, smashed: Tensor) -> None:
        self._moments = Moments.of(smashed)

    def follow(self, smashed: Tensor) -> None:
        """Move mean and variance a little towards those of a batch (B, ...)."""
        mean, variance = self._moments
        if len(smashed) > 1:  # one sample has no variance
            variance = variance.lerp(smashed.var(0, correction=0), MEMORY)
        self._moments = Moments(mean.lerp(smashed.mean(0), MEMORY), variance)

    def __call__(self, smashed: Tensor) -> Tensor:
        mean, variance = self._moments
        typical = variance.mean().sqrt()
        least = torch.where(typical > 0, FLOOR * typical, 1.0)
        return (smashed - mean) / (variance.sqrt() + least)


def _checked_defense(defense: Defense | None) -> Defense | None:
    """A copy, which draws random numbers of its own; AttackError if it cannot be called."""
    if defense is not None and not callable(defense):
        raise AttackError(
            "the defense is a function of a message's kind and its tensor, such as a client's "
            f"outgoing, not {defense!r}"
        )
    return copy.deepcopy(defense)


def _training(network: nn.Module) -> None:
    """Put normalisation into training mode, and all that draws random numbers into evaluation."""
    for layer in network.modules():
        layer.training = isinstance(layer, _BatchNorm)


def _evaluating(network: nn.Sequential) -> nn.Sequential:
    """A copy of `network` in evaluation mode."""
    return copy.deepcopy(network).eval()
