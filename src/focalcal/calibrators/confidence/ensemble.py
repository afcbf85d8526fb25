r"""Ensemble temperature scaling: a mixture of the scaled, the raw and the uniform probabilities."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_range, check_shape, check_temperature
from focalcal._validate import check_input
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.confidence.nonnegative import Jet, minimise_nonnegative
from focalcal.calibrators.diagnostics import Diagnostics, Fitted
from focalcal.calibrators.held_out import HeldOut, log_normalised, map_rows, weighted_rows
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.temperature.fitting import fit_temperature

Array = NDArray[np.float64]

#: Weights whose curvature along some direction is below this share of the largest are not told apart.
_SINGULAR = 1e-9


class EnsembleTemperatureScaling(Calibrator):
    r"""A mixture p = w₁ softmax(z/T) + w₂ softmax(z) + w₃/K with weights that sum to 1.

    Parameters
    ----------
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    temperature_ : float
        That of temperature scaling.
    weights_ : ndarray of shape (3,)
        w₁, w₂ and w₃, each in [0, 1].
    stderr_ : dict
        Standard errors by the sandwich formula, those of the weights at the given temperature; NaN for a
        weight at 0 and where a single weight is left.
    diagnostics_ : Diagnostics
        How the fit went.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    As in the authors' release, the temperature is fitted first, by the NLL, and then the weights, by the
    NLL at this temperature, where it is convex in them. Minimising −mean log(A w) + Σw over w ≥ 0 brings Σw
    to 1 by itself. The NLL on the fitted rows is never above temperature scaling's.

    K counts the row's possible classes: a masked one stays at 0. The order of a row's classes never changes.
    Separable and constant scores tell nothing of the weights, which are then (1, 0, 0).

    References
    ----------
    Zhang, Kailkhura and Han 2020, ICML, arXiv 2003.07329.

    Examples
    --------
    A model that is never right more than nine times in ten, however sure it is, needs the uniform part:

    >>> import numpy as np
    >>> X = np.repeat([[40.0, 0.0], [1.0, 0.0]], 1000, axis=0)
    >>> y = np.repeat([0, 1, 0, 1], [900, 100, 685, 315])  # 1/(1 + e⁻¹) = .731 = (.685 − .1)/.8
    >>> cal = EnsembleTemperatureScaling().fit(X, y)
    >>> cal.predict_proba(X[[0, -1]]).round(3)[:, 0]
    array([0.9  , 0.685])
    """

    _parameter_names = ("temperature", "weights")

    temperature_: float
    weights_: Array

    def __init__(self, *, input: str = "logits", classes: Any = None) -> None:
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        pass

    def _check_parameters(self) -> None:
        check_temperature(self.temperature_)
        check_shape("weights", self.weights_, (3,))
        check_range("weights", self.weights_, 0, 1)
        check_range("sum of the weights", self.weights_.sum(), 1 - 1e-6, 1 + 1e-6)

    def _estimate(self, objective: Objective) -> Fitted:
        plain = fit_temperature(objective, "nll", None)
        facts = plain.diagnostics
        parameters, stderr = dict(plain.parameters), dict(plain.stderr)
        if facts.separable or not facts.identifiable:
            parameters["weights"], stderr["weights"] = np.array([1.0, 0, 0]), np.full(3, math.nan)
            return Fitted(parameters, stderr, facts)
        held = weighted_rows(objective)
        parts = _parts(held, float(parameters["temperature"]))
        shares = held.weight / held.weight.sum()
        found = minimise_nonnegative(lambda w: _jet(parts, shares, w), np.full(3, 1 / 3))
        weights = found.point / found.point.sum()
        parameters["weights"], stderr["weights"] = weights, _errors(parts, shares, weights)
        curvatures = np.linalg.eigvalsh(found.hessian)
        return Fitted(
            parameters,
            stderr,
            Diagnostics(
                "nll",
                -float(shares @ np.log(parts @ weights)),
                facts.converged and found.converged,
                facts.iterations + found.iterations,
                facts.at_bound,
                worse_than_chance=facts.worse_than_chance,
                identifiable=bool(curvatures[0] > _SINGULAR * curvatures[-1]),
                unseen_classes=facts.unseen_classes,
            ),
        )

    def _map(self, scores: NDArray[Any], *, probabilities: bool) -> NDArray[np.floating[Any]]:
        kind = check_input(self.input)
        return map_rows(scores, kind, self._recalibrate, probabilities=probabilities, filled=False)

    def _recalibrate(self, log_probs: Array) -> Array:
        scaled = log_normalised(log_probs / self.temperature_)
        flat = -np.log(np.isfinite(log_probs).sum(axis=1, keepdims=True))
        with np.errstate(divide="ignore"):
            logs = np.log(self.weights_)
        raw = np.logaddexp(scaled + logs[0], log_probs + logs[1])
        return np.asarray(np.logaddexp(raw, flat + logs[2]))


def _parts(held: HeldOut, temperature: float) -> Array:
    """Return each label's scaled, raw and uniform probability, shape (n, 3)."""
    parts = np.empty((held.n, 3))
    parts[:, 0] = np.exp(-held.losses(held.normalised(held.log_probs / temperature)))
    parts[:, 1] = np.exp(-held.losses(held.log_probs))
    parts[:, 2] = 1 / (held.n_classes if held.masked is None else (~held.masked).sum(axis=1))
    return parts


def _jet(parts: Array, shares: Array, weights: Array) -> Jet:
    p = np.maximum(parts @ weights, 1e-100)  # so that the squares of its inverse are numbers
    ratios = parts / p[:, None]
    hessian = (ratios * shares[:, None]).T @ ratios
    return float(weights.sum() - shares @ np.log(p)), 1 - shares @ ratios, hessian


def _errors(parts: Array, shares: Array, weights: Array) -> Array:
    """Return the weights' standard errors along the simplex, among those above 0."""
    errors = np.full(3, math.nan)
    free = np.flatnonzero(weights > 0)
    if len(free) > 1:
        # directions that keep the sum
        along = np.vstack([np.eye(len(free) - 1), -np.ones(len(free) - 1)])
        slopes = (parts / np.maximum(parts @ weights, 1e-100)[:, None])[:, free] @ along
        inverse = np.linalg.pinv((slopes * shares[:, None]).T @ slopes)
        spread = along @ inverse @ (slopes * shares[:, None] ** 2).T @ slopes @ inverse @ along.T
        errors[free] = np.sqrt(np.diag(spread))
    return errors
