r"""The largest distance of a Brownian motion from 0, which summed residuals of calibrated rows tend to.

.. math:: P(\sup_{0 \le t \le 1} |B_t| \le x) = \frac{4}{\pi} \sum_{k \ge 0} \frac{(-1)^k}{2k + 1}
          e^{-\pi^2 (2k + 1)^2 / (8 x^2)}

References
----------
Feller 1971, An Introduction to Probability Theory and Its Applications II, chapter X.5.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtr


def sup_tail(x: float) -> float:
    """Return the probability that the supremum is x or more.

    Examples
    --------
    >>> round(sup_tail(2.2414), 4)
    0.05
    """
    if x <= 0:
        return 1.0
    if x > 1:  # by reflection: the other series hardly converges, and cancels
        k = np.arange(20)
        return float(min(1.0, 4 * ((-1.0) ** k * ndtr(-(2 * k + 1) * x)).sum()))
    k = np.arange(20)
    odd = 2 * k + 1
    return float(1 - 4 / np.pi * ((-1.0) ** k / odd * np.exp(-((np.pi * odd / x) ** 2) / 8)).sum())


def sup_quantile(level: float) -> float:
    """Return the distance that the supremum stays below with probability `level`.

    Examples
    --------
    >>> round(sup_quantile(0.95), 4)
    2.2414
    """
    return float(brentq(lambda x: sup_tail(x) - (1 - level), 1e-2, 40.0, xtol=1e-12))
