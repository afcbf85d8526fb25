"""Rows in clusters: standard errors against copies of rows, and against samples of clusters."""

import math

import numpy as np
import pytest

from focalcal import TemperatureScaling, decompose, evaluate
from focalcal.intervals.resample import wilson_interval
from focalcal.metrics import decomposition, smooth
from focalcal.sums.clusters import design_effect
from focalcal.sums.judging import prepare
from predictions import draw, softmax

FIELDS = ("value", "stderr", "low", "high")


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(smooth, "_DRAWS", 40)
    monkeypatch.setattr(smooth, "_GROUPS", 60)


def problem(n=200, k=3, seed=0):
    z, y = draw(n, k, seed)
    return y, softmax(z)


@pytest.mark.parametrize("weighted", [False, True])
def test_clusters_of_one_row_change_nothing(weighted):
    y, p = problem()
    w = np.random.default_rng(0).random(200) if weighted else None
    plain = evaluate(y, p, w, metrics="all")
    alone = evaluate(y, p, w, metrics="all", cluster=np.random.default_rng(1).permutation(200))
    for name, e in plain.items():
        for field in FIELDS:
            assert getattr(alone[name], field) == pytest.approx(getattr(e, field), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("copies", [2, 5])
def test_copies_of_rows_are_no_new_rows(copies):
    y, p = problem()
    row = np.repeat(np.arange(200), copies)
    plain = evaluate(y, p, metrics="all")
    clustered = evaluate(y[row], p[row], metrics="all", cluster=row)
    naive = evaluate(y[row], p[row], metrics="all")
    for name, e in plain.items():
        assert clustered[name].value == pytest.approx(e.value, abs=1e-9) or name == "ece_l2"
        assert clustered[name].stderr == pytest.approx(e.stderr, rel=0.02)
        assert clustered[name].high - clustered[name].low == pytest.approx(e.high - e.low, rel=0.1)
        assert naive[name].stderr < 0.95 * e.stderr
        assert clustered[name].n == 200 * copies


def test_names_of_clusters_do_not_matter():
    y, p = problem()
    number = np.random.default_rng(2).integers(0, 40, 200)
    named = np.array([f"video {i}" for i in number])
    one, other = evaluate(y, p, cluster=number), evaluate(y, p, cluster=named)
    for name, e in one.items():
        assert other[name].stderr == pytest.approx(e.stderr, rel=1e-12)
    assert evaluate(y, p, cluster=1000 * number - 7).metrics == one.metrics


def of_clusters(rng, clusters, size):
    """Rows of clusters that share a shift of their true chance, and how confident they are."""
    shift = np.repeat(rng.normal(0, 0.12, clusters), size)
    c = 0.65 + 0.2 * rng.random(clusters * size)
    return rng.random(len(c)) < c + shift - 0.05, c, np.repeat(np.arange(clusters), size)


def test_intervals_cover_where_rows_come_in_clusters():
    rng = np.random.default_rng(3)
    covered, naive, rates, errors = 0, 0, [], []
    for _ in range(60):
        y, c, group = of_clusters(rng, 60, 12)
        found, independent = evaluate(y, c, cluster=group), evaluate(y, c)
        covered += found["ece"].low <= 0.05 <= found["ece"].high
        naive += independent["ece"].low <= 0.05 <= independent["ece"].high
        rates.append(found["accuracy"].value)
        errors.append(found["accuracy"].stderr)
    assert covered >= 52
    assert naive < covered
    assert np.mean(errors) == pytest.approx(np.std(rates), rel=0.2)


def test_the_design_effect_by_loops():
    y, p = problem(60)
    group = np.arange(60) % 7
    w = np.random.default_rng(4).random(60)
    rows, _ = prepare(y, p, w, "probs", None, cluster=group)
    c, hit = p.max(axis=1), p.argmax(axis=1) == y
    place = np.ceil(c * 15).astype(int)
    rate = {b: np.average(hit[place == b], weights=w[place == b]) for b in set(place)}
    e = np.array([w[i] * (hit[i] - rate[place[i]]) for i in range(60)])
    together = sum(e[(group == g) & (place == b)].sum() ** 2 for g in range(7) for b in set(place))
    assert design_effect(rows) == pytest.approx(max(1, together / (e**2).sum()))


def test_rows_that_say_the_same_in_every_cluster_are_no_fewer():
    # two clusters of one hit and one miss each: they could not be more alike inside
    y, c = np.tile([True, True, False, False], 30), np.full(120, 0.5 + 1e-3)
    rows, _ = prepare(y, c, None, "probs", None, cluster=np.repeat(np.arange(60), 2))
    assert design_effect(rows) == pytest.approx(2)
    rows, _ = prepare(y, c, None, "probs", None, cluster=np.arange(120) % 60)
    assert design_effect(rows) >= 1


def test_clusters_without_weight_do_not_count():
    y, p = problem(90)
    group = np.arange(90) // 3
    w = np.where(group < 20, 1.0, 0.0)
    few, some = evaluate(y[:60], p[:60], cluster=group[:60]), evaluate(y, p, w, cluster=group)
    for name, e in few.items():
        assert some[name].stderr == pytest.approx(e.stderr, rel=1e-9)
        assert math.isfinite(e.stderr)


def test_no_spread_between_clusters_leaves_what_independent_rows_show():
    with_clusters = evaluate([0, 1, 0, 1], [0.6] * 4, cluster=[0, 0, 1, 1])
    assert with_clusters["accuracy"].stderr == pytest.approx(
        evaluate([0, 1, 0, 1], [0.6] * 4)["accuracy"].stderr
    )


def test_rows_of_one_cluster_are_copies_where_no_spread_is_seen():
    found = evaluate([1] * 40, [0.9] * 40, cluster=np.arange(40) // 10)
    assert found["accuracy"].low == pytest.approx(evaluate([1] * 4, [0.9] * 4)["accuracy"].low)
    assert found["ece"].high == pytest.approx(evaluate([1] * 4, [0.9] * 4)["ece"].high)


def test_a_group_of_one_cluster_counts_as_one_row():
    y, p = [0, 1, 1, 1, 0, 1, 1, 0], [0.6, 0.7, 0.8, 0.7, 0.6, 0.5, 0.9, 0.4]
    found = evaluate(y, p, by=list("aaaabbbb"), cluster=[0, 0, 0, 0, 1, 1, 2, 2])
    alone = next(one for one in found.segments if one.value == "a")
    low, high = map(float, wilson_interval(0.75, 1))
    assert (alone.last["accuracy"].low, alone.last["accuracy"].high) == pytest.approx((low, high))


def test_folds_keep_clusters_together():
    z, y = draw(600, 3, seed=8)
    cluster = np.repeat(np.arange(60), 10)
    copies = np.repeat(np.arange(0, 600, 10), 10)
    parts = decompose(y[copies], z[copies], input="logits", score="nll", recalibration=TemperatureScaling())
    assert parts.calibration.n == 600
    rows, _ = prepare(y[copies], z[copies], None, "logits", None, cluster=cluster)
    held = decomposition._cross_fitted(rows, TemperatureScaling(), "nll", 5, 0.95, 0)
    assert held.calibration.stderr > 2 * parts.calibration.stderr  # ten copies of each row
