"""The cells of the report's tables: metrics, classes, segments and the fit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from focalcal.calibrators.artefact import parameters as artefact_parameters
from focalcal.intervals.estimate import Estimate
from focalcal.plots import percent
from focalcal.reporting.classes import Classes
from focalcal.reporting.diagrams import intervals
from focalcal.reporting.names import shown
from focalcal.reporting.svg import number
from focalcal.verdicts.evaluation import TITLES, Evaluation
from focalcal.verdicts.segments import Segment

#: What each metric says and its name where the tables' short one does not do, in the order of the page.
_METRICS = {
    "ece": ("Calibration error (ECE)", "confidence against hit rate of the top class, {bins} equal bins"),
    "nll": ("Log loss (NLL)", "nats a row; a proper score"),
    "brier": ("Brier score", "squared error summed over classes; a proper score"),
    "accuracy": ("Accuracy", "the top class is the label"),
    "classwise_ece": ("Class-wise ECE", "every class's probability against its frequency"),
    "smooth_ece": ("Smooth ECE", "as the ECE, with a kernel in the place of bins"),
    "ece_equal_mass": ("ECE, equal-mass bins", "as the ECE, with as many rows in each bin"),
    "ece_l2": ("ECE, L2, debiased", "root mean square of the gaps, less what chance adds"),
    "ks_error": ("KS error", "largest sum of gaps up to any confidence; no bins"),
    "mean_gap": ("Mean gap", "mean confidence less accuracy; above 0 is over-confident"),
    "aurc": ("AURC", "mean error when the least confident rows are left out, area over their share"),
    "kernel_ece": ("Kernel ECE", "all probabilities at once, with a kernel in the place of bins"),
}

#: Metrics that are shown without asking where there are more than `_FOLDED`.
_SHOWN, _FOLDED = 6, 8

_ONE_VS_REST = " With more than two classes, the answers were divided by their sum."

_FITS = {
    "TemperatureScaling": "Every row of logits was divided by one temperature T before the softmax.",
    "FocalTemperatureScaling": (
        "Every row of logits was divided by one temperature T before the softmax, and the focal calibration "
        "map with parameter γ was applied to the result (γ = 0 is temperature scaling)."
    ),
    "MixedTemperatureScaling": (
        "Every row of logits was divided by one temperature T before the softmax, and the result was mixed "
        "with a share λ of equal probabilities."
    ),
    "EnsembleTemperatureScaling": (
        "Three kinds of probabilities were mixed by weight: those of logits divided by one temperature T, "
        "the model's own, and equal ones."
    ),
    "PlattScaling": f"A line was put through each class's log-odds, a logistic regression.{_ONE_VS_REST}",
    "BetaCalibration": (
        "A logistic regression on log p and −log(1 − p) was put in the place of each class's "
        f"probability.{_ONE_VS_REST}"
    ),
    "HistogramBinning": (
        "Each class's probability was replaced by the share of hits among the rows of the fit in the same "
        f"bin.{_ONE_VS_REST}"
    ),
    "IsotonicCalibration": (
        f"Each class's probability was mapped by the best function that never falls.{_ONE_VS_REST}"
    ),
    "SplineCalibration": (
        "The log-odds of the top class (of the second of two) were mapped by a smooth curve, and the other "
        "classes share the rest in proportion."
    ),
    "OrderPreservingCalibration": (
        "One increasing function was applied to every logit, counted from the row's largest, before the "
        "softmax."
    ),
    "VectorScaling": "Each class's log-probability got a slope and a bias of its own before the softmax.",
    "StructuredVectorScaling": (
        "After temperature scaling each class's log-probability got a slope and a bias of its own, held back "
        "by a fixed penalty."
    ),
    "MatrixScaling": "The log-probabilities were mapped by a matrix and a bias, held back by a penalty.",
    "StructuredMatrixScaling": (
        "After temperature scaling the log-probabilities were mapped by a matrix and a bias, held back by "
        "fixed penalties."
    ),
    "DirichletCalibration": (
        "The log-probabilities were mapped by a matrix, whose entries off the diagonal are held back, and a "
        "bias."
    ),
    "FocalMatrixScaling": (
        "After temperature scaling the log-probabilities were mapped by a matrix and a bias, shrunk as far "
        "as rows left out of the fit asked for; then came a temperature for each row, by how sure it is, "
        "and the focal calibration map with parameter γ."
    ),
}

_SYMBOLS = {"temperature": "T", "gamma": "γ", "share": "λ"}

Cell = dict[str, Any]


def metric_rows(evaluations: Mapping[str, Evaluation]) -> list[list[dict[str, Any]]]:
    """Return the rows of the table of metrics, in one or two parts: the second is shown when asked for."""
    bins = len(next(iter(evaluations.values())).bins.edges) - 1
    found = dict.fromkeys(name for evaluation in evaluations.values() for name in evaluation)
    names = [*(name for name in _METRICS if name in found), *(name for name in found if name not in _METRICS)]
    rows = []
    for name in names:
        title, meaning = _METRICS.get(name, (TITLES.get(name, name), ""))
        estimates = [evaluation.metrics.get(name) for evaluation in evaluations.values()]
        rows.append(
            {
                "title": title,
                "meaning": meaning.format(bins=bins),
                "cells": [cell(e, name) for e in estimates],
                "picture": intervals(estimates),
            }
        )
    parts = [rows] if len(rows) <= _FOLDED else [rows[:_SHOWN], rows[_SHOWN:]]
    return [part for part in parts if part]


def _in_percent(name: str) -> bool:
    return (
        name in ("accuracy", "mean_gap")
        or name.endswith("ece")
        or name.startswith("ece")
        or name.endswith("_error")
    )


def cell(e: Estimate | None, name: str = "ece") -> Cell:
    """Return a value with its interval below, and what a column is sorted by."""
    if e is None:
        return {"text": "–", "sub": "", "sort": -1}
    value, *ends = (_number(e, of, _in_percent(name)) for of in (e.value, e.low, e.high))
    sub = " – ".join(ends) if np.isfinite(e.low) else "no interval"
    return {"text": value, "sub": sub, "sort": _sort(e.value)}


def _number(e: Estimate, value: float, in_percent: bool) -> str:
    return (percent(e, value) if in_percent else f"{value:.4f}").replace("-", "−")


def _sort(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else "1e999"


def class_table(classes: Classes) -> dict[str, Any]:
    """Return the table of classes, the surest errors first: name, rows, errors, and the last mean gap."""
    several = len(classes.errors) > 1
    columns = ["Class", "Rows", *(f"ECE, {shown(name)}" if several else "ECE" for name in classes.errors)]
    rows = [[_name(classes.names[k]), _count(classes.rows[k]), *_errors(classes, k)] for k in classes.order]
    return _table("classes", [*columns, "Mean gap"], rows)


def _errors(classes: Classes, k: int) -> Iterable[Cell]:
    for errors in classes.errors.values():
        e = Estimate(errors.value[k], 0.0, errors.low[k], errors.high[k], 0, "", classes.level)
        yield cell(e)
    gap = float(classes.last.gap[k])
    digits = 2 if abs(gap) < 0.01 else 1
    signed = f"{100 * gap:+.{digits}f}".replace("-", "−")
    yield {"text": signed, "sub": "", "sort": _sort(gap)}


def _name(name: Any) -> Cell:
    return {"text": shown(name), "sub": "", "sort": None}


def _count(value: float) -> Cell:
    text = f"{value:,.0f}" if value == round(value) else f"{value:,.1f}"
    return {"text": text, "sub": "", "sort": _sort(value)}


def _table(key: str, columns: list[str], rows: list[list[Cell]]) -> dict[str, Any]:
    return {"key": key, "columns": columns, "rows": rows}


def segment_table(segments: Sequence[Segment]) -> dict[str, Any] | None:
    """Return the table of segments: log loss and ECE of each evaluation, and the test if it was made."""
    if not segments:
        return None
    names = list(segments[0].evaluations)
    columns = ["Segment", "Rows"]
    for name in names:
        suffix = f", {shown(name)}" if len(names) > 1 else ""
        columns += [f"Log loss{suffix}", f"ECE{suffix}"]
    tested = any(p_values(segment)[0] is not None for segment in segments)
    rows = []
    for segment in segments:
        value = "(none)" if segment.value is None else segment.value
        cells = [cell(e[key], key) for e in segment.evaluations.values() for key in ("nll", "ece")]
        rows.append(
            [_name(value), _count(segment.n), *cells, *([p_cell(segment)] if tested else [])],
        )
    return _table("segments", [*columns, *(["Calibrated? p (Holm)"] if tested else [])], rows)


def p_values(segment: Segment) -> tuple[float | None, float | None]:
    """Return the p-value of a segment's test, alone and adjusted; None where it was not made."""
    found = (getattr(segment, name, None) for name in ("p_value", "adjusted_p_value"))
    alone, adjusted = (None if p is None or math.isnan(p) else float(p) for p in found)
    return alone, adjusted


def p_cell(segment: Segment) -> Cell:
    """Return the p-value of a segment's test, allowed for the number of segments, and by itself below."""
    alone, adjusted = p_values(segment)
    if alone is None:
        return {"text": "–", "sub": "", "sort": 2}
    shown_p = alone if adjusted is None else adjusted
    sub = "" if adjusted is None else f"alone {p_text(alone)}"
    return {"text": p_text(shown_p), "sub": sub, "sort": _sort(shown_p)}


def p_text(p: float) -> str:
    """Return a p-value with digits that mean something."""
    if p < 0.001:
        return "< 0.001"
    return f"{p:.3f}" if p < 0.1 else f"{p:.2f}"


def bin_rows(evaluation: Evaluation, low: Any, high: Any) -> list[dict[str, str]]:
    """Return the bins of the top class as a table."""
    bins = evaluation.bins
    return [
        {
            "range": f"{bins.edges[b]:.3f} – {bins.edges[b + 1]:.3f}",
            "count": f"{int(bins.count[b]):,}",
            "confidence": f"{bins.mean_confidence[b]:.1%}",
            "hits": f"{bins.hit_rate[b]:.1%}",
            "interval": f"{low[b]:.1%} – {high[b]:.1%}",
        }
        for b in np.flatnonzero(bins.weight > 0)
    ]


def describe_fit(artefact: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the report says of a calibrator, from its artefact."""
    parameters = [
        {
            "symbol": _SYMBOLS.get(one.name, one.name),
            "name": one.name,
            "value": one.size if one.value is None else number(one.value, 4),
            "stderr": one.error(".2g"),
        }
        for one in artefact_parameters(artefact)
    ]
    classes = [shown(name) for name in artefact.get("classes", [])]
    return {
        "name": artefact["calibrator"],
        "done": _FITS.get(artefact["calibrator"], ""),
        "parameters": parameters,
        "n_fit": f"{artefact['n_fit']:,}",
        "input": {"logits": "logits", "probs": "probabilities"}.get(artefact["input"], artefact["input"]),
        "n_classes": f"{len(classes):,}",
        "classes": classes[:30],
        "more": max(len(classes) - 30, 0),
        "version": artefact.get("version", "unknown"),
    }
