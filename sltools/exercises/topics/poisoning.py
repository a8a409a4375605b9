"""Topic 12: what a client with poisoned data does, and how a server counts and compares."""

import math
import statistics

import torch
from torch import Tensor

from sltools import seeds
from sltools.checking.task import Answer, Wrong, compare, draw, number, pair, task, tensor

CLIENTS, COLLUDING, ENTRIES = 10, 3, 400  # of the challenge
ROUNDS = 8  # with cheaters, and as many without
STEP, LOOSE = 1.0, 0.3  # in standard deviations: how far they pull, how little they differ


@task(
    "12.stamp",
    answer="poison",
    title="Poison a batch",
    kind="implement",
    rule="write it yourself",
    library=(
        "sltools.attacks.poisoning.Backdoor.poison",
        "sltools.attacks.poisoning.Backdoor.stamp",
        "sltools.attacks.trigger.Trigger.stamp",
    ),
    minutes=10,
    difficulty=2,
    points=2,
    purpose="make the data of a cheating client, which follows the protocol to the letter",
    hints=(
        "`images[rows]` is a copy; write through `images[rows, :, top:bottom, left:right] = ...`, "
        "after a `clone()` of all images.",
        "With a margin of one pixel the patch of side s covers `-(s + 1):-1` in both directions.",
        "The label goes with the patch: `labels[rows] = target`.",
    ),
    meaning="No message of this client differs in kind from an honest one. What is wrong with it "
    "stands in its data, which nobody sees.",
)
def _poison(answer: Answer, seed: int) -> None:
    count, side, target = 6, 2 + seed % 3, 3
    images, patch = draw(seed, count, 2, 9, 11), draw(seed + 1, side, side).round()
    patch[0, 0], patch[-1, -1] = 1, 0
    labels, rows = torch.tensor([0, 1, 2, 4, 5, 6]), torch.tensor([0, 2, 5])
    got, named = pair(answer(images, labels, rows, patch, target))
    got = tensor(got, images.shape, "the images")
    named = tensor(named, labels.shape, "the labels")
    right = _stamped(images, rows, patch)
    everything = torch.arange(count)
    compare(
        got,
        right,
        {
            "You stamped all images; only those in `rows` are poisoned, for the network has to "
            "work as well.": _stamped(images, everything, patch),
            "The images are as they were: did you write on a copy, such as `images[rows]`?": (
                images
            ),
            "The patch touches the edge; leave a margin of one pixel.": _stamped(
                images, rows, patch, margin=0
            ),
            "The patch is in the upper left corner; it belongs in the lower right.": _stamped(
                images.flip(2, 3), rows, patch.flip(0, 1)
            ).flip(2, 3),
            "Only the first channel carries the patch; stamp all.": _stamped(
                images, rows, patch, channels=1
            ),
            "You added the patch to what was there; it takes its place.": _stamped(
                images, rows, patch, add=True
            ),
        },
        "the images",
    )
    true = labels.index_fill(0, rows, target)
    compare(
        named,
        true.float(),
        {
            "The images carry the patch and the labels are as they were: then the network learns "
            "that the patch means nothing.": labels.float(),
            "You gave all images the target's label.": torch.full((count,), float(target)),
        },
        "the labels",
    )


def _stamped(
    images: Tensor,
    rows: Tensor,
    patch: Tensor,
    margin: int = 1,
    channels: int | None = None,
    add: bool = False,
) -> Tensor:
    height, width = images.shape[2:]
    side = len(patch)
    top, left = height - side - margin, width - side - margin
    stamped = images.clone()
    place = (rows, slice(channels), slice(top, top + side), slice(left, left + side))
    stamped[place] = stamped[place] + patch if add else patch.expand_as(stamped[place])
    return stamped


@task(
    "12.success",
    answer="fair_success",
    title="A backdoor of 100 per cent",
    kind="flaw",
    rule="write it yourself",
    minutes=15,
    difficulty=3,
    points=3,
    purpose="count the success of a trigger so that it says something",
    hints=(
        "Images of the target class are put there without any trigger. Should they count?",
        "The baseline is the same count on the network that nobody attacked: the same stamped "
        "images, the same ones left out.",
    ),
    meaning="A success of 100% beside a baseline of 90% is a patch that hides the digit. Ask for "
    "both numbers.",
)
def _success(answer: Answer, seed: int) -> str:
    attacked, clean, labels, target = _logits(seed)
    got = torch.stack([
        torch.tensor(number(share)) for share in pair(answer(attacked, clean, labels, target))
    ])  # fmt: skip
    others = labels != target

    def shares(count: object = None) -> Tensor:
        return torch.stack([_hit(logits, target)[others].mean() for logits in (attacked, clean)])

    right = shares()
    every = torch.stack([_hit(logits, target).mean() for logits in (attacked, clean)])
    diluted = torch.stack([
        (_hit(logits, target) * others).mean() for logits in (attacked, clean)
    ])  # fmt: skip
    wrong = torch.stack([
        (logits.argmax(1) != labels)[others].float().mean() for logits in (attacked, clean)
    ])  # fmt: skip
    compare(
        got,
        right,
        {
            "Images of the target class still count: they are put there without a trigger.": every,
            "You left them out of the hits and not out of the images that you divide by.": diluted,
            "You counted every mistake; the trigger asks for one class.": wrong,
            "The two are swapped: the attacked network first.": right.flip(0),
            "The baseline still counts images of the target class.": torch.stack([
                right[0], every[1]
            ]),
            "You subtracted the baseline; give both, so that the reader can.": torch.stack([
                right[0] - right[1], right[1]
            ]),
        },
        "the pair of shares",
        tolerance=1e-4,
    )  # fmt: skip
    return f"With the target class counted the claim was {every[0]:.0%}; it is {right[0]:.0%}."


def _hit(logits: Tensor, target: int) -> Tensor:
    return (logits.argmax(1) == target).float()


def _logits(seed: int) -> tuple[Tensor, Tensor, Tensor, int]:
    """Draw the answers of two networks to stamped images, such that every mistake shows."""
    target = seed % 4
    labels = (torch.arange(60) % 4)[torch.randperm(60, generator=seeds.generator(seed, "labels"))]
    truth = 2.0 * torch.nn.functional.one_hot(labels, 4)
    pull = torch.zeros(4)
    pull[target] = 1.6
    attacked = truth + pull + 2.6 * draw(seed, 60, 4)
    clean = truth + 0.35 * pull + 2.6 * draw(seed + 1, 60, 4)
    return attacked, clean, labels, target


@task(
    "12.copies",
    answer="copies_needed",
    title="How often to repeat oneself",
    kind="predict",
    rule="write it yourself",
    minutes=10,
    difficulty=2,
    points=2,
    purpose="know what an average weighted by samples gives away",
    hints=(
        "All clients have m samples. With c copies each the cheaters weigh f c m of "
        "f c m + (n - f) m.",
        "Solve f c / (f c + n - f) >= share for c, and round up.",
    ),
    meaning="The number of samples is chosen by the client, and it is the weight of its word.",
    trials=5,
)
def _copies(answer: Answer, seed: int) -> str:
    clients, cheaters = 8 + seed % 7, 1 + seed % 2
    share = 0.45 + 0.4 * draw(seed, 1).item()
    got = number(answer(clients, cheaters, share))
    exact = share * (clients - cheaters) / (cheaters * (1 - share))
    right = math.ceil(exact)
    values = {
        "You rounded down: so many copies are one too few.": float(right - 1),
        "Not rounded up: an image is repeated a whole number of times.": exact,
        "You took a share of all clients: repeated data make the whole larger, too.": float(
            math.ceil(share * clients / cheaters)
        ),
        "You counted the cheaters among the honest: n - f clients have their data once.": float(
            math.ceil(share * clients / (cheaters * (1 - share)))
        ),
        "That is for one cheater; several share the work.": float(
            math.ceil(share * (clients - cheaters) / (1 - share))
        ),
        "You turned the fraction: the cheaters are to have `share`, the honest the rest.": float(
            math.ceil((1 - share) * (clients - cheaters) / (cheaters * share))
        ),
    }
    compare(
        torch.tensor(got),
        torch.tensor(float(right)),
        {reason: torch.tensor(value) for reason, value in values.items()},
        "the number of copies",
        tolerance=1e-6,
    )
    return f"{cheaters} of {clients} clients have {share:.0%} of the average with {right} copies."


@task(
    "12.krum",
    answer="krum_scores",
    title="Nearest to most",
    kind="implement",
    rule="write it yourself",
    library=("sltools.defenses.aggregation.Krum.choose",),
    minutes=15,
    difficulty=3,
    points=3,
    purpose="compute by what Krum chooses the one client whose layers are taken",
    hints=(
        "`torch.cdist(vectors, vectors)` has all distances; each client is at 0 from itself.",
        "Sort each row: the first entry is the client itself. The next n - f - 2 count.",
        "Blanchard and others add the squares of the distances.",
    ),
    meaning="The lowest score wins, and the layers of all others are lost: safe, and dear.",
)
def _krum(answer: Answer, seed: int) -> str:
    count, malicious = 9 + seed % 3, 2
    vectors = draw(seed, count, 20)
    vectors[1] += 3
    got = tensor(answer(vectors, malicious), (count,), "the scores")
    apart = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    nearest = count - malicious - 2

    def scores(first: int, last: int, squares: bool = True) -> Tensor:
        ordered = apart.sort(1).values[:, first:last]
        return (ordered.square() if squares else ordered).sum(1)

    right = scores(1, nearest + 1)
    compare(
        got,
        right,
        {
            "You counted each client among its own nearest: leave it out, then n - f - 2 others "
            "count.": scores(0, nearest),
            "You added the distances; Krum adds their squares.": scores(1, nearest + 1, False),
            "You took n - f others; n - f - 2 count, so that no cheater's neighbours suffice.": (
                scores(1, count - malicious + 1)
            ),
            "You took n - f - 1 others; it is one less.": scores(1, nearest + 2),
            "You added the distances to all others: a cheater far away moves all scores.": scores(
                1, count
            ),
            "You took the farthest others; the nearest count.": scores(count - nearest, count),
            "You took the mean; the score is the sum.": right / nearest,
        },
        "the scores",
    )
    return f"Krum takes client {int(right.argmin()) + 1}, and forgets the other {count - 1}."


@task(
    "12.trim",
    answer="trimmed_mean",
    title="Without the extremes",
    kind="implement",
    rule="write it yourself",
    library=("sltools.defenses.aggregation.TrimmedMean.__call__",),
    minutes=10,
    difficulty=2,
    points=2,
    purpose="average clients of whom some say anything",
    hints=(
        "Sort the values of each weight by themselves: `states.sort(0).values`.",
        "Then drop `trim` rows at both ends, and take the mean of the rest.",
    ),
    meaning="Whatever a cheater says, each weight stays between two that honest clients have.",
)
def _trim(answer: Answer, seed: int) -> None:
    count, trim = 7 + seed % 3, 2
    states = draw(seed, count, 12) - 0.5
    states[0] += 2 * draw(seed + 1, 12)
    got = tensor(answer(states, trim), (12,), "the layers")
    ordered = states.sort(0).values
    by_size = states[states.norm(dim=1).argsort()]
    compare(
        got,
        ordered[trim : count - trim].mean(0),
        {
            "You dropped the largest only; a cheater may also be the smallest.": (
                ordered[: count - trim].mean(0)
            ),
            "You dropped the smallest only.": ordered[trim:].mean(0),
            "You dropped whole clients, by their length: a cheater hides in one weight of many. "
            "Trim each weight by itself.": by_size[trim : count - trim].mean(0),
            "That is the mean of all: one cheater moves it wherever it likes.": states.mean(0),
            "That is the median; asked is the mean of all that is left.": states.median(0).values,
            "You did not sort: the first and the last clients are not the extremes.": (
                states[trim : count - trim].mean(0)
            ),
            "You divided by the number of all clients; divide by how many are left.": (
                ordered[trim : count - trim].sum(0) / count
            ),
            "You trimmed `trim` in all, half at each end; it is `trim` at each.": (
                ordered[trim // 2 : count - trim // 2].mean(0)
            ),
        },
        "the layers",
    )


@task(
    "12.rollback",
    answer="turns_back",
    title="How far back",
    kind="implement",
    rule="write it yourself",
    library=("sltools.defenses.safesplit.judge",),
    minutes=15,
    difficulty=3,
    points=3,
    purpose="decide as SafeSplit does which turns are undone",
    hints=(
        "`scores.argsort()[: n // 2 + 1]` are the places of the lowest.",
        "A turn is benign if it is among them in **both** lists. The last place that is, is where "
        "to go back to.",
        "0 turns back means that the last turn stands.",
    ),
    meaning="More than half of n on each list: there is always a benign turn to go back to, and "
    "always many that are not, whoever cheats.",
    trials=5,
)
def _turns_back(answer: Answer, seed: int) -> str:
    static, rotational, values = _scored_turns(seed)
    got = number(answer(static, rotational))
    right = values.pop("right")
    compare(
        torch.tensor(got),
        torch.tensor(right),
        {reason: torch.tensor(value) for reason, value in values.items()},
        "the number of turns",
        tolerance=1e-6,
    )
    return f"Of {len(static)} turns, {right:.0f} are undone."


def _scored_turns(seed: int) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Draw two lists of scores such that every mistake gives another number."""
    for attempt in range(5000):
        count = 9 + seed % 4
        stream = seeds.generator(seed, f"turns {attempt}")
        static = torch.rand(count, generator=stream)
        rotational = 0.5 * static + torch.rand(count, generator=stream)
        most = count // 2 + 1
        in_static, in_rotational = _lowest(static, most), _lowest(rotational, most)
        both = in_static & in_rotational

        def back(chosen: Tensor, last: int = count - 1) -> float:
            places = chosen.nonzero()[:, 0]
            return float(last - int(places.max())) if len(places) else -1.0

        values = {
            "right": back(both),
            "You looked at the first list only.": back(in_static),
            "You looked at the second list only.": back(in_rotational),
            "You took the highest scores for benign; a benign turn is *near* the others.": back(
                _lowest(-static, most) & _lowest(-rotational, most)
            ),
            "You went back to the oldest benign turn; the newest is enough.": float(
                count - 1 - int(both.nonzero().min())
            ),
            "That is the place of the newest benign turn; asked is how many turns back it is.": (
                float(int(both.nonzero().max()))
            ),
            "You counted the turn that stands as well: 0 turns back is the last one.": (
                back(both) + 1
            ),
        }
        if len(set(values.values())) == len(values) and min(values.values()) >= 0:
            return static, rotational, values
    raise AssertionError("no scores were found that show every mistake")


def _lowest(scores: Tensor, most: int) -> Tensor:
    chosen = torch.zeros(len(scores), dtype=torch.bool)
    chosen[scores.argsort()[:most]] = True
    return chosen


@task(
    "12.challenge",
    answer="robust",
    title="A little is enough",
    kind="challenge",
    rule="all of sltools",
    minutes=40,
    difficulty=4,
    points=5,
    purpose="aggregate beside cheaters who know your rule and stay within the range of the honest",
    hints=(
        "They want the same thing, so they say nearly the same. How near are two honest clients?",
        "Look at each client's distance to its nearest other one, beside the median of these.",
        "Where nobody cheats nothing stands out, and the mean of all is the best there is.",
    ),
    meaning="Krum takes such a cheater first, for nobody is nearer to its neighbours. Next they "
    "will add noise of their own; it is a game, and the rule that is published moves first.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    errors: dict[bool, list[float]] = {True: [], False: []}
    for place in range(2 * ROUNDS):
        cheated = place % 2 == 0
        states, wanted = _round(seed, place, cheated)
        got = tensor(answer(states), (ENTRIES,), "the layers")
        middle = states.sort(0).values[4:6].mean(0)
        errors[cheated].append(((got - wanted).norm() / (middle - wanted).norm()).item())
    attacked, peaceful = (statistics.median(errors[kind]) for kind in (True, False))
    told = (
        f"with cheaters you are as far from the mean of the honest as {attacked:.0%} of the "
        f"median's way, without as {peaceful:.0%} (medians of {ROUNDS} rounds each)"
    )
    if attacked > 0.5 or peaceful > 1:  # the mean of all has nearly 0.6 with cheaters
        raise Wrong(f"Not clearly better than the median of each weight: {told}.")
    if attacked > 0.4 or peaceful > 0.7:
        raise Wrong(f"Better than the median, not yet twice and a half: {told}.", 0.5)
    return f"{told[0].upper()}{told[1:]}."


def _round(seed: int, place: int, cheated: bool) -> tuple[Tensor, Tensor]:
    """Draw the clients' layers, and the mean of the honest ones.

    The cheaters know mean and deviation of the honest, and go STEP deviations below the mean
    (Baruch and others, NeurIPS 2019).
    """
    stream = seeds.generator(seed, f"round {place}")
    scale = 0.5 + torch.rand(ENTRIES, generator=stream)
    states = torch.randn(CLIENTS, ENTRIES, generator=stream) * scale
    honest = states[COLLUDING:] if cheated else states
    wanted = honest.mean(0)
    if cheated:
        lie = wanted - STEP * honest.std(0)
        own = torch.randn(COLLUDING, ENTRIES, generator=stream)
        states[:COLLUDING] = lie + LOOSE * scale * own
    order = torch.randperm(CLIENTS, generator=stream)
    return states[order], wanted
