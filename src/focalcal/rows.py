"""Rows of scores with their labels and weights, wherever they are: what fits and metrics sum over."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import reduce
from itertools import pairwise
from typing import Any, Protocol, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import (
    Input,
    as_scores,
    check_alone,
    check_block,
    check_lengths,
    check_weights,
    class_count,
    warn_of_probabilities,
)
from focalcal.engine import Mergeable, map_sum, row_slices
from focalcal.labels import as_labels, encode, find_classes
from focalcal.layout import as_targets

#: Tasks that rows in memory are cut into, more of them beyond 2²⁸ numbers; not by the number of workers, so
#: that sums do not depend on it.
_TASKS = 16

#: Numbers below which one thread does it all, in less than a tenth of a second: threads cost half a
#: millisecond to start, and CPU time where two of them share a core.
_WORTH_SPLITTING = 1 << 24

#: Rows that stay together when a sample is taken.
CHUNK = 64

#: Numbers in the two samples that a fit takes, and the fewest rows: a table takes both in one pass.
SAMPLES, FEWEST_ROWS = (1 << 17, 1 << 20), 4096


@dataclass(frozen=True)
class Block:
    """Some consecutive rows."""

    scores: NDArray[Any]  # (b, K) or (b,), float16/32/64
    codes: NDArray[Any]  # (b,) column of the label, or (b, K) the distribution of labels
    weight: NDArray[np.float64] | None  # (b,)
    first: int = 0  # number of its first row in the whole
    segment: NDArray[np.int64] | None = None  # (b,) number of the row's segment
    segments: tuple[str | None, ...] = ()  # what the numbers stand for

    def __len__(self) -> int:
        return len(self.scores)

    def part(self, rows: slice) -> Block:
        """Return the block of some of its rows, which are counted from 0."""
        weight = None if self.weight is None else self.weight[rows]
        segment = None if self.segment is None else self.segment[rows]
        first = self.first + (rows.start or 0)
        return Block(self.scores[rows], self.codes[rows], weight, first, segment, self.segments)


T = TypeVar("T", bound=Mergeable)
T_co = TypeVar("T_co", bound=Mergeable, covariant=True)


class Task(Protocol[T_co]):
    """What to sum over a block of rows; a plain object, so that it can travel to another process."""

    @property
    def threads(self) -> bool:
        """Whether it releases the interpreter lock, so that threads pay."""
        ...

    def __call__(self, block: Block, /) -> T_co:
        """Return the sums over the rows of a block."""
        ...


class Rows(Protocol):
    """Labelled scores that can be summed over as often as needed."""

    @property
    def n(self) -> int:
        """Number of rows."""
        ...

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        ...

    @property
    def kind(self) -> Input:
        """What the scores were declared to be."""
        ...

    def map_sum(self, task: Task[T]) -> T:
        """Return the sum of the task over all rows."""
        ...

    def sample(self, rows: int) -> ArrayRows | None:
        """Return about this many rows in memory, in chunks spread evenly; None if that is most of them."""
        ...

    def in_memory(self) -> ArrayRows:
        """Return all rows in memory."""
        ...

    def class_weight(self) -> NDArray[np.float64]:
        """Return the total weight of each class, shape (K,)."""
        ...


class Source(Protocol):
    """Predictions with labels that know how to be read, such as `focalcal.open_scores` returns."""

    @property
    def input(self) -> Input:
        """What the scores were declared to be."""
        ...

    def rows(self, classes: Any = None, executor: Executor | None = None) -> tuple[Rows, NDArray[Any]]:
        """Return the rows, to be summed over by the executor, and the class of each column."""
        ...


def is_source(X: Any) -> TypeGuard[Source]:
    """Say whether X is a `Source`; checking the protocol itself would cost as much as a small fit's pass."""
    return hasattr(X, "rows") and hasattr(X, "input")


@dataclass(frozen=True)
class ArrayRows:
    """Rows in memory."""

    scores: NDArray[Any]  # (n, K) or (n,)
    codes: NDArray[Any]  # (n,), or (n, K) where labels are distributions
    weight: NDArray[np.float64] | None  # (n,)
    kind: Input
    executor: Executor | None = None
    segment: NDArray[np.int64] | None = None  # (n,) number of the row's segment
    segments: tuple[str | None, ...] = ()  # what the numbers stand for
    cluster: NDArray[np.int64] | None = None  # (n,) rows that are not independent share a number

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.scores)

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return class_count(self.scores)

    def map_sum(self, task: Task[T]) -> T:
        """Return the sum of the task over all rows."""
        whole = Block(self.scores, self.codes, self.weight, 0, self.segment, self.segments)
        if self.n * self.n_classes < _WORTH_SPLITTING and self.executor is None:
            return task(whole)
        tasks = max(_TASKS, self.n * self.n_classes >> 24)  # what a task keeps a row stays small
        bounds = sorted({self.n * i // tasks for i in range(tasks + 1)})
        blocks = (whole.part(slice(low, high)) for low, high in pairwise(bounds))
        return map_sum(task, blocks, self.executor, threads=task.threads)

    def sample(self, rows: int) -> ArrayRows | None:
        """Return about this many rows in chunks spread evenly; None if that is most of them."""
        if 2 * rows > self.n or self.n < CHUNK:
            return None
        index = (chunk_starts(self.n, rows)[:, None] + np.arange(CHUNK)).ravel()
        weight = None if self.weight is None else self.weight[index]
        if weight is not None and not weight.any():
            return None
        cluster = None if self.cluster is None else self.cluster[index]
        return ArrayRows(self.scores[index], self.codes[index], weight, self.kind, cluster=cluster)

    def in_memory(self) -> ArrayRows:
        """Return all rows, which are in memory."""
        return self

    def class_weight(self) -> NDArray[np.float64]:
        """Return the total weight of each class, shape (K,)."""
        return np.bincount(self.codes, self.weight, self.n_classes).astype(np.float64, copy=False)


def chunk_starts(n: int, rows: int) -> NDArray[np.int64]:
    """Return the first rows of the chunks that a sample of about `rows` of n rows consists of."""
    return np.linspace(0, n - CHUNK, max(1, rows // CHUNK)).astype(np.int64)


def as_rows(
    X: Any,
    y: Any,
    sample_weight: Any,
    kind: Input,
    classes: Any,
    executor: Executor | None = None,
    *,
    name: str = "X",
    soft: bool = False,
) -> tuple[Rows, NDArray[Any]]:
    """Check shapes, labels and weights, and return the rows and the class of each column.

    X may be a `Source`, which holds labels and weights itself. With `soft`, y may hold a distribution of
    labels a row. The values of the scores are left to whoever reads them first: see `CheckValues`.
    """
    if is_source(X):
        check_alone(X.input, kind, y, sample_weight)
        return X.rows(classes, executor)
    scores = as_scores(X, name)
    weight = check_weights(sample_weight, len(scores))
    targets = as_targets(y, class_count(scores)) if soft else None
    if targets is not None:
        check_lengths(len(scores), targets, "y")
        columns = find_classes(np.arange(class_count(scores)), class_count(scores), classes)
        wide = None if weight is None else weight.astype(np.float64, copy=False)
        return ArrayRows(scores, targets, wide, kind, executor), columns
    labels = as_labels(y, len(scores))
    found = find_classes(labels, class_count(scores), classes)
    warn_of_probabilities(scores, kind, stacklevel=4)
    codes = encode(labels, found)
    if weight is not None:
        weight = weight.astype(np.float64, copy=False)
    return ArrayRows(scores, codes, weight, kind, executor), found


@dataclass(frozen=True)
class CheckValues:
    """Raise the error of the first block whose scores cannot be what they were declared to be."""

    kind: Input
    name: str
    threads: bool = False

    def __call__(self, block: Block) -> int:
        """Check a block of any size; return its number of rows."""
        for rows in row_slices(len(block), class_count(block.scores)):
            check_block(block.scores[rows], self.kind, self.name, block.first + rows.start)
        return len(block)


def in_blocks(function: Callable[[Block], T], block: Block) -> T:
    """Sum a function of small blocks over a block of any size: NumPy's temporaries stay in the cache."""
    slices = row_slices(len(block), class_count(block.scores))
    return reduce(lambda a, b: a + b, (function(block.part(rows)) for rows in slices))
