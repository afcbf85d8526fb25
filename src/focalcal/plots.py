"""Reliability diagrams whose bins and number carry intervals (matplotlib)."""

from __future__ import annotations

from concurrent.futures import Executor
from typing import Any, Self

import numpy as np

from focalcal._settings import check_bins, check_level, optional_module
from focalcal.intervals.estimate import Estimate
from focalcal.intervals.resample import estimate_gap_sum, share_interval
from focalcal.metrics.binned import bins_of
from focalcal.sums.bins import BinSums
from focalcal.sums.events import find_column
from focalcal.sums.judging import prepare
from focalcal.verdicts.evaluation import Evaluation

#: Okabe and Ito's vermilion and blue: told apart by colour-blind readers, on white and on black.
OVER, UNDER = "#d55e00", "#2f8fd0"


def percent(e: Estimate, value: float | None = None) -> str:
    """Return an estimate's value, or another number of its kind, in percent with digits that fit it."""
    digits = 2 if e.value < 0.01 else 1
    return f"{e.value if value is None else value:.{digits}%}"


class ReliabilityDisplay:
    """Reliability diagram of the top class, or of one class: hit rate against confidence, with intervals.

    Make it with `from_predictions` or `from_evaluation`.

    Parameters
    ----------
    bins : BinSums
        Sums of shape (B,).
    estimate : Estimate
        The calibration error shown with its interval.
    name : str, optional
        Name of the model, shown above the diagram.
    interval : {"wilson", "clopper-pearson"}
        Of the hit rates; the latter never covers less than it says, and is wider.

    Attributes
    ----------
    ax_, density_ax_ : matplotlib Axes
        The diagram, and the strip below it with the share of rows in each bin.
    figure_ : matplotlib Figure

    Examples
    --------
    >>> display = ReliabilityDisplay.from_predictions([0, 1, 1, 1], [0.25, 0.75, 0.75, 0.75])
    >>> print(display.estimate)  # each of the four rows is a hit at confidence 0.75
    0.2500 [0.0000, 0.5987] (n=4)
    """

    def __init__(
        self, bins: BinSums, estimate: Estimate, *, name: str | None = None, interval: str = "wilson"
    ) -> None:
        self.bins = bins
        self.estimate = estimate
        self.name = name
        self.interval = interval

    @classmethod
    def from_predictions(
        cls,
        y_true: Any,
        y_prob: Any,
        *,
        input: str = "probs",
        sample_weight: Any = None,
        classes: Any = None,
        bins: int = 15,
        level: float = 0.95,
        of_class: Any = None,
        binning: str = "equal-width",
        interval: str = "wilson",
        name: str | None = None,
        ax: Any = None,
        executor: Executor | None = None,
    ) -> Self:
        """Bin predictions and plot them.

        Parameters
        ----------
        y_true, y_prob, input, sample_weight, classes, bins, level, executor
            As in `focalcal.evaluate`.
        of_class, binning
            As in `focalcal.ece`.
        interval : {"wilson", "clopper-pearson"}
            Of the hit rates.
        name : str, optional
            Shown above the diagram.
        ax : matplotlib Axes, optional
            Where to plot; by default a new figure.

        Returns
        -------
        ReliabilityDisplay

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        """
        bins, level = check_bins(bins), check_level(level)
        rows, found = prepare(y_true, y_prob, sample_weight, input, classes, executor=executor)
        column = None if of_class is None else find_column(of_class, found)
        sums = bins_of(rows, column, bins, binning)
        return cls(sums, estimate_gap_sum(sums, rows.n, level), name=name, interval=interval).plot(ax)

    @classmethod
    def from_evaluation(cls, evaluation: Evaluation, *, name: str | None = None, ax: Any = None) -> Self:
        """Plot the bins that `focalcal.evaluate` has summed."""
        return cls(evaluation.bins, evaluation["ece"], name=name).plot(ax)

    def plot(self, ax: Any = None, *, name: str | None = None) -> Self:
        """Draw on `ax`, or on a new figure; returns the display."""
        plt = optional_module("matplotlib.pyplot", "ReliabilityDisplay", "plot")
        if ax is None:
            ax = plt.subplots(figsize=(4.6, 5.4), layout="constrained")[1]
        strip = ax.inset_axes([0, -0.21, 1, 0.17], sharex=ax)
        self.ax_, self.density_ax_, self.figure_ = ax, strip, ax.figure
        self._draw_bins(ax)
        self._draw_density(strip)
        self._label(ax, strip, self.name if name is None else name)
        return self

    def _draw_bins(self, ax: Any) -> None:
        full = self.bins.count > 0
        rows = self.bins.effective_count[full]
        x, y = self.bins.mean_confidence[full], self.bins.hit_rate[full]
        low, high = share_interval(self.interval)(y, rows, self.estimate.level)
        colours = np.where(x > y, OVER, UNDER)
        ax.plot([0, 1], [0, 1], color="0.5", linewidth=1, linestyle=(0, (4, 3)), zorder=1)
        ax.vlines(x, x, y, colors=colours, linewidth=7, alpha=0.35, zorder=2)
        ax.vlines(x, low, high, colors=colours, linewidth=1.4, zorder=3, clip_on=False)
        ax.scatter(x, y, c=colours, s=26, zorder=4, linewidth=0, clip_on=False)

    def _draw_density(self, strip: Any) -> None:
        edges, share = self.bins.edges, self.bins.share
        strip.bar(edges[:-1], share, np.diff(edges), align="edge", color="0.5", alpha=0.55, linewidth=0)
        top = float(share.max())
        strip.set_ylim(0, top * 1.05)
        strip.set_yticks([0, top], ["0", f"{top:.0%}"])

    def _label(self, ax: Any, strip: Any, name: str | None) -> None:
        e = self.estimate
        number = f"ECE {percent(e)} [{percent(e, e.low)}, {percent(e, e.high)}]"
        title = number if name is None else f"{name}\n{number}"
        ax.set_title(title, loc="left", fontsize="medium", parse_math=False)
        ticks = np.linspace(0, 1, 6)
        ax.set(xlim=(0, 1), ylim=(0, 1), ylabel="hit rate", xticks=ticks, yticks=ticks, aspect="equal")
        ax.tick_params(labelbottom=False)
        strip.set(xlabel="confidence", ylabel="rows")
        ax.yaxis.set_label_coords(-0.13, 0.5)
        strip.yaxis.set_label_coords(-0.13, 0.5)
        for axes in (ax, strip):
            axes.patch.set_alpha(0)
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(length=3)
        ax.grid(color="0.5", alpha=0.18, linewidth=0.8)
        text = {"fontsize": "small", "transform": ax.transAxes}
        ax.text(0.97, 0.03, "over-confident", color=OVER, ha="right", va="bottom", **text)
        ax.text(0.03, 0.97, "under-confident", color=UNDER, ha="left", va="top", **text)
