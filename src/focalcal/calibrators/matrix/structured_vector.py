r"""Structured vector scaling: smoothed temperature scaling, then a shrunk slope and bias for each class."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_range, check_shape, check_temperature
from focalcal._validate import check_input
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Fitted
from focalcal.calibrators.held_out import Array, map_rows
from focalcal.calibrators.matrix.diagonal import fit_diagonal, standard_errors
from focalcal.calibrators.matrix.first_stage import first_stage, smoothed
from focalcal.calibrators.objective import Objective


class StructuredVectorScaling(Calibrator):
    r"""Temperature scaling, then a slope and a bias for each class, both shrunk: p = softmax(v ∘ u + b).

    Parameters
    ----------
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    temperature_ : float
        T of the first stage.
    share_ : float
        1/(n + 1), by how much the first stage's probabilities are mixed with equal ones.
    slope_, bias_ : ndarray of shape (K,)
        v and b; the biases' sum is 0.
    stderr_ : dict
        Of slope and bias, by the sandwich formula, the first stage and the penalty taken as given.
    diagnostics_ : Diagnostics
        How the fit went; its loss is the mean NLL, without the penalty.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    1. T: temperature scaling; then :math:`u = \log\bigl((1-s)\,\mathrm{softmax}(z/T) + s/K\bigr)` with
       s = 1/(n + 1), n the total weight and K the number of the row's possible classes.
    2. Newton's method on all 2K parameters minimises

       .. math:: \frac1n\sum_i w_i\,\mathrm{NLL}(\mathrm{softmax}(v\circ u_i + b), y_i)
                 + \frac Kn\,|v - 1|^2 + \frac Kn\,|b|^2 .

    References
    ----------
    Berta, Holzmüller, Jordan and Bach 2025, arXiv 2511.03685; share, penalties and their strengths as in
    its authors' package probmetrics (``SVSCalibrator``, ridge).

    Examples
    --------
    At the minimum, what the labels have more than the probabilities is 2K times the bias. Here 45 rows have
    log-odds −1, 20 of them hits, and 45 have 1, 40 of them hits:

    >>> import numpy as np
    >>> X, y = np.repeat([-1.0, 1.0], 45), np.repeat([0, 1, 0, 1], [25, 20, 5, 40])
    >>> cal = StructuredVectorScaling().fit(X, y)
    >>> np.allclose([30, 60] - cal.predict_proba(X).sum(axis=0), 2 * 2 * cal.bias_, atol=1e-4)
    True
    """

    _parameter_names = ("temperature", "share", "slope", "bias")

    temperature_: float
    share_: float
    slope_: Array
    bias_: Array

    def __init__(self, *, input: str = "logits", classes: Any = None) -> None:
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        pass

    def _check_parameters(self) -> None:
        check_temperature(self.temperature_)
        check_shape("share", self.share_, ())
        check_range("share", self.share_, 0, 1)
        check_shape("slope", self.slope_, (len(self.classes_),))
        check_shape("bias", self.bias_, (len(self.classes_),))

    def _estimate(self, objective: Objective) -> Fitted:
        first = first_stage(objective)
        share = 1 / (first.mass + 1)
        rows = first.rows(smoothed(first.held.scores, first.temperature, share))
        found = fit_diagonal(rows, np.full(2 * rows.n_classes, 2.0 * rows.n_classes))
        slope, (slope_errors, bias_errors) = 1 + found.slope, standard_errors(rows, found)
        return first.fitted(
            rows.log_probs * slope + found.bias,
            {"temperature": first.temperature, "share": share, "slope": slope, "bias": found.bias},
            {"slope": slope_errors, "bias": bias_errors},
            converged=found.converged,
            iterations=found.iterations,
        )

    def _map(self, scores: NDArray[Any], *, probabilities: bool) -> NDArray[np.floating[Any]]:
        kind = check_input(self.input)
        return map_rows(scores, kind, self._recalibrate, probabilities=probabilities, filled=False)

    def _recalibrate(self, log_probs: Array) -> Array:
        return np.asarray(smoothed(log_probs, self.temperature_, self.share_) * self.slope_ + self.bias_)
