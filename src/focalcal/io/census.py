"""What one look at the labels and weights of a table tells, before any score is read: sums that merge."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import check_weights
from focalcal.io.scan import Scan
from focalcal.io.selection import missing_values


@dataclass(frozen=True, eq=False)
class Census:
    """Rows and weight of each label; adding two puts the parts of the second after those of the first.

    Attributes
    ----------
    rows : tuple of int
        Rows of each part.
    labels : dict
        Rows and weight of each label, as it is stored.
    low, high : float
        Least and largest weight; NaN counts as the largest number.
    unweighted : int
        Rows whose weight is missing.
    """

    rows: tuple[int, ...]
    labels: dict[Any, tuple[int, float]]
    low: float = math.inf
    high: float = -math.inf
    unweighted: int = 0

    def __add__(self, other: Self) -> Self:
        labels = dict(self.labels)
        for label, (rows, weight) in other.labels.items():
            before = labels.get(label, (0, 0.0))
            labels[label] = (before[0] + rows, before[1] + weight)
        return type(self)(
            self.rows + other.rows,
            labels,
            min(self.low, other.low),
            other.high if math.isnan(other.high) else max(self.high, other.high),
            self.unweighted + other.unweighted,
        )

    @property
    def n(self) -> int:
        """Number of rows."""
        return sum(self.rows)

    def check(self, scan: Scan) -> None:
        """Check that no label or weight is missing, and that weights can be right."""
        if scan.label is not None and None in self.labels:
            raise missing_values(scan.label[0], self.labels[None][0])
        if scan.weight is not None:
            if self.unweighted:
                raise missing_values(scan.weight, self.unweighted)
            check_weights(np.array([self.low, self.high]), 2)

    def values(self) -> NDArray[Any]:
        """Return the different labels, sorted, as an array of the kind that reading them all gives."""
        values = sorted(self.labels)
        return np.array(values, dtype=object if isinstance(values[0], str) else None)


def take_census(scan: Scan) -> Census:
    """Count the labels of a table or of a part of it; without a label, only its rows."""
    table = scan.open()
    if scan.label is None:
        return Census((table.count(scan.where),), {})
    found = table.tally(scan.label, scan.weight, scan.where)
    if scan.weight is None:
        return Census((sum(row[1] for row in found),), {row[0]: (row[1], float(row[1])) for row in found})
    return Census(
        (sum(row[1] for row in found),),
        {row[0]: (row[1], row[2] or 0.0) for row in found},
        min((row[3] for row in found if row[3] is not None), default=math.inf),
        max((row[4] for row in found if row[4] is not None), default=-math.inf),
        sum(row[1] - row[5] for row in found),
    )
