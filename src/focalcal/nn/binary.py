r"""Binary (sigmoid) forms: a logit x is the two columns (0, x), as the multiclass losses see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from focalcal.nn._reduction import Reduction, check_reduction
from focalcal.nn.dual import dual_focal_loss
from focalcal.nn.focal import focal_loss, inverse_focal_loss
from focalcal.nn.proper import proper_focal_loss


def binary_loss(
    loss: Callable[..., Tensor],
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
    **options: Any,
) -> Tensor:
    r"""Return the sigmoid form of a multiclass loss, with options as `binary_cross_entropy_with_logits`.

    .. math:: w\,\bigl(w_+\, t\, \ell((0, x), 1) + (1 - t)\, \ell((0, x), 0)\bigr)

    Parameters
    ----------
    loss : callable
        One of this package's functions of (logits, target) with `reduction`.
    logits : Tensor of any shape
        Log-odds x of the positive class; several columns are several questions, as in multilabel models.
    target : Tensor of the same shape
        The share t of the positive class: 0, 1, or between them.
    weight : Tensor, optional
        A weight for each element; broadcasts.
    reduction : {'mean', 'sum', 'none'}
        'mean' divides by the number of elements.
    pos_weight : Tensor, optional
        A weight for positive targets; broadcasts.
    **options
        Passed on to the loss, `gamma` for example.

    Returns
    -------
    Tensor
        As the loss.

    Raises
    ------
    ValueError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> x = torch.log(torch.tensor([3.0]))
    >>> round(binary_loss(focal_loss, x, torch.ones(1), gamma=2.0).item(), 6)
    0.01798
    """
    check_reduction(reduction)
    if target.shape != logits.shape:
        raise ValueError(
            f"Expected a target of shape {tuple(logits.shape)}, got {tuple(target.shape)}. "
            "Pass one target for each logit."
        )
    wide = logits.float() if logits.dtype.itemsize == 2 else logits
    flat = wide.reshape(-1)
    columns = torch.stack([torch.zeros_like(flat), flat], 1)
    label = torch.zeros_like(flat, dtype=torch.long)
    of_no = loss(columns, label, reduction="none", **options).reshape(logits.shape)
    of_yes = loss(columns, label + 1, reduction="none", **options).reshape(logits.shape)
    share = target.to(wide.dtype)
    losses = (share if pos_weight is None else share * pos_weight) * of_yes + (1 - share) * of_no
    losses = losses if weight is None else losses * weight
    return losses if reduction == "none" else losses.mean() if reduction == "mean" else losses.sum()


def binary_focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float | Tensor = 2.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the sigmoid form of `focal_loss`; parameters as `binary_loss`.

    Examples
    --------
    >>> import torch
    >>> round(binary_focal_loss(torch.log(torch.tensor([3.0])), torch.ones(1), 2.0).item(), 6)
    0.01798
    """
    return binary_loss(focal_loss, logits, target, weight, reduction, pos_weight, gamma=gamma)


def binary_inverse_focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float | Tensor = 2.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the sigmoid form of `inverse_focal_loss`; parameters as `binary_loss`.

    Examples
    --------
    >>> import torch
    >>> round(binary_inverse_focal_loss(torch.log(torch.tensor([3.0])), torch.ones(1), 1.0).item(), 6)
    0.503444
    """
    return binary_loss(inverse_focal_loss, logits, target, weight, reduction, pos_weight, gamma=gamma)


def binary_dual_focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float | Tensor = 5.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the sigmoid form of `dual_focal_loss`; parameters as `binary_loss`.

    Examples
    --------
    >>> import torch
    >>> x = torch.log(torch.tensor([3.0]))
    >>> round(binary_dual_focal_loss(x, torch.ones(1), 2.0).item(), 6)  # (1 − 0.75 + 0.25)² · 0.287682
    0.071921
    """
    return binary_loss(dual_focal_loss, logits, target, weight, reduction, pos_weight, gamma=gamma)


def binary_proper_focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: float | Tensor = 2.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the sigmoid form of `proper_focal_loss`; parameters as `binary_loss`.

    Examples
    --------
    >>> import torch
    >>> round(binary_proper_focal_loss(torch.log(torch.tensor([3.0])), torch.ones(1), 0.0).item(), 6)
    0.287682
    """
    return binary_loss(proper_focal_loss, logits, target, weight, reduction, pos_weight, gamma=gamma)


class BinaryLoss(torch.nn.Module):
    """`binary_loss` as a Module: a drop-in for `torch.nn.BCEWithLogitsLoss`.

    Parameters
    ----------
    loss, weight, reduction, pos_weight, **options
        As `binary_loss`.

    Examples
    --------
    >>> import torch
    >>> loss = BinaryLoss(focal_loss, gamma=2.0)
    >>> round(loss(torch.log(torch.tensor([3.0])), torch.ones(1)).item(), 6)
    0.01798
    """

    weight: Tensor | None
    pos_weight: Tensor | None

    def __init__(
        self,
        loss: Callable[..., Tensor],
        weight: Tensor | None = None,
        reduction: Reduction = "mean",
        pos_weight: Tensor | None = None,
        **options: Any,
    ) -> None:
        check_reduction(reduction)
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("pos_weight", pos_weight)
        self.loss, self.reduction, self.options = loss, reduction, options

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits and targets of one shape."""
        return binary_loss(
            self.loss, logits, target, self.weight, self.reduction, self.pos_weight, **self.options
        )
