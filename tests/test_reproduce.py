"""The study of every stage: resumed where it stopped, never mixed, summed up by its chosen runs."""

import json
import math
import multiprocessing
import statistics
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import reproduce
from benchmarks.reproduce import Row
from sltools import data, experiments, lessons, protocol
from sltools.attacks import KnownWeightsInversion, UnSplit, inversion
from sltools.errors import SltoolsError
from sltools.models import Architecture

ROW = Row(
    dataset="digits", stage="pool1", victim=0, clone=0, restart=0, chosen=True, objective=0.5,
    feature_loss=0.25, raw_mse=0.125, worst_mse=0.25, aligned_mse=0.1, ssim=0.5, negatives=0.0,
    clone_accuracy=0.75, agreement=0.8, victim_accuracy=0.9, random_accuracy=0.2,
    known_weights_mse=0.01, mean_image_mse=0.05, mean_image_aligned_mse=0.04,
    mean_image_ssim=0.3, class_mean_mse=0.02, blank_mse=0.2, cpu_seconds=1.5, device="cpu",
)  # fmt: skip


def _restarts(row: Row) -> list[Row]:
    """A whole attack, of which the first restart is kept."""
    count = reproduce.RESTARTS[row.dataset]
    return [replace(row, restart=number, chosen=number == 0) for number in range(count)]


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Replace training and attack; return the list of what was attacked, in order."""
    done: list[tuple[str, int, int]] = []

    def attack(
        dataset: data.Dataset,
        session: Any,
        stage: str,
        victim: int,
        clone: int,
        budget: str,
        known_weights_mse: float,
    ) -> Any:
        done.append((stage, victim, clone))
        row = replace(ROW, dataset=dataset.name, stage=stage, victim=victim, clone=clone)
        return _restarts(replace(row, known_weights_mse=known_weights_mse))

    oracles = iter(range(1000))
    monkeypatch.setattr(reproduce, "attack", attack)
    monkeypatch.setattr(reproduce, "oracle", lambda *_: float(next(oracles)))
    monkeypatch.setattr(
        reproduce.experiments, "train_victim", lambda *a, **k: SimpleNamespace(interrupted=False)
    )
    monkeypatch.setattr(reproduce.protocol, "recut", lambda session, stage: None)
    return done


def test_rows_come_back_as_they_were_written(tmp_path: Path) -> None:
    rows = [ROW, replace(ROW, restart=1, chosen=False, stage="conv2")]
    reproduce._append(tmp_path / "rows.csv", rows[:1])
    reproduce._append(tmp_path / "rows.csv", rows[1:])
    assert reproduce.read(tmp_path / "rows.csv") == rows
    reproduce._append(tmp_path / "rows.csv", [replace(rows[0], raw_mse=0.5)])
    assert reproduce.read(tmp_path / "rows.csv") == [rows[1], replace(rows[0], raw_mse=0.5)]
    assert reproduce.read(tmp_path / "none.csv") == []


def test_recorded_files_stay_as_they_are_when_they_are_written_again(tmp_path: Path) -> None:
    for name in reproduce.FILES.values():
        recorded = lessons.course() / "results" / name
        rows = reproduce.read(recorded)
        last = [row for row in rows if reproduce._key(row) == reproduce._key(rows[-1])]
        again = tmp_path / name
        again.write_bytes(b"".join(recorded.read_bytes().splitlines(keepends=True)[: -len(last)]))
        reproduce._append(again, last)
        assert again.read_bytes() == recorded.read_bytes()


def test_what_is_in_the_file_is_not_run_again(
    tmp_path: Path, attacked: list[tuple[str, int, int]]
) -> None:
    path = tmp_path / "rows.csv"
    reproduce._append(path, _restarts(replace(ROW, victim=1, clone=2)))
    reproduce._append(path, _restarts(replace(ROW, victim=2, clone=0))[1:])  # it is not whole
    reproduce.reproduce(data.load("digits"), ["pool1"], "cpu", path)
    pairs = {(victim, clone) for victim in range(3) for clone in range(3)} - {(1, 2)}
    assert {(victim, clone) for _, victim, clone in attacked} == pairs
    attacked.clear()
    reproduce.reproduce(data.load("digits"), ["pool1"], "cpu", path)
    assert attacked == []


def test_every_stage_that_sends_something_of_its_own_is_attacked(
    tmp_path: Path, attacked: list[tuple[str, int, int]]
) -> None:
    reproduce.reproduce(data.load("digits"), [], "cpu", tmp_path / "rows.csv")
    stages = "conv1 relu1 pool1 conv2 relu2 pool2 fc1 relu3 fc2 relu4"
    assert list(dict.fromkeys(stage for stage, _, _ in attacked)) == stages.split()
    assert len(attacked) == 10 * 9
    assert {clone for _, _, clone in attacked[:30]} == {0}  # one attack everywhere comes first
    rows = reproduce.read(tmp_path / "rows.csv")
    known = {(row.stage, row.victim): row.known_weights_mse for row in rows}
    assert sorted(known.values()) == list(range(30)), "a oracle is found once, for all clones"
    assert all(known[row.stage, row.victim] == row.known_weights_mse for row in rows)


def test_rows_of_other_settings_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.json"
    with pytest.raises(SltoolsError, match="other settings"):
        reproduce._note_settings(path, "quick", [ROW])
    reproduce._note_settings(path, "quick", [])
    reproduce._note_settings(path, "quick", [ROW])
    noted = json.loads(path.read_text())
    assert noted["restarts"] == reproduce.RESTARTS
    assert noted["command"] == "make reproduce"
    with pytest.raises(SltoolsError, match="other settings"):
        reproduce._note_settings(path, "full", [ROW])
    (tmp_path / "broken.json").write_text("{broken")
    with pytest.raises(SltoolsError, match="other settings"):
        reproduce._note_settings(tmp_path / "broken.json", "quick", [ROW])
    monkeypatch.setattr(reproduce, "TARGETS", reproduce.TARGETS | {"mnist": 7})
    with pytest.raises(SltoolsError, match="other settings"):
        reproduce._note_settings(path, "quick", [ROW])


def test_rows_of_other_data_are_not_mixed_in(tmp_path: Path) -> None:
    path, digits = tmp_path / "rows.json", data.load("digits")
    reproduce._note_settings(path, "quick", [])
    reproduce._note_data(path, digits)
    reproduce._note_data(path, digits)
    assert json.loads(path.read_text())["data"]["digits"]["train"] == len(digits.train)
    with pytest.raises(SltoolsError, match="another digits"):
        reproduce._note_data(path, replace(digits, train=digits.train[:50]))
    darker = replace(digits.test, images=0.9 * digits.test.images)
    with pytest.raises(SltoolsError, match="another digits"):
        reproduce._note_data(path, replace(digits, test=darker))


def test_the_table_sums_up_the_chosen_restarts_only() -> None:
    attacks = [
        _restarts(replace(ROW, clone=clone, raw_mse=mse, clone_accuracy=accuracy))
        for clone, (mse, accuracy) in enumerate([(0.1, 0.9), (0.3, 0.7), (0.2, 0.8)])
    ]
    attacks[1][3] = replace(attacks[1][3], raw_mse=9.0, random_accuracy=0.6)
    rows = [row for attack in attacks for row in attack]
    half = _restarts(replace(ROW, clone=5, raw_mse=7.0))[1:]
    lines = reproduce.table([*half, *rows, *_restarts(replace(ROW, dataset="mnist"))]).splitlines()
    last = lines[2]
    assert len(lines) == 4
    assert last.startswith("| digits, pool1 | 3 | 0.2 [0.1, 0.3] |")
    assert "| 80.0% [90.0%, 70.0%] |" in last and last.endswith("| 60.0% |")


def test_what_is_missing_is_said() -> None:
    stages = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "fc1", "relu3", "fc2", "relu4"]
    pairs = [(victim, clone) for victim in range(3) for clone in range(3)]
    rows = [
        row
        for stage in stages
        for victim, clone in pairs
        for row in _restarts(replace(ROW, stage=stage, victim=victim, clone=clone))
    ]
    assert reproduce.missing("digits", rows) == "complete"
    some = [row for row in rows if row.stage != "fc2" and (row.stage, row.clone) != ("conv2", 2)]
    assert reproduce.missing("digits", some) == "attacks missing at conv2 (3), fc2 (9)"
    assert reproduce.missing("digits", rows[1:]) == "attacks missing at conv1 (1)"
    assert reproduce.missing("mnist", rows).startswith("attacks missing at conv1 (9), relu1 (9)")


def test_an_interrupted_attack_leaves_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(reproduce.BUDGETS, "digits", "tiny")
    with monkeypatch.context() as patch:
        patch.setattr(inversion, "_step_optimizers", interrupted)
        with pytest.raises(KeyboardInterrupt):
            reproduce.reproduce(data.load("digits"), ["pool1"], "cpu", tmp_path / "rows.csv")
    monkeypatch.delenv("SLTOOLS_CACHE", raising=False)  # nobody trained it before
    monkeypatch.setattr(protocol.training, "_step", interrupted)
    monkeypatch.setattr(reproduce, "attack", lambda *_: _restarts(ROW))
    with pytest.raises(KeyboardInterrupt):
        reproduce.reproduce(data.load("digits"), ["pool1"], "cpu", tmp_path / "rows.csv")
    assert not (tmp_path / "rows.csv").exists()


def test_a_restart_that_came_to_nothing_is_never_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = UnSplit.runs

    def first_failed(self: UnSplit, view: Any) -> Any:
        first, *others = real(replace(self, steps=2, restarts=3), view)
        for weight in first.clone.parameters():
            weight.detach().fill_(math.nan)
        nothing = torch.full_like(first.inputs, math.nan)
        return [replace(first, inputs=nothing, objective=math.nan), *others]

    monkeypatch.setattr(UnSplit, "runs", first_failed)
    digits = data.load("digits")
    session = reproduce.experiments.train_victim(digits, budget="tiny")
    rows = reproduce.attack(digits, session, "pool1", 0, 0, "quick", 0.01)
    assert math.isnan(rows[0].objective) and math.isnan(rows[0].raw_mse)
    assert [row.chosen for row in rows].index(True) == 1 + (rows[2].objective < rows[1].objective)


def test_a_row_holds_what_its_names_say(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = data.load("digits")
    session = experiments.train_victim(digits, budget="tiny")
    attack = UnSplit(steps=3, restarts=2)
    monkeypatch.setattr(reproduce, "_attack", lambda dataset, budget: attack)
    rows = reproduce.attack(digits, session, "pool1", 2, 1, "quick", 0.5)
    truth = experiments.first_targets(digits, 10).images
    runs = replace(attack, seed=3 * 2 + 1).runs(session.observe(truth))
    back = session.server.model
    for number, (row, run) in enumerate(zip(rows, runs, strict=True)):
        error = (run.inputs - truth).square().flatten(1).mean(1)
        assert row.raw_mse == pytest.approx(statistics.median(error.tolist()))
        assert row.worst_mse == pytest.approx(error.max().item())
        assert row.aligned_mse < row.raw_mse and row.known_weights_mse == 0.5
        random = Architecture.of(session.client.front, (1, 28, 28)).build(
            7, f"random clone {number}"
        )
        fronts = {"clone": run.clone, "victim": session.client.front, "random": random}
        says = {name: back(front(digits.test.images)).argmax(1) for name, front in fronts.items()}
        for name, said in says.items():
            right = (said == digits.test.labels).double().mean().item()
            assert getattr(row, f"{name}_accuracy") == pytest.approx(right), name
        assert row.agreement == pytest.approx((says["clone"] == says["victim"]).double().mean())
    mean_image = digits.train.images.mean(0).expand_as(truth)
    assert rows[0].mean_image_mse == pytest.approx(
        statistics.median((mean_image - truth).square().flatten(1).mean(1).tolist())
    )
    classes = [digits.train.images[digits.train.labels == label].mean(0) for label in range(10)]
    assert rows[0].class_mean_mse == pytest.approx(
        statistics.median((torch.stack(classes) - truth).square().flatten(1).mean(1).tolist())
    ), "the ten targets are one of each class, in order"
    assert rows[0].blank_mse == pytest.approx(
        statistics.median(truth.square().flatten(1).mean(1).tolist())
    )


def test_the_oracle_is_the_best_search_and_no_more_than_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digits = data.load("digits")
    truth = experiments.first_targets(digits, 10).images
    errors = iter([0.3, 0.2, 0.1, 0.15, 0.01])
    ran = []

    def search(self: KnownWeightsInversion, view: Any) -> Any:
        assert view.granted == ("client_model",)
        ran.append(self)
        return SimpleNamespace(inputs=truth + next(errors), interrupted=False)

    monkeypatch.setattr(KnownWeightsInversion, "__call__", search)
    session = experiments.train_victim(digits, budget="tiny")
    assert reproduce.oracle(digits, session, "quick") == pytest.approx(0.1**2)
    assert [search.steps for search in ran] == [500, 1000, 1000, 1000]
    assert reproduce.oracle(digits, session, "quick") == pytest.approx(0.01**2)
    assert len(ran) == 5, "a good one needs no other beside it"


def test_no_recorded_attack_does_better_than_its_oracle() -> None:
    for name in reproduce.FILES.values():
        for row in reproduce.read(lessons.course() / "results" / name):
            assert not row.chosen or row.known_weights_mse < row.raw_mse, row


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"datasets": "digits,fashion_mnist"}, "fashion_mnist"),
        ({"budget": "tiny"}, "quick, full, steady"),
        ({"stages": "pool1,pool3"}, "not attacked at pool3"),
        ({"device": "toaster"}, "toaster"),
        ({"path": Path("/nowhere/rows.csv")}, "nowhere"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_work(
    tmp_path: Path, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(SystemExit, match=reason):
        reproduce.main(**({"datasets": "digits", "path": tmp_path / "rows.csv"} | options))
    assert not list(tmp_path.iterdir())


def _add(path: Path, dataset: str) -> None:
    for victim in range(3):
        for clone in range(8):
            reproduce._append(path, [replace(ROW, dataset=dataset, victim=victim, clone=clone)])


def test_data_sets_run_side_by_side_lose_no_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    beside = multiprocessing.get_context("spawn").Process(target=_add, args=(path, "mnist"))
    beside.start()
    while not path.exists() and beside.is_alive():
        time.sleep(0.01)
    _add(path, "digits")
    beside.join()
    assert beside.exitcode == 0 and len(reproduce.read(path)) == 48


def test_every_attack_starts_from_a_clone_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeds: list[int] = []

    def runs(self: UnSplit, view: Any) -> Any:
        seeds.append(self.seed)
        raise KeyboardInterrupt

    monkeypatch.setattr(UnSplit, "runs", runs)
    digits = data.load("digits")
    session = reproduce.experiments.train_victim(digits, budget="tiny")
    for victim in range(3):
        for clone in range(3):
            with pytest.raises(KeyboardInterrupt):
                reproduce.attack(digits, session, "pool1", victim, clone, "quick", 0.1)
    assert sorted(seeds) == list(range(9))


@pytest.mark.parametrize("broken", ["a,b\n1,2\n", "digits,pool1,0,0", "1,2\n\xff", None])
def test_a_broken_file_is_refused_and_left_alone(tmp_path: Path, broken: str | None) -> None:
    path = tmp_path / "rows.csv"
    reproduce._append(path, [ROW])
    text = path.read_text() + broken if broken else path.read_text().replace("pool1", "pool9")
    path.write_text(text)
    (tmp_path / ".rows.csv.lock").unlink()
    with pytest.raises(SystemExit, match="is no row of this study"):
        reproduce.main("digits", path=path)
    assert path.read_text() == text.replace("\r\n", "\n")
    assert [found.name for found in tmp_path.iterdir()] == ["rows.csv"]


def test_an_interruption_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "reproduce", interrupted)
    with pytest.raises(SystemExit) as ended:
        reproduce.main("digits", path=tmp_path / "rows.csv")
    assert ended.value.code == 130 and "the same command goes on" in capsys.readouterr().out
