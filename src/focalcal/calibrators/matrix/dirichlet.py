r"""Dirichlet calibration: an affine map of the log-probabilities with off-diagonal regularisation."""

from __future__ import annotations

from typing import Any

import numpy as np

from focalcal._settings import check_positive, check_shape
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Fitted
from focalcal.calibrators.held_out import Array
from focalcal.calibrators.matrix.affine import Ridge, fit_affine
from focalcal.calibrators.matrix.first_stage import first_stage
from focalcal.calibrators.objective import Objective

#: Strength of the ridge on diagonal entries, towards temperature scaling, so that there is a minimum.
_DIAGONAL = 0.1


class DirichletCalibration(Calibrator):
    r"""Dirichlet calibration with off-diagonal and intercept regularisation: p = softmax(x W + b).

    If the log-probabilities x of each class's rows came from a Dirichlet distribution of their own, the
    right map would be of this form, whence the name.

    Parameters
    ----------
    off_diagonal : float, optional
        λ > 0. By default T² K² (K − 1)²/n with T of temperature scaling: the strength of structured matrix
        scaling, whose entries are T times as large.
    bias : float, optional
        μ > 0. By default K²/n, by the same rule.
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
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
    L-BFGS minimises, to 1e-8 nats, with n the total weight,

    .. math:: \frac1n\sum_i w_i\,\mathrm{NLL}(\mathrm{softmax}(x_i W + b), y_i)
              + \frac{\lambda}{K(K-1)} \sum_{i\ne j} W_{ij}^2 + \frac\mu K |b|^2
              + \frac{0.05}n \sum_i (T W_{ii} - 1)^2 .

    The last term is not in the paper: it hardly moves a class that has rows, and makes sure that there is a
    minimum for classes without rows and for separable scores.

    References
    ----------
    Kull et al. 2019, arXiv 1910.12656; Berta et al. 2025, arXiv 2511.03685, for the strengths.

    Examples
    --------
    Class 0 is mistaken for class 1, which no temperature can mend:

    >>> import numpy as np
    >>> z = np.tile([[2.0, 1.0, 0.0], [1.0, 2.0, 0.0], [0.0, 1.0, 2.0]], (100, 1))
    >>> y = np.tile([1, 0, 2], 100)
    >>> DirichletCalibration().fit(z, y).predict(z[:3])
    array([1, 0, 2])
    """

    _parameter_names = ("matrix", "bias")

    matrix_: Array
    bias_: Array

    def __init__(
        self,
        *,
        off_diagonal: float | None = None,
        bias: float | None = None,
        input: str = "logits",
        classes: Any = None,
    ) -> None:
        self.off_diagonal = off_diagonal
        self.bias = bias
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        for name in ("off_diagonal", "bias"):
            if getattr(self, name) is not None:
                check_positive(name, getattr(self, name))

    def _check_parameters(self) -> None:
        k = len(self.classes_)
        check_shape("matrix", self.matrix_, (k, k))
        check_shape("bias", self.bias_, (k,))

    def _estimate(self, objective: Objective) -> Fitted:
        first = first_stage(objective)
        temperature = first.temperature
        rows = first.rows(first.held.log_probs / temperature)
        found = fit_affine(rows, self._ridge(temperature, first.mass, rows.n_classes))
        return first.fitted(
            rows.log_probs @ found.matrix + found.bias,
            {"matrix": found.matrix / temperature, "bias": found.bias},
            converged=found.converged,
            iterations=found.iterations,
        )

    def _ridge(self, temperature: float, n: float, k: int) -> Ridge:
        """Return the strengths for T W and b beside the summed loss."""
        off_diagonal = (
            temperature**2 * (k * (k - 1)) ** 2 / n if self.off_diagonal is None else self.off_diagonal
        )
        bias = k**2 / n if self.bias is None else self.bias
        return Ridge(2 * n * off_diagonal / (k * (k - 1)) / temperature**2, _DIAGONAL, 2 * n * bias / k)

    def _recalibrate(self, log_probs: Array) -> Array:
        return np.asarray(log_probs @ self.matrix_ + self.bias_)
