"""One pass over chosen columns of a table or a part of it: a plain object that travels between processes."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal.io.columns import choose_column
from focalcal.io.duck import connect, reading
from focalcal.io.files import escaped
from focalcal.io.selection import Columns, Wanted, check_width, find_label, missing_values
from focalcal.io.tables import BATCH_ELEMENTS, ROW_NUMBER, Layout, Table, open_table, score_block
from focalcal.rows import Block

#: Numbers in one part of a table: at least, so that it is worth a trip, and at most, so that one that is
#: lost with its worker is soon read again.
PART_ELEMENTS = (1 << 22, 1 << 26)

#: Parts that a table of a middling size is cut into.
_PARTS = 64


@dataclass(frozen=True)
class Scan:
    """Which columns and rows of which files to read, and as what.

    Attributes
    ----------
    paths : tuple of str
        The files.
    layout : Layout
        The columns of the whole table.
    columns : Columns
        Those with the scores.
    label : tuple of str or None
        The column with the labels, and the DuckDB type to read it as.
    weight, by, where : str or None
        The columns with weights and with segments, and the condition rows must satisfy.
    rows : tuple of int or None
        The first row, and the first beyond, of a single parquet file.
    threads : int or None
        Threads that read; None is as many as focalcal uses.
    """

    paths: tuple[str, ...]
    layout: Layout
    columns: Columns
    label: tuple[str, str] | None
    weight: str | None
    by: str | None
    where: str | None
    rows: tuple[int, int] | None = None
    threads: int | None = None

    @classmethod
    def of(cls, table: Table, columns: Columns, wanted: Wanted) -> Scan:
        """Return the scan of a whole table, with the columns checked to exist."""
        return cls(
            table.paths,
            table.with_conditions() if wanted.where else table.layout,
            columns,
            None if wanted.label is None else find_label(table, wanted.label),
            None if wanted.weight is None else choose_column(wanted.weight, table.names, "weight"),
            None if wanted.by is None else choose_column(wanted.by, table.names, "by"),
            wanted.where,
        )

    def open(self) -> Table:
        """Open the files, with a connection of its own."""
        return open_table(self.paths, threads=self.threads, rows=self.rows, layout=self.layout)

    def batches(self, limit: int | None = None) -> Generator[Any]:
        """Yield Arrow record batches: scores, then, as far as wanted, label, weight and segment."""
        complete: list[tuple[str, str | None]] = [(name, self.columns.cast) for name in self.columns.names]
        if self.label is not None:
            complete.append(self.label)
        if self.weight is not None:
            complete.append((self.weight, "DOUBLE"))
        columns = complete if self.by is None else [*complete, (self.by, "VARCHAR")]
        table = self.open()
        rows = max(1, BATCH_ELEMENTS // len(columns))
        with closing(table.scan(columns, self.where, rows, limit)) as batches:
            for batch in batches:
                for (name, _), column in zip(complete, batch.columns):
                    if column.null_count:
                        raise missing_values(name, table.missing(name, self.where))
                yield batch

    def count(self) -> int:
        """Return the number of rows."""
        return self.open().count(self.where)

    def scores(self, batch: Any) -> NDArray[Any]:
        """Return the scores of a batch, shape (b, K) or (b,)."""
        block = score_block(batch.columns[: len(self.columns.names)])
        return block[:, 0] if block.ndim == 2 and block.shape[1] == 1 else block

    def labels(self, batch: Any) -> Any:
        """Return the Arrow column with the labels."""
        return batch.column(len(self.columns.names))

    def weights(self, batch: Any) -> NDArray[np.float64] | None:
        """Return the weights."""
        if self.weight is None:
            return None
        place = len(self.columns.names) + (self.label is not None)
        weights: NDArray[np.float64] = batch.column(place).to_numpy(zero_copy_only=False)
        return weights

    def segments(self, batch: Any) -> tuple[NDArray[np.int64] | None, tuple[str | None, ...]]:
        """Return the number of each row's segment, and the segments of this batch."""
        return (None, ()) if self.by is None else number_segments(batch.columns[-1])


def number_segments(column: Any) -> tuple[NDArray[np.int64], tuple[str | None, ...]]:
    """Return the number of each value of an Arrow column of text, and the different values."""
    encoded = column.dictionary_encode(null_encoding="encode")
    codes: NDArray[np.int64] = encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    return codes, tuple(encoded.dictionary.to_pylist())


@dataclass(frozen=True)
class Reader:
    """How the batches of a scan become blocks.

    Attributes
    ----------
    labels : tuple
        The different labels, as they are stored.
    codes : ndarray
        The column that each of them stands for.
    width : tuple of int
        Shape of one row's scores.
    """

    labels: tuple[Any, ...]
    codes: NDArray[np.int64]
    width: tuple[int, ...]

    def block(self, scan: Scan, batch: Any, first: int) -> Block:
        """Return the block of a batch, whose first row has this number in the whole."""
        scores = scan.scores(batch)
        check_width(scores, self.width, scan.columns.names)
        segment, segments = scan.segments(batch)
        return Block(scores, self._codes(scan.labels(batch)), scan.weights(batch), first, segment, segments)

    def _codes(self, column: Any) -> NDArray[np.int64]:
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.index_in(column, value_set=pa.array(self.labels, column.type))
        if found.null_count:
            raise ValueError("Expected a table that stays as it is, got a new label. Run again.")
        codes: NDArray[np.int64] = self.codes[found.to_numpy()]
        return codes


def cut(scan: Scan, n_classes: int) -> list[Scan]:
    """Cut the scan of a table into parts in the order of its rows: row groups of a parquet file, or files.

    The parts do not depend on who reads them, so neither does a sum over them.
    """
    whole = replace(scan, threads=1)
    if scan.layout.is_text or any(name.casefold() == ROW_NUMBER for name in scan.layout.names):
        return [replace(whole, paths=(path,)) for path in scan.paths]
    groups = _row_groups(scan.paths)
    n = sum(sum(sizes) for sizes in groups.values())
    least, most = (numbers // n_classes for numbers in PART_ELEMENTS)
    enough = max(1, min(max(n // _PARTS, least), most))
    parts = []
    for path in scan.paths:
        first = end = 0
        for size in groups[path]:
            end += size
            if end - first >= enough:
                parts.append(replace(whole, paths=(path,), rows=(first, end)))
                first = end
        if end > first:
            parts.append(replace(whole, paths=(path,), rows=(first, end)))
    return parts


def _row_groups(paths: tuple[str, ...]) -> dict[str, list[int]]:
    """Return the number of rows of each row group of each file."""
    query = (
        "SELECT file_name, row_group_id, any_value(row_group_num_rows) FROM parquet_metadata(?) "
        "GROUP BY ALL ORDER BY ALL"
    )
    groups: dict[str, list[int]] = {}
    for path in paths:
        with reading([path]):
            found = connect(1).execute(query, [escaped(path)]).fetchall()
        groups[path] = [rows for _, _, rows in found]
    return groups
