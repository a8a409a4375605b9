"""Record feature-space hijacking under course/results/, for lesson 09 to show.

    python -m benchmarks.record_hijacking hijacking_mnist --dataset mnist
    python -m benchmarks.record_hijacking hijacking_mnist_pool2 --dataset mnist --cut pool2

Half of the training images are the client's, the other half is public. Each victim and its attacker
have a seed of their own. The reconstructions of images that nobody trained on, and of the client's
own, are scored on the way. A victim takes three minutes of one core.
"""

import statistics
import sys
import time
from dataclasses import asdict
from typing import Annotated, Any

import numpy as np
import torch
import typer
from torch import Tensor

from benchmarks import write_arrays, write_facts
from sltools import data, devices, lessons, metrics, models, protocol, seeds
from sltools.attacks import Hijacking, HijackingServer

SCORED = 500  # images of the test set, and of the client's own, that are scored
SHOWN = 10  # of them are kept as pictures, one for each class
EVERY = 100  # steps between two scores


def main(
    name: Annotated[str, typer.Argument(help="name of the result")],
    dataset: str = "mnist",
    cut: str = "pool1",
    epochs: int = 3,
    victims: int = 3,
    device: str = "cpu",
) -> None:
    """Hijack clients with seeds 0, 1, ... and write NAME.json and NAME.npz."""
    torch.set_num_threads(1)
    digits = data.load(dataset)
    runs, pictures = [], []
    for seed in range(victims):
        run, shown = hijack(digits, cut, epochs, seed, device)
        print(f"victim {seed}: MSE {run['validation']['attack'][-1]:.4f}, {run['seconds']:.0f} s")
        runs.append(run)
        pictures.append(shown)
    final = [run["validation"]["attack"][-1] for run in runs]
    facts = {
        "command": f"python -m benchmarks.record_hijacking {' '.join(sys.argv[1:])}",
        "dataset": dataset,
        "cut": cut,
        "epochs": epochs,
        "device": device,
        "client": "Adam with amsgrad, 1e-3, batches of 64",
        "scored": f"{SCORED} test images and as many of the client's own, MSE on the [0, 1] scale",
        "settings": asdict(Hijacking()),
        "versions": devices.versions(),
        "final_mse": {"median": statistics.median(final), "least": min(final), "most": max(final)},
        "runs": runs,
    }
    target = lessons.course() / "results" / name
    write_facts(target.with_suffix(".json"), facts)
    truth = digits.test.first_per_class().images[:SHOWN]
    write_arrays(
        target.with_suffix(".npz"), truth=truth.numpy(), inputs=torch.stack(pictures).numpy()
    )


def hijack(
    dataset: data.Dataset, cut: str, epochs: int, seed: int, device: str
) -> tuple[dict[str, Any], Tensor]:
    """Train one victim and return its record and pictures over time (S, 10, C, H, W)."""
    rows = torch.randperm(len(dataset.train), generator=seeds.generator(seed, "private or public"))
    private, public = (dataset.train[half] for half in rows.split(len(rows) // 2)[:2])
    front, rest = models.cut(models.for_images(private.images.shape, seed), cut)
    client = protocol.Client(front)
    server = HijackingServer(rest, public.images, Hijacking(seed=seed))
    scored = {"validation": dataset.test.images[:SCORED], "private": private.images[:SCORED]}
    curves: dict[str, Any] = {name: [] for name in scored}
    shown, steps = [], []
    start = time.perf_counter()
    for number in range(epochs):
        for part in _parts(private, seed, number):
            session = protocol.train(client, server, part, epochs=1, seed=seed, device=device)
            for name, images in scored.items():
                found = server.invert(session.observe(images)).inputs.cpu()
                curves[name].append(metrics.mse(found, images).mean().item())
            truth = dataset.test.first_per_class().images[:SHOWN]
            shown.append(server.invert(session.observe(truth)).inputs.cpu())
            steps.append(server.steps)
    seconds = time.perf_counter() - start
    mean_image = public.images.mean(0, keepdim=True)
    run = {
        "seed": seed,
        "seconds": round(seconds, 1),
        "attack_seconds": round(server.seconds, 1),
        "images": {"private": len(private), "public": len(public)},
        "steps": steps,
        "accuracy": session.accuracy(dataset.test),
        "losses": {name: values.tolist() for name, values in server.losses.items()},
        "loss_steps": server.loss_steps.tolist(),
    }
    for name, images in scored.items():
        run[name] = {
            "attack": curves[name],
            "blank image": metrics.mse(torch.zeros_like(images), images).mean().item(),
            "mean image": metrics.mse(mean_image.expand_as(images), images).mean().item(),
        }
    kept = np.unique(np.linspace(0, len(shown) - 1, 8).astype(int)).tolist()
    run["shown_steps"] = [steps[index] for index in kept]
    return run, torch.stack([shown[index] for index in kept])


def _parts(private: data.Split, seed: int, epoch: int) -> list[data.Split]:
    """One epoch of the client's images, in an order of its own, EVERY batches at a time."""
    order = seeds.generator(seed, f"epoch {epoch}")
    rows = torch.randperm(len(private), generator=order)
    return [private[part] for part in rows.split(EVERY * 64)]


if __name__ == "__main__":
    typer.run(main)
