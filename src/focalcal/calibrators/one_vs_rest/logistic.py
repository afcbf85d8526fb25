r"""Logistic regressions by Newton's method, one for each class at once.

.. math:: \min_{\beta, c} \sum_i w_i \big(\log(1 + e^{\eta_i}) - t_i \eta_i\big), \qquad
          \eta_i = \sum_p \beta_p x_{ip} + c

The targets t are Platt's: (N₊+1)/(N₊+2) for a hit and 1/(N₋+2) for a miss, with the total weights N₊ and N₋
of both. They are what a uniform prior makes of the labels, and with them a finite minimum always exists.

References
----------
Platt 1999, Probabilistic outputs for support vector machines; Lin, Lin and Weng 2007, doi
10.1007/s10994-007-5018-6.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

Array = NDArray[np.float64]

#: Stop where the next step promises to lower the mean loss by less than this; it is still taken.
_TOLERANCE = 1e-12

_MAX_STEPS = 100

#: Coefficients whose curvature along some direction is below this share of the largest are not told apart.
_SINGULAR = 1e-10


@dataclass(frozen=True)
class Logistic:
    """Coefficients of C regressions on P features.

    Attributes
    ----------
    slopes, intercepts : arrays of shape (P, C) and (C,)
    slope_errors, intercept_errors : arrays of the same shapes
        Standard errors by the sandwich formula; NaN where a coefficient was held at 0, or the data do not
        tell the coefficients apart.
    identifiable : bool
        They do in every regression.
    converged : bool
    iterations : int
        Passes over all rows.
    """

    slopes: Array
    intercepts: Array
    slope_errors: Array
    intercept_errors: Array
    identifiable: bool
    converged: bool
    iterations: int

    def _arrays(self) -> tuple[Array, ...]:
        return self.slopes, self.intercepts, self.slope_errors, self.intercept_errors

    @classmethod
    def concatenated(cls, fits: Iterable[Logistic]) -> Logistic:
        """Return the regressions of several fits as one."""
        every = list(fits)
        a, b, c, d = (np.concatenate(p, axis=-1) for p in zip(*(f._arrays() for f in every), strict=True))
        return cls(
            *(a, b, c, d),
            all(f.identifiable for f in every),
            all(f.converged for f in every),
            max(f.iterations for f in every),
        )

    def replaced(self, some: NDArray[np.bool_], other: Logistic) -> Logistic:
        """Return these regressions with some (C,) of them taken from another fit of only those."""
        a, b, c, d = arrays = [mine.copy() for mine in self._arrays()]
        for mine, theirs in zip(arrays, other._arrays(), strict=True):
            mine[..., some] = theirs
        return Logistic(
            *(a, b, c, d),
            self.identifiable and other.identifiable,
            self.converged and other.converged,
            self.iterations + other.iterations,
        )


@dataclass(frozen=True)
class _State:
    """Mean losses of C regressions and their derivatives."""

    loss: Array  # (C,)
    gradient: Array  # (C, P+1)
    hessian: Array  # (C, P+1, P+1)


def smoothed_targets(hits: NDArray[np.bool_], weight: Array) -> Array:
    """Return Platt's targets (n, C) for hits (n, C) with weights (n, 1) or (n, C)."""
    positive = (weight * hits).sum(axis=0)  # (C,)
    negative = (weight * ~hits).sum(axis=0)
    return np.asarray(np.where(hits, (positive + 1) / (positive + 2), 1 / (negative + 2)))


def fit_logistic(
    features: list[Array], targets: Array, weight: Array, free: NDArray[np.bool_] | None = None
) -> Logistic:
    """Fit C regressions on P features (n, C) to targets (n, C); only slopes that are `free` (P, C) move."""
    total = np.maximum(np.broadcast_to(weight, targets.shape).sum(axis=0), 1e-300)
    shares = weight / total  # (n, C)
    means = np.stack([(shares * x).sum(axis=0) for x in features])  # (P, C)
    scaled = [x - mean for x, mean in zip(features, means, strict=True)]
    spread = np.stack([np.sqrt((shares * x * x).sum(axis=0)) for x in scaled])
    varies = spread > 1e-12 * (1 + np.abs(means))
    spread = np.where(varies, spread, 1.0)
    columns = [x / width for x, width in zip(scaled, spread, strict=True)] + [np.ones_like(targets)]
    moves = (varies if free is None else varies & free).T  # (C, P)
    moves = np.concatenate([moves, np.ones((len(moves), 1), np.bool_)], axis=1)

    start = np.zeros(moves.shape)
    start[:, -1] = logit(np.clip((shares * targets).sum(axis=0), 1e-15, 1 - 1e-15))
    found, converged, iterations = _newton(columns, targets, shares, moves, start)
    covariance, singular = _sandwich(columns, targets, shares, moves, found)
    # from scaled features back to those given
    back = np.zeros((*found.shape, found.shape[1]))
    for p in range(len(features)):
        back[:, p, p] = 1 / spread[p]
        back[:, -1, p] = -means[p] / spread[p]
    back[:, -1, -1] = 1.0
    values = np.einsum("cij,cj->ci", back, found)
    errors = np.sqrt(np.maximum(np.einsum("cij,cjk,cik->ci", back, covariance, back), 0.0))
    errors[~moves | singular[:, None]] = np.nan
    apart = not singular.any() and bool(varies.any())
    return Logistic(
        *(values[:, :-1].T, values[:, -1], errors[:, :-1].T, errors[:, -1]), apart, converged, iterations
    )


def _newton(
    columns: list[Array], targets: Array, shares: Array, moves: NDArray[np.bool_], start: Array
) -> tuple[Array, bool, int]:
    """Step each regression to its minimum; a step that raises its loss is halved."""
    found, active = start.copy(), np.arange(len(start))
    at, rate = start, np.ones(len(start))
    state = _state(columns, targets, shares, moves, at)
    for iteration in range(1, _MAX_STEPS + 1):
        step = np.linalg.solve(state.hessian, state.gradient[:, :, None])[:, :, 0]
        done = (state.gradient * step).sum(axis=1) / 2 < _TOLERANCE
        tried = at - rate[:, None] * step
        there = _state(columns, targets, shares, moves, tried)
        better = there.loss <= state.loss * (1 + 1e-13)
        at = np.where(better[:, None], tried, at)
        found[active] = at
        if done.all():
            return found, True, iteration + 1
        rate = np.where(better, 1.0, rate / 2)
        state = _State(
            np.where(better, there.loss, state.loss),
            np.where(better[:, None], there.gradient, state.gradient),
            np.where(better[:, None, None], there.hessian, state.hessian),
        )
        if 3 * done.sum() > len(done):
            left = ~done
            active, at, rate, moves = active[left], at[left], rate[left], moves[left]
            columns, targets, shares = [x[:, left] for x in columns], targets[:, left], shares[:, left]
            state = _State(state.loss[left], state.gradient[left], state.hessian[left])
    return found, False, _MAX_STEPS + 1


def _state(
    columns: list[Array], targets: Array, shares: Array, moves: NDArray[np.bool_], at: Array
) -> _State:
    eta = columns[0] * at[:, 0]
    for i, x in enumerate(columns[1:], start=1):
        eta += x * at[:, i]
    small = np.exp(-np.abs(eta))
    p = np.where(eta > 0, 1.0, small) / (1 + small)
    loss = (shares * (np.maximum(eta, 0) + np.log1p(small) - targets * eta)).sum(axis=0)
    residual, curvature = shares * (p - targets), shares * p * (1 - p)
    gradient = np.stack([(residual * x).sum(axis=0) for x in columns], axis=1) * moves
    hessian = np.empty((*at.shape, at.shape[1]))
    for i, x in enumerate(columns):
        bent = curvature * x
        for j, other in enumerate(columns[: i + 1]):
            hessian[:, i, j] = hessian[:, j, i] = (bent * other).sum(axis=0)
    return _State(loss, gradient, _held(hessian, moves))


def _held(hessian: Array, moves: NDArray[np.bool_]) -> Array:
    """Leave coefficients that do not move out, and keep the others' curvature above rounding."""
    places = np.arange(moves.shape[1])
    kept = np.where(moves[:, :, None] & moves[:, None, :], hessian, 0.0)
    kept[:, places, places] += np.where(moves, 1e-14, 1.0)
    return kept


def _sandwich(
    columns: list[Array], targets: Array, shares: Array, moves: NDArray[np.bool_], at: Array
) -> tuple[Array, NDArray[np.bool_]]:
    r"""Return :math:`H^{-1} (\sum w^2 g g^\top) H^{-1}` (C, P+1, P+1), and where H is singular (C,)."""
    state = _state(columns, targets, shares, moves, at)
    eta = sum(x * at[:, p] for p, x in enumerate(columns))
    squared = (shares * (expit(eta) - targets)) ** 2
    outer = np.empty_like(state.hessian)
    for i, x in enumerate(columns):
        for j, other in enumerate(columns[: i + 1]):
            outer[:, i, j] = outer[:, j, i] = (squared * x * other).sum(axis=0)
    inverse = np.linalg.inv(state.hessian)
    outer = np.where(moves[:, :, None] & moves[:, None, :], outer, 0.0)
    among = np.where(moves[:, :, None] & moves[:, None, :], state.hessian, 0.0)
    largest = np.maximum(np.linalg.eigvalsh(among)[:, -1], 1e-300)
    # coefficients that do not move have a curvature of 1 here, which is never the least
    singular = np.linalg.eigvalsh(state.hessian)[:, 0] < _SINGULAR * largest
    return np.asarray(inverse @ outer @ inverse), np.asarray(singular)
