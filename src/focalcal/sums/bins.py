"""Bins of confidence as sums that merge, and the one contract for where a confidence falls.

Bins are half open, (l, u]: a confidence on an edge belongs to the bin below it, 0 belongs to the first
bin and 1 to the last. The edges are rounded to the precision the confidences were stored in before
anything is compared, so that ``float32(0.2)``, which is 0.200000003, falls where 0.2 falls on paper.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: From shares of hits, the rows behind each and the level, to the ends of intervals.
Interval = Callable[[Any, Any, float], tuple[Array, Array]]


@dataclass(frozen=True, eq=False)
class BinSums:
    """Sums over the rows that fall in each bin; adding two merges their rows.

    Everything is float64, so a count is exact up to 9e15 rows. The last axis is the bin; class-wise sums
    have a leading axis for the class.

    Attributes
    ----------
    edges : ndarray of shape (B + 1,)
        Bin b is ``(edges[b], edges[b + 1]]``.
    count : ndarray of shape (..., B)
        Rows.
    weight, weight_squared : ndarray of shape (..., B)
        Sum of the weights w, and of w².
    confidence, hit : ndarray of shape (..., B)
        Sum of w times the confidence, and of w where the row was a hit.

    Examples
    --------
    >>> import numpy as np
    >>> sums = bin_rows(np.array([0.95, 1.0]), np.array([1.0, 1.0]), None, equal_width_edges(15))
    >>> round(float(sums.gap_sum), 12), int((sums + sums).count.sum())
    (0.025, 4)
    """

    edges: Array
    count: Array
    weight: Array
    weight_squared: Array
    confidence: Array
    hit: Array

    @classmethod
    def of(cls, edges: Array, sums: Array) -> Self:
        """Take count, confidence, hit, weight and weight² from one array; the last two only if weighted."""
        count, confidence, hit = sums[:3]
        weight, weight_squared = sums[3:] if len(sums) > 3 else (count, count)
        return cls(edges, count, weight, weight_squared, confidence, hit)

    def __add__(self, other: Self) -> Self:
        if self.edges is not other.edges and not np.array_equal(self.edges, other.edges):
            raise ValueError("Expected bin sums over the same edges, got different edges. Bin both alike.")
        names = [field.name for field in fields(self)[1:]]
        return replace(self, **{name: getattr(self, name) + getattr(other, name) for name in names})

    @property
    def mean_confidence(self) -> Array:
        """Weighted mean confidence of each bin; NaN in an empty bin."""
        return _ratio(self.confidence, self.weight)

    @property
    def hit_rate(self) -> Array:
        """Weighted share of hits of each bin; NaN in an empty bin."""
        return _ratio(self.hit, self.weight)

    @property
    def share(self) -> Array:
        """Share of the total weight that each bin holds (sums to 1 over the bins)."""
        share: Array = self.weight / self.weight.sum(axis=-1, keepdims=True)
        return share

    @property
    def effective_count(self) -> Array:
        """Rows of equal weight that would have the same variance, (Σw)²/Σw²; NaN in an empty bin."""
        return _ratio(self.weight**2, self.weight_squared)

    @property
    def gap(self) -> Array:
        """Σ w(confidence − hit) of each bin over the total weight: positive means over-confident."""
        gap: Array = (self.confidence - self.hit) / self.weight.sum(axis=-1, keepdims=True)
        return gap

    @property
    def gap_sum(self) -> Array:
        """The binned L1 calibration error, Σ_b |gap_b|, of each leading index."""
        return np.asarray(np.abs(self.gap).sum(axis=-1))

    def table(self, interval: Interval, level: float) -> list[dict[str, float]]:
        """Return the occupied bins as rows, each hit rate with its interval."""
        low, high = interval(self.hit_rate, self.effective_count, level)
        columns = {
            "lower": self.edges[:-1],
            "upper": self.edges[1:],
            "count": self.count,
            "share": self.share,
            "confidence": self.mean_confidence,
            "hit_rate": self.hit_rate,
            "low": low,
            "high": high,
        }
        full = np.flatnonzero(self.weight > 0).tolist()
        return [{name: float(column[b]) for name, column in columns.items()} for b in full]

    def to_dict(self) -> dict[str, list[Any]]:
        """Return the edges and the sums as plain lists."""
        return {field.name: getattr(self, field.name).tolist() for field in fields(self)}


def _ratio(top: Array, bottom: Array) -> Array:
    ratio: Array = np.divide(top, bottom, out=np.full(top.shape, np.nan), where=bottom > 0)
    return ratio


def equal_width_edges(bins: int, dtype: Any = np.float64) -> Array:
    """Return the edges 0, 1/bins, …, 1 rounded to `dtype` and held as float64, shape (bins + 1,)."""
    exact = np.arange(bins + 1) / bins
    return exact.astype(dtype).astype(np.float64)


def equal_mass_edges(confidence: NDArray[Any], weight: NDArray[Any] | None, bins: int) -> Array:
    """Return edges between which the weight is as equal as ties allow, shape (at most bins + 1,).

    The upper edge of bin j is the smallest confidence up to which at least j/bins of the weight lies.
    Equal confidences are never parted: where they span several bins, those bins become one.

    Examples
    --------
    >>> equal_mass_edges(np.array([0.5, 0.6, 0.6, 0.6, 0.7, 0.9]), None, 3)
    array([0. , 0.6, 1. ])
    """
    if weight is None:
        return edges_of_sorted(np.sort(confidence), bins)  # NumPy sorts faster than it selects fourteen
    order = np.argsort(confidence, kind="stable")
    mass = np.cumsum(weight[order], dtype=np.float64)
    # the tolerance forgives the rounding of the running sum
    targets = np.arange(1, bins) * mass[-1] / bins * (1 - 1e-12)
    upper = confidence[order[np.searchsorted(mass, targets)]]
    return _edges(upper, confidence[weight > 0].max())


def edges_of_sorted(confidence: NDArray[Any], bins: int) -> Array:
    """Return the edges of equal mass of rows that count alike, in rising order."""
    ranks = -(-np.arange(1, bins) * len(confidence) // bins) - 1  # ceil(j n / bins), counted from 0
    return _edges(confidence[ranks], confidence[-1])


def _edges(upper: NDArray[Any], largest: Any) -> Array:
    inner = np.unique(upper.astype(np.float64))
    return np.concatenate([[0.0], inner[(inner > 0) & (inner < largest)], [1.0]])


def find_bin(confidence: NDArray[Any], edges: Array) -> NDArray[np.intp]:
    """Return the bin of each confidence; below the first edge or above the last counts as in them."""
    return np.searchsorted(edges[1:-1], confidence, side="left")


def bin_rows(
    confidence: NDArray[Any], hit: NDArray[Any], weight: NDArray[Any] | None, edges: Array
) -> BinSums:
    """Sum rows into bins: one confidence and one hit (0 or 1) a row."""
    bins = len(edges) - 1
    place = find_bin(confidence, edges)
    count = tally(place, None, bins)
    if weight is None:
        return BinSums(edges, count, count, count, tally(place, confidence, bins), tally(place, hit, bins))
    w = weight.astype(np.float64, copy=False)
    values = (w, w**2, w * confidence, w * hit)
    return BinSums(edges, count, *(tally(place, value, bins) for value in values))


def tally(place: NDArray[np.intp], values: NDArray[Any] | None, size: int) -> Array:
    """Sum values by place, in float64; without values, count them."""
    sums: Array = np.bincount(place, values, size).astype(np.float64, copy=False)
    return sums


def bin_classes(
    probs: NDArray[Any], codes: NDArray[np.intp], weight: NDArray[Any] | None, edges: Array
) -> BinSums:
    """Sum the probability of every class into that class's bins; shape (K, B). Overwrites `probs`.

    Few probabilities of a row exceed the first edge (fewer than B of them can), so only those are
    placed one by one; the rest of each column is summed where it stands.
    """
    probs = np.ascontiguousarray(probs)
    n, n_classes = probs.shape
    bins = len(edges) - 1
    w = np.ones(n) if weight is None else weight.astype(np.float64, copy=False)
    label_cell = codes * bins + find_bin(probs[np.arange(n), codes], edges)
    large = probs > float(edges[1]) if bins > 1 else np.zeros(probs.shape, np.bool_)
    where = np.flatnonzero(large)
    row, column = np.divmod(where, n_classes)
    flat = probs.reshape(-1)
    values = flat[where]
    cell = column * bins + find_bin(values, edges)
    flat[where] = 0

    def by_cell(values: NDArray[Any] | None, cells: NDArray[np.intp] = cell) -> Array:
        return tally(cells, values, n_classes * bins).reshape(n_classes, bins)

    count, confidence = by_cell(None), by_cell(w[row] * values)
    count[:, 0] = n - count.sum(axis=1)
    confidence[:, 0] = w @ probs.astype(np.float64, copy=False)
    hit = by_cell(w, label_cell)
    if weight is None:
        return BinSums(edges, count, count, count, confidence, hit)
    total, squared = by_cell(w[row]), by_cell(w[row] ** 2)
    small = (~large).astype(np.float64)
    total[:, 0], squared[:, 0] = w @ small, w**2 @ small
    return BinSums(edges, count, total, squared, confidence, hit)


def bin_targets(
    probs: NDArray[Any], targets: NDArray[np.float64], weight: NDArray[Any] | None, edges: Array
) -> BinSums:
    """Sum the probability of every class into that class's bins; shape (K, B). Labels are distributions."""
    n_classes, bins = probs.shape[1], len(edges) - 1
    cell = find_bin(probs, edges) + bins * np.arange(n_classes)
    w = np.broadcast_to(1.0 if weight is None else weight[:, None], probs.shape)
    values = (None, w, w**2, w * probs, w * targets)
    columns = (None if value is None else np.ravel(value) for value in values)
    sums = (tally(cell.ravel(), column, n_classes * bins).reshape(n_classes, bins) for column in columns)
    return BinSums(edges, *sums)
