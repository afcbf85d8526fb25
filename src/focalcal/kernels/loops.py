"""Arrays in and out of the compiled loops, for those who have checked `kernels.compiled()`."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from focalcal import kernels


class JudgeSums(NamedTuple):
    """What judging sums over rows; see `focalcal.sums.judging.Judged`."""

    totals: NDArray[np.float64]  # (13,) Σw, Σw²; Σwx, Σw²x, Σw²x² of NLL, Brier, hit; floored, impossible
    top: NDArray[np.float64]  # (5, B) count, confidence, hit, weight, weight²; without weights (3, B)
    classwise: NDArray[np.float64] | None  # (5, K, B) or (3, K, B)
    signed: NDArray[Any] | None  # (n,)


def judge(
    scores: NDArray[Any],
    codes: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    *,
    is_probs: bool,
    tolerance: float,
    edges: NDArray[np.float64],
    with_classes: bool,
    with_confidence: bool,
) -> JudgeSums | None:
    """Judge float32 or float64 scores (n, K) or (n,) in one pass; None if they are not valid."""
    n_classes, bins = scores.shape[1] if scores.ndim == 2 else 2, len(edges) - 1
    fields = 3 if weight is None else 5
    sums = JudgeSums(
        np.zeros(13),
        np.zeros((fields, bins)),
        np.zeros((fields, n_classes, bins)) if with_classes else None,
        np.empty(len(scores), scores.dtype) if with_confidence else None,
    )
    valid = kernels.compiled().judge(
        aligned(scores), contiguous(codes, np.int64), contiguous(weight), is_probs, tolerance, edges, *sums
    )
    return sums if valid else None


def map_rows(
    scores: NDArray[Any],
    temperature: float,
    gamma: float,
    out: NDArray[Any],
    *,
    is_probs: bool,
    tolerance: float,
    probabilities: bool,
) -> bool:
    """Fill `out` (n, K), of the scores' dtype, with the focal map of softmax(z / T); False if not valid."""
    valid = kernels.compiled().map_rows(
        aligned(scores), is_probs, tolerance, temperature, gamma, probabilities, out
    )
    return bool(valid)


def aligned(scores: NDArray[Any]) -> NDArray[Any]:
    """Return scores as they are, unless the loops cannot step through them."""
    return scores if scores.flags.aligned else scores.copy()


def contiguous(column: NDArray[Any] | None, dtype: Any = np.float64) -> NDArray[Any] | None:
    """Return a number a row as the loops read it: without gaps, in one type."""
    return None if column is None else np.ascontiguousarray(column, dtype)
