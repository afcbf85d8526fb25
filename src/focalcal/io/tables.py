"""Parquet and CSV files through DuckDB: chosen columns, as a stream of Arrow batches in file order."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal.io.files import format_of

#: Numbers in one batch: large enough that a batch costs nothing, small enough to forget about.
BATCH_ELEMENTS = 1 << 20


class MissingExtraError(ImportError):
    """An optional dependency is not installed."""


def import_duckdb() -> Any:
    """Import DuckDB and Arrow, or say how to get them."""
    try:
        import duckdb
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(
            "Reading parquet and CSV, and --where, needs duckdb: pip install 'focalcal[data]'"
        ) from error
    return duckdb


def quote(name: str) -> str:
    """Return a column name as an SQL identifier, whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Table:
    """One or several files of one format, seen as one table.

    Attributes
    ----------
    paths : tuple of str
        The files.
    is_text : bool
        True for CSV: every column is text until it is cast.
    names, types : tuple of str
        The columns and their DuckDB types.
    """

    paths: tuple[str, ...]
    is_text: bool
    names: tuple[str, ...]
    types: tuple[str, ...]
    relation: Any
    connection: Any

    def type_of(self, column: str) -> str:
        """Return the DuckDB type of a column."""
        return self.types[self.names.index(column)]

    def count(self, where: str | None = None) -> int:
        """Return the number of rows, of those that satisfy `where`."""
        with reading(self.paths, where):
            return int(self._rows(where).aggregate("count(*)").fetchall()[0][0])

    def missing(self, column: str, where: str | None = None) -> int:
        """Return the number of rows in which a column is NULL."""
        fresh = open_table(self.paths)  # a connection that is in the middle of a scan takes no query
        with reading(self.paths, where):
            rows = fresh._rows(where).aggregate(f"count(*) - count({self._source(column, where)})")
            return int(rows.fetchall()[0][0])

    def scan(
        self, columns: Sequence[tuple[str, str | None]], where: str | None = None, rows: int = 1 << 16
    ) -> Iterator[Any]:
        """Yield Arrow record batches of the columns, each cast to a DuckDB type (None: as it is)."""
        wanted = [
            f"{self._source(name, where)} AS c{i}"
            if cast is None
            else f"CAST({self._source(name, where)} AS {cast}) AS c{i}"
            for i, (name, cast) in enumerate(columns)
        ]
        try:
            with reading(self.paths, where):
                yield from self._rows(where).select(", ".join(wanted)).to_arrow_reader(rows)
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
                found = rows.select(f"CAST({source} AS VARCHAR)").fetchall()
                if found:
                    return name, found[0][0]
        return None

    def starts_with_bracket(self, column: str) -> bool:
        """Say whether the first value of a text column is a list written out."""
        with reading(self.paths):
            first = self.relation.select(quote(column)).limit(1).fetchall()
        return bool(first) and str(first[0][0]).lstrip().startswith("[")

    def header(self) -> list[str]:
        """Return the names as the first line of a CSV has them: DuckDB renames those it finds twice."""
        with reading(self.paths):
            line = _csv(self.connection, self.paths[:1], header=False, all_varchar=True).limit(1).fetchall()
        written = [name or "" for name in line[0]] if line else []
        renamed = len(written) == len(self.names) and all(
            name.casefold().startswith(raw.casefold()) for name, raw in zip(self.names, written)
        )
        return written if renamed else list(self.names)

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
        with reading(self.paths):
            types = _csv(self.connection, self.paths, all_varchar=False, sample_size=-1).types
        text = [f"{quote(name)} AS __text_{i}" for i, name in enumerate(self.names)]
        typed = [f"CAST({quote(n)} AS {t}) AS {quote(n)}" for n, t in zip(self.names, types)]
        return self.relation.select(", ".join(text + typed))


def open_table(paths: Sequence[str]) -> Table:
    """Open parquet or CSV files as one table; nothing but names and types is read yet."""
    duckdb = import_duckdb()
    connection = duckdb.connect()
    is_text = format_of(paths[0]) == "csv"
    with reading(paths):
        if is_text:
            relation = _csv(connection, paths, all_varchar=True)
        else:
            relation = connection.from_parquet(
                [glob.escape(path) for path in paths], union_by_name=True, hive_partitioning=False
            )
    types = tuple(str(kind) for kind in relation.types)
    return Table(tuple(paths), is_text, tuple(relation.columns), types, relation, connection)


def _csv(connection: Any, paths: Sequence[str], **options: Any) -> Any:
    return connection.read_csv(
        [glob.escape(path) for path in paths],
        quotechar='"',
        escapechar='"',
        allow_quoted_nulls=False,
        union_by_name=True,
        hive_partitioning=False,
        **({"header": True} | options),
    )


def rows_where(table: Any, where: str, path: str) -> NDArray[Any]:
    """Return the numbers, in order, of the rows of an Arrow table that satisfy an SQL condition."""
    duckdb = import_duckdb()
    import pyarrow as pa

    number = "__row"
    while number in table.column_names:
        number += "_"
    schema = pa.schema([(field.name, _known_to_duckdb(field.type)) for field in table.schema])
    numbered = table.cast(schema).append_column(number, [np.arange(table.num_rows)])
    with reading([path], where), duckdb.connect() as connection:
        rows = connection.from_arrow(numbered).filter(where).select(number).to_arrow_table()
    kept: NDArray[Any] = rows.column(0).to_numpy()
    return np.sort(kept)


def _known_to_duckdb(kind: Any) -> Any:
    """Return an Arrow type with float32 in the place of float16, which DuckDB does not take from Arrow."""
    import pyarrow as pa

    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_known_to_duckdb(kind.value_type))
    return pa.float32() if pa.types.is_float16(kind) else kind


@contextmanager
def reading(paths: Sequence[str], where: str | None = None) -> Iterator[None]:
    """Turn DuckDB's errors into one line that names the file or the condition."""
    duckdb = import_duckdb()
    try:
        yield
    except (duckdb.BinderException, duckdb.ParserException, duckdb.CatalogException) as error:
        if not where:
            raise
        raise ValueError(
            f"Expected where as an SQL condition over the columns, got {where!r}: {_first_line(error)}"
        ) from error
    except duckdb.Error as error:
        hint = f" (where {where!r})" if where else ""
        raise ValueError(
            f"Expected a readable table in {_culprit(paths, str(error))}{hint}, got: {_first_line(error)}"
        ) from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n\n")[0].split())


def _culprit(paths: Sequence[str], message: str) -> str:
    """Return the file that a message speaks of; if it names none, the first that cannot be read alone."""
    if len(paths) == 1:
        return repr(paths[0])
    named = [path for path in paths if path in message]
    if named:
        return repr(max(named, key=len))
    for path in paths:
        try:
            table = open_table([path])
            for _ in table.scan([(name, None) for name in table.names]):
                pass
        except ValueError:
            return repr(path)
    return f"one of {len(paths)} files ({paths[0]!r}, …)"


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
    return np.stack([array.to_numpy(zero_copy_only=False) for array in arrays], axis=1)
