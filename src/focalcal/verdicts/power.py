"""How many labelled rows it takes to see a miscalibration."""

from __future__ import annotations

from typing import Any

import numpy as np

from focalcal._settings import check_bins, check_gap, check_level, check_share
from focalcal._validate import as_array
from focalcal.intervals.gap_interval import ClassCells, moments
from focalcal.sums.bins import Array, bin_rows, equal_width_edges

#: More rows than this are not looked for.
_MOST = 1 << 40


def sample_size(
    gap: float,
    confidence: Any = 0.9,
    *,
    bins: int = 15,
    power: float = 0.8,
    level: float = 0.95,
) -> int:
    """Return the number of rows needed to see an expected calibration error of a given size.

    Parameters
    ----------
    gap : float
        The ECE to be seen, in (0, 1): in every bin, confidence is above the hit rate by this much (below it
        where the hit rate would be negative).
    confidence : float or array_like of shape (n,)
        The top class's confidence: one typical value, or those of some predictions (no labels needed).
    bins : int
        Equal-width bins, as of `focalcal.ece`.
    power : float
        Probability to see it.
    level : float
        Of the interval.

    Returns
    -------
    int
        Rows at which, with probability `power`, the interval of `focalcal.ece` does not reach 0.

    Raises
    ------
    ValueError
        If no number of rows would do: gaps that no confidence allows.

    Notes
    -----
    The plug-in ECE's distribution with and without the gap is that of its interval
    (`focalcal.intervals.gap_interval`: exact binomial means and variances, third moments). More bins need
    more rows.
    By simulation the power at the returned size is .77 to .82 where .8 was asked
    (``benchmarks/results/verdicts.txt``, 400 samples in each of six cases).

    Examples
    --------
    >>> sample_size(0.05, 0.9) < sample_size(0.02, 0.9) < sample_size(0.02, 0.7)
    True
    """
    check_gap(gap)
    bins, power, level = check_bins(bins), check_share("power", power), check_level(level)
    values = np.atleast_1d(as_array(confidence, "confidence")).astype(np.float64)
    if values.ndim != 1 or not len(values) or not ((values > 0) & (values <= 1)).all():
        span = f", from {values.min():.3g} to {values.max():.3g}" if values.size else ""
        raise ValueError(
            "Expected confidence as one number or an array of shape (n,), in (0, 1], got "
            f"shape {values.shape}{span}. Pass p.max(axis=1)."
        )
    sums = bin_rows(values, np.zeros(len(values)), None, equal_width_edges(bins))
    full = sums.count > 0
    share, mean = sums.share[full], sums.mean_confidence[full]
    low, high = 1, 2
    while _power(high, share, mean, gap, level) < power:
        low, high = high, high * 2
        if high > _MOST:
            raise ValueError(
                f"Expected a gap that these confidences allow, got {gap}: no number of rows would show it "
                f"with power {power}. Ask for less power or a larger gap."
            )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _power(middle, share, mean, gap, level) >= power else (middle, high)
    return high


def _power(n: int, share: Array, confidence: Array, gap: float, level: float) -> float:
    """Return how often n rows show it."""
    if (confidence == 1).all():  # one miss is enough
        return float(1 - (1 - gap) ** n)
    cells = ClassCells(
        share, confidence, confidence, np.maximum(n * share, 1), np.arange(len(share)), n_classes=1
    )
    shift = np.where(confidence >= gap, gap, -gap) * share
    calibrated, shifted = moments(cells, np.zeros_like(share)), moments(cells, cells.possible(shift))
    return shifted.tail(calibrated.quantile(level))
