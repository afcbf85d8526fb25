r"""Schedules: γ as a function of the probability that the network gives to the label now."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor
from torch.nn.modules.loss import _WeightedLoss

from focalcal.nn._compiled import Steps
from focalcal.nn._reduction import Reduction, check_gamma
from focalcal.nn.focal import focal_loss


class SteppedGamma:
    r"""γ constant between thresholds of the label's probability q.

    Parameters
    ----------
    thresholds : sequence of float
        Increasing, in (0, 1).
    gammas : sequence of float
        One more than thresholds; the first for q below the first threshold. A threshold belongs above.

    Raises
    ------
    ValueError
        If the numbers do not fit together.

    Examples
    --------
    >>> import torch
    >>> SteppedGamma([0.2], [5.0, 3.0])(torch.log(torch.tensor([0.1, 0.2, 0.9])))
    tensor([5., 3., 3.])
    """

    def __init__(self, thresholds: Sequence[float], gammas: Sequence[float]) -> None:
        ordered = all(0 < t < 1 for t in thresholds) and list(thresholds) == sorted(set(thresholds))
        if not ordered or len(gammas) != len(thresholds) + 1:
            raise ValueError(
                "Expected increasing thresholds in (0, 1) and one gamma more than thresholds, got "
                f"{list(thresholds)}, {list(gammas)}. Pass thresholds=[0.2], gammas=[5.0, 3.0] for FLSD-53."
            )
        for gamma in gammas:
            check_gamma(gamma, -1.0)
        self.thresholds, self.gammas = tuple(thresholds), tuple(gammas)

    def __call__(self, log_q: Tensor) -> Tensor:
        """Return γ for log-probabilities of any shape."""
        gamma = torch.full_like(log_q, self.gammas[0])
        for edge, value in zip(self._log_edges(log_q.dtype), self.gammas[1:], strict=True):
            gamma = torch.where(log_q >= edge, value, gamma)
        return gamma

    def _log_edges(self, dtype: torch.dtype) -> list[float]:
        # log of a float32 and of a float64 differ: the threshold itself must land above in both
        return [math.log(threshold) * (1 + 4 * torch.finfo(dtype).eps) for threshold in self.thresholds]

    @cache  # noqa: B019 - as long-lived as the schedule
    def steps(self, dtype: torch.dtype) -> Steps | None:
        """Return γ as the compiled loops take it; None where a γ < 0 is not theirs."""
        log_edges, gammas = (
            torch.tensor(x, dtype=torch.float64, device="cpu") for x in (self._log_edges(dtype), self.gammas)
        )
        return Steps(log_edges.exp(), gammas) if min(self.gammas) >= 0 else None

    def __repr__(self) -> str:
        return f"SteppedGamma({list(self.thresholds)}, {list(self.gammas)})"


#: γ = 5 where the label's probability is below 0.2, else 3: FLSD-53 of Mukhoti et al. 2020, arXiv 2002.09437.
FLSD53 = SteppedGamma([0.2], [5.0, 3.0])


def flsd_loss(
    logits: Tensor,
    target: Tensor,
    schedule: SteppedGamma = FLSD53,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    r"""Return the sample-dependent focal loss; the default is FLSD-53.

    Parameters
    ----------
    logits, target, weight, ignore_index, reduction, label_smoothing
        As `focal_loss`.
    schedule : callable
        Maps log q of the class (detached, nats) to γ.

    Returns
    -------
    Tensor
        Nats, as `focal_loss`.

    Raises
    ------
    ValueError
        As `focal_loss`.

    References
    ----------
    Mukhoti et al. 2020, arXiv 2002.09437.

    Examples
    --------
    >>> import torch
    >>> logits = torch.log(torch.tensor([[0.5, 0.5]]))
    >>> round(flsd_loss(logits, torch.tensor([1])).item(), 6)  # 0.5³ · 0.693147
    0.086643
    """
    return focal_loss(logits, target, schedule, weight, ignore_index, reduction, label_smoothing)


class FLSDLoss(_WeightedLoss):
    r"""`flsd_loss` as a Module.

    Parameters
    ----------
    schedule, weight, ignore_index, reduction, label_smoothing
        As `flsd_loss`.

    Examples
    --------
    >>> import torch
    >>> round(FLSDLoss()(torch.log(torch.tensor([[0.5, 0.5]])), torch.tensor([1])).item(), 6)
    0.086643
    """

    def __init__(
        self,
        schedule: SteppedGamma = FLSD53,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(weight, reduction=reduction)
        self.schedule, self.ignore_index, self.label_smoothing = schedule, ignore_index, label_smoothing

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, C, d1, …) and their target."""
        return flsd_loss(
            logits,
            target,
            self.schedule,
            self.weight,
            self.ignore_index,
            self.reduction,
            self.label_smoothing,
        )

    def extra_repr(self) -> str:
        """Return the schedule and the reduction."""
        return f"schedule={self.schedule}, reduction={self.reduction!r}"
