"""Homework 01: bytes of another wire, and a recording that has lost its order."""

from random import Random

import numpy as np
import torch

from sltools import seeds
from sltools.checking.task import Answer, Wrong, number
from sltools.exercises.homework.parts import Homework, Part, finds, homework, normal, order, part

ROUNDS, BATCH, FEATURES = 4, 3, 4
RATE = 0.3  # at which the server learns


@homework("01", "the protocol")
def _protocol(constants: Random, data: np.random.Generator) -> Homework:
    weight = normal(data, FEATURES, FEATURES)
    learnt, sent = weight.double(), []
    for _ in range(ROUNDS):
        z, pull = (normal(data, BATCH, FEATURES).double() for _ in range(2))
        sent += [z, z @ learnt.T, pull, pull @ learnt]
        learnt = learnt - RATE * pull.T @ z
    places = order(data, len(sent))
    messages = torch.stack(sent)[torch.tensor(places).argsort()]
    recording = part(
        "01.order",
        "order = ...",
        "A recording without order",
        6,
        f"A server of one layer, $u = z W^\\top$, trained with a U-shaped client for {ROUNDS} "
        "rounds. In each of them $z$, $u$, $\\partial L / \\partial u$ and "
        "$\\partial L / \\partial z$ crossed the wire, in this order, and then the server learnt: "
        f"one plain step of gradient descent on $W$, at the rate {RATE}. `weight` is $W$ before "
        f"the first round, and `messages` holds all {len(sent)} messages, mixed up. Give the list "
        "of their places in `messages`, in the order in which they were sent.",
        finds(places, "messages"),
        "Who holds one party's weights can put a recording in order, and then reads all of it.",
    )
    return Homework(
        {"weight": weight, "messages": messages.float()}, (_bytes(constants), recording)
    )


def _bytes(constants: Random) -> Part:
    up, down = constants.choice((1, 2)), constants.choice((2, 4, 8))
    label, header = constants.choice((1, 2, 4)), constants.choice((16, 20, 24, 40))

    def right(smashed: int, images: int, epochs: int, batch: int) -> int:
        each = images * ((up + down) * smashed + label)
        return epochs * (each + 3 * header * -(-images // batch))

    def judge(answer: Answer, seed: int) -> None:
        sizes = seeds.generator(seed, "homework")

        def size(low: int, high: int) -> int:
            return int(torch.randint(low, high, (), generator=sizes))

        smashed, epochs, batch = size(20, 900), size(2, 9), size(8, 64)
        images = batch * size(5, 50) + size(1, 8)  # the last batch is smaller
        wanted = right(smashed, images, epochs, batch)
        got = number(answer(smashed, images, epochs, batch))
        headers = 3 * header * -(-images // batch)
        mistakes = {
            "This is the wire of the exercises, without headers and with 4 and 8 bytes.": (
                images * epochs * (8 * smashed + 8)
            ),
            "The headers are missing.": wanted - epochs * headers,
            "The last batch, a smaller one, has headers too: round up.": wanted
            - epochs * 3 * header,
            "A batch is three messages, with a header each.": wanted - epochs * headers * 2 // 3,
            "The labels are sent anew in every epoch.": wanted - (epochs - 1) * images * label,
        }
        if got != wanted:
            told = next((text for text, value in mistakes.items() if got == value), "")
            raise Wrong(told or f"The number of bytes is off: yours is {got:,g}, not {wanted:,}.")

    return part(
        "01.bytes",
        "def wire_bytes(smashed: int, images: int, epochs: int, batch: int) -> int:",
        "Bytes of another wire",
        4,
        "In vanilla split learning each batch is three messages: smashed data, labels, and the "
        f"cut-layer gradient. Here a number of the smashed data takes {up} byte(s), one of the "
        f"gradient {down}, a label {label}, and each message a header of {header} bytes. "
        "`smashed` numbers are sent for an image; the last batch of an epoch may be smaller than "
        "`batch`. How many bytes cross the wire in all epochs?",
        judge,
        "Few bits save bytes, small batches cost some. What is given away is another question.",
        f"wire_bytes(10, 25, 2, 8)  # is {right(10, 25, 2, 8)}",
    )
