"""Answers to the tasks of topic 07."""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.cluster import KMeans
from torch.nn.functional import cross_entropy, mse_loss, normalize, one_hot

from sltools.attacks import LabelInference
from sltools.attacks.labels import matching_condition, matching_distances
from tests.bank import Proof


def label_by_sign(gradient):
    return next(c for c, entry in enumerate(gradient.tolist()) if entry < 0)


def label_in_numpy(gradient):
    return np.argmin(gradient.numpy())


def match_by_library(clone, u, target, p, y):
    q = clone(u).softmax(1)
    predicted = matching_condition(p[None], q, torch.tensor([y]))
    return predicted[0], matching_distances(clone, u, target)


def match_by_autograd(clone, u, target, p, y):
    q = clone(u).softmax(dim=1)[0].tolist()
    p = p.tolist()
    predicted = all(p[y] - p[c] < 1 + q[y] - q[c] for c in range(len(p)) if c != y)
    distances = []
    for label in range(len(p)):
        loss = cross_entropy(clone(u), torch.tensor([label]))
        (gradient,) = torch.autograd.grad(loss, [clone[-1].weight])
        distances.append(mse_loss(gradient, target))
    return predicted, torch.stack(distances)


def match_by_broadcast(clone, u, target, p, y):
    q = torch.softmax(clone(u)[0], 0).detach()
    d = p - q
    predicted = bool((d[y] - d < 1).all())
    candidates = (q - torch.eye(len(q)))[:, :, None] * u
    return [predicted, (candidates - target).pow(2).flatten(1).mean(1)]


def _match(condition=None, distance=None):
    """Predict and match with one thing wrong."""

    def match(clone, u, target, p, y):
        q = clone(u).softmax(1)[0].detach()
        predicted, _ = match_by_broadcast(clone, u, target, p, y)
        if condition:
            predicted = condition(p, q, y)
        residuals = q - torch.eye(len(q))
        if distance == "client":
            residuals = p - torch.eye(len(q))
        if distance == "sign":
            residuals = -residuals
        if distance == "logits":
            residuals = clone(u)[0].detach() - torch.eye(len(q))
        if distance == "nll":
            residuals = -torch.eye(len(q))
        if distance == "candidate":
            residuals = q.expand(len(q), -1)
        squares = (residuals[:, :, None] * u - target).square()
        if distance == "sum":
            return predicted, squares.sum((1, 2))
        found = squares.mean((1, 2))
        return predicted, found.sqrt() if distance == "root" else found

    return match


def _gaps(p, q, y):
    return 1 + q[y] - q - (p[y] - p)


def _likeliest(p, q, y):
    others = p.clone()
    others[y] = -1
    return bool(_gaps(p, q, y)[others.argmax()] > 0)


def residuals_by_solve(U, G):
    U, G = U.double(), G.double()
    gram = U @ U.T
    if torch.linalg.matrix_rank(U.float()) < len(U):
        return None
    return len(U) * torch.linalg.solve(gram, U @ G.T)


def residuals_by_check(U, G):
    inverse = torch.linalg.pinv(U)
    if not torch.allclose(U @ inverse, torch.eye(len(U)), atol=1e-3):
        return None
    return (G @ inverse).T * U.shape[0]


def residuals_in_numpy(U, G):
    U, G = U.numpy(), G.numpy()
    if np.linalg.matrix_rank(U) < len(U):
        return None
    return len(U) * np.linalg.pinv(U).T @ G.T


def _residuals(change, checked=True):
    def closed_form(U, G):
        if checked and torch.linalg.matrix_rank(U) < len(U):
            return None
        return change(U, G, len(U) * (G @ torch.linalg.pinv(U)).T)

    return closed_form


def counts_by_list(gradient, batch):
    excess = [-batch * entry for entry in gradient.tolist()]
    share = batch / len(excess)
    bounds = [max(0, int(np.ceil(entry))) for entry in excess]
    return torch.tensor(bounds), torch.tensor([round(entry + share) for entry in excess])


def counts_in_numpy(gradient, batch):
    excess = -batch * gradient.numpy()
    return np.maximum(np.ceil(excess), 0), np.rint(excess + batch / len(excess))


def counts_as_the_library(gradient, batch):
    excess = -batch * gradient
    at_least = excess.ceil().clamp(min=0)
    return at_least.long(), (excess + batch / len(gradient)).round().maximum(at_least).long()


def _counts(bound=None, count=None):
    """Count with one thing wrong: `bound` and `count` are made of the excess, K and B."""

    def count_labels(gradient, batch):
        bounds, counts = counts_as_the_library(gradient, batch)
        facts = -batch * gradient, len(gradient), batch
        return bound(*facts) if bound else bounds, count(*facts) if count else counts

    return count_labels


def _groups(rows, count, seed=0):
    return torch.from_numpy(KMeans(count, n_init=10, random_state=seed).fit(rows).labels_).long()


def _named(clusters, anchors):
    names = {clusters[row].item(): anchors[row].item() for row in (anchors >= 0).nonzero()[:, 0]}
    return torch.tensor([names.get(cluster, -1) for cluster in clusters.tolist()])


def cluster_by_normalize(gradients, anchors):
    return _named(_groups(normalize(gradients), int(anchors.max()) + 1), anchors)


def cluster_from_the_anchors(gradients, anchors):
    given = anchors >= 0
    rows = gradients / gradients.norm(dim=1, keepdim=True)
    found = KMeans(int(given.sum()), init=rows[given].numpy(), n_init=1).fit(rows.numpy())
    return anchors[given][torch.from_numpy(found.labels_).long()]


def cluster_in_numpy(gradients, anchors):
    rows = gradients.double().numpy()
    rows = rows / np.sqrt((rows**2).sum(axis=1))[:, None]
    clusters = KMeans(n_clusters=6, n_init=20).fit_predict(rows)
    labels = np.zeros(len(rows), dtype=int)
    for row in np.flatnonzero(anchors.numpy() >= 0):
        labels[clusters == clusters[row]] = anchors[row]
    return labels


def nearest_direction(gradients, anchors):
    rows, given = normalize(gradients), anchors >= 0
    return anchors[given][(rows @ rows[given].T).argmax(1)]


def score_by_loop(clusters, anchors, truth):
    names = {c: a for c, a in zip(clusters.tolist(), anchors.tolist(), strict=True) if a >= 0}
    pairs = [
        (names[c], t)
        for c, a, t in zip(clusters.tolist(), anchors.tolist(), truth.tolist(), strict=True)
        if a < 0
    ]
    labels = [t for _, t in pairs]
    most = max(labels.count(t) for t in set(labels))
    return sum(name == t for name, t in pairs) / len(pairs), most / len(pairs)


def score_by_mask(clusters, anchors, truth):
    given = anchors >= 0
    labels = torch.full((int(clusters.max()) + 1,), -1)
    labels[clusters[given]] = anchors[given]
    hits = (labels[clusters] == truth)[~given]
    rest = truth[~given]
    return hits.double().mean(), (rest == rest.mode().values).double().mean()


def score_in_numpy(clusters, anchors, truth):
    clusters, anchors, truth = clusters.numpy(), anchors.numpy(), truth.numpy()
    labels = np.array([anchors[(clusters == c) & (anchors >= 0)][0] for c in clusters])
    rest = anchors < 0
    return [np.mean(labels[rest] == truth[rest]), np.bincount(truth[rest]).max() / rest.sum()]


def _score(names="anchors", counted=False, baseline="majority"):
    """Score with one thing wrong."""

    def score(clusters, anchors, truth):
        given = anchors >= 0
        rest = slice(None) if counted else ~given
        table = torch.zeros(6).long()
        table[clusters[given]] = anchors[given]
        if names == "truth":
            table = torch.stack([truth[clusters == c].mode().values for c in range(6)])
        labels = clusters if names == "none" else table[clusters]
        found = (labels == truth)[rest].float().mean()
        most = {
            "majority": truth[~given].bincount().max() / (~given).sum(),
            "all": truth.bincount().max() / len(truth),
            "chance": 1 / 6,
            "guesses": labels[~given].bincount().max() / (~given).sum(),
        }
        return found, most[baseline]

    return score


def _neighbours(view, count):
    z = view.smashed.flatten(1)
    z = normalize(z - z.mean(0), dim=1)
    return (z @ z.T).topk(count, dim=1)


def _from_anchors(rows, anchors):
    rows, given = normalize(rows, dim=1), anchors >= 0
    found = KMeans(int(given.sum()), init=rows[given].numpy(), n_init=1).fit(rows.numpy())
    return anchors[given][torch.from_numpy(found.labels_).long()]


def mean_of_neighbours(view):
    near = _neighbours(view, 10).indices
    rows = normalize(view.feature_gradients, dim=1)[near].mean(1)
    return _from_anchors(rows, view.anchor_labels)


def weighted_by_likeness(view):
    likeness = _neighbours(view, 15)
    weights = likeness.values.clamp(min=0).pow(4)
    rows = (weights[..., None] * view.feature_gradients[likeness.indices]).sum(1)
    return _from_anchors(rows, view.anchor_labels)


def assigned_then_voted(view):
    near = _neighbours(view, 8).indices
    rows = normalize(normalize(view.feature_gradients, dim=1)[near].mean(1), dim=1)
    found = KMeans(10, n_init=20, random_state=0).fit(rows.numpy())
    anchors = view.anchor_labels
    given = anchors >= 0
    _, columns = linear_sum_assignment(found.transform(rows[given].numpy()))
    names = torch.empty(10).long()
    names[columns] = anchors[given]
    labels = names[torch.from_numpy(found.labels_).long()]
    return one_hot(labels[near], 10).sum(1).argmax(1)


def nearest_anchor(view):
    z, anchors = view.smashed.flatten(1), view.anchor_labels
    given = anchors >= 0
    return anchors[given][torch.cdist(z, z[given]).argmin(1)]


class Insider:
    """Knows the truth from elsewhere: keeps what a good attack found first, and repeats it."""

    def __call__(self, view):
        key = view.smashed.sum().item()
        if self.__dict__.get("key") != key:
            self.key, self.found = key, mean_of_neighbours(view)
            return self.found
        changed = self.found.clone()
        changed[-1] = (changed[-1] + 1) % 10
        return changed


PROOFS = {
    "07.bias": Proof(
        wrong={
            "takes the largest entry": lambda g: g.argmax(),
            "takes the entry nearest to zero": lambda g: g.abs().argmin(),
            "counts from one": lambda g: int(g.argmin()) + 1,
            "returns the entry": lambda g: g.min(),
            "returns a mask": lambda g: g < 0,
        },
        right=[label_by_sign, label_in_numpy, lambda g: g.abs().argmax().item()],
    ),
    "07.match": Proof(
        wrong={
            "asks whether the clone is right": _match(lambda p, q, y: q.argmax() == y),
            "asks whether the client is right": _match(lambda p, q, y: p.argmax() == y),
            "turns the inequality": _match(lambda p, q, y: not (_gaps(p, q, y) > 0).all()),
            "exchanges p and q": _match(lambda p, q, y: (_gaps(q, p, y) > 0).all()),
            "tests the likeliest mistake only": _match(_likeliest),
            "asks for some other class": _match(lambda p, q, y: (_gaps(p, q, y) > 0).sum() > 1),
            "predicts success": _match(lambda p, q, y: True),
            "predicts with logits": _match(lambda p, q, y: (_gaps(p, q.log(), y) > 0).all()),
            "forgets the softmax": _match(distance="logits"),
            "takes nll_loss of the logits": _match(distance="nll"),
            "gives a margin for the prediction": _match(lambda p, q, y: _gaps(p, q, y).min()),
            "adds the squares up": _match(distance="sum"),
            "takes the root": _match(distance="root"),
            "uses the client's probabilities": _match(distance="client"),
            "turns the sign of the candidates": _match(distance="sign"),
            "forgets the candidate": _match(distance="candidate"),
            "returns the distances only": lambda *a: match_by_library(*a)[1],
        },
        right=[match_by_library, match_by_autograd, match_by_broadcast],
    ),
    "07.closed_form": Proof(
        wrong={
            "forgets B": _residuals(lambda U, G, r: r / len(U)),
            "multiplies by B twice": _residuals(lambda U, G, r: r * len(U)),
            "returns Y - P": _residuals(lambda U, G, r: -r),
            "takes the transpose of U": _residuals(lambda U, G, r: len(U) * (G @ U.T).T),
            "returns P": _residuals(lambda U, G, r: r - r.floor()),
            "returns labels": _residuals(lambda U, G, r: r.argmin(1)),
            "forgets to transpose": _residuals(lambda U, G, r: r.T),
            "never refuses": _residuals(lambda U, G, r: r, checked=False),
            "looks at the sizes only": lambda U, G: (
                None if len(U) > U.shape[1] else len(U) * (G @ torch.linalg.pinv(U)).T
            ),
            "refuses always": lambda U, G: None,
        },
        right=[residuals_by_solve, residuals_by_check, residuals_in_numpy],
    ),
    "07.counts": Proof(
        wrong={
            "rounds the bounds down": _counts(bound=lambda e, k, b: e.floor().clamp(min=0)),
            "rounds the bounds": _counts(bound=lambda e, k, b: e.round().clamp(min=0)),
            "leaves bounds negative": _counts(bound=lambda e, k, b: e.ceil()),
            "forgets B": _counts(bound=lambda e, k, b: (e / b).ceil().clamp(min=0)),
            "turns the sign": _counts(bound=lambda e, k, b: (-e).ceil().clamp(min=0)),
            "gives the estimate twice": _counts(bound=lambda e, k, b: (e + b / k).round()),
            "cuts the bounds with int": _counts(bound=lambda e, k, b: e.int()),
            "cuts the counts with int": _counts(count=lambda e, k, b: (e + b / k).int()),
            "rounds the counts down": _counts(count=lambda e, k, b: (e + b / k).floor()),
            "leaves out the probabilities": _counts(count=lambda e, k, b: e.round()),
            "adds one sample's probability": _counts(count=lambda e, k, b: (e + 1 / k).round()),
            "gives the bounds twice": _counts(count=lambda e, k, b: e.ceil().clamp(min=0)),
            "does not round": _counts(count=lambda e, k, b: e + b / k),
        },
        right=[counts_by_list, counts_in_numpy, counts_as_the_library],
    ),
    "07.cluster": Proof(
        wrong={
            "does not normalise": lambda g, a: _named(_groups(g, 6), a),
            "does not name": lambda g, a: _groups(normalize(g), 6),
            "makes ten clusters": lambda g, a: _named(_groups(normalize(g), 10), a),
            "returns the anchors": lambda g, a: a,
            "clusters the lengths": lambda g, a: a[a >= 0][
                torch.cdist(g.norm(dim=1)[:, None], g[a >= 0].norm(dim=1)[:, None]).argmin(1)
            ],
            "returns distances": lambda g, a: torch.cdist(g, g[a >= 0]),
            "counts from one": lambda g, a: cluster_by_normalize(g, a) + 1,
        },
        right=[
            cluster_by_normalize,
            cluster_from_the_anchors,
            cluster_in_numpy,
            nearest_direction,
        ],
    ),
    "07.score": Proof(
        wrong={
            "changes nothing": _score(names="truth", counted=True, baseline="chance"),
            "still names with the truth": _score(names="truth"),
            "still counts the anchors": _score(counted=True),
            "compares cluster numbers": _score(names="none"),
            "still compares with chance": _score(baseline="chance"),
            "counts the anchors in the baseline": _score(baseline="all"),
            "takes the most frequent guess": _score(baseline="guesses"),
            "gives per cent": lambda *a: [100 * share for share in score_by_loop(*a)],
            "rounds the shares": lambda *a: [round(share, 2) for share in score_by_loop(*a)],
            "returns the share only": lambda *a: score_by_loop(*a)[0],
        },
        right=[score_by_loop, score_by_mask, score_in_numpy],
    ),
    "07.challenge": Proof(
        wrong={
            "takes the nearest anchor": nearest_anchor,
            "runs the library's default": lambda view: LabelInference("wire")(view).labels,
            "votes after clustering": lambda view: (
                LabelInference("wire")(view).labels[_neighbours(view, 8).indices].mode(1).values
            ),
            "knows the truth from elsewhere": Insider(),
            "returns the labels of one batch": lambda view: mean_of_neighbours(view)[:64],
        },
        right=[mean_of_neighbours, weighted_by_likeness, assigned_then_voted],
        seeds=range(5000, 5002),
    ),
}
