"""What attacks found, scored beside what a guess without any attack has."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, NamedTuple

import torch
from scipy.stats import binomtest
from torch import Tensor, nn

from sltools import experiments, metrics
from sltools.attacks import networks
from sltools.audit.attackers import Attacker, Found
from sltools.audit.system import System
from sltools.audit.training import fit
from sltools.data import Split

RIVAL_SECONDS = 20.0
MOST_OF_RIVAL = 500  # samples, of which a support vector machine learns from nine copies each


class Share(NamedTuple):
    """So many of so many, such as the images that were told apart.

    >>> from sltools.audit.findings import Share
    >>> str(Share(9, 10))
    '90% (9 of 10; 60% to 98%)'
    """

    right: int
    of: int

    @classmethod
    def where(cls, right: Tensor) -> "Share":
        """How many of `right` (N,) are True."""
        return cls(int(right.sum()), len(right))

    @property
    def value(self) -> float:
        """From 0 to 1."""
        return self.right / self.of

    @property
    def interval(self) -> tuple[float, float]:
        """The 95% interval of Wilson's score."""
        found = binomtest(self.right, self.of).proportion_ci(method="wilson")
        return float(found.low), float(found.high)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.0%} ({self.right} of {self.of}; {low:.0%} to {high:.0%})"


@dataclass(frozen=True)
class Scores:
    """One run of an attack, scored; None where there is nothing to score.

    `raw_mse` is the median over the targets, `worst_mse` the greatest. `closer` counts the targets
    whose reconstruction is nearer to the truth than the best guess without an attack, `identified`
    those that are more like their own original than like any other target. `structure` is the SSIM
    of grey images whose contrast and brightness are set right, `shaped` counts the targets of which
    it is above that of the guess and of flat grey. `accuracy` and `agreement` are those of the
    copy, before the server's part. `groups` is the share of samples that are in a group of their
    class, under the names that suit best. `objective` is the attack's own, which it can see.
    """

    raw_mse: float | None = None
    worst_mse: float | None = None
    aligned_mse: float | None = None
    ssim: float | None = None
    structure: float | None = None
    shaped: Share | None = None
    closer: Share | None = None
    identified: Share | None = None
    accuracy: Share | None = None
    agreement: Share | None = None
    groups: Share | None = None
    objective: float | None = None


@dataclass(frozen=True)
class Finding:
    """An attacker and the runs there were of it; without any, `reason` says why."""

    attacker: str
    level: str
    source: str
    reason: str = ""
    settings: dict[str, Any] | None = None
    knowledge: Sequence[str] = ()
    seconds: float = 0.0  # of the first run
    runs: Sequence[Scores] = ()

    @property
    def middle(self) -> Scores | None:
        """The run of the median error, or of the median copy, or of the median groups."""
        if not self.runs:
            return None
        return sorted(self.runs, key=_order)[(len(self.runs) - 1) // 2]

    @property
    def kept(self) -> Scores | None:
        """The run of the least objective, which the attacker would keep, if there are several."""
        runs = [(run.objective, run) for run in self.runs if run.objective is not None]
        return min(runs, key=lambda pair: pair[0])[1] if len(runs) > 1 else None


@dataclass(frozen=True)
class Guesses:
    """What somebody reaches who attacks nothing, on the same samples.

    Errors are medians over the targets: `blank` of black, `mean` of the mean of the attacker's (or
    of what was sent), `class_mean` of the mean of the class. `victim` is the accuracy of client and
    server, `untrained` that of a fresh client before the server's part, and `rivals` those of
    classifiers that saw no activations, each with its agreement. `majority` always says the most
    frequent class; `shuffled` is what groups dealt out at random have. `identified`, `aligned_mse`
    and `structure` are those of the best guess of images, see `Scores`.
    """

    blank: float | None = None
    mean: float | None = None
    class_mean: float | None = None
    victim: Share | None = None
    untrained: Share | None = None
    untrained_agreement: Share | None = None
    rivals: dict[str, tuple[Share | None, Share | None]] | None = None
    majority: Share | None = None
    shuffled: float | None = None
    identified: Share | None = None
    aligned_mse: float | None = None
    structure: float | None = None

    @property
    def best_image(self) -> tuple[str, float] | None:
        """The guess of the least error, and what it is."""
        known = {"the mean of the class": self.class_mean, "the mean image": self.mean,
                 "a blank image": self.blank}  # fmt: skip
        errors = {name: error for name, error in known.items() if error is not None}
        return min(errors.items(), key=lambda pair: pair[1]) if errors else None

    @property
    def best_rival(self) -> tuple[str, Share | None, Share | None] | None:
        """The classifier without an attack that agrees most with the victim."""
        rivals = dict(self.rivals or {})
        if self.untrained_agreement is not None:
            rivals["an untrained client"] = (self.untrained, self.untrained_agreement)
        pairs = [(name, *scores) for name, scores in rivals.items()]
        return max(pairs, key=lambda pair: _value(pair[2])) if pairs else None


def score(system: System, found: Found, guessed: Tensor | None) -> Scores:
    """Score what one run found; `guessed` (T, C, H, W) are the images of the best guess."""
    scores: dict[str, Any] = {"objective": found.objective}
    if found.images is not None and system.truth is not None and guessed is not None:
        scores |= _image_scores(found.images, system.truth, guessed)
    if found.copy is not None and system.held_out is not None and system.client is not None:
        scores |= _copy_scores(system, found.copy)
    if found.groups is not None and system.is_labelled:
        assert system.sent is not None
        right = metrics.cluster_accuracy(found.groups, system.sent.labels)
        scores["groups"] = Share(round(right * len(found.groups)), len(found.groups))
    return Scores(**scores)


def guess(system: System, seconds: float, seed: int) -> Guesses:
    """What somebody reaches who attacks nothing; training a rival takes at most `seconds`."""
    found: dict[str, Any] = {
        name: metrics.mse(made, system.truth).median().item()  # type: ignore[arg-type]
        for name, made in _image_guesses(system).items()
    }
    guessed, truth = guessed_images(system), system.truth
    if guessed is not None and truth is not None:
        scores = _image_scores(guessed, truth, guessed)
        found |= {name: scores[name] for name in ("identified", "aligned_mse")}
        if scores["structure"] is not None:
            found["structure"] = _blind_structure(guessed, truth).median().item()
    if system.is_labelled and system.sent is not None:
        labels = system.sent.labels
        found["majority"] = Share(int(labels.bincount().max()), len(labels))
        blind = metrics.score_labels(labels, int(labels.max()) + 1, clusters=labels)
        found["shuffled"] = blind.random_partition
    if system.rest is not None and system.client is not None:
        found |= _classifier_guesses(system, min(seconds, RIVAL_SECONDS), seed)
    return Guesses(**found)


def better(one: Guesses, other: Guesses) -> Guesses:
    """The `other` guesses, with those rivals of either that had more time to learn."""
    rivals = dict(one.rivals or {})
    for name, scores in (other.rivals or {}).items():
        rivals[name] = max(rivals.get(name, scores), scores, key=lambda pair: _value(pair[1]))
    return replace(other, rivals=rivals or None)


def _value(share: Share | None) -> float:
    return 0.0 if share is None else share.value


def guessed_images(system: System) -> Tensor | None:
    """The images (T, C, H, W) of the best guess at the targets, if their truth is known."""
    made = _image_guesses(system)
    errors = {name: metrics.mse(images, system.truth).median().item()  # type: ignore[arg-type]
              for name, images in made.items()}  # fmt: skip
    return made[min(errors, key=lambda name: errors[name])] if made else None


def _image_guesses(system: System) -> dict[str, Tensor]:
    """Images of the targets by those who saw nothing of them."""
    if system.truth is None or system.sent is None:
        return {}
    known = system.public or system.sent[system.targets :]
    made = {"blank": torch.zeros_like(system.truth)}
    if len(known):
        made["mean"] = known.images.mean(0).expand_as(system.truth)
        if system.is_labelled and (known.labels >= 0).all():
            labels = system.sent.labels[: system.targets]
            made["class_mean"] = experiments.class_means(known, labels)
    return made


def _image_scores(images: Tensor, truth: Tensor, guessed: Tensor) -> dict[str, Any]:
    scores = metrics.score_images(images, truth)
    found: dict[str, Any] = {
        "raw_mse": scores.mse.median().item(),
        "worst_mse": scores.mse.max().item(),
        "aligned_mse": scores.aligned_mse.median().item(),
        "closer": Share.where(scores.mse < metrics.mse(guessed, truth)),
        "identified": Share.where(_identified(images, truth)) if len(truth) > 1 else None,
        "structure": None,
    }
    if scores.ssim is not None:
        structure, blind = _structure(images, truth), _blind_structure(guessed, truth)
        found["ssim"] = scores.ssim.median().item()
        found["structure"] = structure.median().item()
        found["shaped"] = Share.where(structure > blind)
    return found


def _structure(images: Tensor, truth: Tensor) -> Tensor:
    """SSIM (T,) of grey images, whose contrast and brightness are set right by the truth.

    What it sees is there for the eye though every colour is wrong, or black is white.
    """
    grey, aims = images.mean(1, keepdim=True), truth.mean(1, keepdim=True)
    return metrics.ssim(metrics.affine_align(grey, aims).aligned, aims)


def _blind_structure(guessed: Tensor, truth: Tensor) -> Tensor:
    """That of the best guess or of flat grey, which comes nearer to what is mostly flat: (T,)."""
    return torch.maximum(_structure(guessed, truth), _structure(torch.zeros_like(truth), truth))


def _identified(images: Tensor, truth: Tensor) -> Tensor:
    """Whether each image correlates more with its own original than with any other: (T,)."""
    likeness = _standard(images) @ _standard(truth).T
    own = likeness.diagonal()
    others = likeness - torch.diag(torch.full_like(own, torch.inf))
    return (own > others.amax(1)) & (own > 0)


def _standard(images: Tensor) -> Tensor:
    flat = images.flatten(1).double()
    flat = flat - flat.mean(1, keepdim=True)
    return flat / flat.norm(dim=1, keepdim=True).clamp_min(1e-12)


def _copy_scores(system: System, copy: nn.Module) -> dict[str, Any]:
    """How a copy of the client does before the server's part, beside the client itself."""
    if system.rest is None:
        return {}
    assert system.held_out is not None and system.client is not None
    classes = _classes(nn.Sequential(copy, system.rest), system.held_out.images)
    truth = _classes(nn.Sequential(system.client, system.rest), system.held_out.images)
    return {"agreement": Share.where(classes == truth)} | _accuracy(classes, system.held_out)


def _accuracy(classes: Tensor, split: Split) -> dict[str, Share]:
    if (split.labels < 0).any():
        return {}
    return {"accuracy": Share.where(classes == split.labels)}


def _classifier_guesses(system: System, seconds: float, seed: int) -> dict[str, Any]:
    """The victim, an untrained client, and classifiers of the attacker's own samples."""
    assert system.rest is not None and system.client is not None
    found: dict[str, Any] = {}
    whole = nn.Sequential(system.client, system.rest)
    if system.held_out is None or len(system.held_out) == 0:
        return found
    truth = _classes(whole, system.held_out.images)
    found["victim"] = _accuracy(truth, system.held_out).get("accuracy")
    usual = truth.mode().values.expand_as(truth)
    rivals = {"the victim's most frequent class": usual}
    if system.architecture is not None:
        fresh = system.architecture.build(seed, "random clone").eval()
        classes = _classes(nn.Sequential(fresh, system.rest), system.held_out.images)
        found["untrained"] = _accuracy(classes, system.held_out).get("accuracy")
        found["untrained_agreement"] = Share.where(classes == truth)
    if system.public_is_labelled and system.public is not None:
        count = min(MOST_OF_RIVAL, len(system.public))
        rivals[f"a support vector machine of {count} of the attacker's samples"] = (
            experiments.support_vectors(system.public[:MOST_OF_RIVAL], system.held_out.images)
        )
        if system.architecture is not None and system.rest_architecture is not None:
            own = nn.Sequential(
                system.architecture.build(seed, "own network"),
                system.rest_architecture.build(seed, "own network's rest"),
            )
            fit(own, system.public.images, system.public.labels, seconds=seconds, seed=seed)
            rivals["a network of the attacker's samples"] = _classes(own, system.held_out.images)
    found["rivals"] = {
        name: (_accuracy(made, system.held_out).get("accuracy"), Share.where(made == truth))
        for name, made in rivals.items()
    }
    return found


def _classes(network: nn.Module, images: Tensor) -> Tensor:
    return networks.in_chunks(network.eval(), images).argmax(1)


def _order(scores: Scores) -> float:
    for value in (scores.raw_mse, scores.agreement and -scores.agreement.value,
                  scores.groups and -scores.groups.value):  # fmt: skip
        if value is not None:
            return value
    return 0.0


def not_tried(system: System, attacker: Attacker, reason: str) -> Finding:
    """The finding that an attacker was not tried."""
    return Finding(attacker.name, attacker.level_in(system), attacker.source, reason)


def spread(finding: Finding) -> tuple[float, float] | None:
    """The least and the greatest median error of the runs."""
    errors = [run.raw_mse for run in finding.runs if run.raw_mse is not None]
    return (min(errors), max(errors)) if errors else None


def typical(finding: Finding) -> float | None:
    """The median over the runs of the median error."""
    errors = [run.raw_mse for run in finding.runs if run.raw_mse is not None]
    return median(errors) if errors else None
