"""Scores that are means over rows: focal score in many digits, sharpness, and intervals of shares."""

import math

import mpmath as mp
import numpy as np
import pytest
from scipy.stats import binomtest, entropy

from focalcal import evaluate, focal_map, focal_score, nll, sharpness
from focalcal.intervals.resample import clopper_pearson_interval, share_interval, wilson_interval
from predictions import draw, softmax


def true_focal(z, y, gamma):
    """−(1 − q)^γ log q of one row in 60 digits."""
    with mp.workdps(60):
        odds = mp.fsum(mp.e ** (mp.mpf(float(v)) - mp.mpf(float(z[y]))) for k, v in enumerate(z) if k != y)
        return float((odds / (1 + odds)) ** gamma * mp.log1p(odds))


@pytest.mark.parametrize("gamma", [-0.5, 0.0, 1.0, 2.5])
@pytest.mark.parametrize("scale", [1.0, 20.0])
def test_the_focal_score_in_many_digits(gamma, scale):
    z, y = draw(30, 4, 1)
    w = np.random.default_rng(0).random(30)
    truth = [true_focal(scale * row, label, gamma) for row, label in zip(z, y, strict=True)]
    found = focal_score(y, scale * z, w, gamma=gamma, input="logits")
    assert found.value == pytest.approx(np.average(truth, weights=w), rel=1e-12)
    spread = np.sqrt(((w / w.sum()) ** 2 * (np.array(truth) - found.value) ** 2).sum())
    rows = w.sum() ** 2 / (w**2).sum()
    assert found.stderr == pytest.approx(spread * np.sqrt(rows / (rows - 1)), rel=1e-9)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_proper_part_judges_the_mapped_probabilities(gamma):
    z, y = draw(200, 4, 2)
    mapped = focal_map(z, gamma)
    raw = focal_score(y, z, gamma=gamma, input="logits").value
    assert focal_score(y, mapped, gamma=gamma, proper=True, input="logits").value == pytest.approx(raw)


def test_the_proper_part_is_least_at_the_truth():
    p = np.array([0.7, 0.2, 0.1])

    def expected(q, **options):
        return focal_score(np.arange(3), np.tile(q, (3, 1)), p, gamma=2.0, **options).value

    assert all(
        expected(p, proper=True) < expected(softmax((1 + s) * np.log(p)[None])[0], proper=True)
        for s in (-0.3, -0.05, 0.05, 0.3)
    )
    assert expected(softmax(0.8 * np.log(p)[None])[0]) < expected(p)  # the loss is least elsewhere


def test_gamma_0_is_the_nll():
    z, y = draw(100, 3, 3)
    for options in ({}, {"proper": True}):
        assert focal_score(y, softmax(z), gamma=0, **options).value == pytest.approx(nll(y, softmax(z)).value)


@pytest.mark.parametrize("gamma", [-1.5, math.nan, math.inf])
def test_gamma_is_checked(gamma):
    with pytest.raises(ValueError, match=r"Expected a finite gamma >= -1, got"):
        focal_score([0, 1], [0.5, 0.5], gamma=gamma)


@pytest.mark.parametrize("kind", ["probs", "logits"])
def test_sharpness_by_scipy(kind):
    z, _ = draw(100, 4, 4)
    z[:, 3] = np.where(np.arange(100) % 2, -np.inf, z[:, 3])  # 0 log 0 is 0
    p, w = softmax(z), np.random.default_rng(0).random(100)
    scores = p if kind == "probs" else z
    for measure, values in (
        ("entropy", entropy(p, axis=1)),
        ("confidence", p.max(axis=1)),
        ("squares", (p**2).sum(axis=1)),
    ):
        found = sharpness(scores, w, input=kind, measure=measure)
        assert found.value == pytest.approx(np.average(values, weights=w), rel=1e-12)
    one = sharpness(p[:, 1] / (p[:, 0] + p[:, 1]))
    assert one.value == pytest.approx(np.mean(entropy(p[:, :2], axis=1)))


def test_the_mean_entropy_of_calibrated_predictions_is_their_nll():
    z, y = draw(20_000, 5, 5, temperature=1.0)
    loss = nll(y, z, input="logits")
    assert sharpness(z, input="logits").value == pytest.approx(loss.value, abs=4 * loss.stderr)


def test_measures_are_checked():
    with pytest.raises(ValueError, match=r"Expected measure to be one of 'entropy', 'confidence', 'squares'"):
        sharpness([0.5], measure="variance")
    with pytest.raises(ValueError, match=r"Expected y_prob in \[0, 1\]"):
        sharpness([[1.5, -0.5]])


@pytest.mark.parametrize("level", [0.5, 0.9, 0.95, 0.999])
@pytest.mark.parametrize("n", [1, 2, 7, 50, 1000])
def test_intervals_of_shares_are_scipys(n, level):
    for hits in sorted({0, 1, n // 3, n - 1, n}):
        for ours, theirs in ((clopper_pearson_interval, "exact"), (wilson_interval, "wilson")):
            low, high = ours(hits / n, n, level)
            expected = binomtest(hits, n).proportion_ci(level, theirs)
            assert float(low) == pytest.approx(expected.low, abs=1e-10)
            assert float(high) == pytest.approx(expected.high, abs=1e-10)


def test_clopper_pearson_never_covers_less():
    n, k = 12, np.arange(13)
    low, high = clopper_pearson_interval(k / n, n, 0.9)
    chance = np.array([math.comb(n, i) for i in k], float)
    for rate in np.linspace(0.01, 0.99, 99):
        inside = (low <= rate) & (rate <= high)
        assert (chance * rate**k * (1 - rate) ** (n - k))[inside].sum() >= 0.9 - 1e-12


def test_shares_of_nothing_stay_nan():
    low, high = clopper_pearson_interval([np.nan, 0.5], [np.nan, 10])
    assert np.isnan([low[0], high[0]]).all()
    assert low[1] < 0.5 < high[1]


def test_a_table_of_bins_with_either_interval():
    z, y = draw(300, 3, 6)
    found = evaluate(y, softmax(z))
    wilson, exact = found.bin_table(), found.bin_table(interval="clopper-pearson")
    for a, b in zip(wilson, exact, strict=True):
        assert a["hit_rate"] == b["hit_rate"]
        expected = binomtest(round(b["hit_rate"] * b["count"]), int(b["count"])).proportion_ci()
        ends = [value for name, value in b.items() if name in ("low", "high")]
        assert ends == pytest.approx([expected.low, expected.high], abs=1e-9)
    with pytest.raises(ValueError, match=r"Expected interval to be one of 'wilson', 'clopper-pearson'"):
        share_interval("wald")
