r"""Maps of several strengths, mixed as rows left out ask for.

No strength of the prior is best in all directions, and a slope and a bias of each class need less shrinkage
than pairs of classes do. So with :math:`g_\lambda(x)` what the matrix of strength λ adds to x, and
:math:`g_v(x)` what vector scaling adds, the scores are :math:`x + \sum_m a_m g_m(x)`, where

.. math:: \min_a \sum_n w_n\,\mathrm{NLL}\Bigl(\mathrm{softmax}\bigl(x_n + \sum_m a_m g_m^{(-n)}(x_n)\bigr),
          y_n\Bigr) \quad\text{with}\quad a\ge 0,\ \sum_m a_m\le 1

and :math:`g^{(-n)}` are fits without the row's fold: stacking (Breiman 1996), a convex problem. What is left
of 1 is the share of temperature scaling. A sum of affine maps is one, so that mixing costs nothing later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from focalcal.calibrators.held_out import Array, HeldOut
from focalcal.calibrators.matrix.diagonal import fit_diagonal
from focalcal.calibrators.matrix.shrinkage import MANY, Affine, Shrinkage

Floats = NDArray[np.floating[Any]]

#: Strength from which the search starts, and the factor of one step of it.
_START, _STEP = 1.0, 10.0

#: Steps from the start that are tried at most.
_FARTHEST = 3

#: The largest λ that is tried: hardly different from temperature scaling.
STRONGEST = _START * _STEP**_FARTHEST

#: Ridge of vector scaling, on each slope and each bias, and what the next Newton step, still taken, promises
#: at the end, in nats of the mean loss: fits without a fold, started from the whole's end, then forget it.
_RIDGE, _END = 1.0, 1e-4

#: The least share that a map is kept for: each costs fits of all folds.
_LEAST = 0.05

#: Where the search of the shares ends, in nats of the mean loss.
_PRECISION = 1e-6


@dataclass(frozen=True)
class Mixture:
    """A fitted map, with what each row gets from a map that was fitted without it."""

    matrix: Array  # (K, K): rows of x times this
    bias: Array  # (K,)
    penalty: float  # λ of the lowest out-of-fold NLL, or the one given
    vector_share: float  # of vector scaling
    matrix_share: float  # of the matrices
    out_of_fold: Array  # (n, K) log-probabilities
    path: dict[float, float]  # mean out-of-fold NLL by λ that was tried
    converged: bool
    iterations: int
    at_bound: bool


class Part(Protocol):
    """A map that can be mixed."""

    def without(self, k: int) -> Affine:
        """Fit all folds but one; the folds in turn."""
        ...

    def last(self) -> tuple[Affine, bool]:
        """Fit all rows; return with it whether that converged."""
        ...


class Matrix:
    """A matrix of strength λ, each fit started from that of a near strength."""

    def __init__(self, shrinkage: Shrinkage, strength: float, near: Matrix | None = None) -> None:
        self.shrinkage, self.strength, self.near = shrinkage, strength, near
        self.thetas: list[Array] = []

    def without(self, k: int) -> Affine:
        """Fit all folds but one; the folds in turn."""
        start = self.near.thetas[k] if self.near and k < len(self.near.thetas) else None
        self.thetas.append(self.shrinkage.without(k, self.strength, start))
        return self.shrinkage.basis.affine(self.thetas[k])

    def last(self) -> tuple[Affine, bool]:
        """Fit all rows; return with it whether that converged."""
        found = self.shrinkage.last(self.strength, np.mean(self.thetas, axis=0))
        return self.shrinkage.basis.affine(found.theta), found.converged


class Vector:
    """A slope and a bias of each class."""

    def __init__(self, held: HeldOut, fold: NDArray[np.int64]) -> None:
        self.held, self.fold = held, fold
        self.ridge = np.full(2 * held.n_classes, _RIDGE)
        self.whole = fit_diagonal(held, self.ridge, _END)

    def without(self, k: int) -> Affine:
        """Fit all folds but one."""
        start = np.concatenate([self.whole.slope, self.whole.bias])
        found = fit_diagonal(self.held.part(self.fold != k), self.ridge, _END, start)
        return Affine(np.diag(found.slope), found.bias)

    def last(self) -> tuple[Affine, bool]:
        """Fit all rows; return with it whether that converged."""
        return Affine(np.diag(self.whole.slope), self.whole.bias), self.whole.converged


class Tried(NamedTuple):
    """A part, and its fits without each of the folds that are judged."""

    part: Part
    maps: list[Affine]
    added: Floats  # (n, K) to the rows judged


class Judged:
    """Rows of some folds, by which maps that were fitted without them are judged."""

    def __init__(self, held: HeldOut, left_out: Sequence[NDArray[np.int64]], kind: Any) -> None:
        self.held = held.part(np.concatenate(left_out))
        self.parts = [held.log_probs[rows].astype(kind) for rows in left_out]
        self.x = np.concatenate(self.parts)
        self.weight = self.held.weight / self.held.weight.sum()

    def tried(self, part: Part) -> Tried:
        """Fit a part without each of the folds."""
        maps = [part.without(k) for k in range(len(self.parts))]
        added = [
            x @ one.shift.astype(x.dtype) + one.bias.astype(x.dtype)
            for x, one in zip(self.parts, maps, strict=True)
        ]
        return Tried(part, maps, np.concatenate(added))

    def loss(self, shares: Array, tried: Sequence[Tried]) -> tuple[float, Array]:
        """Return the mean NLL of a mixture and its derivatives in the shares."""
        scores = self.x.copy()
        for share, one in zip(shares, tried, strict=True):
            scores += scores.dtype.type(share) * one.added
        log_probs = self.held.normalised(scores)
        p, rows = np.exp(log_probs), np.arange(self.held.n)
        slopes = [np.einsum("nk,nk->n", p, one.added) - one.added[rows, self.held.codes] for one in tried]
        return float(self.weight @ self.held.losses(log_probs)), np.array(
            [self.weight @ one for one in slopes]
        )


def mix(held: HeldOut, fold: NDArray[np.int64], strength: float | None = None) -> Mixture:
    """Fit the maps of log-probabilities after temperature scaling, and their shares.

    Parameters
    ----------
    held : HeldOut
        With the log-probabilities after temperature scaling, and no row of weight 0.
    fold : array of shape (n,)
        Number of each row's fold, from 0.
    strength : float, optional
        λ of a single matrix, which is all then. Otherwise powers of ten are tried towards lower out-of-fold
        NLL, and mixed with each other and vector scaling. Where there are many rows or classes, two folds
        choose.
    """
    shrinkage = Shrinkage(held, fold)
    left_out = [np.flatnonzero(fold == k) for k in range(int(fold.max()) + 1)]
    losses: dict[float, float] = {}
    if strength is None:
        few = len(left_out) if held.n * held.n_classes < MANY else 2
        judged = Judged(held, left_out[:few], shrinkage.whole.features.dtype)
        tried, losses = _search(judged, shrinkage)
        strength = min(losses, key=lambda one: losses[one])
        kept, shares = _kept(judged, [*tried, judged.tried(Vector(held, fold))])
    else:
        kept, shares = [Tried(Matrix(shrinkage, strength), [], np.empty(0))], np.ones(1)
    out_of_fold = held.log_probs.copy()
    for k, rows in enumerate(left_out):
        part = held.part(rows)
        maps = [one.maps[k] if k < len(one.maps) else one.part.without(k) for one in kept]
        matrix, bias = _weighted(shares, maps, held.n_classes)
        out_of_fold[rows] = part.normalised(part.log_probs @ matrix + bias)
    last = [one.part.last() for one in kept]
    of_vector = sum(share for share, one in zip(shares, kept, strict=True) if isinstance(one.part, Vector))
    return Mixture(
        *_weighted(shares, [found for found, _ in last], held.n_classes),
        penalty=strength,
        vector_share=float(of_vector),
        matrix_share=float(shares.sum() - of_vector),
        out_of_fold=out_of_fold,
        path=dict(sorted(losses.items())),
        converged=all(converged for _, converged in last),
        iterations=shrinkage.iterations,
        at_bound=bool(losses) and strength == _strength(-_FARTHEST),
    )


def _search(judged: Judged, shrinkage: Shrinkage) -> tuple[list[Tried], dict[float, float]]:
    """Step from the start towards lower losses, each fit from the one before; return also the losses by λ."""
    found, losses = {}, {}

    def take(step: int, near: Matrix | None) -> Matrix:
        matrix = Matrix(shrinkage, _strength(step), near)
        found[step] = judged.tried(matrix)
        losses[step] = judged.loss(np.ones(1), [found[step]])[0]
        return matrix

    def walk(direction: int) -> None:
        matrix, step = first, 0
        while abs(step) < _FARTHEST:
            step += direction
            matrix = take(step, matrix)
            if losses[step] >= losses[step - direction]:
                return

    first = take(0, None)
    walk(-1)
    if losses[-1] > losses[0]:
        walk(1)
    return list(found.values()), {_strength(step): loss for step, loss in losses.items()}


def _strength(step: int) -> float:
    """Return the strength λ that is some steps from the start."""
    return float(_START * _STEP**step)


def _kept(judged: Judged, tried: Sequence[Tried]) -> tuple[list[Tried], Array]:
    """Return the parts whose shares are worth further fits, and their shares without the others."""
    worth = find_shares(judged, tried) >= _LEAST
    kept = [one for one, large in zip(tried, worth, strict=True) if large]
    return kept, find_shares(judged, kept) if kept else np.zeros(0)


def find_shares(judged: Judged, tried: Sequence[Tried]) -> Array:
    """Return the shares a ≥ 0, Σ a ≤ 1, of the lowest mean NLL."""
    count = len(tried)
    found = minimize(
        lambda shares: judged.loss(shares, tried),
        np.full(count, 0.5 / count),
        jac=True,
        method="SLSQP",
        bounds=[(0, 1)] * count,
        constraints={"type": "ineq", "fun": lambda a: 1 - a.sum(), "jac": lambda a: -np.ones(count)},
        options={"ftol": _PRECISION},
    )
    shares = np.clip(np.asarray(found.x, np.float64), 0, 1)
    return np.asarray(shares / max(1.0, float(shares.sum())))


def _weighted(shares: Array, maps: Sequence[Affine], n_classes: int) -> Affine:
    """Return the mixture of maps as a matrix and a bias."""
    matrix, bias = np.eye(n_classes), np.zeros(n_classes)
    for share, one in zip(shares, maps, strict=True):
        matrix += share * one.shift
        bias += share * one.bias
    return Affine(matrix, bias)
