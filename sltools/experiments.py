"""Experiments of standard size: what the command line and the lessons run.

A budget says how much to spend: "tiny" for tests, "quick" for a lesson on a laptop, "full" for the
paper's scale; "published" is the paper's own schedule, hours of it. Results are medians over
several victims and clones, with the worst beside them. Nothing below this module knows of it.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sltools import data, devices, metrics, models, plots, protocol, storage
from sltools.attacks import InversionResult, KnownWeightsInversion, LabelInference, UnSplit
from sltools.errors import Interrupted, SltoolsError
from sltools.models import Architecture
from sltools.progress import bar
from sltools.view import View

BUDGETS = ("tiny", "quick", "full", "published")
PRIORS: dict[str, dict[str, Any]] = {  # photographs have no black background
    "cifar10": {"l1": 0.0, "tv_end": 0.05, "photographs": True}
}
FULL_PRIORS = {"mnist": {"tv_end": 0.05}}  # strokes are sharp, which takes time to find
TARGETS = {"cifar10": 50}  # 10 for others: fewer photographs do not tell their colours
STEPS = {"tiny": 100, "quick": 1000, "full": 4000}  # of an inversion
MakeClient = Callable[..., protocol.Client]
_TRAINING: dict[
    str, dict[str, tuple[int, int | None]]
] = {  # epochs, and how many training images they use (None: all)
    "digits": {"tiny": (4, None), "quick": (25, None), "full": (60, None)},
    "mnist": {"tiny": (1, 3000), "quick": (1, None), "full": (10, None)},
    "fashion_mnist": {"tiny": (1, 3000), "quick": (1, None), "full": (10, None)},
    "cifar10": {"tiny": (1, 300), "quick": (1, 3000), "full": (10, None)},
}
_WATCHED = {"tiny": 100, "quick": 640, "full": 3840, "published": 1000}  # samples, label inference
_GRANTS = {"published": ("head_weight_gradients",), "closed-form": ("head_weight_gradients",)}
_BATCH = {"published": 1, "closed-form": 32, "wire": 64}


def _check_budget(budget: str) -> None:
    """Raise SltoolsError unless there is such a `budget`."""
    if budget not in BUDGETS:
        raise SltoolsError(f"no budget is called {budget!r}; there are {', '.join(BUDGETS)}")


def train_victim(
    dataset: data.Dataset,
    at: str | Sequence[str] = "pool1",
    *,
    budget: str = "quick",
    seed: int = 0,
    device: str = "cpu",
    client: MakeClient = protocol.Client,
    record: bool = False,
) -> protocol.Session:
    """Train the paper's network on `dataset`, cut after `at`, and return the session.

    One stage gives vanilla split learning, two give label-private. The paper trains for 10 epochs:
    that is `budget="full"` for its data sets. `client(front)` or `client(front, head)` makes the
    client, with its defences if it has any. `record` keeps what is sent, as in `protocol.train`.
    Raises SltoolsError for an unknown budget or cut.
    """
    _check_budget(budget)
    dataset = data.expect(data.Dataset, dataset)
    epochs, count = training(dataset.name, budget)
    net = models.for_images(dataset.train.images.shape, seed)
    ours, server = parties(net, at, client)
    split = dataset.train[: count or len(dataset.train)]
    return protocol.train(
        ours, server, split, epochs=epochs, seed=seed, device=device, record=record
    )


def training(dataset: str, budget: str) -> tuple[int, int | None]:
    """How a victim is trained: epochs, and on how many training images (None: all)."""
    plans = _TRAINING.get(dataset, _TRAINING["digits"])
    return plans["full" if budget == "published" else budget]


def parties(
    net: nn.Sequential, at: str | Sequence[str], client: MakeClient = protocol.Client
) -> tuple[protocol.Client, protocol.Server]:
    """Cut `net` and give its parts to two parties: vanilla for one stage, label-private for two."""
    front, middle, *head = models.cut(net, at)
    return client(front, *head), protocol.Server(middle, label_private=bool(head))


@dataclass(frozen=True)
class Outcome:
    """What an experiment found: `facts` for JSON, `arrays` and a `picture` to keep."""

    facts: dict[str, Any]
    arrays: dict[str, Tensor]
    picture: plots.Picture

    def save(self, folder: Path) -> Path:
        """Write facts, arrays and figure into a new `folder` and return its path."""
        return storage.write(folder, self.arrays, self.facts, {"figure.png": self.picture.png})

    def __str__(self) -> str:
        lines = [f"{self.facts['attack']}: {len(self.facts['runs'])} runs, "]
        lines[0] += f"{self.facts['seconds']:.0f} s"
        if self.facts["interrupted"]:
            lines.append(f"  INTERRUPTED, this is the outcome of {self.facts['done']}")
        lines += [f"  knows  {name}" for name in self.facts["knowledge"]]
        lines += [_row(name, values) for name, values in self.facts["metrics"].items()]
        for name, values in self.facts["baselines"].items():
            lines.append(_row(f"baseline: {name}", values.get("raw_mse", values)))
        return "\n".join(lines)


# ---- attack 1 ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class InversionSettings:
    """Settings of `run_inversion`; `clones` are attacked with for each of `victims`.

    Without `targets`, it takes 10 of them, or as many as the data set needs.
    """

    dataset: str = "digits"
    cut: str = "pool1"
    targets: int | None = None
    budget: str = "quick"
    victims: int = 3
    clones: int = 3
    seed: int = 0
    device: str = "cpu"


@dataclass(frozen=True)
class _Run:
    """One clone's attack on one victim, scored."""

    victim: int
    result: InversionResult
    images: metrics.ImageScores
    clone: metrics.CloneReport


@dataclass(frozen=True)
class _Attacked:
    """What was done to one victim; `ceiling` is None if it was interrupted."""

    runs: list[_Run]
    ceiling: metrics.ImageScores | None


def run_inversion(settings: InversionSettings) -> Outcome:
    """Run UnSplit with `clones` clones against each of `victims` victims and score it.

    The targets are the first test image of each class, then the second of each, and so on.
    """
    start = time.perf_counter()
    devices.find(settings.device)
    dataset = data.load(settings.dataset)
    count = usual_targets(dataset.name) if settings.targets is None else settings.targets
    settings = replace(settings, targets=count)
    targets = first_targets(dataset, count)
    truth = targets.images.to(settings.device)
    attack = _unsplit(settings)
    attacked: list[_Attacked] = []
    for number in bar(range(settings.victims), "victims"):
        seed = settings.seed * settings.victims + number
        try:
            attacked.append(_attack_victim(settings, attack, dataset, truth, number, seed))
        except KeyboardInterrupt:
            break
        if attacked[-1].ceiling is None:
            break
    whole = [victim for victim in attacked if victim.ceiling is not None]
    kept = whole or attacked  # half an attack is better than none, and not averaged with whole ones
    if not kept:
        raise Interrupted("interrupted before the first victim was attacked; nothing to report")
    runs = [run for victim in kept for run in victim.runs]
    mean_image = dataset.train.images.mean(0).to(truth.device).expand_as(truth)
    baselines = {
        "blank_image": [metrics.score_images(torch.zeros_like(truth), truth)],
        "mean_image": [metrics.score_images(mean_image, truth)],
    }
    if whole:
        known = [victim.ceiling for victim in whole if victim.ceiling is not None]
        baselines["known_weights"] = known
    middle = _median_run(runs)
    facts = {
        "attack": "inversion",
        "settings": asdict(settings) | {"attack": asdict(attack)},
        "knowledge": list(middle.result.knowledge),
        "granted": [],
        "metrics": _image_metrics([run.images for run in runs]) | _clone_metrics(runs),
        "baselines": {name: _image_metrics(scores) for name, scores in baselines.items()},
        "runs": [_run_facts(run) for run in runs],
        "interrupted": len(whole) < settings.victims,
        "done": _done(len(whole), settings.victims, middle.result),
        **_provenance(start, settings.device),
    }
    arrays = {
        "truth": truth,
        "inputs": torch.stack([run.result.inputs for run in runs]),
        "victim": torch.tensor([run.victim for run in runs]),
    }
    rows = {"UnSplit, median run": middle.result.inputs}
    names = [dataset.classes[label] for label in targets.labels.tolist()]
    return Outcome(facts, arrays, plots.reconstructions(truth.cpu(), rows, names))


def _attack_victim(
    settings: InversionSettings,
    attack: UnSplit,
    dataset: data.Dataset,
    truth: Tensor,
    number: int,
    seed: int,
) -> _Attacked:
    """Attack one victim with every clone, and with its weights known.

    Raises KeyboardInterrupt if the training was interrupted: there is no victim then.
    """
    session = train_victim(
        dataset, settings.cut, budget=settings.budget, seed=seed, device=settings.device
    )
    if session.interrupted:
        raise KeyboardInterrupt
    found = replace(attack, seed=seed).runs(session.observe(truth))
    ceiling = None
    if not found[0].interrupted:
        steps = max(500, STEPS.get(settings.budget, 1000) // 2)
        granted = session.observe(truth, grants=["client_model"])
        ceiling = KnownWeightsInversion(steps=steps)(granted)
    runs = []
    for clone, result in enumerate(found):
        scores = metrics.score_images(result.inputs, truth)
        report = _score_clone(result, session, dataset, f"random clone {clone}")
        runs.append(_Run(number, result, scores, report))
    if ceiling is None or ceiling.interrupted:
        return _Attacked(runs, None)
    return _Attacked(runs, metrics.score_images(ceiling.inputs, truth))


def _done(victims: int, planned: int, result: InversionResult) -> str:
    """Say how far an experiment came; before the end of the first attack, how far that one."""
    if victims:
        return f"{victims} of {planned} victims"
    step = int(result.loss_steps[-1]) if len(result.loss_steps) else 0
    return (
        f"an unfinished attack on the first of {planned} victims, stopped after step {step} of "
        f"{result.settings['steps']}"
    )


def usual_targets(dataset: str) -> int:
    """How many images of `dataset` an attack needs to do well."""
    return TARGETS.get(dataset, 10)


def first_targets(dataset: data.Dataset, count: int) -> data.Split:
    """The first test image of each class, then the second of each, up to `count`."""
    dataset = data.expect(data.Dataset, dataset)
    if not 1 <= count <= len(dataset.test):
        raise SltoolsError(
            f"{count} targets cannot be attacked: give 1 to {len(dataset.test)}, the number of "
            f"test images of {dataset.name}"
        )
    classes = len(dataset.classes)
    rounds = -(-count // classes)
    if rounds > dataset.test.labels.bincount(minlength=classes).min():
        return dataset.test[:count]
    by_class = dataset.test.first_per_class(rounds)
    return by_class[torch.arange(len(by_class)).view(classes, rounds).T.flatten()[:count]]


def public_rows(dataset: data.Dataset, targets: int) -> Tensor:
    """The test images (rows) that are not among `first_targets`: what an attacker may have."""
    taken = first_targets(dataset, targets).images
    private = (dataset.test.images[:, None] == taken).flatten(2).all(2).any(1)
    return (~private).nonzero().flatten()


def priors(dataset: str, budget: str) -> dict[str, Any]:
    """What UnSplit assumes of the images of `dataset` beyond its defaults.

    For MNIST this was chosen on victims and images that no recorded result has.
    """
    full = FULL_PRIORS.get(dataset, {}) if budget == "full" else {}
    return PRIORS.get(dataset, {}) | full


def unsplit(dataset: str, budget: str) -> UnSplit:
    """UnSplit as `budget` allows and as it suits the images of `dataset`.

    Raises SltoolsError for an unknown budget.
    """
    _check_budget(budget)
    if budget == "published":
        return UnSplit.published()
    return UnSplit(steps=STEPS[budget], **priors(dataset, budget))


def _unsplit(settings: InversionSettings) -> UnSplit:
    attack = unsplit(settings.dataset, settings.budget)
    return replace(attack, restarts=settings.clones, seed=settings.seed, device=settings.device)


def _score_clone(
    result: InversionResult, session: protocol.Session, dataset: data.Dataset, purpose: str
) -> metrics.CloneReport:
    front, rest = session.client.front, session.server.model
    shape = dataset.train.images.shape[1:]
    random = Architecture.of(front, shape).build(result.seed, purpose).to(result.inputs.device)
    return metrics.score_clone(result.clone, front, rest, dataset.test, random)


def _median_run(runs: list[_Run]) -> _Run:
    return sorted(runs, key=lambda run: run.images.mse.mean().item())[len(runs) // 2]


def _image_metrics(scores: Sequence[metrics.ImageScores]) -> dict[str, dict[str, float]]:
    """Median and worst over all images of all runs, and the median of the runs' means."""
    found = {}
    for name, worst in {"mse": max, "aligned_mse": max, "ssim": min}.items():
        if any(getattr(score, name) is None for score in scores):  # the images are too small
            continue
        runs = [getattr(score, name).tolist() for score in scores]
        values = [value for run in runs for value in run]
        found["raw_mse" if name == "mse" else name] = {
            "median": statistics.median(values),
            "worst": worst(values),
            "median_of_run_means": statistics.median(map(statistics.fmean, runs)),
            "worst_run_mean": worst(map(statistics.fmean, runs)),
        }
    return found


def _clone_metrics(runs: list[_Run]) -> dict[str, dict[str, float]]:
    """Median and worst for the attack; for the random clones, which are baselines, the best."""
    reports = [run.clone.as_dict() for run in runs]
    found = {}
    for name in reports[0]:
        values = [report[name] for report in reports]
        extreme = ("best", max) if name.startswith("random") else ("worst", min)
        found[name] = {"median": statistics.median(values), extreme[0]: extreme[1](values)}
    return found


def _run_facts(run: _Run) -> dict[str, Any]:
    numbers = {
        "victim": run.victim,
        "objective": run.result.objective,
        "feature_loss": run.result.feature_loss,
        "seconds": round(run.result.seconds, 2),
        **run.images.summary(),
        **run.clone.as_dict(),
    }
    return metrics.for_json(numbers)


# ---- attack 2 ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LabelSettings:
    """Settings of `run_labels`; `head` is the stage before the client's head (None: the last)."""

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
    """Infer the labels of the first samples that `victims` fresh clients train on."""
    start = time.perf_counter()
    dataset = data.load(settings.dataset)
    count = settings.targets if settings.targets is not None else _WATCHED[settings.budget]
    if not 1 <= count <= len(dataset.train):
        raise SltoolsError(
            f"{count} samples cannot be watched: give 1 to {len(dataset.train)}, the number of "
            f"training images of {dataset.name}"
        )
    shape = dataset.train.images.shape
    head = settings.head or models.stages(models.for_images(shape))[-2]
    seeds = [settings.seed * settings.victims + number for number in range(settings.victims)]
    found = []
    interrupted = False
    for seed in bar(seeds, "victims"):
        try:
            view, truth = _watch(dataset, (settings.cut, head), count, seed, settings)
            result = LabelInference(settings.setting, seed=seed, device=settings.device)(view)
            if result.interrupted:
                raise KeyboardInterrupt
        except KeyboardInterrupt:
            interrupted = True
            break
        found.append((result, truth, view))
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
        "interrupted": interrupted,
        "done": f"{len(found)} of {settings.victims} victims",
        **_provenance(start, settings.device),
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


def _watch(
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
    if session.interrupted:
        raise KeyboardInterrupt
    transcript = session.transcript
    truth = torch.cat([page["labels"] for page in transcript.diary.values()]).cpu()
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


# ---- both ----------------------------------------------------------------------------------------


def _provenance(start: float, device: str) -> dict[str, Any]:
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "device": device,
        "versions": devices.versions(),
    }


def _row(name: str, values: dict[str, float]) -> str:
    shown = "  ".join(
        f"{values[key]:.4f} {key}" for key in ("median", "worst", "best") if key in values
    )
    return f"  {name.replace('_', ' '):28} {shown}"
