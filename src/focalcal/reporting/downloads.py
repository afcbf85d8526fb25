"""The bins behind the diagrams, for other programs: JSON within the page and a CSV file to download."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import numpy as np

from focalcal.reporting.classes import Classes, one_class
from focalcal.sums.bins import BinSums
from focalcal.verdicts.evaluation import Evaluation

#: Bins of single classes up to which those of all classes are in the page: 400 classes of 15 bins.
MOST = 6000

COLUMNS = (
    "evaluation",
    "class",
    "low",
    "high",
    "count",
    "weight",
    "weight_squared",
    "confidence",
    "hit",
    "mean_confidence",
    "hit_rate",
)

#: What makes a spreadsheet take text for a formula, also in full width.
_FORMULA = re.compile(r"^[\s'\"]*[=+\-@\t\r＝＋－＠]")
_NUMBER = re.compile(r"^[+-]?\d+(\.\d*)?([eE][+-]?\d+)?$")


def kept_classes(classes: Classes | None, shown: int) -> list[int]:
    """Return the classes whose bins the page holds: all, or if they are many the worst that it shows."""
    if classes is None:
        return []
    cells = sum(errors.sums.count.size for errors in classes.errors.values())
    if cells <= MOST * len(classes.errors):
        return list(range(len(classes.names)))
    return [int(k) for k in classes.order[:shown]]


def bins_json(evaluations: Mapping[str, Evaluation], classes: Classes | None, kept: list[int]) -> str:
    """Return the bins as JSON that no text in it can break out of: as `BinSums.to_dict`, and by class."""
    document: dict[str, Any] = {}
    for name, evaluation in evaluations.items():
        document[str(name)] = {"top": evaluation.bins.to_dict()}
        if classes is not None and name in classes.errors:
            sums = classes.errors[name].sums
            document[str(name)]["classes"] = [
                {"class": classes.names[k], **one_class(sums, k).to_dict()} for k in kept
            ]
    text = json.dumps(document, separators=(",", ":"), allow_nan=False)
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")


def bins_csv(evaluations: Mapping[str, Evaluation], classes: Classes | None, kept: list[int]) -> str:
    """Return the bins that hold rows as CSV: sums as in `BinSums`, and the two means.

    The class is empty for the top class. A name that a spreadsheet would run as a formula gets an
    apostrophe before it.
    """
    buffer = io.StringIO(newline="")
    table = csv.writer(buffer, lineterminator="\r\n")
    table.writerow(COLUMNS)
    for name, evaluation in evaluations.items():
        table.writerows(_lines(harmless(name), "", evaluation.bins))
        if classes is not None and name in classes.errors:
            sums = classes.errors[name].sums
            for k in kept:
                table.writerows(_lines(harmless(name), harmless(classes.names[k]), one_class(sums, k)))
    return buffer.getvalue()


def _lines(name: str, of: str, bins: BinSums) -> list[list[Any]]:
    columns = (
        bins.edges[:-1],
        bins.edges[1:],
        bins.count,
        bins.weight,
        bins.weight_squared,
        bins.confidence,
        bins.hit,
        bins.mean_confidence,
        bins.hit_rate,
    )
    full = np.flatnonzero(bins.count > 0)
    plain = np.stack([column[full] for column in columns], axis=1).tolist()
    return [[name, of, *(_short(value) for value in line)] for line in plain]


def _short(value: float) -> Any:
    """Return a whole number without its point; any other is written with all its digits."""
    if not np.isfinite(value):
        return ""
    return int(value) if value == int(value) else value


def harmless(name: Any) -> str:
    """Return a name that no spreadsheet takes for a formula.

    Examples
    --------
    >>> harmless("=1+1"), harmless("-3"), harmless("cat")
    ("'=1+1", '-3', 'cat')
    """
    words = str(name)
    return f"'{words}" if _FORMULA.match(words) and not _NUMBER.match(words) else words


def data_link(text: str) -> str:
    """Return a link that holds a CSV file, with the mark by which spreadsheets know UTF-8."""
    encoded = ("\ufeff" + text).encode("utf-8", "replace")
    return "data:text/csv;charset=utf-8," + quote(encoded, safe=",.'-_ ()!*").replace(" ", "%20")
