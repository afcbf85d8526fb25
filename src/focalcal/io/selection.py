"""What a user asks of a file, and the columns of a table that answer it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import Input
from focalcal.io.columns import choose_column, choose_columns, matched_parts, parse_labels
from focalcal.io.duck import quote
from focalcal.io.tables import Table

_INTEGER = re.compile(r"U?(TINY|SMALL|BIG)?INT(EGER)?")
_NUMERIC = re.compile(r"FLOAT|DOUBLE|DECIMAL.*|U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|BOOLEAN")


@dataclass(frozen=True)
class Wanted:
    """What the user asked of a file, before its columns are known."""

    scores: str | Sequence[str] | None
    input: Input | None
    label: str | None = None
    weight: str | None = None
    where: str | None = None
    classes: Sequence[Any] | None = None
    by: str | None = None


@dataclass(frozen=True)
class Columns:
    """The columns of a table that hold the scores, and the DuckDB type to read them as."""

    input: Input
    names: tuple[str, ...]
    cast: str
    matched: list[str] | None

    @property
    def itemsize(self) -> int:
        """Bytes of one number."""
        return 4 if self.cast.startswith("FLOAT") else 8


def declared(
    logits: str | Sequence[str] | None, probs: str | Sequence[str] | None
) -> tuple[str | Sequence[str] | None, Input | None]:
    """Return the columns asked for and what they were declared to hold."""
    if logits is not None and probs is not None:
        raise ValueError("Expected either logits or probs, got both. A model's scores are one or the other.")
    if logits is not None:
        return logits, "logits"
    return (probs, "probs") if probs is not None else (None, None)


def find_columns(table: Table, wanted: Wanted) -> Columns:
    """Return the score columns of a table, checked to hold numbers or lists of numbers."""
    if wanted.input is None or wanted.scores is None:
        raise ValueError(
            "Expected to be told which columns hold the scores: pass logits='z*' or probs='p*' "
            "(on the command line --logits 'z*' or --probs 'p*')."
        )
    others = {wanted.label, wanted.weight, wanted.by}
    names = choose_columns(wanted.scores, table.names, wanted.input, without=others)
    matched = matched_parts(wanted.scores, names)
    types = [table.type_of(name) for name in names]
    listed = table.is_text and len(names) == 1 and table.starts_with_bracket(names[0])
    if listed or (len(names) == 1 and types[0].endswith("]")):
        return Columns(
            wanted.input, tuple(names), "FLOAT[]" if types[0].startswith("FLOAT[") else "DOUBLE[]", None
        )
    for name, kind in zip(names, types):
        if not table.is_text and not _NUMERIC.fullmatch(kind):
            raise ValueError(
                f"Expected numbers in column {name!r}, got {kind}. Name the columns with scores."
            )
    cast = "FLOAT" if set(types) == {"FLOAT"} else "DOUBLE"
    return Columns(wanted.input, tuple(names), cast, matched)


def find_label(table: Table, label: str) -> tuple[str, str]:
    """Return the label column and the DuckDB type to read it as, the same in every part of the table."""
    name = choose_column(label, table.names, "label")
    kind = table.type_of(name)
    if kind in ("VARCHAR", "BOOLEAN", "FLOAT", "DOUBLE") or _INTEGER.fullmatch(kind):
        return name, kind
    if kind.startswith("ENUM"):
        return name, "VARCHAR"
    if kind.startswith("DECIMAL") or kind.endswith("HUGEINT"):
        return name, "DOUBLE"
    raise ValueError(f"Expected integers, booleans or text in the label column {name!r}, got {kind}.")


def labels_of(labels: NDArray[Any], is_text: bool) -> NDArray[Any]:
    """Return labels as they were read as integers, booleans or strings."""
    if labels.dtype.kind == "O":
        labels = labels.astype(np.str_)
        return parse_labels(labels) if is_text else labels
    if labels.dtype.kind == "f":
        odd = labels[~(labels == np.rint(labels))]
        if len(odd):
            raise ValueError(f"Expected labels that are integers or names, got the number {odd[0]}.")
        return labels.astype(np.int64)
    return labels


def missing_values(name: str, rows: int) -> ValueError:
    """Return the error for NULLs in a column that has to be complete."""
    return ValueError(
        f"Expected a value in every row of column {name!r}, got NULL in {rows} row(s). "
        f"Repair them, or leave them out with where {quote(name) + ' IS NOT NULL'!r}."
    )


def no_rows(path: str, where: str | None) -> ValueError:
    """Return the error for a table that has nothing in it."""
    kept = f"with where {where!r}" if where else "(it has only a header)"
    return ValueError(f"Expected at least one row in {path!r} {kept}, got 0.")


def no_labels(path: str) -> ValueError:
    """Return the error for scores without labels."""
    return ValueError(
        f"Expected labels beside the scores in {path!r}, got none: name their column with label= "
        "(on the command line --label COLUMN)."
    )


def check_width(block: NDArray[Any], width: tuple[int, ...], names: Sequence[str]) -> None:
    """Check that the lists of this block are as long as those before."""
    if block.shape[1:] != width:
        lengths = " and ".join(str((shape or (1,))[0]) for shape in (width, block.shape[1:]))
        raise ValueError(f"Expected lists of one length in column {names[0]!r}, got {lengths}.")
