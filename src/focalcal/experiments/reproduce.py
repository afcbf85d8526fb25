"""A reproduction from plan to page: train what is missing, study what is trained, say what came out."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from focalcal._settings import check_count
from focalcal.experiments.costs import costs_table
from focalcal.experiments.datasets import ImageData, check_dataset, open_dataset
from focalcal.experiments.geometry.page import curvature_page
from focalcal.experiments.geometry.study import Found, measured
from focalcal.experiments.pages.run_facts import run_facts
from focalcal.experiments.profiles import planned
from focalcal.experiments.recipes import Recipe, from_dict
from focalcal.experiments.scaling.page import fts_page
from focalcal.experiments.scaling.stand_ins import read_stand_in
from focalcal.experiments.sweep import Status, Sweep, run_images, run_sweep
from focalcal.experiments.trials import Trial, try_out

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Reproduction:
    """One paper's experiments in a folder, which two papers may share: runs that both need are trained once.

    Parameters
    ----------
    paper, profile, images : str
        As of `planned`.
    folder : Path
        Gets the runs, their list, and the page.
    data : Path
        Where the data sets' archives are.
    precision : {"float32", "bfloat16", "float16"}
        Of the forward passes.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     print(Reproduction("fts", "small", Path(folder)).status())
    0 done, 0 running, 80 waiting, 0 failed
    """

    paper: str
    profile: str
    folder: Path
    data: Path = Path("data")
    images: str = "cifar10"
    precision: str = "float32"

    @cached_property
    def recipes(self) -> list[Recipe]:
        """Its runs."""
        runs = planned(self.paper, self.profile, images=self.images)
        return [replace(recipe, precision=self.precision).checked() for recipe in runs]

    def sweep(self) -> Sweep:
        """Return the list of runs, with its own on it."""
        sweep = Sweep(self.folder)
        sweep.add(self.recipes)
        return sweep

    def status(self) -> Status:
        """Return how far its own runs are; nothing is written."""
        if not (self.folder / "sweep.sqlite").is_file():
            return Status(len(self.recipes), 0, 0, 0, None, {})
        begun = Sweep(self.folder).status(self.recipes)
        return replace(begun, waiting=begun.waiting + len(self.recipes) - begun.runs)

    def check_files(self, scores: Iterable[str | os.PathLike[str]] = ()) -> None:
        """Look for every data set and file of scores, so that a wrong one is told before hours are spent."""
        for path in scores:
            read_stand_in(path)
        for name in dict.fromkeys(recipe.data for recipe in self.recipes):
            check_dataset(name, self.data)

    def train(
        self,
        *,
        executor: Executor | None = None,
        workers: int = 1,
        retry: bool = False,
        watch: Callable[[Status], None] | None = None,
        **options: Any,
    ) -> Status:
        """Train what is not trained yet; `options` are those of `run_sweep`."""
        sweep = self.sweep()
        if retry:
            sweep.retry()
        told = None if watch is None else lambda: watch(self.status())
        run_sweep(self.folder, data=self.data, executor=executor, workers=workers, watch=told, **options)
        return self.status()

    def page(
        self,
        command: str,
        *,
        scores: Sequence[str | os.PathLike[str]] = (),
        executor: Executor | None = None,
        progress: Progress | None = None,
    ) -> Path:
        """Study the finished runs, each once, and write the page.

        Parameters
        ----------
        command : str
            What makes it again, for the page.
        scores : sequence of path-like
            Files of logits that are studied beside the runs; of focal temperature scaling only.
        executor : concurrent.futures.Executor, optional
            Where runs are studied.
        progress : callable, optional
            Told (key, runs, of how many).
        """
        if self.paper == "fts":
            return fts_page(
                self.folder,
                profile=self.profile,
                command=command,
                among=self.recipes,
                scores=scores,
                executor=executor,
                progress=progress,
            )
        done = self.sweep().done(self.recipes)
        if not done:
            raise ValueError(f"Expected a finished run in {self.folder}, got none. Train some first.")
        runs = list(self._measured(done, executor, progress))
        facts = run_facts(self.profile, done, len(self.recipes))
        path = self.folder / "curvature.html"
        return curvature_page(path, runs, facts, profile=self.profile, command=command)

    def _measured(
        self, done: Sequence[tuple[Recipe, Path]], executor: Executor | None, progress: Progress | None
    ) -> Iterator[tuple[Recipe, Found]]:
        tasks = [(json.dumps(recipe.to_dict()), str(folder), str(self.data)) for recipe, folder in done]
        each: Iterable[Found] = map(_measure, tasks) if executor is None else executor.map(_measure, tasks)
        for i, ((recipe, folder), found) in enumerate(zip(done, each, strict=True), 1):
            if progress is not None:
                progress(folder.name, i, len(done))
            yield recipe, found

    def try_out(self, *, device: str | None = None, progress: Progress | None = None) -> list[Trial]:
        """Try every kind of its runs on random images: see `focalcal.experiments.trials.try_out`."""
        return try_out(
            self.recipes, self.folder / "try", images=self._file(), device=device, progress=progress
        )

    def costs(self, tflops: float | None = None) -> str:
        """Return what its runs will cost, as a table."""
        return costs_table(self.recipes, self._file(), tflops)

    def _file(self) -> ImageData | None:
        """Return the data set that is a file, whose shape no table holds."""
        return open_dataset(self.images, self.data) if self.images.endswith(".npz") else None


def _measure(task: tuple[str, str, str]) -> Found:
    recipe = from_dict(json.loads(task[0]))
    return measured(recipe, run_images(recipe.data, task[2], recipe.rows), Path(task[1]))


@contextmanager
def processes(workers: int) -> Iterator[Executor | None]:
    """Yield so many fresh processes, which share the processor's cores; None for one worker: this process."""
    if check_count("workers", workers) == 1:
        yield None
        return
    threads = max(1, (os.cpu_count() or 1) // workers)
    with ProcessPoolExecutor(
        workers, get_context("spawn"), initializer=torch.set_num_threads, initargs=(threads,)
    ) as pool:
        yield pool
