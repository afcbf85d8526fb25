"""Focal loss as an objective of XGBoost and LightGBM: `FocalObjective`; imports neither."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from focalcal._settings import check_choice
from focalcal._validate import as_array, as_scores, check_scores, check_weights, to_logits
from focalcal.maps import map_scores

Array = NDArray[np.float64]

#: Smallest second derivative, XGBoost's own: a leaf divides by the sum of them.
_FLOOR = 1e-16

#: Log-odds against the label below which 1 − v and −log v are the same number.
_SATURATED = -40.0


@dataclass(frozen=True)
class FocalObjective:
    r"""Focal loss for gradient boosting, of two classes or more.

    Parameters
    ----------
    gamma : float
        Focal parameter γ ≥ 0; 0 is the library's own softmax or logistic objective.
    library : {"xgboost", "lightgbm"}
        Whose scale of the second derivatives to keep (see Notes).

    Raises
    ------
    ValueError
        For another γ or library; when called, for labels that are not 0..K−1, scores that are NaN or
        infinite, weights below 0.

    Notes
    -----
    In the raw scores z, with p = softmax(z), v the probability of the label and d = p − e_y,

    .. math:: \nabla = a_\gamma(v)\, d, \qquad
              \nabla^2 = a_\gamma(v)(\operatorname{diag} p - pp^\top) - v a_\gamma'(v)\, dd^\top.

    Focal loss is not convex: where :math:`a_\gamma` rises, at small v, the last term is negative, and so can
    the diagonal be, which boosters divide by. It is left out there: they get the diagonal of

    .. math:: a_\gamma(v)(\operatorname{diag} p - pp^\top) + \max(-v a_\gamma'(v), 0)\, dd^\top,

    the exact one wherever :math:`a_\gamma` falls, and at least 1e-16. With several classes both libraries
    enlarge the diagonal since it stands for the whole matrix, XGBoost by 2 and LightGBM by K/(K − 1); this
    does as `library` does, so that γ = 0 grows the library's own trees.

    Second derivatives are smaller than those of cross-entropy, by :math:`(1+\gamma)^2 (1-v)^\gamma` near
    v = 1: lower ``min_child_weight`` (``min_sum_hessian_in_leaf``), which bounds their sum in a leaf.

    **The raw scores are not log-probabilities.** The expected loss is least where φ_γ(softmax(z)) is the
    class posterior, which `predict_proba` returns; XGBoost's own ``predict_proba`` leaves the map out,
    LightGBM's gives raw scores. Where trees have over- or underfitted, fit
    `focalcal.FocalTemperatureScaling` to the raw scores of held-out rows instead: it finds temperature and
    map together.

    With an objective that is not their own both libraries start from scores of 0, not from the frequencies
    of the classes; ``base_score`` (``init_score``) changes that.

    - XGBoost: ``xgb.train(params, data, obj=objective.native)`` with ``"multi:softprob"`` and ``num_class``,
      or ``"binary:logistic"``, as ``params["objective"]``; ``XGBClassifier(objective=objective)``. Raw scores
      are ``predict(…, output_margin=True)``.
    - LightGBM: ``lgb.train({"objective": objective.native, "num_class": K}, data)``;
      ``LGBMClassifier(objective=objective)``. Raw scores are ``predict(…, raw_score=True)``.

    References
    ----------
    Lin et al. 2017, arXiv 1708.02002; Charoenphakdee et al. 2021, arXiv 2011.09172, Theorem 11.

    Examples
    --------
    At p = (1/2, 1/2) and γ = 1, a = (1 + log 2)/2, and the second derivative is 3/8:

    >>> gradient, hessian = FocalObjective(gamma=1.0)([1], [0.0])
    >>> gradient.round(4), hessian.round(4)
    (array([-0.4233]), array([0.375]))
    >>> FocalObjective(gamma=1.0).predict_proba([1.0986123]).round(3)  # .75 becomes .876
    array([[0.124, 0.876]])
    """

    gamma: float = 2.0
    library: str = "xgboost"

    def __post_init__(self) -> None:
        check_choice("library", self.library, ("xgboost", "lightgbm"))
        if not (math.isfinite(self.gamma) and self.gamma >= 0):
            raise ValueError(
                f"Expected a finite gamma >= 0, got {self.gamma}. To make predictions less sure, fit a "
                "calibrator to the raw scores."
            )

    def __call__(
        self, y_true: ArrayLike, y_pred: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> tuple[Array, Array]:
        """Return gradient and second derivatives, as the libraries' scikit-learn classes ask for them.

        Parameters
        ----------
        y_true : array of shape (n,)
            Column numbers of the labels.
        y_pred : array of shape (n, K), or (n,) for two classes
            Raw scores, in nats.
        sample_weight : array of shape (n,), optional
            Weights ≥ 0, by which both are multiplied.

        Returns
        -------
        tuple of two arrays of the shape of `y_pred`, float64
        """
        scores = as_scores(y_pred, "y_pred")
        check_scores(scores, "logits", "y_pred")
        z = to_logits(scores, "logits").astype(np.float64)  # (n, K)
        gradient, hessian = _derivatives(z, _codes(y_true, *z.shape), float(self.gamma))
        if scores.ndim == 1:
            gradient, hessian = gradient[:, 1], hessian[:, 1]
        else:
            hessian *= 2 if self.library == "xgboost" else z.shape[1] / (z.shape[1] - 1)
        weight = check_weights(sample_weight, len(z))
        if weight is not None:
            weight = weight.reshape(-1, *[1] * (scores.ndim - 1))
            gradient, hessian = gradient * weight, hessian * weight
        return gradient, hessian

    def native(self, preds: ArrayLike, data: Any) -> tuple[Array, Array]:
        """Return the same for raw scores and a DMatrix or Dataset, as ``train`` of either library asks."""
        weight = data.get_weight()  # XGBoost gives an empty array for none
        return self(data.get_label(), preds, None if weight is None or not len(weight) else weight)

    def predict_proba(self, raw_scores: ArrayLike) -> NDArray[np.floating[Any]]:
        """Return the class probabilities φ_γ(softmax(z)) of raw scores of a model trained with this.

        Parameters
        ----------
        raw_scores : array of shape (n, K), or (n,) for two classes
            Raw scores; those of shape (n,) belong to the second class.

        Returns
        -------
        array of shape (n, K)
            Probabilities; float64 for float64 input, otherwise float32.
        """
        scores = as_scores(raw_scores, "raw_scores")
        return map_scores(scores, "logits", 1.0, float(self.gamma), probabilities=True, name="raw_scores")


def _codes(y_true: ArrayLike, n: int, n_classes: int) -> NDArray[np.intp]:
    """Return labels as column numbers; boosters hold them as floats."""
    labels = as_array(y_true, "y_true")
    valid = labels.shape == (n,) and labels.dtype.kind in "fiub"
    if not valid or not np.isin(labels, np.arange(n_classes)).all():
        raise ValueError(
            f"Expected y_true of shape ({n},) with labels 0..{n_classes - 1}, got {labels.dtype} of shape "
            f"{labels.shape}, e.g. {np.ravel(labels)[:3].tolist()}. Number the classes from 0, set num_class."
        )
    return labels.astype(np.intp)


def _derivatives(z: Array, codes: NDArray[np.intp], gamma: float) -> tuple[Array, Array]:
    """Return the gradient and the positive part of the Hessian's diagonal, each (n, K).

    With r = −log(v)/(1 − v), which tends to 1, a_γ(v) = (1−v)^γ (1 + γ v r) and
    −v a_γ'(v) = γ v (1−v)^(γ−1) (2 − (1 − γ v) r); each p_j besides the label's is (1 − v) w_j.
    """
    every = np.arange(len(z))
    share = z.copy()
    share[every, codes] = -np.inf
    top = share.max(axis=1)
    share = np.exp(share - top[:, None])
    total = share.sum(axis=1)
    share /= total[:, None]  # (n, K): w, without the label
    odds = top + np.log(total) - z[every, codes]  # (n,): log((1 − v)/v)
    log_v, log_rest = -np.logaddexp(0, odds), -np.logaddexp(0, -odds)
    v, rest = np.exp(log_v), np.exp(log_rest)
    saturated = odds < _SATURATED
    r = np.where(saturated, 1.0, -log_v / np.where(saturated, 1.0, rest))
    power = np.exp((1 + gamma) * log_rest)
    slope = power * (1 + gamma * v * r)  # a_γ(v) (1 − v)
    bend = gamma * v * power * np.maximum(2 - (1 - gamma * v) * r, 0)  # max(−v a', 0) (1 − v)²
    gradient = slope[:, None] * share
    against = v[:, None] + rest[:, None] * (1 - share)  # 1 − p_j
    hessian = gradient * against + bend[:, None] * share**2
    gradient[every, codes] = -slope
    hessian[every, codes] = slope * v + bend
    return gradient, np.maximum(hessian, _FLOOR)
