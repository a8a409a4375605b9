"""Feature-space hijacking (FSHA): a malicious server that steers the client's network."""

import copy
import time
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy
from torch.optim import Adam

from sltools import seeds
from sltools.attacks import networks
from sltools.attacks.alignment import gradient_penalty
from sltools.attacks.inversion import CHECK_EVERY
from sltools.attacks.result import InversionResult
from sltools.errors import AttackError
from sltools.messages import Message
from sltools.protocol import Server
from sltools.validation import attack_check
from sltools.view import View, fresh


@dataclass(frozen=True)
class Hijacking:
    """Settings of the attack (Pasquini et al., CCS 2021, section 3, with a Wasserstein critic).

    For each gradient that it returns, the server trains pilot and decoder on `batch` public images
    at `pilot_lr`, then the critic for `critic_steps` steps at `critic_lr`, with gradient penalty
    times `penalty`. At the first message pilot and decoder have `warmup_steps` steps to themselves.

    The authors' code has 1e-5 for pilot, decoder and client, 1e-4 for the critic, one critic step,
    penalty 500 and no warm-up, for deeper clients and 10,000 steps and more; ours is for clients
    that learn at 1e-3. It also takes the penalty's norm over two of three axes; here over all.
    Raises AttackError for a number that is not finite, negative or, for a count, not whole.

    >>> from sltools.attacks import Hijacking
    >>> theirs = {"critic_steps": 1, "penalty": 500.0, "warmup_steps": 0}
    >>> authors = Hijacking(pilot_lr=1e-5, critic_lr=1e-4, **theirs)
    >>> authors.batch, authors.penalty / Hijacking().penalty
    (64, 50.0)
    """

    pilot_lr: float = 1e-3
    critic_lr: float = 1e-3
    critic_steps: int = 2
    penalty: float = 10.0
    warmup_steps: int = 100
    batch: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("critic_steps", "batch"):
            attack_check.integer(name, getattr(self, name))
        attack_check.integer("warmup_steps", self.warmup_steps, 0)
        attack_check.seed(self.seed)
        for name in ("pilot_lr", "critic_lr", "penalty"):
            attack_check.non_negative(name, getattr(self, name))


class HijackingServer(Server):
    """An honest server in all but one message: the dL/dz it returns is of a loss of its own.

    It trains a `pilot`, which makes of public images what the client shall make of private ones,
    a `decoder` that inverts the pilot, and a `critic` that tells the client's smashed data from the
    pilot's. The client is sent the gradient that makes the critic fail; then the decoder inverts
    the client as well. It knows `public_images` (N, C, H, W), in [0, 1], the size of the private
    ones, and what the client sends: its networks are made from shapes, at the first message.

    Works for vanilla and label-private training, for smashed data (B, C, H, W) or (B, D), on the
    device of the messages. Pilot, decoder, critic, order of the public images and penalty have
    random streams of their own. `options` are those of `Server`. Raises AttackError for images or
    smashed data it cannot work with.

    These are too few steps for images: it takes some thousand samples.

    >>> from sltools import data, models, protocol
    >>> from sltools.attacks import Hijacking, HijackingServer
    >>> digits = data.load("digits")
    >>> secret, public = digits.test.images[:2], digits.test.images[2:]
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> server = HijackingServer(rest, public, Hijacking(warmup_steps=10, batch=16))
    >>> session = protocol.train(front, server, digits.train[:160], epochs=1, batch_size=16)
    >>> server.steps, sorted(server.losses)
    (10, ['critic', 'decoder', 'penalty'])
    >>> result = server.invert(session.observe(secret))
    >>> tuple(result.inputs.shape), result.knowledge
    ((2, 1, 28, 28), ('smashed', 'public images'))
    """

    def __init__(
        self,
        model: nn.Sequential,
        public_images: Tensor,
        attack: Hijacking | None = None,
        **options: Any,
    ) -> None:
        super().__init__(model, **options)
        networks.check_images(public_images)
        if attack is not None and not isinstance(attack, Hijacking):
            raise AttackError(f"the settings are a Hijacking(...), not {attack!r}")
        self.attack = attack or Hijacking()
        self.public_images = public_images.detach().clone()
        self.steps = 0
        self.seconds = 0.0
        self._hijacker: _Hijacker | None = None
        self._losses: dict[str, list[Tensor]] = {"decoder": [], "critic": [], "penalty": []}
        self._loss_steps: list[int] = []

    def reply(self, message: Message) -> Message | None:
        """Answer as an honest server does, but with a gradient that hijacks the client."""
        answer = super().reply(message)
        if answer is None or answer.kind != "cut_gradient":
            return answer
        return replace(answer, payload=self.steer(answer.payload))

    def steer(self, honest: Tensor) -> Tensor:
        """Return the gradient that is sent in the place of the `honest` one (B, ...)."""
        assert self._smashed is not None
        return self._hijack(self._smashed.detach())

    @property
    def losses(self) -> dict[str, Tensor]:
        """Losses (R,) at `loss_steps` (R,), every 50 steps.

        "decoder" is the cross-entropy of public images and what becomes of them, "critic" how much
        higher it scores the client's data than the pilot's, "penalty" the unweighted penalty.
        """
        return {name: torch.stack(values).cpu() for name, values in self._losses.items() if values}

    @property
    def loss_steps(self) -> Tensor:
        """The steps (R,), counted from 0 over all trainings, at which `losses` were noted."""
        return torch.tensor(self._loss_steps)

    def reconstruct(self, smashed: Tensor) -> Tensor:
        """Decode smashed data (N, ...) to images (N, C, H, W), on the attack's device."""
        networks.check_smashed(smashed, self._require_hijacker().shape)
        hijacker = self._require_hijacker()
        return networks.in_chunks(hijacker.decoder, smashed.float().to(hijacker.device))

    def invert(self, view: View) -> InversionResult:
        """Decode the smashed data of `view`; the result's `clone` is the pilot."""
        start, view = time.perf_counter(), fresh(view)
        smashed, hijacker = view.smashed.float(), self._require_hijacker()
        inputs = self.reconstruct(smashed)
        loss = networks.relative_error(hijacker.pilot, inputs, smashed.to(inputs.device))
        return InversionResult(
            inputs,
            copy.deepcopy(hijacker.pilot),
            self.losses,
            self.loss_steps,
            inputs[None].cpu().clone(),  # a file holds no tensor twice
            torch.tensor([self.steps]),
            attack=type(self.attack).__name__,
            settings=asdict(self.attack),
            knowledge=(*view.knowledge, "public images"),
            seed=self.attack.seed,
            device=str(inputs.device),
            seconds=self.seconds + time.perf_counter() - start,
            feature_loss=loss,
            objective=loss,
        )

    def _hijack(self, smashed: Tensor) -> Tensor:
        """Learn from the client's `smashed` data and return the gradient for it."""
        start, sent, smashed = time.perf_counter(), smashed, smashed.float()
        if self._hijacker is None:
            networks.check_smashed(smashed)
            self._hijacker = _Hijacker(self.attack, self.public_images, smashed)
        networks.check_smashed(smashed, self._hijacker.shape)
        losses = self._hijacker.learn(smashed)
        if self.steps % CHECK_EVERY == 0:
            if not all(bool(loss.isfinite()) for loss in losses.values()):
                raise AttackError(
                    f"the attack's losses are no longer finite at step {self.steps}: lower "
                    "pilot_lr, critic_lr or the client's own learning rate"
                )
            for name, loss in losses.items():
                self._losses[name].append(loss)
            self._loss_steps.append(self.steps)
        gradient = self._hijacker.adversarial_gradient(smashed)
        self.steps += 1
        self.seconds += time.perf_counter() - start
        return gradient.to(sent.dtype)

    def _require_hijacker(self) -> "_Hijacker":
        if self._hijacker is None:
            raise AttackError(
                "this server has hijacked nobody yet: train a client with it first "
                "(protocol.train), then reconstruct"
            )
        return self._hijacker


class _Hijacker:
    """The attack's networks, optimisers and random streams."""

    def __init__(self, settings: Hijacking, public_images: Tensor, smashed: Tensor) -> None:
        self.settings = settings
        self.device = smashed.device
        self.shape = tuple(smashed.shape[1:])
        self._public = public_images.to(self.device)
        self._order = seeds.generator(settings.seed, "public order")
        self._interpolation = seeds.generator(settings.seed, "gradient penalty")
        image, seed = tuple(public_images.shape[1:]), settings.seed
        rectified = bool((smashed >= 0).all())  # the server sees whether a ReLU came last
        self.pilot = networks.pilot(image, self.shape, rectified=rectified, seed=seed)
        self.decoder = networks.decoder(self.shape, image, seed=seed)
        self.critic = networks.critic(self.shape, seed=seed)
        for network in (self.pilot, self.decoder, self.critic):
            network.to(self.device)
        own = [*self.pilot.parameters(), *self.decoder.parameters()]
        self._pilot_optimizer = Adam(own, lr=settings.pilot_lr)
        # Half the usual memory: the critic chases a client that moves.
        betas = (0.5, 0.999)
        self._critic_optimizer = Adam(self.critic.parameters(), settings.critic_lr, betas)
        for _ in range(settings.warmup_steps):
            self._train_autoencoder()

    def learn(self, smashed: Tensor) -> dict[str, Tensor]:
        """Train the three networks beside the client's `smashed` (B, ...); return the losses."""
        decoder_loss = self._train_autoencoder()
        for _ in range(self.settings.critic_steps):
            with torch.no_grad():
                piloted = self.pilot(self._public_batch(len(smashed)))
            gap = self.critic(smashed).mean() - self.critic(piloted).mean()
            penalty = gradient_penalty(self.critic, smashed, piloted, self._interpolation)
            self._critic_optimizer.zero_grad()
            (self.settings.penalty * penalty - gap).backward()
            self._critic_optimizer.step()
        return {"decoder": decoder_loss, "critic": gap.detach(), "penalty": penalty.detach()}

    def adversarial_gradient(self, smashed: Tensor) -> Tensor:
        """The gradient of the critic's mean score with respect to `smashed`: what is sent."""
        smashed = smashed.requires_grad_()
        return torch.autograd.grad(self.critic(smashed).mean(), smashed)[0]

    def _train_autoencoder(self) -> Tensor:
        """One step of pilot and decoder on public images."""
        images = self._public_batch(self.settings.batch)
        # Cross-entropy: with the squared error, dark images drive the sigmoid to 0 and hold it.
        loss = binary_cross_entropy(self.decoder(self.pilot(images)), images)
        self._pilot_optimizer.zero_grad()
        loss.backward()
        self._pilot_optimizer.step()
        return loss.detach()

    def _public_batch(self, size: int) -> Tensor:
        rows = torch.randint(len(self._public), (size,), generator=self._order)
        return self._public[rows.to(self.device)]
