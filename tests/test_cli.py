"""The command line: what it prints, and what it refuses in one sentence."""

import json
import sys
from pathlib import Path

import pytest
import torch

from sltools import (
    __version__,
    arena,
    cli,
    data,
    doctor,
    experiments,
    fieldmap,
    lessons,
    protocol,
    storage,
)  # fmt: skip
from sltools.errors import SltoolsError


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Run `sltools` with `arguments` in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["sltools", *arguments])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return int(stop.value.code or 0)


TINY = ("attack", "inversion", "--budget", "tiny", "--victims", "2", "--clones", "2", "--json")


def test_inversion_prints_one_json_object_and_saves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    assert call(monkeypatch, *TINY, "--targets", "4", "--save", str(folder)) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["settings"]["targets"] == 4
    assert facts["settings"]["attack"]["restarts"] == 2
    assert facts["knowledge"] == ["client architecture", "smashed"]
    assert facts["granted"] == []
    assert len(facts["runs"]) == 4
    assert {run["victim"] for run in facts["runs"]} == {0, 1}
    assert facts["baselines"].keys() == {"blank_image", "mean_image", "known_weights"}
    assert 0 < facts["metrics"]["raw_mse"]["median"] <= facts["metrics"]["raw_mse"]["worst"]
    assert (
        facts["metrics"]["clone_accuracy"]["worst"] <= facts["metrics"]["clone_accuracy"]["median"]
    )
    assert facts["seconds"] > 0 and not facts["interrupted"]
    tensors, saved = storage.read(folder)
    assert saved == facts
    assert tensors["inputs"].shape == (4, 4, 1, 28, 28)
    assert (folder / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("setting", "granted", "score", "least"),
    [
        ("published", ["head_weight_gradients"], "label_accuracy", 1.0),
        ("closed-form", ["head_weight_gradients"], "label_accuracy", 1.0),
        ("wire", [], "cluster_accuracy", 0.99),
    ],
)
def test_labels_name_what_was_granted(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str,
    granted: list[str],
    score: str,
    least: float,
) -> None:
    options = ("--budget", "tiny", "--setting", setting, "--json", "--targets", "128")
    assert call(monkeypatch, "attack", "labels", *options) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["granted"] == granted
    assert any("granted" in name for name in facts["knowledge"]) == bool(granted)
    assert facts["metrics"][score]["median"] >= least
    assert facts["baselines"]["chance"]["median"] == pytest.approx(0.1)


def test_without_json_the_outcome_is_readable_and_drawn(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("--budget", "tiny", "--setting", "wire", "--targets", "128", "--victims", "1")
    for name in ("label-inference.png", "label-inference-2.png"):
        assert call(monkeypatch, "attack", "labels", *options) == 0
        printed = capsys.readouterr().out
        assert "cluster accuracy" in printed and "median" in printed
        assert printed.splitlines()[-1] == str(tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")


def test_a_figure_that_cannot_be_written_takes_nothing_from_what_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Path, "touch", lambda *_, **__: (_ for _ in ()).throw(OSError("full")))
    options = ("--budget", "tiny", "--setting", "wire", "--targets", "128", "--victims", "1")
    assert call(monkeypatch, "attack", "labels", *options) == 1
    printed = capsys.readouterr()
    assert "cluster accuracy" in printed.out
    assert printed.err.startswith(f"error: cannot write to {tmp_path}: full")


@pytest.mark.parametrize(
    ("arguments", "wrong", "advice"),
    [
        (("run", "99"), "99", "00"),
        (("run", "nowhere/04_inversion_and_stealing.ipynb"), "no file", "04_inversion"),
        (("sweep", "04_mine.ipynb", "-p", "seed=1", "--out", "out"), "no file", "04_inversion"),
        (("run", "04", "-p", "colour=red"), "colour", "dataset"),
        (("run", "04", "-p", "budget=huge"), "huge", "quick"),
        (("run", "04", "-p", "budget"), "budget", "NAME=VALUE"),
        (("run", "04", "-p", "seed=1", "-p", "seed=2"), "twice", "sweep"),
        (("run", "04", "-p", "cut=pool9"), "pool9", "pool1"),
        (("attack", "inversion", "--dataset", "letters"), "letters", "digits"),
        (("attack", "inversion", "--cut", "pool9"), "pool9", "pool1"),
        (("attack", "inversion", "--targets", "0"), "0 targets", "1 to"),
        (("attack", "inversion", "--targets", "100000"), "100000", "360"),
        (("attack", "inversion", "--device", "abacus"), "abacus", "cpu"),
        (("attack", "labels", "--targets", "0"), "0 samples", "1 to"),
        (("attack", "labels", "--head", "nowhere"), "nowhere", "relu4"),
        (("map", "--needs", "label"), "label", "weight gradients"),
        (("map", "--world", "graphs"), "graphs", "vfl"),
    ],
)
def test_a_wrong_argument_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    wrong: str,
    advice: str,
) -> None:
    assert call(monkeypatch, *arguments) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    [line] = [line for line in printed.err.splitlines() if line.startswith("error: ")]
    assert wrong in line and advice in line
    assert "Traceback" not in printed.err


def test_save_refuses_a_folder_that_holds_something_before_any_work(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    monkeypatch.setattr(experiments, "run_inversion", lambda settings: pytest.fail("worked first"))
    assert call(monkeypatch, *TINY, "--save", str(tmp_path)) == 1
    assert "nothing is overwritten" in capsys.readouterr().err
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_lab_copies_the_course_and_passes_options_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    opened: list[tuple[Path, list[str]]] = []
    monkeypatch.setattr(lessons, "open_lab", lambda folder, rest: opened.append((folder, rest)))
    folder = tmp_path / "mine"
    assert call(monkeypatch, "lab", str(folder), "--no-browser", "--port=8899") == 0
    assert opened == [(folder, ["--no-browser", "--port=8899"])]
    assert list(folder.rglob("*.ipynb"))


def test_the_map_is_asked_as_in_python(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = {"needs": "labelled data", "gets": "labels", "world": "two-party", "kind": "attack"}
    asked |= {"status": "runs", "text": "gradients"}
    found = fieldmap.find(**asked)
    assert len(found) > 1
    options = [part for name, value in asked.items() for part in (f"--{name}", value)]
    assert call(monkeypatch, "map", *options) == 0
    assert capsys.readouterr().out == fieldmap.table(found) + "\n"
    assert call(monkeypatch, "map", *options, "--json") == 0
    cards = json.loads(capsys.readouterr().out)["works"]
    assert [card["id"] for card in cards] == [work.id for work in found]
    for name in asked:  # each option arrives by itself too
        assert call(monkeypatch, "map", f"--{name}", asked[name], "--json") == 0
        alone = json.loads(capsys.readouterr().out)["works"]
        assert len(alone) == len(fieldmap.find(**{name: asked[name]})) >= len(found)


def test_one_work_alone_is_shown_by_its_card(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "map", "--text", "splitguard detecting") == 0
    printed = capsys.readouterr().out
    assert printed == fieldmap.card(fieldmap.find(text="splitguard detecting")[0]) + "\n"
    assert "answered by  Scrutinizer" in printed or "answered by  URVFL" in printed
    assert call(monkeypatch, "map", "--text", "perpetual motion") == 0
    assert capsys.readouterr().out.endswith("\n0 works\n")


def test_doctor_tells_versions_data_and_minutes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "doctor") == 0
    printed = capsys.readouterr().out
    for expected in (torch.__version__, "cpu", "digits", "mnist", "calibration"):
        assert expected in printed
    for lesson in lessons.lessons():
        assert lesson.name in printed


def test_predictions_follow_the_calibration() -> None:
    slow, fast = doctor.predicted_seconds(2.0), doctor.predicted_seconds(1.0)
    assert slow.keys() == fast.keys() == {lesson.name for lesson in lessons.lessons()}
    assert all(slow[name] == pytest.approx(2 * fast[name]) for name in slow)


def test_targets_are_the_first_image_of_each_class_then_the_second() -> None:
    dataset = data.load("digits")
    images = experiments.first_targets(dataset, 12).images
    assert torch.equal(images[:10], dataset.test.first_per_class().images)
    second = dataset.test.first_per_class(2).images
    assert torch.equal(images[10], second[1]) and torch.equal(images[11], second[3])


def test_budgets_are_checked() -> None:
    with pytest.raises(SltoolsError, match="quick"):
        experiments.train_victim(data.load("digits"), budget="huge")


def test_an_interrupted_attack_says_so_by_its_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    run = experiments.run_labels

    def interrupted(settings: experiments.LabelSettings) -> experiments.Outcome:
        outcome = run(settings)
        outcome.facts.update(interrupted=True, done="1 of 3 victims")
        return outcome

    monkeypatch.setattr(experiments, "run_labels", interrupted)
    monkeypatch.chdir(tmp_path)
    options = ("--budget", "tiny", "--setting", "wire", "--targets", "128", "--victims", "1")
    assert call(monkeypatch, "attack", "labels", *options) == cli.INTERRUPTED
    assert "INTERRUPTED, this is the outcome of 1 of 3 victims" in capsys.readouterr().out


def test_a_missing_folder_of_submissions_leaves_no_salt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    salt, out, missing = (str(tmp_path / name) for name in ("salt", "out", "none"))
    assert call(monkeypatch, "grade", missing, "--salt", salt, "--out", out) == 1
    assert list(tmp_path.iterdir()) == []


def test_an_arena_without_a_trial_names_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arena, "run", lambda *_: arena.Outcome([], interrupted=True))
    assert call(monkeypatch, "arena", str(tmp_path / "a")) == 130
    printed = capsys.readouterr().out
    assert "arena.csv" not in printed and "|" not in printed


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"sltools {__version__}\n"


@pytest.mark.parametrize(
    "options",
    [("inversion", "--cut", "nope"), ("labels", "--head", "nope"), ("labels", "--cut", "nope")],
)
def test_a_stage_that_there_is_not_is_refused_before_any_training(
    options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def bar(*arguments: object, **options: object) -> None:
        raise AssertionError("the work has begun")

    for module in (experiments.inversion, experiments.labels, protocol.training):
        monkeypatch.setattr(module, "bar", bar)
    assert call(monkeypatch, "attack", *options) == 1
    captured = capsys.readouterr()
    assert captured.out == "" and "no stage is called 'nope'; the stages are conv1" in captured.err


@pytest.mark.parametrize("seconds", ["0", "-1", "1e7", "nan"])
def test_a_timeout_has_one_limit_however_it_is_passed(
    seconds: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    output = str(tmp_path / "out.ipynb")
    assert call(monkeypatch, "run", "3", "-o", output, "--timeout", seconds) == 1
    assert "a cell is above 0 and at most 1,000,000 seconds, not" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("join", "--server", "here"), "a server is named HOST:PORT, as `sltools serve` prints it"),
        (("join", "--server", "127.0.0.1:1", "--part", "3/2"), "a part is NUMBER/COUNT"),
        (("join", "--server", "127.0.0.1:1", "--timeout", "1e9"), "timeout is above 0"),
        (("join", "--server", "127.0.0.1:1", "--cut", "nope"), "no stage is called 'nope'"),
        (("serve", "--schedule", "splitfed-v1"), "needs at least 2 clients, not 1"),
        (("serve", "--wait", "1e9"), "wait is above 0"),
        (("serve", "--out", "."), "is not empty; name a new folder"),
    ],
)
def test_hosts_that_cannot_be_are_refused_in_one_sentence(
    arguments: tuple[str, ...],
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "something").touch()
    assert call(monkeypatch, *arguments) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and told in captured.err
    assert "Traceback" not in captured.err
