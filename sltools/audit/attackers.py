"""The attackers of an audit, from the one who only listens to the one who steers the training.

Each is one attack at one level of knowledge: what keeps it from being tried on a system, how many
steps it may take, and what it found.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate

from sltools import metrics, protocol, seeds
from sltools.attacks import (
    FORA,
    PCAT,
    SDAR,
    Hijacking,
    HijackingServer,
    KnownWeightsInversion,
    UnSplit,
    networks,
)
from sltools.attacks.labels import direction_clusters
from sltools.attacks.regression import FEATURES, Fit, cross_validated, fitted_decoder
from sltools.attacks.surrogate import SurrogateAttack
from sltools.audit.system import System
from sltools.interrupts import finished

FEW_PUBLIC = 5  # samples, with fewer of which an attacker with data is not tried
RIDGES = (3e-6, 3e-4, 3e-2)  # of a decoder with too many inputs to try more
MOST_CROSS_VALIDATED = 2000  # inputs
PAIRS = 1000  # by which it is chosen how to fit a decoder
MOST_WEIGHTS = 100_000_000  # of a linear decoder, for which there is the memory
MOST_PAIRS = 2000  # that a linear decoder of many inputs is fitted to: an equation for each
MOST_FEATURES = 70_000  # numbers for each sample, which a fitted decoder has the memory for
COLOUR_TARGETS = 50  # from fewer, colours cannot be told
BATCH = 64
LEVELS = (
    "listens only",
    "knows the architecture",
    "has samples of its own",
    "has labelled samples",
    "knows the client's weights",
    "steers the training",
)
KNOWN_WEIGHTS = LEVELS[4]
GROUPS = "clusters of activations"


@dataclass(frozen=True, eq=False)
class Found:
    """What one attack found: images (T, C, H, W) of the targets, a copy of the client, groups.

    `groups` (M,) are clusters of all that was sent, without names. `settings`, `knowledge` and
    `objective` are those of the attack; it can see all three.
    """

    images: Tensor | None = None
    copy: nn.Module | None = None
    groups: Tensor | None = None
    settings: dict[str, Any] | None = None
    knowledge: tuple[str, ...] = ()
    objective: float | None = None


@dataclass(frozen=True)
class Attacker:
    """One attack of an audit.

    `lacking(system)` says why it cannot be tried, or "". `run(system, steps, seed)` tries it with
    `most` steps, or at least `least` if there is little time; both 0 for one that takes no steps.
    It raises KeyboardInterrupt if it was interrupted: half an attack would pass for a weak one.
    `is_seeded` says whether another seed may find something else.
    """

    name: str
    level: str
    source: str
    lacking: Callable[[System], str]
    run: Callable[[System, int, int], Found]
    least: int = 0
    most: int = 0
    is_seeded: bool = True

    def level_in(self, system: System) -> str:
        """Its level, where there are no weights to be known: who knows the network has it all."""
        known = system.is_weightless and self.level == KNOWN_WEIGHTS
        return LEVELS[1] if known else self.level


def _cluster(system: System, steps: int, seed: int) -> Found:
    """As many groups of activations as there are classes."""
    from sklearn.exceptions import ConvergenceWarning

    count = system.classes or int(system.sent.labels.max()) + 1  # type: ignore[union-attr]
    state = seeds.derive(seed, "k-means")
    with warnings.catch_warnings():  # of activations that differ less than classes do
        warnings.simplefilter("error", ConvergenceWarning)
        groups, _ = direction_clusters(system.smashed.flatten(1), count, state=state)
    return Found(groups=groups, settings={"clusters": count}, knowledge=("smashed", "classes"))


def _look(system: System, steps: int, seed: int) -> Found:
    """The activations as pictures: all if they have the inputs' shape, or the map of most variance.

    Each channel goes from its least value of all that was sent to its greatest.
    """
    shape = system.form.image_shape
    maps, chosen = system.smashed, "all"
    if _looks_like_inputs(system):
        maps = maps.view(-1, *shape)
    else:
        best = int(maps.var(0).mean((1, 2)).argmax())
        maps, chosen = maps[:, best : best + 1], str(best)
    low, high = maps.amin((0, 2, 3), keepdim=True), maps.amax((0, 2, 3), keepdim=True)
    shown = (maps[: system.targets] - low) / (high - low).clamp_min(1e-12)
    images = interpolate(shown, shape[1:], mode="bilinear").expand(-1, shape[0], -1, -1)
    return Found(images, settings={"map": chosen}, knowledge=("smashed", "shape of the inputs"))


def _looks_like_inputs(system: System) -> bool:
    sent, shape = tuple(system.smashed.shape[1:]), system.form.image_shape
    return sent in (shape, (math.prod(shape),))


def _unsplit(system: System, steps: int, seed: int) -> Found:
    shape = system.form.image_shape
    settings: dict[str, Any] = {}
    if shape[0] == 3 and min(shape[1:]) > 10:  # photographs have no black background
        settings = {"l1": 0.0, "tv_end": 0.05, "photographs": _sought(system) >= COLOUR_TARGETS}
    elif system.form.is_rows:
        settings = {"l1": 0.0, "tv": 0.0}
    attack = UnSplit(steps=steps, seed=seed, **settings)
    view = system.view(_sought(system))
    result = finished(attack(view))
    return _found(system, result)


def _known_weights_search(system: System, steps: int, seed: int) -> Found:
    attack = KnownWeightsInversion(steps=steps, seed=seed)
    found = _found(system, finished(attack(system.granted(system.targets))))
    return replace(found, copy=None)  # it had the client to begin with


def _known_weights_decoder(system: System, steps: int, seed: int) -> Found:
    assert system.client is not None and system.public is not None
    made = networks.in_chunks(system.client, system.public.images)
    sent = system.smashed[: system.targets]
    images, fit = decode(made, system.public.images, sent, seed)
    own = f"auxiliary images ({len(system.public)})"
    return Found(
        images,
        settings=fit._asdict(),
        knowledge=("client model (granted)", "smashed", own),
    )


def decode(made: Tensor, images: Tensor, sent: Tensor, seed: int) -> tuple[Tensor, Fit]:
    """Decode what was `sent` (T, ...) with a decoder fitted to pairs, and say how it was fitted.

    The pairs are smashed data `made` (N, ...) of `images` (N, C, H, W), N at least 2.
    """
    made, sent = _coarse(made), _coarse(sent)
    fit = _best_fit(made[:PAIRS], images[:PAIRS], seed)
    if fit.features == "linear" and made[0].numel() > MOST_CROSS_VALIDATED:
        made, images = made[:MOST_PAIRS], images[:MOST_PAIRS]
    decoder = fitted_decoder(made, images, **fit._asdict(), seed=seed)
    return networks.in_chunks(decoder, sent), fit


def _best_fit(made: Tensor, images: Tensor, seed: int) -> Fit:
    """How to fit a decoder to pairs of smashed data (N, ...) and images (N, C, H, W), N at least 2.

    Chosen on the pairs alone, one by one, or with many inputs on the last fifth of them.
    """
    if made[0].numel() <= MOST_CROSS_VALIDATED:
        return cross_validated(made, images, seed=seed)
    count = max(1, len(made) - len(made) // 5 - 1)

    def error(fit: Fit) -> float:
        decoder = fitted_decoder(made[:count], images[:count], **fit._asdict(), seed=seed)
        decoded = networks.in_chunks(decoder, made[count:])
        return metrics.mse(decoded, images[count:]).median().item()

    linear = made[0].numel() * images[0].numel() <= MOST_WEIGHTS
    kinds = FEATURES if linear else ("random",)
    return min((Fit(features, ridge) for features in kinds for ridge in RIDGES), key=error)


def _coarse(smashed: Tensor) -> Tensor:
    """Smashed data (N, ...), or the means of windows of maps that are too large to be decoded."""
    while smashed.ndim == 4 and smashed[0].numel() > MOST_FEATURES and min(smashed.shape[2:]) > 1:
        smashed = avg_pool2d(smashed, 2)
    return smashed


def _with_data(attack: SurrogateAttack) -> Callable[[System, int, int], Found]:
    """An attack of the family of surrogates, at the audit's steps and seed."""

    def run(system: System, steps: int, seed: int) -> Found:
        assert system.public is not None
        batch = min(BATCH, len(system.public))
        decoder = "network" if system.smashed[0].numel() > MOST_FEATURES else attack.decoder
        tried = replace(attack, steps=steps, seed=seed, batch=batch, decoder=decoder)
        return _found(system, finished(tried(system.view(), system.public)))

    return run


def _hijack(system: System, steps: int, seed: int) -> Found:
    """A fresh client trains with a malicious server, then sends the targets."""
    assert system.architecture is not None and system.rest_architecture is not None
    assert system.training is not None and system.public is not None and system.sent is not None
    front = system.architecture.build(seed, "hijacked client")
    rest = system.rest_architecture.build(seed, "hijacked rest")
    server = HijackingServer(rest, system.public.images, Hijacking(seed=seed))
    batch = min(BATCH, len(system.training))
    per_epoch = -(-len(system.training) // batch)
    epochs = max(1, steps // per_epoch)
    session = finished(
        protocol.train(front, server, system.training, epochs=epochs, batch_size=batch, seed=seed)
    )
    front.eval()
    sent = networks.in_chunks(front, system.sent.images[: system.targets])
    return Found(
        server.reconstruct(sent),
        settings={"steps": server.steps, "client epochs": len(session.losses)},
        knowledge=("smashed", "public images"),
    )


def _sought(system: System) -> int:
    """How many of what was sent are inverted at once; more tell the colours of photographs."""
    wanted = COLOUR_TARGETS if system.form.image_shape[0] == 3 else 0
    return min(max(system.targets, wanted), len(system.smashed))


def _found(system: System, result: Any) -> Found:
    images = result.inputs[: system.targets].cpu()
    return Found(
        images, result.clone, None, result.settings, result.knowledge, result.objective
    )  # fmt: skip


def _needs(*checks: tuple[Callable[[System], bool], str]) -> Callable[[System], str]:
    """The first reason that holds, or ""."""

    def lacking(system: System) -> str:
        return next((reason for fails, reason in checks if fails(system)), "")

    return lacking


_NO_LABELS = (lambda s: not s.is_labelled, "no labels are known, so groups could not be scored")
_NO_ARCHITECTURE = (
    lambda s: s.architecture is None,
    "the client's architecture is not known here: give the function that builds it",
)
_NO_PARAMETERS = (
    lambda s: s.is_weightless,
    "the client has no parameters: who knows its architecture has it",
)
_NO_MAPS = (
    lambda s: s.smashed.ndim < 4 and not _looks_like_inputs(s),
    "the activations are vectors, which show no picture",
)
_NO_WEIGHTS = (lambda s: s.client is None, "the client's weights were not given")
_NO_PUBLIC = (
    lambda s: s.public is None,
    "there are no samples for the attacker: give public ones",
)
_FEW_PUBLIC = (
    lambda s: len(s.public) < FEW_PUBLIC,
    f"there are fewer than {FEW_PUBLIC} samples for the attacker: give public ones, or more",
)
_NO_PUBLIC_LABELS = (
    lambda s: not s.public_is_labelled,
    "the attacker's samples have no labels of two classes: give labels",
)
_NO_REST = (
    lambda s: s.rest is None,
    "the server's part is not known: give the rest of the network",
)
_CLASSES = (
    lambda s: int(s.public.labels.max()) >= s.classes > 0,
    "the attacker's labels are of other classes than the server's",
)
_NO_TRAINING = (
    lambda s: s.training is None or len(s.training) < 2 or not s.is_labelled,
    "the client was not trained here: give labels and no weights, and its training can be steered",
)
_FEW_TO_TRAIN = (
    lambda s: len(s.training) < 5 * BATCH,
    f"a malicious server needs a client that trains on {5 * BATCH} samples or more: give about 750",
)

_NEEDED_FOR_LABELS = (_NO_REST, _NO_PUBLIC, _FEW_PUBLIC, _NO_PUBLIC_LABELS, _CLASSES)

# In the order they are tried in: what is cheap, then from the weakest to the strongest.
ATTACKERS = (
    Attacker(GROUPS, LEVELS[0], "k-means of the directions of the activations",
             _needs(_NO_LABELS), _cluster),
    Attacker("feature map, displayed", LEVELS[0], "the map that varies most, as a picture",
             _needs(_NO_MAPS), _look),
    Attacker("decoder, weights known", KNOWN_WEIGHTS, "least squares, cross-validated",
             _needs(_NO_WEIGHTS, _NO_PUBLIC, _FEW_PUBLIC), _known_weights_decoder),
    Attacker("UnSplit", LEVELS[1], "Erdoğan et al., WPES 2022",
             _needs(_NO_ARCHITECTURE, _NO_PARAMETERS), _unsplit, 200, 1000),
    Attacker("FORA", LEVELS[2], "Xu et al., CVPR 2024", _needs(_NO_PUBLIC, _FEW_PUBLIC),
             _with_data(FORA()), 100, 500),
    Attacker("SDAR", LEVELS[3], "Zhu et al., NDSS 2025",
             _needs(_NO_ARCHITECTURE, _NO_PARAMETERS, *_NEEDED_FOR_LABELS), _with_data(SDAR()),
             100, 1000),
    Attacker("PCAT", LEVELS[3], "Gao and Zhang, USENIX Security 2023",
             _needs(*_NEEDED_FOR_LABELS), _with_data(PCAT()), 100, 1000),
    Attacker("search, weights known", KNOWN_WEIGHTS, "He et al., ACSAC 2019",
             _needs(_NO_WEIGHTS), _known_weights_search, 100, 500, is_seeded=False),
    Attacker("feature-space hijacking", LEVELS[5], "Pasquini et al., CCS 2021",
             _needs(_NO_PUBLIC, _FEW_PUBLIC, _NO_TRAINING, _FEW_TO_TRAIN, _NO_PARAMETERS), _hijack,
             300, 2000),
)  # fmt: skip
