"""The row loops: values against the maps, derivatives against numerical ones in 50 digits."""

import mpmath as mp
import numpy as np
import pytest

from cases import drawn
from focalcal import focal_map
from focalcal.kernels import reference
from focalcal.scores import FitSums, sum_jet

JETS = {"nll": reference.nll_jet, "brier": reference.brier_jet}


def true_loss(z, y, tau, gamma, kind):
    """One row's loss at mpmath numbers (τ, γ)."""
    over_temperature = mp.exp(-tau)
    exps = [mp.exp(mp.mpf(float(v)) * over_temperature) for v in z]
    log_h = []
    for j, own in enumerate(exps):
        odds = mp.fsum(v for k, v in enumerate(exps) if k != j) / own
        log_q = -mp.log1p(odds)
        log_h.append(log_q - gamma * (mp.log(odds) + log_q) - mp.log1p(-gamma * log_q / odds))
    norm = mp.log(mp.fsum(mp.exp(v) for v in log_h))
    p = [mp.exp(v - norm) for v in log_h]
    if kind == "nll":
        return norm - log_h[y]
    return mp.fsum(v * v for v in p) - 2 * p[y] + 1


def true_jet(z, y, tau, gamma, kind):
    with mp.workdps(50):
        point = (mp.mpf(tau), mp.mpf(gamma))

        def loss(t, g):
            return true_loss(z, y, t, g, kind)

        orders = [(0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2)]
        return [float(loss(*point) if o == (0, 0) else mp.diff(loss, point, o)) for o in orders]


def flat(jet):
    return np.array([jet.value, *jet.first, *jet.second])


@pytest.mark.parametrize("kind", ["nll", "brier"])
@pytest.mark.parametrize(
    ("n_classes", "scale", "temperature", "gamma"),
    [
        (2, 3, 1.3, 0.7),
        (3, 1, 0.5, -0.9),
        (10, 3, 1.5, 1.3),
        (10, 2, 2.0, 0.0),
        (33, 4, 0.7, 5.0),
        (33, 1, 1.0, -0.5),
    ],
)
def test_jets_equal_derivatives_in_50_digits(kind, n_classes, scale, temperature, gamma):
    n = 6 if n_classes < 32 else 2
    z, y = drawn(n, n_classes, scale, seed=n_classes)
    y[0], y[1] = z[0].argmax(), z[1].argmin()  # a hit and a far miss
    got = flat(JETS[kind](reference.split_rows(z, y), np.log(temperature), gamma))
    expected = np.array([true_jet(z[i], int(y[i]), np.log(temperature), gamma, kind) for i in range(n)]).T
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("n_classes", [2, 5, 31, 32, 60])
@pytest.mark.parametrize("gamma", [-1.0, -0.3, 0.0, 2.0])
def test_values_equal_the_map(n_classes, gamma):
    z, y = drawn(50, n_classes, 3.0, seed=1)
    rows = reference.split_rows(z, y)
    log_p = focal_map(z / 1.7, gamma)
    own = log_p[np.arange(50), y]
    np.testing.assert_allclose(reference.nll_jet(rows, np.log(1.7), gamma).value, -own, rtol=1e-11)
    p = np.exp(log_p)
    brier = (p**2).sum(axis=1) - 2 * np.exp(own) + 1
    np.testing.assert_allclose(reference.brier_jet(rows, np.log(1.7), gamma).value, brier, atol=1e-13)
    top = reference.top_probability(rows, np.log(1.7), [gamma, 0.5])
    np.testing.assert_allclose(top[0], p.max(axis=1), rtol=1e-12)


def test_temperature_jet_is_the_focal_one_at_gamma_zero():
    z, y = drawn(200, 7, 3.0, seed=4)
    rows = reference.split_rows(z, y)
    plain, focal = reference.temperature_jet(rows, 0.4), reference.nll_jet(rows, 0.4, 0.0)
    np.testing.assert_allclose(plain.value, focal.value, rtol=1e-12)
    np.testing.assert_allclose(plain.first[0], focal.first[0], rtol=1e-9, atol=1e-13)
    np.testing.assert_allclose(plain.second[0], focal.second[0], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gamma", [-1.0, -0.5, 0.0, 1.0, 7.0])
@pytest.mark.parametrize("n_classes", [3, 40])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("log_temperature", [0.0, -12.0])
def test_huge_gaps_ties_and_masks_stay_finite(gamma, n_classes, dtype, log_temperature):
    z = np.zeros((5, n_classes), dtype)
    z[0, 0] = 1e4  # certain
    z[1, :2] = 1e4  # a tie on top
    z[2] = -np.inf  # one class possible
    z[2, 1] = 3.0
    z[3, 2:] = -np.inf  # two classes possible
    y = np.array([1, 1, 1, 0, 2])
    rows = reference.split_rows(z, y)
    for function in JETS.values():
        jet = flat(function(rows, log_temperature, gamma))
        assert np.isfinite(jet).all()
    nll = reference.nll_jet(rows, log_temperature, gamma).value
    scaled = z.astype(np.float64) / np.exp(log_temperature)
    expected = -focal_map(scaled, gamma)[np.arange(5), y]
    np.testing.assert_allclose(nll, expected, rtol=1e-12 if dtype == np.float64 else 1e-6, atol=1e-15)
    assert nll[2] == 0
    assert nll[1] == pytest.approx(np.log(2))


@pytest.mark.parametrize("kind", ["nll", "brier"])
@pytest.mark.parametrize("n_classes", [6, 50])
def test_float32_equals_float64(kind, n_classes):
    z, y = drawn(500, n_classes, 4.0, seed=5)
    z32 = z.astype(np.float32)
    wide, narrow = (
        sum_jet(JETS[kind](reference.split_rows(a, y), 0.3, 0.8), None) for a in (z32.astype(float), z32)
    )
    assert narrow.loss == pytest.approx(wide.loss, rel=1e-6)
    np.testing.assert_allclose(narrow.gradient, wide.gradient, rtol=1e-6, atol=1e-6 * 500)
    np.testing.assert_allclose(narrow.hessian, wide.hessian, rtol=1e-5)


def test_sums_merge_in_any_order_and_weights_repeat_rows():
    z, y = drawn(90, 4, 2.0, seed=6)

    def sums(a, b, weight=None):
        return sum_jet(reference.nll_jet(reference.split_rows(z[a:b], y[a:b]), 0.2, 0.4), weight)

    whole, one, two = sums(0, 90), sums(0, 30) + (sums(30, 55) + sums(55, 90)), sums(55, 90) + sums(0, 55)
    for part in (one, two):
        assert part.loss == pytest.approx(whole.loss, rel=1e-13)
        np.testing.assert_allclose(part.gradient, whole.gradient, rtol=1e-11)
        np.testing.assert_allclose(part.hessian, whole.hessian, rtol=1e-12)
        np.testing.assert_allclose(part.outer, whole.outer, rtol=1e-12)
    doubled = sums(0, 90, np.full(90, 2.0))
    assert isinstance(doubled, FitSums)
    assert doubled.weight == 180
    assert doubled.loss == pytest.approx(2 * whole.loss)
    np.testing.assert_allclose(doubled.hessian, 2 * np.array(whole.hessian))
    np.testing.assert_allclose(doubled.outer, 4 * np.array(whole.outer))
