"""One pass over rows of scores and labels: everything the metrics need, as sums that merge."""

from __future__ import annotations

import warnings
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from focalcal import kernels
from focalcal._validate import (
    PROBABILITY_FLOOR,
    SUM_TOLERANCE,
    CalibrationWarning,
    Input,
    check_input,
    check_lengths,
    check_source_alone,
)
from focalcal.kernels import loops
from focalcal.layout import as_rows_of
from focalcal.rows import ArrayRows, Block, Rows, as_rows, in_blocks, is_source
from focalcal.sums.bins import BinSums, bin_classes, bin_rows, bin_targets, equal_width_edges
from focalcal.sums.clusters import clustered
from focalcal.sums.confidences import Confidences
from focalcal.sums.moments import MeanSums, sum_rows
from focalcal.sums.scoring import score_block


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
    confidences : Confidences or None
        The top class's confidence of each row, where asked for: what equal-mass bins need.
    floored, impossible : int
        Labels given a probability below the floor, and labels with a logit of −inf.
    """

    nll: MeanSums
    brier: MeanSums
    accuracy: MeanSums
    top: BinSums
    classwise: BinSums | None
    confidences: Confidences | None
    floored: int
    impossible: int

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.nll + other.nll,
            self.brier + other.brier,
            self.accuracy + other.accuracy,
            self.top + other.top,
            None if self.classwise is None or other.classwise is None else self.classwise + other.classwise,
            (
                None
                if self.confidences is None or other.confidences is None
                else self.confidences + other.confidences
            ),
            self.floored + other.floored,
            self.impossible + other.impossible,
        )


@dataclass(frozen=True)
class Pass:
    """What to sum over a block of rows; a plain object, so that it can travel to another process."""

    kind: Input
    bins: int = 1
    with_classes: bool = False
    with_confidence: bool = False

    @property
    def threads(self) -> bool:
        """Whether it releases the interpreter lock, so that threads pay."""
        return kernels.compiled() is not None

    def __call__(self, block: Block) -> Judged:
        """Return the sums over the rows of a block of any size."""
        half = block.scores.dtype == np.float16
        if kernels.compiled() is None or (half and block.scores.ndim == 1) or block.codes.ndim == 2:
            return in_blocks(self._judge, block)
        return in_blocks(self._compiled, block) if half else self._compiled(block)

    def _compiled(self, block: Block) -> Judged:
        """Return what `_judge` returns, from one compiled pass."""
        name, scores = block.scores.dtype.name, block.scores
        edges = equal_width_edges(self.bins, name)
        sums = loops.judge(
            scores.astype(np.float32) if name == "float16" else scores,
            block.codes,
            block.weight,
            is_probs=self.kind == "probs",
            tolerance=SUM_TOLERANCE[name],
            edges=edges,
            with_classes=self.with_classes,
            with_confidence=self.with_confidence,
        )
        if sums is None:
            return in_blocks(self._judge, block)  # which says what is wrong, and where
        weight, weight2, *means, floored, impossible = sums.totals.tolist()
        nll, brier, hit = (MeanSums(len(block), weight, weight2, *means[i : i + 3]) for i in (0, 3, 6))
        marks = None
        if sums.signed is not None:
            marks = Confidences((sums.signed,), () if block.weight is None else (block.weight,))
        return Judged(
            nll,
            brier,
            hit,
            top=BinSums.of(edges, sums.top),
            classwise=None if sums.classwise is None else BinSums.of(edges, sums.classwise),
            confidences=marks,
            floored=int(floored),
            impossible=int(impossible),
        )

    def _judge(self, block: Block) -> Judged:
        scores, codes, weight = block.scores, block.codes, block.weight
        scored = score_block(block, self.kind)
        edges = equal_width_edges(self.bins, scores.dtype)
        soft = codes.ndim == 2
        bin_all = bin_targets if soft else bin_classes
        counts = np.ones(len(codes), np.bool_) if weight is None else weight > 0
        return Judged(
            nll=sum_rows(scored.nll, weight),
            brier=sum_rows(scored.brier, weight),
            accuracy=sum_rows(scored.hit, weight),
            top=bin_rows(scored.confidence, scored.hit, weight, edges),
            classwise=bin_all(scored.probs, codes, weight, edges) if self.with_classes else None,
            confidences=(
                Confidences.of(scored.confidence, scored.hit, weight)
                if self.with_confidence and not soft
                else None
            ),
            floored=int((scored.floored & counts).sum()),
            impossible=int((np.isinf(scored.nll) & counts).sum()),
        )


def judge(
    y_true: Any,
    y_prob: Any,
    sample_weight: Any,
    kind: str,
    classes: Any,
    *,
    executor: Executor | None = None,
    ignore_index: int | None = None,
    **options: Any,
) -> tuple[Judged, Rows]:
    """Check the input and sum over its rows in one pass, with the options of `Pass`."""
    rows, _ = prepare(
        y_true, y_prob, sample_weight, kind, classes, executor=executor, ignore_index=ignore_index
    )
    return judge_rows(rows, Pass(rows.kind, **options)), rows


def judge_rows(rows: Rows, task: Pass) -> Judged:
    """Sum over rows in one pass; where they form clusters, in the sums that standard errors need too."""
    sums = rows.map_sum(task)
    return sums if not isinstance(rows, ArrayRows) or rows.cluster is None else clustered(sums, rows)


def prepare(
    y_true: Any,
    y_prob: Any,
    sample_weight: Any,
    kind: str,
    classes: Any,
    *,
    executor: Executor | None = None,
    ignore_index: int | None = None,
    cluster: Any = None,
) -> tuple[Rows, NDArray[Any]]:
    """Check the input and return its rows and the class of each column."""
    if is_source(y_true):
        check_source_alone(ignore_index, cluster)
        y_true, y_prob, kind = y_prob, y_true, y_true.input
        return as_rows(y_prob, y_true, sample_weight, check_input(kind), classes, executor)
    given = as_rows_of(y_true, y_prob, sample_weight, ignore_index, cluster)
    rows, found = as_rows(
        given.scores, given.y, given.weight, check_input(kind), classes, executor, name="y_prob", soft=True
    )
    if given.cluster is None:
        return rows, found
    check_lengths(rows.n, given.cluster, "cluster")
    return replace(rows.in_memory(), cluster=given.cluster), found


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
