"""Vector, matrix and Dirichlet scaling: the minimum of the stated objective, and nothing else."""

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import log_softmax, logsumexp

from cases import drawn
from focalcal import (
    DirichletCalibration,
    MatrixScaling,
    StructuredMatrixScaling,
    StructuredVectorScaling,
    TemperatureScaling,
    VectorScaling,
)

FAMILIES = {
    "vector": VectorScaling,
    "svs": StructuredVectorScaling,
    "sms": StructuredMatrixScaling,
    "matrix": MatrixScaling,
    "dirichlet": DirichletCalibration,
}
DIAGONAL = ("vector", "svs")


class Stated:
    """What a family's docstring says it minimises, as a function of (W, b), in summed nats."""

    def __init__(self, name, z, y, weight):
        self.y, self.weight, self.diagonal = y, weight, name in DIAGONAL
        self.n, self.k = weight.sum(), z.shape[1]
        n, k = self.n, self.k
        t = TemperatureScaling().fit(z, y, weight).temperature_
        x, u = log_softmax(z, axis=1), log_softmax(z / t, axis=1)
        smooth = np.log((1 - 1 / (n + 1)) * np.exp(u) + 1 / (n + 1) / k)
        off, on, b, centre, self.u = {
            "vector": (0, 0.05 * t**2, 0.05, 1 / t, x),
            "svs": (0, k, k, 1, smooth),
            "sms": (k * (k - 1), k, k, 1, smooth),
            "matrix": (k * (k - 1), k * (k - 1), k * (k - 1), 1, u),
            "dirichlet": (t**2 * k * (k - 1), 0.05 * t**2, k, 1 / t, x),
        }[name]
        self.centre = centre * np.eye(k)
        self.matrix_penalty = np.where(np.eye(k), on, off)
        self.bias_penalty = b

    def scores(self, w, b):
        return self.u @ w + b

    def value(self, w, b):
        s = self.scores(w, b)
        losses = logsumexp(s, axis=1) - s[np.arange(len(s)), self.y]
        return (
            self.weight @ losses
            + (self.matrix_penalty * (w - self.centre) ** 2).sum()
            + self.bias_penalty * (b**2).sum()
        )

    def gradient(self, w, b):
        away = np.exp(log_softmax(self.scores(w, b), axis=1))
        away[np.arange(len(away)), self.y] -= 1
        away *= self.weight[:, None]
        of_w = self.u.T @ away + 2 * self.matrix_penalty * (w - self.centre)
        return (np.diag(np.diag(of_w)) if self.diagonal else of_w), away.sum(
            axis=0
        ) + 2 * self.bias_penalty * b

    def apart(self, theta):
        k = self.k
        return (np.diag(theta[:-k]) if self.diagonal else theta[:-k].reshape(k, k)), theta[-k:]

    def minimum(self):
        start = np.diag(self.centre) if self.diagonal else self.centre.ravel()
        theta = np.concatenate([start, np.zeros(self.k)])
        theta += 0.1 * np.random.default_rng(0).normal(size=theta.shape)
        options = {"gtol": 1e-5, "maxiter": 2000}
        return self.apart(minimize(lambda at: self.value(*self.apart(at)), theta, options=options).x)


def fitted_map(cal):
    return (cal.matrix_ if hasattr(cal, "matrix_") else np.diag(cal.slope_)), cal.bias_


def problem(n, k, seed=0):
    """Labels drawn from another affine map of the scores than the identity."""
    rng = np.random.default_rng(seed)
    z, _ = drawn(n, k, 2.0, seed=seed)
    true = log_softmax(z @ (0.6 * np.eye(k) + 0.1 * rng.normal(size=(k, k))) + rng.normal(size=k), axis=1)
    y = (np.cumsum(np.exp(true), axis=1) > rng.random((n, 1))).argmax(axis=1)
    return z, y


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("k", [2, 3])
def test_the_minimum_is_scipys(name, k):
    z, y = problem(200, k)
    weight = np.random.default_rng(1).uniform(0, 2, 200)
    cal = FAMILIES[name]().fit(z, y, weight)
    stated = Stated(name, z, y, weight)
    found, true = fitted_map(cal), stated.minimum()
    assert stated.value(*found) <= stated.value(*true) + 1e-4
    expected = np.exp(log_softmax(stated.scores(*true), axis=1))
    np.testing.assert_allclose(cal.predict_proba(z), expected, atol=2e-4)
    assert cal.diagnostics_.criterion == "penalised nll"
    label = -cal.transform(z)[np.arange(200), y]
    assert cal.diagnostics_.loss == pytest.approx(weight @ label / weight.sum(), rel=1e-9)


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize(("n", "k"), [(600, 6), (6000, 60)])  # the larger one in float32
def test_the_gradient_of_the_stated_objective_is_zero(name, n, k):
    z, y = problem(n, k)
    cal = FAMILIES[name]().fit(z, y)
    stated = Stated(name, z, y, np.ones(n))
    scale = np.abs(stated.gradient(stated.centre, np.zeros(k))[0]).max()
    slopes = stated.gradient(*fitted_map(cal))
    assert scale > 10
    assert max(np.abs(slope).max() for slope in slopes) < (2e-3 if name not in DIAGONAL else 1e-4) * scale
    assert cal.diagnostics_.converged
    assert cal.bias_.sum() == pytest.approx(0, abs=1e-3)


@pytest.mark.parametrize("name", ["vector", "matrix"])
def test_an_endless_penalty_is_temperature_scaling(name):
    z, y = problem(300, 4)
    plain = TemperatureScaling().fit(z, y)
    cal = FAMILIES[name](penalty=1e9).fit(z, y)
    np.testing.assert_allclose(cal.predict_proba(z), plain.predict_proba(z), atol=1e-5)


@pytest.mark.parametrize("name", FAMILIES)
def test_two_classes_at_two_scores_get_their_rates(name):
    """Two places and two classes: any rates are some map's, and large weights outweigh any penalty."""
    x, y = np.array([-1.0, -1.0, 1.0, 1.0]), np.array([0, 1, 0, 1])
    p = FAMILIES[name]().fit(x, y, np.array([8e5, 2e5, 4e5, 6e5])).predict_proba(x)
    np.testing.assert_allclose(p[[0, -1], 1], [0.2, 0.6], atol=1e-4)


def test_a_diagonal_map_is_recovered_within_its_errors():
    slope, bias = np.array([0.5, 0.8, 1.1, 0.7]), np.array([0.5, -0.3, -0.4, 0.2])
    z, _ = drawn(40_000, 4, 2.0, seed=2)
    p = np.exp(log_softmax(log_softmax(z, axis=1) * slope + bias, axis=1))
    y = (np.cumsum(p, axis=1) > np.random.default_rng(3).random((len(z), 1))).argmax(axis=1)
    cal = VectorScaling().fit(z, y)
    for found, true, error in ((cal.slope_, slope, "slope"), (cal.bias_, bias, "bias")):
        assert (cal.stderr_[error] < 0.05).all()
        assert (np.abs(found - true) < 4 * cal.stderr_[error]).all()


@pytest.mark.parametrize("name", DIAGONAL)
def test_standard_errors_are_the_spread_of_fits(name):
    fits = []
    for seed in range(60):
        z, y = drawn(1000, 3, 2.0, seed=100 + seed)
        fits.append(FAMILIES[name]().fit(3 * z, y))
    for parameter in ("slope", "bias"):
        values = np.array([getattr(fit, f"{parameter}_") for fit in fits])
        spread = values.std(axis=0)
        told = np.mean([fit.stderr_[parameter] for fit in fits], axis=0)
        np.testing.assert_allclose(told, spread, rtol=0.4)


def test_a_confusion_of_large_samples_is_recovered():
    true, bias = np.array([[0.7, 0.3, 0.0], [0.0, 0.8, 0.1], [0.2, 0.0, 0.6]]), np.array([0.3, 0.0, -0.3])
    z, _ = drawn(30_000, 3, 2.0, seed=4)
    p = np.exp(log_softmax(log_softmax(z, axis=1) @ true + bias, axis=1))
    y = (np.cumsum(p, axis=1) > np.random.default_rng(5).random((len(z), 1))).argmax(axis=1)
    for cal in (DirichletCalibration(), MatrixScaling(), StructuredMatrixScaling()):
        assert np.abs(cal.fit(z, y).predict_proba(z) - p).mean() < 0.01
    assert np.abs(TemperatureScaling().fit(z, y).predict_proba(z) - p).mean() > 0.05


@pytest.mark.parametrize("name", ["svs", "sms"])
def test_the_authors_package_is_not_better(name):
    reason = "the authors' package is not a dependency: pip install probmetrics"
    factory = pytest.importorskip("probmetrics.calibrators.factory", reason=reason)
    z, y = problem(1500, 6)
    p = np.exp(log_softmax(z, axis=1))
    theirs = factory.get_calibrator(name)
    theirs.fit(p, y)
    cal = FAMILIES[name]().fit(z, y)
    stated = Stated(name, z, y, np.ones(1500))
    w, b = (np.diag(theirs.v_), theirs.b_) if name == "svs" else (theirs.W_[:, :-1].T, theirs.W_[:, -1])
    w, b = w.astype(float), b.astype(float)
    assert stated.value(*fitted_map(cal)) <= stated.value(w, b) + 1e-6
    assert stated.value(*fitted_map(cal)) == pytest.approx(stated.value(w, b), abs=0.1)
    np.testing.assert_allclose(cal.predict_proba(z), theirs.predict_proba(p), atol=5e-3)


@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, True])
def test_a_strength_that_is_none_is_refused(value):
    z, y = drawn(30, 3, 1.0, seed=0)
    for cal in (VectorScaling(penalty=value), MatrixScaling(penalty=value)):
        with pytest.raises(ValueError, match="Expected penalty finite and above 0"):
            cal.fit(z, y)
    for name in ("off_diagonal", "bias"):
        with pytest.raises(ValueError, match=f"Expected {name} finite and above 0"):
            DirichletCalibration(**{name: value}).fit(z, y)


def test_strengths_of_dirichlet_calibration_are_the_papers():
    z, y = problem(400, 3)
    t = TemperatureScaling().fit(z, y).temperature_
    plain = DirichletCalibration().fit(z, y)
    told = DirichletCalibration(off_diagonal=t**2 * 36 / 400, bias=9 / 400).fit(z, y)
    np.testing.assert_allclose(told.matrix_, plain.matrix_, atol=1e-9)
    strict = DirichletCalibration(off_diagonal=1e6, bias=1e6).fit(z, y)
    np.testing.assert_allclose(strict.matrix_, np.diag(np.diag(strict.matrix_)), atol=1e-4)
    np.testing.assert_allclose(strict.bias_, 0, atol=1e-4)
