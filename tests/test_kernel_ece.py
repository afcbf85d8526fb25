"""The kernel calibration error against a slow loop with SciPy's densities."""

import math

import numpy as np
import pytest
from scipy.stats import beta, dirichlet

from focalcal import kernel_ece
from predictions import draw, softmax


def by_loops(p, hot, w, h):
    """What the other rows say about each row, shape (n, C)."""
    smoothed = np.zeros_like(p)
    for j in range(len(p)):
        k = np.array([dirichlet.pdf(p[j] / p[j].sum(), p[i] / h + 1) for i in range(len(p))]) * w
        k[j] = 0
        smoothed[j] = k @ hot / k.sum()
    return smoothed


def by_loops_of_one(c, hit, w, h):
    smoothed = np.zeros_like(c)
    for j in range(len(c)):
        k = beta.pdf(c[j], c / h + 1, (1 - c) / h + 1) * w
        k[j] = 0
        smoothed[j] = k @ hit / k.sum()
    return smoothed


@pytest.mark.parametrize("k", [2, 3, 6])
@pytest.mark.parametrize("h", [0.005, 0.05, 1.0])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_vector(k, h, weighted):
    z, y = draw(25, k, k)
    p, hot = softmax(z / 2), np.eye(k)[y]
    w = 0.2 + np.random.default_rng(0).random(25) if weighted else np.ones(25)
    gaps = np.abs(by_loops(p, hot, w, h) - p)
    given = w if weighted else None
    assert kernel_ece(y, p, given, bandwidth=h).value == pytest.approx(
        np.average(gaps.sum(axis=1), weights=w), rel=1e-9
    )
    assert kernel_ece(y, p, given, bandwidth=h, norm="l2").value ** 2 == pytest.approx(
        np.average((gaps**2).sum(axis=1), weights=w), rel=1e-9
    )


@pytest.mark.parametrize("h", [0.005, 0.05])
def test_the_top_class_and_one_class(h):
    z, y = draw(30, 3, 1)
    p = softmax(z / 2)
    top, w = p.max(axis=1), np.ones(30)
    gap = np.abs(by_loops_of_one(top, p.argmax(axis=1) == y, w, h) - top)
    assert kernel_ece(y, p, of="top", bandwidth=h).value == pytest.approx(gap.mean(), rel=1e-9)
    gap = np.abs(by_loops_of_one(p[:, 1], y == 1, w, h) - p[:, 1])
    assert kernel_ece(y, p, of_class=1, bandwidth=h).value == pytest.approx(gap.mean(), rel=1e-9)
    squares = kernel_ece(y, p, of_class=1, bandwidth=h, norm="l2").value ** 2
    assert squares == pytest.approx((gap**2).mean(), rel=1e-9)


def test_two_columns_count_one_classes_gap_twice():
    z, y = draw(40, 2, 2)
    p = softmax(z)
    one = kernel_ece(y, p, of_class=1, bandwidth=0.03).value
    assert kernel_ece(y, p, bandwidth=0.03).value == pytest.approx(2 * one, rel=1e-9)


def test_the_bandwidth_chosen_is_the_most_likely():
    z, _ = draw(20, 3, 3)
    p = softmax(z / 2)
    widths = np.geomspace(1e-4, 1, 17)

    def likelihood(h):
        density = np.array([[dirichlet.pdf(a / a.sum(), b / h + 1) for b in p] for a in p])
        np.fill_diagonal(density, 0)
        with np.errstate(divide="ignore"):
            return np.log(density.sum(axis=1)).mean()

    best = widths[np.argmax([likelihood(h) for h in widths])]
    method = kernel_ece(np.arange(20) % 3, p).method
    assert method.endswith(f"h={best:.3g}")


@pytest.mark.parametrize("k", [2, 5])
def test_intervals_cover_and_allow_for_the_bias(k):
    covered = 0
    for seed in range(25):
        z, y = draw(150, k, seed, temperature=1.0)
        found = kernel_ece(y, softmax(z), seed=seed)
        covered += found.low <= 1e-3  # calibrated: the truth is 0
        assert found.value > 0
    assert covered >= 21


def test_a_clear_error_is_found():
    c = np.full(400, 0.9)
    found = kernel_ece(np.arange(400) % 2, c, of_class=1)
    assert found.low < 0.4 < found.high
    assert found.high - found.low < 0.15
    # nothing varies where all rows miss, and yet a few hits would be no surprise
    missed = kernel_ece(np.zeros(20, int), np.full(20, 0.8), of_class=1)
    assert missed.low < 0.75 < missed.high == pytest.approx(0.8)


def test_many_rows_are_thinned():
    z, y = draw(2000, 3, 4)
    p = softmax(z)
    few = kernel_ece(y, p, of="top", max_rows=500, bandwidth=0.05)
    assert 448 <= few.n <= 500
    assert few.value == pytest.approx(kernel_ece(y, p, of="top", bandwidth=0.05).value, abs=0.03)
    assert kernel_ece(y[:50], p[:50], max_rows=10).n == 10


def test_a_row_alone_says_nothing():
    for arguments in (([1], [0.7]), ([1, 0, 1], [0.7, 0.2, 0.9], [0.0, 1.0, 0.0])):
        with pytest.raises(
            ValueError, match=r"Expected at least 2 rows with a weight above 0, .* got 1\. Use"
        ):
            kernel_ece(*arguments)


@pytest.mark.parametrize("bandwidth", [0, -0.1, math.nan, math.inf])
def test_a_bandwidth_is_positive(bandwidth):
    with pytest.raises(ValueError, match=r"Expected a finite bandwidth > 0, e\.g\. 0\.01, got"):
        kernel_ece([0, 1], [0.2, 0.7], bandwidth=bandwidth)


def test_options_are_checked():
    y, p = [0, 1], [0.2, 0.7]
    with pytest.raises(ValueError, match=r"Expected of to be one of 'vector', 'top', got 'class'\."):
        kernel_ece(y, p, of="class")
    with pytest.raises(ValueError, match=r"Expected norm to be one of 'l1', 'l2', got 'max'\."):
        kernel_ece(y, p, norm="max")
    with pytest.raises(ValueError, match=r"Expected max_rows to be a whole number >= 1, got 0\."):
        kernel_ece(y, p, max_rows=0)


def test_the_same_seed_gives_the_same_interval():
    z, y = draw(60, 3, 5)
    one, two, other = (kernel_ece(y, softmax(z), seed=seed) for seed in (1, 1, 2))
    assert one == two
    assert other.value == one.value
    assert other.high != one.high
