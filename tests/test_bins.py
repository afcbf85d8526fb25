"""Where a confidence falls, and that bin sums are exact, complete and mergeable."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from focalcal.sums.bins import BinSums, bin_classes, bin_rows, equal_mass_edges, equal_width_edges, find_bin
from predictions import draw, softmax, textbook_ece

FIELDS = ("count", "weight", "weight_squared", "confidence", "hit")
FLOATS = (np.float16, np.float32, np.float64)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("bins", [1, 2, 5, 10, 15, 20])
def test_every_edge_belongs_to_the_bin_below_it(dtype, bins):
    edges = equal_width_edges(bins, dtype)
    on_paper = np.array([j / bins for j in range(bins + 1)], dtype)
    np.testing.assert_array_equal(find_bin(on_paper, edges), [0, *range(bins)])
    above = np.nextafter(on_paper[:-1], dtype(2))
    np.testing.assert_array_equal(find_bin(above, edges), range(bins))
    np.testing.assert_array_equal(find_bin(np.nextafter(on_paper[1:], dtype(0)), edges), range(bins))


def test_a_float32_confidence_falls_where_it_falls_on_paper():
    value = np.float32(0.2)
    assert float(value) > 0.2  # what a comparison with the unrounded edge would see
    assert find_bin(np.array([value]), equal_width_edges(15, np.float32)) == 2
    assert find_bin(np.array([0.2]), equal_width_edges(15)) == 2


def test_zero_and_one_and_beyond_are_not_dropped():
    edges = equal_width_edges(15)
    np.testing.assert_array_equal(find_bin(np.array([0.0, 1.0, 1.0005, -1e-9]), edges), [0, 14, 14, 0])
    sums = bin_rows(np.array([0.0, 1.0, 1.0]), np.array([0, 1, 0]), None, edges)
    assert sums.count.sum() == 3
    assert sums.count[14] == 2


def test_confidence_one_is_in_the_last_bin_not_in_one_of_its_own():
    sums = bin_rows(np.array([0.95, 1.0]), np.array([True, True]), None, equal_width_edges(15))
    assert sums.gap_sum == pytest.approx(0.025, abs=1e-15)
    mixed = bin_rows(np.array([0.95, 1.0]), np.array([True, False]), None, equal_width_edges(15))
    assert mixed.gap_sum == pytest.approx(0.475, abs=1e-15)  # |1.95 − 1| / 2; apart it would be .525


def test_forty_million_rows_in_one_bin():
    # a float32 counter stops at 2**24 = 16.8 million
    block = bin_rows(np.full(100_000, 0.9), np.arange(100_000) % 10 < 7, None, equal_width_edges(15))
    total = block
    for _ in range(399):
        total = total + block
    assert total.count.sum() == 40_000_000
    assert float(total.gap_sum) == pytest.approx(0.2, abs=1e-12)


def test_ratios_of_an_empty_bin_are_nan_and_its_gap_is_zero():
    sums = bin_rows(np.array([0.95]), np.array([1]), None, equal_width_edges(2))
    assert np.isnan(sums.mean_confidence[0])
    assert np.isnan(sums.hit_rate[0])
    assert np.isnan(sums.effective_count[0])
    np.testing.assert_array_equal(sums.share, [0, 1])
    assert sums.gap[0] == 0


def test_weights_enter_every_sum():
    c, h, w = np.array([0.6, 0.7, 0.2]), np.array([1, 0, 1]), np.array([2.0, 1.0, 0.0])
    sums = bin_rows(c, h, w, equal_width_edges(1))
    assert [float(getattr(sums, name)[0]) for name in FIELDS] == pytest.approx([3, 3, 5, 1.9, 2])
    assert float(sums.effective_count[0]) == pytest.approx(9 / 5)
    assert float(sums.mean_confidence[0]) == pytest.approx(1.9 / 3)


def test_different_edges_do_not_merge():
    one, two = (bin_rows(np.array([0.5]), np.array([1]), None, equal_width_edges(b)) for b in (1, 2))
    with pytest.raises(ValueError, match=r"same edges, got different edges\. Bin both alike"):
        one + two


rows = st.lists(st.tuples(st.integers(0, 64), st.booleans(), st.integers(0, 5)), min_size=1, max_size=40)


def sums_of(part):
    c, h, w = (np.array(column, np.float64) for column in zip(*part, strict=True))
    return bin_rows(c / 64, h, w, equal_width_edges(15))


@given(rows, rows, rows)
def test_merging_is_associative_free_of_order_and_equal_to_the_whole(a, b, c):
    # confidences are multiples of 1/64 and weights whole, so every sum is exact
    x, y, z = sums_of(a), sums_of(b), sums_of(c)
    for other in (x + (y + z), z + x + y, sums_of(a + b + c), sums_of((c + b + a)[::-1])):
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(x + y + z, name), getattr(other, name))


@given(rows)
def test_whole_weights_are_repeated_rows(part):
    repeated = [(c, h, 1) for c, h, w in part for _ in range(w)]
    if repeated:
        for name in ("weight", "confidence", "hit"):
            np.testing.assert_array_equal(getattr(sums_of(part), name), getattr(sums_of(repeated), name))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n", "k", "bins"), [(40, 2, 15), (60, 3, 15), (30, 40, 15), (25, 4, 1), (50, 5, 2)])
def test_class_bins_are_each_column_binned_alone(dtype, weighted, n, k, bins):
    z, y = draw(n, k, seed=n)
    p = softmax(z).astype(dtype)
    p[0] = 0  # a whole row in the first bins but one
    p[0, y[0]] = 1
    w = np.random.default_rng(1).random(n) if weighted else None
    edges = equal_width_edges(bins, dtype)
    sums = bin_classes(p.astype(np.float32 if dtype == np.float16 else dtype), y, w, edges)
    for j in range(k):
        alone = bin_rows(p[:, j].astype(np.float64), y == j, w, edges)
        for name in FIELDS:
            np.testing.assert_allclose(getattr(sums, name)[j], getattr(alone, name), rtol=1e-12, atol=1e-14)


def test_equal_mass_bins_of_distinct_confidences_hold_equally_many():
    confidence = np.random.default_rng(0).permutation(np.linspace(0.1, 0.99, 150))
    sums = bin_rows(confidence, confidence > 0.5, None, equal_mass_edges(confidence, None, 15))
    np.testing.assert_array_equal(sums.count, np.full(15, 10.0))


def test_equal_mass_of_a_number_that_does_not_divide_drops_no_row():
    confidence = np.linspace(0.3, 0.9, 17)
    sums = bin_rows(confidence, np.ones(17), None, equal_mass_edges(confidence, None, 5))
    np.testing.assert_array_equal(sums.count, [4, 3, 4, 3, 3])


@given(
    st.lists(st.tuples(st.integers(1, 20), st.integers(0, 3)), min_size=1, max_size=60).filter(
        lambda rows: any(w for _, w in rows)
    ),
    st.integers(1, 16),
)
def test_equal_mass_keeps_ties_together_and_follows_weights(part, bins):
    c, w = (np.array(column, np.float64) for column in zip(*part, strict=True))
    c /= 20
    edges = equal_mass_edges(c, w, bins)
    repeated = np.repeat(c, w.astype(int))
    np.testing.assert_array_equal(edges, equal_mass_edges(repeated, None, bins))
    assert (np.diff(edges) > 0).all()
    assert (edges[0], edges[-1]) == (0, 1)
    sums = bin_rows(c, np.ones(len(c)), w, edges)
    assert sums.count.sum() == len(c)
    largest_tie = max(np.bincount(np.rint(repeated * 20).astype(int)))
    assert sums.weight.max() <= len(repeated) / bins + largest_tie
    # each inner edge is the smallest value below which its share of the weight lies
    for edge in edges[1:-1]:
        below = (repeated < edge).sum() * bins / len(repeated)
        upto = (repeated <= edge).sum() * bins / len(repeated)
        assert np.floor(upto + 1e-9) > np.floor(below - 1e-9) or upto == below


def test_equal_mass_of_one_value_is_one_bin():
    for value in (0.0, 0.4, 1.0):
        np.testing.assert_array_equal(equal_mass_edges(np.full(9, value), None, 15), [0, 1])


@pytest.mark.parametrize("seed", range(3))
def test_gap_sum_is_the_textbook_sum(seed):
    rng = np.random.default_rng(seed)
    c, h, w = rng.random(300), rng.random(300) < 0.6, rng.random(300)
    for edges in (equal_width_edges(15), equal_mass_edges(c, w, 7)):
        sums = bin_rows(c, h, w, edges)
        assert float(sums.gap_sum) == pytest.approx(textbook_ece(c, h, w, edges), abs=1e-14)


def test_to_dict_is_plain():
    sums = bin_rows(np.array([0.25]), np.array([1]), None, equal_width_edges(2))
    assert sums.to_dict() == {
        "edges": [0.0, 0.5, 1.0],
        "count": [1.0, 0.0],
        "weight": [1.0, 0.0],
        "weight_squared": [1.0, 0.0],
        "confidence": [0.25, 0.0],
        "hit": [1.0, 0.0],
    }


def test_edges_are_ordered_in_every_precision():
    for dtype in FLOATS:
        assert all(low < high for low, high in pairwise(equal_width_edges(100, dtype)))


def test_sums_are_frozen():
    sums = bin_rows(np.array([0.25]), np.array([1]), None, equal_width_edges(2))
    assert isinstance(sums, BinSums)
    with pytest.raises(AttributeError):
        sums.count = None


@pytest.mark.parametrize("weight", [0.1, 1 / 3, 7e5])
def test_a_common_weight_leaves_equal_mass_edges_as_they_are(weight):
    confidence = np.linspace(0.2, 0.9, 150)
    edges = equal_mass_edges(confidence, np.full(150, weight), 15)
    np.testing.assert_array_equal(edges, equal_mass_edges(confidence, None, 15))


def test_rows_without_weight_make_no_edge():
    confidence, weight = np.array([0.1, 0.3, 0.6, 0.9]), np.array([0.0, 1.0, 1.0, 0.0])
    np.testing.assert_array_equal(equal_mass_edges(confidence, weight, 2), [0, 0.3, 1])
    np.testing.assert_array_equal(equal_mass_edges(confidence, weight * [1, 1, 0, 1], 5), [0, 1])
