"""A loss over a batch as a sum, with the weight that its own mean divides by."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Loss = Callable[[Tensor, Any], Tensor]


def batch_total(loss: Loss, logits: Tensor, target: Any) -> tuple[Tensor, float]:
    """Return the loss summed over a batch, and its weight: the mean over several batches is Σ sum / Σ weight.

    A module with `reduction` is summed by itself, and its own mean tells the weight: rows that are ignored do
    not count, classes weigh what they weigh. Any other callable is taken as a mean over the batch's rows.
    """
    if getattr(loss, "reduction", None) not in ("mean", "sum", "none"):
        value = loss(logits, target)
        if value.dim():
            raise ValueError(
                f"Expected a loss that returns one number, got shape {tuple(value.shape)}. Return the mean "
                "over the batch, or pass a module with reduction."
            )
        return value * len(logits), float(len(logits))
    summed, mean = copy.copy(loss), copy.copy(loss)
    summed.reduction, mean.reduction = "sum", "mean"  # type: ignore[attr-defined]
    with torch.no_grad():
        # at logits at which no loss is 0, whatever it is at the batch's own
        generator = torch.Generator().manual_seed(0)
        probe = torch.randn(logits.shape, generator=generator, dtype=logits.dtype).to(logits.device)
        by_sum, by_mean = float(summed(probe, target)), float(mean(probe, target))
    weight = by_sum / by_mean if by_sum else 0.0
    return summed(logits, target), round(weight) if abs(weight - round(weight)) < 1e-5 * weight else weight
