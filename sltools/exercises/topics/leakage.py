"""Topic 03: what smashed data give away, and what the layers before the cut destroy."""

import copy
import math
from functools import lru_cache

import torch
from torch import Tensor, nn

from sltools import data, metrics, seeds
from sltools.checking.task import (
    Answer,
    Wrong,
    close,
    compare,
    dictionary,
    draw,
    number,
    task,
    tensor,
)
from sltools.exercises.challenges import collages, median_mse, noise, reconstruct, trained_on_digits


@task(
    "03.relu",
    answer="unrelu",
    title="What a ReLU leaves of its input",
    kind="implement",
    rule="write it yourself",
    minutes=5,
    difficulty=1,
    points=2,
    purpose="tell equations from inequalities, number by number",
    hints=(
        "Where z is above zero, the activation is z itself: least and greatest are the same.",
        "Where z is zero, the activation lies anywhere from `least` up to 0. torch.where chooses "
        "between two values, place by place.",
    ),
    meaning="Each pair of equal bounds is an equation about the image; each other pair is only an "
    "inequality, which narrows the choice and fixes nothing.",
)
def _unrelu(answer: Answer, seed: int) -> None:
    smashed = (draw(seed, 3, 4, 5) * 2 - 1).relu()
    least = -1.5
    got = _pair(answer(smashed, least), "the lower bounds and the upper bounds")
    low, high = (tensor(part, smashed.shape, "a tensor of bounds") for part in got)
    floor, zero = torch.full_like(smashed, least), smashed == 0
    right = torch.where(zero, floor, smashed)
    if close(low, smashed) and close(high, right):
        raise Wrong("The two are swapped: the lower bounds come first.")
    compare(
        low,
        right,
        {
            "You take a zero for an equation, a = 0; it only says that a is not above 0.": smashed,
            "A number above zero is known exactly: there the lower bound is z, not `least`.": floor,
            "`least` is negative as it is given; do not turn its sign.": torch.where(
                zero, -floor, smashed
            ),
        },
        "the lower bound",
    )
    compare(
        high,
        smashed,
        {
            "Behind a zero the activation can be 0 at most, for ReLU would have passed on anything "
            "above it.": torch.where(zero, -floor, smashed),
            "Your upper bounds are the lower ones again: behind a zero all values up to 0 are "
            "possible.": right,
            "One upper bound for all: where z is above zero, it is z itself.": torch.full_like(
                smashed, smashed.max().item()
            ),
        },
        "the upper bound",
    )


@task(
    "03.linear",
    answer="invert_linear",
    title="Undo a linear layer",
    kind="implement",
    rule="write it yourself",
    minutes=10,
    difficulty=2,
    points=3,
    purpose="recover images from a linear layer without any search",
    hints=(
        "Take the bias away first: z - b = W x. The rows of `smashed` are the images' data.",
        "torch.linalg.pinv(W) is the pseudo-inverse: it gives the least squares solution, and "
        "of all solutions the one of least norm. It works for tall and for wide matrices.",
    ),
    meaning="A linear layer that is at least as wide as its input hides nothing from whoever knows "
    "its weights; one that is narrower leaves a choice, and here the prior was the least norm.",
)
def _invert_linear(answer: Answer, seed: int) -> None:
    images = draw(seed, 6, 8)
    weight, bias = draw(seed + 1, 14, 8) - 0.5, draw(seed + 2, 14) + 0.5
    smashed = images @ weight.T + bias + 0.1 * (draw(seed + 3, 6, 14) - 0.5)
    got = tensor(answer(weight, bias, smashed), images.shape, "the recovered inputs")
    undo = torch.linalg.pinv(weight).T
    compare(
        got,
        (smashed - bias) @ undo,
        {
            "The bias is still in the smashed data: take it away first.": smashed @ undo,
            "The bias was added; take it away.": (smashed + bias) @ undo,
            "You multiplied by the transpose; it undoes a rotation, not a layer. Take the "
            "pseudo-inverse.": (smashed - bias) @ weight,
            "You solved as many equations as there are unknowns and left the others aside. The "
            "numbers are not exact: let all of them vote.": torch.linalg.solve(
                weight[:8], (smashed - bias)[:, :8].T
            ).T,
        },
        "the recovered inputs",
    )
    narrow, bias = weight[:5], bias[:5]
    smashed = images @ narrow.T + bias
    got = tensor(answer(narrow, bias, smashed), images.shape, "the recovered inputs")
    if not close(got @ narrow.T + bias, smashed):
        raise Wrong(
            "For a layer with fewer outputs than inputs your answer does not explain the smashed "
            "data: WᵀW has no inverse there."
        )
    if not close(got, (smashed - bias) @ torch.linalg.pinv(narrow).T):
        raise Wrong(
            "For a layer with fewer outputs than inputs many inputs explain the smashed data; "
            "return the one of least norm."
        )


@task(
    "03.match",
    answer="who_is_it",
    title="Know an image again",
    kind="implement",
    rule="write it yourself",
    minutes=10,
    difficulty=2,
    points=3,
    purpose="find out which of some known images a client has, without recovering any",
    hints=(
        "What would the client have sent for each image of the gallery? Send them through `front`.",
        "Flatten all smashed data to rows; torch.cdist gives the distances of all pairs of rows.",
        "For each row of `smashed`, take the place of the least distance.",
    ),
    meaning="Re-identification needs no inversion: to look images up, it is enough that different "
    "images have different smashed data.",
)
def _who_is_it(answer: Answer, seed: int) -> str:
    front = _small_client(seed, "victim")
    bright = draw(seed, 20, 1, 8, 8)
    gallery = torch.cat([bright, 0.5 * bright])  # every image, and the same one darker
    order = torch.randperm(40, generator=seeds.generator(seed, "order"))
    gallery, owned = gallery[order], order.flip(0)[:20]
    with torch.no_grad():
        known = front(gallery)
    noise = known.std() * (draw(seed + 1, 20, *known.shape[1:]) - 0.5)
    smashed = known[owned] + 0.1 * noise
    got = tensor(answer(front, smashed, gallery), (20,), "the result")
    rows, columns = smashed.flatten(1), known.flatten(1)
    apart, inner = torch.cdist(rows, columns), rows @ columns.T
    right, brightest = apart.argmin(1), inner.argmax(1)
    compare(
        got,
        right.float(),
        {
            "These are the least similar images: take the least distance.": apart.argmax(1).float(),
            "You take the largest inner product, which prefers bright images; take the least "
            "distance.": brightest.float(),
            "You compare the mean of the smashed data only; compare all of its numbers.": (
                (rows.mean(1)[:, None] - columns.mean(1)).abs().argmin(1).float()
            ),
            "These are distances, not places: return the place of the least one.": apart.amin(1),
            # Rounding decides between an image and its darker copy: any such choice is this one.
            "You compare directions and not lengths, so an image and a darker copy of it look the "
            "same; take the least distance.": _if_copies(got, right, order),
        },
        "the list of places",
        tolerance=1e-6,
    )
    return "All 20 were found among 40 images; guessing finds one in 40 of them."


@task(
    "03.dcor",
    answer="distance_correlation",
    title="How much do smashed data say, in one number?",
    kind="implement",
    rule="write it yourself",
    library=("sltools.defenses.correlation.distance_correlation",),
    minutes=20,
    difficulty=3,
    points=4,
    purpose="compute the number that defences such as NoPeek make small",
    hints=(
        "torch.cdist(rows, rows) gives the matrix of Euclidean distances; flatten each image and "
        "each smashed datum to a row first.",
        "Centring: D - D.mean(0) - D.mean(1, keepdim=True) + D.mean().",
        "With the centred A and B: dCov² is (A * B).mean(), and the variances are (A * A).mean() "
        "and (B * B).mean(). There are two square roots, one around everything.",
    ),
    meaning="It needs no attack and no labels, so a client can compute it before it sends "
    "anything. A small value is no proof of privacy: it only says that near is not near any more.",
)
def _distance_correlation(answer: Answer, seed: int) -> str:
    images = draw(seed, 14, 1, 5, 5).square()
    with torch.no_grad():
        smashed = _small_client(seed, "victim")(images) + 0.4 * draw(seed + 1, 14, 4, 3, 3)
    got = tensor(answer(images, smashed), (), "the distance correlation of a batch")
    rows = images.flatten(1).double(), smashed.flatten(1).double()
    x, z = (torch.cdist(part, part) for part in rows)
    right = _ratio(_centred(x), _centred(z)).sqrt()
    a, b = _centred(x), _centred(z)
    compare(
        got,
        right.float(),
        {
            "The outer square root is missing: this is dCor².": right.square(),
            "These are squared distances; take their square roots before you centre.": _ratio(
                _centred(x.square()), _centred(z.square())
            ).sqrt(),
            "The matrices of distances are not centred.": _ratio(x, z).sqrt(),
            "Only the mean of all distances is taken away: take away the mean of each row and "
            "each column, and add that of all.": _ratio(x - x.mean(), z - z.mean()).sqrt(),
            "Only the rows are centred; take away the mean of each column too, and add that of "
            "all.": _ratio(x - x.mean(1, keepdim=True), z - z.mean(1, keepdim=True)).sqrt(),
            "The mean of all distances must be added once again after the means of the rows and "
            "columns were taken away.": _ratio(a - x.mean(), b - z.mean()).sqrt(),
            "The square root of the product of the variances is missing below the line.": (
                (a * b).mean() / (a.square().mean() * b.square().mean())
            ).sqrt(),
            "This is dCov, which grows with the size of the numbers; divide by the variances.": (
                (a * b).mean().sqrt()
            ),
        },
        "the distance correlation",
        tolerance=1e-4,
    )
    mixed = _ratio(a, b.roll((1, 1), (0, 1))).sqrt()
    return (
        f"Here it is {right:.2f}. With the smashed data of other images it still is {mixed:.2f}: "
        "in small batches it is far above 0, so never report it without that number."
    )


@task(
    "03.rank",
    answer="count_and_measure",
    title="Predict by counting, then measure",
    kind="predict",
    rule="write it yourself",
    minutes=20,
    difficulty=4,
    points=4,
    purpose="see where the plain count of equations is wrong, in numbers",
    hints=(
        "The count looks at the architecture only: as many numbers as pixels, or more?",
        "torch.func.jacrev(f)(x) gives all derivatives of f at x. Let f send one image through "
        "`front` and flatten the result; reshape the derivatives to a matrix |z| x |x|.",
        "Work in double precision, on a copy of `front`: `copy.deepcopy(front).double()`. "
        "torch.linalg.matrix_rank then tells a small number from a rounding error.",
    ),
    meaning="The count is what an attacker can do before it starts; the rank is what the layers "
    "left. Where the two differ, zeros and repetitions are the reason.",
)
def _count_and_measure(answer: Answer, seed: int) -> str:
    image, fronts = _counted_fronts(seed)
    told = []
    for front in fronts:
        got = dictionary(answer(front, image), ("enough", "zeros", "rank"))
        told.append(_judge_count(got, front, image))
    return f"Your ranks, of {image.numel()} pixels: {'; '.join(told)}."


def _judge_count(got: dict[str, object], front: nn.Sequential, image: Tensor) -> str:
    with torch.no_grad():
        smashed = front(image[None])
    rank = _rank(_strengths(front, image))
    enough, zeros = smashed.numel() >= image.numel(), int((smashed == 0).sum())
    if not isinstance(got["enough"], bool):
        raise Wrong('"enough" must be True or False.')
    if got["enough"] != enough:
        reason = "compare the numbers sent, zeros and all, with the pixels."
        if got["enough"] == (rank >= image.numel()):
            reason = "this is the measured answer; the prediction looks at the architecture only."
        raise Wrong(f'"enough" is wrong where {smashed.numel()} numbers are sent: {reason}')
    counted, measured = (number(got[name], f'"{name}"') for name in ("zeros", "rank"))
    if counted != zeros:
        reason = f"there are {zeros}."
        if counted == smashed.numel() - zeros:
            reason = "these are the numbers that are not zero."
        elif math.isclose(counted, zeros / smashed.numel(), rel_tol=1e-4):
            reason = "this is their share; give their number."
        raise Wrong(f'"zeros" is wrong: {reason}')
    if measured != rank:
        reason = f"it is {rank}, not {measured:g}."
        if measured == smashed.numel() - zeros:
            reason = "some of the numbers that are not zero repeat others."
        elif measured == min(smashed.numel(), image.numel()):
            reason = "this is the greatest there can be; zeros and repetitions lower it."
        raise Wrong(f'"rank" is wrong: {reason}')
    return f"{smashed.numel()} numbers, {rank} independent"


@task(
    "03.honest",
    answer="score_attack",
    title="Find three flaws in a score",
    kind="flaw",
    rule="write it yourself",
    minutes=15,
    difficulty=3,
    points=3,
    purpose="say what an attack adds to what everybody knew before",
    hints=(
        "Who chose the run? The attacker sees `objectives`, and never `truth`.",
        "A gain and an offset that are fitted to the truth repair the contrast for free.",
        "A blank image is a weak opponent. Which one picture can be made of training images alone?",
    ),
    meaning="A ratio of 1 says: this attack knows no more than the training set. Each of the three "
    "flaws can hide that.",
)
def _score_attack(answer: Answer, seed: int) -> str:
    found, objectives, truth, train = _runs(seed)
    got = tensor(answer(found, objectives, truth, train), (), "the score")
    chosen = found[objectives.argmin()]
    aligned = [median_mse(metrics.affine_align(images, truth).aligned, truth) for images in found]
    raw = [median_mse(images, truth) for images in found]
    mean, blank, own = (
        median_mse(guess.expand_as(truth), truth)
        for guess in (train.mean(0), torch.zeros(1), truth.mean(0))
    )
    grey = median_mse(train.mean().expand_as(truth), truth)
    run = int(objectives.argmin())
    means = (chosen - truth).square().mean() / (train.mean(0) - truth).square().mean()
    mistakes = {
        "The run is still chosen by its error, which no attacker can see; take the one of least "
        "objective.": min(raw) / mean,
        "The images are still fitted to the truth before the comparison; score them as they are.": (
            aligned[run] / mean
        ),
        "The opponent is still a blank image; take the mean of the training images.": raw[run]
        / blank,
        "The run is chosen by its error and the opponent is blank: two flaws to go.": min(raw)
        / blank,
        "Chosen by the truth and fitted to it: two flaws to go.": min(aligned) / mean,
        "Fitted to the truth, and compared with a blank image: two flaws to go.": aligned[run]
        / blank,
        "All three flaws are still there.": min(aligned) / blank,
        "Your mean image is made of the private images, which the attacker is to find; take those "
        "for training.": raw[run] / own,
        "train.mean() is one number, an even grey. The mean image has a mean for each pixel: "
        "train.mean(0).": raw[run] / grey,
        "You took means over the images; take medians, of the attack and of its opponent.": means,
        "The ratio is upside down: the attack's error comes above the line.": mean / raw[run],
        "That is the attack's error alone; divide it by that of the mean image.": raw[run],
    }
    compare(
        got,
        torch.tensor(raw[run] / mean),
        {reason: torch.as_tensor(value) for reason, value in mistakes.items()},
        "the score",
    )
    return (
        f"The flawed score is {min(aligned) / blank:.4f} of a blank image's error; the honest one "
        f"is {raw[run] / mean:.2f} of the mean image's."
    )


@task(
    "03.challenge",
    answer="attack",
    title="See through the noise",
    kind="challenge",
    rule="all of sltools",
    minutes=40,
    difficulty=4,
    points=5,
    purpose="beat a defence with a better prior, and not with more steps",
    hints=(
        "More steps fit the noise better, and the images worse. What holds noise back is a prior: "
        "print attacks.KnownWeightsInversion() and look at `tv`.",
        "A digit has 64 unknowns and not 784. The lesson's `invert` takes a `decode`: search 8 x 8 "
        "images, and enlarge them on the way to the network.",
        "Both priors can be had together. Try them on a client that you train yourself.",
    ),
    meaning="The noise stopped an attack, not the attacker: a defence that was measured with one "
    "weak attack has not been measured.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    digits = data.load("digits")
    public = digits.train.images
    session = trained_on_digits("pool2", seed)
    truth = collages(digits.test.images, seed, 20)
    stream = seeds.keyed(seed, "noise")
    session.client.outgoing = lambda kind, sent: (
        sent + 0.25 * sent.std() * noise(sent.shape, stream)
    )
    return reconstruct(answer, session, truth, public, enough=0.8, well=0.5)


def _pair(got: object, what: str) -> list[object]:
    if not isinstance(got, list) or len(got) != 2:
        raise Wrong(f"Return two things: {what}.")
    return got


def _small_client(seed: int, purpose: str) -> nn.Sequential:
    """Make a client for which a darker image has smaller, not other, smashed data: no bias."""
    with seeds.scope(seed, purpose):
        return nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.ReLU())


def _if_copies(got: Tensor, right: Tensor, order: Tensor) -> Tensor:
    """Return `got` if it names the right images up to their brightness, else nothing."""
    kept = got.long().clamp(0, len(order) - 1)
    same = torch.equal(order[kept] % 20, order[right] % 20)
    return got if same else got[:0]


def _centred(distances: Tensor) -> Tensor:
    return distances - distances.mean(0) - distances.mean(1, keepdim=True) + distances.mean()


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).mean() / (a.square().mean() * b.square().mean()).sqrt()


@lru_cache(maxsize=64)  # answers are given copies
def _counted_fronts(seed: int) -> tuple[Tensor, list[nn.Sequential]]:
    """An image, and clients that send enough numbers of it, too few, and enough that repeat."""
    image = draw(seed, 1, 7, 7)

    def build(channels: int, *after: nn.Module) -> nn.Sequential:
        return nn.Sequential(nn.Conv2d(1, channels, 2), *after)

    for attempt in range(100):
        with seeds.scope(seed, f"fronts {attempt}"):
            fronts = [build(3), *(build(n, nn.ReLU(), nn.MaxPool2d(2)) for n in (3, 6))]
        strengths = [_strengths(front, image) for front in fronts]
        # A derivative between zero and clearly not zero would make the rank a matter of taste.
        clear = all(((s > 1e-4) | (s < 1e-10)).all() for s in strengths)
        with torch.no_grad():
            zeros = bool((fronts[2](image[None]) == 0).any())
        if clear and zeros and _rank(strengths[2]) < image.numel() <= _rank(strengths[0]):
            break
    return image, fronts


def _strengths(front: nn.Sequential, image: Tensor) -> Tensor:
    """Return the singular values of dz/dx, as shares of the largest."""
    exact = copy.deepcopy(front).double()
    jacobian = torch.func.jacrev(lambda x: exact(x[None]).flatten())(image.double())
    values = torch.linalg.svdvals(jacobian.flatten(1))
    return values / values[0]


def _rank(strengths: Tensor) -> int:
    return int((strengths > 1e-6).sum())


def _runs(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw seven runs of an attack, their objectives, the private and the training images.

    The run of least objective is not the best one, and all have lost contrast.
    """
    shape = (1, 6, 6)
    common = 0.5 + 0.5 * draw(seed, *shape)
    train = (common + 0.6 * (draw(seed + 1, 40, *shape) - 0.5)).clamp(0, 1)
    truth = (common + 0.6 * (draw(seed + 2, 9, *shape) - 0.5)).clamp(0, 1)
    spread = torch.tensor([0.05, 0.6, 0.2, 0.4, 0.3, 0.5, 0.1]).view(7, 1, 1, 1, 1)
    noise = draw(seed + 3, 7, 9, *shape) - 0.5
    found = 0.3 + 0.4 * truth + spread * noise
    objectives = 0.5 + draw(seed + 4, 7)
    objectives[3] = 0.4
    order = torch.randperm(7, generator=seeds.generator(seed, "order"))
    return found[order], objectives[order], truth, train
