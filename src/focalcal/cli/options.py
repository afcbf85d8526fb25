"""The options that several commands share: what is typed, and what it means."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

Table = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help="A .parquet, .csv, .csv.gz, .npz or .npy file; or a quoted pattern 'part*.parquet'.",
    ),
]
Logits = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMNS",
        help="Columns with the logits, one a class: a quoted pattern 'z*' (z9 comes before z10), a list "
        "a,b,c, or one column of lists. For npz the array's key.",
    ),
]
Probs = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMNS", help="The same for a table that holds probabilities instead. Nothing is guessed."
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="Column with the true class: a column number from 0, or a class's name."
    ),
]
Weight = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column with a weight of each row. Default: all rows alike."),
]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="SQL", help="Only rows for which this holds, e.g. 'not val_mask' or 'year >= 2020'."
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="The class of each column in order: a list cat,dog or a file with one a line. Default: what "
        "the * of the pattern stands for, if these names cover the labels; else 0, 1, ….",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Bins = Annotated[int, typer.Option(min=1, help="Number of bins of the calibration errors.")]
By = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Judge each value of this column on its own too, e.g. a language."),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Let a Dask cluster read and sum the table, e.g. tcp://host:8786. Its workers open the same "
        "paths. Needs focalcal[dask].",
    ),
]


def selection(
    logits: str | None,
    probs: str | None,
    label: str | None,
    weight: str | None,
    where: str | None,
    classes: str | None,
) -> dict[str, Any]:
    """Return what the options say of columns and rows, as `open_scores` takes it."""
    names = None if classes is None else class_names(classes)
    return {
        "logits": logits,
        "probs": probs,
        "label": label,
        "weight": weight,
        "where": where,
        "classes": names,
    }


def class_names(text: str) -> Any:
    """Return the names of a comma-separated list, or of a file with one name a line."""
    import numpy as np

    from focalcal.io.columns import parse_labels

    if os.path.isfile(text):
        with open(text, encoding="utf-8-sig") as file:
            names = [line.rstrip("\r\n") for line in file if line.strip()]
    else:
        names = [name.strip() for name in text.split(",")]
    return parse_labels(np.array(names))
