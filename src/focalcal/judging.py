"""One pass over rows of scores and labels: everything the metrics need, as sums that merge."""

from __future__ import annotations

import warnings
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import (
    PROBABILITY_FLOOR,
    CalibrationWarning,
    Input,
    as_scores,
    check_block,
    check_input,
    check_weights,
    class_count,
    to_logits,
    warn_of_probabilities,
)
from focalcal.bins import BinSums, bin_classes, bin_rows, equal_mass_edges, equal_width_edges
from focalcal.engine import map_sum
from focalcal.labels import as_labels, encode, find_classes
from focalcal.moments import MeanSums, sum_rows


@dataclass(frozen=True, eq=False)
class Judged:
    """The sums of one pass; adding two merges their rows.

    Attributes
    ----------
    nll, brier, accuracy : MeanSums
        Sums of the scores that are means over rows.
    top : BinSums
        The top class's confidence and hits, in equal-width bins.
    classwise : BinSums or None
        Every class's probability and hits in equal-width bins, shape (K, B), where asked for.
    signed : tuple of ndarray
        The top class's confidence of each row, negative where it missed, in the order of the rows, where
        asked for: what equal-mass bins need.
    floored, impossible : int
        Labels given a probability below the floor, and labels with a logit of −inf.
    """

    nll: MeanSums
    brier: MeanSums
    accuracy: MeanSums
    top: BinSums
    classwise: BinSums | None
    signed: tuple[NDArray[Any], ...]
    floored: int
    impossible: int

    def __add__(self, other: Self) -> Self:
        both = self.classwise is not None and other.classwise is not None
        return type(self)(
            self.nll + other.nll,
            self.brier + other.brier,
            self.accuracy + other.accuracy,
            self.top + other.top,
            self.classwise + other.classwise if both else None,  # type: ignore[operator]
            self.signed + other.signed,
            self.floored + other.floored,
            self.impossible + other.impossible,
        )

    def equal_mass(self, weight: NDArray[Any] | None, bins: int) -> BinSums:
        """Return the top class's sums in equal-mass bins."""
        signed = np.concatenate(self.signed)
        edges = equal_mass_edges(np.abs(signed), weight, bins)

        def block(rows: slice) -> BinSums:
            part = signed[rows]
            return bin_rows(np.abs(part), part > 0, None if weight is None else weight[rows], edges)

        return map_sum(block, len(signed), 1)


@dataclass(frozen=True)
class Pass:
    """What to sum over a block of rows; a plain object, so that it can travel to another process."""

    scores: NDArray[Any]  # (n, K) or (n,)
    codes: NDArray[np.intp]  # (n,)
    weight: NDArray[Any] | None  # (n,)
    kind: Input
    bins: int
    with_classes: bool
    with_confidence: bool

    def __call__(self, rows: slice) -> Judged:
        """Return the sums over some rows."""
        block, y = self.scores[rows], self.codes[rows]
        check_block(block, self.kind, "y_prob", rows.start)
        w = None if self.weight is None else self.weight[rows]
        scored = score_probs(block, y) if self.kind == "probs" else score_logits(block, y)
        edges = equal_width_edges(self.bins, self.scores.dtype)
        counts = np.ones(len(y), np.bool_) if w is None else w > 0
        signed = np.where(scored.hit, scored.confidence, -scored.confidence)
        return Judged(
            nll=sum_rows(scored.nll, w),
            brier=sum_rows(scored.brier, w),
            accuracy=sum_rows(scored.hit, w),
            top=bin_rows(scored.confidence, scored.hit, w, edges),
            classwise=bin_classes(scored.probs, y, w, edges) if self.with_classes else None,
            signed=(signed,) if self.with_confidence else (),
            floored=int((scored.floored & counts).sum()),
            impossible=int((np.isinf(scored.nll) & counts).sum()),
        )


@dataclass(frozen=True)
class Scored:
    """The scores of each row of a block."""

    probs: NDArray[Any]  # (b, K), may be written to
    confidence: NDArray[Any]  # (b,)
    hit: NDArray[np.bool_]  # (b,)
    nll: NDArray[Any]  # (b,), nats
    brier: NDArray[Any]  # (b,)
    floored: NDArray[np.bool_]  # (b,)


def score_logits(block: NDArray[Any], y: NDArray[np.intp]) -> Scored:
    """Score rows of logits in the log domain.

    The largest logit stays out of the sum S = Σ exp(z_j − z_max), so that −log p = log1p(S) of a confident
    hit, and 1 − p = S/(1 + S), keep all their digits.
    """
    z = to_logits(block, "logits")
    at = np.arange(len(z))
    top = z.argmax(axis=1)
    p = z - z[at, top][:, None]
    relative = p[at, y]
    np.exp(p, out=p)
    p[at, top] = 0
    others = p.sum(axis=1)
    total = 1 + others
    p /= total[:, None]
    confidence = 1 / total
    p[at, top] = confidence
    hit = top == y
    missing = np.where(hit, others / total, 1 - p[at, y])
    nll = np.log1p(others) - relative
    return Scored(p, confidence, hit, nll, _brier(p, y, missing), np.zeros(len(z), np.bool_))


def score_probs(block: NDArray[Any], y: NDArray[np.intp]) -> Scored:
    """Score rows of probabilities as they are, without normalising them."""
    if block.ndim == 1:
        wide = np.clip(block.astype(np.float64), 0, 1)
        p = np.stack([1 - wide, wide], axis=1)  # exact in float64 for every float32
    else:
        p = np.minimum(block, 1, dtype=np.float64 if block.dtype == np.float64 else np.float32)
    at = np.arange(len(p))
    top = p.argmax(axis=1)
    chance = p[at, y]
    confidence = p[at, top].astype(block.dtype)
    floored = chance < PROBABILITY_FLOOR
    nll = -np.log(np.maximum(chance, chance.dtype.type(PROBABILITY_FLOOR)))
    return Scored(p, confidence, top == y, nll, _brier(p, y, 1 - chance), floored)


def _brier(p: NDArray[Any], y: NDArray[np.intp], missing: NDArray[Any]) -> NDArray[Any]:
    at = np.arange(len(p))
    kept = p[at, y]
    p[at, y] = 0  # so that no 1 − p is squared after rounding
    others = np.einsum("ij,ij->i", p, p)
    p[at, y] = kept
    return np.asarray(others + missing**2)


def judge(
    y_true: Any,
    y_prob: Any,
    sample_weight: Any,
    kind: str,
    classes: Any,
    *,
    bins: int = 1,
    with_classes: bool = False,
    with_confidence: bool = False,
    executor: Executor | None = None,
) -> tuple[Judged, Pass]:
    """Check the input and sum over its rows in one pass."""
    declared = check_input(kind)
    scores = as_scores(y_prob, "y_prob")
    n, n_classes = len(scores), class_count(scores)
    labels = as_labels(y_true, n)
    codes = encode(labels, find_classes(labels, n_classes, classes))
    weight = check_weights(sample_weight, n)
    warn_of_probabilities(scores, declared, stacklevel=4)
    task = Pass(scores, codes, weight, declared, bins, with_classes, with_confidence)
    sums = map_sum(task, n, n_classes, executor)
    return sums, task


def warn_of_impossible(sums: Judged, n: int) -> None:
    """Warn the caller's caller of labels that were given no chance, which decide the NLL."""
    if sums.floored:
        warnings.warn(
            f"{sums.floored} of {n} rows give their label a probability below {PROBABILITY_FLOOR:g}; each "
            f"counts as {-np.log(PROBABILITY_FLOOR):.1f} nats in the NLL. Pass logits if you have them.",
            CalibrationWarning,
            stacklevel=3,
        )
    if sums.impossible:
        warnings.warn(
            f"{sums.impossible} of {n} rows have a logit of -inf at their label, so the NLL is infinite. "
            "Check that these labels are right, or drop the mask.",
            CalibrationWarning,
            stacklevel=3,
        )
