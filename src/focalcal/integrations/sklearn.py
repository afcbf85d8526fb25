"""Calibration as part of a scikit-learn classifier: `CalibratedClassifier`."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn import get_config
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.frozen import FrozenEstimator
from sklearn.model_selection import check_cv
from sklearn.utils import _safe_indexing, get_tags, indexable
from sklearn.utils.metadata_routing import MetadataRouter, MethodMapping, process_routing
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.parallel import Parallel, delayed
from sklearn.utils.validation import _check_method_params, check_is_fitted, has_fit_parameter

from focalcal._settings import check_choice
from focalcal._validate import CalibrationWarning, Input, as_scores, check_weights, class_count
from focalcal.calibrators import Calibrator, FocalTemperatureScaling, TemperatureScaling
from focalcal.labels import as_labels, find_classes

Response = str | Callable[[Any, Any], Any]


class CalibratedClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """A classifier and a calibrator of its scores, fitted together without one seeing what the other learnt.

    Parameters
    ----------
    estimator : classifier
        Cloned and fitted; or an already fitted model in `sklearn.frozen.FrozenEstimator`, which stays as it
        is: then all rows given to `fit` go to the calibrator, and must not be those the model was fitted on.
    calibrator : unfitted calibrator, optional
        By default `focalcal.FocalTemperatureScaling`; for two classes, where temperature and γ are not told
        apart, `focalcal.TemperatureScaling`. Its `input` and `classes` are set to what the estimator gives.
    cv : int, splitter or iterable of (train, test), optional
        How to part the rows; an int (5 by default) is a number of stratified folds. Every test row counts,
        so a single split calibrates on its test rows alone.
    response : {"auto", "predict_proba", "decision_function"} or callable
        The scores: probabilities, or logits (for two classes the score of the second). "auto" takes
        `predict_proba` where there is one. A callable gives logits (n, K), or (n,) for two classes, from
        the fitted estimator and X. What scores are is known from this and never guessed from their values.
    n_jobs : int, optional
        Folds fitted at once, as everywhere in scikit-learn.

    Attributes
    ----------
    estimator_ : classifier
        Fitted on all rows, or the frozen one.
    calibrator_ : Calibrator
        Fitted, with `diagnostics_`; `calibrator_.save` writes it as JSON.
    classes_ : ndarray of shape (K,)
    n_features_in_, feature_names_in_
        Of the fitted estimator, where it has them.

    Raises
    ------
    ValueError, TypeError
        In `fit`: for scores that are not a column a class, or a class without training rows in some fold.

    Warns
    -----
    CalibrationWarning
        As the calibrator; and for weights that the estimator does not take, which are then the calibrator's
        alone.

    Notes
    -----
    One calibrator is fitted on the out-of-fold scores of all rows, and the estimator once more on all rows,
    like scikit-learn's ``CalibratedClassifierCV(ensemble=False)``: prediction costs one model, there is one
    temperature with one standard error to look at, and it can be saved and applied elsewhere. The price is
    that the final model has seen more rows than those whose scores were calibrated, by 1/(folds − 1); it
    tends to be a little better, and so a little less confident than it could be.

    Where probabilities round to 0 or 1, `response="decision_function"` keeps the digits, if the estimator's
    decision function is a logit (logistic regression, gradient boosting). For models that know logits only:

    - skorch applies softmax for `torch.nn.CrossEntropyLoss` alone; with focal losses its `predict_proba`
      returns logits. Pass ``response=lambda net, X: net.forward(X)``, for modules that return logits.
    - LightGBM with an objective of one's own: ``response=lambda model, X: model.predict(X, raw_score=True)``;
      XGBoost: the same with ``output_margin=True``.
    - Models without scikit-learn's methods, such as Keras's that end in softmax:
      ``CalibratedClassifier(FrozenEstimator(net), response=lambda net, X: np.log(net.predict(X)))``.

    With `enable_metadata_routing`, weights, groups and other metadata go where they are requested. Without,
    `groups` go to the splitter, weights to the calibrator and the estimator, the rest to the estimator.

    Examples
    --------
    Of four rows alike, three are of class 1; a model that says 0.99 learns to say 0.75:

    >>> import numpy as np
    >>> from sklearn.dummy import DummyClassifier
    >>> from sklearn.frozen import FrozenEstimator
    >>> model = DummyClassifier(strategy="prior").fit(np.zeros((100, 1)), [0] + [1] * 99)
    >>> safe = CalibratedClassifier(FrozenEstimator(model)).fit(np.zeros((4, 1)), [0, 1, 1, 1])
    >>> safe.predict_proba([[0.0]]).round(4)
    array([[0.25, 0.75]])
    """

    estimator_: Any
    calibrator_: Calibrator

    def __init__(
        self,
        estimator: Any,
        calibrator: Calibrator | None = None,
        *,
        cv: Any = 5,
        response: Response = "auto",
        n_jobs: int | None = None,
    ) -> None:
        self.estimator = estimator
        self.calibrator = calibrator
        self.cv = cv
        self.response = response
        self.n_jobs = n_jobs

    def fit(self, X: Any, y: Any, sample_weight: Any = None, **fit_params: Any) -> Self:
        """Fit the estimator and the calibrator.

        Parameters
        ----------
        X : array-like or data frame of n rows
            Whatever the estimator takes.
        y : array of shape (n,)
            Labels: integers, booleans or strings.
        sample_weight : array of shape (n,), optional
            Weights ≥ 0.
        **fit_params
            `groups` for the splitter, anything else for the estimator's `fit`; what has n entries is parted
            like the rows.

        Returns
        -------
        self
        """
        if y is None:
            raise ValueError(
                f"Expected labels: {type(self).__name__} requires y to be passed, but the target y is None."
            )
        X, y = indexable(X, y)
        check_classification_targets(y)
        labels = as_labels(y, len(y))
        weight = check_weights(sample_weight, len(labels))
        if isinstance(self.estimator, FrozenEstimator):
            if fit_params:
                raise TypeError(
                    "Expected only rows, labels and weights with a frozen estimator, got "
                    f"{', '.join(fit_params)}. Only the calibrator is fitted, on all rows: leave it out."
                )
            self.estimator_ = self.estimator
            scores, kind = _scores(self.estimator_, X, self.response)
        else:
            scores, kind, rows = self._cross_fit(X, labels, weight, fit_params)
            labels, weight = labels[rows], None if weight is None else weight[rows]
        n_classes = class_count(scores)
        self.classes_ = find_classes(labels, n_classes, getattr(self.estimator_, "classes_", None))
        for name in ("n_features_in_", "feature_names_in_"):
            if hasattr(self.estimator_, name):
                setattr(self, name, getattr(self.estimator_, name))
        default = FocalTemperatureScaling() if n_classes > 2 else TemperatureScaling()
        calibrator = default if self.calibrator is None else clone(self.calibrator)
        self.calibrator_ = calibrator.set_params(input=kind, classes=self.classes_)
        self.calibrator_.fit(scores, labels, weight)
        return self

    def _cross_fit(
        self, X: Any, labels: NDArray[Any], weight: Any, fit_params: dict[str, Any]
    ) -> tuple[NDArray[Any], Input, NDArray[np.intp]]:
        """Fit the estimator on all rows; return out-of-fold scores, their kind, and the rows they are of."""
        to_estimator, to_splitter = self._routed(weight, fit_params)
        splits = list(check_cv(self.cv, labels, classifier=True).split(X, labels, **to_splitter))
        for train, _ in splits:
            _check_classes(labels, train)
        self.estimator_ = clone(self.estimator).fit(X, labels, **to_estimator)
        folds = Parallel(n_jobs=self.n_jobs)(
            delayed(_fit_fold)(clone(self.estimator), X, labels, train, test, to_estimator, self.response)
            for train, test in splits
        )
        rows = np.concatenate([np.arange(len(labels))[test] for _, test in splits])
        return np.concatenate([scores for scores, _ in folds]), folds[0][1], rows

    def _routed(self, weight: Any, fit_params: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return what goes to the estimator's `fit` and to the splitter."""
        if get_config()["enable_metadata_routing"]:
            routed = process_routing(self, "fit", sample_weight=weight, **fit_params)
            return routed.estimator.fit, routed.splitter.split
        to_estimator = dict(fit_params)
        groups = to_estimator.pop("groups", None)
        if has_fit_parameter(self.estimator, "sample_weight"):
            to_estimator["sample_weight"] = weight
        elif weight is not None and not any(name.endswith("__sample_weight") for name in fit_params):
            warnings.warn(
                f"{type(self.estimator).__name__} does not take sample_weight: the weights are the "
                "calibrator's alone. For a step of a pipeline pass step__sample_weight too.",
                CalibrationWarning,
                stacklevel=4,
            )
        return to_estimator, {} if groups is None else {"groups": groups}

    def predict_log_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return calibrated log-probabilities, shape (n, K), in nats."""
        check_is_fitted(self)
        scores, _ = _scores(self.estimator_, X, self.response)
        return self.calibrator_.transform(scores)

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return calibrated probabilities, shape (n, K); `predict_log_proba` keeps more digits near 0."""
        check_is_fitted(self)
        scores, _ = _scores(self.estimator_, X, self.response)
        return self.calibrator_.predict_proba(scores)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the label of the largest score, shape (n,): calibration keeps the order of the classes."""
        codes = self.predict_log_proba(X).argmax(axis=1)
        return np.asarray(self.classes_[codes])

    def get_metadata_routing(self) -> MetadataRouter:
        """Return where scikit-learn's metadata routing sends what `fit` is given."""
        mapping = MethodMapping
        return (
            MetadataRouter(owner=self)
            .add_self_request(self)
            .add(estimator=self.estimator, method_mapping=mapping().add(caller="fit", callee="fit"))
            .add(splitter=self.cv, method_mapping=mapping().add(caller="fit", callee="split"))
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        try:
            tags.input_tags.sparse = get_tags(self.estimator).input_tags.sparse
        except AttributeError:  # a frozen model of another library
            tags.input_tags.sparse = False
        return tags


def _scores(estimator: Any, X: Any, response: Response) -> tuple[NDArray[Any], Input]:
    """Return the scores of a fitted estimator, (n, K) or (n,), and what they are."""
    if callable(response):
        return as_scores(response(estimator, X), "response"), "logits"
    kinds: dict[str, Input] = {"predict_proba": "probs", "decision_function": "logits"}
    check_choice("response", response, ("auto", *kinds))
    for name in kinds if response == "auto" else (response,):
        if hasattr(estimator, name):
            scores = as_scores(getattr(estimator, name)(X), name)
            if kinds[name] == "logits" and scores.ndim == 2:
                _check_columns(estimator)
            return scores, kinds[name]
    wanted = "predict_proba or decision_function" if response == "auto" else response
    raise TypeError(
        f"Expected an estimator with {wanted}, got {type(estimator).__name__}. Pass a callable as response "
        "that gives logits from the fitted estimator and X."
    )


def _check_columns(estimator: Any) -> None:
    """Check that a decision function has a column a class: three pairs of classes look like three classes."""
    options = estimator.get_params() if hasattr(estimator, "get_params") else {}
    if any(name.endswith("decision_function_shape") and value == "ovo" for name, value in options.items()):
        raise ValueError(
            "Expected a column a class from decision_function, got one a pair of classes. Set "
            'decision_function_shape="ovr".'
        )


def _fit_fold(
    estimator: Any,
    X: Any,
    labels: NDArray[Any],
    train: Any,
    test: Any,
    fit_params: dict[str, Any],
    response: Response,
) -> tuple[NDArray[Any], Input]:
    """Fit on a fold's training rows; return the scores of its test rows."""
    params = _check_method_params(X, fit_params, indices=train)
    estimator.fit(_safe_indexing(X, train), labels[train], **params)
    return _scores(estimator, _safe_indexing(X, test), response)


def _check_classes(labels: NDArray[Any], train: Any) -> None:
    """Check that each class can be learnt in a fold."""
    found = np.unique(labels)
    if len(found) < 2:
        raise ValueError(f"Expected labels of at least 2 classes, got only the class {found[0]!r}.")
    missing = np.setdiff1d(found, labels[train])
    if len(missing):
        raise ValueError(
            f"Expected every class among the training rows of each fold, got none of {missing[0]!r} in one. "
            "Give it two rows or more, drop it, or pass another cv."
        )
