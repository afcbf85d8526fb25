"""The number of rows that it takes, against repeated samples of that many."""

import math

import numpy as np
import pytest

from focalcal import ece, sample_size
from focalcal.verdicts.power import _power


def power(n, confidence, gap, samples=120, seed=0):
    """How often the interval of the ECE does not reach 0."""
    rng = np.random.default_rng(seed)
    shown = 0
    for _ in range(samples):
        c = rng.choice(confidence, n)
        rate = np.where(c >= gap, c - gap, c + gap)
        shown += ece(rng.random(n) < rate, c, of_class=True).low > 0
    return shown / samples


@pytest.mark.parametrize(
    ("confidence", "gap", "wanted"),
    [
        ([0.9], 0.05, 0.8),
        ([0.6, 0.75, 0.9, 0.97], 0.1, 0.8),
        (np.linspace(0.35, 0.99, 12), 0.15, 0.5),
    ],
)
def test_power_is_what_was_asked(confidence, gap, wanted):
    n = sample_size(gap, np.asarray(confidence), power=wanted)
    assert power(n, confidence, gap) == pytest.approx(wanted, abs=0.12)  # 3 standard errors
    assert power(n // 3, confidence, gap) < wanted - 0.15


def test_it_grows_as_it_should():
    n = sample_size(0.03, 0.9)
    assert sample_size(0.015, 0.9) == pytest.approx(4 * n, rel=0.2)  # with 1/gap²
    assert sample_size(0.03, 0.9, power=0.95) > n > sample_size(0.03, 0.9, power=0.5)
    assert sample_size(0.03, 0.9, level=0.99) > n
    spread = np.linspace(0.5, 1, 200)
    assert sample_size(0.03, spread, bins=30) > sample_size(0.03, spread, bins=5)


def test_it_is_the_smallest():
    n = sample_size(0.05, 0.9)
    share, mean = np.ones(1), np.full(1, 0.9)
    assert _power(n, share, mean, 0.05, 0.95) >= 0.8 > _power(n - 1, share, mean, 0.05, 0.95)


def test_sure_predictions_take_few_rows():
    # any miss proves that 1.0 was too much
    assert sample_size(0.1, 1.0) == 16  # 0.9^16 = .185, 0.9^15 = .206
    assert sample_size(0.01, 1.0) == math.ceil(math.log(0.2) / math.log(0.99))


@pytest.mark.parametrize("gap", [0, 1, -0.1, math.nan])
def test_a_gap_lies_between_0_and_1(gap):
    with pytest.raises(ValueError, match=r"Expected gap between 0 and 1, e\.g\. 0\.02 for two points, got"):
        sample_size(gap)


@pytest.mark.parametrize("confidence", [0.0, 1.2, [0.5, math.nan], [[0.5, 0.6]], []])
def test_confidences_are_probabilities(confidence):
    with pytest.raises(
        ValueError, match=r"Expected confidence as one number or an array of shape \(n,\), in"
    ):
        sample_size(0.05, confidence)


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"Expected power above 0 and at most 1, got 0\."):
        sample_size(0.05, power=0)
    with pytest.raises(ValueError, match=r"Expected level between 0 and 1"):
        sample_size(0.05, level=95)
    with pytest.raises(ValueError, match=r"Expected bins to be a whole number >= 1, got 0\."):
        sample_size(0.05, bins=0)
