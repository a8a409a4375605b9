"""What attackers with data of their own get, beside what their data alone are worth.

    python -m benchmarks.record_auxiliary                         # digits, then MNIST
    python -m benchmarks.record_auxiliary --datasets mnist --studies depth --attackers 1
    python -m benchmarks.record_auxiliary --summary

Each row of course/results/auxiliary_<dataset>.csv is one attack on one victim: those of the study
of depth (`benchmarks.reproduce`), with the same targets. The attacker has test images that are no
targets, or images of another kind; the surrogate is scored on the other test images. Four studies:
how deep, how many images, how alike they are, and the labels of a label-private client. A row that
is in the file already is not measured again, so the command can be interrupted and goes on where it
was. `--attacks` measures some only: to measure rows anew, take them out of the file first.

`python -m tools.results` puts the tables into docs/results.md.
"""

import csv
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from filelock import FileLock
from torch import Tensor, nn
from torch.nn.functional import interpolate

from benchmarks import middle, quick_victim, reproduce, spread, write_facts
from sltools import data, devices, experiments, lessons, metrics, protocol, storage
from sltools.attacks import FORA, PCAT, SDAR, DecoderInversion, networks
from sltools.attacks.regression import FEATURES, RIDGES, cross_validated, fitted_decoder
from sltools.attacks.surrogate import SurrogateAttack
from sltools.errors import SltoolsError
from sltools.interrupts import finished
from sltools.progress import bar

VICTIMS, ATTACKERS = 3, 3
TARGETS = 10
TRAFFIC = 2000  # of the client's images cross the wire beside the targets
STEPS = {"digits": 500, "mnist": 2000}
BATCH = 64  # or all images, where there are fewer
# With many images, after convolutions, a network decodes better than what is fitted at the end.
MANY, NETWORK_DECODER = 1000, {"decoder": "network", "batch": 32}
RIVAL_STEPS = {"digits": 2000, "mnist": 7500}
COUNTS = {"digits": 200, "mnist": 5000}  # auxiliary images of the study of depth
CURVE = {"digits": (50, 100, 340), "mnist": (50, 500)}  # how many, beside COUNTS
STAGES = ("pool1", "pool2", "fc1", "relu4")
MAPS = ("pool1", "pool2")
VARIED = ("pool2", "fc1")  # the stages at which number and kind of the images are varied
SAME, HALF = "the same", "half of the classes"
KIND_COUNTS = {"digits": 100, "mnist": 500}
KINDS = {"digits": (HALF, "mnist", "cifar10"), "mnist": (HALF, "digits", "cifar10")}
LABEL_PRIVATE, PER_CLASS = ("pool1", "relu4"), 25
ATTACKS: dict[str, type[SurrogateAttack]] = {"SDAR": SDAR, "PCAT": PCAT, "FORA": FORA}
ORACLE, MACHINE, NETWORK = "known weights", "support vectors", "own network"
ORDER = (*ATTACKS, ORACLE, NETWORK, MACHINE)  # of the rows of a table


class Case(NamedTuple):
    """What tells one measurement from another; `stage` is "" for a rival without a client."""

    stage: str
    attack: str
    victim: int
    attacker: int
    images: int
    kind: str = SAME


@dataclass(frozen=True)
class Row:
    """One attack or rival, scored; image scores are medians over the targets, "" where none.

    `sent_mse` is the raw error over all that was sent. `accuracy` and `agreement` with the victim
    are those of surrogate and server, or of the rival, on held-out images; at the two stages of a
    label-private client, those of the labels that were inferred of all that was sent.
    """

    dataset: str
    stage: str
    attack: str
    victim: int
    attacker: int
    images: int
    kind: str
    raw_mse: float | None = None
    sent_mse: float | None = None
    aligned_mse: float | None = None
    ssim: float | None = None
    feature_loss: float | None = None
    accuracy: float | None = None
    agreement: float | None = None
    victim_accuracy: float | None = None
    mean_image_mse: float | None = None
    class_mean_mse: float | None = None
    sent_class_mean_mse: float | None = None
    cpu_seconds: float | None = None

    @property
    def case(self) -> Case:
        """What tells this measurement from another."""
        return Case(
            self.stage, self.attack, self.victim, self.attacker, self.images, self.kind
        )  # fmt: skip


Scores = dict[str, Any]
# Images (N, C, H, W) of a client's messages, by own images, images that are sent, and a seed.
Bound = Callable[[protocol.Session, Tensor, Tensor, int], Tensor]


def main(
    datasets: str = "digits,mnist",
    studies: Annotated[str, typer.Option(help="Of depth, number, kind, labels.")] = (
        "depth,number,kind,labels"
    ),
    stages: Annotated[str, typer.Option(help="Of the study of depth.")] = ",".join(STAGES),
    attackers: Annotated[int, typer.Option(help="How many attackers for each victim.")] = ATTACKERS,
    attacks: Annotated[str, typer.Option(help="Attacks and rivals.")] = ",".join(ORDER),
    summary: Annotated[bool, typer.Option(help="Print the tables and measure nothing.")] = False,
) -> None:
    """Measure what is missing, on one thread, and print the tables."""
    torch.set_num_threads(1)
    for name in datasets.split(","):
        if not summary:
            path = lessons.course() / "results" / f"auxiliary_{name}.csv"
            dataset = data.load(name)
            cases = [
                case
                for attacker in range(attackers)
                for victim in range(VICTIMS)
                for study in studies.split(",")
                for case in STUDIES[study](name, stages.split(","), victim, attacker)
                if case.attack in attacks.split(",")
            ]
            _measure_missing(dataset, cases, path)
        print("\n\n".join(tables(name)))


def _measure_missing(dataset: data.Dataset, cases: Sequence[Case], path: Path) -> None:
    facts = path.with_suffix(".json")
    check_settings(facts, facts_of(dataset.name))
    write_facts(facts, facts_of(dataset.name))
    for case in bar(cases, dataset.name):
        if case not in {row.case for row in read(path)}:  # another process may measure as well
            start = time.process_time()
            scores = _measured(dataset, case)
            seconds = round(time.process_time() - start, 1)
            _append(path, Row(dataset.name, *case, **scores, cpu_seconds=seconds))


def _measured(dataset: data.Dataset, case: Case) -> Scores:
    if "-" in case.stage:
        return _labels_inferred(dataset, case)
    if case.attack in ATTACKS:
        return _attacked(dataset, case)
    return (_known_weights if case.attack == ORACLE else _without_attack)(dataset, case)


def _depth(name: str, stages: Sequence[str], victim: int, attacker: int) -> Iterator[Case]:
    """All attacks and the bound at some stages, and what the same data are worth without any."""
    count = COUNTS[name]
    for stage in stages:
        for attack in (*ATTACKS, ORACLE):
            yield Case(stage, attack, victim, attacker, count)
    for rival in (NETWORK, MACHINE):
        yield Case("", rival, victim, attacker, count)


def _number(name: str, stages: Sequence[str], victim: int, attacker: int) -> Iterator[Case]:
    """More images or fewer."""
    for count in CURVE[name]:
        for stage in VARIED:
            for attack in (*ATTACKS, ORACLE):
                yield Case(stage, attack, victim, attacker, count)
        for rival in (NETWORK, MACHINE):
            yield Case("", rival, victim, attacker, count)


def _kind(name: str, stages: Sequence[str], victim: int, attacker: int) -> Iterator[Case]:
    """Images of another kind; who has photographs has no labels of digits for them."""
    for kind in KINDS[name]:
        for stage in VARIED:
            for attack in ("FORA",) if kind == "cifar10" else ATTACKS:
                yield Case(stage, attack, victim, attacker, KIND_COUNTS[name], kind)


def _labels(name: str, stages: Sequence[str], victim: int, attacker: int) -> Iterator[Case]:
    """The labels of a label-private client."""
    for attack in ("PCAT", "SDAR", NETWORK, MACHINE):
        count = PER_CLASS * 10
        yield Case("-".join(LABEL_PRIVATE), attack, victim, attacker, count)


STUDIES = {"depth": _depth, "number": _number, "kind": _kind, "labels": _labels}


@cache
def _sent(dataset: data.Dataset) -> data.Split:
    """What the client sends: the targets, and some of its training images."""
    targets, others = experiments.first_targets(dataset, TARGETS), dataset.train[:TRAFFIC]
    return data.Split(
        torch.cat([targets.images, others.images]), torch.cat([targets.labels, others.labels])
    )


class Setting(NamedTuple):
    """A victim, the attacker's images, those to score on, and what the client sends."""

    session: protocol.Session
    own: data.Split
    held_out: data.Split
    sent: data.Split


def _setting(dataset: data.Dataset, case: Case) -> Setting:
    private = "-" in case.stage
    session = quick_victim(dataset, LABEL_PRIVATE if private else "pool1", case.victim)
    if case.stage and not private:
        session = protocol.recut(session, case.stage)
    return Setting(session, *_auxiliary(dataset, case), _sent(dataset))


def _attacked(dataset: data.Dataset, case: Case) -> Scores:
    """One attack on a record of the targets' and other images' inference."""
    session, own, held_out, sent = _setting(dataset, case)
    found = finished(_attack(dataset, case)(session.observe(sent.images), own))
    guess = networks.in_chunks(nn.Sequential(found.clone, session.server.model), held_out.images)
    return {
        "feature_loss": found.feature_loss,
        **_image_scores(found.inputs, own, sent),
        **_classified(guess.argmax(1), session, held_out),
    }


def _known_weights(dataset: data.Dataset, case: Case) -> Scores:
    """A bound, as far as one method goes: a decoder of what the client itself makes of images.

    Where there are two kinds, the better one at a fifth of the attacker's images decodes.
    """
    session, own, _, sent = _setting(dataset, case)
    kinds: list[Bound] = [_in_closed_form]
    if case.images >= MANY and case.stage in MAPS:
        kinds.append(partial(_by_a_network, steps=STEPS[dataset.name]))
        shown, asked = own.images[: -len(own) // 5], own.images[-len(own) // 5 :]
        kinds.sort(
            key=lambda kind: metrics.mse(kind(session, shown, asked, _seed(case)), asked).mean()
        )
    return _image_scores(kinds[0](session, own.images, sent.images, _seed(case)), own, sent)


def _in_closed_form(session: protocol.Session, own: Tensor, sent: Tensor, seed: int) -> Tensor:
    """Decode what the client makes of `sent`; `own` images alone choose features and ridge."""
    made, view = (networks.in_chunks(session.client.front, images) for images in (own, sent))
    fit = cross_validated(made, own, seed=seed)
    return networks.in_chunks(fitted_decoder(made, own, **fit._asdict(), seed=seed), view)


def _by_a_network(
    session: protocol.Session, own: Tensor, sent: Tensor, seed: int, steps: int
) -> Tensor:
    view = session.observe(sent, grants=["client_model"])
    return finished(DecoderInversion(steps=steps, seed=seed)(view, own)).inputs


def _without_attack(dataset: data.Dataset, case: Case) -> Scores:
    """What the attacker's data are worth without any attack: a classifier of its own."""
    session, own, held_out, _ = _setting(dataset, case)
    guess = _own_guess(case, own, held_out.images, RIVAL_STEPS[dataset.name])
    return _classified(guess, session, held_out)


def _own_guess(case: Case, own: data.Split, images: Tensor, steps: int) -> Tensor:
    if case.attack == MACHINE:
        return experiments.support_vectors(own, images)
    rival = experiments.own_network(own, steps=steps, seed=_seed(case))
    return networks.in_chunks(rival, images).argmax(1)


def _labels_inferred(dataset: data.Dataset, case: Case) -> Scores:
    """The labels that a simulated head, or a rival with the images, gives all that was sent."""
    session, own, _, sent = _setting(dataset, case)
    if case.attack in ATTACKS:
        labels = finished(_attack(dataset, case)(session.observe(sent.images), own)).labels
        assert labels is not None
        return _classified(labels, session, sent)
    guess = _own_guess(case, own, sent.images, RIVAL_STEPS[dataset.name])
    return _classified(guess, session, sent)


def _attack(dataset: data.Dataset, case: Case) -> SurrogateAttack:
    settings: dict[str, Any] = {"batch": min(BATCH, case.images)}
    if case.images >= MANY and case.stage in MAPS:
        settings = NETWORK_DECODER
    return ATTACKS[case.attack](steps=STEPS[dataset.name], seed=_seed(case), **settings)


def _seed(case: Case) -> int:
    return case.victim * ATTACKERS + case.attacker


def _auxiliary(dataset: data.Dataset, case: Case) -> experiments.AuxiliaryData:
    """The attacker's images, and those to score on, which are always of the client's kind."""
    draw = partial(experiments.auxiliary_data, dataset, targets=TARGETS, seed=_seed(case))
    if "-" in case.stage:
        pool, rest = draw(len(dataset.test) - 2 * TARGETS)
        return experiments.AuxiliaryData(pool.first_per_class(PER_CLASS), rest)
    if case.kind == SAME:
        return draw(case.images)
    pool, held_out = draw(3 * case.images)
    if case.kind == HALF:
        pool = pool[pool.labels < len(dataset.classes) // 2]
    else:
        pool = _as_images_of(dataset, case.kind, data.load(case.kind).train[: case.images])
    return experiments.AuxiliaryData(pool[: case.images], held_out)


def _as_images_of(dataset: data.Dataset, kind: str, split: data.Split) -> data.Split:
    """Images of another data set, of `kind`, in grey and in the size of those of `dataset`.

    The digits are 8 by 8 pixels, enlarged, fill their square and are white somewhere. An attacker
    knows that and makes MNIST's so, which fill 20 of their 28 pixels. (With photographs it did not
    help.)
    """
    grey = split.images.mean(1, keepdim=True)
    if (dataset.name, kind) == ("digits", "mnist"):
        grey = interpolate(grey[..., 4:24, 4:24], (8, 8), mode="area")
        grey = grey / grey.amax((1, 2, 3), keepdim=True).clamp_min(1e-6)
    size = dataset.train.images.shape[-2:]
    return data.Split(interpolate(grey, size, mode="bilinear").clamp(0, 1), split.labels)


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


def _image_scores(images: Tensor, own: data.Split, sent: data.Split) -> Scores:
    """Errors at the targets, which come first, and over all that was sent; with baselines."""
    scores = metrics.score_images(images[:TARGETS], sent.images[:TARGETS]).summary()
    mean = own.images.mean(0).expand_as(sent.images)
    by_class = experiments.class_means(own, sent.labels)
    errors, means, class_means = (
        metrics.mse(some, sent.images) for some in (images, mean, by_class)
    )  # fmt: skip
    return {
        "aligned_mse": scores["aligned_mse_median"],
        "ssim": scores["ssim_median"],
        "raw_mse": errors[:TARGETS].median().item(),
        "sent_mse": errors.median().item(),
        "mean_image_mse": means[:TARGETS].median().item(),
        "class_mean_mse": class_means[:TARGETS].median().item(),
        "sent_class_mean_mse": class_means.median().item(),
    }


def _classified(guess: Tensor, session: protocol.Session, split: data.Split) -> Scores:
    """Accuracy of a guess, its agreement with the victim's, and the victim's own accuracy."""
    victim = session.predict(split.images).argmax(1)
    return {
        "accuracy": metrics.label_accuracy(guess, split.labels),
        "agreement": metrics.label_accuracy(guess, victim),
        "victim_accuracy": metrics.label_accuracy(victim, split.labels),
    }


def read(path: Path) -> list[Row]:
    """The rows of a file in the order of the tables; none if it is not there."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return sorted((_row(cells) for cells in csv.DictReader(file)), key=_place)


def _place(row: Row) -> tuple[Any, ...]:
    stages = (*STAGES, "", "-".join(LABEL_PRIVATE))
    draw = row.kind != SAME, row.kind, row.images
    return stages.index(row.stage), ORDER.index(row.attack), draw, row.attacker, row.victim


def _row(cells: dict[str, str]) -> Row:
    kinds = {"victim": int, "attacker": int, "images": int}
    texts = ("dataset", "stage", "attack", "kind")
    values = {
        name: text if name in texts else None if text == "" else kinds.get(name, float)(text)
        for name, text in cells.items()
    }
    return Row(**values)  # type: ignore[arg-type]


def _append(path: Path, row: Row) -> None:
    """Write the file anew with one row more, in one step."""
    with FileLock(path.with_name(f".{path.name}.lock")):
        kept = [other for other in read(path) if other.case != row.case]
        with (
            storage.atomic_path(path) as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(_cells(other) for other in [*kept, row])


def _cells(row: Row) -> dict[str, Any]:
    return {
        name: "" if value is None else f"{value:.6g}" if isinstance(value, float) else value
        for name, value in asdict(row).items()
    }


def facts_of(name: str) -> dict[str, Any]:
    """What the rows of a data set were measured with."""
    return {
        "command": f"python -m benchmarks.record_auxiliary --datasets {name}",
        "dataset": name,
        "victims": VICTIMS,
        "targets": TARGETS,
        "traffic": f"the first {TRAFFIC} training images, or all there are",
        "auxiliary_images": COUNTS[name],
        "other_numbers": CURVE[name],
        "other_kinds": [*KINDS[name], KIND_COUNTS[name]],
        "labelled_per_class": PER_CLASS,
        "attacks": {
            key: asdict(attack(steps=STEPS[name], batch=BATCH)) for key, attack in ATTACKS.items()
        },
        "after_convolutions": [f"from {MANY} images", NETWORK_DECODER],
        "known_weights": {
            "features": FEATURES,
            "ridges": [min(RIDGES), max(RIDGES)],
            "chosen by": "the median error of images left out one by one",
        },
        "own_network_steps": RIVAL_STEPS[name],
        "versions": devices.versions("scikit-learn"),
        "device": "cpu, 1 thread",
    }


def depth_table(rows: list[Row]) -> str:
    """The table of depths: medians, the worst in brackets, with UnSplit and baselines."""
    rows = [row for row in rows if (row.images, row.kind) == (COUNTS[row.dataset], SAME)]
    lines = [
        "| cut | attacker | runs | raw MSE | of all sent | SSIM | accuracy | agreement "
        "| the victim's accuracy | CPU s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for stage in (*STAGES, ""):
        at_stage = [row for row in rows if row.stage == stage]
        lines += [_unsplit_line(rows[0].dataset, stage)] if at_stage and stage else []
        for attack in dict.fromkeys(row.attack for row in at_stage):
            lines.append(_line(stage, attack, [row for row in at_stage if row.attack == attack]))
    draws = {(row.victim, row.attacker): row for row in rows if row.stage}.values()
    for name, column in (("mean image", "mean_image_mse"), ("mean of the class", "class_mean_mse")):
        errors = spread([getattr(row, column) for row in draws], max, ".4f")
        sent = [row.sent_class_mean_mse for row in draws] if "class" in name else []
        of_all = spread(sent, max, ".4f")
        cells = (len(draws), errors, of_all, *"–" * 5)
        lines.append(f"| no cut | {name} | {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _line(stage: str, attack: str, found: list[Row]) -> str:
    cells = [
        spread([row.raw_mse for row in found], max, ".4f"),
        spread([row.sent_mse for row in found], max, ".4f"),
        spread([row.ssim for row in found], min, ".2f"),
        spread([row.accuracy for row in found], min, ".1%"),
        spread([row.agreement for row in found], min, ".1%"),
        middle([row.victim_accuracy for row in found], ".1%"),
        middle([row.cpu_seconds for row in found], ".0f"),
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
        spread([row.raw_mse for row in found], max, ".4f"),
        "–",
        spread([row.ssim for row in found], min, ".2f"),
        spread([row.clone_accuracy for row in found], min, ".1%"),
        spread([row.agreement for row in found], min, ".1%"),
        middle([row.victim_accuracy for row in found], ".1%"),
        "–",
    ]
    return f"| {stage} | UnSplit | {len(found)} | {' | '.join(cells)} |"


def varied_table(rows: list[Row]) -> str:
    """Errors over all that was sent, by kind and number of the attacker's images.

    The median, and in brackets the worst; in brackets above: of how many victims. For a rival
    without a client, and after the comma: accuracy, its median.
    """
    rows = [row for row in rows if row.stage in (*VARIED, "")]
    draws = sorted({(row.kind != SAME, row.kind, row.images) for row in rows})
    heads = [
        f"{kind}, {count} [{_victims([r for r in rows if (r.kind, r.images) == (kind, count)])}]"
        for _, kind, count in draws
    ]
    lines = [f"| cut | attacker | {' | '.join(heads)} |", "|---|---|" + "---|" * len(draws)]
    for stage, attack in dict.fromkeys((row.stage, row.attack) for row in rows):
        cells = []
        for _, kind, count in draws:
            found = [row for row in rows if row.case[:2] == (stage, attack)]
            found = [row for row in found if (row.kind, row.images) == (kind, count)]
            errors = spread([row.sent_mse for row in found], max, ".4f")
            enough = (kind, count) != (SAME, max(CURVE["digits"]))  # leaves ten to score on
            right = middle([row.accuracy for row in found if enough], ".1%")
            cells.append(", ".join(cell for cell in (errors, right) if cell != "–") or "–")
        lines.append(f"| {stage or 'no cut'} | {attack} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _victims(rows: Sequence[Row]) -> str:
    """How many victims each attack was measured on, from the fewest to the most."""
    by_attack: dict[tuple[Any, ...], set[int]] = {}
    for row in rows:
        by_attack.setdefault(row.case[:2], set()).add(row.victim)
    counts = sorted({len(victims) for victims in by_attack.values()})
    return " to ".join(str(count) for count in dict.fromkeys((counts[0], counts[-1])))


def label_table(rows: list[Row]) -> str:
    """The labels of a label-private client that were inferred of all that it sent."""
    rows = [row for row in rows if "-" in row.stage]
    lines = [
        "| client keeps | attacker | runs | labels inferred | the victim's accuracy |",
        "|---|---|---|---|---|",
    ]
    for attack in dict.fromkeys(row.attack for row in rows):
        found = [row for row in rows if row.attack == attack]
        inferred = spread([row.accuracy for row in found], min, ".1%")
        own = middle([row.victim_accuracy for row in found], ".1%")
        ends = found[0].stage.replace("-", ", after ")
        lines.append(f"| to {ends} | {attack} | {len(found)} | {inferred} | {own} |")
    return "\n".join(lines)


def reported_table(rows: list[Row]) -> str:
    """What the authors report beside what was measured here, on MNIST, with what differs."""

    def measured(stage: str, attack: str, images: int, field: str, form: str) -> str:
        wanted = (stage, attack, images, SAME)
        found = [row for row in rows if (*row.case[:2], *row.case[4:]) == wanted]
        runs = f" ({len(found)} run{'s' if len(found) > 1 else ''})"
        return middle([getattr(row, field) for row in found], form) + runs

    few = measured("pool2", "PCAT", 50, "accuracy", ".1%")
    victim = measured("pool2", "PCAT", 50, "victim_accuracy", ".1%")
    labels = measured("-".join(LABEL_PRIVATE), "PCAT", PER_CLASS * 10, "accuracy", ".1%")
    shallow, deep = (measured(stage, "SDAR", COUNTS["mnist"], "raw_mse", ".4f") for stage in VARIED)
    lines = [
        ("attack and figure", "reported by its authors", "measured here, MNIST", "what differs"),
        ("---",) * 4,
        (
            "PCAT, accuracy with 5 labelled images per class",
            "96.9% (victim 99%): MNIST, LeNet, split layer 2",
            f"{few} (victim {victim}), after pool2",
            "beside a training, with a late start; here on a record, 50 images drawn at random, "
            "and with MK-MMD",
        ),
        (
            "PCAT, labels of a label-private client, 25 labelled images per class",
            "98.2%: MNIST",
            labels,
            "as above; the client keeps all after relu4",
        ),
        (
            "SDAR, mean squared error of images",
            "0.0081 after four blocks of a ResNet-20, 0.021 to 0.023 after seven: CIFAR-10",
            f"{shallow} after pool2, {deep} after fc1",
            "another network and other images, so only each with its own baselines; 20,000 steps "
            f"of 128 beside a training, here {STEPS['mnist']:,} of {BATCH} or fewer on a record; "
            "here also MK-MMD, and batches aligned with the client's classes, which theirs are not",
        ),
        (
            "FORA",
            "no figure was at hand",
            "see the table of depths",
            "its images are in [-1, 1], so that its errors are four times ours",
        ),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


TABLES = (depth_table, varied_table, label_table)


def tables(name: str) -> list[str]:
    """The tables of a data set, of the committed rows."""
    rows = read(lessons.course() / "results" / f"auxiliary_{name}.csv")
    reported = [reported_table(rows)] if name == "mnist" else []
    return [*(table(rows) for table in TABLES), *reported]


if __name__ == "__main__":
    typer.run(main)
