"""The tests of calibration: their formulas, their size under calibration, and what they find."""

import math

import numpy as np
import pytest
from scipy.stats import binom, kstest

from focalcal.intervals.brownian import sup_quantile, sup_tail
from focalcal.verdicts import calibration_tests
from predictions import draw, softmax

verdict = calibration_tests.test_calibration
METHODS = calibration_tests.METHODS


def calibrated(n, k, seed):
    z, y = draw(n, k, seed, temperature=1.0)
    return softmax(z), y


@pytest.mark.parametrize("weighted", [False, True])
def test_spiegelhalter_of_two_classes_is_the_classic_formula(weighted):
    z, y = draw(300, 2, 1)
    p = softmax(z)[:, 1]
    w = np.random.default_rng(0).random(300) if weighted else np.ones(300)
    over = (w * (y - p) * (1 - 2 * p)).sum()
    classic = over / math.sqrt((w**2 * (1 - 2 * p) ** 2 * p * (1 - p)).sum())
    for options in ({}, {"of_class": 1}, {"of_class": 0}):
        found = verdict(y, p, w, method="spiegelhalter", **options)
        assert found.statistic == pytest.approx(classic, rel=1e-9)
    assert found.p_value == pytest.approx(math.erfc(abs(classic) / math.sqrt(2)), rel=1e-9)


def test_spiegelhalter_of_many_classes_is_the_brier_score_standardised():
    p, y = calibrated(50, 4, 2)
    brier = ((p - np.eye(4)[y]) ** 2).sum(axis=1)
    by_label = np.stack([((p - np.eye(4)[k]) ** 2).sum(axis=1) for k in range(4)], axis=1)
    mean = (p * by_label).sum(axis=1)
    variance = (p * by_label**2).sum(axis=1) - mean**2
    z = (brier - mean).sum() / np.sqrt(variance.sum())
    assert verdict(y, p, method="spiegelhalter").statistic == pytest.approx(z, rel=1e-9)


def test_spiegelhalter_is_normal_under_calibration():
    z = [verdict(*calibrated(200, 3, s)[::-1], method="spiegelhalter").statistic for s in range(300)]
    assert kstest(z, "norm").pvalue > 0.01


def test_spiegelhalter_where_what_cannot_happen_happened():
    found = verdict([1, 0, 1], [1.0, 1.0, 1.0], method="spiegelhalter")
    assert found.p_value == 0
    assert found.statistic > 1e5
    assert verdict([1, 1, 1], [1.0, 1.0, 1.0], method="spiegelhalter").p_value == 1


def test_ks_is_the_error_over_its_deviation():
    p, y = calibrated(80, 3, 3)
    c, hit = p.max(axis=1), p.argmax(axis=1) == y
    order = np.argsort(c)
    walk = np.cumsum((c - hit)[order]) / math.sqrt((c * (1 - c)).sum())
    found = verdict(y, p, method="ks")
    assert found.statistic == pytest.approx(np.abs(walk).max(), rel=1e-9)
    assert found.p_value == pytest.approx(sup_tail(found.statistic))


def test_t_cal_by_loops():
    c, y = np.linspace(0.05, 0.95, 32), np.arange(32) % 3 == 0
    scales = [1, 2, 4]  # bins of 8 rows at least
    found = []
    for m in scales:
        total, variance = 0.0, 0.0
        for part in np.split(np.arange(32), m):
            u, v, n = (c - y)[part], (c * (1 - c))[part], len(part)
            total += (u.sum() ** 2 - (u**2).sum()) / n
            variance += 2 * (v.sum() ** 2 - (v**2).sum()) / n**2
        found.append(total / math.sqrt(variance))
    assert verdict(y, c, of_class=True).statistic == pytest.approx(max(found), rel=1e-9)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("weighted", [False, True])
def test_size_under_calibration(method, weighted):
    rng = np.random.default_rng(4)
    p_values = []
    for seed in range(300):
        p, y = calibrated(150, 3, seed)
        w = 0.5 + rng.random(150) if weighted else None
        options = {"draws": 99} if method == "t-cal" else {}
        p_values.append(verdict(y, p, w, method=method, **options).p_value)
    for level in (0.05, 0.2):
        low, high = binom.ppf([0.001, 0.999], 300, level)
        found = int(np.sum(np.array(p_values) <= level))
        # KS compares a short walk with a Brownian motion, which goes farther
        assert (low if method != "ks" else low / 2) <= found <= high


@pytest.mark.parametrize("method", METHODS)
def test_over_confidence_is_found(method):
    z, y = draw(800, 3, 5, temperature=2.0)
    found = verdict(y, softmax(z), method=method)
    assert found.p_value < 0.01
    assert found.statistic > 0


def test_gaps_that_wiggle_are_found_by_t_cal_alone():
    rng = np.random.default_rng(6)
    c = 0.3 + 0.4 * rng.random(6000)
    y = rng.random(6000) < c + 0.12 * np.sign(np.sin(40 * np.pi * c))
    assert verdict(y, c, of_class=True).p_value < 0.01
    assert verdict(y, c, of_class=True, method="spiegelhalter").p_value > 0.01
    assert verdict(y, c, of_class=True, method="ks").p_value > 0.01


def test_the_supremum_of_a_brownian_motion():
    # both series at their meeting point, and a walk of many steps
    assert sup_tail(1.0) == pytest.approx(sup_tail(1.0 + 1e-9), abs=1e-7)
    walks = np.cumsum(np.random.default_rng(0).choice([-1, 1], (4000, 1000)), axis=1)
    highest = np.abs(walks).max(axis=1) / math.sqrt(1000)
    for x in (0.8, 1.2, 2.0):
        assert np.mean(highest >= x) == pytest.approx(sup_tail(x), abs=0.03)
    assert [round(sup_quantile(level), 3) for level in (0.5, 0.9, 0.95, 0.99)] == [1.149, 1.960, 2.241, 2.807]
    assert (sup_tail(0), sup_tail(-1)) == (1, 1)


def test_the_result_says_what_was_done():
    p, y = calibrated(60, 3, 7)
    found = verdict(y, p, draws=50, seed=3)
    assert found == verdict(y, p, draws=50, seed=3)
    assert found.method == "t-cal, 50 draws, seed 3"
    assert found.p_value >= 1 / 51
    assert found.to_dict() == {
        "statistic": found.statistic,
        "p_value": found.p_value,
        "method": found.method,
        "n": 60,
    }
    assert str(found).startswith("p = ")


def test_options_are_checked():
    with pytest.raises(
        ValueError, match=r"Expected method to be one of 't-cal', 'ks', 'spiegelhalter', got 'x'\."
    ):
        verdict([0, 1], [0.5, 0.5], method="x")
    for draws in (0, 2.5, True):
        with pytest.raises(ValueError, match=r"Expected draws to be a whole number >= 1, got"):
            verdict([0, 1], [0.5, 0.5], draws=draws)
