"""Newton's method for a convex function of parameters that must not be negative."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]

#: A mean loss, its gradient (M,) and its Hessian (M, M).
Jet = tuple[float, Array, Array]

#: Stop where the next step promises to lower the loss by less than this; it is still taken.
_TOLERANCE = 1e-12

_MAX_STEPS = 100


@dataclass(frozen=True)
class Minimum:
    """Where the steps ended, with the Hessian one step before."""

    point: Array
    hessian: Array
    converged: bool
    iterations: int


def minimise_nonnegative(function: Callable[[Array], Jet], start: Array) -> Minimum:
    """Minimise a convex function over x ≥ 0.

    Each step goes towards the minimum of the quadratic model over x ≥ 0, which is a least-squares problem
    with that bound; it is halved until the loss falls.
    """
    at = start
    loss, gradient, hessian = function(at)
    for iteration in range(1, _MAX_STEPS + 1):
        step, promised = _step(at, gradient, hessian)
        if promised < _TOLERANCE:
            return Minimum(np.maximum(at + step, 0.0), hessian, True, iteration)
        rate = 1.0
        tried = function(at + step)
        while not tried[0] <= loss - 1e-4 * rate * promised and rate > 1e-9:
            rate /= 2
            tried = function(at + rate * step)
        if not tried[0] <= loss:
            return Minimum(at, hessian, promised < 1e-8, iteration)
        at = np.maximum(at + rate * step, 0.0)
        loss, gradient, hessian = tried
    return Minimum(at, hessian, False, _MAX_STEPS)


def _step(at: Array, gradient: Array, hessian: Array) -> tuple[Array, float]:
    """Return the step to the quadratic model's minimum over x ≥ 0, and by how much that is lower."""
    ridge = 1e-12 * max(float(np.trace(hessian)), 1e-100) * np.eye(len(at))
    lower = np.linalg.cholesky(hessian + ridge)
    found, _ = nnls(lower.T, lower.T @ at - np.linalg.solve(lower, gradient))
    step = found - at
    return step, -float(gradient @ step + step @ hessian @ step / 2)
