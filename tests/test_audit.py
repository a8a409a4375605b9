"""An audit of splits as their users write them: what is tried, what is said, what is refused."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import foreign
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from sltools import audit, data, experiments, protocol
from sltools.audit import attackers, findings, running, sources, training, verdicts
from sltools.audit import measures as audit_measures
from sltools.audit import report as reporting
from sltools.audit.form import Form, as_features, undo_features
from sltools.audit.running import Work
from sltools.audit.system import Parts, build
from sltools.errors import DataError, ModelError, NotObservable, SltoolsError
from sltools.messages import Message
from sltools.models import Architecture
from sltools.view import View

SYSTEMS: dict[str, tuple[Callable[[], nn.Module], Callable[[], nn.Module], tuple[int, ...]]] = {
    "ResNet with BatchNorm": (foreign.SmallResNet, lambda: foreign.Pooled(16), (3, 32, 32)),
    "GroupNorm": (foreign.group_norm_front, lambda: foreign.Pooled(16), (3, 64, 64)),
    "patch transformer": (foreign.PatchTransformer, foreign.TokenHead, (1, 16, 16)),
    "bottleneck": (foreign.ResNet50Front, lambda: foreign.Pooled(256), (3, 64, 64)),
    "rows": (foreign.mlp_front, foreign.mlp_rest, (12,)),
}


@pytest.fixture(autouse=True)
def _once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No attack is repeated for as long as there is time."""
    monkeypatch.setattr("sltools.audit.running.SEEDS", 1)


def _samples(shape: tuple[int, ...], count: int = 64) -> tuple[Tensor, Tensor]:
    return foreign.table(count) if len(shape) == 1 else foreign.blobs(count, shape)  # type: ignore[arg-type]


def _system(name: str, count: int = 64, **options: float) -> audit.System:
    client, rest, shape = SYSTEMS[name]
    parts = Parts(client, rest, audit.Samples(*_samples(shape, count)))
    return build(parts, seconds=options.get("seconds", 2))


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_attacker_that_applies_runs_on_a_foreign_split(name: str) -> None:
    system = _system(name)
    tried = [attacker for attacker in audit.ATTACKERS if not attacker.lacking(system)]
    assert len(tried) >= 7
    if name == "bottleneck":  # 65,536 numbers for each sample: the others take half a minute
        tried = [a for a in tried if a.name in ("UnSplit", "FORA", "search, weights known")]
    guessed = findings.guessed_images(system)
    for attacker in tried:
        found = attacker.run(system, 2, 0)
        scores = findings.score(system, found, guessed)
        if found.images is not None:
            assert found.images.shape == system.truth.shape  # type: ignore[union-attr]
            assert scores.raw_mse is not None and scores.identified is not None
        assert found.images is not None or scores.groups is not None
        assert found.knowledge, attacker.name


def test_activations_from_a_file_alone_are_attacked_and_not_scored(tmp_path: Path) -> None:
    images, _ = foreign.blobs(40, (1, 16, 16))
    front = foreign.PatchTransformer().eval()
    np.save(tmp_path / "z.npy", front(images).detach().numpy())
    np.save(tmp_path / "public.npy", foreign.blobs(40, (1, 16, 16), seed=1)[0].numpy())
    (tmp_path / "net.py").write_text("from foreign import PatchTransformer as client\n")
    (tmp_path / "foreign.py").write_text(Path(foreign.__file__).read_text())
    parts = {"smashed": sources.read_smashed(tmp_path / "z.npy"),
             "public": sources.read_samples(tmp_path / "public.npy")}  # fmt: skip
    system = build(Parts(sources.builder(f"{tmp_path}/net.py:client"), **parts))  # type: ignore[arg-type]
    assert system.truth is None and system.architecture is not None
    lacking = {a.name: a.lacking(system) for a in audit.ATTACKERS}
    assert [name for name, why in lacking.items() if not why] == [
        "feature map, displayed", "UnSplit", "FORA",
    ]  # fmt: skip


def test_the_report_of_recorded_activations_says_what_cannot_be_known() -> None:
    images, _ = foreign.blobs(30, (1, 16, 16))
    smashed = foreign.PatchTransformer().eval()(images).detach()
    public, _ = foreign.blobs(40, (1, 16, 16), seed=1)
    report = audit.run(foreign.PatchTransformer, smashed=smashed, public=public, minutes=0.5)
    assert report.verdicts[0].answer.startswith("Cannot be said: the true inputs were not given")
    assert "<img" in report.page  # what the attackers made is shown all the same
    runs = [run for found in report.facts["findings"] for run in found["runs"]]
    assert runs and all(run["raw_mse"] is None for run in runs)


def test_a_recording_with_its_images_is_scored_and_other_weights_are_noticed() -> None:
    images, _ = foreign.blobs(30, (3, 32, 32))
    network = foreign.SmallResNet().eval()
    smashed, weights = network(images).detach(), network.state_dict()
    same, noisy = (
        Parts(foreign.SmallResNet, samples=audit.Samples(images), weights=weights, smashed=sent)
        for sent in (smashed, smashed + 0.5 * torch.randn(smashed.shape))
    )
    assert build(same).notes == () and build(same).truth is not None
    assert "differs from the recording" in build(noisy).notes[0]


def test_a_recording_beside_the_trained_rest_is_attacked_through_it() -> None:
    images, _ = foreign.blobs(30, (3, 32, 32))
    client, rest = foreign.SmallResNet().eval(), foreign.Pooled(16)
    parts = Parts(
        foreign.SmallResNet,
        lambda: foreign.Pooled(16),
        public=audit.Samples(*foreign.blobs(40, (3, 32, 32), seed=1)),
        weights=client.state_dict() | rest.state_dict(),
        smashed=client(images).detach(),
    )
    system = build(parts)
    tried = [attacker.name for attacker in audit.ATTACKERS if not attacker.lacking(system)]
    assert {"SDAR", "PCAT", "FORA", "UnSplit"} <= set(tried) and system.classes == 4


def test_a_saved_view_is_audited_without_anything_else(tmp_path: Path) -> None:
    digits = data.load("digits")
    session = experiments.train_victim(digits, "pool1", budget="tiny")
    folder = session.observe(digits.test.images[:12]).save(tmp_path / "seen")
    system = build(Parts(view=View.open(folder)))
    found = next(a for a in audit.ATTACKERS if a.name == "UnSplit").run(system, 2, 0)
    assert tuple(found.images.shape) == (10, 1, 28, 28)  # type: ignore[union-attr]


def test_targets_training_and_public_samples_are_apart() -> None:
    system = _system("rows", 80)
    parts = [system.truth, system.training.images, system.public.images,  # type: ignore[union-attr]
             system.held_out.images]  # type: ignore[union-attr]  # fmt: skip
    rows = [row.numpy().tobytes() for part in parts for row in part]  # type: ignore[union-attr]
    assert len(rows) == len(set(rows)) == 80


def test_samples_that_are_alike_count_once() -> None:
    images, labels = foreign.blobs(40, (3, 32, 32))
    twice = audit.Samples(torch.cat([images, images]), torch.cat([labels, labels]))
    weights = foreign.SmallResNet().state_dict()
    system = build(Parts(foreign.SmallResNet, samples=twice, weights=weights))
    assert "40 of your 80 samples equal others" in system.notes[0]
    alike = audit.Samples(torch.ones(20, 3, 32, 32))
    with pytest.raises(DataError, match="1 samples that differ, of 20, are too few"):
        build(Parts(foreign.SmallResNet, samples=alike, weights=weights))


def test_private_samples_are_taken_out_of_the_public_ones() -> None:
    images, labels = foreign.blobs(40, (3, 32, 32))
    public, _ = foreign.blobs(20, (3, 32, 32), seed=1)
    both = audit.Samples(torch.cat([images[:5], public]))
    weights = foreign.SmallResNet().state_dict()
    parts = Parts(foreign.SmallResNet, samples=audit.Samples(images, labels), weights=weights)
    system = build(replace(parts, public=both))
    assert len(system.public) == 20  # type: ignore[arg-type]
    with pytest.raises(DataError, match="all public samples are among the private ones"):
        build(replace(parts, public=audit.Samples(images[:5])))


def test_the_audit_of_the_papers_network_agrees_with_the_recorded_table() -> None:
    """As the record of depth has it at pool1, from other targets."""
    from sltools.audit import parts

    system = build(parts.of_paper("digits", "pool1"))
    guessed = findings.guessed_images(system)
    unsplit = next(a for a in audit.ATTACKERS if a.name == "UnSplit")
    error = findings.score(system, unsplit.run(system, 1000, 0), guessed).raw_mse
    table = Path("course/results/depth.csv").read_text().splitlines()
    columns = table[0].split(",")
    rows = [dict(zip(columns, line.split(","), strict=True)) for line in table[1:]]
    known = [float(row["raw_mse"]) for row in rows
             if (row["dataset"], row["stage"]) == ("digits", "pool1")]  # fmt: skip
    assert min(known) / 2 < error < 2 * max(known)  # type: ignore[operator]


# --- What numbers are made of


def _trivial(images: Tensor | None = None) -> audit.System:
    """A client that sends what it gets."""
    images, labels = foreign.blobs(60, (1, 16, 16))
    weights = nn.Conv2d(1, 1, 1).state_dict()
    weights = {"weight": torch.ones_like(weights["weight"]), "bias": torch.zeros(1)}
    return build(Parts(lambda: nn.Conv2d(1, 1, 1), samples=audit.Samples(images, labels),
                       weights=weights))  # fmt: skip


def test_perfect_images_and_blind_guesses_are_scored_as_such() -> None:
    system = _trivial()
    truth, guessed = system.truth, findings.guessed_images(system)
    assert truth is not None and guessed is not None
    guesses = findings.guess(system, 1, 0)
    scores = [findings.score(system, attackers.Found(made), guessed) for made in
              (truth, guessed, truth.flip(0), 1 - truth)]  # fmt: skip
    perfect, blind, others, negative = scores
    everything = findings.Share(len(truth), len(truth))
    assert perfect.raw_mse == 0 and (perfect.closer, perfect.identified) == (everything, everything)
    assert blind.closer.right == 0 and blind.identified == guesses.identified  # type: ignore[union-attr]
    assert others.identified.right <= len(truth) % 2  # type: ignore[union-attr]
    assert negative.identified.right == 0 and negative.aligned_mse < 1e-6  # type: ignore[union-attr,operator]
    told = [verdicts.word(findings.Finding("x", audit.LEVELS[1], "", runs=[some]), guesses)
            for some in scores]  # fmt: skip
    assert told == ["recovered", "no better", "no better", "in part"]  # a negative shows it all


def test_a_client_that_sends_its_inputs_is_read_and_noise_hinders() -> None:
    system = _trivial()
    none, *others = [measure() for measure in audit_measures.defended(system)]
    assert none.name == "none" and none.decoder_mse < 1e-3  # type: ignore[operator]
    noise = {defense.name: defense.decoder_mse for defense in others}
    assert noise["Gaussian noise, 2 of the spread"] > 10 * none.decoder_mse  # type: ignore[operator]
    assert noise["clipped to 0.5 of the median norm"] < noise["quantised to 1 bit"]  # type: ignore[operator]


def test_shapes_in_false_colours_are_seen_though_the_error_is_that_of_a_guess() -> None:
    """Dark rectangles of one colour, found as bright ones of another."""
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(60, 3, 24, 24, generator=draw) / 20 + 0.9
    for image in images:
        top, left = torch.randint(14, (2,), generator=draw).tolist()
        image[:, top : top + 9, left : left + 7] = torch.tensor([0.2, 0.4, 0.1]).view(3, 1, 1)
    system = build(Parts(lambda: nn.Conv2d(3, 4, 3), samples=audit.Samples(images),
                         weights=nn.Conv2d(3, 4, 3).state_dict()))  # fmt: skip
    truth, guessed = system.truth, findings.guessed_images(system)
    assert truth is not None and guessed is not None
    guesses = findings.guess(system, 1, 0)
    found = [
        findings.Finding("x", audit.LEVELS[1], "", runs=[findings.score(
            system, attackers.Found(made), guessed)])
        for made in ((1 - truth).flip(1) / 2, guessed, torch.rand_like(truth))
    ]  # fmt: skip
    assert [verdicts.word(one, guesses) for one in found] == ["in part", "no better", "no better"]
    told = verdicts.verdicts(found, guesses)[0].answer
    assert told.startswith("With this effort, in part")
    assert "the shapes of 100% (10 of 10" in told and "the error alone says no more" in told


def test_a_listener_looks_at_the_maps() -> None:
    look = next(a for a in audit.ATTACKERS if a.name == "feature map, displayed")
    system = _trivial()
    found = findings.score(system, look.run(system, 0, 0), findings.guessed_images(system))
    assert found.raw_mse < 0.01 and found.identified.value == 1  # type: ignore[operator,union-attr]
    assert look.lacking(_system("rows")) == "the activations are vectors, which show no picture"


def test_a_client_without_parameters_is_had_by_who_knows_its_architecture() -> None:
    images, labels = foreign.blobs(80, (1, 16, 16))
    rest = lambda: nn.Sequential(nn.Flatten(), nn.Linear(256, 4))  # noqa: E731
    parts = Parts(nn.Identity, rest, audit.Samples(images, labels))
    system = build(parts, seconds=9)
    assert system.is_weightless and system.taught_here == ("rest",)
    lacking = {a.name: a.lacking(system) for a in audit.ATTACKERS}
    assert {name for name, why in lacking.items() if "no parameters" in why} == {"UnSplit", "SDAR"}
    decoder = next(a for a in audit.ATTACKERS if a.name == "decoder, weights known")
    assert decoder.level_in(system) == "knows the architecture"
    setting = verdicts.Setting.of(system)
    found = findings.not_tried(system, decoder, "")
    said = verdicts.verdicts([found], findings.Guesses(), setting)
    assert said[1].answer.startswith("It costs nothing: the client has no parameters")


def test_samples_that_a_trained_client_may_know_are_not_called_held_out() -> None:
    images, labels = foreign.blobs(80, (3, 32, 32))
    weights = foreign.SmallResNet().state_dict()
    parts = Parts(foreign.SmallResNet, lambda: foreign.Pooled(16), audit.Samples(images, labels))
    trained, given = build(parts, seconds=1), build(replace(parts, weights=weights), seconds=1)
    assert verdicts.Setting.of(trained) == verdicts.USUAL
    scored_on, server, _ = verdicts.Setting.of(given)
    assert scored_on == "samples that the client may have learned from"
    assert server == "a part that was trained here in the server's place"


def test_many_activations_are_decoded_by_least_squares_of_themselves() -> None:
    """More numbers for each sample than samples, of which the inputs are a linear function."""
    images, _ = foreign.blobs(120, (1, 16, 16))
    mixed = images.flatten(1) @ torch.randn(256, 2304, generator=torch.Generator().manual_seed(0))
    decoded, fit = attackers.decode(mixed[:100], images[:100], mixed[100:], seed=0)
    errors = (decoded - images[100:]).square().mean((1, 2, 3))
    assert fit.features == "linear" and errors.median() < 0.1 * images.var()


def test_operations_are_those_of_the_layers() -> None:
    system = _trivial()
    found = audit_measures.wire(system)
    assert found.client_operations == 2 * 16 * 16  # a multiplication and an addition for each pixel
    assert found.numbers == found.inputs == 256 and found.bytes == 1024
    assert found.correlation > found.shuffled_correlation  # type: ignore[operator]
    assert audit_measures.wire(_system("patch transformer")).client_operations > 12_288  # type: ignore[operator]


def test_copies_are_scored_beside_the_victim_on_held_out_samples() -> None:
    images, labels = foreign.blobs(120, (1, 16, 16))
    system = build(
        Parts(
            lambda: nn.Sequential(nn.Conv2d(1, 4, 3, 2), nn.ReLU()),
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(196, 4)),
            audit.Samples(images, labels),
        ),
        seconds=20,
    )
    assert system.client is not None and system.held_out is not None
    same = findings.score(system, attackers.Found(copy=system.client), None)
    assert same.agreement == findings.Share(len(system.held_out), len(system.held_out))
    guesses = findings.guess(system, 20, 0)
    assert same.accuracy == guesses.victim and guesses.victim.value > 0.6  # type: ignore[union-attr]
    machine = guesses.rivals[
        f"a support vector machine of {len(system.public)} of the attacker's samples"
    ]  # type: ignore[index]
    network = guesses.rivals["a network of the attacker's samples"]  # type: ignore[index]
    assert machine[0].value > 0.6 and network[0].value > 0.5  # type: ignore[union-attr]


def test_a_rest_that_works_in_place_leaves_the_activations_alone() -> None:
    images, labels = foreign.blobs(60, (1, 16, 16))
    system = build(
        Parts(
            lambda: nn.Conv2d(1, 4, 3),
            lambda: nn.Sequential(nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(784, 4)),
            audit.Samples(images, labels),
        ),
        seconds=2,
    )
    before = system.smashed.clone()
    findings.guess(system, 1, 0)
    assert torch.equal(system.smashed, before) and before.min() < 0


def test_other_cuts_are_those_of_the_trained_network() -> None:
    system = build(Parts(foreign.mlp_front, foreign.mlp_rest, audit.Samples(*_samples((12,)))),
                   seconds=1)  # fmt: skip
    cuts = [measure() for measure in audit_measures.other_cuts(system)]
    assert [cut.name for cut in cuts] == ["1: Linear", "2: ReLU", "3: Linear", "4: ReLU"]
    assert [cut.is_yours for cut in cuts] == [False, False, False, True]
    assert [cut.client_parameters for cut in cuts] == [416, 416, 944, 944]
    also = build(
        Parts(foreign.mlp_front, foreign.mlp_rest, audit.Samples(*_samples((12,))),
              also=[lambda: nn.Sequential(nn.Linear(12, 32))]), seconds=1,
    )  # fmt: skip
    [(_, front)] = also.also
    trained = also.trained["client.network.module.0.weight"]
    assert torch.equal(front.state_dict()["network.module.0.weight"], trained)


# --- Time, Ctrl-C, and going on


def test_what_the_time_does_not_allow_is_told_and_done_by_the_same_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, rest, shape = SYSTEMS["rows"]
    options = {"images": _samples(shape)[0], "labels": _samples(shape)[1], "rest": rest}
    short = audit.run(client, **options, minutes=0, folder=tmp_path / "out")  # type: ignore[arg-type]
    assert "no time left: give more --minutes" in str(short.facts["not tried"])
    long = audit.run(client, **options, minutes=0.3, folder=tmp_path / "out")  # type: ignore[arg-type]
    runs = {found["attacker"]: found["runs"] for found in long.facts["findings"]}
    assert runs["decoder, weights known"] and runs["clusters of activations"]
    assert long.facts["defences"] and long.facts["cuts"]
    assert short.facts["system"]["notes"] != long.facts["system"]["notes"]  # trained anew
    monkeypatch.delattr("sltools.audit.measures.other_cuts")  # whole, and not measured again
    again = audit.run(client, **options, minutes=0.3, folder=tmp_path / "out")  # type: ignore[arg-type]
    assert again.facts["cuts"] == long.facts["cuts"]
    assert "trained in an earlier run" in str(again.facts["system"]["notes"])
    kept = json.loads((tmp_path / "out" / "report.json").read_text())
    assert kept["findings"] == json.loads(json.dumps(again.facts["findings"]))


def test_an_audit_that_is_interrupted_keeps_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, rest, shape = SYSTEMS["rows"]
    images, labels = _samples(shape)
    calls = []

    def interrupt(system: audit.System, steps: int, seed: int) -> attackers.Found:
        calls.append(steps)
        raise KeyboardInterrupt

    stopping = [
        attackers.Attacker(a.name, a.level, a.source, a.lacking, interrupt, a.least, a.most)
        if a.name == "FORA" else a for a in audit.ATTACKERS
    ]  # fmt: skip
    monkeypatch.setattr("sltools.audit.running.ATTACKERS", tuple(stopping))
    report = audit.run(client, images, labels, rest, minutes=0.2, folder=tmp_path / "out")
    assert report.interrupted and calls
    assert "The audit was interrupted" in (tmp_path / "out" / "report.html").read_text()
    monkeypatch.undo()
    again = audit.run(client, images, labels, rest, minutes=0.2, folder=tmp_path / "out")
    assert not again.interrupted


def test_training_keeps_to_its_time_within_an_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10_000))
    monkeypatch.setattr("time.monotonic", lambda: float(next(ticks)))
    steps, _, whole = training.fit(
        nn.Linear(2, 2), torch.rand(640, 2), torch.arange(640) % 2, seconds=3, seed=0
    )
    assert steps == 4 and not whole  # of ten in an epoch


def test_training_that_had_no_time_goes_on_from_where_it_was(tmp_path: Path) -> None:
    client, rest, shape = SYSTEMS["rows"]
    images, labels = _samples(shape)
    notes = [
        str(audit.run(client, images, labels, rest, minutes=minutes, folder=tmp_path / "out")
            .facts["system"]["notes"])
        for minutes in (0, 0, 0.2)
    ]  # fmt: skip
    assert "earlier run" not in notes[0] and ": 1 step," in notes[0]
    assert all("from where an earlier run left it" in told for told in notes[1:])
    assert "it goes on if there is more" not in notes[2]


def test_a_measure_that_was_finished_late_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(100))
    monkeypatch.setattr("time.monotonic", lambda: float(next(ticks)))
    assert audit_measures.within(0.5, [lambda: "slow"]) == ([], False)
    assert audit_measures.within(1.5, [lambda: "slow"]) == (["slow"], True)


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_a_longer_try_that_does_not_end_leaves_what_was_found(
    monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    def run(system: audit.System, steps: int, seed: int) -> attackers.Found:
        if steps > 100:
            raise error
        return attackers.Found(system.truth, settings={"steps": steps})

    def offer(most: int) -> None:
        one = attackers.Attacker("x", audit.LEVELS[0], "", lambda _: "", run, 5, most)
        monkeypatch.setattr(running, "ATTACKERS", (one,))

    system, work = _trivial(), running.Work()
    monkeypatch.setattr(audit_measures, "within", lambda *_: ([], True))
    for most in (100, 1000):
        offer(most)
        running.carry_out(system, work, seconds=9999, seed=0, keep=lambda _: None)
        assert len(work.findings["x"].runs) == 1 and "x" in work.images
    assert work.interrupted == (error is KeyboardInterrupt)


def test_another_audit_does_not_go_into_the_folder(tmp_path: Path) -> None:
    client, rest, shape = SYSTEMS["rows"]
    images, labels = _samples(shape)
    audit.run(client, images, labels, rest, minutes=0, folder=tmp_path / "out")
    with pytest.raises(SltoolsError, match="holds an audit of something else"):
        audit.run(client, images[:60], labels[:60], rest, minutes=0, folder=tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(SltoolsError, match="is not empty and holds no audit"):
        audit.run(client, images, labels, rest, minutes=0, folder=tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"


def test_the_same_source_that_builds_something_else_is_another_audit() -> None:
    samples = audit.Samples(*foreign.blobs(8, (3, 32, 32)))

    def digest(act: Callable[[Tensor], Tensor]) -> str:
        class Front(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 4, 3)

            def forward(self, images: Tensor) -> Tensor:
                return act(self.conv(images))

        return Parts(Front, samples=samples).digest

    assert digest(torch.relu) == digest(torch.relu) != digest(torch.tanh)


def test_what_cannot_be_measured_is_told_and_the_facts_are_json(tmp_path: Path) -> None:
    class Vast(nn.Conv2d):
        def forward(self, images: Tensor) -> Tensor:
            return 1e30 * super().forward(images)

    images, _ = foreign.blobs(40, (3, 16, 16))
    vast = lambda: Vast(3, 4, 3)  # noqa: E731
    report = audit.run(
        vast, images, weights=vast().state_dict(), minutes=0.2, folder=tmp_path / "o"
    )
    assert any(told.startswith("Defences: it failed") for told in report.facts["not tried"])

    def refuse(text: str) -> None:
        raise AssertionError(f"{text} is no JSON")

    json.loads((tmp_path / "o" / "report.json").read_text(), parse_constant=refuse)


def test_what_fails_leaves_no_folder(tmp_path: Path) -> None:
    client, rest, shape = SYSTEMS["rows"]
    with pytest.raises(ModelError):
        audit.run(client, _samples(shape)[0], minutes=0, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


# --- What is refused


def test_a_client_without_weights_rest_and_labels_is_refused() -> None:
    images, _ = foreign.blobs(20, (3, 32, 32))
    for rest, lacking in {
        None: "the rest of the network and labels",
        foreign.SmallResNet: "labels",
    }.items():
        with pytest.raises(ModelError, match=f"Give its weights, or {lacking} too, and client and"):
            build(
                Parts(
                    foreign.SmallResNet,
                    rest and (lambda: foreign.Pooled(16)),
                    audit.Samples(images),
                )
            )


def test_a_rest_that_does_not_take_the_activations_is_told_so() -> None:
    images, labels = foreign.blobs(20, (3, 32, 32))
    told = r"the rest fails .* Are the client's activations, \(16, 16, 16\) for each sample, what"
    with pytest.raises(ModelError, match=told):
        build(Parts(foreign.SmallResNet, lambda: foreign.Pooled(4), audit.Samples(images, labels)))


def test_fewer_targets_than_asked_for_are_told() -> None:
    client, rest, shape = SYSTEMS["rows"]
    parts = Parts(client, rest, audit.Samples(*_samples(shape)))
    told = build(parts, targets=5000, seconds=0).notes[-1]
    assert told == "The targets are 16, a quarter of all, and not 5000 as asked."
    assert not any("as asked" in note for note in build(parts, targets=16, seconds=0).notes)


def test_near_duplicates_of_targets_are_told() -> None:
    client, rest, shape = SYSTEMS["rows"]
    rows, labels = _samples(shape)
    for noise, told in {1e-3: True, 0.5: False}.items():
        near = rows + noise * rows.std(0) * torch.randn(rows.shape)
        report = audit.run(client, rows, labels, rest, public=near, minutes=0)
        notes = " ".join(report.facts["system"]["notes"])
        assert ("10 of 10 targets almost equal a sample" in notes) is told


def _two_inputs() -> nn.Module:
    class Two(nn.Module):
        def forward(self, image: Tensor, age: Tensor) -> Tensor:
            return image

    return Two()


def _seeded() -> nn.Module:
    torch.manual_seed(0)
    return nn.Conv2d(3, 4, 3)


_SHARED = nn.Conv2d(3, 3, 1)


def _half_fresh() -> nn.Module:
    return nn.Sequential(_SHARED, nn.Conv2d(3, 4, 3))


def _mixing() -> nn.Module:
    class Mixer(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image - image.mean(0)

    return Mixer()


class _Noisy(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, image: Tensor) -> Tensor:
        made: Tensor = self.conv(image)
        return made + 0.1 * torch.randn_like(made)


def test_a_client_that_adds_noise_is_audited_and_leaves_the_random_state_alone() -> None:
    images, labels = foreign.blobs(40, (3, 32, 32))
    state = torch.get_rng_state()
    report = audit.run(_Noisy, images, labels, lambda: foreign.Pooled(4), minutes=0)
    assert "drawn at random" in report.facts["system"]["notes"][0]
    assert torch.equal(state, torch.get_rng_state())


def _tuple() -> nn.Module:
    class Pair(nn.Module):
        def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
            return image, image

    return Pair()


@pytest.mark.parametrize(
    ("client", "message"),
    [
        (_two_inputs, r"takes several inputs \(image, age\)"),
        (_seeded, r"returns the same weights each time \(weight\)"),
        (_half_fresh, r"returns the same weights each time \(0\.weight\)"),
        (_mixing, "makes something else of a sample when another is beside it"),
        (lambda: nn.LazyConv2d(4, 3), "has no weights before it has met an input"),
        (_tuple, "must return one tensor"),
        (lambda: nn.Conv2d(1, 4, 3), "fails at an input of shape .* Are images of 3 channels"),
        (lambda: "net", "it must return a torch.nn.Module, not a str"),
        (lambda: nn.Conv2d(3, 4, 99), "fails at an input"),
        (lambda: 1 / 0, "cannot build a network: ZeroDivisionError"),
    ],
)
def test_networks_that_cannot_be_audited(client: Callable[[], nn.Module], message: str) -> None:
    images, labels = foreign.blobs(20, (3, 32, 32))
    with pytest.raises(ModelError, match=message):
        build(Parts(client, lambda: foreign.Pooled(4), audit.Samples(images, labels)))


def test_weights_labels_and_activations_that_do_not_fit() -> None:
    images, labels = foreign.blobs(20, (3, 32, 32))
    samples = audit.Samples(images, labels)
    with pytest.raises(ModelError, match="the weights do not fit the client: .* are missing"):
        build(Parts(foreign.SmallResNet, samples=samples, weights={"a": torch.zeros(1)}))
    with pytest.raises(DataError, match="there are 20 samples and 19 labels"):
        build(Parts(foreign.SmallResNet, lambda: foreign.Pooled(16),
                    audit.Samples(images, labels[:19])))  # fmt: skip
    with pytest.raises(DataError, match="the labels go up to 3, and the rest knows 2 classes"):
        build(Parts(foreign.SmallResNet, lambda: foreign.Pooled(16, 2), samples))
    with pytest.raises(DataError, match=r"the recorded activations are \(5, 5\)"):
        build(Parts(foreign.SmallResNet, samples=samples, smashed=torch.rand(20, 5, 5)))
    with pytest.raises(DataError, match="there are 19 activations and 20 samples"):
        build(Parts(samples=samples, smashed=torch.rand(19, 5)))
    with pytest.raises(ModelError, match="there is nothing to audit"):
        build(Parts())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": np.zeros((20, 3, 8, 8))}, "images must be a tensor"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "images must be a tensor"),
        ({"images": torch.zeros(20, 3, 8, 8, dtype=torch.uint8)}, "finite floats"),
        ({"images": torch.rand(20, 3, 8, 8), "labels": torch.zeros(20)}, "whole numbers from 0"),
        ({"images": torch.rand(20, 3, 8, 8), "labels": -torch.ones(20).long()}, "from 0"),
        ({"images": torch.rand(20, 3, 8, 8), "public": torch.rand(9, 1, 8, 8)}, "of one shape"),
        ({"images": torch.rand(20, 3, 8, 8), "minutes": -1}, "minutes must be"),
        ({"images": torch.rand(20, 3, 8, 8), "targets": 0}, "targets must be"),
        ({"smashed": torch.full((9, 4), torch.nan), "public": torch.rand(9, 4)}, "finite floats"),
        ({"client": nn.ReLU()}, "client must be the class, .* not a ReLU"),
        ({"rest": "net.py:Rest"}, "rest must be the class, .* not a str"),
        ({"also": [nn.ReLU()]}, "also must be the class"),
        ({"weights": "w.safetensors"}, r"weights must be tensors by name, .* not a str"),
        ({"images": torch.rand(20, 3, 8, 8), "labels": -torch.ones(20).long()}, "least of them -1"),
        (
            {"view": View("server", [Message(0, 0, "smashed", torch.full((9, 4), torch.inf))])},
            "activations of the view contain NaN",
        ),
    ],
)
def test_what_python_hands_over_is_checked(options: dict[str, object], message: str) -> None:
    with pytest.raises(SltoolsError, match=message):
        audit.run(**{"client": lambda: nn.Conv2d(3, 4, 3)} | options)  # type: ignore[arg-type]


# --- Files


def _pictures(folder: Path, size: tuple[int, int] = (16, 16), mode: str = "RGB") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        Image.new(mode, size, number * 40 if mode == "L" else (number * 40, 9, 9)).save(
            folder / f"{number}.png"
        )
    return folder


def test_pictures_are_read_with_the_classes_of_their_folders(tmp_path: Path) -> None:
    _pictures(tmp_path / "scans" / "healthy")
    _pictures(tmp_path / "scans" / "ill")
    values, labels = sources.read_samples(tmp_path / "scans")
    assert values.shape == (6, 3, 16, 16) and labels.tolist() == [0, 0, 0, 1, 1, 1]  # type: ignore[union-attr]
    assert values[2, 0, 0, 0].item() == pytest.approx(80 / 255)
    grey = sources.read_samples(_pictures(tmp_path / "grey", mode="L"))
    assert grey.values.shape == (3, 1, 16, 16) and grey.labels is None


def test_pictures_of_two_sizes_and_broken_ones_are_told(tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "scans")
    Image.new("RGB", (8, 9)).save(folder / "other.png")
    with pytest.raises(
        DataError, match="other.png is 8 x 9 in colour: all pictures must be of one"
    ):
        sources.read_samples(folder)
    (folder / "other.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="other.png cannot be read as a picture"):
        sources.read_samples(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no PNG or JPEG"):
        sources.read_samples(tmp_path / "empty")


def test_arrays_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    bytes_ = np.arange(2 * 8 * 8 * 3, dtype=np.uint8).reshape(2, 8, 8, 3) % 200
    np.savez(tmp_path / "a.npz", images=bytes_, labels=np.array([0, 1]))
    save_file({"images": torch.from_numpy(bytes_).permute(0, 3, 1, 2).float().contiguous() / 255},
              tmp_path / "a.safetensors")  # fmt: skip
    header = b"\0\0\x08\x03" + b"".join(n.to_bytes(4, "big") for n in (2, 8, 8))
    (tmp_path / "a-idx3-ubyte").write_bytes(header + bytes_[..., 0].tobytes())
    one, labels = sources.read_samples(tmp_path / "a.npz")
    assert torch.equal(one, sources.read_samples(tmp_path / "a.safetensors").values)
    assert labels.tolist() == [0, 1]  # type: ignore[union-attr]
    assert torch.equal(sources.read_samples(tmp_path / "a-idx3-ubyte").values, one[:, :1])
    for text in ("0\n1\n", "label\n0\n1", "\ufeffthe label\r\n0\r\n1.0\r\n"):
        (tmp_path / "labels.csv").write_text(text, encoding="utf-8", newline="")
        assert sources.read_labels(tmp_path / "labels.csv").tolist() == [0, 1]
    for text in ("0.5,2\n-1e3,4\n", "age,dose\n0.5,2\n-1e3,4"):
        (tmp_path / "rows.csv").write_text(text)
        rows = sources.read_samples(tmp_path / "rows.csv").values
        assert rows.tolist() == [[0.5, 2.0], [-1000.0, 4.0]]


def test_files_that_are_no_samples_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "nan.npy", np.full((2, 8, 8), np.nan, np.float32))
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    torch.save(nn.Linear(1, 1).state_dict(), tmp_path / "net.pt")
    np.save(tmp_path / "text.npy", np.array(["a"]))
    for name, message in {
        "nan.npy": "contains NaN or infinite values",
        "object.npy": "holds pickled objects, which are never opened",
        "net.pt": "is of no kind that is read here",
        "text.npy": "samples are floats",
        "none.npy": "does not exist",
    }.items():
        with pytest.raises(DataError, match=message):
            sources.read_samples(tmp_path / name)
    with pytest.raises(DataError, match="is no safetensors file"):
        sources.read_weights(tmp_path / "net.pt")
    np.save(tmp_path / "flat.npy", np.arange(200))
    with pytest.raises(DataError, match=r"flat.npy holds int64 of shape \(200,\)"):
        sources.read_samples(tmp_path / "flat.npy")
    (tmp_path / "cut-idx1-ubyte").write_bytes(b"\0\0\x08\1\0\0\0\x09\1")
    with pytest.raises(DataError, match="truncated .9 bytes where its header promises 17."):
        sources.read_samples(tmp_path / "cut-idx1-ubyte")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a\nb\n", "is no table of numbers, .*could not convert string"),
        ("label\n", "it has no rows"),
        ("", "it has no rows"),
        ("1,2\n3\n", "is no table of numbers, .*number of columns changed"),
        ("1;2\n3;4\n", "is no table of numbers"),
        ("0\n-1\n", r"must be whole numbers from 0, .* of shape \(2,\), the least of them -1"),
        ("0,1\n1,1\n", r"must be whole numbers from 0, .* of shape \(2, 2\)"),
        ("0.5\n1\n", "must be whole numbers from 0"),
    ],
)
def test_tables_that_are_no_labels_are_told(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        sources.read_labels(tmp_path / "labels.csv")


def test_labels_are_not_read_from_a_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a folder: give a file .*, or leave the labels out"):
        sources.read_labels(tmp_path)


def test_a_network_is_named_by_its_file_and_function(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text("def client(): pass\n")
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for place, message in {
        f"{tmp_path}/net.py": "FILE.py:FUNCTION",
        f"{tmp_path}/net.py:server": "has no function 'server'; it has client",
        f"{tmp_path}/none.py:client": "there is no file",
        f"{tmp_path}/broken.py:client": "cannot be run: ZeroDivisionError",
    }.items():
        with pytest.raises(ModelError, match=message):
            sources.builder(place)


# --- Forms, architectures and views


@pytest.mark.parametrize("shape", [(5,), (3, 4, 4), (16, 6), (17, 6), (2, 3, 4, 5)])
def test_features_can_be_undone(shape: tuple[int, ...]) -> None:
    activations = torch.rand(4, *shape)
    assert torch.equal(undo_features(as_features(activations), shape), activations)


def test_a_range_is_that_of_each_channel() -> None:
    samples = torch.rand(10, 3, 4, 4) * torch.tensor([1.0, 2.0, 300.0]).view(3, 1, 1) - 1
    form = Form.of(samples)
    assert form.pixels(samples).amin() == 0 and form.pixels(samples).amax() == 1
    assert torch.allclose(form.samples(form.pixels(samples)), samples, atol=1e-4)


def test_a_view_of_an_architecture_by_callable_says_that_it_cannot_be_reopened(
    tmp_path: Path,
) -> None:
    known = Architecture.from_callable(foreign.SmallResNet, (3, 32, 32))
    view = View.of_activations(torch.rand(2, 16, 16, 16), known)
    assert view.architecture.build(0) is not view.architecture.build(0)
    again = View.open(view.save(tmp_path / "seen"))
    assert torch.equal(again.smashed, view.smashed)
    with pytest.raises(NotObservable, match="known by the callable that builds it"):
        again.architecture  # noqa: B018


# --- The page


def test_the_page_needs_nothing_else_and_every_picture_has_words() -> None:
    client, rest, shape = SYSTEMS["patch transformer"]
    images, labels = _samples(shape)
    page = audit.run(client, images, labels, rest, minutes=0.2).page
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert not re.search(r"<(script|link|iframe)", page)
    for picture in re.findall(r"<img[^>]*>", page):
        assert re.search(r'alt="[^"]{20,}"', picture)
    assert 'lang="en"' in page and page.count("<h1>") == 1
    assert "never says &#34;safe&#34;" in page or 'never says "safe"' in page
    assert not re.search(r"\b(is|are) safe\b", page)


def test_images_of_an_unscored_audit_bear_no_error_and_the_page_is_private(tmp_path: Path) -> None:
    public, _ = foreign.blobs(40, (1, 16, 16), seed=1)
    smashed = foreign.PatchTransformer().eval()(public[:9]).detach()
    system = build(Parts(foreign.PatchTransformer, smashed=smashed, public=audit.Samples(public)))
    report = reporting.make(system, Work(images={"FORA": public[:9]}), {})
    assert re.findall('alt="([^"]*)"', report.page) == ["Rows of 9 images: FORA."]
    page = report.save(tmp_path / "out")
    assert os.name == "nt" or page.stat().st_mode & 0o077 == 0


def test_a_users_words_are_text_on_the_page() -> None:
    client, rest, shape = SYSTEMS["rows"]
    report = audit.run(client, *_samples(shape), rest, name="<script>x</script>", minutes=0)
    assert "<script>" not in report.page
    assert len(repr(report)) < 100


def test_a_constant_network_is_no_victim_and_no_theft() -> None:
    share = findings.Share
    guesses = findings.Guesses(
        victim=share(6, 22), majority=share(25, 98), shuffled=0.3,
        rivals={"the victim's most frequent class": (share(6, 22), share(22, 22))},
    )  # fmt: skip
    copy = findings.Scores(agreement=share(22, 22), accuracy=share(6, 22))
    found = [findings.Finding("FORA", audit.LEVELS[2], "", runs=[copy])]
    first, _, second, _ = verdicts.verdicts(found, guesses)
    assert first.answer.startswith("Hardly")
    assert second.answer.startswith("None that is clearly better than without an attack")


def _scored(level: int, name: str, *errors: float, **scores: object) -> findings.Finding:
    runs = [findings.Scores(raw_mse=error, objective=1 - error, **scores) for error in errors]  # type: ignore[arg-type]
    return findings.Finding(name, audit.LEVELS[level], "", runs=runs)


def test_who_is_enough_is_said_beside_weaker_attackers() -> None:
    apart = findings.Share(9, 10)
    found = [
        _scored(1, "UnSplit", 0.11, 0.12, 0.13, identified=apart),
        _scored(2, "FORA"),  # for want of time
        _scored(3, "SDAR", 0.02),
    ]
    guesses = findings.Guesses(mean=0.1, identified=findings.Share(1, 10))
    told = verdicts.verdicts(found, guesses)[0].answer
    assert told.startswith("Yes: an attacker who has labelled samples (SDAR) is enough")
    assert "In part it takes less: an attacker who knows the architecture (UnSplit" in told
    assert "(0.13 in the run of least objective" in told and "and yet 90% (9 of 10" in told
    assert "Of weaker attackers, FORA could not be tried" in told


def test_an_error_counts_as_it_is_printed() -> None:
    guesses = findings.Guesses(mean=0.1)
    words = [verdicts.word(_scored(1, "x", error), guesses) for error in (0.0904, 0.0906)]
    assert words == ["in part", "no better"]


def test_rivals_keep_what_they_learned_in_more_time() -> None:
    good, poor = (findings.Share(right, 10) for right in (9, 4))
    long, short = (findings.Guesses(rivals={"a network": (share, share)}) for share in (good, poor))
    for one, other in ((long, short), (short, long)):
        assert findings.better(one, other).rivals == long.rivals


def test_a_full_disk_is_told_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    client, rest, shape = SYSTEMS["rows"]
    monkeypatch.setattr("sltools.storage.write_atomic", full)
    with pytest.raises(SltoolsError, match="cannot be written: .*No space left"):
        audit.run(client, *_samples(shape), rest, minutes=0, folder=tmp_path / "out")


def test_protocol_is_untouched_by_a_wrapped_client() -> None:
    """What a foreign client sends in training is what the audit looks at."""
    system = _system("rows", 80)
    assert system.client is not None and system.rest is not None
    session = protocol.Session.of(
        protocol.Client(system.client), protocol.Server(system.rest), system.truth
    )  # fmt: skip
    sent = session.observe(system.truth).smashed  # type: ignore[arg-type]
    assert torch.allclose(sent, system.smashed[: system.targets])
