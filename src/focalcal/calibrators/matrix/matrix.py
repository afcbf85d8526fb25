r"""Matrix scaling: an affine map of the log-probabilities, shrunk towards temperature scaling."""

from __future__ import annotations

from typing import Any

import numpy as np

from focalcal._settings import check_positive, check_shape, check_temperature
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Fitted
from focalcal.calibrators.held_out import Array, log_normalised
from focalcal.calibrators.matrix.affine import Ridge, fit_affine
from focalcal.calibrators.matrix.first_stage import first_stage
from focalcal.calibrators.objective import Objective


class MatrixScaling(Calibrator):
    r"""Any affine map of the log-probabilities: p = softmax(u W + b) with u those of temperature scaling.

    Parameters
    ----------
    penalty : float, optional
        λ > 0 of the ridge towards temperature scaling. By default 2 K (K − 1), what structured matrix
        scaling takes for its off-diagonal entries: without a strong one, K² parameters fit the noise.
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    temperature_ : float
        T of temperature scaling.
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
    1. T: temperature scaling; :math:`u = \log\mathrm{softmax}(z/T)`.
    2. L-BFGS minimises, to 1e-8 nats of the mean,

       .. math:: \sum_n w_n\,\mathrm{NLL}(\mathrm{softmax}(u_n W + b), y_n)
                 + \frac\lambda2\bigl(|W - I|^2 + |b|^2\bigr),

       which is convex and has one minimum for any data.

    References
    ----------
    Guo et al. 2017, arXiv 1706.04599, where there is no penalty; Berta et al. 2025, arXiv 2511.03685, for
    its strength.

    Examples
    --------
    Class 0 is mistaken for class 1, which no temperature can mend:

    >>> import numpy as np
    >>> z = np.tile([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 1.0, 2.0]], (100, 1))
    >>> y = np.tile([1, 0, 2], 100)
    >>> MatrixScaling().fit(z, y).predict(z[:3])
    array([1, 0, 2])
    """

    _parameter_names = ("temperature", "matrix", "bias")

    temperature_: float
    matrix_: Array
    bias_: Array

    def __init__(self, *, penalty: float | None = None, input: str = "logits", classes: Any = None) -> None:
        self.penalty = penalty
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        if self.penalty is not None:
            check_positive("penalty", self.penalty)

    def _check_parameters(self) -> None:
        k = len(self.classes_)
        check_temperature(self.temperature_)
        check_shape("matrix", self.matrix_, (k, k))
        check_shape("bias", self.bias_, (k,))

    def _estimate(self, objective: Objective) -> Fitted:
        first = first_stage(objective)
        rows = first.rows(log_normalised(first.held.log_probs / first.temperature))
        k = rows.n_classes
        strength = 2.0 * k * (k - 1) if self.penalty is None else float(self.penalty)
        found = fit_affine(rows, Ridge(strength, strength, strength))
        return first.fitted(
            rows.log_probs @ found.matrix + found.bias,
            {"temperature": first.temperature, "matrix": found.matrix, "bias": found.bias},
            converged=found.converged,
            iterations=found.iterations,
        )

    def _recalibrate(self, log_probs: Array) -> Array:
        return np.asarray(log_normalised(log_probs / self.temperature_) @ self.matrix_ + self.bias_)
