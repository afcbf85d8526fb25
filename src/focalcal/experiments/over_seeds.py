"""Means over independent runs with Student's interval."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student


@dataclass(frozen=True)
class OverSeeds:
    """A mean over runs with Student's 95 % interval; NaN where there is one run."""

    value: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def over_seeds(values: Iterable[float]) -> OverSeeds:
    """Return the mean of independent runs with its interval."""
    held = np.array(list(values))
    spread = held.std(ddof=1) / math.sqrt(len(held)) if len(held) > 1 else math.nan
    margin = spread * float(student.ppf(0.975, max(len(held) - 1, 1)))
    mean = float(held.mean())
    return OverSeeds(mean, mean - margin, mean + margin, len(held))
