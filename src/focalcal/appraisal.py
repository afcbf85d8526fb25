"""Judge scores, what a calibrator makes of them, and each segment of the rows: all in one pass."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np

from focalcal._validate import check_bins, check_level, class_count
from focalcal.engine import row_slices
from focalcal.evaluation import Evaluation, evaluation_of
from focalcal.io.files import natural_key
from focalcal.judging import Judged, Pass, warn_of_impossible
from focalcal.rows import Block, Source

#: Values of a column that may part the rows.
MAX_SEGMENTS = 1000

#: Numbers that are calibrated at a time: no copy of all scores is made.
_PIECE = 1 << 18


@dataclass(frozen=True)
class Segment:
    """The rows with one value of a column; the value is None where there is none."""

    value: str | None
    evaluations: dict[str, Evaluation]

    @property
    def n(self) -> int:
        """Number of rows."""
        return next(iter(self.evaluations.values())).n

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: the segment, n, and the metrics of each evaluation."""
        metrics = {name: e.to_dict()["metrics"] for name, e in self.evaluations.items()}
        return {"segment": self.value, "n": self.n, **metrics}


@dataclass(frozen=True, eq=False)
class Appraisal:
    """What was found: evaluations under "before" and, with a calibrator, "after"; and the segments.

    Segments come with the largest error first, by what is sure of it: by the lower end of the ECE's
    interval in the last evaluation. A small segment's ECE is large by chance alone.
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


def check_segments(values: Mapping[Any, Any] | tuple[Any, ...]) -> None:
    """Check that a column does not part the rows into too many segments."""
    if len(values) > MAX_SEGMENTS:
        raise ValueError(
            f"Expected at most {MAX_SEGMENTS:,} different values in the column given as by (--by), got more: "
            f"{', '.join(repr(value) for value in list(values)[:3])}, …. Name a column with fewer values."
        )


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


def appraise(
    scores: Source,
    calibrator: Any = None,
    *,
    bins: int = 15,
    level: float = 0.95,
    executor: Executor | None = None,
) -> Appraisal:
    """Judge predictions, what a calibrator makes of them, and their segments, in one pass.

    Parameters
    ----------
    scores : Source
        As `focalcal.open_scores` returns it; its `by` names the column whose values are the segments.
    calibrator : fitted calibrator, optional
        As from `focalcal.load`.
    bins, level, executor
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
    segments.sort(key=_by_error)
    evaluations = {name: evaluation_of(one, rows.n_classes, level) for name, one in appraised.sums.items()}
    return Appraisal(evaluations, segments)


def _by_error(segment: Segment) -> Any:
    ece = list(segment.evaluations.values())[-1]["ece"]
    return -ece.low, -ece.value, segment.value is None, natural_key(segment.value or "")
