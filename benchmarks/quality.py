"""Every post-hoc calibrator on real score files, in one run: raw, focalcal's families, probmetrics' TS, SVS and SMS.

    python -P benchmarks/quality.py [--data ../shared/data] [--cache runs.jsonl] [--write benchmarks/results/quality.md]

Each file is an npz with `logits` or `probs`, `labels` and `val_mask`. Methods are fitted on the rows of
`val_mask` and judged on the rest; then on five random splits of the same size; then on 100, 300 and 1,000 of
the fixed split's fitting rows. Where a file has `subject` and `prompt`, a question's prompts stay together.
Families are found when the script starts: whatever `focalcal.load` can read is compared, and `fit_best` as `auto`.

A run is one method on one file, split and size. With --cache they are kept as lines of JSON, so that an interrupted
benchmark goes on where it stopped; --fresh NAME,… runs methods again that have changed since, or failed.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

import focalcal
from focalcal.calibrators import _FAMILIES

sys.path.insert(0, str(Path(__file__).parent))
from quality_results import COUNTERPARTS
from quality_tables import report

#: Calibrators of probmetrics, by the names its `get_calibrator` knows.
PEERS = ("ts-mix", "svs", "sms")
SHORT = {"TS": "TemperatureScaling", "FTS": "FocalTemperatureScaling"}

MEASURES = ("nll", "brier", "ece", "classwise_ece", "accuracy")
BINS = 15

#: Random draws of each small size.
DRAWS = 3


@dataclass(frozen=True)
class Cell:
    """What all methods are fitted on: a split of a file, or a few of the fixed split's fitting rows."""

    path: str
    split: int  # 0 is the file's own
    size: int | None = None  # None: all fitting rows
    draw: int = 0

    @property
    def name(self) -> str:
        """Name of the file, without .npz."""
        return Path(self.path).stem

    def key(self, method: str) -> tuple:
        """Return what a run is known by."""
        return (self.name, self.split, self.size, self.draw, method)


@dataclass(frozen=True)
class ScoreFile:
    """Labelled scores of one file."""

    scores: np.ndarray  # (n, K)
    labels: np.ndarray  # (n,)
    kind: str
    fixed: np.ndarray  # (n,) rows to fit on
    groups: np.ndarray  # (n,) rows that are not independent share a number


@cache
def load(path: str) -> ScoreFile:
    with np.load(path) as file:
        kind = "logits" if "logits" in file else "probs"
        labels = file["labels"].astype(np.int64)
        groups = np.arange(len(labels))
        if {"subject", "prompt"} <= set(file.files):
            groups = questions(file["subject"], file["prompt"])
        return ScoreFile(file[kind], labels, kind, file["val_mask"], groups)


def questions(subject: np.ndarray, prompt: np.ndarray) -> np.ndarray:
    """Return each row's question: its subject, and its position among the rows of its subject and prompt."""
    position = np.empty(len(subject), np.int64)
    _, block = np.unique(np.stack([subject, prompt]), axis=1, return_inverse=True)
    for number in range(block.max() + 1):
        rows = np.flatnonzero(block == number)
        position[rows] = np.arange(len(rows))
    return np.unique(np.stack([subject, position]), axis=1, return_inverse=True)[1]


def rows_of(cell: Cell, file: ScoreFile) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of the rows to fit on and of those to judge."""
    fitting = file.fixed
    if cell.split:
        count = len(np.unique(file.groups[file.fixed]))
        chosen = np.random.default_rng(cell.split).permutation(file.groups.max() + 1)[:count]
        fitting = np.isin(file.groups, chosen)
    fit, test = np.flatnonzero(fitting), np.flatnonzero(~fitting)
    if cell.size is not None:
        fit = np.random.default_rng([cell.size, cell.draw]).choice(fit, cell.size, replace=False)
    return fit, test


def method_names() -> list[str]:
    others = [name for name in _FAMILIES if name not in SHORT.values()]
    return ["raw", *SHORT, *PEERS, *others, *(["auto"] if hasattr(focalcal, "fit_best") else [])]


def given(method: str, scores: np.ndarray, kind: str) -> np.ndarray:
    """Return what a method is given: the file's scores, but to probmetrics their probabilities in float64."""
    if method not in PEERS:
        return scores
    scores = scores.astype(np.float64)
    p = scores if kind == "probs" else np.exp(focalcal.temperature_map(scores, 1.0))
    return p / p.sum(axis=1, keepdims=True)


def fit(method: str, scores: np.ndarray, labels: np.ndarray, kind: str) -> object:
    if method == "raw":
        return None
    if method in PEERS:
        import torch
        from probmetrics.calibrators import get_calibrator

        torch.set_num_threads(1)
        return get_calibrator(method).fit(scores, labels)
    if method == "auto":
        return focalcal.fit_best(scores, labels, input=kind)
    return _FAMILIES[SHORT.get(method, method)](input=kind).fit(scores, labels)


def predict(method: str, fitted: object, scores: np.ndarray, kind: str) -> tuple[np.ndarray, str]:
    """Return what is judged, and what it is."""
    if method == "raw":
        return scores, kind
    if method in PEERS:
        return fitted.predict_proba(scores), "probs"
    return fitted.transform(scores), "logits"


def timed_fit(method: str, scores: np.ndarray, labels: np.ndarray, kind: str) -> tuple[object, float]:
    """Return the fitted calibrator and its CPU seconds: other programs on the machine do not count."""
    begun = time.process_time()
    fitted = fit(method, scores, labels, kind)
    return fitted, time.process_time() - begun


def row_losses(scores: np.ndarray, kind: str, labels: np.ndarray) -> np.ndarray:
    """Return NLL, Brier score and share of the ECE of each row, shape (3, n).

    The share is ±(confidence − hit), with the sign of the gap of the row's bin: the mean over rows is the ECE,
    and the spread of differences of shares gives the paired standard error of a difference of ECEs.
    """
    scores = scores.astype(np.float64)
    log_p = np.log(np.maximum(scores, 1e-30)) if kind == "probs" else focalcal.temperature_map(scores, 1.0)
    p, rows = np.exp(log_p), np.arange(len(labels))
    brier = (p**2).sum(axis=1) - 2 * p[rows, labels] + 1
    residual = p.max(axis=1) - (p.argmax(axis=1) == labels)
    bins = np.clip(np.ceil(p.max(axis=1) * BINS).astype(int) - 1, 0, BINS - 1)
    sign = np.sign(np.bincount(bins, residual, BINS))[bins]
    return np.stack([-log_p[rows, labels], brier, sign * residual])


def run_cell(cell: Cell, methods: list[str], folder: Path) -> list[dict]:
    """Fit and judge methods in turn; rows' losses on the fixed split go into the folder."""
    with warnings.catch_warnings(), threadpool_limits(1):
        warnings.simplefilter("ignore")
        for method in {*methods, *(COUNTERPARTS[m][0] for m in methods if m in COUNTERPARTS)}:
            warm_up(method)
        return judged_in_turn(cell, methods, folder)


def judged_in_turn(cell: Cell, methods: list[str], folder: Path) -> list[dict]:
    file = load(cell.path)
    fit_rows, test_rows = rows_of(cell, file)
    seconds: dict[str, float] = {}
    found = []
    for method in methods:
        run = {**asdict(cell), "file": cell.name, "method": method, "n_fit": len(fit_rows)}
        del run["path"]
        try:
            run |= one_run(cell, method, file, fit_rows, test_rows, seconds, folder)
        except Exception as error:  # a method that fails is a result
            run["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        found.append(run)
    for run in found:
        if run["method"] in COUNTERPARTS and cell.size is None:
            run["counterpart"] = counterpart_seconds(run["method"], file, fit_rows, seconds)
    return found


def one_run(
    cell: Cell,
    method: str,
    file: ScoreFile,
    fit_rows: np.ndarray,
    test_rows: np.ndarray,
    seconds: dict[str, float],
    folder: Path,
) -> dict:
    scores = given(method, file.scores, file.kind)
    fitted, seconds[method] = timed_fit(method, scores[fit_rows], file.labels[fit_rows], file.kind)
    judged, kind = predict(method, fitted, scores[test_rows], file.kind)
    labels, groups = file.labels[test_rows], file.groups[test_rows]
    cluster = None if len(np.unique(groups)) == len(groups) else groups
    found = focalcal.evaluate(labels, judged, input=kind, bins=BINS, cluster=cluster)
    if cell.split == 0 and cell.size is None:
        losses = row_losses(judged, kind, labels)
        np.save(rows_path(folder, cell.name, method), np.vstack([losses, groups]))
    measures = {name: (found[name].value, found[name].stderr) for name in MEASURES}
    return {
        "n": len(labels),
        "classes": file.scores.shape[1],
        "seconds": seconds[method],
        "fitted": type(fitted).__name__,
        **measures,
    }


def counterpart_seconds(method: str, file: ScoreFile, rows: np.ndarray, seconds: dict[str, float]) -> float:
    """Return the seconds of the peer's fit beside this one, which is fitted now if it was not asked for."""
    peer, _ = COUNTERPARTS[method]
    if peer not in seconds:
        seconds[peer] = float("nan")
        with suppress(Exception):
            scores = given(peer, file.scores[rows], file.kind)
            _, seconds[peer] = timed_fit(peer, scores, file.labels[rows], file.kind)
    return seconds[peer]


@cache
def warm_up(method: str) -> None:
    """Fit a method once on made scores: imports and compilation are not the fit."""
    rng = np.random.default_rng(0)
    for n_classes in (2, 4):
        logits, labels = rng.normal(size=(200, n_classes)), np.arange(200) % n_classes
        probs = given(PEERS[0], logits, "logits")
        for scores, kind in ((logits, "logits"), (probs, "probs")):
            with suppress(Exception):  # said where it is judged
                fit(method, given(method, scores, kind), labels, kind)


def rows_path(folder: Path, file: str, method: str) -> Path:
    return folder / f"{file}.{method}.npy"


class Cache:
    """Runs that are done, by key; as lines of JSON in a file if there is one."""

    def __init__(self, path: Path | None, folder: Path, fresh: set[str]) -> None:
        self.path, self.folder = path, folder
        self.runs: dict[tuple, dict] = {}
        lines = path.read_text().splitlines() if path and path.exists() else []
        for line in lines:
            with suppress(json.JSONDecodeError):  # the last line of an interrupted run
                run = json.loads(line)
                if run["method"] not in fresh:
                    key = tuple(run[name] for name in ("file", "split", "size", "draw", "method"))
                    self.runs[key] = run
        if path:
            path.write_text("".join(f"{json.dumps(run)}\n" for run in self.runs.values()))

    def missing(self, cell: Cell, methods: list[str]) -> list[str]:
        """Return the methods that have no run in a cell."""
        return [method for method in methods if not self._has(cell, method)]

    def _has(self, cell: Cell, method: str) -> bool:
        run = self.runs.get(cell.key(method))
        if run is None or "failed" in run or cell.split or cell.size is not None:
            return run is not None
        return rows_path(self.folder, cell.name, method).exists()

    def add(self, cell: Cell, runs: list[dict]) -> None:
        """Keep a cell's runs."""
        self.runs |= {cell.key(run["method"]): run for run in runs}
        if self.path:
            with self.path.open("a") as file:
                file.writelines(f"{json.dumps(run)}\n" for run in runs)


def run_all(todo: list[tuple[Cell, list[str]]], folder: Path, workers: int) -> Iterator[list[dict]]:
    """Yield each cell's runs in order, from this process or several."""
    if workers == 1:
        yield from (run_cell(cell, methods, folder) for cell, methods in todo)
        return
    # a fork of a process that has started threads may hang
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        cells, methods = zip(*todo, strict=True) if todo else ((), ())
        yield from pool.map(run_cell, cells, methods, [folder] * len(todo))


def complete(done: Cache, cells: list[Cell], methods: list[str], workers: int) -> None:
    """Run what is not done, and say how far it is."""
    todo = [(cell, missing) for cell in cells if (missing := done.missing(cell, methods))]
    begun = time.perf_counter()
    for number, runs in enumerate(run_all(todo, done.folder, workers)):
        cell = todo[number][0]
        done.add(cell, runs)
        where = f"{cell.name}, split {cell.split}, {cell.size or 'all'} rows, draw {cell.draw}"
        elapsed = time.perf_counter() - begun
        print(f"{number + 1} of {len(todo)}, {elapsed:.0f} s: {where}", file=sys.stderr, flush=True)


def cells_of(paths: list[Path], splits: int, sizes: list[int]) -> list[Cell]:
    found = []
    for path in paths:
        found += [Cell(str(path), split) for split in range(splits)]
        found += [Cell(str(path), 0, size, draw) for size in sizes for draw in range(DRAWS)]
    return found


def score_files(data: Path, chosen: str | None) -> list[Path]:
    paths = [p for p in sorted(data.glob("*.npz")) if {"labels", "val_mask"} <= set(np.load(p).files)]
    if chosen:
        names = chosen.split(",")
        unknown = set(names) - {path.stem for path in paths}
        if unknown:
            raise SystemExit(f"Expected --files from {data} without .npz, got {', '.join(sorted(unknown))}.")
        paths = [path for path in paths if path.stem in names]
    if not paths:
        raise SystemExit(f"Expected score files in {data}, got none.")
    return paths


def chosen_methods(chosen: str | None) -> list[str]:
    names = method_names()
    if not chosen:
        return names
    unknown = set(chosen.split(",")) - set(names)
    if unknown:
        raise SystemExit(
            f"Expected --methods from {', '.join(names)}; got {', '.join(sorted(unknown))}. "
            "Leave --methods out to compare all."
        )
    return [name for name in names if name in chosen.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--methods", help="names, with commas; by default all")
    parser.add_argument("--files", help="names without .npz, with commas; by default all")
    parser.add_argument("--splits", type=int, default=6, help="how many: the fixed one and random ones")
    parser.add_argument(
        "--sizes", default="100,300,1000", help="fitting rows of the small samples; '' for none"
    )
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--cache", type=Path, help="JSON lines of the runs that are done")
    parser.add_argument("--fresh", default="", help="methods to run again although the cache has them")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    methods = chosen_methods(arguments.methods)
    sizes = [int(size) for size in arguments.sizes.split(",") if size]
    cells = cells_of(score_files(arguments.data, arguments.files), max(1, arguments.splits), sizes)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(f"{arguments.cache}.rows" if arguments.cache else temporary)
        folder.mkdir(parents=True, exist_ok=True)
        done = Cache(arguments.cache, folder, set(arguments.fresh.split(",")))
        complete(done, cells, methods, arguments.workers)
        text = report([done.runs[cell.key(method)] for cell in cells for method in methods], folder)
    print(text)
    if arguments.write:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
