"""The maps against 60-digit arithmetic and against each identity that defines them."""

import math

import hypothesis.strategies as st
import mpmath as mp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from cases import drawn, true_logs
from focalcal import (
    binary_focal_map,
    focal_loss,
    focal_map,
    inverse_focal_map,
    proper_focal_loss,
    raising_threshold,
    temperature_bounds,
    temperature_map,
)

GAMMAS = [-1.0, -0.9, -0.5, 0.0, 0.5, 1.0, 2.0, 5.0, 20.0]

logits = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 4), st.integers(2, 6)), elements=st.floats(-40, 40, width=32)
)
gammas = st.floats(-1, 20)


def log_true(z, temperature, gamma):
    return [true_logs(row, temperature, gamma) for row in z]


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("scale", [0.01, 1.0, 5.0, 60.0])
def test_focal_map_equals_60_digits(gamma, scale):
    z = np.random.default_rng(0).normal(size=(5, 6)) * scale
    np.testing.assert_allclose(focal_map(z, gamma), log_true(z, 1, gamma), rtol=2e-13, atol=1e-300)


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize("gap", [16.6, 40.0, 750.0, 1e4])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_exact_for_huge_gaps(gamma, gap, dtype):
    z = np.array([[gap, 0.0, -3.0], [gap, gap, 0.0]], dtype)
    tolerance = 1e-13 if dtype == np.float64 else 2e-7
    got = focal_map(z, gamma)
    assert got.dtype == (np.float64 if dtype == np.float64 else np.float32)
    # log p of the top class underflows in float32 beyond 87 nats, as it must
    np.testing.assert_allclose(got, log_true(z, 1, gamma), rtol=tolerance, atol=1e-37)


@pytest.mark.parametrize("temperature", [0.05, 1.0, 30.0])
def test_temperature_map_equals_60_digits(temperature):
    z = np.random.default_rng(1).normal(size=(6, 5)) * 20
    np.testing.assert_allclose(temperature_map(z, temperature), log_true(z, temperature, 0), rtol=1e-13)


@given(logits, gammas)
def test_order_and_ties_are_kept(z, gamma):
    mapped = focal_map(z, gamma)
    for row, out in zip(z, mapped):
        order = np.argsort(row, kind="stable")
        assert (np.diff(out[order]) >= -1e-12 * np.abs(out[order][1:])).all()
        same = np.diff(row[order]) == 0
        np.testing.assert_allclose(np.diff(out[order])[same], 0, atol=1e-12)


@given(logits, gammas, st.floats(-50, 50))
def test_a_constant_changes_nothing_and_rows_sum_to_one(z, gamma, constant):
    mapped = focal_map(z, gamma)
    np.testing.assert_allclose(np.exp(mapped).sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(focal_map(z + constant, gamma), mapped, rtol=1e-10, atol=1e-10)


@given(logits, gammas, st.randoms(use_true_random=False))
def test_rows_and_classes_permute(z, gamma, random):
    rows, columns = list(range(len(z))), list(range(z.shape[1]))
    random.shuffle(rows)
    random.shuffle(columns)
    np.testing.assert_allclose(
        focal_map(z[np.ix_(rows, columns)], gamma), focal_map(z, gamma)[np.ix_(rows, columns)], rtol=1e-12
    )


@given(logits)
def test_gamma_zero_is_the_softmax(z):
    np.testing.assert_allclose(focal_map(z, 0.0), temperature_map(z, 1.0), rtol=1e-14)


@settings(max_examples=60)
@given(logits, gammas)
def test_inverse_undoes_the_map(z, gamma):
    p = temperature_map(z, 1.0)
    np.testing.assert_allclose(focal_map(inverse_focal_map(p, gamma), gamma), p, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(inverse_focal_map(focal_map(z, gamma), gamma), p, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("gamma", [-0.5, 1.0, 3.0])
def test_inverse_for_huge_gaps_and_masked_classes(gamma):
    z = np.array([[1e4, 0.0, -np.inf, 7.0], [2.0, -np.inf, -np.inf, 2.0]])
    back = inverse_focal_map(focal_map(z, gamma), gamma)
    np.testing.assert_allclose(back, temperature_map(z, 1.0), rtol=1e-11)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_masked_classes_stay_masked_and_the_rest_is_as_without_them(gamma):
    z = np.array([[1.0, -np.inf, 0.5, -2.0], [-np.inf, -np.inf, 3.0, -np.inf]])
    mapped = focal_map(z, gamma)
    assert (np.isneginf(mapped) == np.isneginf(z)).all()
    np.testing.assert_allclose(mapped[0, [0, 2, 3]], focal_map(z[:1][:, [0, 2, 3]], gamma)[0], rtol=1e-13)
    assert mapped[1, 2] == 0


@pytest.mark.parametrize("gamma", [g for g in GAMMAS if g > -1])
def test_binary_form_of_the_map(gamma):
    q = np.linspace(0.02, 0.98, 49)
    r = 1 - q
    ratio = ((1 - q) / q) ** gamma * (r - gamma * q * np.log(q)) / (q - gamma * r * np.log(r))
    np.testing.assert_allclose(np.exp(focal_map(np.log(np.stack([r, q], 1)), gamma))[:, 1], 1 / (1 + ratio))
    psi = binary_focal_map(np.log(q / r), gamma)
    np.testing.assert_allclose(1 / (1 + np.exp(-psi)), 1 / (1 + ratio))
    np.testing.assert_allclose(binary_focal_map(-np.log(q / r), gamma), -psi, atol=1e-14)


@pytest.mark.parametrize("gamma", [-0.9, -0.5, 0.3, 1.0, 3.0, 30.0, 100.0])
def test_two_temperatures_bound_the_binary_map(gamma):
    low, high = temperature_bounds(gamma)
    s = np.geomspace(1e-3, 300, 200)
    psi = binary_focal_map(s, gamma)
    assert (psi <= s / low * (1 + 1e-12)).all()
    assert (psi >= s / high * (1 - 1e-12)).all()


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_slope_at_zero_and_offset_far_out(gamma):
    slope = gamma + 1 - gamma * (2 * math.log(2) - 1) / (1 + gamma * math.log(2))
    assert binary_focal_map(1e-5, gamma) / 1e-5 == pytest.approx(slope, rel=1e-8)
    assert binary_focal_map(60.0, gamma) == pytest.approx((gamma + 1) * 60 - math.log(1 + gamma), rel=1e-12)


@pytest.mark.parametrize(
    ("gamma", "temperature", "error"),
    [(0.5, 0.731, 0.0012), (1, 0.5615, 0.0008), (2, 0.3731, 0.0002), (3, 0.2759, 0.0001)],
)
def test_one_temperature_nearly_equals_the_binary_map(gamma, temperature, error):
    s = np.linspace(0, 30, 30001)
    gap = 1 / (1 + np.exp(-binary_focal_map(s, gamma))) - 1 / (1 + np.exp(-s / temperature))
    assert np.abs(gap).max() == pytest.approx(error, abs=6e-5)


@pytest.mark.parametrize(
    ("gamma", "value"), [(0.5, 0.421), (1, 0.368), (2, 0.298), (3, 0.253), (5, 0.197), (10, 0.131)]
)
def test_raising_threshold(gamma, value):
    found = raising_threshold(gamma)
    assert found == pytest.approx(value, abs=6e-4)
    a = (1 - found) ** gamma - gamma * found * (1 - found) ** (gamma - 1) * math.log(found)
    assert a == pytest.approx(1, abs=1e-12)


def test_confidence_is_raised_above_the_threshold_and_not_always_below():
    z, _ = drawn(4000, 10, 1.5, seed=2)
    for gamma in (0.5, 1.0, 3.0):
        q, p = np.exp(temperature_map(z, 1.0)).max(1), np.exp(focal_map(z, gamma)).max(1)
        sure = q >= raising_threshold(gamma)
        assert sure.any()
        assert (p[sure] >= q[sure]).all()
    low = np.array([[0.13] + [0.0967] * 9])
    assert np.exp(focal_map(np.log(low), 1.0)).max() == pytest.approx(0.1294, abs=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.0])
def test_top_and_tail_decouple(gamma):
    z = np.array([[18.0, 0.0, -1.0]])
    q, p = np.exp(temperature_map(z, 1.0))[0], np.exp(focal_map(z, gamma))[0]
    u = q[1] + q[2]
    assert (p[1] + p[2]) / ((1 + gamma) * u ** (1 + gamma)) == pytest.approx(1, rel=1e-6)
    assert p[1] / (p[1] + p[2]) == pytest.approx(q[1] / u, rel=1e-6)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_focal_loss_is_a_loss_of_the_mapped_probabilities(gamma):
    z, y = drawn(40, 4, 2.0, seed=3)
    q = temperature_map(z, 1.0)
    expected = -((1 - np.exp(q)) ** gamma * q)[np.arange(40), y]
    np.testing.assert_allclose(focal_loss(z, y, gamma), expected, rtol=1e-10)
    np.testing.assert_allclose(proper_focal_loss(focal_map(z, gamma), y, gamma), expected, rtol=1e-8)


@pytest.mark.parametrize("gamma", [-0.5, 0.5, 2.0])
def test_the_proper_part_is_strictly_proper(gamma):
    truth = np.array([0.5, 0.3, 0.2])

    def expected_loss(p):
        return sum(truth[k] * proper_focal_loss(np.log(p)[None], [k], gamma)[0] for k in range(3))

    best = expected_loss(truth)
    for step in (
        [0.01, -0.01, 0],
        [0, 0.01, -0.01],
        [-0.01, 0, 0.01],
        [0.1, -0.05, -0.05],
        [-0.2, 0.3, -0.1],
    ):
        assert expected_loss(truth + step) > best + 1e-6
        assert expected_loss(truth - 0.3 * np.array(step)) > best


@pytest.mark.parametrize("gamma", [-1, -0.999, -0.5, 0, 0.5, 3])
def test_focal_loss_of_saturated_rows(gamma):
    gaps = [-2000.0, -30.0, 0.0, 5.0, 36.0, 39.9, 40.1, 700.0, 1500.0]
    z = np.stack([np.zeros(len(gaps)), gaps], axis=1)
    with mp.workdps(1400):  # enough to tell e^-1500 from nothing beside 1
        q = [1 / (1 + mp.exp(-mp.mpf(gap))) for gap in gaps]
        truth = [float(-((1 - v) ** mp.mpf(gamma)) * mp.log(v)) for v in q]
    np.testing.assert_allclose(focal_loss(z, np.ones(len(gaps), int), gamma), truth, rtol=1e-12)


def test_focal_loss_at_its_ends():
    z = np.array([[1e4, 0.0], [1e4, 0.0], [0.0, -np.inf], [0.0, -np.inf]])
    np.testing.assert_array_equal(focal_loss(z, [0, 1, 0, 1], 2.0), [0, 1e4, 0, np.inf])
    np.testing.assert_allclose(focal_loss(z, [0, 1, 0, 1], -1.0), [1, 1e4, 1, np.inf])


@pytest.mark.parametrize("function", [focal_map, inverse_focal_map])
def test_gamma_below_minus_one_has_no_map(function):
    with pytest.raises(ValueError, match=r"Expected a finite gamma >= -1, got -1\.5\. Below -1"):
        function([[0.0, 1.0]], -1.5)
    with pytest.raises(ValueError, match="got nan"):
        function([[0.0, 1.0]], math.nan)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="Expected a finite temperature > 0, got 0"):
        temperature_map([[0.0, 1.0]], 0)
    with pytest.raises(ValueError, match="a column a class"):
        focal_map([0.0, 1.0], 1.0)
    with pytest.raises(ValueError, match="got NaN in row 1"):
        focal_map([[0.0, 1.0], [np.nan, 0.0]], 1.0)
    with pytest.raises(ValueError, match=r"below \+inf"):
        focal_map([[0.0, np.inf]], 1.0)
    with pytest.raises(ValueError, match="only -inf in row 0"):
        focal_map([[-np.inf, -np.inf]], 1.0)
    with pytest.raises(ValueError, match="-1 < gamma <= 100"):
        temperature_bounds(-1.0)
    with pytest.raises(ValueError, match="Expected gamma > 0"):
        raising_threshold(0.0)
    with pytest.raises(ValueError, match="Expected every label"):
        focal_loss([[0.0, 1.0]], [2], 1.0)
