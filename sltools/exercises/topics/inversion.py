"""Topic 04: the pieces of UnSplit, its traps, and honest scores."""

import statistics
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, mse_loss

from sltools import data, experiments, protocol, seeds
from sltools.attacks import UnSplit
from sltools.attacks.inversion import total_variation
from sltools.checking.task import Answer, Wrong, compare, differentiable, draw, number, task, tensor
from sltools.exercises.challenges import check_control, collages, median_mse


@task(
    "04.tv",
    answer="total_variation",
    title="A prior for smooth images",
    kind="implement",
    rule="write it yourself",
    library=("sltools.attacks.inversion.total_variation",),
    minutes=10,
    difficulty=1,
    points=2,
    purpose="tell the search which of many explanations looks like an image",
    hints=(
        "Slices give neighbours: images[..., 1:, :] lies one row below images[..., :-1, :].",
        "Square the differences and take their mean, once down and once across; add the two means.",
    ),
    meaning="Weighted by λ and added to the feature loss, it makes the attacker prefer the "
    "smooth one of all images that explain the smashed data.",
)
def _total_variation(answer: Answer, seed: int) -> None:
    images = draw(seed, 3, 2, 6, 9)
    down = images[:, :, 1:] - images[:, :, :-1]
    across = images[..., 1:] - images[..., :-1]
    channels = images[:, 1:] - images[:, :-1]
    got = tensor(answer(images), (), "the total variation of a batch")
    squares = down.square().mean(), across.square().mean()
    right = total_variation(images)
    compare(
        got,
        right,
        {
            "These are absolute differences; the paper's prior squares them.": down.abs().mean()
            + across.abs().mean(),
            "You added the squares up; take their mean, so that the weight of the prior does not "
            "depend on the size of the batch.": down.square().sum() + across.square().sum(),
            "Only neighbours above each other are compared; compare those side by side too.": (
                squares[0]
            ),
            "Only neighbours side by side are compared; compare those above each other too.": (
                squares[1]
            ),
            "One of your directions is the channels: neighbours are in the last two dimensions.": (
                channels.square().mean() + squares[0]
            ),
            "You halved the sum of the two means; the paper adds them.": right / 2,
        },
        "the total variation",
    )
    differentiable(answer, total_variation, images)


@task(
    "04.feature_loss",
    answer="feature_loss",
    title="How well a guess explains the smashed data",
    kind="implement",
    rule="write it yourself",
    minutes=10,
    difficulty=2,
    points=2,
    purpose="measure the guess in a unit that means the same at every cut",
    hints=(
        "A mean squared error, divided by one number that depends on the smashed data only.",
        "That number is the variance of all entries of `smashed` together: what the best constant "
        "guess would leave unexplained.",
    ),
    meaning="1 now means: no better than a constant guess; and one weight of the prior "
    "serves all cuts.",
)
def _feature_loss(answer: Answer, seed: int) -> None:
    smashed = 3 * draw(seed, 4, 3, 5, 5) - 1
    guess = smashed + 0.7 * draw(seed + 1, 4, 3, 5, 5)
    error = (guess - smashed).square()

    def right(guess: Tensor, smashed: Tensor) -> Tensor:
        return mse_loss(guess, smashed) / smashed.var()

    got = tensor(answer(guess, smashed), (), "the loss of a batch")
    compare(  # the variance of the sample or of the population: the tolerance takes either
        got,
        right(guess, smashed),
        {
            "That is the bare mean squared error: divide it by the variance of the smashed data.": (
                error.mean()
            ),
            "You divided by the standard deviation; the unit of a squared error is the variance.": (
                error.mean() / smashed.std()
            ),
            "You divided by the variance of the guess. An attacker could then lower the loss by "
            "making the guess large; divide by that of `smashed`.": error.mean() / guess.var(),
            "You added the squared errors up; take their mean.": error.sum() / smashed.var(),
            "You divided by the mean square; subtract the mean first: the variance.": error.mean()
            / smashed.square().mean(),
        },
        "the feature loss",
        tolerance=5e-3,
    )
    differentiable(answer, right, guess, smashed, tolerance=5e-3)


@task(
    "04.step",
    answer="unsplit_step",
    title="One step of the attack",
    kind="implement",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=4,
    purpose="move the guessed images and the clone together, by hand",
    hints=(
        "torch.autograd.grad(loss, [inputs, *clone.parameters()]) gives all gradients in one go; "
        "`inputs` must require a gradient: work on inputs.detach().requires_grad_().",
        "Both gradients are taken at the old point; only then do both move.",
        "After its step, clamp the guess to [0, 1]: pixels cannot be elsewhere. Weights can.",
    ),
    meaning="Repeat this a thousand times, with Adam and the priors, and you have UnSplit: "
    "nothing in it was sent by the client except the smashed data.",
)
def _unsplit_step(answer: Answer, seed: int) -> None:
    clone = _small_client(seed, "clone")
    smashed = _small_client(seed, "victim")(draw(seed, 4, 1, 8, 8)).detach()
    inputs, lr = draw(seed + 1, 4, 1, 8, 8).round(), 20.0  # on the border: the clamp matters
    got = answer(inputs, clone, smashed, lr)
    if not isinstance(got, list) or len(got) != 2 or not isinstance(got[1], list):
        raise Wrong("Return two things: the new images, and a list of the clone's new weights.")
    weights = [weight.detach() for weight in clone.parameters()]
    if len(got[1]) != len(weights):
        raise Wrong(f"the list of new weights must have {len(weights)} entries.")
    images = tensor(got[0], inputs.shape, "the new images")
    new = _flat(tensor(g, w.shape, "a weight") for g, w in zip(got[1], weights, strict=True))

    loss, gradient, pushes = _gradients(inputs, clone, smashed)
    stepped = inputs - lr * gradient
    summed = smashed.numel()
    compare(
        images,
        stepped.clamp(0, 1),
        {
            "The images did not move.": inputs,
            "The images moved uphill: subtract the gradient.": (inputs + lr * gradient).clamp(0, 1),
            "The images left [0, 1]: clamp them after the step.": stepped,
            "Your loss is a sum; the mean squared error is asked for.": (
                inputs - lr * summed * gradient
            ).clamp(0, 1),
        },
        "the new guess of the images",
    )
    _, _, later = _gradients(images, clone, smashed)
    compare(
        new,
        _flat(weights) - lr * _flat(pushes),
        {
            "The clone did not move: its weights are guessed too.": _flat(weights),
            "The clone moved uphill: subtract the gradient.": _flat(weights) + lr * _flat(pushes),
            "The clone's gradient was taken after the images had moved; take both at the old "
            "point.": _flat(weights) - lr * _flat(later),
            "The clone's weights were clamped to [0, 1]; only pixels are bounded.": (
                _flat(weights) - lr * _flat(pushes)
            ).clamp(0, 1),
        },
        "the clone's new weights",
    )


@task(
    "04.negative",
    answer="negative_client",
    title="A client for the negative",
    kind="implement",
    rule="write it yourself",
    minutes=15,
    difficulty=3,
    points=3,
    purpose="prove that smashed data alone cannot tell an image from its negative",
    hints=(
        "A convolution is linear: W * (1 - x) = W * 1 - W * x. What is W * 1, pixel by pixel?",
        "Without padding, W * 1 is the same at every place: the sum of each filter's entries.",
        "So W' = -W, and the bias takes up what is left over: solve W' * (1 - x) + b' = W * x + b.",
    ),
    meaning="So no attacker can know from z alone which of the two it found; priors decide, "
    "and an evaluation that ignores the sign hides it.",
)
def _negative_client(answer: Answer, seed: int) -> None:
    weight, bias = draw(seed, 4, 2, 3, 3) - 0.5, draw(seed + 1, 4) - 0.5
    got = answer(weight, bias)
    if not isinstance(got, list) or len(got) != 2:
        raise Wrong("Return two tensors: the new weight and the new bias.")
    new = tensor(got[0], weight.shape, "the new weight")
    images = draw(seed + 2, 2, 2, 6, 6)
    sent = conv2d(images, weight, bias)
    offset = tensor(got[1], bias.shape, "the new bias").view(-1, 1, 1)
    sums = weight.sum((1, 2, 3)).view(-1, 1, 1)
    same = bias.view(-1, 1, 1)
    if _near(new, weight):
        raise Wrong("With the same weight, the negative gives other data: turn its sign.")
    compare(
        conv2d(1 - images, new) + offset,
        sent,
        {
            "The bias is unchanged: it must take up what -W makes of an all-white image.": conv2d(
                1 - images, -weight
            )
            + same,
            "The sum of the filter has the wrong sign in the bias.": conv2d(1 - images, -weight)
            + same
            - sums,
            "The bias turned its sign too; it is added after the convolution and stays.": conv2d(
                1 - images, -weight
            )
            - same
            + sums,
            "You took the mean of each filter for the bias; it is the sum.": conv2d(
                1 - images, -weight
            )
            + same
            + sums / weight[0].numel(),
            "You added one sum of all filters to each bias; it takes up its own filter's.": (
                conv2d(1 - images, -weight) + same + weight.sum()
            ),
        },
        "what the new client sends for the negative",
    )


@task(
    "04.clone_score",
    answer="score_clone",
    title="Score a stolen client",
    kind="flaw",
    rule="write it yourself",
    library=(
        "sltools.metrics.accuracy",
        "sltools.metrics.agreement",
        "sltools.metrics.score_clone",
    ),
    minutes=15,
    difficulty=3,
    points=3,
    purpose="say what the stolen part is worth, and not what the victim is worth",
    hints=(
        "Which network is made of stolen parts? The clone in front, and behind it what the server "
        "has anyway: `rest`.",
        "Accuracy compares with the labels. Agreement compares with what the victim's whole "
        "network says, right or wrong.",
    ),
    meaning="The published code put the victim's front before an untrained back, which "
    "says nothing of what was stolen.",
)
def _clone_score(answer: Answer, seed: int) -> None:
    front, clone = (_small_client(seed, name) for name in ("victim", "clone"))
    with seeds.scope(seed, "rest"):
        rest = nn.Sequential(nn.Flatten(), nn.Linear(4 * 36, 5))
    generator = seeds.generator(seed, "exercise")
    with torch.no_grad():
        images = draw(seed, 200, 1, 8, 8)
        says, claims = (rest(part(images)).argmax(1) for part in (front, clone))
    noisy = torch.rand(200, generator=generator) < 0.3
    labels = torch.where(noisy, torch.randint(5, (200,), generator=generator), says)
    got = answer(clone, front, rest, images, labels)
    if not isinstance(got, list) or len(got) != 2:
        raise Wrong("Return two numbers: accuracy and agreement.")
    shares = torch.tensor([number(share) for share in got])
    accuracy, agreement = (_share(claims == other) for other in (labels, says))
    victim = _share(says == labels)
    compare(
        shares,
        torch.tensor([accuracy, agreement]),
        {
            "You have scored the victim's own front: its accuracy says nothing of the clone.": (
                torch.tensor([victim, 1.0])
            ),
            "The first number is the victim's accuracy: put the clone before `rest`.": torch.tensor(
                [victim, agreement]
            ),
            "Agreement compares with what the victim says, not with the labels.": torch.tensor(
                [accuracy, accuracy]
            ),
            "The two numbers are swapped: accuracy first, then agreement.": torch.tensor(
                [agreement, accuracy]
            ),
            "These are per cent; give shares from 0 to 1.": torch.tensor(
                [100 * accuracy, 100 * agreement]
            ),
        },
        "the pair of accuracy and agreement",
        tolerance=1e-5,
    )


@task(
    "04.fair_score",
    answer="fair_score",
    title="Find three flaws in an evaluation",
    kind="flaw",
    rule="write it yourself",
    minutes=15,
    difficulty=2,
    points=3,
    purpose="catch the habits that make an attack look better than it is",
    hints=(
        "What may an attacker choose by? The truth is not among it.",
        "Stretching each reconstruction to [0, 1] repairs a contrast that the attack lost.",
        "The best of many seeds says what luck can do. Which number says what to expect?",
    ),
    meaning="Ask of every figure: on which scale, chosen by whom, and how often?",
)
def _fair_score(answer: Answer, seed: int) -> str:
    truth = draw(seed, 6, 1, 5, 5)
    spread = torch.tensor([0.05, 0.4, 0.1, 0.2, 0.3]).view(5, 1, 1, 1, 1)
    noise = torch.rand(5, 6, 1, 5, 5, generator=seeds.generator(seed, "noise"))
    inputs = 0.2 + 0.4 * truth + spread * (noise - 0.5)
    got = tensor(answer(inputs, truth), (), "the score")

    def per_image(images: Tensor) -> Tensor:
        return (images - truth).square().flatten(2).mean(2)

    low, high = inputs.amin((2, 3, 4), True), inputs.amax((2, 3, 4), True)
    raw, stretched = per_image(inputs), per_image((inputs - low) / (high - low))
    compare(
        got,
        _median(_medians(raw)),
        {
            "The images are still stretched to [0, 1] before the comparison: the attacker lost "
            "their contrast, and the score must say so.": _median(_medians(stretched)),
            "You still report the best seed: nobody can choose it without the truth.": (
                _medians(raw).min()
            ),
            "Still the best seed, of stretched images: two flaws to go.": _medians(stretched).min(),
            "Still the best image of each seed: take the median of the images.": _median(
                raw.amin(1)
            ),
            "You took means; one lucky or unlucky run moves a mean. Take medians.": raw.mean(),
            "With an even number of images torch.median takes the lower of the two in the middle; "
            "take their mean, as statistics.median or quantile(0.5) do.": _median(
                raw.median(1).values
            ),
            "You took one median of all errors. Take one for each seed, then that of the seeds: "
            "the score says what to expect of an attack, and an attack is one seed.": _median(
                raw.flatten()
            ),
            "You took one torch.median of all errors: take one for each seed, then that of the "
            "seeds, and the mean of two in the middle.": raw.median(),
            "You took the median over the seeds of the mean over the images; take the median of "
            "the images too.": _median(raw.mean(1)),
        },
        "the score",
    )
    return (
        f"Of the same reconstructions the flawed evaluation says {stretched.min():.4f}, where "
        f"{got:.4f} is to be expected."
    )


@task(
    "04.challenge",
    answer="attack",
    title="Beat the default at conv2",
    kind="challenge",
    rule="all of sltools",
    minutes=30,
    difficulty=4,
    points=5,
    purpose="choose settings by what an attacker can see, and get further at a deeper cut",
    hints=(
        "UnSplit has settings: print UnSplit(). More steps help at a deeper cut, up to a point.",
        "Several clones from several starts differ a lot here. UnSplit(restarts=…) keeps the one "
        "of least objective, which the attacker can see.",
    ),
    meaning="You bought this with computing time alone; the client sent nothing more.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    errors, baselines, means = [], [], []
    for place in range(3):
        session, truth, default, mean = _default_at_conv2(seed, place)
        got = tensor(answer(session.observe(truth)), truth.shape, "the reconstructions")
        if place == 0:
            _control(answer, session, truth, got, mean)
        baselines.append(default)
        means.append(mean)
        errors.append(median_mse(got, truth))
    # Clones differ much from seed to seed: one victim and one clone would be judged by luck.
    ratio = statistics.median(e / b for e, b in zip(errors, baselines, strict=True))
    told = (
        f"median MSE of three victims {statistics.median(errors):.4f}, of the default in 120 steps "
        f"{statistics.median(baselines):.4f}, of the mean image {statistics.median(means):.4f}; "
        f"error over default, in the median, {ratio:.2f}"
    )
    if ratio > 0.6:
        raise Wrong(f"Not clearly better than the default: {told}.")
    if ratio > 0.4:
        raise Wrong(f"Better than the default, not yet at 0.4: {told}.", share=0.5)
    return f"The {told}."


@lru_cache(maxsize=3)
def _default_at_conv2(seed: int, place: int) -> tuple[protocol.Session, Tensor, float, float]:
    """Train a victim for a moment; return it, ten private images, and two errors on these.

    They are those of the default in 120 steps, the median of five clones, and of the mean image.
    """
    digits = data.load("digits")
    victim = seeds.derive(seed, f"victim {place}") % 2**31
    truth = collages(digits.test.images, victim, 10)
    session = experiments.train_victim(digits, "conv2", budget="tiny", seed=victim)
    found = UnSplit(steps=120, restarts=5, seed=victim).runs(session.observe(truth))
    default = statistics.median(median_mse(run.inputs, truth) for run in found)
    return session, truth, default, median_mse(digits.train.images.mean(0).expand_as(truth), truth)


def _control(
    answer: Answer, session: protocol.Session, truth: Tensor, got: Tensor, mean: float
) -> None:
    """Raise Wrong if the answer does as well on the smashed data of other images."""
    turned = session.observe(truth.roll(1, 0))
    control = tensor(answer(turned), truth.shape, "the reconstructions")
    check_control(control, got, truth, mean, "smashed data")


def _small_client(seed: int, purpose: str) -> nn.Sequential:
    with seeds.scope(seed, purpose):
        return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())


def _gradients(
    inputs: Tensor, clone: nn.Sequential, smashed: Tensor
) -> tuple[Tensor, Tensor, list[Tensor]]:
    images = inputs.clone().requires_grad_()
    loss = (clone(images) - smashed).square().mean()
    gradient, *pushes = torch.autograd.grad(loss, [images, *clone.parameters()])
    return loss, gradient, list(pushes)


def _flat(tensors: object) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])  # type: ignore[attr-defined]


def _near(got: Tensor, other: Tensor) -> bool:
    return torch.allclose(got, other, rtol=1e-4, atol=1e-7)


def _share(hits: Tensor) -> float:
    return hits.double().mean().item()


def _medians(errors: Tensor) -> Tensor:
    return torch.tensor([statistics.median(row) for row in errors.tolist()])


def _median(values: Tensor) -> Tensor:
    return torch.tensor(statistics.median(values.tolist()))
