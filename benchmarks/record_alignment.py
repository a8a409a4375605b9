"""Record what lesson 10's attack owes to the parts that we added: MK-MMD and the fitted decoder.

python -m benchmarks.record_alignment writes course/results/alignment_digits.json: the settings of
the lesson's live attack, with and without each part, on three victims, some minutes on a core. The
file is written after each victim; those that it has are not met again.
"""

import json
import statistics
import time
from typing import Any, NamedTuple

import torch

from benchmarks import write_facts
from sltools import data, devices, experiments, lessons, metrics, protocol
from sltools.attacks import PCAT
from sltools.interrupts import finished

VICTIMS = 3
STEPS, BATCH, OWN, SENT = 300, 32, 200, 1000  # of images: the attacker's, and the client's
TARGETS = 10  # sent beside those
PATH = lessons.course() / "results" / "alignment_digits.json"

Row = dict[str, Any]


class Variant(NamedTuple):
    """What is changed in PCAT, and the stages at which it is tried."""

    settings: dict[str, Any]
    stages: tuple[str, ...]


VARIANTS = {
    "PCAT": Variant({}, ("fc1",)),
    "PCAT without MK-MMD": Variant({"mmd": 0.0}, ("fc1", "pool2")),
    "PCAT, decoder network": Variant({"decoder": "network"}, ("fc1",)),
}


def main() -> None:
    """Measure what is missing, on one thread, and print medians."""
    torch.set_num_threads(1)
    known = json.loads(PATH.read_text(encoding="utf-8")) if PATH.exists() else {}
    rows: list[Row] = known.get("rows", [])
    for victim in range(VICTIMS):
        if victim not in {row["victim"] for row in rows}:
            rows += _rows(victim)
            write_facts(PATH, {**facts(), "rows": rows})
    print(table(rows))


def _rows(victim: int) -> list[Row]:
    source = data.load("digits")
    session = finished(experiments.train_victim(source, "pool1", budget="quick", seed=victim))
    own, held_out = experiments.auxiliary_data(source, OWN, seed=victim)
    targets, others = experiments.first_targets(source, TARGETS), source.train[:SENT]
    images = torch.cat([targets.images, others.images])
    labels = torch.cat([targets.labels, others.labels])
    class_mean = metrics.mse(experiments.class_means(own, labels), images).median().item()
    rows = []
    for name, (settings, stages) in VARIANTS.items():
        for stage in stages:
            cut, start = protocol.recut(session, stage), time.process_time()
            attack = PCAT(steps=STEPS, batch=BATCH, seed=victim, **settings)
            found = finished(attack(cut.observe(images), own))
            service = torch.nn.Sequential(found.clone, cut.server.model).eval()
            row = {
                "variant": name,
                "stage": stage,
                "victim": victim,
                "sent_mse": metrics.mse(found.inputs, images).median().item(),
                "sent_class_mean_mse": class_mean,
                "accuracy": metrics.accuracy(service, held_out),
                "cpu_seconds": time.process_time() - start,
            }
            print({key: _short(value) for key, value in row.items()}, flush=True)
            rows.append({key: _short(value) for key, value in row.items()})
    return rows


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def facts() -> dict[str, Any]:
    """The settings of the study, as its record names them."""
    return {
        "command": "python -m benchmarks.record_alignment",
        "dataset": "digits",
        "victims": VICTIMS,
        "attackers": "one for each victim, with its seed",
        "steps": STEPS,
        "batch": BATCH,
        "auxiliary_images": OWN,
        "traffic": f"{TARGETS} targets and the first {SENT} training images",
        "variants": {name: variant.settings for name, variant in VARIANTS.items()},
        "versions": devices.versions(),
        "device": "cpu, 1 thread",
    }


def shares(rows: list[Row], variant: str, stage: str) -> list[float]:
    """The error of each run, divided by that of the mean image of the class, for its victim."""
    return [
        row["sent_mse"] / row["sent_class_mean_mse"]
        for row in rows
        if (row["variant"], row["stage"]) == (variant, stage)
    ]


def table(rows: list[Row]) -> str:
    """Medians, and the worst in brackets, of errors beside that of the mean of the class."""
    lines = ["| cut | attack | runs | error beside the mean of the class |", "|---|---|---|---|"]
    for name, variant in VARIANTS.items():
        for stage in variant.stages:
            found = shares(rows, name, stage)
            spread = f"{statistics.median(found):.2f} [{max(found):.2f}]"
            lines.append(f"| {stage} | {name} | {len(found)} | {spread} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
