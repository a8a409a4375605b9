"""Charts: lines, ranges over the cuts, factors, privacy against utility, bars, points."""

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullLocator
from torch import Tensor

from sltools.errors import DataError
from sltools.plots.picture import (
    DPI,
    GREY,
    PALETTE,
    Numbers,
    Picture,
    array,
    counted,
    render,
    short,
    styled,
)  # fmt: skip

Point = tuple[float, float, float, float, str]  # x, y, least y, greatest y, name

PANELS_PER_ROW = 4  # charts beside each other
MAX_VERTICAL_BARS = 12  # bars whose names have room below them
LEGEND_WIDTH, HANDLE_WIDTH = 80, 8  # letters that fit above a chart, and a line beside its name
DASHES = ["-", "--", "-.", (0, (1, 1.2)), (0, (6, 1.5, 1, 1.5, 1, 1.5))]
OF_GROUPS = [*PALETTE, "#DDCC77", "#882255", "#332288"]  # and sand, wine and indigo of Paul Tol's
MARKERS = ["o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p"]


@styled
def lines(
    x: Numbers, series: Mapping[str, Numbers], xlabel: str, ylabel: str, log: bool = False
) -> Picture:
    """Draw each named series of numbers (S,) over x (S,); with `log`, on a logarithmic scale.

    Raises DataError for a series of another length.

    >>> from sltools import plots
    >>> print(plots.lines([1, 2, 3], {"honest": [2.3, 1.1, 0.4]}, "epoch", "loss").alt)
    loss against epoch. honest goes from 2.3 at epoch 1 to 0.4 at 3.
    """
    axes = _chart_axes(xlabel, ylabel, log)
    places = array(x)
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=bool((places == places.round()).all())))
    sentences = []
    for (name, values), line_style in zip(series.items(), _line_styles(), strict=False):
        heights = array(values, like=places, name=name)
        axes.plot(places, heights, label=name, markevery=max(1, len(places) // 8), **line_style)
        sentences.append(_describe_line(name, places, heights, xlabel))
    _legend(axes, list(series))
    scale = " (logarithmic scale)" if log else ""
    return render(axes, f"{ylabel}{scale} against {xlabel}.", *sentences)


def losses(steps: Numbers, series: Mapping[str, Numbers], log: bool = True) -> Picture:
    """Draw the named losses (S,) of an attack over its steps (S,), on a logarithmic scale if `log`.

    Raises DataError for losses of another length.

    >>> from sltools import plots
    >>> print(plots.losses([0, 50, 100], {"feature": [1.0, 0.1, 0.02]}).alt)
    loss (logarithmic scale) against step. feature goes from 1 at step 0 to 0.02 at 100.
    """
    return lines(steps, series, "step", "loss", log)


@styled
def depth_curve(
    labels: Sequence[str],
    series: Mapping[str, tuple[Numbers, Numbers, Numbers]],
    ylabel: str,
    log: bool = False,
    baselines: Mapping[str, float | Numbers] | None = None,
    xlabel: str = "cut after",
) -> Picture:
    """Draw results over the cuts `labels` (K,): a marker at the median, a bar from low to high.

    `series` maps a name to (median, low, high), each (K,), NaN where there is no result;
    `baselines` maps a name to one number, or to one for each cut, drawn as grey lines. `xlabel`
    says what the labels are, if not cuts. Raises DataError for other lengths.

    >>> from sltools import plots
    >>> series = {"UnSplit": ([0.01, 0.04], [0.005, 0.03], [0.02, 0.06])}  # median, low, high
    >>> blind = {"mean image": 0.05}
    >>> picture = plots.depth_curve(["pool1", "pool2"], series, "MSE", baselines=blind)
    >>> print(picture.alt)  # doctest: +NORMALIZE_WHITESPACE
    MSE by cut. UnSplit, median (range): 0.01 at pool1 (0.005 to 0.02), 0.04 at pool2
    (0.03 to 0.06). mean image: 0.05.
    """
    axes = _chart_axes(xlabel, ylabel, log)
    places = np.arange(len(labels), dtype=float)
    axes.set_xticks(places, labels)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.grid(False, axis="x")
    sentences = []
    for name, line_style, shifted, (median, low, high) in _side_by_side(series, places, 0.12):
        ranges = np.maximum([median - low, high - median], 0)
        axes.errorbar(shifted, median, ranges, label=name, capsize=4, elinewidth=1.2, **line_style)
        each = [
            f"{short(m)} at {label} ({short(least)} to {short(most)})"
            for label, m, least, most in zip(labels, median, low, high, strict=True)
            if not np.isnan(m)
        ]
        sentences.append(f"{name}, median (range): {', '.join(each) or 'no result'}.")
    for (name, level), dashes in zip((baselines or {}).items(), cycle(DASHES[1:]), strict=False):
        levels = array(level)
        constant = levels.ndim == 0
        levels = np.full_like(places, levels) if constant else array(level, places, name)
        ends, padded = np.r_[-0.5, places, len(labels) - 0.5], np.pad(levels, 1, mode="edge")
        axes.plot(ends, padded, label=name, color=GREY, linestyle=dashes, zorder=1)
        each = [
            f"{short(level)} at {label}"
            for label, level in zip(labels, levels, strict=True)
            if not np.isnan(level)
        ]
        sentences.append(f"{name}: {short(levels[0]) if constant else ', '.join(each)}.")
    _legend(axes, [*series, *(baselines or {})])
    scale = " (logarithmic scale)" if log else ""
    return render(axes, f"{ylabel}{scale} by {xlabel.removesuffix(' after')}.", *sentences)


@styled
def factors(
    labels: Sequence[str],
    series: Mapping[str, tuple[Numbers, Numbers, Numbers]],
    xlabel: str,
) -> Picture:
    """Draw what each change in `labels` (K,) multiplies a number by: a row for each, 1 in grey.

    `series` maps a name to (median, low, high), each (K,) and above 0: a marker and a bar. Raises
    DataError for other numbers.

    >>> from sltools import plots
    >>> series = {"error": ([2.0, 0.5], [1.5, 0.4], [3.0, 0.8])}  # median, low, high
    >>> picture = plots.factors(["half the steps", "a prior"], series, "MSE, times")
    >>> print(picture.alt)  # doctest: +NORMALIZE_WHITESPACE
    MSE, times (logarithmic scale), by change.
    error, median (range): half the steps x 2 (1.5 to 3), a prior x 0.5 (0.4 to 0.8).
    """
    for name, triple in series.items():
        if not all((np.isfinite(v).all() and (v > 0).all()) for v in map(array, triple)):
            raise DataError(f"{name} has factors that are not finite and above 0.")
    axes = _row_axes(labels, f"{xlabel} (logarithmic scale)", 1)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"x {short(value)}"))
    axes.xaxis.set_minor_locator(NullLocator())
    sentences = _draw_rows(axes, labels, series, "x ")
    return render(axes, f"{xlabel} (logarithmic scale), by change.", *sentences)


@styled
def rows(
    labels: Sequence[str],
    series: Mapping[str, tuple[Numbers, Numbers, Numbers]],
    xlabel: str,
    reference: float = 0,
) -> Picture:
    """Draw results of `labels` (K,), a row each: a marker at the median, a bar from low to high.

    `series` maps a name to (median, low, high), each (K,); the grey line stands at `reference`.
    """
    axes = _row_axes(labels, xlabel, reference)
    sentences = _draw_rows(axes, labels, series)
    return render(axes, f"{xlabel}, in rows; grey line at {short(reference)}.", *sentences)


def _row_axes(labels: Sequence[str], xlabel: str, reference: float) -> Axes:
    axes = _chart_axes(xlabel, "", False, (6.4, 1 + 0.34 * len(labels)))
    axes.set(yticks=range(len(labels)), yticklabels=labels, ylim=(len(labels) - 0.4, -0.6))
    axes.axvline(reference, color=GREY, linewidth=1.2, zorder=1)
    return axes


def _draw_rows(
    axes: Axes,
    labels: Sequence[str],
    series: Mapping[str, tuple[Numbers, Numbers, Numbers]],
    times: str = "",
) -> list[str]:
    """Draw each series, a marker and a bar in every row, and say it in words."""
    sentences = []
    for name, line_style, shifted, (median, low, high) in _side_by_side(
        series, np.arange(len(labels)), 0.3
    ):
        ranges = np.maximum([median - low, high - median], 0)
        style = line_style | {"linestyle": "none"}
        axes.errorbar(median, shifted, xerr=ranges, label=name, elinewidth=1.2, **style)
        each = [
            f"{label} {times}{short(m)} ({short(least)} to {short(most)})"
            for label, m, least, most in zip(labels, median, low, high, strict=True)
        ]
        sentences.append(f"{name}, median (range): {', '.join(each)}.")
    _legend(axes, list(series))
    return sentences


@styled
def frontier(
    series: Mapping[str, Sequence[Point]],
    xlabel: str,
    ylabel: str,
    baselines: Mapping[str, float] | None = None,
    wanted: tuple[float, float] | None = None,
) -> Picture:
    """Draw what each named choice loses against what it gains, in a panel of its own.

    A point is (x, y, least y, greatest y, its name), with all y above 0: the name stands at it, a
    thin line shows the spread, and points of one choice are joined in order. In all other panels
    they are grey dots. x is linear up to 1 and logarithmic beyond; `baselines` maps a name to a
    height; `wanted` is the corner one would like to reach: the greatest x and the least y.
    """
    panels = _panels(len(series), xlabel, ylabel)
    every = [point for points in series.values() for point in points]
    levels = [*(baselines or {}).values()]
    heights = [y for point in every for y in point[1:4]] + levels
    left, right = min(0.0, *(p[0] for p in every)) - 0.3, max(10.0, *(p[0] for p in every)) * 1.9
    for axes in panels:
        axes.set_xscale("symlog", linthresh=1)
        axes.set(yscale="log", xlim=(left, right), ylim=(min(heights) / 1.5, max(heights) * 1.7))
        axes.xaxis.set_major_locator(FixedLocator([0, 1, 10, 100]))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.scatter([p[0] for p in every], [p[1] for p in every], s=7, c="#BBBBBB", zorder=1)
        for level in levels:
            axes.axhline(level, color=GREY, linestyle="--", linewidth=1, zorder=1)
        if wanted:
            corner = (left, wanted[1]), wanted[0] - left, max(heights) * 1.7 - wanted[1]
            axes.add_patch(Rectangle(*corner, color="#DDEEDD", linewidth=0, zorder=0))
    for name, level in (baselines or {}).items():
        panels[0].text(right, level, f"{name} ", fontsize=8, ha="right", va="bottom")
    if wanted:
        panels[0].text(left, wanted[1], " wanted", fontsize=8, va="bottom")
    sentences = [
        _draw_choice(axes, name, points)
        for axes, (name, points) in zip(panels, series.items(), strict=True)
    ]
    sentences += [f"Dashed: {name}, {short(level)}." for name, level in (baselines or {}).items()]
    if wanted:
        inside = [name for name, points in series.items()
                  if any(p[0] <= wanted[0] and p[1] >= wanted[1] for p in points)]  # fmt: skip
        sentences.append(
            f"In the shaded corner, at most {short(wanted[0])} and at least {short(wanted[1])}: "
            f"{', '.join(inside) or 'none'}."
        )
    return render(panels[0], f"{ylabel} (logarithmic scale) against {xlabel}.", *sentences)


def _panels(count: int, xlabel: str, ylabel: str) -> list[Axes]:
    """Return `count` small axes in rows, which share their scales and one pair of names."""
    rows = -(-count // PANELS_PER_ROW)
    figure = Figure(figsize=(9.2, 0.9 + 1.5 * rows), dpi=DPI)
    grid = figure.subplots(rows, PANELS_PER_ROW, sharex=True, sharey=True, squeeze=False).flatten()
    edge = 0.55 / (0.9 + 1.5 * rows)
    figure.subplots_adjust(
        left=0.08, right=0.99, bottom=edge, top=1 - edge / 2, hspace=0.32, wspace=0.08
    )
    figure.supxlabel(xlabel, fontsize=9.5, y=0.005)
    figure.supylabel(textwrap.fill(ylabel, 60), fontsize=9.5, x=0.005)
    for axes in grid[count:]:
        axes.set_visible(False)
    for axes in grid[max(0, count - PANELS_PER_ROW) : count]:
        axes.tick_params(labelbottom=True)
    return list(grid[:count])


def _draw_choice(axes: Axes, name: str, points: Sequence[Point]) -> str:
    """Draw the points of one choice in its panel, each with its name; say them in words."""
    x, y, low, high = np.array([point[:4] for point in points], dtype=float).T
    axes.set_title(name, fontsize=9.5, loc="left", pad=3)
    axes.plot(x, y, color=PALETTE[0], marker="o", markersize=6, linewidth=1)
    axes.vlines(x, low, high, color=PALETTE[0], linewidth=0.9, zorder=1)
    for index, point in enumerate(points):
        up = index % 2 == 1  # neighbours lie close together
        inwards = up and point[0] > 20
        axes.annotate(
            point[4], point[:2], (-5 if inwards else 4, 3 if up else -3), fontsize=8,
            textcoords="offset points", va="bottom" if up else "top",
            ha="right" if inwards else "left",
        )  # fmt: skip
    each = [
        f"{short(p[0])} and {short(p[1])} ({short(p[2])} to {short(p[3])})"
        + (f" at {p[4]}" if p[4] else "")
        for p in points
    ]
    return f"{name}: {', '.join(each)}."


@styled
def bars(values: Mapping[str, float], ylabel: str) -> Picture:
    """Draw one bar for each named number, the number at its end; many of them lie, in rows.

    >>> from sltools import plots
    >>> print(plots.bars({"chance": 0.1, "attack": 0.85}, "share of labels").alt)
    Bars of share of labels. chance: 0.1; attack: 0.85.
    """
    heights = "; ".join(f"{name}: {short(value)}" for name, value in values.items())
    words = f"Bars of {ylabel}.", f"{heights}."
    if len(values) > MAX_VERTICAL_BARS:
        return render(_horizontal_bars(values, ylabel), *words)
    axes = _chart_axes("", ylabel, log=False)
    drawn = axes.bar(range(len(values)), list(values.values()), width=0.6, color=PALETTE[0])
    axes.bar_label(drawn, [short(value) for value in values.values()], padding=2)
    room = max(8, 72 // len(values))
    axes.set_xticks(range(len(values)), [textwrap.fill(name, room) for name in values])
    axes.axhline(0, color=GREY, linewidth=0.8)
    axes.margins(y=0.12)
    axes.grid(False, axis="x")
    axes.tick_params(axis="x", length=0)
    return render(axes, *words)


def _horizontal_bars(values: Mapping[str, float], xlabel: str) -> Axes:
    """Draw bars from left to right, where their names have room."""
    rows = range(len(values))
    axes = _chart_axes(xlabel, "", False, (6.4, 0.7 + 0.26 * len(values)))
    drawn = axes.barh(rows, list(values.values()), height=0.6, color=PALETTE[0])
    axes.bar_label(drawn, [short(value) for value in values.values()], padding=2)
    axes.set(yticks=rows, yticklabels=list(values), ylim=(len(values) - 0.4, -0.6))
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.margins(x=0.12)
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    return axes


@styled
def heat_map(counts: Mapping[str, Mapping[str, int]], xlabel: str, ylabel: str) -> Picture:
    """Draw whole numbers in rows and columns, the larger the darker, each written in its cell.

    `counts` maps the name of a row to the numbers of all columns, by their names. A cell of 0 is
    left empty. Raises DataError for rows with other columns than the first.

    >>> from sltools import plots
    >>> counts = {"gradients": {"inputs": 2, "labels": 7}, "weights": {"inputs": 6, "labels": 0}}
    >>> print(plots.heat_map(counts, "gets", "needs").alt)
    Heat map of needs (rows) and gets (columns). gradients: inputs 2, labels 7. weights: inputs 6.
    """
    columns = list(next(iter(counts.values()), {}))
    for name, row in counts.items():
        if list(row) != columns:
            raise DataError(f"row {name!r} has the columns {list(row)}, the first has {columns}.")
    size = 2.6 + 0.72 * len(columns), 1.3 + 0.3 * len(counts)
    axes = Figure(figsize=size, dpi=DPI, layout="constrained").add_subplot()
    numbers = np.array([list(row.values()) for row in counts.values()] or [[]], dtype=float)
    if numbers.size:
        # The darkest cell is light enough for dark digits.
        axes.imshow(numbers, cmap="Blues", vmin=0, vmax=1.8 * numbers.max(), aspect="auto")
    else:
        axes.text(0.5, 0.5, "none", ha="center", va="center", transform=axes.transAxes)
    for (row, column), number in np.ndenumerate(numbers):
        axes.text(column, row, f"{number:,.0f}" if number else "", ha="center", va="center")
    axes.set_xticks(range(len(columns)), [textwrap.fill(name, 11) for name in columns])
    axes.set_yticks(range(len(counts)), list(counts))
    axes.set_xlabel(xlabel, labelpad=8)
    axes.set_ylabel(textwrap.fill(ylabel, 40))
    axes.grid(False)
    axes.tick_params(length=0)
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.spines[:].set_visible(False)
    rows = [
        f"{name}: {', '.join(f'{column} {n:,}' for column, n in row.items() if n) or 'none'}."
        for name, row in counts.items()
    ]
    words = f"Heat map of {ylabel} (rows) and {xlabel} (columns)."
    return render(axes, words, *(rows or ["It is empty."]))


@styled
def scatter(points: Tensor, labels: Tensor, classes: Sequence[str] | None = None) -> Picture:
    """Draw points (N, 2) with one marker and colour for each of their labels (N,), and its name.

    Ten labels have ten colours, which colour-blind readers can tell apart.
    The alt text says how far the groups are apart: the share of points that lie nearest to the
    centre of their own group. `classes` names the labels. Raises DataError for other shapes.

    >>> import torch
    >>> from sltools import plots
    >>> points = torch.tensor([[0.0, 0.0], [0.1, 0.0], [1.0, 1.0], [0.9, 1.0]])
    >>> print(plots.scatter(points, torch.tensor([0, 0, 1, 1]), classes=["cat", "dog"]).alt)
    4 points in 2 groups: cat (2), dog (2). 100% lie nearest to the centre of their own group.
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
        present, names, cycle(OF_GROUPS), cycle(MARKERS), strict=False
    ):
        x, y = places[groups == group].T
        axes.scatter(x, y, s=26, c=color, marker=marker, label=name, alpha=0.75, linewidths=0)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    centres = torch.stack([places[groups == group].mean(0) for group in present])
    nearest = torch.cdist(places, centres).argmin(1)
    own = (torch.tensor(present)[nearest] == groups).double().mean().item()
    sizes = [f"{name} ({int((groups == g).sum())})" for g, name in zip(present, names, strict=True)]
    return render(
        axes,
        f"{counted(len(points), 'point')} in {counted(len(present), 'group')}: {', '.join(sizes)}.",
        f"{own:.0%} lie nearest to the centre of their own group.",
    )


def _chart_axes(
    xlabel: str, ylabel: str, log: bool, size: tuple[float, float] = (6.4, 3.4)
) -> Axes:
    axes = Figure(figsize=size, dpi=DPI, layout="constrained").add_subplot()
    axes.set(xlabel=xlabel, ylabel=textwrap.fill(ylabel, 40), yscale="log" if log else "linear")
    return axes


def _line_styles() -> Iterator[dict[str, Any]]:
    """Yield a colour, a dash and a marker for one series after the other."""
    for color, dash, marker in zip(cycle(PALETTE), cycle(DASHES), cycle(MARKERS), strict=False):
        yield {"color": color, "linestyle": dash, "marker": marker}


def _side_by_side(
    series: Mapping[str, tuple[Numbers, Numbers, Numbers]], places: np.ndarray, gap: float
) -> Iterator[tuple[str, dict[str, Any], np.ndarray, list[np.ndarray]]]:
    """Yield name, look, places and (median, low, high) of each series, `gap` beside the last."""
    for index, ((name, triple), line_style) in enumerate(
        zip(series.items(), _line_styles(), strict=False)
    ):
        shifted = places + gap * (index - (len(series) - 1) / 2)
        yield (
            name,
            line_style,
            shifted,
            [array(values, like=places, name=name) for values in triple],
        )


def _legend(axes: Axes, names: Sequence[str]) -> None:
    """Name the lines above the chart, in the order of `names`."""
    handles, labels = axes.get_legend_handles_labels()
    ordered = [handles[labels.index(name)] for name in names]
    fitting = LEGEND_WIDTH // (HANDLE_WIDTH + max(map(len, names)))
    axes.legend(
        ordered, names, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2,
        ncols=max(1, min(fitting, 4 if len(names) == 4 else 3)), handlelength=3,
    )  # fmt: skip


def _describe_line(name: str, x: np.ndarray, y: np.ndarray, xlabel: str) -> str:
    """Say in words how a line runs: both ends, and its extremes where they are elsewhere."""
    finite = np.isfinite(y)
    if not finite.any():
        return f"{name} has no finite value."
    x, y = x[finite], y[finite]
    words = f"{name} goes from {short(y[0])} at {xlabel} {short(x[0])} to {short(y[-1])}"
    words += f" at {short(x[-1])}"
    for extreme, index in (("lowest", y.argmin()), ("highest", y.argmax())):
        if 0 < index < len(y) - 1:
            words += f", {extreme} {short(y[index])} at {short(x[index])}"
    return words + "."
