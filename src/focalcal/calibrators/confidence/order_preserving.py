r"""Order-preserving calibration: one increasing function of every logit."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_count, check_range, check_shape
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.confidence.nonnegative import Jet, minimise_nonnegative
from focalcal.calibrators.diagnostics import Diagnostics, Fitted
from focalcal.calibrators.held_out import HeldOut, weighted_rows
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.temperature.fitting import fit_temperature
from focalcal.engine import row_slices

Array = NDArray[np.float64]

#: Cells of the logarithm to base 2 of a gap over T in which quantiles are found: 64 for each doubling.
_CELLS, _LOWEST, _HIGHEST = 64, -10, 14


class OrderPreservingCalibration(Calibrator):
    r"""p = softmax(f(z − max z)) with one increasing, piecewise linear f for all classes.

    Parameters
    ----------
    pieces : int
        Pieces of f; fewer where the gaps are tied.
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    knots_ : ndarray of shape (M,)
        Gaps below the row's largest logit, in nats, at which the pieces begin; the first is 0.
    slopes_ : ndarray of shape (M,)
        f' on each piece, at least 0: an inverse temperature.
    stderr_ : dict
        Standard errors of the slopes by the sandwich formula, of the same shape; NaN for a slope at 0.
    diagnostics_ : Diagnostics
        How the fit went; its loss is the mean NLL.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    f is the same for every class and row, so that a row's order stays (a slope of 0 makes ties), and
    permuted classes give permuted probabilities. One piece is temperature scaling. It is the special case
    of the paper's diagonal, order-invariant functions in which f does not depend on the row's other logits.

    With T from temperature scaling, knots divide the gaps such that each piece holds as much of the
    probability that temperature scaling gives to classes below the first. Minimised over slopes ≥ 0 is

    .. math:: \sum_i w_i \,\mathrm{NLL}_i + \tfrac12 \sum_m T^2 (f'_{m+1} - f'_m)^2,

    which is convex: Newton's method with that bound. The second term, light as it is (differences of the
    slopes of the order of 1/T), keeps pieces finite that the rows say little of. Where temperature scaling
    has no minimum (separable or constant scores), all slopes are 1/T with its T.

    References
    ----------
    Rahimi et al. 2020, NeurIPS, arXiv 2003.06820.

    Examples
    --------
    Three of four rows are right at a gap of 4, so the slope is log(3)/4:

    >>> import numpy as np
    >>> cal = OrderPreservingCalibration(pieces=1).fit([[4.0, 0.0]] * 4, [0, 0, 0, 1])
    >>> bool(np.isclose(cal.slopes_[0], np.log(3) / 4))
    True
    >>> cal.predict_proba([[4.0, 0.0]]).round(6)
    array([[0.75, 0.25]])
    """

    _parameter_names = ("knots", "slopes")

    knots_: Array
    slopes_: Array

    def __init__(self, *, pieces: int = 8, input: str = "logits", classes: Any = None) -> None:
        self.pieces = pieces
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        check_count("pieces", self.pieces)

    def _check_parameters(self) -> None:
        check_shape("slopes", self.slopes_, (len(np.atleast_1d(self.knots_)),))
        check_shape("knots", self.knots_, self.slopes_.shape)
        check_range("slopes", self.slopes_, 0, math.inf)
        check_range("first of the knots", self.knots_[0], 0, 0)
        check_range("distances of the knots", np.diff(self.knots_, append=math.inf), 1e-300, math.inf)

    def _estimate(self, objective: Objective) -> Fitted:
        plain = fit_temperature(objective, "nll", None)
        facts = plain.diagnostics
        held = weighted_rows(objective)
        temperature = float(plain.parameters["temperature"])
        if facts.worse_than_chance:  # T is infinite, and no scale
            temperature = objective.survey.distance / objective.survey.weight
        knots = _knots(held, temperature, self.pieces)
        if facts.separable or not facts.identifiable:
            slopes = np.full(len(knots), 1 / temperature)
            return Fitted(
                {"knots": knots, "slopes": slopes}, {"slopes": np.full(len(knots), math.nan)}, facts
            )
        rows = _Rows(held, knots, temperature)
        found = minimise_nonnegative(rows.jet, np.ones(len(knots)))
        value, outer = rows.sums(found.point)[0], rows.outer(found.point)
        free = np.ix_(found.point > 0, found.point > 0)
        errors = np.full(len(knots), math.nan)
        inverse = np.linalg.pinv(found.hessian[free])
        errors[found.point > 0] = np.sqrt(np.diag(inverse @ outer[free] @ inverse)) / temperature
        diagnostics = Diagnostics(
            "nll",
            value,
            found.converged,
            facts.iterations + found.iterations,
            worse_than_chance=facts.worse_than_chance,
            unseen_classes=facts.unseen_classes,
        )
        return Fitted({"knots": knots, "slopes": found.point / temperature}, {"slopes": errors}, diagnostics)

    def _recalibrate(self, log_probs: Array) -> Array:
        return _function(*_places(log_probs, self.knots_), self.knots_, self.slopes_)


def _places(log_probs: Array, knots: Array) -> tuple[NDArray[np.int64], Array]:
    """Return on which piece each gap (b, K) ends, and how far beyond its knot."""
    gaps = log_probs.max(axis=1, keepdims=True) - log_probs
    piece = np.searchsorted(knots, gaps, side="right") - 1
    return piece, gaps - knots[piece]


def _function(piece: NDArray[np.int64], beyond: Array, knots: Array, slopes: Array) -> Array:
    before = np.append(0.0, np.cumsum(np.diff(knots) * slopes[:-1]))
    return np.asarray(-(before[piece] + slopes[piece] * beyond))


def _knots(held: HeldOut, temperature: float, pieces: int) -> Array:
    """Return where pieces begin that hold equal parts of the probability below the row's first class."""
    mass = np.zeros(_CELLS * (_HIGHEST - _LOWEST))
    for rows in row_slices(held.n, held.n_classes):
        part = held.part(rows)
        p = np.exp(part.normalised(part.log_probs / temperature)) * part.weight[:, None]
        gaps = (part.log_probs.max(axis=1, keepdims=True) - part.log_probs) / temperature
        below = gaps > 0
        cell = np.ceil(_CELLS * (np.log2(gaps[below]) - _LOWEST)).astype(np.int64)
        mass += np.bincount(np.clip(cell, 0, len(mass) - 1), p[below], len(mass))
    total = np.cumsum(mass)
    found = np.searchsorted(total, total[-1] * np.arange(1, pieces) / pieces * (1 - 1e-9))
    knots = 2.0 ** (np.unique(found[total[found] < total[-1]]) / _CELLS + _LOWEST)
    return np.append(0.0, temperature * knots)


@dataclass(frozen=True)
class _Rows:
    """The mean loss as a function of the slopes in units of 1/T."""

    held: HeldOut
    knots: Array
    unit: float

    def jet(self, slopes: Array) -> Jet:
        """Return the penalised mean loss, its gradient and its Hessian."""
        loss, gradient, hessian = self.sums(slopes)
        rough = np.diff(np.eye(len(slopes)), axis=0)
        rough = rough.T @ rough / self.held.weight.sum()
        return loss + slopes @ rough @ slopes / 2, gradient + rough @ slopes, hessian + rough

    def sums(self, slopes: Array) -> Jet:
        r"""Return the mean loss, its gradient and its Hessian.

        With φ_m(d) the length of piece m that a gap d covers, −log p_y is φ(d_y)·s + log Σ_j exp(−φ(d_j)·s).
        Since a gap that ends on a later piece covers all of m, means of φ and of its products need only the
        sums of p, of p r and of p r² on each piece, with r the length that is covered of the last one.
        """
        lengths = np.append(np.diff(self.knots), 0.0) / self.unit
        loss, gradient, hessian = 0.0, np.zeros(len(slopes)), np.zeros((len(slopes), len(slopes)))
        squares, later = np.zeros(len(slopes)), np.zeros(len(slopes))
        means = np.zeros(len(slopes))
        for w, p_y, of_label, mean, square, beyond in self._moments(slopes, lengths):
            loss -= float(w @ np.log(np.maximum(p_y, 1e-300)))
            gradient += w @ (of_label - mean)
            hessian -= (mean * w[:, None]).T @ mean
            squares, later, means = squares + square, later + w @ beyond, means + w @ mean
        both = np.triu(np.outer(lengths, means), 1)
        hessian += both + both.T + np.diag(squares + lengths**2 * later)
        total = self.held.weight.sum()
        return loss / total, gradient / total, hessian / total

    def outer(self, slopes: Array) -> Array:
        """Return the sum of the squared weighted gradients, over the squared total weight."""
        lengths = np.append(np.diff(self.knots), 0.0) / self.unit
        found = np.zeros((len(slopes), len(slopes)))
        for w, _, of_label, mean, _, _ in self._moments(slopes, lengths):
            slope = w[:, None] * (of_label - mean)
            found += slope.T @ slope
        return np.asarray(found / self.held.weight.sum() ** 2)

    def _moments(self, slopes: Array, lengths: Array) -> Iterator[tuple[NDArray[Any], ...]]:
        """Return what the sums are made of, for some rows at a time.

        Weights and the labels' probabilities (b,); by piece, φ of the label and the mean of φ (b, M),
        Σ w p r² (M,), and the probability beyond the piece (b, M).
        """
        knots, count = self.knots / self.unit, len(slopes)
        for rows in row_slices(self.held.n, self.held.n_classes):
            part = self.held.part(rows)
            piece, beyond = _places(part.log_probs / self.unit, knots)
            p = np.exp(part.normalised(_function(piece, beyond, knots, slopes)))  # (b, K)
            every = np.arange(part.n)
            place = (every[:, None] * count + piece).ravel()
            on = np.bincount(place, p.ravel(), part.n * count).reshape(part.n, count)
            over = np.bincount(place, (p * beyond).ravel(), part.n * count).reshape(part.n, count)
            weighed = part.weight[:, None] * p * beyond**2
            square = np.bincount(piece.ravel(), weighed.ravel(), count)
            after = np.cumsum(on[:, ::-1], axis=1)[:, ::-1] - on
            label = piece[every, part.codes], beyond[every, part.codes]
            of_label = np.where(np.arange(count) < label[0][:, None], lengths, 0.0)
            of_label[every, label[0]] = label[1]
            yield part.weight, p[every, part.codes], of_label, over + lengths * after, square, after
