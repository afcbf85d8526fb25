r"""What rows tell of a mean over the data: its value, and the error that the choice of rows leaves.

For rows with weights :math:`w_n` and numbers :math:`x_{nj}` (of sketch or probe j, times the weight), the
mean :math:`m_j = \sum_n x_{nj} / \sum_n w_n` is a ratio, and the covariance of such means over samples of
rows is that of :math:`x_{nj} - w_n m_j`, by linearisation.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


def moments(weight: Tensor, numbers: Tensor) -> Tensor:
    """Return Σ uuᵀ over rows for u = (1, w, x_1, …), float64 (m + 2, m + 2), from (n,) and (n, m)."""
    ones = torch.ones(len(weight), 1, dtype=torch.float64, device=numbers.device)
    u = torch.cat([ones, weight.unsqueeze(1).double(), numbers.double()], 1)
    return u.T @ u


class RowMeans(NamedTuple):
    """Means over the rows, and how they vary with the choice of rows."""

    means: Tensor  # (m,)
    covariance: Tensor  # (m, m), NaN for a single row
    n: int

    @property
    def data_variance(self) -> float:
        """Variance of what the numbers of one row have in common; the sketches' own is left out."""
        m = len(self.means)
        if m == 1:
            return float(self.covariance[0, 0])
        total = float(self.covariance.sum() - self.covariance.trace())
        return max(total / (m * (m - 1)), 0.0) if math.isfinite(total) else math.nan


def row_means(found: Tensor) -> RowMeans:
    """Return the means from the moments of all rows."""
    n, weight = int(found[0, 0]), found[0, 1]
    means = found[0, 2:] / weight
    shift = means.unsqueeze(1)
    centred = found[2:, 2:] - shift * found[1, 2:] - (shift * found[1, 2:]).T + shift * shift.T * found[1, 1]
    factor = n / (n - 1) if n > 1 else math.nan
    return RowMeans(means, centred * factor / weight**2, n)


def summed_means(found: Tensor) -> RowMeans:
    """Return what `row_means` does of x_j + x_{m+j}, from the moments of 2m numbers a row."""
    m = (len(found) - 2) // 2
    both = torch.eye(m + 2, len(found), dtype=found.dtype, device=found.device)
    both[2:, m + 2 :] = torch.eye(m, dtype=found.dtype, device=found.device)
    return row_means(both @ found @ both.T)


def halves(found: Tensor) -> tuple[RowMeans, RowMeans]:
    """Return what `row_means` does of x_1 … x_m, and of x_{m+1} … x_2m."""
    m = (len(found) - 2) // 2
    first = torch.arange(m + 2, device=found.device)
    second = torch.cat([first[:2], first[2:] + m])
    return row_means(found[first][:, first]), row_means(found[second][:, second])
