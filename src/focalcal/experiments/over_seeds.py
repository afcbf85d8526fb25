"""Means over independent runs with Student's interval, and what groups of them show together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
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

    def times(self, factor: float) -> OverSeeds:
        """Return it in another unit."""
        return OverSeeds(factor * self.value, factor * self.low, factor * self.high, self.n)

    @property
    def side(self) -> str:
        """Where the interval is: "below" 0, "above" it, or "open" where it does not tell."""
        return "below" if self.high < 0 else "above" if self.low > 0 else "open"


def over_seeds(values: Iterable[float]) -> OverSeeds:
    """Return the mean of independent runs with its interval.

    Examples
    --------
    Of 1, 2, 3 the standard error is 1/√3, and Student's quantile for two degrees of freedom is 4.3027:

    >>> print(over_seeds([1.0, 2.0, 3.0]))
    2.0000 [-0.4841, 4.4841]
    """
    return over_groups([value] for value in values)


def over_groups(groups: Iterable[Sequence[float]]) -> OverSeeds:
    r"""Return the mean of all runs with an interval that takes runs of a group to be alike, groups apart.

    Parameters
    ----------
    groups : iterable of sequences of float
        The runs of each group, e.g. of one data set, network and loss; at least one run.

    Returns
    -------
    OverSeeds
        Its n counts the runs. NaN where there is one group.

    Notes
    -----
    With G groups, sums s_g of n_g runs, N runs in all and their mean m, the standard error is
    :math:`\sqrt{\frac{G}{G-1}\sum_g (s_g - n_g m)^2}/N`, and Student's quantile has G − 1 degrees of
    freedom. With one run in each group this is the usual interval of a mean.

    Examples
    --------
    Two groups that differ tell little, however many runs each has:

    >>> print(over_groups([[1.0] * 100, [3.0] * 100]))
    2.0000 [-10.7062, 14.7062]
    """
    held = [np.array(group, np.float64) for group in groups]
    sizes, sums = np.array([len(group) for group in held]), np.array([group.sum() for group in held])
    n, count = len(held), int(sizes.sum())
    mean = float(sums.sum() / count)
    if n == 1:
        return OverSeeds(mean, math.nan, math.nan, count)
    error = math.sqrt(n / (n - 1) * float(((sums - sizes * mean) ** 2).sum())) / count
    margin = error * float(student.ppf(0.975, n - 1))
    return OverSeeds(mean, mean - margin, mean + margin, count)
