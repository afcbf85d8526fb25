"""The top class's confidence and hit of every row, for bins of equal mass: sums that merge.

Bins of equal mass have their edges at quantiles, so they need every confidence before the first edge is
known. Up to `EXACT` rows all are kept. Beyond, rows are counted in fine cells of 1 − c, c the confidence:
a cell spans a relative width of at most 2⁻¹⁰ of 1 − c, which is one part in a thousand of the rate of
misses, down to the smallest 1 − c that float64 knows. There are 54,274 of them, each for hits and for
misses, so memory is bounded whatever the number of rows. Cells merge by addition: counts exactly, and
the edges found from them do not depend on the order of the rows or on who merged what first.

What is lost: the edges of equal-mass bins move to the next border of a cell. The sums within a bin are
those of its rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from focalcal.engine import row_slices
from focalcal.sums.bins import Array, BinSums, bin_rows, edges_of_sorted, equal_mass_edges, tally

#: Rows up to which every confidence is kept.
EXACT = 1 << 22

#: Bits of the mantissa of 1 − c that tell a cell from the next, and the exponents from 2⁻⁵³ to 1.
_BITS, _SMALLEST = 10, -53

#: Cells: one for 1 − c = 0, those of 2⁻⁵³ ≤ 1 − c < 1, and one for 1 − c = 1.
N_CELLS = 2 + (-_SMALLEST << _BITS)

#: Number of the cell of 2⁻⁵³, counted by the leading bits of a float64.
_FIRST = (1023 + _SMALLEST) << _BITS


def find_cell(confidence: NDArray[Any]) -> NDArray[np.int64]:
    """Return the cell of each confidence, 0 for a confidence of 1."""
    missing = np.maximum(1 - confidence.astype(np.float64), 0)
    return np.asarray(np.maximum((missing.view(np.int64) >> (52 - _BITS)) - (_FIRST - 1), 0))


def cell_ends(cell: NDArray[np.int64]) -> Array:
    """Return the largest confidence that falls in each cell."""
    bits = np.asarray(cell + (_FIRST - 1), np.int64) << (52 - _BITS)
    return np.where(cell == 0, 1.0, 1 - bits.view(np.float64))


@dataclass(frozen=True, eq=False)
class Cells:
    """Sums over the rows of each cell, in the order of rising confidence; index 0 is misses, 1 is hits.

    Attributes
    ----------
    end : ndarray of shape (C,)
        The largest confidence that falls in the cell.
    count : ndarray of shape (2, C)
        Rows.
    weight, weight_squared : ndarray of shape (2, C)
        Sum of the weights w, and of w².
    confidence : ndarray of shape (2, C)
        Sum of w times the confidence.
    """

    end: Array
    count: Array
    weight: Array
    weight_squared: Array
    confidence: Array

    @property
    def mean_confidence(self) -> Array:
        """Weighted mean confidence of each cell, shape (C,); the end of a cell that weighs nothing."""
        weight = self.weight.sum(axis=0)
        return np.asarray(
            np.divide(self.confidence.sum(axis=0), weight, out=self.end.copy(), where=weight > 0)
        )

    @property
    def hits(self) -> Array:
        """Number of hits in each cell, shape (C,)."""
        return np.asarray(self.count[1])

    @property
    def misses(self) -> Array:
        """Number of misses in each cell, shape (C,)."""
        return np.asarray(self.count[0])

    def equal_mass(self, bins: int) -> BinSums:
        """Return the sums in bins of equal mass whose edges are borders of cells."""
        mass = np.cumsum(self.weight.sum(axis=0))
        # the tolerance forgives the rounding of the running sum
        targets = np.arange(1, bins) * mass[-1] / bins * (1 - 1e-12)
        last = np.searchsorted(mass, targets)
        heaviest = np.flatnonzero(self.weight.sum(axis=0) > 0)[-1]
        last = np.unique(last[last < heaviest])
        starts = np.concatenate([[0], last + 1])
        edges = np.concatenate([[0.0], self.end[last], [1.0]])

        def of_bins(values: Array) -> Array:
            return np.asarray(np.add.reduceat(values, starts))

        return BinSums(
            edges,
            of_bins(self.count.sum(axis=0)),
            of_bins(self.weight.sum(axis=0)),
            of_bins(self.weight_squared.sum(axis=0)),
            of_bins(self.confidence.sum(axis=0)),
            of_bins(self.weight[1]),
        )


@dataclass(frozen=True, eq=False)
class Confidences:
    """The confidences of rows; adding two merges their rows.

    Attributes
    ----------
    signed : tuple of ndarray
        The confidence of each row, negative where the top class is not the label.
    weight : tuple of ndarray
        The weights of the same rows; empty if all count alike.
    tallies : ndarray of shape (2 or 4, 2 * N_CELLS), optional
        What has become of more than `EXACT` rows: count and Σc of each cell, first of misses, then of hits;
        with weights count, Σw, Σw² and Σwc.
    effect : float
        The design effect of clusters, by which Σw² is multiplied; set once all rows are merged.
    """

    signed: tuple[NDArray[Any], ...]
    weight: tuple[NDArray[np.float64], ...] = ()
    tallies: Array | None = field(default=None)
    effect: float = 1.0

    @classmethod
    def of(cls, confidence: NDArray[Any], hit: NDArray[np.bool_], weight: NDArray[np.float64] | None) -> Self:
        """Keep the rows of a block."""
        signed = np.where(hit, confidence, -confidence)
        return cls((signed,), () if weight is None else (weight,))

    def __add__(self, other: Self) -> Self:
        signed, weight = self.signed + other.signed, self.weight + other.weight
        if self.tallies is None and other.tallies is None and sum(map(len, signed)) <= EXACT:
            return type(self)(_gathered(signed), _gathered(weight))
        return type(self)((), (), self._tallied() + other._tallied())

    def _tallied(self) -> Array:
        """Return the rows as sums of cells."""
        if self.tallies is not None:
            return self.tallies
        weights = self.weight or (None,) * len(self.signed)
        total = np.zeros((4 if self.weight else 2, 2 * N_CELLS))
        for signed, weight in zip(self.signed, weights, strict=True):
            for rows in row_slices(len(signed), 1):
                part = signed[rows]
                confidence = np.abs(part).astype(np.float64)
                place = find_cell(confidence) + N_CELLS * (part > 0)
                w = None if weight is None else weight[rows]
                values = (None, confidence) if w is None else (None, w, w**2, w * confidence)
                for sums, value in zip(total, values):
                    sums += tally(place, value, 2 * N_CELLS)
        return total

    def cells(self) -> Cells:
        """Return the sums of the occupied cells, whether or not every confidence was kept."""
        tallies = self._tallied().reshape(-1, 2, N_CELLS)
        full = np.flatnonzero(tallies[0].sum(axis=0))[::-1]
        count, *others = tallies[:, :, full]
        weight, squared, confidence = others if len(others) == 3 else (count, count, others[0])
        return Cells(cell_ends(full), count, weight, self.effect * squared, confidence)

    def equal_mass(self, bins: int) -> BinSums:
        """Return the sums in bins of equal mass."""
        found = self._equal_mass(bins)
        return replace(found, weight_squared=self.effect * found.weight_squared)

    def _equal_mass(self, bins: int) -> BinSums:
        if self.tallies is not None:
            return replace(self, effect=1.0).cells().equal_mass(bins)
        signed = np.concatenate(self.signed)  # a copy in any case
        if not self.weight:
            return _bins_by_sorting(signed, bins)
        weight = np.concatenate(self.weight)
        edges = equal_mass_edges(np.abs(signed), weight, bins)
        blocks = (
            bin_rows(np.abs(signed[rows]), signed[rows] > 0, weight[rows], edges)
            for rows in row_slices(len(signed), 1)
        )
        return reduce(lambda a, b: a + b, blocks)


def _bins_by_sorting(signed: NDArray[Any], bins: int) -> BinSums:
    """Return the sums of rows that count alike in bins of equal mass; `signed` is overwritten."""
    hits = signed[signed > 0]
    hits.sort()
    ordered = np.abs(signed, out=signed)
    ordered.sort()
    edges = edges_of_sorted(ordered, bins)
    inner = edges[1:-1].astype(ordered.dtype)  # exact: they are confidences
    starts = np.concatenate([[0], np.searchsorted(ordered, inner, side="right")])
    count = np.diff(starts, append=len(ordered)).astype(np.float64)
    hit = np.diff(np.searchsorted(hits, inner, side="right"), prepend=0, append=len(hits)).astype(np.float64)
    # no bin is empty: its upper edge is a confidence
    confidence = np.add.reduceat(ordered, starts, dtype=np.float64)
    return BinSums(edges, count, count, count, confidence, hit)


def _gathered(arrays: tuple[NDArray[Any], ...]) -> tuple[NDArray[Any], ...]:
    """Put small arrays together, so that many blocks do not become many arrays."""
    kept: list[NDArray[Any]] = []
    for array in arrays:
        kept.append(array)
        while len(kept) > 1 and len(kept[-2]) <= len(kept[-1]):
            last = kept.pop()
            kept[-1] = np.concatenate([kept[-1], last])
    return tuple(kept)
