r"""Multinomial logistic regression with a quadratic penalty: the solver of the affine families.

For rows of features :math:`f` (n, p) and offsets :math:`o` (n, K), with output basis :math:`B` (q, K),

.. math:: \min_\Theta \sum_i w_i\,\mathrm{NLL}\bigl(\mathrm{softmax}(o_i + f_i\Theta B), y_i\bigr)
          + \tfrac12 \sum_{jk} \Lambda_{jk}\Theta_{jk}^2 .

Limited-memory BFGS, started from a diagonal guess of the inverse Hessian in a basis where that is good; two
matrix products a step.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal.calibrators.held_out import Array, Mask, row_max, row_sum

Floats = NDArray[np.floating[Any]]

#: Steps whose curvature is remembered, and the most that are taken.
_MEMORY, _MAX_STEPS = 12, 300

#: A step must lower the objective by this share of what its slope promises; else it is shortened.
_ENOUGH, _SHORTEST = 1e-4, 1e-6


@dataclass(frozen=True)
class Regression:
    """The data of one regression: everything but the penalty."""

    features: Floats  # (n, p)
    outputs: Floats | None  # (q, K); None for the identity
    offset: Floats | None  # (n, K)
    codes: NDArray[np.int64]  # (n,)
    weight: Floats  # (n,)
    masked: Mask | None  # (n, K)

    def part(self, rows: NDArray[np.int64]) -> Regression:
        """Return the regression on some of the rows."""
        offset = None if self.offset is None else self.offset[rows]
        masked = None if self.masked is None else self.masked[rows]
        return Regression(
            self.features[rows], self.outputs, offset, self.codes[rows], self.weight[rows], masked
        )

    def scores(self, theta: Array) -> Floats:
        """Return o + f Θ B, shape (n, K); −inf where masked."""
        matrix = theta if self.outputs is None else theta.astype(self.outputs.dtype) @ self.outputs
        found: Floats = self.features @ matrix.astype(self.features.dtype)
        if self.offset is not None:
            found += self.offset
        if self.masked is not None:
            found[self.masked] = -np.inf
        return found

    def loss(self, theta: Array) -> tuple[float, Array]:
        """Return the weighted sum of the NLL and its gradient in Θ."""
        z = self.scores(theta)
        z -= row_max(z)[:, None]
        rows = np.arange(len(z))
        label = z[rows, self.codes]
        np.exp(z, out=z)
        total = row_sum(z)
        value = float(self.weight.astype(np.float64) @ (np.log(total) - label).astype(np.float64))
        z *= (self.weight / total)[:, None]
        z[rows, self.codes] -= self.weight
        slope = self.features.T @ z
        return value, np.asarray(slope if self.outputs is None else slope @ self.outputs.T, np.float64)


@dataclass(frozen=True)
class Minimum:
    """Where the steps ended."""

    theta: Array  # (p, q)
    loss: float  # weighted sum of the NLL, without the penalty
    converged: bool
    iterations: int


def minimise(
    regression: Regression,
    penalty: Array,
    start: Array,
    precondition: Callable[[Array], Array],
    tolerance: float,
    fewest: int = 0,
) -> Minimum:
    """Minimise the penalised loss by L-BFGS.

    Parameters
    ----------
    regression : Regression
    penalty : array of shape (p, q)
        Λ ≥ 0.
    start : array of shape (p, q)
        Θ of the first step.
    precondition : callable
        From a gradient to about its Newton step: symmetric and positive.
    tolerance : float
        Stop where the next step promises to lower the objective by less than this, in nats.
    fewest : int
        Steps that are taken whatever they promise.
    """

    def objective(theta: Array) -> tuple[float, float, Array]:
        loss, slope = regression.loss(theta)
        pull = penalty * theta
        return loss + 0.5 * float(np.vdot(pull, theta)), loss, slope + pull

    theta = start
    value, loss, gradient = objective(theta)
    steps: deque[tuple[Array, Array, float]] = deque(maxlen=_MEMORY)
    for iteration in range(_MAX_STEPS):
        step = -_two_loops(gradient, steps, precondition)
        promise = -float(np.vdot(gradient, step))
        if promise < 2 * tolerance and iteration >= fewest:
            return Minimum(theta, loss, True, iteration)
        length = 1.0
        while True:
            there, loss_there, gradient_there = objective(theta + length * step)
            if there <= value - _ENOUGH * length * promise:
                break
            bend = 2 * (there - value + length * promise)
            length *= min(0.5, max(0.1, length * promise / bend if bend > 0 else 0.1))
            if length < _SHORTEST:
                return Minimum(theta, loss, promise < 100 * tolerance, iteration)
        moved, turned = length * step, gradient_there - gradient
        curvature = float(np.vdot(moved, turned))
        if curvature > 0:
            steps.append((moved, turned, curvature))
        theta, value, loss, gradient = theta + moved, there, loss_there, gradient_there
    return Minimum(theta, loss, False, _MAX_STEPS)


def _two_loops(
    gradient: Array, steps: deque[tuple[Array, Array, float]], precondition: Callable[[Array], Array]
) -> Array:
    """Return the inverse Hessian's guess times the gradient."""
    rest, shares = gradient.copy(), []
    for moved, turned, curvature in reversed(steps):
        share = float(np.vdot(moved, rest)) / curvature
        rest -= share * turned
        shares.append(share)
    found = precondition(rest)
    if steps:  # the guess by the last step's measure: what it leaves out is often a factor
        _, turned, curvature = steps[-1]
        found *= curvature / float(np.vdot(turned, precondition(turned)))
    for (moved, turned, curvature), share in zip(steps, reversed(shares), strict=True):
        found += (share - float(np.vdot(turned, found)) / curvature) * moved
    return found
