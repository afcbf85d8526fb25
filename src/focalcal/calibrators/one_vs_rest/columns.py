"""One binary problem a class: what maps of a single score are fitted on, and how they join again.

Two classes are one problem, that of the second. More classes are K problems, each class against the rest;
the K answers are then divided by their sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from focalcal.calibrators.diagnostics import Diagnostics, Fitted, Value
from focalcal.calibrators.held_out import HeldOut
from focalcal.calibrators.objective import Objective
from focalcal.engine import row_slices

Array = NDArray[np.float64]

#: Numbers in the problems that are solved at once.
_ELEMENTS = 1 << 18

#: Logarithms of probabilities so close to 0 that float32 no longer tells 1 − p from them.
_SURE = -1e-30

#: log(1−p) where nothing else can occur: with any slope, it stays a number.
_LEAST = -1e30


@dataclass(frozen=True)
class Problems:
    """Binary problems on the same rows.

    Attributes
    ----------
    log_odds : array of shape (n, C)
        Scores log p/(1−p); C is 1 for two classes, otherwise K.
    hits : array of shape (n, C)
        Where the label is the problem's class.
    weight : array of shape (n, 1) or (n, C)
        Weights, 0 where a mask leaves nothing to decide.
    """

    log_odds: Array
    hits: NDArray[np.bool_]
    weight: Array

    @property
    def n_classes(self) -> int:
        """Number of classes K that the C problems are of."""
        return max(2, int(self.log_odds.shape[1]))

    def parts(self) -> Iterator[Problems]:
        """Return some problems at a time, so that temporaries stay small."""
        n, count = self.log_odds.shape
        for some in row_slices(count, n, elements=_ELEMENTS):
            weight = self.weight if self.weight.shape[1] == 1 else self.weight[:, some]
            yield Problems(self.log_odds[:, some], self.hits[:, some], weight)

    def each(self) -> Iterator[tuple[Array, NDArray[np.bool_], Array]]:
        """Return one problem after another: scores, hits and weights of its rows with a weight above 0."""
        weights = np.broadcast_to(self.weight, self.hits.shape)
        for scores, hits, weight in zip(self.log_odds.T, self.hits.T, weights.T, strict=True):
            kept = weight > 0
            yield (scores, hits, weight) if kept.all() else (scores[kept], hits[kept], weight[kept])

    @property
    def worse_than_chance(self) -> bool:
        """Whether the scores point away from the labels: their covariances with the hits sum to below 0."""
        total = np.maximum(self.weight.sum(axis=0), 1e-300)
        centred = self.log_odds - (self.weight * self.log_odds).sum(axis=0) / total
        return float((self.weight * centred * self.hits).sum()) < 0 and not self.constant

    @property
    def constant(self) -> bool:
        """Whether no problem's score varies."""
        counted = np.broadcast_to(self.weight > 0, self.hits.shape)
        low = np.where(counted, self.log_odds, np.inf).min(axis=0)
        return bool((np.where(counted, self.log_odds, -np.inf).max(axis=0) <= low).all())


def problems(held: HeldOut) -> Problems:
    """Return the binary problems of a calibration set."""
    count = class_problems(held.n_classes)
    weight = held.weight[:, None]
    if held.masked is not None:
        possible = ~held.masked
        decided = possible.sum(axis=1, keepdims=True) < 2
        weight = weight * ~decided * (possible if count > 1 else possible.all(axis=1, keepdims=True))
    return Problems(log_odds(held.log_probs), held.hits[:, -count:], weight)


def class_problems(n_classes: int) -> int:
    """Return the number of binary problems that K classes are."""
    return 1 if n_classes == 2 else n_classes


def log_odds(log_probs: Array) -> Array:
    """Return log p/(1−p) of log-probabilities (b, K): shape (b, K), or (b, 1) for the second of two.

    Exact in the log domain: where p is 1 to all digits, 1 − p is the sum of the others.
    """
    if log_probs.shape[1] == 2:
        return np.asarray(log_probs[:, 1:] - log_probs[:, :1])
    return np.asarray(log_probs - log_rest(log_probs))


def log_rest(log_probs: Array) -> Array:
    """Return log(1−p) of log-probabilities (b, K)."""
    with np.errstate(divide="ignore"):
        rest = np.where(
            log_probs < -0.7, np.log1p(-np.exp(np.minimum(log_probs, -0.7))), np.log(-np.expm1(log_probs))
        )
    top = log_probs.argmax(axis=1)
    sure = np.flatnonzero(log_probs[np.arange(len(top)), top] > _SURE)
    others = log_probs[sure]
    others[np.arange(len(sure)), top[sure]] = -np.inf
    rest[sure, top[sure]] = logsumexp(others, axis=1)
    return np.maximum(rest, _LEAST)


def joined(log_odds: Array) -> Array:
    """Return logarithms (b, K), not normalised, of the answers' log-odds (b, C)."""
    if log_odds.shape[1] == 1:
        return np.concatenate([np.zeros_like(log_odds), log_odds], axis=1)
    return np.asarray(-np.logaddexp(0, -log_odds))


def summary(
    objective: Objective,
    held: HeldOut,
    scores: Array,
    parameters: dict[str, Value],
    stderr: dict[str, Value] | None = None,
    **facts: Any,
) -> Fitted:
    """Return a fit with its diagnostics; scores (n, K) are its logarithms of the held-out rows."""
    facts = {"converged": True, "iterations": 1} | facts
    diagnostics = Diagnostics(
        "nll",
        held.nll(held.normalised(scores)),
        separable=objective.survey.misses == 0 and objective.survey.distance > 0,
        unseen_classes=objective.unseen_classes(),
        **facts,
    )
    return Fitted(parameters, stderr or {}, diagnostics)
