"""The figures for papers: they draw what the library computes, and every run writes the same bytes."""

import sys

import numpy as np
import pytest
from matplotlib.figure import Figure
from scipy.special import expit

import focalcal
from focalcal import binary_focal_map, drawings, figures, focal_loss, proper_focal_loss, temperature_bounds


def axes():
    return Figure().subplots()


def lines(ax):
    return {line.get_label(): np.asarray(line.get_xydata()) for line in ax.get_lines()}


def two_columns(p):
    return np.log(np.stack([1 - p, p], axis=1))


def inner(points):
    return points[(points[:, 0] > 1e-4) & (points[:, 0] < 1 - 1e-4)]


@pytest.mark.parametrize("gamma", [1, 3])
def test_losses_are_the_focal_loss_and_its_proper_part(gamma):
    ax = axes()
    drawings.draw_losses(ax, [gamma])
    drawn = lines(ax)
    q, loss = inner(drawn[rf"$\mathrm{{FL}}_{{{gamma}}}$"]).T
    np.testing.assert_allclose(loss, focal_loss(two_columns(q), np.ones(len(q), int), gamma), rtol=1e-9)
    p, proper = inner(drawn[rf"$L_{{{gamma}}}$, its proper part"]).T
    truth = proper_focal_loss(two_columns(p), np.ones(len(p), int), gamma)
    np.testing.assert_allclose(proper, truth, rtol=1e-7)
    q, entropy = inner(drawn["cross-entropy"]).T
    np.testing.assert_allclose(entropy, -np.log(q), rtol=1e-9)
    assert "nats" in ax.get_ylabel()


def test_maps_and_temperatures():
    ax = axes()
    drawings.draw_maps(ax, [-0.5, 3])
    for gamma in (-0.5, 3):
        q, phi = inner(lines(ax)[rf"$\gamma = {gamma:g}$"]).T
        np.testing.assert_allclose(phi, expit(binary_focal_map(np.log(q / (1 - q)), gamma)), rtol=1e-9)
    ax = axes()
    drawings.draw_temperatures(ax, [1])
    q, scaled = lines(ax)[f"$T = {drawings.best_temperature(1)[0]:.3f}$"].T
    np.testing.assert_allclose(scaled, expit(np.log(q / (1 - q)) / drawings.best_temperature(1)[0]))


def test_differences_stay_within_what_is_said():
    ax = axes()
    drawings.draw_differences(ax, [0.5, 1])
    for gamma in (0.5, 1):
        largest = np.abs(lines(ax)[rf"$\gamma = {gamma:g}$"][:, 1]).max()
        assert largest == pytest.approx(1000 * drawings.best_temperature(gamma)[1], rel=1e-3)
        assert largest < 1.21


def test_bounds():
    ax = axes()
    drawings.draw_bounds(ax, 2)
    drawn = lines(ax)
    s, low = drawn[r"$T = 1/(\gamma+1-\frac{1}{2}\log(\gamma+1))$"].T
    psi, high = drawn[r"$\psi_{2}(s)$"][:, 1], drawn[r"$T = 1/(\gamma+1)$"][:, 1]
    np.testing.assert_allclose(psi, binary_focal_map(s, 2))
    right = s > 0
    assert (low <= psi)[right].all()
    assert (psi <= high)[right].all()
    np.testing.assert_allclose(s, high * temperature_bounds(2)[0])
    ax = axes()
    drawings.draw_implied_temperature(ax, [-0.5, 2])
    for gamma in (-0.5, 2):
        low, high = temperature_bounds(gamma)
        curve = lines(ax)[rf"$\gamma = {gamma:g}$"][:, 1]
        assert ((low < curve) & (curve < high)).all()


@pytest.mark.parametrize("gamma", [-1, -0.5, 0, 0.5, 1, 2, 3, 10])
def test_no_other_temperature_is_nearer(gamma):
    temperature, difference = drawings.best_temperature(gamma)
    s = np.linspace(0, 16, 4001)

    def worst(t):
        return np.abs(expit(binary_focal_map(s, gamma)) - expit(s / t)).max()

    assert worst(temperature) == pytest.approx(difference, abs=1e-6)
    assert min(worst(temperature * 0.999), worst(temperature * 1.001)) >= difference - 1e-9


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    return figures(tmp_path_factory.mktemp("figures"))


@pytest.mark.slow
def test_two_runs_write_the_same_bytes(first, tmp_path):
    second = figures(tmp_path / "b" / "c")
    assert [path.name for path in first] == [
        f"{name}.{kind}" for name in drawings.FIGURES for kind in ("svg", "pdf", "png")
    ]
    for one, other in zip(first, second, strict=True):
        content = one.read_bytes()
        assert content == other.read_bytes()
        assert content.startswith({".svg": b"<?xml", ".pdf": b"%PDF", ".png": b"\x89PNG"}[one.suffix])
    width = int.from_bytes(first[2].read_bytes()[16:20], "big")
    assert width >= 200 * 6.9


def test_a_users_own_style_and_files_do_not_matter(first, tmp_path):
    import matplotlib

    before = {path.name: path.read_bytes() for path in first if path.suffix == ".svg"}
    for name in before:
        (tmp_path / name).write_text("of an earlier run")
    with matplotlib.rc_context({"lines.linewidth": 9, "font.size": 30, "svg.hashsalt": "x"}):
        written = figures(tmp_path, "svg")
    assert {path.name: path.read_bytes() for path in written} == before


def test_errors(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"^Expected format to be one of 'svg', 'pdf', 'png', got 'gif'\.$"):
        figures(tmp_path / "new", ["svg", "gif"])
    assert not (tmp_path / "new").exists()
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"^figures needs matplotlib: pip install 'focalcal\[plot\]'$"):
        figures(tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_function_is_public():
    assert focalcal.figures is figures
