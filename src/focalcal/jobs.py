"""The jobs of the command line as functions: files in, results out, nothing printed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from focalcal._validate import check_choice
from focalcal.io.sinks import check_kind, check_order
from focalcal.io.sources import Scores, open_scores


def fit_file(
    path: str | os.PathLike[str], *, method: str = "fts", criterion: str = "nll", **selection: Any
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
    **selection
        Columns and rows, as for `focalcal.open_scores`.

    Returns
    -------
    tuple of calibrator and Scores
        The fitted calibrator, and what it was fitted on.
    """
    from focalcal.calibrators import FocalTemperatureScaling, TemperatureScaling

    check_choice("method", method, ("fts", "ts"))
    scores = open_scores(path, **selection)
    labels = _labels(scores)
    make: Any = FocalTemperatureScaling if method == "fts" else TemperatureScaling
    calibrator = make(criterion=criterion, input=scores.input, classes=scores.classes)
    return calibrator.fit(scores.X, labels, scores.weight), scores


def evaluate_file(
    path: str | os.PathLike[str], *, calibrator: Any = None, bins: int = 15, **selection: Any
) -> tuple[dict[str, Any], Scores]:
    """Judge the predictions in a file, and with a calibrator also what it makes of them.

    Parameters
    ----------
    path, **selection
        The file, columns and rows, as for `focalcal.open_scores`.
    calibrator : fitted calibrator, optional
        As from `focalcal.load`.
    bins : int
        Bins of the calibration errors.

    Returns
    -------
    tuple of dict and Scores
        Evaluations under "before" and, with a calibrator, "after"; and what was judged.
    """
    from focalcal.metrics import evaluate

    if calibrator is not None and selection.get("classes") is None:
        selection["classes"] = calibrator.classes_
    scores = open_scores(path, **selection)
    labels = _labels(scores)
    options: dict[str, Any] = {"classes": scores.classes, "bins": bins}
    result = {"before": evaluate(labels, scores.X, scores.weight, input=scores.input, **options)}
    if calibrator is not None:
        check_kind(calibrator, scores.input)
        check_order(calibrator, scores.matched)
        calibrated = calibrator.transform(scores.X)
        result["after"] = evaluate(labels, calibrated, scores.weight, input="logits", **options)
    return result, scores


def report_file(
    path: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    calibrator: Any = None,
    title: str | None = None,
    bins: int = 15,
    **selection: Any,
) -> dict[str, Any]:
    """Judge the predictions in a file and write what was found as one HTML file.

    Parameters
    ----------
    path, calibrator, bins, **selection
        As for `evaluate_file`.
    output : str or path
        The HTML file.
    title : str, optional
        Its heading.

    Returns
    -------
    dict
        The evaluations, as of `evaluate_file`.
    """
    from focalcal.reporting import report

    evaluations, scores = evaluate_file(path, calibrator=calibrator, bins=bins, **selection)
    heading = title or f"Calibration of {os.path.basename(os.fspath(path))}"
    notes = [describe(scores, selection.get("where"))]
    report(output, evaluations, calibrator=calibrator, title=heading, notes=notes)
    return evaluations


def describe(scores: Scores, where: str | None = None) -> str:
    """Return in a sentence what was read from where."""
    columns: Sequence[str] = scores.columns
    shown = ", ".join(columns) if len(columns) <= 3 else f"{columns[0]}, {columns[1]}, …, {columns[-1]}"
    kind = "logits" if scores.input == "logits" else "probabilities"
    rows = f"{scores.n:,} rows of {os.path.basename(scores.path)}" + (f" where {where}" if where else "")
    weighted = "" if scores.weight is None else ", weighted"
    return f"{rows}, {scores.n_classes} classes; {kind} in {shown}{weighted}."


def _labels(scores: Scores) -> NDArray[Any]:
    if scores.y is None:
        raise ValueError(
            f"Expected labels beside the scores in {scores.path!r}, got none: name their column with label= "
            "(on the command line --label COLUMN)."
        )
    return scores.y
