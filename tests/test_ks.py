"""The KS error against the paper's sums, and the coverage of its band."""

import math

import numpy as np
import pytest

from focalcal import ks_error
from focalcal.intervals.brownian import sup_quantile
from focalcal.metrics.ks import estimate_mean_gap
from focalcal.sums import confidences, events
from focalcal.sums.events import collect, events_of
from focalcal.sums.judging import prepare
from predictions import draw, dyadic, softmax


def by_the_paper(c, hit, w=None):
    """max over thresholds t of |Σ_{c ≤ t} w (c − hit)| / Σ w."""
    w = np.ones(len(c)) if w is None else w
    return max(abs((w * (c - hit))[c <= t].sum()) for t in c) / w.sum()


@pytest.mark.parametrize("parts", [8, 64, 2**40])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_top_class_and_one_class(parts, weighted):
    z, y = draw(120, 3, parts)
    p = dyadic(softmax(z), parts)
    w = np.random.default_rng(0).random(120) if weighted else None
    top = by_the_paper(p.max(axis=1), p.argmax(axis=1) == y, w)
    assert ks_error(y, p, w).value == pytest.approx(top, abs=1e-12)
    one = by_the_paper(p[:, 2], y == 2, w)
    assert ks_error(y, p, w, of_class=2).value == pytest.approx(one, abs=1e-12)


def test_gaps_of_one_sign_are_the_mean_gap():
    c, y = np.linspace(0.3, 0.9, 50), np.zeros(50)
    assert ks_error(y, c, of_class=1).value == pytest.approx(c.mean())


def test_the_band_is_that_of_a_brownian_motion():
    z, y = draw(300, 3, 2)
    p = softmax(z)
    e = ks_error(y, p, level=0.9)
    c, hit = p.max(axis=1), p.argmax(axis=1) == y
    s = math.sqrt(((c - hit) ** 2).sum()) / 300
    assert e.stderr == pytest.approx(s)
    assert e.high - e.value == pytest.approx(sup_quantile(0.9) * s)


@pytest.mark.parametrize("gap", [0.0, 0.1])
def test_intervals_cover(gap):
    rng = np.random.default_rng(3)
    covered = 0
    for _ in range(200):
        c = 0.5 + 0.5 * rng.random(300)
        e = ks_error(rng.random(300) < c - gap, c, of_class=True)
        covered += e.low <= gap <= e.high
    assert covered >= 182


def test_cells_of_many_rows_change_little(monkeypatch):
    z, y = draw(5000, 3, 4)
    exact = ks_error(y, softmax(z))
    monkeypatch.setattr(events, "CELLS", 1000)
    monkeypatch.setattr(confidences, "EXACT", 2000)
    coarse = ks_error(y, softmax(z))
    assert coarse.value == pytest.approx(exact.value, abs=1e-4)
    assert coarse.stderr == pytest.approx(exact.stderr, rel=1e-3)


def test_mean_gap_is_a_mean_with_its_standard_error():
    z, y = draw(400, 3, 5)
    p = softmax(z)
    cells, n = events_of(y, p, None, "probs", None, None)
    e = estimate_mean_gap(cells, n, 0.95)
    x = p.max(axis=1) - (p.argmax(axis=1) == y)
    assert e.value == pytest.approx(x.mean())
    assert e.stderr == pytest.approx(x.std() / 20, rel=1e-9)
    assert e.high - e.value == pytest.approx(1.959964 * e.stderr, rel=1e-6)


def test_cells_hold_what_the_rows_hold():
    z, y = draw(200, 3, 6)
    p = dyadic(softmax(z), 64)
    w = np.random.default_rng(1).random(200)
    rows, _ = prepare(y, p, w, "probs", None)
    cells = collect(rows, 1)
    assert (np.diff(cells.end) > 0).all()
    assert cells.count.sum() == 200
    assert cells.weight[1].sum() == pytest.approx(w[y == 1].sum())
    assert cells.weight_squared.sum() == pytest.approx((w**2).sum())
    assert cells.confidence.sum() == pytest.approx((w * p[:, 1]).sum())
