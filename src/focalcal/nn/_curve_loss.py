"""What every loss that is a curve of the label's probability shares: γ, targets and reduction."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from focalcal.nn._compiled import FOCAL, INVERSE, compiled_loss
from focalcal.nn._curves import focal_curve, inverse_focal_curve, signed_curve
from focalcal.nn._odds import class_odds, label_odds
from focalcal.nn._reduction import (
    GammaLike,
    Reduction,
    Rows,
    arrange,
    check_reduction,
    reduce_class_losses,
    reduce_label_losses,
)

#: A loss of one class by its log-odds and γ.
Curve = Callable[[Tensor, Any], Tensor]

_KINDS: dict[Curve, int] = {focal_curve: FOCAL, inverse_focal_curve: INVERSE, signed_curve: FOCAL}


def curve_loss(
    curve: Curve,
    gamma: GammaLike,
    logits: Tensor,
    target: Tensor,
    *,
    weight: Tensor | None,
    ignore_index: int,
    reduction: Reduction,
    label_smoothing: float,
) -> Tensor:
    """Return the reduced loss whose part of class k is `curve` of that class's log-odds."""
    check_reduction(reduction)
    rows = arrange(logits, target, weight, ignore_index, label_smoothing)
    return rows_loss(curve, gamma, rows, label_smoothing, reduction)


def rows_loss(
    curve: Curve, gamma: GammaLike, rows: Rows, label_smoothing: float, reduction: Reduction
) -> Tensor:
    """Return the loss of rows that are arranged already."""
    if rows.codes is not None and not label_smoothing:
        return compiled_loss(
            _KINDS[curve], gamma, rows, reduction, partial(_label_loss, curve, gamma, reduction)
        )
    s = class_odds(rows.logits)
    if rows.soft is not None:  # the slope of a masked class, which has no target mass, is not a number
        s = torch.where(rows.soft == 0, 0.0, s)
    losses = curve(s, _class_gamma(gamma, rows, s))
    return reduce_class_losses(rows, losses, label_smoothing, reduction)


def _label_loss(curve: Curve, gamma: GammaLike, reduction: Reduction, rows: Rows) -> Tensor:
    if rows.label is None:
        raise TypeError("Expected class indices.")
    s, _ = label_odds(rows.logits, rows.label)
    return reduce_label_losses(rows, curve(s, label_gamma(gamma, rows, rows.label, s)), reduction)


def label_gamma(gamma: GammaLike, rows: Rows, label: Tensor, s: Tensor) -> float | Tensor:
    """Return γ of every row: a number, or a tensor of shape () or (n,)."""
    if not isinstance(gamma, Tensor):
        return gamma(logsigmoid(s.detach())) if callable(gamma) else gamma
    folded = rows.fold(gamma, "gamma").to(s.dtype)
    if folded.dim() == 1:
        return folded[label]
    return folded.squeeze(1) if folded.dim() else folded


def _class_gamma(gamma: GammaLike, rows: Rows, s: Tensor) -> float | Tensor:
    if not isinstance(gamma, Tensor):
        return gamma(logsigmoid(s.detach())) if callable(gamma) else gamma
    return rows.fold(gamma, "gamma").to(s.dtype)
