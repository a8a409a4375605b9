"""Diagrams of a protocol: who sends what to whom."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import cycle

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from sltools.errors import DataError
from sltools.plots.picture import DPI, GREY, PALETTE, Picture, render, styled

LANE, BOX, LEADING = 3.1, 2.7, 0.165  # between parties, a box, a line of text; inches


@styled
def exchange(parties: Mapping[str, str], arrows: Sequence[tuple[str, str, str]]) -> Picture:
    """Draw who sends what: a column for each party, then the messages from top to bottom.

    `parties` maps a name to what that party holds, or to ""; an arrow is (sender, receiver, what
    is sent), and from a party to itself it is a note on what that party does. Raises DataError if
    an arrow names somebody else.

    >>> from sltools import plots
    >>> parties = {"client": "images, labels, first layers", "server": "all other layers"}
    >>> arrows = [("client", "server", "z and labels"), ("server", "client", "dL/dz")]
    >>> print(plots.exchange(parties, arrows).alt)  # doctest: +NORMALIZE_WHITESPACE
    Messages between client (images, labels, first layers) and server (all other layers).
    1. client to server: z and labels. 2. server to client: dL/dz.
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
    return render(axes, f"Messages between {' and '.join(holders)}.", *sentences)


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
