r"""Safeguarded Newton steps in (τ, γ) = (log T, γ) within bounds, on exact derivatives.

The loss need not be convex, and γ and T trade off along a curved valley. A step uses the Hessian with its
eigenvalues made positive, is limited in length, stays within the bounds (a parameter that sits at a bound
and pushes outward is left out), and is halved until the loss falls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from focalcal.scores import FitSums

#: Stop when the next step promises to lower the mean loss by less than this. It is still taken, and Newton's
#: steps converge quadratically: what remains then is below the rounding of the sums.
TOLERANCE = 1e-9

_MAX_STEPS = 60

#: Longest step in τ and, per unit of γ + 1.5, in γ.
_MAX_TAU, _MAX_GAMMA = 1.0, 0.5

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Optimum:
    """Where the steps ended."""

    point: Vector  # (2,) τ, γ
    sums: FitSums  # one step before `point`
    converged: bool
    evaluations: int
    held: tuple[bool, bool]  # parameters that are fixed or pushed against a bound
    decrease: float  # how much lower than `sums` says the loss is, by the quadratic model

    @property
    def loss(self) -> float:
        """Return the mean loss at `point`."""
        return self.sums.loss - self.decrease


def minimise(
    function: Callable[[float, float], FitSums],
    start: tuple[float, float],
    low: tuple[float, float],
    high: tuple[float, float],
    tolerance: float = TOLERANCE,
) -> Optimum:
    """Minimise a mean loss from `start` within [low, high]; equal bounds fix a parameter.

    Stop where the next step promises to lower the loss by less than `tolerance`; that step is still taken.
    """
    lower, upper = np.array(low, float), np.array(high, float)
    point = np.clip(np.array(start, float), lower, upper)
    sums, evaluations = function(*point), 1
    for _ in range(_MAX_STEPS):
        held = _held(point, sums.gradient, lower, upper)
        step, decrease = _step(sums, held, point)
        new = np.clip(point + step, lower, upper)
        if decrease < tolerance:
            return Optimum(new, sums, True, evaluations, held, decrease)
        tried = function(*new)
        evaluations += 1
        # so close to the optimum rounding outweighs the fall of the loss, and Newton's step is right
        noise = 1e-6 * (1 + abs(sums.loss)) if decrease < 1e-7 else 0.0
        while not tried.loss <= sums.loss + noise:
            step = step / 2
            new = np.clip(point + step, lower, upper)
            if np.abs(step).max() < 1e-9:
                return Optimum(point, sums, False, evaluations, held, 0.0)
            tried = function(*new)
            evaluations += 1
        point, sums = new, tried
    held = _held(point, sums.gradient, lower, upper)
    return Optimum(point, sums, False, evaluations, held, 0.0)


def _held(point: Vector, gradient: Vector, lower: Vector, upper: Vector) -> tuple[bool, bool]:
    fixed = lower == upper
    out = ((point <= lower) & (gradient >= 0)) | ((point >= upper) & (gradient <= 0))
    return bool(fixed[0] or out[0]), bool(fixed[1] or out[1])


def _step(sums: FitSums, held: tuple[bool, bool], point: Vector) -> tuple[Vector, float]:
    """Return the step and the fall of the loss that the quadratic model promises for it."""
    free = ~np.array(held)
    step = np.zeros(2)
    if not free.any():
        return step, 0.0
    gradient = sums.gradient[free]
    values, vectors = np.linalg.eigh(sums.hessian[np.ix_(free, free)])
    curvature = np.maximum(np.abs(values), 1e-14 + 1e-12 * np.abs(values).max())
    along = vectors.T @ gradient
    step[free] = -vectors @ (along / curvature)
    decrease = float((along**2 / curvature).sum() / 2)
    longest = np.array([_MAX_TAU, _MAX_GAMMA * (point[1] + 1.5)])
    over = float((np.abs(step) / longest).max())
    return (step / over if over > 1 else step), decrease
