"""Intervals by inverting a test, for errors that noise can only make larger.

A calibration error's plug-in value T is biased upward, because noise counts as miscalibration whatever its
sign, and it is not normal where gaps are near 0. So candidates θ for the true error are tested along a line
of possible gaps, and those belong to the interval under which T does not lie in a tail of its distribution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.optimize import brentq
from scipy.special import ndtr, ndtri

from focalcal.sums.bins import Array

#: A line of candidates, from a position to the gaps of the cells: 1 is no gap anywhere, 0 the observed
#: (or pooled, or smoothed) gaps, and below 0 they grow beyond.
Line = Callable[[float], Array]


@dataclass(frozen=True)
class Moments:
    """The distribution of T under given true gaps."""

    error: float  # Σ|δ|
    mean: float
    sd: float
    skewness: float

    def quantile(self, probability: float) -> float:
        """Return the quantile, by Cornish and Fisher's expansion."""
        z = float(ndtri(probability))
        return self.mean + self.sd * (z + (z * z - 1) * self.skewness / 6)

    def tail(self, value: float) -> float:
        """Return the probability of `value` or more: Cornish and Fisher's expansion, undone."""
        x, a = (value - self.mean) / self.sd, self.skewness / 6
        if abs(a) > 1e-9:
            inside = 1 + 4 * a * (x + a)
            x = (inside**0.5 - 1) / (2 * a) if inside > 0 else -1 / (2 * a)
        return float(ndtr(-x))


class Inverted(NamedTuple):
    """What a biased value T says about the true error."""

    error: float  # under which T is what is expected: T without its bias
    stderr: float
    low: float
    high: float


#: The distribution of T at each position of a line of candidates.
Test = Callable[[float], Moments]

#: Where to look for the far side of a crossing. At the observed gaps the variance vanishes if every row of
#: each cell hit (or missed), so the lower end is then looked for just short of them, and outward last.
_OUTWARD = (0.0, *(-0.5 * 4.0**power for power in range(16)))
_INWARD = (0.0, *(10.0**power for power in range(-8, 0)), *_OUTWARD[1:])


def invert(
    tests: Sequence[Test],
    observed: float,
    level: float,
    tolerance: float = 1e-5,
    upper: Sequence[Test] = (),
) -> Inverted:
    """Return what T says about the true error.

    Parameters
    ----------
    tests : sequence
        One or more lines of candidates; the interval spans what any of them allows.
    observed : float
        T.
    level : float
        Coverage aimed at.
    tolerance : float
        Of positions on a line.
    upper : sequence
        Lines that only the upper end looks at.
    """

    def excess(m: Moments, high: bool) -> float:
        # near 0 the whole miss probability goes to the side where a miss is possible
        below = (1 - level) / 2 * min(1.0, m.error / (2 * m.sd))
        return m.quantile(max(below, 1e-3) if high else level + below) - observed

    centre = _solve(tests[0], lambda m: m.mean - observed, _OUTWARD, tolerance)
    return Inverted(
        centre.error,
        centre.sd if centre.sd > 1e-11 else 0.0,
        min(_solve(test, lambda m: excess(m, False), _INWARD, tolerance).error for test in tests),
        # a T that no gap would also have shown refutes no larger one
        max(
            _solve(test, lambda m: excess(m, True) - 1e-12, _OUTWARD, tolerance).error
            for test in [*tests, *upper]
        ),
    )


def _solve(
    test: Test, function: Callable[[Moments], float], search: tuple[float, ...], tolerance: float
) -> Moments:
    """Return the moments at the candidate where `function` crosses 0; at no gap, if it is above 0 there."""

    def at(position: float) -> float:
        return function(test(position))

    if at(1.0) >= 0:
        return test(1.0)
    far = next((position for position in search if at(position) > 1e-14), None)
    if far is None:
        return test(0.0 if search is _INWARD else search[-1])
    return test(float(brentq(at, far, 1.0, xtol=tolerance, rtol=max(tolerance, 1e-12))))
