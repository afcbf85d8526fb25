"""What the reliability diagram draws is what was computed."""

import sys

import numpy as np
import pytest
from matplotlib import pyplot as plt
from matplotlib.colors import to_hex

from focalcal import ReliabilityDisplay, evaluate
from focalcal.intervals.resample import wilson_interval
from focalcal.plots import OVER, UNDER
from predictions import draw, softmax

plt.switch_backend("agg")


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


@pytest.fixture
def data():
    z, y = draw(800, 3)
    return y, softmax(z)


def points(display):
    return np.asarray(display.ax_.collections[-1].get_offsets())


def segments(display, which):
    return [np.asarray(s) for s in display.ax_.collections[which].get_segments()]


def test_points_and_lines_are_the_bins_with_wilson_intervals(data):
    y, p = data
    display = ReliabilityDisplay.from_predictions(y, p)
    full = display.bins.count > 0
    x, hits = display.bins.mean_confidence[full], display.bins.hit_rate[full]
    np.testing.assert_allclose(points(display), np.stack([x, hits], axis=1))
    gaps, whiskers = segments(display, 0), segments(display, 1)
    low, high = wilson_interval(hits, display.bins.count[full])
    np.testing.assert_allclose([g[:, 1] for g in gaps], np.stack([x, hits], axis=1))
    np.testing.assert_allclose([w[:, 1] for w in whiskers], np.stack([low, high], axis=1))
    for line in (gaps, whiskers):
        np.testing.assert_allclose([s[:, 0] for s in line], np.stack([x, x], axis=1))
    colours = [to_hex(c) for c in display.ax_.collections[-1].get_facecolors()]
    assert colours == [OVER if a > b else UNDER for a, b in zip(x, hits, strict=True)]
    assert {OVER, UNDER} == set(colours)


def test_density_strip_shows_the_share_of_rows(data):
    display = ReliabilityDisplay.from_predictions(*data, bins=10)
    bars = display.density_ax_.patches
    np.testing.assert_allclose([b.get_height() for b in bars], display.bins.share)
    np.testing.assert_allclose([b.get_x() for b in bars], np.arange(10) / 10)
    assert display.density_ax_.get_xlabel() == "confidence"


def test_title_carries_the_number_and_its_interval(data):
    y, p = data
    e = evaluate(y, p)["ece"]
    display = ReliabilityDisplay.from_predictions(y, p, name=r"$\nope$")
    first, second = display.ax_.get_title(loc="left").split("\n")
    assert first == r"$\nope$"
    assert second == f"ECE {e.value:.1%} [{e.low:.1%}, {e.high:.1%}]"
    display.figure_.canvas.draw()  # a name is not mathematics


def test_from_evaluation_draws_the_same(data):
    y, p = data
    w = np.random.default_rng(0).random(len(y))
    one = ReliabilityDisplay.from_predictions(y, p, sample_weight=w, bins=8, level=0.9)
    two = ReliabilityDisplay.from_evaluation(evaluate(y, p, w, bins=8, level=0.9), name="x")
    np.testing.assert_array_equal(points(one), points(two))
    np.testing.assert_array_equal(segments(one, 1), segments(two, 1))
    assert one.estimate == two.estimate


def test_input_is_declared(data):
    y, p = data
    one = ReliabilityDisplay.from_predictions(y, np.log(p), input="logits")
    np.testing.assert_allclose(points(one), points(ReliabilityDisplay.from_predictions(y, p)), rtol=1e-9)


def test_draws_on_given_axes_and_again_elsewhere(data):
    figure, axes = plt.subplots(1, 2)
    display = ReliabilityDisplay.from_predictions(*data, ax=axes[0])
    assert display.ax_ is axes[0]
    assert display.figure_ is figure
    assert display.plot(axes[1], name="again").ax_ is axes[1]
    assert axes[1].get_title(loc="left").startswith("again\n")


def test_one_row_and_one_bin():
    for bins in (1, 15):
        display = ReliabilityDisplay.from_predictions([1], [0.7], bins=bins)
        np.testing.assert_allclose(points(display), [[0.7, 1]])
        display.figure_.canvas.draw()


def test_without_matplotlib_the_error_says_what_to_install(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(
        ImportError, match=r"^ReliabilityDisplay needs matplotlib: pip install 'focalcal\[plot\]'$"
    ):
        ReliabilityDisplay.from_predictions(*data)


def test_importing_the_display_does_not_import_matplotlib():
    import subprocess

    code = (
        "import sys; from focalcal import ReliabilityDisplay, evaluate; sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
