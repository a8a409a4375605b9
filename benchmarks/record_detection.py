"""Record what detectors find under course/results/detection.json, for lesson 09.

    python -m benchmarks.record_detection digits mnist

Half of the training images are the client's, the other half is public. Thresholds and windows were
chosen on the seeds 0 to 15; what is recorded has the seeds 100, 101, ... SplitGuard's false labels
keep an honest server unsure, and its gradients apart: with such a server it has runs of its own. A
hijacker returns the same whatever the labels, so there all detectors watch one run. It takes
half an hour of one core.
"""

import math
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks import write_facts
from sltools import data, devices, lessons, metrics, models, protocol, seeds
from sltools.attacks import Hijacking, HijackingServer, InversionResult, UnSplit
from sltools.data import Split
from sltools.detectors import Detector, LabelGap, Scrutinizer, SplitGuard, SplitOut
from sltools.messages import Message
from sltools.models import Architecture
from sltools.protocol import Server
from sltools.transcript import Transcript

CUT = "pool1"
BATCH = 64
FIRST_SEED = 100
SCORED = 500  # test images that a hijacker's reconstructions are scored on
PUBLISHED = 10  # gradients that SplitOut as published is fitted on: one per cent of MNIST's
TARGETS, ATTACK_STEPS, ATTACKED_STEP = 10, 300, 30  # of UnSplit, in the middle of the training


@dataclass(frozen=True)
class Plan:
    """How much to run on one data set, and what SplitOut trains on before."""

    epochs: int
    honest: int
    hijacked: int
    share: float
    rounds: int


PLANS = {"digits": Plan(15, 40, 10, 0.5, 10), "mnist": Plan(1, 10, 3, 0.1, 1)}


class Curious(Server):
    """Honest in every message; meanwhile it runs UnSplit on what one of them brought."""

    def __init__(self, model: nn.Sequential, client: Architecture, attack: UnSplit) -> None:
        super().__init__(model)
        self.client, self.attack = client, attack
        self.result: InversionResult | None = None

    def reply(self, message: Message) -> Message | None:
        """Answer as an honest server does."""
        if message.kind == "smashed" and message.step == ATTACKED_STEP:
            seen = replace(message, payload=message.payload[:TARGETS])
            self.result = self.attack(Transcript(self.client, messages=[seen]).view("server"))
        return super().reply(message)


class Quiet(HijackingServer):
    """A hijacker that gives its gradients the size of honest ones: a client with Adam obeys all the
    same. This is ours, not published.
    """

    def reply(self, message: Message) -> Message | None:
        """Answer with the hijacker's gradient, of the norm of the honest one."""
        honest = Server.reply(self, message)
        if honest is None or honest.kind != "cut_gradient":
            return honest
        assert self._smashed is not None
        adversarial = self._hijack(self._smashed.detach())
        return replace(honest, payload=adversarial * (honest.payload.norm() / adversarial.norm()))


class Panel(Detector):
    """Several detectors on one run, of which the first may send probes."""

    def __init__(self, detectors: dict[str, Detector]) -> None:
        super().__init__(window=1, threshold=0)
        self.detectors = detectors

    def probe(self, labels: Tensor) -> Tensor | None:
        """Let the first one decide."""
        return next(iter(self.detectors.values())).probe(labels)

    def watch(self, *seen: Tensor, probe: bool) -> None:
        """Show them all one exchange."""
        for detector in self.detectors.values():
            detector.watch(*seen, probe=probe)


def panel(private: Split, plan: Plan, seed: int) -> dict[str, Detector]:
    """The detectors in the settings that are recorded."""
    net = models.for_images(private.images.shape, seed + 1000)  # not the client's own weights
    made: dict[str, Detector] = {
        "SplitGuard": SplitGuard(seed=seed),
        "Scrutinizer": Scrutinizer(),
        "Scrutinizer, each batch for itself, ½": Scrutinizer(window=1, threshold=0.5),
        "LabelGap": LabelGap(),
        "SplitOut": SplitOut(net, private, plan.share, plan.rounds, seed=seed),
    }
    share = PUBLISHED * BATCH / len(private)
    for window in (1, 10) if share < 0.1 else ():  # of the digits it would be nearly all
        published = SplitOut(net, private, share, 1, window, BATCH, seed)
        made[f"SplitOut as published, window {window}"] = published
    return made


@dataclass(frozen=True)
class Run:
    """What the detectors found in one training, and what the attacker has in the end."""

    seed: int
    detectors: dict[str, Detector]
    digests: list[str]
    quality: dict[str, float]


def watch(dataset: data.Dataset, plan: Plan, seed: int, kind: str) -> Run:
    """Train with a server of one `kind` under the eyes of all detectors."""
    rows = torch.randperm(len(dataset.train), generator=seeds.generator(seed, "private or public"))
    private, public = (dataset.train[half] for half in rows.split(len(rows) // 2)[:2])
    detectors = panel(private, plan, seed)
    digests = []
    for part in _apart(detectors) if kind in ("honest", "UnSplit") else [detectors]:
        front, rest = models.cut(models.for_images(private.images.shape, seed), CUT)
        server = SERVERS[kind](rest, Architecture.of(front, private.images.shape[1:]), public, seed)
        session = protocol.train(
            protocol.Client(front, detector=Panel(part)),
            server,
            private,
            epochs=plan.epochs,
            batch_size=BATCH,
            seed=seed,
            record=kind in ("honest", "UnSplit") and seed < FIRST_SEED + plan.hijacked,
        )
        digests += [message.digest() for message in session.transcript.messages]
    print(kind, seed, *(found.raised_at for found in detectors.values()), flush=True)
    return Run(seed, detectors, digests, _quality(session, server, dataset))


def _apart(detectors: dict[str, Detector]) -> list[dict[str, Detector]]:
    """The one that sends probes, and those that listen."""
    probing = {"SplitGuard": detectors["SplitGuard"]}
    return [probing, {name: found for name, found in detectors.items() if name not in probing}]


def _quality(session: protocol.Session, server: Server, dataset: data.Dataset) -> dict[str, float]:
    """What the attacker has in the end."""
    if isinstance(server, HijackingServer):
        images = dataset.test.images[:SCORED]
        found = server.invert(session.observe(images)).inputs
        mean_image = server.public_images.mean(0, keepdim=True).expand_as(images)
        return {
            "mse": metrics.mse(found, images).mean().item(),
            "mean_image_mse": metrics.mse(mean_image, images).mean().item(),
        }
    if isinstance(server, Curious):
        assert server.result is not None
        return {"feature_loss": server.result.feature_loss, "targets": TARGETS}
    return {}


def _curious(rest: nn.Sequential, client: Architecture, public: Split, seed: int) -> Server:
    return Curious(rest, client, UnSplit(steps=ATTACK_STEPS, seed=seed))


SERVERS: dict[str, Callable[[nn.Sequential, Architecture, Split, int], Server]] = {
    "honest": lambda rest, client, public, seed: Server(rest),
    "UnSplit": _curious,
    "FSHA": lambda rest, client, public, seed: HijackingServer(
        rest, public.images, Hijacking(seed=seed)
    ),
    "FSHA, gradients of honest size": lambda rest, client, public, seed: Quiet(
        rest, public.images, Hijacking(seed=seed)
    ),
}


def study(name: str) -> dict[str, Any]:
    """Run all servers on one data set."""
    plan, dataset, start = PLANS[name], data.load(name), time.process_time()
    counts = {kind: plan.honest if kind == "honest" else plan.hijacked for kind in SERVERS}
    runs = {
        kind: [watch(dataset, plan, FIRST_SEED + number, kind) for number in range(count)]
        for kind, count in counts.items()
    }
    first = runs["honest"][0].detectors
    return {
        "plan": asdict(plan),
        "settings": [repr(found).split(":")[0] for found in first.values()],
        "servers": {
            kind: {
                "detectors": {
                    name: summary([run.detectors[name] for run in made]) for name in first
                },
                "attacker": [{"seed": run.seed} | run.quality for run in made],
            }
            for kind, made in runs.items()
        },
        "unsplit_is_invisible": [
            invisible(*pair) for pair in zip(runs["honest"], runs["UnSplit"], strict=False)
        ],
        "cpu_seconds": round(time.process_time() - start),
    }


def invisible(honest: Run, curious: Run) -> dict[str, Any]:
    """Compare an honest run and one of UnSplit of the same seed, message by message."""
    ours, theirs = honest.detectors, curious.detectors
    return {
        "seed": honest.seed,
        "messages": len(honest.digests),
        "equal_digests": bool(honest.digests) and honest.digests == curious.digests,
        "equal_scores": all(ours[name].scores == theirs[name].scores for name in ours),
        "equal_alarms": all(ours[name].alarms == theirs[name].alarms for name in ours),
    }


def summary(detectors: list[Detector]) -> dict[str, Any]:
    """How often they raise an alarm, in batches and in runs, and when first."""
    alarms = [len(found.alarms) for found in detectors]
    scored = [len(found.scores) for found in detectors]
    raised = [found.raised_at for found in detectors]
    first = [batch for batch in raised if batch is not None]
    return {
        "batches": {"alarms": alarms, "of": scored}
        | rate(sum(alarms) / sum(scored), len(detectors)),
        "runs": {"alarms": len(first), "of": len(detectors)}
        | rate(len(first) / len(detectors), len(detectors)),
        "raised_at": raised,
        "median_raised_at": statistics.median(first) if first else None,
        "first_scored": [detector.batches.start for detector in detectors],
        "highest_score": max(max(detector.scores) for detector in detectors if detector.scores),
        "median_score": statistics.median(s for detector in detectors for s in detector.scores),
        "example": [round(score, 3) for score in detectors[0].scores],
    }


def rate(share: float, runs: int) -> dict[str, float]:
    """A share and its 95% interval (Wilson's), with as many observations as there are runs.

    Of batches too: those of one run depend on each other (a window is a mean over its neighbours,
    and SplitGuard's score stays as it is between two probes), so a run counts once. The shares of
    runs vary no more than hits and misses do, so the interval is wide enough.
    """
    z, width = 1.96, 1.96**2 / runs
    middle = (share + width / 2) / (1 + width)
    half = z / (1 + width) * math.sqrt(share * (1 - share) / runs + width / (4 * runs))
    return {"rate": share, "low": max(0.0, middle - half), "high": min(1.0, middle + half)}


def main(names: list[str]) -> None:
    """Study the data sets and write detection.json, anew after each."""
    torch.set_num_threads(1)
    facts: dict[str, Any] = {
        "command": f"python -m benchmarks.record_detection {' '.join(names)}",
        "cut": CUT,
        "client": f"Adam with amsgrad, 1e-3, batches of {BATCH}",
        "first_seed": FIRST_SEED,
        "fsha": asdict(Hijacking()),
        "versions": devices.versions("scikit-learn"),
        "studies": {},
    }
    target = lessons.course() / "results" / "detection.json"
    for name in names:
        facts["studies"][name] = study(name)
        write_facts(target, facts)


if __name__ == "__main__":
    main(sys.argv[1:])
