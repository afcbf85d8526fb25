r"""Smoothing of residuals along the line of probabilities, by a Gaussian kernel reflected at 0 and 1.

Residuals :math:`r_i = c_i - y_i` are put on a grid, each parted between its two neighbours, and the cosine
transform makes smoothing a product: the reflected kernel of width σ multiplies the k-th cosine by
:math:`e^{-(\pi k \sigma)^2 / 2}`. So one width costs two transforms of the grid, however many rows.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dct

from focalcal.intervals.groups import Groups
from focalcal.sums.bins import Array, tally

#: The smallest width, as in the reference implementation of smooth ECE.
SMALLEST_WIDTH = 1e-3

#: Widths at which simulations smooth, as multiples of the error: in between it is interpolated, beyond it is
#: as at the last one (it changes slowly).
_MULTIPLES = np.geomspace(1 / 6, 6, 8)


def put_on_grid(place: Array, values: Array, size: int) -> Array:
    """Part values at places in [0, 1] between the neighbouring points of a grid of `size` points."""
    at = place * (size - 1)
    left = np.clip(at.astype(np.int64), 0, size - 2)
    part = at - left
    return tally(left, (1 - part) * values, size) + tally(left + 1, part * values, size)


def smooth(values: Array, width: float, *, cut: bool) -> Array:
    """Return values on a grid (…, G), smoothed; `cut` leaves out the kernel beyond a distance of 1/2."""
    size = values.shape[-1]
    if cut:
        distance = np.arange(size) / (size - 1)
        kernel = np.exp(-((distance / width) ** 2) / 2) * (distance <= 0.5)
        factor = dct(kernel, type=1)
        factor /= factor[0]
    else:
        factor = np.exp(-((np.pi * width * np.arange(size)) ** 2) / 2)
    return np.asarray(dct(dct(values, type=1) * factor, type=1) / (2 * (size - 1)))


def error_as_relplot(place: Array, residual: Array, weight: Array, width: float) -> Array:
    """Return smECE at one width as relplot 1.0 computes it: on its grids, which halve what is at 0 or 1."""
    size = max(2000, round(20 / width)) // 2 + 1
    mesh = np.linspace(0, 1, max(round(10 / width), 200))
    grid = np.linspace(0, 1, size)
    parts = np.stack([put_on_grid(place, values, size) for values in (residual, weight)])
    difference, density = (np.interp(mesh, grid, line) for line in smooth(parts, width, cut=True))
    return np.asarray(np.abs(difference).sum() / density.sum())


def error_exactly(place: Array, residual: Array, weight: Array, width: float) -> Array:
    """Return smECE at one width as the paper defines it, ∫|E[K(c, t)(c − y)]| dt, nothing lost at 0 and 1."""
    size = max(2000, round(20 / width)) // 2 + 1
    difference = put_on_grid(place, residual, size)
    difference[[0, -1]] *= 2  # the kernel's other half is reflected back
    line = np.abs(smooth(difference, width, cut=False))
    return np.asarray((line.sum() - line[[0, -1]].sum() / 2) / weight.sum())


def find_width(error: Callable[[float], Array]) -> float:
    """Return the width at which it equals the error it shows, to 2⁻¹⁰ from above, at least 0.001 or so."""
    if error(1.0) > 1:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(10):
        middle = (low + high) / 2
        if middle < SMALLEST_WIDTH or middle < error(middle):
            low = middle
        else:
            high = middle
    return high


def smoothed_gap(groups: Groups) -> Array:
    """Return the gap of each group, times its share, as its neighbours show it too."""
    residual = groups.gap

    def error(width: float) -> Array:
        return error_exactly(groups.confidence, residual, groups.share, width)

    width, size = find_width(error), 2001
    parts = np.stack([put_on_grid(groups.confidence, values, size) for values in (residual, groups.share)])
    difference, density = smooth(parts, width, cut=False)
    line = difference / np.maximum(density, 1e-12 * density.max())
    return np.asarray(groups.share * np.interp(groups.confidence, np.linspace(0, 1, size), line))


def simulated_error(groups: Groups) -> Callable[[Array], Array]:
    """Return the function from rates of groups, shape (draws, G), to the smooth ECE of each draw."""
    residual = groups.gap
    about = find_width(lambda width: error_exactly(groups.confidence, residual, groups.share, width))
    widths = np.clip(about * _MULTIPLES, SMALLEST_WIDTH, 1)
    kernels = [_operator(groups.confidence, width) for width in widths]

    def statistic(rates: Array) -> Array:
        gaps = (groups.share * (groups.confidence - rates)).astype(np.float32)
        error = np.stack([np.abs(gaps @ kernel).sum(axis=1, dtype=np.float64) for kernel in kernels])
        above = error - widths[:, None]
        last = np.clip((above > 0).sum(axis=0), 1, len(widths) - 1)  # errors fall as widths grow
        draw = np.arange(len(rates))
        high, low = above[last - 1, draw], above[last, draw]
        part = np.clip(high / np.maximum(high - low, 1e-300), 0, 1)
        return np.asarray(error[last - 1, draw] * (1 - part) + error[last, draw] * part)

    return statistic


def _operator(place: Array, width: float) -> NDArray[np.float32]:
    """Return the matrix (G, points) that smooths gaps at places, times each point's share of [0, 1]."""
    size = int(np.clip(3 / width, 60, 700)) + 1
    point, place = np.linspace(0, 1, size)[None, :], place[:, None]
    # beyond these three the images are at a distance of 1 or more
    images = [(0, -1), (0, 1), (-1, 1)]
    if width > 1 / 6:
        images = [(turn, sign) for turn in range(-2, 3) for sign in (-1, 1)]
    kernel = sum(np.exp(-(((point + 2 * turn + sign * place) / width) ** 2) / 2) for turn, sign in images)
    total = np.asarray(kernel)
    return np.asarray(total / total.sum(axis=1, keepdims=True), np.float32)
