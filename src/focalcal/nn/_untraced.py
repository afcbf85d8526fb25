"""What a compiler must not trace. Importing this loads the compiler."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


@torch.compiler.disable  # type: ignore[untyped-decorator]
def untraced(function: Callable[..., Tensor], *values: float | Tensor) -> Tensor:
    """Call a function as it is: traced, a solver would be unrolled to its largest number of steps."""
    return function(*values)
