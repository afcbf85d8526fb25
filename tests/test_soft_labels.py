"""Distributions as labels: one-hot rows are labels, and others are the mean over labels drawn from them."""

import numpy as np
import pytest

from estimates import BY_NEIGHBOURS, COUNTING, ESTIMATES, TESTS
from focalcal import TemperatureScaling, compare, decompose, evaluate
from focalcal.metrics import decomposition, smooth
from predictions import draw, softmax

#: They say that they want labels.
HARD_ONLY = ("focal", "focal proper")
SOFT = [name for name in ESTIMATES if name not in HARD_ONLY]


def voted(n=40, k=3, votes=5, seed=0):
    """Probabilities (n, K), counts of votes (n, K)."""
    z, _ = draw(n, k, seed)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(votes, softmax(z / 3))
    return softmax(z), counts


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(smooth, "_DRAWS", 2)
    monkeypatch.setattr(decomposition, "_DRAWS", 2)


@pytest.mark.parametrize("name", SOFT)
@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_one_hot_rows_are_labels(name, kind):
    z, y = draw(40, 3, 1)
    scores = softmax(z) if kind == "probs" else z
    w = np.random.default_rng(0).random(40)
    soft = ESTIMATES[name](np.eye(3)[y], scores, w, input=kind)
    hard = ESTIMATES[name](y, scores, w, input=kind)
    assert soft.value == pytest.approx(hard.value, rel=1e-9, abs=1e-12)
    for field in ("low", "high", "stderr"):  # a draw may fall on the other side by rounding
        assert getattr(soft, field) == pytest.approx(getattr(hard, field), rel=0.02, abs=1e-3)


@pytest.mark.parametrize("name", [name for name in SOFT if name not in (*COUNTING, *BY_NEIGHBOURS)])
def test_votes_are_as_many_weighted_rows(name):
    """One row for each vote; bins, cells and means then hold the same weights and hits."""
    p, counts = voted()
    row, label = np.nonzero(counts)
    expanded = ESTIMATES[name](label, p[row], counts[row, label] / 5).value
    soft = ESTIMATES[name](counts / 5, p).value
    assert soft == pytest.approx(expanded, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("name", ["ece l2 debiased", "ece l1 debiased", "kernel", "kernel of", "kernel l2"])
def test_where_rows_are_counted_a_row_of_votes_is_one_row(name):
    p, counts = voted()
    row, label = np.nonzero(counts)
    soft = ESTIMATES[name](counts / 5, p)
    assert soft.n == 40
    assert 0 <= soft.low <= soft.high
    assert np.isfinite(soft.value)
    assert soft.value != ESTIMATES[name](label, p[row], counts[row, label] / 5).value


def test_the_kernel_smooths_distributions():
    p, counts = voted()
    rng = np.random.default_rng(3)
    drawn = [
        ESTIMATES["kernel of"](
            (rng.random((40, 1)) > (counts / 5).cumsum(axis=1)[:, :-1]).sum(axis=1), p
        ).value
        for _ in range(50)
    ]
    assert ESTIMATES["kernel of"](counts / 5, p).value < np.mean(drawn)  # |mean| ≤ mean of | |


@pytest.mark.parametrize("method", TESTS)
def test_tests_of_one_hot_rows(method):
    z, y = draw(60, 3, 2)
    p = softmax(z)
    for options in ({}, {"of_class": 1}):
        soft, hard = TESTS[method](np.eye(3)[y], p, **options), TESTS[method](y, p, **options)
        assert soft.statistic == pytest.approx(hard.statistic, rel=1e-9)
        assert soft.p_value == pytest.approx(hard.p_value, abs=0.02)


def test_a_scores_mean_is_that_of_drawn_labels():
    p, counts = voted(seed=4)
    targets = counts / 5
    found = evaluate(targets, p)
    assert found["nll"].value == pytest.approx(-(targets * np.log(p)).sum(axis=1).mean())
    by_label = np.stack([((p - np.eye(3)[k]) ** 2).sum(axis=1) for k in range(3)], axis=1)
    assert found["brier"].value == pytest.approx((targets * by_label).sum(axis=1).mean())
    assert found["accuracy"].value == pytest.approx(targets[np.arange(40), p.argmax(axis=1)].mean())
    assert "ece_equal_mass" not in found  # which needs one outcome a row


def test_equal_mass_bins_hold_equal_mass():
    p, counts = voted(n=60)
    c, hit = p.max(axis=1), (counts / 5)[np.arange(60), p.argmax(axis=1)]
    parts = np.split(np.argsort(c), 15)
    expected = sum(abs((c - hit)[part].sum()) for part in parts) / 60
    assert ESTIMATES["ece equal mass"](counts / 5, p).value == pytest.approx(expected)
    c, hit = p[:, 1], counts[:, 1] / 5
    expected = sum(abs((c - hit)[part].sum()) for part in np.split(np.argsort(c), 15)) / 60
    assert ESTIMATES["ece of, equal mass"](counts / 5, p).value == pytest.approx(expected)


def test_two_sets_of_predictions():
    z, y = draw(80, 3, 5)
    a, b = softmax(z), softmax(z / 2)
    soft, hard = compare(np.eye(3)[y], a, b), compare(y, a, b)
    for name, one in hard.items():
        for field in ("value", "low", "high"):
            ours = getattr(soft[name].difference, field)
            assert ours == pytest.approx(getattr(one.difference, field), rel=1e-9, abs=1e-12)


def test_infinite_logits_of_labels_without_chance_do_not_matter():
    z = np.array([[0.0, 1.0, -np.inf], [2.0, 0.0, -np.inf]])
    found = evaluate([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0]], z, input="logits")
    assert np.isfinite(found["nll"].value)


ROWS = np.full((4, 3), 1 / 3)
ERRORS = [
    (
        np.full((4, 3), 0.5),
        r"Expected rows of y that are distributions \(0 or more, sum 1\), got sum 1\.5 in row 0",
    ),
    (
        np.full((4, 3), np.nan),
        r"got sum nan in row 0, minimum nan\. Divide counts of votes by their row sums",
    ),
    ([[1.5, -0.5, 0]] * 4, r"got sum 1 in row 0, minimum -0\.5\. Divide counts"),
    (
        np.full((4, 2), 0.5),
        r"Expected y of shape \(n,\), or \(n, 3\) with the distribution of each row's label",
    ),
    (np.full((3, 3), 1 / 3), r"Expected y with one entry for each of the 4 rows of X, got 3"),
]


@pytest.mark.parametrize(("y", "message"), ERRORS)
def test_what_is_no_distribution_is_an_error(y, message):
    with pytest.raises(ValueError, match=message):
        evaluate(y, ROWS)


@pytest.mark.parametrize("name", HARD_ONLY)
def test_what_wants_labels_says_so(name):
    with pytest.raises(
        ValueError, match=r"Expected y of shape \(n,\), got shape \(4, 3\)\. For one-hot rows pass"
    ):
        ESTIMATES[name](np.eye(3)[[0, 1, 2, 0]], ROWS)


def test_a_calibrator_wants_labels():
    with pytest.raises(
        ValueError, match=r"Expected y of shape \(n,\), got shape \(.*, 3\)\. For one-hot rows"
    ):
        decompose(np.eye(3)[[0, 1, 2, 0]], ROWS, recalibration=TemperatureScaling(), folds=2)
