r"""MMCE: the maximum mean calibration error, a kernel penalty to be added to a loss."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.loss import _WeightedLoss

from focalcal.nn._odds import class_odds
from focalcal.nn._reduction import Reduction, Rows, arrange, check_reduction
from focalcal.nn.focal import focal_loss


def mmce_penalty(
    logits: Tensor, target: Tensor, width: float = 0.4, ignore_index: int = -100, squared: bool = False
) -> Tensor:
    r"""Return the MMCE of a batch.

    .. math:: \mathrm{MMCE}^2 = \frac{1}{n^2}\sum_{i,j} (c_i - r_i)(c_j - r_j)\, e^{-|r_i - r_j| / w}

    with r the top-label confidence, c whether it is right and w the kernel's width.

    Parameters
    ----------
    logits : Tensor of shape (C,) or (N, C, d1, …)
        Logits in nats.
    target : Tensor of shape () or (N, d1, …)
        Class indices.
    width : float
        Width of the Laplace kernel, > 0.
    ignore_index : int
        A class index whose rows are left out.
    squared : bool
        Return the square, which is smooth at 0.

    Returns
    -------
    Tensor
        A scalar in [0, 1]. Time and memory grow with the square of the number of rows. Where it
        is 0 its gradient is 0.

    Raises
    ------
    ValueError
        For soft targets or a width that is not positive.

    References
    ----------
    Kumar, Sarawagi and Jain, "Trainable calibration measures for neural networks from kernel mean
    embeddings", ICML 2018.

    Examples
    --------
    One row of confidence 0.75, wrong:

    >>> import torch
    >>> round(mmce_penalty(torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([0])).item(), 6)
    0.75
    """
    if target.is_floating_point() or not width > 0:
        raise ValueError(
            f"Expected class indices and width > 0, got {target.dtype} and {width}. Pass integers and 0.4."
        )
    rows = arrange(logits, target, None, ignore_index, 0.0)
    return _mmce(rows, width, squared)


def _mmce(rows: Rows, width: float, squared: bool) -> Tensor:
    if rows.label is None or rows.valid is None:
        raise TypeError("Expected class indices.")
    top = rows.logits.argmax(1)
    s = class_odds(rows.logits).gather(1, top.unsqueeze(1)).squeeze(1)
    # c - r: 1 - r where it is right, without a difference that cancels
    gap = torch.where(top == rows.label, torch.sigmoid(-s), -torch.sigmoid(s))
    gap = torch.where(rows.valid, gap, 0.0)
    confidence = torch.sigmoid(s)
    kernel = torch.exp(-(confidence.unsqueeze(1) - confidence.unsqueeze(0)).abs() / width)
    square = (gap.unsqueeze(1) * gap.unsqueeze(0) * kernel).sum() / rows.valid.sum().clamp(min=1) ** 2
    if squared:
        return square
    positive = square > torch.finfo(square.dtype).tiny
    return torch.where(positive, torch.where(positive, square, 1.0).sqrt(), 0.0)


def mmce_loss(
    logits: Tensor,
    target: Tensor,
    strength: float = 1.0,
    gamma: float = 0.0,
    width: float = 0.4,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Return cross-entropy (or focal loss) plus strength · MMCE.

    Parameters
    ----------
    logits, weight, ignore_index, label_smoothing
        As `focal_loss`.
    target : Tensor of shape () or (N, d1, …)
        Class indices.
    strength : float
        What the penalty is multiplied by.
    gamma : float
        γ of the focal loss that it is added to; 0 is cross-entropy.
    width : float
        Width of the kernel.
    reduction : {'mean', 'sum'}
        Of the loss; the penalty is one number a batch and is added once.

    Returns
    -------
    Tensor
        A scalar.

    Raises
    ------
    ValueError
        For reduction 'none', and as `mmce_penalty`.

    Examples
    --------
    >>> import torch
    >>> logits = torch.log(torch.tensor([[0.25, 0.75]]))
    >>> round(mmce_loss(logits, torch.tensor([0]), strength=2.0).item(), 6)  # log 4 + 2 · 0.75
    2.886294
    """
    check_reduction(reduction)
    if reduction == "none":
        raise ValueError("Expected reduction 'mean' or 'sum', got 'none'. The penalty is one number a batch.")
    loss = focal_loss(logits, target, gamma, weight, ignore_index, reduction, label_smoothing)
    return loss + strength * mmce_penalty(logits, target, width, ignore_index)


class MMCELoss(_WeightedLoss):
    r"""`mmce_loss` as a Module.

    Parameters
    ----------
    strength, gamma, width, weight, ignore_index, reduction, label_smoothing
        As `mmce_loss`.

    Examples
    --------
    >>> import torch
    >>> loss = MMCELoss(strength=2.0)
    >>> round(loss(torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([0])).item(), 6)
    2.886294
    """

    def __init__(
        self,
        strength: float = 1.0,
        gamma: float = 0.0,
        width: float = 0.4,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, reduction=reduction)
        self.strength, self.gamma, self.width = strength, gamma, width
        self.ignore_index, self.label_smoothing = ignore_index, label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, C, d1, …) and class indices."""
        return mmce_loss(
            logits,
            target,
            self.strength,
            self.gamma,
            self.width,
            self.weight,
            self.ignore_index,
            self.reduction,
            self.label_smoothing,
        )
