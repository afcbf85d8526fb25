r"""Vector scaling: a slope and a bias for each class."""

from __future__ import annotations

from typing import Any

import numpy as np

from focalcal._settings import check_positive, check_shape
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Fitted
from focalcal.calibrators.held_out import Array
from focalcal.calibrators.matrix.diagonal import fit_diagonal, standard_errors
from focalcal.calibrators.matrix.first_stage import first_stage
from focalcal.calibrators.objective import Objective


class VectorScaling(Calibrator):
    r"""A slope and a bias for each class: p = softmax(v ∘ x + b) with x the log-probabilities.

    Parameters
    ----------
    penalty : float
        λ > 0 of the ridge towards temperature scaling. The default is worth less than half a row's
        information on a bias, which is at most 1/4: it hardly moves a class that has rows, and gives one
        that has none a finite bias.
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    slope_, bias_ : ndarray of shape (K,)
        v and b; the biases' sum is 0.
    stderr_ : dict
        Standard errors by the sandwich formula, of the same shapes, T and λ taken as given.
    diagnostics_ : Diagnostics
        How the fit went; its loss is the mean NLL, without the penalty.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    With T of temperature scaling on the same rows, Newton's method on all 2K parameters minimises

    .. math:: \sum_n w_n\,\mathrm{NLL}(\mathrm{softmax}(v\circ x_n + b), y_n)
              + \frac\lambda2\bigl(\textstyle\sum_k (T v_k - 1)^2 + |b|^2\bigr),

    which is convex and has one minimum for any data. Slopes that differ depend on what a row's scores are
    counted from, here the logarithm of their softmax, so that logits and probabilities get the same fit.

    References
    ----------
    Guo et al. 2017, arXiv 1706.04599, where there is no penalty.

    Examples
    --------
    Of the rows with log-odds −1 a fifth are hits, of those with log-odds 1 three fifths:

    >>> import numpy as np
    >>> X, y = np.repeat([-1.0, 1.0], 5000), np.tile([0, 0, 0, 0, 1, 0, 0, 1, 1, 1], 1000)
    >>> y = y.reshape(1000, 2, 5).transpose(1, 0, 2).ravel()
    >>> VectorScaling().fit(X, y).predict_proba(X)[[0, -1], 1].round(3)
    array([0.2, 0.6])
    """

    _parameter_names = ("slope", "bias")

    slope_: Array
    bias_: Array

    def __init__(self, *, penalty: float = 0.1, input: str = "logits", classes: Any = None) -> None:
        self.penalty = penalty
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        check_positive("penalty", self.penalty)

    def _check_parameters(self) -> None:
        check_shape("slope", self.slope_, (len(self.classes_),))
        check_shape("bias", self.bias_, (len(self.classes_),))

    def _estimate(self, objective: Objective) -> Fitted:
        first = first_stage(objective)
        x, temperature = first.held.log_probs, first.temperature
        scaled = first.rows(x / temperature)
        found = fit_diagonal(scaled, np.full(2 * scaled.n_classes, float(self.penalty)))
        errors = standard_errors(scaled, found)
        slope = (1 + found.slope) / temperature
        return first.fitted(
            x * slope + found.bias,
            {"slope": slope, "bias": found.bias},
            {"slope": errors[0] / temperature, "bias": errors[1]},
            converged=found.converged,
            iterations=found.iterations,
        )

    def _recalibrate(self, log_probs: Array) -> Array:
        return np.asarray(log_probs * self.slope_ + self.bias_)
