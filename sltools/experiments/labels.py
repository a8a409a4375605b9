"""Attack 2 on several victims, scored beside its baselines."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from sltools import data, metrics, models, plots, protocol
from sltools.attacks import LabelInference
from sltools.errors import Interrupted, SltoolsError
from sltools.experiments.outcome import Outcome, provenance
from sltools.experiments.victims import parties
from sltools.interrupts import finished, keep_partial
from sltools.progress import bar
from sltools.view import View

_SAMPLES = {"tiny": 100, "quick": 640, "full": 3840, "published": 1000}  # samples
_GRANTS = {"published": ("head_weight_gradients",), "closed-form": ("head_weight_gradients",)}
_BATCH = {"published": 1, "closed-form": 32, "wire": 64}


@dataclass(frozen=True)
class LabelSettings:
    """Settings of `run_labels`; `head` is the stage before the client's head (None: the last).

    >>> from sltools.experiments import LabelSettings
    >>> settings = LabelSettings(setting="wire", victims=1)
    >>> settings.cut, settings.head, settings.budget
    ('pool1', None, 'quick')
    """

    dataset: str = "digits"
    cut: str = "pool1"
    head: str | None = None
    targets: int | None = None
    budget: str = "quick"
    setting: str = "published"
    victims: int = 3
    seed: int = 0
    device: str = "cpu"


def run_labels(settings: LabelSettings) -> Outcome:
    """Infer the labels of the first samples that `victims` fresh clients train on.

    Ctrl-C gives the outcome of the victims so far, marked in `facts`. Raises SltoolsError for more
    `targets` than there are training images, and Interrupted before the first victim was attacked.

    >>> from sltools import experiments
    >>> outcome = experiments.run_labels(experiments.LabelSettings(targets=20, victims=1))
    >>> outcome.facts["attack"], outcome.facts["granted"]
    ('label inference, published', ['head_weight_gradients'])
    >>> outcome.facts["metrics"]["label_accuracy"]
    {'median': 1.0, 'worst': 1.0}
    >>> outcome.facts["baselines"]["chance"]["median"]
    0.1
    """
    start = time.perf_counter()
    dataset = data.load(settings.dataset)
    usual = min(_SAMPLES[settings.budget], len(dataset.train))
    count = usual if settings.targets is None else settings.targets
    if not 1 <= count <= len(dataset.train):
        raise SltoolsError(
            f"{count} samples cannot be watched: give 1 to {len(dataset.train)}, the number of "
            f"training images of {dataset.name}"
        )
    shape = dataset.train.images.shape
    head = settings.head or models.stages(models.for_images(shape))[-2]
    models.cut(models.for_images(shape), (settings.cut, head))  # before any training
    seeds = [settings.seed * settings.victims + number for number in range(settings.victims)]
    found = []
    with keep_partial() as work:
        for seed in bar(seeds, "victims"):
            view, truth = _record_training(dataset, (settings.cut, head), count, seed, settings)
            attack = LabelInference(settings.setting, seed=seed, device=settings.device)
            found.append((finished(attack(view)), truth, view))
    if not found:
        raise Interrupted("interrupted before the first victim was attacked; nothing to report")
    seeds = seeds[: len(found)]
    reports = [
        metrics.score_labels(truth, len(dataset.classes), result.labels, result.clusters)
        for result, truth, _ in found
    ]
    scored = zip(seeds, reports, strict=True)
    facts = {
        "attack": f"label inference, {settings.setting}",
        "settings": asdict(settings) | {"head": head, "targets": count},
        "knowledge": list(found[0][0].knowledge),
        "granted": list(found[0][2].granted),
        "metrics": _label_metrics(reports, ("label_accuracy", "cluster_accuracy")),
        "baselines": _label_metrics(reports, ("chance", "majority", "random_partition"), best=True),
        "runs": [{"seed": seed, **report.as_dict()} for seed, report in scored],
        "interrupted": work.interrupted,
        "done": f"{len(found)} of {settings.victims} victims",
        **provenance(start, settings.device),
    }
    arrays: dict[str, Tensor] = {}
    for seed, (result, truth, _) in zip(seeds, found, strict=True):
        named = {"truth": truth, "labels": result.labels, "clusters": result.clusters}
        arrays |= {f"{name}/{seed}": value for name, value in named.items() if value is not None}
    heights = {
        name.replace("_", " "): values["median"]
        for name, values in (facts["metrics"] | facts["baselines"]).items()
    }
    return Outcome(facts, arrays, plots.bars(heights, "share of labels"))


def _record_training(
    dataset: data.Dataset, at: tuple[str, str], count: int, seed: int, settings: LabelSettings
) -> tuple[View, Tensor]:
    """Train a fresh client on `count` samples; return the server's view and the true labels."""
    client, server = parties(models.for_images(dataset.train.images.shape, seed), at)
    session = protocol.train(
        client,
        server,
        dataset.train[:count],
        epochs=1,
        batch_size=_BATCH[settings.setting],
        seed=seed,
        record=True,
        device=settings.device,
    )
    transcript = finished(session).transcript
    truth = torch.cat([page["labels"] for page in transcript.client_log.values()]).cpu()
    return transcript.view("server", _GRANTS.get(settings.setting, ())), truth


def _label_metrics(
    reports: Sequence[metrics.LabelReport], names: Sequence[str], best: bool = False
) -> dict[str, dict[str, float]]:
    """Median and worst of each score; for baselines median and best."""
    columns = {name: [getattr(report, name) for report in reports] for name in names}
    extreme, pick = ("best", max) if best else ("worst", min)
    return {
        name: {"median": statistics.median(values), extreme: pick(values)}
        for name, values in columns.items()
        if None not in values
    }
