"""Scores in parts: isotonic against scikit-learn, calibrators against a cross-validation by hand."""

import math

import numpy as np
import pytest
from sklearn.isotonic import IsotonicRegression

from focalcal import FocalTemperatureScaling, TemperatureScaling, decompose, nll
from focalcal.metrics import decomposition
from predictions import draw, dyadic, softmax

PARTS = ("score", "calibration", "refinement", "discrimination", "uncertainty")


@pytest.fixture
def few_draws(monkeypatch):
    monkeypatch.setattr(decomposition, "_DRAWS", 2)


def by_scikit_learn(c, hit, w, score):
    """The parts of the mean score of a yes-or-no event, from scikit-learn's isotonic regression."""
    fitted = IsotonicRegression().fit(c, hit, sample_weight=w).predict(c)
    base = np.full(len(c), np.average(hit, weights=w))

    def mean(p):
        if score == "brier":
            return np.average((p - hit) ** 2, weights=w)
        with np.errstate(divide="ignore"):
            return np.average(-np.where(hit, np.log(p), np.log1p(-p)), weights=w)

    whole, after, always = mean(c), mean(fitted), mean(base)
    return dict(zip(PARTS, (whole, whole - after, after, always - after, always), strict=True))


@pytest.mark.parametrize("score", ["brier", "nll"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("of_class", [None, 2])
@pytest.mark.parametrize("parts", [16, 2**40])
def test_isotonic_parts_are_scikit_learns(score, weighted, of_class, parts, few_draws):
    z, y = draw(150, 4, parts)
    p = dyadic(softmax(z), parts)
    w = 0.1 + np.random.default_rng(0).random(150) if weighted else None
    c, hit = (p.max(axis=1), p.argmax(axis=1) == y) if of_class is None else (p[:, 2], y == 2)
    found = decompose(y, p, w, of_class=of_class, score=score)
    for part, theirs in by_scikit_learn(c, hit, w, score).items():
        assert getattr(found, part).value == pytest.approx(theirs, abs=1e-9)


def test_known_difference_confidences_that_differ_by_rounding(few_draws):
    """scikit-learn pools what differs by less than 1e-15; here only what is equal."""
    c, hit = np.array([0.3, 0.3 + 5e-17, 0.6]), np.array([0, 1, 1])
    assert c[0] < c[1]
    assert by_scikit_learn(c, hit, None, "brier")["refinement"] == pytest.approx(1 / 6)
    assert decompose(hit, c, of_class=1).refinement.value == 0


@pytest.mark.parametrize("score", ["brier", "nll"])
def test_parts_add_up(score, few_draws):
    z, y = draw(200, 3, 1)
    found = decompose(y, softmax(z), score=score)
    score, calibration, refinement, discrimination, uncertainty = (
        getattr(found, name).value for name in PARTS
    )
    assert score == pytest.approx(calibration + refinement)
    assert refinement == pytest.approx(uncertainty - discrimination)
    assert min(calibration, discrimination) >= 0


def test_the_log_score_of_a_class_is_the_nll_even_at_0_and_1(few_draws):
    # an impossible label costs log 1e30 on either side
    p = np.array([1.0, 0.0, 1.0, 0.3])
    for y in ([0, 0, 1, 1], [1, 1, 1, 1]):
        with pytest.warns(UserWarning, match="give their label a probability below"):
            whole = nll(y, p).value
        assert decompose(y, p, of_class=1, score="nll").score.value == pytest.approx(whole, rel=1e-12)


def test_the_interval_of_the_calibration_part_covers(monkeypatch):
    monkeypatch.setattr(decomposition, "_DRAWS", 40)
    rng = np.random.default_rng(2)
    covered, above = 0, 0
    for seed in range(20):
        c = 0.5 + 0.5 * rng.random(200)
        found = decompose(rng.random(200) < c - 0.1, c, of_class=True, seed=seed).calibration
        covered += found.low <= 0.01 <= found.high  # (0.1)²: the gap is the same everywhere
        above += found.value > 0.01
    assert covered >= 17
    assert above > 14  # the plug-in value is biased upward; its interval is not


def by_hand(z, y, w, calibrator, score, folds, seed):
    """The score before and after a calibrator that was fitted on the other folds, row by row."""
    order = np.random.default_rng(seed).permutation(len(y))
    before, after = np.zeros(len(y)), np.zeros(len(y))
    for fold in range(folds):
        out = order[fold::folds]
        rest = np.sort(np.setdiff1d(order, out))
        fitted = type(calibrator)().fit(z[rest], y[rest], sample_weight=None if w is None else w[rest])
        for p, kept in ((softmax(z[out]), before), (fitted.predict_proba(z[out]), after)):
            hot = np.eye(p.shape[1])[y[out]]
            kept[out] = ((p - hot) ** 2).sum(axis=1) if score == "brier" else -np.log((p * hot).sum(axis=1))
    return np.average(before, weights=w), np.average(after, weights=w)


@pytest.mark.parametrize("calibrator", [TemperatureScaling(), FocalTemperatureScaling()])
@pytest.mark.parametrize("score", ["brier", "nll"])
@pytest.mark.parametrize("weighted", [False, True])
def test_a_calibrators_part_is_that_of_cross_validation(calibrator, score, weighted):
    z, y = draw(300, 3, 3, temperature=2.0)
    w = 0.5 + np.random.default_rng(0).random(300) if weighted else None
    found = decompose(y, z, w, input="logits", score=score, recalibration=calibrator, folds=4, seed=7)
    before, after = by_hand(z, y, w, calibrator, score, 4, 7)
    assert found.score.value == pytest.approx(before, rel=1e-9)
    assert found.refinement.value == pytest.approx(after, rel=1e-7)
    assert found.calibration.value == pytest.approx(before - after, rel=1e-6)
    assert found.calibration.value > 0
    assert (found.discrimination, found.uncertainty) == (None, None)
    assert found.calibration.method == "4 folds, seed 7, normal"


def test_what_is_calibrated_gains_nothing_out_of_fold():
    z, y = draw(2000, 3, 4, temperature=1.0)
    gain = decompose(y, z, input="logits", recalibration=TemperatureScaling()).calibration
    assert gain.low <= 0 <= gain.high


def test_the_calibrator_passed_is_left_as_it_was():
    z, y = draw(100, 3, 5)
    calibrator = TemperatureScaling()
    decompose(y, softmax(z), recalibration=calibrator)
    assert calibrator.get_params() == TemperatureScaling().get_params()
    assert not hasattr(calibrator, "temperature_")


def test_the_result_says_what_was_done(few_draws):
    found = decompose([1, 1, 0, 0], [0.9, 0.9, 0.3, 0.3], of_class=1, seed=4)
    assert list(found.to_dict()) == list(PARTS)
    assert [line.split()[0] for line in str(found).splitlines()] == list(PARTS)
    assert found.calibration.method == "inverted test, 2 simulations, seed 4"
    z, y = draw(60, 3)
    few = decompose(y, z, input="logits", recalibration=TemperatureScaling())
    assert list(few.to_dict()) == ["score", "calibration", "refinement"]


def test_one_row():
    found = decompose([1], [0.7])
    assert found.calibration.value == pytest.approx(0.09)
    assert all(math.isnan(getattr(found, part).stderr) for part in PARTS)


def test_options_are_checked():
    y, p = [0, 1], [0.2, 0.8]
    with pytest.raises(ValueError, match=r"Expected score to be one of 'brier', 'nll', got 'accuracy'\."):
        decompose(y, p, score="accuracy")
    with pytest.raises(ValueError, match=r"Expected recalibration to be one of 'isotonic', got 'platt'\."):
        decompose(y, p, recalibration="platt")
    for folds in (1, 3):
        with pytest.raises(ValueError, match=rf"Expected folds between 2 and the 2 rows, got {folds}\."):
            decompose(y, p, recalibration=TemperatureScaling(), folds=folds)
