"""How far attack 1 reaches: every data set, every stage of its network, several victims and clones.

    make reproduce                                        # digits, MNIST, CIFAR-10, on the CPU
    make reproduce ARGS="--budget full"                   # with four times the steps
    make reproduce ARGS="--budget steady"                 # as full, but on MNIST no prior fades
    python -m benchmarks.reproduce --datasets mnist --stages pool1,conv2 --device cuda

Each row of course/results/depth.csv (or depth_full.csv, depth_steady.csv) is one restart of one
attack; `chosen` marks the restart that the attacker keeps, the one of least objective. Beside it
stand what the mean image scores, and that of the target's class, and what a search scores that was
given the weights: the best of several, for it is to bound what the attack can reach. An attack that
is in the file already, with all its restarts, is not run again, so the command can be interrupted
and goes on where it was.
`python -m benchmarks.reproduce --summary` prints the table of docs/results.md, and what is missing.
"""

import csv
import hashlib
import json
import math
import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from filelock import FileLock
from torch import Tensor

from benchmarks import write_facts
from sltools import data, devices, experiments, lessons, metrics, models, protocol, storage
from sltools.attacks import InversionResult, KnownWeightsInversion, UnSplit
from sltools.cli import INTERRUPTED
from sltools.errors import SltoolsError
from sltools.interrupts import finished
from sltools.models import Architecture
from sltools.progress import bar

DATASETS = ("digits", "mnist", "cifar10")
VICTIMS, CLONES = 3, 3
TARGETS = {name: experiments.usual_targets(name) for name in DATASETS}
RESTARTS = {"digits": 6, "mnist": 6, "cifar10": 2}  # which takes thirty times as long
BUDGETS = {  # of the victims: one epoch teaches CIFAR-10's nothing
    "digits": "quick",
    "mnist": "quick",
    "cifar10": "full",
}
SAME = {"flatten"}  # stages that send what the one before sends
ENOUGH = 0.01  # of the mean image's error: below it the oracle needs no other search
FILES = {"quick": "depth.csv", "full": "depth_full.csv", "steady": "depth_steady.csv"}

IMAGE_SCORES = {  # column -> what `metrics.score_images` calls it
    "raw_mse": "mse_median",
    "worst_mse": "mse_worst",
    "aligned_mse": "aligned_mse_median",
    "ssim": "ssim_median",
    "negatives": "negatives",
}
NO_SCORES = dict.fromkeys(IMAGE_SCORES, math.nan)


@dataclass(frozen=True)
class Row:
    """One restart of one attack, scored; image scores are medians over the targets."""

    dataset: str
    stage: str
    victim: int
    clone: int
    restart: int
    chosen: bool
    objective: float
    feature_loss: float
    raw_mse: float
    worst_mse: float
    aligned_mse: float
    ssim: float
    negatives: float
    clone_accuracy: float
    agreement: float
    victim_accuracy: float
    random_accuracy: float
    known_weights_mse: float
    mean_image_mse: float
    mean_image_aligned_mse: float
    mean_image_ssim: float
    class_mean_mse: float
    blank_mse: float
    cpu_seconds: float
    device: str


def main(
    datasets: Annotated[str, typer.Option(help="Comma-separated.")] = ",".join(DATASETS),
    stages: Annotated[str, typer.Option(help="Comma-separated; default: all.")] = "",
    budget: Annotated[str, typer.Option(help="Of the attack: quick, full or steady.")] = "quick",
    device: str = "cpu",
    summary: Annotated[bool, typer.Option("--summary", help="Only print the table.")] = False,
    path: Annotated[Path | None, typer.Option(help="The CSV file.")] = None,
) -> None:
    """Run what is missing in the CSV file, then print the table and what is missing still."""
    names = datasets.split(",")
    wanted = [stage for stage in stages.split(",") if stage]
    try:
        _check(names, wanted, budget)
        path = path or lessons.course() / "results" / FILES[budget]
        if not summary:
            devices.find(device)
            torch.set_num_threads(1)  # these networks gain little: run data sets side by side
            _run(names, wanted, budget, device, path)
        rows = read(path)
    except (SltoolsError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on with what is missing")
        raise SystemExit(INTERRUPTED) from None
    print(table(rows))
    for name in names:
        print(f"{name}: {missing(name, rows)}")


def _check(names: list[str], stages: list[str], budget: str) -> None:
    """Raise SltoolsError, before any work, for what there is not."""
    if budget not in FILES:
        raise SltoolsError(
            f"attacks are recorded with --budget {', '.join(FILES)}; not with {budget}"
        )
    for name in names:
        if name not in DATASETS:
            raise SltoolsError(f"{name!r} is not among the data sets {', '.join(DATASETS)}")
        if unknown := set(stages) - set(_stages(name)):
            raise SltoolsError(
                f"{name} is not attacked at {', '.join(sorted(unknown))}: its stages are "
                f"{', '.join(_stages(name))}"
            )


def _run(names: list[str], stages: list[str], budget: str, device: str, path: Path) -> None:
    rows = read(path)  # complains now if it is not ours
    _note_settings(path.with_suffix(".json"), budget, rows)
    for name in names:
        try:
            dataset = data.load(name)
        except SltoolsError as error:
            print(f"{name} is left out: {error}")
            continue
        _note_data(path.with_suffix(".json"), dataset)
        reproduce(dataset, stages, device, path, budget)


def _attack(dataset: str, budget: str) -> UnSplit:
    steps = experiments.STEPS["quick" if budget == "quick" else "full"]
    priors = experiments.priors(dataset, budget)
    return UnSplit(steps=steps, restarts=RESTARTS[dataset], **priors)


def _oracles(dataset: str, budget: str) -> list[KnownWeightsInversion]:
    """Searches with the weights known: a short one, then some as long as the attack."""
    attack = _attack(dataset, budget)
    weak = KnownWeightsInversion(steps=attack.steps)
    own = replace(weak, tv=attack.tv, tv_end=attack.tv_end, l1=attack.l1, input_lr=attack.input_lr)
    return [replace(weak, steps=attack.steps // 2), weak, replace(own, tv=0.1, tv_end=None), own]


def _note_settings(path: Path, budget: str, rows: list[Row]) -> None:
    """Keep the settings beside the rows; refuse to add rows of other settings to a file."""
    settings = {
        "command": "make reproduce" + (f' ARGS="--budget {budget}"' if budget != "quick" else ""),
        "victims": VICTIMS,
        "clones": CLONES,
        "targets": TARGETS,  # the first test image of each class, then the second, ...
        "restarts": RESTARTS,
        "attack": asdict(_attack("digits", budget)),
        "priors": {name: experiments.priors(name, budget) for name in DATASETS},
        "training": {  # of the victims: epochs, and how many training images (null: all)
            name: experiments.training(name, BUDGETS[name]) for name in DATASETS
        },
        "oracles": {name: list(map(asdict, _oracles(name, budget))) for name in DATASETS},
    }
    if rows:
        noted = _noted(path)
        if json.loads(json.dumps(settings)) != {name: noted.get(name) for name in settings}:
            raise SltoolsError(
                f"the rows beside {path} were made with other settings: give another --path, or "
                "move them away"
            )
    else:
        facts = settings | {"versions": devices.versions()}
        write_facts(path, facts)


def _note_data(path: Path, dataset: data.Dataset) -> None:
    """Keep what the data are beside the rows; refuse to add rows of other data to a file."""
    facts = _noted(path)
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.test):
        digest.update(split.images.numpy().tobytes() + split.labels.numpy().tobytes())
    sizes = {"train": len(dataset.train), "test": len(dataset.test)}
    here = sizes | {"sha256": digest.hexdigest()}
    noted = facts.setdefault("data", {}).setdefault(dataset.name, here)
    if noted != here:
        raise SltoolsError(
            f"the rows beside {path} are of another {dataset.name} ({noted['train']:,} and "
            f"{noted['test']:,} images; here are {sizes['train']:,} and {sizes['test']:,}): give "
            "another --path, or move them away"
        )
    write_facts(path, facts)


def _noted(path: Path) -> dict[str, Any]:
    """The settings that are noted in a file; none if it is missing or broken."""
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, TypeError, ValueError):
        return {}


def reproduce(
    dataset: data.Dataset, stages: list[str], device: str, path: Path, budget: str = "quick"
) -> None:
    """Attack every victim at every stage with every clone seed that is not in `path` yet.

    First all with one clone seed, then all with the next: what there is of an interrupted study
    tells something of every stage.
    """
    rows = read(path)
    done = _whole(rows)
    jobs = [
        (victim, stage, clone)
        for clone in range(CLONES)
        for victim in range(VICTIMS)
        for stage in (stages or _stages(dataset.name))
        if (dataset.name, stage, victim, clone) not in done
    ]
    sessions: dict[int, protocol.Session] = {}
    known = {
        (row.victim, row.stage): row.known_weights_mse
        for row in rows
        if row.dataset == dataset.name
    }
    for victim, stage, clone in bar(jobs, dataset.name):
        if victim not in sessions:
            sessions[victim] = finished(
                experiments.train_victim(
                    dataset, budget=BUDGETS[dataset.name], seed=victim, device=device
                )
            )
        session = protocol.recut(sessions[victim], stage)
        if (victim, stage) not in known:  # it has no clone, and so no clone seed
            known[victim, stage] = oracle(dataset, session, budget)
        _append(path, attack(dataset, session, stage, victim, clone, budget, known[victim, stage]))


def oracle(dataset: data.Dataset, session: protocol.Session, budget: str) -> float:
    """The least raw MSE (median of the targets) that a search reaches with the weights known.

    Which of several searches that is, is seen from the truth: an oracle may know everything. They
    are tried in turn, while the error is worth another.
    """
    targets = experiments.first_targets(dataset, TARGETS[dataset.name])
    truth = targets.images.to(session.predict(targets.images[:1]).device)
    granted = session.observe(truth, grants=["client_model"])
    enough = ENOUGH * baselines(dataset, targets)["mean_image_mse"]
    best = math.inf
    for search in _oracles(dataset.name, budget):
        found = finished(search(granted))
        best = min(best, _median(metrics.mse(found.inputs, truth)))
        if best < enough:
            break
    return best


def attack(
    dataset: data.Dataset,
    session: protocol.Session,
    stage: str,
    victim: int,
    clone: int,
    budget: str,
    known_weights_mse: float,
) -> list[Row]:
    """Attack one victim with all restarts of one clone seed and score each of them."""
    targets = experiments.first_targets(dataset, TARGETS[dataset.name])
    truth = targets.images.to(session.predict(targets.images[:1]).device)
    start = time.process_time()
    search = replace(_attack(dataset.name, budget), seed=CLONES * victim + clone)
    runs = [finished(run) for run in search.runs(session.observe(truth))]
    seconds = time.process_time() - start
    objectives = [run.objective if _sound(run) else math.inf for run in runs]
    best = objectives.index(min(objectives))
    return [
        Row(
            dataset=dataset.name,
            stage=stage,
            victim=victim,
            clone=clone,
            restart=number,
            chosen=number == best,
            objective=run.objective,
            feature_loss=run.feature_loss,
            **(_image_scores(run.inputs, truth) if _sound(run) else NO_SCORES),
            **_clone_scores(run, session, dataset, number),
            known_weights_mse=known_weights_mse,
            **baselines(dataset, targets),
            cpu_seconds=round(seconds, 1),
            device=truth.device.type,
        )
        for number, run in enumerate(runs)
    ]


def baselines(dataset: data.Dataset, targets: data.Split) -> dict[str, float]:
    """What images score that need no smashed data: medians of the targets.

    The mean image needs only public data, that of its class the label of the target, too.
    """
    train, truth = dataset.train, targets.images
    of_class = [train.images[train.labels == label].mean(0) for label in targets.labels]
    scores = _image_scores(train.images.mean(0).expand_as(truth), truth)
    return {
        "mean_image_mse": scores["raw_mse"],
        "mean_image_aligned_mse": scores["aligned_mse"],
        "mean_image_ssim": scores["ssim"],
        "class_mean_mse": _median(metrics.mse(torch.stack(of_class), truth)),
        "blank_mse": _median(metrics.mse(torch.zeros_like(truth), truth)),
    }


def _median(values: Tensor) -> float:
    return statistics.median(values.tolist())


def _image_scores(inputs: Tensor, truth: Tensor) -> dict[str, float]:
    scores = metrics.score_images(inputs, truth).summary()
    return {name: scores[key] for name, key in IMAGE_SCORES.items()}


def _sound(run: InversionResult) -> bool:
    """Say whether a restart came to something: what diverged cannot be scored."""
    return math.isfinite(run.objective)


def _clone_scores(
    run: InversionResult, session: protocol.Session, dataset: data.Dataset, restart: int
) -> dict[str, float]:
    front, shape = session.client.front, dataset.train.images.shape[1:]
    random = Architecture.of(front, shape).build(run.seed, f"random clone {restart}")
    random.to(run.inputs.device)
    clone = run.clone if _sound(run) else random
    report = metrics.score_clone(clone, front, session.server.model, dataset.test, random)
    return {
        "clone_accuracy": report.clone_accuracy if _sound(run) else math.nan,
        "agreement": report.clone_agreement if _sound(run) else math.nan,
        "victim_accuracy": report.victim_accuracy,
        "random_accuracy": report.random_accuracy,
    }


def read(path: Path) -> list[Row]:
    """Read the rows of a CSV file; none if there is no file yet. Raises SltoolsError otherwise."""
    if not path.exists():
        return []
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        lines = csv.DictReader(file)
        try:
            if lines.fieldnames != COLUMNS:
                raise ValueError("it has other columns")
            for line in lines:
                cells = {f.name: _PARSE[f.type](line.pop(f.name)) for f in fields(Row)}
                if line:
                    raise ValueError("there are more cells than columns")
                _depth(cells["dataset"], cells["stage"])  # there is such a stage
                rows.append(Row(**cells))
        except (KeyError, TypeError, ValueError, csv.Error) as error:  # a missing cell is None
            raise SltoolsError(
                f"line {lines.line_num} of {path} is no row of this study ({error!r}): delete the "
                "line if it is broken, and the attack will be run anew; or give another --path"
            ) from None
    return rows


COLUMNS = [field.name for field in fields(Row)]
_PARSE: dict[Any, Callable[[str], Any]] = {
    str: str,
    int: int,
    float: float,
    bool: lambda text: {"True": True, "False": False}[text],
}


def _append(path: Path, rows: list[Row]) -> None:
    """Add the rows of one attack, in one step, in place of what there is of it.

    Data sets may be run side by side into one file: each waits for the other's turn to end.
    """
    with FileLock(path.with_name(f".{path.name}.lock")):
        kept = [row for row in read(path) if _key(row) != _key(rows[0])]
        with (
            storage.atomic_path(path) as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in [*kept, *rows]:
                values = asdict(row)
                writer.writerow(
                    {k: f"{v:.6g}" if isinstance(v, float) else v for k, v in values.items()}
                )


def _key(row: Row) -> tuple[str, str, int, int]:
    """What tells one attack from another."""
    return row.dataset, row.stage, row.victim, row.clone


def _whole(rows: Iterable[Row]) -> set[tuple[str, str, int, int]]:
    """The attacks of which every restart is there, and one is chosen."""
    rows = list(rows)
    restarts = Counter(map(_key, rows))
    chosen = Counter(_key(row) for row in rows if row.chosen)
    return {key for key, n in restarts.items() if (n, chosen[key]) == (RESTARTS[key[0]], 1)}


def table(rows: Iterable[Row]) -> str:
    """The Markdown table: median [best, worst] of the whole attacks, by the restart each chose."""
    rows = list(rows)
    whole = _whole(rows)
    lines = [
        "| data, cut after | attacks | raw MSE | aligned | SSIM | known weights "
        "| mean image: raw, aligned, SSIM | of its class: raw "
        "| clone | agrees | victim | random clone, best |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for (dataset, stage), group in _grouped(row for row in rows if _key(row) in whole):
        chosen = [row for row in group if row.chosen]
        errors = [row.raw_mse for row in chosen]
        accuracies = [row.clone_accuracy for row in chosen]
        cells = [
            f"{dataset}, {stage}",
            str(len(chosen)),
            f"{_middle(chosen, 'raw_mse'):.2g} [{min(errors):.2g}, {max(errors):.2g}]",
            f"{_middle(chosen, 'aligned_mse'):.2g}",
            f"{_middle(chosen, 'ssim'):.2f}",
            f"{_middle(chosen, 'known_weights_mse'):.2g}",
            f"{_middle(chosen, 'mean_image_mse'):.2g}, "
            f"{_middle(chosen, 'mean_image_aligned_mse'):.2g}, "
            f"{_middle(chosen, 'mean_image_ssim'):.2f}",
            f"{_middle(chosen, 'class_mean_mse'):.2g}",
            f"{_middle(chosen, 'clone_accuracy'):.1%} "
            f"[{max(accuracies):.1%}, {min(accuracies):.1%}]",
            f"{_middle(chosen, 'agreement'):.1%}",
            f"{_middle(chosen, 'victim_accuracy'):.1%}",
            f"{max(row.random_accuracy for row in group):.1%}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _middle(rows: list[Row], name: str) -> float:
    return statistics.median(getattr(row, name) for row in rows)


def _grouped(rows: Iterable[Row]) -> Iterator[tuple[tuple[str, str], list[Row]]]:
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.dataset, row.stage), []).append(row)
    yield from sorted(groups.items(), key=lambda item: _depth(*item[0]))


def _depth(dataset: str, stage: str) -> tuple[int, int]:
    return DATASETS.index(dataset), _stages(dataset).index(stage)


@cache
def _stages(dataset: str) -> list[str]:
    """The stages to attack, in order: all but the last and those that send what is sent already."""
    net = models.for_images(data.SHAPES[dataset])
    return [stage for stage in models.stages(net)[:-1] if stage not in SAME]


def missing(dataset: str, rows: Iterable[Row]) -> str:
    """Say at which stages of `dataset` not every victim was attacked with every clone seed."""
    done = Counter(stage for name, stage, *_ in _whole(rows) if name == dataset)
    planned = VICTIMS * CLONES
    lacking = [f"{s} ({planned - done[s]})" for s in _stages(dataset) if done[s] < planned]
    return "attacks missing at " + ", ".join(lacking) if lacking else "complete"


if __name__ == "__main__":
    typer.run(main)
