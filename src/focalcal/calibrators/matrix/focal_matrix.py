r"""Focal matrix scaling: class structure as far as rows left out ask for it, then the focal map."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_gamma, check_positive, check_range, check_shape, check_temperature
from focalcal._validate import check_input
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Diagnostics, Fitted
from focalcal.calibrators.held_out import (
    Array,
    HeldOut,
    held_out,
    log_normalised,
    map_rows,
    with_uniform,
)
from focalcal.calibrators.matrix.first_stage import find_start, smoothed
from focalcal.calibrators.matrix.last_stage import Confidence, fit_confidence, tempered
from focalcal.calibrators.matrix.mixture import STRONGEST, Mixture, mix
from focalcal.calibrators.matrix.shrinkage import folds
from focalcal.calibrators.objective import Objective
from focalcal.engine import row_slices
from focalcal.maps import map_scores

#: Folds of the cross-validation, and the fewest rows that it is done with.
FOLDS, _FEWEST = 5, 10

#: Rows from which five parameters are fitted on enough for a row's part in them to be told to first order.
_PLENTY = 2000


class FocalMatrixScaling(Calibrator):
    r"""Matrix scaling as strong as the data support, then confidence: p = φ_γ(softmax((W x + b) / T(x))).

    Parameters
    ----------
    penalty : float, optional
        Strength λ > 0 of the shrinkage towards temperature scaling, of one matrix that is then all of the
        second stage. By default matrices of several strengths and vector scaling are mixed.
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    temperature_ : float
        T of the first stage.
    uniform_share_ : float
        ε of the first stage.
    matrix_ : ndarray of shape (K, K)
        W = I + M of the second stage.
    bias_ : ndarray of shape (K,)
    slopes_ : ndarray of shape (4,)
        c of the last stage.
    gamma_ : float
        γ of the last stage.
    prior_share_ : float
        π, the share of the uniform distribution that is mixed in at the end.
    penalty_ : float
        λ as given, or the power of ten from .001 to 1,000 whose matrix alone has the lowest out-of-fold NLL.
    vector_share_, matrix_share_ : float
        Σ a of the second stage, of vector scaling and of matrices; the rest of 1 is temperature scaling's.
    stderr_ : dict
        Of "gamma" alone, from the last stage's curvature, the earlier ones taken as given; NaN at an end.
    diagnostics_ : Diagnostics
        How the fit went; its `loss` is the out-of-fold mean NLL.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    Three stages, each a minimum of its own, and a share for what n rows cannot have shown:

    1. T: temperature scaling; :math:`x=\log\mathrm{softmax}(z/T)`. Where mixing with the uniform distribution
       lowers its NLL by more than 5 % (a few rows, sure and wrong, rule T), T and ε of mixed temperature
       scaling: :math:`x=\log((1-\varepsilon)\,\mathrm{softmax}(z/T)+\varepsilon/K)`, ε at least
       :math:`1/(2n+2)`; otherwise ε = 0, as it hides which of the unlikely classes is the likelier.
    2. W and b. A matrix of strength λ: with :math:`s_n = x_n + M(x_n-\bar x) + b`, the least
       :math:`\sum_n w_n\,\mathrm{NLL}(\mathrm{softmax}(s_n), y_n) + \frac\lambda2\bigl(\sum_{ij}
       K\sqrt{\bar\alpha\alpha_i\beta_j/\bar\beta}\,(q_j^\top M u_i)^2
       + \sum_j K\sqrt{\beta_j/\bar\beta}\,(q_j^\top b)^2\bigr)`, where :math:`(\alpha_i, u_i)` are the
       eigenpairs of the covariance of x, rows weighted by :math:`w(1-\sum_k p_k^2)`, and
       :math:`(\beta_j, q_j)` those of :math:`\sum_n w_n(\mathrm{diag}\,p_n-p_np_n^\top)`.
       λ → ∞ is temperature scaling. Vector scaling: M diagonal, the least
       :math:`\sum_n w_n\,\mathrm{NLL}+\frac12(\|M\|^2+\|b\|^2)`. With :math:`g_m(x)` what such a map adds
       to x, the scores are :math:`s = x+\sum_m a_m g_m(x)`, where a has the least mean NLL of rows by fits
       without them, under :math:`a\ge0, \sum_m a_m\le1`: no λ is best in all directions. Maps with a share
       below .05 are left out. Fits without rows leave out each of five folds (for λ and a where n K ≥
       200,000 only two); the last ones take all rows.
    3. c and γ: with :math:`q = \mathrm{softmax}(s)` of the fits without the row, so that confidence is
       judged on rows the matrix has not seen, and its temperature
       :math:`\log T_n = c_0 + c_1 q_{(1)} + c_2 q_{(2)} + c_3 H(q)` of the two largest probabilities and
       the entropy, the least :math:`\sum_n w_n\,\mathrm{NLL}(\varphi_\gamma(\mathrm{softmax}(s_n/T_n)), y_n)
       + \frac12\gamma^2 + \frac12\sum_{k\ge1}(c_k\sigma_k/0.1)^2`, where σ are the features' standard
       deviations, at least .02.
    4. :math:`p = (1-\pi)\,\varphi_\gamma(\mathrm{softmax}(s/T(x))) + \pi/K` with π = 1/(4n + 4): rows without
       a sure and wrong one do not show that there is none. It costs a row at most −log(1 − π), and keeps
       its loss below log(K/π). n is the total weight or, where that is more, :math:`(\sum w)^2/\sum w^2`.

    Folds do not depend on the order of rows. Rows that belong together (prompts of one question) should not:
    they promise too much; `fit_best` keeps them together. The second stage works in float32 where n K ≥
    200,000 and takes memory for some ten copies of X.

    References
    ----------
    Kull et al. 2019, arXiv 1910.12656 (regularised matrix scaling); Berta et al. 2025, arXiv 2511.03685
    (shrinkage towards temperature scaling); Breiman, Stacked regressions, Machine Learning 24, 1996;
    Komisarenko and Kull, ECAI 2024, arXiv 2408.11598 (focal map).

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

    _parameter_names = (
        "temperature",
        "uniform_share",
        "matrix",
        "bias",
        "slopes",
        "gamma",
        "prior_share",
        "penalty",
        "vector_share",
        "matrix_share",
    )
    _fewest_errors = 10

    temperature_: float
    uniform_share_: float
    matrix_: Array
    bias_: Array
    slopes_: Array
    gamma_: float
    prior_share_: float
    penalty_: float
    vector_share_: float
    matrix_share_: float

    def __init__(self, *, penalty: float | None = None, input: str = "logits", classes: Any = None) -> None:
        self.penalty = penalty
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        if self.penalty is not None:
            check_positive("penalty", self.penalty)

    def _check_parameters(self) -> None:
        check_temperature(self.temperature_)
        for name in ("uniform_share", "prior_share", "vector_share", "matrix_share"):
            check_shape(name, getattr(self, f"{name}_"), ())
            check_range(name, getattr(self, f"{name}_"), 0, 1)
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
        return found.fitted, found.losses

    def _map(self, scores: NDArray[Any], *, probabilities: bool) -> NDArray[np.floating[Any]]:
        kind, filled = check_input(self.input), self.uniform_share_ == 0
        mapped = map_rows(scores, kind, self._recalibrate, probabilities=False, filled=filled)
        found = _confident(mapped, self.slopes_, self.gamma_, probabilities)
        for rows in row_slices(*found.shape):
            if probabilities:
                _mix_in(found[rows], np.isneginf(mapped[rows]), self.prior_share_)
            else:
                found[rows] = with_uniform(found[rows].astype(np.float64), self.prior_share_)
        return found

    def _recalibrate(self, log_probs: Array) -> Array:
        x = _started(log_probs, self.temperature_, self.uniform_share_)
        return np.asarray(x @ self.matrix_ + self.bias_)


@dataclass(frozen=True)
class MatrixFit:
    """A fit, and each row's NLL by stages fitted without it."""

    fitted: Fitted
    losses: Array  # (n,); of rows of weight 0 after temperature scaling


def fit_matrix(held: HeldOut, penalty: float | None, fold: NDArray[np.int64] | None = None) -> MatrixFit:
    """Fit the three stages, with the folds given or folds of its own."""
    first = find_start(held)
    x = _started(held.log_probs if first.share == 0 else held.scores, first.temperature, first.share)
    used = held.weight > 0
    counted = replace(held, log_probs=x).part(used)
    fold = folds(held.part(used), FOLDS) if fold is None else fold[used]
    mixed = _mixed(counted, fold, penalty)
    judged = replace(counted, log_probs=mixed.out_of_fold)
    last = fit_confidence(judged)
    losses = held.losses(held.normalised(x))
    losses[used] = _left_out(judged, fold, last, held.prior_share)
    fitted = Fitted(
        {
            "temperature": first.temperature,
            "uniform_share": first.share,
            "matrix": mixed.matrix,
            "bias": mixed.bias,
            "slopes": last.slopes,
            "gamma": last.gamma,
            "prior_share": held.prior_share,
            "penalty": mixed.penalty,
            "vector_share": mixed.vector_share,
            "matrix_share": mixed.matrix_share,
        },
        {"gamma": last.stderr},
        _diagnostics(first.diagnostics, mixed, last, float(held.weight @ losses / held.weight.sum())),
    )
    return MatrixFit(fitted, losses)


def _started(log_probs: Array, temperature: float, share: float) -> Array:
    """Return what the first stage makes of rows: filled ones without a share, −inf where masked with one."""
    return smoothed(log_probs, temperature, share) if share else log_normalised(log_probs / temperature)


def _left_out(held: HeldOut, fold: NDArray[np.int64], last: Confidence, prior_share: float) -> Array:
    """Return rows' NLL by a last stage fitted without them; of many rows, to first order."""
    if held.n >= _PLENTY or held.n < _FEWEST:
        found, slope = _losses(held, last, prior_share)
        return found + slope * last.optimism
    found = np.empty(held.n)
    for k in range(int(fold.max()) + 1):
        last = fit_confidence(held.part(fold != k))
        found[fold == k] = _losses(held.part(fold == k), last, prior_share)[0]
    return found


def _losses(held: HeldOut, last: Confidence, prior_share: float) -> tuple[Array, Array]:
    """Return rows' NLL, and its slopes in what it was before the last share was mixed in."""
    log_probs = np.asarray(_confident(held.log_probs, last.slopes, last.gamma), np.float64)
    plain, mixed = held.losses(log_probs), held.losses(with_uniform(log_probs, prior_share))
    return mixed, (1 - prior_share) * np.exp(mixed - plain)


def _confident(
    log_probs: NDArray[np.floating[Any]], slopes: Array, gamma: float, probabilities: bool = False
) -> NDArray[np.floating[Any]]:
    """Apply the last stage; the type of the numbers stays."""
    scores = np.empty_like(log_probs)
    for rows in row_slices(*log_probs.shape):
        scores[rows] = tempered(log_probs[rows].astype(np.float64), slopes)
    return map_scores(scores, "logits", 1.0, gamma, probabilities=probabilities)


def _mix_in(probs: NDArray[np.floating[Any]], masked: NDArray[np.bool_], share: float) -> None:
    """Mix a share of the uniform distribution over each row's possible classes into probabilities (n, K)."""
    n_classes = probs.shape[1]
    probs *= 1 - share
    if not masked.any():
        probs += share / n_classes
    else:
        probs += np.where(masked, 0, share / (n_classes - masked.sum(axis=1, keepdims=True)))


def _mixed(held: HeldOut, fold: NDArray[np.int64], penalty: float | None) -> Mixture:
    if held.n >= _FEWEST:
        return mix(held, fold, penalty)
    plain = np.eye(held.n_classes), np.zeros(held.n_classes), penalty or STRONGEST, 0.0, 0.0
    return Mixture(*plain, held.normalised(held.log_probs), {}, True, 0, False)


def _diagnostics(first: Diagnostics, mixed: Mixture, last: Confidence, loss: float) -> Diagnostics:
    """Put together what the stages say: of the last one only its loss and its γ."""
    bounds = [name for name, at in (("penalty", mixed.at_bound), ("gamma", last.at_bound)) if at]
    return replace(
        first,
        criterion="out-of-fold nll",
        loss=loss,
        converged=first.converged and mixed.converged and last.converged,
        iterations=first.iterations + mixed.iterations + last.iterations,
        at_bound=(*first.at_bound, *bounds),
    )
