"""Record how label inference fares over a training, for heads of one, two and three layers.

python -m benchmarks.record_label_inference writes course/results/label_inference.json, which
lesson 07 shows: 3 victims on digits and on MNIST, a quarter of an hour on one core. Of a client
that "stands still" (step size 0) every exchange shows the same moment of the training.
"""

import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD

from benchmarks import write_facts
from sltools import data, devices, lessons, metrics, models, protocol
from sltools.attacks import LabelInference
from sltools.data import Dataset, Split
from sltools.interrupts import finished
from sltools.transcript import Transcript

FRONT = "pool1"
DEPTHS = (1, 2, 3)  # layers with weights in the client's head
SEEDS = (0, 1, 2)
ONLINE, WINDOW = 1400, 100  # batches of one from the first step on; how many are averaged
EPOCHS = {"digits": (0, 1, 2, 3, 5, 10, 15, 20, 30, 40, 60), "mnist": (0, 1, 2, 3, 5, 10)}
WATCHED = 640  # samples of a client that stands still: their directions are clustered
MATCHED = 100  # samples of a client that stands still: their gradients are matched

stand_still = partial(SGD, lr=0.0)


def main() -> None:
    """Run both experiments on both data sets, on one thread, and write the results."""
    torch.set_num_threads(1)
    start = time.perf_counter()
    facts: dict[str, Any] = {
        "command": "python -m benchmarks.record_label_inference",
        "seeds": SEEDS,
        "depths": DEPTHS,
        "settings": {
            "front": FRONT,
            "online": ONLINE,
            "window": WINDOW,
            "watched": WATCHED,
            "matched": MATCHED,
        },
        "results": {},
    }
    for name, epochs in EPOCHS.items():
        dataset = data.load(name)
        facts["results"][name] = {
            "images": len(dataset.train),
            "classes": len(dataset.classes),
            "matching": {depth: _matching(dataset, depth) for depth in DEPTHS},
            "moments": _moments(dataset, epochs),
        }
        print(name, f"{time.perf_counter() - start:.0f} s", flush=True)
    facts["versions"] = devices.versions("scikit-learn")
    facts["device"] = "cpu, 1 thread"
    facts["seconds"] = round(time.perf_counter() - start)
    facts["cpu_seconds"] = round(time.process_time())
    path = lessons.course() / "results" / "label_inference.json"
    write_facts(path, facts)
    print(f"wrote {path.name} after {facts['seconds']} s")


def _matching(dataset: Dataset, depth: int) -> dict[str, list[list[float]]]:
    """Match gradients from the first step on: for each clone and seed the accuracy by window."""
    found: dict[str, list[list[float]]] = {"co-trained": [], "frozen": []}
    for seed in SEEDS:
        net = models.for_images(dataset.train.images.shape, seed)
        client, server = _parties(net, depth)
        few = dataset.train[:ONLINE]
        session = protocol.train(
            client, server, few, epochs=1, batch_size=1, seed=seed, record=True
        )
        transcript = finished(session).transcript
        view, truth = transcript.view("server", ["head_weight_gradients"]), _truth(transcript)
        for clone, runs in found.items():
            found_here = finished(LabelInference(clone=clone, seed=seed)(view))
            right = found_here.labels == truth
            runs.append([round(part.double().mean().item(), 4) for part in right.split(WINDOW)])
            print(dataset.name, depth, clone, runs[-1], flush=True)
    return found


def _moments(dataset: Dataset, epochs: tuple[int, ...]) -> dict[str, Any]:
    """Attack the client as it stands after each of `epochs`: for each seed the accuracies."""
    found: dict[str, Any] = {
        "epochs": epochs,
        "test_accuracy": [],
        "random_partition": [],
        "nearest_anchor": [],
        **{name: {depth: [] for depth in DEPTHS} for name in ("clusters", "anchors", "frozen")},
    }
    for seed in SEEDS:
        accuracies, blind, by_anchor = [], [], []
        rows: dict[str, dict[int, list[float]]]
        rows = {name: {d: [] for d in DEPTHS} for name in ("clusters", "anchors", "frozen")}
        for net, accuracy in _trained(dataset, epochs, seed):
            accuracies.append(round(accuracy, 4))
            for depth in DEPTHS:
                report, nearest = _clustered(net, depth, dataset, seed)
                by_anchor.append(nearest)
                blind.append(report.random_partition)
                rows["clusters"][depth].append(round(report.cluster_accuracy, 4))
                rows["anchors"][depth].append(round(report.label_accuracy, 4))
                rows["frozen"][depth].append(round(_matched(net, depth, dataset, seed), 4))
        found["test_accuracy"].append(accuracies)
        found["random_partition"].append(round(statistics.median(blind), 4))
        found["nearest_anchor"].append(round(statistics.median(by_anchor), 4))
        for name, depths in rows.items():
            print(dataset.name, seed, name, depths, flush=True)
            for depth, row in depths.items():
                found[name][depth].append(row)
    return found


def _trained(
    dataset: Dataset, epochs: tuple[int, ...], seed: int
) -> Iterator[tuple[nn.Sequential, float]]:
    """Yield the network and its test accuracy after each of `epochs`."""
    net = models.for_images(dataset.train.images.shape, seed)
    client, server = _parties(net, 1)
    session = protocol.Session(client, server, Transcript())
    done = 0
    for epoch in epochs:
        if epoch > done:
            session = finished(
                protocol.train(
                    client, server, dataset.train, epochs=epoch - done, batch_size=64, seed=seed
                )
            )
            done = epoch
        yield net, session.accuracy(dataset.test)


def _clustered(
    net: nn.Sequential, depth: int, dataset: Dataset, seed: int
) -> tuple[metrics.LabelReport, float]:
    """Cluster the directions of dL/du, name the clusters by anchors, and do without gradients."""
    transcript = _at_rest(net, depth, dataset.train[:WATCHED], 64, seed)
    view = transcript.view("server", ["anchor_labels"])
    found = LabelInference("wire", seed=seed)(view)
    truth, given = _truth(transcript), view.anchor_labels >= 0
    report = metrics.score_labels(truth, len(dataset.classes), found.labels, found.clusters, given)
    nearest = nearest_anchor(view.smashed, view.anchor_labels)
    return report, metrics.label_accuracy(nearest[~given], truth[~given])


def nearest_anchor(smashed: Tensor, anchors: Tensor) -> Tensor:
    """The baseline that needs no gradient: each sample is named like the anchor of nearest z."""
    z, known = smashed.flatten(1), anchors >= 0
    return anchors[known][torch.cdist(z, z[known]).argmin(1)]


def _matched(net: nn.Sequential, depth: int, dataset: Dataset, seed: int) -> float:
    """Match the granted gradients with a frozen clone: the accuracy."""
    transcript = _at_rest(net, depth, dataset.train[:MATCHED], 1, seed)
    view = transcript.view("server", ["head_weight_gradients"])
    found = finished(LabelInference(clone="frozen", seed=seed)(view))
    return metrics.label_accuracy(found.labels, _truth(transcript))


def _at_rest(
    net: nn.Sequential, depth: int, split: Split, batch_size: int, seed: int
) -> Transcript:
    client, server = _parties(net, depth, optimizer=stand_still)
    session = protocol.train(
        client, server, split, epochs=1, batch_size=batch_size, seed=seed, record=True
    )
    return finished(session).transcript


def _parties(
    net: nn.Sequential, depth: int, **options: Any
) -> tuple[protocol.Client, protocol.Server]:
    """Cut `net` into a label-private client with `depth` layers in its head, and a server."""
    stages = models.stages(net)
    weighted = [name for name, layer in net.named_children() if list(layer.parameters())]
    before = stages[stages.index(weighted[-depth]) - 1]
    front, middle, head = models.cut(net, (FRONT, before))
    server = protocol.Server(middle, label_private=True, **options)
    return protocol.Client(front, head, **options), server


def _truth(transcript: Transcript) -> Tensor:
    return torch.cat([page["labels"] for page in transcript.client_log.values()])


if __name__ == "__main__":
    main()
