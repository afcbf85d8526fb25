"""What estimates by random probes share: settings, signs, and the error that the probes leave."""

from __future__ import annotations

import math

import torch
from scipy.stats import t as student
from torch import Tensor

from focalcal._settings import check_count, check_level
from focalcal.intervals.estimate import Estimate


def check_probes(name: str, count: int, level: float) -> None:
    """Check the number of probes and the level of their interval."""
    check_level(level)
    if check_count(name, count) < 2:
        raise ValueError(f"Expected at least 2 {name}, whose spread is the error's, got 1.")


def random_signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return −1 and 1, drawn on the CPU so that every device sees the same, float64."""
    return torch.randint(2, shape, generator=generator, dtype=torch.float64) * 2 - 1


def over_probes(values: Tensor, method: str, level: float) -> Estimate:
    """Return the mean of independent probes (m,) with Student's interval."""
    count = len(values)
    value, stderr = float(values.mean()), float(values.std()) / math.sqrt(count)
    margin = stderr * float(student.ppf((1 + level) / 2, count - 1))
    return Estimate(value, stderr, value - margin, value + margin, count, method, level)
