"""Focal objectives against 60-digit derivatives, PyTorch's, and the boosters' own objectives."""

import pickle

import mpmath as mp
import numpy as np
import pytest
import torch

from focalcal import FocalTemperatureScaling, focal_map
from focalcal.integrations.boosting import FocalObjective
from focalcal.nn import focal_loss

ROWS = np.array(
    [
        [0.3, -1.2, 0.8, 0.1],
        [0.0, 0.0, 0.0, 0.0],
        [5.0, -7.0, 1.0, 2.0],
        [-6.0, 1.0, 0.5, 0.2],
        [60.0, 0.0, 20.0, -3.0],
        [-60.0, 0.0, 20.0, -3.0],
        [1e4, 0.0, -5.0, 3.0],
        [-1e4, 0.0, -5.0, 3.0],
    ]
)


def true_derivatives(z, gamma):
    """Gradient, exact diagonal and its positive part for the label 0, by differences in 60 digits."""
    with mp.workdps(60):
        z, gamma = [mp.mpf(float(x)) for x in z], mp.mpf(gamma)

        def loss(*z):
            odds = mp.fsum(mp.e ** (x - z[0]) for x in z[1:])
            return (odds / (1 + odds)) ** gamma * mp.log1p(odds)

        total = mp.fsum(mp.e**x for x in z)
        p = [mp.e**x / total for x in z]
        first, second = (
            [mp.diff(loss, z, [k * (j == i) for i in range(len(z))]) for j in range(len(z))] for k in (1, 2)
        )
        with mp.workdps(40 + int(np.ptp([float(x) for x in z]))):  # 1 − v needs its own digits
            v = 1 / (1 + mp.fsum(mp.e ** (x - z[0]) for x in z[1:]))
            rising = mp.log(v) * (1 - gamma * v) + 2 * (1 - v) < 0
            a = (1 - v) ** gamma * (1 - gamma * v * mp.log(v) / (1 - v))
        kept = [a * q * (mp.fsum(p) - q) for q in p] if rising else second
        return [np.array([float(x) for x in part]) for part in (first, second, kept)]


@pytest.mark.parametrize("gamma", [0.5, 2.0, 5.0])
def test_derivatives_in_sixty_digits(gamma):
    gradient, hessian = FocalObjective(gamma)(np.zeros(len(ROWS)), ROWS)
    for z, g, h in zip(ROWS, gradient, hessian / 2, strict=True):
        first, second, kept = true_derivatives(z, gamma)
        np.testing.assert_allclose(g, first, rtol=1e-9, atol=1e-300)
        np.testing.assert_allclose(h, np.maximum(kept, 0.5e-16), rtol=1e-9, atol=1e-15)
        assert (h >= second - 1e-9 * abs(second)).all()


def test_the_diagonal_can_be_negative_and_what_is_substituted_is_not():
    _, second, kept = true_derivatives(ROWS[3], 2.0)
    assert second[0] < -1e-3
    assert (kept > 0).all()
    _, hessian = FocalObjective(2.0)([0, 0], ROWS[6:])
    assert hessian.min() == 2e-16  # which float32 holds, and a leaf can divide by


def test_pytorch_finds_the_same():
    rng = np.random.default_rng(0)
    z = rng.normal(size=(40, 3)) * 2
    y = z.argmax(axis=1)  # v ≥ 1/3, beyond which a_γ falls
    gradient, hessian = FocalObjective(1.5)(y, z)
    tensor = torch.tensor(z, requires_grad=True)
    loss = focal_loss(tensor, torch.from_numpy(y), gamma=1.5, reduction="sum")
    (first,) = torch.autograd.grad(loss, tensor, create_graph=True)
    second = [torch.autograd.grad(first[:, k].sum(), tensor, retain_graph=True)[0][:, k] for k in range(3)]
    np.testing.assert_allclose(gradient, first.detach().numpy(), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(hessian / 2, torch.stack(second, 1).numpy(), rtol=1e-7, atol=1e-12)


def test_two_classes_are_one_score_or_two():
    s, y = np.linspace(-9, 9, 40), np.arange(40) % 2
    g, h = FocalObjective(2.0)(y, s)
    both_g, both_h = FocalObjective(2.0, "lightgbm")(y, np.stack([np.zeros(40), s], axis=1))
    np.testing.assert_allclose(g, both_g[:, 1])
    np.testing.assert_allclose(h, both_h[:, 1] / 2)


def test_a_weight_of_two_is_a_row_twice():
    z, y, w = ROWS[:4], np.array([0, 1, 2, 3]), np.array([2.0, 1.0, 0.5, 0.0])
    for plain, weighted in zip(FocalObjective()(y, z), FocalObjective()(y, z, w), strict=True):
        np.testing.assert_allclose(weighted, plain * w[:, None])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([0, 3], np.zeros((2, 3))), r"labels 0..2, got int64 of shape \(2,\), e.g. \[0, 3\]. Number the"),
        (([0.5, 1], np.zeros(2)), r"labels 0..1, got float64"),
        (([0], np.zeros(2)), r"of shape \(2,\) with labels"),
        (([0, 1], [np.nan, 0]), "y_pred without NaN"),
        (([0, 1], [0, 0], [-1, 1]), "sample_weight finite and >= 0"),
    ],
)
def test_what_cannot_be_right(arguments, message):
    with pytest.raises(ValueError, match=message):
        FocalObjective()(*arguments)


def test_settings():
    with pytest.raises(ValueError, match=r"gamma >= 0, got -0\.5"):
        FocalObjective(-0.5)
    with pytest.raises(ValueError, match="library to be one of 'xgboost', 'lightgbm', got 'catboost'"):
        FocalObjective(library="catboost")
    assert pickle.loads(pickle.dumps(FocalObjective(3.0, "lightgbm"))) == FocalObjective(3.0, "lightgbm")


def weighted_rows(n_classes):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(300, 3))
    y = (X[:, 0] + rng.normal(size=300) > 0).astype(int) + (X[:, 1] > 0.7) * (n_classes == 3)
    return X, y, rng.integers(1, 4, 300).astype(float)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_gamma_zero_grows_the_trees_of_xgboost(n_classes):
    xgb = pytest.importorskip("xgboost", reason="xgboost is an optional library")
    X, y, w = weighted_rows(n_classes)
    tree = {"max_depth": 3, "base_score": 0.5}
    own = {2: {"objective": "binary:logistic"}, 3: {"objective": "multi:softprob", "num_class": 3}}[n_classes]
    data = xgb.DMatrix(X, y, weight=w)
    want = xgb.train(own | tree | {"nthread": 1}, data, 5).predict(data, output_margin=True)
    booster = xgb.train(own | tree | {"nthread": 1}, data, 5, obj=FocalObjective(0.0).native)
    np.testing.assert_allclose(booster.predict(data, output_margin=True), want, atol=1e-5)
    model = xgb.XGBClassifier(n_estimators=5, n_jobs=1, objective=FocalObjective(0.0), **tree)
    model.fit(X, y, sample_weight=w)
    np.testing.assert_allclose(model.predict(X, output_margin=True), want, atol=1e-5)
    np.testing.assert_allclose(FocalObjective(0.0).predict_proba(want), model.predict_proba(X), atol=1e-6)
    unweighted = xgb.train(own | tree, xgb.DMatrix(X, y), 2, obj=FocalObjective(0.0).native)
    assert np.isfinite(unweighted.predict(data)).all()


@pytest.mark.parametrize("n_classes", [2, 3])
def test_gamma_zero_grows_the_trees_of_lightgbm(n_classes):
    lgb = pytest.importorskip("lightgbm", reason="lightgbm is an optional library")
    X, y, w = weighted_rows(n_classes)
    tree = {"num_leaves": 7, "num_threads": 1, "verbose": -1, "boost_from_average": False}
    own = {2: {"objective": "binary"}, 3: {"objective": "multiclass", "num_class": 3}}[n_classes]
    objective = FocalObjective(0.0, "lightgbm")
    want = lgb.train(own | tree, lgb.Dataset(X, y, weight=w), 5).predict(X, raw_score=True)
    focal = own | tree | {"objective": objective.native}
    got = lgb.train(focal, lgb.Dataset(X, y, weight=w), 5).predict(X, raw_score=True)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    model = lgb.LGBMClassifier(n_estimators=5, num_leaves=7, n_jobs=1, verbose=-1, objective=objective)
    model.fit(X, y, sample_weight=w)
    np.testing.assert_allclose(model.predict(X, raw_score=True), want, rtol=1e-6)


def known_population(n_classes):
    """Three values of one feature, in counts that are in the ratio of the posterior."""
    posterior = np.array([[0.7, 0.2, 0.1], [0.01, 0.98, 0.01], [0.3, 0.3, 0.4]])
    if n_classes == 2:
        posterior = np.stack([posterior[:, 0], 1 - posterior[:, 0]], axis=1)
    counts = np.rint(posterior * 100).astype(int)
    X = np.repeat(np.arange(3.0), counts.sum(axis=1))[:, None]
    y = np.concatenate([np.repeat(np.arange(n_classes), row) for row in counts])
    return X, y, posterior


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
@pytest.mark.parametrize("n_classes", [2, 3])
def test_the_map_gives_back_the_posterior_of_the_population(library, n_classes):
    booster = pytest.importorskip(library, reason=f"{library} is an optional library")
    X, y, posterior = known_population(n_classes)
    objective, values = FocalObjective(2.0, library), np.arange(3.0)[:, None]
    rounds, rate = 300, 0.3
    if library == "xgboost":
        model = booster.XGBClassifier(
            n_estimators=rounds, learning_rate=rate, max_depth=2, objective=objective, n_jobs=1, reg_lambda=0
        ).fit(X, y)
        raw = model.predict(values, output_margin=True)
    else:
        model = booster.LGBMClassifier(
            n_estimators=rounds,
            learning_rate=rate,
            objective=objective,
            n_jobs=1,
            verbose=-1,
            min_data_in_bin=1,
        ).fit(X, y)
        raw = model.predict(values, raw_score=True)
    np.testing.assert_allclose(objective.predict_proba(raw), posterior, atol=2e-3)
    bare = FocalObjective(0.0).predict_proba(raw)
    assert abs(bare - posterior).max() > 0.1
    z = np.stack([np.zeros(3), raw], axis=1) if n_classes == 2 else raw
    np.testing.assert_allclose(np.exp(focal_map(z, 2.0)), posterior, atol=2e-3)


@pytest.mark.filterwarnings("ignore:The parameters are not identifiable")  # of three rows
def test_a_calibrator_of_raw_scores_finds_the_map():
    xgb = pytest.importorskip("xgboost", reason="xgboost is an optional library")
    X, y, posterior = known_population(3)
    data = xgb.DMatrix(X, y)
    params = {"objective": "multi:softprob", "num_class": 3, "reg_lambda": 0, "nthread": 1}
    booster = xgb.train(params, data, 100, obj=FocalObjective(2.0).native)
    cal = FocalTemperatureScaling().fit(booster.predict(data, output_margin=True), y, np.full(len(y), 1000))
    raw = booster.predict(xgb.DMatrix(np.arange(3.0)[:, None]), output_margin=True)
    np.testing.assert_allclose(cal.predict_proba(raw), posterior, atol=2e-3)
