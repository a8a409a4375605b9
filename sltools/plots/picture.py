"""What every picture is: a PNG with its alt text, in one style, with numbers written one way."""

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from sltools import progress, storage
from sltools.errors import DataError

Numbers = Tensor | np.ndarray | Sequence[float]

DPI = 100
# The colours of Okabe and Ito, which colour-blind readers can tell apart.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
INK, GREY = "#222222", "#777777"

styled = matplotlib.rc_context(
    {
        "font.family": "DejaVu Sans",  # comes with matplotlib: the same on every machine
        "font.size": 9.5,
        "text.color": INK,
        "figure.facecolor": "white",
        "savefig.facecolor": "white",
        "axes.facecolor": "white",
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E6E6E6",
        "xtick.color": INK,
        "ytick.color": INK,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "lines.markersize": 6,
        "image.interpolation": "nearest",
        "image.cmap": "viridis",
    }
)


@dataclass(frozen=True)
class Picture:
    """A PNG, the words for a reader who does not see it, and its width on the page in pixels.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> from sltools import plots
    >>> picture = plots.bars({"chance": 0.1, "attack": 0.85}, "share of labels")
    >>> picture.alt
    'Bars of share of labels. chance: 0.1; attack: 0.85.'
    >>> with TemporaryDirectory() as folder:
    ...     picture.save(Path(folder) / "bars.png").read_bytes() == picture.png
    True
    """

    png: bytes = field(repr=False)
    alt: str
    width: int

    def save(self, path: str | Path) -> Path:
        """Write the PNG to `path`, replacing what was there, and return the path."""
        path = Path(path).expanduser()
        storage.write_atomic(path, self.png)
        return path

    def html(self) -> str:
        """Return an <img> element that holds the picture and its alt text."""
        source = base64.b64encode(self.png).decode()
        alt = html.escape(self.alt)
        return f'<img src="data:image/png;base64,{source}" width="{self.width}" alt="{alt}">'

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        # The text is the same whatever is drawn, because notebook tests compare it.
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": "<picture>"}
        if not progress.static():
            # JupyterLab prefers HTML; its own PNG renderer (read in 4.6) drops the alt text.
            data["text/html"] = self.html()
        return data, {"image/png": {"alt": self.alt, "width": self.width}}


def array(values: float | Numbers, like: np.ndarray | None = None, name: str = "") -> np.ndarray:
    """Return `values` as float64; raise DataError unless there is one for each place of `like`."""
    found = torch.as_tensor(values, dtype=torch.float64).detach().cpu().numpy()
    if like is not None and found.shape != like.shape:
        raise DataError(
            f"{name} has shape {found.shape} where {like.shape} is drawn; give one number each."
        )
    return found


def mse_text(error: float) -> str:
    """Write an error below an image, where rounding must not make a perfect one of a good one."""
    return f"MSE {error:.4f}" if error == 0 or error >= 1e-4 else f"MSE {error:.0e}"


def short(value: float) -> str:
    """Write a number to three digits, but a whole number in full."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def counted(number: int, noun: str) -> str:
    """Write how many there are of something."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def render(axes: Axes, *sentences: str) -> Picture:
    """Render the figure of `axes`, cropped to what is drawn; its alt text is the sentences."""
    figure, png = axes.figure, BytesIO()
    assert isinstance(figure, Figure)  # and not a part of one
    # Without the name of the software the file depends on nothing but what is drawn.
    figure.savefig(
        png, format="png", bbox_inches="tight", pad_inches=0.08, metadata={"Software": None}
    )
    width = int.from_bytes(png.getvalue()[16:20], "big")  # from the PNG's header
    return Picture(png.getvalue(), " ".join(sentences), width)
