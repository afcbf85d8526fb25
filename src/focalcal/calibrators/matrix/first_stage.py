"""Temperature scaling as the first stage of the affine families, from which the next one starts."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from focalcal.calibrators.diagnostics import Diagnostics, Fitted, Value
from focalcal.calibrators.held_out import Array, HeldOut, log_normalised, weighted_rows
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.temperature.fitting import fit_temperature


@dataclass(frozen=True)
class FirstStage:
    """Temperature scaling's fit, and the rows that the next stage is fitted on."""

    held: HeldOut
    temperature: float
    diagnostics: Diagnostics

    @property
    def mass(self) -> float:
        """Total weight n of the rows."""
        return float(self.held.weight.sum())

    def rows(self, log_probs: Array) -> HeldOut:
        """Return the rows with other log-probabilities."""
        return replace(self.held, log_probs=log_probs)

    def fitted(
        self,
        scores: Array,
        parameters: dict[str, Value],
        stderr: dict[str, Value] | None = None,
        **facts: Any,
    ) -> Fitted:
        """Return the fit of the next stage, whose scores (n, K) need not be normalised."""
        facts["iterations"] += self.diagnostics.iterations
        facts["converged"] &= self.diagnostics.converged
        loss = self.held.nll(self.held.normalised(scores))
        diagnostics = replace(self.diagnostics, criterion="penalised nll", loss=loss, **facts)
        return Fitted(parameters, stderr or {}, diagnostics)


def first_stage(objective: Objective) -> FirstStage:
    """Fit temperature scaling by NLL, on the rows whose weight is above 0."""
    held = weighted_rows(objective)
    fitted = fit_temperature(objective, "nll", None)
    return FirstStage(held, float(np.asarray(fitted.parameters["temperature"])), fitted.diagnostics)


def smoothed(log_probs: Array, temperature: float, share: float) -> Array:
    """Return log((1 − share) softmax(log p/T) + share/K), where K counts the row's possible classes.

    Where a class cannot occur (−inf), return the lowest of its row's others.
    """
    possible = np.isfinite(log_probs)
    scaled = np.exp(log_normalised(log_probs / temperature))
    scaled *= 1 - share
    if possible.all():
        return np.asarray(np.log(scaled + share / scaled.shape[1]))
    mixed = np.log(scaled + share / possible.sum(axis=1, keepdims=True))
    lowest = np.where(possible, mixed, np.inf).min(axis=1, keepdims=True)
    return np.asarray(np.where(possible, mixed, lowest))
