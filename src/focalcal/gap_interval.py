"""The interval of a binned L1 calibration error, by inverting a test.

The plug-in value T = Σ|D| over cells (bins, or bins of each class) is biased upward, because noise in a cell
counts as miscalibration whatever its sign, and it is not normal where gaps are near 0: subtracting a bias or
resampling rows does not give a valid interval. So each candidate θ for the true error is tested: gaps with
Σ|δ| = θ that are close to the observed ones are taken as the truth, the distribution of T under them follows
in closed form from binomial hits, and θ belongs to the interval unless T lies in a tail of it.

Candidates follow one line. *Shrinking*: every gap moves towards 0 by the same multiple λ of its variance (the
most likely gaps with a given sum; λ < 0 moves them outward). *Pooling* (several classes): gaps are first
shrunk towards the mean gap of their bin over the classes, as cells with a handful of rows tell little, and
then scaled. With several classes the interval spans both.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betainc, erf, ndtri

from focalcal.bins import Array, BinSums, tally

#: A line of candidates, from a position to the gaps of the cells: 1 is no gap anywhere, 0 the observed
#: (or pooled) gaps, and below 0 they grow beyond.
Line = Callable[[float], Array]


@dataclass(frozen=True)
class Cells:
    """The occupied cells, each a bin of one class."""

    share: Array  # (C,) of the total weight, over K classes: sums to 1
    confidence: Array  # (C,)
    rate: Array  # (C,) hits
    rows: Array  # (C,) effective, whole
    bin: NDArray[np.intp]  # (C,) which bin
    n_classes: int

    @classmethod
    def of(cls, sums: BinSums) -> Cells:
        """Keep the occupied cells of sums of shape (B,) or (K, B).

        The second of two classes mirrors the first, hit for miss: it carries nothing of its own.
        """
        pick = slice(1, 2) if sums.weight.ndim == 2 and len(sums.weight) == 2 else slice(None)
        columns = (sums.share, sums.mean_confidence, sums.hit_rate, sums.effective_count)
        grids = [np.atleast_2d(column)[pick] for column in columns]
        n_classes, bins = grids[0].shape
        full = grids[0] > 0
        share, confidence, rate, rows = (grid[full] for grid in grids)
        return cls(
            share / n_classes,
            confidence.clip(0, 1),
            rate.clip(0, 1),
            np.maximum(np.rint(rows), 1),
            np.broadcast_to(np.arange(bins), full.shape)[full],
            n_classes,
        )

    @property
    def gap(self) -> Array:
        """The observed gap of each cell, times its share."""
        return self.share * (self.confidence - self.rate)

    def shrinking(self) -> Line:
        """Return the line of gaps shrunk by a common multiple of their variance."""
        gap = self.gap
        # one more row that behaves as announced, so that a cell without misses keeps a variance
        rate = (self.rows * self.rate + self.confidence) / (self.rows + 1)
        variance = self.share**2 * np.maximum(rate * (1 - rate), 1e-12) / self.rows
        unit = float((np.abs(gap) / variance).max()) or float((self.share / variance).min())
        unit *= 1 + 1e-12  # so that rounding leaves no gap at the end of the line
        sign = np.where(gap < 0, -1.0, 1.0)
        return lambda at: self._possible(sign * np.maximum(np.abs(gap) - at * unit * variance, 0))

    def pooling(self) -> Line:
        """Return the line of scaled gaps, after shrinking each towards its bin's mean (empirical Bayes)."""
        gap, bins = self.confidence - self.rate, int(self.bin.max()) + 1

        def total(values: Array) -> Array:
            return tally(self.bin, values, bins)[self.bin]

        mean = total(self.share * gap) / total(self.share)
        rate = (self.confidence - mean).clip(0, 1)
        noise = np.maximum(rate * (1 - rate), 1e-9)  # variance of one row
        rows, rows_squared = total(self.rows), total(self.rows**2)
        excess = total(self.rows * (gap - mean) ** 2) - total(noise * (1 - self.rows / rows))
        between = np.maximum(excess, 0) / np.maximum(rows - rows_squared / rows, 1e-9)
        trust = between / (between + noise / self.rows)
        pooled = self.share * (mean + trust * (gap - mean))
        return lambda at: self._possible(pooled * (1 - at))

    def _possible(self, gap: Array) -> Array:
        """Keep the hit rates that the gaps imply within [0, 1]."""
        return np.clip(gap, self.share * (self.confidence - 1), self.share * self.confidence)


@dataclass(frozen=True)
class Moments:
    """The distribution of T under given true gaps."""

    error: float  # Σ|δ|
    mean: float
    sd: float
    skewness: float

    def quantile(self, probability: float) -> float:
        """Return the quantile, by Cornish and Fisher's expansion."""
        z = float(ndtri(probability))
        return self.mean + self.sd * (z + (z * z - 1) * self.skewness / 6)


def moments(cells: Cells, gap: Array) -> Moments:
    """Return the distribution of T = Σ|D| when the true gaps (times shares) are `gap`."""
    size, error = np.abs(gap), float(np.abs(gap).sum())
    rate = (cells.confidence - gap / cells.share).clip(0, 1)
    mean, square = absolute_deviation(cells.rows, rate, cells.confidence)
    variance = cells.share**2 * rate * (1 - rate) / cells.rows
    sd = np.sqrt(variance) + 1e-300
    r = np.minimum(size / sd, 8)  # beyond, |D| is as good as normal
    sure = erf(r / np.sqrt(2))  # how surely the sign of D is that of the gap
    # the residuals of a row sum to 0 over its K classes, so gaps of sure sign vary together
    together = cells.n_classes / max(cells.n_classes - 1, 1)
    # the shares of the bins are random too
    centre = error if cells.n_classes == 1 else 0.0
    drift = cells.share**2 / cells.rows * (size / cells.share - centre) ** 2
    own = cells.share**2 * np.maximum(square - mean**2, 0)
    total = float((own + (together - 1) * sure**2 * variance + together * drift).sum())
    bell = np.sqrt(2 / np.pi) * np.exp(-(r**2) / 2)
    first, third = bell + r * sure, (r**3 + 3 * r) * sure + bell * (r**2 + 2)
    cumulant = float(((third - 3 * first * (1 + r**2) + 2 * first**3) * sd**3).sum())
    spread = total**0.5
    skewness = min(cumulant / spread**3, 1.0) if spread > 1e-100 else 0.0  # a folded normal's is below 1
    return Moments(error, float((cells.share * mean).sum()), max(spread, 1e-100), skewness)


def absolute_deviation(n: Array, rate: Array, target: Array) -> tuple[Array, Array]:
    """Return E|X/n − target| and E(X/n − target)² for X binomial(n, rate), exactly.

    E|X − a| = 2(a F_n(a) − n rate F_{n−1}(a − 1)) + n rate − a, with F the distribution functions.
    """
    a = n * target
    k = np.floor(a)
    below, below_less = _binomial_cdf(k, n, rate), _binomial_cdf(k - 1, n - 1, rate)
    first = (2 * (a * below - n * rate * below_less) + n * rate - a) / n
    return np.maximum(first, np.abs(rate - target)), rate * (1 - rate) / n + (rate - target) ** 2


def _binomial_cdf(k: Array, n: Array, rate: Array) -> Array:
    inside = betainc(np.maximum(n - k, 1e-300), np.maximum(k + 1, 1e-300), 1 - rate)
    return np.where(k < 0, 0.0, np.where(k >= n, 1.0, inside))


def gap_sum_interval(sums: BinSums, level: float) -> tuple[float, float, float]:
    """Return the standard error of the plug-in error and the ends of the true error's interval."""
    cells = Cells.of(sums)
    observed = float(np.abs(cells.gap).sum())
    lines = [cells.shrinking()] + ([cells.pooling()] if cells.n_classes > 1 else [])

    def excess(m: Moments, upper: bool) -> float:
        # near 0 the whole miss probability goes to the side where a miss is possible
        below = (1 - level) / 2 * min(1.0, m.error / (2 * m.sd))
        return m.quantile(max(below, 1e-3) if upper else level + below) - observed

    return (
        _solve(cells, lines[0], lambda m: m.mean - observed, _OUTWARD).sd,
        min(_solve(cells, line, lambda m: excess(m, False), _INWARD).error for line in lines),
        max(_solve(cells, line, lambda m: excess(m, True), _OUTWARD).error for line in lines),
    )


def error_by_chance(sums: BinSums) -> float:
    """Return the plug-in error that perfectly calibrated rows would show on average."""
    cells = Cells.of(sums)
    return moments(cells, np.zeros_like(cells.share)).mean


#: Where to look for the far side of a crossing. At the observed gaps the variance vanishes if every row of
#: each cell hit (or missed), so the lower end is then looked for just short of them.
_INWARD = (0.0, *(10.0**power for power in range(-8, 0)))
_OUTWARD = (0.0, *(-0.5 * 4.0**power for power in range(16)))


def _solve(
    cells: Cells, line: Line, function: Callable[[Moments], float], search: tuple[float, ...]
) -> Moments:
    """Return the moments at the candidate where `function` crosses 0; at no gap, if it is above 0 there."""

    def at(position: float) -> float:
        return function(moments(cells, line(position)))

    if at(1.0) >= 0:
        return moments(cells, line(1.0))
    tiny = 1e-14 * float(cells.share.sum())
    far = next((position for position in search if at(position) > tiny), None)
    root = (
        search[0 if search is _INWARD else -1] if far is None else brentq(at, far, 1.0, xtol=1e-5, rtol=1e-5)
    )
    return moments(cells, line(float(root)))
