"""Spline calibration: its curve, its minimum, and how its smoothness is chosen."""

import numpy as np
import pytest
from scipy.integrate import quad
from scipy.interpolate import CubicSpline
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit

from cases import drawn
from focalcal import CalibrationWarning, SplineCalibration, TemperatureScaling
from focalcal.calibrators.confidence import smoothing_spline
from focalcal.calibrators.one_vs_rest.logistic import smoothed_targets
from focalcal.calibrators.one_vs_rest.platt import PlattScaling


def bent(n, seed):
    """Return log-odds, labels and the true log-odds, which are no line."""
    rng = np.random.default_rng(seed)
    s = rng.normal(size=n) * 2
    true = s + 1.5 * np.sin(1.5 * s)
    return s, (rng.random(n) < expit(true)).astype(int), true


def test_the_curve_is_scipys_natural_spline_and_a_line_beyond():
    places, values = np.array([-2.0, -1.0, 0.5, 3.0]), np.array([1.0, -0.3, 0.4, 2.0])
    true = CubicSpline(places, values, bc_type="natural")
    inside = np.linspace(-2, 3, 11)
    np.testing.assert_allclose(smoothing_spline.curve(places, values, inside), true(inside))
    outside = np.array([-5.0, 7.0])
    expected = [true(-2.0) - 3 * true(-2.0, 1), true(3.0) + 4 * true(3.0, 1)]
    np.testing.assert_allclose(smoothing_spline.curve(places, values, outside), expected)
    every = np.r_[outside, inside]
    found = smoothing_spline.basis(places, every) @ values
    np.testing.assert_allclose(found, smoothing_spline.curve(places, values, every), atol=1e-12)
    bending = quad(lambda x: float(true(x, 2)) ** 2, -2, 3, points=[-1, 0.5])[0]
    assert values @ smoothing_spline.penalty(places) @ values == pytest.approx(bending)


def regression(s, y, weight):
    places = smoothing_spline.knots(s, weight, 8)
    targets = smoothed_targets(y[:, None] == 1, weight[:, None])[:, 0]
    return places, smoothing_spline.Regression(
        smoothing_spline.basis(places, s), y == 1, targets, weight, smoothing_spline.penalty(places)
    )


def test_the_values_are_the_minimum_of_the_penalised_loss():
    s, y, _ = bent(400, seed=0)
    weight = np.random.default_rng(0).uniform(0.5, 2, 400)
    places, problem = regression(s, y, weight)
    found = problem.fit(1e-3, np.zeros(8))

    def loss(values):
        eta = smoothing_spline.curve(places, values, s)
        nll = weight @ (np.logaddexp(0, eta) - problem.targets * eta) / weight.sum()
        return nll + 1e-3 * values @ smoothing_spline.penalty(places) @ values

    peer = minimize(loss, np.zeros(8), tol=1e-12)
    assert found.converged
    assert loss(found.values) <= peer.fun + 1e-9
    np.testing.assert_allclose(found.values, peer.x, atol=2e-3)


def test_the_approximate_left_out_loss_is_that_of_rows_left_out():
    s, y, _ = bent(200, seed=1)
    problem = regression(s, y, np.ones(200))[1]
    for strength in (1e-1, 1e-3):
        whole = problem.fit(strength, np.zeros(8))
        losses = []
        for i in range(200):
            weight = np.ones(200)
            weight[i] = 0
            # the penalty is a part of the sum, not of the mean
            one = smoothing_spline.Regression(
                problem.basis, problem.hits, problem.targets, weight, problem.penalty * 200 / 199
            )
            eta = problem.basis[i] @ one.fit(strength, whole.values).values
            losses.append(np.logaddexp(0, -eta if y[i] else eta))
        assert whole.left_out == pytest.approx(np.mean(losses), rel=0.01)


def test_a_bent_posterior_is_found_and_a_straight_one_stays_straight():
    s, y, true = bent(20_000, seed=2)
    cal = SplineCalibration().fit(s, y)
    found = logit(cal.predict_proba(s)[:, 1])
    middle = np.abs(s) < 4
    assert np.abs(expit(found) - expit(true))[middle].max() < 0.05
    assert np.sqrt(((expit(found) - expit(true)) ** 2).mean()) < 0.012
    rng = np.random.default_rng(3)
    y = (rng.random(20_000) < expit(0.5 * s + 1)).astype(int)
    straight, platt = SplineCalibration().fit(s, y), PlattScaling().fit(s, y)
    np.testing.assert_allclose(straight.predict_proba(s), platt.predict_proba(s), atol=0.01)


def test_standard_errors_cover_the_truth():
    covered = []
    for seed in range(30):
        s, y, _ = bent(2000, seed)
        cal = SplineCalibration(knots=8).fit(s, y)
        true = cal.places_ + 1.5 * np.sin(1.5 * cal.places_)
        covered.append((np.abs(cal.values_ - true) < 1.96 * cal.stderr_["values"])[1:-1])
    assert 0.7 < np.mean(covered) <= 1  # smoothing's bias is not in them


def test_more_classes_recalibrate_the_top_one_and_keep_the_others_proportions():
    z, y = drawn(3000, 5, 2.0, seed=4, gamma=2.0)
    cal = SplineCalibration().fit(z, y)
    assert cal.temperature_ == TemperatureScaling().fit(z, y).temperature_
    plain, found = log_softmax(z / cal.temperature_, axis=1), cal.transform(z)
    rows, top = np.arange(3000), z.argmax(axis=1)
    others = np.arange(5) != top[:, None]
    shift = (found - plain)[others].reshape(3000, 4)
    np.testing.assert_allclose(shift, shift[:, :1] * np.ones(4), atol=1e-9)
    expected = smoothing_spline.curve(cal.places_, cal.values_, logit(np.exp(plain[rows, top])))
    np.testing.assert_allclose(logit(np.exp(found[rows, top])), expected, atol=1e-6)
    np.testing.assert_allclose(np.exp(found).sum(axis=1), 1)
    confidence, hits = np.exp(found[rows, top]), top == y
    for low, high in ((0, 0.6), (0.6, 0.85), (0.85, 1)):
        some = (confidence > low) & (confidence <= high)
        assert confidence[some].mean() == pytest.approx(hits[some].mean(), abs=0.025)


def test_a_masked_column_is_as_no_column():
    z, y = drawn(1000, 4, 2.0, seed=5)
    wide = np.insert(z, 1, -np.inf, axis=1)
    with pytest.warns(CalibrationWarning, match="1 of the classes have no row"):
        masked = SplineCalibration().fit(wide, y + (y >= 1))
    plain = SplineCalibration().fit(z, y)
    np.testing.assert_allclose(np.delete(masked.predict_proba(wide), 1, 1), plain.predict_proba(z), atol=1e-6)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_few_different_scores_are_few_knots(count):
    rng = np.random.default_rng(6)
    s = np.linspace(-1, 1, count)[rng.integers(count, size=900)]
    y = (rng.random(900) < expit(s)).astype(int)
    cal = SplineCalibration().fit(s, y)
    np.testing.assert_allclose(cal.places_, np.linspace(-1, 1, count))
    for value in np.unique(s):
        assert cal.predict_proba([value])[0, 1] == pytest.approx(y[s == value].mean(), abs=0.06)


def test_knots_are_several():
    z, y = drawn(30, 3, 1.0, seed=7)
    with pytest.raises(ValueError, match="Expected knots to be at least 2, got 1"):
        SplineCalibration(knots=1).fit(z, y)
