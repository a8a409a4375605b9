"""The arena: whole trials, resumable, with baselines, and honest about what is known."""

import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sltools import arena, cli, data, defenses, experiments, metrics, plots
from sltools.arena import Row, Settings
from sltools.errors import SltoolsError

TINY = Settings(budget="tiny", victims=1, clones=1)


EVERY = arena.DEFENSES
PRIVATE = next(defense for defense in arena.DEFENSES if defense.name == "local privacy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two defences of one strength, tried once."""
    folder = tmp_path_factory.mktemp("arena")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arena, "DEFENSES", (arena.NONE, replace(PRIVATE, strengths=(1.0,))))
        arena.run(TINY, folder)
        yield folder


def values(rows: list[Row], defense: str, attack: str, measure: str) -> list[float]:
    chosen = (defense, attack, measure)
    return [row.value for row in rows if (row.defense, row.attack, row.measure) == chosen]


def test_a_trial_has_every_measure_beside_its_baseline(folder: Path) -> None:
    rows = [row for row in arena.read(folder / arena.CSV) if row.defense == "none"]
    images = {"raw_mse", "aligned_mse", "best_mse", "ssim"}
    found = {(row.attack, row.measure) for row in rows}
    assert found == {
        *(("service", name) for name in ("accuracy", "bytes", "cpu_seconds")),
        *(("UnSplit", name) for name in {*images, "clone_accuracy", "agreement"}),
        *(("decoder", name) for name in images),
        ("labels, wire", "cluster_accuracy"),
        ("labels, published", "label_accuracy"),
        *(("hijacking", name) for name in {*images, "seen"}),
    }
    assert values(rows, "none", "service", "bytes") == [8 * 12 * 12 * 4]
    (decoder,) = (r for r in rows if (r.attack, r.measure) == ("decoder", "raw_mse"))
    digits = data.load("digits")
    truth = experiments.first_targets(digits, 10).images
    mean = digits.train.images.mean(0).expand_as(truth)
    assert decoder.baseline == pytest.approx(metrics.mse(mean, truth).median().item(), rel=1e-4)
    assert decoder.value < decoder.baseline


def test_strong_noise_costs_the_attacker_and_the_user(folder: Path) -> None:
    rows = arena.read(folder / arena.CSV)
    accuracy = arena.medians(rows, "service", "accuracy")
    assert statistics.median(accuracy["local privacy", 1.0]) < 0.3
    assert statistics.median(accuracy["none", 0.0]) > 0.6
    error = arena.medians(rows, "decoder", "raw_mse")
    assert error["local privacy", 1.0][0] > error["none", 0.0][0]


def test_what_is_done_is_not_done_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / arena.CSV).read_bytes()
    monkeypatch.setattr(arena._Trial, "rows", lambda self: pytest.fail("ran again"))
    arena.run(TINY, folder)
    assert (folder / arena.CSV).read_bytes() == before
    assert (folder / arena.FIGURE).stat().st_size > 1000


def test_an_interruption_keeps_whole_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def rows(trial: Any) -> list[Row]:
        seen.append(trial)
        if len(seen) == 2:
            raise KeyboardInterrupt
        if trial.malicious:
            return [trial._row("hijacking", "seen", 1.0, 0.0)]
        return [
            trial._row("service", "accuracy", 0.9, 0.1),
            trial._row("UnSplit", "aligned_mse", 0.1, 0.2, clone=0),
            trial._row("decoder", "aligned_mse", 0.3, 0.2),
        ]

    monkeypatch.setattr(arena._Trial, "rows", rows)
    settings = Settings(budget="tiny", victims=3)
    found = arena.run(settings, tmp_path, ["none"])
    assert {row.victim for row in found} == {0}
    arena.run(settings, tmp_path, ["none"])
    assert [trial.victim for trial in seen] == [0, 1, 1, 2, 0, 1, 2]
    assert [trial.malicious for trial in seen] == 4 * [False] + 3 * [True]


@pytest.mark.parametrize(
    "other", [{"dataset": "mnist"}, {"budget": "quick"}, {"clones": 1}, {"targets": 5}]
)
def test_a_folder_has_one_setting(
    other: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        arena._Trial, "rows", lambda trial: [trial._row("service", "accuracy", 0.9, 0.1)]
    )
    monkeypatch.setattr(arena.data, "load", lambda name: None)
    settings = Settings(budget="tiny", victims=1)
    monkeypatch.setattr(arena, "frontier", lambda rows: Figure())
    arena.run(settings, tmp_path, ["none"])
    arena.run(replace(settings, victims=2), tmp_path, ["none"])
    kept = (tmp_path / "arena.csv").read_text()
    with pytest.raises(SltoolsError, match="another folder"):
        arena.run(replace(settings, **other), tmp_path, ["none"])
    assert (tmp_path / "arena.csv").read_text() == kept
    (tmp_path / "arena.json").unlink()
    with pytest.raises(SltoolsError, match="another folder"):
        arena.run(settings, tmp_path, ["none"])


class Figure:
    def save(self, path: Path) -> None:
        pass


@pytest.mark.parametrize("defense", EVERY, ids=lambda defense: defense.name)
def test_every_defence_makes_a_client(defense: arena.Defense) -> None:
    pytest.importorskip("opacus")
    digits = data.load("digits")
    for strength in defense.strengths:
        trial = arena._Trial(TINY, digits, defense, strength, 0)
        session = trial._watch(64, batch_size=32)
        assert session.accuracy(digits.test[:20]) >= 0
    assert (session.client.head is not None) == defense.label_private


def test_fewer_bytes_are_counted() -> None:
    z = torch.rand(2, 8, 10)
    assert defenses.GaussianNoise(1.0).nbytes(z) == 640
    assert defenses.Quantisation(4).nbytes(z) == 80 + 8
    assert defenses.TopK(0.1).nbytes(z) == 2 * (8 * 4 + 10)
    assert defenses.TopK(1.0).nbytes(z) == 640
    both = defenses.Together(defenses.GaussianNoise(1.0), defenses.Quantisation(4))
    assert both.nbytes(z) == 88


def test_public_images_are_none_of_the_targets() -> None:
    digits = data.load("digits")
    public = digits.test[experiments.public_rows(digits, 10)]
    assert len(public) == len(digits.test) - 10
    targets = experiments.first_targets(digits, 10).images
    assert not (public.images[:, None] == targets).flatten(2).all(2).any()


def test_the_frontier_joins_the_strengths_of_a_defence(folder: Path) -> None:
    picture = arena.frontier(arena.read(folder / arena.CSV))
    assert isinstance(picture, plots.Picture)
    assert "local privacy: " in picture.alt and "mean image: " in picture.alt


def test_bad_requests_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SltoolsError, match="no defence is called 'hope'; there are none, "):
        arena.run(TINY, tmp_path, ["hope"])
    with pytest.raises(SltoolsError, match="a budget is one of tiny"):
        arena.run(Settings(budget="published"), tmp_path)
    (tmp_path / arena.CSV).write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(SltoolsError, match="no file of an arena"):
        arena.run(TINY, tmp_path, ["none"])


def test_the_command_line_tells_the_table(folder: Path) -> None:
    command = ["arena", str(folder), "--budget", "tiny", "--victims", "1", "--clones", "1"]
    result = CliRunner().invoke(cli.app, [*command, "--defense", "none"])
    assert result.exit_code == 0, result.output
    assert "none" in result.output and "arena.csv" in result.output
