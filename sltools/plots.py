"""Pictures of the course. Each one describes itself in words, computed from what it draws.

Nothing here touches pyplot: a picture is a value, a PNG with its alt text, and drawing it leaves no
figure behind. Lines differ in dash and marker, so that no reader needs the colours.
"""

import base64
import html
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from sltools import metrics, progress, storage
from sltools.errors import DataError

Numbers = Tensor | np.ndarray | Sequence[float]

LEGEND_WIDTH, HANDLE_WIDTH = 80, 8  # letters that fit above a chart, and a line beside its name
DPI = 100
PAGE = 8.2  # inches that pictures of images may take, row labels aside
MOST_IMAGES, MOST_SNAPSHOTS, MOST_SMASHED = 20, 9, 6
GAP = 0.06  # between images, as a share of a cell
STRIPE = 5  # cells that a stripe of flat smashed data fills; odd, so that its title has a middle
LANE, BOX, LEADING = 3.1, 2.7, 0.165  # of a diagram: between parties, a box, a line of text; inches
# The colours of Okabe and Ito, which colour-blind readers can tell apart.
PALETTE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
DASHES = ["-", "--", "-.", (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5, 1, 1.5))]
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p"]
INK, GREY = "#222222", "#777777"

_styled = matplotlib.rc_context(
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
    """A PNG, the words for a reader who does not see it, and its width on the page in pixels."""

    png: bytes = field(repr=False)
    alt: str
    width: int

    def save(self, path: str | Path) -> Path:
        """Write the PNG to `path`, replacing what was there, and return the path."""
        path = Path(path).expanduser()
        storage.replace(path, self.png)
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


# --- Images ---------------------------------------------------------------------------------------


@_styled
def reconstructions(
    truth: Tensor, methods: Mapping[str, Tensor], classes: Sequence[str] | None = None
) -> Picture:
    """Draw the true images (N, C, H, W) above each method's reconstructions of them.

    Each row bears the method's median MSE over all N images, of which the first 20 are drawn;
    `classes` names the class of each image. Raises DataError if shapes differ or a name is missing.
    """
    scores = {name: metrics.mse(images, truth).cpu().numpy() for name, images in methods.items()}
    shown = min(len(truth), MOST_IMAGES)
    titles = [str(name) for name in classes or []][:shown]
    if classes and len(titles) < shown:
        raise DataError(f"{len(classes)} class names for {shown} images; give one for each image.")
    axes = _image_axes(1 + len(methods), shown)
    for row, images in enumerate([truth, *methods.values()]):
        for column in range(shown):
            _draw_image(axes, images[column], row, column)
    medians = [f"{name}\n{_mse(np.median(score))}" for name, score in scores.items()]
    part = f"\nfirst {shown} of {len(truth)}" if shown < len(truth) else ""
    _label_rows(axes, [f"original{part}", *medians])
    _label_columns(axes, titles)
    which = f"the first {shown} of {len(truth)} images" if part else _count(shown, "image")
    of_classes = f" ({', '.join(titles)})" if titles else ""
    sentences = [
        f"{name}: median MSE {_n(np.median(score))}, from {_n(score.min())} "
        f"({_which(score.argmin(), titles)}) to {_n(score.max())} "
        f"({_which(score.argmax(), titles)})."
        for name, score in scores.items()
    ]
    return _picture(
        axes, f"Originals above their reconstructions: {which}{of_classes}.", *sentences
    )


def _which(index: Any, titles: Sequence[str]) -> str:
    """Name an image: by its place, and by its class if it has one, which may be a number too."""
    of_class = f", class {titles[index]}" if index < len(titles) else ""
    return f"image {index + 1}{of_class}"


@_styled
def over_time(snapshots: Tensor, steps: Sequence[int], truth: Tensor, image: int = 0) -> Picture:
    """Draw how one image's reconstruction took shape, the MSE under each state, the original last.

    `snapshots` is (S, N, C, H, W), taken at `steps` (S,); `truth` is (N, C, H, W). Of more than
    nine snapshots, nine are drawn, evenly spaced from the first to the last.
    """
    if len(steps) != len(snapshots):
        raise DataError(
            f"there are {len(snapshots)} snapshots and {len(steps)} steps; give one each."
        )
    chosen = np.linspace(0, len(steps) - 1, min(len(steps), MOST_SNAPSHOTS)).round().astype(int)
    states = snapshots[chosen, image]
    scores = metrics.mse(states, truth[image].expand_as(states)).tolist()
    times = [int(steps[index]) for index in chosen]
    axes = _image_axes(1, len(chosen) + 1)
    for column, state in enumerate([*states, truth[image]]):
        _draw_image(axes, state, 0, column)
    _label_columns(axes, [*(f"step {time:,}" for time in times), "original"])
    for column, score in enumerate(scores):
        axes.text(column + 0.5, 1.04, _mse(score), ha="center", va="top", fontsize=8)
    states_in_words = [f"{_n(s)} at step {t:,}" for s, t in zip(scores, times, strict=True)]
    return _picture(
        axes,
        f"One image's reconstruction at {_count(len(times), 'step')}, the original beside it.",
        f"MSE: {', '.join(states_in_words)}.",
    )


@_styled
def smashed(images: Tensor, activations: Tensor, channels: int = 8) -> Picture:
    """Draw images (N, C, H, W) beside the first channels of their smashed data (N, ...).

    Activations without height and width are drawn as a stripe, one bar per number. All share one
    colour scale. At most six images are drawn.
    """
    if len(images) != len(activations):
        raise DataError(
            f"there are {len(images)} images and smashed data of {len(activations)}; "
            "pass those of the same batch."
        )
    rows = min(len(images), MOST_SMASHED)
    flat = activations.ndim != 4
    drawn = activations[:rows] if flat else activations[:rows, :channels]
    values = drawn.detach().float().cpu().numpy()
    low, high = values.min(), values.max()
    columns = STRIPE if flat else values.shape[1]
    axes = _image_axes(rows, 1 + columns)
    for row in range(rows):
        _draw_image(axes, images[row], row, 0)
        maps = [values[row].reshape(1, -1)] if flat else list(values[row])
        span = STRIPE if flat else 1
        for column, channel in enumerate(maps, start=1):
            extent = _cell(row, column, column + span)
            scale = axes.imshow(channel, vmin=low, vmax=high, aspect="auto", extent=extent)
    legend = axes.inset_axes((1.015, GAP, 0.012, 1 - 2 * GAP))
    bar = legend.figure.colorbar(scale, cax=legend, ticks=MaxNLocator(4))
    bar.outline.set_visible(False)
    numbers = _count(values[0].size, "number")
    if flat:
        _label_columns(axes, ["original", *[""] * (STRIPE // 2), numbers])
        what = f"{numbers} each, as a stripe"
    else:
        _label_columns(axes, ["original", "channel 0", *map(str, range(1, columns))])
        height, width = values.shape[2:]
        of = _count(activations.shape[1], "channel")
        what = f"{columns} of {of}, {height}x{width} activations each"
    return _picture(
        axes,
        f"{_count(rows, 'image')} beside their smashed data: {what}.",
        f"Values from {_n(low)} to {_n(high)}; {(values == 0).mean():.0%} of them are 0.",
    )


def _image_axes(rows: int, columns: int) -> Axes:
    """Make axes in which the image of row r and column c fills the unit square at (c, r)."""
    cell = min(0.85, PAGE / columns)
    axes = Figure(figsize=(columns * cell, rows * cell), dpi=DPI).add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[], autoscale_on=False)
    axes.set_facecolor("#DDDDDD")  # seen in the gaps: a white image has an edge too
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return axes


def _cell(row: int, left: int, right: int) -> tuple[float, float, float, float]:
    return left + GAP / 2, right - GAP / 2, row + 1 - GAP / 2, row + GAP / 2


def _draw_image(axes: Axes, image: Tensor, row: int, column: int) -> None:
    """Draw one image (C, H, W), grey or RGB; what lies outside [0, 1] is clamped."""
    pixels = image.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    axes.imshow(
        pixels, cmap="gray", vmin=0, vmax=1, aspect="auto", extent=_cell(row, column, column + 1)
    )


def _label_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(np.arange(len(names)) + 0.5, names)


def _label_columns(axes: Axes, names: Sequence[str]) -> None:
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(names)) + 0.5, names, fontsize=8)
    axes.tick_params(length=0, pad=2)


# --- Charts ---------------------------------------------------------------------------------------


@_styled
def lines(
    x: Numbers, series: Mapping[str, Numbers], xlabel: str, ylabel: str, log: bool = False
) -> Picture:
    """Draw each named series of numbers (S,) over x (S,); with `log`, on a logarithmic scale."""
    axes = _chart_axes(xlabel, ylabel, log)
    places = _array(x)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=bool((places == places.round()).all())))
    sentences = []
    for (name, values), look in zip(series.items(), _looks(), strict=False):
        heights = _array(values, like=places, name=name)
        axes.plot(places, heights, label=name, markevery=max(1, len(places) // 8), **look)
        sentences.append(_course(name, places, heights, xlabel))
    _legend(axes, list(series))
    scale = " (logarithmic scale)" if log else ""
    return _picture(axes, f"{ylabel}{scale} against {xlabel}.", *sentences)


def losses(steps: Numbers, series: Mapping[str, Numbers], log: bool = True) -> Picture:
    """Draw the named losses (S,) of an attack over its steps (S,)."""
    return lines(steps, series, "step", "loss", log)


@_styled
def depth_curve(
    labels: Sequence[str],
    series: Mapping[str, tuple[Numbers, Numbers, Numbers]],
    ylabel: str,
    log: bool = False,
    baselines: Mapping[str, float | Numbers] | None = None,
) -> Picture:
    """Draw results over the cuts `labels` (K,): a marker at the median, a bar from low to high.

    `series` maps a name to (median, low, high), each (K,); `baselines` maps a name to one number,
    or to one for each cut, drawn as grey lines.
    """
    axes = _chart_axes("cut after", ylabel, log)
    places = np.arange(len(labels), dtype=float)
    axes.set_xticks(places, labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.grid(False, axis="x")
    sentences = []
    for name, look, aside, (median, low, high) in _beside(series, places, 0.12):
        ranges = np.maximum([median - low, high - median], 0)
        axes.errorbar(aside, median, ranges, label=name, capsize=4, elinewidth=1.2, **look)
        each = [
            f"{_n(m)} at {label} ({_n(least)} to {_n(most)})"
            for label, m, least, most in zip(labels, median, low, high, strict=True)
        ]
        sentences.append(f"{name}, median (range): {', '.join(each)}.")
    for (name, level), dashes in zip((baselines or {}).items(), cycle(DASHES[1:]), strict=False):
        levels = _array(level)
        constant = levels.ndim == 0
        levels = np.full_like(places, levels) if constant else _array(level, places, name)
        ends, padded = np.r_[-0.5, places, len(labels) - 0.5], np.pad(levels, 1, mode="edge")
        axes.plot(ends, padded, label=name, color=GREY, linestyle=dashes, zorder=1)
        each = [f"{_n(level)} at {label}" for label, level in zip(labels, levels, strict=True)]
        sentences.append(f"{name}: {_n(levels[0]) if constant else ', '.join(each)}.")
    _legend(axes, [*series, *(baselines or {})])
    scale = " (logarithmic scale)" if log else ""
    return _picture(axes, f"{ylabel}{scale} by cut.", *sentences)


@_styled
def factors(
    labels: Sequence[str],
    series: Mapping[str, tuple[Numbers, Numbers, Numbers]],
    xlabel: str,
) -> Picture:
    """Draw what each change in `labels` (K,) multiplies a number by: a row for each, 1 in grey.

    `series` maps a name to (median, low, high), each (K,) and above 0: a marker and a bar. Raises
    DataError for other numbers.
    """
    axes = _chart_axes(f"{xlabel} (logarithmic scale)", "", False, (6.4, 1 + 0.34 * len(labels)))
    rows = np.arange(len(labels), dtype=float)
    axes.set(xscale="log", yticks=rows, yticklabels=labels, ylim=(len(labels) - 0.4, -0.6))
    axes.axvline(1, color=GREY, linewidth=1.2, zorder=1)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"x {_n(value)}"))
    axes.xaxis.set_minor_locator(NullLocator())
    sentences = []
    for name, look, aside, (median, low, high) in _beside(series, rows, 0.3):
        if not all(np.isfinite(v).all() and (v > 0).all() for v in (median, low, high)):
            raise DataError(f"{name} has factors that are not finite and above 0.")
        ranges = np.maximum([median - low, high - median], 0)
        style = look | {"linestyle": "none"}
        axes.errorbar(median, aside, xerr=ranges, label=name, elinewidth=1.2, **style)
        each = [
            f"{label} x {_n(m)} ({_n(least)} to {_n(most)})"
            for label, m, least, most in zip(labels, median, low, high, strict=True)
        ]
        sentences.append(f"{name}, median (range): {', '.join(each)}.")
    _legend(axes, list(series))
    return _picture(axes, f"{xlabel} (logarithmic scale), by change.", *sentences)


@_styled
def frontier(
    series: Mapping[str, Sequence[tuple[float, float, float, float]]],
    xlabel: str,
    ylabel: str,
    baselines: Mapping[str, float] | None = None,
) -> Picture:
    """Draw what each named choice gives up against what it gains: (x, y, least y, greatest y).

    All y are above 0. The points of one choice are joined in order, a thin line shows the spread of
    each; `baselines` maps a name to a height, drawn grey.
    """
    axes = _chart_axes(xlabel, ylabel, log=True, size=(7.2, 4.2))  # points lie close together
    sentences = []
    for (name, points), look in zip(series.items(), _looks(), strict=False):
        x, y, low, high = np.array(points, dtype=float).reshape(-1, 4).T
        axes.plot(x, y, label=name, markersize=7, **look | {"linewidth": 1})
        axes.vlines(x, low, high, color=look["color"], linewidth=0.8, zorder=1)
        each = [f"{_n(point[0])} and {_n(point[1])} ({_n(point[2])} to {_n(point[3])})"
                for point in zip(x, y, low, high, strict=True)]  # fmt: skip
        sentences.append(f"{name}: {', '.join(each)}.")
    for (name, level), dashes in zip((baselines or {}).items(), cycle(DASHES[1:]), strict=False):
        axes.axhline(level, label=name, color=GREY, linestyle=dashes, zorder=1)
        sentences.append(f"{name}: {_n(level)}.")
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return _picture(axes, f"{ylabel} against {xlabel}.", *sentences)


@_styled
def bars(values: Mapping[str, float], ylabel: str) -> Picture:
    """Draw one bar for each named number, the number above it."""
    axes = _chart_axes("", ylabel, log=False)
    drawn = axes.bar(range(len(values)), list(values.values()), width=0.6, color=PALETTE[0])
    axes.bar_label(drawn, [_n(value) for value in values.values()], padding=2)
    room = max(8, 72 // len(values))
    axes.set_xticks(range(len(values)), [textwrap.fill(name, room) for name in values])
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.margins(y=0.12)
    axes.grid(False, axis="x")
    axes.tick_params(axis="x", length=0)
    heights = "; ".join(f"{name}: {_n(value)}" for name, value in values.items())
    return _picture(axes, f"Bars of {ylabel}.", f"{heights}.")


@_styled
def scatter(points: Tensor, labels: Tensor, classes: Sequence[str] | None = None) -> Picture:
    """Draw points (N, 2) with one marker and colour for each of their labels (N,), and its name.

    The alt text says how far the groups are apart: the share of points that lie nearest to the
    centre of their own group. `classes` names the labels.
    """
    if points.ndim != 2 or points.shape[1] != 2 or len(points) != len(labels):
        raise DataError(
            f"expected points (N, 2) and labels (N,), got {tuple(points.shape)} and "
            f"{tuple(labels.shape)}; project the points to two dimensions first."
        )
    places, groups = points.detach().double().cpu(), labels.cpu()
    present = groups.unique().tolist()
    names = [classes[group] if classes else f"group {group}" for group in present]
    axes = Figure(figsize=(5.6, 4.2), dpi=DPI, layout="constrained").add_subplot()
    axes.set(xticks=[], yticks=[])
    for group, name, color, marker in zip(
        present, names, cycle(PALETTE), cycle(MARKERS), strict=False
    ):
        x, y = places[groups == group].T
        axes.scatter(x, y, s=26, c=color, marker=marker, label=name, alpha=0.75, linewidths=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    centres = torch.stack([places[groups == group].mean(0) for group in present])
    nearest = torch.cdist(places, centres).argmin(1)
    own = (torch.tensor(present)[nearest] == groups).double().mean().item()
    sizes = [f"{name} ({int((groups == g).sum())})" for g, name in zip(present, names, strict=True)]
    return _picture(
        axes,
        f"{_count(len(points), 'point')} in {_count(len(present), 'group')}: {', '.join(sizes)}.",
        f"{own:.0%} lie nearest to the centre of their own group.",
    )


def _chart_axes(
    xlabel: str, ylabel: str, log: bool, size: tuple[float, float] = (6.4, 3.4)
) -> Axes:
    axes = Figure(figsize=size, dpi=DPI, layout="constrained").add_subplot()
    axes.set(xlabel=xlabel, ylabel=textwrap.fill(ylabel, 40), yscale="log" if log else "linear")
    return axes


def _looks() -> Iterator[dict[str, Any]]:
    """Yield a colour, a dash and a marker for one series after the other."""
    for color, dash, marker in zip(cycle(PALETTE), cycle(DASHES), cycle(MARKERS), strict=False):
        yield {"color": color, "linestyle": dash, "marker": marker}


def _beside(
    series: Mapping[str, tuple[Numbers, Numbers, Numbers]], places: np.ndarray, gap: float
) -> Iterator[tuple[str, dict[str, Any], np.ndarray, list[np.ndarray]]]:
    """Yield name, look, places and (median, low, high) of each series, `gap` beside the last."""
    for index, ((name, triple), look) in enumerate(zip(series.items(), _looks(), strict=False)):
        aside = places + gap * (index - (len(series) - 1) / 2)
        yield name, look, aside, [_array(values, like=places, name=name) for values in triple]


def _legend(axes: Axes, names: Sequence[str]) -> None:
    """Name the lines above the chart, in the order of `names`."""
    handles, labels = axes.get_legend_handles_labels()
    ordered = [handles[labels.index(name)] for name in names]
    fitting = LEGEND_WIDTH // (HANDLE_WIDTH + max(map(len, names)))
    axes.legend(
        ordered, names, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2,
        ncols=max(1, min(fitting, 4 if len(names) == 4 else 3)), handlelength=3,
    )  # fmt: skip


def _course(name: str, x: np.ndarray, y: np.ndarray, xlabel: str) -> str:
    """Say in words how a line runs: both ends, and its extremes where they are elsewhere."""
    finite = np.isfinite(y)
    if not finite.any():
        return f"{name} has no finite value."
    x, y = x[finite], y[finite]
    words = f"{name} goes from {_n(y[0])} at {xlabel} {_n(x[0])} to {_n(y[-1])} at {_n(x[-1])}"
    for extreme, index in (("lowest", y.argmin()), ("highest", y.argmax())):
        if 0 < index < len(y) - 1:
            words += f", {extreme} {_n(y[index])} at {_n(x[index])}"
    return words + "."


# --- The protocol ---------------------------------------------------------------------------------


@_styled
def exchange(parties: Mapping[str, str], arrows: Sequence[tuple[str, str, str]]) -> Picture:
    """Draw who sends what: a column for each party, then the messages from top to bottom.

    `parties` maps a name to what that party holds, or to ""; an arrow is (sender, receiver, what
    is sent), and from a party to itself it is a note on what that party does. Raises DataError if
    an arrow names somebody else.
    """
    for name in (name for *ends, _ in arrows for name in ends):
        if name not in parties:
            raise DataError(f"{name!r} is not one of the parties, which are {', '.join(parties)}.")
    middle = {name: index * LANE for index, name in enumerate(parties)}
    colour = dict(zip(parties, cycle(PALETTE), strict=False))
    holdings = {name: textwrap.wrap(holds, 40) for name, holds in parties.items()}
    figure = Figure(dpi=DPI)
    axes = figure.add_axes((0, 0, 1, 1))  # its unit is the inch, from the top left corner
    head = 0.4 + LEADING * max(map(len, holdings.values()))
    for name, holds in holdings.items():
        _box(axes, middle[name], 0, head, colour[name])
        axes.text(middle[name], 0.19, name, ha="center", va="center", weight="bold", fontsize=11)
        _paragraph(axes, middle[name], 0.33, holds)
    y = head + 0.2
    for number, (sender, receiver, text) in enumerate(arrows, start=1):
        start, end = middle[sender], middle[receiver]
        room = 40 if sender == receiver else int(14 * abs(end - start))
        wrapped = textwrap.wrap(f"{number}. {text}", room)
        depth = LEADING * len(wrapped) + 0.1
        if sender == receiver:
            _box(axes, start, y, depth, GREY)
        _paragraph(axes, (start + end) / 2, y + 0.05, wrapped)
        y += depth
        if sender != receiver:
            arrow = {
                "arrowstyle": "-|>,head_width=0.3,head_length=0.6",
                "shrinkA": 0,
                "shrinkB": 0,
                "color": colour[sender],
                "linewidth": 1.8,
            }
            axes.annotate("", (end, y), (start, y), arrowprops=arrow)
        y += 0.2
    for name, x in middle.items():
        axes.plot([x, x], [head, y], color=colour[name], linewidth=1, linestyle=":", zorder=0)
    axes.set(xlim=(-BOX / 2, max(middle.values()) + BOX / 2), ylim=(y, 0))
    axes.axis("off")
    figure.set_size_inches(max(middle.values()) + BOX, y)
    holders = [f"{name} ({holds})" if holds else name for name, holds in parties.items()]
    sentences = [
        f"{number}. {sender}: {text}."
        if sender == receiver
        else f"{number}. {sender} to {receiver}: {text}."
        for number, (sender, receiver, text) in enumerate(arrows, start=1)
    ]
    return _picture(axes, f"Messages between {' and '.join(holders)}.", *sentences)


def _box(axes: Axes, middle: float, top: float, height: float, colour: str) -> None:
    style = "round,pad=0,rounding_size=0.08"
    corner = (middle - BOX / 2, top)
    axes.add_patch(FancyBboxPatch(corner, BOX, height, style, facecolor="white", edgecolor=colour))


def _paragraph(axes: Axes, middle: float, top: float, lines: Sequence[str]) -> None:
    for index, line in enumerate(lines):
        axes.text(
            middle, top + LEADING * (index + 0.5), line, ha="center", va="center", fontsize=8.5,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip


# --- Common ---------------------------------------------------------------------------------------


def _array(values: float | Numbers, like: np.ndarray | None = None, name: str = "") -> np.ndarray:
    array = torch.as_tensor(values, dtype=torch.float64).detach().cpu().numpy()
    if like is not None and array.shape != like.shape:
        raise DataError(
            f"{name} has shape {array.shape} where {like.shape} is drawn; give one number each."
        )
    return array


def _mse(error: float) -> str:
    """Write an error below an image, where rounding must not make a perfect one of a good one."""
    return f"MSE {error:.4f}" if error == 0 or error >= 1e-4 else f"MSE {error:.0e}"


def _n(value: float) -> str:
    """Write a number to three digits, but a whole number in full."""
    return f"{value:,.0f}" if float(value).is_integer() or abs(value) >= 1000 else f"{value:.3g}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _picture(axes: Axes, *sentences: str) -> Picture:
    """Render the figure of `axes`, cropped to what is drawn; its alt text is the sentences."""
    figure, png = axes.figure, BytesIO()
    assert isinstance(figure, Figure)  # and not a part of one
    # Without the name of the software the file depends on nothing but what is drawn.
    figure.savefig(
        png, format="png", bbox_inches="tight", pad_inches=0.08, metadata={"Software": None}
    )
    width = int.from_bytes(png.getvalue()[16:20], "big")  # from the PNG's header
    return Picture(png.getvalue(), " ".join(sentences), width)
