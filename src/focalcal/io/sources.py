"""Files of predictions: parquet, CSV, npz and npy become scores, labels and weights."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import Input, as_scores, class_count, warn_of_probabilities
from focalcal.engine import map_sum
from focalcal.io.arrays import column_of, find_key, kept_rows, read_arrays, segments_of
from focalcal.io.census import Census, take_census
from focalcal.io.columns import resolve_classes
from focalcal.io.duck import find_files
from focalcal.io.files import find_paths, format_of, is_remote
from focalcal.io.scan import Reader, Scan, cut, number_segments
from focalcal.io.selection import (
    Wanted,
    check_width,
    declared,
    find_columns,
    labels_of,
    no_labels,
    no_rows,
)
from focalcal.io.stream import Progress, TableRows
from focalcal.io.tables import open_table
from focalcal.labels import encode, find_classes
from focalcal.rows import ArrayRows, Rows, as_rows

_LABEL_KEYS = ("labels", "label", "y")

#: Bytes of scores up to which a table is read into memory; a larger one is read anew for every pass.
IN_MEMORY = 256 << 20


@dataclass(frozen=True)
class _Held:
    """Predictions in memory."""

    X: NDArray[Any]
    y: NDArray[Any] | None
    weight: NDArray[Any] | None
    classes: NDArray[Any] | None
    segment: NDArray[np.int64] | None = None
    segments: tuple[str | None, ...] = ()


@dataclass(frozen=True, repr=False, eq=False)
class Scores:
    """A table of predictions: in memory if it is small, else read anew for every pass over it.

    Pass it to a calibrator's `fit` or to `evaluate` in the place of arrays.

    Attributes
    ----------
    path : str
        The file, or the pattern.
    input : {"logits", "probs"}
        What the scores were declared to be.
    columns : tuple of str
        The columns (or the key) with the scores.
    matched : tuple of str
        What the pattern's `*` stands for in each column; without a pattern the columns' names.
    where : str or None
        The condition its rows satisfy.
    weighted : bool
        Whether the rows have weights.
    X : ndarray of shape (n, K) or (n,)
        Logits or probabilities, float16, 32 or 64. This and the next three read a large table into memory.
    y : ndarray of shape (n,) or None
        Labels.
    weight : ndarray of shape (n,) or None
        Weights of the rows.
    classes : ndarray of shape (K,) or None
        The class of each column of X where the data says it.
    """

    path: str
    input: Input
    columns: tuple[str, ...]
    matched: tuple[str, ...]
    wanted: Wanted
    scan: Scan | None = None
    progress: Progress | None = None

    @property
    def where(self) -> str | None:
        """The condition its rows satisfy."""
        return self.wanted.where

    @property
    def weighted(self) -> bool:
        """Whether the rows have weights."""
        return self.wanted.weight is not None

    @cached_property
    def _held(self) -> _Held:
        assert self.scan is not None
        return _read(self.scan, self.wanted, self.path, self.matched)

    @property
    def X(self) -> NDArray[Any]:
        """Logits or probabilities of shape (n, K) or (n,)."""
        return self._held.X

    @property
    def y(self) -> NDArray[Any] | None:
        """Labels of shape (n,), or None."""
        return self._held.y

    @property
    def weight(self) -> NDArray[Any] | None:
        """Weights of shape (n,), or None."""
        return self._held.weight

    @property
    def classes(self) -> NDArray[Any] | None:
        """The class of each column where the data says it, shape (K,)."""
        return self._held.classes

    @cached_property
    def n(self) -> int:
        """Number of rows."""
        if "_held" in self.__dict__ or self.scan is None:
            return len(self._held.X)
        n = self.scan.count()
        if n == 0:
            raise no_rows(self.path, self.where)
        return n

    @cached_property
    def n_classes(self) -> int:
        """Number of classes K."""
        return class_count(self._first_rows)

    @cached_property
    def _first_rows(self) -> NDArray[Any]:
        if "_held" in self.__dict__ or self.scan is None:
            return self._held.X[:1000]
        for batch in replace(self.scan, label=None, weight=None, by=None).batches(limit=1000):
            return self.scan.scores(batch)
        raise no_rows(self.path, self.where)

    def is_small(self) -> bool:
        """Tell whether the scores fit into memory well."""
        if self.scan is None or "_held" in self.__dict__:
            return True
        return self.n * self.n_classes * self.scan.columns.itemsize <= IN_MEMORY

    def rows(self, classes: Any = None, executor: Executor | None = None) -> tuple[Rows, NDArray[Any]]:
        """Return the rows to sum over, and the class of each column.

        Parameters
        ----------
        classes : array_like of shape (K,), optional
            The class of each column. By default `classes`, or what the labels tell.
        executor : concurrent.futures.Executor, optional
            Reads the table in parts, each where it is summed. By default it is read by this process.
        """
        if self.wanted.label is None and (self.scan is not None or self._held.y is None):
            raise no_labels(self.path)
        if self.scan is None or (executor is None and self.is_small()):
            held = self._held
            given = held.classes if classes is None else classes
            rows, found = as_rows(held.X, held.y, held.weight, self.input, given, executor)
            assert isinstance(rows, ArrayRows)
            return replace(rows, segment=held.segment, segments=held.segments), found
        return self._streamed(self.scan, classes, executor)

    def _streamed(
        self, scan: Scan, classes: Any, executor: Executor | None
    ) -> tuple[TableRows, NDArray[Any]]:
        warn_of_probabilities(self._first_rows, self.input, stacklevel=5)
        parts = [scan] if executor is None else cut(scan, self.n_classes)
        if self.progress is not None:
            self.progress("labels", 0, 0)
        census: Census = map_sum(take_census, parts, executor, threads=False)
        if census.n == 0:
            raise no_rows(self.path, self.where)
        census.check(scan)
        stored = census.values()
        given = self.wanted.classes if classes is None else classes
        labels, known = resolve_classes(
            labels_of(stored, scan.layout.is_text),
            self.n_classes,
            given,
            scan.columns.matched,
            scan.columns.names,
        )
        assert labels is not None
        found = find_classes(labels, self.n_classes, known)
        reader = Reader(tuple(stored.tolist()), encode(labels, found), self._first_rows.shape[1:])
        return TableRows(tuple(parts), census, reader, self.n_classes, executor, self.progress), found

    def __repr__(self) -> str:
        if not self.is_small():
            return f"<Scores of {self.path!r}: {self.input} of shape ({self.n}, {self.n_classes}), streamed>"
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
    by: str | None = None,
) -> Scores:
    """Open predictions in parquet, CSV, npz or npy files, rows in the order of the files.

    Up to 256 MiB of scores are read into memory at once. A larger table stays where it is: a fit or an
    evaluation reads it in a stream, a few times, in memory that does not grow with it.

    Parameters
    ----------
    path : str or path
        A .parquet, .csv, .csv.gz, .npz or .npy file, or a pattern for several parquet or CSV files, also
        s3://… and https://…, which DuckDB's extension httpfs reads. Nothing is unpickled.
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
    by : str, optional
        The column (npz: key) whose values part the rows into segments.

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
    chosen, kind = declared(logits, probs)
    scores = find_scores(path, Wanted(chosen, kind, label, weight, where, classes, by))
    if scores.is_small():
        _ = scores.X  # so that what is wrong is said here
    return scores


def find_scores(path: str | os.PathLike[str], wanted: Wanted, progress: Progress | None = None) -> Scores:
    """Return the scores of a file, or of several, of which a table's rows are not read yet."""
    paths = find_paths(path)
    if format_of(paths[0]) in ("npz", "npy"):
        return _from_arrays(paths[0], wanted, progress)
    table = open_table(find_files(paths[0]) if is_remote(paths[0]) else paths)
    columns = find_columns(table, wanted)
    scan = Scan.of(table, columns, wanted)
    matched = tuple(columns.matched or columns.names)
    return Scores(os.fspath(path), columns.input, columns.names, matched, wanted, scan, progress)


def _read(scan: Scan, wanted: Wanted, path: str, matched: Sequence[str]) -> _Held:
    """Read a table into memory."""
    n = scan.count()
    if n == 0:
        raise no_rows(path, wanted.where)
    X: NDArray[Any] | None = None
    others: list[tuple[Any, ...]] = []
    start = 0
    for batch in scan.batches():
        block = scan.scores(batch)
        X = np.empty((n, *block.shape[1:]), dtype=block.dtype) if X is None else X
        check_width(block, X.shape[1:], scan.columns.names)
        X[start : start + len(block)] = block
        start += len(block)
        label = None if scan.label is None else scan.labels(batch).to_numpy(zero_copy_only=False)
        others.append((label, scan.weights(batch), None if scan.by is None else batch.columns[-1]))
    X = as_scores(X)
    labels, weights, by = zip(*others)
    y = None if scan.label is None else labels_of(np.concatenate(labels), scan.layout.is_text)
    y, classes = resolve_classes(y, class_count(X), wanted.classes, scan.columns.matched, scan.columns.names)
    weight = None if scan.weight is None else np.concatenate(weights)
    return _Held(X, y, weight, classes, *_segments(by))


def _segments(columns: Sequence[Any]) -> tuple[NDArray[np.int64] | None, tuple[str | None, ...]]:
    import pyarrow as pa

    return (None, ()) if columns[0] is None else number_segments(pa.chunked_array(columns).combine_chunks())


def _from_arrays(path: str, wanted: Wanted, progress: Progress | None) -> Scores:
    arrays = read_arrays(path)
    key, kind = find_key(arrays, wanted.scores, wanted.input, path)
    X = as_scores(arrays[key], key)
    n = len(X)
    label = wanted.label
    if label is None:
        label = next((name for name in _LABEL_KEYS if name in arrays), None)
    y = None if label is None else labels_of(column_of(arrays, label, n, "label"), False)
    weight = None if wanted.weight is None else column_of(arrays, wanted.weight, n, "weight")
    by = None if wanted.by is None else column_of(arrays, wanted.by, n, "by")
    if wanted.where:
        rows = kept_rows(arrays, n, wanted.where, path)
        X, y, weight, by = (None if a is None else a[rows] for a in (X, y, weight, by))  # type: ignore[assignment]
    classes: Any = wanted.classes
    if classes is None and "classes" in arrays and arrays["classes"].ndim == 1:
        classes = arrays["classes"]
    y, classes = resolve_classes(y, class_count(X), classes)
    scores = Scores(path, kind, (key,), (key,), wanted, None, progress)
    held = _Held(X, y, weight, classes, *((None, ()) if by is None else segments_of(by)))
    scores.__dict__["_held"] = held  # what the cached property would read
    return scores
