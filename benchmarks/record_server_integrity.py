"""What a server that lies can do to a client's network, and whether anybody notices.

    python -m benchmarks.record_server_integrity            # measures what is missing
    python -m benchmarks.record_server_integrity --summary  # prints the tables

Each row of course/results/server_integrity_digits.csv is one measure of one attack on one victim.
Two kinds of case: at the end of an honest training ("served") SLADV, Dullahan and the fingerprint,
after several cuts; and "trained", a whole training with the server of chronic poisoning, under the
eyes of all detectors, beside an honest one. The attacker has test images that are no targets; all
is scored on the others. A case that is in the file already is not measured again, so the command
can be interrupted and goes on where it was.
"""

import copy
import csv
import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from filelock import FileLock
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import Adam

from benchmarks import quick_victim, write_facts
from benchmarks.record_detection import Panel
from sltools import data, devices, experiments, lessons, metrics, models, protocol, seeds, storage
from sltools.attacks import PCAT, SDAR, SFI, SLADV, Dullahan, SFIServer, Trigger, UnSplit
from sltools.defenses import Fingerprint
from sltools.detectors import Detector, LabelGap, Scrutinizer, SplitGuard, SplitOut
from sltools.interrupts import finished
from sltools.models import Architecture
from sltools.progress import bar

VICTIMS = 3
STAGES = ("pool1", "pool2")
OWN, TRAFFIC, TARGETS = 200, 500, 10  # images: the attacker's, those sent, those UnSplit inverts
TARGET, SIZE = 7, 6
TRIGGER = Trigger(target=TARGET, size=SIZE, row=-SIZE - 1, column=-SIZE - 1)
RANDOM = Trigger(target=TARGET, size=SIZE, row=-SIZE - 1, column=-SIZE - 1, seed=1)
ELSEWHERE = Trigger(target=TARGET, size=SIZE, row=1, column=1, seed=1)
EPSILON, AT_THE_CUT = 0.1, 0.5
UNSPLIT_STEPS, PCAT_STEPS = 600, 200
FURTHER, FURTHER_LR = 200, 1e-3  # steps of a thief who trains a stolen network further
FRESH, FRESH_LR = 300, 3e-3  # steps of another client's front before the same server
EPOCHS, BATCH = 10, 64
CHRONIC = SFI(steal=60, tune=150)
PATH = lessons.course() / "results" / "server_integrity_digits.csv"
NOBODY, WEIGHTS, RECONSTRUCTED = "nobody", "client's weights", "UnSplit, its own reconstructions"
HONEST, UNSTEERED, STEERED = "honest", "chronic poisoning, not steered", "chronic poisoning"


class Case(NamedTuple):
    """What is measured at once: after a `stage`, or "trained" for a whole training."""

    stage: str
    victim: int


class Measure(NamedTuple):
    """One number: of which study and attack, who stands for the client, what is measured."""

    study: str
    attack: str
    front: str
    measure: str
    value: float


@dataclass(frozen=True)
class Row:
    """One line of the file."""

    stage: str
    victim: int
    study: str
    attack: str
    front: str
    measure: str
    value: float

    @property
    def case(self) -> Case:
        """What it was measured with."""
        return Case(self.stage, self.victim)


def main(
    stages: str = ",".join((*STAGES, "trained")),
    victims: Annotated[int, typer.Option(help="How many victims.")] = VICTIMS,
    summary: Annotated[bool, typer.Option(help="Print the tables and measure nothing.")] = False,
) -> None:
    """Measure what is missing, on one thread, and print the tables."""
    torch.set_num_threads(1)
    if not summary:
        digits, start = data.load("digits"), time.process_time()
        cases = [Case(stage, victim) for stage in stages.split(",") for victim in range(victims)]
        for case in bar(cases, "cases"):
            if case not in {row.case for row in read()}:  # another process may measure as well
                found = trained(digits, case) if case.stage == "trained" else served(digits, case)
                append([_row(case, measure) for measure in found])
                print(case, f"{time.process_time() - start:.0f} s", flush=True)
    print("\n\n".join(tables(read())))


def facts_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The settings of a record, and the cases that are in it."""
    return {
        "command": "python -m benchmarks.record_server_integrity",
        "cases": [list(case) for case in sorted({row.case for row in rows})],
        "auxiliary_images": OWN,
        "trigger": asdict(TRIGGER),
        "epsilon": EPSILON,
        "epsilon_at_the_cut": AT_THE_CUT,
        "unsplit_steps": UNSPLIT_STEPS,
        "pcat_steps": PCAT_STEPS,
        "dullahan": asdict(Dullahan()),
        "chronic": asdict(CHRONIC),
        "fingerprint": asdict(Fingerprint()),
        "epochs": EPOCHS,
        "device": "cpu, 1 thread",
        "versions": devices.versions("scikit-learn"),
    }


def served(digits: data.Dataset, case: Case) -> Iterator[Measure]:
    """What the server makes of an honest client, once the training is over."""
    session = protocol.recut(quick_victim(digits, "pool1", case.victim), case.stage)
    own, held_out = experiments.auxiliary_data(digits, OWN, targets=TARGETS, seed=case.victim)
    view = session.observe(digits.train.images[:TRAFFIC], grants=["client_model"])
    targets = session.observe(experiments.first_targets(digits, TARGETS).images)
    stolen = finished(UnSplit(steps=UNSPLIT_STEPS, seed=case.victim)(targets))
    surrogate = finished(PCAT(steps=PCAT_STEPS, seed=case.victim)(view, own)).clone
    fronts = {WEIGHTS: None, "UnSplit": stolen.clone, "PCAT": surrogate}
    yield from _adversarial(session, view, held_out, fronts, case.victim)
    yield from _late_trigger(session, view, own, held_out, fronts, stolen.inputs, case.victim)
    other = quick_victim(digits, "pool1", (case.victim + 1) % VICTIMS)
    yield from _fingerprints(session, digits.train, own, held_out, stolen.clone, other, case.victim)


def _adversarial(
    session: protocol.Session,
    view: Any,
    held_out: data.Split,
    fronts: dict[str, nn.Sequential | None],
    seed: int,
) -> Iterator[Measure]:
    """The accuracy of the whole split on changed images, and on images with noise."""
    clean = session.accuracy(held_out)
    for aim in ("class", "intermediate"):
        for name, front in fronts.items():
            found = finished(SLADV(aim, EPSILON, seed=seed)(view, held_out.images, front=front))
            for measure, images in (("attacked", found.examples), ("noise", found.noise)):
                accuracy = session.accuracy(data.Split(images, held_out.labels))
                yield Measure("adversarial", aim, name, measure, accuracy)
            yield Measure("adversarial", aim, name, "clean", clean)
    asked = session.observe(held_out.images)
    found = finished(SLADV("smashed", AT_THE_CUT, seed=seed)(asked))
    rest = session.server.model
    for measure, smashed in (("attacked", found.examples), ("noise", found.noise)):
        accuracy = metrics.accuracy(rest, data.Split(smashed, held_out.labels))
        yield Measure("adversarial", "smashed", "none needed", measure, accuracy)
    yield Measure("adversarial", "smashed", "none needed", "clean", clean)


def _late_trigger(
    session: protocol.Session,
    view: Any,
    own: data.Split,
    held_out: data.Split,
    fronts: dict[str, nn.Sequential | None],
    reconstructed: Tensor,
    seed: int,
) -> Iterator[Measure]:
    """A trigger put into the server's layers, by what stands for the client and whose images."""
    net = nn.Sequential(session.client.front, session.server.model)
    yield from _backdoor("late trigger", "none", NOBODY, net, held_out)
    attack = Dullahan(seed=seed)
    tries = {name: (own.images, front) for name, front in fronts.items()}
    tries[RECONSTRUCTED] = (reconstructed, fronts["UnSplit"])
    for name, (images, front) in tries.items():
        model = finished(attack(view, images, TRIGGER, front=front)).model
        net = nn.Sequential(session.client.front, model)
        yield from _backdoor("late trigger", "Dullahan", name, net, held_out)


def _backdoor(
    study: str, attack: str, front: str, net: nn.Sequential, held_out: data.Split
) -> Iterator[Measure]:
    """Success of the trigger, of a random patch there and elsewhere, and the accuracy left."""
    for measure, trigger in (("success", TRIGGER), ("random", RANDOM), ("elsewhere", ELSEWHERE)):
        success = metrics.attack_success(net, held_out, TARGET, trigger.stamp)
        yield Measure(study, attack, front, measure, success)
    yield Measure(study, attack, front, "clean", metrics.accuracy(net, held_out))


def _fingerprints(
    session: protocol.Session,
    private: data.Split,
    own: data.Split,
    held_out: data.Split,
    clone: nn.Sequential,
    other: protocol.Session,
    seed: int,
) -> Iterator[Measure]:
    """The matching rates of networks that were stolen, and of networks that were not."""
    front, rest = session.client.front, session.server.model
    net = nn.Sequential(front, rest).eval()
    frozen = copy.deepcopy(rest).requires_grad_(False)
    shape = Architecture.of(front, private.images.shape[1:])
    fresh = nn.Sequential(shape.build(seed, "fresh front"), frozen)
    suspects = {
        "the victim, trained further": _further(net, own, FURTHER, FURTHER_LR, seed),
        "UnSplit's clone": nn.Sequential(clone, rest),
        "UnSplit's clone, trained further": _further(
            nn.Sequential(clone, rest), own, FURTHER, FURTHER_LR, seed
        ),
        "another client's front, same server": _further(fresh, private, FRESH, FRESH_LR, seed),
        "independent": nn.Sequential(other.client.front, other.server.model),
    }
    points = Fingerprint(seed=seed)(net, private)
    for name, suspect in suspects.items():
        yield Measure("fingerprint", name, "", "matching", metrics.accuracy(suspect, points))
        yield Measure("fingerprint", name, "", "clean", metrics.accuracy(suspect, held_out))


def _further(
    network: nn.Module, split: data.Split, steps: int, rate: float, seed: int
) -> nn.Sequential:
    """A copy of `network`, of which all that is not frozen was trained on `split`."""
    trained, draw = copy.deepcopy(network).train(), seeds.generator(seed, "further order")
    optimizer = Adam([weight for weight in trained.parameters() if weight.requires_grad], rate)
    for _ in range(steps):
        batch = split[torch.randint(len(split), (32,), generator=draw)]
        optimizer.zero_grad()
        cross_entropy(trained(batch.images), batch.labels).backward()
        optimizer.step()
    assert isinstance(trained, nn.Sequential)
    return trained.eval()


def trained(digits: data.Dataset, case: Case) -> Iterator[Measure]:
    """Whole trainings under the eyes of all detectors: honest, and with chronic poisoning."""
    own, held_out = experiments.auxiliary_data(digits, OWN, targets=TARGETS, seed=case.victim)
    for kind in (HONEST, UNSTEERED, STEERED):
        front, rest = models.cut(models.for_images(own.images.shape, case.victim), "pool1")
        watching = detectors(digits.train, case.victim)
        client = protocol.Client(front, detector=Panel(watching))
        server = _server(kind, rest, own, Architecture.of(front, own.images.shape[1:]), case.victim)
        session = protocol.train(
            client, server, digits.train, epochs=EPOCHS, batch_size=BATCH, seed=case.victim
        )
        net = nn.Sequential(finished(session).client.front, server.model)
        yield from _backdoor("training", kind, "", net, held_out)
        for name, detector in watching.items():
            raised = float(detector.raised_at is not None)
            yield Measure("training", kind, name, "alarm", raised)
            yield Measure("training", kind, name, "score", max(detector.scores))


def detectors(private: data.Split, seed: int) -> dict[str, Detector]:
    """The detectors, in the settings that are recorded in lesson 09; the first one sends probes."""
    net = models.for_images(private.images.shape, seed + 1000)  # not the client's own weights
    return {
        "SplitGuard": SplitGuard(seed=seed),
        "Scrutinizer": Scrutinizer(),
        "LabelGap": LabelGap(),
        "SplitOut": SplitOut(net, private, share=0.5, epochs=10, seed=seed),
    }


def _server(
    kind: str, rest: nn.Sequential, own: data.Split, client: Architecture, seed: int
) -> protocol.Server:
    if kind == HONEST:
        return protocol.Server(rest)
    strength = CHRONIC.strength if kind == STEERED else 0.0
    settings = SFI(**asdict(CHRONIC) | {"strength": strength, "seed": seed})
    return SFIServer(rest, SDAR(seed=seed), own, TRIGGER, settings, client=client)


def read(path: Path = PATH) -> list[Row]:
    """The rows of a file; none if there is no file."""
    if not path.exists():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [
            _row(
                Case(line["stage"], int(line["victim"])),
                Measure(
                    line["study"],
                    line["attack"],
                    line["front"],
                    line["measure"],
                    float(line["value"]),
                ),
            )
            for line in csv.DictReader(file)
        ]


def _row(case: Case, found: Measure) -> Row:
    return Row(**case._asdict(), **found._asdict())


def append(found: Sequence[Row]) -> None:
    """Write all rows that there are, in one step: a file holds whole cases."""
    with FileLock(PATH.with_name(f".{PATH.name}.lock")):
        rows = [*read(), *found]
        with (
            storage.atomic_path(PATH) as part,
            part.open("w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, [field.name for field in fields(Row)])
            writer.writeheader()
            writer.writerows(asdict(row) for row in rows)
        write_facts(PATH.with_suffix(".json"), facts_of(rows))


def values(rows: Sequence[Row], **of: str) -> list[float]:
    """The values of the rows that are `of` something."""
    return [row.value for row in rows if all(getattr(row, key) == is_ for key, is_ in of.items())]


def spread(rows: Sequence[Row], **of: str) -> str:
    """The median, and from the least to the greatest."""
    found = values(rows, **of)
    return f"{statistics.median(found):.0%} [{min(found):.0%} to {max(found):.0%}]"


def tables(rows: Sequence[Row]) -> list[str]:
    """What stands in docs/results.md."""
    return [
        _table(rows, "adversarial", ("stage", "attack", "front"), ("clean", "noise", "attacked")),
        _table(rows, "late trigger", ("stage", "attack", "front"), BACKDOOR),
        _table(rows, "training", ("attack",), BACKDOOR),
        detector_table(rows),
        _table(rows, "fingerprint", ("stage", "attack"), ("clean", "matching")),
        reported_table(rows),
    ]


BACKDOOR = ("clean", "success", "random", "elsewhere")
HEADS = {
    "stage": "cut after", "victims": "victims", "attack": "attack",
    "front": "in place of the client",
    "clean": "accuracy", "noise": "with noise", "attacked": "attacked", "success": "trigger obeyed",
    "random": "another patch there", "elsewhere": "another patch elsewhere", "matching": "matches",
}  # fmt: skip


def _table(
    rows: Sequence[Row], study: str, names: tuple[str, ...], measures: tuple[str, ...]
) -> str:
    """Markdown: for each kind of row its measures, the median and the range over the victims."""
    rows = [row for row in rows if row.study == study and row.measure in measures]
    lines = ["| " + " | ".join(HEADS[name] for name in (*names, "victims", *measures)) + " |"]
    lines.append("|" + "---|" * (len(names) + 1 + len(measures)))
    for kind in dict.fromkeys(tuple(getattr(row, name) for name in names) for row in rows):
        of = dict(zip(names, kind, strict=True))
        cells = [spread(rows, **of, measure=measure) for measure in measures]
        runs = str(len(values(rows, **of, measure=measures[0])))
        lines.append("| " + " | ".join((*kind, runs, *cells)) + " |")
    return "\n".join(lines)


def detector_table(rows: Sequence[Row]) -> str:
    """Markdown: in how many trainings each detector raised an alarm, and its highest scores."""
    rows = [row for row in rows if row.study == "training" and row.front]
    lines = [
        "| server | detector | trainings with an alarm | highest score, median [range] |",
        "|---|---|---|---|",
    ]
    for attack, name in dict.fromkeys((row.attack, row.front) for row in rows):
        alarms = values(rows, attack=attack, front=name, measure="alarm")
        scores = values(rows, attack=attack, front=name, measure="score")
        middle = f"{statistics.median(scores):.2f} [{min(scores):.2f} to {max(scores):.2f}]"
        lines.append(f"| {attack} | {name} | {sum(alarms):.0f} of {len(alarms)} | {middle} |")
    return "\n".join(lines)


def reported_table(rows: Sequence[Row]) -> str:
    """What the authors report beside what was measured here, with what differs."""

    def measured(study: str, attack: str, measure: str, stage: str, front: str = "") -> str:
        return spread(
            rows, study=study, attack=attack, measure=measure, stage=stage, front=front
        )  # fmt: skip

    lines = [
        ("attack", "reported by its authors", "measured here, digits", "what differs"),
        ("---",) * 4,
        (
            "chronic poisoning, success",
            "above 90% on MNIST, Fashion-MNIST and CIFAR-10",
            measured("training", STEERED, "success", "trained"),
            "known from abstract and review: losses, networks and schedule are ours",
        ),
        (
            "server-side backdoors (Tajalli et al.), success",
            "100% at best, on MNIST; little in most other cases, less with a deeper cut",
            "the row above",
            "another attack on the same question",
        ),
        (
            "Dullahan, success",
            "no figure was at hand",
            measured("late trigger", "Dullahan", "success", "pool1", "UnSplit"),
            "with UnSplit's clone; without the paper's choice of an embedding",
        ),
        ("SLADV", "no figure was at hand", "see the table", "the shadow is another"),
        (
            "fingerprint within the training (Lin et al.), verified",
            "100%, 98% and 100%",
            measured("fingerprint", "UnSplit's clone", "matching", "pool1"),
            "theirs is embedded in the training and counts verifications; ours, IPGuard's, counts "
            "matching answers of a stolen clone",
        ),
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    typer.run(main)
