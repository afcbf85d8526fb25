"""Scores and labels of any shape as rows: images of pixels, labels to ignore, distributions as labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import as_array, check_clusters, check_ignored, check_pixels, check_targets


@dataclass(frozen=True)
class Layout:
    """What was passed, one row a prediction."""

    y: Any  # (n,) labels, or (n, K) their distributions
    scores: Any  # (n, K) or (n,)
    weight: Any  # (n,) or None
    cluster: NDArray[np.int64] | None = None  # (n,) rows that belong together


def as_rows_of(
    y: Any, scores: Any, weight: Any, ignore_index: int | None = None, cluster: Any = None
) -> Layout:
    """Return predictions as rows.

    Scores of shape (N, K, d1, …) with labels (N, d1, …), as of images, become N · d1 · … rows, and each of
    the N is a cluster: its pixels are not independent. Rows whose label is `ignore_index` are dropped.
    """
    if getattr(scores, "ndim", 0) > 2 or (isinstance(scores, list) and np.ndim(scores) > 2):
        y, scores, weight, cluster = _flatten(y, scores, weight, cluster)
    if ignore_index is not None:
        y = as_array(y, "y")
        kept = y != check_ignored(ignore_index, y)
        y, scores = y[kept], as_array(scores, "y_prob")[kept]
        weight = None if weight is None else as_array(weight, "sample_weight")[kept]
        cluster = None if cluster is None else as_array(cluster, "cluster")[kept]
    if cluster is not None:
        found, codes = np.unique(as_array(cluster, "cluster"), return_inverse=True)
        check_clusters(len(found))
        cluster = codes.astype(np.int64)
    return Layout(y, scores, weight, cluster)


def _flatten(y: Any, scores: Any, weight: Any, cluster: Any) -> tuple[Any, Any, Any, Any]:
    scores, labels = as_array(scores, "y_prob"), as_array(y, "y")
    check_pixels(scores.shape, labels.shape)
    if cluster is None:
        cluster = np.arange(len(scores))
    pixels = labels[0].size
    table = np.moveaxis(scores, 1, -1).reshape(-1, scores.shape[1])
    if weight is not None:
        weight = as_array(weight, "sample_weight")
        weight = np.repeat(weight, pixels) if weight.shape == (len(scores),) else weight.reshape(-1)
    return labels.reshape(-1), table, weight, np.repeat(as_array(cluster, "cluster"), pixels)


def as_targets(y: Any, n_classes: int) -> NDArray[np.float64] | None:
    """Return label distributions (n, K), whose rows sum to 1; None if y holds one label a row."""
    if getattr(y, "ndim", 0) != 2 and not (isinstance(y, list) and y and np.ndim(y[0]) == 1):
        return None
    targets = as_array(y, "y")
    if targets.ndim != 2 or targets.shape[1] == 1:
        return None
    return check_targets(targets, n_classes)
