"""Topic 06: telling a copy, fooling the victim with it, and what training it further moves."""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, normalize, one_hot

from sltools import data, experiments, models, protocol, seeds
from sltools.attacks import UnSplit
from sltools.checking.task import Answer, Wrong, compare, draw, number, pair, task, tensor
from sltools.models import Architecture

CLASSES = 4
EPSILON = 0.2  # of the challenge
VICTIMS, CLONES, IMAGES = 4, 5, 40  # of the challenge; images are for each victim


@task(
    "06.agreement",
    answer="beyond_chance",
    title="A copy, or merely as good?",
    kind="implement",
    rule="write it yourself",
    minutes=15,
    difficulty=3,
    points=3,
    purpose="take out of an agreement what two good networks owe to being good",
    hints=(
        "For one true class y: what share of its images does the victim call c, what share does "
        "the other network? Multiply the two, and add up over c.",
        "Then the mean over the images: a class counts by the number of its images.",
        "(agreement - expected) / (1 - expected): 0 is what two networks would have whose mistakes "
        "fall anywhere within a class, 1 is a perfect copy.",
    ),
    meaning="Two good networks owe most of their agreement to being good. What is left is no proof "
    "of a copy yet: the same images are hard for all networks, so measure it for honest ones too.",
)
def _beyond_chance(answer: Answer, seed: int) -> str:
    predictions = _predictions(seed)
    got = torch.tensor(number(answer(*predictions)))
    values = _agreements(*predictions)
    compare(
        got,
        values[RIGHT],
        {reason: values[name] for name, reason in AGREEMENT_MISTAKES.items()},
        "the corrected agreement",
    )
    return (
        f"They agree on {values['bare']:.0%}; networks as good as these, whose mistakes fall "
        f"anywhere within a class, would on {values['expected']:.0%}."
    )


RIGHT = "right"
AGREEMENT_MISTAKES = {
    "bare": "That is the bare agreement: what two good networks have in any case is still in it.",
    "kappa": "That is Cohen's kappa over all images together. Two good networks agree more than "
    "its chance says because both know the class: expect within each true class.",
    "both right": "You expect only that both are right; they may also make the same mistake by "
    "chance.",
    "both wrong": "You count every image that both get wrong as an expected agreement; they may "
    "call it by different names.",
    "beyond": "Divide by 1 - e, the most that there is to gain: a perfect copy has 1.",
    "expected": "That is the expected agreement itself.",
    "equal weights": "You gave each class the same weight; a class counts by the number of its "
    "images.",
    "each class": "You corrected each class by itself and took the mean; correct the agreement "
    "over all images once.",
    "mistakes": "You looked only at the images that the victim gets wrong. These are few, and "
    "some of them are hard for everybody.",
    "accuracy": "That is the accuracy of the other network, not its agreement with the victim.",
}


def _agreements(victim: Tensor, other: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """The agreement beyond chance, and what comes of each mistake in it."""
    agrees, right, knows = victim == other, victim == labels, other == labels
    truth, first, second = (one_hot(said, CLASSES).float() for said in (labels, victim, other))
    sizes = truth.sum(0)
    within = (truth.T @ first * (truth.T @ second)).sum(1) / sizes.square()
    own = (truth.T @ agrees.float()) / sizes
    expected = (sizes * within).sum() / len(labels)
    both, neither = _share(right) * _share(knows), _share(~right) * _share(~knows)
    agreement = _share(agrees)
    chances = {
        RIGHT: expected,
        "kappa": (first.mean(0) * second.mean(0)).sum(),
        "both right": both,
        "both wrong": both + neither,
        "equal weights": within.mean(),
    }
    return {name: (agreement - chance) / (1 - chance) for name, chance in chances.items()} | {
        "bare": agreement,
        "beyond": agreement - expected,
        "expected": expected,
        "each class": ((own - within) / (1 - within)).mean(),
        "mistakes": _share(agrees[~right]),
        "accuracy": _share(knows),
    }


def _predictions(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw what a victim and another network say to images, and the true classes, each (N,).

    Every mistake shows in them.
    """
    labels = torch.tensor([0] * 40 + [1] * 25 + [2] * 15 + [3] * 10)
    hard = 0.1 + 0.15 * labels  # so that the classes differ in difficulty as well
    for attempt in range(1000):
        derived = seeds.derive(seed, f"said {attempt}") % 2**31
        errs, slips, copies = (draw(derived + place, 90) for place in range(3))
        guess, blind = (draw(derived + place, 90).mul(CLASSES).long() for place in (3, 4))
        victim = torch.where(errs < hard, guess, labels)
        other = torch.where(copies < 0.5, victim, torch.where(slips < hard, blind, labels))
        values = torch.stack(list(_agreements(victim, other, labels).values()))
        if torch.pdist(values[:, None]).min() > 0.005:
            order = torch.randperm(90, generator=seeds.generator(seed, "order"))
            return victim[order], other[order], labels[order]
    raise AssertionError("no answers were found that show every mistake")


@task(
    "06.step",
    answer="adversarial",
    title="One step on the clone",
    kind="implement",
    rule="write it yourself",
    minutes=15,
    difficulty=2,
    points=3,
    purpose="change an image as far as allowed, so that the stolen network errs",
    hints=(
        "`changed = images.clone().requires_grad_()`, and the loss is "
        "`cross_entropy(g(clone(changed)), labels)`.",
        "Only the sign of the gradient counts: every pixel goes epsilon up or epsilon down.",
        "An image has pixels in [0, 1]: `.clamp(0, 1)`.",
    ),
    meaning="No question was put to the victim, and no gradient of it was needed. Whether the "
    "image fools it too is the next task.",
)
def _adversarial(answer: Answer, seed: int) -> None:
    with seeds.scope(seed, "clone"):
        clone = nn.Sequential(nn.Conv2d(1, 4, 3), nn.LeakyReLU(0.2))
        g = nn.Sequential(nn.Flatten(), nn.Linear(144, 5))
    with torch.no_grad():
        g[1].get_parameter("weight").mul_(6)  # so that the gradient is not next to nothing
    images = (1.4 * draw(seed, 4 + seed % 3, 1, 8, 8) - 0.2).clamp(0, 1)
    with torch.no_grad():
        said = g(clone(images)).argmax(1)
    labels, epsilon = (said + 1 + torch.arange(len(said)) % 2) % 5, 0.05 + 0.02 * (seed % 4)
    got = tensor(answer(clone, g, images, labels, epsilon), images.shape, "the images")
    x = images.clone().requires_grad_()
    logits = g(clone(x))
    losses = (
        cross_entropy(logits, labels),
        cross_entropy(logits, said),
        cross_entropy(logits.softmax(1), labels),
        -logits.gather(1, labels[:, None]).sum(),
    )
    slope, of_said, of_twice, of_label = (
        torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in losses
    )
    step = epsilon * slope.sign()
    compare(
        got,
        (images + step).clamp(0, 1),
        {
            "Some pixels are outside [0, 1]: no image has such.": images + step,
            "You went down the loss: the network is now surer of the right class.": (
                images - step
            ).clamp(0, 1),
            "You added the gradient itself; its sign moves every pixel by epsilon, however small "
            "the gradient is.": (images + epsilon * slope).clamp(0, 1),
            "You made a step of length epsilon for a whole image; each single pixel may move by "
            "epsilon.": (images + epsilon * normalize(slope.flatten(1)).view_as(slope)).clamp(0, 1),
            "That is the change alone; return the changed images.": step,
            "You took what the clone says for the label. The loss is that of the true label.": (
                images + epsilon * of_said.sign()
            ).clamp(0, 1),
            "There is a softmax too many: cross_entropy contains one.": (
                images + epsilon * of_twice.sign()
            ).clamp(0, 1),
            "You lowered the score of the true class; the loss also raises the others. Was a "
            "softmax left out?": (images + epsilon * of_label.sign()).clamp(0, 1),
            "The images have not moved.": images,
        },
        "the tensor of images",
    )


@task(
    "06.fair_transfer",
    answer="fair_transfer",
    title="It fools the victim, they say",
    kind="flaw",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=3,
    purpose="count only what the attack did, within its rules, beside what noise does",
    hints=(
        "Which images did the victim get wrong before anybody changed them?",
        "`(changed - images).abs().flatten(1).amax(1)` is how far each image was changed. One that "
        "was changed too far is a failed attack; it stays among those counted.",
        "The baseline: `(images + epsilon * signs).clamp(0, 1)`, on the same images.",
    ),
    meaning="Ask of every share of images that fooled a network: of which images, changed how far, "
    "and how many does noise fool, or a network that nobody stole?",
)
def _fair_transfer(answer: Answer, seed: int) -> str:
    arguments = _attacked(seed)
    got = torch.tensor([number(share) for share in pair(answer(*arguments))])
    by_name = _transfer_rates(*arguments)
    compare(
        got,
        by_name[RIGHT],
        {reason: by_name[name] for name, reason in TRANSFER_MISTAKES.items()},
        "the pair of shares",
        tolerance=1e-4,
    )
    flawed, (fooled, noise) = by_name["nothing"][0], by_name[RIGHT]
    return f"The flawed figure is {flawed:.0%}; fair is {fooled:.0%}, beside {noise:.0%} by noise."


TRANSFER_MISTAKES = {
    "nothing": "All three flaws are still there.",
    "no baseline": "There is still no baseline: how many does noise of the same size fool?",
    "all": "You still count images that the victim got wrong before: nobody fooled it there.",
    "all for noise": "The noise is measured on all images; take those that the victim got right, "
    "as for the attack.",
    "too far": "You still count images that were changed by more than epsilon as successes.",
    "left out": "You left the images that were changed too far out. They are failed attacks, and "
    "count among all those tried.",
    "flips": "You count every changed answer, also on images that the victim got wrong before.",
    "unclamped": "Your noise leaves [0, 1]; no image does.",
    "share of all": "You divided by the number of all images; divide by those that the victim got "
    "right.",
    "swapped": "The two are swapped: the clone's images first, then noise.",
    "difference": "Return the baseline itself, and not what the attack has beyond it.",
}


def _transfer_rates(
    victim: nn.Sequential,
    images: Tensor,
    labels: Tensor,
    changed: Tensor,
    signs: Tensor,
    epsilon: float,
) -> dict[str, Tensor]:
    """Shares fooled by the clone's images and by noise, as they should be and by each mistake."""

    def said(x: Tensor) -> Tensor:
        with torch.no_grad():
            return victim(x).argmax(1)

    noisy = images + epsilon * signs
    before = said(images)
    right = before == labels
    fair = (changed - images).abs().flatten(1).amax(1) <= epsilon
    hit, by_noise = said(changed) != labels, said(noisy.clamp(0, 1)) != labels
    fooled, noise, zero = _share((hit & fair)[right]), _share(by_noise[right]), torch.tensor(0.0)
    flipped = ((said(changed) != before) & fair, said(noisy.clamp(0, 1)) != before)
    pairs = {
        RIGHT: (fooled, noise),
        "nothing": (_share(hit), zero),
        "no baseline": (fooled, zero),
        "all": (_share(hit & fair), _share(by_noise)),
        "all for noise": (fooled, _share(by_noise)),
        "too far": (_share(hit[right]), noise),
        "left out": (_share(hit[right & fair]), noise),
        "flips": (_share(flipped[0]), _share(flipped[1])),
        "unclamped": (fooled, _share((said(noisy) != labels)[right])),
        "share of all": (_share(hit & fair & right), _share(by_noise & right)),
        "swapped": (noise, fooled),
        "difference": (fooled, fooled - noise),
    }
    return {name: torch.stack(shares) for name, shares in pairs.items()}


def _attacked(seed: int) -> tuple[nn.Sequential, Tensor, Tensor, Tensor, Tensor, float]:
    """Draw a victim, images, labels, images changed on a poor clone, signs, and epsilon.

    Every mistake shows in them, by one image or more.
    """
    for attempt in range(1000):
        derived = seeds.derive(seed, f"attacked {attempt}") % 2**31
        with seeds.scope(derived, "victim"):
            victim = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES))
            weight, bias = victim[1].get_parameter("weight"), victim[1].get_parameter("bias")
        images = (1.6 * draw(derived, 80, 1, 6, 6) - 0.3).clamp(0, 1)
        with torch.no_grad():
            bias.sub_((images.flatten(1) @ weight.T + bias).mean(0))  # so that each class occurs
            labels = victim(images).argmax(1)
            wrong = draw(derived + 1, 80) < 0.25
            labels = torch.where(wrong, (labels + 1) % CLASSES, labels)
            clone = weight + 0.15 * (draw(derived + 2, CLASSES, 36) - 0.5)
            slope = images.flatten(1) @ clone.T + bias
            slope = (slope.softmax(1) - one_hot(labels, CLASSES)) @ clone
        epsilon = 0.1 + 0.02 * draw(derived + 3, 1).item()
        size = epsilon * torch.where(draw(derived + 4, 80) < 0.25, 2, 0.9)[:, None]
        changed = (images.flatten(1) + size * slope.sign()).clamp(0, 1).view_as(images)
        signs = (draw(derived + 5, *images.shape) - 0.5).sign()
        arguments = (victim, images, labels, changed, signs, epsilon)
        rates = list(_transfer_rates(*arguments).values())
        if torch.pdist(torch.stack(rates)).min() > 0.01 and rates[0].min() > 0.05:
            return arguments
    raise AssertionError("no images were found that show every mistake")


@task(
    "06.disguise",
    answer="disguise",
    title="The same network, unrecognisable",
    kind="implement",
    rule="write it yourself",
    minutes=15,
    difficulty=3,
    points=3,
    purpose="hide a copy from whoever compares weights one by one, and see what still finds it",
    hints=(
        "The new first layer: `scale[:, None, None, None] * weight[order]`, and its bias likewise.",
        "ReLU lets a positive factor through: relu(s a) = s relu(a).",
        "The second layer reads the hidden channels along axis 1 of its weight: take them in the "
        "same order, and divide by the same factors. Its bias stays.",
    ),
    meaning="Who compares weights one by one misses this thief; who matches the channels, and "
    "forgets their lengths, does not. Equal answers alone would prove nothing: an honest front "
    "before the same layers of a server answers much alike.",
)
def _disguise(answer: Answer, seed: int) -> str:
    width = 6 + seed % 3
    front, stranger = (_two_layers(width, seed, purpose) for purpose in ("front", "stranger"))
    generator = seeds.generator(seed, "order")
    order = torch.arange(width)
    while torch.equal(order[order], torch.arange(width)):  # it is its own inverse
        order = torch.randperm(width, generator=generator)
    scale = 0.4 + 2 * draw(seed, width)
    returned = answer(front, order, scale)
    if not isinstance(returned, list) or len(returned) != 4:
        raise Wrong("Return four tensors: weight and bias of the first layer, then of the second.")
    names = [f"the {part} of the {place} layer" for place in NTH for part in ("weight", "bias")]
    own = [weight.detach() for weight in front.parameters()]
    got = [
        tensor(value, weight.shape, name)
        for value, weight, name in zip(returned, own, names, strict=True)
    ]
    w1, b1, w2, b2 = own
    out, into = scale[:, None, None, None], scale[:, None, None]
    first = [out * w1[order], scale * b1[order]]
    back = order.argsort()
    right = [*first, w2[:, order] / into, b2]
    mistakes = {
        "That is the network as it was.": own,
        "Your network answers as before, but in it channel order[j] is made of channel j; asked "
        "is the other way round.": [out * w1[back], scale * b1[back], w2[:, back] / into, b2],
        "You scaled channel j before it was moved: the factor belongs to the new place.": [
            (out * w1)[order],
            (scale * b1)[order],
            (w2 / into)[:, order],
            b2,
        ],
        "The bias of the first layer must move and be scaled with its channel.": [
            first[0],
            b1,
            *right[2:],
        ],
        "The bias of the first layer is moved, but not scaled.": [first[0], b1[order], *right[2:]],
        "The second layer still reads the channels as they were.": [*first, w2, b2],
        "The second layer reads the channels in the new order, but not yet by the inverse "
        "factors.": [*first, w2[:, order], b2],
        "The second layer has the inverse factors, but still reads the old order.": [
            *first,
            w2 / into,
            b2,
        ],
        "The second layer must undo the factors: divide by them.": [
            *first,
            w2[:, order] * into,
            b2,
        ],
        "You moved the outputs of the second layer, axis 0 of its weight; the hidden channels are "
        "its inputs, axis 1.": [*first, w2[order] / out, b2],
        "You moved the second layer's bias as well: its outputs keep their places.": [
            *right[:3],
            b2[order],
        ],
        "You divided the second layer's bias too; it is added behind the hidden channels.": [
            *right[:3],
            b2 / scale,
        ],
    }
    compare(
        _joined(got),
        _joined(right),
        {reason: _joined(weights) for reason, weights in mistakes.items()},
        "the tensor of all weights together",
    )
    others = [weight.detach() for weight in stranger.parameters()]
    apart, unrelated = (
        (_joined(weights) - _joined(own)).norm() / _joined(own).norm() for weights in (got, others)
    )
    return (
        f"One by one, the weights are {apart:.0%} of their length away from the old ones, those of "
        f"a network that nobody stole {unrelated:.0%}. Each channel beside the one most like it, "
        f"in whatever order and length: a likeness of {_likeness(own, got):.2f}, of at most 1, and "
        f"{_likeness(own, others):.2f}."
    )


NTH = ("first", "second")


def _two_layers(width: int, seed: int, purpose: str) -> nn.Sequential:
    with seeds.scope(seed, purpose):
        return nn.Sequential(nn.Conv2d(1, width, 3), nn.ReLU(), nn.Conv2d(width, width, 3))


def _likeness(own: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
    """Mean over the hidden channels of `own` of the cosine with the most like one of `other`.

    A channel is its weight and bias in the first layer; neither order nor length counts.
    """
    one, two = (
        normalize(torch.cat([weight.flatten(1), bias[:, None]], 1))
        for weight, bias, *_ in (own, other)
    )
    return (one @ two.T).amax(1).mean()


def _joined(weights: Sequence[Tensor]) -> Tensor:
    return torch.cat([weight.flatten() for weight in weights])


@task(
    "06.moves",
    answer="predict_and_train",
    title="What a few labels can move",
    kind="predict",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=3,
    purpose="foretell how many weights one step of training reaches, and check that no other moved",
    hints=(
        "The gradient of the head's weight at class k and feature d is the mean over the images of "
        "(p - e_y)[k] times feature d: zero if the feature is zero in all of them.",
        "`alive = (front(images) > 0).any(0).sum()`: for each such feature K weights move, and so "
        "do the K biases.",
        "To measure: keep `before = [w.detach().clone() for w in ...]` of all weights, of the "
        "front too; take the step with the head's only; count the entries that differ.",
    ),
    meaning="A few images reach a part of the head only, and with the front frozen nothing of what "
    "was stolen is overwritten.",
)
def _train_head(answer: Answer, seed: int) -> str:
    front, head, images, labels = _few(seed)
    predicted, measured = pair(answer(front, head, images, labels, 0.5))
    with torch.no_grad():
        alive = front(images) > 0
    classes, features = head[0].get_parameter("weight").shape
    ever, always = int(alive.any(0).sum()), int(alive.all(0).sum())
    right = float((ever + 1) * classes)
    weights = sum(weight.numel() for weight in front.parameters())
    shared = {
        "{} leaves out the biases of the head; they move in any case.": ever * classes,
        "{} is the number of all weights of the head. A weight whose feature is zero in every "
        "image stays.": (features + 1) * classes,
    }
    mistakes = {
        "predicted": {
            "In the prediction the front moves as well; it is frozen.": (features + 1) * classes
            + weights,
            "You predict for features that are above zero in all images; one image is enough to "
            "move a weight.": (always + 1) * classes,
            "The prediction counts the features that are above zero; each has a weight for every "
            "class, and there are the biases.": ever,
            "The prediction counts a feature anew in each image; its weights are the same ones.": (
                int(alive.sum()) + 1
            )
            * classes,
            "The prediction counts the features that are always zero; theirs are the weights that "
            "stay.": (features - ever + 1) * classes,
        },
        "measured": {
            "Measured, nothing moved: `before` must be a copy, `.clone()`, or it moves along.": 0,
            "You counted tensors that moved; count their entries.": 2,
        },
    }
    for name, value, what in (
        ("predicted", predicted, "The prediction"),
        ("measured", measured, "The measurement"),
    ):
        got = number(value, what[0].lower() + what[1:])
        if name == "measured" and got > (features + 1) * classes:
            raise Wrong(
                "Measured, more weights moved than the head has: the front was trained too. Give "
                "the optimizer the head's weights only."
            )
        reasons = {reason.format(what): count for reason, count in shared.items()} | mistakes[name]
        compare(
            torch.tensor(got),
            torch.tensor(right),
            {reason: torch.tensor(float(count)) for reason, count in reasons.items()},
            what[0].lower() + what[1:],
            tolerance=1e-6,
        )
    return f"{right:.0f} of {(features + 1) * classes + weights} weights moved, as predicted."


def _few(seed: int) -> tuple[nn.Sequential, nn.Sequential, Tensor, Tensor]:
    """Draw a front, a head, and a few labelled images in which some features are always zero."""
    for attempt in range(1000):
        with seeds.scope(seed, f"networks {attempt}"):
            front = nn.Sequential(nn.Flatten(), nn.Linear(16, 20), nn.ReLU())
            head = nn.Sequential(nn.Linear(20, CLASSES))
        derived = seeds.derive(seed, f"few {attempt}") % 2**31
        images = draw(derived, 4 + seed % 3, 1, 4, 4)
        labels = (draw(derived + 1, len(images)) * CLASSES).long()
        z = front(images)
        (slope,) = torch.autograd.grad(
            cross_entropy(head(z), labels), head[0].get_parameter("weight")
        )
        alive = z > 0
        ever, always = int(alive.any(0).sum()), int(alive.all(0).sum())
        clear = slope.abs().amin(0)[alive.any(0)] > 1e-5  # far above rounding
        if 5 <= always < ever <= 17 and ever != 10 and clear.all():
            return front, head, images, labels
    raise AssertionError("no networks were found that show every mistake")


@task(
    "06.challenge",
    answer="craft",
    title="Better than one step",
    kind="challenge",
    rule="all of sltools",
    minutes=40,
    difficulty=4,
    points=5,
    purpose="make images on poor clones that fool a network nobody may ask",
    hints=(
        "Several small steps find more than a large one: after each, put every pixel back to "
        "within epsilon of the original, and into [0, 1].",
        "Each clone errs in its own way, and what fools all of them is likelier to fool the "
        "victim. Add up their losses, or take the mean of their logits.",
        "Ten steps of a quarter of epsilon will do. Keep the sum of the past gradients, each "
        "scaled to the same size, if you like: that is momentum.",
    ),
    meaning="Five poor copies together do what no single one does: what fools all of them is a "
    "weakness of the victim, and not of one clone.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    resisted = on_one = on_all = 0.0
    by_clones, by_strangers = [], []
    for place in range(VICTIMS):
        victim, g, clones, strangers, few = _stolen_victim(seed, place)
        left = {}
        for real in _order(seed, place):  # a control looks like any other call
            given = clones if real else strangers
            left[real] = _recognised(victim, few, _crafted(answer, given, g, few))
        recognised, unfooled = left[True], left[False]
        resisted += recognised.sum().item()
        on_one += sum(_resist_one_step(victim, g, [clone], few) for clone in clones) / CLONES
        on_all += _resist_one_step(victim, g, clones, few)
        by_clones.append(1 - _share(recognised))
        by_strangers.append(1 - _share(unfooled))
    fooled, unrelated = (torch.stack(shares).mean() for shares in (by_clones, by_strangers))
    told = (
        f"of {VICTIMS * IMAGES} images the victims still recognise {resisted:.0f}; after one step "
        f"on one clone {on_one:.0f}, after one on all clones {on_all:.0f}"
    )
    if resisted > 0.7 * on_one:
        raise Wrong(f"Not clearly better than one step on one clone: {told}.")
    if unrelated > 0.85 * fooled:
        raise Wrong(
            f"Given clones with random weights you fool the victims in {unrelated:.0%} of all "
            f"cases, given the stolen ones in {fooled:.0%}: this does not come from the clones."
        )
    if resisted > 0.75 * on_all:
        raise Wrong(f"Better than one step on one clone, and the clones can do more: {told}.", 0.5)
    return f"{told[0].upper()}{told[1:]}. With clones of random weights you fool {unrelated:.0%}."


def _order(seed: int, place: int) -> list[bool]:
    """Draw whether the stolen clones come first (True), or those of random weights."""
    first = bool(seeds.keyed(seed, f"control {place}").integers(2))
    return [first, not first]


def _crafted(
    answer: Answer, clones: list[nn.Sequential], g: nn.Sequential, few: data.Split
) -> Tensor:
    """Call the answer; raise Wrong if an image was changed too far, or is none."""
    returned = answer(clones, g, few.images, few.labels, EPSILON)
    changed = tensor(returned, few.images.shape, "the images")
    if changed.min() < 0 or changed.max() > 1:
        raise Wrong("Some pixels are outside [0, 1].")
    far = (changed - few.images).abs().max()
    if far > EPSILON + 1e-5:
        raise Wrong(f"Some pixel was changed by {far:.3f}; {EPSILON} is allowed.")
    return changed


def _recognised(victim: nn.Sequential, few: data.Split, images: Tensor) -> Tensor:
    with torch.no_grad():
        return victim(images).argmax(1) == few.labels


def _resist_one_step(
    victim: nn.Sequential, g: nn.Sequential, clones: list[nn.Sequential], few: data.Split
) -> int:
    """Count the images that the victim recognises after one step on `clones` together."""
    x = few.images.clone().requires_grad_()
    loss = torch.stack([cross_entropy(g(clone(x)), few.labels) for clone in clones]).sum()
    (slope,) = torch.autograd.grad(loss, x)
    changed = (few.images + EPSILON * slope.sign()).clamp(0, 1)
    return int(_recognised(victim, few, changed).sum())


StolenVictim = tuple[
    nn.Sequential, nn.Sequential, list[nn.Sequential], list[nn.Sequential], data.Split
]


@lru_cache(maxsize=VICTIMS)
def _stolen_victim(seed: int, place: int) -> StolenVictim:
    """Train a victim briefly and steal it in few steps.

    Returns it, the server's layers, its clones, as many fronts of random weights, and test images
    that it recognises.
    """
    digits = data.load("digits")
    drawn = seeds.derive(seed, f"victim {place}") % 2**31
    front, g = models.cut(models.for_images(digits.train.images.shape, drawn), "pool1")
    session = protocol.train(
        protocol.Client(front), protocol.Server(g), digits.train, epochs=6, seed=drawn
    )
    targets = experiments.first_targets(digits, 10).images
    stolen = UnSplit(steps=40, restarts=CLONES, seed=drawn).runs(session.observe(targets))
    shape = Architecture.of(front, targets.shape[1:])
    strangers = [shape.build(drawn, f"random clone {place}") for place in range(CLONES)]
    victim = nn.Sequential(front, g).eval()
    order = torch.randperm(len(digits.test), generator=seeds.generator(drawn, "order"))
    test = digits.test[order]
    known = _recognised(victim, test, test.images).nonzero()[:IMAGES, 0]
    return victim, g, [result.clone for result in stolen], strangers, test[known]


def _share(hits: Tensor) -> Tensor:
    return hits.float().mean()
