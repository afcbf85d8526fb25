"""Order-preserving calibration: its loss, its minimum, and what it leaves as it was."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax

from cases import drawn
from focalcal import CalibrationWarning, OrderPreservingCalibration, TemperatureScaling
from focalcal.calibrators.confidence.order_preserving import _Rows
from focalcal.calibrators.held_out import HeldOut


def function(gaps, knots, slopes):
    """Return f at gaps below the largest logit, by one loop over the pieces."""
    ends = np.append(knots[1:], np.inf)
    return -sum(s * np.clip(gaps - a, 0, b - a) for s, a, b in zip(slopes, knots, ends))


def log_probs(z, knots, slopes):
    return log_softmax(function(z.max(axis=1, keepdims=True) - z, knots, slopes), axis=1)


def bent(n, n_classes, seed):
    """Return logits whose small gaps mean half, and whose large gaps twice what they say."""
    z, _ = drawn(n, n_classes, 2.0, seed)
    true = log_probs(z, np.array([0.0, 2.0]), np.array([0.5, 2.0]))
    y = (np.cumsum(np.exp(true), axis=1) > np.random.default_rng(seed).random((n, 1))).argmax(axis=1)
    return z, y, true


def test_the_map_is_the_piecewise_linear_function():
    z, y, _ = bent(500, 6, seed=0)
    cal = OrderPreservingCalibration(pieces=5).fit(z, y)
    assert len(cal.knots_) == 5
    assert cal.knots_[0] == 0
    np.testing.assert_allclose(cal.transform(z), log_probs(z, cal.knots_, cal.slopes_), rtol=1e-9, atol=1e-12)


def test_the_derivatives_are_those_of_the_loss():
    z, y = drawn(60, 5, 2.0, seed=1)
    masked = np.random.default_rng(1).random(z.shape) < 0.2
    masked[np.arange(60), y] = False
    z = log_softmax(np.where(masked, -np.inf, z), axis=1)
    z = np.where(masked, np.where(masked, np.inf, z).min(axis=1, keepdims=True), z)
    held = HeldOut(z, y, np.random.default_rng(2).random(60), masked)
    rows, at = _Rows(held, np.array([0.0, 0.7, 1.5, 4.0]), 1.3), np.array([0.6, 1.4, 0.2, 0.9])
    loss, gradient, hessian = rows.jet(at)
    for m in range(4):
        step = 1e-5 * np.eye(4)[m]
        up, down = rows.jet(at + step), rows.jet(at - step)
        assert gradient[m] == pytest.approx((up[0] - down[0]) / 2e-5, abs=1e-8)
        np.testing.assert_allclose(hessian[m], (up[1] - down[1]) / 2e-5, atol=1e-8)
    assert np.linalg.eigvalsh(hessian).min() > 0
    assert loss > 0


@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_slopes_are_the_minimum(n_classes):
    z, y, _ = bent(800, n_classes, seed=3)
    weight = np.random.default_rng(3).uniform(0, 2, 800)
    cal = OrderPreservingCalibration(pieces=4).fit(z, y, weight)
    temperature = TemperatureScaling().fit(z, y, weight).temperature_

    def loss(slopes):
        nll = -weight @ log_probs(z, cal.knots_, slopes)[np.arange(800), y]
        return nll + temperature**2 * (np.diff(slopes) ** 2).sum() / 2

    found = minimize(loss, np.full(4, 1 / temperature), bounds=[(0, None)] * 4, tol=1e-12)
    assert loss(cal.slopes_) <= found.fun + 1e-6
    np.testing.assert_allclose(cal.slopes_, found.x, atol=5e-3)


def test_a_bent_posterior_is_found_where_one_temperature_is_not_enough():
    z, y, true = bent(20_000, 5, seed=4)
    cal, plain = OrderPreservingCalibration().fit(z, y), TemperatureScaling().fit(z, y)
    off = np.abs(cal.predict_proba(z) - np.exp(true))
    assert off.mean() < 0.01
    assert off.mean() < np.abs(plain.predict_proba(z) - np.exp(true)).mean() / 5
    assert cal.diagnostics_.loss < plain.diagnostics_.loss - 0.01
    pieces = cal.knots_[1:] < 1.9
    low = cal.slopes_[:-1][pieces]
    assert (np.abs(low - 0.5) < 4 * cal.stderr_["slopes"][:-1][pieces] + 0.05).all()


def test_standard_errors_are_those_of_repeated_samples():
    fits = [OrderPreservingCalibration(pieces=1).fit(*bent(800, 4, seed)[:2]) for seed in range(60)]
    spread = np.std([cal.slopes_[0] for cal in fits])
    assert np.mean([cal.stderr_["slopes"][0] for cal in fits]) == pytest.approx(spread, rel=0.25)


def test_one_piece_is_temperature_scaling():
    z, y = drawn(1000, 6, 2.0, seed=5)
    cal, plain = OrderPreservingCalibration(pieces=1).fit(3 * z, y), TemperatureScaling().fit(3 * z, y)
    assert 1 / cal.slopes_[0] == pytest.approx(plain.temperature_, rel=1e-6)
    assert cal.stderr_["slopes"][0] == pytest.approx(
        plain.stderr_["temperature"] / plain.temperature_**2, rel=1e-4
    )
    np.testing.assert_allclose(cal.transform(z), plain.transform(z), rtol=1e-5, atol=1e-9)


def test_the_order_of_every_row_stays():
    z, y = drawn(2000, 8, 3.0, seed=6, gamma=3.0)
    z[:50, 1] = z[:50, 2]
    p = OrderPreservingCalibration().fit(z, y).transform(z)
    order = np.argsort(z, axis=1)
    assert (np.diff(np.take_along_axis(p, order, axis=1), axis=1) >= -1e-12).all()
    np.testing.assert_array_equal(p[:50, 1], p[:50, 2])
    np.testing.assert_array_equal(p.argmax(axis=1), z.argmax(axis=1))


def test_scaled_logits_scale_the_function():
    z, y, _ = bent(1000, 4, seed=7)
    one = OrderPreservingCalibration().fit(z, y)
    for factor in (1e-4, 1e4):
        other = OrderPreservingCalibration().fit(factor * z, y)
        np.testing.assert_allclose(other.predict_proba(factor * z), one.predict_proba(z), atol=2e-5)
        # knots are quantiles to within a cell, a hundredth of their value
        np.testing.assert_allclose(other.slopes_ * factor, one.slopes_, rtol=0.1, atol=0.05)


def test_a_masked_column_is_as_no_column():
    z, y, _ = bent(1000, 4, seed=8)
    wide = np.insert(z, 1, -np.inf, axis=1)
    with pytest.warns(CalibrationWarning, match="1 of the classes have no row"):
        masked = OrderPreservingCalibration().fit(wide, y + (y >= 1))
    plain = OrderPreservingCalibration().fit(z, y)
    np.testing.assert_allclose(np.delete(masked.predict_proba(wide), 1, 1), plain.predict_proba(z), atol=1e-6)


def test_a_slope_that_would_fall_is_zero():
    z = np.repeat([[0.0, -1.0, -2.0]], 300, axis=0)
    y = np.repeat([0, 1, 2], [170, 50, 80])  # the third class more often than the second
    z = np.vstack([z, np.repeat([[0.0, -0.5, -1.5]], 100, axis=0)])
    y = np.r_[y, np.repeat([0, 1, 2], [60, 20, 20])]
    cal = OrderPreservingCalibration(pieces=3).fit(z, y)
    assert (cal.slopes_ == 0).any()
    assert np.isnan(cal.stderr_["slopes"][cal.slopes_ == 0]).all()
    p = cal.predict_proba(z)
    assert (np.diff(p, axis=1) <= 1e-12).all()
    assert cal.diagnostics_.converged


def test_pieces_are_a_whole_number():
    z, y = drawn(30, 3, 1.0, seed=9)
    with pytest.raises(ValueError, match="Expected pieces to be a whole number >= 1, got 0"):
        OrderPreservingCalibration(pieces=0).fit(z, y)
