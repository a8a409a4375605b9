"""What else might help UnSplit: each idea alone, on the same victims, targets and clones.

    python -m benchmarks.ablations
    python -m benchmarks.ablations --summary      # only print the table

Ten targets are sent as the last batch of a training, so that the server has their labels, too, and
all batches before. Where an idea has a setting, a few values are tried, with the truth at hand, on
another victim and other images. The attack as it is is one of the ideas, and so is the attack with
its main setting chosen in the same way: what an idea brings should be more. Writes
course/results/ablations.json, an idea at a time; what is there already, with the same settings, is
not run again. (If the code of an idea was changed, delete its entry.) Takes an hour on one core.
"""

import json
import math
import statistics
import time
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.optim import LBFGS, Adam

from benchmarks import check_writable, write_facts
from sltools import data, devices, experiments, lessons, metrics, protocol, seeds
from sltools.attacks import InversionResult, UnSplit
from sltools.attacks.ensemble import Ensemble
from sltools.attacks.unsplit import RESCALE_EVERY
from sltools.cli import INTERRUPTED
from sltools.errors import SltoolsError
from sltools.interrupts import finished
from sltools.messages import Message
from sltools.progress import bar
from sltools.transcript import Transcript
from sltools.view import View

PLACES = (("digits", "conv2"), ("mnist", "conv2"))
VICTIMS = (100, 101, 102)  # their seeds: none of the study's
CHOOSING = 110  # the victim that settings are chosen on, by its images, the fourth ten
CLONES = 3
TARGETS = 10
FURTHER = 20  # images, where an idea has more than the targets
WHEN = {"sent half-way": 0.5, "sent at the end": 1.0}  # of the training
TOGETHER = "sent along"  # with the targets, after the end
STEPS = experiments.STEPS["quick"]
NOISE = 16  # channels that a deep image prior starts from
ROUND = 50  # evaluations of the objective in a round of L-BFGS
USUAL = "as it is"
COMMAND = "python -m benchmarks.ablations"
DESIGN = {
    "victims": list(VICTIMS),
    "chosen_on": CHOOSING,
    "clones": CLONES,
    "targets": TARGETS,
    "further": FURTHER,
    "sent": WHEN,  # at what share of the training
    "painters' noise": NOISE,
}


# ---- ideas ---------------------------------------------------------------------------------------


def absolute_variation(images: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, down plus across: (E, N, C, H, W) to (E,).

    It lets an edge be sharp, at the price of the same rise spread over many pixels.
    """
    down, across = images.diff(dim=-2).abs(), images.diff(dim=-1).abs()
    return down.flatten(1).mean(1) + across.flatten(1).mean(1)


def isotropic_variation(images: Tensor) -> Tensor:
    """Mean length of the gradient, alike for edges of all directions: (E, N, C, H, W) to (E,)."""
    down = pad(images.diff(dim=-2), (0, 0, 0, 1))
    across = pad(images.diff(dim=-1), (0, 1))
    return (down.square() + across.square() + 1e-8).sqrt().flatten(1).mean(1)


VARIATIONS = {"absolute": absolute_variation, "isotropic": isotropic_variation}


@dataclass(frozen=True)
class OtherVariation(UnSplit):
    """With another total variation than that of squares."""

    kind: str = "absolute"

    def _losses(
        self, inputs: Tensor, targets: Tensor, scale: Tensor, networks: Ensemble, tv: float
    ) -> dict[str, Tensor]:
        losses = super()._losses(inputs, targets, scale, networks, 0.0)
        variation = VARIATIONS[self.kind](inputs)
        return losses | {"tv": variation, "total": losses["total"] + tv * variation}


@dataclass(frozen=True)
class SigmoidPixels(UnSplit):
    """Pixels are sigmoids of what is searched: inside (0, 1) without being clamped.

    An exposure leaves black pixels at 1e-4, where the slope of the sigmoid is small.
    """

    bounded: bool = False

    def search(self, view: View, networks: Ensemble) -> list[InversionResult]:
        found = super().search(view, networks)
        return [replace(run, inputs=_pixels(run.inputs)) for run in found]

    def _losses(
        self, inputs: Tensor, targets: Tensor, scale: Tensor, networks: Ensemble, tv: float
    ) -> dict[str, Tensor]:
        return super()._losses(_pixels(inputs), targets, scale, networks, tv)

    def _before_step(self, step: int, inputs: Tensor, networks: Ensemble) -> None:
        if step % RESCALE_EVERY == 0:
            images = _pixels(inputs)
            super()._before_step(step, images, networks)
            inputs.copy_(images.logit(eps=1e-4) / 4 + 0.5)


def _pixels(free: Tensor) -> Tensor:
    """Like clamping near 0.5: the same value and slope there."""
    return torch.sigmoid(4 * (free - 0.5))


@dataclass(frozen=True)
class DeepImagePrior(UnSplit):
    """The images are what an untrained network makes of fixed noise; its weights are searched.

    After Ulyanov et al., Deep Image Prior, CVPR 2018: convolutions find natural images sooner than
    noise. Here one small network makes all images of a clone. `input_lr` is the learning rate of
    its weights.
    """

    def search(self, view: View, networks: Ensemble) -> list[InversionResult]:
        return super().search(view, _Painted(networks, view, self.seed))

    def _optimizers(self, inputs: Tensor, networks: Ensemble) -> list[Adam]:
        assert isinstance(networks, _Painted)
        _, clone = super()._optimizers(inputs, networks)
        return [Adam(networks.painters.weights, lr=self.input_lr, fused=True), clone]

    def _before_step(self, step: int, inputs: Tensor, networks: Ensemble) -> None:
        assert isinstance(networks, _Painted)
        if step % RESCALE_EVERY == 0:
            images = networks.paint().detach()
            before = images.flatten(1).sum(1)
            super()._before_step(step, images, networks)
            networks.gain *= images.flatten(1).sum(1) / before

    def _losses(
        self, inputs: Tensor, targets: Tensor, scale: Tensor, networks: Ensemble, tv: float
    ) -> dict[str, Tensor]:
        assert isinstance(networks, _Painted)
        assert len(targets) == networks.noise.shape[1]  # in one chunk
        return super()._losses(networks.paint(), targets, scale, networks, tv)

    def _after_search(self, inputs: Tensor, networks: Ensemble) -> None:
        assert isinstance(networks, _Painted)
        inputs.copy_(networks.paint().detach())


class _Painted(Ensemble):
    """Clones, and for each a network that paints its images, (noise) to (images)."""

    def __init__(self, clones: Ensemble, view: View, seed: int) -> None:
        super().__init__([clones.member(number) for number in range(clones.size)])
        channels, height, width = view.architecture.input_shape
        painters = []
        for number in range(clones.size):
            with seeds.scope(seed, f"painter {number}"):
                painters.append(_painter(channels))
        shape = (clones.size, len(view.smashed), NOISE, height // 4, width // 4)
        noise = torch.randn(shape, generator=seeds.generator(seed, "painters' noise"))
        device = self.weights[0].device
        self.painters = Ensemble([painter.to(device) for painter in painters])
        self.noise = noise.to(device)
        self.gain = torch.ones(clones.size, device=device)  # what exposure multiplies images by

    def paint(self) -> Tensor:
        return (self.painters(self.noise) * self.gain.view(-1, 1, 1, 1, 1)).clamp(max=1)


def _painter(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.ConvTranspose2d(NOISE, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(16, 8, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, channels, 3, padding=1),
        nn.Sigmoid(),
    )


@dataclass(frozen=True)
class SecondOrderFinish(UnSplit):
    """After the steps, `rounds` of L-BFGS, with an exposure after each."""

    rounds: int = 4

    def search(self, view: View, networks: Ensemble) -> list[InversionResult]:
        found = super().search(view, networks)
        return [self._polished(run, view.smashed) for run in found]

    def _polished(self, run: InversionResult, targets: Tensor) -> InversionResult:
        network, inputs = Ensemble([run.clone]), run.inputs[None].clone()
        for _ in range(self.rounds):
            self._polish(inputs, network, targets)
            self._before_step(RESCALE_EVERY, inputs, network)
            network.set_leak(0.0)
        inputs.clamp_(0, 1)
        with torch.no_grad():
            losses = self._losses(inputs, targets, self._scale(targets), network, self.tv)
        return replace(
            run,
            inputs=inputs[0],
            clone=network.member(0),
            feature_loss=losses["feature"].item(),
            objective=losses["total"].item(),
        )

    def _polish(self, found: Tensor, network: Ensemble, targets: Tensor) -> None:
        """Move `found` (1, N, C, H, W) and the weights in place, by one round."""
        inputs = found.requires_grad_()
        scale = self._scale(targets)
        optimizer = LBFGS(
            [inputs, *network.weights],
            max_iter=ROUND,
            max_eval=ROUND,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def objective() -> Tensor:
            optimizer.zero_grad()
            inside = inputs.clamp(0, 1)
            outside = (inputs - inside).square().mean()  # leads back what strays
            total = self._losses(inside, targets, scale, network, self.tv)["total"].sum() + outside
            total.backward()  # type: ignore[no-untyped-call]
            return total

        optimizer.step(objective)
        found.requires_grad_(False).clamp_(0, 1)


@dataclass(frozen=True)
class LabelledTargets(UnSplit):
    """A further term: the server's own model must give the labels it was sent."""

    labels_weight: float = 0.1

    def search(self, view: View, networks: Ensemble) -> list[InversionResult]:
        return super().search(view, _Labelled(networks, view))

    def _losses(
        self, inputs: Tensor, targets: Tensor, scale: Tensor, networks: Ensemble, tv: float
    ) -> dict[str, Tensor]:
        assert isinstance(networks, _Labelled)
        assert len(targets) == len(networks.labels)  # in one chunk
        losses = super()._losses(inputs, targets, scale, networks, tv)
        term = networks.cross_entropy(networks(inputs))
        return losses | {"labels": term, "total": losses["total"] + self.labels_weight * term}


class _Labelled(Ensemble):
    """Clones, and what the server has besides: its own model and the labels it was sent."""

    def __init__(self, clones: Ensemble, view: View) -> None:
        super().__init__([clones.member(number) for number in range(clones.size)])
        self.model = view.model.requires_grad_(False)
        self.labels = view.labels

    def cross_entropy(self, activations: Tensor) -> Tensor:
        """The cross-entropy of the labels, given activations (E, N, ...): (E,)."""
        return torch.stack([cross_entropy(self.model(z), self.labels) for z in activations])


@dataclass(frozen=True)
class Idea:
    """An attack, or one with several settings to choose from; when `further` images were sent.

    Those are explained along with the targets, as if the client had not changed in between.
    """

    attacks: tuple[UnSplit, ...]
    further: str | None = None


def _idea(kind: type[UnSplit], *settings: dict[str, Any]) -> Idea:
    return Idea(tuple(kind(**{"steps": STEPS} | setting) for setting in settings or ({},)))


_WEIGHTS = [{"tv": weight} for weight in (0.06, 0.2, 0.6)]
IDEAS = {
    USUAL: _idea(UnSplit),
    "tv chosen": _idea(UnSplit, {"tv": 0.2}, {"tv": 0.5}, {"tv": 1.0}),
    "fading tv": _idea(UnSplit, {"tv_end": 0.2}, {"tv_end": 0.05}, {"tv": 1.0, "tv_end": 0.1}),
    "absolute tv": _idea(OtherVariation, *_WEIGHTS),
    "isotropic tv": _idea(OtherVariation, *(w | {"kind": "isotropic"} for w in _WEIGHTS)),
    "sigmoid pixels": _idea(SigmoidPixels, *({"input_lr": rate} for rate in (0.025, 0.05, 0.1))),
    "deep image prior": _idea(
        DeepImagePrior,
        *({"input_lr": rate, "tv": tv} for rate in (8e-3, 2e-2) for tv in (0.05, 0.5)),
    ),
    "L-BFGS finish": _idea(
        SecondOrderFinish, *({"steps": STEPS - n * ROUND, "rounds": n} for n in (4, 10))
    ),
    "model and labels": _idea(LabelledTargets, *({"labels_weight": w} for w in (0.01, 0.1, 1.0))),
    "without exposure": _idea(UnSplit, {"exposure": None}),
    "without leak": _idea(UnSplit, {"leak": 0.0}),
    **{
        f"{FURTHER} more, {when}": replace(_idea(UnSplit), further=when)
        for when in (*WHEN, TOGETHER)
    },
}


# ---- measurement ---------------------------------------------------------------------------------


def main(
    summary: Annotated[bool, typer.Option("--summary", help="Only print the table.")] = False,
    path: Annotated[Path | None, typer.Option(help="The JSON file.")] = None,
) -> None:
    """Try what is missing in the JSON file, then print the table."""
    path = path or lessons.course() / "results" / "ablations.json"
    try:
        if not summary:
            check_writable(path)
            torch.set_num_threads(1)
            _try_all(path)
        print(table(read(path)))
    except (SltoolsError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    except KeyboardInterrupt:
        print("\ninterrupted; the same command goes on with what is missing")
        raise SystemExit(INTERRUPTED) from None


def read(path: Path) -> dict[str, Any]:
    """Read what is recorded. Raises SltoolsError if the file is damaged or another one."""
    if not path.exists() or not path.stat().st_size:
        return {"command": COMMAND, "baselines": {}, "places": {}}
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
        assert facts["command"] == COMMAND and {"design", "baselines", "places"} <= set(facts)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise SltoolsError(f"{path} is no record of {COMMAND} ({error!r}); move it away") from None
    return dict(facts)


def _try_all(path: Path) -> None:
    facts = read(path)
    if facts["places"] and facts["design"] != DESIGN:
        raise SltoolsError(f"{path} was made by another design; give another --path, or move it")
    facts["design"] = DESIGN
    for dataset, cut in PLACES:
        place = f"{dataset} {cut}"
        tried = facts["places"].get(place, {})
        missing = [name for name in IDEAS if not _is_of(tried.get(name), IDEAS[name])]
        if missing and place not in facts["baselines"]:
            facts["baselines"][place] = _baselines(dataset, cut)
        for name in bar(missing, place):
            tried[name] = try_idea(dataset, cut, IDEAS[name])
            facts["places"][place] = {name: tried[name] for name in IDEAS if name in tried}
            write_facts(path, facts)


def _is_of(record: dict[str, Any] | None, idea: Idea) -> bool:
    """Say whether a record is of `idea` as it is now."""
    return record is not None and (record["tried"], record["further"]) == (
        [_settings(attack) for attack in idea.attacks],
        idea.further,
    )


def _settings(attack: UnSplit) -> dict[str, Any]:
    return {"attack": type(attack).__name__, **asdict(attack)}


def _baselines(dataset: str, cut: str) -> dict[str, float]:
    """What the mean image scores, and the victims: medians."""
    victims = [target(dataset, cut, seed) for seed in VICTIMS]
    truth, train = victims[0].images, data.load(dataset).train.images
    errors = metrics.mse(train.mean(0).expand_as(truth), truth)
    return {
        "mean_image_mse": statistics.median(errors.tolist()),
        "victim_accuracy": statistics.median(v.session.accuracy(v.test) for v in victims),
    }


def try_idea(dataset: str, cut: str, idea: Idea) -> dict[str, Any]:
    """Choose the settings of `idea`, attack every victim with them and score what is found."""
    errors = []
    if len(idea.attacks) > 1:
        chosen_on = target(dataset, cut, CHOOSING)
        errors = [_error(attack, chosen_on) for attack in idea.attacks]
        if min(errors) == math.inf:
            raise SltoolsError(f"with none of its settings {type(idea.attacks[0]).__name__} ends")
    attack = idea.attacks[errors.index(min(errors)) if errors else 0]
    victims = [target(dataset, cut, seed) for seed in VICTIMS]
    runs, start = [], time.process_time()
    for victim in victims:
        scores = attacked(attack, victim, idea.further)
        runs += [{"victim": victim.seed, "clone": i} | score for i, score in enumerate(scores)]
    return {
        "tried": [_settings(one) for one in idea.attacks],
        # of each, on the victim that they are chosen on
        "errors": [error if math.isfinite(error) else None for error in errors],
        "settings": _settings(attack),
        "further": idea.further,
        "runs": runs,
        # of the runs, without those that chose
        "cpu_seconds": round(time.process_time() - start),
        "versions": devices.versions(),
    }


def _error(attack: UnSplit, victim: "Target") -> float:
    """The median error of the targets; infinite if the attack diverged."""
    try:
        errors = [score["raw_mse"] for score in attacked(attack, victim, None)]
    except SltoolsError:
        return math.inf
    return statistics.median(error if math.isfinite(error) else math.inf for error in errors)


def attacked(attack: UnSplit, victim: "Target", further: str | None) -> list[dict[str, float]]:
    """Attack one victim from every start and score, for each, the targets and the clone."""
    runs = replace(attack, restarts=CLONES, seed=victim.seed).runs(victim.view(further))
    return [victim.score(finished(run)) for run in runs]


@dataclass(frozen=True)
class Target:
    """A trained victim, the images that it sends in one more batch, and what the server keeps.

    `sent` are the messages of the targets; `others` has smashed data of further images, by when
    they were sent.
    """

    seed: int
    session: protocol.Session
    images: Tensor
    sent: Transcript
    others: dict[str, Message]
    test: data.Split

    def view(self, further: str | None) -> View:
        """What the server sees of the last batch, and of `further` images if any are named."""
        more = [self.others[further]] if further else []
        return replace(self.sent, messages=[*self.sent.messages, *more]).view()

    def score(self, run: InversionResult) -> dict[str, float]:
        scores = metrics.score_images(run.inputs[:TARGETS], self.images).summary()
        stolen = nn.Sequential(run.clone, self.session.server.model)
        return {
            "raw_mse": scores["mse_median"],
            "aligned_mse": scores["aligned_mse_median"],
            "clone_accuracy": metrics.accuracy(stolen, self.test),
        }


@cache
def target(dataset: str, cut: str, seed: int) -> Target:
    """Train a victim and let it send the targets with their labels."""
    source = data.load(dataset)
    session = finished(experiments.train_victim(source, cut, seed=seed, record=True))
    kept = session.transcript
    smashed = [message for message in kept.messages if message.kind == "smashed"]
    others = {when: smashed[round(share * (len(smashed) - 1))] for when, share in WHEN.items()}
    rows = slice(TARGETS + FURTHER, None) if seed == CHOOSING else slice(None)
    batch = experiments.first_targets(source, 2 * (TARGETS + FURTHER))[rows][: TARGETS + FURTHER]
    messages = session.client.open(batch.images, batch.labels, step=len(smashed), batch=0)
    others[TOGETHER] = next(m for m in messages if m.kind == "smashed")
    assert all(len(message.payload) >= FURTHER for message in others.values())
    others = {
        when: replace(message, payload=message.payload[-FURTHER:])
        for when, message in others.items()
    }
    sent = [replace(message, payload=message.payload[:TARGETS]) for message in messages]
    return Target(
        seed,
        protocol.recut(session, cut),  # without its record, which is large
        batch.images[:TARGETS],
        replace(kept, messages=sent, client_log={}),
        others,
        source.test,
    )


def table(facts: dict[str, Any]) -> str:
    """The Markdown table: each idea's error and clone, and its factor on the usual error."""
    lines = [
        f"Median [least, greatest] over {len(VICTIMS)} victims x {CLONES} clones. Factor: raw MSE",
        f"divided by that of {USUAL!r}, from the same start. Lower: from how many starts.",
        "",
        "| data, cut after | idea | raw MSE | factor | lower | clone's accuracy |",
        "|---|---|---|---|---|---|",
    ]
    for place, tried in facts["places"].items():
        if USUAL not in tried:
            raise SltoolsError(f"{place} lacks {USUAL!r}, which the others are compared with")
        for name, record in tried.items():
            runs = record["runs"]
            errors, clones = ([run[s] for run in runs] for s in ("raw_mse", "clone_accuracy"))
            ratios = factors(tried, name)
            cells = [
                place,
                name,
                _middle(errors, ".2g"),
                _middle(ratios, ".2g"),
                "same" if set(ratios) == {1} else f"{sum(r < 1 for r in ratios)} of {len(ratios)}",
                _middle(clones, ".1%"),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def factors(tried: dict[str, Any], name: str, score: str = "raw_mse") -> list[float]:
    """What an idea multiplies a score of the usual attack by, from each start of one place."""
    usual, changed = (tried[one]["runs"] for one in (USUAL, name))
    return [after[score] / before[score] for before, after in zip(usual, changed, strict=True)]


def _middle(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


if __name__ == "__main__":
    typer.run(main)
