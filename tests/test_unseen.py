"""The hidden clients of topic 15: what is drawn is what is there, and can be told."""

import numpy as np
import pytest
import torch

from sltools.audit import verdicts
from sltools.audit.measures import Cut, Defended
from sltools.checking import judging
from sltools.checking.task import Wrong
from sltools.errors import NotObservable
from sltools.exercises.topics import audits
from sltools.experiments import unseen
from tests.bank.audits import defence_by_counts, hijacked_by_gap

SEEDS = range(300, 306)


def test_a_client_is_made_of_its_seed_alone():
    torch.manual_seed(1)
    one = unseen._made.__wrapped__(4, "noise", False)
    torch.manual_seed(2)
    same = unseen._made.__wrapped__(4, "noise", False)
    for first, second in zip(
        one.view.payloads("smashed"), same.view.payloads("smashed"), strict=True
    ):
        assert torch.equal(first, second)
    assert torch.equal(one.gradients, same.gradients)
    other = unseen.make(5, "noise", False)
    assert not torch.equal(one.own.images, other.own.images)


def test_nothing_private_can_be_reached_from_the_view():
    client = unseen.make(4, "none", False)
    assert client.view.granted == ("client_model",)
    own = client.own.images.flatten(1)
    apart = torch.cdist(client.private.images.flatten(1), own)
    assert apart.min() > 0.01, "a private image is one of the auditor's own"


def test_a_client_sends_what_its_network_makes():
    client = unseen.make(6, "none", False)
    first, second = client.view.payloads("smashed")
    with torch.no_grad():
        made = client.view.client_model.eval()(client.private.images)
    assert torch.allclose(first, made, atol=1e-5) and torch.equal(first, second)


def test_every_defence_is_drawn_and_shows():
    for place, kind in enumerate(unseen.DEFENCES):
        client = unseen.make(320 + place, kind, False)
        assert client.defence == kind
        assert defence_by_counts(*client.view.payloads("smashed")) == kind
    drawn = {unseen.make(seed, hijacked=False).defence for seed in range(300, 312)}
    assert len(drawn) >= 3


def test_a_hijacked_training_shows_in_the_gradients_and_an_honest_one_does_not():
    for seed in SEEDS:
        for truth in (False, True):
            client = unseen.make(seed, hijacked=truth)
            assert client.hijacked is truth
            assert hijacked_by_gap(client.labels, client.gradients) is truth, seed


def test_the_norms_of_the_gradients_do_not_tell_a_hijacker():
    """He gives each gradient the norm of the one that an honest server sent at that step."""
    for seed in SEEDS:
        honest, steered = (unseen.make(seed, hijacked=truth) for truth in (False, True))
        assert torch.equal(honest.labels, steered.labels)
        norms = [some.gradients.flatten(1).norm(dim=1) for some in (honest, steered)]
        assert torch.allclose(*norms, rtol=1e-4)


def test_the_vendor_keeps_its_part():
    with pytest.raises(NotObservable):
        _ = unseen.make(4, "none", False).view.model


# ---- the challenge's clients ---------------------------------------------------------------------


@pytest.fixture
def composition(monkeypatch: pytest.MonkeyPatch):
    """Of a seed, the defence of each client and whether it was hijacked; nothing is trained."""
    monkeypatch.setattr(unseen, "make", lambda seed, kind, steered: (kind, steered))
    return audits._clients.__wrapped__


def test_of_the_readable_clients_one_was_hijacked_and_another_was_not(composition):
    for seed in range(300):
        found = composition(seed)
        assert len(dict(found)) == 3
        servers = [steered for kind, steered in found if kind in audits.READABLE]
        assert {True, False} == set(servers)
        assert not any(steered for kind, steered in found if kind not in audits.READABLE)


def test_neither_defence_nor_place_tells_the_server(composition):
    """At most half of the seeds: with two clients that could be it, one guesses."""
    rules = {kind: lambda place, kind, own=kind: kind == own for kind in audits.READABLE}
    rules |= {f"not {kind}": lambda place, kind, own=kind: kind != own for kind in unseen.DEFENCES}
    rules |= {place: lambda place, kind, own=place: place == own for place in range(3)}
    rules["readable"] = lambda place, kind: kind in audits.READABLE
    for name, rule in rules.items():
        won = [
            all(rule(place, kind) == steered for place, (kind, steered) in enumerate(found))
            for found in map(composition, range(300))
        ]
        assert sum(won) < 150, name


def test_a_truth_value_may_come_from_torch_or_numpy():
    for said in (True, np.True_, np.array(True), torch.tensor(True), torch.tensor([True])):
        assert audits._truth(judging.plain(said)) is True
        assert audits._truth(judging.plain(~torch.as_tensor(said))) is False
    for said in (1, "yes", None, 1.0, torch.tensor(1), torch.tensor([True, False])):
        with pytest.raises(Wrong, match="True or False"):
            audits._truth(said)


def test_networks_and_cuts_differ():
    shapes = {tuple(unseen.make(seed, hijacked=False).gradients.shape[1:]) for seed in SEEDS}
    assert len(shapes) > 2


def test_the_criterion_is_that_of_an_audit():
    assert (audits.RECOVERED, audits.PARTLY) == (verdicts.RECOVERED, verdicts.PARTLY)


def test_options_have_the_prices_of_a_report():
    options, budget = audits._options(0)
    priced = set(options[0]) - {"operations"}
    assert priced <= {field for kind in (Cut, Defended) for field in kind.__annotations__}
    assert set(budget) < set(options[0])
