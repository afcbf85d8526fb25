"""Laws that every estimate obeys, and that none fails on input at the edge of what is possible."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from estimates import BY_NEIGHBOURS, COUNTING, ESTIMATES, OF_ALL, OF_CLASS, TESTS, highest
from focalcal import CalibrationWarning, decompose, ece, kernel_ece, ks_error, smooth_ece
from focalcal.metrics import decomposition, smooth
from predictions import draw, softmax

NAMES = tuple(ESTIMATES)


def quick(patch):
    """Make intervals quick where only values are compared."""
    patch.setattr(smooth, "_DRAWS", 2)
    patch.setattr(decomposition, "_DRAWS", 2)


@pytest.fixture
def few_draws(monkeypatch):
    quick(monkeypatch)


def value(name, *args, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        return ESTIMATES[name](*args, **options).value


def close(a, b, within=1e-10):
    assert a == pytest.approx(b, rel=within, abs=within)


def problem(n=40, k=3, seed=0):
    z, y = draw(n, k, seed)
    return softmax(z), y


# laws ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_weight_of_two_is_a_row_twice(name, few_draws):
    p, y = problem()
    w = np.random.default_rng(1).integers(1, 4, len(y))
    twice = np.repeat(np.arange(len(y)), w)
    if name in COUNTING:
        # weights are importance: (Σw)²/Σw² rows stand behind a bin, not Σw
        assert value(name, y, p, 2.0 * np.ones(len(y))) == pytest.approx(value(name, y, p))
    elif name in BY_NEIGHBOURS:
        assert value(name, y, p, 2.0 * np.ones(len(y))) == pytest.approx(value(name, y, p))
    else:
        close(value(name, y, p, w), value(name, y[twice], p[twice]))


@pytest.mark.parametrize("name", NAMES)
def test_rows_without_weight_do_not_count(name, few_draws):
    p, y = problem(60)
    w = np.random.default_rng(1).random(60)
    w[20:] = 0
    close(value(name, y, p, w), value(name, y[:20], p[:20], w[:20]))


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_rows_does_not_matter(name, few_draws):
    p, y = problem()
    p[10:20] = p[10]  # ties
    order = np.random.default_rng(2).permutation(len(y))
    close(value(name, y[order], p[order]), value(name, y, p))


@pytest.mark.parametrize("name", OF_ALL)
def test_the_order_of_classes_does_not_matter(name, few_draws):
    p, y = problem(k=4)
    columns = np.array([2, 0, 3, 1])
    close(value(name, np.argsort(columns)[y], p[:, columns]), value(name, y, p))


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_judged_as_their_probabilities(name, few_draws):
    z, y = draw(40, 3, 5)
    close(value(name, y, z, input="logits"), value(name, y, softmax(z)), 1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_float32_equals_float64(name, few_draws):
    z, y = draw(200, 4, 6)
    z = z.astype(np.float32)
    close(value(name, y, z, input="logits"), value(name, y, z.astype(np.float64), input="logits"), 1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_column_is_the_second_of_two(name, few_draws):
    p, y = problem(50, 2)
    close(value(name, y, p[:, 1]), value(name, y, p))
    close(value(name, y == 1, p[:, 1:]), value(name, y, p))


@pytest.mark.parametrize("name", OF_CLASS)
def test_two_classes_mirror_each_other(name, few_draws):
    p, y = problem(45, 2)  # three rows in each of 15 bins, whichever end is counted from
    if name == "ks of":  # by its definition sums run from the low end: from the other, they are what is left
        gap = (p[:, 1] - (y == 1))[np.argsort(p[:, 1])]
        close(value(name, y, p), np.abs(np.cumsum(gap)).max() / 45)
        close(value(name, 1 - y, p[:, ::-1]), np.abs(np.cumsum(gap[::-1])).max() / 45)
    else:
        close(value(name, 1 - y, p[:, ::-1]), value(name, y, p))


@given(st.integers(2, 40), st.integers(2, 5), st.integers(0, 1000), st.sampled_from(NAMES))
@settings(max_examples=100)
def test_values_and_ends_are_possible(n, k, seed, name):
    p, y = problem(n, k, seed)
    p = np.round(p, 1 + seed % 3)  # ties, zeros and ones
    p[:, 0] += 1 - p.sum(axis=1)
    p = np.abs(p)
    p /= p.sum(axis=1, keepdims=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        e = ESTIMATES[name](y, p)
    top = highest(name, k) + 1e-9
    assert 0 <= e.value <= top
    assert e.low <= e.high
    assert e.low >= (-1 if name == "discrimination" else 0)
    if name not in ("brier", "discrimination"):  # normal intervals of scores are not cut above
        assert e.high <= top


@pytest.mark.parametrize("name", NAMES)
def test_the_level_is_kept(name, monkeypatch):
    monkeypatch.setattr(smooth, "_DRAWS", 30)
    p, y = problem(80)
    wide, narrow = (ESTIMATES[name](y, p, level=level) for level in (0.99, 0.5))
    assert (wide.level, narrow.level) == (0.99, 0.5)
    assert wide.value == narrow.value
    assert wide.low <= narrow.low + 1e-9
    assert wide.high >= narrow.high - 1e-9
    with pytest.raises(ValueError, match=r"Expected level between 0 and 1, e\.g\. 0\.95, got 95"):
        ESTIMATES[name](y, p, level=95)


# input at the edge -----------------------------------------------------------------------------------------

HALF = np.arange(20) % 2
EDGES = {
    "two rows": ([1, 0], np.array([0.7, 0.7])),
    "all hits": (np.ones(20, int), np.full(20, 0.8)),
    "all misses": (np.zeros(20, int), np.full(20, 0.8)),
    "one confidence": (HALF, np.full(20, 0.8)),
    "sure and right": (np.ones(20, int), np.ones(20)),
    "sure and wrong": (np.zeros(20, int), np.ones(20)),
    "sure and either": (HALF, np.ones(20)),
    "a half": (HALF, np.full(20, 0.5)),
    "many classes": (np.arange(5), softmax(np.random.default_rng(0).normal(size=(5, 1000)))),
    "float16": (HALF, np.linspace(0.05, 0.95, 20).astype(np.float16)),
}


@pytest.mark.parametrize("case", EDGES)
@pytest.mark.parametrize("name", NAMES)
def test_input_at_the_edge(name, case, monkeypatch):
    monkeypatch.setattr(smooth, "_DRAWS", 30)
    y, p = EDGES[case]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)  # labels of probability 0
        e = ESTIMATES[name](y, p)
    k = p.shape[1] if p.ndim == 2 else 2
    assert 0 <= e.value <= highest(name, k) + 1e-6
    assert e.low <= e.high
    assert math.isfinite(e.stderr)
    assert e.n == len(p)


@pytest.mark.parametrize("name", [name for name in NAMES if name not in BY_NEIGHBOURS])
def test_one_row_has_a_value_and_no_standard_error(name):
    e = ESTIMATES[name]([1], [[0.2, 0.7, 0.1]])
    assert math.isfinite(e.value)
    assert math.isnan(e.stderr)
    assert not e.low > e.high


@pytest.mark.parametrize("name", NAMES)
def test_masked_classes(name, few_draws):
    z, y = draw(40, 4, 3)
    z[:, 3], y = -np.inf, y % 3
    few = ESTIMATES[name](y, z[:, :3], input="logits")
    e = ESTIMATES[name](y, z, input="logits")
    assert e.low <= e.high
    if "classwise" not in name and "kernel" not in name:  # an average over more classes; another simplex
        close(e.value, few.value)


@pytest.mark.parametrize("case", EDGES)
@pytest.mark.parametrize("method", TESTS)
def test_tests_of_input_at_the_edge(method, case):
    y, p = EDGES[case]
    found = TESTS[method](y, p)
    assert 0 <= found.p_value <= 1
    assert math.isfinite(found.statistic)
    if case in ("sure and wrong", "sure and either"):  # what cannot happen has happened
        assert found.p_value < 0.01
    if case in ("sure and right", "a half"):
        assert found.p_value > 0.2


@pytest.mark.parametrize("metric", [ece, smooth_ece, ks_error, kernel_ece, decompose, *TESTS.values()])
def test_a_class_that_is_none(metric):
    y, p = EDGES["one confidence"]
    with pytest.raises(
        ValueError, match=r"Expected of_class to be one of the 2 classes .*, got 7\. Leave it"
    ):
        metric(y, p, of_class=7)
