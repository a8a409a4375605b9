"""Clients with poisoned data, and the server's defences against them."""

import copy
from dataclasses import replace
from functools import partial

import pytest
import torch

from sltools import data, defenses, metrics, models, protocol
from sltools.attacks import Backdoor, LabelFlip, StealthyClient, Trigger
from sltools.defenses import CoordinateMedian, Krum, SafeSplit, TrimmedMean
from sltools.defenses.safesplit import describe, judge
from sltools.errors import AttackError, DefenseError, ProtocolError
from tests.parties import noise_split, same, weights

AT = ("pool1", "relu4")
SPLIT = noise_split(60)
RULES = {"Krum": Krum(1), "TrimmedMean": TrimmedMean(1), "CoordinateMedian": CoordinateMedian()}
every_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


# ---- what a poisoned client has -------------------------------------------------------------------


def test_a_flip_changes_labels_of_one_class_and_nothing_else():
    flipped = LabelFlip(source=3, target=5, rate=0.5).poison(SPLIT)
    changed = flipped.labels != SPLIT.labels
    of_source = int((SPLIT.labels == 3).sum())
    assert int(changed.sum()) == round(of_source / 2) > 0
    assert (SPLIT.labels[changed] == 3).all() and (flipped.labels[changed] == 5).all()
    assert torch.equal(flipped.images, SPLIT.images)


def test_a_backdoor_stamps_and_relabels_the_same_images_and_leaves_the_target_class():
    backdoor = Backdoor(Trigger(target=3), rate=0.4, copies=2)
    before = SPLIT.images.clone()
    poisoned = backdoor.poison(SPLIT)
    assert len(poisoned) == 2 * len(SPLIT) and torch.equal(SPLIT.images, before)
    first, second = poisoned[: len(SPLIT)], poisoned[len(SPLIT) :]
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    stamped = (first.images != SPLIT.images).flatten(1).any(1)
    assert torch.equal(stamped, first.labels != SPLIT.labels)
    assert not (SPLIT.labels[stamped] == 3).any() and (first.labels[stamped] == 3).all()
    assert int(stamped.sum()) == round(0.4 * int((SPLIT.labels != 3).sum()))
    assert torch.equal(first.images[stamped], backdoor.trigger.stamp(SPLIT.images[stamped]))


@pytest.mark.parametrize("attack", [LabelFlip(3, 5, rate=0.5), Backdoor(rate=0.3)])
def test_which_images_are_poisoned_comes_from_the_seed(attack):
    labels = attack.poison(SPLIT).labels
    assert torch.equal(labels, attack.poison(SPLIT).labels)
    assert not torch.equal(labels, replace(attack, seed=1).poison(SPLIT).labels)


@pytest.mark.parametrize(("make", "told"), [
    (lambda: LabelFlip(3, 3), "source and target are both 3"),
    (lambda: LabelFlip(-1, 3), "source"),
    (lambda: LabelFlip(1, 3, rate=0), "rate"),
    (lambda: Backdoor(rate=1.5), "rate"),
    (lambda: Backdoor(copies=0), "copies"),
    (lambda: Backdoor(trigger="patch"), "the trigger is a Trigger"),
    (lambda: LabelFlip(1, 3).poison(SPLIT[SPLIT.labels == 3]), "no image that this attack would"),
    (lambda: StealthyClient(*models.cut(models.mnist_net(), "pool1")[:1], None, Backdoor()),
     "no layer to hide"),
])  # fmt: skip
def test_senseless_attacks_are_refused(make, told):
    with pytest.raises(AttackError, match=told):
        make()


def stealthy(**options):
    front, middle, head = models.cut(models.mnist_net(1), AT)
    return StealthyClient(front, head, Backdoor(rate=0.5), **options), protocol.Server(
        middle, label_private=True
    )


def test_the_server_learns_from_honest_images_alone_and_the_head_from_all():
    """One step beside that of an honest client whose loss counts the same images."""
    client, server = stealthy()
    protocol.Trainee(client, SPLIT[:8], batch_size=8).train(server)
    rows = client._stamped
    assert 0 < len(rows) < 8
    front, middle, head = models.cut(models.mnist_net(1), AT)
    order = next(protocol.data_orders(8, 0))
    kept = torch.ones(8).index_fill(0, rows, 0)

    def honest_part(logits, labels):
        losses = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        return (losses * kept).mean()

    honest = protocol.Client(front, head, criterion=honest_part)
    other = protocol.Server(middle, label_private=True)
    batch = SPLIT[order]
    for message in honest.open(batch.images, batch.labels):
        protocol.exchange(honest, other, message, None)
    assert close(weights(server.model), weights(other.model))
    assert close(weights(client.front), weights(honest.front))
    assert not close(weights(client.head), weights(honest.head))


def test_a_stealthy_client_is_honest_in_an_inference():
    client, server = stealthy()
    images = SPLIT.images[:4]
    answer = protocol.Session.of(client, server, images).predict(images)
    client, server = stealthy(volume=1.0)
    assert torch.equal(answer, models.mnist_net(1)(images).detach())


def close(ours, theirs):
    return all(torch.allclose(a, b, atol=1e-5) for a, b in zip(ours, theirs, strict=True))


# ---- rules of aggregation ------------------------------------------------------------------------


def states(*rows):
    return [
        {"w": torch.tensor(row), "seen": torch.tensor(number)} for number, row in enumerate(rows)
    ]


HONEST = [[1.0, 1.0], [1.1, 0.9], [0.9, 1.1], [1.0, 1.2]]


@every_rule
@pytest.mark.parametrize("lie", [1e6, -1e6, 1.5])
def test_one_liar_cannot_leave_the_range_of_the_honest(rule, lie):
    """Wherever it stands, and however many samples it claims."""
    for place in range(5):
        rows = HONEST[:place] + [[lie, -lie]] + HONEST[place:]
        merged = rule(states(*rows), samples=[1e9 if at == place else 1 for at in range(5)])
        assert (merged["w"] >= 0.9).all() and (merged["w"] <= 1.2).all()


@every_rule
def test_a_rule_keeps_names_and_whole_numbers_and_changes_no_state(rule):
    given = states(*HONEST, [1.0, 1.0])
    before = copy.deepcopy(given)
    merged = rule(given, samples=[1] * 5)
    assert merged.keys() == {"w", "seen"} and merged["seen"].dtype == torch.long
    merged["w"].add_(1)
    assert all(torch.equal(a["w"], b["w"]) for a, b in zip(given, before, strict=True))


def test_the_median_is_the_usual_one():
    for count in (3, 4, 7, 10):
        rows = torch.rand(count, 5, generator=torch.Generator().manual_seed(count))
        merged = CoordinateMedian()([{"w": row} for row in rows], [1] * count)
        assert torch.allclose(merged["w"], rows.quantile(0.5, dim=0))


def test_krum_takes_the_client_with_the_lowest_score_by_definition():
    rows = torch.rand(9, 20, generator=torch.Generator().manual_seed(0))
    squared = (rows[:, None] - rows[None]).square().sum(2)
    scores = [squared[i].sort().values[1 : 9 - 2 - 2 + 1].sum() for i in range(9)]
    assert Krum(2).choose([{"w": row} for row in rows]) == int(torch.stack(scores).argmin())


@pytest.mark.parametrize(("make", "told"), [
    (lambda: Krum(-1), "malicious"), (lambda: TrimmedMean(1.5), "trim"),
    (lambda: Krum(2)(states(*HONEST), [1] * 4), "needs at least 7 clients, not 4"),
    (lambda: TrimmedMean(2)(states(*HONEST), [1] * 4), "at least 5 clients, not 4"),
    (lambda: SafeSplit(window=2), "window"), (lambda: SafeSplit(low=0), "low"),
])  # fmt: skip
def test_senseless_defences_are_refused(make, told):
    with pytest.raises(DefenseError, match=told):
        make()


# ---- SafeSplit -----------------------------------------------------------------------------------


def turn(vector, start=None):
    after = {"w": torch.tensor(vector)}
    return describe(start or {"w": torch.zeros(len(vector))}, after)


def test_a_signature_holds_low_frequencies_and_angles():
    constant = describe({"w": torch.zeros(4, 6)}, {"w": torch.full((4, 6), 0.5)})
    assert (constant.frequency.abs() > 1e-6).sum() == 1  # only that of frequency zero
    assert torch.allclose(constant.rotation, torch.full((24,), 0.5).atan() / (2 * torch.pi))
    checkers = (torch.arange(4)[:, None] + torch.arange(6)) % 2 * 2.0 - 1
    quick = describe({"w": torch.zeros(4, 6)}, {"w": checkers})
    assert quick.frequency.norm() < 0.5 * checkers.norm()
    everything = describe({"w": torch.zeros(4, 6)}, {"w": checkers}, low=2.0)
    assert everything.frequency.norm() == pytest.approx(checkers.norm().item(), rel=1e-5)


def test_a_turn_unlike_the_others_is_undone_and_one_like_them_stands():
    usual = [turn([0.1 + 0.01 * k, 0.1]) for k in range(5)]
    poisoned = turn([-0.9, 0.4])
    verdict = judge([*usual, poisoned])
    assert verdict.rollback > 0 and not verdict.benign[-1] and sum(verdict.benign) >= 1
    assert judge([poisoned, *usual[:4], turn([0.12, 0.1])]).rollback == 0
    assert not judge([*usual[:3], poisoned, *usual[3:]]).benign[3]


def test_scores_are_sums_of_the_nearest_by_definition():
    drawn = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    verdict = judge([turn(row.tolist()) for row in drawn])
    angles = drawn.atan() / (2 * torch.pi)
    distances = (angles[:, None] - angles[None]).norm(dim=2)
    expected = distances.sort(1).values[:, 1:5].sum(1)  # N/2 + 1 = 4 others
    assert verdict.rotational == pytest.approx(expected.tolist(), rel=1e-4)


class Last(SafeSplit):
    """A guard that undoes every second turn, by going back to the one before."""

    def __init__(self):
        super().__init__()
        self.kept, self.seen = [], []

    def keep(self, before, after):
        self.seen.append((before, after))
        self.kept.append(before if len(self.seen) % 2 == 0 else after)
        return self.kept[-1]


def run(schedule, defense=None, clients=5, epochs=1, splits=None, make=protocol.Client):
    splits = splits or data.parts(SPLIT, clients)
    nets = [models.cut(models.mnist_net(1), AT) for _ in splits]
    parties = [make(front, head) for front, _, head in nets]
    server = protocol.Server(nets[0][1], label_private=True)
    return protocol.train_clients(
        parties, server, splits, schedule=schedule, epochs=epochs, batch_size=12, defense=defense
    )


def test_a_turn_that_is_undone_leaves_no_trace():
    """As if every second client had never had its turn: layers, and the server's optimiser."""
    guard = Last()
    sessions = run("in turn", guard, clients=4)
    splits = data.parts(SPLIT, 4)
    front, middle, head = models.cut(models.mnist_net(1), AT)
    server, layers = protocol.Server(middle, label_private=True), (front, head)
    for number in (0, 2):
        mine = protocol.Client(*copy.deepcopy(layers))
        trainee = protocol.Trainee(mine, splits[number], batch_size=12, number=number)
        trainee.train(server)
        layers = mine.front, mine.head
    assert same(weights(server.model), weights(sessions[0].server.model))
    assert all(same(weights(*layers), weights(s.client.front, s.client.head)) for s in sessions)
    assert len(guard.seen) == 4


def test_a_guard_that_keeps_everything_changes_nothing():
    class Watch:
        def keep(self, before, after):
            return after

    ours, plain = run("in turn", Watch()), run("in turn")
    assert same(weights(ours[0].server.model), weights(plain[0].server.model))
    assert ours[0].losses == plain[0].losses


def test_safesplit_judges_each_turn_from_the_third():
    guard = SafeSplit(window=5)
    run("in turn", guard, epochs=2)
    assert len(guard.verdicts) == 2 * 5 - 2
    assert all(len(v.benign) <= 5 and v.benign[-1 - v.rollback] for v in guard.verdicts)
    assert all(sum(v.benign) > 0 for v in guard.verdicts)


@pytest.mark.parametrize(("schedule", "defense", "told"), [
    ("in turn", Krum(1), "a guard, such as SafeSplit"),
    ("splitfed v1", SafeSplit(), "a rule, such as Krum"),
    ("splitfed v2", CoordinateMedian, "a rule, such as Krum"),
    ("in turn", SafeSplit, "a guard, such as SafeSplit"),
])  # fmt: skip
def test_a_defence_that_does_not_fit_the_schedule_is_refused(schedule, defense, told):
    with pytest.raises(ProtocolError, match=told):
        run(schedule, defense)


@pytest.mark.parametrize("schedule", ["splitfed v1", "splitfed v2"])
def test_a_rule_takes_the_place_of_the_average(schedule):
    given = []

    def first(states, samples):
        given.append(samples)
        return states[0]

    sessions = run(schedule, first)
    splits = data.parts(SPLIT, 5)
    assert given == [[12] * 5] * (2 if schedule == "splitfed v1" else 1)
    if schedule == "splitfed v1":
        front, middle, head = models.cut(models.mnist_net(1), AT)
        alone = protocol.Client(front, head)
        server = protocol.Server(middle, label_private=True)
        protocol.Trainee(alone, splits[0], batch_size=12).train(server)
        assert same(
            weights(front, head), weights(sessions[3].client.front, sessions[3].client.head)
        )
        assert same(weights(middle), weights(sessions[0].server.model))


# ---- together ------------------------------------------------------------------------------------


def test_in_splitfed_a_boosted_backdoor_wins_the_average_and_loses_against_the_median():
    digits = data.load("digits")
    backdoor = Backdoor(copies=6)
    fast = partial(torch.optim.Adam, lr=3e-3)
    success = {}
    for defense in (None, CoordinateMedian()):
        splits = data.parts(digits.train[:600], 5)
        splits[2] = backdoor.poison(splits[2])
        nets = [models.cut(models.mnist_net(1), AT) for _ in splits]
        server = protocol.Server(nets[0][1], label_private=True, optimizer=fast)
        clients = [protocol.Client(front, head, optimizer=fast) for front, _, head in nets]
        session = protocol.train_clients(
            clients, server, splits, schedule="splitfed v1", epochs=5, batch_size=24,
            defense=defense,
        )[0]  # fmt: skip
        stamp = backdoor.trigger.stamp
        success[defense] = metrics.attack_success(session.predict, digits.test, 0, stamp)
    assert success[None] > 0.5 > 0.2 > success[CoordinateMedian()]


def test_all_server_defences_say_what_they_promise_and_leave():
    for defense in (Krum, TrimmedMean, CoordinateMedian, SafeSplit):
        assert getattr(defenses, defense.__name__) is defense
        assert defense.promises and defense.leaves
