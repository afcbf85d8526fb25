"""Two sets of predictions: the pieces against SciPy, the intervals against repeated samples."""

import json
import math

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel

from focalcal import compare, ece, evaluate
from predictions import draw, softmax

SCORES = ("nll", "brier", "accuracy", "ece", "classwise_ece")


def pair(n=300, k=3, seed=0):
    """Labels, calibrated predictions and over-confident ones."""
    z, y = draw(n, k, seed)
    return y, softmax(z / 1.5), softmax(z)


def test_each_side_is_as_evaluated():
    y, a, b = pair()
    found, alone = compare(y, a, b), (evaluate(y, a), evaluate(y, b))
    assert tuple(found) == SCORES
    for name, one in found.items():
        for side, whole in zip((one.a, one.b), alone, strict=True):
            assert side.value == pytest.approx(whole[name].value, rel=1e-9)
            assert (side.low, side.high) == pytest.approx((whole[name].low, whole[name].high), abs=1e-6)


@pytest.mark.parametrize("weighted", [False, True])
def test_means_are_paired(weighted):
    y, a, b = pair()
    w = np.random.default_rng(0).integers(1, 3, 300) if weighted else None
    rows = np.arange(300)
    for name, score in (
        ("nll", lambda p: -np.log(p[rows, y])),
        ("brier", lambda p: ((p - np.eye(3)[y]) ** 2).sum(axis=1)),
    ):
        one = compare(y, a, b, w)[name]
        change = score(b) - score(a)
        mean = np.average(change, weights=w)
        assert one.difference.value == pytest.approx(mean)
        if not weighted:
            assert one.difference.stderr == pytest.approx(change.std(ddof=1) / math.sqrt(300))
            assert one.p_value == pytest.approx(ttest_rel(score(b), score(a)).pvalue, abs=2e-3)
        assert one.difference.high - mean == pytest.approx(1.959964 * one.difference.stderr, rel=1e-6)


def test_accuracies_by_mcnemars_exact_test():
    rng = np.random.default_rng(1)
    y, a, b = rng.integers(0, 3, 200), rng.dirichlet(np.ones(3), 200), rng.dirichlet(np.ones(3), 200)
    right_a, right_b = a.argmax(axis=1) == y, b.argmax(axis=1) == y
    better, worse = int((right_b & ~right_a).sum()), int((right_a & ~right_b).sum())
    one = compare(y, a, b)["accuracy"]
    assert one.p_value == pytest.approx(binomtest(better, better + worse, 0.5).pvalue)
    twice_the_tail = 2 * sum(math.comb(better + worse, i) for i in range(min(better, worse) + 1))
    assert one.p_value == pytest.approx(min(1, twice_the_tail / 2 ** (better + worse)))
    assert one.difference.value == pytest.approx((better - worse) / 200)


def test_the_other_way_round_is_the_mirror():
    y, a, b = pair()
    for name, one in compare(y, a, b).items():
        other = compare(y, b, a)[name]
        assert other.difference.value == pytest.approx(-one.difference.value)
        assert (other.difference.low, other.difference.high) == pytest.approx(
            (-one.difference.high, -one.difference.low)
        )
        assert other.p_value == pytest.approx(one.p_value)


def test_the_same_predictions_do_not_differ():
    y, a, _ = pair()
    for one in compare(y, a, a).values():
        assert one.difference.value == 0
        assert one.p_value == 1
        assert one.difference.low <= 0 <= one.difference.high


def test_intervals_and_p_values_agree():
    for seed in range(8):
        y, a, b = pair(200, seed=seed)
        for name, one in compare(y, a, b).items():
            d = one.difference
            assert d.low <= d.value <= d.high
            if name != "accuracy":  # whose p-value is exact, and its interval is not
                assert (d.low > 0 or d.high < 0) == (one.p_value < 0.05)


def test_intervals_cover():
    truth = compare(*pair(40_000, seed=99))
    covered = dict.fromkeys(SCORES, 0)
    for seed in range(40):
        for name, one in compare(*pair(200, seed=seed)).items():
            covered[name] += one.difference.low <= truth[name].difference.value <= one.difference.high
    assert min(covered.values()) >= 34


def test_size_where_neither_is_better():
    rng = np.random.default_rng(2)
    rejected = dict.fromkeys(SCORES, 0)
    for _ in range(40):
        truth = rng.dirichlet(np.ones(3), 200)
        y = (rng.random((200, 1)) > truth.cumsum(axis=1)[:, :-1]).sum(axis=1)
        noise = rng.normal(0, 0.7, (2, 200, 3))
        a, b = (softmax(np.log(truth) + one) for one in noise)
        for name, one in compare(y, a, b).items():
            rejected[name] += one.p_value < 0.05
    assert max(rejected.values()) <= 6  # binomial, 99.5 %


def test_whole_weights_count_as_importance():
    y, a, b = pair()
    plain, weighted = compare(y, a, b), compare(y, a, b, np.full(300, 7.0))
    for name, one in plain.items():
        d = weighted[name].difference
        assert (d.value, d.low, d.high) == pytest.approx(
            (one.difference.value, one.difference.low, one.difference.high), rel=1e-6
        )


def test_clusters_of_one_row_change_nothing_and_copies_are_no_rows():
    y, a, b = pair()
    plain = compare(y, a, b)
    alone = compare(y, a, b, cluster=np.arange(300))
    copies = compare(
        np.repeat(y, 3),
        np.repeat(a, 3, axis=0),
        np.repeat(b, 3, axis=0),
        cluster=np.repeat(np.arange(300), 3),
    )
    for name, one in plain.items():
        assert alone[name].difference.stderr == pytest.approx(one.difference.stderr, rel=1e-9)
        assert copies[name].difference.value == pytest.approx(one.difference.value, abs=1e-9)
        assert copies[name].difference.stderr == pytest.approx(one.difference.stderr, rel=0.02)


def test_inputs_of_two_kinds():
    z, y = draw(100, 3)
    found = compare(y, softmax(z), z, input=("probs", "logits"))
    assert found["nll"].difference.value == pytest.approx(0, abs=1e-12)


def test_one_row_says_nothing():
    found = compare([1], [0.7], [0.6])
    for name in ("nll", "brier"):
        assert math.isnan(found[name].difference.stderr)
        assert found[name].difference.value != 0
        assert found[name].p_value == 1


def test_an_infinite_loss_is_no_proof():
    z = np.zeros((20, 2))
    masked = z.copy()
    masked[0, 1] = -np.inf
    found = compare(np.ones(20, int), z, masked, input="logits")
    assert found["nll"].difference.value == np.inf
    assert found["nll"].p_value == 1
    assert np.isfinite(found["brier"].difference.value)


def test_the_result_is_a_mapping_with_a_table():
    y, a, b = pair()
    found = compare(y, a, b, names=("tempered", "raw"), level=0.9)
    lines = str(found).splitlines()
    assert lines[0].split() == ["tempered", "raw", "difference", "90%", "interval", "p"]
    assert lines[-1] == "n = 300; difference: raw - tempered"
    assert len(lines) == len(found) + 2 == 7
    plain = json.loads(json.dumps(found.to_dict()))
    assert plain["scores"]["ece"]["difference"]["value"] == found["ece"].difference.value
    assert (plain["n"], plain["names"]) == (300, ["tempered", "raw"])


def test_a_clear_difference_in_calibration_is_found():
    y, a, b = pair(4000)
    one = compare(y, a, b)["ece"]
    assert one.difference.low > 0
    assert one.difference.value == pytest.approx(ece(y, b).value - ece(y, a).value, abs=0.03)


def test_what_cannot_be_compared_is_an_error():
    y, a, b = pair(20)
    with pytest.raises(ValueError, match=r"Expected two sets of predictions for the same rows and classes"):
        compare(y % 2, a[:, :2] / a[:, :2].sum(axis=1, keepdims=True), b)
    with pytest.raises(ValueError, match=r"Expected input as one word or two, one for each set, got 1"):
        compare(y, a, b, input=("probs",))
    with pytest.raises(ValueError, match=r'Expected input="logits" or input="probs", got \'prob\''):
        compare(y, a, b, input=("probs", "prob"))
    with pytest.raises(ValueError, match=r"inconsistent numbers of samples"):
        compare(y, a, b[:-1])


def test_errors_that_vary_together_are_told_apart_better_than_apart():
    z, y = draw(4000, 4, seed=2, temperature=3.0)  # far over-confident: the signs of the gaps are sure
    one = compare(y, z, 0.9 * z, input="logits")["ece"]
    apart = np.hypot(one.a.high - one.a.low, one.b.high - one.b.low)
    assert one.difference.high - one.difference.low < 0.6 * apart
    assert one.difference.high < 0
