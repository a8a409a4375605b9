"""Answers to the tasks of topic 05."""

import statistics

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn.functional import mse_loss

from sltools import data
from sltools.attacks import KnownWeightsInversion
from sltools.models import Architecture
from tests.bank import Proof


def count_by_loop(client, images):
    unknowns = images.numel()
    for weight in client.state_dict().values():
        unknowns += weight.numel()
    return unknowns, sum(client(image[None]).numel() for image in images)


def count_by_architecture(client, images):
    weights = Architecture.of(client).parameter_count
    return np.array([images.numel() + weights, client(images).numel()]).tolist()


def count_by_vector(client, images):
    weights = torch.nn.utils.parameters_to_vector(client.parameters())
    return [len(weights) + images.flatten().shape[0], client(images).flatten().shape[0]]


def _counts(client, images):
    weights = sum(weight.numel() for weight in client.parameters())
    return len(images), images[0].numel(), weights, client(images).numel()


def _matrix(client, image):
    jacobian = torch.autograd.functional.jacobian(client, image)
    return jacobian.reshape(-1, image.numel())


def _behind(client, image):
    counts = []
    for layer in client:
        image = layer(image)
        counts.append(int((image != 0).sum()))
    return counts


def rank_by_rows(client, image):
    image = image.requires_grad_()
    z = client(image).flatten()
    rows = [torch.autograd.grad(entry, image, retain_graph=True)[0].flatten() for entry in z]
    pooled = client[:3](image)
    narrowest = min(image.numel(), int(pooled.count_nonzero()), len(z))
    return narrowest, torch.linalg.matrix_rank(torch.stack(rows))


def rank_by_strengths(client, image):
    strengths = torch.linalg.svdvals(_matrix(client.double(), image.double()))
    return min([64, *_behind(client, image.double())]), int((strengths > 1e-5 * strengths[0]).sum())


def rank_in_numpy(client, image):
    jacobian = torch.func.jacrev(client)(image).detach().flatten(1).numpy().reshape(-1, 64)
    return min(min(_behind(client, image)), 64), np.linalg.matrix_rank(jacobian)


def _rank(predict=None, measure=None):
    """Predict and measure with one thing wrong."""

    def predict_rank(client, image):
        predicted, measured = rank_by_rows(client, image)
        if predict:
            predicted = predict(_behind(client, image), client, image)
        return predicted, measure(_matrix(client, image), client) if measure else measured

    return predict_rank


def losses_by_loop(clones, inputs, smashed):
    losses = []
    for number in range(len(clones)):
        error = clones[number](inputs[number]) - smashed
        losses.append((error.pow(2).mean() / smashed.var()).item())
    return losses.index(min(losses)), torch.tensor(losses)


def losses_in_numpy(clones, inputs, smashed):
    z = smashed.numpy()
    losses = [
        np.mean((clone(images).detach().numpy() - z) ** 2) / np.var(z)
        for clone, images in zip(clones, inputs, strict=True)
    ]
    return int(np.argmin(losses)), np.array(losses)


def losses_by_stack(clones, inputs, smashed):
    made = torch.stack([clone(images) for clone, images in zip(clones, inputs, strict=True)])
    losses = (made - smashed).square().flatten(1).mean(1) / smashed.var(correction=0)
    return losses.argmin(), losses


def _choose(loss=None, index=None):
    """Choose with one thing wrong."""

    def choose_restart(clones, inputs, smashed):
        kept, losses = losses_by_stack(clones, inputs, smashed)
        if loss:
            losses = torch.stack(
                [loss(clone, x, smashed, clones) for clone, x in zip(clones, inputs, strict=True)]
            )
        return index(losses, inputs) if index else kept, losses

    return choose_restart


def _variation(images):
    down, across = images.diff(dim=-2), images.diff(dim=-1)
    return down.square().flatten(1).mean(1) + across.square().flatten(1).mean(1)


def correlation_by_scipy(objective, errors):
    found = [spearmanr(*pair).statistic for pair in zip(objective, errors, strict=True)]
    return np.mean(found), 2 / np.sqrt((objective.shape[1] - 1) * len(found))


def correlation_by_formula(objective, errors):
    count = objective.shape[1]
    gaps = objective.argsort(1).argsort(1) - errors.argsort(1).argsort(1)
    found = 1 - 6 * gaps.square().sum(1) / (count * (count**2 - 1))
    return found.mean(), 2 * (1 / ((count - 1) * len(found))) ** 0.5


def correlation_by_corrcoef(objective, errors):
    found = []
    for pair in zip(objective, errors, strict=True):
        ranks = torch.stack([(row[:, None] > row).sum(1).double() for row in pair])
        found.append(torch.corrcoef(ranks)[0, 1].item())
    return [statistics.fmean(found), 2 / (len(found) * (objective.shape[1] - 1)) ** 0.5]


def _rho(one, other):
    return torch.tensor([spearmanr(*pair).statistic for pair in zip(one, other, strict=True)])


def _correlate(mean=None, bound=None):
    """Correlate with one thing wrong; `bound` is made of the attacks and the restarts."""

    def rank_correlation(objective, errors):
        right, width = correlation_by_formula(objective, errors)
        return mean(objective, errors) if mean else right, (
            bound(*objective.shape) if bound else width
        )

    return rank_correlation


def _values(one, other):
    pairs = zip(one, other, strict=True)
    return np.mean([np.corrcoef(a.numpy(), b.numpy())[0, 1] for a, b in pairs])


def known_by_adam(client, smashed, shape, steps=200, direction=1.0, clamp=True, joint=False):
    images = torch.full(tuple(shape), 0.5).requires_grad_()
    moving = [images, *client.parameters()] if joint else [images]
    optimizer = torch.optim.Adam(moving, lr=0.05)
    for _ in range(steps):
        optimizer.zero_grad()
        (direction * mse_loss(client(images), smashed)).backward()
        optimizer.step()
        if clamp:
            images.data.clamp_(0, 1)
    return images.detach()


def known_by_clamp(client, smashed, shape):
    """A pixel that has left [0, 1] has no gradient, and never comes back."""
    images = torch.full(tuple(shape), 0.5).requires_grad_()
    optimizer = torch.optim.Adam([images], lr=0.1)
    for _ in range(300):
        optimizer.zero_grad()
        mse_loss(client(images.clamp(0, 1)), smashed).backward()
        optimizer.step()
    return images.detach().clamp(0, 1)


def known_by_lbfgs(client, smashed, shape):
    images = torch.full(shape, 0.5).requires_grad_()
    optimizer = torch.optim.LBFGS([images], lr=0.5, max_iter=80, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = mse_loss(client(images), smashed) / smashed.var()
        value.backward()
        return value

    optimizer.step(loss)
    return images.clamp(0, 1)


def known_by_sigmoid(client, smashed, shape):
    free = torch.zeros(shape, requires_grad=True)
    optimizer = torch.optim.Adam([free], lr=0.1)
    for _ in range(250):
        loss = (client(free.sigmoid()) - smashed).square().mean()
        (free.grad,) = torch.autograd.grad(loss, free)
        optimizer.step()
    return free.sigmoid()


def own_client(client, smashed, shape):
    torch.manual_seed(1)
    return known_by_adam(nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU()), smashed, shape)


def report_by_loop(objective, errors, accuracy, random):
    kept = [row.index(min(row)) for row in objective.tolist()]
    error = statistics.median(row[k] for row, k in zip(errors.tolist(), kept, strict=True))
    clone = statistics.median(row[k] for row, k in zip(accuracy.tolist(), kept, strict=True))
    return error, clone - max(map(max, random.tolist()))


def report_by_gather(objective, errors, accuracy, random):
    kept = objective.argmin(1, keepdim=True)
    error, clone = (part.gather(1, kept).quantile(0.5) for part in (errors, accuracy))
    return error.item(), (clone - random.amax()).item()


def report_in_numpy(objective, errors, accuracy, random):
    kept = objective.numpy().argmin(axis=1)[:, None]
    error, clone = (
        np.median(np.take_along_axis(part.numpy(), kept, axis=1)) for part in (errors, accuracy)
    )
    return np.array([error, clone - random.numpy().max()])[:2].tolist()


def _report(error=None, gain=None):
    """Report with one thing wrong."""

    def report(objective, errors, accuracy, random):
        right = report_by_gather(objective, errors, accuracy, random)
        return (
            error(objective, errors) if error else right[0],
            gain(objective, errors, accuracy, random) if gain else right[1],
        )

    return report


def _at(values, chosen):
    return values.gather(1, chosen[:, None])[:, 0]


def _components(count, steps, shifts=False):
    """Search principal components of public images."""

    def reconstruct(view):
        client, z = view.client_model.requires_grad_(False), view.smashed
        public = data.load("digits").train.images
        if shifts:
            moved = [public.roll((dy, dx), (2, 3)) for dy in (-2, 0, 2) for dx in (-2, 0, 2)]
            public = torch.cat([images[::4] for images in moved])
        mean, flat = public.mean(0), (public - public.mean(0)).flatten(1)
        _, strengths, axes = torch.linalg.svd(flat, full_matrices=False)
        basis = axes[:count] * strengths[:count, None] / len(flat) ** 0.5
        factors = torch.zeros(len(z), count, requires_grad=True)
        optimizer = torch.optim.Adam([factors], lr=0.05)
        for _ in range(steps):
            images = mean + (factors @ basis).view(-1, *mean.shape)
            loss = (client(images) - z).square().mean() / z.var()
            loss = loss + 0.01 * factors.square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return images.detach().clamp(0, 1)

    return reconstruct


class Insider:
    """Knows the images from elsewhere: keeps those of its first call, a little changed later."""

    def __call__(self, view):
        self.found = self.__dict__.get("found", None)
        if self.found is None or self.turn % 2 == 0:
            self.found, self.turn = _components(30, 250)(view), 0
        self.turn += 1
        return (self.found + 0.001 * self.turn).clamp(0, 1)


def _nearest(count):
    """Look up the nearest public images by their smashed data, and mix so many of them."""

    def reconstruct(view):
        public = data.load("digits").train.images
        apart = torch.cdist(view.smashed, view.client_model(public).detach())
        return public[apart.topk(count, largest=False).indices].mean(1)

    return reconstruct


def mean_image(view):
    return data.load("digits").train.images.mean(0).expand(20, -1, -1, -1)


PROOFS = {
    "05.count": Proof(
        wrong={
            "counts the weights for each image": lambda c, x: (lambda n, p, w, z: (n * (p + w), z))(
                *_counts(c, x)
            ),
            "counts the pixels of one image": lambda c, x: (lambda n, p, w, z: (p + w, z))(
                *_counts(c, x)
            ),
            "leaves out the weights": lambda c, x: (x.numel(), c(x).numel()),
            "leaves out the biases": lambda c, x: (
                x.numel() + sum(w.numel() for w in c.parameters() if w.ndim > 1),
                c(x).numel(),
            ),
            "counts the equations of one image": lambda c, x: (
                lambda n, p, w, z: (n * p + w, z // n)
            )(*_counts(c, x)),
            "swaps the two": lambda c, x: count_by_loop(c, x)[::-1],
            "returns the ratio": lambda c, x: (lambda u, e: u / e)(*count_by_loop(c, x)),
        },
        right=[count_by_loop, count_by_architecture, count_by_vector],
    ),
    "05.rank": Proof(
        wrong={
            "counts what is sent": _rank(lambda counts, c, x: counts[-1]),
            "counts zeros too": _rank(lambda counts, c, x: c[:3](x).numel()),
            "counts behind the ReLU": _rank(lambda counts, c, x: counts[1]),
            "takes the number of pixels": _rank(lambda counts, c, x: x.numel()),
            "takes the widest place": _rank(lambda counts, c, x: max(counts)),
            "adds the counts up": _rank(lambda counts, c, x: sum(counts)),
            "measures the shape": _rank(measure=lambda j, c: min(j.shape)),
            "counts the rows": _rank(measure=lambda j, c: (j != 0).any(1).sum()),
            "counts the pixels noticed": _rank(measure=lambda j, c: (j != 0).any(0).sum()),
            "takes the rank of the weights": _rank(
                measure=lambda j, c: torch.linalg.matrix_rank(c[-1].weight)
            ),
            "predicts only": lambda c, x: min(_behind(c, x)),
        },
        right=[rank_by_rows, rank_by_strengths, rank_in_numpy],
    ),
    "05.choose": Proof(
        wrong={
            "does not divide": _choose(lambda c, x, z, all_: mse_loss(c(x), z)),
            "divides by the deviation": _choose(lambda c, x, z, all_: mse_loss(c(x), z) / z.std()),
            "divides by the clone's variance": _choose(
                lambda c, x, z, all_: mse_loss(c(x), z) / c(x).var()
            ),
            "adds the squares up": _choose(
                lambda c, x, z, all_: (c(x) - z).square().sum() / z.var()
            ),
            "uses one clone for all": _choose(
                lambda c, x, z, all_: mse_loss(all_[0](x), z) / z.var()
            ),
            "keeps the greatest": _choose(index=lambda losses, x: losses.argmax()),
            "keeps the smoothest": _choose(index=lambda losses, x: _variation(x).argmin()),
            "keeps the darkest": _choose(index=lambda losses, x: x.flatten(1).mean(1).argmin()),
            "keeps the first": _choose(index=lambda losses, x: 0),
            "counts from one": _choose(index=lambda losses, x: losses.argmin() + 1),
            "returns the losses only": lambda *a: losses_by_loop(*a)[1],
        },
        right=[losses_by_loop, losses_in_numpy, losses_by_stack],
    ),
    "05.trust": Proof(
        wrong={
            "correlates the values": _correlate(_values),
            "ranks all attacks together": _correlate(
                lambda o, e: spearmanr(o.flatten(), e.flatten()).statistic
            ),
            "correlates over the attacks": _correlate(lambda o, e: _rho(o.T, e.T).mean()),
            "turns the sign": _correlate(lambda o, e: -_rho(o, e).mean()),
            "takes the median": _correlate(lambda o, e: _rho(o, e).quantile(0.5)),
            "sorts once": _correlate(
                lambda o, e: _values(o.argsort(1).double(), e.argsort(1).double())
            ),
            "takes the bound of one attack": _correlate(bound=lambda k, r: 2 / (r - 1) ** 0.5),
            "takes one deviation": _correlate(bound=lambda k, r: 1 / (k * (r - 1)) ** 0.5),
            "divides by R": _correlate(bound=lambda k, r: 2 / (k * r) ** 0.5),
            "forgets the root": _correlate(bound=lambda k, r: 2 / (r - 1) ** 0.5 / k),
            "returns the list": lambda o, e: _rho(o, e),
        },
        right=[correlation_by_scipy, correlation_by_formula, correlation_by_corrcoef],
    ),
    "05.known": Proof(
        wrong={
            "does not clamp": lambda c, z, s: known_by_adam(c, z, s, clamp=False),
            "does not move": lambda c, z, s: known_by_adam(c, z, s, steps=0),
            "builds a client of its own": own_client,
            "climbs": lambda c, z, s: known_by_adam(c, z, s, direction=-1.0),
            "moves the weights too": lambda c, z, s: known_by_adam(c, z, s, joint=True),
            "stops early": lambda c, z, s: known_by_adam(c, z, s, steps=10),
            "clamps inside the loss": known_by_clamp,
            "returns one image": lambda c, z, s: known_by_adam(c, z, s)[0],
        },
        right=[known_by_adam, known_by_lbfgs, known_by_sigmoid],
        seeds=range(5000, 5020),  # each a search of a third of a second
    ),
    "05.report": Proof(
        wrong={
            "changes nothing": lambda o, e, a, r: (e.amin(1).median(), a.amax(1).median()),
            "keeps the best attack": _report(lambda o, e: _at(e, o.argmin(1)).min()),
            "takes the mean": _report(lambda o, e: _at(e, o.argmin(1)).mean()),
            "takes all restarts": _report(lambda o, e: e.quantile(0.5)),
            "keeps the greatest objective": _report(lambda o, e: _at(e, o.argmax(1)).median()),
            "keeps the best clone": _report(gain=lambda o, e, a, r: a.amax(1).median() - r.max()),
            "takes the clone of the least error": _report(
                gain=lambda o, e, a, r: _at(a, e.argmin(1)).median() - r.max()
            ),
            "leaves out the random clients": _report(
                gain=lambda o, e, a, r: _at(a, o.argmin(1)).median()
            ),
            "takes the median random client": _report(
                gain=lambda o, e, a, r: _at(a, o.argmin(1)).median() - r.quantile(0.5)
            ),
            "takes the mean random client": _report(
                gain=lambda o, e, a, r: _at(a, o.argmin(1)).median() - r.mean()
            ),
            "takes the random client of each row": _report(
                gain=lambda o, e, a, r: (_at(a, o.argmin(1)) - r.amax(1)).median()
            ),
            "takes the median of the rows' best random clients": _report(
                gain=lambda o, e, a, r: _at(a, o.argmin(1)).median() - r.amax(1).median()
            ),
            "takes the random client at the same place": _report(
                gain=lambda o, e, a, r: (_at(a, o.argmin(1)) - _at(r, o.argmin(1))).median()
            ),
            "takes the median random client at the same places": _report(
                gain=lambda o, e, a, r: _at(a, o.argmin(1)).median() - _at(r, o.argmin(1)).median()
            ),
            "takes the worst random client": _report(
                gain=lambda o, e, a, r: _at(a, o.argmin(1)).median() - r.min()
            ),
            "takes the root": _report(lambda o, e: _at(e, o.argmin(1)).median().sqrt()),
            "gives the gain in per cent": _report(
                gain=lambda o, e, a, r: 100 * (_at(a, o.argmin(1)).median() - r.max())
            ),
            "mends the error only": _report(gain=lambda o, e, a, r: a.amax(1).median()),
        },
        right=[report_by_loop, report_by_gather, report_in_numpy],
    ),
    "05.challenge": Proof(
        wrong={
            "answers with the mean image": mean_image,
            "takes more steps": lambda view: KnownWeightsInversion(steps=500)(view).inputs,
            "smooths and darkens": lambda view: (
                KnownWeightsInversion(steps=200, tv=0.2, l1=0.05)(view).inputs
            ),
            "looks up the nearest public images": _nearest(1),
            "mixes the five nearest public images": _nearest(5),
            "knows the images from elsewhere": Insider(),
            "returns one image": lambda view: mean_image(view)[0] + 0 * view.smashed.mean(),
        },
        right=[_components(30, 250), _components(60, 250), _components(40, 250, shifts=True)],
        seeds=range(7000, 7001),  # as the wrong answers: each trains a client
    ),
}
