"""Many runs, one list in SQLite: who works on which, what is done, and how long the rest will take.

A run is claimed in one transaction, so that two workers never share it; a worker that died gives its run
back, which then goes on from its checkpoint. A run is done when its folder holds "run.json", which is written
last: whatever the moment of a kill, no finished run is lost or repeated.
"""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Executor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from focalcal._settings import check_count
from focalcal.experiments.datasets import ImageData, open_dataset
from focalcal.experiments.recipes import Recipe, from_dict
from focalcal.experiments.train import rank, train

#: Seconds between two signs of life, and after which a worker on another machine is taken for dead.
_BEAT, _DEAD = 10.0, 120.0

_TABLE = """
CREATE TABLE IF NOT EXISTS runs (
    key TEXT PRIMARY KEY, place INTEGER, recipe TEXT NOT NULL, state TEXT NOT NULL DEFAULT 'waiting',
    owner TEXT, beat REAL, step INTEGER DEFAULT 0, steps INTEGER, seconds REAL DEFAULT 0, message TEXT
)
"""


@dataclass(frozen=True)
class Status:
    """How far a sweep is.

    Attributes
    ----------
    waiting, running, done, failed : int
        Runs.
    seconds_left : float or None
        By the speed of the runs of the same network so far, on as many workers as are at work; None before
        there is any.
    messages : dict of str to str
        Why runs failed, by their keys.
    """

    waiting: int
    running: int
    done: int
    failed: int
    seconds_left: float | None
    messages: dict[str, str]

    @property
    def runs(self) -> int:
        """All of them."""
        return self.waiting + self.running + self.done + self.failed

    def __str__(self) -> str:
        left = "" if self.seconds_left is None else f", about {self.seconds_left / 60:.0f} minutes left"
        counts = f"{self.done} done, {self.running} running, {self.waiting} waiting, {self.failed} failed"
        return "\n".join([counts + left, *(f"{key}: {text}" for key, text in self.messages.items())])


class Sweep:
    """A list of runs in a folder.

    Parameters
    ----------
    folder : str or path-like
        Holds "sweep.sqlite", and a folder for each run, named by its key.

    Examples
    --------
    >>> import tempfile
    >>> from focalcal.experiments.recipes import small
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     sweep = Sweep(folder)
    ...     sweep.add(small("digits", "mlp", loss, seed) for loss in ("ce", "focal-3") for seed in range(5))
    ...     print(sweep.status())
    0 done, 0 running, 10 waiting, 0 failed
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._writing() as base:
            base.execute(_TABLE)

    def add(self, recipes: Iterable[Recipe]) -> None:
        """Put runs on the list, after those that are there; what is on it already stays as it is."""
        with self._writing() as base:
            (place,) = base.execute("SELECT COALESCE(MAX(place), 0) FROM runs").fetchone()
            for i, recipe in enumerate(recipes, place + 1):
                held = json.dumps(recipe.checked().to_dict())
                base.execute(
                    "INSERT OR IGNORE INTO runs (key, place, recipe) VALUES (?, ?, ?)", (recipe.key, i, held)
                )

    def claim(self, owner: str) -> Recipe | None:
        """Take the next run that waits, or whose worker has died; None where there is none left."""
        with self._writing() as base:
            rows = base.execute(
                "SELECT key, recipe, state, owner, beat FROM runs WHERE state IN ('waiting', 'running') "
                "ORDER BY state = 'waiting', place"
            )
            for key, recipe, state, before, beat in rows.fetchall():
                if state == "waiting" or _died(before, beat):
                    base.execute(
                        "UPDATE runs SET state = 'running', owner = ?, beat = ? WHERE key = ?",
                        (owner, time.time(), key),
                    )
                    return from_dict(json.loads(recipe))
        return None

    def told(self, key: str, owner: str, step: int, steps: int, seconds: float) -> None:
        """Note how far a run is; whoever lost it to another worker is told by an error."""
        with self._writing() as base:
            changed = base.execute(
                "UPDATE runs SET beat = ?, step = ?, steps = ?, seconds = ? WHERE key = ? AND owner = ?",
                (time.time(), step, steps, seconds, key, owner),
            ).rowcount
        if not changed:
            raise RuntimeError(f"Expected to own the run {key}, but another worker took it. Stop this one.")

    def close(self, key: str, state: str, message: str | None = None) -> None:
        """Note that a run is done, or that it failed, with the reason."""
        with self._writing() as base:
            base.execute("UPDATE runs SET state = ?, message = ? WHERE key = ?", (state, message, key))

    def retry(self) -> None:
        """Let failed runs wait again."""
        with self._writing() as base:
            base.execute("UPDATE runs SET state = 'waiting', message = NULL WHERE state = 'failed'")

    def done(self, among: Collection[Recipe] | None = None) -> list[tuple[Recipe, Path]]:
        """Return the finished runs, or those among some, with their folders, in the order of the list."""
        with self._writing() as base:
            rows = base.execute("SELECT recipe, key FROM runs WHERE state = 'done' ORDER BY place").fetchall()
        keys = None if among is None else {recipe.key for recipe in among}
        return [
            (from_dict(json.loads(recipe)), self.folder / key)
            for recipe, key in rows
            if keys is None or key in keys
        ]

    def status(self, among: Collection[Recipe] | None = None) -> Status:
        """Return how far it is, or how far some of its runs are."""
        with self._writing() as base:
            rows = base.execute(
                "SELECT key, recipe, state, step, steps, seconds, message FROM runs"
            ).fetchall()
        if among is not None:
            keys = {recipe.key for recipe in among}
            rows = [row for row in rows if row[0] in keys]
        counts = {state: sum(row[2] == state for row in rows) for state in _STATES}
        return Status(
            **counts,
            seconds_left=_left(rows, counts["running"]),
            messages={row[0]: row[6] for row in rows if row[2] == "failed"},
        )

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(self.folder / "sweep.sqlite", timeout=60, isolation_level=None)) as base:
            base.execute("BEGIN IMMEDIATE")  # one writer at a time, others wait
            try:
                yield base
                base.execute("COMMIT")
            except BaseException:
                base.execute("ROLLBACK")
                raise


_STATES = ("waiting", "running", "done", "failed")


def run_sweep(
    folder: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str] = "data",
    executor: Executor | None = None,
    workers: int = 1,
    devices: Sequence[str] = (),
    progress: Callable[[str, int, int], None] | None = None,
    watch: Callable[[], None] | None = None,
    **options: Any,
) -> Status:
    """Work on a sweep until nothing is left to do.

    Parameters
    ----------
    folder : str or path-like
        Of the `Sweep`. Several calls, on several machines that share the folder, work together.
    data : str or path-like
        Folder of the data sets' archives.
    executor : concurrent.futures.Executor, optional
        Where the workers run: processes, a cluster. Default: one worker here.
    workers : int
        Of the executor.
    devices : sequence of str
        Which the workers take in turn, e.g. "cuda:0", "cuda:1". Default: a GPU if there is one.
    progress : callable, optional
        Told (what, step, steps); without an executor only.
    watch : callable, optional
        Called every few seconds while an executor's workers run, e.g. to show `Sweep.status`.
    **options
        `compiled`, `every`, as of `train`.

    Returns
    -------
    Status
        A run that fails is noted with its reason, and the others go on.
    """
    check_count("workers", workers)
    each = [options | ({"device": devices[i % len(devices)]} if devices else {}) for i in range(workers)]
    if executor is None:
        _work(str(folder), str(data), progress, each[0])
        return Sweep(folder).status()
    futures = [executor.submit(_work, str(folder), str(data), None, own) for own in each]
    while wait(futures, timeout=_BEAT / 2).not_done:
        if watch is not None:
            watch()
    for future in futures:
        future.result()
    return Sweep(folder).status()


def _work(folder: str, data: str, progress: Any, options: dict[str, Any]) -> None:
    sweep, owner = Sweep(folder), f"{socket.gethostname()}:{os.getpid()}:{threading.get_ident()}"
    while (recipe := _next(sweep, owner)) is not None:
        message = None
        try:
            _one(sweep, recipe, owner, data, progress, options)
        except (ValueError, RuntimeError, OSError, ImportError) as error:
            message = f"{type(error).__name__}: {error}"
        if not rank():
            sweep.close(recipe.key, "done" if message is None else "failed", message)


def _next(sweep: Sweep, owner: str) -> Recipe | None:
    """Claim a run; the processes of torchrun work on the one that their first claimed."""
    held = [None if rank() else sweep.claim(owner)]
    if torch.distributed.is_initialized():
        torch.distributed.broadcast_object_list(held)
    return held[0]


def _one(sweep: Sweep, recipe: Recipe, owner: str, data: str, progress: Any, options: dict[str, Any]) -> None:
    images = run_images(recipe.data, data, recipe.rows)
    started = last = time.monotonic()

    def beat(what: str, step: int, steps: int) -> None:
        nonlocal last
        if progress is not None:
            progress(what, step, steps)
        if not rank() and (time.monotonic() - last > _BEAT or step == steps):
            last = time.monotonic()
            sweep.told(recipe.key, owner, step, steps, last - started)

    train(recipe, images, sweep.folder / recipe.key, progress=beat, **options)


@lru_cache(maxsize=2)  # neighbours on the list share their data
def run_images(name: str, folder: str, rows: int | None) -> ImageData:
    """Return the images that a run is trained on."""
    images = open_dataset(name, folder)
    return images if rows is None else images.smaller(rows)


def _died(owner: str, beat: float) -> bool:
    """Return whether a worker is no more: at once where it ran here, else by its silence."""
    host, process, _ = owner.rsplit(":", 2)
    if host != socket.gethostname():
        return time.time() - beat > _DEAD
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _left(rows: list[Any], running: int) -> float | None:
    """Return the seconds that the unfinished runs will take, by the seconds of finished ones."""
    took: dict[str, list[float]] = {}
    for _, recipe, state, *_, seconds, _ in rows:
        if state == "done" and seconds:
            took.setdefault(_kind(recipe), []).append(seconds)
    open_runs = [row for row in rows if row[2] in ("waiting", "running")]
    if not open_runs or any(_kind(row[1]) not in took for row in open_runs):
        return None
    left = 0.0
    for _, recipe, _, step, steps, _, _ in open_runs:
        times = took[_kind(recipe)]
        left += sum(times) / len(times) * (1 - step / steps if steps else 1)
    return left / max(running, 1)


def _kind(recipe: str) -> str:
    values = json.loads(recipe)
    return json.dumps([values[name] for name in ("data", "net", "epochs", "rows", "batch_size")])
