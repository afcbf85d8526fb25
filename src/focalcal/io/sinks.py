"""Write a table again with calibrated probabilities beside what it held: batch by batch, or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_choice
from focalcal._validate import as_scores
from focalcal.io.arrays import find_key, kept_rows, read_arrays
from focalcal.io.duck import find_files, read_ahead
from focalcal.io.files import find_paths, format_of, is_remote, written_aside
from focalcal.io.selection import Columns, Wanted, declared, find_columns, missing_values
from focalcal.io.tables import BATCH_ELEMENTS, Table, open_table, rows_where, score_block
from focalcal.io.writers import Writer

#: One batch: the columns passed through (an Arrow record batch) and the scores.
Block = tuple[Any, NDArray[Any]]


@dataclass(frozen=True)
class Applied:
    """What `apply` wrote: the file, its number of rows, and the columns (npz: keys) that are new."""

    path: str
    n: int
    added: tuple[str, ...]


@dataclass(frozen=True)
class _Naming:
    kind: str
    prefix: str
    predicted: str

    def scores(self, classes: NDArray[Any]) -> list[str]:
        return [f"{self.prefix}{name}" for name in classes.tolist()]


def apply(
    calibrator: Any,
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    logits: str | Sequence[str] | None = None,
    probs: str | Sequence[str] | None = None,
    where: str | None = None,
    output_kind: str = "probs",
    prefix: str | None = None,
    predicted: str = "predicted",
    progress: Callable[[int], None] | None = None,
) -> Applied:
    """Write a file of predictions again with calibrated probabilities added.

    Every column of the input is passed through as it is (text of a CSV stays text, parquet types are
    kept) and the order of the rows too. Rows go through in batches, so memory does not grow with the file;
    npz files are read whole. The output appears under its name only when it is complete.

    Parameters
    ----------
    calibrator : fitted calibrator
        As from `focalcal.load`. It knows whether it takes logits or probabilities.
    path : str or path
        The input, as for `focalcal.open_scores`.
    output : str or path
        A .parquet, .csv or .csv.gz file for tables; .npz for npz and npy.
    logits, probs, where
        As for `focalcal.open_scores`. Rows outside `where` are not written.
    output_kind : {"probs", "log_probs"}
        What to add: probabilities, or their logarithms, which are exact however small.
    prefix : str, optional
        The new columns are this and the class. Default: "p_" or "log_p_". In an npz they are one array
        "calibrated_probs" or "calibrated_log_probs".
    predicted : str
        The new column with the predicted class.
    progress : callable, optional
        Called with the number of rows done after each batch.

    Returns
    -------
    Applied

    Raises
    ------
    ValueError
        If the scores are not of the kind the calibrator was fitted on, or a new column exists already.
    """
    check_choice("output_kind", output_kind, ("probs", "log_probs"))
    paths = find_paths(path)
    chosen, kind = declared(logits, probs)
    wanted = Wanted(chosen, kind, where=where)
    naming = _Naming(
        output_kind, ("p_" if output_kind == "probs" else "log_p_") if prefix is None else prefix, predicted
    )
    formats = format_of(paths[0]), format_of(output)
    allowed = ("npz",) if formats[0] in ("npz", "npy") else ("parquet", "csv")
    if formats[1] not in allowed:
        raise ValueError(
            f"Expected an output ending in {' or '.join('.' + name for name in allowed)} for a "
            f".{formats[0]} input, got {os.fspath(output)!r}."
        )
    with written_aside(output) as aside:
        if formats[1] == "npz":
            n, added = _apply_arrays(calibrator, paths[0], aside, wanted, naming)
        else:
            table = open_table(find_files(paths[0]) if is_remote(paths[0]) else paths)
            n, added = _apply_table(calibrator, table, aside, os.fspath(output), wanted, naming, progress)
    return Applied(os.fspath(output), n, tuple(added))


def check_kind(calibrator: Any, kind: str) -> None:
    """Check that scores are declared to be what the calibrator was fitted on."""
    if calibrator.input != kind:
        raise ValueError(
            f"Expected {calibrator.input}, which this calibrator was fitted on, got {kind}. Pass "
            f"{calibrator.input} columns (--{calibrator.input}), or fit a calibrator on {kind}."
        )


def check_order(calibrator: Any, matched: Sequence[str] | None) -> None:
    """Check that columns named after the classes come in the calibrator's order of the classes."""
    classes = [str(name) for name in calibrator.classes_]
    if matched and sorted(matched) == sorted(classes) and list(matched) != classes:
        raise ValueError(
            f"Expected the columns in the calibrator's order of classes, {', '.join(classes[:5])}, …, got "
            f"{', '.join(matched[:5])}, …. List them in that order."
        )


def _apply_table(
    calibrator: Any,
    table: Table,
    aside: str,
    output: str,
    wanted: Wanted,
    naming: _Naming,
    progress: Callable[[int], None] | None,
) -> tuple[int, list[str]]:
    columns = find_columns(table, wanted)
    check_kind(calibrator, columns.input)
    check_order(calibrator, columns.matched or columns.names)
    added = [*naming.scores(calibrator.classes_), naming.predicted]
    _check_new(added, table.names)
    through_duckdb = table.is_text or is_remote(table.paths[0])
    blocks = _duckdb_blocks if through_duckdb else _parquet_blocks
    n = 0
    # read, calculate and write at the same time
    with (
        closing(read_ahead(blocks(table, columns, wanted.where), table.connection.interrupt)) as read,
        Writer(aside, output) as writer,
    ):
        for batch, scores in read:
            writer.write(_with_probabilities(batch, scores, calibrator, added, naming.kind, n))
            n += batch.num_rows
            if progress is not None:
                progress(n)
    if n == 0:
        raise ValueError(f"Expected at least one row in {', '.join(map(repr, table.paths))}, got 0.")
    return n, added


def _check_new(added: Sequence[str], names: Sequence[str]) -> None:
    taken = {name.casefold() for name in names}
    clash = [name for name in added if name.casefold() in taken]
    if clash:
        raise ValueError(
            f"Expected new column names, got {clash[0]!r}, which the input has already. "
            "Choose others with prefix and predicted (--prefix, --predicted)."
        )


def _with_probabilities(
    batch: Any, scores: NDArray[Any], calibrator: Any, added: Sequence[str], kind: str, first: int
) -> Any:
    import pyarrow as pa

    try:
        log_probs = calibrator.transform(as_scores(scores))
    except ValueError as error:
        if first == 0:
            raise
        raise ValueError(f"{error} (Rows are counted from row {first} of the table.)") from error
    values = np.exp(log_probs) if kind == "probs" else log_probs
    arrays = [pa.array(np.ascontiguousarray(values[:, j])) for j in range(values.shape[1])]
    arrays.append(pa.array(calibrator.classes_[log_probs.argmax(axis=1)]))
    fields = [pa.field(name, array.type) for name, array in zip(added, arrays)]
    schema = pa.schema([*batch.schema, *fields], metadata=batch.schema.metadata)
    return pa.RecordBatch.from_arrays([*batch.columns, *arrays], schema=schema)


def _rows_a_batch(table: Table, columns: Columns) -> int:
    return max(1, 2 * BATCH_ELEMENTS // (len(table.names) + len(columns.names)))


def _duckdb_blocks(table: Table, columns: Columns, where: str | None) -> Iterator[Block]:
    """Yield batches as DuckDB reads them, of a CSV as text as it stands in the file, and the scores."""
    import pyarrow as pa

    header = table.header() if table.is_text else list(table.names)
    casts: list[tuple[str, str | None]] = [(name, None) for name in table.names]
    casts += [(name, columns.cast) for name in columns.names]
    with closing(table.scan(casts, where, _rows_a_batch(table, columns))) as batches:
        for batch in batches:
            kept, numbers = batch.columns[: len(header)], batch.columns[len(header) :]
            scores = _complete(table, columns, numbers, where)
            yield pa.RecordBatch.from_arrays(kept, names=header), scores


def _parquet_blocks(table: Table, columns: Columns, where: str | None) -> Iterator[Block]:
    """Yield batches with the very types of the file, which DuckDB would widen, and the scores."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = pa.float32() if columns.cast.startswith("FLOAT") else pa.float64()
    kind = pa.list_(number) if columns.cast.endswith("]") else number
    places = [table.names.index(name) for name in columns.names]
    schema = None
    for path in table.paths:
        # buffered ahead it would keep all it has read
        with _reading_parquet(path), pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(_rows_a_batch(table, columns)):
                schema = batch.schema if schema is None else schema
                batch = _like(batch, schema, path)
                if where:
                    rows = rows_where(pa.Table.from_batches([batch]), where, path, table.connection)
                    batch = batch.take(pa.array(rows))
                if batch.num_rows == 0:
                    continue
                numbers = [batch.column(place).cast(kind, safe=False) for place in places]
                yield batch, _complete(table, columns, numbers, where)


def _like(batch: Any, schema: Any, path: str) -> Any:
    """Return a batch of a further file with the columns and types of the first."""
    if batch.schema.equals(schema):
        return batch
    if sorted(batch.schema.names) != sorted(schema.names):
        odd = sorted(set(batch.schema.names) ^ set(schema.names))
        raise ValueError(f"Expected the same columns in every file, got a difference in {path!r}: {odd[:5]}.")
    return batch.select(schema.names).cast(schema)


def _complete(table: Table, columns: Columns, arrays: Sequence[Any], where: str | None) -> NDArray[Any]:
    for name, array in zip(columns.names, arrays):
        if array.null_count:
            raise missing_values(name, table.missing(name, where))
    return score_block(arrays)


@contextmanager
def _reading_parquet(path: str) -> Iterator[None]:
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"Expected a readable table in {path!r}, got: {error}") from error


def _apply_arrays(
    calibrator: Any, path: str, aside: str, wanted: Wanted, naming: _Naming
) -> tuple[int, list[str]]:
    arrays = read_arrays(path)
    key, kind = find_key(arrays, wanted.scores, wanted.input, path)
    check_kind(calibrator, kind)
    n = len(as_scores(arrays[key], key))
    if wanted.where:
        rows = kept_rows(arrays, n, wanted.where, path)
        arrays = {name: a[rows] if a.shape[:1] == (n,) else a for name, a in arrays.items()}
    scores = as_scores(arrays[key], key)
    log_probs = calibrator.transform(scores)
    new = {
        f"calibrated_{naming.kind}": np.exp(log_probs) if naming.kind == "probs" else log_probs,
        naming.predicted: calibrator.classes_[log_probs.argmax(axis=1)],
    }
    kept = {name: array for name, array in arrays.items() if name != "*"}
    _check_new(list(new), list(kept))
    kept.setdefault("classes", calibrator.classes_)
    with open(aside, "wb") as file:
        np.savez(file, allow_pickle=False, **kept, **new)
    return len(scores), list(new)
