"""The temperature map, the focal map and its inverse on blocks of float64 logits, in NumPy: what is true.

Everything happens in the log domain; the top class's 1 − q is summed from the other classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from focalcal.kernels.reference import top_ratio

Matrix = NDArray[np.float64]

#: Stands for −inf inside a block, so that 0 · log 0 is 0; put back at the end.
_MASKED = -1e200


def map_block(logits: Matrix, temperature: float, gamma: float) -> Matrix:
    """Return log φ_γ(softmax(z / T)) of a checked block (b, K) of float64 logits."""
    if gamma == 0:
        return unmasked(logits, lambda z: _log_softmax(z / temperature)[0])
    return unmasked(logits, lambda z: _log_focal(z / temperature, gamma))


def unmasked(block: Matrix, function: Callable[[Matrix], Matrix]) -> Matrix:
    """Apply a function of finite logits, with masked classes far below all others, and mask the result."""
    masked = np.isneginf(block)
    result = function(np.where(masked, _MASKED, block))
    result[masked] = -np.inf
    return result


def _log_softmax(z: Matrix) -> tuple[Matrix, NDArray[np.intp], Matrix]:
    """Return log q (b, K), the top class (b,), and log S (b,): the log-odds against the top class."""
    every, top = np.arange(len(z)), z.argmax(axis=1)
    below = z - z[every, top][:, None]
    rest = below.copy()
    rest[every, top] = -np.inf
    second = np.maximum(rest.max(axis=1), _MASKED)
    log_odds = second + np.log(np.maximum(np.exp(rest - second[:, None]).sum(axis=1), 1e-300))
    log_top = -np.log1p(np.exp(log_odds))
    log_q = below + log_top[:, None]
    log_q[every, top] = log_top
    return log_q, top, log_odds


def _log_focal(z: Matrix, gamma: float) -> Matrix:
    log_q, top, log_odds = _log_softmax(z)
    every = np.arange(len(z))
    log_h = _log_h(np.minimum(log_q, -math.log(2)), gamma)
    log_h[every, top] = _log_h_top(log_odds, gamma)
    return _log_softmax(log_h)[0]


def _log_h(log_q: Matrix, gamma: float) -> Matrix:
    """Return log h_γ for probabilities of at most one half."""
    q = np.exp(log_q)
    log_v = np.log1p(-q)
    return np.asarray(log_q - gamma * log_v - np.log1p(-gamma * q * log_q / (1 - q)))


def _log_h_top(log_odds: Matrix, gamma: float) -> Matrix:
    odds = np.exp(log_odds)
    log_q = -np.log1p(odds)
    return log_q - gamma * (log_odds + log_q) - top_ratio(odds, log_odds, log_q, gamma)[1]


def _log_h_inverse(log_h: Matrix, gamma: float) -> Matrix:
    """Return log q ≤ log ½ with log h_γ(q) = log_h, by Newton's method; log h grows with slope near one."""
    log_q = np.minimum(log_h, -math.log(2))
    for _ in range(60):
        q = np.exp(log_q)
        rest = 1 - q
        denominator = rest - gamma * q * log_q
        slope = 1 + (gamma - 1) * q / rest + q * (1 + gamma + gamma * log_q) / denominator
        step = (_log_h(log_q, gamma) - log_h) / slope
        new = np.minimum(log_q - step, -math.log(2))
        if np.all(np.abs(new - log_q) <= 2e-15 * np.abs(new)):
            break
        log_q = new
    return log_q


def log_focal_inverse(z: Matrix, gamma: float) -> Matrix:
    """Return log q of a block such that φ_γ(q) = softmax(z)."""
    log_p, top, _ = _log_softmax(z)
    every = np.arange(len(z))
    ratio = log_p - log_p[every, top][:, None]
    ratio[every, top] = -np.inf  # the top class is solved for, not inverted

    def others(log_odds: Matrix) -> Matrix:
        log_q = _log_h_inverse(_log_h_top(log_odds, gamma)[:, None] + np.maximum(ratio, _MASKED), gamma)
        log_q[every, top] = _MASKED
        return log_q

    def excess(log_odds: Matrix) -> Matrix:  # log of the others' sum less log(1 - q_m): falls with log_odds
        log_q = others(log_odds)
        highest = np.maximum(log_q.max(axis=1), _MASKED)
        total = highest + np.log(np.exp(log_q - highest[:, None]).sum(axis=1))
        return np.asarray(total - (log_odds - np.log1p(np.exp(log_odds))))

    log_q = others(_falling_root(excess, np.full(len(z), math.log(z.shape[1] - 1))))
    log_q[every, top] = 0.0
    # the top class follows from the sum of the others, which is exact however small it is
    highest = log_q.copy()
    highest[every, top] = -np.inf
    second = np.maximum(highest.max(axis=1), _MASKED)
    rest = second + np.log(np.exp(highest - second[:, None]).sum(axis=1))
    log_q[every, top] = np.log(-np.expm1(np.minimum(rest, -1e-300)))
    return log_q


def _falling_root(function: Callable[[Matrix], Matrix], high: Matrix) -> Matrix:
    """Return the root of a falling function at or below `high`, by the Illinois method, row by row."""
    f_high = function(high)
    low, width = high - 1.0, 1.0
    f_low = function(low)
    while (f_low < 0).any():
        width *= 2
        low = np.where(f_low < 0, low - width, low)
        f_low = function(low)
    for _ in range(200):
        # in this order a row with one possible class, whose root is far away, does not overflow
        share = np.where(f_low == f_high, 0.0, f_low / (f_low - f_high + (f_low == f_high)))
        new = np.clip(low + (high - low) * share, low, high)
        value = function(new)
        above = value > 0
        f_high = np.where(above, np.where(low == new, f_high, f_high / 2), value)
        f_low = np.where(above, value, f_low / 2)
        done = np.abs(value) <= 4e-15 * (1 + np.abs(new))
        low, high = np.where(above, new, low), np.where(above, high, new)
        if np.all(done | (high - low <= 4e-16 * np.abs(low))):
            break
    return new
