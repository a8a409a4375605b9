"""Images: originals and reconstructions, a reconstruction over time, smashed data."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from sltools import metrics
from sltools.errors import DataError
from sltools.plots.picture import (
    DPI,
    Picture,
    counted,
    mse_text,
    render,
    short,
    styled,
)  # fmt: skip

PAGE_WIDTH = 8.2  # inches that pictures of images may take, row labels aside
MAX_IMAGES, MAX_SNAPSHOTS, MAX_SMASHED = 20, 9, 6
GAP = 0.06  # between images, as a share of a cell
STRIPE_CELLS = 5  # that a stripe of flat smashed data fills; odd, so that its title has a middle


@styled
def reconstructions(
    truth: Tensor, methods: Mapping[str, Tensor], classes: Sequence[str] | None = None
) -> Picture:
    """Draw the true images (N, C, H, W) above each method's reconstructions of them.

    Each row bears the method's median MSE over all N images, of which the first 20 are drawn;
    `classes` names the class of each image. Raises DataError if shapes differ or a name is missing.

    >>> import torch
    >>> from sltools import plots
    >>> truth = torch.tensor([0.2, 0.6]).view(2, 1, 1, 1).expand(2, 1, 8, 8)
    >>> methods = {"blank image": torch.zeros(2, 1, 8, 8)}
    >>> picture = plots.reconstructions(truth, methods, classes=["dark", "light"])
    >>> print(picture.alt)  # doctest: +NORMALIZE_WHITESPACE
    Originals above their reconstructions: 2 images (dark, light).
    blank image: median MSE 0.2, from 0.04 (image 1, class dark) to 0.36 (image 2, class light).
    """
    scores = {name: metrics.mse(images, truth).cpu().numpy() for name, images in methods.items()}
    shown = min(len(truth), MAX_IMAGES)
    titles = [str(name) for name in classes or []][:shown]
    if classes and len(titles) < shown:
        raise DataError(f"{len(classes)} class names for {shown} images; give one for each image.")
    axes = _image_axes(1 + len(methods), shown)
    for row, images in enumerate([truth, *methods.values()]):
        for column in range(shown):
            _draw_image(axes, images[column], row, column)
    medians = [f"{name}\n{mse_text(np.median(score))}" for name, score in scores.items()]
    part = f"\nfirst {shown} of {len(truth)}" if shown < len(truth) else ""
    _label_rows(axes, [f"original{part}", *medians])
    _label_columns(axes, titles)
    which = f"the first {shown} of {len(truth)} images" if part else counted(shown, "image")
    of_classes = f" ({', '.join(titles)})" if titles else ""
    sentences = [
        f"{name}: median MSE {short(np.median(score))}, from {short(score.min())} "
        f"({_image_name(score.argmin(), titles)}) to {short(score.max())} "
        f"({_image_name(score.argmax(), titles)})."
        for name, score in scores.items()
    ]
    return render(axes, f"Originals above their reconstructions: {which}{of_classes}.", *sentences)


def _image_name(index: Any, titles: Sequence[str]) -> str:
    """Name an image: by its place, and by its class if it has one, which may be a number too."""
    of_class = f", class {titles[index]}" if index < len(titles) else ""
    return f"image {index + 1}{of_class}"


@styled
def gallery(rows: Mapping[str, Tensor], classes: Sequence[str] | None = None) -> Picture:
    """Draw rows of images (N, C, H, W) beside their names; nothing is measured of them.

    The first 20 of each row are drawn; `classes` names the class of each column. Raises DataError
    for rows of different lengths.

    >>> import torch
    >>> from sltools import plots
    >>> picture = plots.gallery({"dark": torch.zeros(2, 1, 8, 8), "light": torch.ones(2, 1, 8, 8)})
    >>> print(picture.alt)
    Rows of 2 images: dark; light.
    """
    counts = {len(images) for images in rows.values()}
    if len(counts) != 1:
        raise DataError(f"rows of {sorted(counts)} images; give as many for each row.")
    shown = min(*counts, MAX_IMAGES)
    titles = [str(name) for name in classes or []][:shown]
    axes = _image_axes(len(rows), shown)
    for row, images in enumerate(rows.values()):
        for column in range(shown):
            _draw_image(axes, images[column], row, column)
    _label_rows(axes, list(rows))
    _label_columns(axes, titles)
    of_classes = f" ({', '.join(titles)})" if titles else ""
    return render(axes, f"Rows of {counted(shown, 'image')}{of_classes}: {'; '.join(rows)}.")


@styled
def over_time(snapshots: Tensor, steps: Sequence[int], truth: Tensor, image: int = 0) -> Picture:
    """Draw how one image's reconstruction took shape, the MSE under each state, the original last.

    `snapshots` is (S, N, C, H, W), taken at `steps` (S,); `truth` is (N, C, H, W). Of more than
    nine snapshots, nine are drawn, evenly spaced from the first to the last. Raises DataError
    unless there is a step for each snapshot.

    >>> import torch
    >>> from sltools import plots
    >>> truth = torch.ones(1, 1, 8, 8)
    >>> snapshots = torch.stack([0.5 * truth, 0.9 * truth])
    >>> print(plots.over_time(snapshots, [0, 100], truth).alt)  # doctest: +NORMALIZE_WHITESPACE
    One image's reconstruction at 2 steps, the original beside it.
    MSE: 0.25 at step 0, 0.01 at step 100.
    """
    if len(steps) != len(snapshots):
        raise DataError(
            f"there are {len(snapshots)} snapshots and {len(steps)} steps; give one each."
        )
    chosen = np.linspace(0, len(steps) - 1, min(len(steps), MAX_SNAPSHOTS)).round().astype(int)
    states = snapshots[chosen, image]
    scores = metrics.mse(states, truth[image].expand_as(states)).tolist()
    times = [int(steps[index]) for index in chosen]
    axes = _image_axes(1, len(chosen) + 1)
    for column, state in enumerate([*states, truth[image]]):
        _draw_image(axes, state, 0, column)
    _label_columns(axes, [*(f"step {time:,}" for time in times), "original"])
    for column, score in enumerate(scores):
        axes.text(column + 0.5, 1.04, mse_text(score), ha="center", va="top", fontsize=8)
    states_in_words = [f"{short(s)} at step {t:,}" for s, t in zip(scores, times, strict=True)]
    return render(
        axes,
        f"One image's reconstruction at {counted(len(times), 'step')}, the original beside it.",
        f"MSE: {', '.join(states_in_words)}.",
    )


@styled
def smashed(images: Tensor, activations: Tensor, channels: int = 8) -> Picture:
    """Draw images (N, C, H, W) beside the first channels of their smashed data (N, ...).

    Activations without height and width are drawn as a stripe, one bar per number. All share one
    colour scale. At most six images are drawn. Raises DataError for batches of two lengths.

    >>> import torch
    >>> from sltools import data, models, plots
    >>> front, _ = models.cut(models.mnist_net(), "pool1")
    >>> images = data.load("digits").test.images[:2]
    >>> picture = plots.smashed(images, front(images), channels=4)
    >>> print(picture.alt.split(". ")[0])
    2 images beside their smashed data: 4 of 8 channels, 12x12 activations each
    """
    if len(images) != len(activations):
        raise DataError(
            f"there are {len(images)} images and smashed data of {len(activations)}; "
            "pass those of the same batch."
        )
    rows = min(len(images), MAX_SMASHED)
    flat = activations.ndim != 4
    drawn = activations[:rows] if flat else activations[:rows, :channels]
    values = drawn.detach().float().cpu().numpy()
    low, high = values.min(), values.max()
    columns = STRIPE_CELLS if flat else values.shape[1]
    axes = _image_axes(rows, 1 + columns)
    for row in range(rows):
        _draw_image(axes, images[row], row, 0)
        maps = [values[row].reshape(1, -1)] if flat else list(values[row])
        span = STRIPE_CELLS if flat else 1
        for column, channel in enumerate(maps, start=1):
            extent = _cell(row, column, column + span, None if flat else channel.shape)
            scale = axes.imshow(channel, vmin=low, vmax=high, aspect="auto", extent=extent)
    legend = axes.inset_axes((1.015, GAP, 0.012, 1 - 2 * GAP))
    bar = legend.figure.colorbar(scale, cax=legend, ticks=MaxNLocator(4))
    bar.outline.set_visible(False)
    numbers = counted(values[0].size, "number")
    if flat:
        _label_columns(axes, ["original", *[""] * (STRIPE_CELLS // 2), numbers])
        what = f"{numbers} each, as a stripe"
    else:
        _label_columns(axes, ["original", "channel 0", *map(str, range(1, columns))])
        height, width = values.shape[2:]
        of = counted(activations.shape[1], "channel")
        what = f"{columns} of {of}, {height}x{width} activations each"
    return render(
        axes,
        f"{counted(rows, 'image')} beside their smashed data: {what}.",
        f"Values from {short(low)} to {short(high)}; {(values == 0).mean():.0%} of them are 0.",
    )


def _image_axes(rows: int, columns: int) -> Axes:
    """Make axes in which the image of row r and column c lies in the unit square at (c, r)."""
    cell = min(0.85, PAGE_WIDTH / columns)
    axes = Figure(figsize=(columns * cell, rows * cell), dpi=DPI).add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, columns), ylim=(rows, 0), xticks=[], yticks=[], autoscale_on=False)
    axes.set_facecolor("#DDDDDD")  # seen in the gaps: a white image has an edge too
    axes.tick_params(length=0)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    return axes


def _cell(
    row: int, left: int, right: int, size: Sequence[int] | None = None
) -> tuple[float, float, float, float]:
    """Where an image of `size` (H, W) is drawn: in its own shape, or filling all if it has none.

    A row or a column of pixels fills all too, as a stripe.
    """
    height, width = size if size is not None and min(size) > 1 else (1, 1)
    down, across = (GAP + (1 - GAP) * (1 - side / max(height, width)) for side in (height, width))
    return left + across / 2, right - across / 2, row + 1 - down / 2, row + down / 2


def _draw_image(axes: Axes, image: Tensor, row: int, column: int) -> None:
    """Draw one image (C, H, W), grey or RGB; what lies outside [0, 1] is clamped."""
    pixels = image.detach().float().cpu().clamp(0, 1).permute(1, 2, 0).numpy()
    extent = _cell(row, column, column + 1, pixels.shape[:2])
    axes.imshow(pixels, cmap="gray", vmin=0, vmax=1, aspect="auto", extent=extent)


def _label_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(np.arange(len(names)) + 0.5, names)


def _label_columns(axes: Axes, names: Sequence[str]) -> None:
    axes.xaxis.tick_top()
    axes.set_xticks(np.arange(len(names)) + 0.5, names, fontsize=8)
    axes.tick_params(length=0, pad=2)
