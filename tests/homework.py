"""Answers to the homework of each topic: its author's, and a plausible wrong one for each task.

Constants are read where a learner reads them, in the text of the task.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from sltools.exercises.homework import Homework


@dataclass(frozen=True)
class Answers:
    """How to solve a topic's homework, `right`, and `wrong` code with what it is told, by task."""

    right: Callable[[list[str]], str]
    wrong: str
    told: dict[str, str]


def solved(topic: str, homework: Homework) -> str:
    """Return code that solves the homework of a learner."""
    return ANSWERS[topic].right([part.text for part in homework.parts])


def _found(pattern: str, text: str) -> list[str]:
    match = re.search(pattern, text, re.DOTALL)
    assert match, (pattern, text)
    return list(match.groups())


def _protocol(texts: list[str]) -> str:
    up, down, label, header = _found(
        r"takes (\d+) byte.* gradient (\d+), a label (\d+), .* of (\d+) bytes", texts[0]
    )
    return f"""
def wire_bytes(smashed, images, epochs, batch):
    batches = (images + batch - 1) // batch
    return epochs * (images * (smashed * ({up} + {down}) + {label}) + 3 * batches * {header})

left, order, weight = dict(enumerate(messages.double())), [], weight.double()
for _ in range(4):
    for step in (weight.T, weight):
        off = {{(a, b): (left[a] @ step - left[b]).norm() for a in left for b in left if a != b}}
        order += min(off, key=off.get)
    z, pull = messages[order[-4]].double(), messages[order[-2]].double()
    weight = weight - 0.3 * pull.T @ z
    left = {{place: message for place, message in left.items() if place not in order}}
"""


PROTOCOL_WRONG = """
def wire_bytes(smashed, images, epochs, batch):
    return images * epochs * (8 * smashed + 8)

order = list(range(16))
"""


def _threats(texts: list[str]) -> str:
    (guesses,) = _found(r"may name (\d)", texts[0])
    return f"""
def baselines(labels, classes):
    counts = labels.bincount(minlength=classes).sort(descending=True).values
    return {guesses} / classes, counts[:{guesses}].sum().item() / len(labels)

from itertools import combinations
for pair in combinations(messages.values(), 2):
    seen = list(zip(*pair))
    code = dict(zip(seen, known))
    if len(code) == 4 and [code[two] for two in seen[:8]] == known and len(set(code.values())) == 4:
        labels = [code[two] for two in seen]
"""


THREATS_WRONG = """
def baselines(labels, classes):
    return 1 / classes, labels.bincount().max().item() / len(labels)

labels = known + [0] * 16
"""


def _leakage(texts: list[str]) -> str:
    gain, offset, slope = _found(
        r"z = (\S+) \\, .* \+ (\S+)\$, where .* and \$(\S+) \\, a", texts[0]
    )
    return f"""
def undo(smashed):
    inner = (smashed - {offset}) / {gain}
    return torch.where(inner > 0, inner, inner / {slope})

from torch.nn.functional import normalize
made = normalize((gallery @ weight.T).relu())
places = (normalize(smashed) @ made.T).argmax(1)
"""


LEAKAGE_WRONG = """
def undo(smashed):
    return smashed / 0.1

places = torch.cdist(smashed, (gallery @ weight.T).relu()).argmin(1).tolist()
"""


def _inversion(texts: list[str]) -> str:
    power, below, beside = _found(r"power (\d); (\d) times .* plus (\d) times", texts[0])
    gain, offset = _found(r"x' = (\S+) \\, x \+ (\S+)\$", texts[1])
    return f"""
def prior(images):
    down, across = images.diff(dim=2).abs(), images.diff(dim=3).abs()
    return {below} * (down ** {power}).mean() + {beside} * (across ** {power}).mean()

def sensor_client(weight, bias):
    return weight / {gain}, bias - {offset} / {gain} * weight.sum((1, 2, 3))

sent = zip(smashed > 0, smashed - bias)  # where ReLU was on, the layer is linear
recovered = torch.stack([torch.linalg.lstsq(weight[on], z[on]).solution for on, z in sent])
"""


INVERSION_WRONG = """
def prior(images):
    return sum(images.diff(dim=d).square().mean() for d in (2, 3))

def sensor_client(weight, bias):
    return -weight, bias + weight.sum(dim=(1, 2, 3))

recovered = torch.full((3, 16), 0.5)
"""


def _depth(texts: list[str]) -> str:
    larger, times = _found(r"enlarged (\d) times.* sent (\d) times", texts[0])
    return f"""
def unknowns_and_equations(client, images):
    weights = sum(weight.numel() for weight in client.parameters() if weight.ndim > 1)
    small = images.numel() // {larger} ** 2
    sent = client(images).numel()
    return small + weights + 2 * {times} * len(images), {times} * sent

import numpy as np
from scipy.optimize import least_squares

side = np.kron(np.eye(2), np.ones((1, 2)))
spread = np.kron(side, side)  # from 2 x 2 to 4 x 4, row by row
known = [part.double().numpy() for part in (first, bias, second)]

def off(small, sent):
    W, b, V = known
    return V @ np.maximum(W @ (small @ spread) + b, 0) - sent

starts = np.random.default_rng(0).random((10, 4))
solved = [
    min((least_squares(off, x, bounds=(0, 1), args=(z.double().numpy(),)) for x in starts),
        key=lambda found: found.cost).x @ spread
    for z in smashed
]
recovered = torch.tensor(np.stack(solved))
"""


DEPTH_WRONG = """
def unknowns_and_equations(client, images):
    weights = sum(weight.numel() for weight in client.parameters())
    return images.numel() + weights, client(images).numel()

recovered = torch.full((3, 16), 0.5)
"""


def _theft(texts: list[str]) -> str:
    sure, likely = _found(r"above (\S+)\. .* victim's (\d) most", texts[0])
    return f"""
def agreement(victim, clone):
    best = victim.argsort(1, descending=True)[:, :{likely}]
    right = (best == clone.argmax(1)[:, None]).any(1)
    return right[victim.softmax(1).max(1).values > {sure}].float().mean().item()

from torch.nn.functional import normalize
cosines = normalize(suspects, dim=2) @ normalize(victim, dim=1).T
place = cosines.amax(2).mean(1).argmax().item()
thief = [place, *cosines[place].argmax(1).tolist()]
"""


THEFT_WRONG = """
def agreement(victim, clone):
    return (victim.argmax(1) == clone.argmax(1)).float().mean().item()

lengths = suspects.norm(dim=2).sort(1).values - victim.norm(dim=1).sort().values
thief = [lengths.abs().sum(1).argmin().item(), *range(8)]
"""


def _labels(texts: list[str]) -> str:
    factor, decay = _found(r"minimises \$(\S+)\$ times .*frac\{(\S+?)\}\{2\}", texts[0])
    return f"""
def closed_form(u, gradient, weight):
    bare = (gradient - {decay} * weight) / {factor}
    return len(u) * (bare @ torch.linalg.pinv(u)).T

parts = torch.linalg.lstsq(single.T, messages.T).solution.T
pairs = parts.topk(2, 1).indices.sort(1).values
"""


LABELS_WRONG = """
def closed_form(u, gradient, weight):
    return len(u) * (gradient @ torch.linalg.pinv(u)).T

nearest = (messages @ single.T).argmax(1)
pairs = [[0, max(1, label)] for label in nearest.tolist()]
"""


def _privacy(texts: list[str]) -> str:
    (truth,) = _found(r"probability (\S+),", texts[0])
    return f"""
def true_shares(answers, classes):
    seen = answers.bincount(minlength=classes) / len(answers)
    return (seen - (1 - {truth}) / classes) / {truth}

trust = (1 / sizes ** 2 / (1 / sizes ** 2).sum()).view(-1, 1, 1)
recovered = (trust * releases).sum(0) @ torch.linalg.pinv(weight).T
"""


PRIVACY_WRONG = """
def true_shares(answers, classes):
    return answers.bincount(minlength=classes) / len(answers)

recovered = releases[sizes.argmax()] @ torch.linalg.pinv(weight).T
"""


def _malicious(texts: list[str]) -> str:
    push, leash = _found(r"to fall, (\S+) times, .* adds (\S+) times", texts[0])
    return f"""
def lie(critic, z):
    z = z.detach().requires_grad_()
    lengths = z.flatten(1).square().sum(1)
    loss = {push} * critic(z).mean() + {leash} * (lengths / 2).mean()
    return torch.autograd.grad(loss, z)[0]

from torch.nn.functional import normalize
rows = normalize(gradients, dim=2)
cosines = rows @ rows.transpose(1, 2)
one = labels[:, :, None] == labels[:, None]
other, itself = ~one, torch.eye(10).bool()
gaps = torch.stack([c[o & ~itself].mean() - c[n].mean() for c, o, n in zip(cosines, one, other)])
cut = gaps.sort().values.diff().argmax()
lies = (gaps <= gaps.sort().values[cut]).tolist()
"""


MALICIOUS_WRONG = """
def lie(critic, z):
    z = z.detach().requires_grad_()
    return torch.autograd.grad(critic(z).mean(), z)[0]

lies = (gradients.norm(dim=2).mean(1) > gradients.norm(dim=2).mean()).tolist()
"""


def _auxiliary(texts: list[str]) -> str:
    constant, power = _found(r"/ D \+ (\S+)\)\^(\d)", texts[0])
    return f"""
def squared_mmd(made, real):
    kernel = lambda x, y: ((x @ y.T / x.shape[1] + {constant}) ** {power}).mean()
    return kernel(made, made) + kernel(real, real) - 2 * kernel(made, real)

aligned = (smashed - smashed.mean(0)) / smashed.std(0) * made.std(0) + made.mean(0)
ones = torch.ones(60, 1)
decoder = torch.linalg.lstsq(torch.cat([made, ones], 1), own, driver="gelsd").solution
recovered = torch.cat([aligned, ones], 1) @ decoder
"""


AUXILIARY_WRONG = """
def squared_mmd(made, real):
    return (made.mean(0) - real.mean(0)).square().sum()

recovered = smashed @ torch.linalg.lstsq(made, own).solution
"""


def _poisoning(texts: list[str]) -> str:
    low, high = _found(r"out the (\d) smallest and the (\d) largest", texts[0])
    return f"""
def trimmed(states):
    return states.sort(0).values[{low}:len(states) - {high}].mean(0)

apart = (changes - changes.median(1, keepdim=True).values).mean(0)
apart = apart - apart.median(0).values
lengths = apart.norm(dim=1)
ranked = lengths.sort().values
cut = ranked[5:].diff().argmax() + 5
cheaters = (lengths > ranked[cut]).tolist()
"""


POISONING_WRONG = """
def trimmed(states):
    return states.mean(0)

lengths = changes[-1].norm(dim=1)
cheaters = (lengths >= lengths.sort().values[7]).tolist()
"""


def _audits(texts: list[str]) -> str:
    among, level = _found(r"among the (\d) of .* of (\d+)%", texts[0])
    return f"""
from scipy.stats import binomtest

def identified(found, truth):
    both = torch.corrcoef(torch.cat([found.flatten(1), truth.flatten(1)]))
    likeness = both[:len(found), len(found):]
    own = likeness.diagonal()[:, None]
    hits = int(((likeness > own).sum(1) < {among}).sum())
    ends = binomtest(hits, len(found)).proportion_ci({level} / 100, method="wilson")
    return hits, ends.low, ends.high

def treatment(first, second):
    if not torch.equal(first, second):
        return "noise"
    alive = (first > 0).sum(1)
    found = ["top-k"] if (alive == 3).all() else []
    norms = first.norm(dim=1)
    found += ["clipping"] if norms.max() - norms.min() < 1e-3 else []
    found += ["rounding"] if torch.equal(first * 4, (first * 4).round()) else []
    return " and ".join(found) or "nothing"

treatments = [treatment(*recording) for recording in recordings]
"""


AUDITS_WRONG = """
def identified(found, truth):
    from scipy.stats import binomtest
    x, y = (v.flatten(1) - v.flatten(1).mean(1, True) for v in (found, truth))
    x, y = (v / v.norm(dim=1, keepdim=True) for v in (x, y))
    hits = int(((x @ y.T).argmax(1) == torch.arange(len(x))).sum())
    ends = binomtest(hits, len(x)).proportion_ci(0.95, method="wilson")
    return hits, ends.low, ends.high

treatments = ["nothing"] * 7
"""

PUBLISHED = "of the exercises"
ANSWERS = {
    "01": Answers(_protocol, PROTOCOL_WRONG, {"bytes": PUBLISHED, "order": "messages are right"}),
    "02": Answers(_threats, THREATS_WRONG, {"baselines": PUBLISHED, "labels": "labels are right"}),
    "03": Answers(_leakage, LEAKAGE_WRONG, {"undo": "is off", "places": "places are right"}),
    "04": Answers(
        _inversion,
        INVERSION_WRONG,
        {"prior": PUBLISHED, "sensor": PUBLISHED, "recover": "not your images"},
    ),
    "05": Answers(_depth, DEPTH_WRONG, {"count": PUBLISHED, "recover": "not your images"}),
    "06": Answers(_theft, THEFT_WRONG, {"agreement": "exercises", "thief": "numbers are right"}),
    "07": Answers(_labels, LABELS_WRONG, {"closed_form": PUBLISHED, "pairs": "pairs are right"}),
    "08": Answers(_privacy, PRIVACY_WRONG, {"shares": "lies and all", "recover": "not your"}),
    "09": Answers(_malicious, MALICIOUS_WRONG, {"lie": PUBLISHED, "lies": "verdicts are right"}),
    "10": Answers(_auxiliary, AUXILIARY_WRONG, {"mmd": "another kernel", "recover": "not your"}),
    "12": Answers(
        _poisoning,
        POISONING_WRONG,
        {"trim": "mean of all clients", "cheaters": "verdicts are right"},
    ),
    "15": Answers(
        _audits, AUDITS_WRONG, {"identified": PUBLISHED, "treatments": "clients are right"}
    ),
}
