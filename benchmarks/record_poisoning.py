"""What poisoned clients get, against each defence, beside a clean run and a trigger nobody planted.

    python -m benchmarks.record_poisoning                       # digits, then MNIST
    python -m benchmarks.record_poisoning --datasets mnist --seeds 1
    python -m benchmarks.record_poisoning --summary

Each row of course/results/poisoning_<dataset>.csv is one training by ten clients, of which two
cheat (`sltools.experiments.train_crowd`). A row that is in the file already is not measured again,
so the command can be interrupted and goes on where it was. `python -m tools.results` puts the
tables into docs/results.md.
"""

import csv
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from filelock import FileLock

from benchmarks import spread, write_facts
from benchmarks.record_auxiliary import check_settings
from sltools import data, devices, experiments, lessons, metrics, models, storage
from sltools.attacks import Backdoor, LabelFlip, StealthyClient, Trigger
from sltools.defenses import CoordinateMedian, Krum, SafeSplit, TrimmedMean
from sltools.detectors import Detector, LabelGap, Scrutinizer, SplitGuard, SplitOut
from sltools.experiments.poisoning import AT, BATCH, CHEATERS, CLIENTS, EPOCHS, LEARNING_RATE
from sltools.progress import bar

SEEDS = 3
COPIES = 5  # of a cheater's data in SplitFed
RARE, FAINT = 0.05, 0.02  # the adaptive attackers: poison rate, volume
SOURCE, FLIPPED = 7, 1
WATCHED = (0, 1, 2, 4)  # the places of honest clients that have a detector
TEST = 1000  # test images that are scored, at most
SAMPLES = {"digits": None, "mnist": 2000}  # training images of all clients together
TRIGGER = Trigger()
NEVER_PLANTED = replace(TRIGGER, seed=1)

IN_TURN, SPLITFED = "in turn", "splitfed v1"
NONE, CLEAN = "none", "none"
DEFENSES: dict[str, Callable[[], Any]] = {
    NONE: lambda: None,
    "SafeSplit": lambda: SafeSplit(CLIENTS),
    "Krum": lambda: Krum(len(CHEATERS)),
    "median": CoordinateMedian,
    "trimmed mean": lambda: TrimmedMean(len(CHEATERS)),
}
FLIP, BACKDOOR, DILUTED = "flip", "backdoor", "backdoor, data not repeated"
RARELY = f"backdoor, {RARE:.0%} of the data"
STEALTHY, FAINTLY = "backdoor in the head", "backdoor, faint gradient"
DETECTED = "detectors"
ATTACKS = (CLEAN, BACKDOOR, FLIP)


@dataclass(frozen=True)
class Case:
    """What tells one training from another."""

    schedule: str
    defense: str
    attack: str
    seed: int


@dataclass(frozen=True)
class Row:
    """One training, scored on test images at its end; shares are in [0, 1], None where none are.

    `trigger`, `never_planted` and `flipped` are the success of the cheaters' trigger, of one with
    other pixels, and of the flip, whatever was the attack. `after_cheater` is that of the attack
    right after the last turn of a cheater. `undone` are turns that the guard undid, from the third
    on; `alarms` the share of batches at which a detector raised one.
    """

    dataset: str
    schedule: str
    defense: str
    attack: str
    seed: int
    accuracy: float
    trigger: float
    never_planted: float
    flipped: float
    after_cheater: float | None = None
    cheaters_undone: float | None = None
    honest_undone: float | None = None
    split_guard: float | None = None
    scrutinizer: float | None = None
    label_gap: float | None = None
    split_out: float | None = None
    cpu_seconds: float | None = None

    @property
    def case(self) -> Case:
        """What tells this training from another."""
        return Case(self.schedule, self.defense, self.attack, self.seed)

    @property
    def success(self) -> float:
        """Of the attack, or in a clean run of the trigger."""
        return self.flipped if self.attack == FLIP else self.trigger


def main(
    datasets: str = "digits,mnist",
    studies: Annotated[
        str, typer.Option(help="Of main, adaptive, detectors.")
    ] = "main,adaptive,detectors",
    seeds: Annotated[int, typer.Option(help="How many.")] = SEEDS,
    summary: Annotated[bool, typer.Option(help="Print the tables and measure nothing.")] = False,
) -> None:
    """Measure what is missing, on one thread, and print the tables."""
    torch.set_num_threads(1)
    for name in datasets.split(","):
        path = lessons.course() / "results" / f"poisoning_{name}.csv"
        if not summary:
            check_settings(path.with_suffix(".json"), facts_of(name))
            write_facts(path.with_suffix(".json"), facts_of(name))
            dataset = data.load(name)
            cases = [
                Case(*case, seed)
                for seed in range(seeds)
                for study in studies.split(",")
                for case in STUDIES[study](name != "digits")
            ]
            for case in bar(cases, name):
                if case not in {row.case for row in read(path)}:  # another process may measure too
                    append(path, measure(dataset, case))
        print("\n\n".join(tables(name)))


def _main_cases(brief: bool) -> Iterator[tuple[str, str, str]]:
    """Attacks beside defences; of MNIST only what stands beside the published table."""
    for attack in ATTACKS[:2] if brief else ATTACKS:
        for defense in (NONE, "SafeSplit"):
            yield IN_TURN, defense, attack
        for defense in () if brief else (NONE, "Krum", "median", "trimmed mean"):
            yield SPLITFED, defense, attack


def _adaptive_cases(brief: bool) -> Iterator[tuple[str, str, str]]:
    """Attackers who know the defence, and one who does not know the average."""
    if not brief:
        yield SPLITFED, NONE, DILUTED
        for defense in ("SafeSplit", NONE):
            for attack in (FAINTLY, STEALTHY, RARELY):
                yield IN_TURN, defense, attack


def _detector_cases(brief: bool) -> Iterator[tuple[str, str, str]]:
    """What the detectors of honest clients say."""
    for attack in () if brief else ATTACKS:
        yield IN_TURN, DETECTED, attack


STUDIES = {"main": _main_cases, "adaptive": _adaptive_cases, "detectors": _detector_cases}


def measure(dataset: data.Dataset, case: Case) -> Row:
    """Train, and score what came out."""
    start = time.process_time()
    copies = COPIES if case.schedule == SPLITFED else 1
    backdoor = Backdoor(TRIGGER, copies=copies, seed=case.seed)
    attacks: dict[str, dict[str, Any]] = {
        CLEAN: {},
        FLIP: {"attack": LabelFlip(SOURCE, FLIPPED, copies=copies, seed=case.seed)},
        BACKDOOR: {"attack": backdoor},
        DILUTED: {"attack": replace(backdoor, copies=1)},
        RARELY: {"attack": replace(backdoor, rate=RARE)},
        STEALTHY: {"cheat": partial(StealthyClient, backdoor=backdoor)},
        FAINTLY: {"cheat": partial(StealthyClient, backdoor=backdoor, volume=FAINT)},
    }
    detectors = watchers(dataset, case.seed) if case.defense == DETECTED else {}
    crowd = experiments.train_crowd(
        dataset,
        schedule=case.schedule,
        defense=DEFENSES.get(case.defense, DEFENSES[NONE])(),
        detectors=dict(zip(WATCHED, detectors.values(), strict=False)),
        samples=SAMPLES[dataset.name],
        seed=case.seed,
        **attacks[case.attack],
    )
    test = dataset.test[:TEST]
    found: dict[str, float | None] = {
        "trigger": planted(test, TRIGGER)(crowd.session),
        "never_planted": planted(test, NEVER_PLANTED)(crowd.session),
        "flipped": flipped(test)(crowd.session),
    }
    if case.schedule == IN_TURN:
        success = flipped(test) if case.attack == FLIP else planted(test, TRIGGER)
        last = CHEATERS[-1] - CLIENTS  # the place of its last turn, from the end
        found["after_cheater"] = crowd.after_turns(success, last)[0]
        found["cheaters_undone"] = statistics.mean(crowd.undone(cheating=True, since=2))
        found["honest_undone"] = statistics.mean(crowd.undone(cheating=False, since=2))
    for name, detector in detectors.items():
        if detector.scores:
            found[name] = len(detector.alarms) / len(detector.scores)
    accuracy = crowd.session.accuracy(test)
    seconds = round(time.process_time() - start, 1)
    return Row(
        dataset.name, **asdict(case), accuracy=accuracy, **found, cpu_seconds=seconds  # type: ignore[arg-type]
    )  # fmt: skip


def watchers(dataset: data.Dataset, seed: int) -> dict[str, Detector]:
    """A detector for each of the clients that are watched, by the name of its column."""
    net = models.for_images(dataset.train.images.shape, seed + 1000)  # not the clients' weights
    own = data.parts(dataset.train, CLIENTS, seed=seed)[WATCHED[-1]]
    return {
        "split_guard": SplitGuard(seed=seed),
        "scrutinizer": Scrutinizer(),
        "label_gap": LabelGap(),
        "split_out": SplitOut(net, own, 1.0, 2, batch_size=BATCH, seed=seed),
    }


def planted(test: data.Split, trigger: Trigger) -> Callable[[Any], float]:
    """A measure of the success of a trigger."""
    return lambda session: metrics.attack_success(
        session.predict, test, trigger.target, trigger.stamp
    )


def flipped(test: data.Split) -> Callable[[Any], float]:
    """A measure of the success of the flip."""
    source = test[test.labels == SOURCE]
    return lambda session: metrics.attack_success(session.predict, source, FLIPPED)


# ---- rows and tables -----------------------------------------------------------------------------


def read(path: Path) -> list[Row]:
    """The rows of a file; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [_row(cells) for cells in csv.DictReader(file)]


def _row(cells: dict[str, str]) -> Row:
    texts = ("dataset", "schedule", "defense", "attack")
    values: dict[str, Any] = {
        name: text if name in texts else None if text == "" else float(text)
        for name, text in cells.items()
    }
    return Row(**values | {"seed": int(values["seed"])})


def append(path: Path, row: Row) -> None:
    """Write the file anew with one row more, in one step."""
    with (
        FileLock(path.with_name(f".{path.name}.lock")),
        storage.atomic_path(path) as part,
        part.open("w", newline="", encoding="utf-8") as file,
    ):
        rows = [*read(path), row]
        writer = csv.DictWriter(file, [field.name for field in fields(Row)])
        writer.writeheader()
        for one in rows:
            values = asdict(one).items()
            writer.writerow({
                name: "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
                for name, value in values
            })  # fmt: skip


NAMES = {SPLITFED: "SplitFed V1", IN_TURN: "in turn"}
PUBLISHED = {"before": (0.862, 0.987), "after": (0.0, 0.988)}  # MNIST: backdoor, task
COLUMNS = {
    "split_guard": "SplitGuard",
    "scrutinizer": "Scrutinizer",
    "label_gap": "LabelGap",
    "split_out": "SplitOut",
}


def tables(name: str) -> list[str]:
    """The tables of a data set, of the committed rows."""
    rows = read(lessons.course() / "results" / f"poisoning_{name}.csv")
    made = [main_table(rows)]
    return [*made, turn_table(rows), alarm_table(rows)] if name == "digits" else made


def main_table(rows: list[Row]) -> str:
    """Success and accuracy by schedule and defence."""
    head = [
        "| | defence | runs | clean accuracy | the trigger there | backdoor: success "
        "| another patch | accuracy | flip: success | accuracy |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    lines = []
    for schedule in (IN_TURN, SPLITFED):
        for defense in DEFENSES:
            runs = {attack: of(rows, schedule, defense, attack) for attack in ATTACKS}
            if runs[CLEAN]:
                cells = [
                    low(row.accuracy for row in runs[CLEAN]),
                    high(row.trigger for row in runs[CLEAN]),
                    high(row.trigger for row in runs[BACKDOOR]),
                    high(row.never_planted for row in runs[BACKDOOR]),
                    low(row.accuracy for row in runs[BACKDOOR]),
                    high(row.flipped for row in runs[FLIP]),
                    low(row.accuracy for row in runs[FLIP]),
                ]
                counts = "/".join(str(len(found)) for found in runs.values())
                lines.append(f"| {NAMES[schedule]} | {defense} | {counts} | {' | '.join(cells)} |")
    return "\n".join(head + lines)


def turn_table(rows: list[Row]) -> str:
    """Turn by turn: what passes, what is undone, and what it costs."""
    head = [
        "| attack | defence | runs | success at the end | after the cheater's turn "
        "| cheaters' turns undone | honest turns undone | accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines = []
    for attack in (CLEAN, FLIP, BACKDOOR, RARELY, FAINTLY, STEALTHY):
        for defense in (NONE, "SafeSplit"):
            runs = of(rows, IN_TURN, defense, attack)
            if runs:
                cells = [
                    high(row.success for row in runs),
                    high(row.after_cheater for row in runs),
                    low(row.cheaters_undone for row in runs) if defense != NONE else "–",
                    high(row.honest_undone for row in runs) if defense != NONE else "–",
                    low(row.accuracy for row in runs),
                ]
                lines.append(f"| {attack} | {defense} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(head + lines)


def alarm_table(rows: list[Row]) -> str:
    """How often the detectors of honest clients raise an alarm."""
    head = [f"| attack | runs | {' | '.join(COLUMNS.values())} |", "|---|---|---|---|---|---|"]
    lines = []
    for attack in ATTACKS:
        runs = of(rows, IN_TURN, DETECTED, attack)
        cells = [high(getattr(row, column) for row in runs) for column in COLUMNS]
        lines.append(f"| {attack} | {len(runs)} | {' | '.join(cells)} |")
    return "\n".join(head + lines)


def published_table() -> str:
    """SafeSplit's numbers on MNIST beside ours."""
    rows = read(lessons.course() / "results" / "poisoning_mnist.csv")
    lines = [
        "| MNIST | backdoor, published | ours | accuracy, published | ours |",
        "|---|---|---|---|---|",
    ]
    for name, defense in (("before", NONE), ("after", "SafeSplit")):
        runs = of(rows, IN_TURN, defense, BACKDOOR)
        theirs = [f"{value:.1%}" for value in PUBLISHED[name]]
        ours = high(row.trigger for row in runs), low(row.accuracy for row in runs)
        lines.append(f"| {name} | {theirs[0]} | {ours[0]} | {theirs[1]} | {ours[1]} |")
    return "\n".join(lines)


def of(rows: list[Row], schedule: str, defense: str, attack: str) -> list[Row]:
    """The rows of one case, one for each seed."""
    return [
        row
        for row in rows
        if (row.schedule, row.defense, row.attack) == (schedule, defense, attack)
    ]


def high(values: Iterable[float | None]) -> str:
    """The median of the seeds, and the highest in brackets."""
    return spread(values, max, ".1%")


def low(values: Iterable[float | None]) -> str:
    """The median of the seeds, and the lowest in brackets."""
    return spread(values, min, ".1%")


def facts_of(name: str) -> dict[str, Any]:
    """What the rows of a data set were measured with."""
    return {
        "command": f"python -m benchmarks.record_poisoning --datasets {name}",
        "dataset": name,
        "samples": SAMPLES[name] or "all",
        "clients": CLIENTS,
        "cheaters": [place + 1 for place in CHEATERS],
        "cut": AT,
        "epochs": EPOCHS,
        "optimizer": f"Adam, {LEARNING_RATE}, batches of {BATCH}",
        "trigger": asdict(TRIGGER),
        "never_planted": asdict(NEVER_PLANTED),
        "rate": Backdoor().rate,
        "adaptive": {"rate": RARE, "volume": FAINT},
        "copies_in_splitfed": COPIES,
        "flip": [SOURCE, FLIPPED],
        "defenses": {key: repr(make()) for key, make in DEFENSES.items() if key != "SafeSplit"},
        "versions": devices.versions("scikit-learn"),
        "device": "cpu, 1 thread",
    }


if __name__ == "__main__":
    typer.run(main)
