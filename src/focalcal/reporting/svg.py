"""Small vector drawings as text: scales, lines and areas whose colours the page's style sheet gives."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def place(value: float) -> str:
    """Return a coordinate with one digit after the point, and none where that is 0."""
    text = f"{value:.1f}"
    return text[:-2] if text.endswith(".0") else text


def element(tag: str, content: str = "", **attributes: Any) -> str:
    """Return an element; a trailing underscore is dropped and others are hyphens in attributes' names."""
    pairs = (
        f'{name.rstrip("_").replace("_", "-")}="'
        f'{place(value) if isinstance(value, (int, float)) else escape(str(value))}"'
        for name, value in attributes.items()
    )
    head = " ".join([tag, *pairs])
    return f"<{head}>{content}</{tag}>" if content else f"<{head}/>"


def text(x: float, y: float, words: str, class_: str = "", **attributes: Any) -> str:
    """Return a line of text, escaped."""
    named = {"class_": class_} if class_ else {}
    return element("text", escape(words), x=x, y=y, **named, **attributes)


def path(points: Iterable[tuple[float, float]], *, closed: bool = False) -> str:
    """Return the data of a path through points."""
    steps = " ".join(f"{place(x)},{place(y)}" for x, y in points)
    return f"M{steps}{'Z' if closed else ''}"


def picture(width: float, height: float, parts: Iterable[str], label: str) -> str:
    """Return the drawing, which fills the width that the page gives it; `label` is read aloud."""
    size = f"0 0 {place(width)} {place(height)}"
    content = "".join(parts)
    return f'<svg viewBox="{size}" role="img" aria-label="{escape(label)}">{content}</svg>'


def window(left: float, top: float, right: float, bottom: float, parts: Iterable[str]) -> str:
    """Return drawings cut at the edges of a rectangle."""
    width, height = right - left, bottom - top
    view = " ".join(map(place, (left, top, width, height)))
    return element("svg", "".join(parts), x=left, y=top, width=width, height=height, viewBox=view)


@dataclass(frozen=True)
class Scale:
    """A straight map from values to coordinates."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: Any) -> Any:
        """Return the coordinate of a number or of each number of an array."""
        span = self.high - self.low or 1.0
        return self.start + (value - self.low) / span * (self.end - self.start)

    def within(self, value: Any) -> Any:
        """Return the coordinate of the closest value on the scale."""
        return self(np.clip(value, self.low, self.high))


def round_ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Return at most about `most` round numbers between two numbers, equally apart."""
    raw = (high - low) / max(most - 1, 1)
    power = 10.0 ** np.floor(np.log10(raw)) if raw > 0 else 1.0
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= raw * (1 - 1e-9))
    first = np.ceil(low / step - 1e-9)
    last = np.floor(high / step + 1e-9)
    return [float(i * step) for i in np.arange(first, last + 1)]


def round_factors(low: float, high: float, most: int = 6) -> list[float]:
    """Return round numbers between two positive numbers, for a logarithmic scale."""
    if high / low < 4:
        return [tick for tick in round_ticks(low, high, most) if tick > 0]
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    for digits in ((1, 1.5, 2, 3, 4, 5, 7), (1, 2, 3, 5), (1, 2, 5), (1,)):
        ticks = [d * 10.0**p for p in powers for d in digits if low <= d * 10.0**p <= high]
        if len(ticks) <= most + 1:
            break
    return ticks


def number(value: float, digits: int = 6) -> str:
    """Return a number without needless digits, with a proper minus."""
    return f"{value:.{digits}g}".replace("-", "−")


Polygon = list[tuple[float, float]]


def outlines(x: Sequence[float], y: Sequence[float], values: Array, level: float) -> list[Polygon]:
    """Return the closed outlines of where `values` (len(x), len(y)) lie below a level.

    Marching squares: every cell of the grid adds the pieces of the outline that cross it. Around the grid the
    values count as above the level, so that every outline closes, half a step outside: draw it in a `window`.
    """
    grid = np.pad(values - level, 1, constant_values=np.inf)
    xs, ys = (np.concatenate([[2 * v[0] - v[1]], v, [2 * v[-1] - v[-2]]]) for v in (x, y))
    inside = grid < 0
    links: dict[tuple[int, int, int], tuple[int, int, int]] = {}
    mixed = inside[:-1, :-1].astype(int) + inside[1:, :-1] + inside[1:, 1:] + inside[:-1, 1:]
    for i, j in zip(*(axis.tolist() for axis in np.nonzero(mixed % 4)), strict=True):
        corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)]
        flags = [bool(inside[c]) for c in corners]
        # edges in the order of the corners; walk with the inside on the left
        edges = [(i, j, 0), (i + 1, j, 1), (i, j + 1, 0), (i, j, 1)]
        leaving = [e for e in range(4) if flags[e] and not flags[(e + 1) % 4]]
        entering = [e for e in range(4) if not flags[e] and flags[(e + 1) % 4]]
        for out in leaving:
            into = entering[0] if len(entering) == 1 else (out - 1) % 4
            links[edges[out]] = edges[into]

    def point(edge: tuple[int, int, int]) -> tuple[float, float]:
        i, j, upward = edge
        a, b = grid[i, j], grid[(i, j + 1) if upward else (i + 1, j)]
        t = 0.5 if np.isinf(a) or np.isinf(b) else a / (a - b)
        if upward:
            return float(xs[i]), float(ys[j] + t * (ys[j + 1] - ys[j]))
        return float(xs[i] + t * (xs[i + 1] - xs[i])), float(ys[j])

    found = []
    while links:
        start, edge = links.popitem()
        loop = [point(start)]
        while edge != start:
            loop.append(point(edge))
            edge = links.pop(edge)
        found.append(loop)
    return found
