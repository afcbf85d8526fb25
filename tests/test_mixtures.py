"""Temperature scaling mixed with the uniform and with the raw probabilities."""

import warnings

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, softmax

from cases import drawn
from focalcal import (
    CalibrationWarning,
    EnsembleTemperatureScaling,
    MixedTemperatureScaling,
    TemperatureScaling,
)
from focalcal.calibrators.confidence.mixed import _Rows
from focalcal.calibrators.held_out import HeldOut


def noisy(n, n_classes, scale, share, seed):
    """Return logits, and labels of which a share is drawn at random."""
    z, y = drawn(n, n_classes, scale, seed)
    rng = np.random.default_rng(seed + 1000)
    some = rng.random(n) < share
    return z, np.where(some, rng.integers(n_classes, size=n), y)


def mixed_nll(z, y, temperature, share):
    p = (1 - share) * softmax(z / temperature, axis=1) + share / z.shape[1]
    return -np.log(p[np.arange(len(y)), y]).mean()


@pytest.mark.parametrize("n_classes", [2, 6])
def test_temperature_and_share_are_the_minimum_and_recovered(n_classes):
    z, y = noisy(12_000, n_classes, 4.0, 0.1, seed=0)
    cal = MixedTemperatureScaling().fit(2 * z, y)
    found = minimize(
        lambda at: mixed_nll(2 * z, y, np.exp(at[0]), expit(at[1])),
        [0.5, -2.0],
        method="Nelder-Mead",
        tol=1e-9,
    )
    assert cal.temperature_ == pytest.approx(np.exp(found.x[0]), rel=1e-5)
    assert cal.share_ == pytest.approx(expit(found.x[1]), rel=1e-4)
    assert cal.diagnostics_.loss == pytest.approx(found.fun, abs=1e-10)
    for name, true in (("temperature", 2.0), ("share", 0.1)):
        assert abs(getattr(cal, f"{name}_") - true) < 4 * cal.stderr_[name] < 0.4 * true


def test_the_derivatives_are_those_of_the_loss():
    z, y = drawn(40, 4, 2.0, seed=1)
    masked = np.zeros(z.shape, bool)
    masked[:9, 0] = y[:9] != 0
    log_probs = log_softmax(np.where(masked, -np.inf, z), axis=1)
    filled = np.where(masked, np.where(masked, np.inf, log_probs).min(axis=1, keepdims=True), log_probs)
    rows = _Rows(HeldOut(filled, y, np.random.default_rng(0).random(40), masked))
    at, step = (0.3, 0.2), 1e-5
    exact = rows.sums(*at)
    for i in range(2):
        up, down = (rows.sums(*(v + s * (i == j) for j, v in enumerate(at))) for s in (step, -step))
        assert exact.gradient[i] == pytest.approx((up.loss - down.loss) / (2 * step), abs=1e-8)
        for j in range(2):
            slope = (up.gradient[j] - down.gradient[j]) / (2 * step)
            assert exact.hessian[i + j] == pytest.approx(slope, abs=1e-7)


def test_standard_errors_are_those_of_repeated_samples():
    fits = [MixedTemperatureScaling().fit(*noisy(1500, 4, 4.0, 0.15, seed)) for seed in range(80)]
    for name in ("temperature", "share"):
        spread = np.std([getattr(cal, f"{name}_") for cal in fits])
        assert np.mean([cal.stderr_[name] for cal in fits]) == pytest.approx(spread, rel=0.25)


@pytest.mark.parametrize("family", [MixedTemperatureScaling, EnsembleTemperatureScaling])
def test_never_worse_than_temperature_scaling_and_the_order_stays(family):
    for seed in range(6):
        z, y = noisy(400, 5, 2.0, 0.05 * (seed % 3), seed)
        plain, cal = TemperatureScaling().fit(2 * z, y), family().fit(2 * z, y)
        assert cal.diagnostics_.loss <= plain.diagnostics_.loss + 1e-10
        np.testing.assert_array_equal(
            np.argsort(cal.transform(2 * z), axis=1), np.argsort(plain.transform(2 * z), axis=1)
        )


def test_a_share_of_nothing_is_temperature_scaling():
    z, y = drawn(2000, 4, 2.0, seed=1)
    y = np.where(np.ptp(z, axis=1) > 5, z.argmax(axis=1), y)  # too right for a floor
    plain, cal = TemperatureScaling().fit(z, y), MixedTemperatureScaling().fit(z, y)
    assert cal.share_ == 0
    assert np.isnan(cal.stderr_["share"])
    assert cal.temperature_ == plain.temperature_
    assert cal.stderr_["temperature"] == plain.stderr_["temperature"]
    np.testing.assert_allclose(cal.transform(z), plain.transform(z), rtol=1e-12)


def test_a_share_that_is_given_is_mixed_into_temperature_scaling():
    z, y = noisy(400, 4, 2.0, 0.1, seed=0)
    z[:5, 2] = np.where(y[:5] == 2, z[:5, 2], -np.inf)
    plain, cal = TemperatureScaling().fit(z, y), MixedTemperatureScaling(share=0.02).fit(z, y)
    assert (cal.share_, cal.temperature_, cal.stderr_["temperature"]) == (
        0.02,
        plain.temperature_,
        plain.stderr_["temperature"],
    )
    possible = np.isfinite(z).sum(axis=1, keepdims=True)
    p = np.where(np.isfinite(z), 0.98 * plain.predict_proba(z) + 0.02 / possible, 0)
    np.testing.assert_allclose(cal.predict_proba(z), p, rtol=1e-10)
    assert cal.diagnostics_.loss == pytest.approx(-np.log(p[np.arange(400), y]).mean(), rel=1e-10)
    nothing = MixedTemperatureScaling(share=0).fit(z, y)
    np.testing.assert_allclose(nothing.predict_proba(z), plain.predict_proba(z), rtol=1e-10)


@pytest.mark.parametrize("share", [-0.1, 1, np.nan, True])
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(ValueError, match="Expected share from 0 to below 1"):
        MixedTemperatureScaling(share=share).fit([[1.0, 0.0]] * 4, [0, 0, 0, 1])


def test_one_place_cannot_tell_temperature_from_share():
    X, y = np.array([[4.0, 0.0]] * 100), np.r_[np.zeros(90, int), np.ones(10, int)]
    with pytest.warns(CalibrationWarning, match="not identifiable"):
        cal = MixedTemperatureScaling().fit(X, y)
    assert cal.share_ == 0
    np.testing.assert_allclose(cal.predict_proba(X[:1]), [[0.9, 0.1]], atol=1e-6)


def test_confident_errors_do_not_make_the_mixture_infinite():
    z, y = drawn(500, 3, 1.0, seed=2)
    z[:20] *= 1e4  # of which some are wrong beyond any temperature
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        plain, cal = TemperatureScaling().fit(z, y), MixedTemperatureScaling().fit(z, y)
    assert cal.diagnostics_.loss < plain.diagnostics_.loss - 0.05
    assert 0.3 < cal.temperature_ < 3
    assert np.isfinite(cal.transform(z)).all()


@pytest.mark.parametrize("family", [MixedTemperatureScaling, EnsembleTemperatureScaling])
def test_a_masked_column_is_as_no_column(family):
    z, y = noisy(1000, 4, 3.0, 0.1, seed=3)
    wide = np.insert(z, 1, -np.inf, axis=1)
    with pytest.warns(CalibrationWarning, match="1 of the classes have no row"):
        masked = family().fit(wide, y + (y >= 1))
    plain = family().fit(z, y)
    np.testing.assert_allclose(np.delete(masked.predict_proba(wide), 1, 1), plain.predict_proba(z), atol=1e-6)
    half = np.where((np.arange(1000) % 2 == 0)[:, None] & (np.arange(5) == 1), -np.inf, wide)
    np.testing.assert_allclose(masked.predict_proba(half).sum(axis=1), 1)


@pytest.mark.parametrize("n_classes", [2, 6])
def test_the_ensembles_weights_are_the_minimum_on_the_simplex(n_classes):
    z, y = noisy(5000, n_classes, 3.0, 0.1, seed=4)
    cal = EnsembleTemperatureScaling().fit(2 * z, y)
    plain = TemperatureScaling().fit(2 * z, y)
    assert cal.temperature_ == plain.temperature_
    rows = np.arange(5000)
    parts = np.stack(
        [
            softmax(2 * z / cal.temperature_, axis=1)[rows, y],
            softmax(2 * z, axis=1)[rows, y],
            np.full(5000, 1 / n_classes),
        ],
        axis=1,
    )
    found = minimize(
        lambda w: -np.log(parts @ w).mean(),
        np.full(3, 1 / 3),
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        tol=1e-12,
    )
    assert cal.diagnostics_.loss <= found.fun + 1e-10
    np.testing.assert_allclose(cal.weights_, found.x, atol=2e-3)
    assert cal.weights_.sum() == pytest.approx(1, abs=1e-12)
    p = cal.predict_proba(2 * z)
    np.testing.assert_allclose(p[rows, y], parts @ cal.weights_, rtol=1e-9)


def test_the_weights_standard_errors_are_those_of_repeated_samples():
    fits = []
    for seed in range(80):
        z, y = noisy(1500, 4, 3.0, 0.3, seed)
        fits.append(EnsembleTemperatureScaling().fit(4 * z, y))
    kept = [cal for cal in fits if (cal.weights_ > 0.02).all()]
    assert len(kept) > 40
    # the temperature's own error, which weights take up, is not in them
    for i in range(3):
        spread = np.std([cal.weights_[i] for cal in kept])
        assert np.mean([cal.stderr_["weights"][i] for cal in kept]) == pytest.approx(spread, rel=0.4)


def test_the_ensemble_agrees_with_a_peer():
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    pytest.importorskip("numba", reason="probmetrics needs numba")
    peers = pytest.importorskip("probmetrics.calibrators.temperature_scaling")
    z, y = noisy(2000, 4, 3.0, 0.2, seed=5)
    cal = EnsembleTemperatureScaling().fit(z, y)
    assert 1 < cal.temperature_ < 4  # the peer's ends at 5
    peer = peers.ETSCalibrator(loss="ce")
    peer.fit(softmax(z, axis=1), y)
    theirs = np.asarray(peer.predict_proba(softmax(z, axis=1)))
    loss = -np.log(theirs[np.arange(2000), y]).mean()
    assert cal.diagnostics_.loss <= loss + 1e-8
    assert cal.diagnostics_.loss == pytest.approx(loss, abs=2e-4)
    assert torch is not None
