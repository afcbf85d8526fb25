"""The jobs of the command line as functions: files in, results out, nothing printed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import focalcal
from focalcal._settings import check_choice, check_method_criterion
from focalcal._validate import check_same_labels, check_same_rows
from focalcal.io.selection import Wanted, declared
from focalcal.io.sinks import check_kind, check_order
from focalcal.io.sources import Scores, find_scores
from focalcal.io.stream import Progress
from focalcal.methods import METHODS, WITH_CRITERION
from focalcal.rows import ArrayRows, Rows

if TYPE_CHECKING:
    from focalcal.verdicts.appraisal import Appraisal
    from focalcal.verdicts.calibration_tests import CalibrationTest
    from focalcal.verdicts.comparison import Comparison


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
    method : str
        One of `focalcal.methods.METHODS`: "fts" is focal temperature scaling, "ts" temperature scaling. Or
        "auto": `focalcal.fit_best`.
    criterion : {"nll", "brier", "ece"}
        What the fit minimises; for "fts" and "ts" alone.
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
    check_choice("method", method, ("auto", *METHODS))
    check_choice("criterion", criterion, ("nll", "brier", "ece"))
    check_method_criterion(method, criterion, WITH_CRITERION)
    scores = _open(path, progress, **selection)
    if method == "auto":
        return focalcal.fit_best(scores, input=scores.input, executor=executor), scores
    settings = {"criterion": criterion} if method in WITH_CRITERION else {}
    calibrator = getattr(focalcal, METHODS[method])(input=scores.input, **settings)
    return calibrator.fit(scores, executor=executor), scores


def evaluate_file(
    path: str | os.PathLike[str],
    *,
    calibrator: Any = None,
    by: str | None = None,
    bins: int = 15,
    metrics: str = "standard",
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
    metrics : {"standard", "all"}
        As for `focalcal.evaluate`.
    executor, progress
        As for `fit_file`.

    Returns
    -------
    tuple of Appraisal and Scores
        Evaluations under "before" and, with a calibrator, "after", and the segments; and what was judged.
    """
    from focalcal.verdicts.appraisal import appraise

    if calibrator is not None and selection.get("classes") is None:
        selection["classes"] = calibrator.classes_
    scores = _open(path, progress, by=by, **selection)
    if calibrator is not None:
        check_kind(calibrator, scores.input)
        check_order(calibrator, scores.matched)
    return appraise(scores, calibrator, bins=bins, metrics=metrics, executor=executor), scores


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
    from focalcal.calibrators.temperature.profile import profile
    from focalcal.reporting import report

    found, scores = evaluate_file(path, metrics="all", **options)
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
        comparison=None if calibrator is None else _change(rows, calibrator, options.get("bins", 15)),
        profile=profile(rows, calibrator) if by_temperature else None,
        flags=_flags(options),
    )
    return found


def _change(rows: Rows, calibrator: Any, bins: int) -> Comparison | None:
    """Compare the predictions before and after, row by row, where they are in memory."""
    from focalcal.verdicts.comparison import compare_rows

    if not isinstance(rows, ArrayRows):
        return None
    after = replace(rows, scores=calibrator.transform(rows.scores), kind="logits")
    return compare_rows(rows, after, bins, 0.95, ("before", "after"))


def compare_files(
    path_a: str | os.PathLike[str],
    path_b: str | os.PathLike[str],
    *,
    bins: int = 15,
    progress: Progress | None = None,
    **selection: Any,
) -> Comparison:
    """Compare two files of predictions for the same rows.

    Parameters
    ----------
    path_a, path_b : str or path
        The files, row for row; both are read into memory.
    bins : int
        Bins of the calibration errors.
    progress : callable, optional
        As for `fit_file`.
    **selection
        Columns and rows, as for `focalcal.open_scores`; the same for both.

    Returns
    -------
    Comparison
        As of `focalcal.compare`; named after the files.
    """
    from focalcal.verdicts.comparison import compare_rows

    pair = []
    for path in (path_a, path_b):
        rows, classes = _open(path, progress, **selection).rows()
        pair.append((rows.in_memory(), classes))
    (a, classes_a), (b, classes_b) = pair
    check_same_rows((a.n, a.n_classes), (b.n, b.n_classes), classes_a, classes_b)
    check_same_labels(a.codes, b.codes, a.weight, b.weight)
    return compare_rows(a, b, bins, 0.95, (os.path.basename(path_a), os.path.basename(path_b)))


def tests_of_file(
    path: str | os.PathLike[str], *, progress: Progress | None = None, **selection: Any
) -> list[CalibrationTest]:
    """Test the predictions in a file, by each of the methods of `focalcal.test_calibration`.

    Parameters
    ----------
    path, **selection
        The file, columns and rows, as for `focalcal.open_scores`.
    progress : callable, optional
        As for `fit_file`.
    """
    from focalcal.verdicts.calibration_tests import METHODS, test_calibration

    scores = _open(path, progress, **selection)
    return [test_calibration(scores, method=method) for method in METHODS]


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
