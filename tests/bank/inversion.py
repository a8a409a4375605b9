"""Answers to the tasks of topic 04."""

import statistics

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from sltools import data
from sltools.attacks import UnSplit
from tests.bank import Proof


def tv_by_diff(images):
    return sum(images.diff(dim=dim).pow(2).mean() for dim in (2, 3))


def tv_by_loop(images):
    rows, columns = images.shape[2:]
    down = [(images[:, :, r + 1] - images[:, :, r]).square() for r in range(rows - 1)]
    across = [(images[..., c + 1] - images[..., c]).square() for c in range(columns - 1)]
    return torch.stack(down).mean() + torch.stack(across).mean()


def tv_by_slices(images):
    down = functional.mse_loss(images[..., 1:, :], images[..., :-1, :])
    return down + functional.mse_loss(images[..., 1:], images[..., :-1])


def tv_in_numpy(images):
    values = images.double().numpy()
    return np.mean(np.diff(values, axis=-2) ** 2) + np.mean(np.diff(values, axis=-1) ** 2)


def _directions(images):
    return images.diff(dim=2), images.diff(dim=3)


def step_by_backward(inputs, clone, smashed, lr):
    inputs.requires_grad_()
    functional.mse_loss(clone(inputs), smashed).backward()
    with torch.no_grad():
        weights = [weight - lr * weight.grad for weight in clone.parameters()]
        return torch.clamp(inputs - lr * inputs.grad, 0, 1), weights


def step_by_sgd(inputs, clone, smashed, lr):
    inputs = nn.Parameter(inputs)
    optimizer = torch.optim.SGD([inputs, *clone.parameters()], lr=lr)
    ((clone(inputs) - smashed) ** 2).mean().backward()
    optimizer.step()
    return [inputs.clamp(min=0, max=1), list(clone.parameters())]


def step_by_two_gradients(inputs, clone, smashed, lr):
    def loss(images):
        return (smashed - clone(images)).square().mean()

    held = inputs.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(held), held)
    pushes = torch.autograd.grad(loss(inputs), list(clone.parameters()))
    weights = [w.data.sub(p, alpha=lr) for w, p in zip(clone.parameters(), pushes, strict=True)]
    return (inputs - lr * gradient).clamp(0, 1), weights


def _step(sign=1.0, clamp=True, sums=False, late=False, bound=False, frozen=(False, False)):
    """Make a step with one thing wrong."""

    def step(inputs, clone, smashed, lr):
        def gradients(images):
            images = images.clone().requires_grad_()
            error = (clone(images) - smashed).square()
            loss = error.sum() if sums else error.mean()
            return torch.autograd.grad(loss, [images, *clone.parameters()])

        gradient, *pushes = gradients(inputs)
        moved = inputs if frozen[0] else inputs - sign * lr * gradient
        moved = moved.clamp(0, 1) if clamp else moved
        if late:
            _, *pushes = gradients(moved)
        rate = 0 if frozen[1] else sign * lr
        weights = [w - rate * p for w, p in zip(clone.parameters(), pushes, strict=True)]
        return moved, [w.clamp(0, 1) for w in weights] if bound else weights

    return step


def negative_by_flip(weight, bias):
    return weight.neg(), bias + torch.einsum("kcij->k", weight)


def negative_by_convolution(weight, bias):
    white = torch.ones(1, *weight.shape[1:])
    return -1 * weight, functional.conv2d(white, weight, bias).flatten()


def negative_by_loop(weight, bias):
    new = bias.clone()
    for number, kernel in enumerate(weight):
        new[number] += kernel.sum()
    return 0 - weight, new


def score_of(network, labels, images):
    return (network(images).argmax(dim=1) == labels).float().mean()


def clone_score_by_sequential(clone, front, rest, images, labels):
    stolen, victim = nn.Sequential(clone, rest), nn.Sequential(front, rest)
    says = victim(images).max(dim=1).indices
    return score_of(stolen, labels, images), score_of(stolen, says, images)


def clone_score_by_counting(clone, front, rest, images, labels):
    mine, theirs = rest(clone(images)).argmax(-1), rest(front(images)).argmax(-1)
    return sum(mine == labels).item() / len(images), sum(mine == theirs).item() / len(images)


def clone_score_by_loop(clone, front, rest, images, labels):
    hits = [0, 0]
    for image, label in zip(images, labels, strict=True):
        mine, theirs = (rest(part(image[None])).argmax() for part in (clone, front))
        hits[0] += int(mine == label)
        hits[1] += int(mine == theirs)
    return [hit / len(labels) for hit in hits]


def _shares(clone, front, rest, images, labels):
    mine, theirs = (rest(part(images)).argmax(1) for part in (clone, front))
    pairs = {"clone": (mine, labels), "agree": (mine, theirs), "victim": (theirs, labels)}
    return {name: (a == b).float().mean().item() for name, (a, b) in pairs.items()}


def fair_by_loop(inputs, truth):
    seeds = []
    for images in inputs:
        errors = ((images - truth) ** 2).flatten(1).mean(dim=1)
        seeds.append(statistics.median(errors.tolist()))
    return statistics.median(seeds)


def fair_in_numpy(inputs, truth):
    errors = ((inputs.numpy() - truth.numpy()[None]) ** 2).mean(axis=(2, 3, 4))
    return np.median(np.median(errors, axis=1))


def fair_by_quantile(inputs, truth):
    errors = functional.mse_loss(inputs, truth.expand_as(inputs), reduction="none")
    return errors.flatten(2).mean(2).quantile(0.5, dim=1).quantile(0.5)


def _errors(inputs, truth):
    return (inputs - truth).square().mean((2, 3, 4))


def _stretched(inputs):
    low, high = inputs.amin((2, 3, 4), True), inputs.amax((2, 3, 4), True)
    return (inputs - low) / (high - low)


def many_short(view):
    return UnSplit(steps=200, restarts=3, input_lr=0.1, clone_lr=5e-3)(view).inputs


def chosen_by_hand(view):
    runs = UnSplit(steps=300, restarts=2, input_lr=0.1, clone_lr=4e-3).runs(view)
    return min(runs, key=lambda run: run.objective).inputs


def smoother(view):
    return UnSplit(steps=300, restarts=3, tv=0.7, clone_lr=4e-3)(view).inputs


def mean_image(view):
    return data.load("digits").train.images.mean(0).expand(10, -1, -1, -1)


def first_test_digits(view):
    test = data.load("digits").test
    return torch.stack([test.images[test.labels == label][0] for label in range(10)])


PROOFS = {
    "04.tv": Proof(
        wrong={
            "takes absolute differences": lambda x: sum(d.abs().mean() for d in _directions(x)),
            "adds up in place of the mean": lambda x: sum(d.square().sum() for d in _directions(x)),
            "compares only down": lambda x: x.diff(dim=2).square().mean(),
            "compares only across": lambda x: x.diff(dim=3).square().mean(),
            "takes the channels for rows": lambda x: (
                x.diff(dim=1).square().mean() + x.diff(dim=2).square().mean()
            ),
            "halves the sum": lambda x: sum(d.square().mean() for d in _directions(x)) / 2,
            "gives one number for each image": lambda x: x.diff(dim=2).square().mean((1, 2, 3)),
            "forgets to return": lambda x: None,
            "computes it in numpy": tv_in_numpy,
            "detaches one of two neighbours": lambda x: sum(
                (a - b.detach()).square().mean()
                for a, b in ((x[:, :, 1:], x[:, :, :-1]), (x[..., 1:], x[..., :-1]))
            ),
        },
        right=[tv_by_diff, tv_by_loop, tv_by_slices],
    ),
    "04.feature_loss": Proof(
        wrong={
            "does not divide": lambda guess, z: (guess - z).square().mean(),
            "divides by the standard deviation": lambda guess, z: (
                (guess - z).square().mean() / z.std()
            ),
            "divides by the variance of the guess": lambda guess, z: (
                (guess - z).square().mean() / guess.var()
            ),
            "adds up the squares": lambda guess, z: (guess - z).square().sum() / z.var(),
            "divides by the mean square": lambda guess, z: (
                (guess - z).square().mean() / z.square().mean()
            ),
            "detaches the guess": lambda guess, z: functional.mse_loss(guess.detach(), z) / z.var(),
            "detaches one factor of the square": lambda guess, z: (
                ((guess - z) * (guess - z).detach()).mean() / z.var()
            ),
        },
        right=[
            lambda guess, z: functional.mse_loss(guess, z) / z.var(),
            lambda guess, z: ((guess - z) / z.std()).pow(2).mean(),
            lambda guess, z: (guess - z).norm() ** 2 / z.numel() / z.var(correction=0),
        ],
    ),
    "04.step": Proof(
        wrong={
            "leaves the images": _step(frozen=(True, False)),
            "climbs": _step(sign=-1.0),
            "forgets to clamp": _step(clamp=False),
            "takes the sum for the loss": _step(sums=True),
            "leaves the clone": _step(frozen=(False, True)),
            "moves the clone after the images": _step(late=True),
            "clamps the weights": _step(bound=True),
            "returns only the images": lambda inputs, clone, smashed, lr: inputs,
        },
        right=[step_by_backward, step_by_sgd, step_by_two_gradients],
    ),
    "04.negative": Proof(
        wrong={
            "forgets the bias": lambda w, b: (-w, b),
            "subtracts the sum": lambda w, b: (-w, b - w.sum((1, 2, 3))),
            "turns the bias too": lambda w, b: (-w, -b + w.sum((1, 2, 3))),
            "takes the mean of the filter": lambda w, b: (-w, b + w.mean((1, 2, 3))),
            "keeps the weight": lambda w, b: (w, b + w.sum((1, 2, 3))),
            "sums all filters": lambda w, b: (-w, b + w.sum()),
            "sums over the wrong axis": lambda w, b: (-w, b + w.sum((0, 2, 3))),
        },
        right=[negative_by_flip, negative_by_convolution, negative_by_loop],
    ),
    "04.clone_score": Proof(
        wrong={
            "scores the victim's front": lambda *a: (_shares(*a)["victim"], 1.0),
            "takes the victim's accuracy": lambda *a: (_shares(*a)["victim"], _shares(*a)["agree"]),
            "agrees with the labels": lambda *a: (_shares(*a)["clone"], _shares(*a)["clone"]),
            "swaps the two": lambda *a: (_shares(*a)["agree"], _shares(*a)["clone"]),
            "gives per cent": lambda *a: (100 * _shares(*a)["clone"], 100 * _shares(*a)["agree"]),
            "rounds the shares": lambda *a: (
                round(_shares(*a)["clone"], 1),
                round(_shares(*a)["agree"], 1),
            ),
            "returns the accuracy only": lambda *a: _shares(*a)["clone"],
        },
        right=[clone_score_by_sequential, clone_score_by_counting, clone_score_by_loop],
    ),
    "04.fair_score": Proof(
        wrong={
            "still stretches": lambda x, t: fair_by_loop(_stretched(x), t),
            "still takes the best seed": lambda x, t: _errors(x, t).quantile(0.5, dim=1).min(),
            "stretches and takes the best seed": lambda x, t: (
                _errors(_stretched(x), t).quantile(0.5, dim=1).min()
            ),
            "still takes the best image": lambda x, t: _errors(x, t).amin(1).quantile(0.5),
            "takes the lower of two": lambda x, t: _errors(x, t).median(1).values.median(),
            "pools all errors": lambda x, t: _errors(x, t).quantile(0.5),
            "pools all errors, takes the lower of two": lambda x, t: _errors(x, t).median(),
            "rounds the score": lambda x, t: round(float(fair_by_loop(x, t)), 3),
            "takes means": lambda x, t: _errors(x, t).mean(),
            "takes the mean of the images": lambda x, t: _errors(x, t).mean(1).median(),
        },
        right=[fair_by_loop, fair_in_numpy, fair_by_quantile],
    ),
    "04.challenge": Proof(
        wrong={
            "answers with the mean image": mean_image,
            "answers with the digits of the test set": lambda view: (
                first_test_digits(view) + 1e-6 * view.smashed[0].mean()
            ),
            "runs the default for a moment": lambda view: UnSplit(steps=20)(view).inputs,
            "runs the default in as many steps": lambda view: UnSplit(steps=120)(view).inputs,
            "returns one image": lambda view: UnSplit(steps=50)(view).inputs[0],
        },
        right=[many_short, chosen_by_hand, smoother],
        seeds=range(7000, 7001),  # as the wrong answers: each takes some ten seconds
    ),
}
