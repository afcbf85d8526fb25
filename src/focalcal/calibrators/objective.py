"""A calibration set as a function of (log T, γ): loss, gradient and curvature, summed block by block."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import Input, to_logits
from focalcal.engine import map_sum, row_slices
from focalcal.kernels import reference
from focalcal.labels import encode
from focalcal.scores import Criterion, FitSums, sum_jet

#: Up to this many numbers the split rows are kept between passes (2 MB in float32).
_KEPT_ELEMENTS = 1 << 19

#: Rows that stay together when a part of the data is taken.
_CHUNK = 64


@dataclass(frozen=True)
class Survey:
    """What one pass tells before any fit: mergeable sums over rows with a positive weight."""

    misses: float  # rows whose label is not (among) the largest
    distance: float  # Σ w (largest logit - mean logit)
    slope: float  # Σ w (mean logit - label's logit): the NLL's slope in 1/T at T = ∞
    weight: float

    def __add__(self, other: Survey) -> Survey:
        return Survey(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Objective:
    """The mean loss of a calibration set and its derivatives at any (log T, γ)."""

    def __init__(
        self,
        scores: NDArray[Any],
        labels: NDArray[Any],
        classes: NDArray[Any],
        weight: NDArray[Any] | None,
        kind: Input,
        index: NDArray[np.intp] | None = None,
    ) -> None:
        self.scores, self.labels, self.classes, self.weight = scores, labels, classes, weight
        self.kind = kind
        self.index = index  # the rows that take part; None for all
        self.n = len(scores) if index is None else len(index)
        self.n_classes = len(classes)
        self._kept: dict[int, reference.Rows] | None = (
            {} if self.n * self.n_classes <= _KEPT_ELEMENTS else None
        )
        self._parts: dict[int, Objective] = {}
        # Freeing one large array makes the C library keep later temporaries instead of returning each to
        # the system, which would cost more than the arithmetic (measured: three times the whole pass).
        np.empty(31 << 20, np.uint8)

    def part(self, rows: int) -> Objective:
        """Return the objective on about this many rows, in chunks spread evenly over the data."""
        if 2 * rows > self.n:
            return self
        if rows not in self._parts:
            self._parts[rows] = self._part(rows)
        return self._parts[rows]

    def _part(self, rows: int) -> Objective:
        starts = np.linspace(0, self.n - _CHUNK, max(1, rows // _CHUNK)).astype(np.intp)
        index = (starts[:, None] + np.arange(_CHUNK)).ravel()
        if self.weight is not None and not self.weight[index].any():
            return self
        return Objective(self.scores, self.labels, self.classes, self.weight, self.kind, index)

    def rows(self, where: slice) -> reference.Rows:
        """Return a block of the data, split for the kernel."""
        if self._kept is not None and where.start in self._kept:
            return self._kept[where.start]
        taken = where if self.index is None else self.index[where]
        logits = to_logits(self.scores[taken], self.kind)
        weight = None if self.weight is None else self.weight[taken].astype(np.float64)
        rows = reference.split_rows(logits, encode(self.labels[taken], self.classes), weight)
        if np.isneginf(rows.label).any():
            row = int(np.arange(where.stop)[where][np.isneginf(rows.label)][0])
            raise ValueError(
                "Expected every label to be possible, got a label whose logit is -inf in row "
                f"{row if self.index is None else self.index[row]}: its loss is infinite at any temperature. "
                "Correct the label or the mask."
            )
        if self._kept is not None:
            self._kept[where.start] = rows
        return rows

    def unseen_classes(self) -> int:
        """Return how many classes no row of positive weight has."""
        seen = np.zeros(self.n_classes)
        for where in row_slices(self.n, 1):
            weight = None if self.weight is None else self.weight[where]
            seen += np.bincount(encode(self.labels[where], self.classes), weight, self.n_classes)
        return int((seen == 0).sum())

    def survey(self) -> Survey:
        """Return what a pass over the data shows before a fit."""
        return map_sum(self._survey_block, self.n, self.n_classes)

    def _survey_block(self, where: slice) -> Survey:
        rows = self.rows(where)
        weight = np.ones(len(rows.gap)) if rows.weight is None else rows.weight
        masked = np.isneginf(rows.rest)
        others = rows.total(np.where(masked, 0, rows.rest))
        mean = (others + rows.gap) / (rows.rest.shape[rows.axis] + 1 - masked.sum(axis=rows.axis))
        label = np.where(rows.hit, rows.gap, rows.label)
        return Survey(
            float(np.count_nonzero(~rows.hit & (weight > 0))),
            float(weight @ (rows.gap - mean)),
            float(weight @ (mean - label)),
            float(weight.sum()),
        )

    def sums(self, log_temperature: float, gamma: float | None, criterion: Criterion) -> FitSums:
        """Return the mean loss, gradient and Hessian; γ of None is plain temperature scaling."""

        def of_block(where: slice) -> FitSums:
            rows = self.rows(where)
            if criterion == "brier":
                jet = reference.brier_jet(rows, log_temperature, gamma or 0.0)
            elif gamma is None:
                jet = reference.temperature_jet(rows, log_temperature)
            else:
                jet = reference.nll_jet(rows, log_temperature, gamma)
            return sum_jet(jet, rows.weight)

        total = map_sum(of_block, self.n, self.n_classes)
        w = total.weight
        return replace(
            total,
            loss=total.loss / w,
            gradient=total.gradient / w,
            hessian=total.hessian / w,
            outer=total.outer / w**2,
        )
