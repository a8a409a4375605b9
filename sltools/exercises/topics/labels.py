"""Topic 07: labels from gradients, granted and sent, and honest scores of what was inferred."""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

from sltools import data, metrics, models, protocol, seeds
from sltools.attacks import LabelInference
from sltools.attacks.labels import matching_condition
from sltools.checking.task import Answer, Wrong, compare, number, pair, task, tensor
from sltools.exercises.challenges import noise
from sltools.messages import Message
from sltools.transcript import Transcript

CLASSES = 6
NOISE = 4.0  # of the challenge's client: times the root mean square of its gradient


@task(
    "07.bias",
    answer="label_from_bias",
    title="The label in a few numbers",
    kind="implement",
    rule="write it yourself",
    minutes=5,
    difficulty=1,
    points=2,
    purpose="read the label off the gradient of the head's bias",
    hints=(
        "The gradient is p - e_y: a probability at every class, and at the label one minus 1.",
        "Probabilities lie between 0 and 1. Which entry can be below zero?",
    ),
    meaning="No clone, no other sample, no features: whoever is given this vector of one "
    "sample has its label, however deep the head is.",
)
def _label_from_bias(answer: Answer, seed: int) -> None:
    labels, p = _clients(seed, 12)
    gradients = p - one_hot(labels, CLASSES)
    got = torch.tensor([number(answer(row), "the label") for row in gradients])
    compare(
        got,
        labels.float(),
        {
            "You took the largest entry. That is the class which the client holds for its most "
            "likely mistake.": gradients.argmax(1).float(),
            "You took the entry nearest to zero. That is a class which the client has ruled "
            "out.": gradients.abs().argmin(1).float(),
            "Classes are counted from 0: the first one is 0.": labels.float() + 1,
            "You returned the entry itself; return its place, the number of the class.": (
                gradients.amin(1)
            ),
        },
        "the list of labels",
    )


@task(
    "07.match",
    answer="predict_and_match",
    title="Will it match?",
    kind="predict",
    rule="write it yourself",
    library=(
        "sltools.attacks.labels.matching_distances",
        "sltools.attacks.labels.matching_condition",
    ),
    minutes=25,
    difficulty=3,
    points=4,
    purpose="foretell whether the published attack finds a label, then run it and see",
    hints=(
        "The prediction: p[y] - p[c] < 1 + q[y] - q[c] for every other class c. The clone's "
        "probabilities q are clone(u).softmax(1)[0].",
        "For c = y the condition reads 0 < 1, so you may test all classes at once.",
        "The gradient of the clone's weights, if the label were c, is (q - e_c) u^T: a column "
        "(K, 1) times a row (1, D). Subtract the client's, square, and take the mean.",
    ),
    meaning="Prediction and measurement agree on every sample: two lists of probabilities "
    "decide, and a client that is sure of itself defeats a clone that did not learn along.",
)
def _predict_and_match(answer: Answer, seed: int) -> str:
    clone, u, labels, p = _matchable(seed)
    with torch.no_grad():
        q = clone(u).softmax(1)
    gradients = (p - one_hot(labels, CLASSES))[:, :, None] * u[:, None]
    samples = zip(u, gradients, p, labels.tolist(), strict=True)
    got = [pair(answer(clone, x[None], g, p_i, y)) for x, g, p_i, y in samples]
    predicted = torch.tensor([_as_number(first) for first, _ in got])
    _compare_predictions(predicted, p, q, labels)
    distances = torch.stack([tensor(d, (CLASSES,), "the list of distances") for _, d in got])
    _compare_distances(distances, gradients, (p, q), u, clone(u).detach())
    return f"Of these {len(labels)} labels {int(predicted.sum())} are found, as predicted."


def _compare_predictions(got: Tensor, p: Tensor, q: Tensor, labels: Tensor) -> None:
    right = matching_condition(p, q, labels)
    mistakes = _wrong_conditions(p, q, labels)
    compare(got, right.float(), {reason: v.float() for reason, v in mistakes.items()}, "predicted")


def _wrong_conditions(p: Tensor, q: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """What is predicted by those who misread the condition, by the reason to tell them."""
    own = labels[:, None]
    rival = (p - one_hot(labels, CLASSES)).argmax(1, keepdim=True)  # the client's likeliest mistake
    left, right = p.gather(1, own) - p, 1 + q.gather(1, own) - q
    return {
        "You predict success where the clone itself names the label. It need not: an unsure "
        "client makes the left side small.": q.argmax(1) == labels,
        "You predict success where the client itself is right. Its being right says nothing; "
        "compare its probabilities with the clone's.": p.argmax(1) == labels,
        "Your inequality points the other way: you predict success where the attack fails.": ~(
            matching_condition(p, q, labels)
        ),
        "p and q are exchanged: p is the client's, q the clone's.": matching_condition(
            q, p, labels
        ),
        "You tested the class that the client holds for its most likely mistake. The condition "
        "must hold for every other class.": (left < right).gather(1, rival)[:, 0],
        "You compare the clone's logits: q are its probabilities, the softmax of them.": (
            matching_condition(p, q.log(), labels)
        ),
        "You ask that it holds for some other class; it must hold for every one.": (
            (left < right).sum(1) > 1
        ),
        "You predict success everywhere: the condition can fail.": torch.ones_like(labels).bool(),
    }


def _compare_distances(
    got: Tensor, gradients: Tensor, beliefs: tuple[Tensor, Tensor], u: Tensor, logits: Tensor
) -> None:
    p, q = beliefs
    candidates = torch.eye(CLASSES)

    def apart(residuals: Tensor) -> Tensor:
        """The squared differences, (N, candidate, K, D), to gradients (residual) u^T."""
        return (residuals[..., None] * u[:, None, None] - gradients[:, None]).square()

    squares = apart(q[:, None] - candidates)
    right = squares.mean((2, 3))
    compare(
        got,
        right,
        {
            "You added the squares up; take their mean over the entries.": squares.sum((2, 3)),
            "You took the root of the mean; leave the squares as they are.": right.sqrt(),
            "The candidate gradients are made with the client's p: the attacker has only the "
            "clone's q.": apart(p[:, None] - candidates).mean((2, 3)),
            "The candidate gradients have the wrong sign: q - e_c, not e_c - q.": apart(
                candidates - q[:, None]
            ).mean((2, 3)),
            "You compared with q u^T for every class: the candidate's e_c is missing.": apart(
                q[:, None].expand(-1, CLASSES, -1)
            ).mean((2, 3)),
            "The softmax is missing: the residual is q - e_c, with probabilities q, and not the "
            "logits.": apart(logits[:, None] - candidates).mean((2, 3)),
            "The loss was taken of the logits: nll_loss wants logarithms of probabilities. Take "
            "cross_entropy, which contains the softmax.": apart(
                -candidates.expand(len(q), -1, -1)
            ).mean((2, 3)),
        },
        "the list of distances",
    )


@task(
    "07.closed_form",
    answer="closed_form",
    title="A whole batch at once",
    kind="implement",
    rule="write it yourself",
    library=(
        "sltools.attacks.labels.residuals",
        "sltools.attacks.LabelInference.__call__",
    ),
    minutes=15,
    difficulty=2,
    points=3,
    purpose="solve for all labels of a batch, and refuse where many answers fit",
    hints=(
        "torch.linalg.pinv(U) is U^+, of shape (D, B). So G @ U^+ has shape (K, B).",
        "Multiply by the number of samples, and transpose: one row for each sample.",
        "torch.linalg.matrix_rank(U) must be B. It can be less even if B < D: two samples with "
        "the same features are enough.",
    ),
    meaning="With the leak, a batch is no protection up to the rank of its features; beyond "
    "it an honest attack returns nothing, and says why.",
)
def _closed_form(answer: Answer, seed: int) -> None:
    U, G, right = _solvable(seed)
    got = answer(U, G)
    if got is None:
        raise Wrong("You refuse a batch that can be solved: here the rank of U is B.")
    batch = len(U)
    compare(
        tensor(got, right.shape, "P - Y"),
        right,
        {
            "The factor B is missing: G is the mean of the samples' gradients.": right / batch,
            "You multiplied by B twice.": right * batch,
            "The sign is turned: this is Y - P.": -right,
            "You took the transpose of U for its pseudo-inverse. It undoes the product only if "
            "all rows are of length 1 and at right angles.": batch * (G @ U.T).T,
            "You added the labels: this is P. Return P - Y.": right - right.floor(),
        },
        "P - Y",
    )
    large = torch.cat([U, U.flip(1)])
    residuals = torch.cat([right, right.flip(0)])
    if answer(large, residuals.T @ large / len(large)) is not None:
        raise Wrong("Here the batch has more samples than features: rank(U) < B. Return None.")
    twice = U.clone()
    twice[-1] = twice[0]  # the same image twice in a batch
    if answer(twice, right.T @ twice / batch) is not None:
        raise Wrong(
            "Here two samples have the same features, so rank(U) < B and many answers fit. Return "
            "None."
        )


@task(
    "07.counts",
    answer="count_labels",
    title="What a mixed batch still tells",
    kind="implement",
    rule="write it yourself",
    minutes=15,
    difficulty=3,
    points=3,
    purpose="count the labels of a batch whose samples cannot be told apart",
    hints=(
        "B times the gradient is the sum of the probabilities less the counts. A sum of "
        "probabilities is never below zero, so no count is below -B times its entry.",
        "Counts are whole numbers: round that bound up, and no count is below zero.",
        "For the estimate replace the sum of the probabilities of each class by B / K, then "
        "round to the nearest whole number.",
    ),
    meaning="Counts are less than labels, but whoever knows that a batch holds no case of a "
    "disease knows it of every patient in it.",
)
def _count_labels(answer: Answer, seed: int) -> None:
    batches = [_countable(seed, size) for size in (4, 20, 33)]
    got = [pair(answer(gradient, size)) for gradient, _, size in batches]
    at_least, counts = (
        torch.cat([tensor(part[i], (CLASSES,), what) for part in got])
        for i, what in enumerate(("the lower bounds", "the counts"))
    )
    excess = torch.cat([-size * gradient for gradient, _, size in batches])
    unscaled = torch.cat([-gradient for gradient, _, _ in batches])
    even = torch.cat([torch.full((CLASSES,), size / CLASSES) for *_, size in batches])
    compare(
        at_least,
        excess.ceil().clamp(min=0),
        {
            "You rounded the bounds down, as int() does: not below 2.3 means 3 or more.": (
                excess.floor().clamp(min=0)
            ),
            "You rounded the bounds to the nearest number; they must be rounded up.": (
                excess.round().clamp(min=0)
            ),
            "Some of your bounds are negative: no count is below 0.": excess.ceil(),
            "int() cuts the digits off and leaves bounds negative: round up, and no count is below "
            "0.": excess.trunc(),
            "The gradient is a mean: multiply it by B.": unscaled.ceil().clamp(min=0),
            "The sign is turned: labels make the entries negative.": (-excess).ceil().clamp(min=0),
            "That is the estimate. A bound must hold for any probabilities, also for a sum of "
            "zero.": (excess + even).round(),
        },
        "the tensor of lower bounds",
    )
    compare(
        counts,
        torch.cat([labels.bincount(minlength=CLASSES).float() for _, labels, _ in batches]),
        {
            "You rounded the counts down; take the nearest whole number.": (excess + even).floor(),
            "int() cuts the digits off, and 2.9 becomes 2: round to the nearest whole number.": (
                (excess + even).trunc()
            ),
            "The sum of the probabilities is missing in the counts: each class has about "
            "B / K.": excess.round(),
            "For the sum of the probabilities you took 1 / K. That is one sample's; there are "
            "B of them.": (excess + 1 / CLASSES).round(),
            "These are the bounds once more; for the counts add B / K first.": (
                excess.ceil().clamp(min=0)
            ),
            "The counts are not rounded.": excess + even,
        },
        "the tensor of counts",
    )


@task(
    "07.cluster",
    answer="cluster_labels",
    title="Directions on the wire",
    kind="implement",
    rule="write it yourself",
    library=("sltools.attacks.LabelInference.__call__",),
    minutes=20,
    difficulty=3,
    points=4,
    purpose="infer labels from messages that the protocol really sends",
    hints=(
        "The label is in the direction: divide each row by its length "
        "(torch.nn.functional.normalize).",
        "sklearn.cluster.KMeans(K, n_init=10).fit(rows.numpy()).labels_ gives each row the number "
        "of its cluster. K is the number of anchors.",
        "The number of a cluster means nothing. Find the cluster of each anchor, and give all of "
        "its members the anchor's label.",
    ),
    meaning="Nothing was granted but one label for each class; everything else crossed the wire.",
)
def _cluster_labels(answer: Answer, seed: int) -> None:
    gradients, anchors, truth = _early_gradients(seed)
    got, again = (
        tensor(answer(rows, anchors), truth.shape, "the labels")
        for rows in (gradients, normalize(gradients))
    )
    if torch.equal(got, truth.float()):
        return
    found = _mean(got == truth)
    if torch.equal(again, truth.float()):
        raise Wrong(
            f"Only {found:.0%} are right, and with rows of equal length all would be: the length "
            "of a gradient says how sure the client is, its direction says the label."
        )
    if torch.equal(got, anchors.float()):
        raise Wrong("You returned the anchors: the other samples have no label yet.")
    if got.min() == -1:
        raise Wrong(
            "Some samples have no name (-1). Make as many clusters as there are classes, so that "
            "each has one anchor in it."
        )
    if not torch.equal(got, got.round()) or got.min() < 0 or got.max() >= CLASSES:
        raise Wrong(f"Labels are whole numbers from 0 to {CLASSES - 1}: there are 6 classes here.")
    if metrics.cluster_accuracy(got.long(), truth) == 1:
        raise Wrong(
            "The groups are right and their names are not: the number of a cluster means nothing, "
            "its anchor's label does."
        )
    raise Wrong(
        f"Only {found:.0%} are right. The directions of six labels lie well apart: is each row "
        "one sample, and does k-means look at the directions, from several starts?"
    )


@task(
    "07.score",
    answer="score_names",
    title="Find three flaws in a score",
    kind="flaw",
    rule="write it yourself",
    library=("sltools.metrics.score_labels",),
    minutes=15,
    difficulty=2,
    points=3,
    purpose="count only what the attacker found, under names that it could give",
    hints=(
        "Who named the clusters? Only the anchors are the attacker's.",
        "The anchors' labels were given. Leave these samples out of the score, and out of the "
        "baseline.",
        "Chance, 1 / K, is not what a blind attacker scores: it may name one class for all.",
    ),
    meaning="Ask of every share of labels found: found by whom, without which, and more than what?",
)
def _score_names(answer: Answer, seed: int) -> str:
    clusters, anchors, truth = _named_badly(seed)
    found, baseline = (number(part) for part in pair(answer(clusters, anchors, truth)))
    sought = anchors < 0
    by_anchor, by_truth = torch.empty(CLASSES).long(), torch.empty(CLASSES).long()
    by_anchor[clusters[~sought]] = anchors[~sought]
    for cluster in range(CLASSES):
        by_truth[cluster] = truth[clusters == cluster].mode().values
    hits = {
        "anchors": by_anchor[clusters] == truth,
        "truth": by_truth[clusters] == truth,
        "numbers": clusters == truth,
    }
    compare(
        torch.tensor(found),
        _mean(hits["anchors"][sought]),
        {
            "The clusters still bear the names that suit them best: the attacker does not have "
            "the truth, it has the anchors.": _mean(hits["truth"][sought]),
            "The anchors are still counted as found: their labels were given.": _mean(
                hits["anchors"]
            ),
            "Still named with the truth, and the anchors still counted: two flaws to go.": _mean(
                hits["truth"]
            ),
            "You compared the numbers of the clusters with labels; they need names first.": _mean(
                hits["numbers"][sought]
            ),
        },
        "the share of labels found",
        tolerance=1e-4,
    )
    frequent = truth[sought].bincount().max() / sought.sum()
    compare(
        torch.tensor(baseline),
        frequent,
        {
            "The baseline is still chance. Always naming the most frequent class is as blind, "
            "and scores more.": torch.tensor(1 / CLASSES),
            "The baseline counts the anchors: take the same samples as for the score.": _mean(
                truth == truth.mode().values
            ),
            "This is the most frequent of the labels that the attack gave. The baseline is what "
            "the truth has most often.": (
                by_anchor[clusters][sought].bincount().max() / sought.sum()
            ),
        },
        "the baseline",
        tolerance=1e-4,
    )
    flattering = _mean(hits["truth"])
    return (
        f"The flawed score says {flattering:.0%} beside {1 / CLASSES:.0%}, where {found:.0%} were "
        f"found and {baseline:.0%} need no attack: two anchors lay in each other's cluster."
    )


@task(
    "07.challenge",
    answer="infer",
    title="A client that answers with noise",
    kind="challenge",
    rule="all of sltools",
    minutes=40,
    difficulty=4,
    points=5,
    purpose="find labels in messages that noise was meant to hide",
    hints=(
        "The noise of each sample is drawn anew, so a mean over samples of one label has less of "
        "it. You do not know which these are. Which samples are probably of one label?",
        "The server has something else of each sample: view.smashed. In the lesson, the nearest "
        "z of another sample often had the same label.",
        "Normalise z less its mean, find for each sample the ten nearest others, and take the "
        "mean of their gradients before you cluster.",
        "One anchor in a foreign cluster costs two names. Start k-means at the anchors' directions "
        "(`init=`), or name by the best assignment of anchors to centres.",
    ),
    meaning="Noise that drowns one message does not drown the mean of ten. A defence must be "
    "tested against an attacker who knows of it.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    clients = [_infer_from(answer, seeds.derive(seed, f"client {n}") % 2**31) for n in range(3)]
    found, mixed, blind, default = (statistics.median(s) for s in zip(*clients, strict=True))
    # Gradients of other samples must lead to other labels, or the attack knows too much.
    if found > blind and mixed - blind > (found - blind) / 2:
        raise Wrong(
            f"With the gradients of other samples you still find {mixed:.0%} of the labels: your "
            "attack uses something that the gradients do not say."
        )
    best = max(blind, default)
    told = (
        f"{found:.1%} of the labels found; the library's default {default:.1%}, the nearest "
        f"anchor {blind:.1%}; with the gradients of other samples {mixed:.1%}"
    )
    if 1 - found > 0.9 * (1 - best):
        raise Wrong(f"Not clearly better than both baselines: {told}.")
    if 1 - found > (1 - best) / 3:
        raise Wrong(
            f"Better, with more than a third of the baseline's mistakes left: {told}.", share=0.5
        )
    return f"Medians of three clients: {told}."


def _infer_from(answer: Answer, seed: int) -> tuple[float, float, float, float]:
    """Let the answer attack one client; return the labels found, and those of three baselines.

    These are the answer given other samples' gradients, the nearest anchor, and the library.
    """
    transcript, truth = _noisy_training(seed)
    view = transcript.view("server", ["anchor_labels"])
    turned = _shuffled(transcript, seed).view("server", ["anchor_labels"])
    got = tensor(answer(view), truth.shape, "the labels")
    control = tensor(answer(turned), truth.shape, "the labels")
    if torch.equal(got, control):
        raise Wrong(
            "Your answer does not depend on the gradients: it is the same with gradients of other "
            "samples."
        )
    sought, z = view.anchor_labels < 0, view.smashed.flatten(1)
    nearest = view.anchor_labels[~sought][torch.cdist(z, z[~sought]).argmin(1)]
    library = LabelInference("wire", seed=seed)(view).labels
    assert library is not None
    named = (got, control, nearest, library)
    found, mixed, blind, default = (_mean((each == truth)[sought]).item() for each in named)
    return found, mixed, blind, default


# ---- data ----------------------------------------------------------------------------------------


def _clients(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Labels (N,) and probabilities (N, K) of a client that is sure of some samples."""
    generator = seeds.generator(seed, "client")
    labels = torch.randint(CLASSES, (count,), generator=generator)
    logits = torch.randn(count, CLASSES, generator=generator)
    sureness = 5 * torch.rand(count, 1, generator=generator)
    return labels, (logits + sureness * one_hot(labels, CLASSES)).softmax(1)


def _attempts(seed: int) -> Iterator[int]:
    """Seeds to draw with until the data show every mistake."""
    return (seeds.derive(seed, f"attempt {number}") for number in range(10_000))


@lru_cache(maxsize=64)  # answers are given copies
def _matchable(seed: int) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """A clone, features, labels and probabilities of which the condition is a close judge."""
    for attempt in _attempts(seed):
        with seeds.scope(attempt, "clone"):
            clone = nn.Sequential(nn.Linear(9, CLASSES))
        u = 6 * torch.rand(24, 9, generator=seeds.generator(attempt, "features"))
        labels, p = _clients(attempt, 24)
        with torch.no_grad():
            q = clone(u).softmax(1)
        right, own = matching_condition(p, q, labels), labels[:, None]
        margins = (1 + q.gather(1, own) - q - p.gather(1, own) + p).scatter(1, own, 1.0).amin(1)
        wrong = _wrong_conditions(p, q, labels).values()
        distinct = len({tuple(row.tolist()) for row in (right, *wrong)}) == 1 + len(wrong)
        if distinct and margins.abs().min() > 0.01:
            return clone, u, labels, p
    raise AssertionError("no data show every mistake")


def _solvable(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features U (8, 12) of full rank, the gradient G, and P - Y."""
    for attempt in _attempts(seed):
        U = torch.randn(8, 12, generator=seeds.generator(attempt, "features")).relu()
        strengths = torch.linalg.svdvals(U)
        if strengths[-1] > 0.1 * strengths[0]:
            break
    labels, p = _clients(seed, len(U))
    residuals = p - one_hot(labels, CLASSES)
    return U, residuals.T @ U / len(U), residuals


def _countable(seed: int, size: int) -> tuple[Tensor, Tensor, int]:
    """The bias gradient of a batch of an untrained client, its labels and its size."""
    for attempt in _attempts(seed + size):
        generator = seeds.generator(attempt, "batch")
        often = torch.randn(CLASSES, generator=generator).softmax(0)
        labels = torch.multinomial(often, size, replacement=True, generator=generator)
        uneven = torch.rand(CLASSES, generator=generator) - 0.5
        uneven = uneven - uneven.mean()  # by how much the sums of probabilities miss B / K
        excess = labels.bincount(minlength=CLASSES) - size / CLASSES - uneven
        clear = (excess - excess.round()).abs().min() > 0.05  # rounding cannot change a bound
        cut = size > CLASSES or (excess + size / CLASSES).min() < 0  # as int() does, not floor()
        if clear and cut and uneven.abs().max() < 0.4 and (size < 30 or excess.min() < -1):
            return -excess / size, labels, size
    raise AssertionError("no batch shows every mistake")


def _early_gradients(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """dL/du (N, D) of a client that doubts evenly, anchors (N,) and labels (N,)."""
    generator = seeds.generator(seed, "wire")
    labels = torch.randint(CLASSES, (150,), generator=generator)
    labels[:CLASSES] = torch.randperm(CLASSES, generator=generator)
    W = torch.randn(CLASSES, 20, generator=generator) / 4
    doubt = (0.2 * torch.randn(150, CLASSES, generator=generator)).exp()
    doubt = doubt * (1 - one_hot(labels, CLASSES))
    directions = doubt / doubt.sum(1, keepdim=True) - one_hot(labels, CLASSES)
    sure = 10 ** (-3 * torch.rand(150, 1, generator=generator))  # 1 - p_y
    return sure * directions @ W / 50, _first_of_each(labels), labels


def _first_of_each(labels: Tensor) -> Tensor:
    anchors = torch.full_like(labels, -1)
    for label in labels.unique().tolist():
        anchors[(labels == label).nonzero()[0]] = label
    return anchors


def _named_badly(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clusters that are nearly right, two of which hold each other's anchor; anchors and truth."""
    for attempt in _attempts(seed):
        generator = seeds.generator(attempt, "names")
        often = torch.tensor([0.3, 0.22, 0.16, 0.12, 0.1, 0.1])
        often = often[torch.randperm(CLASSES, generator=generator)]
        truth = torch.multinomial(often, 80, replacement=True, generator=generator)
        if truth.unique().numel() < CLASSES:
            continue
        number_of = torch.randperm(CLASSES, generator=generator)
        mixed = torch.rand(80, generator=generator) < 0.2
        clusters = number_of[truth].where(~mixed, torch.randint(6, (80,), generator=generator))
        anchors = _first_of_each(truth)
        first, second = torch.randperm(CLASSES, generator=generator)[:2].tolist()
        swapped = number_of.clone()
        swapped[[first, second]] = number_of[[second, first]]
        known = anchors >= 0
        clusters[known] = swapped[anchors[known]]
        if _shows_every_flaw(clusters, anchors, truth):
            return clusters, anchors, truth
    raise AssertionError("no data show every flaw")


def _shows_every_flaw(clusters: Tensor, anchors: Tensor, truth: Tensor) -> bool:
    """Say whether the classes keep their order and the names do, so that no two scores agree."""
    sought = anchors < 0
    frequent = truth[sought].bincount(minlength=CLASSES)
    given = clusters[sought].bincount(minlength=CLASSES)
    return bool(frequent.max() != given.max() and (clusters == truth)[sought].sum() < 30)


def _noisy_training(seed: int) -> tuple[Transcript, Tensor]:
    """The first epoch of a label-private client that adds noise to dL/du; and its labels."""
    stream = seeds.keyed(seed, "noise")

    def outgoing(kind: str, sent: Tensor) -> Tensor:
        if kind != "feature_gradient":
            return sent
        size = NOISE * sent.square().mean().sqrt()
        return sent + size * noise(sent.shape, stream)

    digits = data.load("digits")
    order = torch.randperm(len(digits.train), generator=seeds.generator(seed, "watched"))
    victim = seeds.derive(seed, "victim") % 2**31
    net = models.for_images(digits.train.images.shape, victim)
    front, middle, head = models.cut(net, ("pool1", "relu4"))
    client = protocol.Client(front, head, outgoing=outgoing)
    server = protocol.Server(middle, label_private=True)
    session = protocol.train(
        client, server, digits.train[order[:640]], epochs=1, seed=victim, record=True
    )
    pages = session.transcript.client_log.values()
    return session.transcript, torch.cat([page["labels"] for page in pages])


def _shuffled(transcript: Transcript, seed: int) -> Transcript:
    """The same record with the gradients of each batch dealt out anew, but for the anchors'."""
    generator = seeds.generator(seed, "shuffle")
    anchors = transcript.view("server", ["anchor_labels"]).anchor_labels
    orders, start = {}, 0
    for step, page in transcript.client_log.items():
        rows = torch.arange(len(page["labels"]))
        free = rows[anchors[start : start + len(rows)] < 0]
        rows[free] = free[torch.randperm(len(free), generator=generator)]
        orders[step], start = rows, start + len(rows)
    messages = [
        Message(m.step, m.batch, m.kind, m.payload[orders[m.step]])
        if m.kind in ("feature_gradient", "cut_gradient")
        else m
        for m in transcript.messages
    ]
    return replace(transcript, messages=messages)


def _as_number(value: Any) -> float:
    """Return a prediction, True or False in any form, as 1 or 0."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, Tensor):
        raise Wrong(
            f"The prediction must be one truth value; yours are {value.numel()}: is `.all()` "
            "missing?"
        )
    if value not in (True, False):
        raise Wrong("The prediction must be True or False.")
    return float(value)


def _mean(hits: Tensor) -> Tensor:
    return hits.float().mean()
