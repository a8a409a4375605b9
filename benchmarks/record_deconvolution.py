"""Record what blind deconvolution makes of clients that are one convolution, or that and a ReLU.

    python -m benchmarks.record_deconvolution

The victims, the targets and the scores are those of `make reproduce` at conv1 and relu1 (CIFAR-10:
conv1). Writes course/results/deconvolution.json; with --datasets only those are recorded anew.
CIFAR-10 takes an hour, the training of its victims; the others a minute.
"""

import json
import statistics
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from benchmarks import reproduce, write_facts
from sltools import data, devices, experiments, lessons, metrics, protocol
from sltools.attacks import BlindDeconvolution
from sltools.errors import SltoolsError
from sltools.interrupts import finished
from sltools.progress import bar

STAGES = {"cifar10": ["conv1"]}
USUAL = ["conv1", "relu1"]


def main(
    datasets: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(reproduce.DATASETS),
    path: Annotated[Path | None, typer.Option(help="The JSON file.")] = None,
) -> None:
    """Attack the victims of each data set once: nothing in this attack is drawn by lot."""
    torch.set_num_threads(1)
    path = path or lessons.course() / "results" / "deconvolution.json"
    facts: dict[str, Any] = {"runs": {}, "versions": {}}
    if path.exists():
        facts = json.loads(path.read_text(encoding="utf-8"))
    facts |= {"command": "python -m benchmarks.record_deconvolution", "targets": reproduce.TARGETS}
    try:
        for name in datasets.split(","):
            source = data.load(name)
            runs = [_run(source, seed) for seed in bar(range(reproduce.VICTIMS), name)]
            facts["runs"][name] = {stage: [run[stage] for run in runs] for stage in runs[0]}
            facts["versions"][name] = devices.versions()
            write_facts(path, facts)
    except SltoolsError as error:
        raise SystemExit(f"error: {error}") from None
    for name, by_stage in facts["runs"].items():
        for stage, runs in by_stage.items():
            middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            print(name, stage, {key: f"{value:.3g}" for key, value in middle.items()})


def _run(source: data.Dataset, seed: int) -> dict[str, dict[str, Any]]:
    """Train one victim and attack it at every stage."""
    budget = reproduce.BUDGETS[source.name]
    session = finished(experiments.train_victim(source, budget=budget, seed=seed))
    stages = STAGES.get(source.name, USUAL)
    return {stage: _scored(protocol.recut(session, stage), source, seed) for stage in stages}


def _scored(session: protocol.Session, source: data.Dataset, seed: int) -> dict[str, Any]:
    truth = experiments.first_targets(source, reproduce.TARGETS[source.name]).images
    found = BlindDeconvolution()(session.observe(truth))
    images = metrics.score_images(found.inputs, truth).summary()
    stolen = torch.nn.Sequential(found.clone, session.server.model)
    return {
        "victim": seed,
        "raw_mse": images["mse_median"],
        "worst_mse": images["mse_worst"],
        "aligned_mse": images["aligned_mse_median"],
        "clone_accuracy": metrics.accuracy(stolen, source.test),
        "victim_accuracy": session.accuracy(source.test),
        "seconds": round(found.seconds, 2),
    }


if __name__ == "__main__":
    typer.run(main)
