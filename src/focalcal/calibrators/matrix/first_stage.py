"""Temperature scaling as the first stage of the affine families, from which the next one starts.

A few rows that are sure and wrong can rule the temperature: trees that leave a class out, a naive Bayes
model's logits in the thousands. A share of the uniform distribution then takes their part. On the other hand
it hides which of the unlikely classes is the likelier, and that is what a matrix lives on: of the 28 files
that were looked at it helps where it lowers the NLL of this stage by 7 % and more, and does harm up to 2 %.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from focalcal.calibrators.confidence.mixed import MixedTemperatureScaling, glimpse
from focalcal.calibrators.diagnostics import Diagnostics, Fitted, Value
from focalcal.calibrators.held_out import Array, HeldOut, log_normalised, weighted_rows, with_uniform
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.temperature.fitting import fit_temperature

#: By what part of the NLL of temperature scaling a share of the uniform distribution must lower it; that a
#: quick look finds a fifth of it is reason enough for the fit.
_WORTH = 0.05

#: Least share that is taken, in rows: one row that is wrong may come in as many again.
_ROWS = 0.5


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
    return FirstStage(held, _temperature(fitted), fitted.diagnostics)


class Start(NamedTuple):
    """A temperature, the share of the uniform distribution, 0 unless it is worth it, and how the fit went."""

    temperature: float
    share: float
    diagnostics: Diagnostics


def find_start(held: HeldOut) -> Start:
    """Fit temperature scaling, and a share of the uniform distribution where that is much better."""
    objective = held.objective()
    plain = fit_temperature(objective, "nll", None)
    temperature, loss = _temperature(plain), plain.diagnostics.loss
    if glimpse(held, temperature).loss < (1 - _WORTH / 5) * loss:
        mixed = MixedTemperatureScaling()._estimate(objective)
        # where T is at its bound, every row says the same, whatever its scores
        if mixed.diagnostics.loss < (1 - _WORTH) * loss and not mixed.diagnostics.at_bound:
            least = _ROWS / (float(held.weight.sum()) + 1)
            share = max(float(np.asarray(mixed.parameters["share"])), least)
            return Start(_temperature(mixed), share, mixed.diagnostics)
    return Start(temperature, 0.0, plain.diagnostics)


def _temperature(fitted: Fitted) -> float:
    return float(np.asarray(fitted.parameters["temperature"]))


def smoothed(log_probs: Array, temperature: float, share: float) -> Array:
    """Return log((1 − share) softmax(log p/T) + share/K), where K counts the row's possible classes.

    Where a class cannot occur (−inf), return the lowest of its row's others.
    """
    mixed = with_uniform(log_normalised(log_probs / temperature), share)
    masked = np.isneginf(log_probs)
    if not masked.any():
        return mixed
    lowest = np.where(masked, np.inf, mixed).min(axis=1, keepdims=True)
    return np.asarray(np.where(masked, lowest, mixed))
