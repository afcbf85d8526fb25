"""Files of predictions: parquet, CSV, npz and npy become scores, labels and weights."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import Input, as_scores
from focalcal.io.arrays import column_of, find_key, kept_rows, read_arrays
from focalcal.io.columns import choose_column, choose_columns, matched_parts, parse_labels, resolve_classes
from focalcal.io.files import find_paths, format_of
from focalcal.io.tables import BATCH_ELEMENTS, Table, open_table, quote, score_block

_LABEL_KEYS = ("labels", "label", "y")
_INTEGER = re.compile(r"U?(TINY|SMALL|BIG)?INT(EGER)?")
_NUMERIC = re.compile(r"FLOAT|DOUBLE|DECIMAL.*|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|BOOLEAN")


@dataclass(frozen=True, repr=False)
class Scores:
    """A table of predictions in memory.

    Attributes
    ----------
    X : ndarray of shape (n, K) or (n,)
        Logits or probabilities, float16, 32 or 64.
    y : ndarray of shape (n,) or None
        Labels.
    weight : ndarray of shape (n,) or None
        Weights of the rows.
    input : {"logits", "probs"}
        What X was declared to be.
    classes : ndarray of shape (K,) or None
        The class of each column of X where the data says it.
    columns : tuple of str
        The columns (or the key) X was read from.
    path : str
        The file, or the pattern.
    matched : tuple of str
        What the pattern's `*` stands for in each column; without a pattern the columns' names.
    """

    X: NDArray[Any]
    y: NDArray[Any] | None
    weight: NDArray[Any] | None
    input: Input
    classes: NDArray[Any] | None
    columns: tuple[str, ...]
    path: str
    matched: tuple[str, ...] = ()

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.X)

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return 2 if self.X.ndim == 1 else self.X.shape[1]

    def __repr__(self) -> str:
        labels = "no labels" if self.y is None else f"labels {self.y.dtype}"
        return f"<Scores of {self.path!r}: {self.input} {self.X.dtype} of shape {self.X.shape}, {labels}>"


def open_scores(
    path: str | os.PathLike[str],
    *,
    logits: str | Sequence[str] | None = None,
    probs: str | Sequence[str] | None = None,
    label: str | None = None,
    weight: str | None = None,
    where: str | None = None,
    classes: Sequence[Any] | None = None,
) -> Scores:
    """Read predictions from a parquet, CSV, npz or npy file, rows in the order of the file.

    Parameters
    ----------
    path : str or path
        A .parquet, .csv, .csv.gz, .npz or .npy file, or a pattern for several parquet or CSV files.
        Nothing is unpickled.
    logits, probs : str or sequence of str
        The columns with the scores, one a class in the order of the classes; exactly one of the two,
        which declares what the numbers are. A name, a comma-separated list or a pattern such as "z*"
        (z9 comes before z10); or one column whose entries are lists. For npz the key of the array; if
        the file has a key "logits" or "probs", but not both, it may be left out. For npy "*".
    label, weight : str, optional
        The column (npz: key) with the labels and with the weights. npz: labels, label or y is found.
    where : str, optional
        An SQL condition over the columns: only these rows, e.g. "not val_mask and year >= 2020".
    classes : sequence, optional
        The class of each column. Default: what the pattern's `*` stands for if these names cover the
        labels, or the key "classes" of an npz.

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        For a missing column or key, NULLs, an empty, corrupt or truncated file, text that is no number.
    FileNotFoundError
        If there is no such file.
    ImportError
        For parquet and CSV without the extra [data].

    Examples
    --------
    >>> import os, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "val.npz")
    ...     np.savez(path, logits=np.array([[2.0, 0.0], [1.0, 3.0]]), labels=np.array([0, 1]))
    ...     scores = open_scores(path)
    >>> scores.input, scores.n, scores.y
    ('logits', 2, array([0, 1]))
    """
    paths = find_paths(path)
    chosen, kind = declared(logits, probs)
    wanted = Wanted(chosen, kind, label, weight, where, classes)
    if format_of(paths[0]) in ("npz", "npy"):
        return _from_arrays(paths[0], wanted)
    return _from_table(open_table(paths), os.fspath(path), wanted)


@dataclass(frozen=True)
class Wanted:
    """What the user asked of a file, before its columns are known."""

    scores: str | Sequence[str] | None
    input: Input | None
    label: str | None = None
    weight: str | None = None
    where: str | None = None
    classes: Sequence[Any] | None = None


@dataclass(frozen=True)
class Columns:
    """The columns of a table that hold the scores, and the DuckDB type to read them as."""

    input: Input
    names: tuple[str, ...]
    cast: str
    matched: list[str] | None


def declared(
    logits: str | Sequence[str] | None, probs: str | Sequence[str] | None
) -> tuple[str | Sequence[str] | None, Input | None]:
    """Return the columns asked for and what they were declared to hold."""
    if logits is not None and probs is not None:
        raise ValueError("Expected either logits or probs, got both. A model's scores are one or the other.")
    if logits is not None:
        return logits, "logits"
    return (probs, "probs") if probs is not None else (None, None)


def find_columns(table: Table, wanted: Wanted) -> Columns:
    """Return the score columns of a table, checked to hold numbers or lists of numbers."""
    if wanted.input is None or wanted.scores is None:
        raise ValueError(
            "Expected to be told which columns hold the scores: pass logits='z*' or probs='p*' "
            "(on the command line --logits 'z*' or --probs 'p*')."
        )
    names = choose_columns(wanted.scores, table.names, wanted.input, without={wanted.label, wanted.weight})
    matched = matched_parts(wanted.scores, names)
    types = [table.type_of(name) for name in names]
    listed = table.is_text and len(names) == 1 and table.starts_with_bracket(names[0])
    if listed or (len(names) == 1 and types[0].endswith("]")):
        return Columns(
            wanted.input, tuple(names), "FLOAT[]" if types[0].startswith("FLOAT[") else "DOUBLE[]", None
        )
    for name, kind in zip(names, types):
        if not table.is_text and not _NUMERIC.fullmatch(kind):
            raise ValueError(
                f"Expected numbers in column {name!r}, got {kind}. Name the columns with scores."
            )
    cast = "FLOAT" if set(types) == {"FLOAT"} else "DOUBLE"
    return Columns(wanted.input, tuple(names), cast, matched)


def _from_table(table: Table, path: str, wanted: Wanted) -> Scores:
    columns = find_columns(table, wanted)
    n = table.count(wanted.where)
    if n == 0:
        kept = f"with where {wanted.where!r}" if wanted.where else "(it has only a header)"
        raise ValueError(f"Expected at least one row in {path!r} {kept}, got 0.")
    X: NDArray[Any] | None = None
    labels: list[NDArray[Any]] = []
    weights: list[NDArray[Any]] = []
    start = 0
    for block, label_block, weight_block in score_batches(table, columns, wanted):
        X = np.empty((n, *block.shape[1:]), dtype=block.dtype) if X is None else X
        check_width(block, X.shape[1:], columns.names)
        X[start : start + len(block)] = block
        start += len(block)
        labels.append(label_block)
        weights.append(weight_block)
    X = as_scores(X)
    y = None if wanted.label is None else _labels_of(np.concatenate(labels), table.is_text)
    y, classes = resolve_classes(
        y, 2 if X.ndim == 1 else X.shape[1], wanted.classes, columns.matched, columns.names
    )
    weight = None if wanted.weight is None else np.concatenate(weights)
    return Scores(
        X, y, weight, columns.input, classes, columns.names, path, tuple(columns.matched or columns.names)
    )


def score_batches(
    table: Table, columns: Columns, wanted: Wanted
) -> Iterator[tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
    """Yield blocks of (scores, labels, weights) in file order; labels and weights empty if not wanted."""
    casts: list[tuple[str, str | None]] = [(name, columns.cast) for name in columns.names]
    if wanted.label is not None:
        label = choose_column(wanted.label, table.names, "label")
        casts.append((label, _label_cast(label, table.type_of(label))))
    if wanted.weight is not None:
        casts.append((choose_column(wanted.weight, table.names, "weight"), "DOUBLE"))
    k = len(columns.names)
    nothing = np.empty(0)
    for batch in table.scan(casts, wanted.where, max(1, BATCH_ELEMENTS // k)):
        for (name, _), column in zip(casts, batch.columns):
            if column.null_count:
                raise missing_values(name, table.missing(name, wanted.where))
        rest = [column.to_numpy(zero_copy_only=False) for column in batch.columns[k:]]
        yield (
            score_block(batch.columns[:k]),
            rest[0] if wanted.label is not None else nothing,
            rest[-1] if wanted.weight is not None else nothing,
        )


def missing_values(name: str, rows: int) -> ValueError:
    """Return the error for NULLs in a column that has to be complete."""
    return ValueError(
        f"Expected a value in every row of column {name!r}, got NULL in {rows} row(s). "
        f"Repair them, or leave them out with where {quote(name) + ' IS NOT NULL'!r}."
    )


def check_width(block: NDArray[Any], width: tuple[int, ...], names: Sequence[str]) -> None:
    """Check that the lists of this block are as long as those before."""
    if block.shape[1:] != width:
        raise ValueError(
            f"Expected lists of one length in column {names[0]!r}, got {width[0]} and {block.shape[1]}."
        )


def _label_cast(name: str, kind: str) -> str | None:
    if kind in ("VARCHAR", "BOOLEAN", "FLOAT", "DOUBLE") or _INTEGER.fullmatch(kind):
        return None
    if kind.startswith("ENUM"):
        return "VARCHAR"
    if kind.startswith("DECIMAL") or kind.endswith("HUGEINT"):
        return "DOUBLE"
    raise ValueError(f"Expected integers, booleans or text in the label column {name!r}, got {kind}.")


def _labels_of(labels: NDArray[Any], is_text: bool) -> NDArray[Any]:
    if labels.dtype.kind == "O":
        labels = labels.astype(np.str_)
        return parse_labels(labels) if is_text else labels
    if labels.dtype.kind == "f":
        odd = labels[~(labels == np.rint(labels))]
        if len(odd):
            raise ValueError(f"Expected labels that are integers or names, got the number {odd[0]}.")
        return labels.astype(np.int64)
    return labels


def _from_arrays(path: str, wanted: Wanted) -> Scores:
    arrays = read_arrays(path)
    key, kind = find_key(arrays, wanted.scores, wanted.input, path)
    X = as_scores(arrays[key], key)
    n = len(X)
    label = wanted.label
    if label is None:
        label = next((name for name in _LABEL_KEYS if name in arrays), None)
    y = None if label is None else _labels_of(column_of(arrays, label, n, "label"), False)
    weight = None if wanted.weight is None else column_of(arrays, wanted.weight, n, "weight")
    if wanted.where:
        rows = kept_rows(arrays, n, wanted.where, path)
        X, y, weight = (None if a is None else a[rows] for a in (X, y, weight))  # type: ignore[assignment]
    classes: Any = wanted.classes
    if classes is None and "classes" in arrays and arrays["classes"].ndim == 1:
        classes = arrays["classes"]
    y, classes = resolve_classes(y, 2 if X.ndim == 1 else X.shape[1], classes)
    return Scores(X, y, weight, kind, classes, (key,), path)
