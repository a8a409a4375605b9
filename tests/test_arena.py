"""The arena: whole trials, resumable, with baselines, and honest about what is known."""

import json
import statistics
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from sltools import arena, cli, data, defenses, experiments, metrics, models, plots, protocol
from sltools.arena import Row, Settings, attacks, report
from sltools.attacks import PCAT, DecoderInversion, HijackingServer
from sltools.attacks.surrogate import SurrogateAttack
from sltools.detectors import LabelGap
from sltools.errors import SltoolsError

TINY = Settings(budget="tiny", victims=1, clones=2)


EVERY = arena.DEFENSES
PRIVATE = next(defense for defense in arena.DEFENSES if defense.name == "local privacy")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Two defences of one strength, tried once.

    The tests that share it are marked `slow`: they begin together, and one worker makes it.
    """
    folder = tmp_path_factory.mktemp("arena")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arena, "DEFENSES", (arena.NONE, replace(PRIVATE, strengths=(1.0,))))
        arena.run(TINY, folder)
        yield folder


def values(rows: list[Row], defense: str, attack: str, measure: str) -> list[float]:
    chosen = (defense, attack, measure)
    return [row.value for row in rows if (row.defense, row.attack, row.measure) == chosen]


@pytest.mark.proofs
@pytest.mark.slow
def test_a_trial_has_every_measure_beside_its_baseline(folder: Path) -> None:
    rows = [row for row in arena.read(folder / arena.CSV) if row.defense == "none"]
    images = {"raw_mse", "aligned_mse", "best_mse", "ssim"}
    found = {(row.attack, row.measure) for row in rows}
    assert found == {
        *(("service", name) for name in ("accuracy", "bytes", "cpu_seconds")),
        *(("UnSplit", name) for name in {*images, "clone_accuracy", "agreement"}),
        *(("decoder", name) for name in images),
        *(
            (attack, name)
            for attack in ("SDAR", "PCAT", "FORA")
            for name in {*images, "clone_accuracy", "agreement"}
        ),
        ("SDAR", "label_accuracy"),
        ("PCAT", "label_accuracy"),
        ("labels, wire", "cluster_accuracy"),
        ("labels, published", "label_accuracy"),
        ("wire", "distance_correlation"),
        *(("hijacking", name) for name in {*images, "seen"}),
    }
    assert values(rows, "none", "service", "bytes") == [8 * 12 * 12 * 4]
    attackers = {(r.attack, r.clone) for r in rows if r.clone >= 0}
    assert attackers == {
        (name, clone)
        for name in ("UnSplit", "decoder", "labels, wire", "labels, published")
        for clone in (0, 1)
    }
    (dcor,) = (r for r in rows if r.measure == "distance_correlation")
    assert dcor.value > 0.9 > 0.5 > dcor.baseline
    decoder, other = (r for r in rows if (r.attack, r.measure) == ("decoder", "raw_mse"))
    digits = data.load("digits")
    truth = experiments.first_targets(digits, 10).images
    mean = digits.train.images.mean(0).expand_as(truth)
    assert decoder.baseline == pytest.approx(metrics.mse(mean, truth).median().item(), rel=1e-4)
    assert decoder.value < decoder.baseline
    assert decoder.value != other.value, "two attackers of one seed"


@pytest.mark.proofs
@pytest.mark.slow
def test_strong_noise_costs_the_attacker_and_the_user(folder: Path) -> None:
    rows = arena.read(folder / arena.CSV)
    accuracy = arena.medians(rows, "service", "accuracy")
    assert statistics.median(accuracy["local privacy", 1.0]) < 0.3
    assert statistics.median(accuracy["none", 0.0]) > 0.6
    error = arena.medians(rows, "decoder", "raw_mse")
    assert error["local privacy", 1.0][0] > error["none", 0.0][0]


@pytest.mark.proofs
@pytest.mark.slow
def test_what_is_done_is_not_done_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (folder / arena.CSV).read_bytes()
    monkeypatch.setattr(attacks, "rows", lambda *_: pytest.fail("ran again"))
    arena.run(TINY, folder)
    assert (folder / arena.CSV).read_bytes() == before
    assert (folder / arena.FIGURE).stat().st_size > 1000


def test_an_interruption_keeps_whole_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def rows(trial: Any, kept: Any) -> list[Row]:
        assert not kept
        seen.append(trial)
        if len(seen) == 2:
            raise KeyboardInterrupt
        if trial.malicious:
            return [trial.row("hijacking", "seen", 1.0, 0.0)]
        return [
            trial.row("service", "accuracy", 0.9, 0.1),
            trial.row("UnSplit", "aligned_mse", 0.1, 0.2, clone=0),
            trial.row("decoder", "aligned_mse", 0.3, 0.2),
        ]

    monkeypatch.setattr(attacks, "rows", rows)
    monkeypatch.setattr(attacks, "CURIOUS", {attacks.service: ("service",)})
    settings = Settings(budget="tiny", victims=3)
    found = arena.run(settings, tmp_path, ["none"])
    assert found.interrupted and {row.victim for row in found.rows} == {0}
    assert not arena.run(settings, tmp_path, ["none"]).interrupted
    assert [trial.victim for trial in seen] == [0, 1, 1, 2, 0, 1, 2]
    assert [trial.malicious for trial in seen] == 4 * [False] + 3 * [True]


def test_a_trial_that_lacks_an_attack_gets_that_attack_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attacks, "hijacking", lambda trial: [trial.row("hijacking", "seen", 1, 0)])
    monkeypatch.setattr(arena, "frontier", lambda rows: Figure())
    monkeypatch.setattr(arena.Trial, "session", lambda trial: Victim())
    measured: list[str] = []

    def measure(name: str) -> Any:
        def rows(trial: Any, session: Any) -> list[Row]:
            measured.append(name)
            return [trial.row(name, "accuracy", 0.5, 0.1)]

        return rows

    for names in (["service"], ["service", "new"]):
        functions = {attacks.service: ("service",)} | {measure(n): (n,) for n in names[1:]}
        monkeypatch.setattr(attacks, "CURIOUS", functions)
        arena.run(TINY, tmp_path, ["none"])
    rows = arena.run(TINY, tmp_path, ["none"]).rows
    found = [(row.attack, row.measure, row.value) for row in rows if row.measure == "accuracy"]
    assert found == [
        ("service", "accuracy", 0.75),
        ("retrained", "accuracy", 0.75),
        ("new", "accuracy", 0.5),
    ]
    assert measured == ["new"]


class Victim:
    """A session as far as the service looks at one."""

    client = protocol.Client(models.cut(models.mnist_net(), "pool1")[0])

    def accuracy(self, split: data.Split) -> float:
        return 0.75


@pytest.mark.parametrize(
    "other", [{"dataset": "mnist"}, {"budget": "quick"}, {"clones": 1}, {"targets": 5}]
)
def test_a_folder_has_one_setting(
    other: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        attacks, "rows", lambda trial, _: [trial.row("service", "accuracy", 0.9, 0.1)]
    )
    monkeypatch.setattr(data, "load", lambda name: None)
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


def test_a_folder_has_attackers_with_data_of_one_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measures = {attacks.service: ("service",), attacks.with_data: tuple(attacks.WITH_DATA)}
    monkeypatch.setattr(attacks, "CURIOUS", measures)

    def rows(trial: arena.Trial, kept: Any) -> list[Row]:
        missing = [measure for measure in measures if measure in attacks.unmeasured(trial, kept)]
        names = {attacks.service: "service", attacks.with_data: "PCAT"}
        return [trial.row(names[measure], "accuracy", 0.9, 0.1) for measure in missing]

    monkeypatch.setattr(attacks, "rows", rows)
    monkeypatch.setattr(data, "load", lambda name: None)
    monkeypatch.setattr(arena, "frontier", lambda rows: Figure())
    path, settings = tmp_path / "arena.json", Settings(budget="tiny", victims=1)
    arena.run(settings, tmp_path, ["none"])
    facts = json.loads(path.read_text())
    assert facts["with_data"]["steps"] == attacks.SURROGATE_STEPS["tiny"]
    more = replace(settings, victims=2)
    monkeypatch.setitem(attacks.SURROGATE_STEPS, "tiny", 21)
    with pytest.raises(SltoolsError, match="'steps': 20.*'steps': 21.*another folder"):
        arena.run(more, tmp_path, ["none"])
    del facts["with_data"]
    path.write_text(json.dumps(facts))
    with pytest.raises(SltoolsError, match="settings it does not tell"):
        arena.run(more, tmp_path, ["none"])
    before = [row for row in arena.read(tmp_path / "arena.csv") if row.attack == "service"]
    (tmp_path / "arena.csv").unlink()  # as before there were such attackers
    report.append(tmp_path / "arena.csv", before)
    assert any(row.attack == "PCAT" for row in arena.run(more, tmp_path, ["none"]).rows)
    assert json.loads(path.read_text())["with_data"]["steps"] == 21


def test_a_folder_without_rows_takes_any_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An arena that was stopped before its first trial was done has settled nothing."""

    def stop(*_: Any) -> list[Row]:
        raise KeyboardInterrupt

    monkeypatch.setattr(attacks, "rows", stop)
    assert arena.run(TINY, tmp_path, ["none"]) == arena.Outcome([], interrupted=True)
    arena.run(replace(TINY, clones=2), tmp_path, ["none"])
    command = ["arena", str(tmp_path), "--budget", "tiny", "--defense", "none"]
    result = CliRunner().invoke(cli.app, command)
    assert result.exit_code == cli.INTERRUPTED and "the same command goes on" in result.output


@pytest.mark.proofs
@pytest.mark.slow
def test_the_record_says_with_what_it_was_made(folder: Path) -> None:
    facts = json.loads((folder / "arena.json").read_text(encoding="utf-8"))
    assert facts["settings"] == {
        "dataset": "digits", "budget": "tiny", "clones": 2, "targets": 10, "device": "cpu"
    }  # fmt: skip
    assert facts["versions"]["torch"] == torch.__version__
    training = sum(r.value for r in arena.read(folder / arena.CSV) if r.measure == "cpu_seconds")
    assert facts["cpu_seconds"] > training


class Figure:
    def save(self, path: Path) -> None:
        pass


@pytest.mark.parametrize("defense", EVERY, ids=lambda defense: defense.name)
def test_every_defence_makes_a_client(defense: arena.Defense) -> None:
    pytest.importorskip("opacus")
    digits = data.load("digits")
    for strength in defense.strengths:
        trial = arena.Trial(TINY, digits, defense, strength, 0)
        session = trial.recorded(64, batch_size=32)
        assert session.accuracy(digits.test[:20]) >= 0
    assert (session.client.head is not None) == defense.label_private


def test_fewer_bytes_are_counted() -> None:
    z = torch.rand(2, 8, 10)
    assert defenses.GaussianNoise(1.0).nbytes(z) == 640
    assert defenses.Quantisation(4).nbytes(z) == 80 + 8
    assert defenses.TopK(0.1).nbytes(z) == 2 * (8 * 4 + 10)
    assert defenses.TopK(1.0).nbytes(z) == 640
    both = defenses.Compose(defenses.GaussianNoise(1.0), defenses.Quantisation(4))
    assert both.nbytes(z) == 88


def test_public_images_are_none_of_the_targets() -> None:
    digits = data.load("digits")
    public = digits.test[experiments.public_rows(digits, 10)]
    assert len(public) == len(digits.test) - 10
    targets = experiments.first_targets(digits, 10).images
    assert not (public.images[:, None] == targets).flatten(2).all(2).any()


@pytest.mark.proofs
@pytest.mark.slow
def test_the_frontier_joins_the_strengths_of_a_defence(folder: Path) -> None:
    picture = arena.frontier(arena.read(folder / arena.CSV))
    assert isinstance(picture, plots.Picture)
    assert "local privacy: " in picture.alt and "Dashed: mean image, " in picture.alt


def test_the_frontier_counts_points_lost_against_no_defence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "frontier", lambda *args: drawn.append(args))
    rows = [
        row
        for name, accuracy in {"a": 0.5, "none": 0.75, "b": 0.875}.items()
        for measure in (
            rows_of(name, "service", "accuracy", accuracy),
            rows_of(name, "UnSplit", "aligned_mse", 0.1),
        )
        for row in measure
    ]
    undefended = [replace(row, strength=0.0) if row.defense == "none" else row for row in rows]
    arena.frontier(undefended, ["UnSplit"])
    lost = {name: [(p[0], p[4]) for p in points] for name, points in drawn[0][0].items()}
    assert lost == {"a": [(25, "1")], "none": [(0, "")], "b": [(-12.5, "1")]}
    arena.frontier([row for row in rows if row.defense != "none"], ["UnSplit"])
    assert [p[0] for points in drawn[1][0].values() for p in points] == [37.5, 0], "the best one"


def test_bad_requests_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(SltoolsError, match="no defence is called 'hope'; there are none, "):
        arena.run(TINY, tmp_path, ["hope"])
    with pytest.raises(SltoolsError, match="a budget is one of tiny"):
        arena.run(Settings(budget="published"), tmp_path)
    (tmp_path / arena.CSV).write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(SltoolsError, match="no file of an arena"):
        arena.run(TINY, tmp_path, ["none"])


@pytest.mark.proofs
@pytest.mark.slow
def test_the_command_line_tells_the_table(folder: Path) -> None:
    command = ["arena", str(folder), "--budget", "tiny", "--victims", "1", "--clones", "2"]
    result = CliRunner().invoke(cli.app, [*command, "--defense", "none"])
    assert result.exit_code == 0, result.output
    assert "none" in result.output and "arena.csv" in result.output


# ---- what a row says -----------------------------------------------------------------------------


def a_trial(defense: str = "none", strength: float = 0.0, victim: int = 0) -> Any:
    known = {each.name: each for each in EVERY}
    return arena.Trial(TINY, data.load("digits"), known[defense], strength, victim)


def by_measure(rows: list[Row]) -> dict[str, float]:
    return {row.measure: row.value for row in rows}


def test_image_scores_are_medians_and_best_is_the_least() -> None:
    trial = a_trial()
    truth = trial.targets
    guess = truth * torch.linspace(0, 1, len(truth)).view(-1, 1, 1, 1)
    each = metrics.mse(guess, truth)
    found = by_measure(attacks._image_rows(trial, "any", guess))
    assert found["raw_mse"] == pytest.approx(each.median().item())
    assert found["best_mse"] == each.min().item() < found["raw_mse"]
    assert found["aligned_mse"] < 1e-6, "a gain is allowed"
    assert found["ssim"] == pytest.approx(metrics.ssim(guess, truth).median().item())


def test_seen_is_of_the_hijacker_and_the_baseline_of_the_honest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial = a_trial(victim=1)
    monkeypatch.setattr(LabelGap, "raised_at", property(lambda gap: gap.alarm))
    watched = attacks.train_with_detector
    nets = []

    def ours(trial: Any, server: Any) -> Any:
        session = watched(trial, server)
        malicious = isinstance(session.server, HijackingServer)
        session.client.detector.alarm = 7 if malicious else None
        nets.append(session)
        return session

    monkeypatch.setattr(attacks, "train_with_detector", ours)
    (row,) = (row for row in attacks.hijacking(trial) if row.measure == "seen")
    assert (row.value, row.baseline) == (1.0, 0.0)
    assert len(nets) == 2 and all(isinstance(run.client.detector, LabelGap) for run in nets)


def test_each_victim_has_weights_and_noise_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds_used: list[int] = []
    make = models.for_images

    def noted(shape: Any, seed: int) -> Any:
        seeds_used.append(seed)
        return make(shape, seed)

    monkeypatch.setattr(models, "for_images", noted)
    z = torch.zeros(2, 8, 12, 12)
    sent = []
    for victim in (0, 1):
        trial = a_trial("Gaussian noise", 0.5, victim)
        client = trial.client(*models.cut(models.mnist_net(0), "pool1")[:1])
        sent.append(client.outgoing("smashed", z))
        attacks.train_with_detector(trial, protocol.Server)
        trial.recorded(64, 64)
        assert seeds_used[-2:] == [victim, victim]
    assert not torch.equal(*sent)


def test_the_decoder_knows_the_defence_and_not_its_random_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial = a_trial("Gaussian noise", 0.5)
    session = trial.recorded(64, 64)
    z = torch.zeros(2, 8, 12, 12)
    told = []
    attack = DecoderInversion.__call__

    def watched(self: Any, view: Any, public: Any, *, defense: Any) -> Any:
        told.append(defense("smashed", z))
        return attack(self, view, public, defense=defense)

    monkeypatch.setattr(DecoderInversion, "__call__", watched)
    attacks.decoder(trial, session)
    theirs = trial.client(*models.cut(models.mnist_net(0), "pool1")[:1]).outgoing
    assert all(noise.std().item() == pytest.approx(0.5, rel=0.1) for noise in told)
    noises = [*told, theirs("smashed", z)]
    assert len(noises) == 3
    assert len({tuple(noise.flatten().tolist()) for noise in noises}) == 3


def test_attackers_with_data_know_the_defence_and_none_of_the_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trial = a_trial("Gaussian noise", 0.5)
    session = trial.recorded(64, 64)
    calls: list[Any] = []
    attack = SurrogateAttack.__call__

    def watched(self: Any, view: Any, own: Any, *, defense: Any) -> Any:
        calls.append((view.smashed, own, defense("smashed", torch.zeros(2, 8, 12, 12))))
        return attack(self, view, own, defense=defense)

    monkeypatch.setattr(SurrogateAttack, "__call__", watched)
    first = attacks.with_data(trial, session)
    assert attacks.with_data(trial, session) == first, "whatever was measured before"
    smashed, own, noise = calls[0]
    assert noise.std().item() == pytest.approx(0.5, rel=0.1)
    private = torch.cat([trial.targets, trial.dataset.train.images])
    experiments.check_disjoint(own, private)
    with torch.no_grad():
        sent = smashed - session.client.front(private[: len(smashed)])
    assert sent.std().item() == pytest.approx(0.5, rel=0.1)
    assert not torch.isclose(sent[:2], noise, atol=1e-4).any(dim=(1, 2, 3)).all()
    targets = experiments.first_targets(trial.dataset, 10).labels
    (rival,) = {row.baseline for row in first if row.measure == "label_accuracy"}
    truth = torch.cat([targets, trial.dataset.train.labels[: attacks.TRAFFIC["tiny"]]])
    guess = experiments.support_vectors(own, private[: len(truth)])
    assert rival == (guess == truth).double().mean().item()


def test_a_surrogate_is_scored_before_the_head_it_learnt(monkeypatch: pytest.MonkeyPatch) -> None:
    trial = a_trial()
    session = trial.recorded(640, 64)
    own, held_out = experiments.auxiliary_data(trial.dataset, 100)
    run = PCAT(steps=2, batch=16)(session.observe(trial.targets), own)
    perfect = replace(run, clone=session.client.front, head=session.client.head)
    found = {
        row.measure: row
        for row in attacks._surrogate_rows(trial, session, "PCAT", perfect, own, held_out)
    }
    assert found["agreement"].value == 1
    assert found["clone_accuracy"].value == session.accuracy(held_out)
    rival = experiments.support_vectors(own, held_out.images)
    assert found["clone_accuracy"].baseline == (rival == held_out.labels).double().mean().item()


def test_randomised_response_answers_once_for_all_epochs() -> None:
    pytest.importorskip("opacus")
    trial = a_trial("randomised response", 1.0)
    truth, answers = trial.dataset.train.labels, trial.train.labels
    assert 0.15 < (answers == truth).double().mean().item() < 0.35  # e / (e + 9) = 0.23
    (read,) = attacks.labels(trial, trial.recorded(64, 64))
    assert 0.1 < read.value < 0.4
    session = trial.recorded(64, 64)
    assert torch.equal(session.transcript.view().labels.sort()[0], answers[:64].sort()[0])
    again = a_trial("randomised response", 1.0)
    assert torch.equal(again.train.labels, answers)
    other = a_trial("randomised response", 1.0, victim=1)
    assert not torch.equal(other.train.labels, answers)


def test_labels_are_scored_in_the_order_that_they_were_sent() -> None:
    trial = a_trial("none, vanilla", victim=1)
    sent = trial.recorded(128, 64).transcript.view().labels
    assert attacks._score(trial, 128, sent).label_accuracy == 1


def rows_of(defense: str, attack: str, measure: str, *values: float) -> list[Row]:
    trial = ("digits", "tiny", defense, 1.0)
    return [Row(*trial, i, attack, -1, measure, value, 0.5) for i, value in enumerate(values)]


def test_frontier_and_table_show_medians_and_the_better_attack(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "frontier", lambda *args: drawn.append(args))
    rows = [
        *rows_of("a", "service", "accuracy", 0.7, 0.9, 0.1),
        *rows_of("a", "UnSplit", "aligned_mse", 0.1, 0.3, 0.2),
        *rows_of("a", "decoder", "aligned_mse", 0.4, 0.01, 0.04),
    ]
    arena.frontier(rows)
    series, _, _, floor, wanted = drawn[0]
    assert series == {"a": [(0, 0.04, 0.01, 0.4, "1")]}
    assert floor == {"mean image": 0.5} and wanted == (10, 0.25)
    header, _, line = arena.table(rows).splitlines()
    cells = dict(zip(header.split("|")[1:-1], line.split("|")[1:-1], strict=True))
    shown = {name.strip(): value.strip() for name, value in cells.items() if value.strip()}
    assert shown == {"defence": "a 1", "accuracy": "0.7", "UnSplit": "0.2", "decoder": "0.04"}


def test_a_defence_works_only_where_the_best_of_all_attackers_fails() -> None:
    rows = [
        *(rows_of("none", "service", "accuracy", 0.9)),
        *(rows_of("dear", "service", "accuracy", 0.7)),
        *(rows_of("good", "service", "accuracy", 0.85)),
        *(rows_of("none", "UnSplit", "aligned_mse", 0.01)),
        *(rows_of("dear", "UnSplit", "aligned_mse", 0.5)),
        *(rows_of("good", "UnSplit", "aligned_mse", 0.3, 0.5)),
    ]
    assert arena.working(rows) == [("good", 1.0)]
    for attack in arena.IMAGE_ATTACKS[1:]:
        more = [*rows, *rows_of("good", attack, "aligned_mse", 0.2)]
        assert arena.working(more) == []
        assert arena.best_attacks(more)["good", 1.0] == (attack, [0.2])
        assert arena.working(more, ["UnSplit"]) == [("good", 1.0)]


def test_no_more_samples_are_watched_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    digits = data.load("digits")
    few = replace(digits, train=digits.train[:100])
    monkeypatch.setattr(attacks, "LABEL_SAMPLES", {"tiny": 3840})
    monkeypatch.setattr(attacks, "SINGLE_SAMPLES", {"tiny": 20})
    for defense in arena.DEFENSES[:2]:
        trial = arena.Trial(TINY, few, defense, defense.strengths[0], 0)
        assert attacks.labels(trial, trial.recorded(64, batch_size=32))
