"""The report's sentences and table cells: what the numbers support, in plain words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from focalcal.appraisal import Segment
from focalcal.estimate import Estimate
from focalcal.evaluation import Evaluation
from focalcal.gap_interval import error_by_chance
from focalcal.plots import percent

#: Name, what it says, and whether it reads best in percent.
_METRICS = {
    "ece": (
        "Calibration error (ECE)",
        "confidence against hit rate of the top class, {bins} equal bins",
        True,
    ),
    "ece_equal_mass": ("ECE, equal-mass bins", "the same, with as many rows in each bin", True),
    "classwise_ece": ("Class-wise ECE", "every class's probability against its frequency", True),
    "nll": ("Log loss (NLL)", "nats a row; a proper score", False),
    "brier": ("Brier score", "squared error summed over classes; a proper score", False),
    "accuracy": ("Accuracy", "the top class is the label", True),
}

_FITS = {
    "TemperatureScaling": "Every row of logits was divided by one temperature T before the softmax.",
    "FocalTemperatureScaling": (
        "Every row of logits was divided by one temperature T before the softmax, and the focal calibration "
        "map with parameter γ was applied to the result (γ = 0 is temperature scaling)."
    ),
}

_SYMBOLS = {"temperature": "T", "gamma": "γ"}


@dataclass(frozen=True)
class Verdict:
    """One sentence to remember, and the sentences that back it."""

    headline: str
    details: list[str]


def interval(e: Estimate) -> str:
    """Return "value [low, high]" in percent."""
    return f"{percent(e)} [{percent(e, e.low)}, {percent(e, e.high)}]"


def verdict(evaluations: Mapping[str, Evaluation]) -> Verdict:
    """Say how the last set of predictions is calibrated, and what changed since the first."""
    names, sets = list(evaluations), list(evaluations.values())
    last = sets[-1]
    if len(sets) > 1:
        return _compared(sets[0], last, names[0], names[-1])
    headline = f"The calibration error (ECE) is {interval(last['ece'])}, on {last.n:,} rows."
    return Verdict(headline, [*_chance(last), _direction(last, names[0])])


def _compared(first: Evaluation, last: Evaluation, before_name: str, after_name: str) -> Verdict:
    before, after = first["ece"], last["ece"]
    pair = f"from {interval(before)} ({before_name}) to {interval(after)} ({after_name})"
    smallest, largest = before.low - after.high, before.high - after.low
    if smallest > 0:
        headline = f"Calibration improved: the error (ECE) fell {pair}, on {last.n:,} rows."
        size = f"The fall is {_points(smallest)} to {_points(largest)} percentage points"
    elif largest < 0:
        headline = f"Calibration got worse: the error (ECE) rose {pair}, on {last.n:,} rows."
        size = f"The rise is {_points(-largest)} to {_points(-smallest)} percentage points"
    else:
        headline = f"No change in calibration is shown: the error (ECE) went {pair}, on {last.n:,} rows."
        size = f"Possible is a fall by {_points(largest)} or a rise by {_points(-smallest)} percentage points"
    caution = f"both {before.level:.0%} intervals are taken at their ends, which is cautious"
    change = f"{size} ({caution}). {_accuracy(first, last)}"
    return Verdict(headline, [change, *_chance(last), _direction(last, after_name)])


def _chance(evaluation: Evaluation) -> list[str]:
    """Where the interval reaches 0, say what noise alone would show."""
    if evaluation["ece"].low > 0:
        return []
    shown = percent(evaluation["ece"], error_by_chance(evaluation.bins))
    return [
        f"An error of {percent(evaluation['ece'])} is no evidence of miscalibration: on so many rows, a "
        "perfectly calibrated model with these confidences would show "
        f"{shown} on average, from chance alone."
    ]


def _points(value: float) -> str:
    return f"{100 * value:.{2 if value < 0.01 else 1}f}"


def _accuracy(first: Evaluation, last: Evaluation) -> str:
    a, b = first["accuracy"], last["accuracy"]
    if abs(a.value - b.value) < 1e-12:
        return f"Accuracy is the same, {percent(b)}."
    return f"Accuracy went from {percent(a)} to {percent(b)}."


def _direction(evaluation: Evaluation, name: str) -> str:
    bins = evaluation.bins
    confidence = float(bins.confidence.sum() / bins.weight.sum())
    accuracy = evaluation["accuracy"]
    if confidence > accuracy.high:
        lean = "over‑confident on the whole"
    elif confidence < accuracy.low:
        lean = "under‑confident on the whole"
    else:
        lean = "neither over‑ nor under‑confident on the whole, as far as these rows show"
    return (
        f"“{name}” has a mean confidence of {confidence:.1%} and a hit rate of {interval(accuracy)}, over "
        f"{evaluation.n_classes:,} classes: {lean}."
    )


def metric_rows(evaluations: Mapping[str, Evaluation]) -> list[dict[str, Any]]:
    """Return the rows of the table of metrics."""
    bins = len(next(iter(evaluations.values())).bins.edges) - 1
    rows = []
    for key, (title, meaning, in_percent) in _METRICS.items():
        cells = [_cell(evaluation[key], in_percent) for evaluation in evaluations.values()]
        rows.append({"title": title, "meaning": meaning.format(bins=bins), "cells": cells})
    return rows


def _cell(e: Estimate, in_percent: bool) -> dict[str, str]:
    ends = [percent(e, end) if in_percent else f"{end:.4f}" for end in (e.low, e.high)]
    text = " – ".join(ends) if np.isfinite(e.low) else "no interval"
    return {"value": percent(e) if in_percent else f"{e.value:.4f}", "interval": text}


def segment_rows(segments: Sequence[Segment]) -> list[dict[str, Any]]:
    """Return the rows of the table of segments: log loss and ECE of each evaluation."""
    return [
        {
            "value": "(none)" if segment.value is None else segment.value,
            "n": f"{segment.n:,}",
            "cells": [
                _cell(evaluation[key], _METRICS[key][2])
                for evaluation in segment.evaluations.values()
                for key in ("nll", "ece")
            ],
        }
        for segment in segments
    ]


def describe_fit(artefact: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the report says of a calibrator, from its artefact."""
    errors = artefact.get("stderr", {})
    parameters = [
        {
            "symbol": _SYMBOLS.get(name, name),
            "name": name,
            "value": f"{value:.4g}",
            "stderr": _error(errors, name),
        }
        for name, value in artefact["parameters"].items()
    ]
    classes = [str(name) for name in artefact.get("classes", [])]
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


def _error(errors: Mapping[str, Any], name: str) -> str:
    value = errors.get(name)
    return f"{value:.2g}" if value is not None and np.isfinite(value) else "unknown"
