r"""The proper part of the focal loss, :math:`\mathrm{FL}_\gamma` before the focal calibration map."""

from __future__ import annotations

from torch import Tensor
from torch.nn.modules.loss import _WeightedLoss

from focalcal.nn._curve_loss import rows_loss
from focalcal.nn._curves import Gamma, focal_curve
from focalcal.nn._inverse import inverse_log_probs
from focalcal.nn._reduction import Reduction, arrange, check_gamma, check_reduction


def proper_focal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: Gamma = 2.0,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Return the strictly proper part of the focal loss, with the options of cross-entropy.

    .. math:: L_\gamma(p, y) = \mathrm{FL}_\gamma\bigl((\varphi_\gamma^{-1}(p))_y\bigr), \qquad
              L_\gamma(\varphi_\gamma(q), y) = \mathrm{FL}_\gamma(q_y)

    A network trained with it gives its class posterior by softmax, without a map.

    Parameters
    ----------
    logits, target, weight, ignore_index, reduction, label_smoothing
        As `focal_loss`.
    gamma : float or Tensor
        γ ≥ −1: a number, or a tensor of shape () or (N, 1, d1, …). It receives its gradient.

    Returns
    -------
    Tensor
        Nats, as `focal_loss`. For C > 2 it depends on all of p, not only on the label's.

    Raises
    ------
    ValueError
        For γ < −1, one γ a class, or shapes that do not fit.

    Notes
    -----
    :math:`\varphi_\gamma^{-1}` is found by Newton's method and differentiated by the implicit function
    theorem, so second derivatives exist. It costs some tens of passes over the logits.

    References
    ----------
    Komisarenko and Kull 2024, arXiv 2408.11598.

    Examples
    --------
    Of the mapped probabilities it is the focal loss of those before the map, 0.25² · 0.287682:

    >>> import torch
    >>> from focalcal.nn import focal_map
    >>> p = focal_map(torch.log(torch.tensor([[0.25, 0.75]])), 2.0)
    >>> round(proper_focal_loss(p, torch.tensor([1]), gamma=2.0).item(), 5)
    0.01798
    """
    check_gamma(gamma, -1.0)
    check_reduction(reduction)
    rows = arrange(logits, target, weight, ignore_index, label_smoothing)
    folded: Gamma = gamma
    if isinstance(gamma, Tensor):
        folded = rows.fold(gamma, "gamma").to(rows.logits.dtype)
        if folded.dim() == 1:
            raise ValueError(
                f"Expected gamma of shape () or one a sample, got {tuple(gamma.shape)}. "
                "The proper part exists for one gamma in a row: pass a number."
            )
    rows = rows._replace(logits=inverse_log_probs(rows.logits, folded))
    if isinstance(folded, Tensor) and folded.dim() == 2:
        folded = folded.reshape(rows.shape[0], 1, *rows.shape[1:])
    return rows_loss(focal_curve, folded, rows, label_smoothing, reduction)


class ProperFocalLoss(_WeightedLoss):
    r"""`proper_focal_loss` as a Module.

    Parameters
    ----------
    gamma, weight, ignore_index, reduction, label_smoothing
        As `proper_focal_loss`.

    Examples
    --------
    γ = 0 is cross-entropy:

    >>> import torch
    >>> loss = ProperFocalLoss(gamma=0.0)
    >>> round(loss(torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([1])).item(), 6)
    0.287682
    """

    def __init__(
        self,
        gamma: Gamma = 2.0,
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
        return proper_focal_loss(
            logits, target, self.gamma, self.weight, self.ignore_index, self.reduction, self.label_smoothing
        )

    def extra_repr(self) -> str:
        """Return γ and the reduction."""
        return f"gamma={self.gamma}, reduction={self.reduction!r}"
