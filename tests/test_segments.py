"""Groups of rows: each is judged as if alone, and no more are called miscalibrated than by chance."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from focalcal import evaluate
from focalcal.verdicts.segments import holm
from predictions import draw, softmax

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def problem(n=400, seed=0, temperature=1.5):
    z, y = draw(n, 3, seed, temperature)
    groups = np.array(["a", "b", "c", "d"])[np.random.default_rng(seed).integers(0, 4, n)]
    return y, softmax(z), groups


@pytest.mark.parametrize("weighted", [False, True])
def test_a_segment_is_the_evaluation_of_its_rows(weighted):
    y, p, groups = problem()
    w = np.random.default_rng(1).random(400) if weighted else None
    clusters = np.arange(400) // 2
    found = evaluate(y, p, w, by=groups, cluster=clusters, bins=10, level=0.9).segments
    assert sorted(one.value for one in found) == ["a", "b", "c", "d"]
    for one in found:
        own = groups == one.value
        alone = evaluate(
            y[own], p[own], None if w is None else w[own], cluster=clusters[own], bins=10, level=0.9
        )
        assert one.n == own.sum()
        for name in ("nll", "brier", "accuracy", "ece"):
            for field in ("value", "low", "high", "stderr"):
                assert getattr(one.last[name], field) == pytest.approx(getattr(alone[name], field), rel=1e-9)


def test_the_surest_miscalibration_comes_first():
    y, p, groups = problem(2000)
    spoilt = groups == "c"
    p[spoilt] = softmax(4 * np.log(p[spoilt]))
    found = evaluate(y, p, by=groups).segments
    assert found[0].value == "c"
    assert [one.last["ece"].low for one in found] == sorted(
        (one.last["ece"].low for one in found), reverse=True
    )
    assert found[0].adjusted_p_value < 1e-3


@given(p_values)
@settings(max_examples=30)
def test_holm_by_all_subsets(p):
    """Closed testing: the largest Bonferroni p-value of all sets of hypotheses that hold this one."""
    p = np.array(p)
    indices = range(len(p))
    for i, adjusted in enumerate(holm(p)):
        subsets = (s for r in range(1, len(p) + 1) for s in itertools.combinations(indices, r) if i in s)
        closed = max(min(1, len(s) * p[list(s)].min()) for s in subsets)
        assert adjusted == pytest.approx(closed, abs=1e-12)


@given(p_values, st.randoms(use_true_random=False))
@settings(max_examples=30)
def test_holm_does_not_depend_on_the_order(p, random):
    p, order = np.array(p), random.sample(range(len(p)), len(p))
    np.testing.assert_allclose(holm(p[order]), holm(p)[order])


def test_p_values_are_uniform_under_calibration():
    p_values, family = [], 0
    for seed in range(30):
        y, p, groups = problem(800, seed, temperature=1.0)
        found = evaluate(y, p, by=groups).segments
        p_values += [one.p_value for one in found]
        family += min(one.adjusted_p_value for one in found) < 0.05
    for level in (0.05, 0.2, 0.5):
        low, high = binom.ppf([0.0005, 0.9995], 120, level)
        assert low <= np.sum(np.array(p_values) < level) <= high
    assert family <= binom.ppf(0.999, 30, 0.05)


def test_groups_of_any_kind():
    y, p, groups = problem(40)
    assert {one.value for one in evaluate(y, p, by=groups == "a").segments} == {"True", "False"}
    assert {one.value for one in evaluate(y, p, by=(groups == "a").astype(int) + 9).segments} == {"9", "10"}
    assert len(evaluate(y, p, by=["all"] * 40).segments) == 1


def test_groups_without_weight_are_left_out():
    y, p, groups = problem(80)
    found = evaluate(y, p, (groups != "b").astype(float), by=groups).segments
    assert sorted(one.value for one in found) == ["a", "c", "d"]


def test_plain_values():
    y, p, groups = problem(100)
    document = evaluate(y, p, by=groups).to_dict()["segments"]
    assert len(document) == 4
    assert set(document[0]) >= {"segment", "n", "p_value", "adjusted_p_value", "all"}
    assert sum(one["n"] for one in document) == 100


def test_too_many_groups_are_an_error():
    n = 1001
    with pytest.raises(
        ValueError, match=r"Expected at most 1,000 different values in the column given as by"
    ):
        evaluate(np.zeros(n, int), np.full(n, 0.5), by=np.arange(n))
    with pytest.raises(ValueError, match=r"Expected by with one entry for each of the 3 rows"):
        evaluate([0, 1, 1], [0.5, 0.5, 0.5], by=["a"])
