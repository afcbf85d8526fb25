"""The losses at the temperatures and γ of Komisarenko and Kull's own grid."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal.calibrators.objective import split
from focalcal.calibrators.temperature.ece_search import GRID_GAMMAS, GRID_TEMPERATURES, equal_mass_ece
from focalcal.engine import row_slices
from focalcal.kernels import reference
from focalcal.rows import Block, as_rows

Array = NDArray[np.float64]


def grid_losses(logits: NDArray[Any], labels: NDArray[Any]) -> dict[str, Array]:
    """Return the mean losses at each temperature (rows) and γ (columns) of the paper's grid.

    Parameters
    ----------
    logits : array of shape (n, K)
    labels : array of shape (n,)
        Column numbers.

    Returns
    -------
    dict of str to array of shape (100, 11)
        "nll" in nats, "brier", and "ece" of the top label in 15 bins of equal mass.

    Notes
    -----
    The grid is arXiv 2408.11598's, T = .05, .10, …, 5 and γ = −1, …, 5. One softmax serves all γ of a
    temperature, and one map all three losses.

    Examples
    --------
    Of four equal rows three are right: without a focal map the best temperature is 4/log 3 = 3.64, and on
    the grid 3.65.

    >>> losses = grid_losses(np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1]))["nll"]
    >>> float(GRID_TEMPERATURES[losses[:, GRID_GAMMAS.index(0.0)].argmin()].round(2))
    3.65
    """
    rows = as_rows(logits, labels, None, "logits", None)[0].in_memory()
    whole = Block(rows.scores, rows.codes, rows.weight)
    parts = [whole.part(place) for place in row_slices(rows.n, rows.n_classes)]
    blocks = [(split(part, rows.kind), part.codes) for part in parts]
    hit = np.concatenate([halves.hit for halves, _ in blocks])
    found: dict[str, list[list[float]]] = {"nll": [], "brier": [], "ece": []}
    for temperature in GRID_TEMPERATURES:
        each = [_losses(halves, codes, math.log(temperature)) for halves, codes in blocks]
        nll, brier, top = np.concatenate(each, axis=2)  # (11, n) each
        found["nll"].append(nll.mean(axis=1).tolist())
        found["brier"].append(brier.mean(axis=1).tolist())
        found["ece"].append([equal_mass_ece(confidence, hit, None) for confidence in top])
    return {criterion: np.array(losses) for criterion, losses in found.items()}


def best_cell(losses: Array) -> tuple[float, float]:
    """Return the temperature and γ of the lowest loss on the grid."""
    place, column = np.unravel_index(losses.argmin(), losses.shape)
    return float(GRID_TEMPERATURES[place]), GRID_GAMMAS[column]


def _losses(halves: reference.Rows, codes: NDArray[np.intp], log_temperature: float) -> Array:
    """Return NLL, Brier score and the top class's probability of each row, shape (3, 11, b)."""
    soft, every = reference.softmax(halves, log_temperature), np.arange(len(codes))
    out = np.empty((3, len(GRID_GAMMAS), len(codes)))
    miss = np.flatnonzero(~halves.hit)
    log_q = halves.label[miss] * math.exp(-log_temperature) + (soft.log_q - soft.gap)[miss]
    q = np.exp(log_q)
    for k, (weight, mass, log_odds) in enumerate(reference.mapped_odds(halves, soft, GRID_GAMMAS)):
        log_top = -np.logaddexp(0, log_odds)
        top, each = np.exp(log_top), np.exp(log_odds + log_top) / mass  # of a unit of weight
        held = weight[every, codes] if halves.axis else weight[codes, every]
        of_label = np.where(halves.hit, top, each * held)
        squares = top**2 + each**2 * halves.total(weight, weight)
        out[0, k] = -log_top
        # not by `held`, which may be too small for its precision
        gamma = GRID_GAMMAS[k]
        own = log_q + (1 - gamma) * np.log1p(-q) - np.log(1 - q - gamma * q * log_q)
        centre = (soft.log_q - soft.gap + np.log(mass))[miss]
        out[0, k, miss] = centre - own - (log_odds + log_top)[miss]
        out[1, k], out[2, k] = squares - 2 * of_label + 1, top
    return out
