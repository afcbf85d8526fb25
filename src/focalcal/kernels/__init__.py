"""The hot row loops: compiled where that was possible, else in NumPy.

`reference` is the readable NumPy version that defines what is true.
"""

from __future__ import annotations

import os
import warnings
from functools import cache
from typing import Any


@cache
def compiled() -> Any:
    """Return the compiled module, or None where NumPy does the work.

    None if FOCALCAL_KERNELS is "reference", or if the module was not built; the latter is said once.
    """
    if os.environ.get("FOCALCAL_KERNELS") == "reference":
        return None
    try:
        from focalcal.kernels import _rows
    except ImportError:
        from focalcal._validate import CalibrationWarning

        warnings.warn(
            "focalcal's compiled loops are not installed; NumPy takes about ten times as long, with the same "
            "results. Install focalcal again where there is a C compiler.",
            CalibrationWarning,
            stacklevel=2,
        )
        return None
    return _rows


def describe() -> str:
    """Return which loops are in use: "compiled (avx2)" or "NumPy"."""
    rows = compiled()
    return "NumPy" if rows is None else f"compiled ({rows.level()})"
