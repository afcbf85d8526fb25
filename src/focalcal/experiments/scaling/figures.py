"""The figure of the study: paired differences, setting by setting."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from focalcal.experiments.over_seeds import OverSeeds
from focalcal.reporting.svg import (
    Scale,
    element,
    number,
    path,
    picture,
    round_ticks,
    text,
)

_WIDTH, _LEFT, _RIGHT = 400.0, 10.0, 390.0

#: Heights of a setting's name and of a mark beneath it.
_NAME, _MARK = 17.0, 13.0


def difference_figure(rows: Sequence[tuple[str, Sequence[OverSeeds]]], axis: str, label: str) -> str:
    """Return settings one beneath the other, each with its differences and their intervals.

    Parameters
    ----------
    rows : sequence of (str, sequence of OverSeeds)
        A setting's name and its differences: the first one's marks are full, the second one's hollow. One
        without differences is a heading.
    axis : str
        What the differences are of.
    label : str
        Read aloud.
    """
    ends = [end for _, each in rows for d in each for end in (d.value, d.low, d.high) if np.isfinite(end)]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    pad = 0.04 * (high - low) or 1.0
    x = Scale(low - pad, high + pad, _LEFT, _RIGHT)
    height = sum(_NAME + _MARK * len(each) + 4 for _, each in rows) + 6
    ticks = round_ticks(x.low, x.high, 5)
    lines = "".join(path([(x(t), 4), (x(t), height)]) for t in ticks)
    parts = [element("path", d=lines, class_="grid")]
    parts.append(element("path", d=path([(x(0), 4), (x(0), height)]), class_="zero"))
    y = 4.0
    for name, each in rows:
        parts.append(text(_LEFT, y + 13, name, "row" if each else "head"))
        y += _NAME
        for k, one in enumerate(each):
            parts.append(_mark(one, x, y + _MARK / 2, hollow=k == 1))
            y += _MARK
        y += 4
    parts += [text(x(t), height + 15, number(t, 3), "tick", text_anchor="middle") for t in ticks]
    parts.append(text((_LEFT + _RIGHT) / 2, height + 34, axis, "title", text_anchor="middle"))
    return picture(_WIDTH, height + 44, parts, label)


def _mark(one: OverSeeds, x: Scale, y: float, *, hollow: bool) -> str:
    content = [element("title", str(one).replace("-", "−"))]
    if np.isfinite(one.low):
        content.append(element("path", d=path([(x(one.low), y), (x(one.high), y)]), class_="span"))
    content.append(element("circle", cx=x(one.value), cy=y, r=4, class_="hollow" if hollow else "full"))
    return element("g", "".join(content), class_=one.side)
