"""How many images does attack 1 work on in a second, and how many would the machine allow?

    python -m benchmarks.throughput
    python -m benchmarks.throughput --compiled         # and with torch.compile, beside it
    python -m benchmarks.throughput --whole            # and the whole test set: an hour on a CPU
    python -m benchmarks.throughput --published        # and the paper's schedule, for three images
    python -m benchmarks.throughput --device cuda --compiled --whole --published

UnSplit with one clone on MNIST, cut at pool1. The floor is the time that a step's operations would
take at the rate of a large matrix product, or its bytes at the rate of a copy (the fastest of
several sizes, for a chunk of the work fits into caches), whichever is more; both rates are measured
in the same run. The operations are those that torch counts. The bytes are
the least that layers run one after another can move: each activation is written and read, and so
is its gradient; Adam reads and writes what it moves. Prints a table and what is missing here, and
writes --path, by default course/results/throughput_DEVICE.json.
"""

import resource
import time
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import check_writable, write_facts
from sltools import data, devices, experiments, lessons, metrics
from sltools.attacks import UnSplit
from sltools.attacks.ensemble import Ensemble
from sltools.errors import SltoolsError
from sltools.interrupts import finished
from sltools.protocol import Session
from sltools.view import View

DATASET, CUT = "mnist", "pool1"
STEPS = {10: 400, 1000: 20, 10_000: 4}  # targets -> steps that are timed
TIMED = 10  # steps, for any other number
REPEATS = 5  # of which the median counts
PUBLISHED_TARGETS, PUBLISHED_ROUNDS = 3, 2
FLOAT = 4  # bytes
ADAM = 7  # values moved for each value sought: it, its gradient and two moments; three come back
SIDE = 2048  # of the matrices that show the rate of operations
COPIED = (2**16, 2**20, 2**26)  # values whose copying shows the rate of bytes
GPU_ONLY = (
    "on a GPU nothing has been measured: steps and images per second beside its floor (--device "
    "cuda), the whole test set in one call (--whole), and whether torch.compile, which captures "
    "graphs there, pays (--compiled); sltools therefore does not use it"
)


def main(
    device: str = "cpu",
    threads: Annotated[int, typer.Option(min=1, help="Of torch.")] = 1,
    compiled: Annotated[
        bool, typer.Option("--compiled", help="Time a compiled objective, too: some minutes.")
    ] = False,
    whole: Annotated[
        bool, typer.Option("--whole", help="Invert the whole test set, too: hours on a CPU.")
    ] = False,
    published: Annotated[
        bool, typer.Option("--published", help="Time the published schedule, too.")
    ] = False,
    dataset: str = DATASET,
    targets: Annotated[str, typer.Option(help="How many at once, comma-separated.")] = ",".join(
        map(str, STEPS)
    ),
    path: Annotated[Path | None, typer.Option(help="The JSON file, written anew.")] = None,
) -> None:
    """Measure on one device, which takes some minutes, and write the result."""
    torch.set_num_threads(threads)
    devices.find(device)
    path = path or lessons.course() / "results" / f"throughput_{torch.device(device).type}.json"
    check_writable(path)
    source = data.load(dataset)
    counts = [int(count) for count in targets.split(",")]
    session = experiments.train_victim(source, CUT, device=device)
    rates = {"operations": _operations_per_second(device), "bytes": _bytes_per_second(device)}
    rows = [_row(session, source, count, rates) for count in counts]
    peak_memory = _peak_memory(device)
    facts: dict[str, Any] = {
        "command": f"python -m benchmarks.throughput --device {device} --threads {threads}"
        + (" --compiled" if compiled else "")
        + (" --whole" if whole else "")
        + (" --published" if published else "")
        + (f" --dataset {dataset}" if dataset != DATASET else "")
        + (f" --targets {targets}" if counts != list(STEPS) else ""),
        "device": torch.cuda.get_device_name() if "cuda" in device else f"CPU, threads: {threads}",
        "rates": rates,
        "rows": rows,
        "compiled": [_comparison(session, source, n) for n in counts] if compiled else None,
        "whole": _whole(session, source) if whole else None,
        "published": _published(session, source) if published else None,
        "peak_memory_bytes": peak_memory,
        "versions": devices.versions(),
    }
    print(table(rows))
    for row in facts["compiled"] or []:
        print("compiled, {targets:,} targets: {times_as_fast:.2f} times as fast".format(**row))
    print(f"peak memory: {peak_memory / 2**30:.1f} GiB")
    write_facts(path, facts)
    if not torch.cuda.is_available():
        print(f"missing: {GPU_ONLY}")


def table(rows: list[dict[str, Any]]) -> str:
    """The Markdown table of what was timed."""
    lines = [
        "| targets | steps/s | images/s | times the floor | which is set by |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row['targets']:,} | {row['steps_per_second']:.3g} "
        f"| {row['images_per_second']:,.0f} | {row['times_floor']:.1f} | {row['binds']} |"
        for row in rows
    ]
    return "\n".join(lines)


def _row(
    session: Session, source: data.Dataset, count: int, rates: dict[str, float]
) -> dict[str, Any]:
    view = session.observe(experiments.first_targets(source, count).images)
    work = {"operations": _operations(view), "bytes": _bytes(view)}
    floors = {name: work[name] / rates[name] for name in work}
    seconds = _seconds_per_step(view, STEPS.get(count, TIMED))
    return {
        "targets": count,
        "timed_steps": STEPS.get(count, TIMED),
        "steps_per_second": 1 / seconds,
        "images_per_second": count / seconds,
        **{f"{name}_per_step": amount for name, amount in work.items()},
        "binds": max(floors, key=lambda name: floors[name]),
        "times_floor": seconds / max(floors.values()),
    }


def _seconds_per_step(view: View, steps: int) -> float:
    """What a step more costs: the median of some attacks."""
    UnSplit(steps=1, snapshots=1)(view)  # warms up
    return _median([_more_steps(UnSplit, view, steps)[0] for _ in range(REPEATS)]) / steps


def _more_steps(kind: type[UnSplit], view: View, steps: int) -> tuple[float, Tensor]:
    """Seconds that `steps` steps more take, without what an attack does once; the images found."""
    short, long = (finished(kind(steps=1 + more, snapshots=1)(view)) for more in (0, steps))
    return long.seconds - short.seconds, long.inputs


class _Compiled(UnSplit):
    """UnSplit with its objective and gradients compiled; on CUDA, to be captured as graphs."""

    def _losses(
        self, inputs: Tensor, targets: Tensor, scale: Tensor, networks: Ensemble, tv: float
    ) -> dict[str, Tensor]:
        changing = torch.full((), tv, device=inputs.device)  # a number would be compiled in
        losses = _compiled_losses(inputs.device.type)
        return dict(losses(self, inputs, targets, scale, networks, changing))


@cache
def _compiled_losses(device: str) -> Callable[..., dict[str, Tensor]]:
    return torch.compile(UnSplit._losses, mode="reduce-overhead" if device == "cuda" else None)


def _comparison(session: Session, source: data.Dataset, count: int) -> dict[str, float]:
    """Set compiled and plain steps side by side."""
    view = session.observe(experiments.first_targets(source, count).images)
    torch._dynamo.reset()  # or it gives up compiling after some sizes
    steps = STEPS.get(count, TIMED)
    _more_steps(_Compiled, view, steps)  # is compiled, and again when the leak has ended
    ratios = []
    for _ in range(REPEATS):
        plain, images = _more_steps(UnSplit, view, steps)
        fast, same = _more_steps(_Compiled, view, steps)
        ratios.append(plain / fast)
    return {
        "targets": count,
        "times_as_fast": _median(ratios),
        "least": min(ratios),
        "most": max(ratios),
        "median_difference": (images - same).abs().median().item(),
        "largest_difference": (images - same).abs().max().item(),
    }


def _operations(view: View) -> float:
    """Multiplications and additions of convolutions and matrix products in one step."""

    def counted(steps: int) -> int:
        with FlopCounterMode(display=False) as counter:
            UnSplit(steps=steps, snapshots=1)(view)
        return int(counter.get_total_flops())

    return counted(2) - counted(1)


def _bytes(view: View) -> float:
    """The least number of bytes that one step can move, layer by layer."""
    shape = view.architecture.input_shape
    pixels = len(view.smashed) * torch.Size(shape).numel()
    activations, now = 0, torch.zeros(1, *shape)
    clone = view.architecture.build(0)
    with torch.no_grad():
        for layer in clone:
            now = layer(now)
            activations += len(view.smashed) * now.numel()
    weights = sum(weight.numel() for weight in clone.parameters())
    forward_and_back = 4 * activations + 2 * pixels + view.smashed.numel()
    return float(FLOAT * (forward_and_back + ADAM * (pixels + weights)))


def _operations_per_second(device: str) -> float:
    left, right = (torch.rand(SIDE, SIDE, device=device) for _ in range(2))
    return 2 * SIDE**3 / _seconds(lambda: left @ right, device)


def _bytes_per_second(device: str) -> float:
    """Bytes read and written in a second of copying what is copied fastest."""

    def rate(count: int) -> float:
        source = torch.zeros(count, device=device)
        copy = torch.ones_like(source)
        repeats = COPIED[-1] // count  # so that all take as long
        seconds = _seconds(lambda: [copy.copy_(source) for _ in range(repeats)], device)
        return 2 * FLOAT * COPIED[-1] / seconds

    return max(map(rate, COPIED))


def _seconds(work: Callable[[], Any], device: str) -> float:
    def once() -> float:
        start = time.perf_counter()
        work()
        if "cuda" in device:
            torch.cuda.synchronize()
        return time.perf_counter() - start

    once()  # warms up
    return _median([once() for _ in range(REPEATS)])


def _whole(session: Session, source: data.Dataset) -> dict[str, float]:
    """Invert every test image in one call, with the usual number of steps."""
    view = session.observe(source.test.images)
    found = finished(replace(experiments.unsplit(source.name, "quick"), snapshots=1)(view))
    truth = source.test.images.to(found.inputs.device)
    floor = source.train.images.mean(0).to(truth).expand_as(truth)
    clone = torch.nn.Sequential(found.clone, session.server.model)
    return {
        "targets": len(truth),
        "steps": found.settings["steps"],
        "seconds": round(found.seconds, 1),
        "raw_mse": metrics.mse(found.inputs, truth).median().item(),
        "mean_image_mse": metrics.mse(floor, truth).median().item(),
        "clone_accuracy": metrics.accuracy(clone, source.test),
        "victim_accuracy": session.accuracy(source.test),
    }


def _published(session: Session, source: data.Dataset) -> dict[str, float]:
    """The rate of the published schedule on its first rounds, for three images as in the paper."""
    view = session.observe(experiments.first_targets(source, PUBLISHED_TARGETS).images)
    UnSplit.published(rounds=1)(view)  # warms up
    found = finished(UnSplit.published(rounds=PUBLISHED_ROUNDS)(view))
    steps = found.settings["steps"]
    return {
        "targets": PUBLISHED_TARGETS,
        "timed_steps": steps,
        "steps_per_second": steps / found.seconds,
        "hours_of_all": UnSplit.published().steps / steps * found.seconds / 3600,
    }


def _peak_memory(device: str) -> int:
    if "cuda" in device:
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # Linux counts in KiB


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]


if __name__ == "__main__":
    try:
        typer.run(main)
    except SltoolsError as error:
        raise SystemExit(f"error: {error}") from None
