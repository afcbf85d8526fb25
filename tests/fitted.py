"""Calibrators with given parameters, and the rows that are hard for whatever computes their map again."""

from __future__ import annotations

import warnings

import numpy as np

from focalcal import CalibrationWarning, FocalTemperatureScaling, TemperatureScaling


def fitted(n_classes: int, temperature: float, gamma: float | None = None, input: str = "logits"):
    """Return a fitted calibrator of K classes: temperature scaling without γ, focal with one."""
    cal = (TemperatureScaling if gamma is None else FocalTemperatureScaling)(input=input)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CalibrationWarning)
        cal.fit(np.full((n_classes, n_classes), 1 / n_classes), np.arange(n_classes))
    cal.temperature_ = temperature
    if gamma is not None:
        cal.gamma_ = gamma
    return cal


def hard_rows(n_classes: int, seed: int = 0) -> np.ndarray:
    """Return float32 logits (60, K): usual, flat, tied, saturated by 1e4, far from 0, masked but for one."""
    z = np.random.default_rng(seed).normal(size=(60, n_classes)) * 4
    z[10:15] *= 0.01
    z[15:20, 0] = z[15:20, 1] = z[15:20].max(axis=1)
    z[20:22] = 0
    z[22:30] *= 2500
    z[30:35, -1] += 1e4
    z[35:40] += 5000
    z[40:45, 0] = -np.inf
    z[45:50, 1:] = -np.inf
    return z.astype(np.float32)


def assert_close(found: np.ndarray, true: np.ndarray, tolerance: float) -> None:
    """Compare log-probabilities: to the tolerance, relative beyond 1 nat; the masked ones alike."""
    finite = np.isfinite(true)
    np.testing.assert_array_equal(np.isneginf(found), ~finite)
    scale = np.maximum(1, np.abs(true[finite]))
    assert np.max(np.abs(found[finite] - true[finite]) / scale, initial=0) <= tolerance
