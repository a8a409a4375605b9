"""Topic 02: who sees what, what an attack has used, and which messages give labels away."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sltools import seeds
from sltools.checking.task import Answer, Wrong, compare, dictionary, draw, number, task, tensor

SENT = {  # what a view calls it -> the kind of message that carries it
    "smashed": "smashed",
    "labels": "labels",
    "features": "features",
    "feature_gradients": "feature_gradient",
    "cut_gradients": "cut_gradient",
}
OWN = ("model", "architecture")
GRANTED = ("client_model", "head_weight_gradients", "anchor_labels")
LEAKS = ("line", "means", "spread")  # of the challenge
SECRET = ("images", "client_weights")
SETTINGS = {
    "vanilla training": ("labels", "smashed", "cut_gradient"),
    "vanilla inference": ("smashed", "prediction"),
    "label-private training": ("smashed", "features", "feature_gradient", "cut_gradient"),
    "label-private inference": ("smashed", "features"),
}


@task(
    "02.sees",
    answer="refused",
    title="What the server is refused",
    kind="implement",
    rule="write it yourself",
    minutes=10,
    difficulty=2,
    points=3,
    purpose="decide from the messages alone what an attacker may use",
    hints=(
        "Three questions for each name: did a message carry it, is it the server's own or assumed "
        "known, was it granted? If all three are answered no, it is refused.",
        "The gradients are named in the plural, but their messages in the singular: "
        "name.removesuffix('s') is the kind for those two, and for no other name.",
    ),
    meaning="This is what a view does. An attack that asks for something on your list has another "
    "threat model than the one on its card.",
)
def _refused(answer: Answer, seed: int) -> None:
    generator = seeds.generator(seed, "asked")
    names = [*SENT, *OWN, *GRANTED, *SECRET]
    for place, (setting, kinds) in enumerate(SETTINGS.items()):
        asked = [names[i] for i in torch.randperm(len(names), generator=generator)]
        order = torch.randperm(len(kinds), generator=generator).tolist()
        grants = [GRANTED[(place + seed) % 3]]
        got = answer([kinds[i] for i in order], grants, asked)
        if not isinstance(got, list) or not set(map(str, got)) <= set(names):
            raise Wrong("Return a list of some of the names asked for.")
        _judge_refused(got, kinds, grants, asked, setting)


def _judge_refused(
    got: list[Any], kinds: Sequence[str], grants: list[str], asked: list[str], setting: str
) -> None:
    seen = {name for name, kind in SENT.items() if kind in kinds} | set(OWN) | set(grants)
    right = [name for name in asked if name not in seen]
    if set(got) == seen:
        raise Wrong("These are the names that the server sees; those that it is refused are asked.")
    for name in SECRET + GRANTED + tuple(SENT) + OWN:  # always in this order: the gravest first
        if name in right and name not in got:
            reason = "no message of that kind crossed the wire"
            if name in SECRET:
                reason = "it never crosses the wire, and nobody granted it"
            elif name in GRANTED:
                reason = "it was not among the grants"
            raise Wrong(f"In {setting} {name} must be refused: {reason}.")
        if name not in right and name in got:
            reason = "a message carried it"
            if name in OWN:
                reason = "the server has its own model, and knows the architecture by assumption"
            elif name in GRANTED:
                reason = "it was granted"
            elif name.endswith("gradients"):
                reason = f"a message of kind {SENT[name]} carried it"
            raise Wrong(f"In {setting} {name} is not refused there: {reason}.")
    if got != right:
        raise Wrong("Keep the order in which the names were asked for, and give each of them once.")


@task(
    "02.baselines",
    answer="label_baselines",
    title="The score of somebody who learnt nothing",
    kind="implement",
    rule="write it yourself",
    minutes=5,
    difficulty=1,
    points=2,
    purpose="know from which number on a label attack is an attack",
    hints=(
        "A random guess is right once in as many times as there are classes, whatever the labels.",
        "labels.bincount() counts each class. What share do you get by always naming the largest?",
    ),
    meaning="A clinic where nine in ten are healthy gives 90% to an attacker who does nothing. "
    "Report an accuracy only beside this.",
)
def _label_baselines(answer: Answer, seed: int) -> None:
    classes, count = 8, 90
    shares = torch.tensor([0.5, 3.0, 1.0, 0.0, 1.5, 0.7, 0.0, 1.2])  # two classes do not occur
    generator = seeds.generator(seed, "labels")
    labels = torch.multinomial(shares, count, replacement=True, generator=generator)
    got = answer(labels, classes)
    if not isinstance(got, list) or len(got) != 2:
        raise Wrong("Return two numbers: the score of a random guess, and of the largest class.")
    counts = labels.bincount(minlength=classes)
    chance, majority = 1 / classes, counts.max().item() / count
    present = int((counts > 0).sum())
    values = torch.tensor([number(value) for value in got])
    compare(
        values,
        torch.tensor([chance, majority]),
        {
            "The two numbers are swapped: the random guess first.": torch.tensor(
                [majority, chance]
            ),
            "A random guesser does not know which classes occur: count all of them.": torch.tensor(
                [1 / present, majority]
            ),
            "The second number is how many images the largest class has; give their share.": (
                torch.tensor([chance, counts.max().item()])
            ),
            "The second number is which class is the largest; give its share.": torch.tensor(
                [chance, counts.argmax().item()]
            ),
            "These are per cent; give shares from 0 to 1.": torch.tensor(
                [100 * chance, 100 * majority]
            ),
            "The second number is the score of a guesser who knows all shares and guesses by "
            "them; always naming the largest class scores more.": torch.tensor(
                [chance, (counts / count).square().sum().item()]
            ),
        },
        "the pair of baselines",
        tolerance=1e-5,
    )


@task(
    "02.leak",
    answer="leaking",
    title="Find the message that contains the labels",
    kind="implement",
    rule="write it yourself",
    minutes=15,
    difficulty=2,
    points=3,
    purpose="find labels on the wire, whatever they are called there",
    hints=(
        "A column gives the labels away if each label has its own value there: equal for equal "
        "labels, different for different ones.",
        "column[:, None] == column[None] says which pairs are equal. Compare this matrix with the "
        "one of the labels.",
    ),
    meaning="A code book is no protection: whoever knows one label of each class reads them all, "
    "and without any the server still knows who belongs together.",
)
def _leaking(answer: Answer, seed: int) -> None:
    messages, kinds, labels = _messages(seed)
    got = answer(messages, labels)
    if not isinstance(got, list) or not all(isinstance(name, str) for name in got):
        raise Wrong("Return a list of names of messages.")
    if not set(got) <= set(messages):
        raise Wrong("You name a message that is not among these: take the names of `messages`.")
    missed = {
        "plain": "a column holds the labels as they are",
        "scaled": "a column holds the labels times a factor, plus a constant",
        "coded": "a column holds another number for each class, in no order",
    }
    for kind, reason in missed.items():
        if kinds[kind] not in got:
            raise Wrong(f"You have missed {kinds[kind]!r}: {reason}.")
    spared = {
        "noise": "no value occurs twice in it, so none can tell two images of one class together",
        "constant": "every label has the same value there, so none can be told from another",
        "merged": "two classes share a value in each column, so the labels cannot be told",
        "shuffled": "it holds labels, but those of other images",
    }
    for kind, reason in spared.items():
        if kinds[kind] in got:
            raise Wrong(f"You accuse {kinds[kind]!r} wrongly: {reason}.")
    if len(got) != 3:
        raise Wrong("Name each message once.")


@task(
    "02.claims",
    answer="kept_quiet",
    title="Read the small print",
    kind="flaw",
    rule="write it yourself",
    minutes=10,
    difficulty=2,
    points=3,
    purpose="compare what a paper says its attack needs with what the attack has read",
    hints=(
        "What is in the ledger and not among the claims was kept quiet. The other way round it is "
        "modesty, and no flaw.",
        "A granted piece of knowledge is claimed only if the claim says that it was granted.",
    ),
    meaning="The ledger of a result is the small print. A claim without the word `granted` is a "
    "claim about another attacker.",
)
def _kept_quiet(answer: Answer, seed: int) -> None:
    papers, right = _papers(seed)
    got = answer(papers)
    if not isinstance(got, list) or len(got) != len(papers):
        raise Wrong("Return a list with one entry, a list of texts, for each paper.")
    if not all(isinstance(mine, list) and all(isinstance(t, str) for t in mine) for mine in got):
        raise Wrong("Each entry must be a list of texts, and an empty one for an honest paper.")
    pairs = [(set(paper["claims"]), set(paper["ledger"])) for paper in papers]
    mistakes = {
        "You list what was claimed and not used: that is modest, and no flaw.": [
            claims - ledger for claims, ledger in pairs
        ],
        "What was claimed and not used is no flaw: leave it out.": [
            claims ^ ledger for claims, ledger in pairs
        ],
        "You list the whole ledger: leave out what the paper says itself.": [
            ledger for _, ledger in pairs
        ],
        "You list every grant; one that the paper names as a grant is not kept quiet.": [
            {text for text in ledger if text not in claims or text != _bare(text)}
            for claims, ledger in pairs
        ],
        "A claim that does not say `(granted)` keeps the grant quiet.": [
            {text for text in ledger - claims if _bare(text) not in claims}
            for claims, ledger in pairs
        ],
        "Give the texts as they stand in the ledger, with `(granted)`.": [
            {_bare(text) for text in ledger - claims} for claims, ledger in pairs
        ],
    }
    found = [set(mine) for mine in got]
    for reason, sets in mistakes.items():
        if found == sets:
            raise Wrong(reason)
    for paper, mine, wanted in zip(papers, got, right, strict=True):
        if set(mine) != set(wanted):
            claims = sorted(paper["claims"])
            raise Wrong(f"For the claims {claims} you give {sorted(mine)}, and not {wanted}.")
        if mine != wanted:
            raise Wrong("Sort each of the lists, and give each text once.")


@task(
    "02.clone",
    answer="suspicious",
    title="Clones that started too close",
    kind="flaw",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=4,
    purpose="find the clone that never had to be learnt, because it shared the victim's seed",
    hints=(
        "Go through the pairs of weight tensors of victim and clone, and leave out the small ones.",
        "torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1] is the correlation of two "
        "tensors. Unrelated ones have about 0.",
        "The victim has been trained since, so equal seeds do not show as equal numbers. One "
        "layer is enough for a suspicion.",
    ),
    meaning="One seed for everything is an easy mistake, and the clone it makes looks like a great "
    "theft. This library gives victim and clone a stream of its own each.",
)
def _suspicious(answer: Answer, seed: int) -> None:
    victim, clones, kinds = _clones(seed)
    got = answer(victim, clones)
    if not isinstance(got, list):
        raise Wrong("Return a list of places in the list of clones.")
    if got and all(isinstance(place, bool) for place in got):
        raise Wrong("Return the places of the suspicious clones, not a flag for each clone.")
    places = [int(number(place, "each place")) for place in got]
    reasons = {
        "fresh": "no large tensor of it resembles the victim's: it was accused by its small "
        "tensors, or by chance",
        "same": "it has the victim's initial weights; the victim has only been trained since",
        "moved": "it began at the victim's initial weights, and both have been trained since",
        "part": "one of its layers began at the victim's; one is enough",
        "turned": "one of its layers is the victim's with the sign turned: look at the size of the "
        "correlation",
    }
    for kind, reason in reasons.items():
        for place in (place for place, there in enumerate(kinds) if there == kind):
            if (place in places) != (kind != "fresh"):
                found = "is missing" if kind != "fresh" else "is not suspicious"
                raise Wrong(f"A clone {found}: {reason}.")
    if places != sorted(set(places)):
        raise Wrong("Give each place once, in rising order.")


@task(
    "02.steer",
    answer="steer",
    title="A server that steers: predict, then measure",
    kind="predict",
    rule="write it yourself",
    minutes=20,
    difficulty=4,
    points=4,
    purpose="see how far one dishonest reply moves a client, before it is sent",
    hints=(
        "The client takes the reply for the gradient at z, so it goes back with z.backward(reply) "
        "and then subtracts lr times each gradient g.",
        "S = half the sum of z² has the gradient z at z. To first order a step changes S by the "
        "sum of (gradient of S) times (change of the weight).",
        "The change of the weight is -lr · g with g = factor · (gradient of S): so it is "
        "-lr · factor · (the sum of the squared gradients of S).",
    ),
    meaning="The server has chosen what the client learns, and no image, label or weight was "
    "needed. The client sees only a gradient that does not help with its task.",
)
def _steer(answer: Answer, seed: int) -> str:
    with seeds.scope(seed, "front"):
        front = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(48, 6))
    images, told = draw(seed, 6, 1, 6, 6), []
    for factor in (0.8, -1.2):
        weights = list(front.parameters())
        z = front(images)
        size = z.square().sum() / 2
        pushes = torch.autograd.grad(size, weights)
        squares = torch.stack([push.square().sum() for push in pushes]).sum()
        lr = (0.15 * size / squares).item()
        got = dictionary(answer(front, images, factor, lr), ("predicted", "measured"))
        names = [name for name, _ in front.named_parameters()]
        moved = {
            name: (weight - lr * factor * push).detach()
            for name, weight, push in zip(names, weights, pushes, strict=True)
        }
        with torch.no_grad():
            after = torch.func.functional_call(front, moved, (images,)).square().sum() / 2
        predicted, measured = -lr * factor * squares, (after - size).detach()
        _judge_steered(got, predicted, measured, size.detach(), factor, lr)
        told.append(f"predicted {predicted / size:+.1%}, measured {measured / size:+.1%}")
    return f"The change of S, with the two factors: {'; '.join(told)}."


def _judge_steered(
    got: dict[str, Any],
    predicted: Tensor,
    measured: Tensor,
    size: Tensor,
    factor: float,
    lr: float,
) -> None:
    compare(
        tensor(got["predicted"], (), '"predicted"'),
        predicted,
        {
            "The predicted change has the wrong sign: the client subtracts the gradient.": (
                -predicted
            ),
            "The learning rate is missing in the prediction.": predicted / lr,
            "The factor of the reply is missing in the prediction.": predicted / factor,
            "The factor is in the prediction twice: S itself does not contain it.": predicted
            * factor,
            "You predict the change of the sum of z²; S is half of it.": 2 * predicted,
            "The prediction is the measured value: predict from the gradients.": measured,
        },
        '"predicted"',
    )
    compare(
        tensor(got["measured"], (), '"measured"'),
        measured,
        {
            "The measured change is before minus after; turn it.": -measured,
            "You measured S after the step; subtract what it was before.": measured + size,
            "You measured the sum of z²; S is half of it.": 2 * measured,
            "You give the share by which S has changed; give the change.": measured / size,
            "The measured value is the prediction: take the step, and compute S again.": predicted,
        },
        '"measured"',
    )


@task(
    "02.challenge",
    answer="suspicion",
    title="A detector for labels on the wire",
    kind="challenge",
    rule="all of sltools",
    minutes=40,
    difficulty=4,
    points=5,
    purpose="find more leaks than correlations with the class numbers do",
    hints=(
        "The number of a class means nothing: class 4 is not twice class 2. Compare the means of "
        "the classes in each column: how much do they differ, measured by the spread inside the "
        "classes?",
        "Some leaks move no mean at all, but change the spread. Treat (z - mean)² as further "
        "columns.",
        "A message has many columns, and one may look suspicious by chance: take the largest of "
        "all columns, so that a leak must beat the luckiest innocent column.",
    ),
    meaning="A detector finds the leaks it was made for. The shuffled labels told how often it "
    "cries wolf; nothing told what it does not look for.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    stream = seeds.keyed(seed, "detector")
    mine, plain = [0.0] * 90, [0.0] * 90
    # A control is a message of its own: what is remembered of other calls says nothing of it.
    calls = [(kind, leaks) for kind in LEAKS for leaks in (True, False)] * 15
    for place in stream.permutation(len(calls)):  # who counts the calls learns nothing
        kind, leaks = calls[place]
        payload, labels = _disguised(kind, stream)
        if not leaks:
            labels = labels[torch.from_numpy(stream.permutation(len(labels)))]
        mine[place] = number(answer(payload, labels), "the suspicion")
        plain[place] = _correlation(payload, labels)
    payload, labels = _disguised("means", stream)
    if number(answer(payload, labels)) == number(answer(payload, labels.roll(1))):
        raise Wrong("Your suspicion does not depend on the labels.")
    got, usual = _won(mine[0::2], mine[1::2]), _won(plain[0::2], plain[1::2])
    parts = [_won(mine[i::6], mine[1::2]) for i in (0, 2, 4)]
    told = (
        f"a leak beats a control in {got:.1%} of the pairs, with correlations in {usual:.1%}; by "
        f"kind of leak {', '.join(f'{part:.0%}' for part in parts)}"
    )
    if got < 0.4:
        raise Wrong(f"Your suspicion is upside down, and larger for the innocent: {told}.")
    if got < usual + 0.03:
        raise Wrong(f"No better than correlations: {told}.")
    if got < 0.9:
        raise Wrong(f"Better than correlations, but below 90%: {told}.", share=0.5)
    return f"In your hands {told}."


# ---- what the judges draw ------------------------------------------------------------------------


def _bare(text: str) -> str:
    return text.removesuffix(" (granted)")


def _messages(seed: int) -> tuple[dict[str, Tensor], dict[str, str], Tensor]:
    """Draw messages, three of which give the labels away, their names by kind, and the labels.

    Neither its name, nor its place or its size says of which kind a message is.
    """
    generator = seeds.generator(seed, "messages")
    count = 4 * int(torch.randint(6, 10, (), generator=generator))
    labels = torch.arange(count)[torch.randperm(count, generator=generator)] % 4
    turn = int(torch.randint(4, (), generator=generator))
    book = torch.tensor([2.5, -1.0, 7.25, 0.5]).roll(turn)  # in no order, however it is turned
    shift = int(torch.randint(1, count - 1, (), generator=generator))
    columns = {
        "noise": [],
        "plain": [labels],
        "constant": [torch.ones(count)],
        "scaled": [0.125 * labels - 3.0],
        "merged": [labels > 1, labels > 2],
        "coded": [book[labels]],
        "shuffled": [labels.roll(shift)],
    }

    def among_noise(told: list[Tensor]) -> Tensor:
        width = int(torch.randint(3, 7, (), generator=generator))
        payload = torch.rand(count, width, generator=generator)
        places = torch.randperm(width, generator=generator)[: len(told)]
        for place, column in zip(places.tolist(), told, strict=True):
            payload[:, place] = column.float()
        return payload

    order = torch.randperm(len(columns), generator=generator).tolist()
    kinds = [list(columns)[place] for place in order]
    names = {kind: f"message {number}" for number, kind in enumerate(kinds, 1)}
    return {names[kind]: among_noise(columns[kind]) for kind in kinds}, names, labels


def _papers(seed: int) -> tuple[list[dict[str, list[str]]], list[list[str]]]:
    """Draw papers, each with its claims and ledger, and say what each keeps quiet."""
    generator = seeds.generator(seed, "papers")
    gradient, bias = "head weight gradients (granted)", "head bias gradients (granted)"
    base = ["smashed", "client architecture"]
    cases = [
        (base, base),  # honest
        ([*base, "labels"], base),  # modest
        (["smashed", "labels"], base),  # modest, and quiet of the architecture
        (base, [*base, gradient]),
        ([*base, _bare(gradient)], [*base, gradient]),  # the grant is kept quiet
        (["features"], ["features", gradient, bias]),
        (["features", gradient], ["features", gradient]),
    ]
    papers, right = [], []
    for i in torch.randperm(len(cases), generator=generator).tolist():
        claims, ledger = cases[i]
        mixed = torch.randperm(len(claims), generator=generator).tolist()
        papers.append({"claims": [claims[j] for j in mixed], "ledger": sorted(ledger)})
        right.append(sorted(set(ledger) - set(claims)))
    return papers, right


def _clones(seed: int) -> tuple[nn.Sequential, list[nn.Sequential], list[str]]:
    """Draw a trained victim, and clones of several kinds in an order of chance."""

    def network(stream: str) -> nn.Sequential:
        with seeds.scope(seed, stream):
            return nn.Sequential(
                nn.Conv2d(1, 8, 4), nn.ReLU(), nn.Flatten(), nn.Linear(72, 10), nn.ReLU()
            )

    def trained(net: nn.Sequential, stream: str) -> nn.Sequential:
        generator = seeds.generator(seed, stream)
        with torch.no_grad():
            for weight in net.parameters():
                noise = torch.randn(weight.shape, generator=generator)
                weight.add_(noise, alpha=0.4 * weight.std().item())
        return net

    start, part, turned, fresh = map(network, ("victim", "part", "turned", "fresh"))
    with torch.no_grad():
        own = dict(start.named_parameters())
        part.get_parameter("0.weight").copy_(own["0.weight"])
        turned.get_parameter("3.weight").copy_(-own["3.weight"])
        fresh.get_parameter("0.bias").copy_(own["0.bias"])  # small, and proves nothing
    built = {
        "same": [network("victim")],
        "moved": [trained(network("victim"), "clone's training")],
        "part": [trained(part, "part's training")],
        "turned": [turned],
        "fresh": [fresh, network("another"), trained(network("third"), "third's training")],
    }
    pairs = [(kind, net) for kind, nets in built.items() for net in nets]
    order = torch.randperm(len(pairs), generator=seeds.generator(seed, "order")).tolist()
    victim = trained(start, "training")
    return victim, [pairs[i][1] for i in order], [pairs[i][0] for i in order]


def _disguised(kind: str, stream: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw a message (80, 12) that leaks labels of five classes, and these labels.

    "line": a column grows with the class; "means": each class has a mean of its own there;
    "spread": the classes differ in how far their values scatter, and in nothing else.
    """
    labels = torch.from_numpy(stream.integers(5, size=80))
    payload = torch.from_numpy(stream.standard_normal((80, 12))).float()
    column = int(stream.integers(12))
    if kind == "line":
        payload[:, column] += 0.4 * labels
    elif kind == "means":
        payload[:, column] += torch.tensor([1.0, -1.0, 0.0, 1.0, -1.0])[labels] * 0.7
    else:
        spreads = torch.from_numpy(stream.permutation([0.3, 0.6, 1.0, 1.6, 2.2])).float()
        payload[:, column] *= spreads[labels]
    return payload * torch.from_numpy(0.5 + stream.random(12)).float(), labels


def _correlation(payload: Tensor, labels: Tensor) -> float:
    both = torch.cat([payload, labels[:, None].float()], 1)
    return torch.corrcoef(both.T)[-1, :-1].abs().max().item()


def _won(leaks: Sequence[float], controls: Sequence[float]) -> float:
    """In which share of all pairs the leak has the larger score (a tie counts half): the AUC."""
    return statistics.fmean(
        float(leak > control) + 0.5 * float(leak == control)
        for leak in leaks
        for control in controls
    )
