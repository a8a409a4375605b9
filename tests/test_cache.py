"""A victim from the cache is the one that training makes, bit for bit, and only that."""

from pathlib import Path
from typing import Any

import pytest
import torch

from sltools import cache, data, experiments, protocol

DIGITS = data.load("digits")
SOME = data.Dataset("digits", DIGITS.train[:200], DIGITS.test[:50], DIGITS.classes)
CUTS = ["pool1", "fc1", ("pool1", "relu4"), ("conv2", "fc2")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLTOOLS_CACHE", str(tmp_path / "victims"))
    return tmp_path / "victims"


@pytest.fixture
def fresh(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One victim is kept; from now on, training fails."""
    _victim()

    def train(*parties: Any, **settings: Any) -> protocol.Session:
        raise AssertionError("trained again")

    monkeypatch.setattr(protocol, "train", train)


def _victim(at: Any = "pool1", **settings: Any) -> protocol.Session:
    return experiments.train_victim(SOME, at, **{"budget": "tiny", "seed": 4} | settings)


def _state(session: protocol.Session) -> list[torch.Tensor]:
    parties = [session.client, session.server]
    parts = [session.client.front, session.client.head, session.server.model]
    found = [value for part in parts if part is not None for value in part.state_dict().values()]
    for party in parties:
        state = party.optimizer.state_dict()["state"]
        found += [value for entry in state.values() for value in entry.values()]
    return found


@pytest.mark.parametrize("at", CUTS, ids=str)
def test_a_kept_victim_is_the_trained_one_at_every_cut(
    at: Any, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _victim()
    (kept,) = folder.iterdir()
    found = _victim(at)
    assert [kept] == list(folder.iterdir()), "it was trained again"
    monkeypatch.delenv("SLTOOLS_CACHE")
    made = _victim(at)
    assert found.losses == made.losses
    for one, other in zip(_state(found), _state(made), strict=True):
        assert torch.equal(one, other)
    further = [
        protocol.train(s.client, s.server, SOME.train, epochs=1, seed=9) for s in (found, made)
    ]
    assert further[0].losses == further[1].losses


@pytest.mark.usefixtures("fresh")
def test_the_same_victim_is_not_trained_again() -> None:
    assert _victim().losses == _victim("conv2").losses


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize(
    "change", [{"seed": 5}, {"budget": "quick"}, {"record": True}], ids=["seed", "budget", "record"]
)
def test_another_victim_is_trained(change: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match="trained again"):
        _victim(**change)


@pytest.mark.usefixtures("fresh")
def test_other_data_code_or_threads_are_another_victim(monkeypatch: pytest.MonkeyPatch) -> None:
    other = data.Split(SOME.train.images, SOME.train.labels.flip(0))
    changed = data.Dataset("digits", other, SOME.test, SOME.classes)
    with pytest.raises(AssertionError, match="trained again"):
        experiments.train_victim(changed, budget="tiny", seed=4)
    with monkeypatch.context() as context:
        context.setattr(cache, "_code_hash", lambda: "another release")
        with pytest.raises(AssertionError, match="trained again"):
            _victim()
    with monkeypatch.context() as context:
        context.setattr(torch, "get_num_threads", lambda: 63)
        with pytest.raises(AssertionError, match="trained again"):
            _victim()


def test_a_client_with_a_defence_is_not_kept(folder: Path) -> None:
    _victim(client=lambda front: protocol.Client(front, outgoing=lambda kind, tensor: tensor))
    assert not folder.exists()


def test_an_interrupted_training_is_not_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setattr(protocol.training, "_step", step)
    assert _victim().interrupted
    assert not folder.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"\x80\x02garbage"])
def test_a_damaged_victim_is_made_again(content: bytes, folder: Path) -> None:
    made = _victim()
    (kept,) = folder.iterdir()
    kept.write_bytes(content)
    assert _victim().losses == made.losses
    assert _victim().losses == made.losses
