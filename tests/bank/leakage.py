"""Answers to the tasks of topic 03."""

import copy
import statistics

import numpy as np
import torch
from torch.nn.functional import interpolate, mse_loss, normalize

from sltools import data, metrics
from sltools.attacks import KnownWeightsInversion
from sltools.attacks.inversion import total_variation
from tests.bank import Proof


def unrelu_by_index(smashed, least):
    low = smashed.clone()
    low[smashed == 0] = least
    return low, smashed


def unrelu_by_sum(smashed, least):
    return [smashed + least * (smashed <= 0), smashed.relu()]


def unrelu_in_numpy(smashed, least):
    z = smashed.numpy()
    return np.where(z > 0, z, least), z


def linear_by_lstsq(weight, bias, smashed):
    return torch.linalg.lstsq(weight, (smashed - bias).T, driver="gelsd").solution.T


def linear_in_numpy(weight, bias, smashed):
    return np.linalg.lstsq(weight.numpy(), (smashed - bias).numpy().T, rcond=None)[0].T


def linear_by_two_formulas(weight, bias, smashed):
    rest = (smashed - bias).T
    if weight.shape[0] < weight.shape[1]:
        return (weight.T @ torch.linalg.solve(weight @ weight.T, rest)).T
    return torch.linalg.solve(weight.T @ weight, weight.T @ rest).T


def linear_by_ridge(weight, bias, smashed):
    """The normal equations made solvable by force: a strong prior in place of a weak one."""
    width = torch.eye(weight.shape[1])
    return torch.linalg.solve(
        weight.T @ weight + (0.3 if len(weight) < weight.shape[1] else 0) * width,
        weight.T @ (smashed - bias).T,
    ).T


def linear_by_free_pixels(weight, bias, smashed):
    """Sets the pixels that the equations do not need to zero."""
    rest, count = (smashed - bias).T, len(weight)
    if count >= weight.shape[1]:
        return torch.linalg.lstsq(weight, rest).solution.T
    found = torch.zeros(smashed.shape[0], weight.shape[1])
    found[:, :count] = torch.linalg.solve(weight[:, :count], rest).T
    return found


def match_by_loop(front, smashed, gallery):
    found = []
    for z in smashed:
        apart = [(front(image[None])[0] - z).square().sum().item() for image in gallery]
        found.append(apart.index(min(apart)))
    return torch.tensor(found)


def match_by_broadcast(front, smashed, gallery):
    known = front(gallery)
    return (smashed[:, None] - known[None]).pow(2).mean((2, 3, 4)).min(dim=1).indices


def match_by_squares(front, smashed, gallery):
    rows, columns = smashed.flatten(1).double(), front(gallery).flatten(1).double()
    return (columns.square().sum(1) - 2 * rows @ columns.T).argmin(dim=1)


def _rows(front, smashed, gallery):
    return smashed.flatten(1), front(gallery).detach().flatten(1)


def dcor_in_numpy(images, smashed):
    def centre(samples):
        rows = samples.flatten(1).double().numpy()
        apart = np.sqrt(((rows[:, None] - rows[None]) ** 2).sum(-1))
        middle = np.eye(len(rows)) - 1 / len(rows)
        return middle @ apart @ middle

    a, b = centre(images), centre(smashed)
    return np.sqrt((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def dcor_by_norms(images, smashed):
    def centre(samples):
        rows = samples.flatten(1)
        apart = (rows[:, None] - rows).norm(dim=2)
        return apart - apart.mean(0)[None] - apart.mean(1)[:, None] + apart.mean()

    a, b = centre(images), centre(smashed)
    return ((a * b).sum() / (a.norm() * b.norm())).sqrt().item()


def dcor_by_cosine(images, smashed):
    apart = [torch.cdist(rows, rows) for rows in (images.flatten(1), smashed.flatten(1))]
    once = [matrix - matrix.mean(0, keepdim=True) for matrix in apart]
    a, b = (normalize((m - m.mean(1, keepdim=True)).flatten(), dim=0) for m in once)
    return torch.dot(a, b) ** 0.5


def _dcor(distance=torch.cdist, centre="both", outer=True, scale="both"):
    """Compute the distance correlation with one thing wrong."""

    def middle(matrix):
        rows, columns = matrix.mean(1, keepdim=True), matrix.mean(0)
        return {
            "none": matrix,
            "all": matrix - matrix.mean(),
            "rows": matrix - rows,
            "no mean": matrix - rows - columns,
            "both": matrix - rows - columns + matrix.mean(),
        }[centre]

    def measure(images, smashed):
        x, z = (part.flatten(1).double() for part in (images, smashed))
        a, b = middle(distance(x, x)), middle(distance(z, z))
        below = a.square().mean() * b.square().mean()
        value = (a * b).mean() / {"both": below.sqrt(), "no root": below, "none": 1.0}[scale]
        return value.sqrt() if outer else value

    return measure


def rank_by_loop(front, image):
    exact = copy.deepcopy(front).double()
    pixels = image.double().requires_grad_()
    sent = exact(pixels[None])[0].flatten()
    rows = [torch.autograd.grad(z, pixels, retain_graph=True)[0].flatten() for z in sent]
    strengths = torch.linalg.svdvals(torch.stack(rows))
    return {
        "enough": len(sent) >= pixels.numel(),
        "zeros": (sent == 0).sum(),
        "rank": (strengths > 1e-6 * strengths[0]).sum(),
    }


def rank_by_directions(front, image):
    """As in the lesson: push all directions through the network."""
    front, image = copy.deepcopy(front).double(), image.double()

    def push(direction):
        return torch.func.jvp(lambda x: front(x[None]).flatten(), (image,), (direction,))[1]

    pushes = torch.vmap(push)(torch.eye(image.numel()).double().reshape(-1, *image.shape))
    squares = torch.linalg.eigvalsh(pushes @ pushes.T).clamp(min=0)
    return {
        "rank": int((squares.sqrt() > 1e-6 * squares.max().sqrt()).sum()),
        "zeros": int((front(image[None]) == 0).sum()),
        "enough": not front(image[None]).numel() < image.numel(),
    }


def rank_in_numpy(front, image):
    front = front.double()
    function = torch.autograd.functional.jacobian(lambda x: front(x[None])[0], image.double())
    matrix = function.reshape(-1, image.numel()).numpy()
    sent = front(image.double()[None])
    return {
        "enough": bool(matrix.shape[0] >= matrix.shape[1]),
        "zeros": sent.numel() - int(torch.count_nonzero(sent)),
        "rank": np.linalg.matrix_rank(matrix),
    }


def _counted(**changes):
    """Count and measure rightly but for `changes`: functions of the right answer and the sizes."""

    def count(front, image):
        right, sent = rank_by_loop(front, image), front(image[None]).numel()
        facts = {"sent": sent, "pixels": image.numel(), **right}
        return right | {name: change(facts) for name, change in changes.items()}

    return count


def honest_by_loop(found, objectives, truth, train):
    best, chosen = None, None
    for objective, images in zip(objectives.tolist(), found, strict=True):
        if best is None or objective < best:
            best, chosen = objective, images
    mean_image = train.mean(0, keepdim=True).expand_as(truth)
    errors = [metrics.mse(guess, truth).median() for guess in (chosen, mean_image)]
    return errors[0] / errors[1]


def honest_in_numpy(found, objectives, truth, train):
    chosen = found.numpy()[int(np.argmin(objectives.numpy()))]
    guess = train.numpy().mean(axis=0)
    mine, blind = (((x - truth.numpy()) ** 2).mean(axis=(1, 2, 3)) for x in (chosen, guess))
    return np.median(mine) / np.median(blind)


def honest_by_quantile(found, objectives, truth, train):
    errors = (found - truth).square().flatten(2).mean(2).quantile(0.5, dim=1)
    blind = (train.mean(0) - truth).square().flatten(1).mean(1).quantile(0.5)
    return (errors[objectives.topk(1, largest=False).indices] / blind).item()


def _score(choose="objective", align=False, against="train", middle=statistics.median):
    """Score the attack with flaws left in."""

    def score(found, objectives, truth, train):
        def error(images):
            return middle((images - truth).square().mean((1, 2, 3)).tolist())

        if align:
            found = torch.stack([metrics.affine_align(run, truth).aligned for run in found])
        chosen = min(map(error, found)) if choose == "truth" else error(found[objectives.argmin()])
        guess = {
            "train": train.mean(0),
            "blank": 0 * truth,
            "own": truth.mean(0),
            "grey": train.mean(),
        }[against]
        return chosen / error(guess)

    return score


def _search(side=8, tv=0.5, steps=250, start=0.5):
    """Search small images and enlarge them on the way to the network."""

    def attack(view):
        front, smashed = view.client_model, view.smashed
        small = torch.full((len(smashed), 1, side, side), start).requires_grad_()
        optimiser = torch.optim.Adam([small], lr=0.1)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        for _ in range(steps):
            images = interpolate(small, size=(28, 28), mode="bilinear")
            loss = (front(images) - smashed).square().mean() / smashed.var()
            loss = loss + tv * sum(images.diff(dim=dim).square().mean() for dim in (2, 3))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            small.data.clamp_(0, 1)
        return interpolate(small.detach(), size=(28, 28), mode="bilinear")

    return attack


def bounded_by_a_sigmoid(view):
    """Search without a clamp, at a constant rate, and enlarge with another curve."""
    network, wanted = view.client_model.requires_grad_(False), view.smashed
    free = torch.full((wanted.shape[0], 1, 8, 8), -1.0, requires_grad=True)
    optimiser = torch.optim.Adam([free], lr=0.2)
    for _ in range(200):
        images = interpolate(torch.sigmoid(free), size=28, mode="bicubic")
        optimiser.zero_grad()
        loss = mse_loss(network(images), wanted) / wanted.var()
        (loss + 0.7 * total_variation(images)).backward()
        optimiser.step()
    return images.detach().clamp(0, 1)


def components(view):
    """Search in the space of the first principal components of the training images."""
    front, smashed = view.client_model, view.smashed
    rows = data.load("digits").train.images.flatten(1)
    centre = rows.mean(0)
    _, strengths, axes = torch.linalg.svd(rows - centre, full_matrices=False)
    axes, spread = axes[:40], strengths[:40] / len(rows) ** 0.5
    found = torch.zeros(len(smashed), 40).requires_grad_()
    optimiser = torch.optim.Adam([found], lr=0.1)
    for _ in range(250):
        images = (centre + (found * spread) @ axes).reshape(-1, 1, 28, 28)
        loss = (front(images) - smashed).square().mean() / smashed.var()
        optimiser.zero_grad()
        (loss + 0.005 * found.square().mean()).backward()
        optimiser.step()
    return images.detach().clamp(0, 1)


def _nearest(count):
    """Look up the nearest public images by their smashed data, and mix so many of them."""

    def attack(view):
        public = data.load("digits").train.images
        with torch.no_grad():
            known = view.client_model(public).flatten(1)
        apart = torch.cdist(view.smashed.flatten(1), known)
        return public[apart.topk(count, largest=False).indices].mean(1)

    return attack


def mean_image(view):
    return data.load("digits").train.images.mean(0).expand(20, -1, -1, -1)


PROOFS = {
    "03.relu": Proof(
        wrong={
            "takes zeros for equations": lambda z, least: (z, z),
            "knows nothing anywhere": lambda z, least: (torch.full_like(z, least), z),
            "turns the sign of the bound": lambda z, least: (torch.where(z > 0, z, -least), z),
            "has the greatest behind zeros too large": lambda z, least: (
                torch.where(z > 0, z, least),
                torch.where(z > 0, z, -least),
            ),
            "gives the lower bounds twice": lambda z, least: [torch.where(z > 0, z, least)] * 2,
            "swaps the two": lambda z, least: (z, torch.where(z > 0, z, least)),
            "returns one bound": lambda z, least: z,
        },
        right=[unrelu_by_index, unrelu_by_sum, unrelu_in_numpy],
    ),
    "03.linear": Proof(
        wrong={
            "forgets the bias": lambda w, b, z: z @ torch.linalg.pinv(w).T,
            "adds the bias": lambda w, b, z: (z + b) @ torch.linalg.pinv(w).T,
            "takes the transpose": lambda w, b, z: (z - b) @ w,
            "solves the first equations": lambda w, b, z: (
                torch.linalg.solve(w[: w.shape[1]], (z - b)[:, : w.shape[1]].T).T
            ),
            "solves with a strong prior": linear_by_ridge,
            "sets free pixels to zero": linear_by_free_pixels,
            "inverts the matrix": lambda w, b, z: (z - b) @ torch.linalg.inv(w).T,
        },
        right=[linear_by_lstsq, linear_in_numpy, linear_by_two_formulas],
    ),
    "03.match": Proof(
        wrong={
            "takes the farthest": lambda *a: torch.cdist(*_rows(*a)).argmax(1),
            "takes the largest inner product": lambda *a: (_rows(*a)[0] @ _rows(*a)[1].T).argmax(1),
            "compares directions": lambda *a: (
                normalize(_rows(*a)[0]) @ normalize(_rows(*a)[1]).T
            ).argmax(1),
            "compares means": lambda *a: (
                (_rows(*a)[0].mean(1, keepdim=True) - _rows(*a)[1].mean(1)).abs().argmin(1)
            ),
            "returns the distances": lambda *a: torch.cdist(*_rows(*a)).amin(1),
            "looks for the nearest datum of each image": lambda *a: torch.cdist(*_rows(*a)).argmin(
                0
            ),
        },
        right=[match_by_loop, match_by_broadcast, match_by_squares],
    ),
    "03.dcor": Proof(
        wrong={
            "forgets the outer root": _dcor(outer=False),
            "takes squared distances": _dcor(lambda x, y: torch.cdist(x, y).square()),
            "does not centre": _dcor(centre="none"),
            "takes away the mean only": _dcor(centre="all"),
            "centres the rows only": _dcor(centre="rows"),
            "does not add the mean again": _dcor(centre="no mean"),
            "forgets the root below the line": _dcor(scale="no root"),
            "does not divide": _dcor(scale="none"),
            "returns a matrix": lambda x, z: torch.cdist(x.flatten(1), x.flatten(1)),
        },
        right=[dcor_in_numpy, dcor_by_norms, dcor_by_cosine],
    ),
    "03.rank": Proof(
        wrong={
            "predicts what was measured": _counted(enough=lambda f: bool(f["rank"] >= f["pixels"])),
            "predicts the contrary": _counted(enough=lambda f: f["sent"] < f["pixels"]),
            "counts what is not zero": _counted(zeros=lambda f: f["sent"] - f["zeros"]),
            "gives the share of zeros": _counted(zeros=lambda f: f["zeros"] / f["sent"]),
            "takes nonzero numbers for the rank": _counted(rank=lambda f: f["sent"] - f["zeros"]),
            "takes the greatest possible rank": _counted(
                rank=lambda f: min(f["sent"], f["pixels"])
            ),
            "misspells a key": lambda front, image: {
                "enuogh" if name == "enough" else name: value
                for name, value in rank_by_loop(front, image).items()
            },
            "returns the rank only": lambda front, image: rank_by_loop(front, image)["rank"],
            "predicts in words": _counted(enough=lambda f: "yes"),
        },
        right=[rank_by_loop, rank_by_directions, rank_in_numpy],
    ),
    "03.honest": Proof(
        wrong={
            "still chooses by the truth": _score(choose="truth"),
            "still aligns": _score(align=True),
            "still compares with a blank image": _score(against="blank"),
            "chooses by the truth, compares with a blank image": _score("truth", against="blank"),
            "chooses by the truth and aligns": _score("truth", True),
            "aligns and compares with a blank image": _score(align=True, against="blank"),
            "mends nothing": _score("truth", True, "blank"),
            "takes the mean of the private images": _score(against="own"),
            "takes one number for the mean image": _score(against="grey"),
            "rounds the ratio": lambda *a: round(_score()(*a), 2),
            "gives per cent": lambda *a: 100 * _score()(*a),
            "takes means": _score(middle=statistics.fmean),
            "turns the ratio": lambda *a: 1 / _score()(*a),
            "returns the error alone": lambda found, objectives, truth, train: metrics.mse(
                found[objectives.argmin()], truth
            ).median(),
        },
        right=[honest_by_loop, honest_in_numpy, honest_by_quantile],
    ),
    "03.challenge": Proof(
        wrong={
            "answers with the mean image": mean_image,
            "runs the default settings": lambda view: KnownWeightsInversion(steps=250)(view).inputs,
            "answers with a blank image that trembles": lambda view: (
                0.01 * view.smashed.std() * torch.ones(20, 1, 28, 28)
            ),
            "returns one image": lambda view: mean_image(view)[0],
            "looks up the nearest public images": _nearest(1),
            "mixes the five nearest public images": _nearest(5),
            "stops early": _search(steps=4),
            "smooths too little": lambda view: (
                KnownWeightsInversion(steps=250, tv=0.15)(view).inputs
            ),
        },
        right=[bounded_by_a_sigmoid, components, _search(side=9, tv=0.8, start=0.2)],
        seeds=range(7000, 7001),  # as the wrong answers: each trains a client
    ),
}
