r"""Binned calibration errors in their norms, plug-in and debiased, from bin sums.

With share s, mean confidence c̄ and hit rate ȳ of each bin:

.. math:: \mathrm{ECE}_1 = \sum_b s_b |\bar c_b - \bar y_b|,\quad
          \mathrm{ECE}_2 = \Big(\sum_b s_b (\bar c_b - \bar y_b)^2\Big)^{1/2},\quad
          \mathrm{MCE} = \max_b |\bar c_b - \bar y_b|

Class-wise sums are averaged over classes inside the root; the maximum is over all bins of all classes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.special import erf

from focalcal.intervals.estimate import Estimate
from focalcal.intervals.gap_interval import ClassCells
from focalcal.intervals.groups import Groups
from focalcal.intervals.resample import estimate_gap_sum
from focalcal.intervals.simulation import interval
from focalcal.sums.bins import Array, BinSums

NORMS = ("l1", "l2", "max")


def estimate_binned(
    sums: BinSums, n: int, level: float, norm: str = "l1", debiased: bool = False, seed: int = 0
) -> Estimate:
    """Return a binned error with its interval, of sums of shape (B,) or (K, B), averaged over classes."""
    if norm == "l1":
        plug_in = estimate_gap_sum(sums, n, level)
        if not debiased:
            return plug_in
        value = debiased_l1(ClassCells.of(sums))
        return Estimate(value, plug_in.stderr, plug_in.low, plug_in.high, n, plug_in.method, level)
    cells = ClassCells.of(sums)
    statistic = _NORMS[norm](cells)
    value = debiased_l2(cells) if debiased else float(statistic(cells.rate[None])[0])
    draws = int(np.clip(300_000 // len(cells.share), 60, 300))
    _, stderr, low, high = interval(
        cells,
        [cells.shrinking(), cells.uniform()],
        statistic,
        level,
        upper=[cells.roomy()],
        draws=draws,
        seed=seed,
    )
    method = f"inverted test, {draws} simulations, seed {seed}"
    return Estimate(value, stderr if n > 1 else float("nan"), low, high, n, method, level)


def _l2(groups: Groups) -> Callable[[Array], Array]:
    return lambda rates: np.sqrt(((groups.confidence - rates) ** 2) @ groups.share)


def _largest(groups: Groups) -> Callable[[Array], Array]:
    return lambda rates: np.asarray(np.abs(groups.confidence - rates).max(axis=1))


_NORMS = {"l2": _l2, "max": _largest}


def _noise(groups: Groups) -> Array:
    """Return the estimated variance of each group's hit rate; of one row alone, as announced."""
    alone = groups.rows <= 1 + 1e-9
    rate = np.where(alone, groups.confidence, groups.rate)
    return np.asarray(rate * (1 - rate) / np.where(alone, 1, groups.rows - 1))


def debiased_l2(groups: Groups) -> float:
    """Return (Σ_b s_b [(c̄ − ȳ)² − ȳ(1 − ȳ)/(n_b − 1)])^½ [Kumar et al. 2019], 0 where the sum is negative."""
    square = (groups.confidence - groups.rate) ** 2 - _noise(groups)
    return float(np.sqrt(max(float(square @ groups.share), 0.0)))


def debiased_l1(groups: Groups) -> float:
    """Return Σ_b s_b (2|g_b| − E|g_b + noise|) for normal noise, 0 where that is negative."""
    gap, sd = np.abs(groups.confidence - groups.rate), np.sqrt(_noise(groups)) + 1e-300
    with np.errstate(over="ignore", under="ignore"):
        r = np.minimum(gap / sd, 40)
        folded = sd * np.sqrt(2 / np.pi) * np.exp(-(r**2) / 2) + gap * erf(r / np.sqrt(2))
    return max(float((2 * gap - folded) @ groups.share), 0.0)
