r"""Focal and inverse focal loss: :math:`-(1-q_y)^\gamma\log q_y` and :math:`-(1+q_y)^\gamma\log q_y`."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules.loss import _WeightedLoss

from focalcal.nn._curve_loss import curve_loss
from focalcal.nn._curves import focal_curve, inverse_focal_curve
from focalcal.nn._reduction import GammaLike, Reduction, check_gamma


def focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: GammaLike = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Return the focal loss, with the options of `torch.nn.functional.cross_entropy`.

    .. math:: \mathrm{FL}_\gamma = -\sum_k w_k t_k (1-q_k)^{\gamma}\log q_k, \qquad q = \mathrm{softmax}(z)

    Parameters
    ----------
    logits : Tensor of shape (C,) or (N, C, d1, …)
        Logits z in nats; float16 and bfloat16 are computed in float32.
    target : Tensor
        Class indices of shape () or (N, d1, …), or probabilities t of the logits' shape.
    gamma : float, Tensor or callable
        γ ≥ −1, one for all; a tensor of shape (C,) for one a class, or (N, 1, d1, …) for one a sample;
        or a schedule that maps log q of the class (detached, nats) to γ, such as `FLSD53`.
        A learnable γ receives its gradient.
    weight : Tensor of shape (C,), optional
        A weight w for each class.
    ignore_index : int
        A class index whose rows cost nothing.
    reduction : {'mean', 'sum', 'none'}
        'mean' divides by the labels' weights, as cross-entropy does.
    label_smoothing : float in [0, 1]
        Mixes the target with the uniform distribution.

    Returns
    -------
    Tensor
        Nats; a scalar, or with 'none' of the target's shape. float32, or float64 for float64 logits.

    Raises
    ------
    ValueError
        For γ < −1 or shapes that do not fit.

    Notes
    -----
    Finite with gradients and second derivatives however confident a row is. γ = 0 is cross-entropy.

    References
    ----------
    Lin et al. 2017, arXiv 1708.02002; Mukhoti et al. 2020, arXiv 2002.09437.

    Examples
    --------
    >>> import torch
    >>> logits = torch.log(torch.tensor([[0.25, 0.75]]))
    >>> round(focal_loss(logits, torch.tensor([1]), gamma=2.0).item(), 6)  # 0.25² · 0.287682
    0.01798
    """
    check_gamma(gamma, -1.0)
    if isinstance(gamma, (int, float)) and gamma == 0:
        wide = logits.float() if logits.dtype.itemsize == 2 else logits
        return F.cross_entropy(
            wide,
            target.to(wide.dtype) if target.is_floating_point() else target.long(),
            None if weight is None else weight.to(wide.dtype),
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
    return curve_loss(
        focal_curve,
        gamma,
        logits,
        target,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


def inverse_focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: GammaLike = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Return the inverse focal loss :math:`-(1+q_y)^\gamma\log q_y`, which pushes sure rows to be surer.

    Parameters
    ----------
    logits, target, weight, ignore_index, reduction, label_smoothing
        As `focal_loss`.
    gamma : float, Tensor or callable
        γ ≥ 0, of the shapes that `focal_loss` takes.

    Returns
    -------
    Tensor
        Nats, as `focal_loss`.

    Raises
    ------
    ValueError
        For γ < 0 or shapes that do not fit.

    References
    ----------
    Wang, Feng and Zhang, "Rethinking calibration of deep neural networks", NeurIPS 2021.

    Examples
    --------
    >>> import torch
    >>> logits = torch.log(torch.tensor([[0.25, 0.75]]))
    >>> round(inverse_focal_loss(logits, torch.tensor([1]), gamma=1.0).item(), 6)  # 1.75 · 0.287682
    0.503444
    """
    check_gamma(gamma, 0.0)
    return curve_loss(
        inverse_focal_curve,
        gamma,
        logits,
        target,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


class FocalLoss(_WeightedLoss):
    r"""`focal_loss` as a Module: a drop-in for `torch.nn.CrossEntropyLoss`.

    Parameters
    ----------
    gamma, weight, ignore_index, reduction, label_smoothing
        As `focal_loss`.

    Examples
    --------
    >>> import torch
    >>> loss = FocalLoss(gamma=2.0)
    >>> round(loss(torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([1])).item(), 6)
    0.01798
    """

    def __init__(
        self,
        gamma: GammaLike = 2.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        check_gamma(gamma, -1.0)
        super().__init__(weight, reduction=reduction)
        self.gamma, self.ignore_index, self.label_smoothing = gamma, ignore_index, label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, C, d1, …) and their target."""
        return focal_loss(
            logits, target, self.gamma, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )

    def extra_repr(self) -> str:
        """Return γ and the reduction."""
        return f"gamma={self.gamma}, reduction={self.reduction!r}"


class InverseFocalLoss(_WeightedLoss):
    r"""`inverse_focal_loss` as a Module.

    Parameters
    ----------
    gamma, weight, ignore_index, reduction, label_smoothing
        As `inverse_focal_loss`.

    Examples
    --------
    >>> import torch
    >>> loss = InverseFocalLoss(gamma=1.0)
    >>> round(loss(torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([1])).item(), 6)
    0.503444
    """

    def __init__(
        self,
        gamma: GammaLike = 2.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        check_gamma(gamma, 0.0)
        super().__init__(weight, reduction=reduction)
        self.gamma, self.ignore_index, self.label_smoothing = gamma, ignore_index, label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, C, d1, …) and their target."""
        return inverse_focal_loss(
            logits, target, self.gamma, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )

    def extra_repr(self) -> str:
        """Return γ and the reduction."""
        return f"gamma={self.gamma}, reduction={self.reduction!r}"
