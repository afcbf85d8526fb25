"""The interval of a binned L1 calibration error, by inverting a test.

The plug-in value T = Σ|D| over cells (bins, or bins of each class) is biased upward, because noise in a cell
counts as miscalibration whatever its sign, and it is not normal where gaps are near 0: subtracting a bias or
resampling rows does not give a valid interval. So each candidate θ for the true error is tested: gaps with
Σ|δ| = θ that are close to the observed ones are taken as the truth, the distribution of T under them follows
in closed form from binomial hits, and θ belongs to the interval unless T lies in a tail of it.

Candidates follow lines. *Shrinking*: every gap moves towards 0 by the same multiple λ of its variance (the
most likely gaps with a given sum; λ < 0 moves them outward). *Pooling* (several classes): gaps are first
shrunk towards the mean gap of their bin over the classes, as cells with a handful of rows tell little, and
then scaled. With several classes the interval spans both. *Roomy* (one class, the upper end): gaps of one
multiple of their standard errors, towards the side where there is room: sure rows without a miss show no gap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import betainc, erf

from focalcal.intervals.groups import Groups
from focalcal.intervals.inversion import Inverted, Line, Moments, invert
from focalcal.sums.bins import Array, BinSums, tally


@dataclass(frozen=True)
class ClassCells(Groups):
    """The occupied cells, each a bin of one class; shares are over all K classes and sum to 1."""

    bin: NDArray[np.intp]  # which bin
    n_classes: int

    @classmethod
    def of(cls, sums: BinSums) -> ClassCells:
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
        return lambda at: self.possible(pooled * (1 - at))


def moments(cells: ClassCells, gap: Array) -> Moments:
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


def gap_sum_interval(sums: BinSums, level: float) -> Inverted:
    """Return the true error with its standard error and interval, from the plug-in error."""
    cells = ClassCells.of(sums)
    several = cells.n_classes > 1
    lines = [cells.shrinking(), cells.pooling() if several else cells.roomy()]
    shrinking, other = ([lambda at, line=line: moments(cells, line(at))] for line in lines)
    observed = float(np.abs(cells.gap).sum())
    if several:
        return invert([*shrinking, *other], observed, level)
    return invert(shrinking, observed, level, upper=other)


def chance(sums: BinSums) -> float:
    """Return how often calibrated rows would show an error as large: the p-value of calibration."""
    cells = ClassCells.of(sums)
    return moments(cells, np.zeros_like(cells.share)).tail(float(np.abs(cells.gap).sum()))


def error_by_chance(sums: BinSums) -> float:
    """Return the plug-in error that perfectly calibrated rows would show on average."""
    cells = ClassCells.of(sums)
    return moments(cells, np.zeros_like(cells.share)).mean
