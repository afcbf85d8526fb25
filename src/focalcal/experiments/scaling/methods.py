"""The methods that the study of focal temperature scaling compares, and the measures it judges them by."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logsumexp

from focalcal.calibrators import FocalTemperatureScaling, TemperatureScaling
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
    r"""Fit (1 − λ) softmax(z/T) + λ/K by log loss: as many parameters as focal temperature scaling has.

    Parameters
    ----------
    logits : array of shape (n, K)
    labels : array of shape (n,)
        Column numbers.

    Returns
    -------
    Fit
        With "temperature" T and "share" λ in (0, 1).

    Notes
    -----
    With u = z/T, p the mixed and q the plain probability of the label, the loss −log p has the slopes
    :math:`(1-\lambda)\frac{q}{p}(u_y - \sum_j q_j u_j)` in log T and
    :math:`-\lambda(1-\lambda)\frac{1/K - q}{p}` in the log-odds of λ.

    Examples
    --------
    A row in five is labelled at random, whatever its logits say:

    >>> z = np.repeat([[40.0, 0.0]], 10, axis=0)
    >>> round(mixed(z, np.array([0] * 9 + [1])).parameters["share"], 3)
    0.2
    """
    z, rows = logits.astype(np.float64), np.arange(len(labels))
    flat = 1 / z.shape[1]

    def loss(at: Array) -> tuple[float, Array]:
        u, share = z / math.exp(at[0]), float(expit(at[1]))
        q = np.exp(u - logsumexp(u, axis=1, keepdims=True))  # (n, K)
        of_label = q[rows, labels]
        p = (1 - share) * of_label + share * flat
        by_tau = (1 - share) * of_label / p * (u[rows, labels] - (q * u).sum(axis=1))
        by_share = -share * (1 - share) * (flat - of_label) / p
        return -float(np.log(p).mean()), np.array([by_tau.mean(), by_share.mean()])

    bounds = [(-5.0, 5.0), (-15.0, 5.0)]
    starts = [np.array([0.0, share]) for share in (-6.0, -2.0)]
    tries = (minimize(loss, start, jac=True, bounds=bounds) for start in starts)
    best = min(tries, key=lambda found: found.fun).x
    temperature, share = math.exp(best[0]), float(expit(best[1]))

    def mapped(other: Logits) -> Array:
        plain = _plain(other / temperature)
        return np.asarray(np.logaddexp(math.log1p(-share) + plain, math.log(share * flat)))

    return Fit(mapped, {"temperature": temperature, "share": share})


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
