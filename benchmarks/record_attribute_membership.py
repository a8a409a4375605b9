"""Record what a server learns of an image, and of who was in the training, from smashed data.

python -m benchmarks.record_attribute_membership writes course/results/attribute_membership_<data
set>.json: 3 victims, each met by as many attackers as asked, a quarter of an hour on a core. First
an attribute, the ink of an image, at five depths; then membership, for a victim that was trained
well and for one that was trained too long on too few images. Every row stands beside chance and a
rival that has the auxiliary data and sees no smashed data; the attribute's also beside the length
of z, which needs no data. The file is written whenever all victims
have met one more attacker.
"""

import statistics
import time
from collections.abc import Iterable
from typing import Annotated, Any

import torch
import typer
from torch import Tensor

from benchmarks import middle, quick_victim, spread, write_facts
from sltools import data, devices, experiments, lessons, metrics, models, protocol, seeds
from sltools.attacks import FORA, PCAT, AttributeInference, MembershipInference, networks
from sltools.attacks.membership import log_confidence
from sltools.interrupts import finished

VICTIMS, ATTACKERS = 3, 2  # at most so many attackers for each victim
STEPS, COUNT, ASKED = 200, 200, 1000  # of an attack, its images, and those that are asked about
STAGES = ("pool1", "pool2", "fc1", "relu4")
OUTPUT = "logits"  # what the server makes of the last stage
WITH_DATA = {"PCAT": PCAT, "FORA": FORA}
BOUND, DECODED, CLASS, CHANCE = "client's weights", "decoded image", "class alone", "chance"
LENGTH = "length of z alone"  # of one who has no data, and supposes that ink makes it long
REGIMES = {"trained well": (600, 25), "trained too long": (200, 150)}  # images, epochs
PROBES, OWN = 200, 600  # members and as many others; the attacker's images
RIVAL_STEPS = 600
SIGNALS = ("confidence", "loss", "shadows", "calibrated", "recording")
RIVAL = "own network, given the image"

Row = dict[str, Any]


def main(
    dataset: str = "digits",
    attackers: Annotated[int, typer.Option(help="How many attackers for each victim.")] = 1,
) -> None:
    """Measure, on one thread, and print the tables."""
    torch.set_num_threads(1)
    start, source = time.perf_counter(), data.load(dataset)
    path = lessons.course() / "results" / f"attribute_membership_{dataset}.json"
    attributes: list[Row] = []
    members: list[Row] = []
    for attacker in range(attackers):
        for victim in range(VICTIMS):
            attributes += attribute_rows(source, victim, attacker)
            members += member_rows(source, victim, attacker)
            print(victim, attacker, f"{time.perf_counter() - start:.0f} s", flush=True)
        facts = {
            **facts_of(dataset, attacker + 1),
            "attackers": attacker + 1,
            "attributes": attributes,
            "members": members,
            "versions": devices.versions("scikit-learn"),
            "device": "cpu, 1 thread",
            "seconds": round(time.perf_counter() - start),
            "cpu_seconds": round(time.process_time()),
        }
        write_facts(path, facts)
        print(*tables(facts), sep="\n\n", flush=True)


def facts_of(dataset: str, attackers: int) -> dict[str, Any]:
    """The settings of a record of so many attackers for each victim."""
    return {
        "command": f"python -m benchmarks.record_attribute_membership --dataset {dataset} "
        f"--attackers {attackers}",
        "victims": VICTIMS,
        "settings": {
            "steps": STEPS,
            "auxiliary images": COUNT,
            "images asked about": ASKED,
            "regimes": {name: list(regime) for name, regime in REGIMES.items()},
            "probes": PROBES,
            "auxiliary images, membership": OWN,
        },
    }


def ink(images: Tensor) -> Tensor:
    """The mean of the pixels of each image (N, C, H, W): how much ink there is."""
    return images.mean((1, 2, 3))


def attribute_rows(dataset: data.Dataset, victim: int, attacker: int) -> Iterable[Row]:
    """Attack the attribute of the client's images at each stage, beside what needs no z."""
    seed = victim * ATTACKERS + attacker
    own, _ = experiments.auxiliary_data(dataset, COUNT, seed=seed)
    private, typical = dataset.train[:ASKED], ink(own.images).median()
    inky, truth = ink(own.images) > typical, ink(private.images) > typical

    def row(stage: str, attack: str, scores: Tensor) -> Row:
        scored = attribute_scores(scores, truth, private.labels)
        return {"stage": stage, "attack": attack, "victim": victim, "attacker": attacker, **scored}

    yield row("", CHANCE, torch.full((ASKED,), 0.5 if truth.double().mean() > 0.5 else -0.5))
    yield row("", CLASS, share_of_class(own, inky)[private.labels] - 0.5)
    for stage in STAGES:
        session = protocol.recut(quick_victim(dataset, "pool1", victim), stage)
        view = session.observe(private.images)
        granted = session.observe(private.images, grants=["client_model"])
        found = {
            name: finished(attack(steps=STEPS, seed=seed)(view, own))
            for name, attack in WITH_DATA.items()
        }
        for attack, result in found.items():
            yield row(stage, f"{attack}, {DECODED}", ink(result.inputs) - typical)
        for where in ("smashed", "output") if stage == STAGES[-1] else ("smashed",):
            name, learn = OUTPUT if where == "output" else stage, AttributeInference(where)
            yield row(name, LENGTH, length(session, private.images, where))
            yield row(name, BOUND, learn(granted, own.images, inky).scores)
            for attack, result in found.items():
                scores = learn(view, own.images, inky, front=result.clone).scores
                yield row(name, attack, scores)


def length(session: protocol.Session, images: Tensor, where: str) -> Tensor:
    """The length of what is sent of each image (N,), or of its logits, less the median."""
    sent = session.observe(images).smashed
    seen = sent if where == "smashed" else networks.in_chunks(session.server.model, sent)
    lengths = seen.flatten(1).norm(dim=1)
    return lengths - lengths.median()


def share_of_class(own: data.Split, attribute: Tensor) -> Tensor:
    """The share of the attacker's images of each class that have the attribute: (K,)."""
    classes = range(int(own.labels.max()) + 1)
    shares = [attribute[own.labels == label].double().mean() for label in classes]
    return torch.stack(shares).float()


def attribute_scores(scores: Tensor, truth: Tensor, labels: Tensor) -> Row:
    """Accuracy of the signs of `scores` (N,), and AUC over all and within each class, averaged."""
    within = [
        metrics.leak_auc(scores[labels == label], truth[labels == label])
        for label in labels.unique()
    ]
    return {
        "accuracy": ((scores > 0) == truth).double().mean().item(),
        "auc": metrics.leak_auc(scores, truth),
        "within": statistics.mean(within),
    }


def member_rows(dataset: data.Dataset, victim: int, attacker: int) -> Iterable[Row]:
    """Ask about members and others of victims that were trained well, and too long."""
    for regime in REGIMES:
        parts = member_parts(dataset, regime, victim)
        session, recording = trained_on(parts["members"], REGIMES[regime][1], victim)
        asked = data.Split(
            torch.cat([parts["members"].images[:PROBES], parts["others"].images]),
            torch.cat([parts["members"].labels[:PROBES], parts["others"].labels]),
        )
        truth = torch.arange(2 * PROBES) < PROBES
        facts = {
            "regime": regime,
            "victim": victim,
            "attacker": attacker,
            "train_accuracy": session.accuracy(parts["members"]),
            "test_accuracy": session.accuracy(parts["others"]),
        }
        for signal, scores in member_signals(session, recording, asked, parts["own"], attacker):
            yield {**facts, "signal": signal, **member_scores(scores, truth)}


def member_parts(dataset: data.Dataset, regime: str, victim: int) -> dict[str, data.Split]:
    """Members, as many others, and the attacker's images: three parts of all there are."""
    count, _ = REGIMES[regime]
    images = torch.cat([dataset.train.images, dataset.test.images])
    labels = torch.cat([dataset.train.labels, dataset.test.labels])
    order = torch.randperm(len(labels), generator=seeds.generator(victim, "members"))
    rows = order.split([count, PROBES, OWN, len(order) - count - PROBES - OWN])
    parts = [data.Split(images[some], labels[some]) for some in rows[:3]]
    return dict(zip(("members", "others", "own"), parts, strict=True))


def trained_on(members: data.Split, epochs: int, seed: int) -> tuple[protocol.Session, Any]:
    """A victim that was trained on `members`, and the server's view of its last epoch."""
    front, rest = models.cut(models.for_images(members.images.shape, seed), "pool1")
    session = finished(protocol.train(front, rest, members, epochs=epochs - 1, seed=seed))
    last = finished(
        protocol.train(session.client, session.server, members, epochs=1, seed=seed, record=True)
    )
    return last, last.transcript.view("server")


def member_signals(
    session: protocol.Session, recording: Any, asked: data.Split, own: data.Split, seed: int
) -> Iterable[tuple[str, Tensor]]:
    """Scores of each signal, and of a network of the attacker's that is given the images."""
    view = session.observe(asked.images)
    found = finished(PCAT(steps=STEPS, seed=seed)(view, own))
    labels = {"loss": asked.labels, "shadows": asked.labels, "calibrated": asked.labels}
    for signal in SIGNALS:
        attack = MembershipInference("confidence" if signal == "loss" else signal, seed=seed)
        given = {"labels": labels.get(signal), "decoded": found.inputs, "recording": recording}
        yield signal, attack(view, own, **given).scores
    net = experiments.own_network(own, steps=RIVAL_STEPS, seed=seed)
    yield RIVAL, log_confidence(networks.in_chunks(net, asked.images), asked.labels)


def member_scores(scores: Tensor, truth: Tensor) -> Row:
    """AUC, share of the members found at 1% false alarms, and accuracy of naming the upper half."""
    upper = scores.argsort(descending=True)[: len(scores) // 2]
    named = torch.zeros(len(scores), dtype=torch.bool)
    named[upper] = True
    return {
        "auc": metrics.leak_auc(scores, truth),
        "tpr": metrics.tpr_at(scores, truth),
        "accuracy": (named == truth).double().mean().item(),
    }


def tables(facts: dict[str, Any]) -> tuple[str, str]:
    """What stands in docs/results.md."""
    return attribute_table(facts), member_table(facts)


def attribute_table(facts: dict[str, Any]) -> str:
    """Markdown: the median over all runs, and in brackets the worst for the attacker."""
    lines = [
        "| cut after | attack | accuracy | AUC | AUC within a class |",
        "|---|---|---|---|---|",
    ]
    kinds = dict.fromkeys((row["stage"], row["attack"]) for row in facts["attributes"])
    for stage, attack in kinds:
        cells = [
            cell(facts["attributes"], name, form, stage=stage, attack=attack)
            for name, form in (("accuracy", ".1%"), ("auc", ".2f"), ("within", ".2f"))
        ]
        lines.append(f"| {stage or 'any'} | {attack} | {' | '.join(cells)} |")
    return "\n".join(lines)


def member_table(facts: dict[str, Any]) -> str:
    """Markdown, as `attribute_table`."""
    lines = [
        "| victim | right: members, others | signal | AUC | found at 1% false alarms | accuracy |",
        "|---|---|---|---|---|---|",
    ]
    kinds = dict.fromkeys((row["regime"], row["signal"]) for row in facts["members"])
    for regime, signal in kinds:
        of = {"regime": regime, "signal": signal}
        gap = [
            middle(values(facts["members"], name, **of), ".1%")
            for name in ("train_accuracy", "test_accuracy")
        ]
        cells = [
            cell(facts["members"], name, form, **of)
            for name, form in (("auc", ".2f"), ("tpr", ".1%"), ("accuracy", ".1%"))
        ]
        lines.append(f"| {regime} | {', '.join(gap)} | {signal} | {' | '.join(cells)} |")
    return "\n".join(lines)


def values(rows: list[Row], name: str, **of: str) -> list[float]:
    """The values `name` of the rows that are `of` something."""
    return [row[name] for row in rows if all(row[key] == value for key, value in of.items())]


def cell(rows: list[Row], name: str, form: str, **of: str) -> str:
    """The median and the least."""
    return spread(values(rows, name, **of), min, form)


if __name__ == "__main__":
    typer.run(main)
