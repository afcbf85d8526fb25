r"""Focal matrix scaling: class structure as far as the data support it, then the focal map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_gamma, check_positive, check_shape, check_temperature
from focalcal._validate import check_input
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Diagnostics, Fitted
from focalcal.calibrators.held_out import Array, HeldOut, held_out, log_normalised, map_rows
from focalcal.calibrators.matrix.last_stage import Confidence, fit_confidence, tempered
from focalcal.calibrators.matrix.shrinkage import STRONGEST, Shrunk, folds, shrink
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.temperature.fitting import fit_temperature
from focalcal.engine import row_slices
from focalcal.maps import map_scores

#: Folds of the cross-validation, and the fewest rows that it is done with.
FOLDS, _FEWEST = 5, 10

#: Rows from which five parameters more or less fitted on them do not matter.
_PLENTY = 2000


class FocalMatrixScaling(Calibrator):
    r"""Matrix scaling as strong as the data support, then confidence: p = φ_γ(softmax((W x + b) / T(x))).

    Parameters
    ----------
    penalty : float, optional
        Strength λ > 0 of the shrinkage towards temperature scaling. By default the one of lowest
        out-of-fold loss, among half decades from .001 to 1,000.
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    temperature_ : float
        T of the first stage.
    matrix_ : ndarray of shape (K, K)
        W = I + M of the second stage.
    bias_ : ndarray of shape (K,)
    slopes_ : ndarray of shape (4,)
        c of the last stage.
    gamma_ : float
        γ of the last stage.
    penalty_ : float
        λ as given or chosen.
    stderr_ : dict
        Of "gamma" alone, from the last stage's curvature, the earlier ones taken as given; NaN at an end.
    diagnostics_ : Diagnostics
        How the fit went; its `loss` is the out-of-fold mean NLL.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    Three stages, each a minimum of its own:

    1. T: temperature scaling; :math:`x=\log\mathrm{softmax}(z/T)`.
    2. M and b: with :math:`s_n = x_n + M(x_n-\bar x) + b`, the least
       :math:`\sum_n w_n\,\mathrm{NLL}(\mathrm{softmax}(s_n), y_n) + \frac\lambda2\bigl(\sum_{ij}
       K\sqrt{\bar\alpha\alpha_i\beta_j/\bar\beta}\,(q_j^\top M u_i)^2
       + \sum_j K\sqrt{\beta_j/\bar\beta}\,(q_j^\top b)^2\bigr)`, where :math:`(\alpha_i, u_i)` are the
       eigenpairs of the covariance of x, rows weighted by :math:`w(1-\sum_k p_k^2)`, and
       :math:`(\beta_j, q_j)` those of :math:`\sum_n w_n(\mathrm{diag}\,p_n-p_np_n^\top)`.
       λ → ∞ is temperature scaling. Five folds (two for the choice of λ where n K ≥ 200,000) fit without
       their rows; the last fit, on all rows, takes λ n / (rows of a fold's fit).
    3. c and γ: with :math:`q = \mathrm{softmax}(s)` of the fits without the row, so that confidence is
       judged on rows the matrix has not seen, and its temperature
       :math:`\log T_n = c_0 + c_1 q_{(1)} + c_2 q_{(2)} + c_3 H(q)` of the two largest probabilities and
       the entropy, the least :math:`\sum_n w_n\,\mathrm{NLL}(\varphi_\gamma(\mathrm{softmax}(s_n/T_n)), y_n)
       + \frac12\gamma^2 + \frac12\sum_{k\ge1}(c_k\sigma_k/0.1)^2`, where σ are the features' standard
       deviations, at least .02.

    Folds do not depend on the order of rows. Rows that belong together (prompts of one question) should not:
    they make λ too small; pass `penalty` then. The second stage works in float32 and takes memory for
    some ten copies of X.

    References
    ----------
    Kull et al. 2019, arXiv 1910.12656 (regularised matrix scaling); Berta et al. 2025, arXiv 2511.03685
    (shrinkage towards temperature scaling); Komisarenko and Kull, ECAI 2024, arXiv 2408.11598 (focal map).

    Examples
    --------
    Classes 0 and 1 are mistaken for each other, and some labels are wrong: no temperature can mend that.

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(600, 3)) * 2
    >>> y = np.array([1, 0, 2])[z.argmax(axis=1)]
    >>> y = np.where(rng.random(600) < 0.15, rng.integers(0, 3, 600), y)
    >>> FocalMatrixScaling().fit(z, y).predict(np.eye(3))
    array([1, 0, 2])
    """

    _parameter_names = ("temperature", "matrix", "bias", "slopes", "gamma", "penalty")
    _fewest_errors = 10

    temperature_: float
    matrix_: Array
    bias_: Array
    slopes_: Array
    gamma_: float
    penalty_: float

    def __init__(self, *, penalty: float | None = None, input: str = "logits", classes: Any = None) -> None:
        self.penalty = penalty
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        if self.penalty is not None:
            check_positive("penalty", self.penalty)

    def _check_parameters(self) -> None:
        check_temperature(self.temperature_)
        check_gamma(self.gamma_)
        check_positive("penalty", self.penalty_)
        n_classes = len(self.classes_)
        check_shape("matrix", self.matrix_, (n_classes, n_classes))
        check_shape("bias", self.bias_, (n_classes,))
        check_shape("slopes", self.slopes_, (4,))

    def _estimate(self, objective: Objective) -> Fitted:
        return fit_matrix(held_out(objective), self.penalty).fitted

    def _cross_fit(self, held: HeldOut, fold: NDArray[np.int64]) -> tuple[Fitted, Array]:
        found = fit_matrix(held, self.penalty, fold)
        return found.fitted, held.losses(found.out_of_fold)

    def _map(self, scores: NDArray[Any], *, probabilities: bool) -> NDArray[np.floating[Any]]:
        mapped = map_rows(scores, check_input(self.input), self._recalibrate, probabilities=False)
        return _confident(mapped, self.slopes_, self.gamma_, probabilities)

    def _recalibrate(self, log_probs: Array) -> Array:
        x = log_normalised(log_probs / self.temperature_)
        return np.asarray(x @ self.matrix_ + self.bias_)


@dataclass(frozen=True)
class MatrixFit:
    """A fit, and what each row gets from stages fitted without it (of many rows the last one: with it)."""

    fitted: Fitted
    out_of_fold: Array  # (n, K) log-probabilities; rows of weight 0 as after temperature scaling


def fit_matrix(held: HeldOut, penalty: float | None, fold: NDArray[np.int64] | None = None) -> MatrixFit:
    """Fit the three stages, with the folds given or folds of its own."""
    first = fit_temperature(held.objective(), "nll", None)
    temperature = float(np.asarray(first.parameters["temperature"]))
    x = log_normalised(held.log_probs / temperature)
    used = held.weight > 0
    counted = replace(held, log_probs=x).part(used)
    fold = folds(held.part(used), FOLDS) if fold is None else fold[used]
    shrunk = _shrunk(counted, fold, penalty)
    judged = replace(counted, log_probs=shrunk.out_of_fold)
    last = fit_confidence(judged)
    out_of_fold = held.normalised(x)
    out_of_fold[used] = _left_out(judged, fold, last)
    fitted = Fitted(
        {
            "temperature": temperature,
            "matrix": shrunk.matrix,
            "bias": shrunk.bias,
            "slopes": last.slopes,
            "gamma": last.gamma,
            "penalty": shrunk.penalty,
        },
        {"gamma": last.stderr},
        _diagnostics(first.diagnostics, shrunk, last, held.nll(out_of_fold)),
    )
    return MatrixFit(fitted, out_of_fold)


def _left_out(held: HeldOut, fold: NDArray[np.int64], last: Confidence) -> Array:
    """Return rows' log-probabilities by a last stage fitted without them; of many rows, with them."""
    if held.n >= _PLENTY or held.n < _FEWEST:
        return np.asarray(_confident(held.log_probs, last.slopes, last.gamma), np.float64)
    found = np.empty_like(held.log_probs)
    for k in range(int(fold.max()) + 1):
        one = fit_confidence(held.part(fold != k))
        found[fold == k] = _confident(held.log_probs[fold == k], one.slopes, one.gamma)
    return found


def _confident(
    log_probs: NDArray[np.floating[Any]], slopes: Array, gamma: float, probabilities: bool = False
) -> NDArray[np.floating[Any]]:
    """Apply the last stage; the type of the numbers stays."""
    scores = np.empty_like(log_probs)
    for rows in row_slices(*log_probs.shape):
        scores[rows] = tempered(log_probs[rows].astype(np.float64), slopes)
    return map_scores(scores, "logits", 1.0, gamma, probabilities=probabilities)


def _shrunk(held: HeldOut, fold: NDArray[np.int64], penalty: float | None) -> Shrunk:
    if held.n >= _FEWEST:
        return shrink(held, fold, penalty)
    plain = np.eye(held.n_classes), np.zeros(held.n_classes)
    return Shrunk(*plain, penalty or STRONGEST, held.normalised(held.log_probs), {}, True, 0, False)


def _diagnostics(first: Diagnostics, shrunk: Shrunk, last: Confidence, loss: float) -> Diagnostics:
    """Put together what the stages say: of the last one only its loss and its γ."""
    bounds = [name for name, at in (("penalty", shrunk.at_bound), ("gamma", last.at_bound)) if at]
    return replace(
        first,
        criterion="out-of-fold nll",
        loss=loss,
        converged=first.converged and shrunk.converged and last.converged,
        iterations=first.iterations + shrunk.iterations + last.iterations,
        at_bound=(*first.at_bound, *bounds),
    )
