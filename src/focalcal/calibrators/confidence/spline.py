r"""Spline calibration: a smooth map of the log-odds, as smooth as the data ask for."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_range, check_several, check_shape, check_temperature
from focalcal._validate import check_input
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.confidence.smoothing_spline import curve, knots, spline_fits
from focalcal.calibrators.diagnostics import Fitted
from focalcal.calibrators.held_out import HeldOut, log_normalised, map_rows, weighted_rows
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.one_vs_rest.columns import joined, log_odds, log_rest, summary
from focalcal.calibrators.temperature.fitting import fit_temperature

Array = NDArray[np.float64]

#: Log-odds of a class that alone can occur.
_SURE = 1e30


class SplineCalibration(Calibrator):
    r"""A natural cubic spline of the log-odds of the top class (of the second of two).

    Parameters
    ----------
    knots : int
        Knots of the spline, at least 2; fewer where scores are tied.
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    temperature_ : float
        That of temperature scaling, which comes first; 1 for two classes, where the spline does all.
    places_, values_ : ndarray of shape (M,)
        Log-odds at the knots, and what they become; beyond the knots the map is a line.
    stderr_ : dict
        Standard errors of the values by the sandwich formula, at the smoothness that was chosen.
    diagnostics_ : Diagnostics
        How the fit went; its loss is the mean NLL of the calibrated rows.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    Two classes: the log-odds s of the second become f(s). More: after temperature scaling those of the top
    class do, with the event that it is the label, and the other classes share the rest in proportion to what
    they had. (Without the temperature, an over-confident model's top class would often fall below its
    second.) f need not be monotone, and where it lowers the top class below another one, the predicted class
    changes.

    f minimises the log loss against Platt's smoothed targets plus a multiple λ of ∫ f''², by Newton's
    method; without curvature it is Platt scaling. Of 21 λ the one is taken with the lowest leave-one-out
    log loss, approximated by one Newton step of each fit without the row:

    .. math:: f_{-i}(s_i) \approx f(s_i) + \frac{h_i (p_i - t_i)}{1 - h_i p_i (1 - p_i)}, \qquad
              h_i = b_i^\top (H + \lambda\Omega)^{-1} b_i .

    References
    ----------
    Lucena 2018, arXiv 1809.07751; Green and Silverman 1994, Nonparametric regression and generalized linear
    models, for the penalty; Rad and Maleki 2020, arXiv 1801.10243, for the approximate leave-one-out.

    Examples
    --------
    Of scores that are twice too sure, half the log-odds are right. Nothing asks for curvature:

    >>> import numpy as np
    >>> s = np.repeat(np.linspace(-3, 3, 7), 1000)
    >>> y = (np.arange(7000) % 1000 + 0.5 < 1000 / (1 + np.exp(-s))).astype(int)
    >>> cal = SplineCalibration().fit(2 * s, y)
    >>> p = cal.predict_proba([0.0, 2.0, 4.0])[:, 1]
    >>> np.allclose(np.log(p / (1 - p)), [0, 1, 2], atol=0.02)
    True
    """

    _parameter_names = ("temperature", "places", "values")

    temperature_: float
    places_: Array
    values_: Array

    def __init__(self, *, knots: int = 16, input: str = "logits", classes: Any = None) -> None:
        self.knots = knots
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        check_several("knots", self.knots)

    def _check_parameters(self) -> None:
        check_temperature(self.temperature_)
        check_shape("values", self.values_, (len(np.atleast_1d(self.places_)),))
        check_shape("places", self.places_, self.values_.shape)
        check_range("number of places", len(self.places_), 2, math.inf)
        check_range("distances of the places", np.diff(self.places_), 1e-300, math.inf)

    def _estimate(self, objective: Objective) -> Fitted:
        held, temperature = weighted_rows(objective), 1.0
        if held.n_classes > 2:
            temperature = float(fit_temperature(objective, "nll", None).parameters["temperature"])
        log_probs = held.normalised(held.log_probs / temperature)
        scores, hits, weight = _events(log_probs, held)
        places = knots(scores, weight, self.knots)
        fits = spline_fits(places, scores, hits, weight)
        best = min(fits, key=lambda fit: fit.left_out)  # the first of equals, which is the smoothest
        centred = scores - weight @ scores / weight.sum()
        return summary(
            objective,
            held,
            _answers(log_probs, places, best.values),
            {"temperature": temperature, "places": places, "values": best.values},
            {"values": best.errors},
            converged=best.converged,
            iterations=sum(fit.iterations for fit in fits),
            worse_than_chance=float(weight @ (centred * hits)) < 0,
            identifiable=bool(np.ptp(scores) > 0),
        )

    def _map(self, scores: NDArray[Any], *, probabilities: bool) -> NDArray[np.floating[Any]]:
        kind = check_input(self.input)
        return map_rows(scores, kind, self._recalibrate, probabilities=probabilities, filled=False)

    def _recalibrate(self, log_probs: Array) -> Array:
        return _answers(log_normalised(log_probs / self.temperature_), self.places_, self.values_)


def _answers(log_probs: Array, places: Array, values: Array) -> Array:
    scores, top = _scores(log_probs)
    answers = curve(places, values, scores)
    if log_probs.shape[1] == 2:
        return joined(answers[:, None])
    every = np.arange(len(log_probs))
    # log(1−p) is log p − s
    mapped = log_probs + (scores - log_probs[every, top] - np.logaddexp(0, answers))[:, None]
    mapped[every, top] = -np.logaddexp(0, -answers)
    return np.asarray(mapped)


def _scores(log_probs: Array) -> tuple[Array, NDArray[np.int64]]:
    """Return the log-odds (b,) of the class that is recalibrated, and which class that is."""
    if log_probs.shape[1] == 2:
        with np.errstate(invalid="ignore"):
            scores = np.clip(log_odds(log_probs)[:, 0], -_SURE, _SURE)
        return scores, np.ones(len(log_probs), np.int64)
    every, top = np.arange(len(log_probs)), log_probs.argmax(axis=1)
    return np.asarray((log_probs - log_rest(log_probs))[every, top]), top


def _events(log_probs: Array, held: HeldOut) -> tuple[Array, NDArray[np.bool_], Array]:
    """Return log-odds, whether the event occurred, and weights, where a mask leaves something to decide."""
    scores, top = _scores(log_probs)
    hits = held.codes == top
    if held.masked is None:
        return scores, hits, held.weight
    open_ = (~held.masked).sum(axis=1) > 1
    if not open_.any():
        return np.zeros(held.n), hits, held.weight
    return scores[open_], hits[open_], held.weight[open_]
