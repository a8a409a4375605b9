"""Answers to the tasks of topic 12."""

import math
from itertools import count as counted

import numpy as np
import torch

from tests.bank import Proof


def _poison(
    rows=None, margin=1, channels=None, add=False, upper=False, relabel=True, all_labels=False
):
    """Poison with one thing wrong."""

    def poison(images, labels, given, patch, target):
        chosen = torch.arange(len(images)) if rows == "all" else given
        images, labels = images.clone(), labels.clone()
        side, (height, width) = len(patch), images.shape[2:]
        top, left = height - side - margin, width - side - margin
        if upper:
            top = left = 1
        for row in chosen.tolist() if rows != "none" else []:
            for channel in range(channels or images.shape[1]):
                window = images[row, channel, top : top + side, left : left + side]
                window.copy_(window + patch if add else patch)
        if relabel:
            labels[given] = target
        return images, torch.full_like(labels, target) if all_labels else labels

    return poison


def poison_by_where(images, labels, rows, patch, target):
    side = len(patch)
    canvas, mask = torch.zeros(images.shape[2:]), torch.zeros(images.shape[2:])
    canvas[-side - 1 : -1, -side - 1 : -1], mask[-side - 1 : -1, -side - 1 : -1] = patch, 1
    chosen = torch.isin(torch.arange(len(images)), rows)
    stamped = torch.where(chosen[:, None, None, None] & mask.bool(), canvas, images)
    return stamped, torch.where(chosen, target, labels)


def poison_in_numpy(images, labels, rows, patch, target):
    pixels, names, side = images.numpy().copy(), labels.numpy().copy(), len(patch)
    for row in rows.tolist():
        pixels[row, :, -(side + 1) : -1, -(side + 1) : -1] = patch.numpy()
        names[row] = target
    return torch.from_numpy(pixels), torch.from_numpy(names)


def _success(change=lambda shares: shares, count="others", clean_count=None):
    """Count with one thing wrong."""

    def share(logits, labels, target, which):
        hit, others = logits.argmax(1) == target, labels != target
        if which == "all":
            return hit.float().mean()
        if which == "diluted":
            return (hit & others).float().mean()
        if which == "mistakes":
            return (logits.argmax(1) != labels)[others].float().mean()
        return hit[others].float().mean()

    def fair_success(attacked, clean, labels, target):
        kinds = (count, clean_count or count)
        shares = [
            share(logits, labels, target, kind).item()
            for logits, kind in zip((attacked, clean), kinds, strict=True)
        ]
        return change(shares)

    return fair_success


def success_by_loop(attacked, clean, labels, target):
    found = []
    for logits in (attacked, clean):
        rows = [row for row, label in zip(logits, labels.tolist(), strict=True) if label != target]
        found.append(sum(int(row.argmax()) == target for row in rows) / len(rows))
    return found


def success_in_numpy(attacked, clean, labels, target):
    others = labels.numpy() != target
    return [
        float(np.mean(np.argmax(logits.numpy()[others], 1) == target))
        for logits in (attacked, clean)
    ]


def copies_by_search(clients, cheaters, share):
    return next(
        c for c in counted(1) if cheaters * c >= share * (cheaters * c + clients - cheaters)
    )


def copies_in_numpy(clients, cheaters, share):
    return float(np.ceil(share / (1 - share) * (clients - cheaters) / cheaters))


def copies_by_odds(clients, cheaters, share):
    odds = share / (1 - share)
    return -int(-(odds * (clients - cheaters) / cheaters) // 1)


def _krum(first=1, extra=0, squares=True, change=lambda scores, near: scores, farthest=False):
    """Score with one thing wrong."""

    def krum_scores(vectors, malicious):
        near = len(vectors) - malicious - 2
        ordered = (vectors[:, None] - vectors[None]).norm(dim=2).sort(1, descending=farthest).values
        chosen = ordered[:, :near] if farthest else ordered[:, first : near + 1 + extra]
        if first == 0:
            chosen = ordered[:, :near]
        return change((chosen.square() if squares else chosen).sum(1), near)

    return krum_scores


def krum_by_loop(vectors, malicious):
    scores = []
    for me, mine in enumerate(vectors):
        apart = sorted(
            float((mine - other).square().sum()) for it, other in enumerate(vectors) if it != me
        )
        scores.append(sum(apart[: len(vectors) - malicious - 2]))
    return torch.tensor(scores)


def krum_by_topk(vectors, malicious):
    apart = torch.cdist(vectors.double(), vectors.double()).square()
    apart.fill_diagonal_(float("inf"))
    return apart.topk(len(vectors) - malicious - 2, largest=False).values.sum(1)


def krum_by_gram(vectors, malicious):
    v = vectors.double()
    norms = v.square().sum(1)
    apart = norms[:, None] + norms[None] - 2 * v @ v.T
    return apart.sort(1).values[:, 1 : len(v) - malicious - 1].sum(1)


def _trim(choose):
    return lambda states, trim: choose(states, states.sort(0).values, trim, len(states))


def trim_by_scipy(states, trim):
    from scipy.stats import trim_mean

    return torch.from_numpy(trim_mean(states.numpy(), (trim + 0.5) / len(states), axis=0))


def trim_by_topk(states, trim):
    ends = [states.topk(trim, dim=0, largest=largest).values.sum(0) for largest in (True, False)]
    return (states.sum(0) - ends[0] - ends[1]) / (len(states) - 2 * trim)


def trim_by_column(states, trim):
    columns = [sorted(column)[trim : len(states) - trim] for column in states.T.tolist()]
    return [sum(column) / len(column) for column in columns]


def _back(combine=lambda a, b: a & b, sign=1, newest=max, change=lambda place, n: n - 1 - place):
    """Go back with one thing wrong."""

    def turns_back(static, rotational):
        n = len(static)
        low = [set((sign * s).argsort()[: n // 2 + 1].tolist()) for s in (static, rotational)]
        return change(newest(combine(*low)), n)

    return turns_back


def back_by_ranks(static, rotational):
    most = len(static) // 2 + 1
    ranks = [s.argsort().argsort() for s in (static, rotational)]
    benign = (ranks[0] < most) & (ranks[1] < most)
    return int(benign.flip(0).int().argmax())


def back_by_loop(static, rotational):
    n = len(static)
    limits = [sorted(s.tolist())[n // 2] for s in (static, rotational)]
    for back in range(n):
        if static[n - 1 - back] <= limits[0] and rotational[n - 1 - back] <= limits[1]:
            return back
    return None


def back_in_numpy(static, rotational):
    a, b = static.numpy(), rotational.numpy()
    most = len(a) // 2 + 1
    benign = np.intersect1d(np.argsort(a)[:most], np.argsort(b)[:most])
    return len(a) - 1 - int(benign.max())


def median(states):
    return states.sort(0).values[4:6].mean(0)


def mean(states):
    return states.mean(0)


def krum(states):
    return states[int(krum_by_topk(states, 3).argmin())]


def always_without_three(states):
    """Leave out the three that are nearest to another, cheaters or not."""
    return states[_nearest(states).argsort()[3:]].mean(0)


def _nearest(states):
    apart = torch.cdist(states, states)
    apart.fill_diagonal_(float("inf"))
    return apart.min(1).values


def without_twins(states):
    nearest = _nearest(states)
    return states[nearest > 0.7 * nearest.median()].mean(0)


def without_allies(states):
    residuals = torch.nn.functional.normalize(states - states.mean(0), dim=1)
    likeness = (residuals @ residuals.T).fill_diagonal_(-1)
    return states[likeness.max(1).values < 0.4].mean(0)


def without_the_tight(states):
    rows = states.double().numpy()
    apart = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(2))
    np.fill_diagonal(apart, np.inf)
    tight = apart < 0.65 * np.median(apart[np.isfinite(apart)])
    return torch.from_numpy(rows[~tight.any(1)].mean(0)).float()


PROOFS = {
    "12.stamp": Proof(
        wrong={
            "stamps all images": _poison(rows="all"),
            "stamps a copy that is lost": _poison(rows="none"),
            "stamps at the edge": _poison(margin=0),
            "stamps in the upper left": _poison(upper=True),
            "stamps one channel": _poison(channels=1),
            "adds the patch": _poison(add=True),
            "forgets the labels": _poison(relabel=False),
            "labels all images": _poison(all_labels=True),
            "returns the images alone": lambda images, *others: images,
        },
        right=[_poison(), poison_by_where, poison_in_numpy],
    ),
    "12.success": Proof(
        wrong={
            "counts the target class": _success(count="all"),
            "divides by all": _success(count="diluted"),
            "counts all mistakes": _success(count="mistakes"),
            "swaps the two": _success(lambda shares: shares[::-1]),
            "mends one of them": _success(clean_count="all"),
            "subtracts the baseline": _success(lambda s: [s[0] - s[1], s[1]]),
            "gives one number": _success(lambda s: s[0]),
        },
        right=[_success(), success_by_loop, success_in_numpy],
    ),
    "12.copies": Proof(
        wrong={
            "rounds down": lambda n, f, s: math.floor(s * (n - f) / (f * (1 - s))),
            "does not round": lambda n, f, s: s * (n - f) / (f * (1 - s)),
            "takes a share of all": lambda n, f, s: math.ceil(s * n / f),
            "counts cheaters as honest": lambda n, f, s: math.ceil(s * n / (f * (1 - s))),
            "turns the fraction": lambda n, f, s: math.ceil((1 - s) * (n - f) / (f * s)),
            "returns nothing": lambda n, f, s: None,
        },
        right=[copies_by_search, copies_in_numpy, copies_by_odds],
    ),
    "12.krum": Proof(
        wrong={
            "counts itself": _krum(first=0),
            "adds distances": _krum(squares=False),
            "takes n - f": _krum(extra=2),
            "takes n - f - 1": _krum(extra=1),
            "takes all": _krum(extra=99),
            "takes the farthest": _krum(farthest=True),
            "takes the mean": _krum(change=lambda scores, near: scores / near),
            "returns the winner": lambda v, f: krum_by_loop(v, f).argmin(),
        },
        right=[krum_by_loop, krum_by_topk, krum_by_gram],
    ),
    "12.trim": Proof(
        wrong={
            "drops the largest only": _trim(lambda s, o, t, n: o[: n - t].mean(0)),
            "drops the smallest only": _trim(lambda s, o, t, n: o[t:].mean(0)),
            "drops whole clients": _trim(
                lambda s, o, t, n: s[s.norm(dim=1).argsort()][t : n - t].mean(0)
            ),
            "averages all": _trim(lambda s, o, t, n: s.mean(0)),
            "takes the median": _trim(lambda s, o, t, n: s.median(0).values),
            "does not sort": _trim(lambda s, o, t, n: s[t : n - t].mean(0)),
            "divides by all": _trim(lambda s, o, t, n: o[t : n - t].sum(0) / n),
            "trims half": _trim(lambda s, o, t, n: o[t // 2 : n - t // 2].mean(0)),
        },
        right=[trim_by_scipy, trim_by_topk, trim_by_column],
    ),
    "12.rollback": Proof(
        wrong={
            "takes the first list": _back(lambda a, b: a),
            "takes the second list": _back(lambda a, b: b),
            "takes the highest": _back(sign=-1),
            "goes back to the oldest": _back(newest=min),
            "returns the place": _back(change=lambda place, n: place),
            "counts from one": _back(change=lambda place, n: n - place),
        },
        right=[back_by_ranks, back_by_loop, back_in_numpy],
    ),
    "12.challenge": Proof(
        wrong={
            "takes the median": median,
            "takes the mean": mean,
            "takes Krum": krum,
            "leaves out three in every round": always_without_three,
            "takes one client": lambda states: states[0],
            "returns all clients": lambda states: states,
        },
        right=[without_twins, without_allies, without_the_tight],
        seeds=range(7000, 7010),
    ),
}
