"""Writing Arrow batches as parquet or CSV, in a thread beside the one that makes them."""

from __future__ import annotations

import csv
import gzip
import io
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Self

import numpy as np

from focalcal.io.files import format_of


class Writer:
    """Write batches in order, in a thread of its own."""

    def __init__(self, aside: str, output: str) -> None:
        self._aside, self._output = aside, output
        self._sink: _CsvSink | _ParquetSink | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="focalcal-write")
        self._pending: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def write(self, batch: Any) -> None:
        """Write a batch soon; what was wrong with an earlier one is told now."""
        if self._sink is None:
            make = _ParquetSink if format_of(self._output) == "parquet" else _CsvSink
            self._sink = make(self._aside, self._output, batch.schema)
        self._pending.append(self._thread.submit(self._sink.write, batch))
        if len(self._pending) > 2:
            self._pending.popleft().result()

    def __exit__(self, kind: Any, *_: object) -> None:
        self._thread.shutdown(cancel_futures=kind is not None)
        try:
            if kind is None:
                for future in self._pending:
                    future.result()
        finally:
            if self._sink is not None:
                self._sink.close()


class _ParquetSink:
    def __init__(self, aside: str, output: str, schema: Any) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        # numbers hardly repeat: to look for a dictionary of them takes most of the time of writing
        repeated = [field.name for field in schema if not pa.types.is_floating(field.type)]
        self._writer = pq.ParquetWriter(aside, schema, use_dictionary=repeated or False)

    def write(self, batch: Any) -> None:
        self._writer.write_batch(batch)

    def close(self) -> None:
        self._writer.close()


class _CsvSink:
    """CSV with a quote only where a value needs one, so that untouched text stays as it was."""

    def __init__(self, aside: str, output: str, schema: Any) -> None:
        zipped = output.lower().endswith(".gz")
        self._file: Any = gzip.open(aside, "wb") if zipped else open(aside, "wb")  # noqa: SIM115
        header = io.StringIO()
        csv.writer(header, lineterminator="\n").writerow(schema.names)
        self._file.write(header.getvalue().encode())

    def write(self, batch: Any) -> None:
        import pyarrow.compute as pc

        fields = [_csv_field(column) for column in batch.columns]
        fields[-1] = pc.binary_join_element_wise(fields[-1], "\n", "")
        lines = pc.binary_join_element_wise(*fields, ",")
        # the lines lie one after another in the array's buffer: that is the file's text
        _, ends, text = lines.buffers()
        self._file.write(text.slice(0, int(np.frombuffer(ends, np.int32)[len(lines)])))

    def close(self) -> None:
        self._file.close()


def _csv_field(column: Any) -> Any:
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        text = column.cast(pa.string())
    except pa.ArrowException as error:
        raise ValueError(
            f"Expected values that fit into a CSV cell, got {column.type}. Write .parquet instead."
        ) from error
    if pa.types.is_primitive(column.type):
        return pc.fill_null(text, "")  # a number or a date never needs a quote
    text = pc.fill_null(
        pc.if_else(
            pc.or_(pc.match_substring_regex(text, r'[",\r\n]'), pc.equal(text, "")),
            pc.binary_join_element_wise('"', pc.replace_substring(text, '"', '""'), '"', ""),
            text,
        ),
        "",
    )
    return text
