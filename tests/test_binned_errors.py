"""Binned errors in every norm, debiased and not, against loops and repeated samples."""

import math

import numpy as np
import pytest

from focalcal import classwise_ece, ece, top_label_ece
from focalcal.intervals.gap_interval import ClassCells
from focalcal.metrics.binned_errors import debiased_l1, debiased_l2
from focalcal.rows import Block
from focalcal.sums.bins import bin_rows, equal_width_edges
from focalcal.sums.events import PredictedPass
from focalcal.sums.judging import prepare
from predictions import draw, dyadic, softmax, textbook_ece


def problem(n=200, k=3, seed=0):
    z, y = draw(n, k, seed)
    return y, softmax(z)


def cells(c, hit, w, bins=15):
    """Share, mean gap, hit rate and effective rows of each occupied bin (l, u]."""
    place = np.maximum(np.ceil(c * bins - 1e-12), 1)
    for b in np.unique(place):
        own = place == b
        weight = w[own].sum()
        gap, rate = np.average((c - hit)[own], weights=w[own]), np.average(hit[own], weights=w[own])
        yield weight / w.sum(), gap, rate, weight**2 / (w[own] ** 2).sum()


def by_loops(c, hit, w, norm, debiased=False):
    parts = list(cells(c, hit, w))
    if norm == "max":
        return max(abs(gap) for _, gap, _, _ in parts)
    total = 0.0
    for share, gap, rate, rows in parts:
        noise = rate * (1 - rate) / (rows - 1) if debiased else 0
        total += share * (gap**2 - noise)
    return math.sqrt(max(total, 0))


@pytest.mark.parametrize("norm", ["l2", "max"])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_top_class_and_one_class_in_every_norm(norm, weighted):
    y, p = problem()
    w = 0.5 + np.random.default_rng(0).random(200) if weighted else np.ones(200)
    given = w if weighted else None
    c, hit = p.max(axis=1), (p.argmax(axis=1) == y).astype(float)
    assert ece(y, p, given, norm=norm).value == pytest.approx(by_loops(c, hit, w, norm))
    one = by_loops(p[:, 1], (y == 1).astype(float), w, norm)
    assert ece(y, p, given, of_class=1, norm=norm).value == pytest.approx(one)


@pytest.mark.parametrize("bins", [1, 7, 40])
def test_one_class_is_the_textbooks(bins):
    y, p = problem()
    edges = np.arange(bins + 1) / bins
    for column in range(3):
        expected = textbook_ece(p[:, column], y == column, edges=edges)
        assert ece(y, p, of_class=column, bins=bins).value == pytest.approx(expected)


def test_class_wise_norms_are_taken_over_classes():
    y, p = problem()
    ones = np.ones(200)
    errors = {
        norm: [by_loops(p[:, k], (y == k).astype(float), ones, norm) for k in range(3)]
        for norm in ("l2", "max")
    }
    assert classwise_ece(y, p, norm="l2").value == pytest.approx(math.sqrt(np.mean(np.square(errors["l2"]))))
    assert classwise_ece(y, p, norm="max").value == pytest.approx(max(errors["max"]))


def test_each_predicted_class_apart():
    y, p = problem()
    c, top = p.max(axis=1), p.argmax(axis=1)
    w = np.random.default_rng(1).random(200)
    expected = sum(
        w[top == k].sum() * textbook_ece(c[top == k], (top == y)[top == k], w[top == k]) for k in range(3)
    )
    assert top_label_ece(y, p, w).value == pytest.approx(expected / w.sum())
    assert top_label_ece(y, p, w).value >= ece(y, p, w).value


def test_norms_are_ordered():
    for seed in range(20):
        y, p = problem(100, 4, seed)
        l1, l2, largest = (ece(y, p, norm=norm).value for norm in ("l1", "l2", "max"))
        assert l1 <= l2 + 1e-12
        assert l2 <= largest + 1e-12


@pytest.mark.parametrize("slope", [1.0, 0.6])
def test_debiasing_takes_the_bias_off(slope):
    rng = np.random.default_rng(2)

    def errors(n):
        """|gap| and gap² in the mean, plug-in and debiased."""
        c = 0.5 + 0.5 * rng.random(n)
        bins = ClassCells.of(
            bin_rows(c, rng.random(n) < 0.5 + slope * (c - 0.5), None, equal_width_edges(15))
        )
        gap = bins.confidence - bins.rate
        return bins.share @ np.abs(gap), bins.share @ gap**2, debiased_l1(bins), debiased_l2(bins) ** 2

    truth = errors(400_000)[:2]
    found = np.mean([errors(300) for _ in range(300)], axis=0)
    for exact, plain, debiased in zip(truth, found[:2], found[2:], strict=True):
        assert plain > exact
        assert abs(debiased - exact) < 0.6 * (plain - exact)


def test_debiasing_by_hand():
    # one bin of four rows at .9, one hit: gap .65, noise (1/4 · 3/4)/3
    y, c = [1, 0, 0, 0], [0.9] * 4
    assert ece(y, c, of_class=1, norm="l2", debiased=True).value == pytest.approx(math.sqrt(0.65**2 - 1 / 16))
    # |gap| far beyond the noise: nothing to take off
    assert ece(y * 500, c * 500, of_class=1, debiased=True).value == pytest.approx(0.65, abs=1e-9)
    # no gap: whatever is expected of noise is taken off, and below 0 is 0
    assert ece([1, 1, 1, 0], [0.75] * 4, of_class=1, debiased=True).value == 0


@pytest.mark.parametrize("norm", ["l2", "max"])
@pytest.mark.parametrize("metric", [ece, classwise_ece])
def test_intervals_cover_no_error(norm, metric):
    covered = 0
    for seed in range(30):
        z, y = draw(200, 3, seed, temperature=1.0)
        covered += metric(y, softmax(z), norm=norm, bins=5).low <= 1e-9
    assert covered >= 25


def test_intervals_cover_an_error():
    rng = np.random.default_rng(4)
    covered = {"l1": 0, "l2": 0, "max": 0}
    for _ in range(40):
        c = np.repeat([0.6, 0.8, 0.95], 150)
        y = rng.random(450) < np.repeat([0.5, 0.6, 0.9], 150)
        for norm, truth in (("l1", 0.35 / 3), ("l2", math.sqrt(0.0525 / 3)), ("max", 0.2)):
            found = ece(y, c, of_class=True, norm=norm)
            covered[norm] += found.low <= truth <= found.high
    assert min(covered.values()) >= 34


@pytest.mark.parametrize("column", [None, 1])
@pytest.mark.parametrize("weighted", [False, True])
def test_blocks_merge_in_any_order(column, weighted):
    y, p = problem(300)
    w = np.random.default_rng(5).random(300) if weighted else None
    task, block = PredictedPass("probs", 15, column), Block(p, y.astype(np.int64), w)
    whole = task(block)
    a, b, c = (task(block.part(slice(i, i + 100))) for i in (0, 100, 200))
    for merged in ((a + b) + c, a + (b + c), c + a + b):
        for field in ("count", "weight", "weight_squared", "confidence", "hit"):
            np.testing.assert_allclose(getattr(merged, field), getattr(whole, field), rtol=1e-12, atol=1e-13)


def test_equal_mass_of_a_class_keeps_ties_together():
    y, p = problem()
    p = dyadic(p, 8)
    parts = [p[:, 1] == v for v in np.unique(p[:, 1])]
    expected = sum(abs((p[:, 1] - (y == 1))[part].sum()) for part in parts) / 200
    assert ece(y, p, of_class=1, binning="equal-mass", bins=200).value == pytest.approx(expected)


def test_rows_of_a_class_are_found_by_name():
    y, p = problem()
    names = np.array(["ant", "bee", "cat"])
    assert ece(names[y], p, of_class="bee").value == ece(y, p, of_class=1).value
    rows, found = prepare(names[y], p, None, "probs", None)
    assert found.tolist() == names.tolist()
    assert rows.n == 200


def test_options_are_checked():
    with pytest.raises(ValueError, match=r"Expected norm to be one of 'l1', 'l2', 'max', got 'l3'\."):
        ece([0], [0.5], norm="l3")
    for metric in (ece, classwise_ece):
        with pytest.raises(
            ValueError,
            match=r'Expected norm="l1" or "l2" with debiased=True, got "max", whose bias is not known\.',
        ):
            metric([0], [0.5], norm="max", debiased=True)


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_sure_rows_without_a_miss_may_still_be_wrong(norm):
    # were the true rate .86, twenty hits out of twenty would be seen in one sample of twenty
    found = ece(np.ones(20, int), np.full(20, 0.999), norm=norm)
    assert found.low == 0
    assert 0.1 < found.high < 0.25
