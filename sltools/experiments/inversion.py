"""Attack 1 on several victims with several clones, scored beside its baselines."""

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from sltools import data, devices, metrics, models, plots, protocol
from sltools.attacks import InversionResult, KnownWeightsInversion, UnSplit
from sltools.errors import Interrupted
from sltools.experiments.outcome import Outcome, provenance
from sltools.experiments.presets import STEPS, unsplit
from sltools.experiments.targets import first_targets, usual_targets
from sltools.experiments.victims import train_victim
from sltools.interrupts import finished, keep_partial
from sltools.models import Architecture
from sltools.progress import bar


@dataclass(frozen=True)
class InversionSettings:
    """Settings of `run_inversion`; `clones` are attacked with for each of `victims`.

    Without `targets`, it takes 10 of them, or as many as the data set needs.

    >>> from sltools.experiments import InversionSettings
    >>> settings = InversionSettings(cut="conv2", budget="tiny", victims=1)
    >>> settings.dataset, settings.clones, settings.targets
    ('digits', 3, None)
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
class _AttackedVictim:
    """What was done to one victim; `oracle` is None if it was interrupted."""

    runs: list[_Run]
    oracle: metrics.ImageScores | None


def run_inversion(settings: InversionSettings) -> Outcome:
    """Run UnSplit with `clones` clones against each of `victims` victims and score it.

    The targets are the first test image of each class, then the second of each, and so on. Ctrl-C
    gives the outcome of the victims so far, marked in `facts`. Raises SltoolsError for an unknown
    budget or cut or for more targets than there are test images, and Interrupted before the first
    victim was attacked.

    >>> from sltools import experiments
    >>> settings = experiments.InversionSettings(targets=1, budget="tiny", victims=1, clones=1)
    >>> outcome = experiments.run_inversion(settings)
    >>> outcome.facts["knowledge"], outcome.facts["done"]
    (['client architecture', 'smashed'], '1 of 1 victims')
    >>> list(outcome.facts["metrics"])[:5]
    ['raw_mse', 'aligned_mse', 'ssim', 'clone_accuracy', 'victim_accuracy']
    >>> baselines = outcome.facts["baselines"]
    >>> found = [baselines["known_weights"], outcome.facts["metrics"], baselines["mean_image"]]
    >>> errors = [scores["aligned_mse"]["median"] for scores in found]
    >>> errors == sorted(errors)
    True
    """
    start = time.perf_counter()
    devices.find(settings.device)
    dataset = data.load(settings.dataset)
    count = usual_targets(dataset.name) if settings.targets is None else settings.targets
    settings = replace(settings, targets=count)
    targets = first_targets(dataset, count)
    models.cut(models.for_images(targets.images.shape), settings.cut)  # before any training
    truth = targets.images.to(settings.device)
    attack = _unsplit(settings)
    attacked: list[_AttackedVictim] = []
    with keep_partial():
        for number in bar(range(settings.victims), "victims"):
            seed = settings.seed * settings.victims + number
            attacked.append(_attack_victim(settings, attack, dataset, truth, number, seed))
            if attacked[-1].oracle is None:
                break
    whole = [victim for victim in attacked if victim.oracle is not None]
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
        known = [victim.oracle for victim in whole if victim.oracle is not None]
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
        **provenance(start, settings.device),
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
) -> _AttackedVictim:
    """Attack one victim with every clone, and with its weights known.

    Raises KeyboardInterrupt if the training was interrupted: there is no victim then.
    """
    session = finished(
        train_victim(
            dataset, settings.cut, budget=settings.budget, seed=seed, device=settings.device
        )
    )
    found = replace(attack, seed=seed).runs(session.observe(truth))
    oracle = None
    if not found[0].interrupted:
        steps = max(500, STEPS.get(settings.budget, 1000) // 2)
        granted = session.observe(truth, grants=["client_model"])
        oracle = KnownWeightsInversion(steps=steps)(granted)
    runs = []
    for clone, result in enumerate(found):
        scores = metrics.score_images(result.inputs, truth)
        report = _score_clone(result, session, dataset, f"random clone {clone}")
        runs.append(_Run(number, result, scores, report))
    if oracle is None or oracle.interrupted:
        return _AttackedVictim(runs, None)
    return _AttackedVictim(runs, metrics.score_images(oracle.inputs, truth))


def _done(victims: int, planned: int, result: InversionResult) -> str:
    """Say how far an experiment came; before the end of the first attack, how far that one."""
    if victims:
        return f"{victims} of {planned} victims"
    step = int(result.loss_steps[-1]) if len(result.loss_steps) else 0
    return (
        f"an unfinished attack on the first of {planned} victims, stopped after step {step} of "
        f"{result.settings['steps']}"
    )


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
