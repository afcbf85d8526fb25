r"""Brier score as a loss: :math:`\sum_k (q_k - t_k)^2`."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import one_hot
from torch.nn.modules.loss import _WeightedLoss

from focalcal.nn._compiled import BRIER, compiled_loss
from focalcal.nn._odds import label_odds
from focalcal.nn._reduction import Reduction, Rows, arrange, check_reduction, reduce_label_losses, reduce_rows


def brier_loss(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Return the Brier score of softmax(logits), summed over classes: in [0, 2].

    Parameters
    ----------
    logits, target, ignore_index, reduction, label_smoothing
        As `focal_loss`.
    weight : Tensor of shape (C,), optional
        A row counts with its label's weight, or with that of its target, :math:`\sum_k w_k t_k`.

    Returns
    -------
    Tensor
        No unit; a scalar, or with 'none' of the target's shape.

    Raises
    ------
    ValueError
        For shapes that do not fit.

    Notes
    -----
    For a class index it is computed as
    :math:`(1-q_y)^2 (1 + \sum_k \pi_k^2)`, π the distribution over the other classes: exact for rows that
    are sure.

    Examples
    --------
    >>> import torch
    >>> brier_loss(torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([1])).item()  # 2 · 0.25²
    0.125
    """
    check_reduction(reduction)
    rows = arrange(logits, target, weight, ignore_index, label_smoothing)
    if rows.codes is not None and not label_smoothing:
        return compiled_loss(BRIER, 0.0, rows, reduction, partial(_label_brier, reduction))
    wanted = _wanted(rows, label_smoothing)
    losses = ((torch.softmax(rows.logits, 1) - wanted) ** 2).sum(1)
    if rows.label is not None:
        return reduce_label_losses(rows, losses, reduction)
    return reduce_rows(rows, losses if rows.weight is None else losses * (wanted @ rows.weight), reduction)


def _label_brier(reduction: Reduction, rows: Rows) -> Tensor:
    if rows.label is None:
        raise TypeError("Expected class indices.")
    s, share = label_odds(rows.logits, rows.label)
    return reduce_label_losses(rows, torch.sigmoid(-s) ** 2 * (1 + (share * share).sum(1)), reduction)


def _wanted(rows: Rows, label_smoothing: float) -> Tensor:
    if rows.soft is not None:
        return rows.soft
    if rows.label is None:
        raise TypeError("Expected a target.")
    n_classes = rows.logits.shape[1]
    exact = one_hot(rows.label, n_classes).to(rows.logits.dtype)
    return exact * (1 - label_smoothing) + label_smoothing / n_classes


class BrierLoss(_WeightedLoss):
    r"""`brier_loss` as a Module.

    Parameters
    ----------
    weight, ignore_index, reduction, label_smoothing
        As `brier_loss`.

    Examples
    --------
    >>> import torch
    >>> BrierLoss()(torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([1])).item()
    0.125
    """

    def __init__(
        self,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, reduction=reduction)
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, C, d1, …) and their target."""
        return brier_loss(
            logits, target, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )
