"""Which columns a user means, and which class each of them stands for."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal.io.files import did_you_mean, natural_key

_MAGIC = re.compile(r"[*?\[]")

#: Whole numbers as people write them; "007" is a name.
_WHOLE = re.compile(r"(0|-?[1-9]\d{0,17})")

#: A number as float columns are written; the point tells it from a name such as 1e5.
_DECIMAL = re.compile(r"-?(0|[1-9]\d*)\.\d*([eE][+-]?\d{1,2})?")


def choose_columns(
    wanted: str | Sequence[str], names: Sequence[str], option: str, without: Collection[str | None] = ()
) -> list[str]:
    """Return the columns that a name, a list or a glob pattern selects.

    Parameters
    ----------
    wanted : str or sequence of str
        One name, names separated by commas, glob patterns, or any mix. A text that is itself a
        column's name means that column, whatever characters it contains.
    names : sequence of str
        The columns there are.
    option : str
        What the user typed this for, to say so in an error.
    without : collection of str
        Columns that a pattern never matches (the label, the weight).

    Returns
    -------
    list of str
        Names in the order given; what one pattern matches comes in natural order (z9 before z10).

    Examples
    --------
    >>> choose_columns("z*", ["id", "z10", "z9", "y"], "logits")
    ['z9', 'z10']
    >>> choose_columns("dog, cat", ["cat", "dog"], "logits")
    ['dog', 'cat']
    """
    if isinstance(wanted, str):
        wanted = [wanted] if wanted in names else [part.strip() for part in wanted.split(",")]
    chosen: list[str] = []
    for part in wanted:
        if part in names:
            chosen.append(part)
        elif _MAGIC.search(part):
            matched = [name for name in names if name not in without and fnmatch.fnmatchcase(name, part)]
            if not matched:
                raise ValueError(f"Expected {option} to match a column, got {part!r}. {_there_is(names)}")
            chosen += sorted(matched, key=natural_key)
        else:
            raise _missing(option, part, names)
    if len(set(chosen)) < len(chosen):
        twice = next(name for name in chosen if chosen.count(name) > 1)
        raise ValueError(f"Expected each column once in {option}, got {twice!r} twice.")
    return chosen


def choose_column(wanted: str, names: Sequence[str], option: str) -> str:
    """Return the one column of that name; a missing one is an error that lists close names."""
    if wanted not in names:
        raise _missing(option, wanted, names)
    return wanted


def _missing(option: str, wanted: str, names: Sequence[str]) -> ValueError:
    return ValueError(
        f"Expected {option} to name a column, got {wanted!r}.{did_you_mean(wanted, names)} {_there_is(names)}"
    )


def _there_is(names: Sequence[str]) -> str:
    shown = ", ".join(names[:12]) + (f", … ({len(names)} in all)" if len(names) > 12 else "")
    return f"There is: {shown or 'nothing'}."


def matched_parts(wanted: str | Sequence[str], columns: Sequence[str]) -> list[str] | None:
    """Return what the `*` of a single pattern matched in each column, else None.

    Examples
    --------
    >>> matched_parts("logit_*", ["logit_cat", "logit_dog"])
    ['cat', 'dog']
    """
    if not isinstance(wanted, str) or wanted.count("*") != 1 or _MAGIC.search(wanted.replace("*", "")):
        return None
    before, after = wanted.split("*")
    if any(not (name.startswith(before) and name.endswith(after)) for name in columns):
        return None
    return [name[len(before) : len(name) - len(after)] for name in columns]


def _without_decimals(text: str) -> str:
    """Return "7" for "7.0", "7.000" and "7.0e+00"; any other text as it is."""
    if _DECIMAL.fullmatch(text) and float(text).is_integer() and abs(float(text)) < 1e15:
        return str(int(float(text)))
    return text


def parse_labels(texts: NDArray[Any]) -> NDArray[Any]:
    """Return labels read as text: integers if every one is a whole number (7, 7.0 or 7.0e+00), else strings.

    Examples
    --------
    >>> parse_labels(np.array(["1", "10.0"])), parse_labels(np.array(["007", "1"]))
    (array([ 1, 10]), array(['007', '1'], dtype='<U3'))
    """
    different = np.unique(texts)
    whole = [_without_decimals(text) for text in different.tolist()]
    if not all(_WHOLE.fullmatch(text) for text in whole):
        return texts
    return np.array([int(text) for text in whole])[np.searchsorted(different, texts)]


def resolve_classes(
    y: NDArray[Any] | None,
    n_classes: int,
    classes: Any = None,
    matched: Sequence[str] | None = None,
    columns: Sequence[str] = (),
) -> tuple[NDArray[Any] | None, NDArray[Any] | None]:
    """Return the labels and the class of each column, as far as the data says it.

    Given `classes` decide; integer labels that are not among given names are column numbers. Without
    them, what the pattern's `*` matched names the classes if these names cover the labels, and so do
    the columns' own names. None leaves it to `focalcal.labels.find_classes`.
    """
    if classes is not None:
        return _with_given_classes(y, n_classes, np.asarray(classes))
    if y is None or y.dtype.kind not in "iuUST":
        return y, None
    different = set(np.unique(y).astype(np.str_).tolist())
    for names in (matched, columns):
        if names and len(names) == n_classes and different <= set(names):
            if y.dtype.kind not in "iu":
                return y, np.array(names)
            if all(_WHOLE.fullmatch(name) for name in names):
                return y, np.array([int(name) for name in names])
    if y.dtype.kind in "UST" and all(_WHOLE.fullmatch(text) for text in different):
        by_number = sorted(different, key=int)
        if by_number != sorted(different):
            raise ValueError(
                f"Expected to know which column stands for which label, got numbers stored as text "
                f"({', '.join(by_number[:3])}, …). Store them as integers, or pass classes in column order."
            )
    return y, None


def _with_given_classes(
    y: NDArray[Any] | None, n_classes: int, names: NDArray[Any]
) -> tuple[NDArray[Any] | None, NDArray[Any]]:
    if names.shape != (n_classes,) or len(np.unique(names)) != n_classes:
        raise ValueError(
            f"Expected classes to name each of the {n_classes} columns once, got {names.size} names "
            f"({len(np.unique(names))} different)."
        )
    if y is None or y.dtype.kind not in "iu" or names.dtype.kind not in "UST":
        return y, names
    if set(np.unique(y).astype(np.str_).tolist()) <= set(names.tolist()):
        return y, names
    if y.min() < 0 or y.max() >= n_classes:
        raise ValueError(
            f"Expected integer labels to be column numbers 0..{n_classes - 1}, got {y.min()}..{y.max()}. "
            "Check that labels and classes belong together."
        )
    return names[y], names
