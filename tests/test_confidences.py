"""Confidences of any number of rows: exact up to a limit, then in cells fine enough not to matter."""

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import focalcal.sums.confidences
from focalcal.sums.confidences import N_CELLS, Confidences, cell_ends, find_cell


def rows(n, seed=0, dtype=np.float64, sharp=1.0):
    rng = np.random.default_rng(seed)
    confidence = 1 / (1 + np.exp(-np.abs(rng.normal(size=n) * 4 * sharp)))
    hit = rng.random(n) < confidence**1.5
    return confidence.astype(dtype), hit, rng.random(n)


@pytest.fixture
def small_limit(monkeypatch):
    monkeypatch.setattr(focalcal.sums.confidences, "EXACT", 1000)


def merged(parts, order=None):
    parts = list(parts)
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


def split(confidence, hit, weight, pieces):
    index = np.array_split(np.arange(len(confidence)), pieces)
    return [Confidences.of(confidence[i], hit[i], None if weight is None else weight[i]) for i in index]


@given(st.floats(0, 1))
def test_a_cell_is_narrow_and_ends_where_it_says(confidence):
    cell = find_cell(np.array([confidence]))
    assert 0 <= cell[0] < N_CELLS
    (end,) = cell_ends(cell)
    assert find_cell(np.array([end])) == cell
    assert 0 <= end - (1 - (1 - confidence)) <= 2.0**-10 * (1 - confidence)
    if end < 1:
        assert find_cell(np.array([end + 2.0**-53])) < cell


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_cells_fall_as_confidence_rises(dtype):
    c = np.sort(np.concatenate([[0, 1, 0.5, np.nextafter(dtype(1), dtype(0))], rows(10_000, dtype=dtype)[0]]))
    cells = find_cell(c.astype(dtype))
    assert (np.diff(cells) <= 0).all()
    assert cells[-1] == 0
    assert cells[0] == N_CELLS - 1


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("sharp", [0.3, 1, 5])
def test_bins_agree_with_those_of_every_row(small_limit, weighted, dtype, sharp):
    confidence, hit, weight = rows(50_000, dtype=dtype, sharp=sharp)
    weight = weight if weighted else None
    collapsed = merged(split(confidence, hit, weight, 60))
    assert collapsed.tallies is not None
    assert collapsed.signed == ()
    exact = Confidences.of(confidence, hit, weight).equal_mass(15)
    fine = collapsed.equal_mass(15)
    assert fine.count.sum() == 50_000
    for name in ("weight", "weight_squared", "confidence", "hit"):
        assert getattr(fine, name).sum() == pytest.approx(getattr(exact, name).sum(), rel=1e-12)
    if sharp < 5:  # else a cell at 1 holds more than a bin
        assert len(fine.edges) == len(exact.edges)
        assert (np.abs(fine.edges - exact.edges) <= 2e-3 * (1 - exact.edges)).all()
        np.testing.assert_allclose(fine.weight, exact.weight, rtol=0.02)
    assert fine.gap_sum == pytest.approx(exact.gap_sum, rel=0.02)
    # each bin's sums are those of its own rows, by the contract (l, u]
    place = np.searchsorted(fine.edges[1:-1], confidence.astype(np.float64), side="left")
    np.testing.assert_array_equal(fine.count, np.bincount(place, minlength=len(fine.count)))
    w = np.ones(50_000) if weight is None else weight
    np.testing.assert_allclose(fine.hit, np.bincount(place, w * hit), rtol=1e-12)
    np.testing.assert_allclose(fine.confidence, np.bincount(place, w * confidence), rtol=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
def test_the_order_of_merging_does_not_matter(small_limit, weighted):
    confidence, hit, weight = rows(5000)
    parts = split(confidence, hit, weight if weighted else None, 12)
    one = merged(parts)
    other = merged([merged(parts[6:][::-1]), merged(parts[:6])])
    np.testing.assert_array_equal(one.tallies[0], other.tallies[0])
    np.testing.assert_allclose(one.tallies, other.tallies, rtol=1e-12)
    np.testing.assert_array_equal(one.equal_mass(15).edges, other.equal_mass(15).edges)


def test_up_to_the_limit_every_row_is_kept(small_limit):
    confidence, hit, _ = rows(1000)
    kept = merged(split(confidence, hit, None, 50))
    assert kept.tallies is None
    assert len(kept.signed) < 12
    np.testing.assert_array_equal(np.concatenate(kept.signed), np.where(hit, confidence, -confidence))
    whole = Confidences.of(confidence, hit, None).equal_mass(15)
    np.testing.assert_array_equal(kept.equal_mass(15).gap, whole.gap)
    more = kept + Confidences.of(confidence[:1], hit[:1], None)
    assert more.tallies is not None
    assert more.equal_mass(15).count.sum() == 1001


def test_memory_is_bounded():
    confidence, hit, weight = rows(1 << 20)
    block = Confidences.of(confidence, hit, weight)
    total = block
    for _ in range(10):
        total = total + block
    assert len(pickle.dumps(total)) < 4 * 2 * N_CELLS * 8 + 1000
    assert total.cells().count.sum() == 11 << 20


@pytest.mark.parametrize("limit", [10, 10_000])
def test_cells_are_the_same_before_and_after_the_limit(monkeypatch, limit):
    monkeypatch.setattr(focalcal.sums.confidences, "EXACT", limit)
    confidence, hit, weight = rows(3000)
    confidence[:50] = 1
    found = merged(split(confidence, hit, weight, 7)).cells()
    assert (np.diff(found.end) > 0).all()
    assert (np.diff(found.mean_confidence) > 0).all()
    assert (found.mean_confidence <= found.end + 1e-15).all()
    assert (found.hits + found.misses > 0).all()
    assert (found.hits.sum(), found.misses.sum()) == (hit.sum(), (~hit).sum())
    np.testing.assert_allclose(found.weight.sum(axis=1), [weight[~hit].sum(), weight[hit].sum()])
    np.testing.assert_allclose(found.weight_squared.sum(), (weight**2).sum())
    np.testing.assert_allclose(found.confidence.sum(), (weight * confidence).sum())


def test_rows_of_no_weight_and_equal_confidences(small_limit):
    confidence = np.repeat([0.5, 0.75, 1.0], 1000)
    hit = np.arange(3000) % 2 == 0
    sums = merged(split(confidence, hit, None, 5)).equal_mass(15)
    assert sums.count.tolist() == [1000, 1000, 1000]
    np.testing.assert_allclose(sums.mean_confidence, [0.5, 0.75, 1.0])
    weight = np.repeat([1.0, 1.0, 0.0], 1000)
    sums = merged(split(confidence, hit, weight, 5)).equal_mass(15)
    assert sums.weight.tolist() == [1000, 1000]
