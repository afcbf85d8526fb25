r"""Safeguarded Newton steps in (τ, γ) = (log T, γ) within bounds, on exact derivatives.

The loss need not be convex, and γ and T trade off along a curved valley. A step uses the Hessian with its
eigenvalues made positive, is limited in length, stays within the bounds (a parameter that sits at a bound
and pushes outward is left out), and is halved until the loss falls.
"""

from __future__ import annotations

import math
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

#: A curvature below this counts as this much.
_FLAT = 1e-14

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Optimum:
    """Where the steps ended."""

    point: Vector  # (2,) τ, γ
    sums: FitSums  # one step before `point`
    converged: bool
    iterations: int
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
    sums, iterations = function(*point), 1
    for _ in range(_MAX_STEPS):
        held = _held(point, sums.gradient, lower, upper)
        step, decrease = _step(sums, held, point)
        new = np.clip(point + step, lower, upper)
        if decrease < tolerance:
            return Optimum(new, sums, True, iterations, held, decrease)
        tried = function(*new)
        iterations += 1
        # so close to the optimum rounding outweighs the fall of the loss, and Newton's step is right
        noise = 1e-6 * (1 + abs(sums.loss)) if decrease < 1e-7 else 0.0
        while not tried.loss <= sums.loss + noise:
            step = step / 2
            new = np.clip(point + step, lower, upper)
            if np.abs(step).max() < 1e-9:
                return Optimum(point, sums, False, iterations, held, 0.0)
            tried = function(*new)
            iterations += 1
        point, sums = new, tried
    held = _held(point, sums.gradient, lower, upper)
    return Optimum(point, sums, False, iterations, held, 0.0)


def _held(point: Vector, gradient: Vector, lower: Vector, upper: Vector) -> tuple[bool, bool]:
    fixed = lower == upper
    out = ((point <= lower) & (gradient >= 0)) | ((point >= upper) & (gradient <= 0))
    return bool(fixed[0] or out[0]), bool(fixed[1] or out[1])


def _step(sums: FitSums, held: tuple[bool, bool], point: Vector) -> tuple[Vector, float]:
    """Return the step and the fall of the loss that the quadratic model promises for it."""
    step, decrease = np.zeros(2), 0.0
    for curvature, direction in _axes(sums.hessian, held):
        slope = float(direction @ sums.gradient)
        step -= direction * (slope / curvature)
        decrease += slope * slope / curvature / 2
    over = max(abs(step[0]) / _MAX_TAU, abs(step[1]) / (_MAX_GAMMA * (point[1] + 1.5)))
    return (step / over if over > 1 else step), decrease


def _axes(hessian: Vector, held: tuple[bool, bool]) -> list[tuple[float, Vector]]:
    """Return the Hessian's axes among the free parameters, each with its curvature made positive."""
    a, b, d = float(hessian[0, 0]), float(hessian[0, 1]), float(hessian[1, 1])
    if held[0] or held[1]:
        ends = [(abs(a), np.array([1.0, 0.0])), (abs(d), np.array([0.0, 1.0]))]
        return [(max(c, _FLAT), v) for (c, v), fixed in zip(ends, held, strict=True) if not fixed]
    angle, middle, radius = math.atan2(2 * b, a - d) / 2, (a + d) / 2, math.hypot((a - d) / 2, b)
    cosine, sine = math.cos(angle), math.sin(angle)
    least = _FLAT + 1e-12 * (abs(middle) + radius)
    return [
        (max(abs(middle + radius), least), np.array([cosine, sine])),
        (max(abs(middle - radius), least), np.array([-sine, cosine])),
    ]
