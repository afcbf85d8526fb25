"""Multilabel models: each label against a binary evaluation, the whole against paper."""

import numpy as np
import pytest
from scipy.special import expit, logit

from focalcal import ece, evaluate_multilabel


def labelled(n=400, labels=4, seed=0, temperature=1.0):
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 3, size=(n, labels))
    return (rng.random(p.shape) < expit(logit(p) / temperature)).astype(float), p


def test_each_label_is_a_binary_problem():
    y, p = labelled()
    found = evaluate_multilabel(y, p, names=list("abcd"))
    assert {one.name for one in found.labels} == set("abcd")
    for one in found.labels:
        k = "abcd".index(one.name)
        alone = ece(y[:, k].astype(int), p[:, k], of_class=1)
        assert one.ece.value == pytest.approx(alone.value, rel=1e-12)
        assert (one.ece.low, one.ece.high) == pytest.approx((alone.low, alone.high), rel=1e-9)
        assert one.prevalence.value == pytest.approx(y[:, k].mean())
        assert one.mean_gap == pytest.approx((p[:, k] - y[:, k]).mean())
    assert found["classwise_ece"].value == pytest.approx(np.mean([one.ece.value for one in found.labels]))
    assert [one.ece.low for one in found.labels] == sorted(
        (one.ece.low for one in found.labels), reverse=True
    )


def test_the_whole_against_paper():
    y, p = labelled()
    found = evaluate_multilabel(y, p)
    losses = -np.where(y == 1, np.log(p), np.log1p(-p))
    assert found["nll"].value == pytest.approx(losses.mean(), rel=1e-12)
    assert found["nll"].stderr == pytest.approx(losses.mean(axis=1).std(ddof=1) / 20, rel=1e-12)  # 20² rows
    assert found["brier"].value == pytest.approx(((p - y) ** 2).mean(), rel=1e-12)
    assert found["accuracy"].value == pytest.approx(((p > 0.5) == y).mean(), rel=1e-12)
    again = evaluate_multilabel(y, logit(p), input="logits")
    assert {k: e.value for k, e in again.items()} == pytest.approx({k: e.value for k, e in found.items()})
    assert found.to_dict()["labels"][0]["label"] == found.labels[0].name
    assert "classwise_ece" in str(found)


def test_saturated_logits_are_exact():
    found = evaluate_multilabel([[1, 0], [1, 1]], [[50.0, -800.0], [800.0, 40.0]], input="logits")
    assert found["nll"].value == pytest.approx((np.exp(-50) + np.exp(-40)) / 4, rel=1e-9)


def test_what_is_not_known_counts_for_nothing():
    y, p = labelled(n=300)
    hidden = np.random.default_rng(1).random(y.shape) < 0.3
    found = evaluate_multilabel(np.where(hidden, np.nan, y), p)
    losses = -np.where(y == 1, np.log(p), np.log1p(-p))
    assert found["nll"].value == pytest.approx(losses[~hidden].mean(), rel=1e-12)
    one = found.labels[0]
    k = int(one.name)
    assert one.ece.n == (~hidden[:, k]).sum()


def test_weights_are_repeats():
    y, p = labelled(n=60)
    times = np.random.default_rng(2).integers(1, 4, 60)
    weighted = evaluate_multilabel(y, p, times)
    repeated = evaluate_multilabel(np.repeat(y, times, axis=0), np.repeat(p, times, axis=0))
    for name in weighted:
        assert weighted[name].value == pytest.approx(repeated[name].value, rel=1e-12)


def test_a_miscalibrated_label_stands_out():
    y, p = labelled(n=3000, labels=20, seed=3)
    p = p.copy()
    p[:, 7] = expit(logit(p[:, 7]) + 1)
    found = evaluate_multilabel(y, p)
    assert found.labels[0].name == "7"
    assert found.labels[0].adjusted_p_value < 1e-6
    assert sum(one.adjusted_p_value < 0.05 for one in found.labels) == 1


@pytest.mark.parametrize(
    ("y", "p", "said"),
    [
        ([[1, 0]], [[0.5]], r"one shape \(n, L\), got \(1, 2\) and \(1, 1\)"),
        ([[2, 0]], [[0.5, 0.5]], "labels 1, 0 or NaN"),
        ([[np.nan, 0]], [[0.5, 0.5]], "none in column 0"),
        ([[1, 0]], [[1.5, 0.5]], r"y_prob in \[0, 1\] without NaN, got min=0.5, max=1.5"),
        ([[1, 0]], [[np.nan, 0.5]], r"without NaN"),
    ],
)
def test_wrong_input(y, p, said):
    with pytest.raises(ValueError, match=said):
        evaluate_multilabel(y, p)


def test_wrong_names():
    with pytest.raises(ValueError, match="each of the 2 classes, got 1 names"):
        evaluate_multilabel([[1, 0]], [[0.5, 0.5]], names=["a"])
