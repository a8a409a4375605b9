"""One control in three forms: a slider in a running notebook, a picture on paper, a printed table.

All three show what the same `draw` function returns, and a test compares them.
"""

import html
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from sltools import progress
from sltools.errors import SltoolsError
from sltools.plots import Picture

Draw = Callable[..., Picture | tuple[Picture, str]]

PRINTED_VALUES = 5
WIDGET = "application/vnd.jupyter.widget-view+json"


@dataclass(frozen=True)
class Words:
    """A control for words that the reader types; `examples` are offered, the first at the start.

    >>> from sltools import plots, widgets
    >>> def draw(word):
    ...     return plots.bars({word or "nothing": len(word)}, "letters")
    >>> print(widgets.show(draw, word=widgets.Words(["", "wire"])).table())
    word = : Bars of letters. nothing: 0.
    word = wire: Bars of letters. wire: 4.
    """

    examples: Sequence[str]


def show(draw: Draw, start: Mapping[str, Any] | None = None, **controls: Any) -> "Interactive":
    """Let the reader choose what `draw(**values)` draws, with one control for each argument.

    A control is a range (first, last) or (first, last, step), last included, for a slider; a list
    for a menu; a bool, its start, for a checkbox; or `Words`. What is no bool starts at its first
    value unless `start` names another. `draw` returns a Picture, or (Picture, text), and should
    answer within half a second: compute beforehand what takes longer.

    Raises SltoolsError for a control that is none of these or cannot start where it should.

    >>> from sltools import plots, widgets
    >>> def draw(noise):
    ...     return plots.bars({"accuracy": 0.9 - noise / 2}, "share of labels")
    >>> form = widgets.show(draw, noise=(0.0, 1.0, 0.5))
    >>> form
    <picture with controls: noise>
    >>> print(form.table())
    noise = 0.0: Bars of share of labels. accuracy: 0.9.
    noise = 0.5: Bars of share of labels. accuracy: 0.65.
    noise = 1.0: Bars of share of labels. accuracy: 0.4.
    """
    built = {name: _control(name, control) for name, control in controls.items()}
    for name, value in (start or {}).items():
        if name not in built or value not in built[name].values:
            allowed = built[name].values if name in built else f"control {', '.join(built)}"
            raise SltoolsError(f"cannot start {name} at {value!r}; choose one of {allowed}.")
        built[name] = _Control(built[name].kind, built[name].values, value)
    return Interactive(draw, built)


class Interactive:
    """A picture with controls: live in a running notebook, under SLTOOLS_STATIC=1 a plain PNG."""

    def __init__(self, draw: Draw, controls: Mapping[str, "_Control"]) -> None:
        self._draw = draw
        self._controls = controls
        self._widget: Any = None

    def drawn(self, **changes: Any) -> tuple[Picture, str]:
        """Draw the start values with `changes`; the text is the alt text if `draw` gives none."""
        start = {name: control.start for name, control in self._controls.items()}
        drawing = self._draw(**{**start, **changes})
        return (drawing, drawing.alt) if isinstance(drawing, Picture) else drawing

    def table(self) -> str:
        """Return the text at up to five settings of each control, the others at their start."""
        return "\n".join(
            f"{name} = {value}: {self.drawn(**{name: value})[1]}"
            for name, control in self._controls.items()
            for value in control.printed_values()
        )

    @property
    def widget(self) -> Any:
        """The live form, an ipywidgets box: the controls, then the picture as an HTML widget."""
        if self._widget is None:
            self._widget = self._build_widget()
        return self._widget

    def _build_widget(self) -> Any:
        import ipywidgets

        controls = {name: control.make_widget(name) for name, control in self._controls.items()}
        page = ipywidgets.HTML()  # an image widget has no alt text

        def redraw(_: Any = None) -> None:
            picture, text = self.drawn(**{name: c.value for name, c in controls.items()})
            caption = "" if text == picture.alt else f"<pre>{html.escape(text)}</pre>"
            page.value = picture.html() + caption

        redraw()
        for control in controls.values():
            control.observe(redraw, names="value")
        return ipywidgets.VBox([*controls.values(), page])

    def __repr__(self) -> str:
        return f"<picture with controls: {', '.join(self._controls)}>"

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        data, metadata = self.drawn()[0]._repr_mimebundle_()
        data["text/plain"] = repr(self)
        if not progress.static() and find_spec("ipywidgets"):
            data[WIDGET] = self.widget._repr_mimebundle_()[WIDGET]
        return data, metadata


@dataclass(frozen=True)
class _Control:
    """The values that one argument of `draw` can take, or examples of them if it is typed."""

    kind: str
    values: list[Any]
    start: Any

    def printed_values(self) -> list[Any]:
        """Return up to five of the values, evenly spaced from the first to the last."""
        places = np.linspace(0, len(self.values) - 1, min(len(self.values), PRINTED_VALUES))
        return [self.values[place] for place in places.round().astype(int)]

    def make_widget(self, name: str) -> Any:
        """Make the widget, which answers to mouse and keyboard and bears its name."""
        import ipywidgets

        look = {"description": name.replace("_", " "), "style": {"description_width": "initial"}}
        if self.kind == "checkbox":
            return ipywidgets.Checkbox(value=self.start, **look)
        choice = {"options": self.values, "value": self.start, **look}
        if self.kind == "menu":
            return ipywidgets.Dropdown(**choice)
        if self.kind == "words":
            return ipywidgets.Combobox(continuous_update=False, **choice)
        # A float slider would send rounded numbers; this one sends the listed values themselves.
        return ipywidgets.SelectionSlider(continuous_update=False, **choice)


def _control(name: str, control: Any) -> _Control:
    match control:
        case bool():
            return _Control("checkbox", [False, True], control)
        case [_, *_] if isinstance(control, list):
            return _Control("menu", control, control[0])
        case Words([first, *_] as examples):
            return _Control("words", list(examples), first)
        case (int() | float() as first, int() | float() as last, *rest) if (
            last > first and len(rest) < 2 and all(step > 0 for step in rest)
        ):
            step = rest[0] if rest else 1
            count = int((last - first) / step + 1e-9) + 1
            # Rounded, so that the third step of 0.1 is 0.3 and finds its precomputed result.
            values = [round(first + index * step, 10) for index in range(count)]
            return _Control("slider", values, values[0])
    raise SltoolsError(
        f"{name}={control!r} is no control; give a range (first, last) or (first, last, step), "
        "a list of choices, True or False, or Words."
    )
