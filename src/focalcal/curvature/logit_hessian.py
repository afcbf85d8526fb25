r"""The Hessian of a row's loss in its logits, in closed form, for losses that depend on the label's log-odds.

With s the label's log-odds and π the distribution over the other classes, :math:`\nabla s = e_y - \pi` and
:math:`\nabla^2 s = -(\mathrm{diag}\,\pi - \pi\pi^\top)`, so that a loss L(s) has

.. math:: \nabla^2 L = -L'(s)\,(\mathrm{diag}\,\pi - \pi\pi^\top) + L''(s)\,(e_y - \pi)(e_y - \pi)^\top .

−L' is never negative here; L'' can be, as focal loss is not convex in the logits.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from focalcal.nn import AdaFocalLoss, CalFocalLoss, FLSDLoss, FocalLoss, InverseFocalLoss
from focalcal.nn._odds import label_odds
from focalcal.nn._reduction import arrange

#: Added before a square root whose slope is wanted: it is infinite at 0, where rows are sure or ignored.
_TINY = 1e-30

#: Losses of one label that depend on its log-odds alone.
_CURVES = (torch.nn.CrossEntropyLoss, FocalLoss, InverseFocalLoss, FLSDLoss, AdaFocalLoss, CalFocalLoss)


class LogitHessian(NamedTuple):
    """The Hessians of a batch's rows, weighted as the summed loss weighs them."""

    label: Tensor  # (n,)
    share: Tensor  # (n, C) π, 0 at the label
    slope: Tensor  # (n,) -L'(s) ≥ 0, times the row's weight
    bend: Tensor  # (n,) L''(s), times the row's weight
    weight: Tensor  # (n,) of the row, which a mean divides by the sum of

    def sketch(self, signs: Tensor, *, smooth: bool = False) -> tuple[Tensor, Tensor]:
        """Return w and w̃ (n, C) with E w w̃ᵀ = the Hessians, for random signs (n, C).

        w̃ is w where no Hessian has a negative part. The label's sign serves its own direction. With `smooth`
        the slopes of w and w̃ are bounded, also where L'' changes its sign; w̃ is then another.
        """
        index = self.label.unsqueeze(1)
        own = signs.gather(1, index)
        root = (self.share + _TINY).sqrt().scatter(1, index, 0.0) * signs
        scale = (self.slope + _TINY).sqrt().unsqueeze(1)
        spread = scale * (root - self.share * root.sum(1, keepdim=True))
        along = (-self.share).scatter(1, index, 1.0) * own
        if not smooth and bool((self.bend >= 0).all()):
            w = spread + along * (self.bend.clamp(min=0.0) + _TINY).sqrt().unsqueeze(1)
            return w, w
        # any two factors of L'' serve, and the root of |L''| has a cusp at 0
        balance = (self.bend.abs() + self.slope + _TINY).sqrt().unsqueeze(1)
        return spread + along * balance, spread + along * (self.bend.unsqueeze(1) / balance)


def is_known(loss: Any) -> bool:
    """Return whether the Hessian of a loss in the logits is known here, for class indices."""
    return isinstance(loss, _CURVES) and not loss.label_smoothing


def check_known(loss: Any) -> None:
    """Check that the Hessian of a loss in the logits is known here."""
    if not is_known(loss):
        names = ", ".join(kind.__name__ for kind in _CURVES)
        raise ValueError(
            f"Expected one of {names}, without label smoothing, whose Hessian in the logits is known, got "
            f"{type(loss).__name__}. Use hutchinson_trace(surface, matrix='ggn')."
        )


def logit_hessian(loss: Any, logits: Tensor, target: Tensor, *, create_graph: bool = False) -> LogitHessian:
    """Return the Hessians of the rows' losses; with `create_graph`, as functions of the logits."""
    check_known(loss)
    if target.is_floating_point():
        raise ValueError(
            f"Expected class indices, got {target.dtype}. Use hutchinson_trace for soft targets."
        )
    at = logits if create_graph else logits.detach()
    rows = arrange(at, target, loss.weight, loss.ignore_index, 0.0)
    if rows.label is None or rows.valid is None:
        raise TypeError("Expected class indices.")
    s, share = label_odds(rows.logits, rows.label)
    share = share.scatter(1, rows.label.unsqueeze(1), 0.0)
    slope, bend = _slopes(loss, s if create_graph else s.detach(), create_graph)
    weight = rows.valid.to(s.dtype) if rows.weight is None else rows.weight[rows.label] * rows.valid
    return LogitHessian(rows.label, share, -slope.clamp(max=0.0) * weight, bend * weight, weight)


def _slopes(loss: Any, s: Tensor, create_graph: bool) -> tuple[Tensor, Tensor]:
    """Return L'(s) and L''(s) of the rows (n,)."""
    bare = copy.deepcopy(loss)  # a copy that is not deep shares its buffers
    bare.weight, bare.reduction, bare.ignore_index = None, "none", -100
    at = s if s.requires_grad else s.requires_grad_()
    # two classes with the same log-odds have the same loss
    label = torch.ones_like(s, dtype=torch.long)
    value = bare(torch.stack([torch.zeros_like(at), at], 1), label)
    (slope,) = torch.autograd.grad(value.sum(), at, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), at, create_graph=create_graph)
    return slope if create_graph else slope.detach(), bend
