"""Record how well known-weights inversion works at each cut of networks trained on MNIST.

python -m benchmarks.record_smashed_depth writes course/results/smashed_depth_mnist.json, which
lesson 03 shows: 3 victims, 10 targets, 6 cuts, a few minutes on one core.
"""

import time
from dataclasses import asdict

import torch
from torch import Tensor

from benchmarks import write_facts
from sltools import data, devices, lessons, metrics, models, protocol
from sltools.attacks import KnownWeightsInversion
from sltools.data import Dataset

CUTS = ("conv1", "pool1", "conv2", "pool2", "fc1", "fc2")
VICTIMS = (0, 1, 2)  # their seeds
EPOCHS = 3
ATTACK = KnownWeightsInversion(steps=2000, input_lr=0.1, tv=0.01, l1=0.0, l2=0.0)
SCORES = ("mse", "aligned_mse", "ssim")


def main() -> None:
    """Run the experiment on one thread and write its results."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    mnist = data.load("mnist")
    targets = mnist.test.first_per_class().images
    victims = [_victim(mnist, seed) for seed in VICTIMS]
    facts = {
        "command": "python -m benchmarks.record_smashed_depth",
        "dataset": mnist.name,
        "targets": len(targets),
        "seeds": VICTIMS,
        "training": {"epochs": EPOCHS, "batch_size": 64, "images": len(mnist.train)},
        "attack": {"name": type(ATTACK).__name__, **asdict(ATTACK)},
        "grants": ["client_model"],
        "victim_accuracy": [round(victim.accuracy(mnist.test), 4) for victim in victims],
        "cuts": CUTS,
        # For each score a list for each victim: the median over the targets at each cut.
        "scores": _by_score(
            [[_inverted(victim, at, targets) for at in CUTS] for victim in victims]
        ),
        "baselines": {
            "blank image": _medians(torch.zeros_like(targets), targets),
            "mean image": _medians(mnist.train.images.mean(0).expand_as(targets), targets),
        },
        "versions": devices.versions(),
        "device": "cpu, 1 thread",
        "seconds": round(time.perf_counter() - start),
        "cpu_seconds": round(time.process_time()),
    }
    path = lessons.course() / "results" / "smashed_depth_mnist.json"
    write_facts(path, facts)
    print(f"wrote {path.name} after {facts['seconds']} s")


def _victim(dataset: Dataset, seed: int) -> protocol.Session:
    front, rest = models.cut(models.mnist_net(seed), "pool1")
    return protocol.train(front, rest, dataset.train, epochs=EPOCHS, batch_size=64, seed=seed)


def _inverted(victim: protocol.Session, at: str, targets: Tensor) -> dict[str, float]:
    view = protocol.recut(victim, at).observe(targets, grants=["client_model"])
    scores = _medians(ATTACK(view).inputs, targets)
    print(at, scores, flush=True)
    return scores


def _medians(images: Tensor, truth: Tensor) -> dict[str, float]:
    summary = metrics.score_images(images, truth).summary()
    return {name: round(summary[f"{name}_median"], 6) for name in SCORES}


def _by_score(victims: list[list[dict[str, float]]]) -> dict[str, list[list[float]]]:
    return {name: [[cut[name] for cut in cuts] for cuts in victims] for name in SCORES}


if __name__ == "__main__":
    main()
