"""scikit-learn's own checks of an estimator; and cloning, pickling, pipelines and searches."""

import pickle
import warnings

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from cases import drawn
from focalcal import FocalTemperatureScaling, TemperatureScaling

BOTH = [TemperatureScaling, FocalTemperatureScaling]

WIDTH = "The check uses another number of columns than of classes; a column of X is the score of a class."

EXPECTED = {
    "check_estimators_overwrite_params": WIDTH,
    "check_estimators_fit_returns_self": WIDTH,
    "check_readonly_memmap_input": WIDTH,
    "check_classifiers_classes": WIDTH,
    "check_classifiers_train": WIDTH,
    "check_classifiers_one_label": "K columns are K classes, also where only one occurs among the labels.",
}


@pytest.mark.parametrize("family", BOTH)
def test_check_estimator(family):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = check_estimator(family(), expected_failed_checks=EXPECTED, on_fail=None, on_skip=None)
    failed = {r["check_name"]: str(r["exception"]) for r in results if r["status"] == "failed"}
    assert failed == {}
    assert len(results) > 40
    # an exception that is no longer needed must go
    assert {r["check_name"] for r in results if r["status"] == "xfail"} == set(EXPECTED)


@pytest.mark.parametrize("family", BOTH)
def test_what_the_excepted_checks_are_about_holds_where_columns_are_classes(family):
    z, y = drawn(300, 4, 2.5, seed=0)
    z.setflags(write=False)  # read-only input
    y.setflags(write=False)
    cal = family()
    before = cal.get_params()
    assert cal.fit(z, y) is cal
    assert cal.get_params() == before
    assert (cal.predict(z) == z.argmax(axis=1)).all()
    np.testing.assert_allclose(cal.predict_proba(z).sum(axis=1), 1)
    assert cal.score(z, y) == (z.argmax(axis=1) == y).mean()


@pytest.mark.parametrize("family", BOTH)
def test_clone_pickle_pipeline_and_search(family):
    z, y = drawn(600, 4, 2.5, seed=1)
    cal = family().fit(z, y)
    assert clone(cal).get_params() == cal.get_params()
    with pytest.raises(NotFittedError):
        clone(cal).predict_proba(z)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(cal)).transform(z), cal.transform(z))
    piped = make_pipeline(FunctionTransformer(lambda x: 2 * x), family()).fit(z, y)
    np.testing.assert_allclose(piped.predict_proba(z), cal.predict_proba(z), rtol=1e-5)
    search = GridSearchCV(family(), {"criterion": ["nll", "brier"]}, scoring="neg_log_loss", cv=3).fit(z, y)
    assert search.best_score_ < 0
