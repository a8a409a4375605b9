"""Attack 1 of the paper: recover the inputs and a copy of the client from smashed data alone."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam

from sltools import devices
from sltools.attacks import colours
from sltools.attacks.ensemble import Ensemble
from sltools.attacks.inversion import (
    InputSearch,
    input_shape,
)
from sltools.attacks.pixels import InputRange
from sltools.attacks.result import InversionResult
from sltools.errors import AttackError
from sltools.validation import attack_check
from sltools.view import View, fresh

RESCALE_EVERY = 25  # steps between two rescalings
RESCALE_UNTIL = 0.95  # of the steps: the rest settles
MIN_WHITE = 0.2
MIN_SIDE = 5  # pixels to a side, of which the outer are the edges: to tell colours by


@dataclass(frozen=True)
class UnSplit(InputSearch):
    """Model inversion and stealing by an honest-but-curious server (UnSplit, section 4).

    It optimises an estimate of the inputs together with a clone of the client's network, until the
    clone's activations equal the smashed data. It reads the smashed data and the architecture.

    By default all targets share one clone and both move at every step (`alternate` None); with
    `alternate=(a, b)` the inputs move for a steps, then the clone for b, and so on. Clone number r
    of `restarts` starts from the stream (`seed`, "clone r"); calling the attack returns the run
    with the least objective, which the attacker can see; `runs` returns all of them.

    Two degeneracies are corrected on the way. Darker images and a clone of larger weights explain
    the smashed data just as well and please the priors more, so that contrast would fade for ever:
    now and then each channel of the images is rescaled until the share `exposure` of its pixels is
    below 1, and the clone's first weights to match (None: never). That is an assumption on how
    images are exposed: where it is wrong, so are contrast and colours. (If the client's input range
    has both signs, negatives explain as much, and the same is done to images of which most is
    bright.) It needs a first layer that is a Conv2d (of one group) or Linear, or does nothing. And
    a unit of the clone that is off for all images has no gradient to switch it on again: its ReLUs
    pass negative inputs times `leak`, which falls to zero by half-time.

    With `photographs` (N, 3, H, W) it also sets the colours, for any mixture of them explains a
    linear layer just as well: they become what photographs have and networks expect (`colours`).
    It takes some tens of targets to tell.

    Raises AttackError for senseless settings, for smashed data that are not finite or not of this
    architecture, for a client without weights and for a search that diverged; NotObservable if the
    view shows no smashed data or no architecture.

    >>> from sltools import data, metrics, models, protocol
    >>> from sltools.attacks import UnSplit
    >>> digits = data.load("digits")
    >>> front, rest = models.cut(models.mnist_net(), "pool1")
    >>> session = protocol.train(front, rest, digits.train, epochs=1)
    >>> secret = digits.test.images[:2]
    >>> result = UnSplit(steps=200)(session.observe(secret))
    >>> result.knowledge
    ('client architecture', 'smashed')
    >>> mean_image = digits.train.images.mean(0).expand_as(secret)
    >>> bool((metrics.mse(result.inputs, secret) < 0.5 * metrics.mse(mean_image, secret)).all())
    True
    """

    alternate: tuple[int, int] | None = None
    clone_lr: float = 2e-3
    exposure: float | None = 0.99
    photographs: bool = False
    leak: float = 0.1
    restarts: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        attack_check.integer("restarts", self.restarts)
        attack_check.non_negative("clone_lr", self.clone_lr)
        attack_check.non_negative("leak", self.leak)
        if self.exposure is not None:
            attack_check.share("exposure", self.exposure)
        if self.photographs and self.exposure is None:
            raise AttackError(
                "photographs=True sets colours along with the exposure, so it needs one: leave "
                "exposure at 0.99, or set another"
            )
        if self.group is not None and self.exposure is not None:
            raise AttackError(
                "groups share a clone, and rescaling it for one spoils the others: give "
                "exposure=None with a group"
            )
        if self.alternate is not None:
            _check_alternate(self.alternate)

    @classmethod
    def published(
        cls,
        rounds: int = 1000,
        input_steps: int = 100,
        clone_steps: int = 100,
        *,
        seed: int = 0,
        device: str | None = None,
    ) -> "UnSplit":
        """The schedule of the paper's code: one image at a time, the clone carried over.

        `rounds` x (`input_steps` + `clone_steps`) steps of Adam (amsgrad, 1e-3) for each image,
        total variation 0.1, L2 1, no bounds on pixels and no scaling of the feature loss.

        >>> from sltools.attacks import UnSplit
        >>> paper = UnSplit.published()
        >>> f"{paper.steps:,} steps, in turns of {paper.alternate}"
        '200,000 steps, in turns of (100, 100)'
        """
        return cls(
            steps=rounds * (input_steps + clone_steps),
            alternate=(input_steps, clone_steps),
            group=1,
            tv=0.1,
            l2=1.0,
            l1=0.0,
            input_lr=1e-3,
            clone_lr=1e-3,
            amsgrad=True,
            cosine=False,
            bounded=False,
            scaled=False,
            exposure=None,
            leak=0.0,
            seed=seed,
            device=device,
        )

    def __call__(self, view: View, *, input_range: Any = (0.0, 1.0)) -> InversionResult:
        """Attack what `view` shows. Ctrl-C returns the partial result, marked `interrupted`.

        `input_range` says what the client's network is given for black and for white, if the server
        knows that the client standardises its images.
        """
        return min(self.runs(view, input_range=input_range), key=_ranking_key)

    def runs(self, view: View, *, input_range: Any = (0.0, 1.0)) -> list[InversionResult]:
        """Attack what `view` shows and return the result of every restart.

        >>> from sltools import data, models, protocol
        >>> from sltools.attacks import UnSplit
        >>> front, rest = models.cut(models.mnist_net(), "pool1")
        >>> images = data.load("digits").train[:64]
        >>> view = protocol.train(front, rest, images, epochs=1).observe(images.images[:1])
        >>> attack = UnSplit(steps=20, restarts=3)
        >>> runs = attack.runs(view)
        >>> best = attack(view)
        >>> best.objective == min(run.objective for run in runs)
        True
        """
        view = fresh(view)
        shape = input_shape(view)
        span = InputRange(input_range, shape[0])
        if self.photographs and not span.is_default:
            raise AttackError(
                "photographs=True tells colours by pixels in [0, 1], where black is 0: leave it "
                "out with an input_range"
            )
        if self.photographs and (shape[0] != 3 or min(shape[1:]) < MIN_SIDE):
            raise AttackError(
                "photographs=True is for photographs, with three channels (red, green, blue) of "
                f"{MIN_SIDE} x {MIN_SIDE} pixels or more, not {tuple(shape)}"
            )
        if not view.architecture.parameter_count:
            raise AttackError(
                "the client's layers have no weights, so there is no clone to search for and "
                "nothing to steal: grant client_model, which is no secret here, and use "
                "KnownWeightsInversion"
            )
        device = devices.find(self.device or view.smashed.device)
        clones = [
            view.architecture.build(self.seed, f"clone {number}").to(device)
            for number in range(self.restarts)
        ]
        return self.search(view, Ensemble(clones, span))

    def _active(self, step: int) -> tuple[bool, ...]:
        if self.alternate is None:
            return (True, True)
        input_steps, clone_steps = self.alternate
        inputs_turn = step % (input_steps + clone_steps) < input_steps
        return (inputs_turn, not inputs_turn)

    def _before_step(self, step: int, inputs: Tensor, networks: Ensemble) -> None:
        if step % RESCALE_EVERY == 0:
            networks.set_leak(self.leak * max(0.0, 1 - 2 * step / self.steps))
            if self.exposure is None or not 0 < step < RESCALE_UNTIL * self.steps:
                return
            (_recolour if self.photographs else _rescale_contrast)(inputs, networks, self.exposure)

    def _after_search(self, inputs: Tensor, networks: Ensemble) -> None:
        if self.photographs and self.exposure is not None:
            _recolour(inputs, networks, self.exposure)

    def _optimizers(self, inputs: Tensor, networks: Ensemble) -> list[Adam]:
        clone = Adam(networks.weights, lr=self.clone_lr, amsgrad=self.amsgrad, fused=True)
        return [*super()._optimizers(inputs, networks), clone]


def _ranking_key(result: InversionResult) -> float:
    """What the attacker ranks runs by; one that diverged comes last."""
    return math.inf if math.isnan(result.objective) else result.objective


def _rescale_contrast(inputs: Tensor, networks: Ensemble, share: float) -> None:
    """Rescale each channel of the images (E, N, C, H, W) to use [0, 1], and the weights to match.

    What the first layer computes stays the same, so it is scaled about what the network takes for
    0: black, unless it has another input range. A channel that is all but black, as that of a
    negative may be, is left alone: there is no contrast to restore.
    """
    first = networks.first_layer(inputs.shape[2:])
    if first is None:
        return
    weights = first.detach()
    size, _, channels, *area = inputs.shape
    span = networks.input_range
    seen = span.inputs(inputs)
    if span.signed:  # then their negatives explain as much, and most of an image is dark
        negative = seen.flatten(1).median(dim=1).values > 0
        sign = torch.where(negative, -1.0, 1.0).view(-1, 1, 1, 1, 1)
        seen = sign * seen
        weights *= sign.view(-1, *[1] * (weights.ndim - 1))
    high = span.relative_quantile(seen, share)
    high = high.masked_fill(high < MIN_WHITE, 1.0)
    inputs.copy_(span.pixels(seen / high.view(size, 1, channels, 1, 1)))
    if weights.ndim == 3:  # of a Linear layer, which meets each pixel
        weights *= high.repeat_interleave(math.prod(area), dim=1).unsqueeze(1)
    else:
        weights *= high.view(size, 1, channels, 1, 1)


def _recolour(inputs: Tensor, networks: Ensemble, share: float) -> None:
    """Give the images (E, N, 3, H, W) the colours of photographs, and change the weights to match.

    The share `share` of all values comes below 1. What the first layer computes stays the same.
    """
    first = networks.first_layer(inputs.shape[2:])
    if first is None:
        return
    weights = first.detach()
    by_channel = weights.view(*weights.shape[:2], 3, -1)
    matrix = colours.correction(inputs, by_channel)
    ordered = torch.einsum("edc,enchw->endhw", matrix, inputs).flatten(1).sort(dim=1).values
    high = ordered[:, int(share * (ordered.shape[1] - 1))].view(-1, 1, 1)
    matrix = matrix / high.masked_fill(high < MIN_WHITE, 1.0)
    inputs.copy_(torch.einsum("edc,enchw->endhw", matrix, inputs))
    by_channel.copy_(torch.einsum("eocp,ecd->eodp", by_channel, torch.linalg.inv(matrix)))


def _check_alternate(alternate: Any) -> None:
    pair = isinstance(alternate, (tuple, list)) and len(alternate) == 2
    counts = pair and all(isinstance(steps, int) and steps >= 0 for steps in alternate)
    if not counts or sum(alternate) < 1:
        raise AttackError(
            "alternate=(input steps, clone steps) takes two whole numbers, one of them at least 1, "
            f"not {alternate!r}"
        )
