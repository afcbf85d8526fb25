"""The hot row loops: compiled where that was possible, else in NumPy.

`reference` is the readable NumPy version that defines what is true. Environment variables:
FOCALCAL_KERNELS=reference does everything in NumPy; FOCALCAL_SIMD=baseline (avx2, avx512) chooses the vector
instructions of the compiled loops, by default avx2 where the processor has it. avx512 has been tested with
emulated vectors only, so it has to be asked for. FOCALCAL_THREADS=1 keeps fits and judgements to one thread.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from typing import Any


def compiled() -> Any:
    """Return the compiled module, or None where NumPy does the work; warn once if it was not built."""
    rows, missing = _load()
    if missing:
        _warn()
    return rows


def describe() -> str:
    """Return which loops are in use: "compiled (avx2)" or "NumPy"."""
    rows, _ = _load()
    return "NumPy" if rows is None else f"compiled ({rows.level()})"


@cache
def _load() -> tuple[Any, bool]:
    """Return the compiled module or None, and whether it was wanted but is missing."""
    wanted = os.environ.get("FOCALCAL_KERNELS") or "compiled"
    if wanted not in ("compiled", "reference"):
        raise ValueError(f"Expected FOCALCAL_KERNELS to be 'compiled' or 'reference', got {wanted!r}.")
    if wanted == "reference":
        return None, False
    try:
        from focalcal.kernels import _rows
    except ImportError:
        return None, True
    level = os.environ.get("FOCALCAL_SIMD")
    if level:
        levels = _rows.levels()
        if level not in levels:
            raise ValueError(
                f"Expected FOCALCAL_SIMD to be one of {', '.join(levels)} on this processor, got {level!r}."
            )
        _rows.set_level(level)
    return _rows, False


@cache
def _warn() -> None:
    from focalcal._validate import CalibrationWarning

    warnings.warn(
        "focalcal's compiled loops are not installed; NumPy takes about ten times as long, with the same "
        "results. Install focalcal again where there is a C compiler.",
        CalibrationWarning,
        stacklevel=3,
    )
