"""Write the report: one self-contained HTML file."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import focalcal
from focalcal._validate import check_evaluations, optional_module
from focalcal.appraisal import Segment
from focalcal.evaluation import Evaluation
from focalcal.io.files import written_aside
from focalcal.reporting.figures import diagram_svg
from focalcal.reporting.words import describe_fit, metric_rows, segment_rows, verdict
from focalcal.resample import wilson_interval

__all__ = ["report"]

#: Segments that are shown without asking.
_SHOWN = 30


def report(
    path: str | os.PathLike[str],
    evaluations: Mapping[str, Evaluation],
    *,
    calibrator: Any = None,
    title: str | None = None,
    notes: Sequence[str] = (),
    segments: Sequence[Segment] = (),
    by: str | None = None,
) -> Path:
    """Write a calibration report as one HTML file that opens from disk, without network or scripts.

    Parameters
    ----------
    path : path-like
        Where to write. An existing file is replaced once the new one is complete.
    evaluations : mapping of str to Evaluation
        Name to `focalcal.evaluate(...)`, in order, e.g. ``{"before": raw, "after": calibrated}``. The verdict
        compares the first with the last, so they should be of the same rows.
    calibrator : fitted calibrator, optional
        Its parameters, standard errors and diagnostics are shown.
    title : str, optional
        Heading of the page.
    notes : sequence of str, optional
        Sentences added to "What was done", e.g. the files that were read.
    segments : sequence of Segment, optional
        As of `focalcal.appraisal.appraise`: a table of them is added.
    by : str, optional
        The column whose values they are.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ImportError
        If jinja2 or matplotlib is not installed.
    ValueError
        If there is no evaluation.

    Examples
    --------
    >>> import tempfile
    >>> raw = focalcal.evaluate([0, 0, 1, 1], [0.25, 0.25, 0.75, 0.75])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = report(f"{folder}/report.html", {"raw": raw}).read_text(encoding="utf-8")
    >>> page.startswith("<!doctype html>"), "://" in page
    (True, False)
    """
    check_evaluations(evaluations)
    jinja2 = optional_module("jinja2", "report", "plot")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    artefact = None if calibrator is None else calibrator.to_dict()
    messages = [] if calibrator is None else calibrator.diagnostics_.messages()
    table = segment_rows(segments)
    page = environment.get_template("template.html").render(
        title=title or "Calibration report",
        verdict=verdict(evaluations),
        names=list(evaluations),
        level=f"{next(iter(evaluations.values()))['ece'].level:.0%}",
        same_rows=len(evaluations) > 1 and len({e.n for e in evaluations.values()}) == 1,
        rows=metric_rows(evaluations),
        segments=[part for part in (table[:_SHOWN], table[_SHOWN:]) if part],
        by=by or "segment",
        diagrams=[_diagram(name, e) for name, e in evaluations.items()],
        fit=None if artefact is None else describe_fit(artefact),
        messages=messages,
        notes=list(notes),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        python=platform.python_version(),
        numpy=np.__version__,
        focalcal=focalcal.__version__,
    )
    with written_aside(path) as aside:
        Path(aside).write_text(page, encoding="utf-8")
    return Path(path)


def _diagram(name: str, evaluation: Evaluation) -> dict[str, Any]:
    """Return what the template shows of one diagram: the picture, and its numbers as a table."""
    bins = evaluation.bins
    low, high = wilson_interval(bins.hit_rate, bins.effective_count, evaluation["ece"].level)
    table = [
        {
            "range": f"{bins.edges[b]:.3f} – {bins.edges[b + 1]:.3f}",
            "count": f"{int(bins.count[b]):,}",
            "confidence": f"{bins.mean_confidence[b]:.1%}",
            "hits": f"{bins.hit_rate[b]:.1%}",
            "interval": f"{low[b]:.1%} – {high[b]:.1%}",
        }
        for b in np.flatnonzero(bins.count > 0)
    ]
    ece = evaluation["ece"]
    label = f"Reliability diagram, {name}: ECE {ece.value:.1%}, from {ece.low:.1%} to {ece.high:.1%}"
    return {"name": name, "svg": diagram_svg(evaluation, name), "label": label, "table": table}
