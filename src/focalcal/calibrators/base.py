"""The contract of every calibrator: fit on held-out scores, then map scores to log-probabilities."""

from __future__ import annotations

import math
import os
import warnings
from abc import abstractmethod
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin, clone
from sklearn.utils.validation import check_is_fitted, validate_data

import focalcal
from focalcal._validate import CalibrationWarning, as_scores, check_input, class_count
from focalcal.calibrators import artefact
from focalcal.calibrators.diagnostics import Diagnostics, Fitted, Value
from focalcal.calibrators.held_out import HeldOut, map_rows
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.ranking import Ranked
from focalcal.rows import ArrayRows, Rows, as_rows, is_source


class Calibrator(ClassifierMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]
    """Base of the calibrators; a family says how it is fitted and how it maps a block of logits."""

    #: Names of the fitted parameters; each becomes an attribute with a trailing underscore.
    _parameter_names: tuple[str, ...] = ()

    #: Rows whose label is not on top below which `fit_best` does not consider it.
    _fewest_errors = 0

    input: str
    classes: Any
    ranking_: list[Ranked]  # of `fit_best` alone

    @abstractmethod
    def _check_settings(self) -> None:
        """Check the constructor's arguments."""

    @abstractmethod
    def _check_parameters(self) -> None:
        """Check the fitted parameters, of a file that was read."""

    @abstractmethod
    def _estimate(self, objective: Objective) -> Fitted:
        """Fit the parameters."""

    def _map(self, scores: NDArray[Any], *, probabilities: bool) -> NDArray[np.floating[Any]]:
        """Map scores (n, K) or (n,) to calibrated log-probabilities, or to probabilities; check values."""
        return map_rows(scores, check_input(self.input), self._recalibrate, probabilities=probabilities)

    @abstractmethod
    def _recalibrate(self, log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Map log-probabilities (b, K), all finite, to calibrated ones that need not be normalised.

        A family that maps the scores themselves, by `_map`, does without.
        """

    def fit(
        self, X: Any, y: Any = None, sample_weight: Any = None, *, executor: Executor | None = None
    ) -> Self:
        """Fit on scores and labels that the model was not trained on.

        Parameters
        ----------
        X : array of shape (n, K), or (n,) or (n, 1) for two classes
            Scores, of the kind declared by `input`: NumPy, pandas, polars, Arrow or CPU torch. A logit of
            −inf marks a class that cannot occur. The score of shape (n,) belongs to the second class.
            Or what `focalcal.open_scores` returns, which brings its labels and weights.
        y : array of shape (n,)
            Labels: column numbers, or any labels that `classes` names.
        sample_weight : array of shape (n,), optional
            Weights ≥ 0; a weight of 2 counts a row twice in the fit.
        executor : concurrent.futures.Executor, optional
            Where rows are summed: threads, processes, a Dask cluster's ``client.get_executor()``. By default
            threads of this process. The parameters are the same.

        Returns
        -------
        self

        Raises
        ------
        ValueError, TypeError
            If the data are not what was declared; the message says what to do.

        Warns
        -----
        CalibrationWarning
            For each of the `diagnostics_.messages()`.
        """
        rows, classes = self._read(X, y, sample_weight, executor)
        return self._take(self._estimate(Objective(rows)), rows, classes, stacklevel=3)

    def _read(
        self, X: Any, y: Any, sample_weight: Any, executor: Executor | None
    ) -> tuple[Rows, NDArray[Any]]:
        """Check the settings and what `fit` is given; return the rows and the class of each column."""
        if y is None and not is_source(X):
            raise ValueError(
                f"Expected labels: {type(self).__name__} requires y to be passed, but the target y is None."
            )
        kind = check_input(self.input)
        self._check_settings()
        rows, classes = as_rows(X, y, sample_weight, kind, self.classes, executor)
        if isinstance(rows, ArrayRows) and not is_source(X):
            validate_data(self, _table(X, rows.scores), skip_check_array=True)
        else:
            self.n_features_in_ = rows.n_classes
        return rows, classes

    def _take(self, fitted: Fitted, rows: Rows, classes: NDArray[Any], stacklevel: int) -> Self:
        """Take what a fit found, and warn of what needs to be known."""
        self.classes_, self.n_fit_ = classes, rows.n
        self._set(fitted.parameters, fitted.stderr)
        self.diagnostics_ = fitted.diagnostics
        for message in fitted.diagnostics.messages():
            warnings.warn(message, CalibrationWarning, stacklevel=stacklevel)
        return self

    def _cross_fit(self, held: HeldOut, fold: NDArray[np.int64]) -> tuple[Fitted, NDArray[np.float64]]:
        """Fit all rows; return that and the losses (n,), in nats, of rows by fits without their fold."""
        losses = np.empty(held.n)
        for k in range(int(fold.max()) + 1):
            inside, outside = held.part(fold != k), held.part(fold == k)
            one = clone(self).set_params(input="logits")
            fitted = one._estimate(inside.objective())
            one._set(fitted.parameters, fitted.stderr)
            losses[fold == k] = outside.losses(
                np.asarray(one._map(outside.scores, probabilities=False), np.float64)
            )
        return self._estimate(held.objective()), losses

    def _set(self, parameters: Mapping[str, Value], stderr: Mapping[str, Value]) -> None:
        for name in self._parameter_names:
            setattr(self, f"{name}_", parameters[name])
        self.stderr_ = dict(stderr)

    def transform(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return calibrated log-probabilities.

        Parameters
        ----------
        X : array of shape (n, K), or (n,) or (n, 1) for two classes
            Scores of the same kind as in `fit`.

        Returns
        -------
        array of shape (n, K)
            Natural logarithms; float64 for float64 input, otherwise float32. −inf for masked classes.

        Raises
        ------
        ValueError, TypeError
            If X is not of the fitted kind and width.
        """
        return self._map(self._check_scores(X), probabilities=False)

    def predict_proba(self, X: Any) -> NDArray[np.floating[Any]]:
        """Return calibrated probabilities, shape (n, K); `transform` keeps more digits near 0 and 1."""
        return self._map(self._check_scores(X), probabilities=True)

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the label of the largest calibrated probability, shape (n,)."""
        log_probs = self.transform(X)
        return np.asarray(self.classes_[log_probs.argmax(axis=1)])

    def _check_scores(self, X: ArrayLike) -> NDArray[Any]:
        check_is_fitted(self)
        scores = as_scores(X)
        if class_count(scores) != len(self.classes_):
            given = 1 if scores.ndim == 1 else scores.shape[1]
            raise ValueError(
                f"Expected one column for each of the {len(self.classes_)} classes of the fit: X has {given} "
                f"features, but {type(self).__name__} is expecting {len(self.classes_)} features as input. "
                "Reshape your data or fit again."
            )
        if hasattr(self, "n_features_in_"):
            validate_data(self, _table(X, scores), reset=False, skip_check_array=True)
        return scores

    def to_dict(self) -> dict[str, Any]:
        """Return the artefact: plain values that `save` writes and `load` reads."""
        check_is_fitted(self)
        settings = {k: v for k, v in self.get_params().items() if k not in ("input", "classes")}
        return {
            "schema": artefact.SCHEMA,
            "calibrator": type(self).__name__,
            "version": focalcal.__version__,
            "input": self.input,
            "settings": settings,
            "parameters": {name: artefact.plain(getattr(self, f"{name}_")) for name in self._parameter_names},
            "stderr": {name: artefact.plain(value) for name, value in self.stderr_.items()},
            "n_fit": self.n_fit_,
            "classes": self.classes_.tolist(),
            "diagnostics": self.diagnostics_.to_dict(),
        } | ({"ranking": [one.to_dict() for one in self.ranking_]} if hasattr(self, "ranking_") else {})

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the artefact as JSON, aside and then renamed."""
        artefact.write(self.to_dict(), path)

    def _restore(self, saved: dict[str, Any]) -> Self:
        """Take fitted state from an artefact that `artefact.read` has checked."""
        self.classes_, self.n_fit_ = np.array(saved["classes"]), saved["n_fit"]
        missing = [name for name in self._parameter_names if name not in saved["parameters"]]
        if missing:
            raise ValueError(f"Expected the parameters {missing} of a {type(self).__name__}. Fit again.")
        self._set(
            {name: artefact.value(saved["parameters"][name]) for name in self._parameter_names},
            {name: artefact.value(value) for name, value in saved["stderr"].items()},
        )
        check_input(self.input)
        self._check_settings()
        self._check_parameters()
        facts = {k: v for k, v in saved["diagnostics"].items() if k != "messages"}
        loss = facts.get("loss")
        self.diagnostics_ = Diagnostics(
            **facts
            | {"at_bound": tuple(facts.get("at_bound", ())), "loss": math.nan if loss is None else loss}
        )
        if "ranking" in saved:
            self.ranking_ = [Ranked.from_dict(one) for one in saved["ranking"]]
        return self

    def __repr__(self, N_CHAR_MAX: int = 700) -> str:
        text: str = super().__repr__(N_CHAR_MAX)
        if not hasattr(self, "diagnostics_"):
            return text
        values = ", ".join(self._shown(name) for name in self._parameter_names)
        return "\n  ".join([f"{text}: {values}, n={self.n_fit_}", *self.diagnostics_.messages()])

    def _shown(self, name: str) -> str:
        value = getattr(self, f"{name}_")
        if isinstance(value, np.ndarray):
            return f"{name}{list(value.shape)}"
        error = f"±{self.stderr_[name]:.2g}" if name in self.stderr_ else ""
        return f"{name}={value:.4g}{error}"


def _table(X: Any, scores: NDArray[Any]) -> Any:
    """Return what scikit-learn reads names and number of columns from."""
    return (
        X if hasattr(X, "columns") and not hasattr(X, "combine_chunks") else scores.reshape(len(scores), -1)
    )
