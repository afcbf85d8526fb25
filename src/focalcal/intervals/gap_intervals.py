"""The interval of `focalcal.intervals.gap_interval` for many binned errors at once, e.g. that of every class.

One class takes six milliseconds by itself; a thousand of them, before and after, would take twelve seconds.
Here all are solved together: cells of all classes lie in one array, sums over a class are tallies, and the
crossings are found by bisection, side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf, ndtri

from focalcal._settings import check_level
from focalcal.intervals.gap_interval import absolute_deviation
from focalcal.sums.bins import Array, BinSums, tally

#: Halvings of the bracket of a crossing, and the width below which there are no more.
_HALVINGS, _TOLERANCE = 60, 1e-5

#: Where to look for the far side of a crossing: just short of the observed gaps, and far beyond them.
_INWARD = (0.0, *(10.0**power for power in range(-8, 0)))
_OUTWARD = (0.0, *(-0.5 * 4.0**power for power in range(16)))


@dataclass(frozen=True)
class _Cells:
    """The occupied bins of several classes, each class judged by itself."""

    owner: NDArray[np.intp]  # (C,) which class
    share: Array  # (C,) of its class's weight
    confidence: Array  # (C,)
    rate: Array  # (C,) hits
    rows: Array  # (C,) effective, whole
    classes: int

    @classmethod
    def of(cls, sums: BinSums) -> _Cells:
        full = sums.weight > 0
        columns = (sums.share, sums.mean_confidence, sums.hit_rate, sums.effective_count)
        share, confidence, rate, rows = (column[full] for column in columns)
        rows = np.maximum(np.rint(rows), 1)
        owner = np.nonzero(full)[0]
        return cls(owner, share, confidence.clip(0, 1), rate.clip(0, 1), rows, len(full))

    def total(self, values: Array) -> Array:
        """Return the sum over each class's cells."""
        return tally(self.owner, values, self.classes)

    def largest(self, values: Array) -> Array:
        """Return the largest value, which is positive, among each class's cells."""
        found = np.zeros(self.classes)
        np.maximum.at(found, self.owner, values)
        return found

    def part(self, chosen: NDArray[np.bool_]) -> _Cells:
        """Keep some classes and number them anew."""
        keep = chosen[self.owner]
        number = np.cumsum(chosen) - 1
        fields = ("share", "confidence", "rate", "rows")
        cells = {name: getattr(self, name)[keep] for name in fields}
        return replace(self, owner=number[self.owner[keep]], classes=int(chosen.sum()), **cells)

    @property
    def gap(self) -> Array:
        return self.share * (self.confidence - self.rate)

    def shrunk(self, at: Array) -> Array:
        """Return the gaps at a position of each class's line; see `groups.Groups.shrinking`."""
        gap = self.gap
        rate = (self.rows * self.rate + self.confidence) / (self.rows + 1)
        variance = self.share**2 * np.maximum(rate * (1 - rate), 1e-12) / self.rows
        unit = self.largest(np.abs(gap) / variance)
        unit = np.where(unit > 0, unit, 1 / self.largest(variance / self.share))
        moved = np.abs(gap) - (at * unit * (1 + 1e-12))[self.owner] * variance
        shrunk = np.where(gap < 0, -1.0, 1.0) * np.maximum(moved, 0)
        return np.asarray(np.clip(shrunk, self.share * (self.confidence - 1), self.share * self.confidence))

    def roomy(self, at: Array) -> Array:
        """Return the gaps at a position of each class's line; see `groups.Groups.roomy`."""
        spread = np.sqrt(np.maximum(self.confidence * (1 - self.confidence), 1e-4) / self.rows)
        moved = np.where(self.confidence < 0.5, -1.0, 1.0) * self.share * spread * (1 - at)[self.owner]
        return np.asarray(np.clip(moved, self.share * (self.confidence - 1), self.share * self.confidence))


#: From positions of the classes on a line to the gaps of their cells.
_Line = Callable[[_Cells, Array], Array]


@dataclass(frozen=True)
class _Moments:
    """The distribution of each class's plug-in error under given true gaps."""

    error: Array
    mean: Array
    sd: Array
    skewness: Array

    def quantile(self, probability: Array) -> Array:
        z = ndtri(probability)
        return np.asarray(self.mean + self.sd * (z + (z * z - 1) * self.skewness / 6))


def _moments(cells: _Cells, gap: Array) -> _Moments:
    """Return what `gap_interval.moments` returns, for each class."""
    size = np.abs(gap)
    error = cells.total(size)
    rate = (cells.confidence - gap / cells.share).clip(0, 1)
    mean, square = absolute_deviation(cells.rows, rate, cells.confidence)
    variance = cells.share**2 * rate * (1 - rate) / cells.rows
    sd = np.sqrt(variance) + 1e-300
    r = np.minimum(size / sd, 8)
    sure = erf(r / np.sqrt(2))
    drift = cells.share**2 / cells.rows * (size / cells.share - error[cells.owner]) ** 2
    own = cells.share**2 * np.maximum(square - mean**2, 0)
    bell = np.sqrt(2 / np.pi) * np.exp(-(r**2) / 2)
    first, third = bell + r * sure, (r**3 + 3 * r) * sure + bell * (r**2 + 2)
    cumulant = cells.total((third - 3 * first * (1 + r**2) + 2 * first**3) * sd**3)
    spread = np.maximum(np.sqrt(cells.total(own + drift)), 1e-100)
    with np.errstate(over="ignore", invalid="ignore"):
        skewness = np.where(spread > 1e-100, np.minimum(cumulant / spread**3, 1.0), 0.0)
    return _Moments(error, cells.total(cells.share * mean), spread, skewness)


def gap_sum_intervals(sums: BinSums, level: float = 0.95) -> tuple[Array, Array]:
    """Return the interval of each class's binned L1 calibration error.

    Parameters
    ----------
    sums : BinSums
        Sums of shape (K, B); every class is judged by itself.
    level : float
        Coverage of each interval.

    Returns
    -------
    low, high : ndarray of shape (K,)
        As `focalcal.intervals.resample.estimate_gap_sum` finds them one by one.

    Examples
    --------
    >>> import numpy as np
    >>> counts, hits = np.array([[50.0, 50.0]]), np.array([[12.0, 45.0]])
    >>> sums = BinSums(np.array([0, 0.5, 1]), counts, counts, counts, counts * [0.25, 0.75], hits)
    >>> low, high = gap_sum_intervals(sums)
    >>> round(float(low[0]), 3), round(float(high[0]), 3)
    (0.0, 0.175)
    """
    level = check_level(level)
    cells = _Cells.of(sums)
    observed = cells.total(np.abs(cells.gap))
    low = _solve(cells, _Cells.shrunk, observed, level, upper=False)
    highs = [_solve(cells, line, observed, level, upper=True) for line in (_Cells.shrunk, _Cells.roomy)]
    return low, np.maximum(*highs)


def _excess(cells: _Cells, line: _Line, at: Array, observed: Array, level: float, upper: bool) -> Array:
    """Return by how much the quantile under the gaps at a position exceeds the observed error."""
    m = _moments(cells, line(cells, at))
    below = (1 - level) / 2 * np.minimum(1.0, m.error / (2 * m.sd))
    found = m.quantile(np.maximum(below, 1e-3) if upper else level + below) - observed
    # an error that no gap would also have shown refutes no larger one
    return np.asarray(found - 1e-12 if upper else found)


def _solve(cells: _Cells, line: _Line, observed: Array, level: float, *, upper: bool) -> Array:
    """Return the error at which the observed one is the quantile; 0 where it is below that of no gap."""
    search = _OUTWARD if upper else _INWARD
    near, far = np.ones(cells.classes), np.full(cells.classes, search[-1 if upper else 0])
    open_ = _excess(cells, line, near, observed, level, upper) < 0
    sought = open_.copy()
    for position in search:
        if not sought.any():
            break
        at = np.full(int(sought.sum()), position)
        above = _excess(cells.part(sought), line, at, observed[sought], level, upper) > 1e-14
        found = np.flatnonzero(sought)[above]
        far[found], sought[found] = position, False
    near[sought] = far[sought]  # nowhere above: the end of the line
    for _ in range(_HALVINGS):
        wide = open_ & (near - far > _TOLERANCE)
        if not wide.any():
            break
        middle = (near[wide] + far[wide]) / 2
        above = _excess(cells.part(wide), line, middle, observed[wide], level, upper) > 0
        index = np.flatnonzero(wide)
        far[index[above]], near[index[~above]] = middle[above], middle[~above]
    error: Array = cells.total(np.abs(line(cells, (near + far) / 2)))
    return np.where(open_, error, 0.0)
