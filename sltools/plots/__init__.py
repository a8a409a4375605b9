"""Pictures of the course. Each one describes itself in words, computed from what it draws.

Nothing here touches pyplot: a picture is a value, a PNG with its alt text, and drawing it leaves no
figure behind. Lines differ in dash and marker, so that no reader needs the colours.
"""

from sltools.plots.charts import (
    Point,
    bars,
    depth_curve,
    factors,
    frontier,
    heat_map,
    lines,
    losses,
    rows,
    scatter,
)
from sltools.plots.diagram import exchange
from sltools.plots.images import gallery, over_time, reconstructions, smashed
from sltools.plots.picture import Picture

__all__ = [
    "Picture", "Point", "bars", "depth_curve", "exchange", "factors", "frontier", "gallery",
    "heat_map",
    "lines", "losses", "over_time", "reconstructions", "rows", "scatter", "smashed",
]  # fmt: skip
