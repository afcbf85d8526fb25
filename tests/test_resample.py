"""The intervals: their pieces against brute force, their ends against known values, their coverage."""

import math
from functools import reduce
from operator import add

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom, norm

from focalcal.intervals.gap_interval import ClassCells, absolute_deviation, gap_sum_interval, moments
from focalcal.intervals.resample import estimate_gap_sum, estimate_mean, estimate_share, wilson_interval
from focalcal.sums.bins import bin_classes, bin_rows, equal_width_edges
from focalcal.sums.moments import MeanSums, sum_rows
from predictions import draw, softmax

EDGES = equal_width_edges(15)


def test_wilson_against_published_values():
    # Newcombe 1998, Statistics in Medicine 17, table I: 81/263, 15/148, 0/20, 1/29
    for hits, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (1, 29, 0.0061, 0.1718)):
        ends = wilson_interval(hits / n, n)
        assert [round(float(end), 4) for end in ends] == [low, high]


def test_wilson_at_the_ends_touches_them_and_nan_stays():
    low, high = wilson_interval([0.0, 1.0, np.nan], [20, 20, np.nan])
    assert low[0] == 0
    assert high[0] == pytest.approx(0.1611, abs=5e-5)
    assert (low[1], high[1]) == (pytest.approx(1 - 0.1611, abs=5e-5), 1)
    assert np.isnan([low[2], high[2]]).all()
    n = np.arange(1, 500)
    assert (wilson_interval(0 * n, n)[0] == 0).all()
    assert (wilson_interval(n / n, n)[1] == 1).all()


@pytest.mark.parametrize("level", [0, 1, 1.5, -0.1, math.nan])
def test_level_must_lie_between_0_and_1(level):
    with pytest.raises(ValueError, match=r"Expected level between 0 and 1, e\.g\. 0\.95, got"):
        wilson_interval(0.5, 10, level)


def test_mean_and_standard_error_are_those_of_the_sample():
    x = np.random.default_rng(0).gamma(2, size=100)
    sums = sum_rows(x[:30]) + sum_rows(x[30:])
    assert sums.mean == pytest.approx(x.mean(), rel=1e-14)
    assert sums.stderr == pytest.approx(x.std(ddof=1) / 10, rel=1e-12)
    weighted = sum_rows(x, np.full(100, 3.0))
    assert (weighted.mean, weighted.stderr) == pytest.approx((sums.mean, sums.stderr), rel=1e-12)
    e = estimate_mean(sums, 100, 0.9)
    half = norm.ppf(0.95) * sums.stderr
    assert (e.low, e.high) == pytest.approx((x.mean() - half, x.mean() + half))
    assert (e.method, e.level, e.n) == ("normal", 0.9, 100)


def test_standard_error_of_a_weighted_mean_is_its_spread_over_samples():
    rng = np.random.default_rng(0)
    means, errors = [], []
    for _ in range(2000):
        x, w = rng.normal(size=200), rng.gamma(1, size=200)
        sums = sum_rows(x, w)
        means.append(sums.mean)
        errors.append(sums.stderr)
    assert np.mean(errors) == pytest.approx(np.std(means), rel=0.05)


def test_rows_without_weight_add_nothing_even_if_infinite():
    sums = sum_rows(np.array([1.0, 3.0, np.inf]), np.array([1.0, 1.0, 0.0]))
    assert sums.mean == 2
    assert sums.effective_count == 2
    assert sums.stderr == pytest.approx(1)


def test_one_row_has_no_standard_error():
    assert math.isnan(sum_rows(np.array([0.3])).stderr)
    assert math.isnan(sum_rows(np.array([0.3, 5]), np.array([2.0, 0.0])).stderr)


def test_a_mean_of_scores_has_no_end_below_zero():
    sums = sum_rows(np.array([0.0, 0.0, 0.0, 1.0]))
    assert estimate_mean(sums, 4, 0.95).low == 0


def test_infinite_mean():
    e = estimate_mean(sum_rows(np.array([1.0, np.inf])), 2, 0.95)
    assert (e.value, e.high) == (np.inf, np.inf)
    assert math.isnan(e.low)
    assert math.isnan(e.stderr)


@given(
    st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 9)), min_size=2, max_size=30), st.integers(1, 29)
)
def test_moments_merge_exactly(rows, cut):
    x, w = (np.array(column, np.float64) for column in zip(*rows, strict=True))
    whole, parts = sum_rows(x, w), [sum_rows(x[:cut], w[:cut]), sum_rows(x[cut:], w[cut:])]
    assert parts[0] + parts[1] == whole == parts[1] + parts[0]
    assert isinstance(whole, MeanSums)


@given(st.integers(1, 60), st.integers(0, 1000), st.integers(0, 1000))
def test_absolute_deviation_is_the_sum_over_all_counts(n, rate, target):
    rate, target = rate / 1000, target / 1000
    k = np.arange(n + 1)
    chance, distance = binom.pmf(k, n, rate), np.abs(k / n - target)
    first, second = absolute_deviation(np.array([float(n)]), np.array([rate]), np.array([target]))
    assert first[0] == pytest.approx(chance @ distance, abs=1e-12)
    assert second[0] == pytest.approx(chance @ distance**2, abs=1e-12)


def sample(rng, n, slope=1.0):
    """Bin sums of n rows whose true hit rate is 0.5 + slope (confidence − 0.5)."""
    c = 0.5 + 0.5 * rng.beta(2, 1, n)
    return bin_rows(c, rng.random(n) < 0.5 + slope * (c - 0.5), None, EDGES)


@pytest.mark.parametrize("slope", [1.0, 0.5])
def test_moments_are_those_of_the_plug_in_over_samples(slope):
    rng = np.random.default_rng(0)
    values = np.array([float(sample(rng, 400, slope).gap_sum) for _ in range(3000)])
    big = ClassCells.of(sample(rng, 2_000_000, slope))
    cells = ClassCells(big.share, big.confidence, big.rate, 400 * big.share, big.bin, 1)
    gap = np.zeros_like(big.share) if slope == 1 else big.gap
    m = moments(cells, gap)
    assert m.mean == pytest.approx(values.mean(), rel=0.03)
    assert m.sd == pytest.approx(values.std(), rel=0.06)
    assert m.quantile(0.95) == pytest.approx(np.quantile(values, 0.95), rel=0.04)
    assert m.quantile(0.05) == pytest.approx(np.quantile(values, 0.05), rel=0.06)


def test_interval_of_one_bin_is_wilsons():
    # all rows hit at confidence 1/3: only the lower end is open, and Wilson's score test is the one inverted
    sums = bin_rows(np.full(50, 0.3), np.ones(50), None, equal_width_edges(1))
    _, _, low, high = gap_sum_interval(sums, 0.95)
    assert low == pytest.approx(float(wilson_interval(1.0, 50)[0]) - 0.3, abs=1e-3)
    assert high == pytest.approx(0.7)


def test_interval_of_a_clear_gap_is_the_normal_one():
    n = 100_000
    sums = bin_rows(np.full(n, 0.8), np.arange(n) % 10 < 5, None, equal_width_edges(1))
    _, stderr, low, high = gap_sum_interval(sums, 0.95)
    assert stderr == pytest.approx(0.5 / math.sqrt(n), rel=1e-3)
    assert (low, high) == pytest.approx((0.3 - 1.96 * stderr, 0.3 + 1.96 * stderr), abs=2e-5)


def test_all_hits_at_confidence_one_leave_the_rule_of_three():
    e = estimate_gap_sum(bin_rows(np.ones(1000), np.ones(1000), None, EDGES), 1000, 0.95)
    assert e.value == e.low == 0
    assert 0.0025 < e.high < 0.005


def test_all_misses_at_confidence_one():
    e = estimate_gap_sum(bin_rows(np.ones(1000), np.zeros(1000), None, EDGES), 1000, 0.95)
    assert e.value == e.high == 1
    assert 0.995 < e.low < 0.9975


def test_the_shares_of_the_bins_are_random_too():
    # half the rows hit at confidence 1, half miss at 0.6: the error is 0.6 times the share of the latter
    c = np.repeat([1.0, 0.6], 5000)
    _, stderr, low, high = gap_sum_interval(bin_rows(c, c == 1, None, EDGES), 0.95)
    assert stderr == pytest.approx(0.6 * math.sqrt(0.25 / 10_000), rel=0.02)
    assert (low, high) == pytest.approx((0.3 - 1.96 * stderr, 0.3 + 1.96 * stderr), abs=1e-3)


def test_near_no_error_the_whole_miss_probability_is_above():
    # one bin at confidence .5: T is |normal| of sd .5/sqrt(1000), its 95 % quantile .0310, its 97.5 % .0354
    for hits, above in ((528, False), (533, True)):
        sums = bin_rows(np.full(1000, 0.5), np.arange(1000) < hits, None, EDGES)
        assert (gap_sum_interval(sums, 0.95).low > 0) == above


def test_interval_narrows_with_rows_and_widens_with_level():
    rng = np.random.default_rng(3)
    small, large = sample(rng, 500, 0.6), sample(rng, 50_000, 0.6)
    width = [np.diff(gap_sum_interval(s, 0.95)[2:])[0] for s in (small, large)]
    assert width[1] < width[0] / 5
    assert np.diff(gap_sum_interval(small, 0.99)[2:]) > width[0] > np.diff(gap_sum_interval(small, 0.8)[2:])


def test_common_weights_change_nothing_and_unequal_ones_widen():
    rng = np.random.default_rng(4)
    c = rng.random(2000)
    h = rng.random(2000) < c**2
    plain = gap_sum_interval(bin_rows(c, h, None, EDGES), 0.95)
    assert gap_sum_interval(bin_rows(c, h, np.full(2000, 0.01), EDGES), 0.95) == pytest.approx(
        plain, rel=1e-9
    )
    uneven = gap_sum_interval(bin_rows(c, h, rng.gamma(0.3, size=2000), EDGES), 0.95)
    assert uneven.high - uneven.low > 1.3 * (plain.high - plain.low)


def test_two_classes_know_as_much_as_one():
    z, y = draw(700, 2, seed=1)
    p = softmax(z)
    alone = gap_sum_interval(bin_rows(p[:, 1], y == 1, None, EDGES), 0.95)
    assert gap_sum_interval(bin_classes(p.copy(), y, None, EDGES), 0.95) == pytest.approx(alone, rel=1e-12)


def test_one_row():
    e = estimate_gap_sum(bin_rows(np.array([0.7]), np.ones(1), None, EDGES), 1, 0.95)
    assert e.value == pytest.approx(0.3)
    assert math.isnan(e.stderr)
    assert e.low == 0
    assert e.high >= 0.3


@pytest.mark.parametrize("hit", [0.0, 1.0])
def test_a_row_of_one_half_tells_nothing(hit):
    e = estimate_gap_sum(bin_rows(np.array([0.5]), np.array([hit]), None, EDGES), 1, 0.95)
    assert (e.low, e.high) == (0, 0.5)


def test_share_uses_the_effective_count():
    e = estimate_share(sum_rows(np.array([1.0, 0.0, 1.0]), np.array([1.0, 1.0, 0.0])), 3, 0.95)
    assert (e.low, e.high) == pytest.approx(tuple(map(float, wilson_interval(0.5, 2))))
    assert e.method == "wilson"


@pytest.mark.slow
@pytest.mark.parametrize("slope", [1.0, 0.9, 0.5])
def test_intervals_cover_the_true_binned_error(slope):
    rng = np.random.default_rng(6)
    truth = (1 - slope) / 3  # E[(1 − slope) (c − 0.5)] where 2 c − 1 is of Beta(2, 1)
    covered = 0
    for _ in range(400):
        _, _, low, high = gap_sum_interval(sample(rng, 500, slope), 0.95)
        covered += low <= truth <= high
    # 3 standard errors of 400 draws are 3.3 points
    assert 0.917 <= covered / 400 <= 0.983


@pytest.mark.slow
def test_class_wise_intervals_cover_where_cells_hold_a_handful_of_rows():
    def errors(n, seed):
        rng = np.random.default_rng(seed)
        z = 3 * rng.normal(size=(n, 100))
        z[np.arange(n), rng.integers(0, 100, n)] += 9
        y = (rng.random((n, 1)) > softmax(z / 1.5).cumsum(axis=1)[:, :-1]).sum(axis=1)
        return bin_classes(softmax(z), y, None, EDGES)

    truth = float(reduce(add, (errors(20_000, s) for s in range(5))).gap_sum.mean())
    ends = [gap_sum_interval(errors(500, 100 + s), 0.95)[2:] for s in range(25)]
    assert np.mean([low <= truth <= high for low, high in ends]) >= 0.85


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_class_wise_intervals_cover(temperature):
    def errors(n, seed):
        z, y = draw(n, 10, seed=seed, temperature=temperature)
        return bin_classes(softmax(z), y, None, EDGES)

    truth = 0.0 if temperature == 1 else float(errors(100_000, 0).gap_sum.mean())
    ends = [gap_sum_interval(errors(500, 100 + s), 0.95)[2:] for s in range(200)]
    covered = np.mean([low <= truth <= high for low, high in ends])
    assert covered >= 0.88
