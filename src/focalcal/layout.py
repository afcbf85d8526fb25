"""Scores and labels of any shape as rows: images of pixels, labels to ignore, distributions as labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_clusters
from focalcal._validate import (
    as_array,
    check_cluster,
    check_column,
    check_ignored,
    check_lengths,
    check_pixels,
    check_targets,
)


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
    if _has_pixels(scores):
        y, scores, weight, cluster = _flatten(y, scores, weight, cluster)
    if ignore_index is not None:
        y, scores = as_array(y, "y"), as_array(scores, "y_prob")
        check_lengths(len(scores), y, "y")
        kept = y != check_ignored(ignore_index, y)
        weight, cluster = _chosen(weight, kept, "sample_weight"), _chosen(cluster, kept, "cluster")
        y, scores = y[kept], scores[kept]
    if cluster is not None:
        found, codes = np.unique(check_cluster(cluster), return_inverse=True)
        check_clusters(len(found))
        cluster = codes.astype(np.int64)
    return Layout(y, scores, weight, cluster)


def as_groups_of(by: Any, y: Any, scores: Any, ignore_index: int | None = None) -> NDArray[Any]:
    """Return groups as `as_rows_of` returns their rows: given one a row, or one an image or one a pixel."""
    labels = as_array(y, "y")
    if _has_pixels(scores):
        by, labels = _each_pixel(by, labels, "by"), labels.reshape(-1)
    if ignore_index is not None:
        by = _chosen(by, labels != ignore_index, "by")
    return check_column(by, "by")


def _has_pixels(scores: Any) -> bool:
    return getattr(scores, "ndim", 0) > 2 or (isinstance(scores, list) and np.ndim(scores) > 2)


def _chosen(values: Any, kept: NDArray[np.bool_], name: str) -> Any:
    """Return what belongs to some of the rows; one number for all stays what it is."""
    if values is None or np.ndim(values) == 0:
        return values
    values = as_array(values, name)
    check_lengths(len(kept), values, name)
    return values[kept]


def _each_pixel(values: Any, labels: NDArray[Any], name: str) -> Any:
    """Return what was given one an image, or one a pixel, one a pixel; one number stays what it is."""
    values = as_array(values, name)
    if values.ndim == 0:
        return values
    return np.repeat(values, labels[0].size) if values.shape == labels.shape[:1] else values.reshape(-1)


def _flatten(y: Any, scores: Any, weight: Any, cluster: Any) -> tuple[Any, Any, Any, Any]:
    scores, labels = as_array(scores, "y_prob"), as_array(y, "y")
    check_pixels(scores.shape, labels.shape)
    table = np.moveaxis(scores, 1, -1).reshape(-1, scores.shape[1])
    weight = None if weight is None else _each_pixel(weight, labels, "sample_weight")
    cluster = np.arange(len(scores)) if cluster is None else cluster
    return labels.reshape(-1), table, weight, _each_pixel(cluster, labels, "cluster")


def as_targets(y: Any, n_classes: int) -> NDArray[np.float64] | None:
    """Return label distributions (n, K), whose rows sum to 1; None if y holds one label a row."""
    if getattr(y, "ndim", 0) != 2 and not (isinstance(y, list) and y and np.ndim(y[0]) == 1):
        return None
    targets = as_array(y, "y")
    if targets.ndim != 2 or targets.shape[1] == 1:
        return None
    return check_targets(targets, n_classes)
