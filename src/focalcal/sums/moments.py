"""The sums behind a weighted mean and its standard error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class MeanSums:
    """Sums of a score x over rows with weights w; adding two merges their rows.

    Attributes
    ----------
    count : int
        Rows.
    weight, weight_squared : float
        Σ w and Σ w².
    first : float
        Σ w x.
    cross, square : float
        Σ w² x and Σ w² x², for the standard error.

    Examples
    --------
    >>> import numpy as np
    >>> total = sum_rows(np.array([1.0, 3.0])) + sum_rows(np.array([2.0]))
    >>> total.mean, round(total.stderr, 6)
    (2.0, 0.57735)
    """

    count: int
    weight: float
    weight_squared: float
    first: float
    cross: float
    square: float

    def __add__(self, other: Self) -> Self:
        return type(self)(
            self.count + other.count,
            self.weight + other.weight,
            self.weight_squared + other.weight_squared,
            self.first + other.first,
            self.cross + other.cross,
            self.square + other.square,
        )

    @property
    def mean(self) -> float:
        """The weighted mean Σwx / Σw."""
        return self.first / self.weight

    @property
    def effective_count(self) -> float:
        """Rows of equal weight that would have the same variance, (Σw)² / Σw²."""
        return self.weight**2 / self.weight_squared

    @property
    def stderr(self) -> float:
        """Standard error of the mean, NaN for one row or an infinite mean.

        Weights count as importance: the result is the same for weights 2w as for w. For equal weights
        this is the sample standard deviation over √n.
        """
        n = self.effective_count
        if n <= 1 + 1e-12 or not np.isfinite(self.mean):
            return float("nan")
        spread = self.square - 2 * self.mean * self.cross + self.mean**2 * self.weight_squared
        return float(np.sqrt(max(spread, 0.0) * n / (n - 1)) / self.weight)


def sum_rows(x: NDArray[Any], weight: NDArray[Any] | None = None) -> MeanSums:
    """Sum a score of shape (n,) over its rows; a row of weight 0 adds nothing, whatever its score."""
    x = x.astype(np.float64, copy=False)
    if weight is None:
        total = float(x.sum())
        return MeanSums(len(x), float(len(x)), float(len(x)), total, total, float(x @ x))
    w = weight.astype(np.float64, copy=False)
    wx = np.multiply(w, x, out=np.zeros_like(w), where=w > 0)
    return MeanSums(len(x), float(w.sum()), float(w @ w), float(wx.sum()), float(w @ wx), float(wx @ wx))
