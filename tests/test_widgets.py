import base64
import re
import sys

import pytest

from sltools import plots, widgets
from sltools.errors import SltoolsError

WIDGET = "application/vnd.jupyter.widget-view+json"


def draw(step, cut="pool1"):
    value = step + len(cut)
    picture = plots.Picture(f"PNG of {step} and {cut}".encode(), f"a bar of {value}", width=100)
    return picture, f"score {value} & <{cut}>"


@pytest.fixture
def live(monkeypatch):
    pytest.importorskip("ipywidgets")
    monkeypatch.delenv("SLTOOLS_STATIC", raising=False)


@pytest.fixture
def static(monkeypatch):
    monkeypatch.setenv("SLTOOLS_STATIC", "1")


def live_form(interactive):
    """The PNG, alt text and caption that the widget shows now."""
    page = interactive.widget.children[-1].value
    png, alt = re.search(r'base64,([^"]*)".*?alt="([^"]*)"', page).groups()
    caption = re.search("<pre>(.*)</pre>", page)
    return base64.b64decode(png), alt, caption and caption[1]


def bundle_png(interactive):
    data, _ = interactive._repr_mimebundle_()
    return base64.b64decode(data["image/png"])


def test_the_three_lives_agree(live, monkeypatch):
    interactive = widgets.show(draw, step=(0, 4))
    slider, _ = interactive.widget.children
    printed = interactive.table().splitlines()
    for step in range(5):
        picture, text = draw(step)
        slider.value = step
        assert live_form(interactive)[:2] == (picture.png, picture.alt)
        assert printed[step] == f"step = {step}: {text}"
        with monkeypatch.context() as headless:
            headless.setenv("SLTOOLS_STATIC", "1")
            assert bundle_png(widgets.show(draw, start={"step": step}, step=(0, 4))) == picture.png


def test_the_live_bundle_also_holds_picture_and_text(live):
    data, metadata = widgets.show(draw, step=(0, 4))._repr_mimebundle_(include=None, exclude=None)
    picture, _ = draw(0)
    assert set(data) == {WIDGET, "image/png", "text/html", "text/plain"}
    assert data["text/plain"] == "<picture with controls: step>"
    assert base64.b64decode(data["image/png"]) == picture.png
    assert metadata == {"image/png": {"alt": picture.alt, "width": picture.width}}
    assert data[WIDGET]["model_id"]


def test_the_static_bundle_is_a_picture(static):
    data, metadata = widgets.show(draw, step=(3, 4))._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"}
    assert metadata["image/png"]["alt"] == draw(3)[0].alt


def test_without_ipywidgets_there_is_still_a_picture(live, monkeypatch):
    monkeypatch.setattr(widgets, "find_spec", lambda name: None)
    data, _ = widgets.show(draw, step=(0, 4))._repr_mimebundle_()
    assert WIDGET not in data and "image/png" in data


def test_headless_runs_never_import_ipywidgets(static, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)  # importing it would fail
    interactive = widgets.show(draw, step=(0, 4))
    assert bundle_png(interactive) == draw(0)[0].png
    assert "step = 4: score 9" in interactive.table()


def test_two_controls_drive_one_picture(live):
    interactive = widgets.show(draw, start={"cut": "fc1"}, step=(0, 10, 5), cut=["conv1", "fc1"])
    slider, menu, _ = interactive.widget.children
    assert live_form(interactive)[0] == draw(0, "fc1")[0].png
    slider.value = 10
    menu.value = "conv1"
    assert live_form(interactive)[0] == draw(10, "conv1")[0].png
    assert live_form(interactive)[2] == "score 15 &amp; &lt;conv1&gt;"
    assert interactive.table().splitlines() == [
        "step = 0: score 3 & <fc1>",
        "step = 5: score 8 & <fc1>",
        "step = 10: score 13 & <fc1>",
        "cut = conv1: score 5 & <conv1>",
        "cut = fc1: score 3 & <fc1>",
    ]


def test_a_drawing_without_text_is_printed_as_its_alt_text(live):
    interactive = widgets.show(lambda step: draw(step)[0], step=(0, 1))
    assert interactive.table().splitlines()[1] == f"step = 1: {draw(1)[0].alt}"
    assert live_form(interactive)[2] is None


@pytest.mark.parametrize(
    ("control", "kind", "values"),
    [
        ((0, 3), "SelectionSlider", (0, 1, 2, 3)),
        ((1, 6, 2), "SelectionSlider", (1, 3, 5)),
        ((0.0, 0.5, 0.1), "SelectionSlider", (0.0, 0.1, 0.2, 0.3, 0.4, 0.5)),
        (["conv1", "pool1"], "Dropdown", ("conv1", "pool1")),
    ],
)
def test_controls(live, control, kind, values):
    seen = []

    def record(noise_level):
        seen.append(noise_level)
        return plots.Picture(b"", "alt", 1)

    widget = widgets.show(record, noise_level=control).widget.children[0]
    assert type(widget).__name__ == kind
    assert widget.description == "noise level"
    assert widget.options == values
    assert getattr(widget, "continuous_update", False) is False
    for value in values[1:]:
        widget.value = value
    assert seen == list(values), "the very values, so that a dictionary of results finds them"


def test_words_are_typed_and_examples_offered_and_printed(live):
    seen = []

    def record(words):
        seen.append(words)
        return plots.Picture(b"", f"found {words}.", 1)

    form = widgets.show(record, words=widgets.Words(["", "noise", "vertical"]))
    field = form.widget.children[0]
    assert type(field).__name__ == "Combobox" and not field.ensure_option
    assert (field.value, field.options, field.continuous_update) == (
        "", ("", "noise", "vertical"), False,
    )  # fmt: skip
    field.value = "anything else"
    assert seen == ["", "anything else"]
    assert live_form(form)[1] == "found anything else."
    assert form.table().splitlines()[1] == "words = noise: found noise."


@pytest.mark.parametrize("start", [True, False])
def test_a_bool_is_a_checkbox_that_starts_there(live, start):
    interactive = widgets.show(lambda prior: plots.bars({str(prior): 1}, "y"), prior=start)
    box = interactive.widget.children[0]
    assert type(box).__name__ == "Checkbox" and box.value is start
    assert f"{start}: 1" in interactive.drawn()[0].alt
    box.value = not start
    assert f"{not start}: 1" in live_form(interactive)[1]


def test_of_many_settings_five_are_printed():
    table = widgets.show(draw, step=(0, 100)).table()
    assert re.findall("step = ([0-9]+)", table) == ["0", "25", "50", "75", "100"]


@pytest.mark.parametrize(
    "control",
    [
        (0,),
        (3, 1),
        (1, 1),
        (0, 1, 0),
        (0, 1, -1),
        (0, 1, 2, 3),
        [],
        "pool1",
        5,
        None,
        ("a", "b"),
        widgets.Words([]),
    ],
)
def test_what_is_no_control(control):
    with pytest.raises(SltoolsError, match="step=.* is no control; give a range"):
        widgets.show(draw, step=control)


@pytest.mark.parametrize("start", [{"step": 9}, {"stage": 1}])
def test_where_a_control_cannot_start(start):
    with pytest.raises(SltoolsError, match="cannot start"):
        widgets.show(draw, start=start, step=(0, 4))
