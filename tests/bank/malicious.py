"""Answers to the tasks of topic 09."""

import math
from itertools import combinations

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cosine_similarity, normalize

from sltools.detectors.scrutinizer import gap, similarities
from tests.bank import Proof


def critic(weight, z):
    return torch.tanh(z @ weight).sum(1)


def _loss(
    share_of_z=None,
    between=1.0,
    weight_of_penalty=10.0,
    norm=None,
    bend=None,
    graph=True,
    mean=False,
):
    """Make a critic's loss with one thing wrong."""

    def critic_loss(weight, z, piloted, share):
        s = share if share_of_z is None else share_of_z(share)
        mixed = (s * z + (1 - s) * piloted).requires_grad_()
        scores = critic(weight, mixed)
        total = scores.mean() if mean else scores.sum()
        (slope,) = torch.autograd.grad(total, mixed, create_graph=graph)
        length = norm(slope) if norm else slope.norm(dim=1)
        excess = bend(length) if bend else length - 1
        apart = critic(weight, z).mean() - critic(weight, piloted).mean()
        return weight_of_penalty * excess.square().mean() - between * apart

    return critic_loss


def critic_loss_sample_by_sample(weight, z, piloted, share):
    penalties = []
    for one, other, s in zip(z, piloted, share, strict=True):
        m = (s * one + (1 - s) * other).requires_grad_()
        (slope,) = torch.autograd.grad(critic(weight, m[None])[0], m, create_graph=True)
        penalties.append((slope.square().sum().sqrt() - 1) ** 2)
    apart = torch.stack([critic(weight, x).mean() for x in (piloted, z)])
    return 10 * torch.stack(penalties).mean() + apart[0] - apart[1]


def critic_loss_by_hand(weight, z, piloted, share):
    mixed = torch.lerp(piloted, z, share)
    slope = (1 - torch.tanh(mixed @ weight) ** 2) @ weight.T
    penalty = (torch.linalg.vector_norm(slope, dim=-1) - 1).pow(2).mean()
    return critic(weight, piloted).mean() - critic(weight, z).mean() + penalty * 10


def critic_loss_by_func(weight, z, piloted, share):
    slopes = torch.func.vmap(torch.func.grad(lambda m: torch.tanh(m @ weight).sum()))
    length = slopes(share * z + (1 - share) * piloted).norm(dim=1)
    apart = (critic(weight, z) - critic(weight, piloted)).mean()
    return 10 * (length**2 - 2 * length + 1).mean() - apart


def lie_by_backward(critic, z):
    z.requires_grad_()
    critic(z).mean().backward()
    return z.grad


def lie_by_sum(critic, z):
    z = nn.Parameter(z)
    return torch.autograd.grad(critic(z).sum() / len(z), z)[0]


def lie_sample_by_sample(critic, z):
    def score(sample):
        return critic(sample[None]).squeeze()

    return torch.stack([torch.func.grad(score)(sample) for sample in z]) / len(z)


def _lie(change):
    return lambda critic, z: change(lie_by_sum(critic, z), z)


def lie_of_squares(critic, z):
    z.requires_grad_()
    return torch.autograd.grad(critic(z).square().mean(), z)[0]


def _obeyed(front, images, sent, lr):
    images = images.clone()
    optimizer = torch.optim.SGD(front.parameters(), lr=lr)
    front(images).backward(sent)
    optimizer.step()
    return front(images).detach()


def obey_by_sgd(front, images, sent, lr):
    x, weight = images.reshape(len(images), -1), front[1].weight.detach().clone()
    predicted = x @ (weight - lr * sent.T @ x).T
    return predicted, _obeyed(front, images, sent, lr)


def obey_in_numpy(front, images, sent, lr):
    x, g = images.flatten(1).double().numpy(), sent.double().numpy()
    z = front(images).detach().numpy()
    return z - lr * (x @ x.T) @ g, _obeyed(front, images, sent, lr)


def obey_by_surrogate(front, images, sent, lr):
    z = front(images)
    kernel = torch.einsum("iabc,jabc->ij", images, images)
    predicted = z.detach() - lr * torch.einsum("ij,jk->ik", kernel, sent)
    (gradient,) = torch.autograd.grad((z * sent).sum(), front[1].weight)
    return [predicted, images.flatten(1) @ (front[1].weight.detach() - lr * gradient).T]


def _obey(predict=None, measure=None):
    """Predict, or measure, with one thing wrong."""

    def predict_and_obey(front, images, sent, lr):
        x = images.flatten(1)
        z = front(images).detach()
        moves = x @ x.T @ sent
        right = _obeyed(front, images, sent, lr)
        return (
            predict(z, lr, moves, x, sent) if predict else right,
            measure(z, lr, moves, x, sent) if measure else right,
        )

    return predict_and_obey


def _adams_step(x, sent):
    weight = torch.zeros(sent.shape[1], x.shape[1], requires_grad=True)
    optimizer = torch.optim.Adam([weight], lr=1.0)
    weight.grad = sent.T @ x
    optimizer.step()
    return -weight.detach()


def gap_by_pairs(gradients, labels):
    found = {True: [], False: []}
    for one, other in combinations(range(len(labels)), 2):
        cosine = cosine_similarity(gradients[one].flatten(), gradients[other].flatten(), dim=0)
        found[bool(labels[one] == labels[other])].append(cosine)
    return torch.stack(found[True]).mean() - torch.stack(found[False]).mean()


def gap_in_numpy(gradients, labels):
    rows = gradients.flatten(1).double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    upper = np.triu_indices(len(rows), 1)
    cosines, same = (rows @ rows.T)[upper], np.equal.outer(*[labels.numpy()] * 2)[upper]
    return float(cosines[same].mean() - cosines[~same].mean())


def gap_by_sums(gradients, labels):
    rows = normalize(gradients.flatten(1))
    one_hot = nn.functional.one_hot(labels).float()
    counts = one_hot.sum(0)
    within = (one_hot.T @ rows).square().sum(1) - counts  # of ordered pairs, less the diagonal
    everything = rows.sum(0).square().sum() - len(rows)
    pairs = (counts * (counts - 1)).sum()
    others = len(rows) * (len(rows) - 1) - pairs
    return within.sum() / pairs - (everything - within.sum()) / others


def _gap(score=None, itself=False, scaled=True, absolute=False):
    """Compute the gap with one thing wrong."""

    def label_gap(gradients, labels):
        rows = gradients.flatten(1)
        rows = normalize(rows) if scaled else rows
        cosines = (rows @ rows.T).abs() if absolute else rows @ rows.T
        same = labels[:, None] == labels
        pairs = torch.ones_like(same) if itself else ~torch.eye(len(labels), dtype=torch.bool)
        s, d = cosines[same & pairs].mean(), cosines[~same].mean()
        return score(s, d, cosines[pairs].mean()) if score else s - d

    return label_gap


def rates_by_loop(chosen, honest, hijacked):
    threshold = max(score.item() for score in chosen.flatten())
    rates = []
    for clients in (honest, hijacked):
        alarms = [any(score > threshold for score in client.tolist()) for client in clients]
        rates.append(sum(alarms) / len(alarms))
    return tuple(rates)


def rates_in_numpy(chosen, honest, hijacked):
    return [np.mean((s.numpy() > chosen.numpy().max()).any(axis=1)) for s in (honest, hijacked)]


def rates_by_max(chosen, honest, hijacked):
    highest = torch.stack([chosen.max()])
    return [(s.max(dim=1).values > highest).double().mean() for s in (honest, hijacked)]


def _clients(scores, threshold):
    return (scores.amax(1) > threshold).float().mean()


def _batches(scores, threshold):
    return (scores > threshold).float().mean()


def _rates(threshold, count=_clients):
    return lambda chosen, *tried: [count(s, threshold(chosen, tried[0])) for s in tried]


def needed_by_loop(rate, confidence):
    clients, chance = 0, 1.0
    while chance > 1 - confidence:
        clients, chance = clients + 1, chance * (1 - rate)
    return clients


def needed_by_search(rate, confidence):
    silence = (1 - rate) ** np.arange(5000)
    return int(np.argmax(silence <= 1 - confidence))


def needed_in_torch(rate, confidence):
    exact = torch.log(torch.tensor(1 - confidence).double()) / torch.log1p(torch.tensor(-rate))
    return exact.ceil().int()


def common_direction(labels, gradients):
    rows = normalize(gradients.flatten(1))
    return (rows @ rows.T).mean()


def without_the_labels(labels, gradients):
    rows = normalize(gradients.flatten(1))
    means = torch.stack([rows[labels == label].mean(0) for label in labels.unique()])
    return means.mean(0).norm()


def common_direction_in_numpy(labels, gradients):
    rows = gradients.flatten(1).double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return float(np.linalg.norm(rows.sum(0)))


class Counter:
    """Supposes that the honest batches come first."""

    calls = 0

    def __call__(self, labels, gradients):
        self.calls += 1
        return float(self.calls % 60 > 30)


PROOFS = {
    "09.penalty": Proof(
        wrong={
            "scores the pilot high": _loss(between=-1.0),
            "forgets the penalty": _loss(weight_of_penalty=0.0),
            "returns the penalty alone": _loss(between=0.0),
            "does not weigh the penalty": _loss(weight_of_penalty=1.0),
            "takes one norm of the batch": _loss(norm=lambda slope: slope.norm()),
            "squares the slope first": _loss(bend=lambda length: length.square() - 1),
            "punishes steep slopes only": _loss(bend=lambda length: (length - 1).clamp_min(0)),
            "takes the slope at z": _loss(share_of_z=torch.ones_like),
            "takes the slope at the pilot": _loss(share_of_z=torch.zeros_like),
            "mixes the wrong way round": _loss(share_of_z=lambda share: 1 - share),
            "subtracts the penalty": _loss(weight_of_penalty=-10.0),
            "takes the slope of the mean score": _loss(mean=True),
            "forgets create_graph": _loss(graph=False),
            "detaches": lambda *arguments: _loss()(*arguments).detach(),
        },
        right=[critic_loss_sample_by_sample, critic_loss_by_hand, critic_loss_by_func],
    ),
    "09.lie": Proof(
        wrong={
            "pushes away": _lie(lambda gradient, z: -gradient),
            "takes the sum": _lie(lambda gradient, z: len(z) * gradient),
            "returns z after a step": _lie(lambda gradient, z: z - gradient),
            "takes the squares": lie_of_squares,
            "takes the direction": _lie(
                lambda gradient, z: normalize(gradient.flatten(1)).view_as(z)
            ),
            "takes the signs": _lie(lambda gradient, z: gradient.sign()),
            "forgets the graph": lambda critic, z: torch.autograd.grad(critic(z).mean(), z)[0],
        },
        right=[lie_by_backward, lie_by_sum, lie_sample_by_sample],
    ),
    "09.obey": Proof(
        wrong={
            "predicts a step uphill": _obey(lambda z, lr, moves, x, sent: z + lr * moves),
            "predicts each image by itself": _obey(lambda z, lr, moves, x, sent: z - lr * sent),
            "forgets lr": _obey(lambda z, lr, moves, x, sent: z - moves),
            "predicts the move": _obey(lambda z, lr, moves, x, sent: -lr * moves),
            "predicts that nothing moves": _obey(lambda z, lr, moves, x, sent: z),
            "takes the diagonal": _obey(
                lambda z, lr, moves, x, sent: z - lr * x.square().sum(1, keepdim=True) * sent
            ),
            "predicts the mean gradient": _obey(
                lambda z, lr, moves, x, sent: z - lr * moves / len(z)
            ),
            "measures before the step": _obey(measure=lambda z, lr, moves, x, sent: z),
            "steps uphill": _obey(measure=lambda z, lr, moves, x, sent: z + lr * moves),
            "steps by the mean": _obey(
                measure=lambda z, lr, moves, x, sent: z - lr * moves / len(z)
            ),
            "steps with Adam": _obey(
                measure=lambda z, lr, moves, x, sent: z - lr * x @ _adams_step(x, sent).T
            ),
            "returns one of them": lambda *arguments: _obeyed(*arguments),
        },
        right=[obey_by_sgd, obey_in_numpy, obey_by_surrogate],
    ),
    "09.gap": Proof(
        wrong={
            "counts each with itself": _gap(itself=True),
            "turns the difference": _gap(lambda s, d, mean: d - s),
            "does not scale": _gap(scaled=False),
            "returns that of one label": _gap(lambda s, d, mean: s),
            "returns that of two labels": _gap(lambda s, d, mean: d),
            "returns the mean of all": _gap(lambda s, d, mean: mean),
            "divides by the sum": _gap(lambda s, d, mean: (s - d) / (s + d)),
            "takes absolute cosines": _gap(absolute=True),
        },
        right=[gap_by_pairs, gap_in_numpy, gap_by_sums],
    ),
    "09.fair_rates": Proof(
        wrong={
            "still chooses where it tries": _rates(lambda chosen, honest: honest.max()),
            "mends nothing": _rates(lambda chosen, honest: honest.max(), _batches),
            "still counts batches": _rates(lambda chosen, honest: chosen.max(), _batches),
            "takes a quantile": _rates(lambda chosen, honest: chosen.quantile(0.95)),
            "judges clients by their mean": _rates(
                lambda chosen, honest: chosen.max(),
                lambda scores, threshold: (scores.mean(1) > threshold).float().mean(),
            ),
            "swaps the two": lambda *scores: rates_by_loop(*scores)[::-1],
        },
        right=[rates_by_loop, rates_in_numpy, rates_by_max],
    ),
    "09.silence": Proof(
        wrong={
            "rounds down": lambda r, c: math.floor(math.log(1 - c) / math.log(1 - r)),
            "does not round": lambda r, c: math.log(1 - c) / math.log(1 - r),
            "swaps the two": lambda r, c: math.ceil(math.log(1 - r) / math.log(1 - c)),
            "asks for a likely silence": lambda r, c: math.ceil(math.log(c) / math.log(1 - r)),
            "counts to the first on average": lambda r, c: math.ceil(1 / r),
            "uses the rule of three": lambda r, c: math.ceil(3 / r),
        },
        right=[needed_by_loop, needed_by_search, needed_in_torch],
    ),
    "09.challenge": Proof(
        wrong={
            "looks for the gap": lambda labels, gradients: 1 - gap(similarities(gradients, labels)),
            "looks at the size": lambda labels, gradients: -gradients.norm(),
            "counts its calls": Counter(),
            "returns the gradients": lambda labels, gradients: gradients.mean(0),
        },
        right=[common_direction, without_the_labels, common_direction_in_numpy],
        seeds=range(7000, 7001),  # as the wrong answers
    ),
}
