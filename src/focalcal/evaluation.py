"""All metrics of one set of predictions, as one object."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

from focalcal._validate import check_bins, check_level
from focalcal.bins import BinSums
from focalcal.estimate import Estimate
from focalcal.judging import Judged, judge, warn_of_impossible
from focalcal.resample import estimate_gap_sum, estimate_mean, estimate_share

TITLES = {
    "nll": "NLL (nats)",
    "brier": "Brier score",
    "accuracy": "accuracy",
    "ece": "ECE",
    "ece_equal_mass": "ECE, equal mass",
    "classwise_ece": "class-wise ECE",
}


@dataclass(frozen=True, eq=False)
class Evaluation(Mapping[str, Estimate]):
    """Every metric of one set of predictions, with intervals: a mapping from name to `Estimate`.

    Attributes
    ----------
    metrics : dict of str to Estimate
        "nll", "brier", "accuracy", "ece", "ece_equal_mass", "classwise_ece".
    n, n_classes : int
        Rows and classes.
    bins : BinSums
        The sums behind the reliability diagram of the top class (equal-width bins).
    classwise : BinSums or None
        The same for every class's probability, shape (K, B); None for a segment.

    Examples
    --------
    >>> result = evaluate([0, 0, 1, 1], [0.25, 0.25, 0.75, 0.75])
    >>> result["accuracy"].value, result["ece"].value, round(result["nll"].value, 4)
    (1.0, 0.25, 0.2877)
    """

    metrics: dict[str, Estimate]
    n: int
    n_classes: int
    bins: BinSums
    classwise: BinSums | None = None

    def __getitem__(self, name: str) -> Estimate:
        return self.metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.metrics)

    def __len__(self) -> int:
        return len(self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON: metrics, n, n_classes, bins; a number that is not finite is None."""
        metrics = {name: estimate.to_dict() for name, estimate in self.metrics.items()}
        bins = self.bins.to_dict()
        return {"n": self.n, "n_classes": self.n_classes, "metrics": _finite(metrics), "bins": bins}

    def __str__(self) -> str:
        level = next(iter(self.metrics.values())).level
        head = f"{'':16} {'value':>8} {f'{level:.0%} interval':>20} {'stderr':>8}"
        rows = [_row(TITLES.get(name, name), estimate) for name, estimate in self.metrics.items()]
        return "\n".join([head, *rows, f"n = {self.n}, {self.n_classes} classes"])

    __repr__ = __str__


def _row(title: str, e: Estimate) -> str:
    return f"{title:16} {e.value:8.4f} {f'[{e.low:.4f}, {e.high:.4f}]':>20} {e.stderr:8.4f}"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    bins: int = 15,
    level: float = 0.95,
    executor: Executor | None = None,
) -> Evaluation:
    """Judge predictions: NLL, Brier score, accuracy and calibration errors, each with an interval.

    Parameters
    ----------
    y_true : array_like of shape (n,)
        Labels: column numbers, booleans or names. Or, alone, what `focalcal.open_scores` returns.
    y_prob : array_like of shape (n, K), (n,) or (n, 1)
        Probabilities, or logits where `input` says so. One column is the second of two classes.
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
    rows; beyond, counts in fine cells (`focalcal.confidences`).

    Examples
    --------
    >>> result = evaluate(["a", "b", "b", "b"], [0.5, 0.5, 0.5, 1.0])
    >>> result["brier"].value, result["accuracy"].value
    (0.375, 0.5)
    """
    bins, level = check_bins(bins), check_level(level)
    sums, rows = judge(
        y_true,
        y_prob,
        sample_weight,
        input,
        classes,
        bins=bins,
        with_classes=True,
        with_confidence=True,
        executor=executor,
    )
    warn_of_impossible(sums, rows.n)
    return evaluation_of(sums, rows.n_classes, level)


def evaluation_of(sums: Judged, n_classes: int, level: float) -> Evaluation:
    """Return every metric that the sums of a pass hold."""
    n = sums.nll.count
    metrics = {
        "nll": estimate_mean(sums.nll, n, level),
        "brier": estimate_mean(sums.brier, n, level),
        "accuracy": estimate_share(sums.accuracy, n, level),
        "ece": estimate_gap_sum(sums.top, n, level),
    }
    if sums.confidences is not None:
        by_mass = sums.confidences.equal_mass(len(sums.top.edges) - 1)
        metrics["ece_equal_mass"] = estimate_gap_sum(by_mass, n, level)
    if sums.classwise is not None:
        metrics["classwise_ece"] = estimate_gap_sum(sums.classwise, n, level)
    return Evaluation(metrics, n, n_classes, sums.top, sums.classwise)
