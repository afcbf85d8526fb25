"""The temperatures and γ of Komisarenko and Kull's own grid, and which of them is best by a criterion."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal.calibrators.ece_search import GRID_GAMMAS, GRID_TEMPERATURES, errors_at
from focalcal.calibrators.objective import Objective, split
from focalcal.engine import row_slices
from focalcal.kernels.reference import mapped_odds
from focalcal.rows import ArrayRows, Block, as_rows

Array = NDArray[np.float64]


def grid_losses(logits: NDArray[Any], labels: NDArray[Any], criterion: str) -> Array:
    """Return the mean loss at each temperature (rows) and γ (columns) of the paper's grid.

    Parameters
    ----------
    logits : array of shape (n, K)
    labels : array of shape (n,)
        Column numbers.
    criterion : {"nll", "brier", "ece"}
        The ECE is that of the top label in 15 bins of equal mass.

    Returns
    -------
    array of shape (100, 11)

    Notes
    -----
    One softmax serves all γ of a temperature, arXiv 2408.11598's T = .05, .10, …, 5 and γ = −1, …, 5.

    Examples
    --------
    Of four equal rows three are right: without a focal map the best temperature is 4/log 3 = 3.64, and on
    the grid 3.65.

    >>> losses = grid_losses(np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1]), "nll")
    >>> float(GRID_TEMPERATURES[losses[:, GRID_GAMMAS.index(0.0)].argmin()].round(2))
    3.65
    """
    rows = as_rows(logits, labels, None, "logits", None)[0].in_memory()
    temperatures = [float(t) for t in GRID_TEMPERATURES]
    if criterion == "ece":
        found = errors_at(rows, [(t, gamma) for t in temperatures for gamma in GRID_GAMMAS])
        return np.array([[found[t, gamma] for gamma in GRID_GAMMAS] for t in temperatures])
    if criterion == "brier":
        return _brier(rows, temperatures)
    objective = Objective(rows)
    return np.array(
        [[objective.sums(math.log(t), gamma, "nll").loss for gamma in GRID_GAMMAS] for t in temperatures]
    )


def best_on_grid(logits: NDArray[Any], labels: NDArray[Any], criterion: str) -> tuple[float, float]:
    """Return the temperature and γ of the lowest loss on the paper's grid."""
    losses = grid_losses(logits, labels, criterion)
    place, column = np.unravel_index(losses.argmin(), losses.shape)
    return float(GRID_TEMPERATURES[place]), GRID_GAMMAS[column]


def _brier(rows: ArrayRows, temperatures: list[float]) -> Array:
    total = np.zeros((len(temperatures), len(GRID_GAMMAS)))
    for part in row_slices(rows.n, rows.n_classes):
        block = Block(rows.scores, rows.codes, rows.weight).part(part)
        halves, every = split(block, rows.kind), np.arange(len(block))
        for i, temperature in enumerate(temperatures):
            found = mapped_odds(halves, math.log(temperature), GRID_GAMMAS)
            for k, (weight, mass, odds) in enumerate(found):
                top, each = 1 / (1 + odds), odds / (1 + odds) / mass  # of the top class; of a unit of weight
                held = weight[every, block.codes] if halves.axis else weight[block.codes, every]
                of_label = np.where(halves.hit, top, each * held)
                squares = top**2 + each**2 * halves.total(weight, weight)
                total[i, k] += (squares - 2 * of_label + 1).sum()
    return total / rows.n
