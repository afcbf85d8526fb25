r"""A natural cubic spline through the log-odds of an event, its smoothness chosen by the data.

.. math:: \min_f \frac{1}{\sum w} \sum_i w_i \big(\log(1 + e^{f(s_i)}) - t_i f(s_i)\big)
          + \lambda \int f''^2

over the natural cubic splines f with knots at quantiles of s, by Newton's method in f's values at the knots;
t are Platt's smoothed targets.

References
----------
Green and Silverman 1994, Nonparametric regression and generalized linear models; Rad and Maleki 2020, arXiv
1801.10243, for the approximate leave-one-out loss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.special import expit, logit

from focalcal.calibrators.one_vs_rest.logistic import smoothed_targets

Array = NDArray[np.float64]

#: Strengths λ of the penalty that are tried, from the smoothest to the roughest, for scores of unit spread.
STRENGTHS = 10.0 ** np.arange(3, -7.25, -0.5)

_TOLERANCE, _MAX_STEPS = 1e-11, 50


@dataclass(frozen=True)
class SplineFit:
    """A spline of one smoothness: its values at the knots, and the leave-one-out loss."""

    values: Array
    errors: Array
    left_out: float
    converged: bool
    iterations: int


@dataclass(frozen=True)
class Regression:
    """Penalised regressions of the events on a spline, as means over rows."""

    basis: Array  # (n, M)
    hits: NDArray[np.bool_]
    targets: Array
    weight: Array
    penalty: Array  # (M, M)

    def fit(self, strength: float, start: Array) -> SplineFit:
        """Minimise mean loss + strength · ∫ f''²."""
        at, converged, iteration = start, False, 0
        loss, gradient, hessian = self._jet(at, strength)
        while not converged and iteration < _MAX_STEPS:
            iteration += 1
            step = np.linalg.solve(hessian, gradient)
            converged = bool(gradient @ step / 2 < _TOLERANCE)
            tried = self._jet(at - step, strength)
            while not tried[0] <= loss * (1 + 1e-13) and np.abs(step).max() > 1e-12:
                step = step / 2
                tried = self._jet(at - step, strength)
            at = at - step
            loss, gradient, hessian = tried
        errors, left_out = self._judged(at, hessian)
        return SplineFit(at, errors, left_out, converged, iteration)

    def _jet(self, values: Array, strength: float) -> tuple[float, Array, Array]:
        eta = self.basis @ values
        p, shares, pull = expit(eta), self.weight / self.weight.sum(), 2 * strength * self.penalty
        loss = shares @ (np.logaddexp(0, eta) - self.targets * eta) + values @ pull @ values / 2
        gradient = self.basis.T @ (shares * (p - self.targets)) + pull @ values
        hessian = (self.basis * (shares * p * (1 - p))[:, None]).T @ self.basis + pull
        return float(loss), gradient, hessian + 1e-13 * np.trace(hessian) * np.eye(len(values))

    def _judged(self, values: Array, hessian: Array) -> tuple[Array, float]:
        """Return standard errors, and the approximate loss of rows left out one at a time."""
        eta, total = self.basis @ values, self.weight.sum()
        p, inverse = expit(eta), np.linalg.inv(hessian)
        pulls = (self.basis * (self.weight * (p - self.targets))[:, None]) @ inverse / total
        # of a row that counts twice, once
        lever = np.minimum(self.weight, 1.0) * np.einsum("ij,ij->i", self.basis @ inverse, self.basis) / total
        without = eta + lever * (p - self.targets) / np.maximum(1 - lever * p * (1 - p), 1e-3)
        losses = np.logaddexp(0, np.where(self.hits, -without, without))
        return np.sqrt((pulls**2).sum(axis=0)), float(self.weight @ losses / total)


def spline_fits(places: Array, scores: Array, hits: NDArray[np.bool_], weight: Array) -> list[SplineFit]:
    """Return the fit of each strength, each started from the one before."""
    targets = smoothed_targets(hits[:, None], weight[:, None])[:, 0]
    shares = weight / weight.sum()
    spread = math.sqrt(shares @ (scores - shares @ scores) ** 2)
    scale = (spread if spread > 0 else 1.0) ** 3  # which makes the strengths those of standardised scores
    regression = Regression(basis(places, scores), hits, targets, weight, scale * penalty(places))
    at, found = np.full(len(places), logit(shares @ targets)), []
    for strength in STRENGTHS:
        found.append(regression.fit(strength, at))
        at = found[-1].values
    return found


def knots(scores: Array, weight: Array, count: int) -> Array:
    """Return different scores, from the lowest to the highest, with equal masses between them."""
    order = np.argsort(scores, kind="stable")
    mass = np.cumsum(weight[order])
    levels = mass[-1] * np.linspace(0, 1, count) * (1 - 1e-12)
    places = np.unique(scores[order][np.searchsorted(mass, levels)])
    # closer ones would make the spline's equations singular
    kept = np.append(True, np.diff(places) > 1e-6 * (places[-1] - places[0]))
    if kept.sum() > 1:
        return np.asarray(places[kept])
    return np.array([places[0], places[0] + 1 + abs(places[0])])


def basis(places: Array, scores: Array) -> Array:
    """Return the matrix (n, M) that makes the spline's values at scores of its values at the knots."""
    spline = CubicSpline(places, np.eye(len(places)), bc_type="natural")
    inside = np.clip(scores, places[0], places[-1])
    beyond = scores - inside
    ends = np.where(beyond < 0, places[0], places[-1])
    return np.asarray(spline(inside) + np.where(beyond, 1, 0)[:, None] * beyond[:, None] * spline(ends, 1))


def curve(places: Array, values: Array, scores: Array) -> Array:
    """Return the spline with these values at the knots, and lines beyond them."""
    spline = CubicSpline(places, values, bc_type="natural")
    inside = np.clip(scores, places[0], places[-1])
    low, high = spline(places[[0, -1]], 1)
    found: Array = spline(inside) + np.where(scores < inside, low, high) * (scores - inside)
    return found


def penalty(places: Array) -> Array:
    """Return the matrix Ω with ∫ f''² = values · Ω · values."""
    spline = CubicSpline(places, np.eye(len(places)), bc_type="natural")
    bends, widths = np.asarray(spline(places, 2)), np.diff(places)  # f'' is linear between the knots
    left, right = bends[:-1], bends[1:]
    both = left.T @ (widths[:, None] * right)
    squares = left.T @ (widths[:, None] * left) + right.T @ (widths[:, None] * right)
    return np.asarray((squares + (both + both.T) / 2) / 3)
