"""All that is still to be measured on a GPU, most wanted first, for as long as the minutes last.

    python -m benchmarks.gpu --minutes 8 --out measured
    python -m benchmarks.gpu --minutes 8 --out measured --dry-run    # all tiny, on the CPU

Each part is a command of its own, and its record has the form of those in `course/results/`: the
tests for a GPU; steps and images a second beside the floor; the published schedule on the same
card; the whole test set in one call; compiled steps, captured as graphs; then the stages of
CIFAR-10 that nobody attacked yet, which go on where `course/results/depth.csv` ends. A part is not
begun with less time left than it needs at least, one that takes longer is interrupted, and the same
command goes on with those that did not end: `gpu.json` says which. What is whole is to be copied to
`course/results/` by hand.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, NamedTuple

import torch
import typer

from benchmarks import reproduce, write_facts
from sltools import devices, lessons, storage
from sltools.errors import SltoolsError

FACTS = "gpu.json"
GRACE = 20  # seconds for an interrupted part to write down what it has
DONE = "done"


class Part(NamedTuple):
    """What is measured, by which command, and the least number of seconds that it needs."""

    name: str
    command: tuple[str, ...]
    least: float


@dataclass(frozen=True)
class Outcome:
    """What became of a part: its `status`, its seconds, and the end of what it printed."""

    status: str
    command: str
    seconds: float = 0.0
    printed: str = ""


def main(
    out: Annotated[Path, typer.Option(help="Folder for the records.")],
    minutes: Annotated[float, typer.Option(min=0.1, help="In all.")] = 8,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="All tiny, on the CPU: does it run?")
    ] = False,
) -> None:
    """Measure what is missing in OUT, and say what was not reached."""
    if not dry_run and not torch.cuda.is_available():
        raise SltoolsError("torch finds no CUDA device; --dry-run tries the parts on the CPU")
    end = time.monotonic() + 60 * minutes
    out = storage.writable_folder(out)
    outcomes = _read(out / FACTS)
    for part in (tiny_parts if dry_run else parts)(out):
        if outcomes.get(part.name, Outcome("", "")).status != DONE:
            outcomes[part.name] = carried_out(part, end - time.monotonic())
            write_facts(out / FACTS, _facts(outcomes, dry_run))
        print(f"{part.name}: {outcomes[part.name].status}", flush=True)


def parts(out: Path) -> list[Part]:
    """All parts, the most wanted first; their records go to the folder `out`."""
    return [
        Part("tests", ("pytest", "-q", "-m", "gpu", "tests"), 60),
        _throughput(out, "steps a second", 30, "--device", "cuda"),
        _throughput(out, "published schedule", 30, "--device", "cuda", "--targets", "10",
                    "--published"),
        _throughput(out, "whole test set", 60, "--device", "cuda", "--targets", "10", "--whole"),
        _throughput(out, "compiled steps", 60, "--device", "cuda", "--compiled"),
        Part(
            "stages of CIFAR-10",
            ("benchmarks.reproduce", "--datasets", "cifar10", "--device", "cuda",
             "--path", str(_depths(out))),
            60,
        ),
    ]  # fmt: skip


def tiny_parts(out: Path) -> list[Part]:
    """The same commands with as little to do as possible, on the CPU and the digits."""
    small = ("--dataset", "digits", "--targets", "3")
    return [
        Part("tests", ("pytest", "-q", "-m", "gpu", "tests/test_unsplit.py", "--collect-only"), 1),
        _throughput(out, "steps a second", 1, *small),
        Part(
            "stages of CIFAR-10",
            ("benchmarks.reproduce", "--datasets", "digits", "--path", str(_depths(out))),
            1,
        ),
    ]


def carried_out(part: Part, seconds: float) -> Outcome:
    """Run `part` for `seconds` at most; interrupt it then, so that it keeps what it has.

    >>> from benchmarks.gpu import Part, carried_out
    >>> carried_out(Part("nothing", ("this",), least=60), seconds=1).status
    'not begun'
    """
    command = [sys.executable, "-m", *part.command]
    told = " ".join(["python", *command[1:]])
    if seconds < part.least:
        return Outcome("not begun", told)
    start = time.monotonic()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    )
    try:
        printed, _ = process.communicate(timeout=seconds)
        status = DONE if process.returncode == 0 else f"failed with {process.returncode}"
    except subprocess.TimeoutExpired:
        status = "interrupted"
        process.send_signal(signal.SIGINT)
        try:
            printed, _ = process.communicate(timeout=GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
    return Outcome(status, told, round(time.monotonic() - start, 1), printed[-2000:])


def _throughput(out: Path, name: str, least: float, *options: str) -> Part:
    path = out / f"throughput_{name.replace(' ', '_')}.json"
    return Part(name, ("benchmarks.throughput", *options, "--path", str(path)), least)


def _depths(out: Path) -> Path:
    """A copy of the record of depths, which the attacks that are missing there are added to."""
    path = out / reproduce.FILES["quick"]
    for file in (path, path.with_suffix(".json")):
        if not file.exists():
            shutil.copy(lessons.course() / "results" / file.name, file)
    return path


def _read(path: Path) -> dict[str, Outcome]:
    if not path.exists():
        return {}
    kept = json.loads(path.read_text(encoding="utf-8"))["parts"]
    return {name: Outcome(**facts) for name, facts in kept.items()}


def _facts(outcomes: dict[str, Outcome], dry_run: bool) -> dict[str, object]:
    return {
        "device": "cpu, dry run" if dry_run else torch.cuda.get_device_name(),
        "parts": {name: asdict(outcome) for name, outcome in outcomes.items()},
        "not_reached": [name for name, found in outcomes.items() if found.status != DONE],
        "versions": devices.versions(),
    }


if __name__ == "__main__":
    try:
        typer.run(main)
    except SltoolsError as error:
        raise SystemExit(f"error: {error}") from None
