r"""What the training adapters sum over batches: one vector of float64 a batch; adding vectors merges batches.

Rows of an image, or tokens of a sequence, are one cluster, as in `focalcal.evaluate`. A cluster lies within a
batch, so its standard errors come from sums over clusters, which merge too. The design effect of
`focalcal.sums.clusters` needs, with :math:`n_g` rows and :math:`h_g` hits of cluster g in a bin of hit
rate r,

.. math:: \sum_g (h_g - r n_g)^2 = \sum_g h_g^2 - 2 r \sum_g n_g h_g + r^2 \sum_g n_g^2.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass, replace

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_bins, check_level
from focalcal._validate import Input, check_input, class_count
from focalcal.integrations.batches import Batch
from focalcal.rows import ArrayRows, as_rows
from focalcal.sums.bins import Array, BinSums, equal_width_edges, find_bin, tally
from focalcal.sums.clusters import inflated, score_rows
from focalcal.sums.judging import Judged, Pass, warn_of_impossible
from focalcal.sums.moments import MeanSums, sum_rows
from focalcal.verdicts.evaluation import Evaluation, evaluation_of

#: Bins of confidence within which residuals are compared, as in `focalcal.sums.clusters`.
_BINS = 15


@dataclass(frozen=True)
class Judge:
    """Turns batches into sums, and sums into an evaluation.

    Attributes
    ----------
    n_classes : int
        Classes K.
    kind : {"logits", "probs"}
        What the scores are.
    bins : int
        Bins B of the calibration errors.
    level : float
        Coverage of the intervals.
    classwise : bool
        Whether to sum the bins of every class, 5·K·B numbers.

    Examples
    --------
    >>> import numpy as np
    >>> from focalcal.integrations.batches import as_batch
    >>> judge = Judge(2, "probs")
    >>> scores, labels = np.array([[0.25, 0.75], [0.5, 0.5]]), np.array([1, -100])
    >>> sums = judge.sums(as_batch(scores, labels, ignore_index=-100))
    >>> judge.evaluation(sums + sums)["ece"].value
    0.25
    """

    n_classes: int
    kind: Input = "logits"
    bins: int = 15
    level: float = 0.95
    classwise: bool = False

    def __post_init__(self) -> None:
        check_input(self.kind)
        check_bins(self.bins)
        check_level(self.level)
        if self.n_classes < 2:
            raise ValueError(
                f"Expected num_classes of at least 2, got {self.n_classes}. Two columns or one are 2 classes."
            )

    @property
    def size(self) -> int:
        """Length of the vector of sums."""
        return int(self._cuts()[-1]) + 5 * _BINS

    def sums(self, batch: Batch) -> Array:
        """Return the sums over the rows of a batch, shape (size,); zeros for no rows."""
        if not len(batch.labels):
            return np.zeros(self.size)
        if class_count(batch.scores) != self.n_classes:
            raise ValueError(
                f"Expected scores of {self.n_classes} classes, got {class_count(batch.scores)}. Classes come "
                "second, (N, K, d1, …): set num_classes to their number."
            )
        columns = np.arange(self.n_classes)
        rows, _ = as_rows(batch.scores, batch.labels, None, self.kind, columns, name="scores")
        judged = rows.map_sum(Pass(self.kind, self.bins, with_classes=self.classwise))
        bins = [judged.top] if judged.classwise is None else [judged.top, judged.classwise]
        means, table = _cluster_sums(replace(rows.in_memory(), cluster=batch.cluster))
        parts = [
            *_flat([judged.nll, judged.brier, judged.accuracy]),
            np.array([judged.floored, judged.impossible]),
            *(np.ravel([b.count, b.weight, b.weight_squared, b.confidence, b.hit]) for b in bins),
            *_flat(means),
            table.ravel(),
        ]
        return np.concatenate(parts, dtype=np.float64)

    def evaluation(self, sums: Array) -> Evaluation:
        """Return what `focalcal.evaluate` says of the rows; equal-mass bins need every row and are left out.

        Raises
        ------
        ValueError
            If there were no rows, or some rows are of images and others are not.
        """
        if not sums[0]:
            raise ValueError("Expected rows to judge, got none. Add batches with labels that count first.")
        parts = np.split(sums, self._cuts())
        # edges rounded to each batch's precision are one edge on paper
        top, classwise = (
            BinSums(equal_width_edges(self.bins), *_shaped(part, self.bins)) for part in parts[4:6]
        )
        judged = Judged(
            nll=_means(parts[0]),
            brier=_means(parts[1]),
            accuracy=_means(parts[2]),
            top=top,
            classwise=classwise if self.classwise else None,
            confidences=None,
            floored=int(parts[3][0]),
            impossible=int(parts[3][1]),
        )
        warn_of_impossible(judged, judged.nll.count)
        judged = _clustered(judged, [_means(part) for part in parts[6:9]], parts[9].reshape(5, _BINS))
        return evaluation_of(judged, self.n_classes, self.level)

    def _cuts(self) -> NDArray[np.intp]:
        classes = self.n_classes if self.classwise else 0
        return np.cumsum([6, 6, 6, 2, 5 * self.bins, 5 * self.bins * classes, 6, 6, 6])

    def numbers(self, sums: Array) -> dict[str, float]:
        """Return every metric and the ends of its interval by name, and n, the rows; NaN without rows."""
        if not sums[0]:
            names = ["nll", "brier", "accuracy", "ece", *(["classwise_ece"] if self.classwise else [])]
            nothing = {f"{name}{end}": math.nan for name in names for end in ("", "_low", "_high")}
            return nothing | {"n": 0.0}
        found: dict[str, float] = {}
        for name, e in self.evaluation(sums).items():
            found |= {name: float(e.value), f"{name}_low": float(e.low), f"{name}_high": float(e.high)}
        return found | {"n": float(sums[0])}


def _shaped(part: Array, bins: int) -> Array:
    return part.reshape(5, bins) if part.size == 5 * bins else part.reshape(5, -1, bins)


def _flat(means: list[MeanSums]) -> list[Array]:
    return [np.array(astuple(one)) for one in means]


def _means(part: Array) -> MeanSums:
    count, *others = part.tolist()
    return MeanSums(int(count), *others)


def _cluster_sums(rows: ArrayRows) -> tuple[list[MeanSums], Array]:
    """Return the sums of three scores over clusters, and Σ n, Σ h, Σ n², Σ nh and Σ h² of them by bin."""
    if rows.cluster is None:
        return [MeanSums(0, 0.0, 0.0, 0.0, 0.0, 0.0)] * 3, np.zeros((5, _BINS))
    *scores, confidence = score_rows(rows)
    total = tally(rows.cluster, None, 0)
    full = total > 0
    means = [sum_rows(tally(rows.cluster, x, 0)[full] / total[full], total[full]) for x in scores]
    cell = rows.cluster * _BINS + find_bin(confidence, equal_width_edges(_BINS))
    n, h = (tally(cell, x, len(total) * _BINS).reshape(-1, _BINS) for x in (None, scores[2]))
    return means, np.stack([x.sum(axis=0) for x in (n, h, n**2, n * h, h**2)])


def _clustered(sums: Judged, means: list[MeanSums], table: Array) -> Judged:
    """Return sums with what their standard errors need corrected for clusters, as `sums.clusters` does."""
    clusters = means[0]
    if not clusters.count:
        return sums
    if clusters.weight != sums.nll.weight:
        raise ValueError(
            "Expected batches all of shape (N, K) or all of shape (N, K, d1, …), got some of each: rows of "
            "an image are not independent, other rows are. Judge them apart."
        )
    copies = clusters.weight_squared / clusters.weight  # the design effect of rows that all say the same
    n, h, nn, nh, hh = table
    rate = np.divide(h, n, out=np.zeros(_BINS), where=n > 0)
    alone = float((n * rate * (1 - rate)).sum())
    together = float((hh - 2 * rate * nh + rate**2 * nn).sum())
    effect = copies if alone == 0 or clusters.count == 1 else max(1.0, together / alone)
    nll, brier, accuracy = (
        _widened(own, of_clusters, copies)
        for own, of_clusters in zip((sums.nll, sums.brier, sums.accuracy), means, strict=True)
    )
    classwise = None if sums.classwise is None else inflated(sums.classwise, effect)
    return replace(
        sums, nll=nll, brier=brier, accuracy=accuracy, top=inflated(sums.top, effect), classwise=classwise
    )


def _widened(own: MeanSums, of_clusters: MeanSums, copies: float) -> MeanSums:
    ratio = of_clusters.stderr / own.stderr if own.stderr > 0 else math.nan
    effect = max(ratio**2, 1.0) if math.isfinite(ratio) else copies
    return replace(
        own,
        weight_squared=effect * own.weight_squared,
        cross=effect * own.cross,
        square=effect * own.square,
    )
