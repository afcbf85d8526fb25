"""Groups of rows judged on their own: which are miscalibrated, allowing for how many are looked at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_segments
from focalcal._validate import as_array, check_lengths
from focalcal.intervals.gap_interval import chance
from focalcal.io.files import natural_key
from focalcal.rows import ArrayRows, Rows
from focalcal.sums.judging import Pass, judge_rows
from focalcal.verdicts.evaluation import Evaluation, evaluation_of


@dataclass(frozen=True)
class Segment:
    """The rows with one value of a column; the value is None where there is none.

    Attributes
    ----------
    value : str or None
        What the rows have in common.
    evaluations : dict of str to Evaluation
        NLL, Brier score, accuracy and ECE, of each set of predictions.
    p_value : float
        How often calibrated rows would show an ECE as large, in the last evaluation.
    adjusted_p_value : float
        The same, allowing for the number of segments (Holm's method).
    """

    value: str | None
    evaluations: dict[str, Evaluation]
    p_value: float | None = None
    adjusted_p_value: float | None = None

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.last.n

    @property
    def last(self) -> Evaluation:
        """The last evaluation: after calibration, where there is one."""
        return list(self.evaluations.values())[-1]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: the segment, n, the p-values, and the metrics of each evaluation."""
        metrics = {name: e.to_dict()["metrics"] for name, e in self.evaluations.items()}
        p = {"p_value": self.p_value, "adjusted_p_value": self.adjusted_p_value}
        return {"segment": self.value, "n": self.n, **p, **metrics}


def judged_segments(segments: Sequence[Segment]) -> list[Segment]:
    """Return segments with their p-values, those with the surest error first.

    Order is by the lower end of the ECE's interval in the last evaluation: a small segment's ECE is large by
    chance alone.
    """
    p = np.array([chance(one.last.bins) for one in segments])
    tested = [
        replace(one, p_value=float(own), adjusted_p_value=float(adjusted))
        for one, own, adjusted in zip(segments, p, holm(p), strict=True)
    ]

    def by_error(one: Segment) -> Any:
        ece = one.last["ece"]
        return -ece.low, -ece.value, one.value is None, natural_key(one.value or "")

    return sorted(tested, key=by_error)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return p-values adjusted so that all of them together err with the stated probability.

    References
    ----------
    Holm 1979, A simple sequentially rejective multiple test procedure.

    Examples
    --------
    >>> holm(np.array([0.01, 0.04, 0.03])).tolist()
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(steps)
    adjusted[order] = np.minimum(steps, 1)
    return adjusted


def segments_of(rows: Rows, by: Any, bins: int, level: float) -> tuple[Segment, ...]:
    """Judge each group of rows in memory."""
    held = rows.in_memory()
    values = as_array(by, "by")
    check_lengths(rows.n, values, "by")
    names, codes = np.unique(values.astype(np.str_), return_inverse=True)
    check_segments(tuple(names.tolist()))
    order, found = np.argsort(codes, kind="stable"), []
    for name, index in zip(names.tolist(), np.split(order, np.cumsum(np.bincount(codes))[:-1]), strict=True):
        part = ArrayRows(
            held.scores[index],
            held.codes[index],
            None if held.weight is None else held.weight[index],
            held.kind,
            cluster=None if held.cluster is None else held.cluster[index],
        )
        if part.weight is not None and not part.weight.any():
            continue
        sums = judge_rows(part, Pass(rows.kind, bins))
        found.append(Segment(name, {"all": evaluation_of(sums, rows.n_classes, level)}))
    return tuple(judged_segments(found))
