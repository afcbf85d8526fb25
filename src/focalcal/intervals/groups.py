"""Groups of events with nearly equal probability: what is observed, and what gaps are possible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from focalcal.intervals.inversion import Line
from focalcal.sums.bins import Array
from focalcal.sums.confidences import Cells


@dataclass(frozen=True)
class Groups:
    """Groups of rows, each of nearly one confidence. All arrays have shape (G,)."""

    share: Array  # of the total weight
    confidence: Array  # mean
    rate: Array  # of hits
    rows: Array  # effective

    @property
    def gap(self) -> Array:
        """The observed gap of each group, times its share."""
        return self.share * (self.confidence - self.rate)

    def possible(self, gap: Array) -> Array:
        """Keep the hit rates that gaps (times shares) imply within [0, 1]."""
        return np.clip(gap, self.share * (self.confidence - 1), self.share * self.confidence)

    def rates(self, gap: Array) -> Array:
        """Return the hit rates that gaps (times shares) imply."""
        return np.asarray((self.confidence - gap / self.share).clip(0, 1))

    def shrinking(self) -> Line:
        """Return the line of gaps shrunk by a common multiple of their variance."""
        gap = self.gap
        # one more row that behaves as announced, so that a group without misses keeps a variance
        rate = (self.rows * self.rate + self.confidence) / (self.rows + 1)
        variance = self.share**2 * np.maximum(rate * (1 - rate), 1e-12) / self.rows
        unit = float((np.abs(gap) / variance).max()) or float((self.share / variance).min())
        unit *= 1 + 1e-12  # so that rounding leaves no gap at the end of the line
        sign = np.where(gap < 0, -1.0, 1.0)
        return lambda at: self.possible(sign * np.maximum(np.abs(gap) - at * unit * variance, 0))

    def scaling(self, gap: Array) -> Line:
        """Return the line of multiples of given gaps (times shares)."""
        if not gap.any():
            gap = 1e-3 * self.share  # any direction will do
        return lambda at: self.possible(gap * (1 - at))

    def roomy(self) -> Line:
        """Return the line of equally likely gaps towards the side where there is room for them.

        Sure rows that all hit show no gap; but their misses may just not have happened yet.
        """
        spread = np.sqrt(np.maximum(self.confidence * (1 - self.confidence), 1e-4) / self.rows)
        gap = np.where(self.confidence < 0.5, -1.0, 1.0) * self.share * spread
        return lambda at: self.possible(gap * (1 - at))

    def uniform(self) -> Line:
        """Return the line of one gap for all groups, of the sign and size of the mean gap."""
        total = float(self.gap.sum())
        return self.scaling(self.share * (total or 1e-3))


def of_cells(cells: Cells, most: int) -> Groups:
    """Put neighbouring cells together until at most about `most` groups of equal weight are left."""
    weight, hits = cells.weight.sum(axis=0), cells.weight[1]
    squared, confidence = cells.weight_squared.sum(axis=0), cells.confidence.sum(axis=0)
    full = weight > 0
    columns = [column[full] for column in (weight, hits, squared, confidence)]
    if len(columns[0]) > most:
        mass = np.cumsum(columns[0])
        place = np.minimum((mass - columns[0] / 2) / mass[-1] * most, most - 1).astype(np.int64)
        starts = np.flatnonzero(np.diff(place, prepend=-1))
        columns = [np.add.reduceat(column, starts) for column in columns]
    weight, hits, squared, confidence = columns
    return Groups(
        weight / weight.sum(),
        (confidence / weight).clip(0, 1),
        (hits / weight).clip(0, 1),
        weight**2 / squared,
    )
