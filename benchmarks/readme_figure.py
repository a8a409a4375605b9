"""Draw the README's picture from the recorded runs: python -m benchmarks.readme_figure."""

import json
from pathlib import Path

import numpy as np
import torch

from sltools import lessons, plots

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    """Write docs/reconstructions.png: the median run of nine on digits."""
    folder = lessons.course() / "results"
    facts = json.loads((folder / "inversion_digits.json").read_text(encoding="utf-8"))
    with np.load(folder / "inversion_digits.npz") as arrays:
        truth, runs = torch.from_numpy(arrays["truth"]), torch.from_numpy(arrays["inputs"])
    errors = [run["mse_median"] for run in facts["runs"]]
    middle = sorted(range(len(errors)), key=errors.__getitem__)[len(errors) // 2]
    (ROOT / "docs").mkdir(exist_ok=True)
    picture = plots.reconstructions(truth, {"recovered": runs[middle]})
    picture.save(ROOT / "docs" / "reconstructions.png")


if __name__ == "__main__":
    main()
