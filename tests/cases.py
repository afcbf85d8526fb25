"""Problems and truths that several tests share."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import mpmath as mp
import numpy as np
import pytest

DATA = Path(__file__).parents[2] / "shared" / "data"

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="the real score files are not beside the project (../shared/data)"
)


def score_files() -> list[str]:
    """Names of the real score files, or nothing where they are absent."""
    names = sorted(path.name for path in DATA.glob("*.npz")) if DATA.is_dir() else []
    return [n for n in names if not n.startswith(("cifar10_images", "cifar10h"))]


def load_scores(name: str) -> tuple[np.ndarray, np.ndarray, str, np.ndarray]:
    """Return scores, labels, the kind of scores, and the mask of the rows to fit on."""
    with np.load(DATA / name) as file:
        kind = "logits" if "logits" in file else "probs"
        return file[kind], file["labels"].astype(np.int64), kind, file["val_mask"]


def drawn(
    n: int, n_classes: int, scale: float, seed: int, gamma: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the given spread, and labels drawn from φ_γ of their softmax."""
    from focalcal import focal_map

    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, n_classes)) * scale
    p = np.exp(focal_map(z, gamma))
    y = (np.cumsum(p, axis=1) > rng.random((n, 1))).argmax(axis=1)
    return z, y


def true_logs(z: np.ndarray, temperature: float, gamma: float) -> list[float]:
    """Return log φ_γ(softmax(z / T)) of one row in 60 digits; 1 - q is summed from the other classes."""
    return _true_logs(tuple(float(v) for v in z), temperature, gamma)


@cache  # the same rows come in several precisions, and thousands of digits take seconds
def _true_logs(row: tuple[float, ...], temperature: float, gamma: float) -> list[float]:
    # at γ = -1 the two terms of 1 + log q · q/(1 - q) cancel down to the size of 1 - q
    cancelled = int(np.ptp(row) / temperature / np.log(10)) if gamma == -1 else 0
    with mp.workdps(60 + cancelled):
        z = [mp.mpf(v) / mp.mpf(temperature) for v in row]
        exps = [mp.exp(v) for v in z]
        log_h = []
        for j, own in enumerate(exps):
            odds = mp.fsum(v for k, v in enumerate(exps) if k != j) / own  # (1 - q) / q
            log_q = -mp.log1p(odds)
            log_rest = mp.log(odds) + log_q
            log_h.append(log_q - gamma * log_rest - mp.log1p(-gamma * log_q / odds))
        return [
            float(-mp.log1p(mp.fsum(mp.e ** (v - own) for k, v in enumerate(log_h) if k != j)))
            for j, own in enumerate(log_h)
        ]
