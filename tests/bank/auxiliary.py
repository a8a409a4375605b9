"""Answers to the tasks of topic 10."""

import copy

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from sltools import data
from sltools.attacks import PCAT, SDAR
from sltools.attacks.alignment import Discriminator, Samples, mk_mmd
from sltools.experiments import class_means
from tests.bank import Proof


def _pairs(one, other):
    return (one[:, None] - other[None]).square().sum(-1)


def _mmd(cross=2.0, within=1.0, bend=None, scale=None, factor=1.0, add=sum, keep=None, root=False):
    """Make a squared MMD with one thing wrong."""

    def squared_mmd(made, real, widths):
        both = torch.cat([made, real])
        unit = scale(made, real) if scale else _pairs(both, both).mean()

        def kernel(one, other):
            apart = bend(_pairs(one, other)) if bend else _pairs(one, other)
            return add([torch.exp(-apart / (factor * w * unit.detach())) for w in widths])

        def mean(k):
            return keep(k) if keep else k.mean()

        value = within * (mean(kernel(made, made)) + mean(kernel(real, real)))
        value = value - cross * kernel(made, real).mean()
        return value.sqrt() if root else value

    return squared_mmd


def _off_diagonal(k):
    return k[~torch.eye(len(k), dtype=torch.bool)].mean()


def _scale_of_others(made, real):
    both = torch.cat([made, real])
    return _off_diagonal(_pairs(both, both))


def _mean_distance(made, real):
    both = torch.cat([made, real])
    return torch.cdist(both, both).mean()


def mmd_of_sums(made, real, widths):
    both = torch.cat([made, real])
    unit = _pairs(both, both).mean().detach()

    def total(one, other):
        return sum(torch.exp(-_pairs(one, other) / (w * unit)).sum() for w in widths)

    return total(made, made) + total(real, real) - 2 * total(made, real)


def mmd_with_a_moving_scale(made, real, widths):
    both = torch.cat([made, real])
    kernel = sum(torch.exp(-_pairs(both, both) / (w * _pairs(both, both).mean())) for w in widths)
    n = len(made)
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def mmd_by_norms(made, real, widths):
    both = torch.cat([made, real])
    squares = (both**2).sum(1)
    apart = (squares[:, None] + squares - 2 * both @ both.T).clamp_min(0)
    kernel = torch.exp(-apart[..., None] / (torch.tensor(widths) * apart.detach().mean())).sum(-1)
    signs = torch.cat([torch.full((len(s),), 1.0 / len(s)) for s in (made, real)])
    signs[len(made) :] *= -1
    return signs @ kernel @ signs


def mmd_by_loop(made, real, widths):
    with torch.no_grad():
        unit = torch.cdist(torch.cat([made, real]), torch.cat([made, real])).pow(2).mean()

    def mean(one, other):
        found = [
            torch.exp(-(a - b).pow(2).sum() / (w * unit))
            for a in one
            for b in other
            for w in widths
        ]
        return len(widths) * torch.stack(found).mean()

    return mean(made, made) + mean(real, real) - mean(made, real) - mean(real, made)


def decode_by_inverse(front, images, order, made):
    inverse = torch.empty_like(order)
    inverse[order] = torch.arange(len(order))
    of = {tuple(z.tolist()): x for z, x in zip(made, images, strict=True)}
    return images[inverse], torch.stack([of[tuple(z.tolist())] for z in front(images)])


def decode_by_loop(front, images, order, made):
    predicted = [images[order.tolist().index(j)] for j in range(len(images))]
    measured = [images[(made - sent).abs().sum(1).argmin()] for sent in front(images)]
    return torch.stack(predicted), torch.stack(measured)


def decode_in_numpy(front, images, order, made):
    back = np.argsort(order.numpy())
    z = front(images).detach().numpy()
    nearest = np.square(z[:, None] - made.numpy()).sum(2).argmin(1)
    return [images.numpy()[back], images.numpy()[nearest]]


def _decode(predicted=None, measured=None):
    """Predict, or measure, with one thing wrong."""

    def predict_and_decode(front, images, order, made):
        sent = torch.cdist(made, front(images)).argmin(1)  # the order as it is
        return (
            predicted(images, order) if predicted else images[order.argsort()],
            measured(images, sent) if measured else images[sent.argsort()],
        )

    return predict_and_decode


def _other_turn(images, order):
    return images[order]


def _itself(images, order):
    return images


def _twice(images, order):
    return images[order.argsort()[order.argsort()]]


def _one_for_all(images, order):
    return images[:1].expand_as(images)


def aligned_by_sorting(own, wanted, luck):
    by_class, classes = own.argsort(stable=True), int(wanted.max()) + 1
    counts = own.bincount(minlength=classes)
    first = counts.cumsum(0) - counts
    at = (first[wanted] + (luck * counts[wanted]).long()).clamp_max(len(own) - 1)
    return torch.where(counts[wanted] > 0, by_class[at], (luck * len(own)).long())


def aligned_in_numpy(own, wanted, luck):
    own = own.numpy()
    rows = []
    for label, chance in zip(wanted.tolist(), luck.numpy(), strict=True):
        (there,) = np.where(own == label)
        among = there if there.size else np.arange(own.size)
        rows.append(among[int(np.floor(chance * len(among)))])
    return np.array(rows)


def aligned_by_lists(own, wanted, luck):
    every = list(range(len(own)))
    by_class = {label: [row for row in every if own[row] == label] for label in range(5)}
    groups = [by_class[int(label)] or every for label in wanted]
    return [group[int(x * len(group))] for group, x in zip(groups, luck, strict=True)]


def _aligned(place=lambda x, n: int(x * n), missing=None, name=lambda rows, at, own: rows[at]):
    """Draw with one thing wrong."""

    def aligned(own, wanted, luck):
        rows = []
        for label, x in zip(wanted.tolist(), luck.tolist(), strict=True):
            group = (own == label).nonzero()[:, 0].tolist()
            if not group and missing is not None:
                rows.append(missing)
                continue
            group = group or list(range(len(own)))
            rows.append(int(name(group, place(x, len(group)), own)))
        return torch.tensor(rows)

    return aligned


def _place_when_sorted(rows, at, own):
    whole = len(rows) == len(own)
    return at if whole else int((own < own[rows[0]]).sum()) + at


def aligned_without_the_missing(own, wanted, luck):
    known = torch.isin(wanted, own)
    return aligned_by_sorting(own, wanted[known], luck[known])


def aligned_with_the_next_class(own, wanted, luck):
    there = torch.isin(wanted, own)
    return aligned_by_sorting(own, torch.where(there, wanted, (wanted + 1) % 5), luck)


def watched(step):
    def flat(tensors):
        return torch.cat([values.detach().flatten().float() for values in tensors])

    def watched_step(surrogate, server, images, labels, lr):
        step(surrogate, server, images, labels, lr)
        weights = list(server.parameters())
        return {
            "surrogate": flat(surrogate.parameters()),
            "server": flat(server.state_dict().values()),
            "gradients": sum(w.grad is not None and bool(w.grad.any()) for w in weights),
            "frozen": sum(not w.requires_grad for w in weights),
            "training": sum(layer.training for layer in server.modules()),
            "surrogate_training": sum(layer.training for layer in surrogate.modules()),
        }

    return watched_step


@watched
def step_with_an_optimizer(surrogate, server, images, labels, lr):
    optimizer = torch.optim.SGD(surrogate.parameters(), lr=lr)
    server.requires_grad_(False).eval()
    cross_entropy(server(surrogate(images)), labels).backward()
    optimizer.step()
    server.requires_grad_(True).train()


@watched
def step_that_cleans_up(surrogate, server, images, labels, lr):
    server.eval()
    logits = server(surrogate(images)).log_softmax(1)
    (-logits.gather(1, labels[:, None]).mean()).backward()
    for weight in surrogate.parameters():
        weight.data -= lr * weight.grad
    server.zero_grad()
    server.train()


@watched
def step_by_two_halves(surrogate, server, images, labels, lr):
    made = surrogate(images)
    heard = made.detach().requires_grad_()
    server.eval()
    (slope,) = torch.autograd.grad(cross_entropy(server(heard), labels), heard)
    server.train()
    made.backward(slope)
    with torch.no_grad():
        for weight in surrogate.parameters():
            weight.sub_(weight.grad, alpha=lr)


def _step(
    learn=1.0, loss=cross_entropy, mode=False, of_copy=True, clean=True, thaw=True, back=True,
    move=None, also=False, target=None,
):  # fmt: skip
    """Take a step with one thing wrong."""

    @watched
    def frozen_step(surrogate, server, images, labels, lr):
        used = copy.deepcopy(server) if of_copy else server
        used.train(mode)
        logits = used(surrogate(images))
        loss(logits, target(logits) if target else labels).backward()
        with torch.no_grad():
            for weight in [*surrogate.parameters(), *(used.parameters() if also else [])]:
                weight += move(weight.grad, lr) if move else -learn * lr * weight.grad
        if clean:
            used.zero_grad()
        if not thaw:
            used.requires_grad_(False)
        if back:
            used.train()

    return frozen_step


@watched
def step_of_a_copy(surrogate, server, images, labels, lr):
    step_that_cleans_up(copy.deepcopy(surrogate), server, images, labels, lr)


@watched
def step_in_evaluation_mode(surrogate, server, images, labels, lr):
    step_that_cleans_up(surrogate.eval(), server, images, labels, lr)


def _figures(client, surrogate, server, own, own_labels, images, labels):
    with torch.no_grad():
        victim = server(client(images)).argmax(1)
        stolen = server(surrogate(images)).argmax(1)
    return victim, stolen, _nearest(own, own_labels, images)


def _nearest(own, own_labels, images):
    return own_labels[(images[:, None] - own).square().flatten(2).sum(2).argmin(1)]


def ahead_by_counting(client, surrogate, server, own, own_labels, images, labels):
    victim, stolen, rival = _figures(client, surrogate, server, own, own_labels, images, labels)
    gains = []
    for truth in (labels, victim):
        won = sum(int(s == t) - int(r == t) for s, r, t in zip(stolen, rival, truth, strict=True))
        gains.append(won / len(truth))
    return tuple(gains)


def ahead_in_numpy(client, surrogate, server, own, own_labels, images, labels):
    said = _figures(client, surrogate, server, own, own_labels, images, labels)
    victim, stolen, rival = (part.numpy() for part in said)
    return [np.mean(stolen == t) - np.mean(rival == t) for t in (labels.numpy(), victim)]


def ahead_by_neighbours(client, surrogate, server, own, own_labels, images, labels):
    from sklearn.neighbors import KNeighborsClassifier

    rival = KNeighborsClassifier(1).fit(own.flatten(1), own_labels).predict(images.flatten(1))
    stolen = nn.Sequential(surrogate, server)(images).argmax(1)
    victim = nn.Sequential(client, server)(images).argmax(1)
    return torch.stack(
        [
            (stolen == t).double().mean() - (torch.as_tensor(rival) == t).double().mean()
            for t in (labels, victim)
        ]
    ).tolist()


def _ahead(gain):
    """Return what `gain` makes of the answers of victim, surrogate and rival, and the truth."""

    def ahead(client, surrogate, server, own, own_labels, images, labels):
        said = _figures(client, surrogate, server, own, own_labels, images, labels)
        return gain(*said, labels)

    return ahead


def _rate(one, other):
    return (one == other).float().mean()


def ahead_on_own(client, surrogate, server, own, own_labels, images, labels):
    victim, stolen, _ = _figures(client, surrogate, server, own, own_labels, images, labels)
    agreed = _rate(server(client(own)).argmax(1), own_labels)
    return _rate(stolen, labels) - 1, _rate(stolen, victim) - agreed


def ahead_of_class_means(client, surrogate, server, own, own_labels, images, labels):
    means = torch.stack([own[own_labels == label].mean(0) for label in range(4)])
    found = _figures(client, surrogate, server, means, torch.arange(4), images, labels)
    victim, stolen, rival = found
    return [_rate(stolen, t) - _rate(rival, t) for t in (labels, victim)]


def ahead_in_smashed_data(client, surrogate, server, own, own_labels, images, labels):
    victim, stolen, _ = _figures(client, surrogate, server, own, own_labels, images, labels)
    rival = _nearest(client(own).detach(), own_labels, client(images).detach())
    return [_rate(stolen, t) - _rate(rival, t) for t in (labels, victim)]


def ahead_on_all(client, surrogate, server, own, own_labels, images, labels):
    images, labels = torch.cat([images, own]), torch.cat([labels, own_labels])
    return ahead_by_counting(client, surrogate, server, own, own_labels, images, labels)


def ahead_with_the_client(client, surrogate, server, own, own_labels, images, labels):
    return ahead_by_counting(client, client, server, own, own_labels, images, labels)


def study_by_loop(own, own_labels, private, labels, inputs):
    fresh = [i for i, x in enumerate(private) if not any(torch.equal(x, mine) for mine in own)]
    runs = []
    for run in inputs:
        runs.append(np.mean([(run[i] - private[i]).square().mean().item() for i in fresh]))
    guesses = [own[own_labels == labels[i]].mean(0) - private[i] for i in fresh]
    return float(np.median(runs) / np.mean([guess.square().mean().item() for guess in guesses]))


def study_in_numpy(own, own_labels, private, labels, inputs):
    own, private, inputs = (part.flatten(-3).numpy() for part in (own, private, inputs))
    fresh = np.square(private[:, None] - own).sum(2).min(1) > 0
    by_class = np.stack([own[own_labels.numpy() == label].mean(0) for label in range(4)])
    baseline = np.square(by_class[labels.numpy()] - private)[fresh].mean()
    return np.median(np.square(inputs - private)[:, fresh].mean((1, 2))) / baseline


def study_by_sets(own, own_labels, private, labels, inputs):
    known = {tuple(image.flatten().tolist()) for image in own}
    kept = torch.tensor([tuple(x.flatten().tolist()) not in known for x in private])
    one_hot = nn.functional.one_hot(own_labels, 4).float()
    means = (one_hot.T @ own.flatten(1)) / one_hot.sum(0)[:, None]
    apart = (means[labels] - private.flatten(1))[kept].square().mean()
    return (inputs - private)[:, kept].square().flatten(1).mean(1).median() / apart


def _study(owned=True, run=torch.median, of_class=True, kept=None, images=None, quotient=None):
    """Report a study with some of its flaws, or with other ones."""

    def fair_study(own, own_labels, private, labels, inputs):
        same = (private[:, None] == own).flatten(2).all(2)
        fresh = ~same.any(1) if owned else torch.ones(len(private), dtype=torch.bool)
        fresh = kept(same, labels) if kept else fresh
        errors = (inputs - private).square().mean((2, 3, 4))[:, fresh]
        from_images, classes = own, own_labels
        if images:
            from_images, classes = images(own, own_labels, private, labels, same)
        means = torch.stack([from_images[classes == label].mean(0) for label in range(4)])
        guess = means[labels] if of_class else own.mean(0)
        baseline = (guess - private).square().mean((1, 2, 3))[fresh]
        if quotient:
            return quotient(errors, baseline)
        return (run(errors.mean(1)) / baseline.mean()).item()

    return fair_study


def study_with_the_baseline_of_all(own, own_labels, private, labels, inputs):
    fresh = ~(private[:, None] == own).flatten(2).all(2).any(1)
    means = torch.stack([own[own_labels == label].mean(0) for label in range(4)])
    errors = (inputs - private)[:, fresh].square().flatten(1).mean(1)
    return (errors.median() / (means[labels] - private).square().mean()).item()


def study_by_cdist(own, own_labels, private, labels, inputs):
    fresh = torch.cdist(private.flatten(1), own.flatten(1)).min(1).values > 1e-6
    means = torch.stack([own[own_labels == label].mean(0) for label in range(4)])
    baseline = (means[labels] - private)[fresh].square().mean()
    return ((inputs - private)[:, fresh].square().flatten(1).mean(1).median() / baseline).item()


def _surrogate(view, images, labels, steps=300, batch=64, critic=0.0):
    """Train a surrogate, and return what it makes of `images`, and z, in one scale."""
    z, server = view.smashed, view.model.eval().requires_grad_(False)
    surrogate = view.architecture.build(1, "surrogate")
    guessed = server(z).argmax(1)
    mean, spread = z.mean(0), z.std(0) + 0.1 * z.std()
    told = Discriminator(tuple(z.shape[1:]), classes=10, lr=5e-4, seed=1)
    optimizer = torch.optim.Adam(surrogate.parameters(), lr=3e-3)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        rows, mine = torch.randint(len(z), (batch,)), torch.randint(len(images), (batch,))
        made = surrogate(images[mine])
        scaled = [(part - mean) / spread for part in (made, z[rows])]
        samples = Samples(*scaled, labels[mine], guessed[rows])
        loss = mk_mmd(samples) + cross_entropy(server(made), labels[mine])
        if critic:
            loss = loss + critic * told.loss(samples)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        if critic:
            told.learn(samples)
    with torch.no_grad():
        return (surrogate(images) - mean) / spread, (z - mean) / spread


def read_by_ridge(view, images, labels):
    known, asked = _surrogate(view, images, labels)
    mean = images.flatten(1).mean(0)
    known, asked = (torch.cat([part, torch.ones(len(part), 1)], 1) for part in (known, asked))
    inner = known.T @ known + 100 * torch.eye(known.shape[1])
    weights = torch.linalg.solve(inner, known.T @ (images.flatten(1) - mean))
    return (asked @ weights + mean).clamp(0, 1).view(-1, *images.shape[1:])


def read_without_training(view, images, labels):
    with torch.no_grad():
        known = view.architecture.build(1, "surrogate")(images)
    inner = known.T @ known + 0.1 * torch.eye(known.shape[1])
    weights = torch.linalg.solve(inner, known.T @ images.flatten(1))
    return (view.smashed @ weights).clamp(0, 1).view(-1, *images.shape[1:])


def read_with_a_critic(view, images, labels):
    from sklearn.kernel_ridge import KernelRidge

    known, asked = _surrogate(view, images, labels, batch=32, critic=0.1)
    mean = images.flatten(1).mean(0)
    width = 1 / torch.cdist(known, known).square().mean().item()
    ridge = KernelRidge(alpha=1.0, kernel="rbf", gamma=width).fit(known, images.flatten(1) - mean)
    read = torch.as_tensor(ridge.predict(asked)).float() + mean
    return read.view(-1, *images.shape[1:])


def _read_by(*attacks):
    """The mean of what some attacks of the library read."""

    def after_fc1(view, images, labels):
        own = data.Split(images, labels)
        return torch.stack([attack(view, own).inputs for attack in attacks]).mean(0)

    return after_fc1


def read_with_moved_images(view, images, labels):
    moves = [(0, 0), (0, 1), (1, 0), (0, -1), (-1, 0)]
    moved = torch.cat([images.roll(move, (-2, -1)) for move in moves])
    return SDAR(steps=1000)(view, data.Split(moved, labels.repeat(len(moves)))).inputs


def mean_of_the_guessed_class(view, images, labels):
    guessed = view.model.eval()(view.smashed).argmax(1)
    return class_means(data.Split(images, labels), guessed)


def mixture_of_class_means(view, images, labels):
    shares = view.model.eval()(view.smashed).softmax(1)
    means = torch.stack([images[labels == label].mean(0) for label in range(10)])
    return torch.einsum("nk,k...->n...", shares, means)


def an_own_image_of_the_class(view, images, labels):
    guessed = view.model.eval()(view.smashed).argmax(1)
    return torch.stack([images[labels == label][0] for label in guessed])


PROOFS = {
    "10.mmd": Proof(
        wrong={
            "takes the cross kernel once": _mmd(cross=1.0),
            "adds the cross kernel": _mmd(cross=-2.0),
            "returns the cross kernel": _mmd(within=0.0, cross=-1.0),
            "does not square": _mmd(
                bend=lambda apart: apart.clamp_min(1e-20).sqrt(), scale=_mean_distance
            ),
            "takes twice the width": _mmd(factor=2.0),
            "takes the scale across": _mmd(scale=lambda made, real: _pairs(made, real).mean()),
            "takes the scale of others": _mmd(scale=_scale_of_others),
            "takes no scale": _mmd(scale=lambda made, real: torch.ones(())),
            "takes the mean of the kernels": _mmd(add=lambda ks: sum(ks) / len(ks)),
            "takes the first width": _mmd(add=lambda ks: ks[0]),
            "leaves each with itself out": _mmd(keep=_off_diagonal),
            "takes the root": _mmd(root=True),
            "adds up all pairs": mmd_of_sums,
            "lets the scale move": mmd_with_a_moving_scale,
            "detaches": lambda *arguments: _mmd()(*arguments).detach(),
        },
        right=[_mmd(), mmd_by_norms, mmd_by_loop],
    ),
    "10.mixed": Proof(
        wrong={
            "predicts the other turn": _decode(predicted=_other_turn),
            "predicts each as itself": _decode(predicted=_itself),
            "predicts two turns": _decode(predicted=_twice),
            "predicts one for all": _decode(predicted=_one_for_all),
            "looks up the client's for its own": _decode(measured=_other_turn),
            "decodes the client's by the client": _decode(measured=_itself),
            "decodes twice": _decode(measured=_twice),
            "looks up one for all": _decode(measured=_one_for_all),
            "returns the prediction twice": lambda front, images, order, made: (
                [images[order.argsort()]] * 2
            ),
            "returns smashed data": lambda front, images, order, made: [made] * 2,
            "returns one of them": lambda front, images, order, made: images[order.argsort()],
        },
        right=[decode_by_inverse, decode_by_loop, decode_in_numpy],
    ),
    "10.aligned": Proof(
        wrong={
            "returns labels": _aligned(name=lambda rows, at, own: own[rows[at]]),
            "draws any image": lambda own, wanted, luck: (luck * len(own)).long(),
            "takes the first": _aligned(place=lambda x, n: 0),
            "returns places in the class": _aligned(name=lambda rows, at, own: at),
            "returns places when sorted": _aligned(name=_place_when_sorted),
            "rounds": _aligned(place=lambda x, n: min(round(x * n), n - 1)),
            "counts from the end": _aligned(place=lambda x, n: n - 1 - int(x * n)),
            "counts from 1": _aligned(place=lambda x, n: min(int(x * n) + 1, n - 1)),
            "takes the next class for a missing one": aligned_with_the_next_class,
            "never draws the last": _aligned(place=lambda x, n: int(x * (n - 1))),
            "gives missing classes row 0": _aligned(missing=0),
            "drops missing classes": aligned_without_the_missing,
        },
        right=[aligned_by_sorting, aligned_in_numpy, aligned_by_lists],
    ),
    "10.frozen": Proof(
        wrong={
            "goes uphill": _step(learn=-1.0),
            "forgets lr": _step(move=lambda slope, lr: -slope),
            "takes the sum": _step(loss=lambda z, y: cross_entropy(z, y, reduction="sum")),
            "uses a copy in training mode": _step(mode=True),
            "takes softmax twice": _step(loss=lambda z, y: cross_entropy(z.softmax(1), y)),
            "teaches the server's own answers": _step(target=lambda z: z.argmax(1)),
            "takes a step of Adam": _step(move=lambda slope, lr: -lr * slope.sign()),
            "trains the server along": _step(of_copy=False, also=True),
            "leaves the server in training mode": _step(of_copy=False, mode=True),
            "leaves gradients": _step(of_copy=False, clean=False),
            "leaves the server frozen": _step(of_copy=False, thaw=False),
            "leaves it in evaluation mode": _step(of_copy=False, back=False),
            "steps with a copy": step_of_a_copy,
            "leaves the surrogate in evaluation mode": step_in_evaluation_mode,
            "returns the surrogate alone": lambda *a: _step()(*a)["surrogate"],
        },
        right=[step_with_an_optimizer, step_that_cleans_up, step_by_two_halves],
    ),
    "10.ahead": Proof(
        wrong={
            "forgets the rival": _ahead(lambda v, s, r, y: (_rate(s, y), _rate(s, v))),
            "returns the rival": _ahead(lambda v, s, r, y: (_rate(r, y), _rate(r, v))),
            "turns the difference": _ahead(
                lambda v, s, r, y: (_rate(r, y) - _rate(s, y), _rate(r, v) - _rate(s, v))
            ),
            "swaps the two": lambda *scene: ahead_by_counting(*scene)[::-1],
            "takes accuracy for agreement": _ahead(
                lambda v, s, r, y: (_rate(s, y) - _rate(r, y),) * 2
            ),
            "tries the rival on its own images": ahead_on_own,
            "takes class means for the rival": ahead_of_class_means,
            "lets the rival agree with the surrogate": _ahead(
                lambda v, s, r, y: (_rate(s, y) - _rate(r, y), _rate(s, v) - _rate(r, s))
            ),
            "takes the client": ahead_with_the_client,
            "lets the rival see smashed data": ahead_in_smashed_data,
            "measures on the own images too": ahead_on_all,
            "divides": _ahead(
                lambda v, s, r, y: (_rate(s, y) / _rate(r, y), _rate(s, v) / _rate(r, v))
            ),
            "divides the difference": _ahead(
                lambda v, s, r, y: (_rate(s, y) / _rate(r, y) - 1, _rate(s, v) / _rate(r, v) - 1)
            ),
            "compares with the victim": _ahead(
                lambda v, s, r, y: (_rate(s, y) - _rate(v, y), _rate(s, v) - 1)
            ),
            "counts where the victim is right": _ahead(
                lambda v, s, r, y: (
                    _rate(s, y) - _rate(r, y),
                    _rate(s[v == y], y[v == y]) - _rate(r[v == y], y[v == y]),
                )
            ),
            "returns one of them": lambda *scene: ahead_by_counting(*scene)[0],
        },
        right=[ahead_by_counting, ahead_in_numpy, ahead_by_neighbours],
    ),
    "10.fair_study": Proof(
        wrong={
            "mends nothing": _study(False, torch.amin, False),
            "attacks its own images": _study(owned=False),
            "reports the luckiest run": _study(run=torch.amin),
            "compares with the mean image": _study(of_class=False),
            "mends the targets only": _study(True, torch.amin, False),
            "mends the run only": _study(False, torch.median, False),
            "mends the baseline only": _study(False, torch.amin, True),
            "takes the mean of the runs": _study(run=torch.mean),
            "takes the worst run": _study(run=torch.amax),
            "takes the median image": _study(
                quotient=lambda e, b: e.median(1).values.median() / b.mean()
            ),
            "takes the median of the runs image by image": _study(
                quotient=lambda e, b: e.median(0).values.mean() / b.mean()
            ),
            "takes medians over images": _study(
                quotient=lambda e, b: e.median(1).values.median() / b.median()
            ),
            "keeps all images in the baseline": study_with_the_baseline_of_all,
            "looks for shared images by cdist": study_by_cdist,
            "divides image by image": _study(quotient=lambda e, b: (e / b).mean(1).median()),
            "takes means of the private images": _study(
                images=lambda own, own_labels, private, labels, same: (private, labels)
            ),
            "takes the shared images from the attacker": _study(
                images=lambda own, own_labels, private, labels, same: (
                    own[~same.any(0)],
                    own_labels[~same.any(0)],
                )
            ),
            "drops classes": _study(
                kept=lambda same, labels: ~torch.isin(labels, labels[same.any(1)])
            ),
            "keeps what the attacker owns": _study(kept=lambda same, labels: same.any(1)),
        },
        right=[study_by_loop, study_in_numpy, study_by_sets],
    ),
    "10.challenge": Proof(
        wrong={
            "returns the mean image": lambda view, images, labels: images.mean(0).repeat(
                len(view.smashed), 1, 1, 1
            ),
            "returns the mean of the guessed class": mean_of_the_guessed_class,
            "mixes the means by the server's answers": mixture_of_class_means,
            "returns an own image of the class": an_own_image_of_the_class,
            "decodes by an untrained surrogate": read_without_training,
            "returns the own images": lambda view, images, labels: images,
            "takes a short PCAT as it is": _read_by(PCAT(steps=300, batch=32)),
            "decodes by ridge regression after 300 steps": read_by_ridge,
            "the same, with kernels and a critic": read_with_a_critic,
        },
        right=[
            _read_by(SDAR(steps=1000)),
            _read_by(*(SDAR(steps=600, batch=32, seed=seed) for seed in range(3))),
            read_with_moved_images,
        ],
        seeds=range(7000, 7001),  # as the wrong answers
    ),
}
