"""Many yes-or-no labels a row, each with its own probability: judged together and one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from focalcal._settings import check_bins, check_class_names, check_level
from focalcal._validate import (
    PROBABILITY_FLOOR,
    Input,
    as_array,
    check_input,
    check_multilabel,
    check_weights,
)
from focalcal.intervals.estimate import Estimate
from focalcal.intervals.gap_interval import chance
from focalcal.intervals.resample import estimate_gap_sum, estimate_mean, estimate_share
from focalcal.sums.bins import Array, BinSums, bin_rows, equal_width_edges
from focalcal.sums.moments import sum_rows
from focalcal.verdicts.segments import holm


@dataclass(frozen=True)
class LabelEvaluation:
    """One label of a multilabel model.

    Attributes
    ----------
    name : str
    prevalence, ece : Estimate
        Share of rows that have the label, and the calibration error of its probability.
    mean_gap : float
        Mean probability less prevalence: positive means announced too often.
    p_value, adjusted_p_value : float
        How often calibrated probabilities would show an ECE as large; the second allows for the number of
        labels (Holm).
    bins : BinSums
        The sums behind its reliability diagram.
    """

    name: str
    prevalence: Estimate
    ece: Estimate
    mean_gap: float
    p_value: float
    adjusted_p_value: float
    bins: BinSums

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        estimates = {"prevalence": self.prevalence.to_dict(), "ece": self.ece.to_dict()}
        p = {"p_value": self.p_value, "adjusted_p_value": self.adjusted_p_value}
        return {"label": self.name, "mean_gap": self.mean_gap, **estimates, **p, "bins": self.bins.to_dict()}


@dataclass(frozen=True, eq=False)
class MultilabelEvaluation(Mapping[str, Estimate]):
    """Metrics of a multilabel model: a mapping from name to `Estimate`.

    Attributes
    ----------
    metrics : dict of str to Estimate
        "nll", "brier" and "accuracy", each the mean over rows of the mean over their labels, and
        "classwise_ece", the mean of the labels' ECE.
    labels : tuple of LabelEvaluation
        Each label, the surest miscalibration first.
    n : int
        Rows.
    """

    metrics: dict[str, Estimate]
    labels: tuple[LabelEvaluation, ...]
    n: int

    def __getitem__(self, name: str) -> Estimate:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        metrics = {name: e.to_dict() for name, e in self.metrics.items()}
        return {"n": self.n, "metrics": metrics, "labels": [one.to_dict() for one in self.labels]}

    def __str__(self) -> str:
        lines = [f"{name:14} {e}" for name, e in self.metrics.items()]
        for one in self.labels[:10]:
            lines.append(f"{one.name[:14]:14} ECE {one.ece}, p = {one.adjusted_p_value:.2g}")
        return "\n".join(lines)

    __repr__ = __str__


def evaluate_multilabel(
    y_true: Any,
    y_prob: Any,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    names: Sequence[str] | None = None,
    bins: int = 15,
    level: float = 0.95,
) -> MultilabelEvaluation:
    """Judge the probabilities of a multilabel model, label by label and on the whole.

    Parameters
    ----------
    y_true : array_like of shape (n, L)
        1 where a row has a label, 0 where not, NaN where that is not known.
    y_prob : array_like of shape (n, L)
        Probability of each label, or its logit where `input` says so; rows need not sum to 1.
    sample_weight : array_like of shape (n,), optional
        Non-negative weights.
    input : {"probs", "logits"}
        What `y_prob` holds.
    names : sequence of str, optional
        The labels' names; by default their numbers.
    bins, level
        As in `focalcal.evaluate`.

    Returns
    -------
    MultilabelEvaluation

    Raises
    ------
    ValueError
        For shapes that differ, labels other than 0, 1 and NaN, a label that is never known.

    Notes
    -----
    The Brier score of a label is (p − y)², accuracy is at p > ½. NLL, Brier score and accuracy have rows, not
    labels, as independent units. The interval of "classwise_ece" takes labels as the classes of
    `focalcal.classwise_ece` and is *approximate* in the same way.

    Examples
    --------
    >>> found = evaluate_multilabel([[1, 0], [1, 1]], [[0.5, 0.25], [0.5, 0.75]], names=["a", "b"])
    >>> found["brier"].value, [label.name for label in found.labels]
    (0.15625, ['a', 'b'])
    """
    bins, level, kind = check_bins(bins), check_level(level), check_input(input)
    y, p = as_array(y_true, "y_true"), as_array(y_prob, "y_prob")
    known = check_multilabel(y, p, kind)
    check_class_names(names, p.shape[1])
    named = [str(name) for name in (range(p.shape[1]) if names is None else names)]
    weight = check_weights(sample_weight, len(p))
    w = np.ones(len(p)) if weight is None else weight.astype(np.float64)
    edges = equal_width_edges(bins, p.dtype if p.dtype.kind == "f" else np.float64)
    chances, losses = _chances(p.astype(np.float64), kind)
    truth = np.where(known, y, 0).astype(np.float64)
    nll = np.where(truth == 1, losses[0], losses[1])
    rows = [_row_mean(x, known, w) for x in (nll, (chances - truth) ** 2, (chances > 0.5) == truth)]
    sums = [
        bin_rows(chances[seen, k], truth[seen, k], w[seen], edges)
        for k, seen in enumerate(np.ascontiguousarray(known.T))
    ]
    n = len(p)
    whole = BinSums(edges, *(np.stack([getattr(s, f) for s in sums]) for f in _FIELDS))
    metrics = {
        "nll": estimate_mean(sum_rows(*rows[0]), n, level),
        "brier": estimate_mean(sum_rows(*rows[1]), n, level),
        "accuracy": estimate_share(sum_rows(*rows[2]), n, level),
        "classwise_ece": estimate_gap_sum(whole, n, level),
    }
    return MultilabelEvaluation(metrics, _labels(named, sums, truth, known, w, level), n)


_FIELDS = ("count", "weight", "weight_squared", "confidence", "hit")


def _chances(p: Array, kind: Input) -> tuple[Array, tuple[Array, Array]]:
    """Return probabilities, and −log of each label and of its absence."""
    if kind == "logits":
        return expit(p), (np.logaddexp(0, -p), np.logaddexp(0, p))
    kept = np.clip(p, 0, 1)
    present, absent = (-np.log(np.maximum(x, PROBABILITY_FLOOR)) for x in (kept, 1 - kept))
    return kept, (present, absent)


def _row_mean(x: NDArray[Any], known: NDArray[np.bool_], weight: Array) -> tuple[Array, Array]:
    """Return each row's mean over its known labels, and its weight: that of its labels."""
    count = known.sum(axis=1)
    total = np.where(known, x, 0).sum(axis=1)
    return np.divide(total, count, out=np.zeros(len(x)), where=count > 0), weight * count / known.shape[1]


def _labels(
    names: list[str], sums: list[BinSums], truth: Array, known: NDArray[np.bool_], w: Array, level: float
) -> tuple[LabelEvaluation, ...]:
    p = np.array([chance(s) for s in sums])
    found = []
    for k, (name, s, own, adjusted) in enumerate(zip(names, sums, p, holm(p), strict=True)):
        n = int(known[:, k].sum())
        prevalence = estimate_share(sum_rows(truth[known[:, k], k], w[known[:, k]]), n, level)
        error = estimate_gap_sum(s, n, level)
        gap = float(s.gap.sum())
        found.append(LabelEvaluation(name, prevalence, error, gap, float(own), float(adjusted), s))
    return tuple(sorted(found, key=lambda one: (-one.ece.low, -one.ece.value)))
