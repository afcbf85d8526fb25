"""DuckDB: how a connection is opened, interrupted, and its errors told."""

from __future__ import annotations

import glob
import os
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any, TypeVar

from focalcal.engine import thread_count
from focalcal.io.files import natural_key

#: What DuckDB may keep; a scan needs far less.
MEMORY_LIMIT = "512MiB"

#: Batches that are read ahead of the one in work.
_AHEAD = 2


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


def connect(threads: int | None = None) -> Any:
    """Return a connection with this many threads (by default as many as focalcal uses)."""
    return _database(threads or thread_count(), os.getpid()).cursor()


@cache
def _database(threads: int, _process: int) -> Any:
    """Return the database that connections share: making one takes longer than reading a small file."""
    return import_duckdb().connect(config={"memory_limit": MEMORY_LIMIT, "threads": threads})


def quote(name: str) -> str:
    """Return a column name as an SQL identifier, whatever it contains."""
    return '"' + name.replace('"', '""') + '"'


def find_files(path: str) -> list[str]:
    """Return the files that an address means, in natural order: a store of objects is asked for a pattern."""
    if path.startswith(("http://", "https://")) or not glob.has_magic(path):
        return [path]
    with reading([path]):
        found = connect(1).execute("SELECT file FROM glob(?)", [path]).fetchall()
    if not found:
        raise FileNotFoundError(f"Expected a file matching {path!r}, got none: it does not exist.")
    return sorted((name for (name,) in found), key=natural_key)


T = TypeVar("T")


def read_ahead(items: Iterator[T], interrupt: Callable[[], None]) -> Generator[T]:
    """Yield items that another thread reads ahead.

    The caller computes while the next ones are read, and Ctrl-C reaches it at once: it would wait for the
    end of a call into DuckDB otherwise. `interrupt` stops such a call.
    """
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(_AHEAD)
    stopped = threading.Event()

    def read() -> None:
        try:
            for item in items:
                ready.put(("item", item))
                if stopped.is_set():
                    return
        except BaseException as error:
            ready.put(("error", error))
        else:
            ready.put(("end", None))

    thread = threading.Thread(target=read, name="focalcal-read", daemon=True)
    thread.start()
    try:
        while (told := _patiently(ready))[0] == "item":
            yield told[1]
        if told[0] == "error":
            raise told[1]
    finally:
        stopped.set()
        while thread.is_alive():
            interrupt()  # again and again: one before a query begins is lost
            with suppress(queue.Empty):
                ready.get_nowait()
            thread.join(0.01)


def _patiently(ready: queue.Queue[tuple[str, Any]]) -> tuple[str, Any]:
    """Wait for the next item, but look up now and then: a signal may have reached another thread."""
    while True:
        with suppress(queue.Empty):
            return ready.get(timeout=0.2)


def ask(query: Callable[[], T], interrupt: Callable[[], None]) -> T:
    """Return what a query says; Ctrl-C stops it."""
    return next(read_ahead((query() for _ in range(1)), interrupt))


@contextmanager
def reading(
    paths: Sequence[str], where: str | None = None, culprit: Callable[[], str | None] = lambda: None
) -> Iterator[None]:
    """Turn DuckDB's errors into one line that names the file or the condition.

    `culprit` is asked for the file where the message names none.
    """
    duckdb = import_duckdb()
    try:
        yield
    except (duckdb.BinderException, duckdb.ParserException, duckdb.CatalogException) as error:
        if not where:
            raise
        raise ValueError(
            f"Expected where as an SQL condition over the columns, got {where!r}: {_first_line(error)}"
        ) from error
    except (duckdb.Error, OSError) as error:  # in the middle of a scan Arrow tells DuckDB's errors
        if isinstance(error, duckdb.InterruptException) or str(error).startswith("INTERRUPT"):
            raise  # nobody waits for it
        hint = f" (where {where!r})" if where else ""
        found = _named(paths, str(error)) or culprit()
        file = repr(found) if found else f"one of {len(paths)} files ({paths[0]!r}, …)"
        raise ValueError(f"Expected a readable table in {file}{hint}, got: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return " ".join(str(error).split("\n\n")[0].split())


def _named(paths: Sequence[str], message: str) -> str | None:
    """Return the file that a message speaks of, if any."""
    if len(paths) == 1:
        return paths[0]
    return max((path for path in paths if path in message), key=len, default=None)
