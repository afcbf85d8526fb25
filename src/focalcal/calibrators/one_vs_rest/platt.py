r"""Platt scaling: a logistic regression on the log-odds."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_shape
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
from focalcal.calibrators.one_vs_rest.logistic import Logistic, fit_logistic, smoothed_targets


class PlattScaling(Calibrator):
    r"""A line through the log-odds: p = sigmoid(a s + b) with s = log p/(1−p).

    Parameters
    ----------
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    slope_, intercept_ : ndarray of shape (C,)
        a and b of each binary problem: C is 1 for two classes (of the second), otherwise K.
    stderr_ : dict
        Standard errors by the sandwich formula, of the same shapes; NaN for the slope of a constant score.
    diagnostics_ : Diagnostics
        How the fit went; its loss is the mean NLL of the calibrated rows.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    More than two classes are K problems, each class against the rest, whose answers are divided by their
    sum; the order of a row's classes may change.

    Newton's method minimises the log loss against Platt's smoothed targets, (N₊+1)/(N₊+2) for a hit and
    1/(N₋+2) for a miss with N₊ and N₋ the total weights of both, so that a minimum exists for any data.

    References
    ----------
    Platt 1999, Probabilistic outputs for support vector machines; Zadrozny and Elkan 2002, doi
    10.1145/775047.775151, for more classes.

    Examples
    --------
    Two rows in five are hits at log-odds −1, three in five at 1. With five of each the targets are 6/7 and
    1/7, whose means are 3/7 and 4/7:

    >>> import numpy as np
    >>> X, y = np.repeat([-1.0, 1.0], 5), np.array([0, 0, 0, 1, 1, 0, 0, 1, 1, 1])
    >>> cal = PlattScaling().fit(X, y)
    >>> bool(np.isclose(cal.slope_[0], np.log(4 / 3)))
    True
    >>> np.allclose(cal.predict_proba(X)[[0, -1], 1], [3 / 7, 4 / 7])
    True
    """

    _parameter_names = ("slope", "intercept")

    slope_: NDArray[np.float64]
    intercept_: NDArray[np.float64]

    def __init__(self, *, input: str = "logits", classes: Any = None) -> None:
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        pass

    def _check_parameters(self) -> None:
        shape = (class_problems(len(self.classes_)),)
        check_shape("slope", self.slope_, shape)
        check_shape("intercept", self.intercept_, shape)

    def _estimate(self, objective: Objective) -> Fitted:
        held = weighted_rows(objective)
        whole = problems(held)
        fit = Logistic.concatenated(
            fit_logistic([part.log_odds], smoothed_targets(part.hits, part.weight), part.weight)
            for part in whole.parts()
        )
        slope, intercept = fit.slopes[0], fit.intercepts
        return summary(
            objective,
            held,
            joined(whole.log_odds * slope + intercept),
            {"slope": slope, "intercept": intercept},
            {"slope": fit.slope_errors[0], "intercept": fit.intercept_errors},
            converged=fit.converged,
            iterations=fit.iterations,
            worse_than_chance=whole.worse_than_chance,
            identifiable=fit.identifiable,
        )

    def _recalibrate(self, log_probs: NDArray[np.float64]) -> NDArray[np.float64]:
        return joined(log_odds(log_probs) * self.slope_ + self.intercept_)
