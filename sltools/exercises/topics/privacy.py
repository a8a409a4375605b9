"""Topic 08: what a defence does, what its noise is worth, and who is still exposed behind it."""

import math
import statistics
from functools import lru_cache
from itertools import count

import torch
from torch import Tensor, nn

from sltools import data, defenses, experiments, seeds
from sltools.checking.task import Answer, Wrong, compare, draw, number, pair, task, tensor
from sltools.exercises.challenges import check_control, collages, median_mse, noise

SCALE, QUERIES = 1.5, 4  # of the challenge's noise, and the messages for each image
HALF, FULL = 0.75, 0.5  # of the mean image's error, for half of the points and for all


@task(
    "08.local_noise",
    answer="privatise",
    title="Clip, then drown",
    kind="implement",
    rule="write it yourself",
    library=("sltools.defenses.LocalPrivacy.__call__",),
    minutes=15,
    difficulty=2,
    points=3,
    purpose="build the one mechanism that promises something to each image",
    hints=(
        "Each sample has a norm of its own: `z.flatten(1).norm(dim=1)`, which `.view(-1, 1, 1, 1)` "
        "makes fit for a division.",
        "A sample shorter than C stays as it is: scale by min(1, C / norm).",
        "Two clipped samples can point in opposite directions: they differ by up to 2C.",
    ),
    meaning="No other image could have changed the message by more than the noise covers. That is "
    "all that the promise needs, and no attack had to be tried.",
)
def _privatise(answer: Answer, seed: int) -> None:
    sizes = torch.tensor([0.2, 0.5, 1.0, 2.0, 4.0]).view(-1, 1, 1, 1)
    z = sizes * (draw(seed, 5, 2, 3, 3) - 0.4)
    clip = z.flatten(1).norm(dim=1).median().item() * 0.9
    multiplier = 0.05 + 0.2 * draw(seed + 1, 1).item()
    noise = torch.randn(z.shape, generator=seeds.generator(seed, "noise"))
    got = tensor(answer(z, clip, multiplier, noise), z.shape, "the message")
    norms = z.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    clipped, added = z * (clip / norms).clamp_max(1), 2 * clip * multiplier * noise
    noisy = z + added
    left = (got - clipped) / (2 * clip * multiplier)
    if 0.7 < left.std() < 1.4 and abs((left * noise).mean()) < 0.4:
        raise Wrong("That noise is your own: use the `noise` that is given, and draw none.")
    noisy_norms = noisy.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    compare(
        got,
        clipped + added,
        {
            "The noise is too small: two clipped samples can differ by 2C, not by C.": (
                clipped + added / 2
            ),
            "You stretched the short samples to length C. Clipping only shortens.": (
                z * clip / norms + added
            ),
            "You clipped the whole batch to one norm; each sample has its own.": (
                z * min(1.0, clip / z.norm().item()) + added
            ),
            "You clipped after the noise was added: clip first, the noise covers the rest.": noisy
            * (clip / noisy_norms).clamp_max(1),
            "You clipped each entry to [-C, C]: then the norm is not bounded by C.": (
                z.clamp(-clip, clip) + added
            ),
            "The samples are not clipped: nothing bounds how far two of them differ.": noisy,
            "The noise is missing.": clipped,
            "The noise does not grow with C: its standard deviation is m · 2C.": (
                clipped + multiplier * noise
            ),
            "You clipped each channel by itself; the norm is that of the whole sample.": (
                z * (clip / z.flatten(2).norm(dim=2)[..., None, None]).clamp_max(1) + added
            ),
        },
        "the message",
    )


@task(
    "08.average",
    answer="predict_and_average",
    title="Asking again",
    kind="predict",
    rule="write it yourself",
    minutes=15,
    difficulty=2,
    points=3,
    purpose="foretell what a noise is worth after several messages",
    hints=(
        "The variances of independent noises add up; dividing by n divides the variance by n².",
        "To measure: the mean over the messages, minus `z`; of that the root of the mean square.",
    ),
    meaning="Four times the messages, half the noise. A noise must be accounted for over all "
    "releases of an image.",
)
def _average(answer: Answer, seed: int) -> str:
    sigma, count = 0.5 + 2 * draw(seed, 1).item(), 4 + seed % 9
    z = draw(seed + 1, 6, 2, 8, 8)
    noise = torch.randn((count, *z.shape), generator=seeds.generator(seed, "noise"))
    sent = z + sigma * noise
    predicted, measured = (number(part) for part in pair(answer(sent, z, sigma)))
    left = sent.mean(0) - z
    compare(
        torch.tensor(predicted),
        torch.tensor(sigma / math.sqrt(count)),
        {
            reason: torch.tensor(value)
            for reason, value in {
                "The noises cancel in part only: it is the variance that is divided by n.": sigma
                / count,
                "You predicted the noise of one message; the mean has less.": sigma,
                "You predicted the variance of what is left; asked is its root.": sigma**2 / count,
                "You divided by the root of the number of images; messages are counted by the "
                "first axis of `sent`.": sigma / math.sqrt(len(z)),
                "You returned the measurement for the prediction: predict from sigma and the "
                "number of messages alone.": left.square().mean().sqrt().item(),
                "The noise does not grow with more messages when the mean is taken.": sigma
                * math.sqrt(count),
            }.items()
        },
        "the prediction",
    )
    compare(
        torch.tensor(measured),
        left.square().mean().sqrt(),
        {
            "You measured the noise of the single messages: take their mean first.": (
                (sent - z).square().mean().sqrt()
            ),
            "You measured the mean square; take its root.": left.square().mean(),
            "You measured the mean absolute error; the root of the mean square is asked.": (
                left.abs().mean()
            ),
            "You returned the prediction for the measurement. Measure it on `sent` and `z`.": (
                torch.tensor(sigma / math.sqrt(count))
            ),
            "You measured how far the images differ, not the noise: subtract `z`.": (
                sent.mean(0).square().mean().sqrt()
            ),
            "You measured the size of the whole error, its norm; divide by the number of entries "
            "under the root.": left.norm(),
        },
        "the measurement",
        tolerance=1e-4,
    )
    return f"{count} messages: {sigma:.2f} became {measured:.2f}, predicted {predicted:.2f}."


@task(
    "08.shares",
    answer="true_shares",
    title="Count those who lie by lot",
    kind="implement",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=3,
    purpose="see that randomised answers hide each person and not the crowd",
    hints=(
        "With K classes the true label is sent with probability p = e^ε / (e^ε + K - 1), each "
        "other one with q = 1 / (e^ε + K - 1).",
        "The expected share of answers c is p · share + q · (1 - share). Solve for the share.",
    ),
    meaning="The answers of a crowd tell its shares, and no answer gives its owner away by more "
    "than ε. That is a trade that local privacy can offer.",
)
def _shares(answer: Answer, seed: int) -> None:
    classes, epsilon = 3 + seed % 3, 0.5 + 1.5 * draw(seed, 1).item()
    weights = draw(seed + 1, classes) + 0.1
    weights[seed % classes] = 0.0  # a class of nobody, of which there may be less than nothing
    truth = torch.multinomial(weights, 400, True, generator=seeds.generator(seed, "labels"))
    power = math.exp(epsilon)
    p, q = power / (power + classes - 1), 1 / (power + classes - 1)
    half = power / (power + 1)
    for attempt in count():
        lots = seeds.derive(seed, f"answers {attempt}")
        answers = defenses.RandomisedResponse(epsilon, classes, lots)("labels", truth)
        seen = answers.bincount(minlength=classes) / len(answers)
        right = (seen - q) / (p - q)
        if right.min() < -0.02:
            break
    got = tensor(answer(answers, epsilon, classes), (classes,), "the shares")
    compare(
        got,
        right,
        {
            "Those are the shares of the answers. Some of them were drawn by lot: correct for "
            "that.": seen,
            "You gave all the lies to one other class: each of the K - 1 others is sent with "
            "q = 1 / (e^ε + K - 1).": (seen - (1 - p)) / (p - (1 - p)),
            "You took p for two classes; here there are K.": (seen - (1 - half)) / (2 * half - 1),
            "You divided by p: that takes all answers for true ones that were thinned out.": seen
            / p,
            "You subtracted the lies and did not scale what is left: divide by p - q.": seen - q,
            "Those are counts: divide by the number of answers.": right * len(answers),
            "You cut the shares off at 0, or scaled them anew. Then they are right on average no "
            "longer; an estimate may be below 0.": right.clamp_min(0) / right.clamp_min(0).sum(),
        },
        "the shares",
    )


@task(
    "08.leak_auc",
    answer="leak_auc",
    title="How well a length tells a label",
    kind="implement",
    rule="write it yourself",
    library=("sltools.metrics.leak_auc",),
    minutes=15,
    difficulty=2,
    points=3,
    purpose="measure a leak by a number that needs no threshold",
    hints=(
        "The chance that a rare sample has a higher score than a common one: compare all pairs.",
        "`scores[rare][:, None] > scores[~rare]` has an entry for each pair. A tie counts half.",
    ),
    meaning="½ is what somebody gets who guesses; and unlike an accuracy it cannot be flattered "
    "by the rare class being rare.",
)
def _leak_auc(answer: Answer, seed: int) -> None:
    rare = torch.zeros(40, dtype=torch.long)
    rare[torch.randperm(40, generator=seeds.generator(seed, "rare"))[: 5 + seed % 4]] = 1
    scores = (10 * (draw(seed, 40) + 0.35 * rare)).floor()  # whole numbers: there are ties
    got = torch.tensor(number(answer(scores, rare)))
    high, low = scores[rare == 1], scores[rare == 0]
    above = (high[:, None] > low).float()
    level = (high[:, None] == low).float()
    middle = (scores > scores.median()) == (rare == 1)
    compare(
        got,
        (above + level / 2).mean(),
        {
            "A tie is a coin toss: count it half, not as a failure.": above.mean(),
            "A tie is a coin toss: count it half, not as a success.": (above + level).mean(),
            "The other way round: the rare sample (1) should have the higher score.": (
                1 - (above + level / 2).mean()
            ),
            "That is an accuracy at one threshold; compare all pairs of a rare and a common "
            "sample.": middle.float().mean(),
            "You compared all samples with all; only pairs of one rare and one common count.": (
                (scores[:, None] > scores).float() + 0.5 * (scores[:, None] == scores).float()
            ).mean(),
            "That is the difference of the mean scores, in the scores' own unit.": (
                high.mean() - low.mean()
            ),
        },
        "the AUC",
        tolerance=1e-5,
    )


@task(
    "08.fair_report",
    answer="fair_report",
    title="A defence that nobody got through",
    kind="flaw",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=4,
    purpose="report what a defence is worth to the one who is worst off",
    hints=(
        "Which attack would an attacker use? Who is protected by a mean over images?",
        "Seeds are luck, of which nobody chooses: take their median. Images are people: take the "
        "worst off. Attacks are chosen by the attacker: take the strongest.",
        "errors = (inputs - truth).square().mean((3, 4, 5)) has the axes attack, seed, image.",
    ),
    meaning="A defence is as good as what it leaves the worst-off person against the best attack.",
)
def _fair_report(answer: Answer, seed: int) -> str:
    inputs, truth = _defended(seed)
    got = torch.tensor(number(answer(inputs, truth)))
    errors = (inputs - truth).square().mean((3, 4, 5))  # attack, seed, image

    def middle(values: Tensor) -> Tensor:
        return values.sort(dim=-1).values[..., values.shape[-1] // 2]  # of an odd number

    right = middle(errors.amin(2)).amin()
    flawed = errors[0].mean()
    compare(
        got,
        right,
        {
            "Nothing is mended yet: the mean of all errors of the first attack.": flawed,
            "You still look at the first attack only; the attacker takes the strongest.": (
                middle(errors[0].amin(1))
            ),
            "You still average over the images: the one that came out best hides in the mean.": (
                middle(errors.mean(2)).amin()
            ),
            "You still average over the seeds; take their median.": errors.amin(2).mean(1).amin(),
            "You took the best seed: luck, which nobody chooses. Take the median of the seeds.": (
                errors.amin()
            ),
            "You took the median image; the worst off is the one with the least error.": (
                middle(errors.median(2).values).amin()
            ),
            "You took the image with the largest error: that is the one best protected.": (
                middle(errors.amax(2)).amin()
            ),
            "You averaged over the attacks; the attacker takes the strongest.": (
                middle(errors.amin(2)).mean()
            ),
            "You took the weakest attack; the attacker takes the strongest.": (
                middle(errors.amin(2)).amax()
            ),
        },
        "the report",
    )
    return f"The flawed report says {flawed:.3f}; the worst-off person has {right:.4f}."


def _defended(seed: int) -> tuple[Tensor, Tensor]:
    """Draw reconstructions (attacks, seeds, images, ...): one image is spared by the defence."""
    truth = draw(seed, 5, 1, 4, 4)
    noise = torch.randn((3, 5, *truth.shape), generator=seeds.generator(seed, "noise"))
    images = torch.tensor([1.0, 0.8, 0.15, 0.9, 1.2])
    images = images[torch.randperm(5, generator=seeds.generator(seed, "spared"))]
    luck = 0.5 + draw(seed + 1, 1, 5, 1)
    size = torch.tensor([0.7, 0.4, 1.0]).view(3, 1, 1) * luck * images
    return truth + 0.5 * size.view(3, 5, 5, 1, 1, 1) * noise, truth


@task(
    "08.challenge",
    answer="attack",
    title="Read through the noise",
    kind="challenge",
    rule="all of sltools",
    minutes=45,
    difficulty=5,
    points=5,
    purpose="be the attacker who knows the defence, and use all that was sent",
    hints=(
        "Start with the mean over the messages: what noise is left in it?",
        "Send the public images through `front` and train a network to undo it. It has to learn on "
        "what it will meet: add noise of the right size to its inputs, new in every step.",
        "`sltools.attacks.networks.decoder(z_shape, image_shape, seed=0)` is such a network, with "
        "a sigmoid at its end; 200 steps of Adam at 2e-3 on 32 images each are enough.",
    ),
    meaning="A noise that is known is half undone. Whoever sells one has to say against whom.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    public = data.load("digits").train.images
    errors, means = [], []
    for place in range(3):
        front, truth, sent = _noisy_client(seed, place)
        got = tensor(answer(front, sent, public, SCALE), truth.shape, "the reconstructions")
        errors.append(median_mse(got, truth))
        means.append(median_mse(public.mean(0).expand_as(truth), truth))
        if place == 0:
            turned = answer(front, sent.roll(1, 1), public, SCALE)
            control = tensor(turned, truth.shape, "the reconstructions")
            check_control(control, got, truth, means[0], "messages", tolerance=1e-6)
    ratio = statistics.median(e / m for e, m in zip(errors, means, strict=True))
    told = (
        f"median MSE of three victims {statistics.median(errors):.4f}, of the mean image "
        f"{statistics.median(means):.4f}: {ratio:.2f} of it in the median"
    )
    if ratio > HALF:
        raise Wrong(f"Not clearly better than the mean image: {told}.")
    if ratio > FULL:
        raise Wrong(f"Better than the mean image, not yet at {FULL}: {told}.", share=0.5)
    return f"The {told}."


@lru_cache(maxsize=3)
def _noisy_client(seed: int, place: int) -> tuple[nn.Sequential, Tensor, Tensor]:
    """Train a client for a moment; return its layers, ten private images and the messages."""
    digits = data.load("digits")
    victim = seeds.derive(seed, f"victim {place}") % 2**31
    stream = seeds.keyed(seed, f"noise {place}")
    front = experiments.train_victim(digits, "pool1", budget="tiny", seed=victim).client.front
    truth = collages(digits.test.images, victim, 10)
    with torch.no_grad():
        z = front(truth)
    return front, truth, z + SCALE * noise((QUERIES, *z.shape), stream)
