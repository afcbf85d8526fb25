r"""Safeguarded Newton steps in (τ, γ) = (log T, γ) within bounds, on exact derivatives.

The loss need not be convex, and γ and T trade off along a curved valley. A step uses the Hessian with its
eigenvalues made positive, is limited in length, stays within the bounds (a parameter that sits at a bound
and pushes outward is left out), and is halved until the loss falls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from focalcal.scores import FitSums

#: Stop when the next step promises to lower the mean loss by less than this. It is still taken, and Newton's
#: steps converge quadratically: what remains then is below the rounding of the sums.
TOLERANCE = 1e-9

_MAX_STEPS = 60

#: Longest step in τ and, per unit of γ + 1.5, in γ.
_MAX_TAU, _MAX_GAMMA = 1.0, 0.5

#: A curvature below this counts as this much.
_FLAT = 1e-14

Point = tuple[float, float]


@dataclass(frozen=True)
class Optimum:
    """Where the steps ended."""

    point: Point  # τ, γ
    sums: FitSums  # one step before `point`
    converged: bool
    iterations: int
    held: tuple[bool, bool]  # parameters that are fixed or pushed against a bound
    decrease: float  # how much lower than `sums` says the loss is, by the quadratic model

    @property
    def loss(self) -> float:
        """Return the mean loss at `point`."""
        return self.sums.loss - self.decrease


@dataclass(frozen=True)
class Box:
    """Bounds of (τ, γ); equal ones fix a parameter."""

    low: Point
    high: Point

    def clip(self, point: Point) -> Point:
        """Return the closest point within."""
        (a, b), (c, d) = self.low, self.high
        return min(max(point[0], a), c), min(max(point[1], b), d)

    def around(self, point: Point, step: Point) -> Box:
        """Return the part of the box within twice a step of a point, whatever the step's direction."""
        t, g = 2 * abs(step[0]) + 1e-9, 2 * abs(step[1]) + 1e-9 * (self.low[1] < self.high[1])
        return Box(self.clip((point[0] - t, point[1] - g)), self.clip((point[0] + t, point[1] + g)))

    def held(self, point: Point, gradient: Point) -> tuple[bool, bool]:
        """Return which parameters are fixed or pushed against a bound."""
        return self._held(0, point, gradient), self._held(1, point, gradient)

    def _held(self, i: int, point: Point, gradient: Point) -> bool:
        low, high = self.low[i], self.high[i]
        return (
            low == high or (point[i] <= low and gradient[i] >= 0) or (point[i] >= high and gradient[i] <= 0)
        )


def rounding(loss: float, decrease: float) -> float:
    """Return by how much a loss may rise: so close to the optimum rounding outweighs its fall."""
    return 1e-6 * (1 + abs(loss)) if decrease < 1e-7 else 0.0


def minimise(
    function: Callable[[float, float], FitSums], start: Point, box: Box, tolerance: float = TOLERANCE
) -> Optimum:
    """Minimise a mean loss from `start` within a box.

    Stop where the next step promises to lower the loss by less than `tolerance`; that step is still taken.
    """
    point = box.clip(start)
    sums, iterations = function(*point), 1
    for _ in range(_MAX_STEPS):
        held = box.held(point, sums.gradient)
        step, decrease = newton_step(sums, held, point)
        new = box.clip((point[0] + step[0], point[1] + step[1]))
        if decrease < tolerance:
            return Optimum(new, sums, True, iterations, held, decrease)
        tried = function(*new)
        iterations += 1
        while not tried.loss <= sums.loss + rounding(sums.loss, decrease):
            step = (step[0] / 2, step[1] / 2)
            new = box.clip((point[0] + step[0], point[1] + step[1]))
            if max(abs(step[0]), abs(step[1])) < 1e-9:
                return Optimum(point, sums, False, iterations, held, 0.0)
            tried = function(*new)
            iterations += 1
        point, sums = new, tried
    return Optimum(point, sums, False, iterations, box.held(point, sums.gradient), 0.0)


def newton_step(sums: FitSums, held: tuple[bool, bool], point: Point) -> tuple[Point, float]:
    """Return the step and the fall of the loss that the quadratic model promises for it."""
    t = g = decrease = 0.0
    for curvature, (x, y) in _axes(sums.hessian, held):
        slope = x * sums.gradient[0] + y * sums.gradient[1]
        t -= x * slope / curvature
        g -= y * slope / curvature
        decrease += slope * slope / curvature / 2
    over = max(abs(t) / _MAX_TAU, abs(g) / (_MAX_GAMMA * (point[1] + 1.5)))
    return ((t / over, g / over) if over > 1 else (t, g)), decrease


def _axes(hessian: tuple[float, float, float], held: tuple[bool, bool]) -> list[tuple[float, Point]]:
    """Return the Hessian's axes among the free parameters, each with its curvature made positive."""
    a, b, d = hessian
    if held[0] or held[1]:
        ends = [(abs(a), (1.0, 0.0)), (abs(d), (0.0, 1.0))]
        return [(max(c, _FLAT), v) for (c, v), fixed in zip(ends, held, strict=True) if not fixed]
    angle, middle, radius = math.atan2(2 * b, a - d) / 2, (a + d) / 2, math.hypot((a - d) / 2, b)
    cosine, sine = math.cos(angle), math.sin(angle)
    least = _FLAT + 1e-12 * (abs(middle) + radius)
    return [
        (max(abs(middle + radius), least), (cosine, sine)),
        (max(abs(middle - radius), least), (-sine, cosine)),
    ]
