r"""Structured matrix scaling: smoothed temperature scaling, then a shrunk affine map."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_range, check_shape, check_temperature
from focalcal._validate import check_input
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Fitted
from focalcal.calibrators.held_out import Array, map_rows
from focalcal.calibrators.matrix.affine import Ridge, fit_affine
from focalcal.calibrators.matrix.first_stage import first_stage, smoothed
from focalcal.calibrators.objective import Objective


class StructuredMatrixScaling(Calibrator):
    r"""Temperature scaling, then an affine map, shrunk by parts: p = softmax(u W + b).

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
    matrix_ : ndarray of shape (K, K)
        W, for rows from the left: entry (i, j) is what class i's log-probability adds to class j's score.
    bias_ : ndarray of shape (K,)
        b; its sum is 0.
    stderr_ : dict
        Empty.
    diagnostics_ : Diagnostics
        How the fit went; its loss is the mean NLL, without the penalty.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    1. T: temperature scaling; then :math:`u = \log\bigl((1-s)\,\mathrm{softmax}(z/T) + s/K\bigr)` with
       s = 1/(n + 1), n the total weight and K the number of the row's possible classes.
    2. L-BFGS minimises, to 1e-8 nats,

       .. math:: \frac1n\sum_i w_i\,\mathrm{NLL}(\mathrm{softmax}(u_i W + b), y_i) + \frac{K(K-1)}n
                 \sum_{i\ne j} W_{ij}^2 + \frac Kn \sum_i (W_{ii} - 1)^2 + \frac Kn\,|b|^2 .

    References
    ----------
    Berta, Holzmüller, Jordan and Bach 2025, arXiv 2511.03685; share, penalties and their strengths as in
    its authors' package probmetrics (``SMSCalibrator``, ridge).

    Examples
    --------
    Class 0 is mistaken for class 1, which no temperature can mend:

    >>> import numpy as np
    >>> z = np.tile([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 1.0, 2.0]], (100, 1))
    >>> y = np.tile([1, 0, 2], 100)
    >>> StructuredMatrixScaling().fit(z, y).predict(z[:3])
    array([1, 0, 2])
    """

    _parameter_names = ("temperature", "share", "matrix", "bias")

    temperature_: float
    share_: float
    matrix_: Array
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
        k = len(self.classes_)
        check_shape("matrix", self.matrix_, (k, k))
        check_shape("bias", self.bias_, (k,))

    def _estimate(self, objective: Objective) -> Fitted:
        first = first_stage(objective)
        share = 1 / (first.mass + 1)
        rows = first.rows(smoothed(first.held.scores, first.temperature, share))
        k = rows.n_classes
        found = fit_affine(rows, Ridge(2.0 * k * (k - 1), 2.0 * k, 2.0 * k))
        return first.fitted(
            rows.log_probs @ found.matrix + found.bias,
            {
                "temperature": first.temperature,
                "share": share,
                "matrix": found.matrix,
                "bias": found.bias,
            },
            converged=found.converged,
            iterations=found.iterations,
        )

    def _map(self, scores: NDArray[Any], *, probabilities: bool) -> NDArray[np.floating[Any]]:
        kind = check_input(self.input)
        return map_rows(scores, kind, self._recalibrate, probabilities=probabilities, filled=False)

    def _recalibrate(self, log_probs: Array) -> Array:
        return np.asarray(smoothed(log_probs, self.temperature_, self.share_) @ self.matrix_ + self.bias_)
