"""What is measured in a trial: a function for each attack, and a new attacker is one more of them.

Each takes the trial and a trained session and returns rows. `CURIOUS` says under which names, so
that a trial whose rows were kept before there was an attack gets those of this attack alone.
"""

import copy
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from sltools import data, defenses, experiments, metrics, models, protocol
from sltools.arena.trial import HIJACKING, Row, Trial
from sltools.attacks import (
    FORA,
    PCAT,
    SDAR,
    DecoderInversion,
    Hijacking,
    HijackingServer,
    LabelInference,
    UnSplit,
    networks,
)
from sltools.attacks.surrogate import SurrogateAttack, SurrogateResult
from sltools.detectors import LabelGap
from sltools.interrupts import finished
from sltools.models import Architecture

# First samples of a training, whose labels are inferred, and how many of them in batches of one.
LABEL_SAMPLES = {"tiny": 128, "quick": 640, "full": 3840}
SINGLE_SAMPLES = {"tiny": 64, "quick": 320, "full": 1000}
DECODER_STEPS = {"tiny": 30, "quick": 300, "full": 3000}
# Attackers with data: their steps, their labelled images, and the client's training images beside
# the targets that they see sent (never the images themselves).
SURROGATE_STEPS = {"tiny": 20, "quick": 250, "full": 2000}
SURROGATE_BATCH = 32
AUXILIARY_IMAGES = {"tiny": 100, "quick": 200, "full": 5000}  # and at most 5 of 9 test images
TRAFFIC = {"tiny": 100, "quick": 1000, "full": 2000}
WITH_DATA: dict[str, type[SurrogateAttack]] = {"SDAR": SDAR, "PCAT": PCAT, "FORA": FORA}
HIJACKED_SAMPLES = {"tiny": 256, "quick": 14_000, "full": 120_000}  # sent to a hijacker
DEPENDENCE_IMAGES = 100  # images whose distances are compared
ATTACKER_SEED_OFFSET = 1000  # between the seed of a defence and that of an attacker who imitates it
RETRAINED = "retrained"  # the service of a victim that was trained again for a later attack
Measure = Callable[..., list[Row]]


def rows(trial: Trial, kept: Iterable[Row] = ()) -> list[Row]:
    """Train the victim and attack it in every way that `kept`, its rows so far, lack.

    All of it or nothing. A victim that is trained again is that of the `kept` rows only where
    arithmetic is the same to the last bit; the row "retrained" has its accuracy.
    """
    missing = unmeasured(trial, kept)
    if trial.malicious:
        return hijacking(trial) if missing else []
    start = time.process_time()
    session = trial.session()
    seconds = time.process_time() - start
    if service in missing:
        found = [trial.row("service", "cpu_seconds", seconds, float("nan"))]
    else:
        found = [trial.row(RETRAINED, "accuracy", *_accuracy(trial, session))]
    return [*found, *(row for measure in missing for row in measure(trial, session))]


def unmeasured(trial: Trial, kept: Iterable[Row]) -> list[Measure]:
    """What is still to be measured in a trial of which there are the `kept` rows."""
    have = {row.attack for row in kept}
    if trial.malicious:
        return [] if have else [lambda trial, _: hijacking(trial)]
    return [measure for measure, names in CURIOUS.items() if have.isdisjoint(names)]


def service(trial: Trial, session: protocol.Session) -> list[Row]:
    """What the user gets: accuracy, and bytes of an image on the wire."""
    plain = session.client.front(trial.targets).detach()
    sent = getattr(session.client.outgoing, "nbytes", lambda tensor: tensor.nbytes)
    return [
        trial.row("service", "accuracy", *_accuracy(trial, session)),
        trial.row("service", "bytes", sent(plain) / len(plain), plain.nbytes / len(plain)),
    ]


def dependence(trial: Trial, session: protocol.Session) -> list[Row]:
    """Distance correlation of images and their messages; the baseline, with those of others."""
    images = trial.dataset.test.images[:DEPENDENCE_IMAGES].to(trial.settings.device)
    sent = session.observe(images).smashed
    value, floor = (
        defenses.distance_correlation(images, other).item() for other in (sent, sent.roll(1, 0))
    )
    return [trial.row("wire", "distance_correlation", value, floor)]


def unsplit(trial: Trial, session: protocol.Session) -> list[Row]:
    """Images and a copy of the client, from smashed data alone."""
    steps = experiments.STEPS[trial.settings.budget]
    attack = UnSplit(steps=steps, restarts=trial.settings.clones, seed=trial.victim)
    found = []
    for number, run in enumerate(map(finished, attack.runs(session.observe(trial.targets)))):
        found += _image_rows(trial, "UnSplit", run.inputs, number)
        found += _theft_rows(trial, session, run.clone, number)
    return found


def decoder(trial: Trial, session: protocol.Session) -> list[Row]:
    """An inverse network, trained on public images that went through the same defence."""
    view = session.observe(trial.targets, grants=["client_model"])
    found = []
    for number, seed in trial.attackers:
        steps = DECODER_STEPS[trial.settings.budget]
        attack = DecoderInversion(steps=steps, batch=32, seed=seed)
        run = finished(attack(view, trial.public, defense=_imitation(trial, session, seed)))
        found += _image_rows(trial, "decoder", run.inputs, number)
    return found


def settings_with_data(budget: str) -> dict[str, Any]:
    """What the attackers with data have at a `budget`, as a folder of rows tells it."""
    return {
        "attacks": [*WITH_DATA],
        "steps": SURROGATE_STEPS[budget],
        "batch": SURROGATE_BATCH,
        "auxiliary_images": AUXILIARY_IMAGES[budget],
        "traffic": TRAFFIC[budget],
    }


def with_data(trial: Trial, session: protocol.Session) -> list[Row]:
    """Attackers who are granted nothing and have labelled images: one of each kind, for its cost.

    Their images are test images that are no targets. The client sends the targets and some of its
    training images, drawing its random numbers anew, whatever was measured before.
    """
    budget, dataset, seed = trial.settings.budget, trial.dataset, trial.victim
    count = min(AUXILIARY_IMAGES[budget], 5 * len(dataset.test) // 9)
    own, held_out = experiments.auxiliary_data(
        dataset, count, targets=len(trial.targets), seed=seed
    )
    targets = experiments.first_targets(dataset, len(trial.targets))
    others = dataset.train[: TRAFFIC[budget]]
    sent = torch.cat([targets.images, others.images]).to(trial.settings.device)
    truth = torch.cat([targets.labels, others.labels])
    client = copy.copy(session.client)
    client.outgoing = _drawn(trial, session, trial.victim) or client.outgoing
    view = replace(session, client=client).observe(sent)
    rival = experiments.support_vectors(own, sent)
    found = []
    for name, attack in WITH_DATA.items():
        made = attack(steps=SURROGATE_STEPS[budget], batch=SURROGATE_BATCH, seed=seed)
        run = finished(made(view, own, defense=_imitation(trial, session, seed)))
        found += _image_rows(trial, name, run.inputs[: len(targets)])
        found += _surrogate_rows(trial, session, name, run, own, held_out)
        if run.labels is not None:
            shares = metrics.label_accuracy(run.labels, truth), metrics.label_accuracy(rival, truth)
            found.append(trial.row(name, "label_accuracy", *shares))
    return found


def labels(trial: Trial, session: protocol.Session) -> list[Row]:
    """The labels of a fresh client's first samples: read, or clustered and matched."""
    budget, most = trial.settings.budget, len(trial.train)
    train_with_detector, singles = (
        min(most, LABEL_SAMPLES[budget]),
        min(most, SINGLE_SAMPLES[budget]),
    )
    first = trial.recorded(train_with_detector, batch_size=64).transcript.view()
    if not trial.defense.label_private:
        read = _score(trial, train_with_detector, first.labels.cpu())
        return [trial.row("labels read", "label_accuracy", *_accuracy_and_majority(read))]
    second = trial.recorded(singles, batch_size=1)
    view = second.transcript.view("server", ["head_weight_gradients"])
    found = []
    for number, seed in trial.attackers:
        clusters = finished(LabelInference("wire", seed=seed)(first)).clusters
        wire = _score(trial, train_with_detector, clusters=clusters)
        assert wire.cluster_accuracy is not None and wire.random_partition is not None
        pair = (wire.cluster_accuracy, wire.random_partition)
        found.append(trial.row("labels, wire", "cluster_accuracy", *pair, number))
        match = LabelInference("published", seed=seed, device=trial.settings.device)
        matched = _score(trial, singles, finished(match(view)).labels)
        found.append(
            trial.row(
                "labels, published", "label_accuracy", *_accuracy_and_majority(matched), number
            )
        )
    return found


CURIOUS: dict[Measure, tuple[str, ...]] = {
    service: ("service",),
    dependence: ("wire",),
    unsplit: ("UnSplit",),
    decoder: ("decoder",),
    labels: ("labels read", "labels, wire", "labels, published"),
    with_data: tuple(WITH_DATA),
}


def hijacking(trial: Trial) -> list[Row]:
    """Feature-space hijacking, and whether the gap between labels gives it away.

    The baseline of "seen" is the same detector's alarm in an honest training as long.
    """

    def hijacker(model: nn.Sequential, **options: Any) -> HijackingServer:
        return HijackingServer(model, trial.public, Hijacking(seed=trial.victim), **options)

    honest, hijacked = (
        train_with_detector(trial, protocol.Server),
        train_with_detector(trial, hijacker),
    )
    found = hijacked.server.invert(hijacked.observe(trial.targets))
    seen, falsely = (float(run.client.detector.raised_at is not None) for run in (hijacked, honest))
    return [
        *_image_rows(trial, HIJACKING, found.inputs),
        trial.row(HIJACKING, "seen", seen, falsely),
    ]


def train_with_detector(trial: Trial, server: Callable[..., protocol.Server]) -> Any:
    """Train with a detector, before a server made by `server(model, label_private=...)`."""
    samples, train = HIJACKED_SAMPLES[trial.settings.budget], trial.train
    front, middle, *head = models.cut(trial.network(), trial.cut)
    client = trial.client(front, *head)
    client.detector = LabelGap()
    return finished(
        protocol.train(
            client,
            server(middle, label_private=bool(head)),
            train[: min(samples, len(train))],
            epochs=max(1, samples // len(train)),
            seed=trial.victim,
            device=trial.settings.device,
        )
    )


def _accuracy(trial: Trial, session: protocol.Session) -> tuple[float, float]:
    """The accuracy of the service, and the share of the most frequent class."""
    test = trial.dataset.test
    return session.accuracy(test), test.labels.bincount().max().item() / len(test)


def _imitation(trial: Trial, session: protocol.Session, seed: int) -> defenses.Outgoing | None:
    """The defence of smashed data as an attacker knows it: not with its random numbers."""
    return _drawn(trial, session, ATTACKER_SEED_OFFSET + seed)


def _drawn(trial: Trial, session: protocol.Session, seed: int) -> defenses.Outgoing | None:
    """The defence of smashed data, if there is one, with the random numbers of `seed`."""
    return trial.defense.options(trial.strength, session.client.front, seed).get("outgoing")


def _image_rows(trial: Trial, attack: str, inputs: Tensor, clone: int = -1) -> list[Row]:
    truth = trial.targets
    mean = trial.dataset.train.images.mean(0).to(truth.device).expand_as(truth)
    found, floor = metrics.score_images(inputs, truth), metrics.score_images(mean, truth)
    measures: dict[str, Callable[[metrics.ImageScores], Tensor]] = {
        "raw_mse": lambda scores: scores.mse.median(),
        "aligned_mse": lambda scores: scores.aligned_mse.median(),
        "best_mse": lambda scores: scores.mse.min(),
        # These networks' images are never too small for it.
        "ssim": lambda scores: cast(Tensor, scores.ssim).median(),
    }
    return [
        trial.row(attack, name, measure(found).item(), measure(floor).item(), clone)
        for name, measure in measures.items()
    ]


def _theft_rows(
    trial: Trial, session: protocol.Session, clone: nn.Sequential, number: int
) -> list[Row]:
    front, head = session.client.front, session.client.head
    parts = [session.server.model] if head is None else [session.server.model, head]
    shape = trial.dataset.train.images.shape[1:]
    random = Architecture.of(front, shape).build(trial.victim, f"random clone {number}")
    random = random.to(trial.settings.device)
    report = metrics.score_clone(clone, front, nn.Sequential(*parts), trial.dataset.test, random)
    pairs = {
        "clone_accuracy": (report.clone_accuracy, report.random_accuracy),
        "agreement": (report.clone_agreement, report.random_agreement),
    }
    return [trial.row("UnSplit", name, *pair, number) for name, pair in pairs.items()]


def _surrogate_rows(
    trial: Trial,
    session: protocol.Session,
    name: str,
    run: SurrogateResult,
    own: data.Split,
    held_out: data.Split,
) -> list[Row]:
    """What surrogate and server make of images that nobody had, before a head if one is needed.

    It is the simulated one, else the client's, as for UnSplit's clone. The baseline is a support
    vector machine that has the attacker's images and no client.
    """
    client, server = session.client, session.server.model
    images = held_out.images.to(trial.settings.device)

    def answers(front: nn.Sequential, head: nn.Sequential | None) -> Tensor:
        parts = [part for part in (front, server, head) if part is not None]
        return networks.in_chunks(nn.Sequential(*parts).eval(), images).argmax(1).cpu()

    victim = answers(client.front, client.head)
    surrogate, rival = (
        answers(run.clone, run.head or client.head),
        experiments.support_vectors(own, held_out.images),
    )
    pairs = {"clone_accuracy": held_out.labels, "agreement": victim}
    return [
        trial.row(
            name,
            measure,
            metrics.label_accuracy(surrogate, truth),
            metrics.label_accuracy(rival, truth),
        )
        for measure, truth in pairs.items()
    ]


def _score(
    trial: Trial, count: int, found: Tensor | None = None, **clusters: Any
) -> metrics.LabelReport:
    """Score what was found of the first `count` samples, in the order that they were sent."""
    order = next(protocol.data_orders(count, trial.victim))
    truth = trial.dataset.train.labels[:count][order]
    return metrics.score_labels(truth, len(trial.dataset.classes), found, **clusters)


def _accuracy_and_majority(found: metrics.LabelReport) -> tuple[float, float]:
    assert found.label_accuracy is not None
    return found.label_accuracy, found.majority
