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
from torch.nn import functional as F

from focalcal.nn import AdaFocalLoss, CalFocalLoss, FLSDLoss, FocalLoss, InverseFocalLoss
from focalcal.nn._odds import label_odds
from focalcal.nn._reduction import arrange

#: Losses of one label that depend on its log-odds alone.
_CURVES = (torch.nn.CrossEntropyLoss, FocalLoss, InverseFocalLoss, FLSDLoss, AdaFocalLoss, CalFocalLoss)


class LogitHessian(NamedTuple):
    """The Hessians of a batch's rows, weighted as the summed loss weighs them."""

    label: Tensor  # (n,)
    share: Tensor  # (n, C) π, 0 at the label
    slope: Tensor  # (n,) -L'(s) ≥ 0, times the row's weight
    bend: Tensor  # (n,) L''(s), times the row's weight
    weight: Tensor  # (n,) of the row, whose sum a mean divides by

    def sketch(self, signs: Tensor) -> tuple[Tensor, Tensor]:
        """Return w and w̃ (n, C) with E w w̃ᵀ = the Hessians, for random signs (n, C).

        w̃ is w where no Hessian has a negative part. The label's sign serves its own direction.
        """
        spread, along = self.spread(signs), self.along() * signs.gather(1, self.label.unsqueeze(1))
        w = spread + along
        return w, spread + along * self.bend.sign().unsqueeze(1) if bool((self.bend < 0).any()) else w

    def spread(self, signs: Tensor) -> Tensor:
        """Return w (n, C) with E w wᵀ = the first term of the Hessians, for random signs (n, C)."""
        root = self.share.sqrt() * signs
        return self.slope.sqrt().unsqueeze(1) * (root - self.share * root.sum(1, keepdim=True))

    def along(self) -> Tensor:
        """Return u (n, C) with ± u uᵀ = the second term, by the sign of `bend`."""
        direction = (-self.share).scatter(1, self.label.unsqueeze(1), 1.0)
        return direction * self.bend.abs().sqrt().unsqueeze(1)

    def terms(self) -> tuple[Tensor, Tensor]:
        """Return u (n, C, C) and signs (n, C) with Σ_k sign_k u_k u_kᵀ = the Hessians."""
        own = F.one_hot(self.label, self.share.shape[1]).bool()
        identity = torch.eye(own.shape[1], dtype=self.share.dtype, device=own.device)
        scale = (self.slope.unsqueeze(1) * self.share).sqrt().unsqueeze(2)
        spread = scale * (identity - self.share.unsqueeze(1))
        # the label has no share, and so no term of the first kind: its place is free for the second
        terms = torch.where(own.unsqueeze(2), self.along().unsqueeze(1), spread)
        return terms, torch.where(own, self.bend.sign().unsqueeze(1), 1.0)


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


def logit_hessian(loss: Any, logits: Tensor, target: Tensor) -> LogitHessian:
    """Return the Hessians of the rows' losses at detached logits."""
    check_known(loss)
    if target.is_floating_point():
        raise ValueError(
            f"Expected class indices, got {target.dtype}. Use hutchinson_trace for soft targets."
        )
    rows = arrange(logits.detach(), target, loss.weight, loss.ignore_index, 0.0)
    if rows.label is None or rows.valid is None:
        raise TypeError("Expected class indices.")
    s, share = label_odds(rows.logits, rows.label)
    share = share.scatter(1, rows.label.unsqueeze(1), 0.0)
    bare = copy.deepcopy(loss)  # a copy that is not deep shares its buffers
    bare.weight, bare.reduction, bare.ignore_index = None, "none", -100
    # two classes with the same log-odds have the same loss
    at = s.detach().requires_grad_()
    value = bare(torch.stack([torch.zeros_like(at), at], 1), torch.ones_like(rows.label))
    (slope,) = torch.autograd.grad(value.sum(), at, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), at)
    weight = rows.valid.to(s.dtype) if rows.weight is None else rows.weight[rows.label] * rows.valid
    return LogitHessian(rows.label, share, -slope.detach().clamp(max=0.0) * weight, bend * weight, weight)
