"""Answers to the tasks of topic 08."""

import math

import numpy as np
import torch
from scipy.stats import mannwhitneyu
from sklearn.metrics import roc_auc_score
from torch.nn.functional import binary_cross_entropy, mse_loss, normalize

from sltools.attacks import networks
from tests.bank import Proof


def privatise_by_loop(z, clip, multiplier, noise):
    rows = []
    for sample in z:
        length = sample.norm().item()
        rows.append(sample if length <= clip else sample * clip / length)
    return torch.stack(rows).add(noise, alpha=2 * clip * multiplier)


def privatise_by_renorm(z, clip, multiplier, noise):
    return torch.renorm(z, 2, 0, clip) + 2 * multiplier * clip * noise


def privatise_by_direction(z, clip, multiplier, noise):
    rows = z.flatten(1)
    lengths = rows.square().sum(1, keepdim=True).sqrt().clamp(max=clip)
    return (normalize(rows) * lengths).view_as(z) + noise * (multiplier * clip) * 2


def _private(sensitivity=2.0, norms=None, clipped=None, noisy=True):
    """Privatise with one thing wrong."""

    def privatise(z, clip, multiplier, noise):
        own = z.flatten(1).norm(dim=1).view(-1, 1, 1, 1) if norms is None else norms(z)
        short = z * (clip / own).clamp_max(1) if clipped is None else clipped(z, clip, own)
        return short + sensitivity * clip * multiplier * noise * noisy

    return privatise


def clip_at_last(z, clip, multiplier, noise):
    return torch.renorm(z + 2 * multiplier * clip * noise, 2, 0, clip)


def average_in_numpy(sent, z, sigma):
    left = sent.numpy().mean(axis=0) - z.numpy()
    return sigma * len(sent) ** -0.5, np.sqrt((left**2).mean())


def average_by_loss(sent, z, sigma):
    total = sum(message for message in sent)
    return [(sigma**2 / sent.shape[0]) ** 0.5, mse_loss(total / len(sent), z) ** 0.5]


def average_by_norm(sent, z, sigma):
    left = (sent - z[None]).mean(dim=0)
    return torch.tensor(sigma).div(math.sqrt(len(sent))), left.norm() / math.sqrt(left.numel())


def _average(predict=None, measure=None):
    """Predict, or measure, with one thing wrong."""

    def predict_and_average(sent, z, sigma):
        predicted, measured = average_in_numpy(sent, z, sigma)
        if predict:
            predicted = predict(sigma, len(sent), len(z))
        return predicted, measure(sent, z, sigma) if measure else measured

    return predict_and_average


def _chances(epsilon, classes):
    total = math.exp(epsilon) + classes - 1
    return math.exp(epsilon) / total, 1 / total


def shares_by_matrix(answers, epsilon, classes):
    p, q = _chances(epsilon, classes)
    chances = torch.full((classes, classes), q) + (p - q) * torch.eye(classes)
    seen = torch.bincount(answers, minlength=classes).float() / answers.numel()
    return torch.linalg.solve(chances, seen)


def shares_by_loop(answers, epsilon, classes):
    p, q = _chances(epsilon, classes)
    counts = [sum(1 for answer in answers.tolist() if answer == c) for c in range(classes)]
    return [(count / len(answers) - q) / (p - q) for count in counts]


def shares_in_numpy(answers, epsilon, classes):
    seen = np.bincount(answers.numpy(), minlength=classes) / len(answers)
    grown = np.exp(epsilon)
    return (seen * (grown + classes - 1) - 1) / (grown - 1)


def _shares(estimate):
    def true_shares(answers, epsilon, classes):
        p, q = _chances(epsilon, classes)
        return estimate(answers.bincount(minlength=classes) / len(answers), p, q, len(answers))

    return true_shares


def shares_of_two(answers, epsilon, classes):
    p = math.exp(epsilon) / (1 + math.exp(epsilon))
    return (answers.bincount(minlength=classes) / len(answers) - (1 - p)) / (2 * p - 1)


def auc_by_library(scores, rare):
    return float(roc_auc_score(rare.numpy(), scores.numpy()))


def auc_by_ranks(scores, rare):
    high, low = scores[rare.bool()].numpy(), scores[~rare.bool()].numpy()
    return mannwhitneyu(high, low).statistic / (len(high) * len(low))


def auc_by_loop(scores, rare):
    pairs = [(h, x) for h in scores[rare > 0].tolist() for x in scores[rare < 1].tolist()]
    return sum(1.0 if h > x else 0.5 if h == x else 0.0 for h, x in pairs) / len(pairs)


def _auc(tie=0.5, turned=False):
    def leak_auc(scores, rare):
        one, other = scores[rare == 1][:, None], scores[rare == 0]
        above = other > one if turned else one > other
        return (above.float() + tie * (one == other)).mean()

    return leak_auc


def report_by_loop(inputs, truth):
    reports = []
    for attack in inputs:
        best = sorted(min(mse_loss(x, t).item() for x, t in zip(seed, truth, strict=True))
                      for seed in attack)  # fmt: skip
        reports.append(best[len(best) // 2])
    return min(reports)


def report_in_numpy(inputs, truth):
    errors = ((inputs.numpy() - truth.numpy()) ** 2).mean(axis=(3, 4, 5))
    return np.median(errors.min(axis=2), axis=1).min()


def report_by_quantile(inputs, truth):
    errors = (inputs - truth).flatten(3).pow(2).mean(-1)
    return torch.quantile(errors.min(dim=-1).values, 0.5, dim=-1).min()


def _report(summary):
    return lambda inputs, truth: summary((inputs - truth).square().mean((3, 4, 5)))


def _decode(steps=60, known=True, queries=None, hard=False, optimizer=torch.optim.Adam):
    """Train a decoder on public images and apply it to the mean of the messages."""

    def attack(front, sent, public, scale):
        sent = sent[:queries]
        left = scale / math.sqrt(len(sent)) if known else 0.0
        z = front(public).detach()
        decoder = networks.decoder(tuple(z.shape[1:]), tuple(public.shape[1:]), seed=3)
        learner = optimizer(decoder.parameters(), lr=2e-3)
        draws = torch.Generator().manual_seed(5)
        for _ in range(steps):
            rows = torch.randperm(len(z), generator=draws)[:40]
            found = decoder(z[rows] + left * torch.randn(z[rows].shape, generator=draws))
            error = mse_loss if hard else binary_cross_entropy
            learner.zero_grad()
            error(found, public[rows]).backward()
            learner.step()
        return decoder(sent.mean(0)).detach()

    return attack


def _distances(front, sent, public):
    with torch.no_grad():
        return torch.cdist(sent.mean(0).flatten(1), front(public).flatten(1))


def nearest_public(front, sent, public, scale):
    return public[_distances(front, sent, public).argmin(1)]


def nearest_average_of_one(front, sent, public, scale):
    """Average public images, weighed by how well they explain the first message."""
    distances = _distances(front, sent[:1], public)
    weights = torch.softmax(-distances.square() / (2 * scale**2), 1)
    return (weights @ public.flatten(1)).view(-1, *public.shape[1:])


PROOFS = {
    "08.local_noise": Proof(
        wrong={
            "takes C for the sensitivity": _private(sensitivity=1.0),
            "stretches short samples": _private(clipped=lambda z, clip, own: z * clip / own),
            "clips the batch": _private(norms=lambda z: z.norm()),
            "clips at last": clip_at_last,
            "clips the entries": _private(clipped=lambda z, clip, own: z.clamp(-clip, clip)),
            "does not clip": _private(clipped=lambda z, clip, own: z),
            "forgets the noise": _private(noisy=False),
            "adds noise of one size": lambda z, clip, m, noise: (
                torch.renorm(z, 2, 0, clip) + m * noise
            ),
            "draws noise of its own": lambda z, clip, m, noise: (
                torch.renorm(z, 2, 0, clip) + 2 * clip * m * torch.randn(z.shape)
            ),
            "clips the channels": _private(
                norms=lambda z: z.flatten(2).norm(dim=2)[..., None, None]
            ),
        },
        right=[privatise_by_loop, privatise_by_renorm, privatise_by_direction],
    ),
    "08.average": Proof(
        wrong={
            "divides by n": _average(lambda sigma, n, images: sigma / n),
            "predicts that nothing changes": _average(lambda sigma, n, images: sigma),
            "predicts the variance": _average(lambda sigma, n, images: sigma**2 / n),
            "counts images": _average(lambda sigma, n, images: sigma / math.sqrt(images)),
            "lets the noise grow": _average(lambda sigma, n, images: sigma * math.sqrt(n)),
            "measures single messages": _average(
                measure=lambda sent, z, sigma: (sent - z).square().mean().sqrt()
            ),
            "forgets the root": _average(
                measure=lambda sent, z, sigma: (sent.mean(0) - z).square().mean()
            ),
            "measures absolute errors": _average(
                measure=lambda sent, z, sigma: (sent.mean(0) - z).abs().mean()
            ),
            "returns the prediction twice": _average(
                measure=lambda sent, z, sigma: sigma / math.sqrt(len(sent))
            ),
            "forgets to subtract": _average(
                measure=lambda sent, z, sigma: sent.mean(0).square().mean().sqrt()
            ),
            "takes the norm": _average(measure=lambda sent, z, sigma: (sent.mean(0) - z).norm()),
            "measures twice": lambda sent, z, sigma: 2 * average_in_numpy(sent, z, sigma)[1:],
            "predicts only": lambda sent, z, sigma: sigma / math.sqrt(len(sent)),
        },
        right=[average_in_numpy, average_by_loss, average_by_norm],
    ),
    "08.shares": Proof(
        wrong={
            "counts the answers": _shares(lambda seen, p, q, n: seen),
            "takes one other class": _shares(lambda seen, p, q, n: (seen - 1 + p) / (2 * p - 1)),
            "takes two classes": shares_of_two,
            "divides by p": _shares(lambda seen, p, q, n: seen / p),
            "does not scale": _shares(lambda seen, p, q, n: seen - q),
            "returns counts": _shares(lambda seen, p, q, n: n * (seen - q) / (p - q)),
            "cuts off at nothing": _shares(
                lambda seen, p, q, n: (
                    ((seen - q) / (p - q)).clamp_min(0) / ((seen - q) / (p - q)).clamp_min(0).sum()
                )
            ),
            "returns one share": _shares(lambda seen, p, q, n: ((seen - q) / (p - q))[0]),
        },
        right=[shares_by_matrix, shares_by_loop, shares_in_numpy],
    ),
    "08.leak_auc": Proof(
        wrong={
            "counts ties as failures": _auc(tie=0.0),
            "counts ties as successes": _auc(tie=1.0),
            "turns the classes": _auc(turned=True),
            "takes an accuracy": lambda scores, rare: (
                ((scores > scores.median()) == (rare == 1)).float().mean()
            ),
            "subtracts the means": lambda scores, rare: (
                scores[rare == 1].mean() - scores[rare == 0].mean()
            ),
            "compares all with all": lambda scores, rare: 0.5,
        },
        right=[auc_by_library, auc_by_ranks, auc_by_loop],
    ),
    "08.fair_report": Proof(
        wrong={
            "mends nothing": _report(lambda errors: errors[0].mean()),
            "looks at the first attack": _report(lambda errors: errors[0].amin(1).median()),
            "averages over images": _report(lambda errors: errors.mean(2).median(1).values.min()),
            "averages over seeds": _report(lambda errors: errors.amin(2).mean(1).min()),
            "takes the best seed": _report(lambda errors: errors.min()),
            "takes the median image": _report(
                lambda errors: errors.median(2).values.median(1).values.min()
            ),
            "takes the worst image": _report(lambda errors: errors.amax(2).median(1).values.min()),
            "averages over attacks": _report(lambda errors: errors.amin(2).median(1).values.mean()),
            "takes the weakest attack": _report(
                lambda errors: errors.amin(2).median(1).values.max()
            ),
        },
        right=[report_by_loop, report_in_numpy, report_by_quantile],
    ),
    "08.challenge": Proof(
        wrong={
            "answers with the mean image": lambda front, sent, public, scale: public.mean(0).expand(
                10, -1, -1, -1
            ),
            "looks the images up": nearest_public,
            "does not know the noise": _decode(steps=40, known=False),
            "uses one message": nearest_average_of_one,
            "returns one image": lambda front, sent, public, scale: public[0],
        },
        right=[_decode(), _decode(hard=True), _decode(optimizer=torch.optim.AdamW)],
        seeds=range(7000, 7001),  # as the wrong answers
    ),
}
