"""What attackers with data of their own get at each depth, beside what their data alone are worth.

    python -m benchmarks.record_auxiliary                         # digits, then MNIST
    python -m benchmarks.record_auxiliary --datasets mnist --attackers 1
    python -m benchmarks.record_auxiliary --summary

Each row of course/results/auxiliary_<dataset>.csv is one attack on one victim: those of the study
of depth (`benchmarks.reproduce`), with the same targets. The attacker has test images that are no
targets; the surrogate is scored on the other test images. A row that is in the file already is not
measured again, so the command can be interrupted and goes on where it was.
"""

import csv
import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from filelock import FileLock
from torch import Tensor, nn

from benchmarks import reproduce, write_facts
from sltools import data, devices, experiments, lessons, metrics, protocol, storage
from sltools.attacks import FORA, PCAT, SDAR, DecoderInversion, networks
from sltools.attacks.surrogate import SurrogateAttack
from sltools.errors import SltoolsError
from sltools.interrupts import finished
from sltools.progress import bar

VICTIMS, ATTACKERS = 3, 3
TARGETS = 10
TRAFFIC = 2000  # of the client's images cross the wire beside the targets
STEPS = {"digits": 400, "mnist": 1500}
COUNTS = {"digits": 200, "mnist": 5000}  # auxiliary images
STAGES = ("pool1", "pool2", "fc1", "relu4")
ATTACKS: dict[str, type[SurrogateAttack]] = {"SDAR": SDAR, "PCAT": PCAT, "FORA": FORA}
ORACLE, MACHINE, NETWORK = "inverse network", "support vectors", "own network"


@dataclass(frozen=True)
class Row:
    """One attack or rival, scored; image scores are medians over the targets, "" where none.

    `stage` is "" for a rival that has the auxiliary data alone. `accuracy` and `agreement` with the
    victim are those of surrogate and server, or of the rival, on held-out images.
    """

    dataset: str
    stage: str
    attack: str
    victim: int
    attacker: int
    images: int
    raw_mse: float | None
    aligned_mse: float | None
    ssim: float | None
    feature_loss: float | None
    accuracy: float | None
    agreement: float | None
    victim_accuracy: float
    mean_image_mse: float
    class_mean_mse: float
    cpu_seconds: float

    @property
    def key(self) -> tuple[Any, ...]:
        """What tells one measurement from another."""
        return (self.stage, self.attack, self.victim, self.attacker, self.images)


def main(
    datasets: str = "digits,mnist",
    stages: str = ",".join(STAGES),
    attackers: Annotated[int, typer.Option(help="How many attackers for each victim.")] = ATTACKERS,
    summary: Annotated[bool, typer.Option(help="Print the table and measure nothing.")] = False,
) -> None:
    """Measure what is missing, on one thread, and print the table."""
    torch.set_num_threads(1)
    for name in datasets.split(","):
        path = lessons.course() / "results" / f"auxiliary_{name}.csv"
        if not summary:
            _measure_missing(name, stages.split(","), attackers, path)
        print(table(read(path)))


def _measure_missing(name: str, stages: Sequence[str], attackers: int, path: Path) -> None:
    dataset, facts = data.load(name), path.with_suffix(".json")
    check_settings(facts, facts_of(name))
    write_facts(facts, facts_of(name))
    for measure, key in bar(list(_measurements(dataset, stages, attackers)), name):
        if key not in {row.key for row in read(path)}:  # another process may measure as well
            start = time.process_time()
            row = Row(*measure(), cpu_seconds=round(time.process_time() - start, 1))  # type: ignore[call-arg]
            _append(path, row)


def _measurements(
    dataset: data.Dataset, stages: Sequence[str], attackers: int
) -> Iterator[tuple[Callable[[], list[Any]], tuple[Any, ...]]]:
    """What is to be measured, all victims once before any of them again, and its key."""
    count = COUNTS[dataset.name]
    for attacker in range(attackers):
        for victim in range(VICTIMS):
            for stage in stages:
                for attack in ATTACKS:
                    key = (stage, attack, victim, attacker, count)
                    yield partial(_attacked, dataset, *key), key
            if attacker == 0:
                for stage in stages:
                    key = (stage, ORACLE, victim, 0, count)
                    yield partial(_inverse_network, dataset, *key), key
                for rival in (MACHINE, NETWORK):
                    key = ("", rival, victim, 0, count)
                    yield partial(_without_attack, dataset, *key), key


@cache
def _victim(dataset: data.Dataset, seed: int) -> protocol.Session:
    return finished(experiments.train_victim(dataset, "pool1", budget="quick", seed=seed))


def _attacked(
    dataset: data.Dataset, stage: str, attack: str, victim: int, attacker: int, count: int
) -> list[Any]:
    """One attack on a record of the targets' and other images' inference."""
    session = protocol.recut(_victim(dataset, victim), stage)
    own, held_out = _auxiliary(dataset, victim, attacker, count)
    targets = experiments.first_targets(dataset, TARGETS)
    traffic = torch.cat([targets.images, dataset.train.images[:TRAFFIC]])
    seed = victim * ATTACKERS + attacker
    settings = ATTACKS[attack](steps=STEPS[dataset.name], seed=seed)
    found = finished(settings(session.observe(traffic), own))
    scores = _image_scores(found.inputs[:TARGETS], targets.images)
    stolen = nn.Sequential(found.clone, session.server.model.eval())
    guess = networks.in_chunks(stolen, held_out.images).argmax(1)
    return [
        dataset.name, stage, attack, victim, attacker, count, *scores, found.feature_loss,
        *_classified(guess, session, held_out), *_baselines(own, targets),
    ]  # fmt: skip


def _inverse_network(
    dataset: data.Dataset, stage: str, attack: str, victim: int, attacker: int, count: int
) -> list[Any]:
    """A bound, as far as one training goes: a decoder that had the client's weights for pairs."""
    session = protocol.recut(_victim(dataset, victim), stage)
    own, held_out = _auxiliary(dataset, victim, attacker, count)
    targets = experiments.first_targets(dataset, TARGETS)
    settings = DecoderInversion(steps=2 * STEPS[dataset.name], seed=victim * ATTACKERS)
    view = session.observe(targets.images, grants=["client_model"])
    found = finished(settings(view, own.images))
    scores = _image_scores(found.inputs, targets.images)
    none = (None, None, session.accuracy(held_out))
    return [
        dataset.name, stage, attack, victim, attacker, count, *scores, found.feature_loss,
        *none, *_baselines(own, targets),
    ]  # fmt: skip


def _without_attack(
    dataset: data.Dataset, stage: str, attack: str, victim: int, attacker: int, count: int
) -> list[Any]:
    """What the attacker's data are worth without any attack: a classifier of its own."""
    session = _victim(dataset, victim)
    own, held_out = _auxiliary(dataset, victim, attacker, count)
    if attack == MACHINE:
        guess = experiments.support_vectors(own, held_out.images)
    else:
        rival = experiments.own_network(own, steps=5 * STEPS[dataset.name], seed=victim)
        guess = networks.in_chunks(rival, held_out.images).argmax(1)
    targets = experiments.first_targets(dataset, TARGETS)
    return [
        dataset.name, stage, attack, victim, attacker, count, None, None, None, None,
        *_classified(guess, session, held_out), *_baselines(own, targets),
    ]  # fmt: skip


def _auxiliary(
    dataset: data.Dataset, victim: int, attacker: int, count: int
) -> experiments.AuxiliaryData:
    seed = victim * ATTACKERS + attacker
    return experiments.auxiliary_data(dataset, count, targets=TARGETS, seed=seed)


def check_settings(path: Path, facts: dict[str, Any]) -> None:
    """Raise SltoolsError if the file of facts at `path` tells of other settings than `facts`."""
    if not path.exists():
        return
    kept = json.loads(path.read_text(encoding="utf-8"))
    told = json.loads(json.dumps(facts))
    if others := [name for name in told if name != "versions" and kept.get(name) != told[name]]:
        raise SltoolsError(
            f"{path} was recorded with another {others[0]}: {kept.get(others[0])}, not "
            f"{told[others[0]]}. Move it and its .csv away to measure anew"
        )


def _image_scores(images: Tensor, truth: Tensor) -> list[float]:
    scores = metrics.score_images(images, truth).summary()
    return [scores[f"{name}_median"] for name in ("mse", "aligned_mse", "ssim")]


def _classified(
    guess: Tensor, session: protocol.Session, held_out: data.Split
) -> tuple[float, float, float]:
    """Accuracy of a guess, its agreement with the victim's, and the victim's own accuracy."""
    victim = session.predict(held_out.images).argmax(1)
    shares = (guess == held_out.labels, guess == victim, victim == held_out.labels)
    accuracy, agreement, own = (share.double().mean().item() for share in shares)
    return accuracy, agreement, own


def _baselines(own: data.Split, targets: data.Split) -> tuple[float, float]:
    """Median error of the mean auxiliary image, and of that of the target's class."""
    mean = own.images.mean(0).expand_as(targets.images)
    by_class = experiments.class_means(own, targets.labels)
    found = [metrics.mse(image, targets.images).median().item() for image in (mean, by_class)]
    return found[0], found[1]


def read(path: Path) -> list[Row]:
    """The rows of a file; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [_row(cells) for cells in csv.DictReader(file)]


def _row(cells: dict[str, str]) -> Row:
    kinds = {"victim": int, "attacker": int, "images": int}
    texts = ("dataset", "stage", "attack")
    values = {
        name: text if name in texts else None if text == "" else kinds.get(name, float)(text)
        for name, text in cells.items()
    }
    return Row(**values)  # type: ignore[arg-type]


def _append(path: Path, row: Row) -> None:
    """Write the file anew with one row more, in one step."""
    with (
        FileLock(path.with_name(f".{path.name}.lock")),
        storage.atomic_path(path) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        kept = read(path)
        if row.key in {other.key for other in kept}:  # another process was sooner
            return
        lines = [asdict(other) for other in [*kept, row]]
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        for line in lines:
            shown = {
                name: f"{value:.6g}" if isinstance(value, float) else value
                for name, value in line.items()
            }
            writer.writerow({name: "" if value is None else value for name, value in shown.items()})


def facts_of(name: str) -> dict[str, Any]:
    """What the rows of a data set were measured with."""
    return {
        "command": f"python -m benchmarks.record_auxiliary --datasets {name}",
        "dataset": name,
        "victims": VICTIMS,
        "targets": TARGETS,
        "traffic": f"the first {TRAFFIC} training images, or all there are",
        "auxiliary_images": COUNTS[name],
        "attacks": {key: asdict(attack(steps=STEPS[name])) for key, attack in ATTACKS.items()},
        "oracle": asdict(DecoderInversion(steps=2 * STEPS[name])),
        "own_network_steps": 5 * STEPS[name],
        "versions": devices.versions("scikit-learn"),
        "device": "cpu, 1 thread",
    }


def table(rows: list[Row]) -> str:
    """The table of docs/results.md: medians, the worst in brackets, with UnSplit and baselines."""
    lines = [
        "| cut | attacker | runs | raw MSE | SSIM | accuracy | agreement | the victim's accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for stage in (*STAGES, ""):
        at_stage = [row for row in rows if row.stage == stage]
        lines += [_unsplit_line(rows[0].dataset, stage)] if at_stage and stage else []
        for attack in dict.fromkeys(row.attack for row in at_stage):
            lines.append(_line(stage, attack, [row for row in at_stage if row.attack == attack]))
    draws = {(row.victim, row.attacker): row for row in rows}.values()
    for name, column in (("mean image", "mean_image_mse"), ("mean of the class", "class_mean_mse")):
        errors = _spread([getattr(row, column) for row in draws], max, "{:.4f}")
        lines.append(f"| no cut | {name} | {len(draws)} | {errors} | – | – | – | – |")
    return "\n".join(lines)


def _line(stage: str, attack: str, found: list[Row]) -> str:
    cells = [
        _spread([row.raw_mse for row in found], max, "{:.4f}"),
        _spread([row.ssim for row in found], min, "{:.2f}"),
        _spread([row.accuracy for row in found], min, "{:.1%}"),
        _spread([row.agreement for row in found], min, "{:.1%}"),
        f"{statistics.median(row.victim_accuracy for row in found):.1%}",
    ]
    return f"| {stage or 'no cut'} | {attack} | {len(found)} | {' | '.join(cells)} |"


def _unsplit_line(dataset: str, stage: str) -> str:
    """What UnSplit, without data, got at the same victims and targets, in the study of depth."""
    path = lessons.course() / "results" / reproduce.FILES["quick"]
    found = [
        row
        for row in reproduce.read(path)
        if (row.dataset, row.stage) == (dataset, stage) and row.chosen
    ]
    cells = [
        _spread([row.raw_mse for row in found], max, "{:.4f}"),
        _spread([row.ssim for row in found], min, "{:.2f}"),
        _spread([row.clone_accuracy for row in found], min, "{:.1%}"),
        _spread([row.agreement for row in found], min, "{:.1%}"),
        f"{statistics.median(row.victim_accuracy for row in found):.1%}",
    ]
    return f"| {stage} | UnSplit | {len(found)} | {' | '.join(cells)} |"


def _spread(
    values: Sequence[float | None], worst: Callable[[list[float]], float], form: str
) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    return f"{form.format(statistics.median(known))} [{form.format(worst(known))}]"


if __name__ == "__main__":
    typer.run(main)
