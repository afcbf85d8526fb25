r"""Vector scaling's regression, a slope and a bias of each class, by Newton's method.

For log-probabilities :math:`u` (n, K), :math:`p_n` the softmax of :math:`s_n = u_n + d\circ u_n + b`,

.. math:: \min_{d, b} \sum_n w_n\,\mathrm{NLL}(p_n, y_n)
          + \tfrac12 \sum_k (\lambda_k d_k^2 + \lambda_{K+k} b_k^2).

With :math:`a_n = (p_n\circ u_n, p_n)` the Hessian is
:math:`\mathrm{diag}\,\lambda - \sum_n w_n a_n a_n^\top` plus, on the diagonals of its four blocks,
:math:`\sum_n w_n p_n\circ(u_n^2, u_n; u_n, 1)`. The problem is convex; a step that does not lower the
objective enough is halved.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from focalcal.calibrators.held_out import Array, HeldOut, row_max, row_sum
from focalcal.engine import row_slices

#: Stop where the next step promises to lower the mean loss by less than this. It is still taken, and Newton's
#: steps converge quadratically: at most some 1e-9 is left.
_TOLERANCE = 2e-6

#: A step must lower the objective by this share of what its slope promises.
_ENOUGH = 1e-4

_MAX_STEPS, _SHORTEST = 50, 1e-12

#: What rounding may add to the objective and take from the Hessian's diagonal, relative to both.
_ROUNDING = 1e-13


@dataclass(frozen=True)
class Diagonal:
    """Where the steps ended."""

    slope: Array  # d, (K,)
    bias: Array  # b, (K,)
    solve: Callable[[Array], Array]  # the inverse Hessian, one step before the last, times (2K,) or (2K, m)
    converged: bool
    iterations: int


@dataclass(frozen=True)
class _State:
    """The objective and its derivatives in (d, b)."""

    value: float
    gradient: Array  # (2K,)
    hessian: Array  # (2K, 2K)


def fit_diagonal(
    held: HeldOut, ridge: Array, tolerance: float = _TOLERANCE, start: Array | None = None
) -> Diagonal:
    """Minimise the objective above for the log-probabilities u of `held`, with λ (2K,) the `ridge`."""
    enough = 2 * tolerance * float(held.weight.sum())
    at = np.zeros(2 * held.n_classes) if start is None else start
    state, converged, iterations = _state(held, at, ridge), False, 1
    while True:
        solve = solver(state.hessian)
        step = -solve(state.gradient)
        slope, length = float(state.gradient @ step), 1.0
        if -slope < enough:
            at, converged = at + step, True
            break
        there = _state(held, at + step, ridge)
        while there.value > state.value + _ENOUGH * length * slope and length > _SHORTEST:
            length /= 2
            there = _state(held, at + length * step, ridge)
        iterations += 1
        if length <= _SHORTEST or iterations > _MAX_STEPS:
            converged = -slope < 100 * enough
            break
        at, state = at + length * step, there
    return Diagonal(at[: len(at) // 2], at[len(at) // 2 :], solve, converged, iterations)


def standard_errors(held: HeldOut, found: Diagonal) -> tuple[Array, Array]:
    r"""Return those of slopes and biases, by the sandwich :math:`H^{-1} (\sum w^2 g g^\top) H^{-1}`."""
    k = held.n_classes
    outer = np.zeros((2 * k, 2 * k))
    for rows in row_slices(held.n, k):
        part = held.part(rows)
        away, total, _ = _softmax(part, 1 + found.slope, found.bias)
        away *= (part.weight / total)[:, None]
        away[np.arange(part.n), part.codes] -= part.weight
        each = np.concatenate([away * part.log_probs, away], axis=1)  # (b, 2K)
        outer += each.T @ each
    inverse = found.solve(np.eye(2 * k))
    variance = ((inverse @ outer) * inverse).sum(axis=1)
    slope, bias = np.split(np.sqrt(np.maximum(variance, 0)), 2)
    return slope, bias


def solver(hessian: Array) -> Callable[[Array], Array]:
    """Return a function that solves with a positive matrix, whose entries may differ by orders."""
    scale = 1 / np.sqrt(np.diag(hessian))
    scaled = hessian * np.outer(scale, scale)
    scaled[np.diag_indices(len(scale))] += _ROUNDING
    factor = cho_factor(scaled)
    return lambda right: np.asarray((cho_solve(factor, (right.T * scale).T).T * scale).T)


def _state(held: HeldOut, at: Array, ridge: Array) -> _State:
    k = held.n_classes
    slope, bias = 1 + at[:k], at[k:]
    value, gradient = 0.5 * float(ridge @ at**2), ridge * at
    product, first, second = np.zeros((2 * k, 2 * k)), np.zeros(2 * k), np.zeros(k)
    for rows in row_slices(held.n, k):
        part = held.part(rows)
        u, root, every = part.log_probs, np.sqrt(part.weight), np.arange(part.n)
        p, total, label = _softmax(part, slope, bias)
        value += float(part.weight @ (np.log(total) - label))
        p *= (root / total)[:, None]
        a = np.concatenate([p * u, p], axis=1)  # (b, 2K)
        product += a.T @ a
        first += root @ a
        second += root @ (a[:, :k] * u)
        of_labels = part.weight * u[every, part.codes], part.weight
        gradient -= np.concatenate([np.bincount(part.codes, w, minlength=k) for w in of_labels])
    gradient += first
    hessian, each = np.diag(ridge) - product, np.arange(k)
    for i, j, sums in ((0, 0, second), (0, 1, first[:k]), (1, 0, first[:k]), (1, 1, first[k:])):
        hessian[i * k + each, j * k + each] += sums
    return _State(value, gradient, hessian)


def _softmax(part: HeldOut, slope: Array, bias: Array) -> tuple[Array, Array, Array]:
    """Return exp(s) (b, K), s being scores less their row's largest; its row sums, and s of the labels."""
    p = part.log_probs * slope
    p += bias
    if part.masked is not None:
        p[part.masked] = -np.inf
    p -= row_max(p)[:, None]
    label = p[np.arange(part.n), part.codes]
    np.exp(p, out=p)
    return p, row_sum(p), label
