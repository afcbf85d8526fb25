"""The smooth ECE against the paper's integral by quadrature, and its interval against repeated samples."""

from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from focalcal import smooth_ece
from focalcal.intervals.smoothing import error_exactly, find_width
from focalcal.metrics import smooth
from focalcal.sums import confidences, events
from predictions import draw, softmax


def by_quadrature(c, hit, width, w=None):
    """∫ |Σ w K(c, t)(c − hit)| / Σ w dt with the Gaussian kernel reflected at 0 and 1."""
    w = np.ones(len(c)) if w is None else w
    images = np.arange(-6, 7)

    def density(t):
        near = np.abs(t - (2 * images[:, None] + c)), np.abs(t - (2 * images[:, None] - c))
        return sum(norm.pdf(d, scale=width).sum(axis=0) for d in near)

    grid = np.linspace(0, 1, 41)
    whole = (quad(lambda t: abs((w * density(t)) @ (c - hit)), a, b, limit=100)[0] for a, b in pairwise(grid))
    return sum(whole) / w.sum()


@pytest.mark.parametrize("width", [0.02, 0.1, 0.5])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_error_at_a_width_is_the_integral(width, weighted):
    rng = np.random.default_rng(0)
    c = np.concatenate([rng.random(30), [0.0, 1.0, 1.0]])
    hit = (rng.random(33) < c**2).astype(float)
    w = 0.1 + rng.random(33) if weighted else np.ones(33)
    found = float(error_exactly(c, w * (c - hit), w, width))
    assert found == pytest.approx(by_quadrature(c, hit, width, w), abs=2e-4)


def test_the_width_is_where_it_equals_the_error(monkeypatch):
    monkeypatch.setattr(smooth, "_DRAWS", 2)
    rng = np.random.default_rng(1)
    c = rng.random(400)
    hit = rng.random(400) < 0.5

    def error(width):
        return error_exactly(c, c - hit, np.ones(400), width)

    width = find_width(error)
    assert width - 2**-10 <= float(error(width)) + 2**-10
    assert float(error(width)) <= width
    value = smooth_ece(hit, c, of_class=True).value
    assert value == float(error(width))
    assert value == pytest.approx(width, abs=2**-9)


def test_gaps_of_one_sign_are_the_mean_gap():
    for c in (np.full(100, 0.9), np.linspace(0.8, 1, 100), np.ones(100)):
        y = np.arange(100) % 2 == 0
        assert smooth_ece(y, c, of_class=True).value == pytest.approx(c.mean() - 0.5, abs=1e-6)


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_intervals_cover(gap, monkeypatch):
    monkeypatch.setattr(smooth, "_DRAWS", 30)
    monkeypatch.setattr(smooth, "_GROUPS", 40)
    rng = np.random.default_rng(3)
    covered = 0
    for seed in range(16):
        c = 0.5 + 0.5 * rng.random(100)
        found = smooth_ece(rng.random(100) < c - gap, c, of_class=True, seed=seed)
        covered += found.low <= gap <= found.high
    assert covered >= 13


def test_cells_of_many_rows_change_little(monkeypatch):
    monkeypatch.setattr(smooth, "_DRAWS", 30)
    monkeypatch.setattr(smooth, "_GROUPS", 60)
    z, y = draw(4000, 3, 4)
    exact = smooth_ece(y, softmax(z))
    monkeypatch.setattr(events, "CELLS", 1000)
    monkeypatch.setattr(confidences, "EXACT", 2000)
    coarse = smooth_ece(y, softmax(z))
    assert coarse.value == pytest.approx(exact.value, abs=1e-3)
    assert coarse.high == pytest.approx(exact.high, abs=3e-3)


def test_the_same_seed_gives_the_same_interval(monkeypatch):
    monkeypatch.setattr(smooth, "_DRAWS", 20)
    z, y = draw(60, 3, 5)
    one, two, other = (smooth_ece(y, softmax(z), seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert other.value == one.value
    assert other != one


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"Expected convention to be one of 'exact', 'relplot', got 'paper'"):
        smooth_ece([0, 1], [0.5, 0.5], convention="paper")
