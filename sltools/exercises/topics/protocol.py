"""Topic 01: split learning by hand, what it costs on the wire, and how to make it cheaper."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import chain, combinations
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, nll_loss

from sltools import data, protocol, seeds
from sltools.checking.task import Answer, Wrong, compare, dictionary, draw, number, task, tensor
from sltools.exercises.challenges import trained_on_digits

MESSAGES = ("smashed", "features", "feature_gradient", "cut_gradient")


@task(
    "01.server",
    answer="server_reply",
    title="The server's turn",
    kind="implement",
    rule="write it yourself",
    library=("sltools.protocol.Server.reply",),
    minutes=10,
    difficulty=1,
    points=2,
    purpose="go from smashed data and labels to the loss, and back to the cut",
    hints=(
        "What arrived are numbers. Ask PyTorch to keep a gradient for them: "
        "arrived = smashed.requires_grad_().",
        "The loss is cross_entropy(back(arrived), labels); after loss.backward() the reply is "
        "arrived.grad.",
    ),
    meaning="The reply has one number for each number of z. The server needed neither the images "
    "nor the client's weights for it.",
)
def _server_reply(answer: Answer, seed: int) -> None:
    _, back, _ = _parts(seed)
    smashed, labels = draw(seed, 5, 3, 4, 4), _labels(seed, 5)
    got = _several(answer(back, smashed, labels), 2, "the loss and the cut-layer gradient")
    loss = tensor(got[0], (), "the loss of a batch")
    gradient = tensor(got[1], smashed.shape, "the cut-layer gradient")
    arrived = smashed.clone().requires_grad_()
    logits = back(arrived)
    right = cross_entropy(logits, labels)
    (pull,) = torch.autograd.grad(right, arrived, retain_graph=True)
    compare(
        loss,
        right.detach(),
        {
            "Your loss is a sum; the mean over the batch is asked for.": len(labels) * right,
            "cross_entropy contains the softmax; it must not be applied before as well.": (
                cross_entropy(logits.softmax(1), labels)
            ),
            "The softmax is missing: nll_loss wants logarithms of probabilities; take "
            "cross_entropy.": nll_loss(logits, labels),
        },
        "the loss",
    )
    (of_best,) = torch.autograd.grad(logits.amax(1).sum(), arrived)
    compare(
        gradient,
        pull,
        {
            "The sign is turned. The client subtracts the gradient itself when it learns.": -pull,
            "Your loss is a mean, your gradient that of a sum: reply with the gradient of the loss "
            "you return.": len(labels) * pull,
            "That is the gradient of the largest logits; take that of the loss.": of_best,
            "These are the smashed data themselves; reply with the gradient at them.": smashed,
        },
        "the cut-layer gradient",
    )


@task(
    "01.client",
    answer="client_gradients",
    title="The client's way back",
    kind="implement",
    rule="write it yourself",
    library=("sltools.protocol.Client.reply",),
    minutes=10,
    difficulty=2,
    points=3,
    purpose="finish a backward pass that somebody else began",
    hints=(
        "z = front(images); then z.backward(reply) goes on from the gradient at z.",
        "Or all in one: torch.autograd.grad(z, list(front.parameters()), reply).",
    ),
    meaning="This is the chain rule, cut where the network is cut: the client learns from one "
    "tensor, and never sees the server's layers.",
)
def _client_gradients(answer: Answer, seed: int) -> None:
    front, _, _ = _parts(seed)
    images, reply = draw(seed, 5, 1, 6, 6), draw(seed + 1, 5, 3, 4, 4) - 0.4
    weights = list(front.parameters())
    got = _weights(answer(front, images, reply), weights, "gradient")
    z = front(images)

    def pulled(by: Tensor) -> Tensor:
        return _flat(torch.autograd.grad(z, weights, by, retain_graph=True))

    right = pulled(reply)
    compare(
        got,
        right,
        {
            "The server's reply is not used: this is the gradient of the sum of z.": pulled(
                torch.ones_like(z)
            ),
            "The reply belongs to a loss that is a mean already: do not take a mean again.": (
                right / z.numel()
            ),
            "Do not divide by the size of the batch: the reply belongs to a loss that is a mean "
            "already.": right / len(z),
            "The sign is turned: gradients are asked for, not steps.": -right,
            "The reply is no target that z should reach; it is the gradient at z.": (
                pulled(2 * (z - reply) / z.numel())
            ),
            "You went back from z times z's gradient: z itself must not be a factor.": pulled(
                reply * z
            ),
        },
        "the client's gradient",
    )


@task(
    "01.u_step",
    answer="u_messages",
    title="The four messages of a U-shaped step",
    kind="implement",
    rule="write it yourself",
    library=("sltools.protocol.parties.exchange",),
    minutes=20,
    difficulty=3,
    points=4,
    purpose="train with labels that never leave the client",
    hints=(
        "There are three graphs, joined by messages: front, middle, head. Begin each at a detached "
        "tensor that requires a gradient.",
        "The head's gradient with respect to the features u is the third message.",
        "The server goes on with u.backward(feature_gradient), where u is its own tensor with its "
        "graph. The gradient at what arrived is the fourth message.",
    ),
    meaning="No label is among the four messages. Whether the third one tells the labels all the "
    "same is the subject of lesson 07.",
)
def _u_messages(answer: Answer, seed: int) -> None:
    front, middle, head = _parts(seed)
    images, labels = draw(seed, 5, 1, 6, 6), _labels(seed, 5)
    got = answer(front, middle, head, images, labels)
    if isinstance(got, dict) and "labels" in got:
        raise Wrong("The labels must not be sent: that is the point of this form.")
    got = dictionary(got, MESSAGES)
    z = front(images).detach().requires_grad_()
    u = middle(z)
    loss = cross_entropy(head(u), labels)
    pull_u, pull_z = torch.autograd.grad(loss, [u, z], retain_graph=True)
    (of_sum,) = torch.autograd.grad(u.sum(), z, retain_graph=True)
    (of_square,) = torch.autograd.grad(u, z, u)
    raw, count = front[:-1](images), len(labels)
    right = dict(zip(MESSAGES, (z, u, pull_u, pull_z), strict=True))
    turned = "The sign of the {} is turned."
    mistakes: dict[str, dict[str, Tensor]] = {
        "smashed": {"The last layer of the front is missing: cut behind it.": raw},
        "features": {
            "The features come out of the middle as they are; no softmax.": u.softmax(1),
        },
        "feature_gradient": {
            turned.format("feature gradient"): -pull_u,
            "The loss at the head is a sum; the mean over the batch is asked for.": count * pull_u,
        },
        "cut_gradient": {
            turned.format("cut-layer gradient"): -pull_z,
            "The server goes back from the sum of u; it must go on from the feature gradient.": (
                of_sum
            ),
            "The server goes on from u itself; it must go on from the feature gradient.": of_square,
        },
    }
    for kind in MESSAGES:
        sent = tensor(got[kind], right[kind].shape, f"the message {kind!r}")
        compare(sent, right[kind].detach(), mistakes[kind], f"the message {kind!r}")


@task(
    "01.bytes",
    answer="wire_bytes",
    title="Bytes on the wire",
    kind="implement",
    rule="write it yourself",
    minutes=5,
    difficulty=1,
    points=2,
    purpose="know the price of a cut before paying it",
    hints=(
        "Up goes z, down comes a gradient of the same size: 4 bytes for each number, both ways.",
        "Vanilla: 8 bytes more for each label. U-shaped: no labels, but u comes down and its "
        "gradient goes up.",
    ),
    meaning="The batch size does not occur, and the epochs are a factor: split learning pays again "
    "for every epoch.",
)
def _wire_bytes(answer: Answer, seed: int) -> None:
    rows = seeds.generator(seed, "sizes")
    z, u = (int(torch.randint(20, 900, (), generator=rows)) for _ in range(2))
    images, epochs = (
        int(torch.randint(low, high, (), generator=rows)) for low, high in ((50, 5000), (3, 9))
    )
    each = images * epochs
    shared = {
        "You count numbers; each takes 4 bytes.": each * (2 * z + 1),
        "One epoch is counted; every epoch sends everything again.": images * (8 * z + 8),
        "Only one direction is counted for z: a gradient of the same size comes back.": each
        * (4 * z + 8),
    }
    _expect(
        number(answer(z, images, epochs, None)),
        each * (8 * z + 8),
        shared
        | {
            "The labels are missing; vanilla split learning sends them.": each * 8 * z,
            "A label is an int64 and takes 8 bytes.": each * (8 * z + 4),
            "The labels are sent anew in every epoch.": each * 8 * z + 8 * images,
        },
        "the number of bytes in vanilla split learning",
    )
    _expect(
        number(answer(z, images, epochs, u)),
        each * (8 * z + 8 * u),
        {
            "Labels are not sent in the U-shaped form.": each * (8 * z + 8 * u + 8),
            "The features go one way, and their gradient the other: count both.": each
            * (8 * z + 4 * u),
            "The features u are missing: this is the vanilla form.": each * (8 * z + 8),
            "The features u and their gradients are missing.": each * 8 * z,
        },
        "the number of bytes in the U-shaped form",
    )


@task(
    "01.cheaper",
    answer="predict_bytes",
    title="Split or federated? Predict, then measure",
    kind="predict",
    rule="write it yourself",
    minutes=15,
    difficulty=2,
    points=3,
    purpose="choose a way to train by counting, before anything is trained",
    hints=(
        "Send one blank image through the client's part: torch.zeros(1, *shape). How many numbers "
        "come out?",
        "A federated round moves all weights of the whole network twice, 4 bytes each, however "
        "many images there are.",
    ),
    meaning="Few images and a large network: split learning is cheaper. Many images and a small "
    "network: federated learning is. The number of epochs changes neither answer.",
)
def _predict_bytes(answer: Answer, seed: int) -> str:
    front, back, head = _parts(seed)
    net = nn.Sequential(*front, *back, *head)
    weights = sum(weight.numel() for weight in net.parameters())
    federated, split_each = 8 * weights, 8 * 48 + 8
    even = federated / split_each
    told = []
    for images in (int(even * 0.4), int(even * 3) + seed % 7):
        got = dictionary(
            answer(net, len(front), (1, 6, 6), images), ("split", "federated", "cheaper")
        )
        split = _measure_bytes(front, nn.Sequential(*back, *head), images, seed)
        assert split == images * split_each
        _expect(
            number(got["split"], '"split"'),
            split,
            {
                "In an epoch of split learning gradients come back as well.": images * (4 * 48 + 8),
                "In vanilla split learning the labels are sent too.": images * 8 * 48,
                "You count the pixels of the image, not the numbers at the cut.": images
                * (8 * 36 + 8),
                "One image is counted; an epoch has more.": split_each,
            },
            '"split"',
        )
        _expect(
            number(got["federated"], '"federated"'),
            federated,
            {
                "In a federated round the weights go both ways: to the client and back.": 4
                * weights,
                "A federated client holds the whole network, not only the first layers.": 8
                * sum(weight.numel() for weight in front.parameters()),
                "A federated round does not depend on the number of images.": images * federated,
                "You count weights; each takes 4 bytes.": 2 * weights,
            },
            '"federated"',
        )
        if got["cheaper"] != ("split" if split < federated else "federated"):
            raise Wrong('"cheaper" names the dearer of the two, or neither "split" nor "federated"')
        told.append(f"{images} images: {split:,} against {federated:,} bytes")
    return f"Counted in the transcript of a real training, {'; '.join(told)}."


@task(
    "01.train",
    answer="train_split",
    title="Find three flaws in a training",
    kind="flaw",
    rule="write it yourself",
    library=("sltools.protocol.train",),
    minutes=20,
    difficulty=4,
    points=4,
    purpose="make split training equal to joint training, and know what can break that",
    hints=(
        "Compare with lesson 01's `split_step`, line by line. When does the server learn, and when "
        "does it compute the reply?",
        "The last batch is smaller than the others. By what is its loss divided?",
        "Whose gradients are set to zero before a step, and whose are not?",
    ),
    meaning="A split training that is only nearly the joint one still converges, so nobody notices "
    "until an attack is measured against the wrong network.",
)
def _train_split(answer: Answer, seed: int) -> None:
    setting = _training(seed)
    start = [weight.detach() for part in setting[:2] for weight in part.parameters()]
    got = _weights(answer(*setting), start, "weight")
    if torch.equal(got, _flat(start)):
        raise Wrong("No weight has changed.")
    own = sum(weight.numel() for weight in setting[0].parameters())
    if torch.equal(got[:own], _flat(start)[:own]):
        raise Wrong("Only the server has learnt; the client learns from the reply.")
    moved = {left: weights - _flat(start) for left, weights in _flawed(seed).items()}
    right = moved.pop(())
    mistakes = {f"Still there: {', and '.join(left)}.": change for left, change in moved.items()}
    compare(got - _flat(start), right, mistakes, "the change of the weights")


@task(
    "01.challenge",
    answer="codec",
    title="An eighth of the bytes",
    kind="challenge",
    rule="all of sltools",
    minutes=40,
    difficulty=4,
    points=5,
    purpose="send less without losing what the server needs",
    hints=(
        "Half precision halves the bytes: z.half(). 8 bits quarter them: scale z to 0 ... 255, "
        "round, and send torch.uint8 and the scale.",
        "Two numbers of 4 bits share a byte: high * 16 + low. The receiver takes them apart with "
        "// 16 and % 16.",
        "Behind a ReLU the least value is 0. Beware of dividing by the range of a channel that is "
        "always zero.",
    ),
    meaning="z holds far more than the server needs. Whether an attacker needs it is another "
    "question, and no accuracy answers it: that takes an attack.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    digits = data.load("digits")
    session = trained_on_digits("pool1", seed)
    order = torch.randperm(len(digits.test), generator=seeds.generator(seed, "order"))
    halves = [digits.test[rows] for rows in order.split(len(order) // 2)]
    with torch.no_grad():
        sent = [session.client.front(half.images) for half in halves]
    wires = [_wire(answer(True, z)) for z in sent]
    full = sum(z.numel() * 4 for z in sent)
    share = sum(part.numel() * part.element_size() for wire in wires for part in wire) / full

    def accuracy(wire: Sequence[Tensor], half: int) -> float:
        arrived = tensor(answer(False, list(wire)), sent[half].shape, "what arrives")
        return _accuracy(session.server.model, arrived, halves[half].labels)

    got = sum(accuracy(wires[half], half) for half in (1, 0)) / 2
    plain = sum(
        _accuracy(session.server.model, z, half.labels)
        for z, half in zip(sent, halves, strict=True)
    )
    told = f"{share:.1%} of the bytes, accuracy {got:.1%}, with all of them {plain / 2:.1%}"
    # The same numbers in another order must be worthless, or something else carries the images.
    if accuracy([_mixed(part, seed) for part in wires[0]], 0) > 0.5:
        raise Wrong("With the message's numbers shuffled the server still knows the digits.")
    if got < plain / 2 - 0.02:
        raise Wrong(f"The accuracy falls by more than two points: {told}.")
    if share >= 0.5:
        raise Wrong(f"No fewer bytes than half precision: {told}.")
    if share > 0.13:
        raise Wrong(f"Fewer bytes than half precision, more than an eighth: {told}.", share=0.5)
    return f"You sent {told}."


# ---- what the judges share -----------------------------------------------------------------------


def _labels(seed: int, count: int) -> Tensor:
    return torch.randint(5, (count,), generator=seeds.generator(seed, "labels"))


def _parts(seed: int) -> tuple[nn.Sequential, nn.Sequential, nn.Sequential]:
    """Make front, middle and head for 1 x 6 x 6 images: 48 numbers at the cut, 7 features.

    The weights are larger than usual, so that predictions, and with them mistakes, differ.
    """
    with seeds.scope(seed, "parts"):
        front = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
        middle = nn.Sequential(nn.Flatten(), nn.Linear(48, 7), nn.Tanh())
        head = nn.Sequential(nn.Linear(7, 5))
        for part in (front, middle, head):
            for weight in part.parameters():
                nn.init.normal_(weight, std=0.4)
    return front, middle, head


def _several(got: Any, count: int, what: str) -> list[Any]:
    if not isinstance(got, list) or len(got) != count:
        raise Wrong(f"Return {count} things: {what}.")
    return got


def _weights(got: Any, weights: Sequence[Tensor], what: str) -> Tensor:
    """Return a list of tensors shaped like `weights`, flattened and joined."""
    if not isinstance(got, list) or len(got) != len(weights):
        raise Wrong(f"Return a list of {len(weights)} tensors, one {what} for each weight.")
    return _flat(tensor(g, w.shape, f"a {what}") for g, w in zip(got, weights, strict=True))


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([part.flatten() for part in tensors])


def _expect(got: float, right: float, mistakes: Mapping[str, float], what: str) -> None:
    """Raise Wrong unless `got` is exactly `right`; whole numbers leave nothing to rounding."""
    if got == right:
        return
    for reason, value in mistakes.items():
        if got == value:
            raise Wrong(reason)
    raise Wrong(f"{what} is off: yours is {got:,.6g}, expected {right:,}.")


def _measure_bytes(front: nn.Sequential, back: nn.Sequential, images: int, seed: int) -> int:
    """Train for one epoch and count what crossed the wire."""
    split = data.Split(draw(seed, images, 1, 6, 6), _labels(seed, images))
    session = protocol.train(front, back, split, epochs=1, batch_size=16, seed=seed, record=True)
    return session.transcript.nbytes()


def _training(seed: int) -> tuple[nn.Sequential, nn.Sequential, Tensor, Tensor, int, float]:
    """Make front, back, images, labels, the size of a batch and the learning rate."""
    front, middle, head = _parts(seed)
    back = nn.Sequential(*middle, *head)
    return front, back, draw(seed, 20, 1, 6, 6), _labels(seed, 20), 6, 0.5


LATE = "the reply is computed after the server has learnt"
DIVIDED = "the loss of the small last batch is divided by the size of a full one"
PILED = "the client's gradients of earlier batches are never cleared"


@lru_cache(maxsize=64)
def _flawed(seed: int) -> dict[tuple[str, ...], Tensor]:
    """All weights after an epoch, by the flaws that are left in it."""
    sets = (combinations((LATE, DIVIDED, PILED), count) for count in (3, 2, 1, 0))
    return {left: _trained(*_training(seed), left) for left in chain.from_iterable(sets)}


def _trained(
    front: nn.Sequential,
    back: nn.Sequential,
    images: Tensor,
    labels: Tensor,
    size: int,
    lr: float,
    flaws: Collection[str],
) -> Tensor:
    """Train one epoch, as one network would or with flaws, and return all weights joined."""
    depth, net = len(front), nn.Sequential(*front, *back)
    names = [name for name, _ in net.named_parameters()]
    weights = {name: weight.detach() for name, weight in net.named_parameters()}
    own = [name for name in names if int(name.split(".")[0]) < depth]
    pile = {name: torch.zeros_like(weights[name]) for name in own}

    def loss(held: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        total = cross_entropy(torch.func.functional_call(net, held, (x,)), y, reduction="sum")
        return total / (size if DIVIDED in flaws else len(y))

    for x, y in zip(images.split(size), labels.split(size), strict=True):
        pushes = torch.func.grad(loss)(weights, x, y)
        after = {name: weights[name] - lr * pushes[name] for name in names if name not in own}
        if LATE in flaws:
            pushes = torch.func.grad(loss)(weights | after, x, y)
        for name in own:
            pile[name] = pushes[name] + (pile[name] if PILED in flaws else 0)
            after[name] = weights[name] - lr * pile[name]
        weights = after
    return _flat(weights[name] for name in names)


def _wire(got: Any) -> list[Tensor]:
    if not isinstance(got, list) or not got or not all(isinstance(part, Tensor) for part in got):
        raise Wrong("To send means to return a list of tensors; nothing else is carried.")
    return got


def _accuracy(model: nn.Sequential, arrived: Tensor, labels: Tensor) -> float:
    with torch.no_grad():
        return (model(arrived).argmax(1) == labels).double().mean().item()


def _mixed(part: Tensor, seed: int) -> Tensor:
    order = torch.randperm(part.numel(), generator=seeds.generator(seed, "mixed"))
    return part.flatten()[order].view(part.shape)
