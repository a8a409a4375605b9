"""Topic 09: what a malicious server sends, and how a client that suspects one should count."""

import math
import statistics
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from sltools import data, models, protocol, seeds
from sltools.attacks import Hijacking, HijackingServer
from sltools.checking.task import Answer, Wrong, close, compare, draw, number, pair, task, tensor
from sltools.detectors import Detector
from sltools.detectors.scrutinizer import gap, similarities
from sltools.messages import Message

SKIPPED, BATCHES = 20, 50  # of each client of the challenge: seen by nobody, and seen in all
LIE = 0.2  # the careful hijacker's share of its own gradient


@task(
    "09.penalty",
    answer="critic_loss",
    title="What the critic learns by",
    kind="implement",
    rule="write it yourself",
    library=("sltools.attacks.alignment.gradient_penalty",),
    minutes=20,
    difficulty=3,
    points=4,
    purpose="train a critic whose slope points the way for the client",
    hints=(
        "`mixed = (share * z + (1 - share) * piloted).requires_grad_()`, with `share` of shape "
        "(B, 1) as it comes.",
        "`(slope,) = torch.autograd.grad(critic(weight, mixed).sum(), mixed, create_graph=True)`: "
        "one row for each sample, since no score depends on another sample.",
        "Without `create_graph=True` the slope is a constant, and the penalty teaches nothing.",
    ),
    meaning="The critic now has a slope of about 1 everywhere between the two kinds of data: "
    "wherever the client stands, there is a way down.",
)
def _critic_loss(answer: Answer, seed: int) -> None:
    arguments = _critics_data(seed)
    got = tensor(answer(*arguments), (), "the loss")
    variants = {name: _critic_value(name, *arguments) for name in (RIGHT, *CRITIC_MISTAKES)}
    compare(
        got,
        variants[RIGHT],
        {reason: variants[name] for name, reason in CRITIC_MISTAKES.items()},
        "the loss",
    )
    weight = arguments[0]
    slope = answer.gradient(*arguments)
    if slope is None:
        raise Wrong(
            "The number is right, and no gradient flows from it to the critic's weights: return a "
            "tensor that torch computed from `weight`."
        )
    learning = weight.clone().requires_grad_()
    (right,) = torch.autograd.grad(_critic_value(RIGHT, learning, *arguments[1:]), learning)
    if not close(tensor(slope, right.shape, "the gradient"), right):
        raise Wrong(
            "The number is right, its gradient is not: the slope was taken for a constant, so the "
            "penalty teaches the critic nothing. Take it with create_graph=True, and detach "
            "nothing on the way."
        )


RIGHT = "right"
CRITIC_MISTAKES = {
    "turned": "The critic would learn to score the pilot high: `z` is to score high, so the loss "
    "is minus the gap.",
    "without": "The gradient penalty is missing.",
    "alone": "That is the penalty alone; subtract the gap of the mean scores.",
    "unweighted": "The penalty is to be taken ten times.",
    "norm of all": "You took one norm of the whole batch: each sample has a slope of its own, a "
    "row of the gradient.",
    "squared": "You squared the slope before 1 was subtracted: it is (norm - 1) squared.",
    "one-sided": "You punish steep slopes only; flat ones are punished as well.",
    "at z": "You took the slope at `z`; take it between `z` and `piloted`, at share · z + "
    "(1 - share) · piloted.",
    "at the pilot": "You took the slope at `piloted`; take it between `z` and `piloted`, at "
    "share · z + (1 - share) · piloted.",
    "other share": "`share` is that of `z`; you gave it to `piloted`.",
    "subtracted": "The penalty is a cost: it is added to the loss, not subtracted.",
    "mean slope": "You took the slope of the mean score: it is smaller by the size of the batch. "
    "Take that of the sum, which gives each sample its own.",
}


def _critics_data(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = 5 + seed % 3
    weight = 0.7 * draw(seed, 6, 4) - 0.25
    z, piloted = 2 * draw(seed + 1, count, 6), 1.5 * draw(seed + 2, count, 6) - 0.5
    return weight, z, piloted, draw(seed + 3, count, 1)


def _critic(weight: Tensor, z: Tensor) -> Tensor:
    """The critic that the notebook defines."""
    return torch.tanh(z @ weight).sum(1)


def _critic_value(name: str, weight: Tensor, z: Tensor, piloted: Tensor, share: Tensor) -> Tensor:
    """The critic's loss, or what comes of a mistake in it."""
    places = {
        "at z": z,
        "at the pilot": piloted,
        "other share": (1 - share) * z + share * piloted,
    }
    place = places.get(name, share * z + (1 - share) * piloted).clone().requires_grad_()
    scores = _critic(weight, place)
    total = scores.mean() if name == "mean slope" else scores.sum()
    (slope,) = torch.autograd.grad(total, place, create_graph=True)
    norm = slope.norm() if name == "norm of all" else slope.norm(dim=1)
    excess = norm.square() - 1 if name == "squared" else norm - 1
    if name == "one-sided":
        excess = excess.clamp_min(0)
    penalty = excess.square().mean() * (1 if name == "unweighted" else 10)
    between = _critic(weight, z).mean() - _critic(weight, piloted).mean()
    values = {
        "turned": between + penalty,
        "without": -between,
        "alone": penalty,
        "subtracted": -between - penalty,
    }
    return values.get(name, penalty - between)


@task(
    "09.lie",
    answer="lie",
    title="The gradient that is sent",
    kind="implement",
    rule="write it yourself",
    minutes=10,
    difficulty=2,
    points=2,
    purpose="make the one message by which a server can steer a client",
    hints=(
        "The client goes down the gradient it is sent. Where should the mean score of `z` go?",
        "`z` comes from the wire: it has no graph. `z = z.detach().requires_grad_()` starts one.",
    ),
    meaning="It has the shape of an honest answer, and no label went into it.",
)
def _lie(answer: Answer, seed: int) -> None:
    with seeds.scope(seed, "critic"):
        critic = nn.Sequential(
            nn.Conv2d(2, 4, 3), nn.LeakyReLU(0.2), nn.Flatten(), nn.Linear(36, 1)
        )
    z = draw(seed, 4 + seed % 3, 2, 5, 5)
    got = tensor(answer(critic, z), z.shape, "the gradient")
    heard = z.clone().requires_grad_()
    score = critic(heard).mean()
    (right,) = torch.autograd.grad(score, heard, retain_graph=True)
    (squared,) = torch.autograd.grad(critic(heard).square().mean(), heard)
    compare(
        got,
        right,
        {
            "The client would climb away from the pilot: it goes down what it is sent, and its "
            "score must fall. Send the gradient of the mean score itself.": -right,
            "You took the sum of the scores; an honest gradient is one of a mean over the batch, "
            "and the size of yours gives you away.": len(z) * right,
            "You sent a step of the smashed data themselves, z minus the gradient; send the "
            "gradient.": z - right,
            "You took the scores' squares: a low score is as good as it gets, not one near 0.": (
                squared
            ),
            "You scaled the gradient of each sample to length 1; the critic's own length says how "
            "far to go.": normalize(right.flatten(1)).view_as(right),
            "You sent the direction only, the sign of each entry.": right.sign(),
        },
        "the gradient",
    )


@task(
    "09.obey",
    answer="predict_and_obey",
    title="What the client says after the lie",
    kind="predict",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=3,
    purpose="foretell how far one message moves a client",
    hints=(
        "z = X Wᵀ, so the client's own backward pass gives dL/dW = Gᵀ X.",
        "After the step the same images give X (W - lr Gᵀ X)ᵀ = Z - lr (X Xᵀ) G.",
        "To measure: `front(images).backward(sent)` takes any tensor of the shape of z for the "
        "gradient; then `with torch.no_grad(): weight -= lr * weight.grad`.",
    ),
    meaning="X Xᵀ mixes the images: what is sent for one of them moves all that resemble it. The "
    "server steers all images of a kind with one message.",
)
def _obey(answer: Answer, seed: int) -> str:
    count = 4 + seed % 3
    with seeds.scope(seed, "front"):
        front = nn.Sequential(nn.Flatten(), nn.Linear(16, 6, bias=False))
    images, sent, lr = draw(seed, count, 1, 4, 4), draw(seed + 1, count, 6) - 0.5, 0.05
    predicted, measured = pair(answer(front, images, sent, lr))
    with torch.no_grad():
        z, rows = front(images), images.flatten(1)
    moves = rows @ rows.T @ sent
    right = z - lr * moves
    signs = (sent.T @ rows).sign()  # of the gradient; the first step of Adam takes only these
    mistakes = {
        "{} is after a step of Adam. The client here takes a plain one, lr times the gradient.": (
            z - lr * rows @ signs.T
        ),
        "{} moves uphill: a client goes down the gradient it is sent.": z + lr * moves,
        "In {} each image moves by its own gradient alone. They share the weights: X Xᵀ mixes "
        "them.": z - lr * sent,
        "{} leaves out lr.": z - moves,
        "{} is how far z moves; where does it arrive?": -lr * moves,
        "{} is z before the step.": z,
        "In {} only the diagonal of X Xᵀ counts; images that resemble each other move together.": (
            z - lr * rows.square().sum(1, keepdim=True) * sent
        ),
        "In {} the gradient was divided by the batch once more; what is sent is taken as it is.": (
            z - lr * moves / count
        ),
    }
    for name, value in (("The prediction", predicted), ("The measurement", measured)):
        what = name[0].lower() + name[1:]
        compare(
            tensor(value, z.shape, what),
            right,
            {
                reason.format(name if reason[0] == "{" else what): z
                for reason, z in mistakes.items()
            },
            what,
        )
    moved = (right - z).norm(dim=1).mean() / z.norm(dim=1).mean()
    return f"One message moved the smashed data by {moved:.0%} of their length."


@task(
    "09.gap",
    answer="label_gap",
    title="Gradients that know the labels",
    kind="implement",
    rule="write it yourself",
    library=(
        "sltools.detectors.scrutinizer.similarities",
        "sltools.detectors.scrutinizer.gap",
    ),
    minutes=15,
    difficulty=3,
    points=3,
    purpose="compute the number that an honest gradient has and a hijacker's has not",
    hints=(
        "Flatten each sample's gradient to a row and scale it to length 1; then one matrix product "
        "has all cosines.",
        "`labels[:, None] == labels` marks the pairs of one label. Each sample is also alike with "
        "itself: leave the diagonal out.",
    ),
    meaning="About 0 says that the labels played no part. Honest servers have no reason to send "
    "such gradients.",
)
def _label_gap(answer: Answer, seed: int) -> None:
    labels = torch.arange(12) % 3
    labels[0] = labels[1]  # so that the classes differ in size
    labels = labels[torch.randperm(12, generator=seeds.generator(seed, "order"))]
    pulls = draw(seed, 3, 2, 3, 3) - 0.5
    sizes = 0.2 + 3 * draw(seed + 1, 12, 1, 1, 1)
    gradients = sizes * (pulls[labels] + 0.6 * (draw(seed + 2, 12, 2, 3, 3) - 0.4))
    got = torch.tensor(number(answer(gradients, labels)))
    rows = gradients.flatten(1)
    cosines, products = normalize(rows) @ normalize(rows).T, rows @ rows.T
    one = labels[:, None] == labels
    itself = torch.eye(12, dtype=torch.bool)
    same, other = cosines[one & ~itself].mean(), cosines[~one].mean()
    compare(
        got,
        same - other,
        {
            "You counted each sample's likeness with itself, which is always 1: leave the diagonal "
            "out.": cosines[one].mean() - other,
            "The difference is the wrong way round: pairs of one label minus pairs of two.": (
                other - same
            ),
            "You multiplied the gradients without scaling them to length 1: the samples with the "
            "longest gradients drown the rest.": (
                products[one & ~itself].mean() - products[~one].mean()
            ),
            "That is the likeness of pairs of one label; subtract that of two.": same,
            "That is the likeness of pairs of two labels; subtract it from that of one.": (other),
            "That is the mean of all pairs: the labels played no part in it.": cosines[
                ~itself
            ].mean(),
            "You divided by the sum of the two, as the scrutinizer does with similarities from 0 "
            "to 1; asked is the difference of the cosines.": (same - other) / (same + other),
            "You took absolute cosines: gradients that point in opposite directions are as unlike "
            "as can be.": cosines[one & ~itself].abs().mean() - cosines[~one].abs().mean(),
        },
        "the gap",
    )


@task(
    "09.fair_rates",
    answer="fair_rates",
    title="A detector that is never wrong",
    kind="flaw",
    rule="write it yourself",
    minutes=20,
    difficulty=3,
    points=4,
    purpose="count false alarms so that the figure holds for the next client",
    hints=(
        "A threshold that was chosen on these very clients cannot fail on them. Which clients are "
        "there to choose it on?",
        "The client suffers an alarm, not the batch: one batch in a training is enough. A client "
        "has an alarm if the highest of its scores is above the threshold.",
    ),
    meaning="Ask a vendor: chosen on which clients, counted in what, and how many were there?",
)
def _fair_rates(answer: Answer, seed: int) -> str:
    chosen, honest, hijacked = _scores(seed)
    got = torch.tensor([number(rate) for rate in pair(answer(chosen, honest, hijacked))])

    def clients(threshold: Tensor) -> Tensor:
        return torch.stack([_share(s.amax(1) > threshold) for s in (honest, hijacked)])

    def batches(threshold: Tensor) -> Tensor:
        return torch.stack([_share(s > threshold) for s in (honest, hijacked)])

    fair, peeked = chosen.max(), honest.max()
    right = clients(fair)
    compare(
        got,
        right,
        {
            "The threshold is still that of the clients it is tried on: it cannot be wrong there. "
            "Choose it on `chosen`.": clients(peeked),
            "Still both flaws: the threshold is chosen on the clients it is tried on, and batches "
            "are counted for clients.": batches(peeked),
            "You still count batches. An alarm in one of them is an alarm for the client.": (
                batches(fair)
            ),
            "The threshold is to be the highest score, not one that single batches of `chosen` may "
            "exceed.": clients(chosen.quantile(0.95)),
            "You judge a client by the mean of its scores; one batch above the threshold is an "
            "alarm.": torch.stack([_share(s.mean(1) > fair) for s in (honest, hijacked)]),
            "The two are swapped: false alarms first, then the hijackers caught.": right.flip(0),
        },
        "the pair of rates",
        tolerance=1e-4,
    )
    flawed = batches(peeked)[0]
    return f"The flawed count says {flawed:.0%} false alarms; the clients say {right[0]:.0%}."


def _scores(seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Draw scores (clients, batches): of honest clients twice, and of hijacked ones."""
    for attempt in range(1000):
        draws = seeds.generator(seed, f"scores {attempt}")
        level = 0.3 + 0.1 * torch.rand(40, 1, generator=draws)
        noise = 0.12 * torch.randn(40, 30, generator=draws)
        level[30:] += 0.12
        scores = (level + noise).clamp(0, 1)
        chosen, honest, hijacked = scores[:10], scores[10:30], scores[30:]
        falsely = _share(honest.amax(1) > chosen.max())
        caught = _share(hijacked.amax(1) > chosen.max())
        missed = _share(hijacked.amax(1) > honest.max())
        soft = _share(honest.amax(1) > chosen.quantile(0.95))
        if 0.05 <= falsely < soft and 0.3 <= caught < 1 and missed != caught and falsely != caught:
            return chosen, honest, hijacked
    raise AssertionError("no scores were found that show every mistake")


@task(
    "09.silence",
    answer="clients_needed",
    title="How long a silence proves anything",
    kind="predict",
    rule="write it yourself",
    minutes=10,
    difficulty=2,
    points=2,
    purpose="know how many quiet clients a claim about false alarms needs",
    hints=(
        "If the detector accuses each honest client with probability `rate`, what is the chance "
        "that n of them all stay quiet?",
        "(1 - rate) ** n must not be more than 1 - confidence. Solve for n, and round up.",
    ),
    meaning="Five quiet clients leave room for a detector that accuses every second one. Silence "
    "has to be long to say anything.",
    trials=5,
)
def _silence(answer: Answer, seed: int) -> str:
    rate = 0.005 + 0.03 * draw(seed, 1).item()
    confidence = 0.8 + 0.12 * draw(seed + 1, 1).item()
    got = number(answer(rate, confidence))
    exact = math.log(1 - confidence) / math.log(1 - rate)
    right = math.ceil(exact)
    values = {
        "You rounded down: that many clients are one too few.": float(right - 1),
        "Not rounded up: there are whole clients only.": exact,
        "That many would be no proof: (1 - rate) ** n is the chance of silence, and 1 - confidence "
        "the most it may be.": float(math.ceil(math.log(1 - rate) / math.log(1 - confidence))),
        "You asked that silence be likely; that it be unlikely proves something: at most "
        "1 - confidence.": float(math.ceil(math.log(confidence) / math.log(1 - rate))),
        "One false alarm is to be expected among 1 / rate clients; that is an average, and no "
        "certainty.": float(math.ceil(1 / rate)),
        "3 / rate is the rule of thumb for 95%; here the confidence is another.": float(
            math.ceil(3 / rate)
        ),
    }
    compare(
        torch.tensor(got),
        torch.tensor(float(right)),
        {reason: torch.tensor(value) for reason, value in values.items()},
        "the number of clients",
        tolerance=1e-6,
    )
    return f"A rate of {rate:.1%} at {confidence:.1%} confidence: {right} quiet clients."


@task(
    "09.challenge",
    answer="suspicion",
    title="Catch a careful hijacker",
    kind="challenge",
    rule="all of sltools",
    minutes=40,
    difficulty=5,
    points=5,
    purpose="find what a hijacker cannot hide, even behind an honest gradient",
    hints=(
        "The labels are still in four fifths of the gradient, so the gap between labels shrinks "
        "and does not vanish. What is left of the gradient when the labels are taken out?",
        "The lie is the same for every image: it pulls all of them towards the pilot. An honest "
        "gradient pulls images of different classes in different directions.",
        "How long is the mean of the batch's gradients, once each has length 1?",
    ),
    meaning="The lie must pull all images the same way, or it does not steer. A detector that "
    "looks for that is harder to hide from than one that looks for the labels.",
    trials=1,
)
def _challenge(answer: Answer, seed: int) -> str:
    watched = [honest + hijacked for honest, hijacked in (_watched(seed, n) for n in range(3))]
    scores = [torch.zeros(len(batches)) for batches in watched]
    calls = [(place, index) for place, score in enumerate(scores) for index in range(len(score))]
    order = torch.randperm(len(calls), generator=seeds.generator(seed, "order"))
    for place, index in (calls[call] for call in order.tolist()):
        # All clients are mixed: who counts the calls, or sees the hour, learns nothing of the next.
        scores[place][index] = number(answer(*watched[place][index]), "the suspicion")
    gaps = [_missed(torch.tensor([_gap_suspicion(*b) for b in batches])) for batches in watched]
    mine, baseline = statistics.median(map(_missed, scores)), statistics.median(gaps)
    told = (
        f"a hijacked batch looks less suspicious than an honest one in {mine:.1%} of all pairs "
        f"(median of three hijackers), by the gap between labels in {baseline:.1%}"
    )
    if mine > 0.7 * baseline:
        raise Wrong(f"Not clearly better than the gap between labels: {told}.")
    if mine > 0.4 * baseline:
        raise Wrong(f"Better than the gap between labels, not yet twice and a half: {told}.", 0.5)
    return f"{told[0].upper()}{told[1:]}."


Batches = list[tuple[Tensor, Tensor]]


class _Careful(HijackingServer):
    """Hides its lie in an honest gradient, at the honest size."""

    def reply(self, message: Message) -> Message | None:
        """Answer with one fifth of a lie."""
        honest = protocol.Server.reply(self, message)
        if honest is None or honest.kind != "cut_gradient":
            return honest
        assert self._smashed is not None
        lie = self._hijack(self._smashed.detach())
        lie = lie * (honest.payload.norm() / lie.norm())
        return replace(honest, payload=(1 - LIE) * honest.payload + LIE * lie)


class _Recorder(Detector):
    """Keeps what a client receives."""

    def __init__(self) -> None:
        super().__init__(window=1, threshold=0)
        self.kept: Batches = []

    def watch(
        self, labels: Tensor, cut_gradient: Tensor, weight_gradient: Tensor, *, probe: bool
    ) -> None:
        """Keep labels and gradient."""
        self.kept.append((labels.clone(), cut_gradient.clone()))


@lru_cache(maxsize=6)
def _watched(seed: int, place: int) -> tuple[Batches, Batches]:
    """What a client of an honest server received, and another one of a careful hijacker."""
    digits = data.load("digits")
    order = torch.randperm(len(digits.train), generator=seeds.generator(seed, f"split {place}"))
    private, public = (digits.train[half] for half in order.chunk(2))
    found = []
    for kind in ("honest", "hijacked"):
        number = seeds.derive(seed, f"{kind} {place}") % 2**31
        front, rest = models.cut(models.for_images(private.images.shape, number), "pool1")
        settings = Hijacking(seed=number, warmup_steps=20, critic_steps=1, batch=32)
        server = (
            protocol.Server(rest) if kind == "honest" else _Careful(rest, public.images, settings)
        )
        recorder = _Recorder()
        client = protocol.Client(front, detector=recorder)
        protocol.train(client, server, private[: 64 * 10], epochs=BATCHES // 10, seed=number)
        found.append(recorder.kept[SKIPPED:])
    return found[0], found[1]


def _gap_suspicion(labels: Tensor, gradients: Tensor) -> float:
    pairs = similarities(gradients, labels)
    return 0.5 if pairs is None else 1 - gap(pairs)


def _missed(scores: Tensor) -> float:
    """Share of the pairs in which the second half's score is not above the first half's."""
    honest, hijacked = scores.chunk(2)
    above = hijacked[:, None] - honest
    return ((above < 0).float() + 0.5 * (above == 0).float()).mean().item()


def _share(hits: Tensor) -> Tensor:
    return hits.float().mean()
