"""Selective prediction: the risk of the rows that are kept when the least confident are left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import ndtri

from focalcal._settings import check_level, check_share, optional_module
from focalcal.intervals.estimate import Estimate
from focalcal.intervals.resample import wilson_interval
from focalcal.sums.bins import Array
from focalcal.sums.confidences import Cells
from focalcal.sums.events import events_of


@dataclass(frozen=True, eq=False)
class SelectiveRisk:
    """The risk–coverage curve of the top class.

    Attributes
    ----------
    coverage : ndarray of shape (C,)
        Share of the weight that is kept, rising.
    threshold : ndarray of shape (C,)
        The confidence from which on rows are kept.
    risk, low, high : ndarray of shape (C,)
        Share of misses among them, with Wilson's interval at each point.
    aurc : Estimate
        The area under the curve.
    excess_aurc : float
        What it is above the least that the accuracy allows, all misses being the least confident.
    """

    coverage: Array
    threshold: Array
    risk: Array
    low: Array
    high: Array
    aurc: Estimate
    excess_aurc: float

    def at(self, coverage: float) -> Estimate:
        """Return the risk at the smallest coverage on the curve that is at least `coverage`."""
        share = check_share("coverage", coverage)
        i = int(np.searchsorted(self.coverage, share - 1e-12).clip(0, len(self.coverage) - 1))
        value, low, high = (float(x[i]) for x in (self.risk, self.low, self.high))
        n = round(self.aurc.n * float(self.coverage[i]))
        stderr = (high - low) / (2 * float(ndtri(0.5 + self.aurc.level / 2)))
        return Estimate(value, stderr, low, high, n, "wilson", self.aurc.level)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        arrays = ("coverage", "threshold", "risk", "low", "high")
        curve = {name: getattr(self, name).tolist() for name in arrays}
        return {"aurc": self.aurc.to_dict(), "excess_aurc": self.excess_aurc, "curve": curve}

    def plot(self, ax: Any = None) -> Any:
        """Draw the curve with its intervals; returns the axes."""
        plt = optional_module("matplotlib.pyplot", "SelectiveRisk.plot", "plot")
        if ax is None:
            ax = plt.subplots(layout="constrained")[1]
        ax.fill_between(self.coverage, self.low, self.high, alpha=0.25, linewidth=0, step="pre")
        ax.step(self.coverage, self.risk, where="pre")
        ax.set(xlim=(0, 1), xlabel="coverage", ylabel="risk (share of misses)")
        ax.set_ylim(bottom=0)
        return ax


def selective_risk(
    y_true: Any,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    ignore_index: int | None = None,
    level: float = 0.95,
) -> SelectiveRisk:
    r"""Compute the risk–coverage curve and its area, AURC.

    Parameters
    ----------
    y_true, y_prob, sample_weight, input, classes, ignore_index, level
        As in `focalcal.evaluate`.

    Returns
    -------
    SelectiveRisk

    Notes
    -----
    Rows are kept in the order of falling confidence; those of equal confidence enter together, and count as
    if in random order for the area, :math:`\mathrm{AURC} = \int_0^1 R(u)\,du`, R the risk at coverage u.
    Libraries that average R over the n rows instead differ by terms of order 1/n.

    Temperature scaling can change the order of rows, so AURC judges confidences as a ranking, not as
    probabilities. The standard error follows from
    :math:`\mathrm{AURC} = E[e\,(-\log U)]`, with U the coverage at which a row enters and e its miss, through
    its influence function; the interval is normal in the logarithm. 95 % intervals covered in 90 to 98 %
    (``benchmarks/results/interval_coverage.txt``).
    Beyond 262,144 rows equal cells of 1/1024 of 1 − c enter together.

    References
    ----------
    Geifman and El-Yaniv 2017, arXiv:1705.08500; Geifman, Uziel and El-Yaniv 2019, arXiv:1805.08206 (excess);
    Zhou et al. 2025, arXiv:2410.15361 (the estimator).

    Examples
    --------
    >>> found = selective_risk([0, 0, 1], [[0.9, 0.1], [0.8, 0.2], [0.7, 0.3]])  # the least sure is wrong
    >>> found.risk.round(3).tolist(), found.at(0.5).value
    ([0.0, 0.0, 0.333], 0.0)
    """
    level = check_level(level)
    cells, n = events_of(y_true, y_prob, sample_weight, input, classes, None, ignore_index)
    return selective_of(cells, n, level)


def selective_of(cells: Cells, n: int, level: float) -> SelectiveRisk:
    """Return the curve of events."""
    weight, misses = cells.weight.sum(axis=0)[::-1], cells.weight[0][::-1]
    squared = cells.weight_squared.sum(axis=0)[::-1]
    full = weight > 0
    weight, misses, squared, end = (x[full] for x in (weight, misses, squared, cells.end[::-1]))
    total = weight.sum()
    kept, missed = np.cumsum(weight), np.cumsum(misses)
    risk = missed / kept
    low, high = wilson_interval(risk, kept**2 / np.cumsum(squared), level)
    aurc = _area(cells, n, level)
    rate = float(missed[-1] / total)
    least = rate + (1 - rate) * float(np.log1p(-rate)) if rate < 1 else 1.0
    return SelectiveRisk(kept / total, end, risk, low, high, aurc, aurc.value - least)


def _area(cells: Cells, n: int, level: float) -> Estimate:
    """Return the area under the curve with its standard error by the influence function."""
    weight = cells.weight.sum(axis=0)[::-1]
    full = weight > 0
    share = weight[full] / weight.sum()
    rate = cells.weight[0][::-1][full] / weight[full]
    after = np.minimum(np.cumsum(share), 1.0)
    before = after - share
    missed = np.cumsum(share * rate) - share * rate  # before each cell
    ratio = np.log(after / np.where(before > 0, before, after))
    value = float((rate * share + np.where(before > 0, (missed - rate * before) * ratio, 0.0)).sum())
    # a row's own part is −log U, on average over its cell; and it shifts all that enter after it
    own = (
        1
        - (after * np.log(after) - np.where(before > 0, before * np.log(np.maximum(before, 1e-300)), 0))
        / share
    )
    later = np.cumsum((rate * ratio)[::-1])[::-1] - rate * ratio + rate * (own + np.log(after))
    error = float(share @ rate)
    move = [hit * own - value - later + error for hit in (1.0, 0.0)]
    squared = cells.weight_squared[:, ::-1][:, full]
    variance = float(squared[0] @ move[0] ** 2 + squared[1] @ move[1] ** 2)
    stderr = float(np.sqrt(variance)) / float(weight.sum()) if n > 1 else float("nan")
    if value > 0:  # skewed where misses are few: normal in its logarithm
        factor = float(np.exp(ndtri(0.5 + level / 2) * stderr / value))
        low, high = value / factor, min(value * factor, 1.0)
    else:  # no miss: as high as the hit rate's interval allows, at random confidences
        count = float(weight.sum()) ** 2 / float(cells.weight_squared.sum())
        low, high = 0.0, 1 - float(wilson_interval(1.0, count, level)[0])
    return Estimate(value, stderr, low, high, n, "normal in the logarithm", level)
