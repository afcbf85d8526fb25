"""One yes-or-no event a row and its probability: that the top class is right, or a given class the label.

Every error that judges such probabilities (KS, smooth ECE, T-Cal, …) works on `Cells`: sums over the rows of
equal probability, or, beyond `CELLS` rows, of nearly equal probability (`focalcal.sums.confidences`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import Input
from focalcal.engine import row_slices
from focalcal.rows import ArrayRows, Block, Rows, in_blocks
from focalcal.sums.bins import Array, BinSums, bin_rows, equal_width_edges, find_bin, tally
from focalcal.sums.clusters import design_effect
from focalcal.sums.confidences import Cells, Confidences
from focalcal.sums.judging import prepare
from focalcal.sums.scoring import score_block

#: Rows up to which every probability is a cell of its own.
CELLS = 1 << 18


@dataclass(frozen=True)
class EventPass:
    """Collect the event's probability and outcome of each row; a plain object, so that it can travel."""

    kind: Input
    column: int | None = None  # None: the top class
    threads: bool = False

    def __call__(self, block: Block) -> Confidences:
        """Return the events of a block of any size."""
        return in_blocks(self._collect, block)

    def _collect(self, block: Block) -> Confidences:
        scored = score_block(block, self.kind)
        if self.column is None:
            return Confidences.of(scored.confidence, scored.hit, block.weight)
        # so that 0 keeps its sign, by which hits and misses are told apart
        p = np.maximum(scored.probs[:, self.column], np.finfo(scored.probs.dtype).tiny)
        return Confidences.of(p, block.codes == self.column, block.weight)


@dataclass(frozen=True)
class PredictedPass:
    """Sum rows into bins of one class's probability, or of the confidence apart for each predicted class.

    The latter has shape (K · B,): the bins of one predicted class after those of another.
    """

    kind: Input
    bins: int
    column: int | None = None
    threads: bool = False

    def __call__(self, block: Block) -> BinSums:
        """Return the sums over a block of any size."""
        return in_blocks(self._bin, block)

    def _bin(self, block: Block) -> BinSums:
        scored = score_block(block, self.kind)
        edges = equal_width_edges(self.bins, block.scores.dtype)
        if self.column is not None:
            return bin_rows(scored.probs[:, self.column], chance_of(block, self.column), block.weight, edges)
        place = scored.probs.argmax(axis=1) * self.bins + find_bin(scored.confidence, edges)
        size = scored.probs.shape[1] * self.bins
        w = np.ones(len(place)) if block.weight is None else block.weight
        values = (None, w, w**2, w * scored.confidence, w * scored.hit)
        return BinSums(edges, *(tally(place, value, size) for value in values))


def chance_of(block: Block, column: int) -> NDArray[Any]:
    """Return whether a class is the label of each row, or its chance to be where labels are distributions."""
    return np.asarray(block.codes[:, column] if block.codes.ndim == 2 else block.codes == column)


def collect(rows: Rows, column: int | None = None) -> Cells:
    """Return the events of rows in cells of rising probability."""
    if isinstance(rows, ArrayRows) and rows.codes.ndim == 2:
        return _soft_cells(rows, column)
    cells = cells_of(rows.map_sum(EventPass(rows.kind, column)))
    if isinstance(rows, ArrayRows) and rows.cluster is not None:
        effect = design_effect(rows, column)
        cells = replace(cells, weight_squared=cells.weight_squared * effect)
    return cells


def _soft_cells(rows: ArrayRows, column: int | None) -> Cells:
    """Return events that happen with a given chance: each row is a hit and a miss, weighted by it."""
    place, chance = np.empty(rows.n), np.empty(rows.n)
    for part in row_slices(rows.n, rows.n_classes):
        block = Block(rows.scores[part], rows.codes[part], None, part.start)
        scored = score_block(block, rows.kind)
        place[part] = scored.confidence if column is None else scored.probs[:, column]
        chance[part] = scored.hit if column is None else chance_of(block, column)
    end, at = np.unique(place, return_inverse=True)
    w = np.ones(rows.n) if rows.weight is None else rows.weight

    def by_cell(values: Array) -> Array:
        return np.stack([tally(at, values * part, len(end)) for part in (1 - chance, chance)])

    weight = by_cell(w)
    return Cells(end, by_cell(np.ones(rows.n)), weight, by_cell(w**2), weight * end)


def events_of(
    y_true: Any,
    y_prob: Any,
    sample_weight: Any,
    kind: str,
    classes: Any,
    of_class: Any,
    ignore_index: int | None = None,
) -> tuple[Cells, int]:
    """Check the input and return its events, in cells of rising probability, and the number of rows.

    `of_class` names the class whose probability is judged; None means the top class.
    """
    rows, found = prepare(y_true, y_prob, sample_weight, kind, classes, ignore_index=ignore_index)
    return collect(rows, None if of_class is None else find_column(of_class, found)), rows.n


def find_column(of_class: Any, classes: NDArray[Any]) -> int:
    """Return the column of a class."""
    names = classes.tolist()
    if of_class not in names:
        raise ValueError(
            f"Expected of_class to be one of the {len(names)} classes {names[:5]}…, got {of_class!r}. "
            "Leave it out to judge the top class."
        )
    return int(names.index(of_class))


def cells_of(kept: Confidences) -> Cells:
    """Return one cell for each probability, or fine cells where there are too many rows."""
    if kept.tallies is not None or sum(map(len, kept.signed)) > CELLS:
        return kept.cells()
    signed = np.concatenate(kept.signed)
    weight = np.concatenate(kept.weight) if kept.weight else None
    cells = exact_cells(np.abs(signed).astype(np.float64), signed > 0, weight)
    return replace(cells, weight_squared=kept.effect * cells.weight_squared)


def exact_cells(probability: Array, happened: NDArray[np.bool_], weight: Array | None) -> Cells:
    """Return one cell for each probability that occurs."""
    end, place = np.unique(probability, return_inverse=True)
    place = place + len(end) * happened

    def by_cell(values: Array | None) -> Array:
        return tally(place, values, 2 * len(end)).reshape(2, -1)

    count = by_cell(None)
    if weight is None:
        return Cells(end, count, count, count, count * end)
    total = by_cell(weight)
    return Cells(end, count, total, by_cell(weight**2), total * end)
