"""Record what a curious server gains from having many clients: does UnSplit profit?

python -m benchmarks.record_clients writes course/results/clients_digits.json. Ten clients train in
SplitFed V2, each on its part of the digits, and each sends ten test images, one of each class. The
server attacks the first client's ten alone, or with the tens of all clients and one clone for all:
once when all have just been given the average (one front), once after an epoch more of each on its
own (ten fronts that differ). Scored on the first client's images in every case, beside their mean
image, and by the accuracy of the clone before the server's layers. Some minutes for each victim;
the file is written after each.
"""

import copy
import time
from collections.abc import Iterable
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from benchmarks import middle, spread, write_facts
from sltools import data, devices, experiments, lessons, metrics, models, protocol
from sltools.attacks import UnSplit
from sltools.interrupts import finished
from sltools.models import Architecture
from sltools.view import View

CLIENTS, EACH, EPOCHS, STEPS = 10, 10, 5, 500
POOLED = (1, 10)
CUT = "pool2"  # at pool1 ten images are enough for all of it
ONE, OWN = "averaged: one front", "a local epoch later: ten fronts"
Row = dict[str, Any]


def main(victims: Annotated[int, typer.Option(min=1, help="How many trainings.")] = 3) -> None:
    """Measure, on one thread, and print the table."""
    torch.set_num_threads(1)
    source = data.load("digits")
    rows: list[Row] = []
    path = lessons.course() / "results" / "clients_digits.json"
    start = time.perf_counter()
    for victim in range(victims):
        rows += attack_clients(source, victim)
        facts = {
            "command": f"python -m benchmarks.record_clients --victims {victim + 1}",
            "setting": {
                "cut": CUT, "clients": CLIENTS, "images of each": EACH, "epochs": EPOCHS,
                "steps": STEPS,
            },
            "rows": rows,
            "versions": devices.versions(),
            "seconds": round(time.perf_counter() - start),
            "cpu_seconds": round(time.process_time()),
        }  # fmt: skip
        write_facts(path, facts)
        print(table(facts), flush=True)


def attack_clients(source: data.Dataset, victim: int) -> Iterable[Row]:
    """Train clients, and attack the first one's images alone and with those of others."""
    fronts, rest = clients_of(source, victim)
    targets = experiments.first_targets(source, CLIENTS * EACH).images.split(EACH)
    mean = source.train.images.mean(0).expand_as(targets[0])
    shape = Architecture.of(fronts[ONE][0], source.train.images.shape[1:])
    for state, own in fronts.items():
        with torch.no_grad():
            sent = [front.eval()(images) for front, images in zip(own, targets, strict=True)]
        victim_accuracy = metrics.accuracy(nn.Sequential(own[0], rest).eval(), source.test)
        for count in POOLED if state == ONE else POOLED[1:]:  # alone it is the same attack
            view = View.of_activations(torch.cat(sent[:count]), shape, rest)
            found = finished(UnSplit(steps=STEPS, seed=victim)(view))
            clone = nn.Sequential(found.clone, rest).eval()
            yield {
                "victim": victim,
                "fronts": state,
                "clients": count,
                "raw_mse": median_mse(found.inputs[:EACH], targets[0]),
                "mean_image_mse": median_mse(mean, targets[0]),
                "clone_accuracy": metrics.accuracy(clone, source.test),
                "victim_accuracy": victim_accuracy,
            }


def clients_of(
    source: data.Dataset, victim: int
) -> tuple[dict[str, list[nn.Sequential]], nn.Sequential]:
    """The clients' fronts after the last average and an epoch of each later, and the server's."""
    fronts = [models.cut(models.mnist_net(victim), CUT)[0] for _ in range(CLIENTS)]
    server = protocol.Server(models.cut(models.mnist_net(victim), CUT)[1])
    splits = data.parts(source.train, CLIENTS, seed=victim)
    sessions = protocol.train_clients(
        fronts, server, splits, schedule="splitfed v2", epochs=EPOCHS, seed=victim
    )
    found, rest = {ONE: copy.deepcopy(fronts)}, copy.deepcopy(server.model).eval()
    for number, (session, split) in enumerate(zip(sessions, splits, strict=True)):
        protocol.Trainee(session.client, split, seed=victim, number=number).train(server)
    return found | {OWN: fronts}, rest


def median_mse(images: Tensor, truth: Tensor) -> float:
    """The median over the images of their mean squared error."""
    return metrics.mse(images, truth).median().item()


def table(facts: dict[str, Any]) -> str:
    """Markdown: the median over the victims, and in brackets the worst for the server."""
    lines = [
        "| fronts | clients in one attack | raw MSE | of the mean image | clone | victim |",
        "|---|---|---|---|---|---|",
    ]
    kinds = dict.fromkeys((row["fronts"], row["clients"]) for row in facts["rows"])
    for state, count in kinds:
        of = [row for row in facts["rows"] if (row["fronts"], row["clients"]) == (state, count)]
        cells = [
            spread([row["raw_mse"] for row in of], max, ".4f"),
            middle([row["mean_image_mse"] for row in of], ".4f"),
            spread([row["clone_accuracy"] for row in of], min, ".1%"),
            middle([row["victim_accuracy"] for row in of], ".1%"),
        ]
        lines.append(f"| {state} | {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    typer.run(main)
