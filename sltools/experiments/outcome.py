"""What an experiment found, as facts, arrays and a picture, and as text."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from sltools import devices, plots, storage


@dataclass(frozen=True)
class Outcome:
    """What an experiment found: `facts` for JSON, `arrays` and a `picture` to keep.

    >>> from sltools import experiments
    >>> outcome = experiments.run_labels(experiments.LabelSettings(targets=20, victims=1))
    >>> print(outcome)  # doctest: +ELLIPSIS
    label inference, published: 1 runs, ... s
      knows  features
      knows  head architecture
      knows  head weight gradients (granted)
      label accuracy               1.0000 median  1.0000 worst
      baseline: chance             0.1000 median  0.1000 best
      baseline: majority           0.2500 median  0.2500 best
    """

    facts: dict[str, Any]
    arrays: dict[str, Tensor]
    picture: plots.Picture

    def save(self, folder: Path) -> Path:
        """Write facts, arrays and figure into a new `folder` and return its path."""
        return storage.write(folder, self.arrays, self.facts, {"figure.png": self.picture.png})

    def __str__(self) -> str:
        lines = [f"{self.facts['attack']}: {len(self.facts['runs'])} runs, "]
        lines[0] += f"{self.facts['seconds']:.0f} s"
        if self.facts["interrupted"]:
            lines.append(f"  INTERRUPTED, this is the outcome of {self.facts['done']}")
        lines += [f"  knows  {name}" for name in self.facts["knowledge"]]
        lines += [_row(name, values) for name, values in self.facts["metrics"].items()]
        for name, values in self.facts["baselines"].items():
            lines.append(_row(f"baseline: {name}", values.get("raw_mse", values)))
        return "\n".join(lines)


def provenance(start: float, device: str) -> dict[str, Any]:
    """Facts of a run that began at `start`: seconds, device and versions."""
    return {
        "seconds": round(time.perf_counter() - start, 2),
        "device": device,
        "versions": devices.versions(),
    }


def _row(name: str, values: dict[str, float]) -> str:
    shown = "  ".join(
        f"{values[key]:.4f} {key}" for key in ("median", "worst", "best") if key in values
    )
    return f"  {name.replace('_', ' '):28} {shown}"
