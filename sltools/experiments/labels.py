"""Attack 2 on several victims, scored beside its baselines, and the recordings it is run on."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from sltools import data, metrics, models, plots, protocol
from sltools.attacks import LabelInference
from sltools.attacks.labels import direction_clusters
from sltools.errors import Interrupted, SltoolsError
from sltools.experiments.outcome import Outcome, provenance
from sltools.experiments.presets import check_budget
from sltools.interrupts import finished, keep_partial
from sltools.progress import bar
from sltools.transcript import Transcript
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

    Ctrl-C gives the outcome of the victims so far, marked in `facts`. Raises SltoolsError for an
    unknown budget or more `targets` than there are training images, and Interrupted before the
    first victim was attacked.

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
    check_budget(settings.budget)
    dataset = data.load(settings.dataset)
    usual = min(_SAMPLES[settings.budget], len(dataset.train))
    count = usual if settings.targets is None else settings.targets
    if not 1 <= count <= len(dataset.train):
        raise SltoolsError(
            f"{count} samples cannot be watched: give 1 to {len(dataset.train)}, the number of "
            f"training images of {dataset.name}"
        )
    shape = dataset.train.images.shape
    head = settings.head or head_cut(models.for_images(shape))
    models.cut(models.for_images(shape), (settings.cut, head))  # before any training
    seeds = [settings.seed * settings.victims + number for number in range(settings.victims)]
    found = []
    with keep_partial() as work:
        for seed in bar(seeds, "victims"):
            view, truth = _record_training(dataset, head, count, seed, settings)
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


def head_cut(net: nn.Sequential, layers: int = 1) -> str:
    """Name the stage before a head of the last `layers` stages that have weights.

    What stands between and after them, ReLUs as a rule, is in the head as well. Raises SltoolsError
    unless a stage is left before it.

    >>> from sltools import experiments, models
    >>> net = models.mnist_net()
    >>> experiments.head_cut(net), experiments.head_cut(net, layers=2)
    ('relu4', 'relu3')
    """
    stages = models.stages(net)
    places = [place for place, layer in enumerate(net) if list(layer.parameters())]
    if not 1 <= layers <= len(places) or places[-layers] == 0:
        raise SltoolsError(
            f"a head of {layers} layers with weights leaves no stage before it, or is none: the "
            f"network has {len(places)} of them in its {len(stages)} stages"
        )
    return stages[places[-layers] - 1]


def record_epoch(
    net: nn.Sequential,
    split: data.Split,
    head: str | None = None,
    *,
    cut: str = "pool1",
    batch_size: int = 1,
    seed: int = 0,
    device: str = "cpu",
    optimizer: protocol.MakeOptimizer = protocol.adam,
) -> tuple[Transcript, Tensor]:
    """Train `net` label-private for one epoch; return what was sent, and the true labels (N,).

    `head` is the stage before the client's head (None: `head_cut(net)`), `optimizer` that of both
    parties. The labels come from the client's log, in the order of the transcript, on the CPU.
    Raises KeyboardInterrupt if the training was interrupted, and ModelError for an unknown stage.

    >>> from sltools import data, experiments, models
    >>> watched = data.load("digits").train[:6]
    >>> transcript, truth = experiments.record_epoch(models.mnist_net(), watched, batch_size=3)
    >>> [message.kind for message in transcript.messages[:4]], len(truth)
    (['smashed', 'features', 'feature_gradient', 'cut_gradient'], 6)
    """
    front, middle, last = models.cut(net, (cut, head or head_cut(net)))
    session = protocol.train(
        protocol.Client(front, last, optimizer=optimizer),
        protocol.Server(middle, label_private=True, optimizer=optimizer),
        split,
        epochs=1,
        batch_size=batch_size,
        seed=seed,
        record=True,
        device=device,
    )
    transcript = finished(session).transcript
    truth = torch.cat([page["labels"] for page in transcript.client_log.values()]).cpu()
    return transcript, truth


def cluster_features(view: View, classes: int) -> Tensor:
    """Put samples into as many clusters as `classes` by their features u alone: (N,).

    A rival of the attack on the wire that needs no gradient: k-means on the directions of u from
    their mean, from ten starts that do not depend on a seed.

    >>> from sltools import data, experiments, models
    >>> watched = data.load("digits").train[:30]
    >>> transcript, _ = experiments.record_epoch(models.mnist_net(), watched)
    >>> clusters = experiments.cluster_features(transcript.view("server"), classes=10)
    >>> len(clusters), len(clusters.unique())
    (30, 10)
    """
    u = view.features.cpu()
    clusters, _ = direction_clusters(u - u.mean(0), classes, state=0)
    return clusters


def _record_training(
    dataset: data.Dataset, head: str, count: int, seed: int, settings: LabelSettings
) -> tuple[View, Tensor]:
    """Train a fresh client on `count` samples; return the server's view and the true labels."""
    transcript, truth = record_epoch(
        models.for_images(dataset.train.images.shape, seed),
        dataset.train[:count],
        head,
        cut=settings.cut,
        batch_size=_BATCH[settings.setting],
        seed=seed,
        device=settings.device,
    )
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
