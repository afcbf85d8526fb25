"""Map a function over blocks of rows and merge what it returns: the one door to parallelism.

A fit and a metric are sums over rows. Each task sums its own run of blocks, and the partial sums are
merged in the order of the rows, so the result does not depend on how many workers there were. Any
`concurrent.futures.Executor` serves: threads, processes, a cluster.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache, reduce
from itertools import pairwise
from typing import Any, Protocol, Self, TypeVar

#: Elements of one block: its temporaries stay in a core's cache. In tasks of several threads blocks are
#: half as large, so that all of them together stay within 20 MB.
BLOCK_ELEMENTS = 1 << 16

#: Below this many elements a thread costs more than it brings.
_SERIAL_ELEMENTS = 1 << 18

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


def workers() -> int:
    """Return the number of cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


T = TypeVar("T", bound=Mergeable)


@cache
def threads() -> ThreadPoolExecutor:
    """Return the one pool of threads; kept, since new threads would each start with cold memory."""
    return ThreadPoolExecutor(workers(), thread_name_prefix="focalcal")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=threads.cache_clear)


def map_sum(function: Callable[[slice], T], n: int, n_classes: int, executor: Executor | None = None) -> T:
    """Return the sum of `function(rows)` over all blocks of n rows of `n_classes` numbers."""
    if executor is None and (n * n_classes <= _SERIAL_ELEMENTS or workers() == 1):
        return reduce(lambda a, b: a + b, map(function, row_slices(n, n_classes)))
    if executor is None:
        executor = threads()
    bounds = [n * task // _TASKS for task in range(_TASKS + 1)]
    futures = [
        executor.submit(_sum_run, function, low, high, n_classes)
        for low, high in pairwise(bounds)
        if high > low
    ]
    return reduce(lambda a, b: a + b, (future.result() for future in futures))


def _sum_run(function: Callable[[slice], T], low: int, high: int, n_classes: int) -> T:
    return reduce(lambda a, b: a + b, map(function, row_slices(high, n_classes, low, BLOCK_ELEMENTS // 2)))
