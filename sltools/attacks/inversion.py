"""What inversion attacks share: priors on images, one search, one kind of result."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from sltools import devices
from sltools.attacks.ensemble import Ensemble
from sltools.attacks.pixels import InputRange
from sltools.attacks.result import InversionResult
from sltools.errors import AttackError
from sltools.interrupts import keep_partial
from sltools.progress import bar
from sltools.validation import attack_check
from sltools.view import View

CHECK_EVERY = 50  # steps between two looks at the loss: each look waits for the device
# Images times networks that are differentiated at once, which bounds the memory. What a CPU works
# on should fit into its caches: with 1,024 the paper's CIFAR-10 network takes three times as long.
CHUNK = {"cpu": 64, "cuda": 1024}
LOSS_POINTS = 200  # points of a loss curve
TV_DECAY_UNTIL = 0.8  # of the steps: the rest settles


def total_variation(images: Tensor) -> Tensor:
    """Mean squared difference of neighbouring pixels, down plus across: (..., N, C, H, W) to (...).

    As in the reference code (util.py). Images of one row have nothing below each other: 0.

    >>> import torch
    >>> from sltools.attacks.inversion import total_variation
    >>> stripes = torch.tensor([[0.0, 1.0], [0.0, 1.0]]).view(1, 1, 2, 2)
    >>> total_variation(stripes), total_variation(torch.ones(1, 1, 2, 2))
    (tensor(1.), tensor(0.))
    """
    down = (images[..., 1:, :] - images[..., :-1, :]).square().flatten(-4)
    across = (images[..., :, 1:] - images[..., :, :-1]).square().flatten(-4)
    return sum(
        (part.mean(-1) for part in (down, across) if part.shape[-1]),
        start=images.new_zeros(images.shape[:-4]),
    )


def energy(images: Tensor) -> Tensor:
    """Mean squared pixel, the paper's L2 prior for dark images: (..., N, C, H, W) to (...).

    >>> import torch
    >>> from sltools.attacks.inversion import energy
    >>> energy(torch.full((1, 1, 2, 2), 0.5))
    tensor(0.2500)
    """
    return images.square().flatten(-4).mean(-1)


def brightness(images: Tensor) -> Tensor:
    """Mean absolute pixel, an L1 prior for black backgrounds: (..., N, C, H, W) to (...).

    >>> import torch
    >>> from sltools.attacks.inversion import brightness
    >>> brightness(torch.full((1, 1, 2, 2), 0.5))
    tensor(0.5000)
    """
    return images.abs().flatten(-4).mean(-1)


def cosine(step: int, steps: int) -> float:
    """The factor on a learning rate that falls from 1 to 0 along a cosine.

    >>> from sltools.attacks.inversion import cosine
    >>> cosine(0, 100), cosine(50, 100), cosine(100, 100)
    (1.0, 0.5, 0.0)
    """
    return (1 + math.cos(math.pi * step / steps)) / 2


@dataclass(frozen=True)
class InputSearch:
    """Settings of a search for the inputs that best explain smashed data.

    The objective is feature loss + `tv` x total variation + `l2` x energy + `l1` x brightness. The
    feature loss is the mean squared error to the smashed data, divided by their variance if
    `scaled`: the weights of the priors then mean the same at every cut. `steps` are spent on each
    group of `group` targets (None: all targets at once). Pixels start at 0.5 and, if `bounded`, are
    clamped to [0, 1] after each step. Learning rates fall to zero along a cosine if `cosine`. With
    `tv_end`, the weight of total variation falls from `tv` to it, by the same factor at each step:
    what kept the search on the way to images in the beginning blurs them in the end. The search
    ends early once the feature loss has not improved by 1% for `patience` steps (None:
    never). About `snapshots` copies of the reconstructions are kept on the way.

    Images are sought as pixels: black is 0 and white is 1, for the start (0.5), the bounds, the
    priors and `input_lr`. The networks meet, and the result holds, what that is in the client's
    `input_range`, by default the same: see `pixels.InputRange`.

    The same `seed` gives the same bits on one CPU with as many threads; elsewhere, and on CUDA from
    run to run, rounding differs, and Adam turns the sign of a tiny gradient into a step.

    Raises AttackError for a count below 1 and for a weight or a rate that is negative or not
    finite; a search raises it for data that are not finite or do not fit, and if it diverged.
    """

    steps: int = 1000
    group: int | None = None
    tv: float = 0.5
    tv_end: float | None = None
    l2: float = 0.0
    l1: float = 0.05
    input_lr: float = 5e-2
    amsgrad: bool = False
    cosine: bool = True
    bounded: bool = True
    scaled: bool = True
    patience: int | None = None
    snapshots: int = 10
    seed: int = 0
    device: str | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "group", "patience", "snapshots"):
            value = getattr(self, name)
            if name in ("steps", "snapshots") or value is not None:
                attack_check.integer(name, value)
        attack_check.seed(self.seed)
        for name in ("tv", "l2", "l1", "input_lr"):
            attack_check.non_negative(name, getattr(self, name))
        if self.tv_end is not None:
            attack_check.non_negative("tv_end", self.tv_end)
            if not self.tv_end * self.tv > 0:
                raise AttackError(
                    "the weight of total variation falls by a factor, which zero is not: give tv "
                    f"and tv_end above 0, not {self.tv!r} and {self.tv_end!r}"
                )

    def search(self, view: View, networks: Ensemble) -> list[InversionResult]:
        """Explain the smashed data of `view` with each of `networks`; return a result for each."""
        start = time.perf_counter()
        targets = as_targets(view.smashed).to(devices.find(self.device or view.smashed.device))
        shape = input_shape(view)
        inputs = torch.full((networks.size, len(targets), *shape), 0.5, device=targets.device)
        _check_fit(networks, inputs, targets)
        size = self.group or len(targets)
        groups = list(zip(inputs.split(size, dim=1), targets.split(size), strict=True))
        trace = _Trace(self.steps * len(groups), self.snapshots, self.bounded)
        with bar(None, "inverting", total=trace.total) as progress, keep_partial() as work:
            for found, wanted in groups:
                for losses in self._search_group(found, wanted, networks):
                    trace.record(losses, inputs)
                    progress.update()
        self._after_search(inputs, networks)
        if self.bounded:
            inputs.clamp_(0, 1)
        networks.set_leak(0.0)
        trace.snapshot(inputs)
        span = networks.input_range
        told = {} if span.is_default else {"input_range": span.bounds}
        explained = self._set_gradients(
            inputs, targets, self._scale(targets), networks, self._tv_weight(self.steps), []
        )
        common: dict[str, Any] = {
            "attack": type(self).__name__,
            "settings": asdict(self) | told,
            "knowledge": (*view.knowledge, *("input range" for _ in told)),
            "seed": self.seed,
            "device": str(targets.device),
            "seconds": time.perf_counter() - start,
            "interrupted": work.interrupted,
        }
        if explained["total"].isnan().all():
            raise AttackError(
                "the search diverged, from every start: its objective is not a number. Give "
                "smaller learning rates or priors"
            )
        return [
            InversionResult(
                span.inputs(inputs[i]).clone(),
                networks.member(i),
                **trace.of(i, span),
                **common,
                feature_loss=explained["feature"][i].item(),
                objective=explained["total"][i].item(),
            )
            for i in range(networks.size)
        ]

    def _scale(self, targets: Tensor) -> Tensor:
        """What the squared error is divided by: the variance of the targets, if they vary."""
        variance = targets.var(correction=0)
        return variance if self.scaled and variance > 0 else torch.ones_like(variance)

    def _active(self, step: int) -> tuple[bool, ...]:
        """Say which optimisers move at step number `step`."""
        return (True,)

    def _before_step(self, step: int, inputs: Tensor, networks: Ensemble) -> None:
        """Change inputs and networks in place before step number `step`."""

    def _after_search(self, inputs: Tensor, networks: Ensemble) -> None:
        """Change inputs and networks in place after the last step."""

    def _optimizers(self, inputs: Tensor, networks: Ensemble) -> list[Adam]:
        """Make the optimiser of the inputs, and after it those of a subclass."""
        fused = inputs.is_contiguous()  # torch's is wrong, and silent, for any other layout
        return [Adam([inputs], lr=self.input_lr, amsgrad=self.amsgrad, fused=fused)]

    def _search_group(
        self, found: Tensor, wanted: Tensor, networks: Ensemble
    ) -> Iterator[dict[str, Tensor]]:
        """Move `found` (E, n, C, H, W) in place to explain `wanted` (n, ...); yield the losses."""
        inputs = found.detach().requires_grad_()  # shares the memory of `found`
        scale = self._scale(wanted)
        optimizers = self._optimizers(inputs, networks)
        stopping = _EarlyStopping(self.patience)
        for step in range(self.steps):
            self._before_step(step, inputs.detach(), networks)
            active = [
                opt for opt, moves in zip(optimizers, self._active(step), strict=True) if moves
            ]
            losses = self._set_gradients(
                inputs, wanted, scale, networks, self._tv_weight(step), _parameters(active)
            )
            yield losses
            _step_optimizers(active, self._lr_factor(step))
            if self.bounded:
                inputs.data.clamp_(0, 1)
            if step % CHECK_EVERY == 0 and stopping.should_stop(step, losses["feature"]):
                break

    def _set_gradients(
        self,
        inputs: Tensor,
        targets: Tensor,
        scale: Tensor,
        networks: Ensemble,
        tv: float,
        moving: Sequence[Tensor],
    ) -> dict[str, Tensor]:
        """Set the gradients of `moving`, and of nothing else, and return the losses.

        All losses are means over the targets, so they are added up chunk by chunk.
        """
        for tensor in moving:
            tensor.grad = torch.zeros_like(tensor)
        sums: dict[str, Tensor] = {}
        size = max(1, CHUNK.get(inputs.device.type, 1024) // networks.size)
        for rows in torch.arange(len(targets)).split(size):
            chunk, share = slice(rows[0], rows[-1] + 1), len(rows) / len(targets)
            part = inputs.detach()[:, chunk].requires_grad_()
            with torch.set_grad_enabled(bool(moving)):
                losses = self._losses(part, targets[chunk], scale, networks, tv)
            if moving:
                sought = [part if tensor is inputs else tensor for tensor in moving]
                found = torch.autograd.grad(share * losses["total"].sum(), sought)
                for tensor, gradient in zip(moving, found, strict=True):
                    assert tensor.grad is not None
                    (tensor.grad[:, chunk] if tensor is inputs else tensor.grad).add_(gradient)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0) + share * value.detach()
        return sums

    def _losses(
        self, inputs: Tensor, targets: Tensor, scale: Tensor, networks: Ensemble, tv: float
    ) -> dict[str, Tensor]:
        """The terms of the objective, unweighted, and their weighted "total": each (E,)."""
        feature = ((networks(inputs) - targets).square() / scale).flatten(1).mean(1)
        terms = {
            "feature": feature,
            "tv": total_variation(inputs),
            "l2": energy(inputs),
            "l1": brightness(inputs),
        }
        total = feature + tv * terms["tv"]
        for name, weight in (("l2", self.l2), ("l1", self.l1)):
            if weight:  # else it needs no gradient
                total = total + weight * terms[name]
        return terms | {"total": total}

    def _tv_weight(self, step: int) -> float:
        """The weight of total variation at step number `step`."""
        if self.tv_end is None:
            return self.tv
        done = min(1.0, step / (TV_DECAY_UNTIL * self.steps))
        return self.tv * (self.tv_end / self.tv) ** done

    def _lr_factor(self, step: int) -> float:
        """The factor on the learning rates at step number `step`."""
        return cosine(step, self.steps) if self.cosine else 1.0


def input_shape(view: View) -> tuple[int, ...]:
    """The shape (C, H, W) of the images sought; raise AttackError if it is not known."""
    shape = view.architecture.input_shape
    if len(shape) != 3:
        raise AttackError(
            "inversion needs to know the shape of the images, (C, H, W), and the architecture says "
            f"{shape}: make it with Architecture.of(network, input_shape=...)"
        )
    return shape


def as_targets(smashed: Tensor) -> Tensor:
    """Return `smashed` (N, ...) as float32; AttackError if empty, of integers or not finite."""
    if len(smashed) == 0:
        raise AttackError("there are no targets: observe at least one image")
    if not smashed.is_floating_point():
        raise AttackError(f"smashed data must be numbers like float32, not {smashed.dtype}")
    smashed = smashed.float()  # a client may compute in half or in double precision
    if not smashed.isfinite().all():
        raise AttackError(
            "the smashed data contain NaN or infinite values, which no input explains; look at the "
            "victim's training loss and train it again with a smaller learning rate"
        )
    return smashed


def _check_fit(networks: Ensemble, inputs: Tensor, targets: Tensor) -> None:
    """Raise AttackError unless the networks make activations of the targets' shape."""
    try:
        with torch.no_grad():
            shape = networks(inputs[:, :1]).shape[2:]
    except RuntimeError as error:
        raise AttackError(f"the architecture does not fit its inputs: {error}") from None
    if shape != targets.shape[1:]:
        raise AttackError(
            f"the architecture does not fit the smashed data: it makes {tuple(shape)}, the client "
            f"sent {tuple(targets.shape[1:])}. Is it the architecture of this cut?"
        )


def _parameters(optimizers: Sequence[Adam]) -> list[Tensor]:
    """What the optimisers move."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    return [tensor for group in groups for tensor in group["params"]]


def _step_optimizers(optimizers: Sequence[Adam], rate: float) -> None:
    """Move what `optimizers` hold down its gradients."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = optimizer.defaults["lr"] * rate
        optimizer.step()


class _EarlyStopping:
    """Notices when no network's feature loss has improved by 1% for `patience` steps."""

    def __init__(self, patience: int | None) -> None:
        self.patience = patience
        self.best: list[float] = []
        self.since: list[int] = []

    def should_stop(self, step: int, feature_losses: Tensor) -> bool:
        if self.patience is None:
            return False
        losses = feature_losses.tolist()
        self.best = self.best or [math.inf] * len(losses)
        self.since = self.since or [step] * len(losses)
        for member, loss in enumerate(losses):
            if loss < 0.99 * self.best[member]:
                self.best[member], self.since[member] = loss, step
        return all(step - since >= self.patience for since in self.since)


class _Trace:
    """Losses and snapshots on the way. They stay on the device until the search is over."""

    def __init__(self, total: int, snapshots: int, bounded: bool) -> None:
        self.total = total
        self._bounded = bounded
        self._record_every = max(1, total // LOSS_POINTS)
        self._snapshot_every = max(1, total // snapshots)
        self.step = 0
        self._losses: list[dict[str, Tensor]] = []
        self._loss_steps: list[int] = []
        self._snapshots: list[Tensor] = []  # of each network (room, N, C, H, W)
        self._snapshot_steps: list[int] = []

    def record(self, losses: dict[str, Tensor], inputs: Tensor) -> None:
        """Count a step; keep its losses and the inputs (E, N, C, H, W) it began with, if due."""
        if self.step % self._record_every == 0:
            self._losses.append({name: value.detach() for name, value in losses.items()})
            self._loss_steps.append(self.step)
        if self.step % self._snapshot_every == 0:
            self.snapshot(inputs)
        self.step += 1

    def snapshot(self, inputs: Tensor) -> None:
        if not self._snapshots:  # room for all; to stack them in the end would take twice as much
            room = math.ceil(self.total / self._snapshot_every) + 1
            self._snapshots = [images.new_empty(room, *images.shape) for images in inputs.detach()]
        for kept, images in zip(self._snapshots, inputs.detach(), strict=True):
            place = kept[len(self._snapshot_steps)].copy_(images)
            if self._bounded:
                place.clamp_(0, 1)
        self._snapshot_steps.append(self.step)

    def of(self, member: int, span: InputRange) -> dict[str, Any]:
        """The trace of one network of the ensemble, as fields of an InversionResult."""
        names = self._losses[0] if self._losses else ()
        kept = self._snapshots[member][: len(self._snapshot_steps)]
        return {
            "losses": {
                name: torch.stack([losses[name][member] for losses in self._losses]).cpu()
                for name in names
            },
            "loss_steps": torch.tensor(self._loss_steps),
            "snapshots": span.inputs(kept).cpu(),
            "snapshot_steps": torch.tensor(self._snapshot_steps),
        }
