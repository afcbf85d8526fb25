"""The compiled row loops; `focalcal.kernels.reference` says what they compute."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

def levels() -> list[str]: ...
def level() -> str: ...
def set_level(name: str, /) -> None: ...
def elementary(which: int, values: NDArray[Any], out: NDArray[Any], /) -> None: ...
def fit_sums(
    scores: NDArray[Any],
    codes: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    is_probs: bool,
    log_temperature: float,
    gamma: float,
    out: NDArray[np.float64],
    /,
) -> None: ...
def survey(
    scores: NDArray[Any],
    codes: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    is_probs: bool,
    out: NDArray[np.float64],
    /,
) -> None: ...
