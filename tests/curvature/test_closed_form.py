"""Closed forms against LossSurface, torch.func, differences and the calibrators' own standard errors."""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch is an optional extra: pip install 'focalcal[torch]'")

from sklearn.exceptions import NotFittedError  # noqa: E402
from torch import nn  # noqa: E402

import focalcal  # noqa: E402
from focalcal import FocalTemperatureScaling, TemperatureScaling  # noqa: E402
from focalcal import nn as fnn  # noqa: E402
from focalcal.curvature import LossSurface, calibrator_curvature, logistic_hessian  # noqa: E402

LOSSES = {
    "cross-entropy": nn.CrossEntropyLoss(),
    "weighted": nn.CrossEntropyLoss(torch.tensor([0.5, 1.0, 2.0], dtype=torch.double), ignore_index=1),
    "focal": fnn.FocalLoss(4.0),
}


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", LOSSES)
def test_logistic_regression(name, bias):
    net, loss = nn.Linear(2, 3, bias=bias).double(), LOSSES[name]
    x, y = torch.randn(9, 2, dtype=torch.double) * 3, torch.arange(9) % 3
    found = logistic_hessian(loss, x, y, net.weight, net.bias)
    surface = LossSurface(net, loss, [(x[:4], y[:4]), (x[4:], y[4:])])
    eye = torch.eye(surface.size, dtype=torch.double)
    torch.testing.assert_close(found, surface.hessian_product(eye), rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found, surface.ggn_product(eye), rtol=1e-9, atol=1e-12)

    def value(vector):
        parts = dict(zip(surface.parameters.names, surface.parameters.split(vector), strict=True))
        return loss(torch.func.functional_call(net, parts, x), y)

    at = surface.parameters.join(surface.parameters.tensors)
    torch.testing.assert_close(found, torch.func.hessian(value)(at), rtol=1e-9, atol=1e-12)
    values = torch.linalg.eigvalsh(found)
    assert (values.abs() < 1e-12).sum() == (3 if bias else 2)  # a constant added to all logits


def test_focal_loss_is_not_convex_in_the_weights():
    x, y = torch.tensor([[4.0]], dtype=torch.double), torch.tensor([0])
    w = torch.tensor([[0.0], [1.0]], dtype=torch.double)
    assert torch.linalg.eigvalsh(logistic_hessian(fnn.FocalLoss(5.0), x, y, w)).min() < -1e-3


def scores(n=2000, k=10, temperature=2.0):
    rng = np.random.default_rng(0)
    z = rng.normal(size=(n, k)) * 2
    y = (z + rng.gumbel(size=z.shape)).argmax(1)
    return temperature * z, y


@pytest.mark.parametrize("criterion", ["nll", "brier"])
@pytest.mark.parametrize("kind", [TemperatureScaling, FocalTemperatureScaling])
def test_calibrators_have_their_own_standard_errors(kind, criterion):
    X, y = scores()
    weight = np.linspace(0.5, 2, len(y))
    cal = kind(criterion=criterion).fit(X, y, weight)
    found = calibrator_curvature(cal, X, y, weight)
    own = [cal.stderr_["temperature"] / cal.temperature_, cal.stderr_.get("gamma")]
    np.testing.assert_allclose(found.stderr, [e for e in own if e is not None], rtol=1e-4)
    assert found.to_dict()["stderr"] == found.stderr.tolist()


def test_the_hessian_is_that_of_the_mean_loss():
    X, y = scores()
    cal = FocalTemperatureScaling().fit(X, y)
    found = calibrator_curvature(cal, X, y)
    assert found.parameters == ("log_temperature", "gamma")

    def loss(step):
        q = focalcal.temperature_map(X, cal.temperature_ * np.exp(step[0]))
        p = focalcal.focal_map(q, cal.gamma_ + step[1])
        return -p[np.arange(len(y)), y].mean()

    h, steps = 1e-3, np.eye(2) * 1e-3
    by_differences = [
        [(loss(a + b) - loss(a - b) - loss(b - a) + loss(-a - b)) / (4 * h * h) for b in steps] for a in steps
    ]
    np.testing.assert_allclose(found.hessian, by_differences, rtol=1e-3)
    np.testing.assert_allclose(found.eigenvectors * found.eigenvalues @ found.eigenvectors.T, found.hessian)


@pytest.mark.filterwarnings("ignore:The parameters are not identifiable:focalcal.CalibrationWarning")
def test_two_classes_cannot_tell_temperature_and_gamma_apart():
    many = calibrator_curvature(FocalTemperatureScaling().fit(*scores()), *scores())
    X, y = scores(n=600, k=2)
    cal = FocalTemperatureScaling().fit(X, y)
    two = calibrator_curvature(cal, X, y)
    assert not cal.diagnostics_.identifiable
    assert many.condition < 100
    assert abs(two.eigenvalues[0]) < 1e-3 * two.eigenvalues[1]
    assert two.condition > 1000
    direction = two.eigenvectors[:, 0]
    assert direction[0] * direction[1] > 0  # more of both leaves the loss as it is


def test_what_cannot_be_measured():
    X, y = scores()
    with pytest.raises(NotFittedError):
        calibrator_curvature(TemperatureScaling(), X, y)
    with pytest.raises(
        TypeError, match="Expected a TemperatureScaling or FocalTemperatureScaling, got LossSurface"
    ):
        calibrator_curvature(LossSurface(nn.Linear(1, 1), nn.MSELoss(), []), X, y)
    with pytest.raises(
        ValueError, match=r"Expected inputs \(n, d\) and weight \(C, d\), got \(2,\) and \(3, 2\)"
    ):
        logistic_hessian(nn.CrossEntropyLoss(), torch.ones(2), torch.tensor([0]), torch.ones(3, 2))
    with pytest.raises(ValueError, match="whose Hessian in the logits is known"):
        logistic_hessian(nn.MSELoss(), torch.ones(1, 2), torch.tensor([0]), torch.ones(3, 2))
    wide = calibrator_curvature(TemperatureScaling().fit(X, y), np.zeros_like(X), y)  # nothing to scale
    assert np.isnan(wide.stderr).all()
    assert wide.condition == np.inf
