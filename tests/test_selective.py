"""The risk–coverage curve and its area, against an integral by brute force and against repeated samples."""

import math

import numpy as np
import pytest
from scipy.integrate import quad

from focalcal import selective_risk
from focalcal.intervals.resample import wilson_interval
from focalcal.sums import confidences, events
from predictions import draw, softmax


def integral(c, miss, weight=None):
    """∫ R(u) du, R(u) the mean miss of the share u that is most confident; ties in random order."""
    weight = np.ones(len(c)) if weight is None else weight
    order = np.argsort(-c, kind="stable")
    c, miss, weight = c[order], miss[order], weight[order] / weight.sum()
    rate = np.array([np.average(miss[c == own], weights=weight[c == own]) for own in c])
    ends = np.cumsum(weight)

    def risk(u):
        k = min(np.searchsorted(ends, u), len(c) - 1)
        before = ends[k] - weight[k]
        return (weight[:k] @ rate[:k] + (u - before) * rate[k]) / u

    return sum(quad(risk, a, b, limit=200)[0] for a, b in zip([0, *ends[:-1]], ends, strict=True))


@pytest.mark.parametrize("digits", [1, 2, 12])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_area_is_the_integral(digits, weighted):
    z, y = draw(60, 3, digits)
    p = softmax(z)
    c = np.round(p.max(axis=1), digits)
    tied = np.where(p == p.max(axis=1, keepdims=True), c[:, None], (1 - c[:, None]) / 2)
    w = np.random.default_rng(0).random(60) if weighted else None
    found = selective_risk(y, tied, w)
    assert found.aurc.value == pytest.approx(integral(c, tied.argmax(axis=1) != y, w), abs=1e-8)


def test_without_ties_libraries_that_average_over_rows_differ_by_order_one_over_n():
    for n in (100, 1000):
        z, y = draw(n, 4, 1)
        p = softmax(z)
        miss = (p.argmax(axis=1) != y)[np.argsort(-p.max(axis=1))]
        plain = np.mean(np.cumsum(miss) / np.arange(1, n + 1))
        assert selective_risk(y, p).aurc.value == pytest.approx(plain, abs=1.5 / n)


CONFIDENCES = {
    "one": lambda rng, n: np.full(n, 0.8),
    "three": lambda rng, n: rng.choice([0.6, 0.8, 1.0], n, p=[0.2, 0.3, 0.5]),
    "many": lambda rng, n: 0.5 + 0.5 * rng.random(n),
}


@pytest.mark.parametrize("shape", CONFIDENCES)
def test_the_standard_error_is_the_spread_over_samples(shape):
    rng = np.random.default_rng(3)
    areas, errors, covered = [], [], 0
    truth = np.mean([area_in_sample(rng, shape, 20_000).value for _ in range(3)])
    for _ in range(400):
        e = area_in_sample(rng, shape, 150)
        areas.append(e.value)
        errors.append(e.stderr)
        covered += e.low <= truth <= e.high
    assert np.mean(errors) == pytest.approx(np.std(areas), rel=0.12)
    assert covered / 400 > 0.9


def area_in_sample(rng, shape, n):
    c = CONFIDENCES[shape](rng, n)
    return selective_risk(rng.random(n) < 0.9 * c, c).aurc


def test_one_confidence_is_a_share_of_misses():
    # no ranking: the area is the error rate, and its standard error that of a share
    e = selective_risk(np.arange(100) % 4 > 0, np.full(100, 0.8)).aurc
    assert e.value == pytest.approx(0.25)
    assert e.stderr == pytest.approx(math.sqrt(0.25 * 0.75 / 100), rel=1e-9)


def test_only_misses_leave_nothing_to_vary():
    e = selective_risk(np.zeros(20, int), np.full(20, 0.8)).aurc
    assert (e.value, e.low, e.high) == pytest.approx((1, 1, 1))
    assert e.stderr == pytest.approx(0, abs=1e-12)


def test_the_curve_and_its_points():
    found = selective_risk([0, 0, 1, 0], [[0.9, 0.1], [0.8, 0.2], [0.8, 0.2], [0.6, 0.4]])
    np.testing.assert_allclose(found.coverage, [0.25, 0.75, 1])
    np.testing.assert_allclose(found.threshold, [0.9, 0.8, 0.6])
    np.testing.assert_allclose(found.risk, [0, 1 / 3, 1 / 4])
    low, high = wilson_interval(found.risk, [1, 3, 4])
    np.testing.assert_allclose((found.low, found.high), (low, high))
    middle = found.at(0.5)  # three rows are kept: two of them would part equal confidences
    assert (middle.value, middle.n, middle.method) == (pytest.approx(1 / 3), 3, "wilson")
    assert found.at(0.75).value == middle.value
    assert found.at(1.0).value == found.at(0.76).value == 0.25
    plain = found.to_dict()
    assert plain["aurc"]["value"] == found.aurc.value
    assert plain["curve"]["coverage"] == found.coverage.tolist()


def test_the_excess_is_nothing_for_a_perfect_ranking():
    c = np.linspace(0.99, 0.51, 50)
    assert selective_risk(np.arange(50) < 37, c).excess_aurc == pytest.approx(0, abs=1e-12)
    assert selective_risk(np.arange(50) >= 13, c).excess_aurc > 0.2
    assert selective_risk(np.zeros(50, int), c).excess_aurc == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("coverage", [0, -0.1, 1.5, math.nan])
def test_coverage_is_a_share(coverage):
    found = selective_risk([0, 1], [[0.9, 0.1], [0.8, 0.2]])
    with pytest.raises(ValueError, match=r"Expected coverage above 0 and at most 1, got"):
        found.at(coverage)


def test_cells_of_many_rows_change_little(monkeypatch):
    z, y = draw(5000, 3, 2)
    exact = selective_risk(y, softmax(z))
    monkeypatch.setattr(events, "CELLS", 1000)
    monkeypatch.setattr(confidences, "EXACT", 2000)
    coarse = selective_risk(y, softmax(z))
    assert coarse.aurc.value == pytest.approx(exact.aurc.value, abs=1e-4)
    assert coarse.aurc.stderr == pytest.approx(exact.aurc.stderr, rel=1e-2)


def test_it_is_drawn():
    pytest.importorskip("matplotlib", reason="matplotlib is an optional extra")
    import matplotlib as mpl
    import matplotlib.pyplot as plt

    mpl.use("agg")
    z, y = draw(50, 3)
    ax = selective_risk(y, softmax(z)).plot()
    assert ax.get_xlabel() == "coverage"
    assert len(ax.lines) == len(ax.collections) == 1
    plt.close(ax.figure)
