"""Answers to the tasks of topic 06."""

from collections import Counter
from functools import cache

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy, log_softmax, normalize, one_hot
from torch.nn.utils import parameters_to_vector

from sltools import data, models
from tests.bank import Proof


def _mean(hits):
    return hits.float().mean()


def _tables(victim, other, labels, classes=4):
    truth, v, w = (one_hot(said, classes).float() for said in (labels, victim, other))
    sizes = truth.sum(0)
    return sizes, (truth.T @ v * (truth.T @ w)).sum(1) / sizes**2


def _expected(victim, other, labels):
    sizes, within = _tables(victim, other, labels)
    return (sizes * within).sum() / sizes.sum()


def _corrected(chance):
    def beyond_chance(*said):
        agreement, expected = _mean(said[0] == said[1]), chance(*said)
        return (agreement - expected) / (1 - expected)

    return beyond_chance


def _both(victim, other, labels):
    return _mean(victim == labels) * _mean(other == labels)


def mean_of_classes(victim, other, labels):
    _, within = _tables(victim, other, labels)
    own = torch.stack([_mean((victim == other)[labels == y]) for y in range(4)])
    return ((own - within) / (1 - within)).mean()


def agreement_by_pairs(victim, other, labels):
    """Let each image's victim meet the other network on every image of the same class."""
    same = labels[:, None] == labels
    meets = (victim[:, None] == other) & same
    expected = (meets.sum(1) / same.sum(1)).mean()
    return 1 - _mean(victim != other) / (1 - expected)


def agreement_by_counting(victim, other, labels):
    v, w, y = victim.tolist(), other.tolist(), labels.tolist()
    expected = 0.0
    for label, size in Counter(y).items():
        first, second = (
            Counter(s for s, t in zip(said, y, strict=True) if t == label) for said in (v, w)
        )
        expected += sum(first[c] * second[c] for c in first) / size
    agree = sum(a == b for a, b in zip(v, w, strict=True))
    return (agree - expected) / (len(y) - expected)


def agreement_in_numpy(victim, other, labels):
    v, w, y = (said.numpy() for said in (victim, other, labels))
    expected = [
        ((v[y == t] == c).mean() * (w[y == t] == c).mean() * (y == t).sum())
        for t in np.unique(y)
        for c in range(10)
    ]
    e = sum(expected) / len(y)
    return ((v == w).mean() - e) / (1 - e)


def _slope(clone, g, images, labels, loss=cross_entropy):
    x = images.clone().requires_grad_()
    return torch.autograd.grad(loss(g(clone(x)), labels), x)[0]


def _step(move=None, loss=cross_entropy, said=False):
    """Take the step with one thing wrong."""

    def adversarial(clone, g, images, labels, epsilon):
        labels = g(clone(images)).argmax(1) if said else labels
        slope = _slope(clone, g, images, labels, loss)
        if move:
            return move(images, slope, epsilon)
        return (images + epsilon * slope.sign()).clamp(0, 1)

    return adversarial


def step_by_backward(clone, g, images, labels, epsilon):
    images.requires_grad_()
    nn.CrossEntropyLoss(reduction="sum")(g(clone(images)), labels).backward()
    changed = images.detach() + epsilon * torch.sign(images.grad)
    return torch.clip(changed, 0, 1)


def step_one_by_one(clone, g, images, labels, epsilon):
    changed = []
    for image, label in zip(images, labels, strict=True):
        x = image[None].requires_grad_()
        (-log_softmax(g(clone(x)), 1)[0, label]).backward()
        changed.append((image + epsilon * x.grad[0].sign()).detach())
    return torch.stack(changed).clamp(0, 1)


def step_in_numpy(clone, g, images, labels, epsilon):
    whole = nn.Sequential(clone, g)
    loss = torch.func.grad(lambda x: cross_entropy(whole(x), labels))
    return np.clip(images.numpy() + epsilon * np.sign(loss(images).detach().numpy()), 0, 1)


def _said(victim, images):
    return victim(images).argmax(1)


def _far(images, changed):
    return (changed - images).abs().flatten(1).amax(1)


def _noisy(images, signs, epsilon):
    return (images + epsilon * signs).clamp(0, 1)


def _rates(
    among=lambda right, far, epsilon: right,
    noise_among=None,
    allowed=lambda far, epsilon: far <= epsilon,
    noisy=_noisy,
    result=lambda fooled, noise: (fooled, noise),
):
    """Count with one thing wrong."""

    def fair_transfer(victim, images, labels, changed, signs, epsilon):
        right, far = _said(victim, images) == labels, _far(images, changed)
        counted = among(right, far, epsilon)
        fooled = (_said(victim, changed) != labels) & allowed(far, epsilon)
        by_noise = _said(victim, noisy(images, signs, epsilon)) != labels
        noise = by_noise[noise_among(right) if noise_among else right]
        return result(_mean(fooled[counted]), _mean(noise))

    return fair_transfer


def everything(right, *others):
    return torch.ones_like(right)


def still_flawed(victim, images, labels, changed, signs, epsilon):
    return _mean(_said(victim, changed) != labels), 0.0


def flips(victim, images, labels, changed, signs, epsilon):
    before, allowed = _said(victim, images), _far(images, changed) <= epsilon
    noise = _mean(_said(victim, _noisy(images, signs, epsilon)) != before)
    return _mean((_said(victim, changed) != before) & allowed), noise


def share_of_all(victim, images, labels, changed, signs, epsilon):
    right, allowed = _said(victim, images) == labels, _far(images, changed) <= epsilon
    fooled = (_said(victim, changed) != labels) & allowed & right
    noise = (_said(victim, _noisy(images, signs, epsilon)) != labels) & right
    return _mean(fooled), _mean(noise)


def transfer_by_loop(victim, images, labels, changed, signs, epsilon):
    tried = fooled = noise = 0
    for x, y, x2, s in zip(images, labels, changed, signs, strict=True):
        if victim(x[None]).argmax() != y:
            continue
        tried += 1
        allowed = bool(((x2 - x).abs() <= epsilon).all())
        fooled += allowed and bool(victim(x2[None]).argmax() != y)
        noise += bool(victim((x + epsilon * s).clamp(0, 1)[None]).argmax() != y)
    return fooled / tried, noise / tried


def transfer_by_undoing(victim, images, labels, changed, signs, epsilon):
    """Put back what was changed too far: the victim is right there."""
    right = _said(victim, images) == labels
    x, y = images[right], labels[right]
    allowed = _far(x, changed[right]) <= epsilon
    attacked = torch.where(allowed[:, None, None, None], changed[right], x)
    noisy = (x + epsilon * signs[right]).clip(0, 1)
    return [1 - _mean(_said(victim, images) == y) for images in (attacked, noisy)]


def transfer_in_numpy(victim, images, labels, changed, signs, epsilon):
    x, y = images.numpy(), labels.numpy()
    noisy = torch.from_numpy(np.clip(x + np.float32(epsilon) * signs.numpy(), 0, 1))
    first, second, third = (_said(victim, z).numpy() for z in (images, changed, noisy))
    right = first == y
    allowed = np.abs(changed.numpy() - x).max(axis=(1, 2, 3)) <= epsilon
    return ((second != y) & allowed & right).sum() / right.sum(), (third != y)[right].mean()


def disguise_by_loop(front, order, scale):
    w1, b1, w2, b2 = (w.detach().clone() for w in front.parameters())
    new1, new_bias, new2 = (torch.empty_like(w) for w in (w1, b1, w2))
    for j, (i, s) in enumerate(zip(order.tolist(), scale.tolist(), strict=True)):
        new1[j], new_bias[j], new2[:, j] = s * w1[i], s * b1[i], w2[:, i] / s
    return new1, new_bias, new2, b2


def disguise_in_place(front, order, scale):
    first, second = front[0], front[2]
    with torch.no_grad():
        first.weight.copy_(first.weight[order].clone() * scale.view(-1, 1, 1, 1))
        first.bias.copy_(first.bias[order].clone() * scale)
        second.weight.copy_(second.weight[:, order].clone() / scale.view(1, -1, 1, 1))
    return list(front.parameters())


def disguise_by_a_matrix(front, order, scale):
    w1, b1, w2, b2 = (w.detach() for w in front.parameters())
    moves = torch.diag(scale) @ torch.eye(len(order))[order]
    undone = torch.linalg.inv(moves)
    return [
        torch.einsum("ij,jabc->iabc", moves, w1),
        moves @ b1,
        torch.einsum("oiab,ij->ojab", w2, undone),
        b2,
    ]


def _disguise(**changes):
    """Disguise with some of the four tensors made wrongly."""

    def disguise(front, order, scale):
        made = dict(
            zip(("w1", "b1", "w2", "b2"), disguise_by_loop(front, order, scale), strict=True)
        )
        own = [weight.detach() for weight in front.parameters()]
        made |= {name: change(*own, order, scale) for name, change in changes.items()}
        return list(made.values())

    return disguise


def _moves(predict=None, measure=None):
    """Predict, or measure, with one thing wrong."""

    def predict_and_train(front, head, images, labels, lr):
        features = front(images).detach()
        right = moves_by_gradients(front, head, images, labels, lr)[0]
        sizes = head[0].weight.shape
        predicted = predict(features > 0, *sizes, front) if predict else right
        measured = measure(front, head, images, labels, lr) if measure else right
        return predicted, measured

    return predict_and_train


def moves_by_gradients(front, head, images, labels, lr):
    with torch.no_grad():
        features = front(images)
    alive = features.amax(0).ne(0)
    predicted = head[0].out_features * (1 + alive.sum())
    before = parameters_to_vector([*front.parameters(), *head.parameters()]).clone()
    slopes = torch.autograd.grad(cross_entropy(head(features), labels), list(head.parameters()))
    with torch.no_grad():
        for weight, slope in zip(head.parameters(), slopes, strict=True):
            weight -= lr * slope
    after = parameters_to_vector([*front.parameters(), *head.parameters()])
    return predicted, (before != after).sum()


def moves_by_state(front, head, images, labels, lr):
    whole = nn.Sequential(front, head)
    for name, weight in whole.named_parameters():
        weight.requires_grad = name.startswith("1.")
    before = {name: value.clone() for name, value in whole.state_dict().items()}
    cross_entropy(whole(images), labels).backward()
    optimizer = torch.optim.SGD(head.parameters(), lr)
    optimizer.step()
    measured = sum(
        (before[name] != value).sum().item() for name, value in whole.state_dict().items()
    )
    zero = sum(1 for column in front(images).T if column.max() == 0)
    return (21 - zero) * 4, measured


def moves_in_numpy(front, head, images, labels, lr):
    features = front(images).detach().numpy()
    used = np.union1d(
        *[np.flatnonzero(features[part].sum(0)) for part in (slice(2), slice(2, None))]
    )
    p = head(front(images)).softmax(1).detach().numpy() - np.eye(4)[labels.numpy()]
    slope = p.T @ features / len(features)
    moved = np.count_nonzero(np.abs(lr * slope) > 1e-9) + np.count_nonzero(p.mean(0))
    return len(used) * 4 + 4, moved


def _moved(which, lr=None, count=lambda new, old: (new != old).sum().item(), keep=torch.clone):
    def measure(front, head, images, labels, rate):
        weights = which(front, head)
        before = [keep(weight.detach()) for weight in [*front.parameters(), *head.parameters()]]
        cross_entropy(head(front(images)), labels).backward()
        torch.optim.SGD(weights, lr=rate).step()
        after = [*front.parameters(), *head.parameters()]
        return sum(count(new.detach(), old) for new, old in zip(after, before, strict=True))

    return measure


def _of_head(front, head):
    return list(head.parameters())


def of_weight_alone(front, head):
    return [head[0].weight]


def of_all(front, head):
    return [*front.parameters(), *head.parameters()]


def _crafted(steps=10, step=0.25, momentum=0.0, clones=None, loss=None, in_turn=False):
    """Attack the clones; `clones` chooses or replaces them."""
    loss = loss or (lambda outputs, y: sum(cross_entropy(logits, y) for logits in outputs))

    def craft(stolen, g, images, labels, epsilon):
        networks = clones(stolen, g) if clones else [nn.Sequential(clone, g) for clone in stolen]
        changed, past = images.clone(), torch.zeros_like(images)
        for turn in range(steps):
            x = changed.detach().requires_grad_()
            used = [networks[turn % len(networks)]] if in_turn else networks
            (slope,) = torch.autograd.grad(loss([network(x) for network in used], labels), x)
            size = slope.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
            past = momentum * past + slope / size
            changed = x.detach() + step * epsilon * past.sign()
            changed = images + (changed - images).clamp(-epsilon, epsilon)
            changed = changed.clamp(0, 1)
        return changed

    return craft


def margin(outputs, labels):
    logits = torch.stack(outputs).mean(0)
    own = logits.gather(1, labels[:, None])[:, 0]
    others = logits.masked_fill(one_hot(labels, 10).bool(), -torch.inf).amax(1)
    return (others - own).sum()


@cache
def _network_of_my_own():
    digits = data.load("digits").train
    network = models.for_images(digits.images.shape, 12345)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(1)
    for _ in range(12):
        for rows in torch.randperm(len(digits), generator=generator).split(64):
            optimizer.zero_grad()
            cross_entropy(network(digits.images[rows]), digits.labels[rows]).backward()
            optimizer.step()
    return network


def noise(clones, g, images, labels, epsilon):
    return (images + epsilon * torch.randn_like(images).sign()).clamp(0, 1)


PROOFS = {
    "06.agreement": Proof(
        wrong={
            "does not correct": lambda v, w, y: _mean(v == w),
            "corrects over all images": _corrected(
                lambda v, w, y: (
                    one_hot(v, 4).float().mean(0) * one_hot(w, 4).float().mean(0)
                ).sum()
            ),
            "expects only that both are right": _corrected(_both),
            "expects that both are wrong alike": _corrected(
                lambda *said: _both(*said) + _mean(said[0] != said[2]) * _mean(said[1] != said[2])
            ),
            "does not divide": lambda *said: _mean(said[0] == said[1]) - _expected(*said),
            "returns what was expected": _expected,
            "weighs classes alike": _corrected(lambda *said: _tables(*said)[1].mean()),
            "corrects each class": mean_of_classes,
            "looks at mistakes only": lambda v, w, y: _mean((v == w)[v != y]),
            "returns an accuracy": lambda v, w, y: _mean(w == y),
        },
        right=[agreement_by_pairs, agreement_by_counting, agreement_in_numpy],
    ),
    "06.step": Proof(
        wrong={
            "does not clamp": _step(lambda x, slope, e: x + e * slope.sign()),
            "goes down": _step(lambda x, slope, e: (x - e * slope.sign()).clamp(0, 1)),
            "forgets the sign": _step(lambda x, slope, e: (x + e * slope).clamp(0, 1)),
            "scales the length": _step(
                lambda x, slope, e: (x + e * normalize(slope.flatten(1)).view_as(x)).clamp(0, 1)
            ),
            "returns the change": _step(lambda x, slope, e: e * slope.sign()),
            "takes the clone's answers": _step(said=True),
            "takes softmax twice": _step(loss=lambda z, y: cross_entropy(z.softmax(1), y)),
            "forgets softmax": _step(loss=nn.functional.nll_loss),
            "does nothing": _step(lambda x, slope, e: x),
        },
        right=[step_by_backward, step_one_by_one, step_in_numpy],
    ),
    "06.fair_transfer": Proof(
        wrong={
            "mends nothing": still_flawed,
            "has no baseline": _rates(result=lambda fooled, noise: (fooled, 0.0)),
            "counts all images": _rates(among=everything, noise_among=everything),
            "tries noise on all images": _rates(noise_among=everything),
            "counts what went too far": _rates(allowed=lambda far, epsilon: far >= 0),
            "leaves out what went too far": _rates(
                among=lambda right, far, epsilon: right & (far <= epsilon)
            ),
            "counts changed answers": flips,
            "does not clamp the noise": _rates(noisy=lambda x, signs, epsilon: x + epsilon * signs),
            "divides by all": share_of_all,
            "swaps the two": _rates(result=lambda fooled, noise: (noise, fooled)),
            "returns the difference": _rates(result=lambda fooled, noise: (fooled, fooled - noise)),
        },
        right=[transfer_by_loop, transfer_by_undoing, transfer_in_numpy],
    ),
    "06.disguise": Proof(
        wrong={
            "changes nothing": lambda front, order, scale: list(front.parameters()),
            "turns the order": lambda front, order, scale: disguise_by_loop(
                front, order.argsort(), scale
            ),
            "scales before": lambda front, order, scale: disguise_by_loop(
                front, order, scale[order]
            ),
            "leaves the bias": _disguise(b1=lambda w1, b1, w2, b2, order, scale: b1),
            "does not scale the bias": _disguise(b1=lambda w1, b1, w2, b2, order, scale: b1[order]),
            "leaves the second layer": _disguise(w2=lambda w1, b1, w2, b2, order, scale: w2),
            "does not undo the factors": _disguise(
                w2=lambda w1, b1, w2, b2, order, scale: w2[:, order]
            ),
            "does not undo the order": _disguise(
                w2=lambda w1, b1, w2, b2, order, scale: w2 / scale[:, None, None]
            ),
            "multiplies again": _disguise(
                w2=lambda w1, b1, w2, b2, order, scale: w2[:, order] * scale[:, None, None]
            ),
            "moves the outputs": _disguise(
                w2=lambda w1, b1, w2, b2, order, scale: w2[order] / scale[:, None, None, None]
            ),
            "moves the last bias": _disguise(b2=lambda w1, b1, w2, b2, order, scale: b2[order]),
            "divides the last bias": _disguise(b2=lambda w1, b1, w2, b2, order, scale: b2 / scale),
            "returns two": lambda front, order, scale: disguise_by_loop(front, order, scale)[:2],
        },
        right=[disguise_by_loop, disguise_in_place, disguise_by_a_matrix],
    ),
    "06.moves": Proof(
        wrong={
            "forgets the biases": _moves(lambda alive, k, d, front: alive.any(0).sum() * k),
            "predicts the whole head": _moves(lambda alive, k, d, front: (d + 1) * k),
            "predicts everything": _moves(
                lambda alive, k, d, front: (d + 1) * k + sum(w.numel() for w in front.parameters())
            ),
            "asks for all images": _moves(lambda alive, k, d, front: (alive.all(0).sum() + 1) * k),
            "counts features": _moves(lambda alive, k, d, front: alive.any(0).sum()),
            "counts each image": _moves(lambda alive, k, d, front: (alive.sum() + 1) * k),
            "counts what is dead": _moves(
                lambda alive, k, d, front: ((~alive.any(0)).sum() + 1) * k
            ),
            "keeps no copy": _moves(measure=_moved(_of_head, keep=lambda weight: weight)),
            "counts tensors": _moves(
                measure=_moved(_of_head, count=lambda new, old: int((new != old).any()))
            ),
            "trains the front too": _moves(measure=_moved(of_all)),
            "trains no bias": _moves(measure=_moved(of_weight_alone)),
            "counts what could move": _moves(
                measure=lambda front, head, *rest: sum(w.numel() for w in head.parameters())
            ),
        },
        right=[moves_by_gradients, moves_by_state, moves_in_numpy],
    ),
    "06.challenge": Proof(
        wrong={
            "adds noise": noise,
            "takes one step on one clone": _crafted(
                1, 1.0, clones=lambda stolen, g: [nn.Sequential(stolen[0], g)]
            ),
            "takes one step on all": _crafted(1, 1.0),
            "goes too far": lambda clones, g, x, y, e: _crafted()(clones, g, x, y, 2 * e),
            "leaves the range": lambda clones, g, x, y, e: x + e,
            "attacks a network of its own": _crafted(
                clones=lambda stolen, g: [_network_of_my_own()]
            ),
        },
        right=[
            _crafted(),
            _crafted(momentum=1.0),
            _crafted(steps=20, step=0.125, loss=margin),
        ],
        seeds=range(7000, 7001),  # as the wrong answers
    ),
}
