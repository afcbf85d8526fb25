"""The figures of the study: paired differences setting by setting, and the fitted T and γ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from focalcal.experiments.over_seeds import OverSeeds
from focalcal.reporting.svg import (
    Scale,
    element,
    number,
    path,
    picture,
    round_factors,
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


def plane_figure(points: Mapping[str, tuple[Sequence[float], Sequence[float]]], label: str) -> str:
    """Return where the runs of each loss have their T and γ: a dot a run, a number at a loss's median.

    Parameters
    ----------
    points : mapping of str to (sequence of float, sequence of float)
        A loss to its runs' temperatures and γ.
    label : str
        Read aloud.
    """
    temperatures = np.concatenate([np.log(each) for each, _ in points.values()])
    gammas = np.concatenate([np.asarray(each) for _, each in points.values()])
    x = _padded(temperatures, 46, _RIGHT)
    y = _padded(gammas, 300, 8)
    parts = _frame(x, y)
    for k, (each, own) in enumerate(points.values()):
        dots = zip(np.log(each), own, strict=True)
        marks = [element("circle", cx=x(t), cy=y(g), r=3.2, class_="run") for t, g in dots]
        parts.append(element("g", "".join(marks), class_=f"hue{k % 6}"))
    for k, (name, (each, own)) in enumerate(points.items()):
        at = x(float(np.median(np.log(each)))), y(float(np.median(own)))
        parts.append(_numbered(at, k, name))
        left, down = _LEFT + 190 * (k % 2), 358 + 20 * (k // 2)
        parts += [_numbered((left + 8, down - 4), k, name), text(left + 22, down, name, "row")]
    return picture(_WIDTH, 358 + 20 * ((len(points) - 1) // 2) + 12, parts, label)


def _padded(values: np.ndarray, start: float, end: float) -> Scale:
    low, high = float(values.min()), float(values.max())
    pad = max(0.08 * (high - low), 0.05)
    return Scale(low - pad, high + pad, start, end)


def _frame(x: Scale, y: Scale) -> list[str]:
    across = {t: x(np.log(t)) for t in round_factors(float(np.exp(x.low)), float(np.exp(x.high)), 5)}
    up = {g: y(g) for g in round_ticks(y.low, y.high, 6)}
    lines = "".join(path([(at, y.start), (at, y.end)]) for at in across.values())
    lines += "".join(path([(x.start, at), (x.end, at)]) for at in up.values())
    parts = [element("path", d=lines, class_="grid")]
    parts += [text(at, y.start + 16, number(t, 3), "tick", text_anchor="middle") for t, at in across.items()]
    parts += [text(x.start - 6, at + 4, number(g, 3), "tick", text_anchor="end") for g, at in up.items()]
    parts.append(text((x.start + x.end) / 2, y.start + 34, "temperature T", "title", text_anchor="middle"))
    return [*parts, text(12, (y.start + y.end) / 2, "γ", "title", text_anchor="middle")]


def _numbered(at: tuple[float, float], k: int, name: str) -> str:
    content = element("title", _escaped(name)) + element("circle", cx=at[0], cy=at[1], r=7.5, class_="full")
    return element("g", content + text(at[0], at[1] + 4, str(k + 1), "mark"), class_=f"hue{k % 6}")


def _escaped(name: str) -> str:
    return name.replace("&", "&amp;").replace("<", "&lt;")
