import base64
import sys
import warnings
from io import BytesIO

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from sltools import plots
from sltools.errors import DataError
from sltools.plots import charts, diagram
from sltools.plots import images as images_drawn
from sltools.plots.picture import PALETTE, mse_text, render


def noise(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def canvas(monkeypatch):
    """The axes of the pictures drawn in a test, in order."""
    seen = []

    def keep(axes, *sentences):
        seen.append(axes)
        return render(axes, *sentences)

    for room in (charts, diagram, images_drawn):
        monkeypatch.setattr(room, "render", keep)
    return seen


images, rgb = noise(4, 1, 12, 12), noise(4, 3, 12, 12)
steps = [0, 100, 200]

PICTURES = {
    "reconstructions": lambda: plots.reconstructions(images, {"attack": 1 - images}),
    "reconstructions, RGB": lambda: plots.reconstructions(rgb, {"a": rgb, "b": 2 * rgb - 1}),
    "gallery": lambda: plots.gallery({"one": images, "other": 1 - images}, ["a", "b", "c", "d"]),
    "reconstructions, one": lambda: plots.reconstructions(images[:1], {"attack": images[:1]}),
    "over_time": lambda: plots.over_time(noise(3, 4, 1, 12, 12), steps, images),
    "losses": lambda: plots.losses(steps, {"feature": torch.tensor([1.0, 0.1, 0.01])}),
    "lines": lambda: plots.lines(torch.arange(2), {"a": [1, 2], "b": (3, 4)}, "x", "y"),
    "depth_curve": lambda: plots.depth_curve(
        ["pool1", "fc1"], {"a": ([2, 3], [1, 2], [4, 4])}, "MSE", baselines={"blank": 1.5}
    ),
    "factors": lambda: plots.factors(["more", "less"], {"a": ([2, 0.5], [1, 0.1], [4, 1])}, "MSE"),
    "heat_map": lambda: plots.heat_map({"a": {"x": 3, "y": 0}, "b": {"x": 0, "y": 1}}, "x", "y"),
    "heat_map, empty": lambda: plots.heat_map({}, "what it gets", "what it needs"),
    "rows": lambda: plots.rows(["more", "less"], {"a": ([2, 0], [1, -1], [4, 1])}, "MSE", 0.5),
    "smashed": lambda: plots.smashed(images, noise(4, 10, 5, 5)),
    "smashed, flat": lambda: plots.smashed(images[:1], noise(1, 30)),
    "frontier": lambda: plots.frontier(
        {"a": [(0, 0.1, 0.1, 0.2, "1"), (30, 1, 1, 1, "2")], "b": [(-2, 0.1, 0.1, 0.1, "")]},
        "lost",
        "error",
        {"mean": 0.5},
        (10, 0.2),
    ),
    "frontier, one point": lambda: plots.frontier({"a": [(0, 0.1, 0.1, 0.1, "")]}, "x", "y"),
    "bars": lambda: plots.bars({"attack": 0.5, "chance": 0.1}, "accuracy"),
    "bars, many": lambda: plots.bars({f"attack {i}": i / 20 for i in range(14)}, "accuracy"),
    "scatter": lambda: plots.scatter(noise(6, 2), torch.tensor([0, 0, 1, 1, 2, 2])),
    "exchange": lambda: plots.exchange(
        {"client": "images", "server": ""}, [("client", "server", "z"), ("server", "server", "hm")]
    ),
}


def style():
    # Reading the backend would choose one.
    return {key: matplotlib.rcParams[key] for key in matplotlib.rcParams if key != "backend"}


@pytest.mark.parametrize("draw", PICTURES.values(), ids=PICTURES.keys())
def test_every_picture(draw):
    settings, state = style(), torch.get_rng_state()
    picture = draw()
    pixels = imread(BytesIO(picture.png))
    assert pixels.shape[1] == picture.width <= 1000
    assert len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0)) > 4
    assert len(picture.png) < 100_000
    assert picture.alt.endswith(".") and len(picture.alt) > 30
    assert "nan" not in picture.alt and "tensor" not in picture.alt
    assert draw() == picture, "the same numbers give the same bytes and words"
    assert style() == settings
    assert torch.equal(torch.get_rng_state(), state)
    if "matplotlib.pyplot" in sys.modules:
        assert sys.modules["matplotlib.pyplot"].get_fignums() == []


# --- Picture --------------------------------------------------------------------------------------


picture = plots.Picture(png=b"some bytes", alt='5 < 7 & "so on"', width=321)


def test_a_live_picture_brings_its_alt_text_in_html(monkeypatch):
    monkeypatch.delenv("SLTOOLS_STATIC", raising=False)
    data, metadata = picture._repr_mimebundle_(include=None, exclude=None)
    png = base64.b64encode(b"some bytes").decode()
    assert data == {
        "image/png": png,
        "text/plain": "<picture>",
        "text/html": f'<img src="data:image/png;base64,{png}" width="321" '
        'alt="5 &lt; 7 &amp; &quot;so on&quot;">',
    }
    assert metadata == {"image/png": {"alt": '5 < 7 & "so on"', "width": 321}}


def test_a_static_picture_is_one_png_with_its_alt_text(monkeypatch):
    monkeypatch.setenv("SLTOOLS_STATIC", "1")
    data, metadata = picture._repr_mimebundle_()
    assert set(data) == {"image/png", "text/plain"}
    assert metadata["image/png"]["alt"] == picture.alt


def test_save(tmp_path):
    path = picture.save(tmp_path / "picture.png")
    assert path.read_bytes() == b"some bytes"


# --- Images ---------------------------------------------------------------------------------------


def test_reconstructions_draw_the_pixels_they_are_given(canvas):
    x = noise(3, 1, 12, 12, seed=1) * 2 - 0.5
    plots.reconstructions(images[:3], {"attack": x})
    drawn = [image.get_array() for image in canvas[0].images]
    assert len(drawn) == 6
    np.testing.assert_array_equal(drawn[1], images[1, 0])
    np.testing.assert_array_equal(drawn[4], x[1, 0].clamp(0, 1))
    # Row 1, column 1: extents are (left, right, bottom, top), and rows run downwards.
    left, right, bottom, top = canvas[0].images[4].get_extent()
    assert 1 <= left < right <= 2 and 1 <= top < bottom <= 2
    assert canvas[0].images[4].norm.vmin == 0 and canvas[0].images[4].norm.vmax == 1


@pytest.mark.parametrize("size", [(24, 40), (40, 24), (9, 9), (10, 100)])
def test_images_keep_their_shape(canvas, size):
    plots.gallery({"one": noise(2, 3, *size)})
    plots.smashed(noise(2, 3, *size), noise(2, 4, *size))
    for axes in canvas:
        cells = np.array([axes.get_xlim()[1], axes.get_ylim()[0]])
        assert np.ptp(axes.figure.get_size_inches() / cells) == pytest.approx(0)  # squares
        for image in axes.get_images():
            left, right, bottom, top = image.get_extent()
            assert (bottom - top) / (right - left) == pytest.approx(size[0] / size[1])
            assert max(bottom - top, right - left) == pytest.approx(1 - images_drawn.GAP)


def test_a_row_of_a_table_is_a_stripe(canvas):
    plots.gallery({"one": noise(2, 1, 1, 30)})
    left, right, bottom, top = canvas[0].get_images()[0].get_extent()
    assert bottom - top == pytest.approx(right - left)


def test_reconstructions_say_what_they_show(canvas):
    x = images.clone()
    x[0] += 0.5
    x[1:3] += 0.1
    alt = plots.reconstructions(
        images, {"attack": x, "copy": images}, ["cat", "dog", "cow", "ant"]
    ).alt
    assert alt == (
        "Originals above their reconstructions: 4 images (cat, dog, cow, ant). "
        "attack: median MSE 0.01, from 0 (image 4, class ant) to 0.25 (image 1, class cat). "
        "copy: median MSE 0, from 0 (image 1, class cat) to 0 (image 1, class cat)."
    )
    rows = [label.get_text() for label in canvas[0].get_yticklabels()]
    assert rows == ["original", "attack\nMSE 0.0100", "copy\nMSE 0.0000"]
    assert mse_text(4.2e-6) == "MSE 4e-06"
    assert [label.get_text() for label in canvas[0].get_xticklabels()][2] == "cow"


def test_of_many_images_the_first_twenty_are_drawn_and_all_are_scored(canvas):
    truth = torch.zeros(50, 1, 12, 12)
    x = truth.clone()
    x[20:] = 0.5
    alt = plots.reconstructions(truth, {"attack": x}, [str(i % 10) for i in range(50)]).alt
    assert len(canvas[0].images) == 40
    assert "the first 20 of 50 images" in alt
    assert "median MSE 0.25" in alt and "to 0.25 (image 21)" in alt
    assert canvas[0].get_yticklabels()[0].get_text() == "original\nfirst 20 of 50"


def test_over_time_spreads_its_snapshots_evenly(canvas):
    truth = torch.zeros(2, 1, 12, 12)
    snapshots = torch.linspace(1, 0, 17).view(17, 1, 1, 1, 1).expand(17, 2, 1, 12, 12)
    alt = plots.over_time(snapshots, torch.arange(17) * 100, truth, image=1).alt
    titles = [label.get_text() for label in canvas[0].get_xticklabels()]
    assert titles == [*(f"step {step:,}" for step in range(0, 1601, 200)), "original"]
    assert [text.get_text() for text in canvas[0].texts][:3] == [
        "MSE 1.0000", "MSE 0.7656", "MSE 0.5625",
    ]  # fmt: skip
    assert alt.endswith("0.0156 at step 1,400, 0 at step 1,600.")


def test_over_time_shows_the_image_it_is_asked_for(canvas):
    snapshots = noise(2, 4, 1, 12, 12)
    plots.over_time(snapshots, [0, 1], images, image=2)
    first, _, original = (image.get_array() for image in canvas[0].images)
    np.testing.assert_array_equal(first, snapshots[0, 2, 0])
    np.testing.assert_array_equal(original, images[2, 0])


def test_smashed_draws_channels_on_one_scale(canvas):
    z = noise(9, 12, 5, 7) * 3
    z[:, :, 0] = 0
    z[:, 8:] = 100  # channels that are not drawn do not bleach the others
    alt = plots.smashed(noise(9, 1, 12, 12), z).alt
    assert len(canvas[0].images) == 6 * (1 + 8)
    activations = [image for image in canvas[0].images if image.get_array().shape == (5, 7)]
    np.testing.assert_array_equal(activations[9].get_array(), z[1, 1])
    assert {image.norm.vmax for image in activations} == {z[:6, :8].max().item()}
    assert alt.startswith("6 images beside their smashed data: 8 of 12 channels, 5x7 activations")
    assert f"from 0 to {z[:6, :8].max():.3g}; 20% of them are 0." in alt


def test_smashed_draws_flat_activations_as_stripes(canvas):
    z = noise(2, 40) - 0.5
    alt = plots.smashed(images[:2], z).alt
    stripe = canvas[0].images[1]
    np.testing.assert_array_equal(stripe.get_array(), z[:1])
    assert stripe.get_extent()[1] - stripe.get_extent()[0] > 4
    assert "40 numbers each, as a stripe" in alt


# --- Charts ---------------------------------------------------------------------------------------


def test_lines_draw_and_tell_how_each_series_runs(canvas):
    alt = plots.lines([0, 1, 2, 1500], {"up": [1, 5, 0.5, 2.0]}, "step", "loss", log=True).alt
    assert alt == (
        "loss (logarithmic scale) against step. "
        "up goes from 1 at step 0 to 2 at 1,500, lowest 0.5 at 2, highest 5 at 1."
    )
    np.testing.assert_array_equal(canvas[0].lines[0].get_ydata(), [1, 5, 0.5, 2])
    assert canvas[0].get_yscale() == "log"


def test_lines_survive_a_diverged_run():
    nan = float("nan")
    alt = plots.losses([0, 1, 2], {"a": [1, 2, nan], "b": [nan] * 3}).alt
    assert "a goes from 1 at step 0 to 2 at 1." in alt
    assert "b has no finite value." in alt


def test_twenty_lines_can_be_told_apart_without_colour(canvas):
    plots.lines([0, 1], {str(i): [i, i] for i in range(20)}, "x", "y")
    looks = {
        (line.get_linestyle(), str(line._dash_pattern), line.get_marker())
        for line in canvas[0].lines
    }
    assert len(looks) == 20


def test_palette_can_be_told_apart_in_grey():
    luminances = sorted(np.dot(to_rgb(colour), [0.299, 0.587, 0.114]) for colour in PALETTE)
    assert np.diff(luminances).min() > 0.015


def test_depth_curve_draws_medians_ranges_and_baselines(canvas):
    alt = plots.depth_curve(
        ["pool1", "fc1"],
        {"attack": ([0.2, 0.3], [0.1, 0.3], [0.4, 0.5])},
        "MSE",
        baselines={"blank": 0.7, "victim": [0.6, 0.8]},
    ).alt
    assert alt == (
        "MSE by cut. attack, median (range): 0.2 at pool1 (0.1 to 0.4), 0.3 at fc1 (0.3 to 0.5). "
        "blank: 0.7. victim: 0.6 at pool1, 0.8 at fc1."
    )
    data, _, (bars,) = canvas[0].containers[0]
    np.testing.assert_array_equal(data.get_ydata(), [0.2, 0.3])
    ends = [segment[:, 1] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[0.1, 0.4], [0.3, 0.5]])
    names = [text.get_text() for text in canvas[0].get_legend().get_texts()]
    assert names == ["attack", "blank", "victim"]
    assert [label.get_text() for label in canvas[0].get_xticklabels()] == ["pool1", "fc1"]


def test_depth_curve_leaves_out_what_there_is_not():
    nan = float("nan")
    alt = plots.depth_curve(
        ["a", "b"],
        {"one": ([1, nan],) * 3, "two": ([nan] * 2,) * 3},
        "y",
        baselines={"k": [nan, 2]},
    ).alt
    assert alt == (
        "y by cut. one, median (range): 1 at a (1 to 1). two, median (range): no result. k: 2 at b."
    )


def test_depth_curves_stand_side_by_side(canvas):
    triple = ([1, 1], [0, 0], [2, 2])
    plots.depth_curve(["a", "b"], {"one": triple, "two": triple}, "y")
    one, two = (container[0].get_xdata() for container in canvas[0].containers)
    assert (one < two).all()


def test_factors_draw_medians_and_ranges_in_rows(canvas):
    series = {"one": ([2, 0.5], [1, 0.1], [4, 1]), "two": ([1, 1], [1, 1], [1, 1])}
    assert plots.factors(["more", "less"], series, "MSE").alt == (
        "MSE (logarithmic scale), by change. one, median (range): more x 2 (1 to 4), "
        "less x 0.5 (0.1 to 1). two, median (range): more x 1 (1 to 1), less x 1 (1 to 1)."
    )
    (data, _, (bars,)), (other, *_) = canvas[0].containers
    np.testing.assert_array_equal(data.get_xdata(), [2, 0.5])
    ends = [segment[:, 0] for segment in bars.get_segments()]
    np.testing.assert_allclose(ends, [[1, 4], [0.1, 1]])
    assert (data.get_ydata() < other.get_ydata()).all()
    assert canvas[0].get_xscale() == "log"
    assert [label.get_text() for label in canvas[0].get_yticklabels()] == ["more", "less"]
    low, high = canvas[0].get_ylim()
    assert low > high  # the first row is at the top


def test_bars_bear_their_numbers(canvas):
    alt = plots.bars({"attack": 0.12345, "images": 12000.0, "loss": -1}, "score").alt
    assert alt == "Bars of score. attack: 0.123; images: 12,000; loss: -1."
    assert [text.get_text() for text in canvas[0].texts] == ["0.123", "12,000", "-1"]
    assert [bar.get_height() for bar in canvas[0].patches] == [0.12345, 12000.0, -1]


def test_a_frontier_has_a_panel_for_each_choice_and_names_at_the_points(canvas):
    points = {f"choice {i}": [(i, 0.1, 0.1, 0.3, "weak"), (2, 0.4, 0.3, 0.5, "")] for i in range(5)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of limits that are the same, for instance
        alt = plots.frontier(points, "lost", "error", {"mean": 0.5}, (3, 0.3)).alt
    panels = [axes for axes in canvas[0].figure.axes if axes.get_visible()]
    assert [axes.get_title(loc="left") for axes in panels] == list(points)
    assert [text.get_text() for text in panels[1].texts] == ["weak", ""]
    assert {text.get_text() for text in panels[0].texts} == {"weak", "", "mean ", " wanted"}
    assert "choice 1: 1 and 0.1 (0.1 to 0.3) at weak, 2 and 0.4 (0.3 to 0.5)." in alt
    assert "Dashed: mean, 0.5." in alt
    assert alt.endswith("at most 3 and at least 0.3: " + ", ".join(points) + ".")
    nobody = plots.frontier(points, "lost", "error", wanted=(1, 0.3)).alt
    assert nobody.endswith("at most 1 and at least 0.3: none.")


def test_scatter_says_how_far_apart_the_groups_are(canvas):
    points = torch.tensor([[0.0, 0], [0, 1], [0, 9], [10, 9], [10, 10], [10, 11]])
    alt = plots.scatter(points, torch.tensor([2, 2, 2, 5, 5, 5]), list("abcdef")).alt
    assert (
        alt
        == "6 points in 2 groups: c (3), f (3). 100% lie nearest to the centre of their own group."
    )
    mixed = plots.scatter(points, torch.tensor([0, 1, 1, 1, 0, 1])).alt
    assert "group 0 (2), group 1 (4)" in mixed and "100%" not in mixed
    np.testing.assert_array_equal(canvas[0].collections[0].get_offsets(), points[:3])


# What protanopes, deuteranopes and tritanopes see of linear RGB (Machado and others, 2009).
SEEN = {
    "normal": np.eye(3),
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("seen", SEEN.values(), ids=SEEN.keys())
def test_ten_groups_have_ten_colours_that_the_colour_blind_tell_apart(canvas, seen):
    plots.scatter(noise(10, 2), torch.arange(10))
    colours = [marks.get_facecolors()[0, :3] for marks in canvas[0].collections]
    linear = np.where(np.less(colours, 0.04), np.divide(colours, 12.9), np.power(colours, 2.2))
    perceived = np.cbrt(np.clip(linear @ np.transpose(seen), 0, 1))  # nearly evenly spaced
    apart = np.linalg.norm(perceived[:, None] - perceived, axis=2) + np.eye(10)
    assert apart.min() > 0.08


def test_exchange_draws_every_message_in_order(canvas):
    alt = plots.exchange(
        {"client": "images, labels", "server": "its layers", "witness": ""},
        [("client", "server", "z"), ("server", "server", "computes u"), ("server", "client", "u")],
    ).alt
    assert alt == (
        "Messages between client (images, labels) and server (its layers) and witness. "
        "1. client to server: z. 2. server: computes u. 3. server to client: u."
    )
    arrows = [text for text in canvas[0].texts if hasattr(text, "arrow_patch")]
    (from_client, down1), (to_server, y1) = arrows[0].xyann, arrows[0].xy
    (_, down2), (to_client, _) = arrows[1].xyann, arrows[1].xy
    assert from_client == to_client < to_server
    assert down1 == y1 < down2
    words = {text.get_text() for text in canvas[0].texts}
    assert {"1. z", "2. computes u", "3. u", "client", "witness", "its layers"} <= words


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("draw", "sentence"),
    [
        (lambda: plots.gallery({"one": images, "other": images[:2]}), r"rows of \[2, 4\] images"),
        (lambda: plots.reconstructions(images, {"attack": images[:2]}), "equal batches"),
        (lambda: plots.reconstructions(images, {"a": images}, ["cat"]), "1 class names for 4"),
        (lambda: plots.over_time(images[None], [0, 1], images), "1 snapshots and 2 steps"),
        (lambda: plots.smashed(images, noise(3, 8, 4, 4)), "4 images and smashed data of 3"),
        (lambda: plots.lines([0, 1], {"loss": [1]}, "x", "y"), "loss has shape"),
        (lambda: plots.depth_curve(["a"], {"m": ([1, 2], [1], [1])}, "y"), "m has shape"),
        (lambda: plots.depth_curve(["a"], {}, "y", baselines={"b": [1, 2]}), "b has shape"),
        (lambda: plots.factors(["a"], {"m": ([1, 2], [1], [1])}, "x"), "m has shape"),
        (lambda: plots.factors(["a"], {"m": ([1], [0], [1])}, "x"), "m has factors that are not"),
        (lambda: plots.scatter(noise(3, 3), torch.zeros(3)), "two dimensions"),
        (lambda: plots.exchange({"client": ""}, [("client", "eve", "z")]), "'eve' is not"),
    ],
)
def test_what_cannot_be_drawn(draw, sentence):
    with pytest.raises(DataError, match=sentence):
        draw()


def test_a_heat_map_writes_its_numbers(canvas):
    counts = {"wire": {"inputs": 18, "labels": 0}, "data": {"inputs": 0, "labels": 0}}
    alt = plots.heat_map(counts, "gets", "needs").alt
    assert alt == ("Heat map of needs (rows) and gets (columns). wire: inputs 18. data: none.")
    (axes,) = canvas
    assert [text.get_text() for text in axes.texts] == ["18", "", "", ""]
    (cells,) = axes.images
    least_light = cells.cmap(cells.norm(18.0))
    assert contrast(least_light, axes.texts[0].get_color()) > 4.5


def contrast(one, other):
    """The contrast of two colours as WCAG 2 has it."""
    light = []
    for color in (one, other):
        channels = np.array(to_rgb(color[:3] if isinstance(color, tuple) else color))
        linear = np.where(
            channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
        )
        light.append(linear @ [0.2126, 0.7152, 0.0722] + 0.05)
    return max(light) / min(light)


def test_a_heat_map_of_unequal_rows():
    with pytest.raises(DataError, match="row 'b' has the columns"):
        plots.heat_map({"a": {"x": 1}, "b": {"y": 1}}, "gets", "needs")
