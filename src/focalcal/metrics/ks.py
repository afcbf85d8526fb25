"""The Kolmogorov–Smirnov calibration error: no bins, no width."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.special import ndtri

from focalcal._settings import check_level
from focalcal.intervals.brownian import sup_quantile, sup_tail
from focalcal.intervals.estimate import Estimate
from focalcal.intervals.resample import wilson_interval
from focalcal.sums.confidences import Cells
from focalcal.sums.events import events_of


def ks_error(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    ignore_index: int | None = None,
    of_class: Any = None,
    level: float = 0.95,
) -> Estimate:
    r"""Compute the KS calibration error: the largest gap between summed confidences and summed hits.

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, ignore_index, level
        As in `focalcal.evaluate`.
    of_class : label, optional
        The class whose probability is judged. By default the top class is: its confidence and hits.

    Returns
    -------
    Estimate
        The interval allows for the upward bias, so it may lie below the value.

    Notes
    -----
    :math:`\max_k |\sum_{i \le k} w_i (c_i - y_i)| / \sum_i w_i` over rows by rising confidence c;
    rows of equal confidence enter together, so the order of ties does not matter. It is at most the L1
    calibration error (without bins), and equals it where all gaps have one sign.

    The interval is value ± q·s with q the quantile of sup|B| of a Brownian motion (2.24 at 95 %), which the
    summed residuals' noise tends to, and s² = Σ w²(c − y)²/(Σ w)²; `stderr` is s. It is *conservative*: right
    near calibration, up to 1.14 times too wide far from it. 95 % intervals covered in 93 to 100 %
    (``benchmarks/results/interval_coverage.txt``).

    References
    ----------
    Gupta et al. 2021, arXiv:2006.12800.

    Examples
    --------
    >>> ks_error([1, 1, 1, 0], [0.75, 0.75, 0.75, 0.75]).value
    0.0
    >>> ks_error([1, 0, 0, 0], [0.75, 0.75, 0.75, 0.75]).value
    0.5
    """
    level = check_level(level)
    cells, n = events_of(y_true, y_prob, sample_weight, input, classes, of_class, ignore_index)
    return estimate_ks(cells, n, level)


def estimate_ks(cells: Cells, n: int, level: float) -> Estimate:
    """Return the KS error of events with its interval."""
    gap = cells.confidence.sum(axis=0) - cells.weight[1]
    total = float(cells.weight.sum())
    value = float(np.abs(np.cumsum(gap)).max() / total)
    c = cells.mean_confidence
    square = cells.weight_squared[0] @ c**2 + cells.weight_squared[1] @ (1 - c) ** 2
    stderr = float(np.sqrt(square)) / total
    band = sup_quantile(level) * stderr
    low, high = max(value - band, 0.0), min(value + band, 1.0)
    high = max(high, *map(abs, _mean_gap_ends(cells, level)))  # sure rows without a miss show no spread
    return Estimate(value, stderr if n > 1 else float("nan"), low, high, n, "uniform band", level)


def estimate_mean_gap(cells: Cells, n: int, level: float) -> Estimate:
    """Return mean confidence less accuracy: positive means over-confident."""
    total, c = float(cells.weight.sum()), cells.mean_confidence
    value = float((cells.confidence.sum(axis=0) - cells.weight[1]).sum()) / total
    square = cells.weight_squared[0] @ (c - value) ** 2 + cells.weight_squared[1] @ (1 - c + value) ** 2
    stderr = float(np.sqrt(square)) / total if n > 1 else float("nan")
    half = float(ndtri(0.5 + level / 2)) * stderr
    low, high = value - half, value + half
    if n > 1 and 0 in (cells.weight[0].sum(), cells.weight[1].sum()):
        low, high = _mean_gap_ends(cells, level)
    return Estimate(value, stderr, low, high, n, "normal", level)


def _mean_gap_ends(cells: Cells, level: float) -> tuple[float, float]:
    """Return the mean confidence less the ends of Wilson's interval of the accuracy."""
    total = float(cells.weight.sum())
    confidence = float(cells.confidence.sum()) / total
    rows = total**2 / float(cells.weight_squared.sum())
    low, high = wilson_interval(float(cells.weight[1].sum()) / total, rows, level)
    return confidence - float(high), confidence - float(low)


def ks_test(cells: Cells) -> tuple[float, float]:
    """Return the KS error over its standard deviation under calibration, and how often that is exceeded."""
    gap = cells.confidence.sum(axis=0) - cells.weight[1]
    c = cells.mean_confidence
    sd = float(np.sqrt(cells.weight_squared.sum(axis=0) @ (c * (1 - c))))
    largest = float(np.abs(np.cumsum(gap)).max())
    # saturated rows never vary: any miss among them is impossible under calibration
    statistic = largest / sd if sd > 1e-12 * float(cells.weight.sum()) else float(largest > 0) * 1e6
    return statistic, sup_tail(statistic)
