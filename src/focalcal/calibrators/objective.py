"""A calibration set as a function of (log T, γ): loss, gradient and curvature, summed over its rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Any

import numpy as np

from focalcal._validate import Input, to_logits
from focalcal.kernels import compiled, reference
from focalcal.rows import Block, CheckValues, Rows, in_blocks
from focalcal.scores import Criterion, FitSums, sum_jet


@dataclass(frozen=True)
class Survey:
    """What one pass tells before any fit: mergeable sums over rows with a positive weight."""

    misses: float  # rows whose label is not (among) the largest
    distance: float  # Σ w (largest logit - mean logit)
    slope: float  # Σ w (mean logit - label's logit): the NLL's slope in 1/T at T = ∞
    weight: float

    def __add__(self, other: Survey) -> Survey:
        return Survey(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class SumLosses:
    """The sums of a fit over a block of rows, at given (log T, γ); γ of None is plain temperature scaling."""

    kind: Input
    criterion: Criterion
    log_temperature: float
    gamma: float | None

    @property
    def threads(self) -> bool:
        """Whether it releases the interpreter lock."""
        return self.criterion == "nll" and compiled() is not None

    def __call__(self, block: Block) -> FitSums:
        """Return the sums over a block of any size; not finite if its scores or labels cannot be right."""
        loops = compiled() if self.criterion == "nll" else None
        if loops is None:
            return in_blocks(self._reference, block)
        if block.scores.dtype == np.float16:
            return in_blocks(lambda part: self._compiled(loops, widened(part)), block)
        return self._compiled(loops, block)

    def _compiled(self, loops: Any, block: Block) -> FitSums:
        out = np.empty(11)
        gamma = np.nan if self.gamma is None else self.gamma
        loops.fit_sums(
            block.scores, block.codes, block.weight, self.kind == "probs", self.log_temperature, gamma, out
        )
        return FitSums.of(out.tolist())

    def _reference(self, block: Block) -> FitSums:
        with np.errstate(all="ignore"):  # `Objective.sums` explains what is not finite
            rows = split(block, self.kind)
            if self.criterion == "brier":
                jet = reference.brier_jet(rows, self.log_temperature, self.gamma or 0.0)
            elif self.gamma is None:
                jet = reference.temperature_jet(rows, self.log_temperature)
            else:
                jet = reference.nll_jet(rows, self.log_temperature, self.gamma)
            return sum_jet(jet, rows.weight)


@dataclass(frozen=True)
class SurveyRows:
    """The survey of a block of rows."""

    kind: Input

    @property
    def threads(self) -> bool:
        """Whether it releases the interpreter lock."""
        return compiled() is not None

    def __call__(self, block: Block) -> Survey:
        """Return the sums over a block of any size."""
        loops = compiled()
        if loops is None:
            return in_blocks(self._survey, block)
        if block.scores.dtype == np.float16:
            return in_blocks(lambda part: self._compiled(loops, widened(part)), block)
        return self._compiled(loops, block)

    def _compiled(self, loops: Any, block: Block) -> Survey:
        out = np.empty(4)
        loops.survey(block.scores, block.codes, block.weight, self.kind == "probs", out)
        return Survey(*out.tolist())

    def _survey(self, block: Block) -> Survey:
        with np.errstate(all="ignore"):
            rows = split(block, self.kind)
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


@dataclass(frozen=True)
class CheckLabels:
    """Raise an error at the first label whose logit is −inf: its loss is infinite at any temperature."""

    threads: bool = False

    def __call__(self, block: Block) -> int:
        """Check a block; return its number of rows."""
        if block.scores.ndim == 2:
            wrong = np.isneginf(block.scores[np.arange(len(block)), block.codes])
        else:
            wrong = np.isneginf(block.scores) & (block.codes == 1)
        if wrong.any():
            raise ValueError(
                "Expected every label to be possible, got a label whose logit is -inf in row "
                f"{block.first + int(wrong.argmax())}: its loss is infinite at any temperature. "
                "Correct the label or the mask."
            )
        return len(block)


def widened(block: Block) -> Block:
    """Return a block of float16 in float32."""
    return replace(block, scores=block.scores.astype(np.float32))


def split(block: Block, kind: Input) -> reference.Rows:
    """Split a small block for the NumPy kernel."""
    return reference.split_rows(to_logits(block.scores, kind), block.codes, block.weight)


class Objective:
    """The mean loss of a calibration set and its derivatives at any (log T, γ)."""

    def __init__(self, rows: Rows, whole: Objective | None = None) -> None:
        self.rows = rows
        self.whole = self if whole is None else whole
        self.n, self.n_classes = rows.n, rows.n_classes
        self._parts: dict[int, Objective] = {}
        # Freeing one large array makes the C library keep later temporaries instead of returning each to
        # the system, which would cost more than NumPy's arithmetic (measured: three times the whole pass).
        np.empty(31 << 20, np.uint8)

    def part(self, rows: int) -> Objective:
        """Return the objective on about this many rows, in chunks spread evenly over the data."""
        if rows not in self._parts:
            sample = self.rows.sample(rows)
            self._parts[rows] = self if sample is None else Objective(sample, self.whole)
        return self._parts[rows]

    def check(self) -> None:
        """Check every value, or raise the error that names the first wrong one."""
        self.rows.map_sum(CheckValues(self.rows.kind, "X"))

    def unseen_classes(self) -> int:
        """Return how many classes no row of positive weight has."""
        return int((self.rows.class_weight() == 0).sum())

    @cached_property
    def survey(self) -> Survey:
        """What a pass over the data shows before a fit."""
        survey = self.rows.map_sum(SurveyRows(self.rows.kind))
        if not (math.isfinite(survey.distance) and math.isfinite(survey.slope)):
            self.whole.explain()
        return survey

    def sums(self, log_temperature: float, gamma: float | None, criterion: Criterion) -> FitSums:
        """Return the mean loss, gradient and Hessian; γ of None is plain temperature scaling."""
        total = self.rows.map_sum(SumLosses(self.rows.kind, criterion, log_temperature, gamma))
        if not all(map(math.isfinite, (total.loss, *total.gradient))):
            self.whole.explain()
        return total.mean()

    def explain(self) -> None:
        """Raise the error behind sums that are not finite."""
        self.check()
        self.rows.map_sum(CheckLabels())
