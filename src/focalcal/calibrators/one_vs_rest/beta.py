r"""Beta calibration: the map that is right where the scores of both classes follow beta distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_range, check_shape
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Fitted
from focalcal.calibrators.held_out import weighted_rows
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.one_vs_rest.columns import (
    Problems,
    class_problems,
    joined,
    log_odds,
    problems,
    summary,
)
from focalcal.calibrators.one_vs_rest.logistic import Logistic, fit_logistic, smoothed_targets

Array = NDArray[np.float64]


class BetaCalibration(Calibrator):
    r"""A line through log p and −log(1−p): sigmoid(a log p − b log(1−p) + c) with a, b ≥ 0.

    Parameters
    ----------
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    a_, b_, c_ : ndarray of shape (C,)
        Coefficients of each binary problem: C is 1 for two classes (of the second), otherwise K.
    stderr_ : dict
        Standard errors by the sandwich formula, of the same shapes; NaN where a or b was dropped.
    diagnostics_ : Diagnostics
        How the fit went; its loss is the mean NLL of the calibrated rows.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    More than two classes are K problems, each class against the rest, whose answers are divided by their
    sum; the order of a row's classes may change.

    A logistic regression by Newton's method on both logarithms, which are exact however close p is to 0 or
    1. As in the paper, a negative a is dropped (set to 0) and the rest fitted again, then a negative b. The
    paper's labels are replaced by Platt's smoothed targets, (N₊+1)/(N₊+2) and 1/(N₋+2) with the total
    weights of hits and misses, so that a minimum exists for any data; it moves by the order of 1/n.

    References
    ----------
    Kull, Silva Filho and Flach 2017, AISTATS, proceedings.mlr.press/v54/kull17a.

    Examples
    --------
    A calibrated map (1, 1, 0) is found again from its own probabilities:

    >>> import numpy as np
    >>> p = np.repeat([0.1, 0.3, 0.6, 0.9], 1000)
    >>> y = (np.arange(4000) % 1000 < 1000 * p).astype(int)
    >>> cal = BetaCalibration(input="probs").fit(p, y)
    >>> np.allclose([cal.a_[0], cal.b_[0], cal.c_[0]], [1, 1, 0], atol=0.01)
    True
    """

    _parameter_names = ("a", "b", "c")

    a_: Array
    b_: Array
    c_: Array

    def __init__(self, *, input: str = "logits", classes: Any = None) -> None:
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        pass

    def _check_parameters(self) -> None:
        shape = (class_problems(len(self.classes_)),)
        for name, value in (("a", self.a_), ("b", self.b_), ("c", self.c_)):
            check_shape(name, value, shape)
        check_range("a", self.a_, 0, np.inf)
        check_range("b", self.b_, 0, np.inf)

    def _estimate(self, objective: Objective) -> Fitted:
        held = weighted_rows(objective)
        whole = problems(held)
        fit = Logistic.concatenated([_fit(part) for part in whole.parts()])
        (a, b), (error_a, error_b) = fit.slopes, fit.slope_errors
        return summary(
            objective,
            held,
            _answers(whole.log_odds, a, b, fit.intercepts),
            {"a": a, "b": b, "c": fit.intercepts},
            {"a": error_a, "b": error_b, "c": fit.intercept_errors},
            converged=fit.converged,
            iterations=fit.iterations,
            worse_than_chance=whole.worse_than_chance,
            identifiable=fit.identifiable,
        )

    def _recalibrate(self, log_probs: Array) -> Array:
        return _answers(log_odds(log_probs), self.a_, self.b_, self.c_)


def _answers(log_odds: Array, a: Array, b: Array, c: Array) -> Array:
    log_p, minus_log_rest = _features(log_odds)
    return joined(a * log_p + b * minus_log_rest + c)


def _features(log_odds: Array) -> list[Array]:
    """Return log p and −log(1−p)."""
    return [-np.logaddexp(0, -log_odds), np.logaddexp(0, log_odds)]


def _fit(part: Problems) -> Logistic:
    """Fit some problems, dropping first a and then b where they are negative."""
    features = _features(part.log_odds)
    targets = smoothed_targets(part.hits, part.weight)
    free = np.ones((2, targets.shape[1]), np.bool_)
    fit = fit_logistic(features, targets, part.weight, free)
    while (fit.slopes < 0).any():
        wrong = np.asarray((fit.slopes < 0).any(axis=0))
        # b only where a is not negative: it may be positive without it
        free &= fit.slopes >= 0
        free[1] |= fit.slopes[0] < 0
        weight = part.weight if part.weight.shape[1] == 1 else part.weight[:, wrong]
        again = fit_logistic([x[:, wrong] for x in features], targets[:, wrong], weight, free[:, wrong])
        fit = fit.replaced(wrong, again)
    return fit
