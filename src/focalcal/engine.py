"""Map a function over blocks of rows and merge what it returns: the one door to parallelism.

A fit and a metric are sums over rows. Each task sums its own run of blocks, and the partial sums are
merged in the order of the rows, so the result does not depend on how many workers there were. Any
`concurrent.futures.Executor` serves: threads, processes, a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from functools import reduce
from itertools import pairwise
from typing import Any, Protocol, Self, TypeVar

#: Elements of one block: its temporaries stay in a core's cache, and all of them below 20 MB.
BLOCK_ELEMENTS = 1 << 16

#: Tasks a call is cut into; fixed, so that sums do not depend on the number of workers.
_TASKS = 16


class Mergeable(Protocol):
    """A partial result that adds up."""

    def __add__(self, other: Any, /) -> Self:
        """Merge two partial results."""
        ...


def row_slices(n: int, n_classes: int, start: int = 0, elements: int = BLOCK_ELEMENTS) -> Iterator[slice]:
    """Cut rows start..n into slices of about `elements` numbers each."""
    step = max(1, elements // n_classes)
    for first in range(start, n, step):
        yield slice(first, min(first + step, n))


T = TypeVar("T", bound=Mergeable)


def map_sum(function: Callable[[slice], T], n: int, n_classes: int, executor: Executor | None = None) -> T:
    """Return the sum of `function(rows)` over all blocks of n rows of `n_classes` numbers."""
    if executor is None:
        # in this thread: NumPy's short operations wait for each other's interpreter lock (two threads
        # were measured to take 1.3 to 2 times as long as one)
        return _sum_run(function, 0, n, n_classes)
    bounds = [n * task // _TASKS for task in range(_TASKS + 1)]
    futures = [
        executor.submit(_sum_run, function, low, high, n_classes)
        for low, high in pairwise(bounds)
        if high > low
    ]
    return reduce(lambda a, b: a + b, (future.result() for future in futures))


def _sum_run(function: Callable[[slice], T], low: int, high: int, n_classes: int) -> T:
    return reduce(lambda a, b: a + b, map(function, row_slices(high, n_classes, start=low)))
