r"""Matrix scaling's regression: a matrix and a bias, whose diagonal has a penalty of its own.

For log-probabilities :math:`u` (n, K), as rows,

.. math:: \min_{M, b} \sum_n w_n\,\mathrm{NLL}(\mathrm{softmax}(u_n + u_n M + b), y_n) + \tfrac12\Bigl(
          \lambda_o \sum_{i\ne j} M_{ij}^2 + \lambda_d \sum_i M_{ii}^2 + \lambda_b |b|^2\Bigr).

The diagonal and the bias, little shrunk, are brought near their best first, by Newton's method. Then
`ridge.minimise` moves all: its guess of the inverse Hessian is exact for diagonal and bias alone, and for
the rest diagonal in the eigenvectors of :math:`\sum_n w_n (1-|p_n|^2) f_n f_n^\top`, f = (u, 1), and of
:math:`\sum_n w_n (\mathrm{diag}\,p_n - p_np_n^\top)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal.calibrators.held_out import Array, HeldOut
from focalcal.calibrators.matrix.diagonal import Diagonal, fit_diagonal
from focalcal.calibrators.matrix.ridge import Regression, minimise

#: Stop where the next step promises to lower the mean loss by less than this; and for the start.
_TOLERANCE, _ROUGH = 1e-8, 1e-4

#: From so many multiplications a step on, float32 is worth its rounding, which is below the tolerance.
_MANY = 1 << 24


@dataclass(frozen=True)
class Ridge:
    """Strengths of the penalty, all above 0."""

    off_diagonal: float
    diagonal: float
    bias: float


@dataclass(frozen=True)
class Affine:
    """Where the steps ended."""

    matrix: Array  # I + M, (K, K): rows of u times this
    bias: Array  # (K,)
    converged: bool
    iterations: int


def fit_affine(held: HeldOut, ridge: Ridge) -> Affine:
    """Minimise the objective above for the log-probabilities u of `held`."""
    u, k = held.log_probs, held.n_classes
    dtype: type[np.floating[Any]] = np.float32 if held.n * k**2 > _MANY else np.float64
    features = np.ones((held.n, k + 1), dtype)
    features[:, :-1] = u
    regression = Regression(
        features, None, features[:, :-1], held.codes, held.weight.astype(dtype), held.masked
    )
    first = fit_diagonal(held, np.repeat([ridge.diagonal, ridge.bias], k), _ROUGH)
    penalty = np.full((k + 1, k), ridge.off_diagonal)
    np.fill_diagonal(penalty, ridge.diagonal)
    penalty[-1] = ridge.bias
    start = np.concatenate([np.diag(first.slope), first.bias[None]])
    probs = np.exp(held.normalised(u * (1 + first.slope) + first.bias)).astype(dtype)
    precondition = _preconditioner(regression, probs, ridge.off_diagonal, first)
    found = minimise(regression, penalty, start, precondition, _TOLERANCE * float(held.weight.sum()))
    matrix, bias = np.eye(k) + found.theta[:-1], found.theta[-1]
    return Affine(matrix, bias, found.converged, first.iterations + found.iterations + 1)


def _preconditioner(
    regression: Regression, probs: NDArray[Any], strength: float, first: Diagonal
) -> Callable[[Array], Array]:
    """Return about the inverse Hessian at probabilities (n, K): a function of gradients (K+1, K)."""
    f, weight, k = regression.features, regression.weight, probs.shape[1]
    doubt = weight * (1 - (probs * probs).sum(axis=1))
    _, inputs = np.linalg.eigh((f * doubt[:, None]).T @ f)
    _, outputs = np.linalg.eigh(np.diag(weight @ probs) - (probs * weight[:, None]).T @ probs)
    spread = (probs @ outputs**2 - (probs @ outputs) ** 2) * weight[:, None]  # (n, K)
    curvature = np.maximum(((f @ inputs) ** 2).T @ spread, 0)
    inverse = 1 / (curvature + strength)
    each = np.arange(k)

    def precondition(gradient: Array) -> Array:
        rest = gradient.copy()
        rest[each, each] = rest[-1] = 0.0
        step = np.asarray(inputs @ ((inputs.T @ rest @ outputs) * inverse) @ outputs.T, np.float64)
        slope, bias = np.split(first.solve(np.concatenate([gradient[each, each], gradient[-1]])), 2)
        step[each, each], step[-1] = slope, bias
        return step

    return precondition
