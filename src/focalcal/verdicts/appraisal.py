"""Judge predictions, what a calibrator makes of them, and each segment of the rows."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np

from focalcal._settings import check_bins, check_choice, check_level, check_segments
from focalcal._validate import check_source_alone, class_count
from focalcal.engine import row_slices
from focalcal.layout import as_groups_of
from focalcal.rows import Block, Source, is_source
from focalcal.sums.judging import Judged, Pass, judge_rows, prepare, warn_of_impossible
from focalcal.verdicts.evaluation import Evaluation, evaluation_of
from focalcal.verdicts.segments import Segment, judged_segments, segments_of

#: Numbers that are calibrated at a time: no copy of all scores is made.
_PIECE = 1 << 18


@dataclass(frozen=True, eq=False)
class Appraisal:
    """What was found: evaluations under "before" and, with a calibrator, "after"; and the segments.

    Segments come with the surest error first, see `focalcal.verdicts.segments.judged_segments`.
    """

    evaluations: dict[str, Evaluation]
    segments: list[Segment]

    @property
    def n(self) -> int:
        """Number of rows."""
        return next(iter(self.evaluations.values())).n

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: n, each evaluation under its name, and the segments if there are."""
        document = {"n": self.n} | {name: e.to_dict() for name, e in self.evaluations.items()}
        return document | ({"segments": [one.to_dict() for one in self.segments]} if self.segments else {})


Sums = dict[str, Judged]


@dataclass(frozen=True, eq=False)
class _Appraised:
    """The sums behind an appraisal; adding two merges their rows, segment by segment."""

    sums: Sums
    segments: dict[str | None, Sums]

    def __add__(self, other: Self) -> Self:
        values = dict.fromkeys([*self.segments, *other.segments])
        check_segments(values)
        merged = {value: _merged(self.segments.get(value), other.segments.get(value)) for value in values}
        return type(self)(_merged(self.sums, other.sums), merged)


def _merged(a: Sums | None, b: Sums | None) -> Sums:
    if a is None or b is None:
        return a or b or {}
    return {name: a[name] + b[name] for name in a}


@dataclass(frozen=True)
class JudgeAll:
    """What to sum over a block of rows; a plain object, so that it can travel to another process."""

    whole: Pass
    calibrator: Any = None

    @property
    def threads(self) -> bool:
        """Whether it releases the interpreter lock, so that threads pay."""
        return self.whole.threads

    def __call__(self, block: Block) -> _Appraised:
        """Return the sums over the rows of a block of any size."""
        pieces = row_slices(len(block), class_count(block.scores), elements=_PIECE)
        total = None
        for rows in pieces:
            appraised = self._appraise(block.part(rows))
            total = appraised if total is None else total + appraised
        assert total is not None
        return total

    def _appraise(self, block: Block) -> _Appraised:
        blocks = {"before": (self.whole, block)}
        sums = {"before": self.whole(block)}  # it finds values that cannot be right, and their rows
        if self.calibrator is not None:
            log_probs = self.calibrator.transform(block.scores)
            blocks["after"] = (replace(self.whole, kind="logits"), replace(block, scores=log_probs))
            sums["after"] = blocks["after"][0](blocks["after"][1])
        segments: dict[str | None, Sums] = {}
        if block.segment is not None:
            for name, (judge, whole) in blocks.items():
                few = replace(judge, with_classes=False, with_confidence=False)
                for value, part in _parted(whole):
                    segments.setdefault(value, {})[name] = few(part)
        return _Appraised(sums, segments)


def _parted(block: Block) -> Iterator[tuple[str | None, Block]]:
    """Yield the value and the rows of each segment of a block."""
    assert block.segment is not None
    order = np.argsort(block.segment, kind="stable")
    scores, codes, segment = block.scores[order], block.codes[order], block.segment[order]
    weight = None if block.weight is None else block.weight[order]
    starts = np.flatnonzero(np.diff(segment, prepend=-1))
    check_segments(tuple(block.segments[segment[start]] for start in starts))
    for low, high in pairwise([*starts.tolist(), len(segment)]):
        rows = slice(low, high)
        value = block.segments[segment[low]]
        yield value, Block(scores[rows], codes[rows], None if weight is None else weight[rows], block.first)


def evaluate(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    bins: int = 15,
    level: float = 0.95,
    metrics: str = "standard",
    by: Any = None,
    cluster: Any = None,
    ignore_index: int | None = None,
    executor: Executor | None = None,
) -> Evaluation:
    """Judge predictions: NLL, Brier score, accuracy and calibration errors, each with an interval.

    Parameters
    ----------
    y_true : array_like of shape (n,)
        Labels: column numbers, booleans or names. Or (n, K): each row's distribution of labels, as of human
        votes. Or, alone, what `focalcal.open_scores` returns.
    y_prob : array_like of shape (n, K), (n,) or (n, 1)
        Probabilities, or logits where `input` says so. One column is the second of two classes. Or
        (N, K, d1, …) with labels (N, d1, …), as of images: every pixel is a row, every image a cluster.
    sample_weight : array_like of shape (n,), optional
        Non-negative weights.
    input : {"probs", "logits"}
        What `y_prob` holds; never guessed. Log-probabilities may be passed as logits.
    classes : array_like of shape (K,), optional
        The class of each column, where the labels do not tell.
    bins : int
        Bins of the calibration errors and of the reliability diagram.
    level : float
        Coverage of the intervals.
    metrics : {"standard", "all"}
        "all" adds errors without bins and more, for about a second: see `Evaluation`.
    by : array_like of shape (n,), optional
        Groups of rows (or of images) to be judged on their own too, at most 1,000: see `Evaluation.segments`.
    cluster : array_like of shape (n,), optional
        Rows that are not independent share a value: prompts of one question, frames of one video. Standard
        errors and intervals allow for it (`focalcal.sums.clusters`); `n` still counts rows.
    ignore_index : int, optional
        Rows with this label are left out.
    executor : concurrent.futures.Executor, optional
        Where blocks of rows are summed; by default in this thread.

    Returns
    -------
    Evaluation

    Raises
    ------
    ValueError
        If values, shapes, labels or weights cannot be right; the message says which row or value.

    Warns
    -----
    CalibrationWarning
        If a label was given no chance: probability 0, or a logit of −inf (then the NLL is infinite).

    See Also
    --------
    nll, brier, accuracy, ece, classwise_ece : the metrics one by one, with their conventions.

    Notes
    -----
    One pass over the rows in blocks. For the equal-mass bins one confidence a row is kept, up to 4 million
    rows; beyond, counts in fine cells (`focalcal.sums.confidences`).

    Where labels are distributions, every score is its mean over labels drawn from them, the bins' intervals
    are conservative, and metrics that need the rows in order are left out.

    Examples
    --------
    >>> result = evaluate(["a", "b", "b", "b"], [0.5, 0.5, 0.5, 1.0])
    >>> result["brier"].value, result["accuracy"].value
    (0.375, 0.5)
    """
    bins, level = check_bins(bins), check_level(level)
    more = check_choice("metrics", metrics, ("standard", "all")) == "all"
    if is_source(y_true):
        check_source_alone(ignore_index, cluster if by is None else by)
    rows, _ = prepare(
        y_true,
        y_prob,
        sample_weight,
        input,
        classes,
        executor=executor,
        ignore_index=ignore_index,
        cluster=cluster,
    )
    sums = judge_rows(rows, Pass(rows.kind, bins, with_classes=True, with_confidence=True))
    warn_of_impossible(sums, rows.n)
    whole = evaluation_of(sums, rows.n_classes, level, more=more)
    if by is None:
        return whole
    groups = as_groups_of(by, y_true, y_prob, ignore_index)
    return replace(whole, segments=segments_of(rows, groups, bins, level))


def appraise(
    scores: Source,
    calibrator: Any = None,
    *,
    bins: int = 15,
    level: float = 0.95,
    metrics: str = "standard",
    executor: Executor | None = None,
) -> Appraisal:
    """Judge predictions, what a calibrator makes of them, and their segments, in one pass.

    Parameters
    ----------
    scores : Source
        As `focalcal.open_scores` returns it; its `by` names the column whose values are the segments.
    calibrator : fitted calibrator, optional
        As from `focalcal.load`.
    bins, level, metrics, executor
        As for `focalcal.evaluate`.

    Returns
    -------
    Appraisal

    Raises
    ------
    ValueError
        As `focalcal.evaluate`; and for more than 1,000 segments.

    Notes
    -----
    A segment has NLL, Brier score, accuracy and ECE. Segments whose rows weigh nothing are left out.
    """
    bins, level = check_bins(bins), check_level(level)
    more = check_choice("metrics", metrics, ("standard", "all")) == "all"
    rows, _ = scores.rows(None, executor)
    whole = Pass(scores.input, bins, with_classes=True, with_confidence=True)
    appraised = rows.map_sum(JudgeAll(whole, calibrator))
    for sums in appraised.sums.values():
        warn_of_impossible(sums, rows.n)
    segments = [
        Segment(value, {name: evaluation_of(one, rows.n_classes, level) for name, one in sums.items()})
        for value, sums in appraised.segments.items()
        if sums["before"].nll.weight > 0
    ]
    evaluations = {
        name: evaluation_of(one, rows.n_classes, level, more=more) for name, one in appraised.sums.items()
    }
    return Appraisal(evaluations, judged_segments(segments))
