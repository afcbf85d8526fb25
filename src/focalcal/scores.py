r"""Losses a row, and the sums over rows that a fit is made of.

.. math:: \mathrm{FL}_\gamma(v) = -(1-v)^\gamma \log v, \qquad
          \mathrm{FL}_\gamma(q_y) = L_\gamma(\varphi_\gamma(q), y)

with :math:`L_\gamma` strictly proper: focal loss is a proper loss after the focal calibration map.

References
----------
Lin et al. 2017, arXiv 1708.02002; Komisarenko and Kull, ECAI 2024, arXiv 2408.11598.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import add
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from focalcal._settings import check_gamma
from focalcal._validate import as_scores, check_scores, to_logits
from focalcal.kernels import reference
from focalcal.labels import as_labels, encode
from focalcal.maps import inverse_focal_map

#: What a fit minimises as a sum over rows.
Criterion = Literal["nll", "brier"]


def focal_loss(log_probs: ArrayLike, y: ArrayLike, gamma: float) -> NDArray[np.float64]:
    r"""Return the focal loss :math:`-(1-q_y)^\gamma \log q_y` of each row, for q = softmax(log_probs).

    Parameters
    ----------
    log_probs : array of shape (n, K)
        Log-probabilities or logits, in nats.
    y : array of shape (n,)
        Column numbers of the labels.
    gamma : float
        Focal parameter γ ≥ −1; 0 is cross-entropy.

    Returns
    -------
    array of shape (n,), float64
        Losses in nats; +inf where the label is masked.

    Raises
    ------
    ValueError
        For γ < −1, values that are not log-probabilities, labels outside 0..K−1.

    Examples
    --------
    >>> import numpy as np
    >>> focal_loss(np.log([[0.25, 0.75]]), [1], gamma=2.0).round(6)  # 0.25² · 0.287682
    array([0.01798])
    """
    gamma = check_gamma(gamma)
    scores = as_scores(log_probs, "log_probs")
    check_scores(scores, "logits", "log_probs")
    z = to_logits(scores, "logits").astype(np.float64)
    codes = encode(as_labels(y, len(z)), np.arange(z.shape[1]))
    every = np.arange(len(z))
    others = z.copy()
    others[every, codes] = -np.inf
    rest, own = _logsumexp(others), z[every, codes]
    odds = rest - own  # in logarithms, against the label
    with np.errstate(invalid="ignore", over="ignore"):
        loss = np.exp(-gamma * np.logaddexp(0, -odds)) * np.logaddexp(0, odds)
        # where q is 1 to all digits, 1 − q and −log q are both e^odds: it is their product that fits a number
        loss = np.where(odds < -40, np.exp((1 + gamma) * odds), loss)
    return np.where(np.isneginf(rest), float(gamma == -1), loss)


def proper_focal_loss(log_probs: ArrayLike, y: ArrayLike, gamma: float) -> NDArray[np.float64]:
    r"""Return :math:`L_\gamma(p, y) = \mathrm{FL}_\gamma((\varphi_\gamma^{-1}(p))_y)`, the proper part.

    Parameters
    ----------
    log_probs : array of shape (n, K)
        Log-probabilities p, in nats.
    y : array of shape (n,)
        Column numbers of the labels.
    gamma : float
        Focal parameter γ ≥ −1.

    Returns
    -------
    array of shape (n,), float64
        Losses in nats. For K > 2 they depend on all of p.

    Raises
    ------
    ValueError
        As `focal_loss`.

    Examples
    --------
    With γ = 0 it is cross-entropy:

    >>> import numpy as np
    >>> proper_focal_loss(np.log([[0.25, 0.75]]), [1], gamma=0.0).round(6)
    array([0.287682])
    """
    wide = as_scores(log_probs, "log_probs").astype(np.float64)
    return focal_loss(inverse_focal_map(wide, gamma), y, gamma)


def _logsumexp(z: NDArray[np.float64]) -> NDArray[np.float64]:
    highest = np.maximum(z.max(axis=1), -1e300)
    with np.errstate(divide="ignore"):
        return np.asarray(highest + np.log(np.exp(z - highest[:, None]).sum(axis=1)))


@dataclass(frozen=True)
class FitSums:
    """Sums over rows of a loss f and its derivatives at given (τ, γ): mergeable, all float64."""

    rows: float
    weight: float
    loss: float  # Σ w f
    gradient: tuple[float, float]  # Σ w ∂f, in τ and γ
    hessian: tuple[float, float, float]  # Σ w ∂²f, in ττ, τγ and γγ
    outer: tuple[float, float, float]  # Σ w² ∂f ∂fᵀ, for the sandwich

    @classmethod
    def of(cls, sums: Iterable[float]) -> FitSums:
        """Make sums of the eleven numbers in the order of the fields."""
        rows, weight, loss, t, g, tt, tg, gg, t_t, t_g, g_g = sums
        return cls(rows, weight, loss, (t, g), (tt, tg, gg), (t_t, t_g, g_g))

    def numbers(self) -> tuple[float, ...]:
        """Return the eleven numbers."""
        return (self.rows, self.weight, self.loss, *self.gradient, *self.hessian, *self.outer)

    def __add__(self, other: FitSums) -> FitSums:
        return FitSums.of(map(add, self.numbers(), other.numbers()))

    def mean(self) -> FitSums:
        """Return the same of the mean loss Σ w f / Σ w."""
        w = self.weight
        rows, weight, *sums, t_t, t_g, g_g = self.numbers()
        return FitSums.of(
            [rows, weight, *(value / w for value in sums), *(v / w**2 for v in (t_t, t_g, g_g))]
        )


def sum_jet(jet: reference.Jet, weight: NDArray[np.float64] | None) -> FitSums:
    """Sum a block's losses and derivatives, weighted."""
    if weight is None:
        rows = total = float(len(jet.value))
        loss, *sums = (column.sum() for column in (jet.value, *jet.first, *jet.second))
        tau, gamma = jet.first
    else:
        rows, total = float(np.count_nonzero(weight)), float(weight.sum())
        loss, *sums = (column @ weight for column in (jet.value, *jet.first, *jet.second))
        tau, gamma = (column * weight for column in jet.first)
    products = (tau @ tau, tau @ gamma, gamma @ gamma)
    return FitSums.of([rows, total, *map(float, (loss, *sums, *products))])
