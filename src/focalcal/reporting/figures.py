"""Diagrams as inline SVG that takes its text colour and font from the page."""

from __future__ import annotations

import hashlib
import io
import re
from typing import Any

from focalcal._validate import optional_module
from focalcal.evaluation import Evaluation
from focalcal.plots import ReliabilityDisplay

#: Stands for the page's own text colour while matplotlib draws.
_INK = "#010203"

_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be selected, read aloud and searched
    "font.family": "sans-serif",
    "font.size": 11,
    **{f"{part}.color": _INK for part in ("text", "xtick", "ytick")},
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.titlecolor": _INK,
}


def diagram_svg(evaluation: Evaluation, name: str) -> str:
    """Return the reliability diagram as an SVG element without a background."""
    matplotlib = optional_module("matplotlib", "report", "plot")
    figures = optional_module("matplotlib.figure", "report", "plot")
    # ids within one page must differ between diagrams, and be the same from run to run
    salt = hashlib.sha256(name.encode()).hexdigest()[:8]
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **_STYLE, "svg.hashsalt": salt}):
        figure = figures.Figure(figsize=(4.6, 5.3), layout="constrained")
        ReliabilityDisplay.from_evaluation(evaluation, ax=figure.subplots())
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inline(buffer.getvalue())


def _inline(svg: str) -> str:
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' xmlns(:\w+)?="[^"]*"', "", svg)
    svg = re.sub(r"xlink:href", "href", svg)
    used = set(re.findall(r"#([^\")]+)", svg))  # the other ids would occur in every diagram
    svg = re.sub(r' id="([^"]*)"', lambda found: found[0] if found[1] in used else "", svg)
    svg = re.sub(r"""font: ([\d.]+)px [^;"]*""", r"font-size: \1px", svg)
    return re.sub(r'(<svg[^>]*?) width="[^"]*"|(<svg[^>]*?) height="[^"]*"', r"\1\2", svg, count=1)
