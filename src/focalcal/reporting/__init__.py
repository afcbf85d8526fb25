"""Write the report: one self-contained HTML file."""

from __future__ import annotations

import base64
import hashlib
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

import focalcal
from focalcal._settings import check_class_names, check_evaluations, optional_module
from focalcal.calibrators.temperature.profile import Profile
from focalcal.io.files import written_aside
from focalcal.reporting.advice import Facts, advise
from focalcal.reporting.classes import class_errors
from focalcal.reporting.downloads import bins_csv, bins_json, data_link, kept_classes
from focalcal.reporting.names import class_names, shown
from focalcal.reporting.tables import describe_fit, metric_rows, segment_table
from focalcal.reporting.views import DRAWN, class_view, diagram, profile_view
from focalcal.reporting.words import Verdict, verdict
from focalcal.verdicts.comparison import Comparison
from focalcal.verdicts.evaluation import Evaluation
from focalcal.verdicts.segments import Segment

__all__ = ["report"]

_FOLDER = Path(__file__).parent


def report(
    path: str | os.PathLike[str],
    evaluations: Mapping[str, Evaluation],
    *,
    calibrator: Any = None,
    title: str | None = None,
    notes: Sequence[str] = (),
    segments: Sequence[Segment] = (),
    by: str | None = None,
    classes: Sequence[Any] | None = None,
    comparison: Comparison | None = None,
    profile: Profile | None = None,
    flags: Sequence[str] = (),
) -> Path:
    """Write a calibration report as one HTML file that opens from disk and loads nothing from anywhere.

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
        As of `focalcal.verdicts.appraisal.appraise`: a table of them is added.
    by : str, optional
        The column whose values they are.
    classes : sequence of K names, optional
        The class of each column. By default the calibrator's, else column numbers.
    comparison : Comparison, optional
        Of the first evaluation's predictions with the last's, as `focalcal.compare` returns it. Without it
        the verdict takes both intervals at their ends.
    profile : Profile, optional
        As of `focalcal.calibrators.temperature.profile.profile`, on the rows that were judged.
    flags : sequence of str, optional
        Options of the command line in pairs that name the table's columns, e.g. ``["--logits", "z*"]``: the
        commands that the page proposes have them.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ImportError
        If jinja2 is not installed.
    ValueError
        If there is no evaluation, or `classes` does not name each class.

    Notes
    -----
    The page needs no script: what there is sorts and searches tables. A content security policy allows this
    script and the page's style by their hashes and nothing else. The bins are in the page as JSON, in the
    element ``focalcal-bins``, and as a CSV file to download.

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
    check_class_names(classes, next(iter(evaluations.values())).n_classes)
    jinja2 = optional_module("jinja2", "report", "plot")
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    artefact = None if calibrator is None else calibrator.to_dict()
    facts = _facts(evaluations, comparison, classes, segments, profile, artefact, flags)
    page = environment.get_template("page.html").render(
        title=shown(title or "Calibration report"),
        by=shown(by or "segment"),
        messages=[] if calibrator is None else calibrator.diagnostics_.messages(),
        notes=list(notes),
        **_content(facts),
        **_frame(),
    )
    with written_aside(path) as aside:
        Path(aside).write_text(page.lstrip(), encoding="utf-8", errors="replace")
    return Path(path)


def _facts(
    evaluations: Mapping[str, Evaluation],
    comparison: Comparison | None,
    classes: Sequence[Any] | None,
    segments: Sequence[Segment],
    profile: Profile | None,
    artefact: Mapping[str, Any] | None,
    flags: Sequence[str],
) -> Facts:
    names = class_names(classes, artefact, next(iter(evaluations.values())).n_classes)
    errors = class_errors(evaluations, names)
    return Facts(evaluations, comparison, errors, segments, profile, artefact, flags)


def _content(facts: Facts) -> dict[str, Any]:
    """Return what the page says of the facts."""
    evaluations, classes = facts.evaluations, facts.classes
    kept = kept_classes(classes, DRAWN)
    level = next(iter(evaluations.values()))["ece"].level
    return {
        "verdict": _parted(verdict(evaluations, facts.comparison)),
        "advice": advise(facts),
        "names": facts.names,
        "level": f"{level:.0%}",
        "same_rows": len(evaluations) > 1 and len({e.n for e in evaluations.values()}) == 1,
        "paired": facts.comparison is not None,
        "metrics": metric_rows(evaluations),
        "signed": any("mean_gap" in e for e in evaluations.values()),
        "segments": segment_table(facts.segments),
        "diagrams": [diagram(name, e) for name, e in evaluations.items()],
        "classes": None if classes is None else class_view(classes),
        "profile": None if facts.profile is None else profile_view(facts.profile, facts.artefact),
        "fit": None if facts.artefact is None else describe_fit(facts.artefact),
        "json": bins_json(evaluations, classes, kept),
        "csv": data_link(bins_csv(evaluations, classes, kept)),
        "kept": _kept(len(kept), 0 if classes is None else len(classes.names)),
    }


def _parted(said: Verdict) -> dict[str, Any]:
    """Return the verdict with what comes before its first colon apart, to be set in bold."""
    lead, colon, rest = said.headline.partition(": ")
    head = (f"{lead}:", rest) if colon and len(lead) < 60 else ("", said.headline)
    return {"lead": head[0], "rest": head[1], "details": said.details}


def _kept(kept: int, n: int) -> str:
    if n == 0:
        return "Those of the top class."
    which = "every class" if kept == n else f"the {kept} worst classes"
    return f"Those of the top class and of {which}."


def _frame() -> dict[str, Any]:
    """Return what is the same in every report: style, script and versions."""
    style, script = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return {
        "style": style,
        "script": script,
        "style_hash": _hash(style),
        "script_hash": _hash(script),
        "made": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "focalcal": focalcal.__version__,
    }


def _hash(content: str) -> str:
    """Return the hash by which a content security policy knows an element's content."""
    return f"sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}"
