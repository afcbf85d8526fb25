"""The mean log loss of rows at many (log T, γ) in one pass, and over a part of the plane."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import Input, class_count
from focalcal.calibrators.objective import SumLosses
from focalcal.engine import row_slices
from focalcal.rows import ArrayRows, Block
from focalcal.scores import FitSums

Array = NDArray[np.float64]

#: log T and γ; a γ of None is temperature scaling, which is faster than γ = 0.
Point = tuple[float, float | None]

#: Points along each side of a surface, and how often it is widened until it holds the region.
_SIDE, _WIDENINGS = 15, 3

#: Steps towards the best γ at each temperature, the longest one per unit of γ + 1.5, and the fall of the loss
#: below which there is no further step.
_STEPS, _LONGEST, _TOLERANCE = 12, 0.5, 1e-10


@dataclass(frozen=True)
class ManySums:
    """The sums of a fit at several points; adding two merges their rows."""

    sums: tuple[FitSums, ...]

    def __add__(self, other: ManySums) -> ManySums:
        return ManySums(tuple(a + b for a, b in zip(self.sums, other.sums, strict=True)))


@dataclass(frozen=True)
class SumManyLosses:
    """The sums of a fit over a block of rows at several points."""

    kind: Input
    points: tuple[Point, ...]

    @property
    def threads(self) -> bool:
        """Whether it releases the interpreter lock."""
        return SumLosses(self.kind, "nll", 0.0, None).threads

    def __call__(self, block: Block) -> ManySums:
        """Return the sums over a block of any size: rows are read once, while they are in the cache."""
        tasks = [SumLosses(self.kind, "nll", tau, gamma) for tau, gamma in self.points]
        total = None
        for rows in row_slices(len(block), class_count(block.scores)):
            part = block.part(rows)
            sums = ManySums(tuple(task(part) for task in tasks))
            total = sums if total is None else total + sums
        assert total is not None
        return total


class Losses:
    """The mean log loss of rows in memory and its derivatives, at as many points as asked for."""

    def __init__(self, rows: ArrayRows) -> None:
        if rows.scores.dtype == np.float16:  # widened once, not for every point
            rows = replace(rows, scores=rows.scores.astype(np.float32))
        self.rows, w = rows, rows.weight
        self.n_effective = float(rows.n if w is None else w.sum() ** 2 / (w @ w))

    def at(self, points: Sequence[Point]) -> list[FitSums]:
        """Return loss, gradient and Hessian of the mean at each point, in one pass."""
        total = self.rows.map_sum(SumManyLosses(self.rows.kind, tuple(points)))
        return [sums.mean() for sums in total.sums]


@dataclass(frozen=True, eq=False)
class Surface:
    """The mean log loss over a part of the plane.

    Attributes
    ----------
    log_temperature : ndarray of shape (A,)
    gamma : ndarray of shape (G,)
    loss : ndarray of shape (A, G)
        In nats.
    """

    log_temperature: Array
    gamma: Array
    loss: Array

    def to_dict(self) -> dict[str, Any]:
        """Return the temperatures, γ and losses as plain lists."""
        temperature = np.exp(self.log_temperature).tolist()
        return {"temperature": temperature, "gamma": self.gamma.tolist(), "loss": self.loss.tolist()}


def around(
    losses: Losses, best: Point, fitted: Point, sums: FitSums, bounds: tuple[float, float], threshold: float
) -> Surface:
    """Return the loss over the likelihood region and the fitted parameters.

    The curvature at the optimum says how far the region reaches. Where the loss at the rim is still within
    the threshold the part is widened.
    """
    reach = np.array(_reach(sums, threshold))
    centre, other = (np.array([point[0], point[1] or 0.0]) for point in (best, fitted))
    for _ in range(_WIDENINGS + 1):
        low, high = centre - reach, centre + reach
        pad = 0.12 * np.maximum(high, other) - 0.12 * np.minimum(low, other)
        low = np.where(other < low + pad, np.minimum(other - pad, low), low)
        high = np.where(other > high - pad, np.maximum(other + pad, high), high)
        low[1], high[1] = max(low[1], bounds[0]), min(high[1], bounds[1])
        found = _evaluated(losses, low, high)
        rim = found.loss - sums.loss <= threshold
        beyond = (
            bool(rim[[0, -1]].any()),
            bool((rim[:, 0] & (low[1] > bounds[0])).any() or (rim[:, -1] & (high[1] < bounds[1])).any()),
        )
        if not any(beyond):
            break
        reach *= np.where(beyond, 1.8, 1.0)
    return found


def _reach(sums: FitSums, threshold: float) -> tuple[float, float]:
    """Return how far the region reaches in log T and γ by the curvature at its centre, and a third more."""
    a, b, d = sums.hessian
    left = 1 - b * b / (a * d) if a > 0 and d > 0 else 0.0
    if left < 1e-6:
        return 0.7, 3.0
    half = [1.35 * math.sqrt(2 * threshold / (curvature * left)) for curvature in (a, d)]
    return min(half[0], 0.7), min(half[1], 3.0)


def _evaluated(losses: Losses, low: Array, high: Array) -> Surface:
    taus, gammas = (np.linspace(a, b, _SIDE) for a, b in zip(low, high, strict=True))
    sums = losses.at([(tau, gamma) for tau in taus.tolist() for gamma in gammas.tolist()])
    return Surface(taus, gammas, np.array([s.loss for s in sums]).reshape(_SIDE, _SIDE))


def best_gammas(losses: Losses, taus: Array, start: float, bounds: tuple[float, float]) -> list[FitSums]:
    """Return the sums at the best γ for each log T, sought from `start` and from 0: basins can be two."""
    ways = [_descended(losses, taus, gamma, bounds) for gamma in {start, 0.0}]
    return [min(sums, key=lambda one: one.loss) for sums in zip(*ways, strict=True)]


def _descended(losses: Losses, taus: Array, start: float, bounds: tuple[float, float]) -> list[FitSums]:
    """Take Newton's steps in γ at all temperatures at once."""
    gammas, scale = np.full(len(taus), start), np.ones(len(taus))
    kept = losses.at(list(zip(taus.tolist(), gammas.tolist(), strict=True)))
    for _ in range(_STEPS):
        slope = np.array([s.gradient[1] for s in kept])
        bend = np.array([max(abs(s.hessian[2]), 1e-12) for s in kept])
        longest = _LONGEST * (gammas + 1.5)
        tried = np.clip(gammas - scale * np.clip(slope / bend, -longest, longest), *bounds)
        moving = np.flatnonzero((slope**2 / bend > _TOLERANCE) & (tried != gammas))
        if len(moving) == 0:
            break
        sums = losses.at([(float(taus[i]), float(tried[i])) for i in moving])
        for i, new in zip(moving.tolist(), sums, strict=True):
            falls = new.loss <= kept[i].loss
            scale[i] = 1.0 if falls else scale[i] / 4
            if falls:
                kept[i], gammas[i] = new, tried[i]
    return kept
