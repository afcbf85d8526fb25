"""Reliability diagrams, large for the top class and small for single classes, and intervals side by side."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.stats import binom

from focalcal.intervals.estimate import Estimate
from focalcal.intervals.resample import wilson_interval
from focalcal.reporting.svg import Array, Scale, element, number, path, picture, place, text, window
from focalcal.sums.bins import BinSums


def chance_band(bins: BinSums, level: float) -> tuple[Array, Array]:
    """Return where the hit rate of each bin of a calibrated model falls by chance.

    Binomial quantiles at the bin's mean confidence and its effective number of rows; NaN in an empty bin.

    Examples
    --------
    >>> one = np.array([100.0])
    >>> low, high = chance_band(BinSums(np.array([0, 1.0]), one, one, one, 0.5 * one, one), 0.95)
    >>> float(low[0]), float(high[0])
    (0.4, 0.6)
    """
    rows = np.maximum(np.rint(bins.effective_count), 1)
    centre = bins.mean_confidence.clip(0, 1)
    low, high = (binom.ppf(q, rows, centre) / rows for q in ((1 - level) / 2, (1 + level) / 2))
    return np.where(centre == 0, 0.0, low), np.where(centre == 1, 1.0, high)


@dataclass(frozen=True)
class Layout:
    """Where the parts of a diagram are, in units of its drawing."""

    width: float
    height: float
    left: float
    top: float
    side: float  # of the square
    strip: tuple[float, float]  # top and bottom of the density
    parts: int  # between ticks
    dot: float
    titles: bool
    limit: float = 1.0  # largest confidence and hit rate

    @property
    def x(self) -> Scale:
        """The scale of confidence."""
        return Scale(0, self.limit, self.left, self.left + self.side)

    @property
    def y(self) -> Scale:
        """The scale of hit rates."""
        return Scale(0, self.limit, self.top + self.side, self.top)

    @property
    def ticks(self) -> list[float]:
        """Where the grid is."""
        return [self.limit * i / self.parts for i in range(self.parts + 1)]

    def cut(self, parts: Sequence[str]) -> str:
        """Return drawings cut a dot's width beyond the square."""
        right, bottom = self.left + self.side, self.top + self.side
        return window(self.left - self.dot, self.top - self.dot, right + self.dot, bottom + self.dot, parts)


LARGE = Layout(400, 452, 50, 10, 340, (362, 414), 5, 4.2, True)
SMALL = Layout(262, 260, 52, 8, 194, (210, 236), 2, 3.2, False)


def close_up(bins: BinSums) -> Layout:
    """Return a small layout that reaches as far as the bins do: with many classes not far."""
    full = bins.weight > 0
    reach = max(float(bins.mean_confidence[full].max()), float(bins.hit_rate[full].max()))
    limits = [digit * 10.0**power for power in (-4, -3, -2, -1) for digit in (1, 2, 5)]
    return replace(SMALL, limit=next((limit for limit in limits if limit >= 1.3 * reach), 1.0))


def reliability(
    bins: BinSums, level: float, label: str, *, layout: Layout = LARGE, before: BinSums | None = None
) -> str:
    """Return the diagram of one set of bins; with `before`, its hit rates as hollow circles beneath."""
    diagonal = path([(layout.x(t), layout.y(t)) for t in (0, layout.limit)])
    within = [_band(layout, bins, level), element("path", d=diagonal, class_="diagonal")]
    if before is not None:
        within += _hollow(layout, before)
    within += _marks(layout, bins, level)
    parts = [*_frame(layout), layout.cut(within), *_density(layout, bins)]
    return picture(layout.width, layout.height, parts, label)


def _frame(layout: Layout) -> list[str]:
    x, y, end = layout.x, layout.y, layout.limit
    lines = "".join(
        path([(x(t), y(0)), (x(t), y(end))]) + path([(x(0), y(t)), (x(end), y(t))]) for t in layout.ticks
    )
    parts = [element("path", d=lines, class_="grid")]
    foot = layout.strip[1] + 15
    for t in layout.ticks:
        parts.append(text(x(t), foot, number(t, 3), "tick", text_anchor="middle"))
        parts.append(text(x(0) - 7, y(t) + 4, number(t, 3), "tick", text_anchor="end"))
    if layout.titles:
        parts.append(text(x(0.5), foot + 19, "confidence", "title", text_anchor="middle"))
        turned = f"rotate(-90 14 {place(y(0.5))})"
        parts.append(text(14, y(0.5), "hit rate", "title", text_anchor="middle", transform=turned))
        parts.append(text(x(1) - 8, y(0) - 9, "over-confident", "over", text_anchor="end"))
        parts.append(text(x(0) + 8, y(1) + 16, "under-confident", "under"))
    return parts


def _band(layout: Layout, bins: BinSums, level: float) -> str:
    """Return where chance puts a calibrated model's hit rates: a piece along the diagonal for each bin."""
    low, high = chance_band(bins, level)
    centre = bins.mean_confidence
    x, y, data = layout.x, layout.y, []
    for b in np.flatnonzero(bins.weight > 0):
        left, right = bins.edges[b], min(bins.edges[b + 1], layout.limit)
        down, up = low[b] - centre[b], high[b] - centre[b]
        corners = [(left, left + down), (right, right + down), (right, right + up), (left, left + up)]
        data.append(path([(x(a), y.within(v)) for a, v in corners], closed=True))
    return element("path", d="".join(data), class_="chance")


def _hollow(layout: Layout, bins: BinSums) -> list[str]:
    return [
        element("circle", cx=layout.x(c), cy=layout.y(h), r=layout.dot - 0.3, class_="before")
        for c, h, w in zip(bins.mean_confidence, bins.hit_rate, bins.weight, strict=True)
        if w > 0
    ]


def _marks(layout: Layout, bins: BinSums, level: float) -> list[str]:
    """Return a gap, an interval and a point for each bin, with its numbers as a tooltip."""
    low, high = wilson_interval(bins.hit_rate, bins.effective_count, level)
    x, y, parts = layout.x, layout.y, []
    for b in np.flatnonzero(bins.weight > 0):
        c, h = float(bins.mean_confidence[b]), float(bins.hit_rate[b])
        words = (
            f"{bins.count[b]:,.0f} rows between {bins.edges[b]:.3g} and {bins.edges[b + 1]:.3g}: mean "
            f"{c:.1%}, hit rate {h:.1%}, {level:.0%} interval {low[b]:.1%} to {high[b]:.1%}"
        )
        content = [
            element("title", words),
            element("path", d=path([(x(c), y(c)), (x(c), y(h))]), class_="gap"),
            element("path", d=path([(x(c), y(low[b])), (x(c), y(high[b]))]), class_="interval"),
            element("circle", cx=x(c), cy=y(h), r=layout.dot),
        ]
        parts.append(element("g", "".join(content), class_="over" if c > h else "under"))
    return parts


def _density(layout: Layout, bins: BinSums) -> list[str]:
    """Return the share of rows in each bin, as bars; small ones by its root, lest one bin hide the others."""
    top, bottom = layout.strip
    share = bins.share if layout.titles else np.sqrt(bins.share)
    height = Scale(0, float(share.max()), bottom, top)
    data = []
    for b in np.flatnonzero((share > 0) & (bins.edges[:-1] < layout.limit)):
        left, right = layout.x(bins.edges[b]) + 0.5, layout.x.within(bins.edges[b + 1]) - 0.5
        up = min(height(share[b]), bottom - 0.4)  # a bin of few rows is still seen
        data.append(path([(left, bottom), (left, up), (right, up), (right, bottom)], closed=True))
    parts = [element("path", d="".join(data), class_="density")]
    if layout.titles:
        parts.append(text(layout.x(0) - 7, top + 9, f"{share.max():.0%}", "tick", text_anchor="end"))
        parts.append(text(layout.x(0) - 7, bottom + 1, "rows", "tick", text_anchor="end"))
    return parts


def intervals(estimates: Sequence[Estimate | None]) -> str:
    """Return one metric's intervals side by side on one scale, the first hollow and the last filled.

    It repeats what the table beside it says, so it is not read aloud.
    """
    known = [e for e in estimates if e is not None and np.isfinite([e.value, e.low, e.high]).all()]
    if len(known) < max(len(estimates), 2):
        return ""
    ends = [(min(e.low, e.value), max(e.high, e.value)) for e in known]
    low, high = min(a for a, _ in ends), max(b for _, b in ends)
    width, gap = 132.0, 13.0
    scale = Scale(low, high, 7, width - 7) if high > low else Scale(low - 1, low + 1, 7, width - 7)
    parts = []
    for i, e in enumerate(known):
        y = gap * (i + 0.75)
        last = i == len(known) - 1
        parts.append(element("path", d=path([(scale(e.low), y), (scale(e.high), y)]), class_="range"))
        parts.append(element("circle", cx=scale(e.value), cy=y, r=3.4, class_="after" if last else "before"))
    size = f"0 0 {place(width)} {place(gap * (len(known) + 0.5))}"
    return f'<svg viewBox="{size}" aria-hidden="true">{"".join(parts)}</svg>'
