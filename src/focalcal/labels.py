"""Labels of any kind to column numbers, without ever guessing silently."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.exceptions import DataConversionWarning
from sklearn.utils.multiclass import check_classification_targets

from focalcal._validate import as_array, check_lengths


def as_labels(y: Any, n: int) -> NDArray[Any]:
    """Return labels as a 1-D array of integers, booleans or strings with one entry a row."""
    labels = as_array(y, "y")
    if labels.ndim == 2 and labels.shape[1] == 1:
        warnings.warn(
            "A column-vector y was passed when a 1d array was expected; taken as (n,).",
            DataConversionWarning,
            stacklevel=3,
        )
        labels = labels[:, 0]
    if labels.ndim != 1:
        raise ValueError(
            f"Expected y of shape (n,), got shape {labels.shape}. For one-hot rows pass y.argmax(axis=1)."
        )
    check_lengths(n, labels, "y")
    if labels.dtype.kind == "O":
        labels = _from_objects(labels)
    if labels.dtype.kind == "f":
        if not np.isfinite(labels).all():
            raise ValueError("Expected y without NaN or inf, got a missing label. Drop those rows.")
        check_classification_targets(labels)
        labels = labels.astype(np.int64)
    if labels.dtype.kind not in "iubUST":
        raise ValueError(
            f"Unknown label type: expected integers, booleans or strings in y, got {labels.dtype}."
        )
    return labels


def _from_objects(labels: NDArray[Any]) -> NDArray[Any]:
    kinds = {type(label) for label in labels.tolist()}
    if len({str if issubclass(kind, str) else int for kind in kinds}) > 1 or any(
        not issubclass(kind, (str, int, bool, float)) for kind in kinds
    ):
        names = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise ValueError(
            f"Expected y of one kind (all integers or all strings), got {names}. Drop missing labels."
        )
    return np.array(labels.tolist())


def find_classes(labels: NDArray[Any], n_classes: int, classes: Any = None) -> NDArray[Any]:
    """Return the class of each column, shape (K,).

    Given `classes` are taken as they are. Otherwise integers in 0..K−1 are column numbers; any other
    labels need all K classes present and are the columns in sorted order.
    """
    if classes is not None:
        given = as_array(classes, "classes")
        if given.shape != (n_classes,) or len(np.unique(given)) != n_classes:
            raise ValueError(
                f"Expected classes to name each of the {n_classes} columns once, got {given.size} "
                f"({len(np.unique(given))} different)."
            )
        return given
    if labels.dtype.kind in "iu" and labels.min() >= 0 and labels.max() < n_classes:
        return np.arange(n_classes)
    found = np.unique(labels)
    if labels.dtype.kind == "b" and n_classes == 2:
        return np.array([False, True])
    if len(found) != n_classes:
        kind = "integers 0..K-1" if labels.dtype.kind in "iu" else "all K classes present"
        raise ValueError(
            f"Expected labels for {n_classes} columns ({kind}), got {len(found)} different classes, e.g. "
            f"{found[:3].tolist()}. Pass classes=[...], the class of each column in order."
        )
    return found


def encode(labels: NDArray[Any], classes: NDArray[Any]) -> NDArray[np.int64]:
    """Return the column number of each label; an unknown label is an error that names it."""
    n_classes = len(classes)
    if (labels.dtype.kind in "UST") != (classes.dtype.kind in "UST"):
        labels, classes = labels.astype(np.str_), classes.astype(np.str_)
    if labels.dtype.kind in "iu" and np.array_equal(classes, np.arange(n_classes)):
        if len(labels) == 0 or (labels.min() >= 0 and labels.max() < n_classes):
            return np.ascontiguousarray(labels, np.int64)
        codes, wrong = labels, (labels < 0) | (labels >= n_classes)
    else:
        order = np.argsort(classes)
        place = np.searchsorted(classes[order], labels)
        codes = order[np.minimum(place, n_classes - 1)]
        wrong = classes[codes] != labels
    if wrong.any():
        unknown = labels[np.flatnonzero(wrong)[0]]
        raise ValueError(
            f"Expected every label among the {n_classes} classes {classes[:5].tolist()}…, got {unknown!r}. "
            "Check that y and the columns of X belong together."
        )
    return np.ascontiguousarray(codes, np.int64)
