"""The loss of each row, for what its mean owes to the choice of rows."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from focalcal.curvature.rows.forms import row_weights
from focalcal.curvature.rows.moments import moments
from focalcal.curvature.surface.passes import Batch
from focalcal.curvature.surface.totals import Loss


@dataclass(frozen=True)
class RowLosses:
    """Moments of the rows' losses."""

    loss: Loss

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        """Return the moments, and the weight."""
        weight = row_weights(self.loss, batch)
        with torch.no_grad():
            each = _of_rows(self.loss, batch.logits.detach(), batch.target).double()
        return moments(weight, each.reshape(len(weight), -1).sum(1, keepdim=True)), float(weight.sum())


def _of_rows(loss: Any, logits: Tensor, target: Any) -> Tensor:
    if getattr(loss, "reduction", None) in ("mean", "sum", "none"):
        each = copy.copy(loss)
        each.reduction = "none"
        return torch.as_tensor(each(logits, target))
    # a mean over a batch of one row is that row's
    return torch.stack([loss(logits[i : i + 1], target[i : i + 1]) for i in range(len(logits))])
