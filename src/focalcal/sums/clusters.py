r"""Standard errors where rows come in clusters: pixels of an image, prompts of a question.

The mean of a score over clusters is a ratio of sums: its standard error is that of the clusters' means, each
weighted as its rows together. Bins keep their sums; only what stands for the number of their rows is changed,
by the *design effect*

.. math:: d = \frac{\sum_g \sum_b (\sum_{i \in g \cap b} w_i e_i)^2}{\sum_i w_i^2 e_i^2},
          \quad e_i = y_i - \bar y_b,

the variance of the bins' residuals over what it would be were rows independent (at least 1).

References
----------
Kish 1965, Survey Sampling; Liang and Zeger 1986.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from focalcal.engine import row_slices
from focalcal.rows import ArrayRows, Block
from focalcal.sums.bins import Array, BinSums, equal_width_edges, find_bin, tally
from focalcal.sums.moments import MeanSums, sum_rows
from focalcal.sums.scoring import score_block

if TYPE_CHECKING:
    from focalcal.sums.judging import Judged

#: Bins of probability within which residuals are compared.
_BINS = 15


def clustered(sums: Judged, rows: ArrayRows) -> Judged:
    """Return the sums of a pass with what their standard errors need corrected for clusters."""
    scores = score_rows(rows)
    effect = _effect(scores[3], scores[2], rows)
    means = zip((sums.nll, sums.brier, sums.accuracy), scores[:3], strict=True)
    nll, brier, accuracy = (of_clusters(alone, x, rows) for alone, x in means)
    return replace(
        sums,
        nll=nll,
        brier=brier,
        accuracy=accuracy,
        top=inflated(sums.top, effect),
        classwise=None if sums.classwise is None else inflated(sums.classwise, effect),
        confidences=None if sums.confidences is None else replace(sums.confidences, effect=effect),
    )


def design_effect(rows: ArrayRows, column: int | None = None) -> float:
    """Return how much larger the variance of hits in bins is than were rows independent."""
    if column is None:
        scores = score_rows(rows)
        return _effect(scores[3], scores[2], rows)
    place = np.concatenate([score_block(block, rows.kind).probs[:, column] for block in blocks_of(rows)])
    return _effect(place, (rows.codes == column).astype(np.float64), rows)


def score_rows(rows: ArrayRows) -> Array:
    """Return NLL, Brier score, hit and confidence of every row, shape (4, n)."""
    kept = np.empty((4, rows.n))
    for block in blocks_of(rows):
        scored = score_block(block, rows.kind)
        part = slice(block.first, block.first + len(block))
        kept[:, part] = scored.nll, scored.brier, scored.hit, scored.confidence
    return kept


def blocks_of(rows: ArrayRows) -> Iterator[Block]:
    """Yield the rows in small blocks."""
    whole = Block(rows.scores, rows.codes, rows.weight)
    return (whole.part(part) for part in row_slices(rows.n, rows.n_classes))


def _weights(rows: ArrayRows) -> Array:
    return np.ones(rows.n) if rows.weight is None else rows.weight


def of_clusters(alone: MeanSums, x: Array, rows: ArrayRows) -> MeanSums:
    """Return the sums of a mean with the standard error of clusters, each weighted as its rows together."""
    w = _weights(rows)
    total = tally(_cluster(rows), w, 0)
    sums = tally(_cluster(rows), np.where(w > 0, w * x, 0.0), 0)
    means = np.divide(sums, total, out=np.zeros_like(sums), where=total > 0)
    ratio = sum_rows(means, total).stderr / alone.stderr if alone.stderr > 0 else np.nan
    # where no spread can be seen, the rows of a cluster count as copies of one
    effect = max(ratio**2, 1.0) if np.isfinite(ratio) else _copies(rows)
    return replace(
        alone,
        weight_squared=effect * alone.weight_squared,
        cross=effect * alone.cross,
        square=effect * alone.square,
    )


def _cluster(rows: ArrayRows) -> NDArray[np.int64]:
    assert rows.cluster is not None
    return rows.cluster


def _effect(place: Array, hit: Array, rows: ArrayRows) -> float:
    w, bins = _weights(rows), find_bin(place, equal_width_edges(_BINS))
    weight = tally(bins, w, _BINS)
    rate = np.divide(tally(bins, w * hit, _BINS), weight, out=np.zeros(_BINS), where=weight > 0)
    residual = w * (hit - rate[bins])
    together = tally(_cluster(rows) * _BINS + bins, residual, 0)
    alone = float(residual @ residual)
    if alone == 0 or len(np.unique(_cluster(rows))) == 1:
        return _copies(rows)
    return max(1.0, float(together @ together) / alone)


def _copies(rows: ArrayRows) -> float:
    """Return the design effect of clusters whose rows all say the same."""
    w = _weights(rows)
    together = tally(_cluster(rows), w, 0)
    return max(1.0, float(together @ together) / float(w @ w))


def inflated(sums: BinSums, effect: float) -> BinSums:
    """Return bin sums whose rows count for less by a design effect."""
    return replace(sums, weight_squared=sums.weight_squared * effect)
