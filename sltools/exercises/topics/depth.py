"""Topic 05: what depth takes away, how an attacker chooses, and what a failed attack proves."""

from collections.abc import Iterator
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, mse_loss

from sltools import data, seeds
from sltools.attacks.inversion import brightness, total_variation
from sltools.checking.task import Answer, Wrong, close, compare, draw, number, pair, task, tensor
from sltools.exercises.challenges import collages, reconstruct, trained_on_digits


@task(
    "05.count",
    answer="unknowns_and_equations",
    title="Unknowns and equations",
    kind="implement",
    rule="write it yourself",
    minutes=10,
    difficulty=1,
    points=2,
    purpose="forecast at which cuts an attacker has too little to go by",
    hints=(
        "client(images) has as many numbers as there are equations: its numel().",
        "Pixels are unknown for each image anew. The weights are unknown once: all images went "
        "through the same client.",
        "Weights and biases together: sum(weight.numel() for weight in client.parameters()).",
    ),
    meaning="A dense layer adds unknowns by the thousand and no equations; that is why the "
    "count turns against the attacker there.",
)
def _unknowns_and_equations(answer: Answer, seed: int) -> None:
    images = draw(seed, 3 + seed % 4, 1, 10, 10)
    client = _dense_client(seed, 5, 40)
    got = torch.tensor([number(part) for part in pair(answer(client, images))])
    with torch.no_grad():
        equations = client(images).numel()
    weights = sum(weight.numel() for weight in client.parameters())
    biases = sum(weight.numel() for weight in client.parameters() if weight.ndim == 1)
    count, pixels = len(images), images[0].numel()
    right = [count * pixels + weights, equations]
    mistakes = {
        "You counted the weights for each image anew; all images share them.": (
            count * (pixels + weights),
            equations,
        ),
        "You counted the pixels of one image only.": (pixels + weights, equations),
        "The weights are unknown too: add them to the pixels.": (count * pixels, equations),
        "The biases are missing: they are unknown like the other weights.": (
            right[0] - biases,
            equations,
        ),
        "You counted the equations of one image only.": (right[0], equations // count),
        "The two numbers are swapped: unknowns first, then equations.": (equations, right[0]),
    }
    compare(
        got,
        torch.tensor(right).float(),
        {reason: torch.tensor(pair).float() for reason, pair in mistakes.items()},
        "the pair of unknowns and equations",
        tolerance=1e-6,
    )


@task(
    "05.rank",
    answer="predict_rank",
    title="How many numbers get through?",
    kind="predict",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=3,
    purpose="foretell from zeros what ReLU and pooling left over, and measure it by a rank",
    hints=(
        "Send the image through the client layer by layer and count, behind each layer, the "
        "entries that are not zero. Nothing behind a layer can tell more than these.",
        "The prediction is the least of these counts and of the number of pixels: the narrowest "
        "place. It need not be the last one.",
        "torch.autograd.functional.jacobian(client, image) has the shape of z followed by that of "
        "the image. Make a matrix (|z|, |x|) of it; torch.linalg.matrix_rank counts its "
        "independent rows.",
    ),
    meaning="What a cut sends may look plentiful and be repetition. The narrowest place on the "
    "way bounds what the equations alone can tell. What else an attacker knows comes on top.",
)
def _predict_rank(answer: Answer, seed: int) -> str:
    client, image, jacobian = _narrow_client(seed)
    predicted, measured = (number(part) for part in pair(answer(client, image)))
    counts = _not_zero(client, image)
    sizes = [layer.numel() for layer in _through(client, image)]
    narrowest = min(*counts, image.numel())
    compare(
        torch.tensor(predicted),
        torch.tensor(float(narrowest)),
        {
            "You counted what is sent at last. An earlier place is narrower: a linear layer sends "
            "no zeros, and brings nothing back.": torch.tensor(float(counts[-1])),
            "You counted zeros as if they told something: an output that is off leaves no "
            "equation.": torch.tensor(float(min(*sizes, image.numel()))),
            "You counted behind the ReLU; the pooling drops more.": torch.tensor(float(counts[1])),
            "You took the number of pixels: fewer numbers get through.": torch.tensor(
                float(image.numel())
            ),
            "You took the widest place; the narrowest decides.": torch.tensor(float(max(counts))),
            "You added up the counts of all layers; the narrowest decides.": torch.tensor(
                float(sum(counts))
            ),
        },
        "the prediction",
        tolerance=1e-6,
    )
    rank = int(torch.linalg.matrix_rank(jacobian))
    weight = client[-1].get_parameter("weight")
    compare(
        torch.tensor(measured),
        torch.tensor(float(rank)),
        {
            "You measured the shape of the matrix, not its rank: rows can repeat each other.": (
                torch.tensor(float(min(jacobian.shape)))
            ),
            "You counted the rows that are not zero: they can still depend on each other.": (
                torch.tensor(float((jacobian != 0).any(1).sum()))
            ),
            "You counted the pixels that z depends on at all.": torch.tensor(
                float((jacobian != 0).any(0).sum())
            ),
            "This is the rank of the last weights. Take that of dz/dx, at this image.": (
                torch.linalg.matrix_rank(weight.detach()).float()
            ),
        },
        "the rank",
        tolerance=1e-6,
    )
    return (
        f"{sizes[-1]} numbers are sent for {image.numel()} pixels; at most {narrowest} were "
        f"predicted to be independent, and {rank} are."
    )


@task(
    "05.choose",
    answer="choose_restart",
    title="Keep the restart that explains best",
    kind="implement",
    rule="write it yourself",
    minutes=10,
    difficulty=2,
    points=2,
    purpose="choose among your own results without looking at the truth",
    hints=(
        "Each restart has a clone and images of its own: clones[i](inputs[i]) is to be compared "
        "with `smashed`.",
        "The feature loss is the mean squared error divided by smashed.var(); least is best.",
    ),
    meaning="This is a choice that the server can make. Whether it is a good one is another "
    "question: the truth was not asked.",
)
def _choose_restart(answer: Answer, seed: int) -> str:
    clones, inputs, smashed, truth = _restarts(seed)
    index, losses = pair(answer(clones, inputs, smashed))
    with torch.no_grad():
        made = [clone(images) for clone, images in zip(clones, inputs, strict=True)]
    errors = torch.stack([mse_loss(z, smashed) for z in made])
    right = errors / smashed.var()
    compare(
        tensor(losses, (len(clones),), "the tensor of losses"),
        right,
        {
            "Divide by the variance of the smashed data: this is the bare error.": errors,
            "You divided by the standard deviation; take the variance.": errors / smashed.std(),
            "You divided by the variance of what each clone makes. A clone with large outputs "
            "would look good.": errors / torch.stack([z.var() for z in made]),
            "You added the squared errors up; take their mean.": right * smashed.numel(),
            "You sent all images through the first clone; each restart has its own.": (
                torch.stack([mse_loss(clones[0](x), smashed) for x in inputs]).detach()
                / smashed.var()
            ),
        },
        "the tensor of losses",
        tolerance=5e-3,
    )
    kept = int(right.argmin())
    compare(
        torch.tensor(number(index, "the restart kept")),
        torch.tensor(float(kept)),
        {
            "You kept the restart of the greatest loss.": right.argmax().float(),
            "You kept the restart of the smoothest images. A grey image is smooth, and explains "
            "nothing.": total_variation(inputs).argmin().float(),
            "You kept the restart of the darkest images; how dark they are explains nothing.": (
                brightness(inputs).argmin().float()
            ),
            "You kept the first restart.": torch.tensor(0.0),
            "You counted the restarts from 1.": torch.tensor(kept + 1.0),
        },
        "the restart kept",
        tolerance=1e-6,
    )
    raw = (inputs - truth).square().flatten(1).mean(1)
    return (
        f"The restart you kept has raw MSE {raw[kept]:.3f}, the best of all {raw.min():.3f}: only "
        "we can see that."
    )


@task(
    "05.trust",
    answer="rank_correlation",
    title="Can the objective be trusted?",
    kind="implement",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=3,
    purpose="tell a rule that ranks restarts from one that only seems to",
    hints=(
        "The ranks of a row are row.argsort().argsort(). Correlate the ranks, not the values.",
        "One correlation for each attack, over its own restarts; then the mean over the attacks.",
        "For R restarts one correlation of shuffled lists has standard deviation 1 / sqrt(R - 1), "
        "and a mean over k of them 1 / sqrt(k (R - 1)). The bound is twice that.",
    ),
    meaning="Inside the bound, choosing by the objective cannot be told from choosing blindly; "
    "below minus the bound it is worse than blind.",
)
def _rank_correlation(answer: Answer, seed: int) -> str:
    objective, errors = _ranked(seed)
    mean, bound = (number(part) for part in pair(answer(objective, errors)))
    attacks, restarts = objective.shape
    right = _spearman(objective, errors).mean()
    compare(
        torch.tensor(mean),
        right,
        {
            "You correlated the values. One odd value then decides; correlate the ranks.": (
                _pearson(objective, errors).mean()
            ),
            "You ranked all restarts of all attacks together. Objectives of different attacks "
            "cannot be compared; correlate within each attack.": _spearman(
                objective.flatten()[None], errors.flatten()[None]
            )[0],
            "You correlated over the attacks; correlate over the restarts of each.": _spearman(
                objective.T, errors.T
            ).mean(),
            "The sign is turned: 1 means that the least objective has the least error.": -right,
            "You took the median over the attacks; the bound is one for the mean.": (
                _spearman(objective, errors).quantile(0.5)
            ),
            "argsort says which restart comes first, second and so on. Ranks say at what place "
            "each restart comes: argsort once more.": _pearson(
                objective.argsort(1).float(), errors.argsort(1).float()
            ).mean(),
        },
        "the mean rank correlation",
    )
    spread = 1 / (restarts - 1) ** 0.5
    compare(
        torch.tensor(bound),
        torch.tensor(2 * spread / attacks**0.5),
        {
            "This is the bound for one attack; a mean over many varies less.": torch.tensor(
                2 * spread
            ),
            "This is one standard deviation of the mean; the bound is two.": torch.tensor(
                spread / attacks**0.5
            ),
            "You divided by R; it is R - 1, for two lists of two are always in the same or in the "
            "opposite order.": torch.tensor(2 / (attacks * restarts) ** 0.5),
            "You divided by the number of attacks; take its root.": torch.tensor(
                2 * spread / attacks
            ),
        },
        "the bound",
    )
    verdict = "within chance" if abs(right) <= bound else "beyond chance"
    return f"Here the mean correlation is {right:+.2f}, {verdict} (±{bound:.2f})."


@task(
    "05.known",
    answer="known_weights",
    title="The known-weights bound",
    kind="implement",
    rule="write it yourself",
    library=("sltools.attacks.KnownWeightsInversion.__call__",),
    minutes=20,
    difficulty=3,
    points=3,
    purpose="tell what is gone from the smashed data from what is only locked",
    hints=(
        "Start from grey images, torch.full(shape, 0.5).requires_grad_(), and let Adam([images], "
        "lr=0.05) lower the mean squared error between client(images) and smashed.",
        "Give Adam the images only: the client's weights are known, so they stay as they are.",
        "After each step: images.data.clamp_(0, 1). Two or three hundred steps are enough.",
    ),
    meaning="Where this attacker succeeds and UnSplit fails, the secrecy of the weights protected "
    "the images, and not the cut.",
)
def _known_weights(answer: Answer, seed: int) -> str:
    with seeds.scope(seed, "client"):
        client, other = (nn.Sequential(nn.Conv2d(1, 12, 3), nn.ReLU()) for _ in range(2))
    small = draw(seed, 3, 1, 5, 5).round()
    truth = interpolate(small, size=(8, 8), mode="bilinear")
    with torch.no_grad():
        smashed = client(truth)
    shape = tuple(truth.shape)
    got = tensor(answer(client, smashed, list(shape)), shape, "the images")
    if got.min() < 0 or got.max() > 1:
        raise Wrong("Some pixels are outside [0, 1]: clamp the images after each step.")
    if close(got, got.mean().expand_as(got)):
        raise Wrong("The images are still one grey: they have not moved.")
    with torch.no_grad():
        unexplained = (mse_loss(client(got), smashed) / smashed.var()).item()
    if unexplained > 0.003 and torch.equal(
        got, tensor(answer(other, smashed, list(shape)), shape, "the images")
    ):
        raise Wrong(
            "Your images are the same for a client with other weights: search under the client "
            "that is given, not under one of your own."
        )
    if unexplained > 1:
        raise Wrong(
            f"Your images explain less than a constant would (feature loss {unexplained:.2g} under "
            "the client's true weights). Does your search go downhill?"
        )
    grey = mse_loss(truth.mean().expand_as(truth), truth)
    error = mse_loss(got, truth)
    if (unexplained > 0.003 or error > 0.3 * grey) and _is_held(client, got, smashed):
        raise Wrong(
            "Pixels are stuck at 0 or 1 though the loss would fall if they came back. A clamp "
            "inside the loss gives a pixel beyond it no gradient: clamp after the step, "
            "`images.data.clamp_(0, 1)`."
        )
    if unexplained > 0.004:
        raise Wrong(
            f"Under the client's true weights the feature loss of your images is {unexplained:.2g};"
            " less than 0.004 is within reach. Take more steps, and leave the weights as they are."
        )
    if error > 0.3 * grey:
        raise Wrong(
            f"The smashed data are explained, and yet the raw MSE is {error:.4f}, where an even "
            f"grey has {grey:.4f}. Start from grey: nothing but the data should move a pixel."
        )
    return f"Raw MSE {error:.4f}; an even grey has {grey:.4f}."


@task(
    "05.report",
    answer="report",
    title="Find three flaws in a study",
    kind="flaw",
    rule="write it yourself",
    minutes=15,
    difficulty=2,
    points=3,
    purpose="report the attack that was carried out, beside what costs nothing",
    hints=(
        "Which restart does the attacker keep? The one of least objective, of each attack.",
        "The accuracy must be that of the same restart: an attacker keeps one result, not the "
        "best images of one and the best clone of another.",
        "A random client before the server's layers is right on some images, too. Take away the "
        "best of all that were tried.",
    ),
    meaning="Best of many is a score of luck and of hindsight. One restart, chosen by a rule that "
    "the attacker can follow, is a score of the attack.",
)
def _report(answer: Answer, seed: int) -> str:
    objective, errors, accuracy, random = _study(seed)
    error, gain = (number(part) for part in pair(answer(objective, errors, accuracy, random)))
    rows, kept, luckiest = torch.arange(len(errors)), objective.argmin(1), errors.argmin(1)
    right = errors[rows, kept].median()
    compare(
        torch.tensor(error),
        right,
        {
            "The restart is still chosen by its error: the attacker does not see errors.": (
                errors[rows, luckiest].median()
            ),
            "That is the best attack of all: take the median of the attacks.": (
                errors[rows, kept].min()
            ),
            "You took the mean over the attacks; take the median.": errors[rows, kept].mean(),
            "That is the median of all restarts: the attacker has a rule to choose by.": (
                errors.quantile(0.5)
            ),
            "You kept the restart of the greatest objective.": errors[
                rows, objective.argmax(1)
            ].median(),
            "You took the root of the error; the raw MSE is a mean of squares.": right.sqrt(),
        },
        "the raw MSE",
    )
    clones = accuracy[rows, kept].median()
    own = random[rows, kept]
    compare(
        torch.tensor(gain),
        clones - random.max(),
        {
            "The best clone of each attack is still chosen by its accuracy: take that of the "
            "restart that was kept.": accuracy.amax(1).median() - random.max(),
            "The clone is that of the restart with the least error, chosen by the truth.": (
                accuracy[rows, luckiest].median() - random.max()
            ),
            "The random clients are missing: take away the accuracy of the best of them.": clones,
            "You took away the median random client. The best of them costs no more.": clones
            - random.quantile(0.5),
            "You took away the mean of the random clients; take the best of them.": clones
            - random.mean(),
            "You took from each attack the best random client of its row. Any of them was to be "
            "had: take away the best of all.": (accuracy[rows, kept] - random.amax(1)).median(),
            "You took the median of the best random clients of the rows; take the best of all.": (
                clones - random.amax(1).median()
            ),
            "You took from each clone the random client that stands at its own place. The two have "
            "nothing in common; take away the best of all.": (accuracy[rows, kept] - own).median(),
            "You took the random clients at the places of the restarts that were kept; take the "
            "best of all.": clones - own.median(),
            "You took away the worst random client; take the best of them.": clones - random.min(),
            "Chosen by its accuracy, and no random client beside it: two flaws to go.": (
                accuracy.amax(1).median()
            ),
        },
        "the gain over random clients",
    )
    flawed = errors.amin(1).median(), accuracy.amax(1).median()
    return (
        f"The flawed study says raw MSE {flawed[0]:.3f} and a clone of {flawed[1]:.0%}; the attack "
        f"reaches {right:.3f}, and {gain:+.0%} over the best random client."
    )


@task(
    "05.challenge",
    answer="reconstruct",
    title="Gone, or only not found?",
    kind="challenge",
    rule="all of sltools",
    minutes=40,
    difficulty=4,
    points=5,
    purpose="find images where a search with known weights stops short",
    hints=(
        "More steps of the same search lead on, slowly: at this depth many images nearly explain "
        "z. What do you know of digits that the search does not?",
        "Stronger priors help a little. An attacker with public images of the same kind has a "
        "much better one: data.load('digits').train.images.",
        "Write an image as the mean image plus a combination of the first sixty principal "
        "components of public images, and search for the sixty factors. Keep them small: add "
        "0.01 times their mean square, each in units of its standard deviation.",
    ),
    meaning="The bound was one of the search, its prior and its patience, not of the data. "
    "An attack that fails proves nothing; one that succeeds proves a leak.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    digits = data.load("digits")
    session = trained_on_digits("fc2", seed)
    truth = collages(digits.test.images, seed, 20)
    return reconstruct(answer, session, truth, digits.train.images, enough=0.9, well=0.55)


def _is_held(client: nn.Sequential, images: Tensor, smashed: Tensor) -> bool:
    """Say whether all that the loss still asks for is to move pixels at 0 or 1 back inside."""
    images = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(mse_loss(client(images), smashed), images)
    held = ((images == 0) & (gradient < 0)) | ((images == 1) & (gradient > 0))
    inside = (images > 0) & (images < 1)
    return bool(gradient[inside].norm() < 0.1 * gradient[held].norm())


# ---- data ----------------------------------------------------------------------------------------


def _attempts(seed: int) -> Iterator[int]:
    """Seeds to draw with until the data show every mistake."""
    return (seeds.derive(seed, f"attempt {number}") for number in range(10_000))


def _dense_client(seed: int, channels: int, outputs: int, size: int = 10) -> nn.Sequential:
    """A client with a convolution, a ReLU, a pooling and a dense layer."""
    inner = channels * ((size - 2) // 2) ** 2
    with seeds.scope(seed, "client"):
        return nn.Sequential(
            nn.Conv2d(1, channels, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(inner, outputs),
        )


def _through(client: nn.Sequential, image: Tensor) -> list[Tensor]:
    """What comes out of each layer."""
    outputs = []
    with torch.no_grad():
        for layer in client:
            image = layer(image)
            outputs.append(image)
    return outputs


def _not_zero(client: nn.Sequential, image: Tensor) -> list[int]:
    return [int((output != 0).sum()) for output in _through(client, image)]


@lru_cache(maxsize=64)  # answers are given copies
def _narrow_client(seed: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """A client, an image and dz/dx (|z|, |x|), whose rank no rounding can change."""
    for attempt in _attempts(seed):
        client, image = _dense_client(attempt, 4, 70, size=8), draw(attempt, 1, 1, 8, 8)
        jacobian = torch.autograd.functional.jacobian(client, image).reshape(70, 64)
        strengths = torch.linalg.svdvals(jacobian) / torch.linalg.matrix_norm(jacobian, 2)
        unclear = ((strengths > 1e-6) & (strengths < 1e-4)).any()
        counts = _not_zero(client, image)
        # Some windows must be wholly off, and some pixels unnoticed.
        seen = int((jacobian != 0).any(0).sum())
        if not unclear and 5 < counts[2] < 34 and counts[2] < min(seen, counts[1]) and seen < 64:
            return client, image, jacobian
    raise AssertionError("no client shows every mistake")


@lru_cache(maxsize=64)  # answers are given copies
def _restarts(seed: int) -> tuple[list[nn.Sequential], Tensor, Tensor, Tensor]:
    """Clones, their images (R, N, C, H, W), the smashed data, and the truth."""
    for attempt in _attempts(seed):
        generator = seeds.generator(attempt, "images")
        truth = torch.rand(16, 1, 6, 6, generator=generator)
        share = 0.8 * torch.rand(8, 1, 1, 1, 1, generator=generator)  # of noise in the images
        noise = torch.rand(8, 16, 1, 6, 6, generator=generator)
        brightest = 0.6 + 0.4 * torch.rand(8, 1, 1, 1, 1, generator=generator)
        inputs = brightest * ((1 - share) * truth + share * noise)
        if len({0, *_smoothest_and_darkest(inputs)}) < 3:  # most end here, before clones are made
            continue
        with seeds.scope(attempt, "clones"):
            victim, *clones = (nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU()) for _ in range(9))
        with torch.no_grad():
            for clone in clones:  # bring them nearer to the victim
                for own, true in zip(clone.parameters(), victim.parameters(), strict=True):
                    own.lerp_(true, 0.6)
            smashed = victim(truth)
            made = [clone(images) for clone, images in zip(clones, inputs, strict=True)]
        if _shows_every_choice(made, inputs, smashed, truth):
            return clones, inputs, smashed, truth
    raise AssertionError("no restarts show every mistake")


def _shows_every_choice(made: list[Tensor], inputs: Tensor, smashed: Tensor, truth: Tensor) -> bool:
    """Say whether each wrong way to choose leads to another restart."""
    losses = torch.stack([mse_loss(z, smashed) for z in made])
    raw = (inputs - truth).square().flatten(1).mean(1)
    best, second = losses.sort().values[:2]
    kept = int(losses.argmin())
    others = {0, kept, kept + 1, int(losses.argmax()), *_smoothest_and_darkest(inputs)}
    alive = smashed.var() > 0.01 and min(z.var() for z in made) > 0.1 * smashed.var()
    apart = len(others) == 6 and int(raw.argmin()) != kept
    return bool(alive and apart and second > 1.05 * best)


def _smoothest_and_darkest(inputs: Tensor) -> tuple[int, int]:
    return int(total_variation(inputs).argmin()), int(brightness(inputs).argmin())


def _ranked(seed: int) -> tuple[Tensor, Tensor]:
    """Objectives and errors (attacks, restarts): related, with an odd value here and there."""
    generator = seeds.generator(seed, "restarts")
    level = torch.randn(8, 1, generator=generator)  # attacks differ more than restarts do
    common = torch.randn(8, 7, generator=generator)
    own = torch.randn(2, 8, 7, generator=generator)
    objective = (common + 1.2 * own[0] + 3 * level).exp()
    errors = (common + 1.2 * own[1] - 3 * level).exp()
    return objective, errors


def _pearson(one: Tensor, other: Tensor) -> Tensor:
    one, other = (part - part.mean(1, keepdim=True) for part in (one, other))
    return (one * other).sum(1) / (one.norm(dim=1) * other.norm(dim=1))


def _spearman(one: Tensor, other: Tensor) -> Tensor:
    return _pearson(*(part.argsort(1).argsort(1).float() for part in (one, other)))


def _study(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Objective, raw MSE, clone accuracy and random accuracy of 7 attacks with 6 restarts."""
    for attempt in _attempts(seed):
        generator = seeds.generator(attempt, "study")
        objective, noise, luck, blind = torch.rand(4, 7, 6, generator=generator)
        errors = 0.01 + 0.03 * (0.5 * objective + 0.5 * noise)
        accuracy = 0.95 - 0.3 * (0.4 * objective + 0.6 * luck)
        kept, rows = objective.argmin(1), torch.arange(7)
        luckiest = errors.argmin(1)
        clones = [a.median() for a in (accuracy[rows, kept], accuracy[rows, luckiest])]
        clones.append(accuracy.amax(1).median())
        apart = min(abs(one - other) for one, other in combinations(clones, 2))
        if apart > 0.01 and errors[rows, kept].median() > 1.1 * errors.amin(1).median():
            return objective, errors, accuracy, 0.1 + 0.4 * blind
    raise AssertionError("no study shows every flaw")
