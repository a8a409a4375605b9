"""What the README says of lessons and results is what the notebooks and the records hold."""

import json
import re
import statistics
from pathlib import Path

import pytest

from benchmarks import reproduce
from sltools import arena, lessons

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_lesson_table_is_true() -> None:
    rows = re.findall(r"^\| (\d\d) (.+?) \| (\d+) \|", README, re.M)
    found = [
        (f"{lesson.number:02}", lesson.title, str(lesson.minutes)) for lesson in lessons.lessons()
    ]
    assert rows == found


@pytest.mark.parametrize(("column", "dataset"), [(0, "digits"), (1, "mnist")])
def test_the_results_are_the_recorded_ones(column: int, dataset: str) -> None:
    record = lessons.course() / "results" / f"inversion_{dataset}.json"
    facts = json.loads(record.read_text(encoding="utf-8"))
    assert not facts["interrupted"]
    scores, baselines = facts["metrics"], facts["baselines"]
    expected = {
        "raw MSE": (scores["raw_mse"], "{:.4f}"),
        "aligned MSE": (scores["aligned_mse"], "{:.4f}"),
        "SSIM": (scores["ssim"], "{:.3f}"),
        "accuracy with the stolen client": (scores["clone_accuracy"], "{:.1%}"),
        "accuracy with the victim": (scores["victim_accuracy"], "{:.1%}"),
        "accuracy with a random client": (scores["random_accuracy"], "{:.1%}"),
        "a blank image: raw MSE": (baselines["blank_image"]["raw_mse"], "{:.4f}"),
        "the mean image: raw MSE": (baselines["mean_image"]["raw_mse"], "{:.4f}"),
        "known weights: raw MSE": (baselines["known_weights"]["raw_mse"], "{:.4f}"),
        "a blank image: SSIM": (baselines["blank_image"]["ssim"], "{:.3f}"),
        "the mean image: SSIM": (baselines["mean_image"]["ssim"], "{:.3f}"),
    }
    for name, (values, form) in expected.items():
        other = values["best"] if "best" in values else values["worst"]
        cell = f"{form.format(values['median'])} [{form.format(other)}]"
        row = next(line for line in README.splitlines() if line.startswith(f"| {name} |"))
        assert row.split("|")[2 + column].strip() == cell, name


def test_linked_files_exist() -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


def test_the_tables_of_depths_are_those_of_the_record() -> None:
    for name in reproduce.FILES.values():
        rows = reproduce.read(lessons.course() / "results" / name)
        assert rows and reproduce.table(rows) in README


@pytest.mark.parametrize("stage", ["conv1", "conv2"])
def test_what_is_said_of_the_clones_on_photographs_follows_from_the_record(stage: str) -> None:
    rows = reproduce.read(lessons.course() / "results" / reproduce.FILES["quick"])
    kept = [r for r in rows if (r.dataset, r.stage, r.chosen) == ("cifar10", stage, True)]
    shares = [row.clone_accuracy / row.victim_accuracy for row in kept]
    prose = " ".join(README.split())
    middle, least = f"{statistics.median(shares):.0%}", f"{min(shares):.0%}"
    said = {
        "conv1": f"keeps {middle} of its victim's accuracy behind the first convolution in the "
        f"median (worst {least})",
        "conv2": f"{middle} behind the second (worst {least})",
    }
    assert said[stage] in prose


def test_the_time_to_quality_is_the_recorded_one() -> None:
    record = lessons.course() / "results" / "speed_mnist.json"
    facts = json.loads(record.read_text(encoding="utf-8"))
    assert facts["reached"]
    prose = " ".join(README.split())
    ratio = {name: f"{value:,.0f}" for name, value in facts["ratio"].items()}
    assert f"**{ratio['median']} times sooner** [{ratio['least']}, {ratio['greatest']}]" in prose
    assert f"would take {facts['published_seconds']:.0f} s" in prose
    assert f"an aligned MSE of {facts['goal']['aligned_mse']:.4f}" in prose
    assert f"a clone of {facts['goal']['clone_accuracy']:.1%}" in prose
    assert f"in the median of nine clones, after {facts['steps']} steps" in prose
    assert len(facts["runs"]) == 9 and facts["targets"] == 3


def test_the_arena_rows_are_the_recorded_ones() -> None:
    rows = arena.read(lessons.course() / "results" / "arena_digits.csv")
    recorded = arena.table(rows).splitlines()
    shown = README[README.index(recorded[0]) :].split("\n\n")[0].splitlines()
    assert len(shown) > 2 and set(shown) <= set(recorded)
