"""The distribution of an error under assumed gaps, by drawing what happens to groups of events.

The cost depends on the number of groups (a thousand at most), not of rows. The same seed serves every
candidate, so that the distribution changes smoothly along a line of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from focalcal.intervals.groups import Groups
from focalcal.intervals.inversion import Inverted, Line, Moments, Test, invert
from focalcal.sums.bins import Array

#: From the rates of the groups, shape (draws, G), to one value a draw.
Statistic = Callable[[Array], Array]


def draw_rates(groups: Groups, rate: Array, draws: int, seed: int) -> Array:
    """Return drawn rates of the groups, shape (draws, G): binomial, with the effective number of rows."""
    rng = np.random.default_rng(seed)
    # weights make the number fractional: it is rounded up as often as its fraction says
    rows = np.maximum(np.floor(groups.rows + rng.random(len(rate)) - 1e-9), 1).astype(np.int64)
    return np.asarray(rng.binomial(rows, rate, size=(draws, len(rate))) / rows)


def simulated(groups: Groups, line: Line, statistic: Statistic, draws: int, seed: int) -> Test:
    """Return the test of a statistic along a line of candidate gaps."""

    @cache
    def moments(position: float) -> Moments:
        rate = groups.rates(line(position))
        values = statistic(draw_rates(groups, rate, draws, seed))
        mean, sd = float(values.mean()), max(float(values.std(ddof=1)), 1e-100)
        skewness = float((((values - mean) / sd) ** 3).mean()) if sd > 1e-100 else 0.0
        return Moments(float(statistic(rate[None])[0]), mean, sd, float(np.clip(skewness, -1, 1)))

    return moments


def interval(
    groups: Groups,
    lines: Sequence[Line],
    statistic: Statistic,
    level: float,
    *,
    upper: Sequence[Line] = (),
    draws: int = 300,
    seed: int = 0,
) -> Inverted:
    """Return the true value of a statistic with its standard error and interval, by inverting a test."""
    observed = float(statistic(groups.rate[None])[0])
    tests, more = (
        [simulated(groups, line, statistic, draws, seed) for line in some] for some in (lines, upper)
    )
    return invert(tests, observed, level, tolerance=1e-2, upper=more)
