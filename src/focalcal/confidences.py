"""The top class's confidence and hit of every row, for bins of equal mass: sums that merge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from focalcal.bins import BinSums, bin_rows, equal_mass_edges
from focalcal.engine import row_slices


@dataclass(frozen=True, eq=False)
class Confidences:
    """One confidence a row; adding two puts the rows of the second after those of the first.

    Attributes
    ----------
    signed : tuple of ndarray
        The confidence of each row, negative where the top class is not the label.
    weight : tuple of ndarray
        The weights of the same rows; empty if all count alike.
    """

    signed: tuple[NDArray[Any], ...]
    weight: tuple[NDArray[np.float64], ...] = ()

    @classmethod
    def of(cls, confidence: NDArray[Any], hit: NDArray[np.bool_], weight: NDArray[np.float64] | None) -> Self:
        """Keep the rows of a block."""
        signed = np.where(hit, confidence, -confidence)
        return cls((signed,), () if weight is None else (weight,))

    def __add__(self, other: Self) -> Self:
        return type(self)(self.signed + other.signed, self.weight + other.weight)

    def equal_mass(self, bins: int) -> BinSums:
        """Return the sums in bins of equal mass."""
        signed = np.concatenate(self.signed)
        weight = np.concatenate(self.weight) if self.weight else None
        edges = equal_mass_edges(np.abs(signed), weight, bins)
        total = None
        for rows in row_slices(len(signed), 1):
            part = signed[rows]
            sums = bin_rows(np.abs(part), part > 0, None if weight is None else weight[rows], edges)
            total = sums if total is None else total + sums
        assert total is not None
        return total
