"""What docs/results.md says, and the README's one table of results, is what the records hold."""

import json
import statistics
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import (
    ablations,
    record_attribute_membership,
    record_auxiliary,
    reproduce,
    speed,
    throughput,
)
from sltools import arena, data, experiments, lessons, metrics

ROOT = Path(__file__).resolve().parents[1]
README, PAGE = (
    (ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/results.md")
)
PROSE = " ".join(PAGE.split())
LABELS = {"digits": "digits", "mnist": "MNIST", "cifar10": "CIFAR-10"}


def _attack_1(dataset: str) -> dict[str, str]:
    """Return the column of `dataset` in the table of attack 1, by the names of its rows."""
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
        "known weights: raw MSE": (baselines["known_weights"]["raw_mse"], "{:.2g}"),
        "a blank image: SSIM": (baselines["blank_image"]["ssim"], "{:.3f}"),
        "the mean image: SSIM": (baselines["mean_image"]["ssim"], "{:.3f}"),
    }
    column = {}
    for name, (values, form) in expected.items():
        other = values["best"] if "best" in values else values["worst"]
        column[name] = f"{form.format(values['median'])} [{form.format(other)}]"
    return column


def test_the_results_of_attack_1_are_the_recorded_ones() -> None:
    digits, mnist = _attack_1("digits"), _attack_1("mnist")
    rows = {name: f"| {name} | {digits[name]} | {mnist[name]} |" for name in digits}
    assert set(rows.values()) <= {*PAGE.splitlines()}
    table = README[README.index("| attack 1 |") :].split("\n\n")[0].splitlines()
    assert len(table) > 5 and {*table[2:]} <= {*rows.values()}


def test_the_tables_of_attackers_with_data_are_those_of_the_record() -> None:
    for name in record_auxiliary.STEPS:
        assert not [table for table in record_auxiliary.tables(name) if table not in PAGE]
        record_auxiliary.check_settings(
            lessons.course() / "results" / f"auxiliary_{name}.json", record_auxiliary.facts_of(name)
        )


@pytest.mark.parametrize(
    ("name", "less"), [("digits", ["pool1", "pool2"]), ("mnist", ["pool2", "fc1"])]
)
def test_the_search_with_known_weights_stands_beside_their_decoder(
    name: str, less: list[str]
) -> None:
    rows = record_auxiliary.read(lessons.course() / "results" / f"auxiliary_{name}.csv")
    depth = reproduce.read(lessons.course() / "results" / reproduce.FILES["quick"])
    searched, decoded = {}, {}
    for stage in record_auxiliary.STAGES:
        case = (stage, record_auxiliary.ORACLE, record_auxiliary.COUNTS[name])
        found = [row.raw_mse for row in rows if (row.stage, row.attack, row.images) == case]
        if found:
            decoded[stage] = statistics.median(error for error in found if error is not None)
            searched[stage] = statistics.median(
                row.known_weights_mse
                for row in depth
                if (row.dataset, row.stage, row.chosen) == (name, stage, True)
            )
    lower = [stage for stage in searched if searched[stage] < decoded[stage]]
    assert [stage for stage in lower if stage in less] == less and lower[-1] == less[-1]
    told = [f"{errors[stage]:.2g}" for errors in (searched, decoded) for stage in less]
    assert (
        f"after {less[0]} and {less[1]} ({told[0]} and {told[1]}, where the decoder leaves "
        f"{told[2]} and {told[3]})"
    ) in PROSE


def test_what_is_said_of_tuning_is_what_the_record_was_made_with() -> None:
    for name in record_auxiliary.STEPS:
        path = lessons.course() / "results" / f"auxiliary_{name}.json"
        made = json.loads(path.read_text(encoding="utf-8"))["attacks"]
        sdar, pcat, fora = (made[attack] for attack in ("SDAR", "PCAT", "FORA"))
        for shared in ("steps", "batch", "ridge", "mmd"):
            assert sdar[shared] == pcat[shared] == fora[shared]
        assert not (sdar["flip"] or sdar["realism"] or pcat["fine_tuning"])
        assert pcat["lr"] == fora["lr"]
        assert (
            f"the surrogate's rate is {sdar['lr']:g} for SDAR and {pcat['lr']:g} for the others, "
            f"the weight of the critic {sdar['adversarial']:g} for SDAR and "
            f"{fora['adversarial']:g} for FORA,"
        ) in PROSE


def test_what_carries_pcat_across_the_dense_layer_is_recorded() -> None:
    record = lessons.course() / "results" / "alignment_digits.json"
    rows = json.loads(record.read_text(encoding="utf-8"))["rows"]

    def ratios(variant: str, stage: str) -> tuple[float, float]:
        found = [
            row["sent_mse"] / row["sent_class_mean_mse"]
            for row in rows
            if (row["variant"], row["stage"]) == (variant, stage)
        ]
        assert len(found) == 3
        return statistics.median(found), max(found)

    with_it, without = ratios("PCAT", "fc1"), ratios("PCAT without MK-MMD", "fc1")
    shallow = ratios("PCAT without MK-MMD", "pool2")
    assert "{:.2f} [worst {:.2f}] of the mean image of the class".format(*with_it) in PROSE
    assert "without it {:.2f} [{:.2f}]; after pool2".format(*without) in PROSE
    assert "it is {:.2f} [{:.2f}] without it".format(*shallow) in PROSE


def test_few_labels_are_worth_more_with_the_split_than_without() -> None:
    rows = record_auxiliary.read(lessons.course() / "results" / "auxiliary_digits.csv")
    right = [
        statistics.median(
            row.accuracy
            for row in rows
            if (row.stage, row.attack, row.images, row.kind) == (*rival, 50, "the same")
            and row.accuracy is not None
        )
        for rival in (("pool2", "PCAT"), ("", "support vectors"))
    ]
    assert f"PCAT has {right[0]:.0%} and the machine {right[1]:.0%}" in PROSE


@pytest.mark.parametrize("name", record_auxiliary.STEPS)
def test_no_surrogate_is_much_ahead_of_its_rivals_after_a_dense_layer(name: str) -> None:
    rows = record_auxiliary.read(lessons.course() / "results" / f"auxiliary_{name}.csv")
    count = record_auxiliary.COUNTS[name]

    def median(stage: str, attack: str, field: str) -> float:
        wanted = (stage, attack, count, record_auxiliary.SAME)
        return statistics.median(
            getattr(row, field) for row in rows if (*row.case[:2], *row.case[4:]) == wanted
        )

    for field, most in (("agreement", 0.02), ("accuracy", 0.0)):
        rivals = (record_auxiliary.MACHINE, record_auxiliary.NETWORK)
        best = max(median("", rival, field) for rival in rivals)
        assert all(median("fc1", attack, field) - best <= most for attack in ("SDAR", "PCAT"))


def test_the_tables_of_attributes_and_members_are_those_of_the_record() -> None:
    record = lessons.course() / "results" / "attribute_membership_digits.json"
    facts = json.loads(record.read_text(encoding="utf-8"))
    for table in record_attribute_membership.tables(facts):
        assert table in PAGE
    settings = record_attribute_membership.facts_of("digits", facts["attackers"])
    assert {name: facts[name] for name in settings} == settings
    auc = {
        signal: record_attribute_membership.values(
            facts["members"], "auc", regime="trained too long", signal=signal
        )
        for signal in ("shadows", "loss", record_attribute_membership.RIVAL)
    }
    shadows, loss = (
        [here - rival for here, rival in zip(auc[signal], [*auc.values()][-1], strict=True)]
        for signal in ("shadows", "loss")
    )
    assert f"with each victim, by {min(shadows):.2f} to {max(shadows):.2f}" in PROSE
    assert f"the loss with two of three, by at most {max(loss):.2f};" in PROSE
    assert sum(ahead > 0 for ahead in loss) == 2
    cases = {(row["victim"], row["attacker"]) for row in facts["attributes"]}
    assert len(cases) == facts["victims"] * facts["attackers"]


def test_the_tables_of_depths_are_those_of_the_record() -> None:
    for name in reproduce.FILES.values():
        rows = reproduce.read(lessons.course() / "results" / name)
        assert rows and reproduce.table(rows) in PAGE


def test_the_two_cuts_where_known_weights_show_less_than_the_class_are_named() -> None:
    above: dict[tuple[str, str], list[float]] = {}
    for row in reproduce.read(lessons.course() / "results" / "depth.csv"):
        excess = row.known_weights_mse - row.class_mean_mse
        above.setdefault((row.dataset, row.stage), []).append(excess)
    worse = [at for at, excesses in above.items() if statistics.median(excesses) > 0]
    assert worse == [("digits", "fc2"), ("digits", "relu4")]
    assert "(At fc2 and relu4 of digits alone" in PROSE


def _shares(budget: str, stage: str, victims: Collection[int] = range(3)) -> list[float]:
    """What the clones of CIFAR-10's victims keep of their victims' accuracy."""
    rows = reproduce.read(lessons.course() / "results" / reproduce.FILES[budget])
    kept = [r for r in rows if (r.dataset, r.stage, r.chosen) == ("cifar10", stage, True)]
    return [row.clone_accuracy / row.victim_accuracy for row in kept if row.victim in victims]


QUOTED = {  # accuracy of clone and victim that PCAT, Table 5, gives for the paper
    ("MNIST", "one", "pool1"): "93.75% of 98.00%",
    ("MNIST", "two", "pool2"): "63.30% of 98.00%",
    ("CIFAR-10", "one", "relu1"): "43.69% of 71.00%",
    ("CIFAR-10", "two", "pool1"): "22.12% of 71.00%",
}


def _stolen(pairs: list[tuple[float, float]]) -> str:
    """Say how accurate clones are, the worst in brackets, and their victims."""
    clones, victims = zip(*pairs, strict=True)
    middle = statistics.median
    return f"{middle(clones):.1%} [{min(clones):.1%}] of {middle(victims):.1%}"


def test_beside_the_paper_stands_what_is_recorded() -> None:
    results = lessons.course() / "results"
    published: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for path in results.glob("published_*.json"):
        facts = json.loads(path.read_text(encoding="utf-8"))
        for run in facts["runs"]:
            pair = run["clone_accuracy"], run["victim_accuracy"]
            place = LABELS[facts["settings"]["dataset"]], facts["settings"]["cut"]
            published.setdefault(place, []).append(pair)
    study: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for row in reproduce.read(results / "depth.csv"):
        if row.chosen:
            pair = row.clone_accuracy, row.victim_accuracy
            study.setdefault((LABELS[row.dataset], row.stage), []).append(pair)
    for (name, layers, cut), quoted in {("digits", "one", "pool1"): "not quoted", **QUOTED}.items():
        ran = _stolen(published[name, cut]) if (name, cut) in published else "not run"
        ours = _stolen(study[name, cut])
        assert f"| {name}, {layers} ({cut}) | {quoted} | {ran} | {ours} |" in PAGE


def test_what_is_said_of_the_clones_on_photographs_follows_from_the_record() -> None:
    first, second, longer, pooled = (
        [f"{middle(_shares(*at)):.0%}" for middle in (statistics.median, min)]
        for at in (("quick", "conv1"), ("quick", "conv2"), ("full", "conv1"), ("quick", "pool1"))
    )
    assert (
        f"The clone keeps {first[0]} of its victim's accuracy after the first convolution in the "
        f"median (worst {first[1]}), and {second[0]} after the second (worst {second[1]}); with "
        f"four times the steps, below, {longer[0]} after the first (worst {longer[1]})."
    ) in PROSE
    assert f"of the victim's accuracy the clone keeps {pooled[0]} (worst {pooled[1]})." in PROSE
    others = [
        f"{statistics.median(_shares(*at, victims=(1, 2))):.0%}"
        for at in (("quick", "conv1"), ("quick", "conv2"), ("full", "conv1"))
    ]
    assert (
        f"On the two other victims alone, the clones keep {others[0]} and {others[1]}, and "
        f"{others[2]} with more steps."
    ) in PROSE


def test_what_time_alone_leaves_follows_from_the_record() -> None:
    def median(budget: str, stage: str) -> float:
        rows = reproduce.read(lessons.course() / "results" / reproduce.FILES[budget])
        at = ("mnist", stage, True)
        return statistics.median(r.raw_mse for r in rows if (r.dataset, r.stage, r.chosen) == at)

    stages = ("pool1", "conv2", "pool2")
    steady, fading = (
        [f"{median(budget, stage) / median('quick', stage):.0%}" for stage in stages]
        for budget in ("steady", "full")
    )
    assert (
        f"{steady[0]}, {steady[1]} and {steady[2]} of the error of 1,000 steps are left after "
        f"pool1, conv2 and pool2, with the fading one {fading[0]}, {fading[1]} and {fading[2]}."
    ) in PROSE
    rows = reproduce.read(lessons.course() / "results" / reproduce.FILES["steady"])
    kept = [r for r in rows if r.chosen and r.stage == "conv2"]
    (lost,) = [row for row in kept if row.negatives > 0.5]
    assert len(kept) == 9 and f"had found negatives, raw MSE {lost.raw_mse:.2f};" in PROSE
    others = [r for r in rows if reproduce._key(r) == reproduce._key(lost) and r is not lost]
    good = sorted(row.raw_mse for row in others if row.raw_mse < 0.1)
    assert f"four of its other five had {good[0]:.2f} to {good[-1]:.2f}.)" in PROSE
    assert (len(good), len(others)) == (4, 5)


def test_what_else_was_tried_is_recorded() -> None:
    tried = ablations.read(lessons.course() / "results" / "ablations.json")["places"]

    digits, mnist = tried
    assert (digits, mnist) == ("digits conv2", "mnist conv2")
    for by_idea in tried.values():
        assert not [idea for idea in by_idea if max(ablations.factors(by_idea, idea)) < 1]
    bare = ablations.factors(tried[digits], "without exposure")
    assert len(bare) == 9
    aligned = statistics.median(ablations.factors(tried[digits], "without exposure", "aligned_mse"))
    there = statistics.median(ablations.factors(tried[mnist], "without exposure"))
    assert (
        f"without it the raw MSE is {statistics.median(bare):.0f} times as high in the median on "
        f"digits ({min(bare):.0f} to {max(bare):.0f}; aligned: {aligned:.1f}), {there:.1f} times "
        "on MNIST."
    ) in PROSE


def test_what_ssim_makes_of_black_margins_follows_from_the_record() -> None:
    from torchmetrics.functional.image import structural_similarity_index_measure

    with np.load(lessons.course() / "results" / "inversion_mnist.npz") as arrays:
        found, truth = (torch.from_numpy(arrays[name]) for name in ("inputs", "truth"))

    def inside(images: torch.Tensor) -> torch.Tensor:
        pair = images.double(), truth.double()
        _, full = structural_similarity_index_measure(
            *pair, data_range=1.0, reduction="none", return_full_image=True
        )
        return full[..., 5:-5, 5:-5].mean((1, 2, 3))

    blank = torch.zeros_like(truth)
    over_edges = torch.stack([metrics.ssim(images, truth) for images in found])
    (place,) = (over_edges < metrics.ssim(blank, truth)).nonzero()
    pair = over_edges[tuple(place)], metrics.ssim(blank, truth)[place[1]]
    assert f"blank image has for the same target: {pair[0]:.3f} and {pair[1]:.3f}." in PROSE
    within = torch.stack([inside(images) for images in found])
    assert within.numel() == 90 and bool((within > inside(blank)).all())
    medians = [f"{scores.quantile(0.5):.2f}" for scores in (inside(blank), within.flatten())]
    assert f"blank ones have {medians[0]} in the median, the attack {medians[1]}," in PROSE


def test_the_time_to_quality_is_the_recorded_one() -> None:
    record = lessons.course() / "results" / "speed_mnist.json"
    facts = json.loads(record.read_text(encoding="utf-8"))
    victims = facts["victims"]
    assert facts["reached"] and len(victims) == 3
    assert all(len(victim["runs"]) == 9 and victim["targets"] == 3 for victim in victims)
    assert facts["clones"] == 27
    assert {run["seed"] for victim in victims for run in victim["runs"]} == {*speed.REPORTED}
    ratio = {name: f"{value:,.0f}" for name, value in facts["ratio"].items()}
    assert f"the median of all 27 is **{ratio['median']} times sooner**" in PROSE
    assert (
        f"The {facts['good_clones']} of 27 that match both do so {ratio['median_of_good']} times "
        f"sooner in the median, from {ratio['least_of_good']} to {ratio['greatest']}."
    ) in PROSE
    seconds = sorted(victim["published_seconds"] for victim in victims)
    assert f"would take {seconds[0]:,.0f} to {seconds[-1]:,.0f} s in the median" in PROSE
    timings = [run["published_seconds"] for victim in victims for run in victim["runs"]]
    assert f"as fast: {min(timings):,.0f} to {max(timings):,.0f} s)" in PROSE
    steps = [victim["steps"] for victim in victims]
    assert f"one: {steps[0]}, {steps[1]} and {steps[2]}." in PROSE
    sooner = [f"{statistics.median(victim['ratios']):,.0f}" for victim in victims]
    assert f"by victim {sooner[0]}, {sooner[1]} and {sooner[2]})" in PROSE


def test_what_stopping_early_does_for_the_published_schedule_is_recorded() -> None:
    record = lessons.course() / "results" / "speed_mnist.json"
    first, *others = json.loads(record.read_text(encoding="utf-8"))["victims"]
    stops = [victim["stopped"] for victim in others]
    assert first["stopped"]["steps"] is None
    rounds = [stop["steps"] // stop["steps_of_a_round"] for stop in stops]
    times = [f"{stop['times_hurried']:.0f}" for stop in stops]
    theirs, ours = ([f"{_raw(r['runs']):.3f}" for r in runs] for runs in (stops, others))
    assert f"it needs {rounds[0]} and {rounds[1]} of its 1,000 rounds" in PROSE
    *some, last = speed.STOPPED_ROUNDS
    tried = f"{', '.join(map(str, some))} and {last}"
    assert f"(on the first victim more than {last}; tried were {tried})" in PROSE
    assert f"takes {times[0]} and {times[1]} times as long as ours" in PROSE
    assert f"raw MSE {theirs[0]} and {theirs[1]}, ours {ours[0]} and {ours[1]}" in PROSE


def test_what_is_said_of_algebra_is_recorded() -> None:
    record = lessons.course() / "results" / "deconvolution.json"
    runs = json.loads(record.read_text(encoding="utf-8"))["runs"]
    raw = {
        (name, stage): f"{statistics.median(run['raw_mse'] for run in runs[name][stage]):.2g}"
        for name in runs
        for stage in runs[name]
    }
    said = [f"{label} {raw[name, 'conv1']}" for name, label in LABELS.items()]
    assert f"raw MSE: {', '.join(said)}." in PROSE
    costs = [raw[name, "relu1"] for name in ("digits", "mnist")]
    assert f"costs little on digits ({costs[0]}) and more on MNIST ({costs[1]}, where" in PROSE


def test_the_throughput_is_the_recorded_one() -> None:
    record = lessons.course() / "results" / "throughput_cpu.json"
    facts = json.loads(record.read_text(encoding="utf-8"))
    assert throughput.table(facts["rows"]) in PAGE
    assert f"Memory stays at {facts['peak_memory_bytes'] / 2**30:.1f} GiB with 10,000" in PROSE
    compiled = facts["compiled"]
    first, second, third = (f"{row['times_as_fast']:.2f}" for row in compiled)
    assert f"a step is {first}, {second} and {third} times as fast with 10, 1,000 and" in PROSE
    middle, largest = (
        max(row[f"{which}_difference"] for row in compiled) for which in ("median", "largest")
    )
    spread = ", ".join(f"{row['least']:.2f} to {row['most']:.2f}" for row in compiled)
    assert f"Five pairs each, {spread};" in PROSE
    assert f"differs by {middle:.1g} in the median and by up to {largest:.1g}.)" in PROSE


def _raw(runs: list[dict[str, float]]) -> float:
    return statistics.median(run["raw_mse"] for run in runs)


def test_the_arena_rows_are_the_recorded_ones() -> None:
    rows = arena.read(lessons.course() / "results" / "arena_digits.csv")
    recorded = arena.table(rows).splitlines()
    shown = PAGE[PAGE.index(recorded[0]) :].split("\n\n")[0].splitlines()
    assert len(shown) > 2 and set(shown) <= set(recorded)


def test_a_defence_works_only_where_the_best_attacker_fails() -> None:
    rows = arena.read(lessons.course() / "results" / "arena_digits.csv")
    settings = arena.medians(rows, "service", "accuracy")
    assert not arena.working(rows)
    assert f"None of the {len(settings)} settings does, and none would" in PROSE
    alone = arena.working(rows, ["UnSplit"])
    names = [f"{defense} {strength:g}" for defense, strength in alone]
    assert f"Were UnSplit alone, {', '.join(names[:-1])} and {names[-1]} would" in PROSE
    floor = statistics.median(row.baseline for row in rows if row.measure == "aligned_mse")
    with_data = arena.best_attacks(rows, ["SDAR", "PCAT", "FORA"])
    assert len(with_data) == len(settings)
    assert not arena.working(rows, ["UnSplit", "SDAR", "PCAT", "FORA"])
    left = {key: statistics.median(errors) / floor for key, (_, errors) in with_data.items()}
    shares = [f"{left[key]:.0%}" for key in alone]
    assert f"leave {', '.join(shares[:-1])} and {shares[-1]} of the mean image's error" in PROSE
    accuracy = {key: statistics.median(shares) for key, shares in settings.items()}
    cost = 100 * (accuracy["none", 0.0] - accuracy["Gaussian noise", 8.0])
    noisy = left["Gaussian noise", 8.0]
    assert f"which costs {cost:.1f} points, they get to {noisy:.0%}" in PROSE


def test_the_victims_of_attackers_with_data_were_trained_again() -> None:
    path = lessons.course() / "results" / "arena_digits.csv"
    rows = arena.read(path)
    before = {row.key: row.value for row in rows if row.attack == "service"
              and row.measure == "accuracy"}  # fmt: skip
    again = {row.key: row.value for row in rows if row.attack == "retrained"}
    facts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert {row.victim for row in rows if row.attack == "retrained"} == set(
        range(facts["with_data"]["victims"])
    )
    most = 100 * max(abs(again[key] - before[key]) for key in again)
    assert f"from the recorded one by up to {most:.1f} points" in PROSE
    assert any(f"up to {most:.1f} points" in note for note in facts["notes"])
    for attack in ("SDAR", "PCAT", "FORA"):
        assert {row.key for row in rows if row.attack == attack} == set(again)


def test_labelled_images_have_the_mean_of_the_class_for_free() -> None:
    digits = data.load("digits")
    own, _ = experiments.auxiliary_data(digits, 200)
    targets = experiments.first_targets(digits, 10)
    means = experiments.class_means(own, targets.labels)
    found = metrics.score_images(means, targets.images).aligned_mse.median().item()
    rows = arena.read(lessons.course() / "results" / "arena_digits.csv")
    floor = statistics.median(row.baseline for row in rows if row.measure == "aligned_mse")
    assert f"which leaves {found / floor:.0%} of the mean image's error" in PROSE
