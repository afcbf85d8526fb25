"""Isotonic calibration: the best map of the score that never falls."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.isotonic import IsotonicRegression

from focalcal._settings import check_range, check_shape
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Fitted
from focalcal.calibrators.held_out import weighted_rows
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.one_vs_rest.columns import (
    class_problems,
    joined,
    log_odds,
    problems,
    summary,
)

Array = NDArray[np.float64]


class IsotonicCalibration(Calibrator):
    r"""The non-decreasing map of the log-odds with the least squared error and log loss.

    Parameters
    ----------
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    thresholds_, probabilities_ : ndarray of shape (M,)
        Log-odds and what they become, between which the map is linear, one binary problem after another:
        one for two classes (of the second), otherwise K.
    ends_ : ndarray of shape (C,)
        Where each problem's thresholds end.
    stderr_ : dict
        Empty: none is known.
    diagnostics_ : Diagnostics
        How the fit went; its loss is the mean NLL of the calibrated rows.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    Pool adjacent violators, by scikit-learn; tied scores are one place. Scores beyond those of the fit
    become what the nearest of them does.

    Alone, it gives 0 below the lowest hit and 1 above the highest miss, and an infinite log loss when the
    next row is otherwise. So one row more is fitted at each end, at the lowest and at the highest score,
    whose label the classes share: 1/K of a hit. A lowest step of m rows without a hit becomes 1/(K (m+1)),
    and the map cannot fall by it, since it is fitted like the others.

    More than two classes are K problems, each class against the rest, whose answers are divided by their
    sum; the order of a row's classes may change.

    References
    ----------
    Zadrozny and Elkan 2002, doi 10.1145/775047.775151.

    Examples
    --------
    The rows at .5 and .7 are pooled. With the row at each end whose label both
    classes share, (0 + 1/2)/3 below, 1/2 in the middle and (2 + 1/2)/3 above.

    >>> p = [0.2, 0.2, 0.5, 0.5, 0.7, 0.7, 0.9, 0.9]
    >>> cal = IsotonicCalibration(input="probs").fit(p, [0, 0, 1, 0, 1, 0, 1, 1])
    >>> cal.predict_proba([0.2, 0.6, 0.99])[:, 1].round(6)
    array([0.166667, 0.5     , 0.833333])
    """

    _parameter_names = ("thresholds", "probabilities", "ends")

    thresholds_: Array
    probabilities_: Array
    ends_: Array

    def __init__(self, *, input: str = "logits", classes: Any = None) -> None:
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        pass

    def _check_parameters(self) -> None:
        check_shape("ends", self.ends_, (class_problems(len(self.classes_)),))
        check_range("lengths by ends", np.diff(self.ends_, prepend=0), 1, np.inf)
        shape = (int(self.ends_[-1]),)
        check_shape("thresholds", self.thresholds_, shape)
        check_shape("probabilities", self.probabilities_, shape)
        check_range("probabilities", self.probabilities_, 1e-300, 1 - 1e-16)

    def _estimate(self, objective: Objective) -> Fitted:
        held = weighted_rows(objective)
        whole = problems(held)
        steps = [_steps(*problem, whole.n_classes) for problem in whole.each()]
        thresholds, probabilities = (np.concatenate(values) for values in zip(*steps, strict=True))
        ends = np.cumsum([len(own) for own, _ in steps]).astype(np.float64)
        return summary(
            objective,
            held,
            _answers(whole.log_odds, thresholds, probabilities, ends),
            {"thresholds": thresholds, "probabilities": probabilities, "ends": ends},
            worse_than_chance=whole.worse_than_chance,
            identifiable=not whole.constant,
        )

    def _recalibrate(self, log_probs: Array) -> Array:
        return _answers(log_odds(log_probs), self.thresholds_, self.probabilities_, self.ends_)


def _steps(scores: Array, hits: NDArray[np.bool_], weight: Array, n_classes: int) -> tuple[Array, Array]:
    """Return the thresholds and probabilities of one problem."""
    if not len(scores):
        return np.zeros(1), np.full(1, 1 / n_classes)
    found = IsotonicRegression(out_of_bounds="clip").fit(
        np.append(scores, [scores.min(), scores.max()]),
        np.append(hits.astype(np.float64), [1 / n_classes] * 2),
        np.append(weight, [1.0, 1.0]),
    )
    return found.X_thresholds_, found.y_thresholds_


def _answers(log_odds: Array, thresholds: Array, probabilities: Array, ends: Array) -> Array:
    answers = np.empty_like(log_odds)
    cuts = ends[:-1].astype(np.int64)
    parts = zip(np.split(thresholds, cuts), np.split(probabilities, cuts), strict=True)
    for k, (x, p) in enumerate(parts):
        answers[:, k] = np.interp(log_odds[:, k], x, p)
    return joined(np.log(answers) - np.log1p(-answers))
