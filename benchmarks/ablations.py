"""What else might help UnSplit: each idea alone, on the same victims, targets and clones.

    python -m benchmarks.ablations
    python -m benchmarks.ablations --summary      # only print the table

Ten targets are sent as the last batch of a training, so that the server has their labels, too, and
all batches before. Every idea is given its best chance: if it has settings, they are chosen with
the truth at hand, on a victim that is not reported. The attack as it is is one of the ideas, and so
is the attack with its main setting chosen in the same way: what an idea brings should be more.
Writes course/results/ablations.json, an idea at a time; what is there already, with the same
settings, is not run again. Takes an hour on one core.
"""

import json
import math
import statistics
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, pad
from torch.optim import LBFGS, Adam

from benchmarks import check_writable, uninterrupted
from sltools import data, devices, experiments, lessons, metrics, models, protocol, seeds
from sltools.attacks import InversionResult, UnSplit
from sltools.attacks.ensemble import Ensemble
from sltools.attacks.unsplit import EXPOSE_EVERY
from sltools.cli import INTERRUPTED
from sltools.errors import AttackError, SltoolsError
from sltools.messages import Message
from sltools.progress import bar
from sltools.transcript import Transcript
from sltools.view import View

PLACES = (("digits", "conv2"), ("mnist", "pool1"), ("mnist", "conv2"))
VICTIMS = (100, 101, 102)  # their seeds: none of the study's
CHOOSING = 110  # the victim that settings are chosen on
CLONES = 3
TARGETS = 10
FURTHER = 20  # images, where an idea has more than the targets
WHEN = {"sent at the start": 0.0, "sent at the end": 1.0}  # of the training
TOGETHER = "sent along"  # with the targets, after the end
STEPS = experiments.STEPS["quick"]
NOISE = 16  # channels that a deep image prior starts from
ROUND = 50  # evaluations of the objective in a round of L-BFGS
USUAL = "as it is"
COMMAND = "python -m benchmarks.ablations"
DESIGN = {
    "victims": VICTIMS,
    "chosen_on": CHOOSING,
    "clones": CLONES,
    "targets": TARGETS,
    "further": FURTHER,
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
    """Pixels are sigmoids of what is searched: inside (0, 1) without being clamped."""

    bounded: bool = False

    def search(self, view: View, networks: Ensemble) -> list[InversionResult]:
        found = super().search(view, networks)
        return [replace(run, inputs=_pixels(run.inputs)) for run in found]

    def _losses(
        self, inputs: Tensor, targets: Tensor, scale: Tensor, networks: Ensemble, tv: float
    ) -> dict[str, Tensor]:
        return super()._losses(_pixels(inputs), targets, scale, networks, tv)

    def _prepare(self, step: int, inputs: Tensor, networks: Ensemble) -> None:
        if step % EXPOSE_EVERY == 0:
            images = _pixels(inputs)
            super()._prepare(step, images, networks)
            inputs.copy_(images.logit(eps=1e-4) / 4 + 0.5)


def _pixels(free: Tensor) -> Tensor:
    """Like clamping near 0.5: the same value and slope there."""
    return torch.sigmoid(4 * (free - 0.5))


@dataclass(frozen=True)
class DeepImagePrior(UnSplit):
    """The images are what an untrained network makes of fixed noise; its weights are searched.

    Convolutions find natural images sooner than noise (Ulyanov et al., Deep Image Prior, CVPR
    2018). `input_lr` is the learning rate of these weights.
    """

    exposure: float | None = None  # the images cannot be changed but through the weights

    def search(self, view: View, networks: Ensemble) -> list[InversionResult]:
        return super().search(view, _Painted(networks, view, self.seed))

    def _optimizers(self, inputs: Tensor, networks: Ensemble) -> list[Adam]:
        assert isinstance(networks, _Painted)
        _, clone = super()._optimizers(inputs, networks)
        return [Adam(networks.painters.weights, lr=self.input_lr, fused=True), clone]

    def _losses(
        self, inputs: Tensor, targets: Tensor, scale: Tensor, networks: Ensemble, tv: float
    ) -> dict[str, Tensor]:
        assert isinstance(networks, _Painted)
        return super()._losses(networks.paint(), targets, scale, networks, tv)

    def _finish(self, inputs: Tensor, networks: Ensemble) -> None:
        assert isinstance(networks, _Painted)
        inputs.copy_(networks.paint().detach())


class _Painted(Ensemble):
    """Clones, and for each a network that paints its images."""

    def __init__(self, clones: Ensemble, view: View, seed: int) -> None:
        members = [clones.member(number) for number in range(clones.size)]
        super().__init__(members)
        channels, height, width = view.architecture.input_shape
        device = self.weights[0].device
        painters = []
        for number in range(clones.size):
            with seeds.scope(seed, f"painter {number}"):
                painters.append(_painter(channels).to(device))
        self.painters = Ensemble(painters)
        noise = torch.randn(
            clones.size,
            len(view.smashed),
            NOISE,
            height // 4,
            width // 4,
            generator=seeds.generator(seed, "painters' noise"),
        )
        self.noise = noise.to(device)

    def paint(self) -> Tensor:
        """The images (E, N, C, H, W), scaled to use [0, 1], as exposure would do it."""
        painted = self.painters(self.noise)
        white = painted.detach().flatten(1).quantile(UnSplit.exposure, dim=1)
        return (painted / white.view(-1, 1, 1, 1, 1)).clamp(max=1)


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
            self._prepare(EXPOSE_EVERY, inputs, network)
            network.leak(0.0)
        if not inputs.isfinite().all():
            return run
        return replace(run, inputs=inputs[0].clamp(0, 1), clone=network.member(0))

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
        losses = super()._losses(inputs, targets, scale, networks, tv)
        term = networks.surprise(networks(inputs))
        return losses | {"labels": term, "total": losses["total"] + self.labels_weight * term}


class _Labelled(Ensemble):
    """Clones, and what the server has besides: its own model and the labels it was sent."""

    def __init__(self, clones: Ensemble, view: View) -> None:
        super().__init__([clones.member(number) for number in range(clones.size)])
        self.model = view.model.requires_grad_(False)
        self.labels = view.labels

    def surprise(self, activations: Tensor) -> Tensor:
        """The cross-entropy of the labels, given activations (E, N, ...): (E,)."""
        return torch.stack([cross_entropy(self.model(z), self.labels) for z in activations])


@dataclass(frozen=True)
class Idea:
    """An attack, or one with several settings to choose from; when `further` images were sent."""

    attacks: tuple[UnSplit, ...]
    further: str | None = None


def _idea(kind: type[UnSplit], *settings: dict[str, Any]) -> Idea:
    return Idea(tuple(kind(**{"steps": STEPS} | setting) for setting in settings or ({},)))


_WEIGHTS = [{"tv": weight} for weight in (0.06, 0.2, 0.6)]
IDEAS = {
    USUAL: _idea(UnSplit),
    "tv chosen": _idea(UnSplit, {"tv": 0.2}, {"tv": 0.5}, {"tv": 1.0}),
    "tv that fades": _idea(UnSplit, {"tv_end": 0.2}, {"tv_end": 0.05}, {"tv": 1.0, "tv_end": 0.1}),
    "absolute tv": _idea(OtherVariation, *_WEIGHTS),
    "isotropic tv": _idea(OtherVariation, *(w | {"kind": "isotropic"} for w in _WEIGHTS)),
    "sigmoid pixels": _idea(SigmoidPixels, *({"input_lr": rate} for rate in (0.025, 0.05, 0.1))),
    "deep image prior": _idea(DeepImagePrior, *({"input_lr": rate} for rate in (2e-3, 8e-3))),
    "L-BFGS finish": Idea(
        tuple(SecondOrderFinish(steps=STEPS - rounds * ROUND, rounds=rounds) for rounds in (4, 10))
    ),
    "model and labels": _idea(LabelledTargets, *({"labels_weight": w} for w in (0.01, 0.1, 1.0))),
    "no exposure": _idea(UnSplit, {"exposure": None}),
    "no leak": _idea(UnSplit, {"leak": 0.0}),
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
        assert facts["command"] == COMMAND and isinstance(facts["places"], dict)
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise SltoolsError(f"{path} is no record of {COMMAND} ({error!r}); move it away") from None
    return dict(facts)


def _try_all(path: Path) -> None:
    facts = read(path) | {"design": DESIGN}
    for dataset, cut in PLACES:
        place = f"{dataset} {cut}"
        tried = facts["places"].setdefault(place, {})
        missing = [name for name in IDEAS if tried.get(name, {}).get("tried") != _tried(name)]
        for name in bar(missing, place):
            tried[name] = try_idea(dataset, cut, IDEAS[name])
            facts["baselines"][place] = _baselines(dataset, cut)
            facts["versions"] = devices.versions()
            path.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _baselines(dataset: str, cut: str) -> dict[str, float]:
    """What the mean image scores, and the victims: medians."""
    victims = [target(dataset, cut, seed) for seed in VICTIMS]
    truth, train = victims[0].images, data.load(dataset).train.images
    errors = metrics.mse(train.mean(0).expand_as(truth), truth)
    return {
        "mean_image_mse": statistics.median(errors.tolist()),
        "victim_accuracy": statistics.median(v.session.accuracy(v.test) for v in victims),
    }


def _tried(name: str) -> list[dict[str, Any]]:
    return [asdict(attack) for attack in IDEAS[name].attacks]


def try_idea(dataset: str, cut: str, idea: Idea) -> dict[str, Any]:
    """Choose the settings of `idea`, attack every victim with them and score what is found."""
    attack = idea.attacks[0]
    if len(idea.attacks) > 1:
        chosen_on = target(dataset, cut, CHOOSING)
        attack = min(idea.attacks, key=lambda one: _error(one, chosen_on))
    runs = []
    for seed in VICTIMS:
        victim = target(dataset, cut, seed)
        found = _attacked(replace(attack, restarts=CLONES), victim, idea.further)
        runs += [{"victim": seed, "clone": i} | score for i, score in enumerate(found)]
    tried = [asdict(one) for one in idea.attacks]
    return {"tried": tried, "settings": asdict(attack), "runs": runs}


def _error(attack: UnSplit, victim: "Target") -> float:
    found = _attacked(replace(attack, restarts=CLONES), victim, None)
    return statistics.median(score["raw_mse"] for score in found)


def _attacked(attack: UnSplit, victim: "Target", further: str | None) -> list[dict[str, float]]:
    """Attack one victim from every start and score, for each, the targets and the clone."""
    view = victim.view(further)
    try:
        runs = replace(attack, seed=victim.seed).runs(view)
    except AttackError:  # it diverged, from every start
        return [{"raw_mse": math.inf, "clone_accuracy": 0.0}] * attack.restarts
    return [victim.score(uninterrupted(run)) for run in runs]


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
            "seconds": run.seconds,
        }


@cache
def target(dataset: str, cut: str, seed: int) -> Target:
    """Train a victim and let it send the targets with their labels."""
    source = data.load(dataset)
    session = _recorded(source, cut, seed)
    kept = session.transcript
    smashed = [message for message in kept.messages if message.kind == "smashed"]
    others = {when: smashed[round(share * (len(smashed) - 1))] for when, share in WHEN.items()}
    batch = experiments.first_targets(source, TARGETS + FURTHER)
    messages = session.client.open(batch.images, batch.labels, step=len(smashed), batch=0)
    others[TOGETHER] = next(m for m in messages if m.kind == "smashed")
    others = {
        when: replace(message, payload=message.payload[-FURTHER:])
        for when, message in others.items()
    }
    sent = [replace(message, payload=message.payload[:TARGETS]) for message in messages]
    return Target(
        seed,
        protocol.recut(session, cut),  # without its record, which is large
        batch.images[:TARGETS],
        replace(kept, messages=sent),
        others,
        source.test,
    )


def _recorded(source: data.Dataset, cut: str, seed: int) -> protocol.Session:
    """Train a victim and keep what it sends."""
    client, server = experiments.parties(models.for_images(source.train.images.shape, seed), cut)
    epochs, count = experiments.training(source.name, "quick")
    split = source.train[: count or len(source.train)]
    session = protocol.train(client, server, split, epochs=epochs, seed=seed, record=True)
    if session.interrupted:
        raise KeyboardInterrupt  # half a training is no victim
    return session


def table(facts: dict[str, Any]) -> str:
    """The Markdown table: each idea's error and clone, and its error per that of the usual."""
    lines = [
        "| data, cut after | idea | raw MSE | of the usual's | less | clone |",
        "|---|---|---|---|---|---|",
    ]
    for place, tried in facts["places"].items():
        for name, record in tried.items():
            runs = record["runs"]
            errors, clones = ([run[s] for run in runs] for s in ("raw_mse", "clone_accuracy"))
            usual = [run["raw_mse"] for run in tried[USUAL]["runs"]]
            ratios = [mine / before for mine, before in zip(errors, usual, strict=True)]
            cells = [
                place,
                name,
                _middle(errors, ".2g"),
                _middle(ratios, ".2g"),
                f"{sum(ratio < 1 for ratio in ratios)} of {len(ratios)}",
                _middle(clones, ".1%"),
            ]
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _middle(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} [{min(values):{form}}, {max(values):{form}}]"


if __name__ == "__main__":
    typer.run(main)
