"""The methods that the study of focal temperature scaling compares, and the measures it judges them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from focalcal.calibrators import FocalTemperatureScaling, MixedTemperatureScaling, TemperatureScaling
from focalcal.experiments.scaling.grid import best_cell, grid_losses
from focalcal.maps import focal_map, temperature_map
from focalcal.metrics import brier, classwise_ece, ece, nll

Array = NDArray[np.float64]
Logits = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]


class Fit(NamedTuple):
    """What a method found on validation rows: a map from logits to log-probabilities, and its parameters."""

    map: Callable[[Logits], Array]
    parameters: Mapping[str, float]


CRITERIA = ("nll", "brier", "ece")


def _plain(z: Logits) -> Array:
    return np.asarray(log_softmax(z.astype(np.float64), axis=1))


def _raw(logits: Logits, labels: Labels) -> Fit:
    return Fit(_plain, {})


def _fitted(kind: Any, criterion: str, logits: Logits, labels: Labels) -> Fit:
    found = kind(criterion=criterion).fit(logits, labels)
    names = [name for name in ("temperature", "gamma") if hasattr(found, f"{name}_")]
    return Fit(found.transform, {name: float(getattr(found, f"{name}_")) for name in names})


def _on_grid(logits: Logits, labels: Labels) -> dict[str, Fit]:
    """Return the best of the published grid by each criterion, all of them from one search."""
    losses = grid_losses(logits, labels)
    return {f"FTS {criterion}, grid": _mapped(*best_cell(losses[criterion])) for criterion in CRITERIA}


def _mapped(temperature: float, gamma: float) -> Fit:
    return Fit(
        lambda z: np.asarray(focal_map(temperature_map(z, temperature), gamma)),
        {"temperature": temperature, "gamma": gamma},
    )


def mixed(logits: Logits, labels: Labels) -> Fit:
    """Fit (1 − λ) softmax(z/T) + λ/K by log loss: as many parameters as focal temperature scaling has.

    Parameters
    ----------
    logits : array of shape (n, K)
    labels : array of shape (n,)
        Column numbers.

    Returns
    -------
    Fit
        With "temperature" T and "share" λ in [0, 1].

    Examples
    --------
    Two classes, logits twice too large, and one row in five labelled at random: of the sure rows one label
    in ten is wrong, of the others 0.2/2 + 0.8/(1 + exp(4/2)), 195 in a thousand.

    >>> z = np.repeat([[40.0, 0.0], [4.0, 0.0]], 1000, axis=0)
    >>> fit = mixed(z, np.repeat([0, 1, 0, 1], [900, 100, 805, 195]))
    >>> {name: round(value, 2) for name, value in fit.parameters.items()}
    {'temperature': 2.0, 'share': 0.2}
    """
    found = MixedTemperatureScaling().fit(logits, labels)
    parameters = {"temperature": found.temperature_, "share": found.share_}
    return Fit(lambda z: np.asarray(found.transform(z), np.float64), parameters)


def _structured(logits: Logits, labels: Labels) -> Fit:
    """Fit probmetrics' structured matrix scaling."""
    found = import_module("probmetrics.calibrators").get_calibrator("sms")
    found.fit(np.exp(_plain(logits)), labels)
    return Fit(lambda z: np.log(np.maximum(found.predict_proba(np.exp(_plain(z))), 1e-300)), {})


#: By name: fitted on validation logits and labels; "grid" finds several.
METHODS: dict[str, Callable[[Logits, Labels], Fit | dict[str, Fit]]] = {
    "raw": _raw,
    **{f"TS {criterion}": partial(_fitted, TemperatureScaling, criterion) for criterion in CRITERIA},
    **{f"FTS {criterion}": partial(_fitted, FocalTemperatureScaling, criterion) for criterion in CRITERIA},
    "grid": _on_grid,
    "TS + uniform": mixed,
    **({"SMS": _structured} if find_spec("probmetrics") else {}),
}

#: By name: of labels and log-probabilities. The ECE of Komisarenko and Kull's search has 15 bins of equal
#: mass; the one that Mukhoti et al. print has 15 of equal width.
METRICS: dict[str, Callable[[Labels, Any], float]] = {
    "nll": lambda y, p: nll(y, p, input="logits").value,
    "brier": lambda y, p: brier(y, p, input="logits").value,
    "ece": lambda y, p: ece(y, p, input="logits", binning="equal-mass").value,
    "classwise ece": lambda y, p: classwise_ece(y, p, input="logits").value,
    "ece, equal width": lambda y, p: ece(y, p, input="logits").value,
}
