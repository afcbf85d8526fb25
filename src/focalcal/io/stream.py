"""Rows of a table that is read anew for every pass: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Executor, Future
from contextlib import closing
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import Input
from focalcal.engine import Mergeable, map_sum
from focalcal.io.census import Census
from focalcal.io.scan import Reader, Scan
from focalcal.rows import CHUNK, FEWEST_ROWS, SAMPLES, ArrayRows, Block, Task, chunk_starts

#: Told what is being done, how many rows are done, and how many there are.
Progress = Callable[[str, int, int], None]

T = TypeVar("T", bound=Mergeable)


@dataclass(frozen=True)
class _SumBatch(Generic[T]):
    """The sum of a task over one batch."""

    task: Task[T]
    reader: Reader
    scan: Scan

    def __call__(self, item: tuple[Any, int]) -> T:
        return self.task(self.reader.block(self.scan, *item))


@dataclass(frozen=True)
class _SumPart(Generic[T]):
    """The sum of a task over a part of a table, read where it is summed."""

    task: Task[T]
    reader: Reader

    def __call__(self, part: tuple[Scan, int]) -> T:
        scan, first = part
        with closing(numbered(scan, first)) as batches:
            return reduce(lambda a, b: a + b, map(_SumBatch(self.task, self.reader, scan), batches))


def numbered(scan: Scan, first: int) -> Generator[tuple[Any, int]]:
    """Yield the batches of a scan with the number of their first row."""
    with closing(scan.batches()) as batches:
        for batch in batches:
            if batch.num_rows:
                yield batch, first
                first += batch.num_rows


@dataclass(frozen=True)
class Picked:
    """Chosen rows; adding two puts those of the second after those of the first."""

    scores: tuple[NDArray[Any], ...]
    codes: tuple[NDArray[np.int64], ...]
    weight: tuple[NDArray[np.float64], ...]

    def __add__(self, other: Self) -> Self:
        return type(self)(self.scores + other.scores, self.codes + other.codes, self.weight + other.weight)

    def rows(self, index: NDArray[np.int64] | slice, kind: Input) -> ArrayRows:
        """Return some of them as rows in memory."""
        weight = np.concatenate(self.weight)[index] if self.weight else None
        return ArrayRows(np.concatenate(self.scores)[index], np.concatenate(self.codes)[index], weight, kind)


@dataclass(frozen=True)
class Pick:
    """Take the rows of chunks that start at these rows; without them, every row."""

    starts: NDArray[np.int64] | None
    threads: bool = False

    def __call__(self, block: Block) -> Picked:
        """Return those in a block."""
        rows: Any = slice(None)
        if self.starts is not None:
            near = self.starts[(self.starts > block.first - CHUNK) & (self.starts < block.first + len(block))]
            rows = chunk_rows(near) - block.first
            rows = rows[(rows >= 0) & (rows < len(block))]
        weight = () if block.weight is None else (np.array(block.weight[rows]),)
        return Picked((np.array(block.scores[rows], order="C"),), (np.array(block.codes[rows]),), weight)


def chunk_rows(starts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rows of chunks in order, each once."""
    return np.unique(starts[:, None] + np.arange(CHUNK))


@dataclass(frozen=True)
class TableRows:
    """Rows that a scan reads, in parts if an executor is to read them.

    Attributes
    ----------
    parts : tuple of Scan
        In the order of the rows; a single one is read here.
    census : Census
        The labels and weights of the parts.
    reader : Reader
        What its labels stand for.
    n_classes : int
        Number of classes K.
    executor : Executor or None
        Where parts are read and summed.
    progress : callable, optional
        Told how far a pass is.
    """

    parts: tuple[Scan, ...]
    census: Census
    reader: Reader
    n_classes: int
    executor: Executor | None = None
    progress: Progress | None = None
    _taken: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.census.n

    @property
    def kind(self) -> Input:
        """What the scores were declared to be."""
        return self.parts[0].columns.input

    def map_sum(self, task: Task[T]) -> T:
        """Return the sum of the task over all rows."""
        self._taken["pass"] = number = self._taken.get("pass", 0) + 1
        what = f"pass {number}"
        if self.executor is not None:
            firsts = np.cumsum([0, *self.census.rows]).tolist()
            parts = [item for item, rows in zip(zip(self.parts, firsts), self.census.rows) if rows]
            executor = Told(self.executor, what, [rows for rows in self.census.rows if rows], self.progress)
            return map_sum(_SumPart(task, self.reader), parts, executor, threads=False)
        (scan,) = self.parts
        with closing(numbered(scan, 0)) as batches:
            told = self._told(batches, what)
            return map_sum(_SumBatch(task, self.reader, scan), told, None, threads=task.threads)

    def _told(self, batches: Iterator[tuple[Any, int]], what: str) -> Iterator[tuple[Any, int]]:
        for batch, first in batches:
            if self.progress is not None:
                self.progress(what, first, self.n)
            yield batch, first

    def sample(self, rows: int) -> ArrayRows | None:
        """Return about this many rows in chunks spread evenly; None if that is most of them."""
        if 2 * rows > self.n:
            return None
        starts = chunk_starts(self.n, rows)
        if "picked" not in self._taken or not set(starts) <= self._taken["starts"]:
            self._pick({rows, *(max(FEWEST_ROWS, numbers // self.n_classes) for numbers in SAMPLES)})
        at = np.searchsorted(self._taken["rows"], chunk_rows(starts))
        sample: ArrayRows = self._taken["picked"].rows(at, self.kind)
        return None if sample.weight is not None and not sample.weight.any() else sample

    def _pick(self, sizes: set[int]) -> None:
        """Read the rows of samples of several sizes in one pass, and keep them."""
        starts = np.unique(
            np.concatenate([chunk_starts(self.n, rows) for rows in sizes if 2 * rows <= self.n])
        )
        picked = self.map_sum(Pick(starts))
        self._taken.update(picked=picked, starts=set(starts), rows=chunk_rows(starts))

    def in_memory(self) -> ArrayRows:
        """Read all rows into memory."""
        return self.map_sum(Pick(None)).rows(slice(None), self.kind)

    def class_weight(self) -> NDArray[np.float64]:
        """Return the total weight of each class, shape (K,)."""
        weight = [self.census.labels[label][1] for label in self.reader.labels]
        return np.bincount(self.reader.codes, weight, self.n_classes).astype(np.float64, copy=False)


class Told(Executor):
    """An executor that tells how many rows are done whenever a part is."""

    def __init__(self, executor: Executor, what: str, sizes: list[int], progress: Progress | None) -> None:
        self._executor, self._what, self._sizes, self._progress = executor, what, sizes, progress
        self._submitted = self._done = 0

    def submit(self, function: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Submit the next part."""
        future = self._executor.submit(function, *args, **kwargs)
        size = self._sizes[self._submitted]
        self._submitted += 1
        if self._progress is not None:
            future.add_done_callback(lambda _: self._tell(size))
        return future

    def _tell(self, size: int) -> None:
        self._done += size
        assert self._progress is not None
        self._progress(self._what, self._done, sum(self._sizes))
