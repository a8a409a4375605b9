"""Answers to the tasks of topic 15."""

import itertools
import statistics

import numpy as np
import torch
from scipy.stats import binomtest, norm

from sltools import data
from sltools.attacks.regression import fitted_decoder
from sltools.detectors.scrutinizer import gap, similarities
from sltools.experiments import class_means
from tests.bank import Proof


def _wilson(right, of, level=0.95):
    z = norm.ppf(0.5 + level / 2)
    middle = (right + z**2 / 2) / (of + z**2)
    width = z / (of + z**2) * (right * (of - right) / of + z**2 / 4) ** 0.5
    return middle - width, middle + width


def _correlations(found, truth):
    rows, owners = found.flatten(1).numpy(), truth.flatten(1).numpy()
    return np.corrcoef(rows, owners)[: len(rows), len(rows) :]


def identified_in_numpy(found, truth):
    likeness = _correlations(found, truth)
    right = int((likeness.argmax(1) == np.arange(len(found))).sum())
    return [right, len(found), *_wilson(right, len(found))]


def identified_by_loop(found, truth):
    right = 0
    for place, image in enumerate(found):
        likeness = [
            torch.corrcoef(torch.stack([image.flatten(), other.flatten()]))[0, 1] for other in truth
        ]
        right += likeness.index(max(likeness)) == place
    ends = binomtest(right, len(truth)).proportion_ci(method="wilson")
    return right, len(truth), ends.low, ends.high


def identified_as_tensors(found, truth):
    return [torch.tensor(float(part)) for part in identified_in_numpy(found, truth)]


def _identified(count=None, interval=None, returned=None):
    """Identify, with one thing wrong."""

    def identified(found, truth):
        right, of, low, high = identified_in_numpy(found, truth)
        right = count(found, truth) if count else right
        low, high = interval(right, of) if interval else (low, high)
        return returned(right, of, low, high) if returned else (right, of, low, high)

    return identified


def _own(best):
    return int((best == torch.arange(len(best))).sum())


def _by_error(found, truth):
    return _own(torch.cdist(found.flatten(1), truth.flatten(1)).argmin(1))


def _by_cosine(found, truth):
    rows, owners = (torch.nn.functional.normalize(some.flatten(1)) for some in (found, truth))
    return _own((rows @ owners.T).argmax(1))


def _by_original(found, truth):
    return _own(torch.from_numpy(_correlations(found, truth).argmax(0)))


def _closer(found, truth):
    guess = (truth.mean(0) - truth).square().mean((1, 2, 3))
    return int(((found - truth).square().mean((1, 2, 3)) < guess).sum())


def _wald(right, of):
    share = right / of
    width = 1.96 * (share * (1 - share) / of) ** 0.5
    return share - width, share + width


def _exact(right, of):
    ends = binomtest(right, of).proportion_ci(method="exact")
    return ends.low, ends.high


def _report(flaws=(), tried="not tried", middle=statistics.median, bar=None, runs=None):
    """Write a report with these flaws of the vendor's, or others."""

    def fair_report(errors, guesses):
        each = [middle(values.tolist()) for values in guesses.values()]
        known = bar(each) if bar else min(each)
        if "unbeatable" in flaws:
            known = torch.stack(list(guesses.values())).amin(0).median().item()
        over = max if "unlucky" in flaws else runs or statistics.median
        words = {}
        for attacker, found in errors.items():
            if found is None:
                words[attacker] = "no better" if "untried" in flaws else tried
            else:
                ratio = over([middle(run) for run in found.tolist()]) / known
                words[attacker] = ("recovered", "partly", "no better")[
                    (ratio > 0.5) + (ratio > 0.9)
                ]
        return words

    return fair_report


def report_in_numpy(errors, guesses):
    bar = np.median(np.stack([g.numpy() for g in guesses.values()]), axis=1).min()

    def word(runs):
        share = np.median(np.median(runs.numpy(), axis=1)) / bar
        return "recovered" if share <= 0.5 else "partly" if share <= 0.9 else "no better"

    return {n: "not tried" if runs is None else word(runs) for n, runs in errors.items()}


def report_by_sorting(errors, guesses):
    def median(values):
        return sorted(values)[len(values) // 2]

    bar = min(median(guess.tolist()) for guess in guesses.values())
    limits = ((0.5, "recovered"), (0.9, "partly"), (float("inf"), "no better"))
    words = dict.fromkeys(errors, "not tried")
    for name, runs in errors.items():
        if runs is not None:
            share = median([median(run) for run in runs.tolist()]) / bar
            words[name] = next(word for limit, word in limits if share <= limit)
    return words


def defence_by_counts(first, second):
    """The same signs, looked at in another order."""
    flat = first.flatten(1)
    sent = (flat != 0).sum(1)
    if not torch.equal(first, second):
        return "noise"
    if len(sent.unique()) == 1 and int(sent[0]) < flat.shape[1]:
        return "top-k"
    if len(np.unique(first.numpy())) < 20:
        return "quantised"
    norms = flat.norm(dim=1)
    return "clipped" if torch.isclose(norms, norms.max()).sum() > len(norms) / 2 else "none"


def defence_by_medians(first, second):
    if (first - second).abs().max() > 0:
        return "noise"
    if first.unique().numel() <= 16:
        return "quantised"
    counts = [int(row.count_nonzero()) for row in first.flatten(1)]
    if max(counts) == min(counts) < first[0].numel():
        return "top-k"
    norms = first.flatten(1).norm(dim=1)
    return "clipped" if norms.median() > 0.999 * norms.max() else "none"


def defence_in_numpy(first, second):
    z, again = first.flatten(1).numpy(), second.flatten(1).numpy()
    norms = np.sqrt((z**2).sum(1))
    signs = {
        "noise": bool((z != again).any()),
        "quantised": len(np.unique(z)) <= 16,
        "top-k": np.ptp((z != 0).sum(1)) == 0 and bool((z == 0).any()),
        "clipped": float(np.quantile(norms, 0.5)) > 0.9995 * norms.max(),
        "none": True,
    }
    return next(kind for kind, found in signs.items() if found)


def _without(*kinds, instead="none"):
    """Know all defences but these."""

    def defence(first, second):
        kind = defence_by_counts(first, second)
        return instead if kind in kinds else kind

    return defence


def defence_by_zeros(first, second):
    kind = defence_by_counts(first, second)
    return "top-k" if kind == "none" and (first == 0).double().mean() > 0.001 else kind


def defence_by_sign(first, second):
    """Take negative values for noise, which is right after a ReLU only."""
    return "noise" if (first < 0).any() else defence_by_counts(first, second)


def hijacked_by_gap(labels, gradients):
    found = [
        gap(similarities(sent, asked))
        for asked, sent in zip(labels.split(64), gradients.split(64), strict=True)
    ]
    return statistics.median(found) < 0.12


def hijacked_by_cosines(labels, gradients):
    rows = torch.nn.functional.normalize(gradients.flatten(1))[-256:]
    asked = labels[-256:]
    alike = rows @ rows.T
    same = asked[:, None] == asked
    others = ~torch.eye(len(rows), dtype=torch.bool)
    return bool(alike[same & others].mean() - alike[~same].mean() < 0.15)


def hijacked_by_detector(labels, gradients):
    from sltools.detectors import LabelGap

    detector = LabelGap(window=10)
    for asked, sent in zip(labels.split(64), gradients.split(64), strict=True):
        detector.watch(asked, sent, torch.zeros(1), probe=False)
    return detector.scores[-1] > 0.9


def hijacked_at_first_sight(labels, gradients):
    return bool(gradients[:64].flatten(1).norm(dim=1).mean() > 1e9)


def hijacked_the_other_way(labels, gradients):
    return not hijacked_by_gap(labels, gradients)


def hijacked_as_text(labels, gradients):
    return "yes" if hijacked_by_gap(labels, gradients) else "no"


def hijacked_always(labels, gradients):
    return True


def hijacked_by_a_probability(labels, gradients):
    return float(hijacked_by_gap(labels, gradients))


def withhold_by_bits(needs, words, possible):
    through = [set(needs[name]) for name in needs if words[name] == "recovered"]
    works = [
        [what for place, what in enumerate(possible) if number >> place & 1]
        for number in range(2 ** len(possible))
    ]
    works = [some for some in works if all(needed & set(some) for needed in through)]
    return min(works, key=len) if works else None


def withhold_by_product(needs, words, possible):
    through = [
        [what for what in needs[name] if what in possible]
        for name in needs
        if words[name] == "recovered"
    ]
    found = [set(choice) for choice in itertools.product(*through)]
    return sorted(min(found, key=len)) if found else None


def withhold_by_growing(needs, words, possible):
    through = [set(needs[n]) & set(possible) for n, w in words.items() if w == "recovered"]
    sets = [frozenset()]
    while sets:
        for chosen in sets:
            if all(chosen & needed for needed in through):
                return list(chosen)
        sets = list({some | {what} for some in sets for what in possible if what not in some})
    return None


def withhold_everything(needs, words, possible):
    return None if withhold_by_bits(needs, words, possible) is None else possible


def withhold_from_all(needs, words, possible):
    """Stop also those who got nothing."""
    everyone = dict.fromkeys(words, "recovered")
    found = withhold_by_bits(needs, everyone, possible)
    return found if found is not None else withhold_everything(needs, words, possible)


def withhold_most_needed(needs, words, possible):
    counts = [sum(what in needed for needed in needs.values()) for what in possible]
    return [possible[counts.index(max(counts))]]


def withhold_nothing(needs, words, possible):
    return []


def withhold_never(needs, words, possible):
    return None


def withhold_always_something(needs, words, possible):
    found = withhold_by_bits(needs, words, possible)
    return possible if found is None else found


def withhold_names(needs, words, possible):
    return [name for name, word in words.items() if word == "recovered"]


def _is_accurate(option, budget):
    return _wilson(*option["accuracy"])[0] >= budget["accuracy"]


def _choose(keep=None, order=None, empty=None, point=False, place=-1):
    """Recommend, with one thing wrong; `keep` are the prices that are looked at."""

    def recommend(options, budget):
        prices = ("accuracy", "bytes", "operations") if keep is None else keep
        within = []
        for option in options:
            right, of = option["accuracy"]
            accurate = right / of >= budget["accuracy"] if point else _is_accurate(option, budget)
            checks = {
                "accuracy": accurate,
                "bytes": option["bytes"] <= budget["bytes"],
                "operations": option["operations"] <= budget["operations"],
            }
            if all(checks[price] for price in prices):
                within.append(option)
        if not within:
            return empty and empty(options)
        within.sort(key=order or (lambda option: option["decoder_mse"]))
        return within[place]["name"]

    return recommend


def recommend_by_loop(options, budget):
    best, error = None, -1.0
    for option in options:
        if option["bytes"] > budget["bytes"] or option["operations"] > budget["operations"]:
            continue
        if _is_accurate(option, budget) and option["decoder_mse"] > error:
            best, error = option["name"], option["decoder_mse"]
    return best


def recommend_in_numpy(options, budget):
    errors = np.array([option["decoder_mse"] for option in options])
    for place in np.argsort(-errors):
        option = options[place]
        dear = [price for price in ("bytes", "operations") if option[price] > budget[price]]
        if not dear and _is_accurate(option, budget):
            return option["name"]
    return None


def _always(options):
    return options[0]["name"]


def _imitated(kind, first, second, z):
    if kind == "noise":
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(1))
        return z + (first - second).std() / 2 * noise
    if kind == "quantised":
        levels = first.unique()
        return levels[(z[..., None] - levels).abs().argmin(-1)]
    if kind == "top-k":
        flat = z.flatten(1)
        least = flat.abs().kthvalue(flat.shape[1] - int((first[0] != 0).sum()) + 1, dim=1).values
        return (flat * (flat.abs() >= least[:, None])).view_as(z)
    if kind == "clipped":
        norms = z.flatten(1).norm(dim=1).clamp_min(1e-9)
        factor = (first.flatten(1).norm(dim=1).max() / norms).clamp(max=1)
        return (z.flatten(1) * factor[:, None]).view_as(z)
    return z


def _card(tell=defence_by_counts, told=hijacked_by_gap, ridge=3e-4, split=0.8, **changes):
    """Fill in a card; `changes` replace a fact by what a function makes of all there is."""

    def threat_card(view, images, labels, asked, gradients):
        first, second = view.payloads("smashed")
        sent, kind = (first + second) / 2, tell(first, second)
        with torch.no_grad():
            own = _imitated(kind, first, second, view.client_model.eval()(images))
        cut = int(split * len(images))
        trial = fitted_decoder(own[:cut], images[:cut], ridge=ridge, seed=1)
        errors = (trial(own[cut:]) - images[cut:]).square().mean((1, 2, 3))
        card = {
            "defence": kind,
            "hijacked": told(asked, gradients),
            "labels": _labels_by_probe(own, labels, sent),
            "images": fitted_decoder(own, images, ridge=ridge, seed=1)(sent),
            "error": errors.median().item(),
        }
        for fact, change in changes.items():
            card[fact] = change(card, view, images, labels)
        return card

    return threat_card


def _means_of_classes(card, view, images, labels):
    return class_means(data.Split(images, labels), card["labels"])


def _nearest_own(card, view, images, labels):
    with torch.no_grad():
        known = view.client_model.eval()(images).flatten(1)
    return images[torch.cdist(view.payloads("smashed")[0].flatten(1), known).argmin(1)]


def _error_of_the_fit(card, view, images, labels):
    """The error of a decoder on the images that it was fitted to."""
    with torch.no_grad():
        own = view.client_model.eval()(images)
    decoder = fitted_decoder(own, images, ridge=1e-6, seed=0)
    return (decoder(own) - images).square().mean((1, 2, 3)).median().item()


def _labels_by_groups(card, view, images, labels):
    from sklearn.cluster import KMeans

    flat = view.payloads("smashed")[0].flatten(1).numpy()
    return torch.from_numpy(KMeans(10, n_init=3, random_state=0).fit_predict(flat)).long()


def _labels_by_probe(own, labels, sent):
    """By a linear classifier of one's own, taught on the auditor's images."""
    from sklearn.linear_model import RidgeClassifier

    scale = own.std()
    probe = RidgeClassifier(alpha=100).fit((own / scale).flatten(1).numpy(), labels.numpy())
    return torch.from_numpy(probe.predict((sent / scale).flatten(1).numpy()))


def card_with_an_unknown_fact(view, images, labels, asked, gradients):
    return _card()(view, images, labels, asked, gradients) | {"safe": True}


PROOFS = {
    "15.identified": Proof(
        {
            "finds the original by its squared error": _identified(_by_error),
            "correlates without taking the mean out": _identified(_by_cosine),
            "looks from each original": _identified(_by_original),
            "counts all": _identified(lambda found, truth: len(found)),
            "counts what is nearer than the mean image": _identified(_closer),
            "gives the share for the count": _identified(
                returned=lambda right, of, low, high: (right / of, of, low, high)
            ),
            "takes the normal interval": _identified(interval=_wald),
            "takes 90%": _identified(interval=lambda right, of: _wilson(right, of, 0.9)),
            "takes the exact interval": _identified(interval=_exact),
            "swaps the ends": _identified(interval=lambda *share: _wilson(*share)[::-1]),
            "gives the ends as counts": _identified(
                interval=lambda right, of: [of * end for end in _wilson(right, of)]
            ),
            "gives the count alone": _identified(returned=lambda *parts: parts[0]),
        },
        [identified_in_numpy, identified_by_loop, identified_as_tensors],
    ),
    "15.fair_report": Proof(
        {
            "mends nothing": _report(("untried", "unlucky", "unbeatable")),
            "mends what was not tried": _report(("unlucky", "unbeatable")),
            "mends the runs": _report(("untried", "unbeatable")),
            "mends the guess": _report(("untried", "unlucky")),
            "leaves what was not tried": _report(("untried",)),
            "leaves the runs": _report(("unlucky",)),
            "leaves the guess": _report(("unbeatable",)),
            "takes the luckiest run": _report(runs=min),
            "compares with the weakest guess": _report(bar=max),
            "takes means over the targets": _report(middle=statistics.mean),
            "leaves None": _report(tried=None),
        },
        [_report(), report_in_numpy, report_by_sorting],
    ),
    "15.defended": Proof(
        {
            "always says none": lambda first, second: "none",
            "knows noise only": _without("quantised", "top-k", "clipped"),
            "does not know noise": _without("noise"),
            "does not know rounding": _without("quantised"),
            "does not know top-k": _without("top-k"),
            "does not know clipping": _without("clipped"),
            "takes rounding for noise": _without("quantised", instead="noise"),
            "calls it by another name": _without("top-k", instead="sparse"),
        },
        [defence_by_counts, defence_by_medians, defence_in_numpy],
        seeds=range(5000, 5020),  # each trains five clients
    ),
    "15.hijacked": Proof(
        {
            "accuses nobody": hijacked_at_first_sight,
            "accuses everybody": hijacked_always,
            "has it the other way round": hijacked_the_other_way,
            "says yes or no": hijacked_as_text,
            "gives a probability": hijacked_by_a_probability,
        },
        [hijacked_by_gap, hijacked_by_cosines, hijacked_by_detector],
        seeds=range(5000, 5020),  # each trains eight clients
    ),
    "15.permissions": Proof(
        {
            "withholds everything": withhold_everything,
            "stops also who got nothing": withhold_from_all,
            "withholds what is needed most": withhold_most_needed,
            "withholds nothing": withhold_nothing,
            "says that nothing helps": withhold_never,
            "withholds where nothing helps": withhold_always_something,
            "names the attackers": withhold_names,
        },
        [withhold_by_bits, withhold_by_product, withhold_by_growing],
    ),
    "15.recommend": Proof(
        {
            "believes the share": _choose(point=True),
            "forgets the accuracy": _choose(keep=("bytes", "operations")),
            "forgets the operations": _choose(keep=("accuracy", "bytes")),
            "forgets the bytes": _choose(keep=("accuracy", "operations")),
            "takes the least error": _choose(place=0),
            "takes the cheapest": _choose(order=lambda option: option["bytes"], place=0),
            "takes the most accurate": _choose(order=lambda option: option["accuracy"][0]),
            "takes the second best": _choose(place=-2),
            "says something where nothing fits": _choose(empty=_always),
            "returns the option": lambda options, budget: options[0]["decoder_mse"],
        },
        [_choose(), recommend_by_loop, recommend_in_numpy],
    ),
    "15.challenge": Proof(
        {
            "looks for no defence": _card(tell=lambda first, second: "none"),
            "accuses nobody": _card(told=lambda asked, gradients: False),
            "gives the mean of the class": _card(images=_means_of_classes),
            "looks the images up": _card(images=_nearest_own),
            "tries the decoder on what it was fitted to": _card(error=_error_of_the_fit),
            "gives groups for labels": _card(labels=_labels_by_groups),
            "smooths too much": _card(ridge=3e-2),
            "adds a verdict": card_with_an_unknown_fact,
        },
        [_card(), _card(ridge=1e-4), _card(split=0.75)],
        seeds=range(7000, 7003),  # as the wrong answers
    ),
}
