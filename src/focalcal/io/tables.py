"""Parquet and CSV files through DuckDB: chosen columns, as a stream of Arrow batches in file order."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal.io.duck import MissingExtraError, ask, connect, import_duckdb, quote, read_ahead, reading
from focalcal.io.files import escaped, format_of

__all__ = ["BATCH_ELEMENTS", "Layout", "MissingExtraError", "Table", "open_table"]

#: DuckDB's name for the number of a row within its parquet file.
ROW_NUMBER = "file_row_number"

#: Numbers in one batch: large enough that a batch costs nothing, small enough to forget about.
BATCH_ELEMENTS = 1 << 20


@dataclass(frozen=True)
class Layout:
    """Names and DuckDB types of a table's columns: what each of its parts is read as.

    Attributes
    ----------
    is_text : bool
        True for CSV: every column is text until it is cast.
    names, types : tuple of str
        The columns and their types.
    typed : tuple of str
        For CSV the types that a condition expects; empty while nobody asked.
    """

    is_text: bool
    names: tuple[str, ...]
    types: tuple[str, ...]
    typed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Table:
    """One or several files of one format, seen as one table.

    Attributes
    ----------
    paths : tuple of str
        The files.
    layout : Layout
        Its columns.
    """

    paths: tuple[str, ...]
    layout: Layout
    relation: Any
    connection: Any

    @property
    def is_text(self) -> bool:
        """True for CSV: every column is text until it is cast."""
        return self.layout.is_text

    @property
    def names(self) -> tuple[str, ...]:
        """The columns."""
        return self.layout.names

    def type_of(self, column: str) -> str:
        """Return the DuckDB type of a column."""
        return self.layout.types[self.names.index(column)]

    def count(self, where: str | None = None) -> int:
        """Return the number of rows, of those that satisfy `where`."""
        return int(self._ask(lambda: self._rows(where).aggregate("count(*)").fetchall(), where)[0][0])

    def missing(self, column: str, where: str | None = None) -> int:
        """Return the number of rows in which a column is NULL."""
        fresh = open_table(self.paths)  # a connection that is in the middle of a scan takes no query
        counts = f"count(*) - count({fresh._source(column, where)})"
        return int(fresh._ask(lambda: fresh._rows(where).aggregate(counts).fetchall(), where)[0][0])

    def tally(
        self, column: tuple[str, str | None], weight: str | None, where: str | None
    ) -> list[tuple[Any, ...]]:
        """Return for each value of a column: it, its rows; sum, least, largest and number of the weights."""
        value = f"{self._cast(column, where)} AS value"
        if weight is None:
            query, sums = value, "value, count(*)"
        else:
            query = f"{value}, {self._cast((weight, 'DOUBLE'), where)} AS weight"
            sums = "value, count(*), sum(weight), min(weight), max(weight), count(weight)"

        def run() -> Any:
            return self._rows(where).select(query).aggregate(sums, "value").fetchall()

        with self._explained([column, *([] if weight is None else [(weight, "DOUBLE")])], where):
            found: list[tuple[Any, ...]] = self._ask(run, where)
        return found

    def scan(
        self,
        columns: Sequence[tuple[str, str | None]],
        where: str | None = None,
        rows: int = 1 << 16,
        limit: int | None = None,
    ) -> Generator[Any]:
        """Yield Arrow record batches of the columns, each cast to a DuckDB type (None: as it is)."""
        wanted = [f"{self._cast(column, where)} AS c{i}" for i, column in enumerate(columns)]

        def batches() -> Iterator[Any]:
            with reading(self.paths, where, self._culprit):
                chosen = self._rows(where) if limit is None else self._rows(where).limit(limit)
                yield from chosen.select(", ".join(wanted)).to_arrow_reader(rows)

        with self._explained(columns, where):
            yield from read_ahead(batches(), self.connection.interrupt)

    def _ask(self, query: Callable[[], Any], where: str | None = None) -> Any:
        with reading(self.paths, where, self._culprit):
            return ask(query, self.connection.interrupt)

    @contextmanager
    def _explained(self, columns: Sequence[tuple[str, str | None]], where: str | None) -> Iterator[None]:
        """Name the value that cannot be cast, if that is what was wrong."""
        try:
            yield
        except ValueError as error:
            found = open_table(self.paths)._first_not_castable(columns, where)
            if found is None:
                raise
            name, value = found
            raise ValueError(
                f"Expected numbers in column {name!r}, got {value!r}. Repair that row, or name other columns."
            ) from error

    def _first_not_castable(
        self, columns: Sequence[tuple[str, str | None]], where: str | None
    ) -> tuple[str, str] | None:
        """Return the first column with a value that cannot be cast, and the value."""
        with suppress(ValueError), reading(self.paths, where):
            for name, cast in columns:
                source = self._source(name, where)
                wrong = f"{source} IS NOT NULL AND TRY_CAST({source} AS {cast}) IS NULL"
                rows = self._rows(where).filter(wrong if cast else "false").limit(1)
                found = ask(
                    rows.select(f"CAST({source} AS VARCHAR)").fetchall,
                    self.connection.interrupt,
                )
                if found:
                    return name, found[0][0]
        return None

    def _culprit(self) -> str | None:
        """Return the first file that cannot be read alone."""
        for path in self.paths:
            try:
                table = open_table([path])
                for _ in table.scan([(name, None) for name in table.names]):
                    pass
            except ValueError:
                return path
        return None

    def starts_with_bracket(self, column: str) -> bool:
        """Say whether the first value of a text column is a list written out."""
        first = self._ask(self.relation.select(quote(column)).limit(1).fetchall)
        return bool(first) and str(first[0][0]).lstrip().startswith("[")

    def header(self) -> list[str]:
        """Return the names as the first line of a CSV has them: DuckDB renames those it finds twice."""
        first = _csv(self.connection, self.paths[:1], header=False, all_varchar=True).limit(1)
        line = self._ask(first.fetchall)
        written = [name or "" for name in line[0]] if line else []
        renamed = len(written) == len(self.names) and all(
            name.casefold().startswith(raw.casefold()) for name, raw in zip(self.names, written)
        )
        return written if renamed else list(self.names)

    def with_conditions(self) -> Layout:
        """Return the layout, for CSV with the types that a condition expects: all rows are looked at."""
        if not self.is_text or self.layout.typed:
            return self.layout
        typed = self._ask(lambda: _csv(self.connection, self.paths, all_varchar=False, sample_size=-1).types)
        return replace(self.layout, typed=tuple(map(str, typed)))

    def _cast(self, column: tuple[str, str | None], where: str | None) -> str:
        name, cast = column
        source = self._source(name, where)
        return source if cast is None else f"CAST({source} AS {cast})"

    def _source(self, column: str, where: str | None) -> str:
        return f"__text_{self.names.index(column)}" if self.is_text and where else quote(column)

    def _rows(self, where: str | None) -> Any:
        if not where:
            return self.relation
        return self._typed().filter(where)

    def _typed(self) -> Any:
        """Return the columns under their names with the types a condition expects, and CSV text beside."""
        if not self.is_text:
            return self.relation
        text = [f"{quote(name)} AS __text_{i}" for i, name in enumerate(self.names)]
        typed = [
            f"CAST({quote(n)} AS {t}) AS {quote(n)}" for n, t in zip(self.names, self.with_conditions().typed)
        ]
        return self.relation.select(", ".join(text + typed))


def open_table(
    paths: Sequence[str],
    *,
    threads: int | None = None,
    rows: tuple[int, int] | None = None,
    layout: Layout | None = None,
) -> Table:
    """Open parquet or CSV files as one table; nothing but names and types is read yet.

    Parameters
    ----------
    paths : sequence of str
        The files.
    threads : int, optional
        Threads that read; by default all.
    rows : tuple of int, optional
        The first row, and the first beyond, of a single parquet file.
    layout : Layout, optional
        Columns and types of the table that these files are a part of.
    """
    connection = connect(threads)
    is_text = format_of(paths[0]) == "csv"
    options = {} if rows is None else {"file_row_number": True}
    with reading(paths):
        if is_text:
            relation = _csv(connection, paths, all_varchar=True)
        else:
            relation = connection.from_parquet(
                [escaped(path) for path in paths], union_by_name=True, hive_partitioning=False, **options
            )
    if rows is not None:
        numbers = f"{ROW_NUMBER} >= {rows[0]} AND {ROW_NUMBER} < {rows[1]}"
        names = [name for name in relation.columns if name != ROW_NUMBER]
        relation = relation.filter(numbers).select(", ".join(map(quote, names)))
    found = Layout(is_text, tuple(relation.columns), tuple(map(str, relation.types)))
    if layout is not None and (found.names, found.types) != (layout.names, layout.types):
        relation = _like(relation, found, layout)
    return Table(tuple(paths), found if layout is None else layout, relation, connection)


def _like(relation: Any, found: Layout, layout: Layout) -> Any:
    """Return the columns of a part in the order and with the types of the whole; NULL where it has none."""
    there = {name.casefold(): name for name in found.names}
    columns = [
        f"CAST({quote(there[name.casefold()]) if name.casefold() in there else 'NULL'} AS {kind})"
        for name, kind in zip(layout.names, layout.types)
    ]
    return relation.select(", ".join(f"{c} AS {quote(n)}" for c, n in zip(columns, layout.names)))


def _csv(connection: Any, paths: Sequence[str], **options: Any) -> Any:
    return connection.read_csv(
        [escaped(path) for path in paths],
        quotechar='"',
        escapechar='"',
        allow_quoted_nulls=False,
        union_by_name=True,
        hive_partitioning=False,
        **({"header": True} | options),
    )


def rows_where(table: Any, where: str, path: str, connection: Any = None) -> NDArray[Any]:
    """Return the numbers, in order, of the rows of an Arrow table that satisfy an SQL condition."""
    connection = connection or connect()
    import_duckdb()
    import pyarrow as pa

    number = "__row"
    while number in table.column_names:
        number += "_"
    schema = pa.schema([(field.name, _known_to_duckdb(field.type)) for field in table.schema])
    numbered = table.cast(schema).append_column(number, [np.arange(table.num_rows)])
    with reading([path], where):
        rows = connection.from_arrow(numbered).filter(where).select(number).to_arrow_table()
    kept: NDArray[Any] = rows.column(0).to_numpy()
    return np.sort(kept)


def _known_to_duckdb(kind: Any) -> Any:
    """Return an Arrow type with float32 in the place of float16, which DuckDB does not take from Arrow."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_known_to_duckdb(kind.value_type))
    return pa.float32() if pa.types.is_float16(kind) else kind


def score_block(arrays: Sequence[Any]) -> NDArray[Any]:
    """Return Arrow columns without NULLs as rows of scores: one column a class, or one column of lists.

    Shape (n, K) for several columns or lists, (n,) for a single column of numbers.
    """
    import pyarrow.types as kinds

    first = arrays[0]
    if kinds.is_fixed_size_list(first.type) or kinds.is_list(first.type) or kinds.is_large_list(first.type):
        values = first.flatten()
        if values.null_count:
            raise ValueError(f"Expected lists without missing values, got {values.null_count} NULL in them.")
        width = len(values) // max(1, len(first))
        lengths = np.asarray(first.value_lengths())
        if (lengths != width).any():
            odd = int(lengths[lengths != lengths[0]][0]) if (lengths != lengths[0]).any() else width
            raise ValueError(
                f"Expected lists of one length, one number a class, got lengths {lengths[0]} and {odd}."
            )
        return values.to_numpy(zero_copy_only=False).reshape(len(first), width)  # type: ignore[no-any-return]
    if len(arrays) == 1:
        return first.to_numpy(zero_copy_only=False)  # type: ignore[no-any-return]
    columns = [array.to_numpy(zero_copy_only=False) for array in arrays]
    block = np.empty((len(columns), len(first)), columns[0].dtype)
    for row, column in zip(block, columns):
        row[:] = column
    return block.T  # a copy a column; turning them into rows would cost more than reading them
