"""Answers to the tasks of topic 01."""

import copy

import torch
from torch import nn
from torch.nn.functional import avg_pool2d, cross_entropy, interpolate, log_softmax, nll_loss

from sltools import protocol
from sltools.data import Split
from tests.bank import Proof

KINDS = ("smashed", "features", "feature_gradient", "cut_gradient")


def server_by_grad(back, smashed, labels):
    arrived = smashed.detach().requires_grad_()
    loss = nll_loss(log_softmax(back(arrived), dim=1), labels)
    return [loss.item(), *torch.autograd.grad(loss, arrived)]


def server_by_library(back, smashed, labels):
    from sltools.messages import Message

    server = protocol.Server(back)
    server.reply(Message(0, 0, "labels", labels))
    reply = server.reply(Message(0, 0, "smashed", smashed))
    return server.loss, reply.payload


def server_by_chain_rule(back, smashed, labels):
    smashed.requires_grad_()
    logits = back(smashed)
    error = logits.softmax(1).detach()
    error[range(len(labels)), labels] -= 1
    logits.backward(error / len(labels))
    return cross_entropy(logits, labels), smashed.grad


def _server(loss=cross_entropy, change=lambda gradient, labels: gradient):
    def reply(back, smashed, labels):
        smashed.requires_grad_()
        value = loss(back(smashed), labels)
        value.backward()
        return value, change(smashed.grad, labels)

    return reply


def server_of_the_best(back, smashed, labels):
    smashed.requires_grad_()
    logits = back(smashed)
    logits.max(dim=1).values.sum().backward()
    return cross_entropy(logits, labels), smashed.grad


def client_by_backward(front, images, reply):
    front(images).backward(reply)
    return [weight.grad for weight in front.parameters()]


def client_by_grad(front, images, reply):
    return torch.autograd.grad(front(images), list(front.parameters()), grad_outputs=reply)


def client_by_product(front, images, reply):
    (front(images) * reply).sum().backward()
    return tuple(weight.grad for weight in front.parameters())


def _client(loss):
    def gradients(front, images, reply):
        loss(front(images), reply).backward()
        return [weight.grad for weight in front.parameters()]

    return gradients


def u_by_backward(front, middle, head, images, labels):
    z = front(images)
    arrived = z.detach().clone().requires_grad_()
    u = middle(arrived)
    received = u.detach().clone().requires_grad_()
    cross_entropy(head(received), labels).backward()
    u.backward(received.grad)
    return {
        "smashed": z,
        "features": u,
        "feature_gradient": received.grad,
        "cut_gradient": arrived.grad,
    }


def u_by_one_graph(front, middle, head, images, labels):
    z = front(images)
    u = middle(z)
    gradients = torch.autograd.grad(cross_entropy(head(u), labels), [u, z])
    names = ("smashed", "features", "feature_gradient", "cut_gradient")
    return dict(zip(names, (z, u, *gradients), strict=True))


def u_by_library(front, middle, head, images, labels):
    session = protocol.train(
        protocol.Client(front, head, optimizer=lambda weights: torch.optim.SGD(weights, lr=0.0)),
        protocol.Server(
            middle,
            label_private=True,
            optimizer=lambda weights: torch.optim.SGD(weights, lr=0.0),
        ),
        Split(images, labels),
        epochs=1,
        batch_size=len(images),
        record=True,
    )
    from sltools import seeds  # the library draws the order of the images

    order = torch.randperm(len(images), generator=seeds.generator(0, "order")).argsort()
    return {message.kind: message.payload[order] for message in session.transcript.messages}


def _u(without=None, **changes):
    """Send the right messages but for `changes`, functions of all right ones, and one `without`."""

    def messages(front, middle, head, images, labels):
        right = u_by_one_graph(front, middle, head, images, labels)
        right["logits"], right["middle"], right["labels"] = head(right["features"]), middle, labels
        right["raw"] = front[:-1](images)
        sent = right | {name: change(right) for name, change in changes.items()}
        return {name: sent[name] for name in {*KINDS, *changes} - {without}}

    return messages


def _back_from(sent, start):
    arrived = sent["smashed"].detach().requires_grad_()
    u = sent["middle"](arrived)
    return torch.autograd.grad(u, arrived, start(u))[0]


def bytes_by_case(z, images, epochs, u):
    label = 8 if u is None else 0
    return epochs * images * (8 * (z + (u or 0)) + label)


def bytes_by_messages(z, images, epochs, u):
    kinds = [(8, 1), (4, z), (4, z)] if u is None else [(4, z), (4, u), (4, u), (4, z)]
    return sum(size * numbers * images for size, numbers in kinds) * epochs


def bytes_by_epochs(z, images, epochs, u):
    total = 0.0
    for _ in range(epochs):
        total += 2 * 4.0 * z * images
        total += 8 * images if u is None else 2 * 4 * u * images
    return torch.tensor(total, dtype=torch.float64)


def cheaper_by_cut(net, depth, shape, images):
    numbers = net[:depth](torch.zeros(1, *shape)).numel()
    split = images * (8 * numbers + 8)
    federated = 8 * sum(weight.numel() for weight in net.parameters())
    cheaper = "split" if split < federated else "federated"
    return {"split": split, "federated": federated, "cheaper": cheaper}


def cheaper_by_state(net, depth, shape, images):
    activations = torch.zeros(2, *shape)
    for layer in list(net)[:depth]:
        activations = layer(activations)
    bills = {
        "split": images * (2 * 4 * activations[0].numel() + 8),
        "federated": 2 * sum(w.numel() * w.element_size() for w in net.state_dict().values()),
    }
    return {**bills, "cheaper": min(bills, key=bills.get)}


def cheaper_by_transcript(net, depth, shape, images):
    split = Split(torch.zeros(images, *shape), torch.zeros(images, dtype=torch.long))
    session = protocol.train(net[:depth], net[depth:], split, epochs=1, record=True)
    bills = {
        "federated": 8 * sum(map(torch.numel, net.parameters())),
        "split": session.transcript.nbytes(),
    }
    return bills | {"cheaper": sorted(bills.items(), key=lambda bill: bill[1])[0][0]}


def _bill(**changes):
    """Predict rightly but for `changes`: functions of the facts."""

    def predict(net, depth, shape, images):
        right = cheaper_by_cut(net, depth, shape, images)
        facts = right | {
            "z": net[:depth](torch.zeros(1, *shape)).numel(),
            "pixels": torch.zeros(shape).numel(),
            "images": images,
            "front": sum(weight.numel() for weight in net[:depth].parameters()),
        }
        return right | {name: change(facts) for name, change in changes.items()}

    return predict


def train_by_hand(front, back, images, labels, batch_size, lr):
    optimizers = [torch.optim.SGD(part.parameters(), lr=lr) for part in (front, back)]
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        for optimizer in optimizers:
            optimizer.zero_grad()
        z = front(x)
        arrived = z.detach().clone().requires_grad_()
        cross_entropy(back(arrived), y).backward()
        z.backward(arrived.grad)
        for optimizer in optimizers:
            optimizer.step()
    return [*front.parameters(), *back.parameters()]


def train_joint(front, back, images, labels, batch_size, lr):
    net = nn.Sequential(front, back)
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        loss = cross_entropy(net(images[rows]), labels[rows])
        pushes = torch.autograd.grad(loss, list(net.parameters()))
        with torch.no_grad():
            for weight, push in zip(net.parameters(), pushes, strict=True):
                weight -= lr * push
    return list(net.parameters())


def train_by_library(front, back, images, labels, batch_size, lr):
    from sltools.messages import Message

    def sgd(weights):
        return torch.optim.SGD(weights, lr=lr)

    client = protocol.Client(front, optimizer=sgd)
    server = protocol.Server(back, optimizer=sgd)
    for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        for message in client.open(x, y):
            reply = server.reply(message)
        client.reply(Message(0, 0, "cut_gradient", reply.payload))
    return [*client.front.parameters(), *server.model.parameters()]


def _train(late=False, divided=False, piled=False, frozen=False):
    """Train with flaws left in."""

    def train(front, back, images, labels, batch_size, lr):
        for x, y in zip(images.split(batch_size), labels.split(batch_size), strict=True):
            z = front(x)
            arrived = z.detach().clone().requires_grad_()
            size = batch_size if divided else len(y)

            def loss(arrived=arrived, y=y, size=size):
                return cross_entropy(back(arrived), y, reduction="sum") / size

            weights = list(back.parameters())
            pushes = torch.autograd.grad(loss(), [arrived, *weights])
            with torch.no_grad():
                for weight, push in zip(weights, pushes[1:], strict=True):
                    weight -= lr * push
            reply = torch.autograd.grad(loss(), arrived)[0] if late else pushes[0]
            if not piled:
                front.zero_grad()
            z.backward(reply)
            with torch.no_grad():
                for weight in front.parameters():
                    weight -= (0 if frozen else lr) * weight.grad
        return [*front.parameters(), *back.parameters()]

    return train


def four_bits(sending, content):
    if sending:
        top = content.max()
        codes = (content / top * 15).round().to(torch.uint8)
        return [codes[..., ::2] * 16 + codes[..., 1::2], top]
    packed, top = content
    codes = torch.stack([packed // 16, packed % 16], dim=-1).flatten(-2)
    return codes.float() / 15 * top


def three_bits(sending, content):
    """Eight levels: eight numbers in three bytes."""
    places = torch.tensor([0, 3, 6, 9, 12, 15, 18, 21])
    if sending:
        codes = (content / content.max() * 7).round().long().view(len(content), -1, 8)
        whole = (codes << places).sum(-1)
        split = torch.stack([(whole >> shift) & 255 for shift in (0, 8, 16)], -1)
        return [split.to(torch.uint8), content.max()]
    split, top = content
    whole = (split.long() << torch.tensor([0, 8, 16])).sum(-1, keepdim=True)
    codes = (whole >> places) & 7
    return (codes / 7 * top).view(len(split), 8, 12, 12)


def strips_of_four_bits(sending, content):
    """Four bits in a different order and with one scale for each image."""
    if sending:
        flat = content.flatten(1)
        top = flat.amax(1, keepdim=True)
        codes = (flat * 15 / top).round().to(torch.uint8)
        return [codes[:, :576] | (codes[:, 576:] << 4), top.half()]
    packed, top = content
    codes = torch.cat([packed & 15, packed >> 4], 1)
    return (codes * top.float() / 15).view(-1, 8, 12, 12)


def eight_bits(sending, content):
    if sending:
        return [(content / content.max() * 255).round().to(torch.uint8), content.max()]
    return content[0] * content[1] / 255


def one_number_in_nine(sending, content):
    if sending:
        return [avg_pool2d(content, 3).half()]
    return interpolate(content[0].float(), scale_factor=3)


LAST = {}


def remembers(sending, content):
    """Carries nothing: both parties share a variable."""
    if sending:
        LAST["z"] = copy.deepcopy(content)
        return [torch.zeros(1)]
    return LAST["z"]


KEPT = []


def sends_an_index(sending, content):
    """Carries nothing but a place in a list that both parties share."""
    if sending:
        KEPT.append(content)
        return [torch.tensor([len(KEPT) - 1], dtype=torch.uint8)]
    return KEPT[int(content[0])]


PROOFS = {
    "01.server": Proof(
        wrong={
            "sums the loss": _server(lambda x, y: cross_entropy(x, y, reduction="sum")),
            "applies the softmax twice": _server(lambda x, y: cross_entropy(x.softmax(1), y)),
            "forgets the softmax": _server(nll_loss),
            "turns the sign": _server(change=lambda gradient, labels: -gradient),
            "replies with the gradient of the sum": _server(
                change=lambda gradient, labels: gradient * len(labels)
            ),
            "goes back from the best logits": server_of_the_best,
            "returns the smashed data": lambda back, z, y: (cross_entropy(back(z), y), z),
            "returns the loss only": lambda back, z, y: cross_entropy(back(z), y),
        },
        right=[server_by_grad, server_by_library, server_by_chain_rule],
    ),
    "01.client": Proof(
        wrong={
            "ignores the reply": _client(lambda z, reply: z.sum()),
            "takes the mean of the product": _client(lambda z, reply: (z * reply).mean()),
            "divides by the batch": _client(lambda z, reply: (z * reply).sum() / len(z)),
            "turns the sign": _client(lambda z, reply: -(z * reply).sum()),
            "takes the reply for a target": _client(lambda z, reply: (z - reply).square().mean()),
            "squares z": _client(lambda z, reply: (z * z * reply).sum() / 2),
            "returns the gradients of the images": lambda front, images, reply: torch.autograd.grad(
                front(images.requires_grad_()), images, reply
            ),
        },
        right=[client_by_backward, client_by_grad, client_by_product],
    ),
    "01.u_step": Proof(
        wrong={
            "sends the labels": _u(labels=lambda sent: sent["labels"]),
            "cuts before the last layer of the front": _u(smashed=lambda sent: sent["raw"]),
            "sends probabilities for features": _u(
                features=lambda sent: sent["features"].softmax(1)
            ),
            "sends the logits for features": _u(features=lambda sent: sent["logits"]),
            "turns the feature gradient": _u(
                feature_gradient=lambda sent: -sent["feature_gradient"]
            ),
            "sums the loss": _u(feature_gradient=lambda sent: 5 * sent["feature_gradient"]),
            "turns the cut gradient": _u(cut_gradient=lambda sent: -sent["cut_gradient"]),
            "goes back from the sum of u": _u(
                cut_gradient=lambda sent: _back_from(sent, torch.ones_like)
            ),
            "goes back from u": _u(cut_gradient=lambda sent: _back_from(sent, lambda u: u)),
            "forgets a key": _u(without="feature_gradient"),
            "misspells a key": _u(without="cut_gradient", cut_gradients=lambda sent: sent["raw"]),
            "sends another message": _u(loss=lambda sent: sent["raw"]),
            "returns a list": lambda *a: list(u_by_one_graph(*a).values()),
        },
        right=[u_by_backward, u_by_one_graph, u_by_library],
    ),
    "01.bytes": Proof(
        wrong={
            "counts numbers": lambda z, n, epochs, u: n * epochs * (2 * z + 1),
            "counts one epoch": lambda z, n, epochs, u: bytes_by_case(z, n, 1, u),
            "counts one direction": lambda z, n, epochs, u: n * epochs * (4 * z + 8),
            "forgets the labels": lambda z, n, epochs, u: n * epochs * 8 * z,
            "sends labels in 4 bytes": lambda z, n, epochs, u: n * epochs * (8 * z + 4),
            "sends labels once": lambda z, n, epochs, u: n * epochs * 8 * z + 8 * n,
            "sends labels in the U-shape": lambda z, n, epochs, u: (
                n * epochs * (8 * z + 8 * (u or 0) + 8)
            ),
            "sends features one way": lambda z, n, epochs, u: (
                n * epochs * (8 * z + (8 if u is None else 4 * u))
            ),
            "takes every form for vanilla": lambda z, n, epochs, u: n * epochs * (8 * z + 8),
        },
        right=[bytes_by_case, bytes_by_messages, bytes_by_epochs],
    ),
    "01.cheaper": Proof(
        wrong={
            "counts one direction": _bill(split=lambda f: f["images"] * (4 * f["z"] + 8)),
            "forgets the labels": _bill(split=lambda f: f["images"] * 8 * f["z"]),
            "counts pixels": _bill(split=lambda f: f["images"] * (8 * f["pixels"] + 8)),
            "counts one image": _bill(split=lambda f: 8 * f["z"] + 8),
            "sends weights one way": _bill(federated=lambda f: f["federated"] / 2),
            "counts the client's weights": _bill(federated=lambda f: 8 * f["front"]),
            "counts a round for each image": _bill(
                federated=lambda f: f["federated"] * f["images"]
            ),
            "names the dearer": _bill(
                cheaper=lambda f: "federated" if f["split"] < f["federated"] else "split"
            ),
            "returns the numbers only": lambda *a: list(cheaper_by_cut(*a).values()),
        },
        right=[cheaper_by_cut, cheaper_by_state, cheaper_by_transcript],
    ),
    "01.train": Proof(
        wrong={
            "mends nothing": _train(True, True, True),
            "still replies late": _train(late=True),
            "still divides by a full batch": _train(divided=True),
            "still piles up": _train(piled=True),
            "mends the last batch only": _train(late=True, piled=True),
            "mends the order only": _train(divided=True, piled=True),
            "mends the pile only": _train(late=True, divided=True),
            "trains the server only": _train(frozen=True),
            "trains nothing": lambda front, back, *rest: [
                *front.parameters(),
                *back.parameters(),
            ],
        },
        right=[train_by_hand, train_joint, train_by_library],
    ),
    "01.challenge": Proof(
        wrong={
            "sends everything": lambda sending, content: [content] if sending else content[0],
            "sends half precision": lambda sending, content: (
                [content.half()] if sending else content[0].float()
            ),
            "sends 8 bits": eight_bits,
            "sends one number in nine": one_number_in_nine,
            "sends nothing": remembers,
            "sends an index": sends_an_index,
            "sends a tensor": lambda sending, content: content,
        },
        right=[four_bits, three_bits, strips_of_four_bits],
        seeds=range(7000, 7001),  # as the wrong answers
    ),
}
