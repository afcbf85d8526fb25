r"""Matrix scaling shrunk towards temperature scaling, its strength chosen by cross-validation.

Let :math:`x = \log\mathrm{softmax}(z/T)` after temperature scaling, :math:`p` its probabilities. The map
:math:`x + M(x-\bar x) + b` has :math:`K^2` parameters more, too many for most calibration sets, so each is
shrunk towards 0 by a Gaussian prior. The prior lives in the eigenvectors :math:`u_i` of x's covariance
(rows weighted by :math:`1-\sum_k p_k^2`, as certain rows say little) and :math:`q_j` of
:math:`\sum_n (\mathrm{diag}\,p_n - p_np_n^\top)`, with eigenvalues :math:`\alpha_i, \beta_j`:

.. math:: \min_\Theta \sum_n w_n \mathrm{NLL}_n + \frac{\lambda}{2} \Bigl(\sum_{ij}
          K\sqrt{\bar\alpha\alpha_i\,\beta_j/\bar\beta}\;\Theta_{ij}^2
          + \sum_j K\sqrt{\beta_j/\bar\beta}\; b_j^2\Bigr), \qquad M = \sum_{ij}\Theta_{ij}\,q_ju_i^\top .

That is half-way between a ridge on the entries of M and one on what M does to the scores: on real networks
better than both, since neither directions that hardly vary nor classes that hardly occur are left free.

Fits without a fold take the same λ; the last one, on all rows, takes as much more as it has more rows, so
that it is as confident as those whose confidence was measured.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from focalcal.calibrators.held_out import Array, HeldOut, log_normalised
from focalcal.calibrators.matrix.ridge import Minimum, Regression, minimise

#: Strength from which the search starts, and factor of one step of it, which is half a decade.
_START, _STEP = 1.0, 10**0.5

#: Steps from the start that are tried at most.
_FARTHEST = 6

#: The largest λ that is tried: hardly different from temperature scaling.
STRONGEST = _START * _STEP**_FARTHEST

#: Rows and classes above which the search uses two folds only: what is left out then is large enough.
MANY = 200_000

#: Steps end where the next one promises less than this for the mean loss, in nats, with many and with fewer
#: numbers, and tenfold less at the end; but two are taken, as otherwise a next λ would change nothing.
_LOOSE, _TIGHT, _FEWEST_STEPS = 5e-4, 1e-5, 2

#: Copies of rows stay in one fold where there are this many different rows for each fold.
_DIFFERENT = 10

#: Directions whose eigenvalue is a smaller share of the largest, or of the largest square, are rounding.
_RANK, _ROUNDING = 1e-9, 1e-24


@dataclass(frozen=True)
class Shrunk:
    """A fitted map, with what each row gets from a map that was fitted without it."""

    matrix: Array  # (K, K): rows of x times this
    bias: Array  # (K,)
    penalty: float  # λ
    out_of_fold: Array  # (n, K) log-probabilities
    path: dict[float, float]  # mean out-of-fold NLL by λ that was tried
    converged: bool
    iterations: int
    at_bound: bool


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

    def affine(self, theta: Array) -> tuple[Array, Array]:
        """Return matrix (K, K) and bias (K,) of x ↦ x + features Θ outputs."""
        shift = self.inputs @ theta[:-1] @ self.outputs
        return np.eye(len(self.centre)) + shift, theta[-1] @ self.outputs - self.centre @ shift


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
    """Return each row's fold, whatever the order of rows and classes; copies of a row stay together.

    Not stratified: folds that share their frequencies of classes would promise more than new rows keep.
    """
    rows = np.stack([held.log_probs.max(axis=1), held.losses(held.log_probs)], axis=1)
    different, numbers = np.unique(rows, axis=0, return_inverse=True)
    numbers = numbers.reshape(-1)  # of two axes in NumPy 2.0 alone
    if len(different) < _DIFFERENT * count:
        numbers = np.lexsort(rows.T).argsort()
    return np.asarray(np.random.default_rng(0).permutation(numbers.max() + 1)[numbers] % count)


class Path:
    """Fits for several strengths λ, without each of the folds and on all rows."""

    def __init__(self, held: HeldOut, fold: NDArray[np.int64]) -> None:
        self.held, self.basis = held, find_basis(held)
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
        self.left_out = [np.flatnonzero(fold == k) for k in range(int(fold.max()) + 1)]
        self.inside = [self.whole.part(np.flatnonzero(fold != k)) for k in range(len(self.left_out))]
        self.outside = [self.whole.part(rows) for rows in self.left_out]
        p, outputs = np.exp(held.normalised(held.log_probs)), self.basis.outputs.T
        spread = (p @ outputs**2 - (p @ outputs) ** 2) * held.weight[:, None]  # (n, q)
        self.curvature = np.asarray((self.whole.features**2).T @ spread.astype(kind), np.float64)
        self.prior = np.ones_like(self.curvature)
        self.prior[-1] = held.n_classes
        self.iterations = 0

    def fit(self, regression: Regression, strength: float, start: Array, tolerance: float) -> Minimum:
        """Fit some of the rows."""
        penalty = strength * self.prior
        inverse = 1 / (self.curvature + penalty)
        mass = float(regression.weight.sum())
        found = minimise(
            regression, penalty, start, lambda slope: slope * inverse, tolerance * mass, _FEWEST_STEPS
        )
        self.iterations += found.iterations + 1
        return found

    def without(self, k: int, strength: float, start: Array | None = None) -> LeftOut:
        """Fit all folds but one, and map that one."""
        start = np.zeros_like(self.prior) if start is None else start
        theta = self.fit(self.inside[k], strength, start, self.tolerance).theta
        return LeftOut(theta, log_normalised(self.outside[k].scores(theta).astype(np.float64)))

    def loss(self, found: list[LeftOut]) -> float:
        """Return the mean NLL of the folds that were left out, the first ones."""
        parts = [self.held.part(rows) for rows in self.left_out[: len(found)]]
        total = sum(part.weight @ part.losses(one.log_probs) for part, one in zip(parts, found, strict=True))
        return float(total / sum(part.weight.sum() for part in parts))

    def search(self, count: int) -> dict[int, list[LeftOut]]:
        """Step from the start towards lower losses of the first folds, each fit from the one before it."""
        found = {0: [self.without(k, _START) for k in range(count)]}

        def walk(direction: int) -> None:
            step, loss = 0, self.loss(found[0])
            while abs(step) < _FARTHEST:
                starts = [one.theta for one in found[step]]
                step += direction
                found[step] = [self.without(k, strength_of(step), starts[k]) for k in range(count)]
                last, loss = loss, self.loss(found[step])
                if loss >= last:
                    return

        walk(-1)
        if self.loss(found[-1]) > self.loss(found[0]):
            walk(1)
        return found


@dataclass(frozen=True)
class LeftOut:
    """A fit without one fold."""

    theta: Array
    log_probs: Array  # of the fold's rows


def strength_of(step: int) -> float:
    """Return the strength λ that is some steps from the start."""
    return float(_START * _STEP**step)


def shrink(held: HeldOut, fold: NDArray[np.int64], strength: float | None = None) -> Shrunk:
    """Fit the map of log-probabilities after temperature scaling.

    Parameters
    ----------
    held : HeldOut
        With the log-probabilities after temperature scaling, and no row of weight 0.
    fold : array of shape (n,)
        Number of each row's fold, from 0.
    strength : float, optional
        λ; by default the one of the lowest out-of-fold NLL, in half decades. Where there are many rows or
        classes, two folds choose it.
    """
    path, count = Path(held, fold), int(fold.max()) + 1
    tried: dict[int, list[LeftOut]] = {}
    found: list[LeftOut] = []
    at_bound = False
    if strength is None:
        tried = path.search(count if held.n * held.n_classes < MANY else 2)
        best = min(tried, key=lambda step: path.loss(tried[step]))
        strength, found, at_bound = strength_of(best), tried[best], best == -_FARTHEST
    found += [path.without(k, strength) for k in range(len(found), count)]
    out_of_fold = np.empty_like(held.log_probs)
    for rows, one in zip(path.left_out, found, strict=True):
        out_of_fold[rows] = one.log_probs
    start = np.mean([one.theta for one in found], axis=0)
    share = path.whole.weight.sum() / np.mean([some.weight.sum() for some in path.inside])
    last = path.fit(path.whole, float(strength * share), start, path.tolerance / 10)
    losses = {strength_of(step): path.loss(some) for step, some in sorted(tried.items())}
    matrix, bias = path.basis.affine(last.theta)
    return Shrunk(matrix, bias, strength, out_of_fold, losses, last.converged, path.iterations, at_bound)
