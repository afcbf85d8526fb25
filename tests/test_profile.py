"""The profile of the log loss: equal to brute force, weighted as rows repeated, honest about its region."""

import json
import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from scipy.stats import chi2

from focalcal import FocalTemperatureScaling, TemperatureScaling, focal_map
from focalcal.calibrators.objective import SumLosses
from focalcal.calibrators.temperature import profile as module
from focalcal.calibrators.temperature.profile import profile
from focalcal.calibrators.temperature.surface import SumManyLosses
from focalcal.rows import Block, as_rows
from predictions import draw


def loss_by_hand(z, y, temperature, gamma=0.0, weight=None):
    log_p = focal_map(log_softmax(z.astype(float) / temperature, axis=1), gamma)
    return -np.average(log_p[np.arange(len(y)), y], weights=weight)


def rows_of(z, y, weight=None, kind="logits"):
    return as_rows(z, y, weight, kind, None)[0]


@pytest.fixture(scope="module")
def sample():
    z, y = draw(1600, 4, temperature=1.7)
    return z[:800], y[:800], z[800:], y[800:]


@pytest.fixture(scope="module")
def focal(sample):
    calibrator = FocalTemperatureScaling().fit(*sample[:2])
    return calibrator, profile(rows_of(*sample[2:]), calibrator)


def test_many_points_in_one_pass_are_the_points_one_by_one(sample):
    z, y = sample[:2]
    w = np.random.default_rng(0).uniform(0, 2, len(y))
    points = ((0.0, None), (0.5, 0.0), (-0.3, 2.0), (0.2, -0.7))
    for weight in (None, w):
        block = Block(z, y, weight)
        many = SumManyLosses("logits", points)
        for sums, (tau, gamma) in zip((many(block) + many(block)).sums, points, strict=True):
            one = SumLosses("logits", "nll", tau, gamma)(block)
            np.testing.assert_allclose(sums.numbers(), (one + one).numbers(), rtol=1e-12)


def test_the_curve_of_temperature_scaling_is_the_mean_loss(sample):
    z, y = sample[2:]
    calibrator = TemperatureScaling().fit(*sample[:2])
    found = profile(rows_of(z, y), calibrator)
    assert found.surface is found.profiled is None
    for temperature, loss in zip(found.temperature, found.plain, strict=True):
        assert loss == pytest.approx(loss_by_hand(z, y, temperature), abs=1e-9)
    assert found.fitted.temperature == pytest.approx(calibrator.temperature_)
    again = TemperatureScaling().fit(z, y)
    assert found.optimum.temperature == pytest.approx(again.temperature_, rel=1e-5)
    between = 0.37 * math.log(found.temperature[3]) + 0.63 * math.log(found.temperature[4])
    assert found.curve(between) == pytest.approx(loss_by_hand(z, y, math.exp(between)), abs=1e-6)


def test_the_surface_and_the_profile_over_gamma_are_those_of_brute_force(sample, focal):
    z, y = sample[2:]
    _, found = focal
    surface = found.surface
    for i, j in ((0, 0), (3, 9), (14, 14), (7, 7)):
        temperature = math.exp(surface.log_temperature[i])
        assert surface.loss[i, j] == pytest.approx(
            loss_by_hand(z, y, temperature, surface.gamma[j]), abs=1e-9
        )
    for i in range(0, len(found.temperature), 5):
        temperature = found.temperature[i]
        grid = np.r_[np.linspace(-1, 2, 61), np.linspace(2.5, 20, 36)]
        start = grid[np.argmin([loss_by_hand(z, y, temperature, g) for g in grid])]
        least = minimize_scalar(
            lambda g, temperature=temperature: loss_by_hand(z, y, temperature, g),
            bounds=(max(start - 0.06, -1), min(start + 0.06, 20)),
            method="bounded",
            options={"xatol": 1e-9},
        )
        assert found.profiled[i] == pytest.approx(least.fun, abs=1e-7)
    assert (found.profiled <= found.plain + 1e-12).all()


def test_the_optimum_is_that_of_a_fit_on_these_rows(sample, focal):
    again = FocalTemperatureScaling().fit(*sample[2:])
    place = focal[1].optimum
    assert place.loss == pytest.approx(again.diagnostics_.loss, abs=1e-8)
    assert (place.temperature, place.gamma) == pytest.approx((again.temperature_, again.gamma_), abs=1e-3)
    assert focal[1].fitted.loss == pytest.approx(
        loss_by_hand(*sample[2:], focal[0].temperature_, focal[0].gamma_), abs=1e-9
    )


def test_the_region_is_where_the_likelihood_ratio_says(sample):
    z, y = sample[2:]
    found = profile(rows_of(z, y), TemperatureScaling().fit(*sample[:2]))
    for end in found.interval:
        excess = 2 * len(y) * (loss_by_hand(z, y, end) - found.optimum.loss)
        assert excess == pytest.approx(chi2.ppf(0.95, 1), rel=1e-3)
    low, high = found.interval
    assert found.inside == (low <= found.fitted.temperature <= high)
    wider = profile(rows_of(z, y), level=0.999).interval
    assert wider[0] < low < high < wider[1]


def test_the_surface_holds_the_region_and_the_fitted_parameters(focal):
    surface, found = focal[1].surface, focal[1]
    assert surface.gamma[0] == -1  # beyond it there is no map
    rim = np.r_[surface.loss[0, 1:], surface.loss[-1, 1:], surface.loss[:, -1]]
    assert (rim - found.optimum.loss > found.threshold).all()
    for place in (found.fitted, found.optimum):
        assert surface.log_temperature[0] < math.log(place.temperature) < surface.log_temperature[-1]
        assert surface.gamma[0] < place.gamma < surface.gamma[-1]
    assert found.parameters == 2


def test_without_a_calibrator_the_scores_are_taken_as_they_are(sample):
    z, y = sample[2:]
    found = profile(rows_of(z, y))
    assert (found.fitted.temperature, found.fitted.gamma) == (1.0, 0.0)
    assert not found.inside  # the labels were drawn at 1.7
    assert found.p_value < 1e-6
    assert found.interval[0] < 1.7 < found.interval[1]
    assert profile(rows_of(z / 1.7, y)).p_value > 0.01


def test_a_fit_on_other_rows_errs_too(sample):
    z, y = sample[2:]
    calibrator = TemperatureScaling().fit(*sample[:2])
    found = profile(rows_of(z, y), calibrator)
    expected = chi2.sf(found.statistic / (found.dispersion * (1 + 800 / calibrator.n_fit_)), 1)
    assert found.p_value == pytest.approx(expected)
    assert 0.7 < found.dispersion < 1.4  # the model is true
    # another criterion has its optimum elsewhere: no test
    other = profile(rows_of(z, y), TemperatureScaling(criterion="brier").fit(*sample[:2]))
    assert other.n_fit == 0
    assert math.isnan(other.p_value)
    assert other.to_dict()["p_value"] is None


def test_parameters_of_other_data_are_told(sample):
    z, y = sample[2:]
    cold = TemperatureScaling().fit(2 * sample[0], sample[1])
    found = profile(rows_of(z, y), cold)
    assert not found.inside
    assert found.p_value < 1e-6


def test_a_weight_of_two_is_a_row_twice_in_the_loss_but_not_in_what_it_proves(sample):
    z, y = sample[2:]
    w = np.where(np.arange(len(y)) % 3 == 0, 2.0, 1.0)
    twice = np.repeat(np.arange(len(y)), w.astype(int))
    weighted, repeated = profile(rows_of(z, y, w)), profile(rows_of(z[twice], y[twice]))
    assert weighted.optimum.loss == pytest.approx(repeated.optimum.loss, abs=1e-9)
    assert weighted.optimum.temperature == pytest.approx(repeated.optimum.temperature, rel=1e-6)
    assert weighted.n == weighted.n_used == len(y)
    assert weighted.n_effective == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert weighted.n_effective < len(y) < repeated.n_effective
    scaled = profile(rows_of(z, y, 10 * w))
    assert scaled.interval == pytest.approx(weighted.interval)
    assert scaled.p_value == pytest.approx(weighted.p_value)


def test_many_rows_are_sampled_and_said_to_be(sample, monkeypatch):
    monkeypatch.setattr(module, "_SAMPLE", 4 * 300)
    monkeypatch.setattr(module, "_FEWEST", 100)
    z, y = draw(5000, 4, temperature=1.7)
    found = profile(rows_of(z, y))
    assert (found.n, found.n_used) == (5000, 256)
    assert found.n_effective == 256


def test_half_precision_and_probabilities(sample):
    z, y = sample[2:]
    half = profile(rows_of(z.astype(np.float16), y), FocalTemperatureScaling().fit(*sample[:2]))
    wide = profile(rows_of(z.astype(np.float16).astype(float), y), FocalTemperatureScaling().fit(*sample[:2]))
    assert half.optimum.loss == pytest.approx(wide.optimum.loss, abs=1e-6)
    probs = np.exp(log_softmax(z, axis=1))
    calibrator = TemperatureScaling(input="probs").fit(probs, y)
    found = profile(rows_of(probs, y, kind="probs"), calibrator)
    assert found.optimum.temperature == pytest.approx(calibrator.temperature_, rel=1e-5)


@pytest.mark.parametrize(
    ("z", "y"),
    [
        (np.eye(3) * 9, [0, 1, 2]),
        (np.zeros((4, 3)), [0, 1, 2, 0]),
        (np.array([[2.0, 0], [2, 0], [0, 2]]), [1, 1, 0]),
        (np.array([[2.0, 0, -np.inf], [2, 0, -np.inf], [0, 1, 2]]), [2, 1, 0]),
    ],
    ids=["separable", "constant", "worse than chance", "impossible label"],
)
def test_no_optimum_no_profile(z, y):
    assert profile(rows_of(z, np.array(y))) is None


@pytest.mark.filterwarnings("ignore:The parameters are not identifiable")
def test_two_classes_have_a_long_region(sample):
    z, y = draw(500, 2, temperature=1.5)
    found = profile(rows_of(z, y), FocalTemperatureScaling().fit(z, y))
    assert found.surface.gamma[0] >= -1
    assert found.inside
    low, high = found.interval
    assert low < found.optimum.temperature < high


def test_plain_values(focal):
    document = json.loads(json.dumps(focal[1].to_dict(), allow_nan=False))
    assert document["n"] == 800
    assert document["inside"] is focal[1].inside
    assert np.shape(document["surface"]["loss"]) == (15, 15)
    assert len(document["temperature"]) == len(document["loss"]) == len(document["profiled_loss"])
