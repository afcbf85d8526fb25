"""What a compiler must not trace. Importing this loads the compiler."""

from __future__ import annotations

import torch
from torch import Tensor

from focalcal.nn._curves import Gamma
from focalcal.nn._inverse import apply


@torch.compiler.disable  # type: ignore[untyped-decorator]
def untraced_apply(logits: Tensor, gamma: Gamma) -> Tensor:
    """Return the inverse focal map: traced, the solver would be unrolled to its largest number of steps."""
    return apply(logits, gamma)
