r"""Matrix scaling shrunk towards temperature scaling by a prior of some strength.

Let :math:`x = \log\mathrm{softmax}(z/T)` after temperature scaling, :math:`p` its probabilities. The map
:math:`x + M(x-\bar x) + b` has :math:`K^2` parameters more, too many for most calibration sets, so each is
shrunk towards 0 by a Gaussian prior. The prior lives in the eigenvectors :math:`u_i` of x's covariance
(rows weighted by :math:`1-\sum_k p_k^2`, as certain rows say little) and :math:`q_j` of
:math:`\sum_n (\mathrm{diag}\,p_n - p_np_n^\top)`, with eigenvalues :math:`\alpha_i, \beta_j`:

.. math:: \min_\Theta \sum_n w_n \mathrm{NLL}_n + \frac{\lambda}{2} \Bigl(\sum_{ij}
          K\sqrt{\bar\alpha\alpha_i\,\beta_j/\bar\beta}\;\Theta_{ij}^2
          + \sum_j K\sqrt{\beta_j/\bar\beta}\; b_j^2\Bigr), \qquad M = \sum_{ij}\Theta_{ij}\,q_ju_i^\top .

That is half-way between a ridge on the entries of M, which is worse on 11 of 14 real files though not by
much, and one on what M does to the scores, which leaves directions that hardly vary and rare classes free.

Fits without a fold take the same λ as the last one, on all rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from focalcal.calibrators.held_out import Array, HeldOut
from focalcal.calibrators.matrix.ridge import Minimum, Regression, minimise

#: Rows times classes from which on float32 and a looser end do.
MANY = 200_000

#: Steps end where the next one promises less than this for the mean loss, in nats, with many and with fewer
#: numbers, and tenfold less at the end; but two are taken, as otherwise a next λ would change nothing.
_LOOSE, _TIGHT, _FEWEST_STEPS = 5e-4, 1e-5, 2

#: Copies of rows stay in one fold where there are this many different rows for each fold.
_DIFFERENT = 10

#: Directions whose eigenvalue is a smaller share of the largest, or of the largest square, are rounding.
_RANK, _ROUNDING = 1e-9, 1e-24


class Affine(NamedTuple):
    """What a map adds to rows x: x @ shift + bias."""

    shift: Array  # (K, K)
    bias: Array  # (K,)


@dataclass(frozen=True)
class Basis:
    """Scaled so that the prior is the same for every parameter but the bias's."""

    centre: Array  # (K,)
    inputs: Array  # (K, p)
    outputs: Array  # (q, K)

    def features(self, log_probs: Array) -> Array:
        """Return the features of rows, shape (n, p + 1), the last one 1 for the bias."""
        found = np.ones((len(log_probs), self.inputs.shape[1] + 1))
        found[:, :-1] = (log_probs - self.centre) @ self.inputs
        return found

    def affine(self, theta: Array) -> Affine:
        """Return the map that adds features Θ outputs."""
        shift = self.inputs @ theta[:-1] @ self.outputs
        return Affine(shift, theta[-1] @ self.outputs - self.centre @ shift)


def find_basis(held: HeldOut) -> Basis:
    """Return the basis of the prior."""
    x, n_classes = held.log_probs, held.n_classes
    p = np.exp(held.normalised(x))
    doubt = held.weight * (1 - (p * p).sum(axis=1))
    doubt = doubt if doubt.sum() > 0 else held.weight
    centre = held.weight @ x / held.weight.sum()
    away = x - centre
    alpha, u = np.linalg.eigh((away * doubt[:, None]).T @ away / doubt.sum())
    beta, q = np.linalg.eigh(np.diag(held.weight @ p) - (p * held.weight[:, None]).T @ p)
    noise = _ROUNDING * float(np.abs(x).max()) ** 2
    kept, told = alpha > max(_RANK * alpha[-1], noise), beta > _RANK * beta[-1]
    alpha, u, beta, q = alpha[kept], u[:, kept], beta[told], q[:, told]
    inputs = u * (n_classes * np.sqrt(alpha.sum() / n_classes * alpha)) ** -0.5
    outputs = (q * (beta / (beta.sum() / n_classes)) ** -0.25).T
    return Basis(centre, inputs, outputs)


def folds(held: HeldOut, count: int) -> NDArray[np.int64]:
    """Return each row's fold, whatever the order of rows and classes; clusters and copies stay together.

    Not stratified: folds that share their frequencies of classes would promise more than new rows keep.
    """
    if held.cluster is not None:
        _, numbers = np.unique(held.cluster, return_inverse=True)
        return _dealt(numbers, count)
    rows = np.stack([held.log_probs.max(axis=1), held.losses(held.log_probs)], axis=1)
    different, numbers = np.unique(rows, axis=0, return_inverse=True)
    numbers = numbers.reshape(-1)  # of two axes in NumPy 2.0 alone
    if len(different) < _DIFFERENT * count:
        numbers = np.lexsort(rows.T).argsort()
    return _dealt(numbers, count)


def _dealt(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Deal what has numbers from 0 out to as many folds."""
    return np.asarray(np.random.default_rng(0).permutation(numbers.max() + 1)[numbers] % count)


class Shrinkage:
    """Fits with any strength, without one of the folds and on all rows."""

    def __init__(self, held: HeldOut, fold: NDArray[np.int64]) -> None:
        self.basis = find_basis(held)
        many = held.n * held.n_classes >= MANY
        self.tolerance = _LOOSE if many else _TIGHT
        kind = np.float32 if many else np.float64  # whose rounding is far below the tolerance
        self.whole = Regression(
            self.basis.features(held.log_probs).astype(kind),
            self.basis.outputs.astype(kind),
            held.log_probs.astype(kind),
            held.codes,
            held.weight.astype(kind),
            held.masked,
        )
        self.inside = [self.whole.part(np.flatnonzero(fold != k)) for k in range(int(fold.max()) + 1)]
        p, outputs = np.exp(held.normalised(held.log_probs)), self.basis.outputs.T
        spread = (p @ outputs**2 - (p @ outputs) ** 2) * held.weight[:, None]  # (n, q)
        self.curvature = np.asarray((self.whole.features**2).T @ spread.astype(kind), np.float64)
        self.prior = np.ones_like(self.curvature)
        self.prior[-1] = held.n_classes
        self.iterations = 0

    def without(self, k: int, strength: float, start: Array | None = None) -> Array:
        """Return Θ of the fit without a fold."""
        start = np.zeros_like(self.prior) if start is None else start
        return self._fit(self.inside[k], strength, start, self.tolerance).theta

    def last(self, strength: float, start: Array) -> Minimum:
        """Fit all rows."""
        return self._fit(self.whole, strength, start, self.tolerance / 10)

    def _fit(self, regression: Regression, strength: float, start: Array, tolerance: float) -> Minimum:
        penalty = strength * self.prior
        inverse = 1 / (self.curvature + penalty)
        mass = float(regression.weight.sum())
        found = minimise(
            regression, penalty, start, lambda slope: slope * inverse, tolerance * mass, _FEWEST_STEPS
        )
        self.iterations += found.iterations + 1
        return found
