"""The log loss over temperature and γ as two drawings: curves, and a map with the likelihood region."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from scipy.interpolate import CubicHermiteSpline, RectBivariateSpline

from focalcal.calibrators.temperature.profile import Place, Profile
from focalcal.reporting.svg import (
    Array,
    Scale,
    element,
    number,
    outlines,
    path,
    picture,
    place,
    round_factors,
    round_ticks,
    text,
    window,
)

_WIDTH, _HEIGHT = 400.0, 330.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 72.0, 390.0, 12.0, 278.0

#: Heights above the minimum at which the map has lines, in units of the region's.
_LINES = (4, 16, 64, 256, 1024)

#: Points along each side of the map's finer grid, and on a curve.
_FINE, _DENSE = 81, 160


def curves(profile: Profile, label: str) -> str:
    """Return the mean log loss against T: at γ = 0, and at the best γ where γ is fitted too."""
    taus = np.log(profile.temperature)
    x = Scale(taus[0], taus[-1], _LEFT, _RIGHT)
    plain = CubicHermiteSpline(taus, profile.plain, profile.plain_slope)
    shown = [profile.fitted.loss, float(plain(0.0)) if taus[0] <= 0 <= taus[-1] else -math.inf]
    rise = max(1.25 * (max(shown) - profile.optimum.loss), 6 * profile.threshold)
    top = profile.optimum.loss + min(rise, float(profile.plain.max()) - profile.optimum.loss)
    y = Scale(profile.optimum.loss - 0.04 * rise, top, _BOTTOM, _TOP)
    low, high = (math.log(end) for end in profile.interval)
    region = [(x(a), b) for a, b in ((low, _TOP), (high, _TOP), (high, _BOTTOM), (low, _BOTTOM))]
    parts = [
        *_axes(x, y, "mean log loss (nats)", [number(t) for t in round_ticks(y.low, y.high, 5)]),
        element("path", d=path(region, closed=True), class_="region"),
    ]
    if profile.profiled is not None:
        parts.append(_curve(plain, x, y, top, "curve plain"))
    parts.append(_curve(profile.curve, x, y, top, "curve"))
    if y.low <= shown[1] <= top:
        parts.append(_cross(x(0.0), y(shown[1]), "T = 1: the scores as they are"))
    for where, kind in ((profile.optimum, "optimum"), (profile.fitted, "fitted")):
        parts.append(_mark(x(math.log(where.temperature)), y(min(where.loss, top)), kind, where))
    return picture(_WIDTH, _HEIGHT, parts, label)


def contours(profile: Profile, label: str) -> str:
    """Return the map over (log T, γ): the region as an area, lines where the loss is ever higher."""
    surface = profile.surface
    assert surface is not None
    taus = np.linspace(surface.log_temperature[0], surface.log_temperature[-1], _FINE)
    gammas = np.linspace(surface.gamma[0], surface.gamma[-1], _FINE)
    spline = RectBivariateSpline(surface.log_temperature, surface.gamma, surface.loss)
    above = spline(taus, gammas) - profile.optimum.loss
    x, y = Scale(taus[0], taus[-1], _LEFT, _RIGHT), Scale(gammas[0], gammas[-1], _BOTTOM, _TOP)
    parts = _axes(x, y, "γ", [number(t) for t in round_ticks(y.low, y.high, 6)])
    lines = []
    for multiple in (*_LINES, 1):
        data = _outline(x, y, taus, gammas, above, multiple * profile.threshold)
        if data:
            lines.append(element("path", d=data, class_="contour" if multiple > 1 else "region edged"))
    parts.append(window(_LEFT, _TOP, _RIGHT, _BOTTOM, lines))
    for where, kind in ((profile.optimum, "optimum"), (profile.fitted, "fitted")):
        parts.append(_mark(x(math.log(where.temperature)), y(where.gamma), kind, where))
    return picture(_WIDTH, _HEIGHT, parts, label)


def _outline(x: Scale, y: Scale, taus: Array, gammas: Array, above: Array, level: float) -> str:
    loops = outlines(taus.tolist(), gammas.tolist(), above, level)
    return "".join(path([(x(a), y(b)) for a, b in loop], closed=True) for loop in loops)


def _axes(x: Scale, y: Scale, title: str, ticks: list[str]) -> list[str]:
    """Return grid, ticks and titles; `x` is the logarithm of a temperature."""
    factors = round_factors(math.exp(x.low), math.exp(x.high))
    values = [float(tick.replace("−", "-")) for tick in ticks]
    lines = "".join(path([(x(math.log(t)), _TOP), (x(math.log(t)), _BOTTOM)]) for t in factors)
    lines += "".join(path([(_LEFT, y(v)), (_RIGHT, y(v))]) for v in values)
    parts = [element("path", d=lines, class_="grid")]
    for t in factors:
        parts.append(text(x(math.log(t)), _BOTTOM + 17, number(t), "tick", text_anchor="middle"))
    for v, words in zip(values, ticks, strict=True):
        parts.append(text(_LEFT - 7, y(v) + 4, words, "tick", text_anchor="end"))
    middle, side = (_LEFT + _RIGHT) / 2, (_TOP + _BOTTOM) / 2
    parts.append(text(middle, _BOTTOM + 40, "temperature T", "title", text_anchor="middle"))
    turned = f"rotate(-90 13 {place(side)})"
    parts.append(text(13, side, title, "title", text_anchor="middle", transform=turned))
    return parts


def _curve(function: Any, x: Scale, y: Scale, top: float, kind: str) -> str:
    taus = np.linspace(x.low, x.high, _DENSE)
    losses = function(taus)
    keep = losses <= top
    runs = np.split(np.arange(len(taus)), np.flatnonzero(np.diff(keep.astype(int))) + 1)
    data = [path([(x(taus[i]), y(losses[i])) for i in run]) for run in runs if keep[run[0]] and len(run) > 1]
    return element("path", d="".join(data), class_=kind) if data else ""


def _mark(x: float, y: float, kind: str, where: Place) -> str:
    """Return a diamond for the calibrator and a ring for the optimum, with the numbers as a tooltip."""
    words = f"T = {where.temperature:.4g}, γ = {where.gamma:.3g}: mean log loss {where.loss:.5f}"
    if kind == "optimum":
        shape = element("circle", cx=x, cy=y, r=5)
    else:
        corners = [(x, y - 6.5), (x + 6.5, y), (x, y + 6.5), (x - 6.5, y)]
        shape = element("path", d=path(corners, closed=True))
    return element("g", element("title", words) + shape, class_=kind)


def _cross(x: float, y: float, words: str) -> str:
    arms = path([(x - 4.5, y - 4.5), (x + 4.5, y + 4.5)]) + path([(x - 4.5, y + 4.5), (x + 4.5, y - 4.5)])
    return element("g", element("title", words) + element("path", d=arms), class_="identity")
