"""CalibratedClassifier: scikit-learn's own checks, equality with steps done by hand, skorch, duck types."""

import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import sklearn
import torch
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
    train_test_split,
)
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.utils.estimator_checks import check_estimator

from focalcal import (
    CalibratedClassifier,
    CalibrationWarning,
    FocalTemperatureScaling,
    TemperatureScaling,
    load,
    nll,
)
from focalcal.integrations.boosting import FocalObjective


@pytest.fixture(scope="module")
def table():
    """Rows (600, 8) whose columns repeat each other, so that naive Bayes is too sure; three classes."""
    rng = np.random.default_rng(0)
    base = rng.normal(size=(600, 2))
    X = np.repeat(base, 4, axis=1) + 0.3 * rng.normal(size=(600, 8))
    y = (base @ np.array([[1.5, -1.5, 0], [0, 0.5, 2]]) + rng.gumbel(size=(600, 3))).argmax(axis=1)
    return X, y


def test_check_estimator():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = CalibratedClassifier(LogisticRegression(), cv=2)
        results = check_estimator(model, on_fail=None, on_skip=None)
    assert {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"} == {}
    assert len([r for r in results if r["status"] == "passed"]) > 55


def test_one_calibrator_of_all_out_of_fold_scores(table):
    X, y = table
    model = CalibratedClassifier(GaussianNB(), cv=3).fit(X, y)
    scores = cross_val_predict(GaussianNB(), X, y, cv=3, method="predict_proba")
    want = FocalTemperatureScaling(input="probs").fit(scores, y)
    np.testing.assert_allclose(
        [model.calibrator_.temperature_, model.calibrator_.gamma_],
        [want.temperature_, want.gamma_],
        rtol=1e-6,
    )
    whole = GaussianNB().fit(X, y).predict_proba(X)
    np.testing.assert_allclose(model.predict_proba(X), want.predict_proba(whole), rtol=1e-5)
    np.testing.assert_allclose(model.predict_log_proba(X), want.transform(whole), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(model.predict(X), whole.argmax(axis=1))
    assert model.n_features_in_ == 8
    assert want.temperature_ > 1.5


def test_new_rows_are_better_calibrated(table):
    X, y = table
    rows, new, labels, truth = train_test_split(X, y, random_state=0)
    model = CalibratedClassifier(GaussianNB()).fit(rows, labels)
    bare = nll(truth, model.estimator_.predict_proba(new)).value
    assert nll(truth, model.predict_proba(new)).value < bare - 0.1


@pytest.mark.parametrize("n_classes", [2, 3])
def test_decision_function_as_logits(table, n_classes):
    X, y = table[0], np.minimum(table[1], n_classes - 1)
    cal = TemperatureScaling()
    model = CalibratedClassifier(LogisticRegression(), cal, cv=3, response="decision_function").fit(X, y)
    scores = cross_val_predict(LogisticRegression(), X, y, cv=3, method="decision_function")
    assert model.calibrator_.temperature_ == pytest.approx(TemperatureScaling().fit(scores, y).temperature_)
    assert not hasattr(cal, "temperature_")  # it was cloned
    np.testing.assert_array_equal(model.predict(X), model.estimator_.predict(X))


@pytest.mark.parametrize("n_classes", [2, 3])
def test_scikit_learns_own_calibration_with_one_temperature(table, n_classes):
    X, y = table[0], np.minimum(table[1], n_classes - 1)
    ours = CalibratedClassifier(LogisticRegression(), TemperatureScaling(), response="decision_function")
    theirs = CalibratedClassifierCV(LogisticRegression(), method="temperature", cv=5, ensemble=False)
    want = theirs.fit(X, y).predict_proba(X)
    np.testing.assert_allclose(ours.fit(X, y).predict_proba(X), want, atol=1e-4)
    assert abs(ours.estimator_.predict_proba(X) - want).max() > 2e-3  # there is something to find


def test_two_classes_get_one_temperature(table):
    model = CalibratedClassifier(GaussianNB()).fit(table[0], table[1] == 0)
    assert type(model.calibrator_) is TemperatureScaling
    assert model.classes_.tolist() == [False, True]


def test_a_frozen_model_is_left_alone(table):
    X, y = table
    names = np.array(["no", "perhaps", "yes"])[y]
    net = LogisticRegression().fit(X[:300], names[:300])
    model = CalibratedClassifier(FrozenEstimator(net)).fit(X[300:], names[300:])
    want = FocalTemperatureScaling(input="probs").fit(net.predict_proba(X[300:]), y[300:])
    assert model.calibrator_.temperature_ == pytest.approx(want.temperature_)
    assert model.estimator_.estimator is net
    only_two = CalibratedClassifier(FrozenEstimator(net), TemperatureScaling())
    with pytest.warns(CalibrationWarning, match="1 of the classes have no row"):
        only_two.fit(X[300:][y[300:] > 0], names[300:][y[300:] > 0])
    assert only_two.classes_.tolist() == ["no", "perhaps", "yes"]
    with pytest.raises(TypeError, match="with a frozen estimator, got groups"):
        model.fit(X, names, groups=y)


def test_names_of_classes_reach_the_saved_calibrator(table, tmp_path):
    X, y = table
    names = np.array(["no", "perhaps", "yes"])[y]
    model = CalibratedClassifier(GaussianNB(), cv=3).fit(X, names)
    assert set(model.predict(X)) <= set(names)
    assert model.score(X, names) > 0.5
    model.calibrator_.save(tmp_path / "cal.json")
    again = load(tmp_path / "cal.json")
    assert again.classes_.tolist() == ["no", "perhaps", "yes"]
    scores = model.estimator_.predict_proba(X)
    np.testing.assert_array_equal(again.predict_proba(scores), model.predict_proba(X))


def test_pipelines_searches_clones_and_pickles(table):
    X, y = table
    inner = CalibratedClassifier(make_pipeline(StandardScaler(), LogisticRegression()), TemperatureScaling())
    grid = {
        "calibratedclassifier__estimator__logisticregression__C": [1e-6, 1],
        "calibratedclassifier__calibrator__criterion": ["nll", "brier"],
    }
    search = GridSearchCV(make_pipeline(StandardScaler(), inner), grid, scoring="neg_log_loss", cv=2)
    search.fit(X, y)
    assert search.best_params_["calibratedclassifier__estimator__logisticregression__C"] == 1
    best = search.best_estimator_[-1]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(best)).predict_proba(X), best.predict_proba(X))
    assert clone(best).get_params()["estimator__logisticregression__C"] == 1
    with pytest.raises(NotFittedError):
        clone(best).predict(X)
    assert cross_val_score(CalibratedClassifier(GaussianNB(), cv=2), X, y, cv=2).min() > 0.5


def test_data_frames_keep_their_names(table):
    X, y = pd.DataFrame(table[0], columns=list("abcdefgh")), pd.Series(table[1]).map({0: "a", 1: "b", 2: "c"})
    model = CalibratedClassifier(LogisticRegression(), cv=2).fit(X, y)
    assert model.feature_names_in_.tolist() == list("abcdefgh")
    assert model.predict_proba(X).shape == (600, 3)
    with pytest.raises(ValueError, match="feature names should match"):
        model.predict_proba(X[list("hgfedcba")])


def test_weights_go_to_estimator_and_calibrator(table):
    X, y = table
    w = np.random.default_rng(0).integers(1, 4, len(y))
    model = CalibratedClassifier(GaussianNB(), cv=3).fit(X, y, sample_weight=w)
    assert not np.allclose(model.estimator_.theta_, GaussianNB().fit(X, y).theta_)
    np.testing.assert_allclose(model.estimator_.theta_, GaussianNB().fit(X, y, w).theta_)
    scores = cross_val_predict(GaussianNB(), X, y, cv=3, method="predict_proba", params={"sample_weight": w})
    want = FocalTemperatureScaling(input="probs").fit(scores, y, w)
    assert model.calibrator_.temperature_ == pytest.approx(want.temperature_)


def test_weights_that_the_estimator_does_not_take(table):
    X, y = table
    w = np.ones(len(y))
    with pytest.warns(CalibrationWarning, match="KNeighborsClassifier does not take sample_weight"):
        CalibratedClassifier(KNeighborsClassifier(30), TemperatureScaling(), cv=2).fit(X, y, w)
    CalibratedClassifier(make_pipeline(GaussianNB()), cv=2).fit(X, y, w, gaussiannb__sample_weight=w)


def test_groups_stay_together(table):
    X, y = table
    groups = np.arange(600) // 6
    model = CalibratedClassifier(GaussianNB(), cv=GroupKFold(3)).fit(X, y, groups=groups)
    by_hand = CalibratedClassifier(GaussianNB(), cv=list(GroupKFold(3).split(X, y, groups))).fit(X, y)
    other = CalibratedClassifier(GaussianNB(), cv=3).fit(X, y)
    assert model.calibrator_.temperature_ == by_hand.calibrator_.temperature_
    assert model.calibrator_.temperature_ != other.calibrator_.temperature_


def test_metadata_routing(table):
    X, y = table
    w, groups = np.arange(1.0, 601), np.arange(600) // 6
    want = CalibratedClassifier(GaussianNB(), cv=GroupKFold(3)).fit(X, y, w, groups=groups)
    with sklearn.config_context(enable_metadata_routing=True):
        model = CalibratedClassifier(GaussianNB().set_fit_request(sample_weight=True), cv=GroupKFold(3))
        model.fit(X, y, sample_weight=w, groups=groups)
        np.testing.assert_array_equal(model.predict_proba(X), want.predict_proba(X))
        with pytest.raises(ValueError, match="sample_weight"):
            CalibratedClassifier(GaussianNB()).fit(X, y, sample_weight=w)


def test_one_split_calibrates_on_its_test_rows(table):
    X, y = table
    split = ShuffleSplit(1, test_size=200, random_state=0)
    model = CalibratedClassifier(GaussianNB(), cv=split, n_jobs=1).fit(X, y)
    ((train, test),) = split.split(X)
    scores = GaussianNB().fit(X[train], y[train]).predict_proba(X[test])
    want = FocalTemperatureScaling(input="probs").fit(scores, y[test])
    assert model.calibrator_.n_fit_ == 200
    assert model.calibrator_.temperature_ == want.temperature_


def test_a_class_that_a_fold_cannot_learn(table):
    X, y = table[0][:90], table[1][:90].copy()
    y[0] = 7
    with pytest.raises(ValueError, match="every class among the training rows of each fold, got none of"):
        CalibratedClassifier(GaussianNB(), cv=[(np.arange(1, 90), [0])]).fit(X, y)


class Net:
    """A model as other libraries make them: no parameters, no tags, no classes."""

    def __init__(self, weights):
        self.weights = weights

    def predict_proba(self, X):
        z = X @ self.weights
        p = np.exp(z - z.max(axis=1, keepdims=True))
        return (p / p.sum(axis=1, keepdims=True)).astype(np.float32)

    def predict(self, X):
        return X @ self.weights  # logits


def test_models_of_other_libraries(table):
    X, y = table
    net = Net(np.random.default_rng(0).normal(size=(8, 3)))
    model = CalibratedClassifier(FrozenEstimator(net)).fit(X, y)
    want = FocalTemperatureScaling(input="probs").fit(net.predict_proba(X), y)
    np.testing.assert_array_equal(model.predict_proba(X), want.predict_proba(net.predict_proba(X)))
    assert model.classes_.tolist() == [0, 1, 2]
    of_logits = CalibratedClassifier(FrozenEstimator(net), response=lambda net, X: net.predict(X)).fit(X, y)
    assert of_logits.calibrator_.input == "logits"
    assert of_logits.calibrator_.temperature_ == pytest.approx(want.temperature_, rel=1e-3)
    assert sklearn.base.is_classifier(model)
    assert cross_val_score(model, X, y, cv=2).shape == (2,)


def forward(net, X):
    """Logits of a skorch net."""
    return net.forward(X)


def test_skorch(table):
    skorch = pytest.importorskip("skorch", reason="skorch is an optional library")
    from focalcal.nn import FocalLoss

    X, y = table[0].astype(np.float32), table[1].astype(np.int64)
    settings = {"max_epochs": 3, "lr": 0.1, "verbose": 0, "train_split": None}
    net = skorch.NeuralNetClassifier(
        torch.nn.Linear, module__in_features=8, module__out_features=3, **settings
    )
    plain = CalibratedClassifier(clone(net).set_params(criterion=torch.nn.CrossEntropyLoss), cv=2)
    assert plain.fit(X, y).calibrator_.input == "probs"
    focal = CalibratedClassifier(
        clone(net).set_params(criterion=FocalLoss, criterion__gamma=2.0), cv=2, response=forward
    ).fit(X, y)
    assert focal.calibrator_.input == "logits"
    raw = focal.estimator_.forward(X).numpy()
    np.testing.assert_allclose(focal.predict_proba(X), focal.calibrator_.predict_proba(raw), rtol=1e-6)
    # its predict_proba are logits, and not taken for probabilities
    np.testing.assert_allclose(focal.estimator_.predict_proba(X), raw)
    with pytest.raises(ValueError, match=r'pass input="logits"'):
        clone(focal).set_params(response="predict_proba").fit(X, y)


def raw_scores(model, X):
    """Raw scores of LightGBM."""
    return model.predict(X, raw_score=True)


@pytest.mark.parametrize("library", ["xgboost", "lightgbm"])
def test_boosted_with_focal_loss(table, library):
    boosting = pytest.importorskip(library, reason=f"{library} is an optional library")
    X, y = table
    objective = FocalObjective(2.0, library)
    if library == "xgboost":
        booster = boosting.XGBClassifier(n_estimators=5, max_depth=2, n_jobs=1, objective=objective)
        model = CalibratedClassifier(booster, cv=2).fit(X, y)
        bare = model.estimator_.predict_proba(X)
    else:
        booster = boosting.LGBMClassifier(n_estimators=5, n_jobs=1, verbose=-1, objective=objective)
        model = CalibratedClassifier(booster, cv=2, response=raw_scores).fit(X, y)
        bare = FocalObjective(0.0).predict_proba(raw_scores(model.estimator_, X))
    assert nll(y, model.predict_proba(X)).value < nll(y, bare).value - 0.05


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        (
            CalibratedClassifier(RidgeClassifier(), response="predict_proba"),
            TypeError,
            "with predict_proba, got",
        ),
        (CalibratedClassifier(GaussianNB(), response="predict"), ValueError, "response to be one of 'auto'"),
        (CalibratedClassifier(FrozenEstimator(GaussianNB())), NotFittedError, "not fitted yet"),
    ],
)
def test_what_cannot_be_right(table, model, error, message):
    with pytest.raises(error, match=message):
        model.fit(*table)


def test_labels_and_scores_that_cannot_be_right(table):
    X, y = table
    with pytest.raises(ValueError, match="requires y to be passed"):
        CalibratedClassifier(GaussianNB()).fit(X, None)
    with pytest.raises(ValueError, match="at least 2 classes, got only the class"):
        CalibratedClassifier(GaussianNB(), cv=[(np.arange(9), [9])]).fit(X, np.zeros(600, int))
    pairs = make_pipeline(StandardScaler(), SVC(decision_function_shape="ovo"))
    for labels in (y, np.r_[y[:300], np.full(300, 3)]):  # three classes make three pairs, four make six
        with pytest.raises(ValueError, match="a column a class from decision_function, got one a pair"):
            CalibratedClassifier(pairs, cv=StratifiedKFold(2, shuffle=True)).fit(X, labels)
