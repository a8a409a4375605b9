"""Topic 15: audit clients that nobody has looked at yet, and say what was found, and what not."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch
from scipy.stats import binomtest
from torch import Tensor

from sltools import data, experiments, metrics, seeds
from sltools.checking.task import Answer, Wrong, compare, dictionary, draw, number, task, tensor
from sltools.exercises.challenges import are_public, check_control, median_mse
from sltools.experiments import unseen
from sltools.experiments.unseen import DEFENCES, Unseen
from sltools.messages import Message
from sltools.progress import bar
from sltools.view import View

RIGHT = "right"
RECOVERED, PARTLY = 0.5, 0.9  # of the error of the best guess
WORDS = ("recovered", "partly", "no better", "not tried")


@contextmanager
def _worth(share: float) -> Iterator[None]:
    """What is wrong in this block has earned `share` of the points all the same."""
    try:
        yield
    except Wrong as wrong:
        raise Wrong(wrong.reason, share) from None


@task(
    "15.identified",
    answer="identified",
    title="So many of so many",
    kind="implement",
    rule="write it yourself",
    minutes=20,
    difficulty=2,
    points=4,
    purpose="say how many images are identified, and how sure so few of them make you",
    hints=(
        "Take the mean from each image, flatten it and divide by its norm: one matrix product then "
        "holds all correlations, a row for each reconstruction.",
        "A reconstruction is identified if the greatest entry of its row is its own, on the "
        "diagonal, and above 0.",
        "`scipy.stats.binomtest(right, of).proportion_ci(0.95, method='wilson')` has `.low` and "
        "`.high`.",
    ),
    meaning="Ten of ten is not 100%: the interval says what else ten images allow. It needs no "
    "apology and no asterisk, it stands beside the share.",
)
def _identified(answer: Answer, seed: int) -> str:
    found, truth = _recognised(seed)
    parts = answer(found, truth)
    if not isinstance(parts, list) or len(parts) != 4:
        raise Wrong("Return four numbers: how many are identified, of how many, low and high.")
    got = torch.tensor([number(part) for part in parts])
    count = len(truth)
    counts = {name: _count(name, found, truth) for name in (RIGHT, *COUNT_MISTAKES)}
    compare(
        got[:2],
        torch.tensor([float(counts[RIGHT]), float(count)]),
        {
            reason: torch.tensor([float(counts[name]), float(count)])
            for name, reason in COUNT_MISTAKES.items()
        }
        | {"The first number is how many, not which share.":
           torch.tensor([counts[RIGHT] / count, float(count)])},
        "the count",
        tolerance=1e-6,
    )  # fmt: skip
    ends = {name: _interval(name, counts[RIGHT], count) for name in (RIGHT, *INTERVAL_MISTAKES)}
    with _worth(0.5):
        compare(
            got[2:],
            ends[RIGHT],
            {reason: ends[name] for name, reason in INTERVAL_MISTAKES.items()},
            "the interval",
        )
    low, high = ends[RIGHT].tolist()
    return f"{counts[RIGHT]} of {count} are identified: {low:.0%} to {high:.0%}."


COUNT_MISTAKES = {
    "by error": "You look for the original with the least squared error. A reconstruction that is "
    "too pale or too dark is then taken for the palest or the darkest one; correlate.",
    "not centred": "Take the mean from each image first: without that, any two bright images are "
    "alike.",
    "originals": "You ask for each original which reconstruction is most like it. Somebody holds a "
    "reconstruction, and looks for its owner.",
    "all": "You count all of them.",
    "closer": "You count those that are nearer to the truth than the mean image. Near is not "
    "identified: another original may be nearer.",
}
INTERVAL_MISTAKES = {
    "wald": "That is p ± 1.96 sqrt(p (1 - p) / n), which has no width at all for 10 of 10. Take "
    "Wilson's.",
    "90": "That is the interval of 90%.",
    "exact": "That is Clopper and Pearson's interval, which is wider than it need be; asked for is "
    "Wilson's.",
    "swapped": "The two ends are swapped: the low one first.",
    "counts": "The ends are counts; as shares they are between 0 and 1.",
}


def _count(name: str, found: Tensor, truth: Tensor) -> int:
    """How many are identified, or what comes of a mistake in it."""
    rows, owners = found.flatten(1), truth.flatten(1)
    if name == "all":
        return len(found)
    if name == "closer":
        guess = truth.mean(0).expand_as(truth)
        return int((metrics.mse(found, truth) < metrics.mse(guess, truth)).sum())
    if name != "not centred":
        rows, owners = (some - some.mean(1, keepdim=True) for some in (rows, owners))
    likeness = (rows / rows.norm(dim=1, keepdim=True)) @ (
        owners / owners.norm(dim=1, keepdim=True)
    ).T
    if name == "by error":
        likeness = -torch.cdist(found.flatten(1), truth.flatten(1))
    best = likeness.argmax(0 if name == "originals" else 1)
    return int((best == torch.arange(len(found))).sum())


def _interval(name: str, right: int, of: int) -> Tensor:
    """The interval of a share, or what comes of a mistake in it."""
    level = 0.9 if name == "90" else 0.95
    method = "exact" if name == "exact" else "wilson"
    ends = binomtest(right, of).proportion_ci(level, method=method)
    low, high = float(ends.low), float(ends.high)
    if name == "wald":
        share = right / of
        width = 1.96 * (share * (1 - share) / of) ** 0.5
        low, high = share - width, share + width
    made = torch.tensor([low, high])
    return {"swapped": made.flip(0), "counts": of * made}.get(name, made)


@lru_cache(maxsize=64)  # answers are given copies
def _recognised(seed: int) -> tuple[Tensor, Tensor]:
    """Draw originals, and reconstructions of other contrasts, some of them beyond recognition."""
    digits = data.load("digits").test.images
    for attempt in range(1000):
        draws = seeds.generator(seed, f"recognised {attempt}")
        count = 12 + seed % 7
        truth = digits[torch.randperm(len(digits), generator=draws)[:count], :, ::2, ::2]
        contrast = 0.3 + 0.7 * torch.rand(count, 1, 1, 1, generator=draws)
        noise = torch.randn(truth.shape, generator=draws)
        size = 0.6 * torch.rand(count, 1, 1, 1, generator=draws)
        found = (0.4 * (1 - contrast) + contrast * truth + size * noise).clamp(0, 1)
        counts = [_count(name, found, truth) for name in (RIGHT, *COUNT_MISTAKES)]
        if len(set(counts)) == len(counts) and min(counts) > 1:
            return found, truth
    raise AssertionError("no reconstructions were found that show every mistake")


@task(
    "15.fair_report",
    answer="fair_report",
    title="No attacker got through, says the vendor",
    kind="flaw",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=4,
    purpose="report which attackers succeed, by a criterion that was stated before",
    hints=(
        "An attack that was not tried has `None` for its errors, and has not failed.",
        "Errors are (runs, targets): the median over the targets of each run, then the median of "
        "the runs. Nobody is asked to hope for the worst run.",
        "The guess has to be chosen before the targets are seen: the one with the least median. "
        "The least of all guesses at each target is nobody's guess.",
    ),
    meaning="Three small choices, each of which can be defended, and all of them made in favour of "
    "the one who pays. State the criterion first.",
)
def _fair_report(answer: Answer, seed: int) -> None:
    errors, guesses = _findings(seed)
    returned = dictionary(answer(errors, guesses), list(errors))
    got = {name: _word(returned[name]) for name in errors}
    variants = {
        flaws: _words(errors, guesses, flaws)
        for count in range(4)
        for flaws in combinations(REPORT_FLAWS, count)
    }
    if got == variants[()]:
        return
    for flaws, words in variants.items():
        if got == words:
            told = " ".join(REPORT_FLAWS[flaw] for flaw in flaws)
            raise Wrong(f"{3 - len(flaws)} of three flaws are mended. {told}", 1 - len(flaws) / 3)
    for name, reason in REPORT_MISTAKES.items():
        if got == _words(errors, guesses, (name,)):
            raise Wrong(reason)
    wrong = [name for name in errors if got[name] != variants[()][name]]
    told = "; ".join(f"{name} is {variants[()][name]}, not {got[name]}" for name in wrong)
    raise Wrong(f"By the criterion, {told}.")


REPORT_FLAWS = {
    "untried": "What was not tried still counts as a failure.",
    "unlucky": "Of the runs you still take the worst for the attacker.",
    "unbeatable": "The attacker still competes with the best of all guesses at each target.",
}
REPORT_MISTAKES = {
    "luckiest": "You take the luckiest run: that flatters the attack. Take the median of the runs.",
    "blank": "You compare with the weakest guess, which flatters the attack: take the one with the "
    "least median error.",
    "means": "You take means over the targets; a single target that failed decides those.",
}


def _word(value: Any) -> str:
    if value not in WORDS:
        raise Wrong(f"Say one of {', '.join(map(repr, WORDS))} of each attacker, not {value!r}.")
    return str(value)


def _words(
    errors: Mapping[str, Tensor | None], guesses: Mapping[str, Tensor], flaws: tuple[str, ...]
) -> dict[str, str]:
    """What to say of each attacker, with these flaws and mistakes in it."""
    middle = torch.mean if "means" in flaws else torch.median
    each = [middle(values) for values in guesses.values()]
    bar = max(each) if "blank" in flaws else min(each)
    if "unbeatable" in flaws:
        bar = torch.stack(list(guesses.values())).amin(0).median()
    over_runs: Callable[[Tensor], Tensor] = torch.median
    if "unlucky" in flaws:
        over_runs = torch.amax
    elif "luckiest" in flaws:
        over_runs = torch.amin
    words = {}
    for name, runs in errors.items():
        if runs is None:
            words[name] = "no better" if "untried" in flaws else "not tried"
            continue
        ratio = over_runs(torch.stack([middle(run) for run in runs])) / bar
        words[name] = WORDS[0] if ratio <= RECOVERED else WORDS[1] if ratio <= PARTLY else WORDS[2]
    return words


@lru_cache(maxsize=64)  # answers are given copies
def _findings(seed: int) -> tuple[dict[str, Tensor | None], dict[str, Tensor]]:
    """Draw the errors of attackers, (runs, targets) or None, and those of guesses (targets,)."""
    names = ("clusters", "UnSplit", "FORA", "SDAR", "PCAT", "decoder", "hijacking")
    flaws = [flaw for count in range(4) for flaw in combinations(REPORT_FLAWS, count)]
    for attempt in range(1000):
        draws = seeds.generator(seed, f"findings {attempt}")
        base = 0.03 + 0.05 * torch.rand(9, generator=draws)
        guesses = {
            name: base * (size + 0.9 * torch.rand(9, generator=draws))
            for name, size in (("blank", 1.6), ("mean", 0.7), ("mean of the class", 0.5))
        }
        errors: dict[str, Tensor | None] = {}
        for name in names:
            level = 0.15 + torch.rand(3, 1, generator=draws)
            errors[name] = base * level * (0.4 + 1.2 * torch.rand(3, 9, generator=draws) ** 2)
        errors[names[int(7 * torch.rand((), generator=draws))]] = None
        said = [
            tuple(_words(errors, guesses, flaw).values())
            for flaw in [*flaws, *((name,) for name in REPORT_MISTAKES)]
        ]
        if len(set(said)) == len(said):
            return errors, guesses
    raise AssertionError("no findings were found that show every flaw")


@task(
    "15.defended",
    answer="defence",
    title="What was done to these numbers?",
    kind="implement",
    rule="all of sltools",
    minutes=25,
    difficulty=3,
    points=4,
    purpose="tell from two recordings of the same images whether a defence was at work, and which",
    hints=(
        "Only noise makes the two recordings of one image differ.",
        "What has been rounded has few different values, `first.unique()`; what has been clipped "
        "has many samples of one norm.",
        "Of each sample, top-k keeps the same number of entries that are not 0. After a ReLU many "
        "are 0 in any case, but not the same number in each sample.",
    ),
    meaning="Each of them can be told from a recording, by anybody who reads it: an attacker "
    "rounds, clips and adds noise as well, and goes on.",
    trials=1,
)
def _defended(answer: Answer, seed: int) -> str:
    confused = []
    for place, kind in bar(_kinds(seed), "clients"):
        client = unseen.make(seeds.derive(seed, f"defended {place}") % 2**31, kind, False)
        said = answer(*client.view.payloads("smashed"))
        if said not in DEFENCES:
            raise Wrong(f"Say one of {', '.join(map(repr, DEFENCES))}, not {said!r}.")
        if said != kind:
            confused.append(f"{kind!r} was taken for {said!r}")
    right = len(DEFENCES) - len(confused)
    if confused:
        raise Wrong(f"{right} of {len(DEFENCES)} clients are right: {'; '.join(confused)}.")
    return f"All {right} clients are right, each of a network and a cut of its own."


def _kinds(seed: int) -> list[tuple[int, str]]:
    """Every defence once, in an order that is drawn, each with its place in `DEFENCES`."""
    order = torch.randperm(len(DEFENCES), generator=seeds.generator(seed, "defences")).tolist()
    return [(place, DEFENCES[place]) for place in order]


@task(
    "15.hijacked",
    answer="hijacked",
    title="Was this training steered?",
    kind="implement",
    rule="all of sltools",
    minutes=20,
    difficulty=3,
    points=4,
    purpose="decide from what a client was sent whether its server was honest",
    hints=(
        "An honest gradient knows the label: two samples of one class are pulled alike. A "
        "hijacker's does not; see lesson 09.",
        "Compare the samples of one batch with each other. `sltools.detectors.scrutinizer` has "
        "`similarities` and `gap`.",
        "Take the mean over the batches, and look where honest clients lie: "
        "`unseen.make(seed, hijacked=False)` makes as many as you like.",
    ),
    meaning="The server has the wire and the client has the gradients. Whoever keeps them can tell "
    "afterwards, and without them there is nothing to audit.",
    trials=1,
)
def _hijacked(answer: Answer, seed: int) -> str:
    wrong = []
    steered = torch.randperm(8, generator=seeds.generator(seed, "servers")) < 3
    for place, truth in enumerate(bar(steered.tolist(), "clients")):
        client = unseen.make(seeds.derive(seed, f"server {place}") % 2**31, hijacked=truth)
        said = _truth(answer(client.labels, client.gradients))
        if said is not truth:
            wrong.append("an honest server is accused" if said else "a hijacker is not noticed")
    right = len(steered) - len(wrong)
    if wrong:
        counts = ", ".join(f"{wrong.count(what)} times {what}" for what in sorted(set(wrong)))
        raise Wrong(f"{right} of {len(steered)} clients are right: {counts}.")
    return f"All {right} clients are right."


def _truth(said: Any) -> bool:
    """Return what is said of a server, also as a tensor or an array, or raise Wrong."""
    if isinstance(said, Tensor) and said.dtype == torch.bool and said.numel() == 1:
        return bool(said)
    if not isinstance(said, bool):
        raise Wrong(f"Say True or False of a client, not {said!r}.")
    return said


@task(
    "15.permissions",
    answer="withhold",
    title="Fewer permissions",
    kind="implement",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=3,
    purpose="find the least that has to be withheld so that no attacker who succeeded can go on",
    hints=(
        "An attacker is stopped if one of its needs is withheld. Only those matter that got "
        "through.",
        "There are few things to withhold: try all sets of one, then all of two, and so on, with "
        "`itertools.combinations`.",
        "An attacker of whose needs none can be withheld stops for nothing: then the answer is "
        "None, and the split needs another remedy.",
    ),
    meaning="A contract or a changed role stops an attacker for less than a deeper cut does, if it "
    "is kept. What crosses the wire cannot be withheld, and then there is no such way.",
)
def _permissions(answer: Answer, seed: int) -> str:
    for case in range(3):
        needs, words, possible = _clinic(seed, case)
        least = _least(needs, words, possible)
        said = answer(needs, words, possible)
        if (said is None) != (least is None):
            raise Wrong(
                "You say that nothing helps, where something does."
                if said is None
                else "An attacker who got through needs only what cannot be withheld: say None.",
            )
        if least is None:
            continue
        if not isinstance(said, list) or not all(thing in possible for thing in said):
            raise Wrong("Return a list of things that can be withheld, or None.")
        _check_withheld(set(said), len(least), needs, words)
    return "In three clinics the least that has to be withheld was found."


def _check_withheld(
    said: set[str], least: int, needs: Mapping[str, list[str]], words: Mapping[str, str]
) -> None:
    """Raise Wrong unless `said` stops all who got through, and is no larger than `least`."""
    free = [name for name in needs if words[name] == "recovered" and not said & {*needs[name]}]
    if free and not said:
        raise Wrong("Nothing is withheld, and an attacker got through.")
    if free:
        raise Wrong(f"An attacker who got through is not stopped: {free[0]}.")
    if len(said) > least:
        through = sum(words[name] == "recovered" for name in needs)
        stopped = sum(bool(said & {*needs[name]}) for name in needs)
        aside = ", and others that got nothing" if stopped > through else ""
        raise Wrong(f"That stops all who got through{aside}; fewer than {len(said)} will do.")


NEEDS = ("architecture", "own images", "labels", "server's part", "weights", "training")


def _least(
    needs: Mapping[str, list[str]], words: Mapping[str, str], possible: list[str]
) -> set[str] | None:
    through = [set(needs[name]) for name in needs if words[name] == "recovered"]
    for count in range(len(possible) + 1):
        for chosen in combinations(possible, count):
            if all(needed & {*chosen} for needed in through):
                return set(chosen)
    return None


@lru_cache(maxsize=64)  # answers are given copies
def _clinic(seed: int, case: int) -> tuple[dict[str, list[str]], dict[str, str], list[str]]:
    """Draw what attackers need, what became of them, and what can be withheld.

    In the first two cases something helps, of the least size 2, and every plain rule fails; in the
    third nothing does.
    """
    for attempt in range(5000):
        draws = seeds.generator(seed, f"clinic {case} {attempt}")
        kept = torch.randperm(len(NEEDS), generator=draws)[:4].tolist()
        possible = [NEEDS[place] for place in sorted(kept)]
        needs, words = {}, {}
        for name in ("clusters", "UnSplit", "FORA", "SDAR", "PCAT", "decoder"):
            chosen = torch.rand(len(NEEDS), generator=draws) < 0.4
            needs[name] = [what for what, is_needed in zip(NEEDS, chosen, strict=True) if is_needed]
            words[name] = WORDS[int(3 * torch.rand((), generator=draws))]
        least = _least(needs, words, possible)
        if case == 2 and least is None:
            return needs, words, possible
        everyone = dict.fromkeys(words, "recovered")
        harder = _least(needs, everyone, possible)
        if case < 2 and least and harder and len(least) == 2 < len(harder) < len(possible):
            return needs, words, possible
    raise AssertionError("no clinic was found that shows every mistake")


@task(
    "15.recommend",
    answer="recommend",
    title="What it may cost",
    kind="implement",
    rule="write it yourself",
    minutes=15,
    difficulty=2,
    points=3,
    purpose="choose among cuts and defences by what they leave an attacker, within a budget",
    hints=(
        "First drop what is too dear: bytes, the client's operations, accuracy. Then take the one "
        "that leaves the decoder the largest error.",
        "A share of 57 of 60 is not 95% for sure: compare the lower end of its 95% interval "
        "(Wilson) with what the client asks for.",
        "`max(affordable, key=lambda option: option['decoder_mse'])['name']`, and None if there is "
        "nothing affordable.",
    ),
    meaning="A recommendation names its price. And the decoder's error is what this decoder got: "
    "the largest one is the best known choice, and no promise.",
)
def _recommend(answer: Answer, seed: int) -> str:
    options, budget = _options(seed)
    said = answer(options, budget)
    names = [option["name"] for option in options]
    if said is not None and said not in names:
        raise Wrong(f"Return the name of an option, one of {', '.join(map(repr, names))}, or None.")
    chosen = {name: _choice(name, options, budget) for name in (RIGHT, *CHOICE_MISTAKES)}
    if said == chosen[RIGHT]:
        _check_nothing(answer, options, budget)
        return f"{said!r} is the best known choice within the budget."
    for name, reason in CHOICE_MISTAKES.items():
        if said == chosen[name]:
            raise Wrong(reason)
    raise Wrong(f"{said!r} is not the best within the budget.")


def _check_nothing(answer: Answer, options: list[dict[str, Any]], budget: dict[str, float]) -> None:
    if answer(options, budget | {"bytes": 1}) is not None:
        raise Wrong("Where nothing is within the budget, say None.", 0.5)


CHOICE_MISTAKES = {
    "point": "The accuracy of that option is only its share of the held-out samples; the lower end "
    "of its interval is below what the client asks for.",
    "no accuracy": "That is within bytes and operations, and not accurate enough.",
    "no operations": "The client cannot compute that much.",
    "no bytes": "That sends more bytes than there may be.",
    "least": "That leaves the decoder the smallest error: it protects least.",
    "cheapest": "That sends the fewest bytes within the budget; asked for is what leaves the "
    "decoder the largest error.",
    "most accurate": "That is the most accurate within the budget; asked for is what leaves the "
    "decoder the largest error.",
    "second": "That is within the budget, and another one within it protects better.",
}


def _choice(name: str, options: list[dict[str, Any]], budget: dict[str, float]) -> str | None:
    """The option to choose, or the one chosen by a mistake."""

    def accurate(option: dict[str, Any]) -> bool:
        right, of = option["accuracy"]
        low = binomtest(right, of).proportion_ci(0.95, method="wilson").low
        return bool((right / of if name == "point" else low) >= budget["accuracy"])

    within = [
        option
        for option in options
        if (name == "no accuracy" or accurate(option))
        and (name == "no bytes" or option["bytes"] <= budget["bytes"])
        and (name == "no operations" or option["operations"] <= budget["operations"])
    ]
    if not within:
        return None
    orders = {
        "least": lambda option: -option["decoder_mse"],
        "cheapest": lambda option: -option["bytes"],
        "most accurate": lambda option: option["accuracy"][0] / option["accuracy"][1],
    }
    within.sort(key=orders.get(name, lambda option: option["decoder_mse"]))
    return str(within[-2 if name == "second" and len(within) > 1 else -1]["name"])


@lru_cache(maxsize=64)  # answers are given copies
def _options(seed: int) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Draw cuts and defences with their prices, and a budget for which every mistake shows."""
    draws = seeds.generator(seed, "options")
    names = [OPTIONS[place] for place in torch.randperm(len(OPTIONS), generator=draws).tolist()]
    luck = torch.rand(len(ROLES), 4, generator=draws)
    options = []
    for name, (accuracy, cost, work, error), chance in zip(
        names, ROLES.values(), luck.tolist(), strict=True
    ):
        options.append(
            {
                "name": name,
                "accuracy": (accuracy + int(3 * chance[0]), 200),
                "bytes": cost + int(300 * chance[1]),
                "operations": work + int(20_000 * chance[2]),
                "decoder_mse": round(error + 0.001 * chance[3], 5),
            }
        )
    order = torch.randperm(len(options), generator=draws).tolist()
    budget = {"accuracy": 0.85, "bytes": 4000, "operations": 250_000}
    return [options[place] for place in order], budget


OPTIONS = (
    "cut after conv1", "cut after conv2", "cut after fc1", "noise 0.5", "noise 1", "2 bits",
    "1 bit", "top 25%", "top 5%", "clipped to 0.5",
)  # fmt: skip
# For each mistake the option that it leads to: right of 200, bytes, operations, error.
ROLES = {
    RIGHT: (186, 3000, 150_000, 0.020),
    "second": (187, 2800, 100_000, 0.016),
    "point": (172, 3100, 160_000, 0.024),
    "no accuracy": (120, 2500, 120_000, 0.032),
    "no operations": (190, 3200, 300_000, 0.030),
    "no bytes": (188, 5000, 140_000, 0.028),
    "least": (189, 3300, 80_000, 0.003),
    "cheapest": (185, 900, 170_000, 0.010),
    "most accurate": (195, 3500, 60_000, 0.006),
    "dear": (150, 6000, 400_000, 0.012),
}


@task(
    "15.challenge",
    answer="threat_card",
    title="One hour with a client that nobody knows",
    kind="challenge",
    rule="all of sltools",
    minutes=60,
    difficulty=5,
    points=8,
    purpose="audit unseen clients: defence, server, labels, images, and how sure you are of them",
    hints=(
        "Your answers to `15.defended` and `15.hijacked` are two fifths of it.",
        "You hold the client's weights: let it send your own images, do to them what the defence "
        "does, and fit a decoder to the pairs. "
        "`sltools.attacks.regression.fitted_decoder(z, images, ridge=3e-4, seed=0)` is one. Your "
        "images have labels, so the same activations teach a classifier.",
        "Nobody gives you the private images, so try your decoder on images of your own that it "
        "was not fitted to: their median error is your estimate.",
    ),
    meaning="A threat card of a client you had never seen, with facts on it that somebody else can "
    "check. What remains is to say it in plain words, and to say what you did not try.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    clients = _clients(seed)
    cards = []
    for client in clients:
        cards.append(_card(answer, client, client.view))
    _check_images(answer, clients[0], cards[0])
    told, earned = [], 0
    for fact, judge in FACTS.items():
        faults = [judge(card, client) for card, client in zip(cards, clients, strict=True)]
        earned += not any(faults)
        told += [f"{fact}: {fault}" for fault in faults if fault][:1]
    if told:
        share = earned / len(FACTS)
        raise Wrong(
            f"{earned} of {len(FACTS)} facts hold for all clients. {'; '.join(told)}.", share
        )
    ratios = [
        _image_ratio(card["images"], client) for card, client in zip(cards, clients, strict=True)
    ]
    return "The images' errors, divided by those of the mean of the class: " + ", ".join(
        f"{ratio:.2f}" for ratio in ratios
    )


LABELS_LOST, ESTIMATE = 0.1, 1.5  # of labels, and the factor that an estimate may be off


def _card(answer: Answer, client: Unseen, view: View) -> dict[str, Any]:
    """What the answer says of a client, checked for its form."""
    returned = answer(view, client.own.images, client.own.labels, client.labels, client.gradients)
    card = dictionary(returned, list(FACTS))
    count = len(client.private)
    card["labels"] = tensor(card["labels"], (count,), "the labels")
    card["images"] = tensor(card["images"], client.private.images.shape, "the images")
    card["error"] = number(card["error"], "the error")
    card["hijacked"] = _truth(card["hijacked"])
    return card


def _check_images(answer: Answer, client: Unseen, card: dict[str, Any]) -> None:
    """Raise Wrong if the images do not come from the activations, or are the auditor's own."""
    truth = client.private.images
    turned = _card(answer, client, _turned(client))
    mean = median_mse(client.own.images.mean(0).expand_as(truth), truth)
    if are_public(card["images"], client.own.images):
        raise Wrong("Each of your images is one of the auditor's own.")
    check_control(turned["images"], card["images"], truth, mean, "smashed data")


def _turned(client: Unseen) -> View:
    """The same view with the activations of the next image in the place of each."""
    view = client.view.fresh()
    messages = [
        Message(step, step, "smashed", payload.roll(1, 0), "inference")
        for step, payload in enumerate(view.payloads("smashed"))
    ]
    grants = {"client_model": view.client_model}
    return View("server", messages, view.architecture, None, None, grants)


# Each fact of a card: what is wrong with it, or "".


def _defence_fact(card: dict[str, Any], client: Unseen) -> str:
    said = card["defence"]
    return "" if said == client.defence else f"{client.defence!r} was taken for {said!r}"


def _server_fact(card: dict[str, Any], client: Unseen) -> str:
    if card["hijacked"] is client.hijacked:
        return ""
    return "a hijacker was not noticed" if client.hijacked else "an honest server is accused"


def _labels_fact(card: dict[str, Any], client: Unseen) -> str:
    truth, sent = client.private.labels, client.view.fresh().payloads("smashed")
    with torch.no_grad():
        said = client.server(torch.stack(sent).mean(0)).argmax(1)
    server, share = ((some == truth).double().mean().item() for some in (said, card["labels"]))
    if share >= server - LABELS_LOST:
        return ""
    return f"{share:.0%} are right, where the server's own part has {server:.0%}"


def _image_ratio(images: Tensor, client: Unseen) -> float:
    """The median error of reconstructions, divided by that of the mean of the right class."""
    truth = client.private
    guess = experiments.class_means(client.own, truth.labels)
    return median_mse(images, truth.images) / median_mse(guess, truth.images)


def _images_fact(card: dict[str, Any], client: Unseen) -> str:
    ratio = _image_ratio(card["images"], client)
    if ratio <= RECOVERED:
        return ""
    return f"{ratio:.2f} of the error of the mean of the class, where {RECOVERED} is asked for"


def _error_fact(card: dict[str, Any], client: Unseen) -> str:
    error = median_mse(card["images"], client.private.images)
    if error / ESTIMATE <= card["error"] <= error * ESTIMATE:
        return ""
    return f"you say {card['error']:.4f}, and the median error of your images is {error:.4f}"


FACTS = {
    "defence": _defence_fact,
    "hijacked": _server_fact,
    "labels": _labels_fact,
    "images": _images_fact,
    "error": _error_fact,
}


READABLE = ("none", "top-k", "clipped")


@lru_cache(maxsize=2)
def _clients(seed: int) -> list[Unseen]:
    """Three clients of different defences, of whom one or two were steered.

    One of a `READABLE` defence was and another was not, so that no defence tells the server. Of
    noise and rounding none was: a hijacker blows some activations up, and relative to these, noise
    and levels are so coarse that a decoder may be no better than the mean of the class.
    """
    order, chance = _kinds(seed), draw(seed, 3).tolist()
    first, second, *others = sorted(order, key=lambda kind: kind[1] not in READABLE)
    third = others[int(len(others) * chance[0])]
    steered = {first if chance[1] < 0.5 else second}
    if third[1] in READABLE and chance[2] < 0.5:
        steered.add(third)
    return [
        unseen.make(seeds.derive(seed, f"client {place}") % 2**31, kind, (place, kind) in steered)
        for place, kind in bar(order, "clients")
        if (place, kind) in {first, second, third}
    ]
