"""A Dask cluster as an executor; nothing else in the package knows of Dask."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager

from focalcal._settings import optional_module

#: Seconds to wait for a scheduler.
_PATIENCE = 30


@contextmanager
def executor(address: str | None) -> Iterator[Executor | None]:
    """Yield an executor that runs on a Dask cluster; None without an address.

    Parameters
    ----------
    address : str or None
        The scheduler's, e.g. tcp://host:8786, or the path of a scheduler file ending in .json.

    Raises
    ------
    ImportError
        Without the extra [dask].
    ValueError
        If no scheduler answers.
    """
    if address is None:
        yield None
        return
    distributed = optional_module("distributed", "scheduler", "dask")
    where = {"scheduler_file": address} if address.endswith(".json") else {"address": address}
    try:
        client = distributed.Client(**where, timeout=_PATIENCE, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"Expected a Dask scheduler at {address!r}, got no answer: {error}. Is it running?"
        ) from error
    with client:
        yield client.get_executor()
