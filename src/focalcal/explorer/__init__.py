"""Write the explorer: one self-contained HTML page with the papers' figures, moved by sliders."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import focalcal
from focalcal._settings import check_no_columns
from focalcal._validate import check_input
from focalcal.explorer.embedding import Embedded, embed, safe_json
from focalcal.io.files import written_aside
from focalcal.io.selection import Wanted, declared
from focalcal.io.sources import find_scores
from focalcal.io.stream import Progress
from focalcal.rows import as_rows, is_source

__all__ = ["explore"]

#: The page's script in the order its parts build on each other.
SCRIPTS = (
    "maths.js",
    "charts.js",
    "controls.js",
    "binary.js",
    "simplex.js",
    "judging.js",
    "predictions.js",
    "main.js",
)


def explore(
    path: str | os.PathLike[str],
    y_true: Any = None,
    y_prob: Any = None,
    sample_weight: Any = None,
    *,
    input: str = "probs",
    classes: Any = None,
    name: str | None = None,
    rows: int = 5000,
    seed: int = 0,
) -> Path:
    r"""Write an interactive page about focal loss, its calibration map and temperature scaling.

    Sliders move γ, T and a prediction; with predictions given, the page shows them too: the reliability
    diagram, NLL and ECE of :math:`\varphi_\gamma(\mathrm{softmax}(z/T))` at any (T, γ).

    Parameters
    ----------
    path : path-like
        Where to write. An existing file is replaced once the new one is complete.
    y_true, y_prob, sample_weight, input, classes
        Predictions, optional, as in `focalcal.evaluate`; or alone what `focalcal.open_scores` returns.
    name : str, optional
        What the page calls the predictions.
    rows : int
        The most rows that the page holds. They are drawn at random, without replacement. It holds fewer of
        more than 40 classes: at most 200,000 numbers.
    seed : int
        Of the draw.

    Returns
    -------
    pathlib.Path
        The file.

    Raises
    ------
    ValueError
        If the predictions cannot be right.

    Notes
    -----
    The page works without network and holds the rows that were drawn: whoever has the file has them. Of more
    than 49 classes, it keeps each row's logits of the label and of the 24 largest others, and 24 values for
    the rest; it says so, and by how much NLL and ECE change.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     page = explore(f"{folder}/explore.html").read_text(encoding="utf-8")
    >>> page.startswith("<!doctype html>"), "default-src 'none'" in page
    (True, True)
    """
    if y_true is None and y_prob is None:
        return write_page(path, None, name)
    kind = check_input(input)
    if is_source(y_true):
        y_true, y_prob, kind = y_prob, y_true, y_true.input
    found, _ = as_rows(y_prob, y_true, sample_weight, kind, classes, name="y_prob")
    return write_page(path, embed(found, rows, seed), name)


def explore_file(
    output: str | os.PathLike[str],
    path: str | os.PathLike[str] | None = None,
    *,
    logits: str | Sequence[str] | None = None,
    probs: str | Sequence[str] | None = None,
    rows: int = 5000,
    seed: int = 0,
    progress: Progress | None = None,
    **selection: Any,
) -> Embedded | None:
    """Write the page, with the predictions in a file if there is one: the job of the command line.

    Parameters
    ----------
    output : str or path
        The HTML file.
    path, logits, probs, **selection
        The file, columns and rows, as for `focalcal.open_scores`; none for the figures alone.
    rows, seed
        As for `explore`.
    progress : callable, optional
        Told what is being done, how many rows are done, and how many there are.

    Returns
    -------
    Embedded or None
        What the page holds of the predictions.
    """
    if path is None:
        check_no_columns({"logits": logits, "probs": probs, **selection})
        write_page(output, None, None)
        return None
    scores = find_scores(path, Wanted(*declared(logits, probs), **selection), progress)
    held = embed(scores.rows()[0], rows, seed)
    write_page(output, held, os.path.basename(os.fspath(path)))
    return held


def write_page(path: str | os.PathLike[str], embedded: Embedded | None, name: str | None) -> Path:
    """Write the page, with predictions or without."""
    data = None if embedded is None else {**embedded.to_dict(), "name": name or "Your predictions"}
    script = "\n".join(_part(file) for file in SCRIPTS)
    style = _part("page.css")
    page = fill(
        _part("template.html"),
        {
            "script": script,
            "style": style,
            # only this very script and style may run or apply, whatever names the data bring along
            "script_hash": _hash(script),
            "style_hash": _hash(style),
            "data": safe_json(data),
            "version": html.escape(focalcal.__version__),
        },
    )
    with written_aside(path) as aside:
        Path(aside).write_text(page, encoding="utf-8", newline="\n")
    return Path(path)


def fill(template: str, parts: dict[str, str]) -> str:
    """Replace each ``{{ name }}`` once; what is put in is not looked at again."""
    return re.sub(r"\{\{ (\w+) \}\}", lambda found: parts[found[1]], template)


def _part(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
