"""Inversion by a trained network: public images teach a decoder what smashed data look like."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy
from torch.optim import Adam

from sltools import devices, saved, seeds
from sltools.attacks import networks
from sltools.attacks.inversion import (
    LOSS_POINTS,
    as_targets,
    cosine,
)
from sltools.attacks.pixels import POOR_FIT, InputRange, warn_of_range
from sltools.attacks.result import InversionResult
from sltools.errors import AttackError
from sltools.interrupts import keep_partial
from sltools.progress import bar
from sltools.validation import attack_check
from sltools.view import View, fresh


@dataclass(frozen=True)
class DecoderInversion:
    """Train a decoder on pairs (smashed data, image) of public images, then decode the view's.

    (He et al., ACSAC 2019, the black-box attack: their pairs come from asking the client's model,
    ours from a copy of it.) `steps` of Adam at `lr`, falling to zero along a cosine, on `batch`
    images each. About `snapshots` copies of the reconstructions are kept on the way. Pixels are
    bounded to [0, 1], or to the client's `input_range`, by the decoder's last layer. Weights come
    from the stream (`seed`, "decoder"), the order of the public images from (`seed`, "public
    order").

    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import DecoderInversion
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, digits.train, epochs=1)
    >>> secret, public = digits.test.images[:2], digits.test.images[2:]
    >>> view = session.observe(secret, grants=["client_model"])
    >>> result = DecoderInversion(steps=50, batch=16)(view, public)
    >>> result.knowledge
    ('client model (granted)', 'smashed', 'public images')
    >>> mean_image = public.mean(0).expand_as(secret)
    >>> bool((metrics.mse(result.inputs, secret) < metrics.mse(mean_image, secret)).all())
    True
    """

    steps: int = 1000
    lr: float = 2e-3
    batch: int = 64
    snapshots: int = 10
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "snapshots"):
            attack_check.integer(name, getattr(self, name))
        attack_check.non_negative("lr", self.lr)
        attack_check.seed(self.seed)

    def __call__(
        self,
        view: View,
        public_images: Tensor,
        *,
        front: nn.Sequential | None = None,
        defense: Callable[[str, Tensor], Tensor] | None = None,
        input_range: Any = (0.0, 1.0),
    ) -> InversionResult:
        """Attack what `view` shows, knowing `public_images` (N, C, H, W).

        These are as the client's network gets its own: in [0, 1] or, if they are standardised
        there, in the `input_range` (black, white). So are the reconstructions.

        `front` makes smashed data of public images: a stolen copy of the client (a clone of
        UnSplit), or by default the client's own model, which the view must grant ("client_model").
        `defense` is what the client does to its messages, with the signature of its `outgoing`: an
        attacker who knows of it trains on defended data. The result's `feature_loss` is that of the
        front alone, without it. Ctrl-C returns the partial result, marked `interrupted`. It warns
        if inputs outside the range would explain the smashed data far better. Raises NotObservable
        without a grant and AttackError for data that do not fit each other.
        """
        start = time.perf_counter()
        span = networks.check_images(public_images, input_range)
        view = fresh(view)
        smashed = view.smashed
        networks.check_smashed(smashed)
        smashed = as_targets(smashed)
        device = devices.find(self.device or smashed.device)
        extra = ["public images"]
        if front is not None:
            extra.append("stolen client")
        if defense is not None:
            extra.append("defence")
        told = {} if span.is_default else {"input_range": span.bounds}
        extra += ["input range" for _ in told]
        front = view.client_model if front is None else saved.without_sample_gradients(front)
        front = front.to(device, torch.float32).eval()
        decoder = networks.decoder(smashed.shape[1:], public_images.shape[1:], seed=self.seed)
        state = _TrainingState(decoder.to(device), smashed.to(device))
        with keep_partial() as work:
            pixels = span.pixels(public_images.to(device)).clamp(0, 1)
            self._train(state, _SimulatedClient(front, defense, span), pixels)
        state.snapshot()
        snapshots = span.inputs(torch.stack(state.snapshots))
        inputs = snapshots[-1].clone()
        loss = networks.relative_error(front, inputs, state.smashed)
        if loss > POOR_FIT and defense is None and not work.interrupted:
            warn_of_range(front, state.smashed, inputs.shape[1:], span)
        return InversionResult(
            inputs,
            front,
            {"decoder": torch.stack(state.losses).cpu()} if state.losses else {},
            torch.tensor(state.loss_steps),
            snapshots.cpu(),
            torch.tensor(state.snapshot_steps),
            attack=type(self).__name__,
            settings=asdict(self) | told,
            knowledge=(*view.knowledge, *extra),
            seed=self.seed,
            device=str(device),
            seconds=time.perf_counter() - start,
            feature_loss=loss,
            objective=loss,
            interrupted=work.interrupted,
        )

    def _train(self, state: "_TrainingState", sender: "_SimulatedClient", images: Tensor) -> None:
        optimizer = Adam(state.decoder.parameters(), lr=self.lr)
        order = seeds.generator(self.seed, "public order")
        for step in bar(range(self.steps), "decoder"):
            rows = torch.randint(len(images), (self.batch,), generator=order).to(images.device)
            if step % max(1, self.steps // self.snapshots) == 0:
                state.snapshot()
            sent = sender(images[rows], state.smashed.shape[1:])
            # Cross-entropy: with the squared error, dark images drive the sigmoid to 0 and hold it.
            loss = binary_cross_entropy(state.decoder(sent), images[rows])
            optimizer.zero_grad()
            loss.backward()
            rate = cosine(step, self.steps)
            optimizer.param_groups[0]["lr"] = self.lr * rate
            optimizer.step()
            state.count(loss.detach(), max(1, self.steps // LOSS_POINTS))


class _SimulatedClient:
    """What the attacker believes the client sends for images."""

    def __init__(
        self,
        front: nn.Sequential,
        defense: Callable[[str, Tensor], Tensor] | None,
        span: InputRange,
    ) -> None:
        self._front = front
        self._span = span
        self._defense = defense

    def __call__(self, images: Tensor, shape: torch.Size) -> Tensor:
        """Return the smashed data of `images`, in [0, 1]; AttackError unless each has `shape`."""
        try:
            with torch.no_grad():
                made: Tensor = self._front(self._span.inputs(images))
                made = made if self._defense is None else self._defense("smashed", made).float()
        except RuntimeError as error:
            raise AttackError(f"the public images do not fit the client: {error}") from None
        if made.shape[1:] != shape:
            raise AttackError(
                f"the public images give smashed data of shape {tuple(made.shape[1:])}, the client "
                f"sent {tuple(shape)}: take images of the client's size and a model of this cut"
            )
        return made


class _TrainingState:
    """A decoder on its way, with losses and snapshots of what it makes of the smashed data."""

    def __init__(self, decoder: nn.Sequential, smashed: Tensor) -> None:
        self.decoder = decoder
        self.smashed = smashed
        self.losses: list[Tensor] = []
        self.loss_steps: list[int] = []
        self.snapshots: list[Tensor] = []
        self.snapshot_steps: list[int] = []
        self._step = 0

    def count(self, loss: Tensor, every: int) -> None:
        """Count a step; keep its loss if due."""
        if self._step % every == 0:
            self.losses.append(loss)
            self.loss_steps.append(self._step)
        self._step += 1

    def snapshot(self) -> None:
        """Keep what the decoder makes of the smashed data now."""
        self.snapshots.append(networks.in_chunks(self.decoder, self.smashed))
        self.snapshot_steps.append(self._step)
