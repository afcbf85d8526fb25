"""Focal matrix scaling: each stage is the minimum it claims, and nothing of a row reaches its own score."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import approx_fprime, minimize
from scipy.special import log_softmax

from cases import drawn
from focalcal import (
    CalibrationWarning,
    FocalMatrixScaling,
    FocalTemperatureScaling,
    MixedTemperatureScaling,
    TemperatureScaling,
    evaluate,
    focal_map,
)
from focalcal.calibrators.held_out import HeldOut
from focalcal.calibrators.matrix import mixture, shrinkage
from focalcal.calibrators.matrix.focal_matrix import fit_matrix
from focalcal.calibrators.matrix.last_stage import features, fit_confidence, tempered
from focalcal.calibrators.matrix.mixture import Judged, Matrix, Vector, find_shares, mix
from focalcal.calibrators.matrix.ridge import Regression
from focalcal.calibrators.matrix.ridge import minimise as ridge_minimise
from focalcal.calibrators.matrix.shrinkage import Shrinkage, find_basis, folds


def held(n=400, n_classes=4, seed=0, weight=None):
    z, y = drawn(n, n_classes, 2.0, seed)
    z[:, 0] += 0.7 * z[:, 1]
    x = log_softmax(z, axis=1)
    return HeldOut(x, y, np.ones(n) if weight is None else weight, None)


def summed_nll(scores, rows):
    return rows.weight @ -log_softmax(scores, axis=1)[np.arange(rows.n), rows.codes]


def stated_penalty(rows):
    """The penalty of the docstring for λ = 1, from eigenvectors found anew, as a function of W and b."""
    x, k = rows.log_probs, rows.n_classes
    p = np.exp(x)
    doubt = rows.weight * (1 - (p**2).sum(axis=1))
    centre = rows.weight @ x / rows.weight.sum()
    covariance = np.einsum("n,ni,nj->ij", doubt, x - centre, x - centre) / doubt.sum()
    told = np.einsum("n,nij->ij", rows.weight, [np.diag(one) - np.outer(one, one) for one in p])
    alpha, u = np.linalg.eigh(covariance)
    beta, q = np.linalg.eigh(told)
    keep = beta > 1e-9 * beta.max()
    beta, q = beta[keep], q[:, keep]
    root = np.sqrt(beta / (beta.sum() / k))
    each = k * np.sqrt(alpha.mean() * alpha)[None, :] * root[:, None]

    def penalty(matrix, bias):
        shift = (matrix - np.eye(k)).T  # M: scores are x + M (x - centre) + b
        own = q.T @ (bias + shift @ centre)
        return 0.5 * ((each * (q.T @ shift @ u) ** 2).sum() + (k * root * own**2).sum())

    return penalty


@pytest.mark.parametrize("strength", [0.03, 1.0, 30.0])
def test_the_matrix_minimises_what_the_docstring_states(strength, monkeypatch):
    monkeypatch.setattr(shrinkage, "_TIGHT", 1e-9)
    rows = held(weight=np.random.default_rng(0).uniform(0.2, 2, 400))
    found = mix(rows, np.arange(400) % 5, strength)
    penalty = stated_penalty(rows)

    def stated(point):
        matrix, bias = point[:16].reshape(4, 4), point[16:]
        loss = summed_nll(rows.log_probs @ matrix + bias, rows)
        return loss + strength * penalty(matrix, bias)

    here = np.append(found.matrix.ravel(), found.bias)
    best = minimize(stated, here, method="BFGS", options={"gtol": 1e-6})
    assert stated(here) - best.fun < 1e-3
    assert stated(here) < stated(np.append(np.eye(4).ravel(), np.zeros(4))) - 1


def test_the_regression_is_scikit_learns():
    linear = pytest.importorskip("sklearn.linear_model")
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(300, 5)), rng.integers(0, 3, 300)
    weight = rng.uniform(0.5, 2, 300)
    data = Regression(x, None, None, y, weight, None)
    penalty = np.full((5, 3), 0.5)
    found = ridge_minimise(data, penalty, np.zeros((5, 3)), lambda slope: slope / 100, 1e-10)
    other = linear.LogisticRegression(C=2.0, fit_intercept=False, tol=1e-10, max_iter=1000)
    other.fit(x, y, sample_weight=weight)
    assert found.converged
    np.testing.assert_allclose(found.theta.T, other.coef_, atol=1e-5)


def test_the_regression_respects_masks_and_offsets():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(200, 3)), rng.integers(0, 3, 200)
    masked = np.zeros((200, 3), bool)
    masked[:100, 2] = y[:100] != 2
    data = Regression(x, np.eye(3), rng.normal(size=(200, 3)), y, np.ones(200), masked)
    theta = rng.normal(size=(3, 3))
    value, slope = data.loss(theta)
    scores = np.where(masked, -np.inf, data.offset + x @ theta)
    assert value == pytest.approx(-log_softmax(scores, axis=1)[np.arange(200), y].sum(), rel=1e-12)
    numeric = approx_fprime(theta.ravel(), lambda t: data.loss(t.reshape(3, 3))[0], 1e-6)
    np.testing.assert_allclose(slope.ravel(), numeric, atol=1e-3)


def test_the_basis_undoes_itself():
    rows = held()
    basis = find_basis(rows)
    theta = np.random.default_rng(0).normal(size=(basis.inputs.shape[1] + 1, len(basis.outputs)))
    shift, bias = basis.affine(theta)
    direct = rows.log_probs + basis.features(rows.log_probs).astype(float) @ theta @ basis.outputs
    np.testing.assert_allclose(rows.log_probs @ (np.eye(4) + shift) + bias, direct, atol=1e-5)


def test_out_of_fold_scores_know_nothing_of_their_label():
    rows = held()
    fold = np.arange(400) % 5
    changed = rows.codes.copy()
    changed[fold == 2] = (changed[fold == 2] + 1) % 4
    one = mix(rows, fold, 1.0).out_of_fold
    other = mix(replace(rows, codes=changed), fold, 1.0).out_of_fold
    np.testing.assert_array_equal(one[fold == 2], other[fold == 2])
    assert np.abs(one[fold != 2] - other[fold != 2]).max() > 1e-3


def test_copies_stay_in_one_fold_whatever_the_order():
    rows = held(300)
    twice = HeldOut(*(np.concatenate([a, a]) for a in (rows.log_probs, rows.codes, rows.weight)), None)
    fold = folds(twice, 5)
    np.testing.assert_array_equal(fold[:300], fold[300:])
    order = np.random.default_rng(0).permutation(600)
    np.testing.assert_array_equal(folds(twice.part(order), 5), fold[order])
    assert (np.bincount(fold) > 90).all()


def test_equal_rows_are_dealt_out():
    same = HeldOut(np.full((50, 2), -np.log(2)), np.arange(50) % 2, np.ones(50), None)
    assert np.bincount(folds(same, 5)).tolist() == [10] * 5


@pytest.mark.parametrize("n", [60, 2000])
def test_the_last_stage_minimises_what_it_states(n):
    rows = held(n, 3, seed=2, weight=np.random.default_rng(0).uniform(0, 2, n))
    found = fit_confidence(rows)
    f = features(rows.log_probs)
    mean = np.average(f[:, 1:], axis=0, weights=rows.weight)
    sigma = np.maximum(np.sqrt(np.average((f[:, 1:] - mean) ** 2, axis=0, weights=rows.weight)), 0.02)

    def stated(point):
        log_p = focal_map(tempered(rows.log_probs, point[:4]), max(point[4], -1.0))
        loss = -rows.weight @ log_p[np.arange(n), rows.codes]
        return loss + point[4] ** 2 / 2 + ((point[1:4] * sigma / 0.1) ** 2).sum() / 2

    here = np.append(found.slopes, found.gamma)
    best = minimize(stated, here, method="Nelder-Mead", options={"maxiter": 2000, "fatol": 1e-9})
    assert found.converged
    assert stated(here) - best.fun < 1e-5 * n
    assert stated(here) <= stated(np.zeros(5))


def test_features_are_probabilities_and_entropy():
    f = features(np.log([[0.5, 0.25, 0.25]]))
    np.testing.assert_allclose(f, [[1, 0.5, 0.25, 1.5 * np.log(2)]])
    np.testing.assert_allclose(features(np.array([[0.0, -np.inf]])), [[1, 1, 0, 0]])


def test_a_hard_penalty_is_temperature_scaling():
    z, y = drawn(1500, 4, 2.0, seed=4)
    ts = TemperatureScaling().fit(2 * z, y)
    cal = FocalMatrixScaling(penalty=1e9).fit(2 * z, y)
    assert cal.penalty_ == 1e9
    np.testing.assert_allclose(cal.matrix_, np.eye(4), atol=1e-6)
    np.testing.assert_allclose(cal.bias_, 0, atol=1e-6)
    assert cal.temperature_ == pytest.approx(ts.temperature_, rel=1e-6)


def test_the_strength_chosen_has_the_lowest_loss_of_the_path():
    rows = held(1000, 5)
    found = mix(rows, folds(rows, 5))
    assert 3 <= len(found.path) <= 5
    assert found.penalty == min(found.path, key=found.path.get)
    np.testing.assert_allclose(np.diff(np.log10(sorted(found.path))), 1)
    alone = mix(rows, folds(rows, 5), found.penalty)
    assert (alone.vector_share, alone.matrix_share) == (0, 1)
    assert found.path[found.penalty] == pytest.approx(np.mean(rows.losses(alone.out_of_fold)), rel=5e-4)
    assert np.mean(rows.losses(found.out_of_fold)) < np.mean(rows.losses(alone.out_of_fold))


def tried_maps(rows, fold):
    shrinkage = Shrinkage(rows, fold)
    left_out = [np.flatnonzero(fold == k) for k in range(5)]
    judged = Judged(rows, left_out, np.float64)
    parts = [Matrix(shrinkage, 0.1), Matrix(shrinkage, 10.0), Vector(rows, fold)]
    return judged, [judged.tried(part) for part in parts], np.concatenate(left_out)


def test_shares_have_the_lowest_loss_of_rows_left_out():
    rows = held(600, 4, weight=np.random.default_rng(0).uniform(0.2, 2, 600))
    judged, tried, order = tried_maps(rows, np.arange(600) % 5)
    part = rows.part(order)

    def stated(shares):
        scores = part.log_probs + sum(a * one.added for a, one in zip(shares, tried, strict=True))
        return summed_nll(scores, part) / part.weight.sum()

    shares = find_shares(judged, tried)
    assert shares.min() >= 0
    assert shares.sum() <= 1
    grid = [np.array([a, b, c]) / 20 for a in range(21) for b in range(21 - a) for c in range(21 - a - b)]
    assert stated(shares) <= min(map(stated, grid)) + 2e-6
    value, slopes = judged.loss(shares, tried)
    assert value == pytest.approx(stated(shares), rel=1e-12)
    np.testing.assert_allclose(slopes, approx_fprime(shares, stated, 1e-7), atol=1e-6)


def test_parts_are_fitted_without_their_fold():
    """What each adds to a fold's rows is what the same family fitted on the other folds alone adds."""
    rows, fold = held(500, 4), np.arange(500) % 5
    _, tried, _ = tried_maps(rows, fold)
    vector = tried[2]
    slope, bias = np.diag(vector.maps[3].shift), vector.maps[3].bias
    inside = rows.part(fold != 3)

    def stated(point):
        scores = inside.log_probs * (1 + point[:4]) + point[4:]
        return summed_nll(scores, inside) + point @ point / 2

    here = np.concatenate([slope, bias])
    assert stated(here) - minimize(stated, here, method="BFGS", options={"gtol": 1e-6}).fun < 1e-4 * 400
    np.testing.assert_array_equal(vector.maps[3].shift, np.diag(slope))
    np.testing.assert_allclose(vector.added[300:400], rows.log_probs[fold == 3] * slope + bias)
    shrinkage = Shrinkage(rows, fold)
    np.testing.assert_allclose(
        tried[0].maps[3].shift, shrinkage.basis.affine(shrinkage.without(3, 0.1)).shift
    )


def test_a_mixture_is_the_sum_of_its_parts(monkeypatch):
    rows, fold = held(1000, 4, seed=1), np.arange(1000) % 5
    monkeypatch.setattr(mixture, "_LEAST", 0.0)
    found = mix(rows, fold)
    shrinkage = Shrinkage(rows, fold)
    parts = [Matrix(shrinkage, one) for one in found.path] + [Vector(rows, fold)]
    judged = Judged(rows, [np.flatnonzero(fold == k) for k in range(5)], np.float64)
    tried = [judged.tried(part) for part in parts]
    shares = find_shares(judged, tried)
    last = [part.last()[0] for part in parts]
    matrix = np.eye(4) + sum(a * one.shift for a, one in zip(shares, last, strict=True))
    np.testing.assert_allclose(found.matrix, matrix, atol=0.01)
    assert found.vector_share == pytest.approx(shares[-1], abs=0.05)
    assert found.vector_share + found.matrix_share == pytest.approx(shares.sum(), abs=0.01)


def test_slopes_and_biases_alone_are_given_to_vector_scaling():
    """Few rows of many classes that only need a bias each: pairs of classes say nothing."""
    rng = np.random.default_rng(3)
    z, y = drawn(3000, 20, 2.0, seed=3)
    x = log_softmax(z - rng.normal(size=20), axis=1)
    found = mix(HeldOut(x, y, np.ones(3000), None), np.arange(3000) % 5)
    assert found.vector_share > 0.5
    assert found.vector_share + found.matrix_share <= 1 + 1e-12


def test_a_strength_at_the_end_of_the_search_is_said():
    """Labels that follow from the logits, two of them exchanged: the less shrinkage the better."""
    z, _ = drawn(3000, 4, 2.0, seed=4)
    y = np.array([1, 0, 2, 3])[z.argmax(axis=1)]
    with pytest.warns(CalibrationWarning, match="penalty"):
        cal = FocalMatrixScaling().fit(z, y)
    assert cal.penalty_ == pytest.approx(0.001)
    assert "penalty" in cal.diagnostics_.at_bound
    np.testing.assert_array_equal(cal.predict(z[:50]), y[:50])


def test_a_confused_pair_is_told_apart():
    """Class 0 called 1 half of the time, by a bias no temperature can mend."""
    z, y = drawn(4000, 3, 2.0, seed=5)
    z[:, 1] += 2
    new, of_new = drawn(4000, 3, 2.0, seed=6)
    cal = FocalMatrixScaling().fit(z, y)
    loss = -cal.transform(new + np.array([0, 2, 0]))[np.arange(4000), of_new].mean()
    truth = -log_softmax(new, axis=1)[np.arange(4000), of_new].mean()
    assert loss < truth + 0.005


def test_the_last_stage_finds_the_focal_map():
    """Scores of a focal loss: their posterior is φ_γ, which the last stage can be."""
    z, y = drawn(6000, 5, 1.5, seed=7, gamma=2.0)
    new, of_new = drawn(6000, 5, 1.5, seed=8, gamma=2.0)
    cal, fts = FocalMatrixScaling().fit(z, y), FocalTemperatureScaling().fit(z, y)
    mine, other = (-c.transform(new)[np.arange(6000), of_new].mean() for c in (cal, fts))
    assert mine < other + 0.003


def test_losses_of_few_rows_come_from_last_stages_without_them():
    rows = held(200, 3)
    found = fit_matrix(rows, 1.0)
    mixed = mix(
        replace(rows, log_probs=log_softmax(rows.log_probs / found.fitted.parameters["temperature"], axis=1)),
        folds(rows, 5),
        1.0,
    )
    used = fit_confidence(replace(rows, log_probs=mixed.out_of_fold))
    with_them = focal_map(tempered(mixed.out_of_fold, used.slopes), used.gamma)
    assert np.mean(found.losses) > rows.nll(with_them)
    assert found.fitted.diagnostics.loss == pytest.approx(np.mean(found.losses))
    many = fit_matrix(held(2500, 3), 1.0)
    assert many.fitted.diagnostics.loss == pytest.approx(np.mean(many.losses))


def test_a_rows_part_in_the_last_stage_is_known_to_first_order():
    rows = held(400, 3, seed=3, weight=np.random.default_rng(0).uniform(0.5, 2, 400))

    def loss(stage, row):
        log_p = focal_map(tempered(rows.log_probs[row : row + 1], stage.slopes), stage.gamma)
        return -log_p[0, rows.codes[row]]

    whole = fit_confidence(rows)
    without = [fit_confidence(rows.part(np.arange(400) != row)) for row in range(60)]
    higher = np.array([loss(one, row) - loss(whole, row) for row, one in enumerate(without)])
    assert whole.optimism.min() >= 0
    assert whole.optimism[:60].sum() == pytest.approx(higher.sum(), rel=0.1)
    np.testing.assert_allclose(whole.optimism[:60], higher, atol=0.15 * higher.max())
    assert 2 < rows.weight @ whole.optimism < 5  # parameters, some of them held by the prior


@pytest.mark.parametrize("penalty", [0, -1, np.inf, np.nan])
def test_penalties_that_are_none_are_refused(penalty):
    z, y = drawn(50, 3, 1.0, seed=0)
    with pytest.raises(ValueError, match="Expected penalty"):
        FocalMatrixScaling(penalty=penalty).fit(z, y)


@pytest.mark.parametrize(("kind", "tiny"), [(np.float16, 1e-4), (np.float32, 1e-6), (np.float64, 1e-6)])
def test_gaps_far_below_one_are_scores_like_others(kind, tiny):
    """Logits in a tiny unit: where temperature scaling sees them, the matrix sees them too."""
    z, y = drawn(400, 5, 2.0, seed=9)
    large, small = (FocalMatrixScaling(penalty=1.0).fit((z * unit).astype(kind), y) for unit in (1, tiny))
    found = small.predict_proba((z * tiny).astype(kind))
    np.testing.assert_allclose(found, large.predict_proba(z.astype(kind)), atol=0.02)


def test_rows_all_alike_leave_the_matrix_alone():
    z = np.tile([0.3, 0.1, -0.2], (60, 1))
    with pytest.warns(CalibrationWarning, match="worse than chance"):
        cal = FocalMatrixScaling().fit(z, np.arange(60) % 3)
    assert np.abs(cal.matrix_ - np.eye(3)).max() == 0
    np.testing.assert_allclose(cal.predict_proba(z[:1]), 1 / 3, atol=0.02)


def test_features_that_hardly_varied_do_not_decide():
    """Almost equal confidence in all rows of the fit says nothing of a row that is sure."""
    z, y = drawn(300, 3, 0.001, seed=10)
    found = fit_confidence(HeldOut(log_softmax(z, axis=1), y, np.ones(300), None))
    log_temperature = features(np.log([[0.98, 0.01, 0.01]])) @ found.slopes
    assert abs(log_temperature[0] - features(log_softmax(z, axis=1))[0] @ found.slopes) < 3


def test_folds_that_are_given_are_taken():
    rows = held(200, 3)
    given = np.arange(200) % 5
    one, other = fit_matrix(rows, 1.0, given), fit_matrix(rows, 1.0)
    assert np.abs(one.losses - other.losses).max() > 1e-3
    np.testing.assert_array_equal(one.losses, fit_matrix(rows, 1.0, given).losses)


def ruled_by_few(n=600, n_classes=4, wrong=0.02, seed=0):
    """Return logits of rows that know, but for a few that are as sure as can be of another class."""
    z, y = drawn(n, n_classes, 2.0, seed)
    few = np.flatnonzero(np.random.default_rng(seed).random(n) < wrong)
    z[few, (y[few] + 1) % n_classes] += 60
    return z, y


def test_few_sure_and_wrong_rows_do_not_rule_the_temperature():
    z, y = ruled_by_few()
    cal, mixed = FocalMatrixScaling().fit(z, y), MixedTemperatureScaling().fit(z, y)
    assert (cal.temperature_, cal.uniform_share_) == (mixed.temperature_, mixed.share_)
    assert 0.05 < cal.uniform_share_ < 0.2
    assert TemperatureScaling().fit(z, y).temperature_ > 5 * cal.temperature_
    new, labels = ruled_by_few(5000, seed=1)
    plain = ruled_by_few(600, wrong=0)
    best = evaluate(labels, FocalMatrixScaling().fit(*plain).transform(new), input="logits")["nll"].value
    found = evaluate(labels, cal.transform(new), input="logits")["nll"].value
    without = evaluate(labels, TemperatureScaling().fit(z, y).transform(new), input="logits")["nll"].value
    assert found < min(0.8 * without, best)


def test_a_share_that_is_worth_little_is_not_taken():
    """It would hide from the matrix which of the unlikely classes is the likelier."""
    z, y = drawn(600, 4, 2.0, seed=0)
    cal = FocalMatrixScaling(penalty=1.0).fit(z, y)
    assert cal.uniform_share_ == 0
    assert cal.temperature_ == pytest.approx(TemperatureScaling().fit(z, y).temperature_)
    little = MixedTemperatureScaling()
    z[[0, 1], (y[:2] + 1) % 4] += 12
    gain = 1 - little.fit(z, y).diagnostics_.loss / TemperatureScaling().fit(z, y).diagnostics_.loss
    assert 0.01 < gain < 0.05
    assert little.share_ > 0
    assert FocalMatrixScaling(penalty=1.0).fit(z, y).uniform_share_ == 0


def test_a_share_is_at_least_half_a_row():
    z, y = ruled_by_few(wrong=0.01)
    cal = FocalMatrixScaling(penalty=1.0).fit(z, y, np.full(600, 1e-2))  # all of them say as much as six rows
    assert MixedTemperatureScaling().fit(z, y).share_ < 0.06
    assert cal.uniform_share_ == pytest.approx(0.5 / 7)


def test_no_row_costs_more_than_its_share_of_what_was_not_seen():
    z, y = drawn(300, 4, 2.0, seed=1)
    weight = np.random.default_rng(0).integers(1, 4, 300)
    cal = FocalMatrixScaling(penalty=1.0).fit(z, y, weight)
    assert cal.prior_share_ == pytest.approx(1 / (4 * weight.sum() + 4))
    floor = np.log(cal.prior_share_ / 4)
    sure = np.array([[1e4, 0.0, -1e4, 3.0], [0.0, 1.0, 2.0, 3.0]])
    for scores in (sure, sure.astype(np.float32)):
        log_p = cal.transform(scores)
        np.testing.assert_allclose(log_p[0, 1:], floor, rtol=1e-6)
        np.testing.assert_allclose(log_p[0, 0], np.log1p(-0.75 * cal.prior_share_), rtol=1e-4)
        assert (log_p[1] > floor).all()
        np.testing.assert_allclose(cal.predict_proba(scores), np.exp(log_p), rtol=1e-5)


@pytest.mark.parametrize("n", [300, 2500])
def test_losses_of_rows_left_out_know_the_last_share(n, monkeypatch):
    rows = held(n, 3)
    plain = fit_matrix(rows, 1.0).losses
    monkeypatch.setattr(HeldOut, "prior_share", 0.5)
    assert fit_matrix(rows, 1.0).losses.max() < np.log(3 / 0.5) + 0.05 < plain.max()


def test_masked_classes_get_no_part_of_the_share():
    z, y = ruled_by_few()
    z[::3, 3] = np.where(y[::3] == 3, z[::3, 3], -np.inf)
    cal = FocalMatrixScaling(penalty=1.0).fit(z, y)
    assert cal.uniform_share_ > 0.01
    p = cal.predict_proba(z)
    np.testing.assert_array_equal(p == 0, np.isneginf(z))
    np.testing.assert_allclose(p.sum(axis=1), 1, atol=1e-6)
    two = z[np.isneginf(z[:, 3])][:5]
    shares = (1 - cal.uniform_share_) * np.exp(
        log_softmax(two / cal.temperature_, axis=1)
    ) + cal.uniform_share_ / 3
    x = np.log(shares)
    x[:, 3] = x[:, :3].min(axis=1)
    scores = (x @ cal.matrix_ + cal.bias_)[:, :3]
    given = log_softmax(scores, axis=1)
    expected = np.exp(focal_map(tempered(given, cal.slopes_), cal.gamma_))
    expected = (1 - cal.prior_share_) * expected + cal.prior_share_ / 3
    np.testing.assert_allclose(cal.predict_proba(two)[:, :3], expected, atol=1e-6)
