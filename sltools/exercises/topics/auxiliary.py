"""Topic 10: what an attacker's own images are worth, and what is only the worth of the images."""

import copy
import statistics
from collections.abc import Callable, Iterable
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from sltools import data, experiments, metrics, seeds
from sltools.attacks.alignment import Samples, mk_mmd
from sltools.checking.task import (
    Answer,
    Wrong,
    close,
    compare,
    dictionary,
    draw,
    number,
    pair,
    task,
    tensor,
)
from sltools.exercises.challenges import are_public, check_control, median_mse
from sltools.protocol import Session

CLASSES = 4
OWN, CLIENTS = 500, 2  # of the challenge: the attacker's images, and those who are attacked
# Of the error of the mean image of the class, for half the points and all. PCAT with 300 steps, as
# it is in the library, has 0.67; a surrogate and a decoder of one's own, as short, 0.53 to 0.57;
# SDAR with 1,000 steps, one line of the library, 0.39, the mean of two of these 0.37, and with
# other clients 0.40: whoever chooses well among the attacks is there, hence the three points.
HALF, FULL = 0.6, 0.46
RIGHT = "right"


@task(
    "10.mmd",
    answer="squared_mmd",
    title="How far apart two crowds are",
    kind="implement",
    minutes=20,
    difficulty=3,
    points=4,
    purpose="compare two sets of smashed data when nobody knows which belongs to which",
    hints=(
        "`both = torch.cat([made, real])` and `torch.cdist(both, both).square()` hold all squared "
        "distances at once; the three means are blocks of what you make of it.",
        "The scale is a mean over all pairs of `both`, each sample with itself included. It is a "
        "unit and nothing to learn: `.detach()` it.",
        "`sum(torch.exp(-distances / (width * scale)) for width in widths)` is the kernel.",
    ),
    meaning="The surrogate can follow this number down without a single pair of image and smashed "
    "data. What it cannot follow is the next task.",
)
def _squared_mmd(answer: Answer, seed: int) -> None:
    arguments = _crowds(seed)
    variants = {name: _mmd_value(name, *arguments) for name in (RIGHT, *MMD_MISTAKES)}
    compare(
        tensor(answer(*arguments), (), "the squared MMD"),
        variants[RIGHT],
        {reason: variants[name] for name, reason in MMD_MISTAKES.items()},
        "the squared MMD",
    )
    slope = answer.gradient(*arguments)
    if slope is None:
        raise Wrong(
            "The number is right, and no gradient flows from it to `made`: no surrogate could "
            "follow it. Return a tensor that torch computed from `made`."
        )
    got = tensor(slope, arguments[0].shape, "the gradient")
    right, moving = (_mmd_slope(name, *arguments) for name in (RIGHT, "moving scale"))
    compare(
        got,
        right,
        {
            "The number is right. Its gradient also goes through the scale: a surrogate could "
            "then make the unit larger, not the distance smaller. Detach the scale.": moving,
        },
        "the gradient at `made`",
    )


MMD_MISTAKES = {
    "one cross": "The mean of the cross kernel is to be taken twice: each set is compared with the "
    "other from both sides.",
    "added": "You added the cross kernel: two sets that are alike would be far apart.",
    "cross": "That is the cross kernel alone; the two sets' own means are missing.",
    "not squared": "The kernel takes squared distances; you took the distances.",
    "halved": "The width is w times the scale, without a 2 before it.",
    "scale across": "The scale is the mean over all pairs of both sets together; you took the "
    "pairs of one from each.",
    "scale of others": "You left each sample's distance to itself out of the scale; it counts.",
    "no scale": "The widths count in units of the mean squared distance: yours do not grow with "
    "the data.",
    "mean of kernels": "You took the mean over the widths; add the kernels up.",
    "first width": "You took the first width only.",
    "unbiased": "You left each sample's kernel with itself out; here the means are over all pairs.",
    "root": "You took the root; the squared MMD is asked.",
    "sums": "You added up the kernels of all pairs; take means, or the larger set counts more.",
}


def _crowds(seed: int) -> tuple[Tensor, Tensor, list[float]]:
    """Draw two sets of smashed data of different sizes, and widths; every mistake shows in them."""
    count = 5 + seed % 3
    for attempt in range(1000):
        drawn = seeds.derive(seed, f"crowds {attempt}")
        made, real = 2 * draw(drawn, count, 6), 1.5 * draw(drawn + 1, count + 3, 6) + 0.4
        widths = [round(0.1 + width, 2) for width in (2 * draw(drawn + 2, 3)).tolist()]
        names = (RIGHT, *MMD_MISTAKES)
        values = torch.stack([_mmd_value(name, made, real, widths) for name in names])
        if torch.pdist(values[:, None]).min() > 0.01 * values[0].abs():
            return made, real, widths
    raise AssertionError("no crowds were found that show every mistake")


def _mmd_value(name: str, made: Tensor, real: Tensor, widths: list[float]) -> Tensor:
    """The squared MMD, or what comes of a mistake in it."""
    both, count = torch.cat([made, real]), len(made)
    apart = (both[:, None] - both).square().sum(2)
    others = ~torch.eye(len(both), dtype=torch.bool)
    scales = {
        "scale across": apart[:count, count:].mean(),
        "scale of others": apart[others].mean(),
        "no scale": torch.ones(()),
        "halved": 2 * apart.mean(),
    }
    if name == "not squared":
        apart = apart.clamp_min(1e-20).sqrt()
    scale = scales.get(name, apart.mean())
    scale = scale if name == "moving scale" else scale.detach()
    kernels = torch.stack([torch.exp(-apart / (width * scale)) for width in widths])
    kernel = kernels[0] if name == "first width" else kernels.sum(0)
    if name == "mean of kernels":
        kernel = kernels.mean(0)
    within = [kernel[:count, :count], kernel[count:, count:]]
    if name == "unbiased":
        within = [k[~torch.eye(len(k), dtype=torch.bool)] for k in within]
    if name == "sums":
        return sum((k.sum() for k in within), torch.zeros(())) - 2 * kernel[:count, count:].sum()
    own, cross = within[0].mean() + within[1].mean(), kernel[:count, count:].mean()
    values = {
        "one cross": own - cross,
        "added": own + 2 * cross,
        "cross": cross,
        "root": (own - 2 * cross).clamp_min(0).sqrt(),
    }
    return values.get(name, own - 2 * cross)


def _mmd_slope(name: str, made: Tensor, real: Tensor, widths: list[float]) -> Tensor:
    """The gradient of it at `made`."""
    made = made.clone().requires_grad_()
    return torch.autograd.grad(_mmd_value(name, made, real, widths), made)[0]


@task(
    "10.mixed",
    answer="predict_and_decode",
    title="Perfectly aligned, and wrong",
    kind="predict",
    minutes=15,
    difficulty=2,
    points=3,
    purpose="foretell what comes back through a surrogate that no comparison of sets can fault",
    hints=(
        "Take one image, j. What the client sends for it, the surrogate sends for another one, i. "
        "What does `order[i]` have to be?",
        "The i with order[i] = j is found for all j at once by `order.argsort()`.",
        "To measure: `torch.cdist(front(images), made)` compares each of the client's with all of "
        "the surrogate's; the nearest row names the image.",
    ),
    meaning="The surrogate's smashed data are the client's, every one of them, and each image "
    "comes back as another one. Something else has to tie a point to its image: labels, at least "
    "to its class; a network that is smooth; or that the decoded image give its own point again.",
)
def _mixed(answer: Answer, seed: int) -> str:
    front, images, told, order = _mixed_clients(seed)
    z = front(images).detach()
    predicted, measured = pair(answer(front, images, told, z[order]))
    _check_turn(predicted, images, told, "The prediction", {})
    repeated = {"is the prediction: look up what the surrogate sent, `made`.": told}
    _check_turn(measured, images, order, "The measurement", repeated)
    between, apart = mse_loss(images[order.argsort()], images), mk_mmd(Samples(z[order], z)).item()
    return f"Squared MMD {abs(apart):.4f}; mean squared error of what comes back {between:.3f}."


def _check_turn(
    value: object, images: Tensor, order: Tensor, what: str, others: dict[str, Tensor]
) -> None:
    """Raise Wrong unless `value` is what comes back through a surrogate of this `order`.

    `others` maps a reason to the order by which one gets there.
    """
    turn = order.argsort()
    mistakes = {
        "takes the other turn: image j comes back as the i for which order[i] is j, not as "
        "order[j].": images[order],
        "lets each image come back as itself: the decoder undoes the surrogate, not the client.": (
            images
        ),
        "turns the order twice.": images[turn[turn]],
        "is the same image for all: whose smashed data were looked up?": (
            images[:1].expand_as(images)
        ),
        **{reason: images[other.argsort()] for reason, other in others.items()},
    }
    compare(
        tensor(value, images.shape, what.lower()),
        images[turn],
        {f"{what} {reason}": made for reason, made in mistakes.items()},
        what.lower(),
    )


@lru_cache(maxsize=64)  # answers are given copies
def _mixed_clients(seed: int) -> tuple[nn.Sequential, Tensor, Tensor, Tensor]:
    """Draw a client, images, an order as it is told, and as it is: with two images exchanged.

    Neither is its own inverse.
    """
    count = 9 + seed % 4
    with seeds.scope(seed, "client"):
        front = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh())
    for attempt in range(1000):
        order = torch.randperm(count, generator=seeds.generator(seed, f"order {attempt}"))
        told, itself = order.clone(), torch.arange(count)
        told[:2] = order[:2].flip(0)
        if all((one != itself).all() for one in (order, order[order], told, told[told])):
            return front, draw(seed, count, 1, 4, 4), told, order
    raise AssertionError("no order was found that shows every mistake")


@task(
    "10.aligned",
    answer="aligned",
    title="A batch like the client's",
    kind="implement",
    minutes=10,
    difficulty=2,
    points=2,
    purpose="draw own images so that each batch has the classes of the client's",
    hints=(
        "For one label: `(own == label).nonzero()[:, 0]` holds the rows of its images, in order.",
        "The place among n rows is `int(luck * n)`: from 0 to n - 1, each as likely.",
        "No image of this class? Then any of all the attacker's images, drawn the same way.",
    ),
    meaning="With the classes taken care of, what still differs between the two batches of smashed "
    "data is the surrogate's fault, or chance.",
)
def _aligned(answer: Answer, seed: int) -> None:
    own, wanted, luck = _batches(seed)
    rows = {name: _drawn(name, own, wanted, luck) for name in (RIGHT, *DRAW_MISTAKES)}
    compare(
        tensor(answer(own, wanted, luck), wanted.shape, "the rows"),
        rows[RIGHT],
        {reason: rows[name] for name, reason in DRAW_MISTAKES.items()},
        "the vector of rows",
        tolerance=1e-5,
    )


DRAW_MISTAKES = {
    "labels": "Those are labels; the rows of the images are asked.",
    "any": "Those are any images: `wanted` was not looked at.",
    "first": "You always take the first image of a class: the surrogate would see one of each.",
    "place": "Those are places among the images of one class; in which row of `own` do these "
    "stand?",
    "sorted": "Those are places among the images sorted by class; in which row of `own` do these "
    "stand?",
    "from the end": "You counted the images of a class from the last; count in the order of rows.",
    "from 1": "You counted the places from 1 (or rounded up): the first image is never drawn, and "
    "the last twice as often as it should be.",
    "other class": "Where the attacker has no image of a class you drew one of the next class. "
    "Draw among all its images.",
    "rounded": "You rounded luck times n: the first and the last image come half as often as the "
    "others, or there is none at that place.",
    "one less": "The last image of a class is never drawn: luck is below 1, so int(luck * n) is "
    "n - 1 at most.",
    "row 0": "A class of which there is no image gets any image of all, by its luck, not always "
    "the same one.",
}


def _drawn(name: str, own: Tensor, wanted: Tensor, luck: Tensor) -> Tensor:
    """Rows of `own` for the labels `wanted`, or what comes of a mistake in drawing them."""
    pairs = zip(wanted.tolist(), luck.tolist(), strict=True)
    return torch.tensor([_row(name, own, label, chance) for label, chance in pairs]).float()


def _row(name: str, own: Tensor, label: int, chance: float) -> int:
    rows = (own == label).nonzero()[:, 0].tolist()
    before = int((own < label).sum())
    if not rows and name == "row 0":
        return 0
    if not rows and name == "other class":
        return _row(name, own, (label + 1) % 5, chance)
    if not rows or name == "any":
        rows, before = list(range(len(own))), 0
    count = len(rows)
    places = {
        "rounded": min(round(chance * count), count - 1),
        "one less": int(chance * (count - 1)),
        "from the end": count - 1 - int(chance * count),
        "from 1": min(int(chance * count) + 1, count - 1),
        "first": 0,
    }
    place = places.get(name, int(chance * count))
    given = {"labels": int(own[rows[place]]), "place": place, "sorted": before + place}
    return given.get(name, rows[place])


@lru_cache(maxsize=64)  # answers are given copies
def _batches(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw the attacker's labels, those of the client's batch, and a luck for each of these.

    One class of the client's is missing among the attacker's; every mistake shows.
    """
    for attempt in range(1000):
        draws = seeds.generator(seed, f"batches {attempt}")
        shares = torch.tensor([0.1, 0.2, 0.3, 0.4])
        missing = int(torch.randint(5, (1,), generator=draws))
        kept = torch.tensor([label for label in range(5) if label != missing])
        own = kept[torch.multinomial(shares, 40 + seed % 7, True, generator=draws)]
        wanted = torch.randint(5, (14,), generator=draws)
        luck = torch.rand(14, generator=draws)
        every = (RIGHT, *DRAW_MISTAKES)
        rows = torch.stack([_drawn(name, own, wanted, luck) for name in every])
        if torch.pdist(rows).min() > 0.9 and len(own.unique()) == 4:
            return own, wanted, luck
    raise AssertionError("no batch was found that shows every mistake")


@task(
    "10.frozen",
    answer="frozen_step",
    title="Learn from a server that must not notice",
    kind="implement",
    minutes=20,
    difficulty=3,
    points=4,
    purpose="take one step of a surrogate through the server's layers and leave no trace in them",
    hints=(
        "`server.eval()` makes BatchNorm use what it has gathered, and gather nothing. The server "
        "trains on after your step: `server.train()` before you report.",
        "`torch.autograd.grad(loss, list(surrogate.parameters()))` gives the surrogate's gradients "
        "and leaves none anywhere; `loss.backward()` leaves some at the server's weights too.",
        "No `no_grad` and no `detach` on the way: the gradient has to pass through the server's "
        "layers to reach the surrogate. Update it inside `torch.no_grad()`.",
    ),
    meaning="The honest training goes on as if nothing had happened, bit for bit: what a client is "
    "sent does not tell.",
)
def _frozen_step(answer: Answer, seed: int) -> None:
    surrogate, server, images, labels, lr = _vendor(seed)
    returned = answer(surrogate, server, images, labels, lr)
    seen = ("surrogate", "server", "gradients", "frozen", "training", "surrogate_training")
    left = dictionary(returned, seen)
    _check_no_trace(left, server)
    before = _flat(surrogate.parameters())
    got = tensor(left["surrogate"], before.shape, "the surrogate's weights") - before
    if close(got, torch.zeros_like(got)) or got.abs().max() < 1e-7:
        raise Wrong(
            "The surrogate that was passed has not moved. The gradient has to pass through the "
            "server's layers to reach it, and then be subtracted in place, in no copy."
        )
    if number(left["surrogate_training"], "surrogate_training") != len(list(surrogate.modules())):
        raise Wrong(
            "The surrogate was left in evaluation mode, and was in training mode: its own "
            "normalisation, had it one, would learn nothing more. Leave its mode alone."
        )
    moves = {
        name: _surrogates_move(name, surrogate, server, images, labels, lr)
        for name in (RIGHT, *STEP_MISTAKES)
    }
    compare(
        got,
        moves[RIGHT],
        {reason: moves[name] for name, reason in STEP_MISTAKES.items()},
        "the surrogate's step",
    )


STEP_MISTAKES = {
    "uphill": "The surrogate goes uphill: subtract the gradient.",
    "no lr": "The step leaves out lr.",
    "summed": "You took the sum of the losses; take the mean over the batch.",
    "batch statistics": "The gradient went through the statistics of this batch. The server is "
    "to be in evaluation mode for the step, as it is at inference.",
    "softmax": "Softmax came twice: `cross_entropy` takes the server's outputs as they are.",
    "own answers": "You taught the surrogate what the server says in any case; the labels of the "
    "attacker's images are what the step is about.",
    "signs": "That is a first step of Adam; take a plain one, lr times the gradient.",
}


def _check_no_trace(left: dict[str, object], server: nn.Sequential) -> None:
    """Raise Wrong if the step left something behind in the server."""
    before = server.state_dict()
    learned = [
        torch.full((v.numel(),), float(n.endswith(("weight", "bias")))) for n, v in before.items()
    ]
    known, is_weight = _flat(before.values()), torch.cat(learned) > 0
    moved = (tensor(left["server"], known.shape, "the server's state") - known).abs() > 1e-7
    if (moved & is_weight).any():
        raise Wrong(
            "Weights of the server moved: its next honest answer would be another one. Only the "
            "surrogate learns."
        )
    if moved.any():
        raise Wrong(
            "The statistics of the server's BatchNorm moved: your images have left a trace, which "
            "its answers at inference will show. Put it into evaluation mode for the step."
        )
    if number(left["gradients"], "gradients"):
        raise Wrong(
            "Gradients were left at the server's weights: its next honest step would take them "
            "along. Ask for the surrogate's gradients only."
        )
    if number(left["frozen"], "frozen"):
        raise Wrong(
            "The server's weights no longer ask for a gradient: its honest training would stand "
            "still. Freeze them for the step only, or a copy, or not at all."
        )
    if number(left["training"], "training") != len(list(server.modules())):
        raise Wrong(
            "The server was left in evaluation mode: its honest training would go on with old "
            "statistics. Put it back."
        )


def _surrogates_move(
    name: str,
    surrogate: nn.Sequential,
    server: nn.Sequential,
    images: Tensor,
    labels: Tensor,
    lr: float,
) -> Tensor:
    """How far the surrogate's weights move in a step, or by a mistake in it."""
    server = copy.deepcopy(server).train(name == "batch statistics")
    logits = server(surrogate(images))
    if name == "softmax":
        logits = logits.softmax(1)
    target = logits.argmax(1) if name == "own answers" else labels
    loss = cross_entropy(logits, target, reduction="sum" if name == "summed" else "mean")
    slope = _flat(torch.autograd.grad(loss, list(surrogate.parameters())))
    moves = {"uphill": lr * slope, "no lr": -slope, "signs": -lr * slope.sign()}
    return moves.get(name, -lr * slope)


def _vendor(seed: int) -> tuple[nn.Sequential, nn.Sequential, Tensor, Tensor, float]:
    """Draw a surrogate, a server in the middle of its training, a labelled batch, and lr."""
    count = 10 + seed % 4
    with seeds.scope(seed, "networks"):
        surrogate = nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.Tanh())
        server = nn.Sequential(
            nn.Linear(12, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, CLASSES)
        )
        nn.init.uniform_(server[1].get_parameter("weight"), 0.5, 2)
        for _ in range(20):  # so that its statistics are of other data than the attacker's
            server(torch.randn(20, 12) + 0.5)
    labels = (draw(seed + 1, count) * CLASSES).long()
    return surrogate, server, draw(seed, count, 1, 4, 4), labels, 0.2 + 0.1 * (seed % 3)


@task(
    "10.ahead",
    answer="ahead",
    title="What did the split give?",
    kind="implement",
    minutes=15,
    difficulty=2,
    points=3,
    purpose="measure a surrogate beside a rival that has its data and never met a client",
    hints=(
        "The victim is the server after the client, the stolen service the server after the "
        "surrogate. The rival needs neither: `torch.cdist(images.flatten(1), own.flatten(1))`.",
        "Accuracy asks for the true labels, agreement for what the victim says, right or wrong.",
        "Both are measured on `images`, for the surrogate and for the rival; then subtract.",
    ),
    meaning="Only what is ahead of the rival can have come over the wire. An accuracy by itself is "
    "first of all the worth of the attacker's own labels.",
)
def _ahead(answer: Answer, seed: int) -> str:
    scene = _scene(seed)
    got = torch.tensor([number(gain) for gain in pair(answer(*scene))])
    gains = _gains(*scene)
    compare(
        got,
        gains[RIGHT],
        {reason: gains[name] for name, reason in GAIN_MISTAKES.items()},
        "the pair of gains",
        tolerance=1e-4,
    )
    (accuracy, agreement), (more_right, more_alike) = gains["bare"], gains[RIGHT]
    return (
        f"Accuracy {accuracy:.0%}, which is {more_right:+.0%} beside the rival; agreement "
        f"{agreement:.0%}, which is {more_alike:+.0%}."
    )


GAIN_MISTAKES = {
    "bare": "Those are the surrogate's own figures; what does the rival get?",
    "rival": "Those are the rival's own figures; subtract them from the surrogate's.",
    "turned": "The other way round: the surrogate's figures less the rival's.",
    "swapped": "The two are swapped: accuracy first, then agreement.",
    "labels twice": "Your agreement is an accuracy: compare with what the victim says, also where "
    "it is wrong.",
    "on own": "The rival was tried on the images that it knows by heart; try it on `images`.",
    "class means": "Your rival looks for the nearest mean image of a class. It is to look for the "
    "nearest image: with the same data it can do more.",
    "with surrogate": "You measured how often the rival agrees with the surrogate; both are "
    "compared with the victim.",
    "client": "The surrogate was not looked at: that is the client before the server's layers.",
    "quotient": "You divided the surrogate's figures by the rival's; subtract.",
    "relative": "You divided the differences by the rival's figures; the differences are asked.",
    "behind the victim": "You compared with the victim's own figures; compare with the rival's.",
    "in smashed data": "Your rival looked for the nearest in smashed data, and so has the client. "
    "It has only images: compare pixels.",
    "on all": "You measured on the attacker's own images too, which the rival knows by heart. "
    "Measure on `images` alone.",
    "where right": "You measured agreement only where the victim is right; its mistakes count too.",
}

Scene = tuple[nn.Sequential, nn.Sequential, nn.Sequential, Tensor, Tensor, Tensor, Tensor]


def _gains(
    client: nn.Sequential,
    surrogate: nn.Sequential,
    server: nn.Sequential,
    own: Tensor,
    own_labels: Tensor,
    images: Tensor,
    labels: Tensor,
) -> dict[str, Tensor]:
    """Accuracy and agreement ahead of the rival, as they should be and by each mistake."""
    with torch.no_grad():
        victim, stolen = (server(front(images)).argmax(1) for front in (client, surrogate))
        of_own, stolen_own = (server(front(own)).argmax(1) for front in (client, surrogate))
        by_smashed = own_labels[torch.cdist(client(images), client(own)).argmin(1)]
    rows = images.flatten(1)
    rival = own_labels[torch.cdist(rows, own.flatten(1)).argmin(1)]
    means = torch.stack([own[own_labels == label].mean(0) for label in range(CLASSES)])
    by_means = torch.cdist(rows, means.flatten(1)).argmin(1)
    right = victim == labels

    def both(said: Tensor, like: Tensor = victim) -> Tensor:
        return torch.stack([_share(said == labels), _share(said == like)])

    mine, theirs = both(stolen), both(rival)
    gain = mine - theirs
    own_gain = torch.stack(
        [
            _share(stolen_own == own_labels) - 1,
            _share(stolen_own == of_own) - _share(own_labels == of_own),
        ]
    )
    return {
        RIGHT: gain,
        "bare": mine,
        "rival": theirs,
        "turned": -gain,
        "swapped": gain.flip(0),
        "labels twice": gain[:1].repeat(2),
        "on own": mine - torch.stack([torch.tensor(1.0), _share(own_labels == of_own)]),
        "class means": mine - both(by_means),
        "with surrogate": mine - both(rival, stolen),
        "client": both(victim) - theirs,
        "quotient": mine / theirs,
        "relative": gain / theirs,
        "behind the victim": mine - both(victim),
        "in smashed data": mine - both(by_smashed),
        "on all": (gain * len(labels) + own_gain * len(own)) / (len(labels) + len(own)),
        "where right": torch.stack(
            [gain[0], _share((stolen == victim)[right]) - _share((rival == victim)[right])]
        ),
    }


@lru_cache(maxsize=64)  # answers are given copies
def _scene(seed: int) -> Scene:
    """Draw a victim, a surrogate, the attacker's images, and others to try both on."""
    for attempt in range(1000):
        drawn = seeds.derive(seed, f"scene {attempt}")
        kinds = draw(drawn, CLASSES, 1, 5, 5)
        labels = (draw(drawn + 1, 250) * CLASSES).long()
        images = (kinds[labels] + 1.3 * (draw(drawn + 2, 250, 1, 5, 5) - 0.5)).clamp(0, 1)
        own, seen, tried = slice(30), slice(30, 90), slice(90, 250)
        client, server = _trained(drawn, images[seen], labels[seen])
        surrogate = copy.deepcopy(client)
        with torch.no_grad():
            for weight in surrogate.parameters():
                weight.add_(0.25 * (draw(drawn + 3, *weight.shape) - 0.5))
        scene = (client, surrogate, server, images[own], labels[own], images[tried], labels[tried])
        if len(labels[own].unique()) == CLASSES:
            gains = torch.stack(list(_gains(*scene).values()))
            if torch.pdist(gains).min() > 0.004 and gains[0].abs().min() > 0.01:
                return scene
    raise AssertionError("no scene was found that shows every mistake")


def _trained(seed: int, images: Tensor, labels: Tensor) -> tuple[nn.Sequential, nn.Sequential]:
    """A client and a server that learnt for a moment."""
    with seeds.scope(seed, "victim"):
        client = nn.Sequential(nn.Flatten(), nn.Linear(25, 8), nn.ReLU())
        server = nn.Sequential(nn.Linear(8, CLASSES))
    optimizer = torch.optim.Adam([*client.parameters(), *server.parameters()], 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        cross_entropy(server(client(images)), labels).backward()
        optimizer.step()
    return client, server


@task(
    "10.fair_study",
    answer="fair_study",
    title="Images come back, says the study",
    kind="flaw",
    minutes=20,
    difficulty=3,
    points=4,
    purpose="report an attack with data so that only what came over the wire counts",
    hints=(
        "Who may be a target? Look for images of `private` that stand in `own`, pixel by pixel: "
        "`(private[:, None] == own).flatten(2).all(2).any(1)`.",
        "Nobody can pick the best run without the truth. What does one report of runs that differ "
        "by luck alone?",
        "An attacker with labelled images who only guesses the class has a better image than the "
        "mean of all, and has it without any attack.",
    ),
    meaning="Of any study of attackers with data, ask: did they own a target, who chose the run, "
    "and what would their images have been worth without the wire?",
)
def _fair_study(answer: Answer, seed: int) -> str:
    study = _study(seed)
    got = torch.tensor(number(answer(*study)))
    shares = _study_shares(*study)
    if not close(got, shares[RIGHT], 1e-4) and any(
        close(got, share, 1e-4) for share in _rounded_lookups(*study)
    ):
        raise Wrong(
            "`torch.cdist` finds distances by products, which are rounded: equal images may come "
            "out apart. Compare pixel by pixel, with `==`."
        )
    compare(
        got,
        shares[RIGHT],
        {reason: shares[name] for name, reason in STUDY_MISTAKES.items()},
        "the share",
        tolerance=1e-4,
    )
    return f"The study says {shares['nothing']:.2f}; fair is {shares[RIGHT]:.2f}."


STUDY_MISTAKES = {
    "nothing": "Nothing is mended yet.",
    "owned": "Some of the private images are the attacker's own: it knew them before.",
    "luckiest": "You still report the luckiest run; nobody without the truth can choose it.",
    "mean image": "You still compare with the mean of all images. Who has labels has a better one "
    "for nothing.",
    "only owned": "The runs are still the luckiest, and so is the baseline: one of three flaws is "
    "mended, the targets.",
    "only luckiest": "One of three flaws is mended, the choice of the run.",
    "only mean image": "One of three flaws is mended, the baseline.",
    "mean of runs": "You took the mean of the runs; one that diverged would decide it. Take the "
    "median.",
    "worst run": "You took the worst run; that is as one-sided as the best. Take the median.",
    "median image": "You took the median over images; keep the mean, of which only the runs need "
    "a median.",
    "share of each": "You took the quotient image by image; keep the quotient of the two means.",
    "private means": "Your mean images are made of the private images, which the attacker has not.",
    "shared dropped": "You also took the shared images from the attacker, for its baseline. They "
    "are its own; only as targets they are out.",
    "class dropped": "You dropped whole classes; an image is known only if it is the same one, "
    "pixel by pixel.",
    "baseline of all": "Your baseline is over all private images, the attack's error without those "
    "that the attacker owns: take the same images for both.",
    "median first": "You took the median over the runs for each image and then the mean: no run "
    "did so well everywhere. First the mean over the images of a run.",
    "medians": "You took medians over images, in the baseline as well; keep the means, of which "
    "only the runs need a median.",
    "kept owned": "You kept the images that the attacker owns and dropped the others.",
}


def _study_shares(
    own: Tensor, own_labels: Tensor, private: Tensor, labels: Tensor, inputs: Tensor
) -> dict[str, Tensor]:
    """The attack's error as a share of a baseline's, as it should be and by each mistake."""
    same = (private[:, None] == own).flatten(2).all(2)
    owned, given = same.any(1), same.any(0)
    everyone = torch.ones_like(owned)
    errors = (inputs - private).square().mean((2, 3, 4))
    mean_image = (own.mean(0) - private).square().mean((1, 2, 3))

    def means(images: Tensor, classes: Tensor) -> Tensor:
        made = torch.stack([images[classes == label].mean(0) for label in range(CLASSES)])
        return (made[labels] - private).square().mean((1, 2, 3))

    of_class = means(own, own_labels)
    fresh = ~owned

    def share(kept: Tensor, run: Callable[[Tensor], Tensor], baseline: Tensor) -> Tensor:
        return run(errors[:, kept].mean(1)) / baseline[kept].mean()

    luckiest, median = torch.amin, torch.median
    shared_classes = torch.isin(labels, labels[owned])
    return {
        RIGHT: share(fresh, median, of_class),
        "nothing": share(everyone, luckiest, mean_image),
        "owned": share(everyone, median, of_class),
        "luckiest": share(fresh, luckiest, of_class),
        "mean image": share(fresh, median, mean_image),
        "only owned": share(fresh, luckiest, mean_image),
        "only luckiest": share(everyone, median, mean_image),
        "only mean image": share(everyone, luckiest, of_class),
        "mean of runs": share(fresh, torch.mean, of_class),
        "worst run": share(fresh, torch.amax, of_class),
        "median image": errors[:, fresh].median(1).values.median() / of_class[fresh].mean(),
        "share of each": (errors[:, fresh] / of_class[fresh]).mean(1).median(),
        "private means": share(fresh, median, means(private, labels)),
        "shared dropped": share(fresh, median, means(own[~given], own_labels[~given])),
        "class dropped": share(~shared_classes, median, of_class),
        "baseline of all": median(errors[:, fresh].mean(1)) / of_class.mean(),
        "median first": errors[:, fresh].median(0).values.mean() / of_class[fresh].mean(),
        "medians": errors[:, fresh].median(1).values.median() / of_class[fresh].median(),
        "kept owned": share(owned, median, of_class),
    }


def _rounded_lookups(
    own: Tensor, own_labels: Tensor, private: Tensor, labels: Tensor, inputs: Tensor
) -> list[Tensor]:
    """The share if shared images are looked for by `torch.cdist`, below one of some thresholds."""
    apart = torch.cdist(private.flatten(1), own.flatten(1)).amin(1)
    means = torch.stack([own[own_labels == label].mean(0) for label in range(CLASSES)])
    baseline = (means[labels] - private).square().mean((1, 2, 3))
    errors = (inputs - private).square().mean((2, 3, 4))
    kept = [apart > least for least in (0.0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)]
    return [errors[:, k].mean(1).median() / baseline[k].mean() for k in kept]


@lru_cache(maxsize=64)  # answers are given copies
def _study(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Draw own images and labels, private ones and theirs, and five runs' reconstructions.

    Some private images are the attacker's own, and came out best.
    """
    for attempt in range(1000):
        draws = seeds.generator(seed, f"study {attempt}")
        kinds = torch.rand(CLASSES, 1, 4, 4, generator=draws)
        labels = torch.arange(60) % CLASSES
        images = kinds[labels] + 0.5 * (torch.rand(60, 1, 4, 4, generator=draws) - 0.5)
        order = torch.randperm(60, generator=draws)
        own_rows, private_rows = order[:34], order[28:54]
        private_rows = private_rows[torch.randperm(26, generator=draws)]
        own, private = images[own_rows].clamp(0, 1), images[private_rows].clamp(0, 1)
        owned = torch.isin(private_rows, own_rows)
        luck = 0.12 + 0.1 * torch.rand(5, 1, generator=draws)
        size = torch.where(owned, 0.2, 1.0) * luck
        noise = torch.randn(5, *private.shape, generator=draws)
        inputs = (private + size.view(5, -1, 1, 1, 1) * noise).clamp(0, 1)
        study = own, labels[own_rows], private, labels[private_rows], inputs
        counts = labels[own_rows[:28]].bincount(minlength=CLASSES)
        left = ~torch.isin(study[3], study[3][owned])
        if counts.min() > 0 and left.any() and len(study[3].unique()) == CLASSES:
            shares = torch.stack(list(_study_shares(*study).values()))
            if torch.pdist(shares[:, None]).min() > 0.002:
                return study
    raise AssertionError("no study was found that shows every mistake")


@task(
    "10.challenge",
    answer="after_fc1",
    title="After the dense layer",
    kind="challenge",
    minutes=45,
    difficulty=3,
    points=3,
    purpose="read images where UnSplit finds nothing, with 500 images of your own",
    hints=(
        "`PCAT(steps=300, batch=32)(view, data.Split(images, labels))` of sltools.attacks is a "
        "start, and not enough: its `.inputs` are reconstructions, its `.clone` is the surrogate. "
        "You may use what PCAT does without: the architecture.",
        "The decoder need not learn along. Once there is a surrogate it makes smashed data of your "
        "500 images, and to pairs you can fit any decoder, in closed form too.",
        "Surrogates from several seeds err in different places, and all are aligned with the same "
        "client: the mean of their images errs less. A thousand steps are better than a few "
        "hundred, and there is time for both.",
    ),
    meaning="After a dense layer, without the client's weights: the attacker's own images said "
    "what smashed data of such images look like, and the rest came over the wire.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    own, clients = _attacked(seed)
    found = []
    for session, secret in clients:
        answer.forget()  # what it knows of a client must have come over that client's wire
        returned = answer(session.observe(secret.images), own.images, own.labels)
        found.append(tensor(returned, secret.images.shape, "the reconstructions"))
    errors, baselines = [], []
    for (_, secret), got, of_another in zip(clients, found, reversed(found), strict=True):
        truth = secret.images
        mean_image = median_mse(own.images.mean(0).expand_as(truth), truth)
        check_control(of_another, got, truth, mean_image, "smashed data")
        if are_public(got, own.images):
            raise Wrong(
                "Each of your images is one of the attacker's own. That says what the private "
                "image is like, and not what it is."
            )
        errors.append(_mean_error(got, truth))
        baselines.append(_mean_error(experiments.class_means(own, secret.labels), truth))
    error, baseline = statistics.mean(errors), statistics.mean(baselines)
    told = (
        f"mean MSE {error:.4f}, mean image of the right class {baseline:.4f}, "
        f"{error / baseline:.2f} of it"
    )
    if error > HALF * baseline:
        raise Wrong(f"Not clearly better than the mean image of the class: {told}.")
    if error > FULL * baseline:
        raise Wrong(f"Better than the mean image of the class, not yet at {FULL}: {told}.", 0.5)
    return f"{told[0].upper()}{told[1:]}."


@lru_cache(maxsize=1)
def _attacked(seed: int) -> tuple[data.Split, list[tuple[Session, data.Split]]]:
    """The attacker's own images; and clients, trained on others, with what they will send.

    Each digit is turned and moved a little, anew for everybody, so that none can be looked up.
    """
    digits = data.load("digits")
    order = torch.randperm(len(digits.train), generator=seeds.generator(seed, "attacker's own"))
    own = experiments.redrawn(digits.train[order[:OWN]], seed, "own")
    clients = []
    for place in range(CLIENTS):
        train = experiments.redrawn(digits.train[order[OWN:]], seed, f"training {place}")
        secret = experiments.redrawn(digits.test, seed, f"private {place}")
        session = experiments.train_victim(
            data.Dataset("digits", train, secret, digits.classes),
            "fc1",
            seed=seeds.derive(seed, f"client {place}"),
        )
        clients.append((session, secret))
    return own, clients


def _mean_error(images: Tensor, truth: Tensor) -> float:
    return metrics.mse(images, truth).mean().item()


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([values.detach().flatten().float() for values in tensors])


def _share(hits: Tensor) -> Tensor:
    return hits.float().mean()
