"""Platt scaling, beta calibration, histogram binning and isotonic calibration against independent fits."""

import warnings

import mpmath as mp
import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from cases import drawn
from focalcal import (
    BetaCalibration,
    CalibrationWarning,
    HistogramBinning,
    IsotonicCalibration,
    PlattScaling,
    ece,
)
from focalcal.calibrators.one_vs_rest.columns import log_odds, log_rest
from focalcal.calibrators.one_vs_rest.logistic import smoothed_targets


def odds(z):
    """Return log p/(1−p) of every class by the plain formula."""
    p = np.exp(log_softmax(z, axis=1))
    return np.log(p) - np.log(1 - p)


class Scores(ClassifierMixin, BaseEstimator):
    """A classifier that gives back what it is given."""

    def __init__(self, classes=(0, 1)):
        self.classes_ = np.array(classes)

    def fit(self, X, y):
        return self

    def decision_function(self, X):
        return X[:, 0] if len(self.classes_) == 2 else X

    def predict(self, X):
        return self.classes_[X.argmax(axis=1)]


def from_sklearn(method, scores, y):
    peer = CalibratedClassifierCV(FrozenEstimator(Scores(np.unique(y))), method=method, ensemble=False)
    return peer.fit(scores, y)


def test_log_odds_are_exact_however_sure_a_row_is():
    rows = np.array([[0.0, -1.0, -2.0], [0.0, -50.0, -80.0], [0.0, -900.0, -1000.0], [3.0, 3.0, 3.0]])
    found = log_odds(log_softmax(rows, axis=1))
    with mp.workdps(900):
        for row, own in zip(rows, found, strict=True):
            exps = [mp.exp(mp.mpf(v)) for v in row]
            true = [float(mp.log(e / (mp.fsum(exps) - e))) for e in exps]
            np.testing.assert_allclose(own, true, rtol=1e-12, atol=1e-13)
    two = log_softmax(rows[:, :2], axis=1)
    np.testing.assert_allclose(log_odds(two)[:, 0], rows[:, 1] - rows[:, 0], rtol=1e-12)
    np.testing.assert_allclose(log_rest(np.log([[0.2, 0.3, 0.5]])), np.log([[0.8, 0.7, 0.5]]))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_platt_scaling_is_that_of_scikit_learn(n_classes):
    z, y = drawn(800, n_classes, 2.0, seed=0)
    cal = PlattScaling().fit(2 * z, y)
    scores = odds(2 * z)[:, 1:] if n_classes == 2 else odds(2 * z)
    np.testing.assert_allclose(
        cal.predict_proba(2 * z), from_sklearn("sigmoid", scores, y).predict_proba(scores), atol=2e-5
    )


def test_platt_scaling_is_the_minimum_of_its_loss():
    z, y = drawn(400, 3, 2.0, seed=1)
    s, weight = odds(z), np.random.default_rng(0).uniform(0, 3, 400)
    cal = PlattScaling().fit(z, y, weight)
    for k in range(3):
        positive, negative = weight[y == k].sum(), weight[y != k].sum()
        t = np.where(y == k, (positive + 1) / (positive + 2), 1 / (negative + 2))

        def loss(at, k=k, t=t):
            p = expit(at[0] * s[:, k] + at[1])
            return -(weight * (t * np.log(p) + (1 - t) * np.log(1 - p))).sum()

        found = minimize(loss, [1.0, 0.0], tol=1e-10)
        np.testing.assert_allclose([cal.slope_[k], cal.intercept_[k]], found.x, atol=1e-4)
        assert loss([cal.slope_[k], cal.intercept_[k]]) <= found.fun + 1e-9


def test_platt_scaling_of_many_rows_is_logistic_regression():
    rng = np.random.default_rng(2)
    s = rng.normal(size=20_000) * 2
    y = (rng.random(20_000) < expit(0.5 * s - 1)).astype(int)
    cal = PlattScaling().fit(s, y)
    assert abs(cal.slope_[0] - 0.5) < 4 * cal.stderr_["slope"][0] < 0.1
    assert abs(cal.intercept_[0] + 1) < 4 * cal.stderr_["intercept"][0] < 0.1
    peer = LogisticRegression(C=np.inf, tol=1e-10).fit(s[:, None], y)
    assert cal.slope_[0] == pytest.approx(peer.coef_[0, 0], abs=1e-3)
    assert cal.intercept_[0] == pytest.approx(peer.intercept_[0], abs=1e-3)


def test_standard_errors_are_those_of_repeated_samples():
    fits = []
    for seed in range(200):
        rng = np.random.default_rng(seed)
        s = rng.normal(size=500) * 2
        y = (rng.random(500) < expit(s - 1)).astype(int)
        fits.append(PlattScaling().fit(s, y))
    for name in ("slope", "intercept"):
        spread = np.std([getattr(cal, f"{name}_")[0] for cal in fits])
        assert np.mean([cal.stderr_[name][0] for cal in fits]) == pytest.approx(spread, rel=0.15)


def test_a_constant_score_has_the_smoothed_rate_and_no_slope():
    z = np.tile([0.0, 1.0, 2.0], (8, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        cal = PlattScaling().fit(z, [0, 0, 0, 1, 1, 1, 1, 1])
    assert cal.diagnostics_.identifiable is False
    np.testing.assert_array_equal(cal.slope_, 0)
    assert np.isnan(cal.stderr_["slope"]).all()
    rates = [(3 * 4 / 5 + 5 / 7) / 8, (5 * 6 / 7 + 3 / 5) / 8, 1 / 10]
    np.testing.assert_allclose(expit(cal.intercept_), rates)
    np.testing.assert_allclose(cal.predict_proba(z)[0], rates / np.sum(rates))


def beta_loss(at, p, t, weight):
    q = expit(at[0] * np.log(p) - at[1] * np.log(1 - p) + at[2])
    return -(weight * (t * np.log(q) + (1 - t) * np.log(1 - q))).sum()


def test_beta_calibration_is_the_minimum_of_its_loss():
    rng = np.random.default_rng(3)
    p = rng.beta(1.5, 2, size=1000)
    y = (rng.random(1000) < expit(1.5 * np.log(p) - 0.6 * np.log(1 - p) + 0.4)).astype(int)
    weight = rng.uniform(0.5, 2, 1000)
    cal = BetaCalibration(input="probs").fit(p, y, weight)
    t = smoothed_targets(y[:, None] == 1, weight[:, None])[:, 0]
    found = minimize(beta_loss, [1.0, 1.0, 0.0], (p, t, weight), tol=1e-10)
    ours = [cal.a_[0], cal.b_[0], cal.c_[0]]
    np.testing.assert_allclose(ours, found.x, atol=1e-3)
    assert beta_loss(ours, p, t, weight) <= found.fun + 1e-8
    for value, true, name in zip(ours, (1.5, 0.6, 0.4), "abc", strict=True):
        assert abs(value - true) < 4 * cal.stderr_[name][0]


@pytest.mark.parametrize(("true", "kept"), [((-1.5, 2.0), "b"), ((2.0, -1.5), "a")])
def test_a_negative_coefficient_is_dropped_and_the_other_fitted_again(true, kept):
    rng = np.random.default_rng(4)
    p = rng.beta(1.5, 1.5, size=3000)
    y = (rng.random(3000) < expit(true[0] * np.log(p) - true[1] * np.log(1 - p))).astype(int)
    cal = BetaCalibration(input="probs").fit(p, y)
    dropped = "b" if kept == "a" else "a"
    assert getattr(cal, f"{dropped}_")[0] == 0
    assert np.isnan(cal.stderr_[dropped][0])
    feature = np.log(p) if kept == "a" else -np.log(1 - p)
    peer = LogisticRegression(C=np.inf, tol=1e-10).fit(feature[:, None], y)
    assert getattr(cal, f"{kept}_")[0] == pytest.approx(peer.coef_[0, 0], rel=0.02)
    assert getattr(cal, f"{kept}_")[0] > 0
    assert (np.diff(cal.predict_proba(np.sort(p))[:, 1]) >= 0).all()


def test_two_places_do_not_tell_three_coefficients_apart():
    p, y = np.repeat([0.3, 0.8], 50), np.r_[np.arange(50) < 20, np.arange(50) < 35].astype(int)
    with pytest.warns(CalibrationWarning, match="not identifiable"):
        cal = BetaCalibration(input="probs").fit(p, y)
    assert np.isnan(cal.stderr_["a"]).all()
    np.testing.assert_allclose(cal.predict_proba([0.3, 0.8])[:, 1], [0.4, 0.7], atol=0.01)


def test_beta_calibration_of_a_falling_score_is_constant():
    z, y = drawn(400, 2, 2.0, seed=5)
    with pytest.warns(CalibrationWarning, match="worse than chance"):
        cal = BetaCalibration().fit(-z, y)
    assert cal.a_[0] == cal.b_[0] == 0
    np.testing.assert_allclose(cal.predict_proba(z)[:, 1], y.mean(), atol=0.01)


def test_platt_and_beta_are_each_class_on_its_own():
    z, y = drawn(600, 12, 2.0, seed=6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        for family in (PlattScaling, BetaCalibration):
            whole = family().fit(z, y)
            s = odds(z)
            for k in (0, 7):
                alone = family().fit(s[:, k], (y == k).astype(int))
                for name in family._parameter_names:
                    found, expected = getattr(whole, f"{name}_")[k], getattr(alone, f"{name}_")[0]
                    assert found == pytest.approx(expected, rel=1e-6, abs=1e-8)


def test_histogram_binning_is_the_share_of_hits_of_each_bin():
    rng = np.random.default_rng(7)
    p = rng.permutation(np.linspace(0.01, 0.99, 300))
    y = (rng.random(300) < p).astype(int)
    cal = HistogramBinning(bins=10, input="probs").fit(p, y)
    order = np.argsort(p)
    for b in range(10):
        rows = order[30 * b : 30 * (b + 1)]
        np.testing.assert_allclose(cal.predict_proba(p[rows])[:, 1], (y[rows].sum() + 0.5) / 31)
    np.testing.assert_allclose(expit(cal.edges_[0, 4]), 0.5, atol=1e-3)
    assert ece(y, cal.predict_proba(p), bins=10).value < ece(y, p, bins=10).value


def test_the_bins_are_those_of_a_peer_but_for_the_smoothing():
    pytest.importorskip("numba", reason="probmetrics needs numba")
    binning = pytest.importorskip("probmetrics.calibrators.binning")
    z, y = drawn(400, 2, 2.0, seed=15)
    p = np.exp(log_softmax(z, axis=1))
    peer = binning.BinaryHistogramBinningCalibrator(n_bins=8, strategy="quantile")
    peer.fit(p, y)
    shares = np.asarray(peer.predict_proba(p))[:, 1]
    found = HistogramBinning(bins=8, input="probs").fit(p, y).predict_proba(p)[:, 1]
    np.testing.assert_allclose(found, (50 * shares + 0.5) / 51)


def test_ties_stay_together_and_few_values_are_few_bins():
    p = np.repeat([0.1, 0.4, 0.8], [50, 3, 7])
    y = np.r_[np.arange(50) < 5, [1, 0, 0], np.arange(7) < 6].astype(int)
    cal = HistogramBinning(bins=15, input="probs").fit(p, y)
    expected = [5.5 / 51, 1.5 / 4, 6.5 / 8]
    np.testing.assert_allclose(cal.predict_proba([0.1, 0.4, 0.8])[:, 1], expected)
    np.testing.assert_allclose(cal.predict_proba([0.0, 1.0])[:, 1], [expected[0], expected[2]])


def test_bins_of_more_classes_are_divided_by_their_sum():
    z, y = drawn(400, 3, 2.0, seed=9)
    s = odds(z)
    expected = np.empty((400, 3))
    for k in range(3):
        for rows in np.array_split(np.argsort(s[:, k]), 4):
            expected[rows, k] = ((y[rows] == k).sum() + 1 / 3) / 101
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(HistogramBinning(bins=4).fit(z, y).predict_proba(z), expected)


@pytest.mark.parametrize(
    ("bins", "message"), [(0, "a whole number >= 1"), (2.5, "a whole number"), (1, "at least 2, got 1")]
)
def test_bins_are_several(bins, message):
    z, y = drawn(30, 2, 1.0, seed=10)
    with pytest.raises(ValueError, match=f"Expected bins to be {message}"):
        HistogramBinning(bins=bins).fit(z, y)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_isotonic_calibration_between_its_ends_is_that_of_scikit_learn(n_classes):
    z, y = drawn(600, n_classes, 1.5, seed=11)
    cal = IsotonicCalibration().fit(z, y)
    scores = odds(z)[:, 1:] if n_classes == 2 else odds(z)
    peer = np.stack(
        [
            IsotonicRegression(out_of_bounds="clip").fit(s, y == k).predict(s)
            for k, s in enumerate(scores.T, start=int(n_classes == 2))
        ],
        axis=1,
    )
    if n_classes == 2:
        found = cal.predict_proba(z)[:, 1:]
    else:  # before they are divided by their sum
        parts = np.split(np.arange(len(cal.thresholds_)), cal.ends_[:-1].astype(int))
        found = np.stack(
            [np.interp(s, cal.thresholds_[own], cal.probabilities_[own]) for s, own in zip(scores.T, parts)],
            1,
        )
    between = (peer > 0.05) & (peer < 0.95)
    assert between.mean() > 0.4
    np.testing.assert_allclose(found[between], peer[between], atol=1e-9)
    np.testing.assert_allclose(found, peer, atol=0.06)
    assert found.min() > 0
    assert found.max() < 1


def test_the_ends_of_isotonic_calibration_are_smoothed_and_never_fall():
    s = np.arange(12.0) - 6
    y = np.array([0, 0, 0, 0, 1, 0, 1, 0, 1, 1, 1, 1])
    cal = IsotonicCalibration().fit(s, y)
    p = cal.predict_proba(np.r_[-100.0, s, 100.0])[:, 1]
    np.testing.assert_allclose(p[:5], 0.5 / 5)  # four misses and a row that both classes share
    np.testing.assert_allclose(p[-5:], 4.5 / 5)
    np.testing.assert_allclose(p[5:9], 0.5)
    assert (np.diff(p) >= 0).all()
    # where the next step is lower than the end, both are pooled
    y = np.array([0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1])
    p = IsotonicCalibration().fit(s, y).predict_proba(s)[:, 1]
    np.testing.assert_allclose(p[:11], 1.5 / 12)
    np.testing.assert_allclose(p[11], 1.5 / 2)


@pytest.mark.parametrize("family", [PlattScaling, BetaCalibration, HistogramBinning, IsotonicCalibration])
def test_a_known_posterior_is_found_from_many_rows(family):
    rng = np.random.default_rng(12)
    p = rng.beta(1, 1, size=40_000)
    true = expit(0.7 * logit(p) + 0.5)
    y = (rng.random(40_000) < true).astype(int)
    cal = family(input="probs").fit(p, y)
    inside = (p > 0.05) & (p < 0.95)
    tolerance = {HistogramBinning: 0.1, IsotonicCalibration: 0.06}.get(family, 0.01)
    assert np.abs(cal.predict_proba(p)[:, 1] - true)[inside].max() < tolerance


def test_rows_that_a_mask_decides_teach_nothing():
    z, y = drawn(300, 3, 2.0, seed=13)
    more = np.array([[1.0, -np.inf, -np.inf], [-np.inf, -np.inf, -3.0]] * 5)
    for family in (PlattScaling, BetaCalibration, HistogramBinning, IsotonicCalibration):
        alone = family().fit(z, y)
        longer = family().fit(np.vstack([z, more]), np.r_[y, [0, 2] * 5])
        np.testing.assert_allclose(longer.predict_proba(z), alone.predict_proba(z), atol=1e-9)


def test_two_hundred_classes_in_parts_are_as_one(monkeypatch):
    z, y = drawn(300, 30, 2.0, seed=14)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        one = PlattScaling().fit(z, y)
        monkeypatch.setattr("focalcal.calibrators.one_vs_rest.columns._ELEMENTS", 1)
        other = PlattScaling().fit(z, y)
    np.testing.assert_allclose(other.transform(z), one.transform(z), rtol=1e-9)
