r"""How sure to be of a row: a focal temperature that depends on the row's own confidence.

.. math:: p = \varphi_\gamma(\mathrm{softmax}(s/T(s))), \qquad
          \log T(s) = c_0 + c_1 q_{(1)} + c_2 q_{(2)} + c_3 H(q)

with :math:`q=\mathrm{softmax}(s)`, its two largest probabilities and its entropy. Fitted on scores of rows
that were left out when the scores' own map was fitted, by Newton's method on

.. math:: \sum_n w_n\,\mathrm{NLL}_n + \tfrac12\gamma^2 + \tfrac12\sum_{k=1}^3 (c_k\sigma_k/0.1)^2,

:math:`\sigma_k` being the standard deviation of the k-th feature, at least .02: few rows leave one
temperature and γ = 0.

A row's own part in the fit is known to first order: without it the minimum is at
:math:`\theta + H^{-1} w_n g_n`, g being the gradient of its NLL and H the Hessian of the whole, so that its
NLL is higher by :math:`w_n g_n^\top H^{-1} g_n` (approximate leave-one-out).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from focalcal.calibrators.held_out import Array, HeldOut
from focalcal.calibrators.temperature.fitting import fit_temperature
from focalcal.engine import row_slices
from focalcal.kernels import reference

#: Least σ: what hardly varied in the fit must not decide on rows that are different.
_NARROW = 0.02

#: Standard deviations of the prior: of γ, and of what a feature may do to log T.
_SPREAD_GAMMA, _SPREAD_SLOPE = 1.0, 0.1

#: Bounds of γ, the most Newton steps, and how little the next one promises to lower the mean loss, in nats.
_LOW, _HIGH, _STEPS, _CLOSE = -1.0, 20.0, 40, 1e-6


@dataclass(frozen=True)
class Confidence:
    """A fitted stage."""

    slopes: Array  # (4,) c: log T of a row is these times its features
    gamma: float
    stderr: float  # of γ; NaN at an end
    loss: float  # mean NLL
    optimism: Array  # (n,) by how much a row's NLL would be higher, had the fit been without it
    converged: bool
    iterations: int

    @property
    def at_bound(self) -> bool:
        """Whether γ ended at the upper bound; at −1 the map itself ends."""
        return self.gamma == _HIGH


def features(log_probs: Array) -> Array:
    """Return (1, largest, second largest probability, entropy) of each row, shape (n, 4)."""
    p = np.exp(log_probs)
    entropy = -np.where(p > 0, p * np.maximum(log_probs, -1e30), 0.0).sum(axis=1)
    two = np.partition(p, -2, axis=1)[:, -2:]
    return np.stack([np.ones(len(p)), two[:, 1], two[:, 0], entropy], axis=1)


def tempered(log_probs: Array, slopes: Array) -> Array:
    """Return log-probabilities divided by each row's temperature, not normalised."""
    return np.asarray(log_probs * np.exp(-(features(log_probs) @ slopes))[:, None])


def fit_confidence(held: HeldOut) -> Confidence:
    """Fit the stage on log-probabilities of rows that were left out."""
    rows = features(held.log_probs)
    centre = np.average(rows[:, 1:], axis=0, weights=held.weight)
    spread = np.sqrt(np.average((rows[:, 1:] - centre) ** 2, axis=0, weights=held.weight))
    spread = np.maximum(spread, _NARROW)
    rows[:, 1:] = (rows[:, 1:] - centre) / spread
    start = fit_temperature(held.objective(), "nll", (_LOW, _HIGH)).parameters  # which basin
    tau, gamma = math.log(float(start["temperature"])), float(start["gamma"])
    best = _newton(held, rows, np.array([tau, 0.0, 0.0, 0.0, gamma]))
    optimism = np.einsum("ni,ni->n", best.each @ best.inverse(), best.each) * held.weight
    slopes = np.append(best.point[0] - (best.point[1:4] / spread) @ centre, best.point[1:4] / spread)
    gamma, free = float(best.point[4]), _LOW < best.point[4] < _HIGH
    with np.errstate(invalid="ignore"):
        stderr = float(np.sqrt(np.linalg.pinv(best.hessian)[4, 4])) if free else np.nan
    loss = float(best.loss / held.weight.sum())
    return Confidence(slopes, gamma, stderr, loss, optimism, best.converged, best.steps)


@dataclass(frozen=True)
class _Here:
    """The objective at a point, and how the steps came there."""

    point: Array  # (5,) c_0, slopes in standard deviations of the features, γ
    loss: float  # weighted sum of the NLL
    value: float  # with the penalty
    gradient: Array
    hessian: Array
    each: Array  # (n, 5) gradients of the rows' NLL
    converged: bool = False
    steps: int = 0

    @property
    def free(self) -> int:
        """Number of parameters that are not held at an end: 4 without γ."""
        gamma, slope = self.point[4], self.gradient[4]
        return 4 if (gamma <= _LOW and slope > 0) or (gamma >= _HIGH and slope < 0) else 5

    def inverse(self) -> Array:
        """Return the inverse Hessian of the free parameters, its eigenvalues made positive, shape (5, 5)."""
        found, free = np.zeros((5, 5)), self.free
        values, vectors = np.linalg.eigh(self.hessian[:free, :free])
        values = np.maximum(np.abs(values), 1e-9 * max(values[-1], 1e-9))
        found[:free, :free] = vectors / values @ vectors.T
        return found


#: Inverse variances of the prior.
_PRIOR = np.array([0.0, *[_SPREAD_SLOPE**-2] * 3, _SPREAD_GAMMA**-2])


def _look(held: HeldOut, rows: Array, point: Array) -> _Here:
    """Sum the loss and its derivatives: of a row, in its log T and in γ."""
    loss, hessian, each = 0.0, np.diag(_PRIOR), np.empty((held.n, 5))
    for part in row_slices(held.n, held.n_classes):
        f, w, block = rows[part], held.weight[part], held.part(part)
        scaled = block.log_probs * np.exp(-(f @ point[:4]))[:, None]
        if block.masked is not None:
            scaled = np.where(block.masked, -np.inf, scaled)
        jet = reference.nll_jet(
            reference.split_rows(scaled.astype(np.float32), block.codes), 0.0, float(point[4])
        )
        loss += float(w @ jet.value)
        each[part, :4], each[part, 4] = f * jet.first[0][:, None], jet.first[1]
        cross = f.T @ (w * jet.second[1])
        top = np.hstack([(f * (w * jet.second[0])[:, None]).T @ f, cross[:, None]])
        hessian = hessian + np.vstack([top, np.append(cross, w @ jet.second[2])])
    gradient = _PRIOR * point + held.weight @ each
    return _Here(point, loss, loss + 0.5 * float(_PRIOR @ point**2), gradient, hessian, each)


def _newton(held: HeldOut, rows: Array, start: Array) -> _Here:
    here = _look(held, rows, start)
    for steps in range(1, _STEPS + 1):
        step = -here.inverse() @ here.gradient
        if -here.gradient @ step < 2 * _CLOSE * held.weight.sum():
            return replace(here, steps=steps, converged=True)
        step /= max(1.0, np.abs(step).max())
        length = 1.0
        while length > 1e-4:
            point = here.point + length * step
            point[4] = min(max(point[4], _LOW), _HIGH)
            there = _look(held, rows, point)
            if there.value <= here.value:
                break
            length /= 4
        else:
            return replace(here, steps=steps)
        here = replace(there, steps=steps)
    return here
