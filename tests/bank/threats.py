"""Answers to the tasks of topic 02."""

import numpy as np
import torch
from torch.nn.functional import one_hot

from tests.bank import Proof

KINDS = ("smashed", "labels", "features", "feature_gradient", "cut_gradient")
OWN = ("model", "architecture")
SECRET = ("images", "client_weights")


def refused_by_table(kinds, grants, asked):
    carried = {kind + "s" if kind.endswith("gradient") else kind for kind in kinds}
    seen = carried | set(grants) | set(OWN)
    return [name for name in asked if name not in seen]


def refused_by_cases(kinds, grants, asked):
    out = []
    for name in asked:
        match name:
            case "model" | "architecture":
                continue
            case "feature_gradients" | "cut_gradients":
                fine = name[:-1] in kinds
            case "smashed" | "labels" | "features":
                fine = name in kinds
            case _:
                fine = name in grants
        if not fine:
            out.append(name)
    return out


def refused_by_removal(kinds, grants, asked):
    left = list(asked)
    for kind in [*kinds, *grants, *OWN]:
        for name in (kind, kind.replace("gradient", "gradients")):
            if name in left:
                left.remove(name)
    return tuple(left)


def _refused(change):
    """Refuse rightly but for `change`, which adds to or takes from the set of names seen."""

    def refuse(kinds, grants, asked):
        seen = {name for name in asked if name not in refused_by_table(kinds, grants, asked)}
        seen = change(seen, set(kinds), set(grants))
        return [name for name in asked if name not in seen]

    return refuse


def baselines_by_mean(labels, classes):
    return 1 / classes, (labels == labels.mode().values).double().mean()


def baselines_in_numpy(labels, classes):
    return np.array(1.0) / classes, np.bincount(labels.numpy()).max() / len(labels)


def baselines_by_loop(labels, classes):
    values = labels.tolist()
    return [classes**-1, max(values.count(label) for label in range(classes)) / len(values)]


def _share(labels, classes):
    return labels.bincount(minlength=classes) / len(labels)


def leaking_by_pairs(messages, labels):
    same = labels[:, None] == labels
    return [
        name
        for name, payload in messages.items()
        if any(torch.equal(column[:, None] == column, same) for column in payload.T)
    ]


def leaking_by_books(messages, labels):
    found = []
    for name, payload in messages.items():
        for column in payload.T:
            book = set(zip(labels.tolist(), column.tolist(), strict=True))
            classes, values = ({pair[i] for pair in book} for i in (0, 1))
            if len(book) == len(classes) == len(values):
                found.append(name)
                break
    return found


def leaking_in_numpy(messages, labels):
    found = []
    for name, payload in messages.items():
        codes = [np.unique(column, return_inverse=True)[1] for column in payload.numpy().T]
        pairs = [np.unique(np.stack([code, labels.numpy()]), axis=1).shape[1] for code in codes]
        sizes = [len(np.unique(code)) for code in codes]
        classes = len(np.unique(labels.numpy()))
        if any(p == s == classes for p, s in zip(pairs, sizes, strict=True)):
            found.append(name)
    return sorted(found)


def _leaks(test):
    def leaking(messages, labels):
        return [
            name for name, payload in messages.items() if any(test(c, labels) for c in payload.T)
        ]

    return leaking


def _correlates(column, labels):
    return torch.corrcoef(torch.stack([column, labels.float()]))[0, 1].abs() > 0.999


def _follows(column, labels):
    """Each label has one value; different labels may share it."""
    return all(len(column[labels == label].unique()) == 1 for label in labels.unique())


def _reveals(column, labels):
    """Each value has one label, as it must where no value occurs twice."""
    return all(len(labels[column == value].unique()) == 1 for value in column.unique())


def quiet_by_sets(papers):
    return [sorted({*paper["ledger"]} - {*paper["claims"]}) for paper in papers]


def quiet_by_loop(papers):
    found = []
    for paper in papers:
        left = []
        for text in paper["ledger"]:
            if text in paper["claims"]:
                continue
            left.append(text)
        found.append(left)  # a ledger is sorted
    return found


def quiet_by_filter(papers):
    return tuple(
        sorted(filter(lambda text, paper=paper: text not in paper["claims"], paper["ledger"]))
        for paper in papers
    )


def _bare(text):
    return text.replace(" (granted)", "")


def _related(clone, victim, size=50, limit=0.5, test=any, sign=True, centre=True):
    """Say which pairs of tensors of two networks resemble each other."""
    found = []
    for mine, theirs in zip(clone.parameters(), victim.parameters(), strict=True):
        a, b = mine.detach().flatten().double(), theirs.detach().flatten().double()
        if len(a) < size:
            continue
        if centre:
            a, b = a - a.mean(), b - b.mean()
        value = torch.dot(a, b) / (a.norm() * b.norm())
        found.append(bool((value.abs() if sign else value) > limit))
    return test(found)


def clones_by_cosine(victim, clones):
    return [place for place, clone in enumerate(clones) if _related(clone, victim)]


def clones_by_corrcoef(victim, clones):
    found = set()
    for place, clone in enumerate(clones):
        for name, weight in victim.state_dict().items():
            if weight.numel() >= 50:
                pair = torch.stack([weight.flatten(), clone.state_dict()[name].flatten()])
                if abs(pair.corrcoef()[0, 1]) > 0.5:
                    found.add(place)
    return sorted(found)


def clones_in_numpy(victim, clones):
    def large(net):
        return [w.detach().numpy().ravel() for w in net.parameters() if w.numel() >= 50]

    return [
        place
        for place, clone in enumerate(clones)
        if max(
            abs(np.corrcoef(a, b)[0, 1]) for a, b in zip(large(clone), large(victim), strict=True)
        )
        > 0.5
    ]


def _clones(**wrong):
    return lambda victim, clones: [
        place for place, clone in enumerate(clones) if _related(clone, victim, **wrong)
    ]


def steer_by_backward(front, images, factor, lr):
    z = front(images)
    before = z.square().sum() / 2
    z.backward(factor * z.detach())
    predicted = -lr * sum((w.grad / factor * w.grad).sum() for w in front.parameters())
    with torch.no_grad():
        for weight in front.parameters():
            weight -= lr * weight.grad
        after = front(images).square().sum() / 2
    return {"predicted": predicted.item(), "measured": after - before}


def steer_by_sgd(front, images, factor, lr):
    optimizer = torch.optim.SGD(front.parameters(), lr=lr)
    z = front(images)
    before = 0.5 * z.pow(2).sum()
    before.backward()
    squares = sum(weight.grad.pow(2).sum() for weight in front.parameters())
    for weight in front.parameters():
        weight.grad *= factor
    optimizer.step()
    after = 0.5 * front(images).pow(2).sum()
    return {"measured": (after - before).item(), "predicted": -factor * lr * squares}


def steer_by_jvp(front, images, factor, lr):
    weights = {name: weight.detach() for name, weight in front.named_parameters()}

    def size(held):
        return torch.func.functional_call(front, held, (images,)).square().sum() / 2

    pushes = torch.func.grad(size)(weights)
    change = {name: -lr * factor * push for name, push in pushes.items()}
    before, predicted = torch.func.jvp(size, (weights,), (change,))
    after = size({name: weights[name] + change[name] for name in weights})
    return {"predicted": predicted, "measured": after - before}


def _steer(**changes):
    """Steer rightly but for `changes`: functions of the facts."""

    def steer(front, images, factor, lr):
        size = front(images).detach().square().sum() / 2
        facts = {"S": size, "factor": factor, "lr": lr, **steer_by_jvp(front, images, factor, lr)}
        right = {name: facts[name] for name in ("predicted", "measured")}
        return right | {name: change(facts) for name, change in changes.items()}

    return steer


def _ratio(columns, labels):
    """Between-class variance over within-class variance, for each column."""
    hot = one_hot(labels, 5).float()
    counts = hot.sum(0)
    means = (hot.T @ columns) / counts.clamp(min=1)[:, None]
    between = (counts[:, None] * (means - columns.mean(0)).square()).sum(0)
    within = (columns - means[labels]).square().sum(0)
    return between / within


def anova(payload, labels):
    spread = (payload - payload.mean(0)).abs()
    return _ratio(torch.cat([payload, spread], 1), labels).max()


def ranks(payload, labels):
    """Kruskal and Wallis: the same with ranks, which outliers do not disturb."""
    spread = (payload - payload.median(0).values).abs()
    columns = torch.cat([payload, spread], 1)
    return _ratio(columns.argsort(0).argsort(0).float(), labels).max().item()


def likelihood(payload, labels):
    """How much better a normal distribution for each class explains a column than one for all."""
    gain = payload.var(0, correction=0).log() * len(labels)
    for label in labels.unique():
        own = payload[labels == label]
        gain = gain - len(own) * (own.var(0, correction=0) + 0.01).log()
    return gain.max()


def correlation(payload, labels):
    both = torch.cat([payload, labels[:, None].float()], 1)
    return torch.corrcoef(both.T)[-1, :-1].abs().max()


PROOFS = {
    "02.sees": Proof(
        wrong={
            "takes kinds for names": _refused(
                lambda seen, kinds, grants: seen - {"feature_gradients", "cut_gradients"}
            ),
            "shows the images": _refused(lambda seen, kinds, grants: seen | {"images"}),
            "shows the client's weights": _refused(
                lambda seen, kinds, grants: seen | {"client_weights"}
            ),
            "ignores grants": _refused(lambda seen, kinds, grants: seen - grants),
            "refuses the server its own model": _refused(
                lambda seen, kinds, grants: seen - {"model"}
            ),
            "refuses the architecture": _refused(
                lambda seen, kinds, grants: seen - {"architecture"}
            ),
            "always shows the labels": _refused(lambda seen, kinds, grants: seen | {"labels"}),
            "returns what is seen": lambda kinds, grants, asked: [
                name for name in asked if name not in refused_by_table(kinds, grants, asked)
            ],
            "sorts the names": lambda *a: sorted(refused_by_table(*a)),
        },
        right=[refused_by_table, refused_by_cases, refused_by_removal],
    ),
    "02.baselines": Proof(
        wrong={
            "swaps the two": lambda y, k: (_share(y, k).max(), 1 / k),
            "counts the classes that occur": lambda y, k: (
                1 / len(y.unique()),
                _share(y, k).max(),
            ),
            "counts the largest class": lambda y, k: (1 / k, y.bincount().max()),
            "names the largest class": lambda y, k: (1 / k, y.bincount().argmax()),
            "gives per cent": lambda y, k: (100 / k, 100 * _share(y, k).max()),
            "rounds the shares": lambda y, k: (1 / k, round(_share(y, k).max().item(), 2)),
            "rounds to whole per cents": lambda y, k: (
                round(100 / k),
                round(100 * _share(y, k).max().item()),
            ),
            "guesses by the shares": lambda y, k: (1 / k, _share(y, k).square().sum()),
            "returns the larger": lambda y, k: _share(y, k).max(),
        },
        right=[baselines_by_mean, baselines_in_numpy, baselines_by_loop],
    ),
    "02.leak": Proof(
        wrong={
            "looks for the labels as they are": _leaks(lambda c, y: torch.equal(c, y.float())),
            "looks for a correlation": _leaks(_correlates),
            "forgets that classes may share a value": _leaks(_follows),
            "forgets that values may be unique": _leaks(_reveals),
            "compares the counts only": _leaks(
                lambda c, y: torch.equal(
                    c.unique(return_counts=True)[1], y.unique(return_counts=True)[1]
                )
            ),
            "returns the columns": lambda messages, labels: [2, 4, 1],
            "names nothing": lambda messages, labels: [],
            "remembers names": lambda messages, labels: ["plain", "scaled", "coded"],
        },
        right=[leaking_by_pairs, leaking_by_books, leaking_in_numpy],
    ),
    "02.claims": Proof(
        wrong={
            "lists modest claims": lambda papers: [
                sorted({*p["claims"]} - {*p["ledger"]}) for p in papers
            ],
            "lists all differences": lambda papers: [
                sorted({*p["claims"]} ^ {*p["ledger"]}) for p in papers
            ],
            "lists the ledger": lambda papers: [p["ledger"] for p in papers],
            "lists all grants": lambda papers: [
                [t for t in p["ledger"] if t not in p["claims"] or "granted" in t] for p in papers
            ],
            "forgives unnamed grants": lambda papers: [
                [t for t in p["ledger"] if t not in p["claims"] and _bare(t) not in p["claims"]]
                for p in papers
            ],
            "cuts off the grants": lambda papers: [
                sorted({_bare(t) for t in {*p["ledger"]} - {*p["claims"]}}) for p in papers
            ],
            "says yes or no": lambda papers: [
                bool({*p["ledger"]} - {*p["claims"]}) for p in papers
            ],
            "reverses the lists": lambda papers: [found[::-1] for found in quiet_by_sets(papers)],
        },
        right=[quiet_by_sets, quiet_by_loop, quiet_by_filter],
    ),
    "02.clone": Proof(
        wrong={
            "looks at small tensors too": _clones(size=1),
            "wants all layers alike": _clones(test=all),
            "looks for equal numbers": lambda victim, clones: [
                place
                for place, clone in enumerate(clones)
                if torch.equal(clone[0].weight, victim[0].weight)
            ],
            "forgets the sign": _clones(sign=False),
            "is too strict": _clones(limit=0.9),
            "returns flags": lambda victim, clones: [_related(c, victim) for c in clones],
            "returns one place": lambda victim, clones: clones_by_cosine(victim, clones)[0],
        },
        right=[clones_by_cosine, clones_by_corrcoef, clones_in_numpy],
    ),
    "02.steer": Proof(
        wrong={
            "predicts uphill": _steer(predicted=lambda f: -f["predicted"]),
            "forgets the learning rate": _steer(predicted=lambda f: f["predicted"] / f["lr"]),
            "forgets the factor": _steer(predicted=lambda f: f["predicted"] / f["factor"]),
            "squares the factor": _steer(predicted=lambda f: f["predicted"] * f["factor"]),
            "predicts twice as much": _steer(predicted=lambda f: 2 * f["predicted"]),
            "predicts what it measured": _steer(predicted=lambda f: f["measured"]),
            "measures before minus after": _steer(measured=lambda f: -f["measured"]),
            "measures S after the step": _steer(measured=lambda f: f["S"] + f["measured"]),
            "measures twice as much": _steer(measured=lambda f: 2 * f["measured"]),
            "measures the share": _steer(measured=lambda f: f["measured"] / f["S"]),
            "does not measure": _steer(measured=lambda f: f["predicted"]),
        },
        right=[steer_by_backward, steer_by_sgd, steer_by_jvp],
    ),
    "02.challenge": Proof(
        wrong={
            "correlates": correlation,
            "does not look at the labels": lambda payload, labels: payload.std().item(),
            "looks at the means only": lambda payload, labels: _ratio(payload, labels).max(),
            "suspects the innocent": lambda payload, labels: -anova(payload, labels),
            "returns a number for each column": lambda payload, labels: _ratio(payload, labels),
        },
        right=[anova, ranks, likelihood],
        seeds=range(5000, 5020),
    ),
}
