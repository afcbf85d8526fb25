r"""AdaFocal and CalFocal: γ of the bin that holds the label's probability, from validation predictions.

Both keep their bins in buffers, so that checkpoints resume exactly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor
from torch.nn.modules.loss import _WeightedLoss

from focalcal.nn._bins import bin_gaps, equal_mass_edges, gathered
from focalcal.nn._compiled import Steps
from focalcal.nn._curve_loss import curve_loss
from focalcal.nn._curves import signed_curve
from focalcal.nn._reduction import Reduction


def adafocal_loss(
    logits: Tensor,
    target: Tensor,
    gamma: Tensor,
    edges: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Return the focal loss with the γ of the bin that holds the label's probability; negative γ is inverse.

    .. math:: -(1 - q)^{\gamma_b} \log q \text{ for } \gamma_b \ge 0, \quad
              -(1 + q)^{|\gamma_b|} \log q \text{ for } \gamma_b < 0

    Parameters
    ----------
    logits, target, weight, ignore_index, reduction, label_smoothing
        As `focal_loss`.
    gamma : Tensor of shape (bins,)
        γ of each bin, the least confident first.
    edges : Tensor of shape (bins − 1,)
        Increasing: bin b holds the probabilities from edges[b − 1] on and below edges[b].

    Returns
    -------
    Tensor
        Nats, as `focal_loss`.

    Raises
    ------
    ValueError
        If edges and γ do not fit together, or for shapes that do not fit.

    References
    ----------
    Ghosh, Schaaf and Gormley 2022, arXiv 2211.11838.

    Examples
    --------
    >>> import torch
    >>> logits = torch.log(torch.tensor([[0.25, 0.75]])).expand(2, 2)
    >>> gamma, edges = torch.tensor([1.0, -1.0]), torch.tensor([0.5])
    >>> adafocal_loss(logits, torch.tensor([0, 1]), gamma, edges, reduction="none")  # .75 log 4, 1.75 log 4/3
    tensor([1.0397, 0.5034])
    """
    if gamma.dim() != 1 or edges.shape != (len(gamma) - 1,):
        raise ValueError(
            f"Expected one gamma a bin and one edge fewer, got {tuple(gamma.shape)} and "
            f"{tuple(edges.shape)}. Pass the gamma and edges of an AdaFocalLoss."
        )
    return curve_loss(
        signed_curve,
        Steps(edges.detach(), gamma.detach()),
        logits,
        target,
        weight=weight,
        ignore_index=ignore_index,
        reduction=reduction,
        label_smoothing=label_smoothing,
    )


class _BinnedFocalLoss(_WeightedLoss):
    """State and forward pass that the two losses share: bins of probability, each with its γ."""

    gamma: Tensor
    edges: Tensor
    updates: Tensor

    def __init__(
        self,
        bins: int,
        gamma: float,
        weight: Tensor | None,
        ignore_index: int,
        reduction: Reduction,
        label_smoothing: float,
    ) -> None:
        if bins < 1:
            raise ValueError(f"Expected at least 1 bin, got {bins}. The paper takes 15.")
        super().__init__(weight, reduction=reduction)
        self.bins, self.ignore_index, self.label_smoothing = bins, ignore_index, label_smoothing
        self.register_buffer("gamma", torch.full((bins,), gamma, dtype=torch.float64))
        self.register_buffer("edges", torch.arange(1, bins, dtype=torch.float64) / bins)
        self.register_buffer("updates", torch.zeros((), dtype=torch.long))

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, C, d1, …) and their target."""
        return adafocal_loss(
            logits,
            target,
            self.gamma,
            self.edges,
            self.weight,
            self.ignore_index,
            self.reduction,
            self.label_smoothing,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        # .half() must not round the state, and a device without float64 takes float32
        state = {name: getattr(self, name) for name in ("gamma", "edges")}
        device = fn(torch.empty(0)).device
        for name in state:
            setattr(self, name, torch.empty(0))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        wide = torch.float32 if device.type == "mps" else torch.float64
        for name, values in state.items():
            # to_empty, of a network made on the meta device: a state_dict brings the values
            moved = torch.empty_like(values, device=device) if values.is_meta else values.to(device)
            setattr(self, name, moved.to(wide))
        return self

    def extra_repr(self) -> str:
        """Return the number of bins and of updates, and the range of γ."""
        low, high = self.gamma.min().item(), self.gamma.max().item()
        return f"bins={self.bins}, updates={self.updates.item()}, gamma from {low:.3g} to {high:.3g}"

    def _measured(self, predictions: Tensor, target: Tensor, probabilities: bool) -> Tensor:
        """Move the edges to the new bins and return confidence − accuracy of each, 0 for an empty bin."""
        confidence, correct = gathered(predictions, target, self.ignore_index, probabilities)
        self.edges.copy_(equal_mass_edges(confidence, self.bins))
        self.updates += 1
        return bin_gaps(confidence, correct, self.edges.double()).to(self.gamma)


class AdaFocalLoss(_BinnedFocalLoss):
    r"""Focal loss whose γ follows the validation calibration, bin by bin.

    Parameters
    ----------
    bins : int
        Equal-mass bins of the validation top-label confidence.
    rate : float
        λ of the rule.
    gamma : float
        γ of every bin before the first update.
    gamma_min, gamma_max : float
        γ is clipped to them.
    switch : float
        Where \|γ\| falls below it, focal and inverse focal loss change over.
    weight, ignore_index, reduction, label_smoothing
        As `focal_loss`.

    Raises
    ------
    ValueError
        For no bins, or a γ out of range.

    Notes
    -----
    Call `update` once per epoch with the validation predictions. With
    :math:`E_b` = mean confidence − accuracy of bin b,

    .. math:: \gamma_b \leftarrow \gamma_b\, e^{+\lambda E_b} \text{ if } \gamma_b > 0, \text{ else }
              \gamma_b\, e^{-\lambda E_b};

    if :math:`|\gamma_b|` < switch the sign flips and :math:`|\gamma_b|` = switch; then γ is clipped. A sample
    takes the γ of the bin that holds its label's probability q: focal loss for γ ≥ 0, and
    :math:`-(1+q)^{|\gamma|}\log q` for γ < 0. With torch.distributed initialised, the ranks' predictions are
    put together first.

    References
    ----------
    Ghosh, Schaaf and Gormley 2022, arXiv 2211.11838.

    Examples
    --------
    Two rows of confidence 0.75, one of them right: E = 0.25, and γ becomes exp(0.25).

    >>> import torch
    >>> loss = AdaFocalLoss(bins=1)
    >>> loss.update(torch.log(torch.tensor([[0.25, 0.75], [0.25, 0.75]])), torch.tensor([1, 0]))
    >>> loss.gamma
    tensor([1.2840], dtype=torch.float64)
    """

    def __init__(
        self,
        bins: int = 15,
        rate: float = 1.0,
        gamma: float = 1.0,
        gamma_min: float = -2.0,
        gamma_max: float = 20.0,
        switch: float = 0.2,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        if not gamma_min <= gamma <= gamma_max:
            raise ValueError(
                f"Expected gamma between gamma_min={gamma_min} and gamma_max={gamma_max}, got {gamma}. "
                "Start at 1."
            )
        super().__init__(bins, gamma, weight, ignore_index, reduction, label_smoothing)
        self.rate, self.gamma_min, self.gamma_max, self.switch = rate, gamma_min, gamma_max, switch

    @torch.no_grad()
    def update(self, predictions: Tensor, target: Tensor, *, probabilities: bool = False) -> None:
        """Move γ by the validation predictions of an epoch.

        Parameters
        ----------
        predictions : Tensor of shape (N, C, d1, …)
            Logits, or probabilities if so declared.
        target : Tensor of shape (N, d1, …)
            Class indices; rows of `ignore_index` are left out.
        probabilities : bool
            Predictions are probabilities.
        """
        gap = self.rate * self._measured(predictions, target, probabilities)
        moved = self.gamma * torch.exp(torch.where(self.gamma > 0, gap, -gap))
        flipped = torch.where(moved > 0, -1.0, 1.0).to(moved) * self.switch
        moved = torch.where(moved.abs() < self.switch, flipped, moved)
        self.gamma.copy_(moved.clamp(self.gamma_min, self.gamma_max))


class CalFocalLoss(_BinnedFocalLoss):
    r"""Focal loss whose γ is proportional to the validation gap of its bin, without memory.

    Parameters
    ----------
    bins : int
        Equal-mass bins of the validation top-label confidence.
    rate : float
        λ of the rule.
    gamma : float
        γ of every bin before the first update.
    weight, ignore_index, reduction, label_smoothing
        As `focal_loss`.

    Raises
    ------
    ValueError
        For no bins.

    Notes
    -----
    `update` sets :math:`\gamma_b = \lambda E_b`, :math:`E_b` = mean confidence − accuracy of bin b: focal
    loss where the network is overconfident, inverse focal loss where it is underconfident. AdaFocal instead
    multiplies the γ it had. The idea is the paper's; that γ below 0 means inverse focal loss, and λ = 20, are
    choices made here.

    References
    ----------
    Ghosh, Schaaf and Gormley 2022, arXiv 2211.11838.

    Examples
    --------
    >>> import torch
    >>> loss = CalFocalLoss(bins=1, rate=20.0)
    >>> loss.update(torch.log(torch.tensor([[0.25, 0.75], [0.25, 0.75]])), torch.tensor([1, 0]))
    >>> round(loss.gamma.item(), 6)  # 20 · 0.25
    5.0
    """

    def __init__(
        self,
        bins: int = 15,
        rate: float = 20.0,
        gamma: float = 0.0,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(bins, gamma, weight, ignore_index, reduction, label_smoothing)
        self.rate = rate

    @torch.no_grad()
    def update(self, predictions: Tensor, target: Tensor, *, probabilities: bool = False) -> None:
        """Set γ by the validation predictions of an epoch; parameters as `AdaFocalLoss.update`."""
        self.gamma.copy_(self.rate * self._measured(predictions, target, probabilities))
