"""A drawing of runs as dots on two axes, numbered by their groups."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

from focalcal.reporting.svg import Scale, element, number, path, picture, round_factors, round_ticks, text

Points = Mapping[str, tuple[Sequence[float], Sequence[float]]]

_WIDTH, _LEFT, _RIGHT, _BOTTOM = 400.0, 10.0, 390.0, 300.0


def scatter_figure(
    points: Points, across: str, up: str, label: str, *, logs: tuple[bool, bool] = (False, False)
) -> str:
    """Return a dot for each run, and a number at each group's median.

    Parameters
    ----------
    points : mapping of str to (sequence of float, sequence of float)
        A group to its runs' coordinates.
    across, up : str
        What the axes are.
    label : str
        Read aloud.
    logs : (bool, bool)
        Whether the horizontal and the vertical axis are logarithmic.
    """
    placed = {
        name: [np.log(each) if log else np.asarray(each, float) for each, log in zip(pair, logs, strict=True)]
        for name, pair in points.items()
    }
    x = _padded(np.concatenate([a for a, _ in placed.values()]), 50, _RIGHT)
    y = _padded(np.concatenate([b for _, b in placed.values()]), _BOTTOM, 24)
    parts = _frame(x, y, logs)
    parts.append(text((x.start + x.end) / 2, _BOTTOM + 36, across, "title", text_anchor="middle"))
    parts.append(text(_LEFT, 14, up, "title"))
    for k, (a, b) in enumerate(placed.values()):
        marks = [element("circle", cx=x(s), cy=y(t), r=3.2, class_="run") for s, t in zip(a, b, strict=True)]
        parts.append(element("g", "".join(marks), class_=f"hue{k % 6}"))
    for k, (name, (a, b)) in enumerate(placed.items()):
        parts.append(_numbered((x(float(np.median(a))), y(float(np.median(b)))), k, name))
        left, down = _LEFT + 190 * (k % 2), _BOTTOM + 60 + 20 * (k // 2)
        parts += [_numbered((left + 8, down - 4), k, name), text(left + 22, down, name, "row")]
    return picture(_WIDTH, _BOTTOM + 60 + 20 * ((len(points) - 1) // 2) + 12, parts, label)


def _padded(values: NDArray[np.float64], start: float, end: float) -> Scale:
    low, high = float(values.min()), float(values.max())
    pad = 0.08 * (high - low) or 0.05
    return Scale(low - pad, high + pad, start, end)


def _frame(x: Scale, y: Scale, logs: tuple[bool, bool]) -> list[str]:
    across, up = _ticks(x, logs[0]), _ticks(y, logs[1])
    lines = "".join(path([(at, y.start), (at, y.end)]) for at in across.values())
    lines += "".join(path([(x.start, at), (x.end, at)]) for at in up.values())
    parts = [element("path", d=lines, class_="grid")]
    parts += [text(at, y.start + 16, number(t, 3), "tick", text_anchor="middle") for t, at in across.items()]
    return parts + [
        text(x.start - 6, at + 4, number(t, 3), "tick", text_anchor="end") for t, at in up.items()
    ]


def _ticks(scale: Scale, log: bool) -> dict[float, float]:
    if not log:
        return {t + 0.0: scale(t) for t in round_ticks(scale.low, scale.high, 5)}  # no −0
    return {
        t: scale(np.log(t)) for t in round_factors(float(np.exp(scale.low)), float(np.exp(scale.high)), 5)
    }


def _numbered(at: tuple[float, float], k: int, name: str) -> str:
    content = element("title", escape(name)) + element("circle", cx=at[0], cy=at[1], r=7.5, class_="full")
    return element("g", content + text(at[0], at[1] + 4, str(k + 1), "mark"), class_=f"hue{k % 6}")
