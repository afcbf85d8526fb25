"""Temperature scaling against other libraries' optima, on real scores."""

import warnings

import numpy as np
import pytest

from cases import drawn, load_scores, needs_data, score_files
from focalcal import CalibrationWarning, TemperatureScaling, temperature_map


def mean_nll(z, y, temperature):
    return -temperature_map(z, temperature)[np.arange(len(y)), y].mean()


def as_logits(name):
    scores, labels, kind, chosen = load_scores(name)
    z = scores[chosen].astype(np.float64)
    return (np.log(np.maximum(z, 1e-30)) if kind == "probs" else z), labels[chosen]


def ours(z, y):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)  # absent classes, logits like probabilities
        return TemperatureScaling().fit(z, y).temperature_


def from_sklearn(z, y):
    calibration = pytest.importorskip("sklearn.calibration")
    if not hasattr(calibration, "_TemperatureScaling"):
        pytest.skip("scikit-learn has temperature scaling from 1.8 on, under a private name")
    return 1 / float(calibration._TemperatureScaling().fit(z, y.astype(float)).beta_)


def from_probmetrics(z, y):
    torch = pytest.importorskip("torch", reason="torch is an optional extra")
    pytest.importorskip("numba", reason="probmetrics needs numba")
    temperature_scaling = pytest.importorskip(
        "probmetrics.calibrators.temperature_scaling", reason="probmetrics is a test extra"
    )
    from probmetrics.distributions import CategoricalLogits

    found = temperature_scaling.TemperatureScalingCalibrator()
    found.fit_torch(CategoricalLogits(torch.from_numpy(z)), torch.from_numpy(y))
    return 1 / float(found.invtemp_)


@needs_data
@pytest.mark.parametrize("peer", [from_sklearn, from_probmetrics])
@pytest.mark.parametrize("name", score_files())
def test_the_optimum_on_real_files_is_theirs(name, peer):
    z, y = as_logits(name)
    temperature = ours(z, y)
    assert mean_nll(z, y, temperature) <= mean_nll(z, y, peer(z, y)) + 1e-12
    assert mean_nll(z, y, temperature) == pytest.approx(mean_nll(z, y, peer(z, y)), abs=1e-7)


@pytest.mark.parametrize("peer", [from_sklearn, from_probmetrics])
def test_the_temperature_is_theirs(peer):
    z, y = drawn(2000, 12, 6.0, seed=0)
    assert ours(z, y) == pytest.approx(peer(z, y), rel=1e-5)


def test_logits_in_the_unit_interval_are_where_a_peer_guesses_wrong():
    """scikit-learn takes rows in [0, 1] that sum to 1 for probabilities; here they are what was declared."""
    z = np.random.default_rng(0).dirichlet(np.ones(3), size=500)
    y = z.argmax(axis=1)
    y[::3] = 0
    assert from_sklearn(z, y) != pytest.approx(ours(z, y), rel=0.05)
    assert mean_nll(z, y, ours(z, y)) < mean_nll(z, y, from_sklearn(z, y)) - 1e-4
