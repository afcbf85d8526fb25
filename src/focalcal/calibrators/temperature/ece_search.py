"""The temperature and γ of lowest top-label calibration error: the paper's grid, then finer grids."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from focalcal.calibrators.objective import Objective, split
from focalcal.engine import row_slices
from focalcal.kernels.reference import top_probability
from focalcal.rows import ArrayRows, Block

#: The grids of Komisarenko and Kull, arXiv 2408.11598.
GRID_TEMPERATURES = np.arange(1, 101) * 0.05
GRID_GAMMAS = (-1.0, -0.75, -0.5, -0.25, 0.0, 0.25, 0.5, 0.75, 1.0, 3.0, 5.0)

_BINS = 15

#: Cells of the grid around which finer ones are laid, how many finer ones, and how much finer each is.
_BEST, _ROUNDS, _FINER = 4, 2, 4.0

Vector = NDArray[np.float64]


def minimise_ece(
    objective: Objective, tau: float, gammas: tuple[float, float] | None
) -> tuple[tuple[float, float], float]:
    """Return (log T, γ) of the lowest 15-bin equal-mass top-label ECE found, and that ECE.

    `tau` is the log T of lowest NLL. Where that is beyond the middle of the paper's grid, the grid is
    scaled by it. Of more rows than 2²¹ numbers hold (but at least 5,000, at most 100,000) as many are
    taken, spread evenly.
    """
    few = min(100_000, max(5_000, (1 << 21) // objective.n_classes))
    part = objective.rows.sample(few) or objective.rows.in_memory()
    scale = 1.0 if 0.25 <= math.exp(tau) <= 4 else math.exp(tau)
    inside = (0.0,) if gammas is None else tuple(g for g in GRID_GAMMAS if gammas[0] <= g <= gammas[1])
    cells = [(float(t), g) for t in GRID_TEMPERATURES * scale for g in inside]
    errors = _errors(part, cells)
    steps = (0.05 * scale, 0.25)
    for _ in range(_ROUNDS):
        best = sorted(cells, key=errors.__getitem__)[:_BEST]
        steps = (steps[0] / _FINER, steps[1] / _FINER)
        cells = [*best, *(new for cell in best for new in _around(cell, steps, gammas))]
        errors |= _errors(part, [cell for cell in dict.fromkeys(cells) if cell not in errors])
    temperature, gamma = min(errors, key=errors.__getitem__)
    return (math.log(temperature), gamma), errors[temperature, gamma]


def _around(
    cell: tuple[float, float], steps: tuple[float, float], gammas: tuple[float, float] | None
) -> list[tuple[float, float]]:
    offsets = np.arange(-3, 4)
    temperatures = [t for t in cell[0] + offsets * steps[0] if t > 0]
    if gammas is None:
        return [(float(t), 0.0) for t in temperatures]
    return [
        (float(t), float(np.clip(cell[1] + k * steps[1], *gammas))) for t in temperatures for k in offsets
    ]


def _errors(part: ArrayRows, cells: list[tuple[float, float]]) -> dict[tuple[float, float], float]:
    """Return the ECE of each (T, γ); the softmax of one T serves all its γ."""
    by_temperature: dict[float, list[float]] = {}
    for temperature, gamma in cells:
        by_temperature.setdefault(temperature, []).append(gamma)
    whole = Block(part.scores, part.codes, part.weight)
    blocks = [split(whole.part(rows), part.kind) for rows in row_slices(part.n, part.n_classes)]
    hit = np.concatenate([rows.hit for rows in blocks])

    def of_temperature(temperature: float) -> list[float]:
        gammas, tau = by_temperature[temperature], math.log(temperature)
        confidence = np.concatenate([top_probability(rows, tau, gammas) for rows in blocks], axis=1)
        return [equal_mass_ece(c, hit, part.weight) for c in confidence]

    found = map(of_temperature, by_temperature)
    return {
        (t, g): e for t, es in zip(by_temperature, found, strict=True) for g, e in zip(by_temperature[t], es)
    }


def equal_mass_ece(confidence: Vector, hit: NDArray[np.bool_], weight: Vector | None) -> float:
    """Return the 15-bin equal-mass ECE: one sort, one running sum; equal confidences are never parted."""
    order = np.argsort(confidence)
    ordered = confidence[order]
    gap = ordered - hit[order]
    if weight is None:
        n = len(order)
        ranks = -(-np.arange(1, _BINS) * n // _BINS) - 1
        total = float(n)
    else:
        gap = gap * weight[order]
        mass = np.cumsum(weight[order])
        total = float(mass[-1])
        ranks = np.searchsorted(mass, np.arange(1, _BINS) * total / _BINS * (1 - 1e-12))
    ends = np.concatenate([np.searchsorted(ordered, ordered[ranks], side="right"), [len(order)]])
    running = np.concatenate([[0.0], np.cumsum(gap)])[ends]
    return float(np.abs(np.diff(running, prepend=0.0)).sum() / total)
