"""The jobs of the command line as functions: files in, results out, nothing printed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from focalcal._validate import check_choice
from focalcal.io.selection import Wanted, declared
from focalcal.io.sinks import check_kind, check_order
from focalcal.io.sources import Scores, find_scores
from focalcal.io.stream import Progress

if TYPE_CHECKING:
    from focalcal.appraisal import Appraisal


def fit_file(
    path: str | os.PathLike[str],
    *,
    method: str = "fts",
    criterion: str = "nll",
    executor: Executor | None = None,
    progress: Progress | None = None,
    **selection: Any,
) -> tuple[Any, Scores]:
    """Fit a calibrator on a file of predictions.

    Parameters
    ----------
    path : str or path
        The file, as for `focalcal.open_scores`.
    method : {"fts", "ts"}
        Focal temperature scaling, or temperature scaling.
    criterion : {"nll", "brier", "ece"}
        What the fit minimises.
    executor : concurrent.futures.Executor, optional
        Where a table is read and summed, part by part. By default this process does it.
    progress : callable, optional
        Told what is being done, how many rows are done, and how many there are.
    **selection
        Columns and rows, as for `focalcal.open_scores`.

    Returns
    -------
    tuple of calibrator and Scores
        The fitted calibrator, and what it was fitted on.
    """
    from focalcal.calibrators import FocalTemperatureScaling, TemperatureScaling

    check_choice("method", method, ("fts", "ts"))
    scores = _open(path, progress, **selection)
    make: Any = FocalTemperatureScaling if method == "fts" else TemperatureScaling
    calibrator = make(criterion=criterion, input=scores.input)
    return calibrator.fit(scores, executor=executor), scores


def evaluate_file(
    path: str | os.PathLike[str],
    *,
    calibrator: Any = None,
    by: str | None = None,
    bins: int = 15,
    executor: Executor | None = None,
    progress: Progress | None = None,
    **selection: Any,
) -> tuple[Appraisal, Scores]:
    """Judge the predictions in a file, and with a calibrator also what it makes of them, in one pass.

    Parameters
    ----------
    path, **selection
        The file, columns and rows, as for `focalcal.open_scores`.
    calibrator : fitted calibrator, optional
        As from `focalcal.load`.
    by : str, optional
        A column (npz: key): each of its values is a segment to be judged on its own too.
    bins : int
        Bins of the calibration errors.
    executor, progress
        As for `fit_file`.

    Returns
    -------
    tuple of Appraisal and Scores
        Evaluations under "before" and, with a calibrator, "after", and the segments; and what was judged.
    """
    from focalcal.appraisal import appraise

    if calibrator is not None and selection.get("classes") is None:
        selection["classes"] = calibrator.classes_
    scores = _open(path, progress, by=by, **selection)
    if calibrator is not None:
        check_kind(calibrator, scores.input)
        check_order(calibrator, scores.matched)
    return appraise(scores, calibrator, bins=bins, executor=executor), scores


def report_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    title: str | None = None,
    **options: Any,
) -> Appraisal:
    """Judge the predictions in a file and write what was found as one HTML file.

    Parameters
    ----------
    path, **options
        As for `evaluate_file`.
    output : str or path
        The HTML file.
    title : str, optional
        Its heading.

    Returns
    -------
    Appraisal
        As of `evaluate_file`.
    """
    from focalcal.calibrators import FocalTemperatureScaling, TemperatureScaling
    from focalcal.calibrators.profile import profile
    from focalcal.reporting import report

    found, scores = evaluate_file(path, **options)
    calibrator = options.get("calibrator")
    rows, classes = scores.rows(None, options.get("executor"))
    by_temperature = calibrator is None or type(calibrator) in (TemperatureScaling, FocalTemperatureScaling)
    report(
        output,
        found.evaluations,
        calibrator=calibrator,
        title=title or f"Calibration of {os.path.basename(os.fspath(path))}",
        notes=[describe(scores, found.n)],
        segments=found.segments,
        by=options.get("by"),
        classes=classes.tolist(),
        profile=profile(rows, calibrator) if by_temperature else None,
        flags=_flags(options),
    )
    return found


def _flags(options: dict[str, Any]) -> list[str]:
    """Return the options of the command line that say where a table's scores and labels are."""
    named = {name: options.get(name) for name in ("logits", "probs", "label", "weight")}
    texts = {name: v if isinstance(v, str) else ",".join(v) for name, v in named.items() if v is not None}
    return [word for name, text in texts.items() for word in (f"--{name}", text)]


def describe(scores: Scores, n: int) -> str:
    """Return in a sentence what was read from where."""
    columns: Sequence[str] = scores.columns
    shown = ", ".join(columns) if len(columns) <= 3 else f"{columns[0]}, {columns[1]}, …, {columns[-1]}"
    kind = "logits" if scores.input == "logits" else "probabilities"
    where = f" where {scores.where}" if scores.where else ""
    weighted = ", weighted" if scores.weighted else ""
    rows = f"{n:,} rows of {os.path.basename(scores.path)}{where}"
    return f"{rows}, {scores.n_classes} classes; {kind} in {shown}{weighted}."


def _open(
    path: str | os.PathLike[str],
    progress: Progress | None,
    *,
    logits: str | Sequence[str] | None = None,
    probs: str | Sequence[str] | None = None,
    **selection: Any,
) -> Scores:
    """Open a file whose rows are read when they are summed."""
    chosen, kind = declared(logits, probs)
    return find_scores(path, Wanted(chosen, kind, **selection), progress)
