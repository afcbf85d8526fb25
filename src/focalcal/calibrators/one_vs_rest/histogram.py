"""Histogram binning: the share of hits in each bin of the score."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_range, check_several, check_shape
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Fitted
from focalcal.calibrators.held_out import weighted_rows
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.one_vs_rest.columns import (
    class_problems,
    joined,
    log_odds,
    problems,
    summary,
)

Array = NDArray[np.float64]


class HistogramBinning(Calibrator):
    r"""Replace each class's probability by the share of hits among the rows of its bin.

    Parameters
    ----------
    bins : int
        Bins of equal mass for each class, at least 2; fewer where scores are tied.
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    edges_ : ndarray of shape (C, bins − 1)
        Log-odds between the bins of each binary problem, in ascending order: C is 1 for two classes (of
        the second), otherwise K. A bin includes its upper edge; equal edges have no bin between them.
    probabilities_ : ndarray of shape (C, bins)
        What the scores of each bin become.
    stderr_ : dict
        Standard errors of the probabilities, sqrt(p (1−p) / weight of the bin), of the same shape.
    diagnostics_ : Diagnostics
        How the fit went; its loss is the mean NLL of the calibrated rows.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    With h hits among rows of weight m, a bin's probability is (h + 1/K)/(m + 1): one more row, whose label
    the classes share. No probability is 0 or 1, so that the log loss stays finite; for two classes this is
    Jeffreys' prior. Rows of one score are never parted, and no bin is empty.

    More than two classes are K problems, each class against the rest, whose answers are divided by their
    sum. A bin holds a share 1/bins of the rows and so no less than bins/K times as many as a class has:
    with many classes, the highest bins mix what is sure with what is not. Scores within a bin become ties.

    References
    ----------
    Zadrozny and Elkan 2001, ICML; 2002, doi 10.1145/775047.775151.

    Examples
    --------
    One of four is a hit in the lower half, three of four in the upper: (1 + 1/2)/5 and (3 + 1/2)/5.

    >>> import numpy as np
    >>> scores = [0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8, 0.9]
    >>> cal = HistogramBinning(bins=2, input="probs").fit(scores, [0, 0, 1, 0, 1, 0, 1, 1])
    >>> cal.predict_proba([0.25, 0.99])
    array([[0.7, 0.3],
           [0.3, 0.7]])
    """

    _parameter_names = ("edges", "probabilities")

    edges_: Array
    probabilities_: Array

    def __init__(self, *, bins: int = 15, input: str = "logits", classes: Any = None) -> None:
        self.bins = bins
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        check_several("bins", self.bins)

    def _check_parameters(self) -> None:
        count = class_problems(len(self.classes_))
        check_shape("edges", self.edges_, (count, self.bins - 1))
        check_shape("probabilities", self.probabilities_, (count, self.bins))
        check_range("distances of the edges", np.diff(self.edges_, prepend=-np.inf), 0, np.inf)
        check_range("probabilities", self.probabilities_, 1e-300, 1 - 1e-16)

    def _estimate(self, objective: Objective) -> Fitted:
        held = weighted_rows(objective)
        whole = problems(held)
        found = [_binned(*problem, self.bins, whole.n_classes) for problem in whole.each()]
        edges, probabilities, errors = (np.stack(values) for values in zip(*found, strict=True))
        return summary(
            objective,
            held,
            _answers(whole.log_odds, edges, probabilities),
            {"edges": edges, "probabilities": probabilities},
            {"probabilities": errors},
            worse_than_chance=whole.worse_than_chance,
            identifiable=not whole.constant,
        )

    def _recalibrate(self, log_probs: Array) -> Array:
        return _answers(log_odds(log_probs), self.edges_, self.probabilities_)


def _answers(log_odds: Array, edges: Array, probabilities: Array) -> Array:
    answers = np.empty_like(log_odds)
    for k, own in enumerate(np.log(probabilities) - np.log1p(-probabilities)):
        answers[:, k] = own[np.searchsorted(edges[k], log_odds[:, k])]
    return joined(answers)


def _binned(
    scores: Array, hits: NDArray[np.bool_], weight: Array, bins: int, n_classes: int
) -> tuple[Array, Array, Array]:
    """Return the edges, the smoothed shares of hits and their standard errors of one problem."""
    if not len(scores):
        return np.zeros(bins - 1), np.full(bins, 1 / n_classes), np.full(bins, np.nan)
    edges = _edges(scores, weight, bins)
    place = np.searchsorted(edges, scores)
    mass = np.bincount(place, weight, bins)
    share = (np.bincount(place, weight * hits, bins) + 1 / n_classes) / (mass + 1)
    error = np.sqrt(share * (1 - share) / np.where(mass > 0, mass, np.nan))
    # scores beyond those of the fit may fall in a bin without rows: it is as the one below
    below = np.maximum.accumulate(np.where(mass > 0, np.arange(bins), 0))
    return edges, share[below], error[below]


def _edges(scores: Array, weight: Array, bins: int) -> Array:
    """Return the midpoints between different scores that are next to where equal masses end."""
    order = np.argsort(scores, kind="stable")
    ordered = scores[order]
    last = np.flatnonzero(np.append(ordered[1:] > ordered[:-1], True))  # of each run of ties
    mass = np.cumsum(weight[order])[last]
    if len(last) == 1:
        return np.full(bins - 1, ordered[0])
    levels = mass[-1] * np.arange(1, bins) / bins
    after = np.clip(np.searchsorted(mass, levels * (1 - 1e-12)), 0, len(last) - 2)
    before = np.maximum(after - 1, 0)
    chosen = np.where(levels - mass[before] < np.abs(mass[after] - levels), before, after)
    return np.asarray((ordered[last[chosen]] + ordered[last[chosen] + 1]) / 2)
