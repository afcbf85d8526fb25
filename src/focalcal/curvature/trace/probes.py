"""What estimates by random probes share: settings, signs, and the two errors: the probes' and the data's."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.stats import t as student
from torch import Tensor

from focalcal._settings import check_count, check_level
from focalcal.intervals.estimate import Estimate


@dataclass(frozen=True)
class TraceEstimate(Estimate):
    """A trace with two errors: that of the estimate, and that of the data it was taken on.

    Attributes
    ----------
    value, stderr, low, high, n, method, level
        As of `Estimate`: the interval tells what more probes would change on the same rows; n counts probes.
    data_stderr : float
        Standard error over the choice of rows: what other rows of the same kind would change. NaN where it
        was not found.
    rows : int
        Rows that the data's error was found from.
    """

    data_stderr: float = math.nan
    rows: int = 0


def check_probes(name: str, count: int, level: float) -> None:
    """Check the number of probes and the level of their interval."""
    check_level(level)
    if check_count(name, count) < 2:
        raise ValueError(f"Expected at least 2 {name}, whose spread is the error's, got 1.")


def random_signs(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return −1 and 1, drawn on the CPU so that every device sees the same, float64."""
    return torch.randint(2, shape, generator=generator, dtype=torch.float64) * 2 - 1


def over_probes(
    values: Tensor, method: str, level: float, data_variance: float = math.nan, rows: int = 0
) -> TraceEstimate:
    """Return the mean of independent probes (m,) with Student's interval."""
    count = len(values)
    stderr = float(values.std()) / math.sqrt(count)
    return estimated(float(values.mean()), stderr, count - 1, count, method, level, data_variance, rows)


def estimated(
    value: float,
    stderr: float,
    freedom: float,
    count: int,
    method: str,
    level: float,
    data_variance: float = math.nan,
    rows: int = 0,
) -> TraceEstimate:
    """Return an estimate with Student's interval of given degrees of freedom."""
    margin = stderr * float(student.ppf((1 + level) / 2, freedom)) if stderr > 0 else 0.0
    spread = math.sqrt(data_variance) if data_variance >= 0 else math.nan
    return TraceEstimate(value, stderr, value - margin, value + margin, count, method, level, spread, rows)
