"""Every check of what a caller passes in, and every message: expected, got, what to do."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sized
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from focalcal.engine import row_slices

Input = Literal["logits", "probs"]

#: Probabilities below this are raised to it before the logarithm (−69.1 nats). An exact zero in a
#: table of probabilities is underflow; a class that truly cannot occur is a logit of −inf.
PROBABILITY_FLOOR = 1e-30

#: How far a row of probabilities may be from summing to one, by the precision it was stored in.
SUM_TOLERANCE = {"float16": 2e-2, "float32": 1e-3, "float64": 1e-3}


class CalibrationWarning(UserWarning):
    """The result is usable, but something about the data or the fit needs to be known."""


def check_input(kind: str) -> Input:
    """Check the declared kind of scores: it is never guessed from the values."""
    if kind not in get_args(Input):
        raise ValueError(f'Expected input="logits" or input="probs", got {kind!r}.')
    return kind  # type: ignore[return-value]


def check_inputs(kinds: Any) -> tuple[Input, Input]:
    """Check the declared kinds of two sets of scores: one word for both, or two."""
    words = (kinds, kinds) if isinstance(kinds, str) else tuple(kinds)
    if len(words) != 2:
        raise ValueError(f"Expected input as one word or two, one for each set, got {len(words)}.")
    return check_input(words[0]), check_input(words[1])


def check_pixels(scores: tuple[int, ...], labels: tuple[int, ...]) -> None:
    """Check the shapes of scores and labels with more axes than rows and classes."""
    if labels != scores[:1] + scores[2:]:
        raise ValueError(
            f"Expected y_prob of shape (N, K, d1, …) with y of shape (N, d1, …), got {scores} and {labels}. "
            "Classes come second: for channels last pass np.moveaxis(y_prob, -1, 1)."
        )


def check_column(values: Any, name: str) -> NDArray[Any]:
    """Check that what parts the rows is one value a row."""
    column = as_array(values, name)
    if column.ndim != 1:
        raise ValueError(
            f"Expected {name} of shape (n,), got shape {column.shape}. Pass one value for each row."
        )
    return column


def check_cluster(values: Any) -> NDArray[Any]:
    """Check that what says which rows belong together can be told apart."""
    column = check_column(values, "cluster")
    kinds = {type(value).__name__ for value in column.tolist()} if column.dtype.kind == "O" else set()
    if len(kinds) > 1 or "NoneType" in kinds:
        raise ValueError(
            f"Expected cluster of one kind (all numbers or all names), got {', '.join(sorted(kinds))}. Give "
            "rows whose cluster is missing one of their own."
        )
    return column


def check_ignored(ignore_index: Any, labels: NDArray[Any]) -> Any:
    """Check that something is left when the rows of a label are dropped."""
    if labels.ndim != 1 or (labels == ignore_index).all():
        raise ValueError(
            f"Expected labels other than ignore_index={ignore_index!r}, one a row, got none. "
            "Check which label marks what is to be left out."
        )
    return ignore_index


def check_targets(targets: NDArray[Any], n_classes: int) -> NDArray[np.float64]:
    """Check label distributions: one column a class, no negative value, rows that sum to 1."""
    if targets.shape[1] != n_classes or targets.dtype.kind not in "fiub":
        raise ValueError(
            f"Expected y of shape (n,), or (n, {n_classes}) with the distribution of each row's label, got "
            f"shape {targets.shape} of {targets.dtype}. Pass labels, or one column a class."
        )
    wide = targets.astype(np.float64)
    sums = wide.sum(axis=1)
    worst = int(np.nan_to_num(np.abs(sums - 1), nan=np.inf).argmax()) if len(sums) else 0
    if len(sums) and (not abs(sums[worst] - 1) <= 1e-3 or wide.min() < 0):
        raise ValueError(
            f"Expected rows of y that are distributions (0 or more, sum 1), got sum {sums[worst]:.6g} in row "
            f"{worst}, minimum {wide.min():.6g}. Divide counts of votes by their row sums."
        )
    return np.asarray(wide / sums[:, None])


def check_multilabel(y: NDArray[Any], p: NDArray[Any], kind: Input) -> NDArray[np.bool_]:
    """Check the labels and probabilities of a multilabel model; return which labels are known."""
    if y.ndim != 2 or y.shape != p.shape or 0 in y.shape:
        raise ValueError(
            f"Expected y_true and y_prob of one shape (n, L), got {y.shape} and {p.shape}. Pass one column a "
            "label."
        )
    known = ~np.isnan(y) if y.dtype.kind == "f" else np.ones(y.shape, np.bool_)
    if not np.isin(y[known], (0, 1)).all():
        raise ValueError(
            "Expected labels 1, 0 or NaN (not known) in y_true, got others. Binarise them first."
        )
    if not known.any(axis=0).all():
        k = int(np.flatnonzero(~known.any(axis=0))[0])
        raise ValueError(f"Expected some known value of each label, got none in column {k}. Drop the column.")
    if np.isnan(p).any() or (kind == "probs" and not (p.min() >= 0 and p.max() <= 1)):
        raise ValueError(
            f"Expected y_prob in [0, 1] without NaN, got min={p.min():.6g}, max={p.max():.6g}. "
            'If these are logits, pass input="logits".'
        )
    return known


def check_same_rows(a: tuple[int, int], b: tuple[int, int], classes_a: Any, classes_b: Any) -> None:
    """Check that two sets of predictions are of the same rows and classes."""
    if a != b or list(classes_a) != list(classes_b):
        raise ValueError(
            f"Expected two sets of predictions for the same rows and classes, got {a[0]} × {a[1]} and "
            f"{b[0]} × {b[1]}. Pass them row for row, with the same columns in the same order."
        )


def check_same_labels(codes_a: Any, codes_b: Any, weight_a: Any, weight_b: Any) -> None:
    """Check that two sets of predictions come with the same labels and weights."""
    different = np.flatnonzero(codes_a != codes_b)
    if len(different):
        raise ValueError(
            f"Expected two tables with the same labels in the same order, got different ones in "
            f"{len(different):,} rows, first in row {different[0]}. Sort both tables alike."
        )
    if (weight_a is None) != (weight_b is None) or not np.array_equal(weight_a, weight_b):
        raise ValueError("Expected two tables with the same weights, got different ones. Use one column.")


def as_array(values: Any, name: str) -> NDArray[Any]:
    """Turn NumPy arrays, lists, pandas, polars, Arrow and CPU torch tensors into one ndarray."""
    if hasattr(values, "tocsr"):
        raise TypeError(f"Expected {name} to be dense, got a sparse matrix. Call .toarray() first.")
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"Expected {name} without a mask, got a masked array. Drop the masked rows first.")
    if hasattr(values, "detach"):
        values = values.detach()
    elif type(values).__module__.partition(".")[0] == "pyarrow" and hasattr(values, "combine_chunks"):
        values = values.to_pandas() if hasattr(values, "columns") else values.to_numpy()
    try:
        return np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"Expected {name} as an array, a data frame, an Arrow table or a CPU tensor, got "
            f"{type(values).__name__}: {error}. Pass rows of equal length, on the CPU, in float16, 32 or 64."
        ) from error


def as_scores(X: Any, name: str = "X") -> NDArray[Any]:
    """Return scores as float16/32/64 of shape (n, K), or (n,) for the score of the second of two classes."""
    scores = as_array(X, name)
    if scores.dtype.kind == "O":
        try:
            scores = scores.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise type(error)(f"Expected {name} to be numeric, got values that are not: {error}.") from error
    if scores.dtype.kind == "c":
        raise ValueError(f"Expected {name} to be real. Complex data not supported: got {scores.dtype}.")
    if scores.dtype.kind not in "fiub":
        raise TypeError(f"Expected {name} to be numeric, got dtype {scores.dtype}.")
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if scores.ndim == 2 and scores.shape[1] == 0:
        raise ValueError(
            f"Expected {name} with a column for each class, got 0 feature(s) (shape={scores.shape}) while a "
            "minimum of 1 is required."
        )
    if scores.ndim not in (1, 2):
        raise ValueError(
            f"Expected {name} of shape (n, K), one column a class, or (n,) for two classes, got shape "
            f"{scores.shape}. Reshape your data to one row a sample."
        )
    if scores.shape[0] == 0:
        raise ValueError(f"Expected {name} with at least one row, got 0 sample(s) (shape={scores.shape}).")
    if scores.dtype not in (np.float16, np.float32, np.float64):
        scores = scores.astype(np.float64)
    return scores


def class_count(scores: NDArray[Any]) -> int:
    """Return the number of classes K that an array of scores stands for."""
    return 2 if scores.ndim == 1 else scores.shape[1]


def check_scores(scores: NDArray[Any], kind: Input, name: str = "X") -> None:
    """Check every value, block by block: NaN, infinities, probabilities outside [0, 1], row sums."""
    for rows in row_slices(len(scores), class_count(scores)):
        check_block(scores[rows], kind, name, rows.start)


def warn_of_probabilities(scores: NDArray[Any], kind: Input, stacklevel: int) -> None:
    """Warn where declared logits look like probabilities; they are still taken as declared."""
    if kind == "logits" and scores.ndim == 2 and len(scores) >= 10:
        first = scores[: min(1000, max(10, (1 << 16) // scores.shape[1]))].astype(np.float64)
        if first.min() >= 0 and np.abs(first.sum(axis=1) - 1).max() < SUM_TOLERANCE[scores.dtype.name]:
            warnings.warn(
                "The rows are non-negative and sum to 1, as probabilities do, and are taken as the logits "
                'they were declared to be. If they are probabilities, pass input="probs" (--probs).',
                CalibrationWarning,
                stacklevel=stacklevel,
            )


def check_block(block: NDArray[Any], kind: Input, name: str, first: int) -> None:
    """Check the values of one block, whose first row is row `first` of the whole."""
    low, high = float(block.min()), float(block.max())
    if math.isnan(low) or math.isnan(high):
        row = first + int(np.flatnonzero(np.isnan(block).reshape(len(block), -1).any(axis=1))[0])
        raise ValueError(f"Expected {name} without NaN, got NaN in row {row}. Drop or repair that row.")
    if kind == "probs":
        _check_probabilities(block, low, high, name, first)
    elif high == math.inf:
        raise ValueError(f"Expected {name} below +inf (infinity), got +inf. Only -inf has a meaning: masked.")
    elif low == -math.inf:
        masked = block == -math.inf if block.ndim == 1 else (block == -math.inf).all(axis=1)
        if masked.any():
            row = first + int(np.flatnonzero(masked)[0])
            raise ValueError(f"Expected a finite logit in every row of {name}, got only -inf in row {row}.")


def _check_probabilities(block: NDArray[Any], low: float, high: float, name: str, first: int) -> None:
    tolerance = SUM_TOLERANCE[block.dtype.name]
    if low < 0 or high > 1 + tolerance:
        raise ValueError(
            f"Expected {name} in [0, 1], got min={low:.6g}, max={high:.6g}. "
            'If these are logits, pass input="logits".'
        )
    if block.ndim == 2:
        sums = block.sum(axis=1, dtype=np.float64)
        worst = int(np.abs(sums - 1).argmax())
        if abs(sums[worst] - 1) > tolerance:
            raise ValueError(
                f"Expected each row of {name} to sum to 1 (within {tolerance:g}), got {sums[worst]:.6g} in "
                f'row {first + worst}. Normalise the rows, or pass input="logits" if these are logits.'
            )


def to_logits(block: NDArray[Any], kind: Input) -> NDArray[Any]:
    """Return a block as logits (b, K) in float32 or float64; never a view that may be written to.

    Probabilities become their logarithms (floored at `PROBABILITY_FLOOR`); (b,) becomes two columns.
    """
    block = block.astype(np.float64 if block.dtype == np.float64 else np.float32, copy=False)
    if kind == "logits":
        return np.stack([np.zeros_like(block), block], axis=1) if block.ndim == 1 else block
    if block.ndim == 1:
        # 1 - p is exact in float64 for every float32 p
        wide = np.clip(block.astype(np.float64), 0, 1)
        block = np.stack([1 - wide, wide], axis=1)
    logits: NDArray[Any] = np.log(np.maximum(block, block.dtype.type(PROBABILITY_FLOOR)))
    return logits


def check_weights(sample_weight: Any, n: int) -> NDArray[Any] | None:
    """Return weights of shape (n,), finite, non-negative, not all zero or absurd; None stays None."""
    if sample_weight is None:
        return None
    weights = as_array(sample_weight, "sample_weight")
    if weights.ndim == 0 and weights.dtype.kind in "fiu":
        weights = np.full(n, float(weights))
    if weights.dtype.kind not in "fiub" or weights.ndim != 1:
        raise ValueError(
            f"Expected sample_weight as numbers of shape (n,), got {weights.dtype} of shape {weights.shape}. "
            "Sample weights must be 1D array or scalar."
        )
    check_lengths(n, weights, "sample_weight")
    low, high = float(weights.min()), float(weights.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < 0:
        raise ValueError(f"Expected sample_weight finite and >= 0, got min={low:.6g}, max={high:.6g}.")
    if high == 0:
        raise ValueError("Expected some sample_weight above 0, got only zeros.")
    if not 1e-100 <= high <= 1e100:
        raise ValueError(
            f"Expected the largest sample_weight from 1e-100 to 1e100, squares are summed, got {high:.6g}. "
            "Divide all by one number."
        )
    return np.ascontiguousarray(weights)


def check_alone(declared: Input, wanted: Input, y: Any, sample_weight: Any) -> None:
    """Check what comes with a source of scores, which holds its labels and weights itself."""
    if y is not None or sample_weight is not None:
        raise TypeError(
            "Expected scores of a file alone, got labels or weights beside them. Name their columns in "
            "open_scores(..., label=..., weight=...)."
        )
    if declared != wanted:
        raise ValueError(
            f"Expected scores declared as {wanted}, got {declared}. Say the same to both: input={declared!r}."
        )


def check_source_alone(ignore_index: Any, cluster: Any) -> None:
    """Check what cannot be said of a file's rows beside its columns."""
    if ignore_index is not None or cluster is not None:
        raise TypeError(
            "Expected scores of a file without ignore_index, cluster or by, which are for arrays. Choose "
            "rows with open_scores(..., where=..., by=...)."
        )


def check_lengths(n: int, other: Sized, name: str) -> None:
    """Check that labels or weights have one entry a row."""
    if len(other) != n:
        raise ValueError(
            f"Expected {name} with one entry for each of the {n} rows of X, got {len(other)}: "
            "inconsistent numbers of samples."
        )
