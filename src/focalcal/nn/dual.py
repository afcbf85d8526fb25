r"""Dual focal loss: :math:`-(1-q_y+q_j)^\gamma\log q_y`, :math:`q_j` the largest below the label's."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn.modules.loss import _WeightedLoss

from focalcal.nn._compiled import DUAL, compiled_loss
from focalcal.nn._curve_loss import label_gamma
from focalcal.nn._curves import focal_curve
from focalcal.nn._odds import rival_odds
from focalcal.nn._reduction import (
    GammaLike,
    Reduction,
    Rows,
    arrange,
    check_gamma,
    check_reduction,
    reduce_label_losses,
)


def dual_focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: GammaLike = 5.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return the dual focal loss, with the options of cross-entropy.

    .. math:: -(1 - q_y + q_j)^\gamma \log q_y, \qquad q_j = \max\{q_k : q_k < q_y\}

    and 0 for :math:`q_j` where no class is below the label. The gradient flows through :math:`q_j` too.

    Parameters
    ----------
    logits, weight, ignore_index, reduction
        As `focal_loss`.
    target : Tensor of shape () or (N, d1, …)
        Class indices: which class is the next below is a question of one label, so soft targets and label
        smoothing have no meaning here.
    gamma : float, Tensor or callable
        As `focal_loss`.

    Returns
    -------
    Tensor
        Nats, as `focal_loss`.

    Raises
    ------
    ValueError
        For soft targets, γ < −1 or shapes that do not fit.

    Notes
    -----
    :math:`1 - q_y + q_j = (1-q_y)(1+\pi_j)`, π the distribution over the other classes: nothing cancels.

    References
    ----------
    Tao, Dong and Xu 2023, arXiv 2305.13665.

    Examples
    --------
    >>> import torch
    >>> logits = torch.log(torch.tensor([[0.25, 0.5, 0.25]]))
    >>> round(dual_focal_loss(logits, torch.tensor([1]), gamma=2.0).item(), 6)  # 0.75² · 0.693147
    0.389895
    """
    check_gamma(gamma, -1.0)
    check_reduction(reduction)
    if target.is_floating_point():
        raise ValueError(
            f"Expected class indices for the dual focal loss, got a target of {target.dtype}. "
            "Pass integers, or use focal_loss for soft targets."
        )
    rows = arrange(logits, target, weight, ignore_index, 0.0)
    return compiled_loss(DUAL, gamma, rows, reduction, partial(_dual_loss, gamma, reduction))


def _dual_loss(gamma: GammaLike, reduction: Reduction, rows: Rows) -> Tensor:
    if rows.label is None:
        raise TypeError("Expected class indices.")
    s, rival = rival_odds(rows.logits, rows.label)
    found = label_gamma(gamma, rows, rows.label, s)
    return reduce_label_losses(rows, focal_curve(s, found) * torch.exp(found * torch.log1p(rival)), reduction)


class DualFocalLoss(_WeightedLoss):
    r"""`dual_focal_loss` as a Module.

    Parameters
    ----------
    gamma, weight, ignore_index, reduction
        As `dual_focal_loss`.

    Examples
    --------
    >>> import torch
    >>> loss = DualFocalLoss(gamma=2.0)
    >>> round(loss(torch.log(torch.tensor([[0.25, 0.5, 0.25]])), torch.tensor([1])).item(), 6)
    0.389895
    """

    def __init__(
        self,
        gamma: GammaLike = 5.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        check_gamma(gamma, -1.0)
        super().__init__(weight, reduction=reduction)
        self.gamma, self.ignore_index = gamma, ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, C, d1, …) and class indices."""
        return dual_focal_loss(logits, target, self.gamma, self.weight, self.ignore_index, self.reduction)

    def extra_repr(self) -> str:
        """Return γ and the reduction."""
        return f"gamma={self.gamma}, reduction={self.reduction!r}"
