"""Intervals of many classes at once: those of one class at a time."""

import numpy as np
import pytest

from focalcal import evaluate
from focalcal.intervals.gap_intervals import gap_sum_intervals
from focalcal.intervals.resample import estimate_gap_sum
from focalcal.sums.bins import BinSums
from predictions import draw


def class_of(sums, k):
    fields = ("count", "weight", "weight_squared", "confidence", "hit")
    return BinSums(sums.edges, *(getattr(sums, name)[k] for name in fields))


def check(sums, level=0.95):
    low, high = gap_sum_intervals(sums, level)
    for k in range(len(low)):
        one = estimate_gap_sum(class_of(sums, k), int(sums.count[k].sum()), level)
        assert (low[k], high[k]) == pytest.approx((one.low, one.high), rel=1e-3, abs=2e-5)


@pytest.mark.parametrize("temperature", [0.8, 1.0, 2.5])
@pytest.mark.parametrize("n", [40, 3000])
@pytest.mark.parametrize("weighted", [False, True])
def test_they_are_those_of_one_class_at_a_time(temperature, n, weighted):
    z, y = draw(n, 12, temperature=temperature)
    w = np.random.default_rng(0).exponential(size=n) if weighted else None
    check(evaluate(y, z, w, input="logits").classwise)
    check(evaluate(y, z, w, input="logits", bins=4).classwise, level=0.8)


def test_extremes():
    counts = np.array([[5.0, 5], [5, 0], [1, 0], [40, 40], [40, 40], [0, 7]])
    hits = np.array([[0.0, 5], [0, 0], [1, 0], [40, 0], [10, 30], [0, 7]])
    confidence = counts * [0.25, 0.75]
    check(BinSums(np.array([0, 0.5, 1.0]), counts, counts, counts, confidence, hits))
    certain = counts * [0.0, 1.0]
    check(BinSums(np.array([0, 0.5, 1.0]), counts, counts, counts, certain, certain))
    half = np.array([[1.0, 0], [0, 1.0]])
    check(BinSums(np.array([0, 0.5, 1.0]), half, half, half, half / 2, half))
