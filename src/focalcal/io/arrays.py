"""npz and npy files: arrays by key, without pickles."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import Input
from focalcal.io.columns import choose_column
from focalcal.io.duck import import_duckdb
from focalcal.io.files import format_of
from focalcal.io.tables import rows_where


def read_arrays(path: str) -> dict[str, NDArray[Any]]:
    """Return the arrays of an npz by key, or the one of an npy under "*"; nothing is unpickled."""
    try:
        with open(path, "rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return {"*": loaded} if format_of(path) == "npy" else {key: loaded[key] for key in loaded.files}
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"Expected NumPy arrays without pickled objects in {path!r}, got: {error}. "
            "Is the file complete? Write it with numpy.savez."
        ) from error


def find_key(
    arrays: Mapping[str, NDArray[Any]], wanted: str | Sequence[str] | None, kind: Input | None, path: str
) -> tuple[str, Input]:
    """Return the key of the scores and what they are, declared by the user or by the key's own name."""
    if wanted is None:
        declared: list[Input] = [name for name in ("logits", "probs") if name in arrays]
        if len(declared) != 1:
            raise ValueError(
                f"Expected one of the keys 'logits' and 'probs' in {path!r}, got {', '.join(arrays)}. "
                "Say which array holds the scores and what they are: logits=KEY or probs=KEY "
                "(on the command line --logits KEY or --probs KEY)."
            )
        return declared[0], declared[0]
    name = wanted if isinstance(wanted, str) else wanted[0]
    if kind is None or (not isinstance(wanted, str) and len(wanted) != 1):
        raise ValueError(f"Expected one key for the scores in {path!r}, got {wanted!r}.")
    return choose_column(name, list(arrays), kind), kind


def column_of(arrays: Mapping[str, NDArray[Any]], key: str, n: int, option: str) -> NDArray[Any]:
    """Return a one-dimensional array with one entry for each of n rows."""
    array = arrays[choose_column(key, list(arrays), option)]
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.shape != (n,):
        raise ValueError(f"Expected {option} {key!r} with one entry a row, shape ({n},), got {array.shape}.")
    return array


def kept_rows(arrays: Mapping[str, NDArray[Any]], n: int, where: str, path: str) -> NDArray[Any]:
    """Return the numbers of the rows that satisfy an SQL condition over the one-dimensional arrays."""
    import_duckdb()
    import pyarrow as pa

    flat = {key: pa.array(array) for key, array in arrays.items() if array.shape == (n,)}
    kept = rows_where(pa.table(flat), where, path)
    if len(kept) == 0:
        raise ValueError(f"Expected at least one row in {path!r} with where {where!r}, got 0.")
    return kept


def segments_of(values: NDArray[Any]) -> tuple[NDArray[np.int64], tuple[str | None, ...]]:
    """Return the number of each value, and the different values as text; NaN is a missing one."""
    missing = np.isnan(values) if values.dtype.kind == "f" else np.zeros(len(values), np.bool_)
    found, codes = np.unique(values[~missing], return_inverse=True)
    names: list[str | None] = [
        str(value).lower() if values.dtype.kind == "b" else str(value) for value in found
    ]
    numbers = np.full(len(values), len(names), np.int64)
    numbers[~missing] = codes
    return numbers, tuple([*names, None] if missing.any() else names)
