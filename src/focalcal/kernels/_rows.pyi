"""The compiled row loops; `focalcal.kernels.reference` says what they compute."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

def levels() -> list[str]: ...
def level() -> str: ...
def set_level(name: str, /) -> None: ...
def elementary(which: int, values: NDArray[Any], out: NDArray[Any], /) -> None: ...
def judge(
    scores: NDArray[Any],
    codes: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    is_probs: bool,
    tolerance: float,
    edges: NDArray[np.float64],
    totals: NDArray[np.float64],
    top: NDArray[np.float64],
    classwise: NDArray[np.float64] | None,
    signed: NDArray[Any] | None,
    /,
) -> bool: ...
def map_rows(
    scores: NDArray[Any],
    is_probs: bool,
    tolerance: float,
    temperature: float,
    gamma: float,
    exponentiate: bool,
    out: NDArray[Any],
    /,
) -> bool: ...
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
def loss_forward(*arguments: float) -> bool: ...
def inverse_rows(*arguments: float) -> bool: ...
def inverse_pull(*arguments: float) -> bool: ...
def loss_backward(*arguments: float) -> bool: ...
def survey(
    scores: NDArray[Any],
    codes: NDArray[np.int64],
    weight: NDArray[np.float64] | None,
    is_probs: bool,
    out: NDArray[np.float64],
    /,
) -> None: ...
