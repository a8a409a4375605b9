"""The study of every stage: resumed where it stopped, never mixed, summed up by its chosen runs."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import reproduce
from benchmarks.reproduce import Row
from sltools import data, protocol
from sltools.attacks import inversion

ROW = Row(
    dataset="digits", stage="pool1", victim=0, clone=0, restart=0, chosen=True, objective=0.5,
    feature_loss=0.25, raw_mse=0.125, worst_mse=0.25, aligned_mse=0.1, ssim=0.5, negatives=0.0,
    clone_accuracy=0.75, agreement=0.8, victim_accuracy=0.9, random_accuracy=0.2,
    known_weights_mse=0.01, mean_image_mse=0.05, blank_mse=0.2, cpu_seconds=1.5,
)  # fmt: skip


@pytest.fixture
def attacked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """Replace training and attack; return the list of what was attacked, in order."""
    done: list[tuple[str, int, int]] = []

    def attack(
        dataset: data.Dataset, session: Any, stage: str, victim: int, clone: int, budget: str
    ) -> Any:
        done.append((stage, victim, clone))
        return [replace(ROW, dataset=dataset.name, stage=stage, victim=victim, clone=clone)]

    monkeypatch.setattr(reproduce, "attack", attack)
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
    assert reproduce.read(tmp_path / "none.csv") == []


def test_what_is_in_the_file_is_not_run_again(
    tmp_path: Path, attacked: list[tuple[str, int, int]]
) -> None:
    path = tmp_path / "rows.csv"
    reproduce._append(path, [replace(ROW, victim=1, clone=2)])
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


def test_rows_of_other_settings_are_not_mixed_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.json"
    reproduce._note_settings(path, "quick")
    reproduce._note_settings(path, "quick")
    noted = json.loads(path.read_text())
    assert noted["restarts"] == reproduce.RESTARTS
    assert noted["command"] == "make reproduce"
    with pytest.raises(SystemExit, match="other settings"):
        reproduce._note_settings(path, "full")
    monkeypatch.setattr(reproduce, "TARGETS", reproduce.TARGETS | {"mnist": 7})
    with pytest.raises(SystemExit, match="other settings"):
        reproduce._note_settings(path, "quick")


def test_the_table_sums_up_the_chosen_restarts_only() -> None:
    rows = [
        replace(ROW, clone=clone, raw_mse=mse, clone_accuracy=accuracy)
        for clone, (mse, accuracy) in enumerate([(0.1, 0.9), (0.3, 0.7), (0.2, 0.8)])
    ]
    rows.append(replace(ROW, restart=1, chosen=False, raw_mse=9.0, random_accuracy=0.6))
    last = reproduce.table([*rows, replace(ROW, dataset="mnist")]).splitlines()[2]
    assert last.startswith("| digits, pool1 | 3 | 0.2 [0.3] |")
    assert "| 80.0% [70.0%] |" in last and last.endswith("| 60.0% |")


def test_what_is_missing_is_said() -> None:
    stages = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "fc1", "relu3", "fc2", "relu4"]
    pairs = [(victim, clone) for victim in range(3) for clone in range(3)]
    rows = [
        replace(ROW, stage=stage, victim=victim, clone=clone, restart=restart, chosen=restart == 1)
        for stage in stages
        for victim, clone in pairs
        for restart in range(2)
    ]
    assert reproduce.missing("digits", rows) == "complete"
    some = [row for row in rows if row.stage != "fc2" and (row.stage, row.clone) != ("conv2", 2)]
    assert reproduce.missing("digits", some) == "attacks missing at conv2 (3), fc2 (9)"
    assert reproduce.missing("mnist", rows).startswith("attacks missing at conv1 (9), relu1 (9)")


def test_an_interrupted_attack_leaves_no_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(inversion, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce.reproduce(data.load("digits"), ["pool1"], "cpu", tmp_path / "rows.csv")
    assert reproduce.read(tmp_path / "rows.csv") == []
    monkeypatch.setattr(protocol, "_step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce.reproduce(data.load("digits"), ["pool1"], "cpu", tmp_path / "rows.csv")
    assert not (tmp_path / "rows.csv").exists()


def test_an_unknown_data_set_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="fashion_mnist"):
        reproduce.main("fashion_mnist", path=tmp_path / "rows.csv")
    with pytest.raises(SystemExit, match="quick or full"):
        reproduce.main("digits", budget="tiny", path=tmp_path / "rows.csv")
    assert not list(tmp_path.iterdir())
