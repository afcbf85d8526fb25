"""What is said of single classes: who is surely off, by how much, and in which direction."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from focalcal.intervals.gap_intervals import gap_sum_intervals
from focalcal.reporting.svg import Array
from focalcal.sums.bins import BinSums
from focalcal.verdicts.evaluation import Evaluation


@dataclass(frozen=True, eq=False)
class ClassErrors:
    """The calibration error of every class in one evaluation; arrays of shape (K,)."""

    value: Array  # plug-in
    low: Array
    high: Array
    gap: Array  # mean probability minus frequency
    sums: BinSums  # (K, B)

    @classmethod
    def of(cls, sums: BinSums, level: float) -> ClassErrors:
        """Find the errors and their intervals."""
        return cls(sums.gap_sum, *gap_sum_intervals(sums, level), sums.gap.sum(axis=-1), sums)


@dataclass(frozen=True, eq=False)
class Classes:
    """The classes of some evaluations of the same rows.

    Attributes
    ----------
    names : list of str
    errors : dict of str to ClassErrors
        One for each evaluation that was summed class by class.
    rows : ndarray of shape (K,)
        Rows with the class as their label; with weights, their weight.
    order : ndarray of shape (K,)
        Classes by what is sure: by the lower end of the interval in the last evaluation.
    level : float
        Coverage of the intervals.
    """

    names: list[str]
    errors: dict[str, ClassErrors]
    rows: Array
    order: NDArray[np.intp]
    level: float

    @property
    def last(self) -> ClassErrors:
        """The errors in the last evaluation."""
        return list(self.errors.values())[-1]


def class_errors(evaluations: Mapping[str, Evaluation], names: Sequence[str]) -> Classes | None:
    """Return the classes' errors, or None if none of the evaluations was summed class by class."""
    summed = {name: e.classwise for name, e in evaluations.items() if e.classwise is not None}
    if not summed:
        return None
    level = next(iter(evaluations.values()))["ece"].level
    errors = {name: ClassErrors.of(sums, level) for name, sums in summed.items()}
    last = list(errors.values())[-1]
    order = np.lexsort((-last.value, -last.low))
    return Classes(list(names), errors, last.sums.hit.sum(axis=-1), order, level)


def one_class(sums: BinSums, k: int) -> BinSums:
    """Return the bins of one class, shape (B,)."""
    columns = {f.name: getattr(sums, f.name) for f in fields(sums)}
    return BinSums(columns.pop("edges"), **{name: column[k] for name, column in columns.items()})
