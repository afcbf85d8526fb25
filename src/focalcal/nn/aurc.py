r"""Cross-entropy reweighted as in the area under the risk–coverage curve."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.modules.loss import _WeightedLoss

from focalcal.nn._curves import cross_entropy_curve
from focalcal.nn._odds import class_odds, label_odds
from focalcal.nn._reduction import Reduction, Rows, arrange, check_reduction, reduce_label_losses

#: Scores of confidence, each in [0, 1].
CONFIDENCES = ("probability", "margin", "entropy")


def aurc_loss(
    logits: Tensor,
    target: Tensor,
    quantile: float = 0.5,
    confidence: str = "probability",
    bins: int = 64,
    smoothing: float = 0.05,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Return cross-entropy with the weights that the AURC gives to rows by the rank of their confidence.

    .. math:: \alpha_i = -\log\bigl(1 - \min(G(x_i), G(\tau))\bigr), \qquad
              \text{loss} = \tfrac1n \sum_i \alpha_i \, (-\log q_{y_i})

    G is the distribution function of the batch's confidences x, smooth in x: bins of equal width whose counts
    are weighed with a logistic function; τ is a quantile of x, beyond which the weight stays constant.

    Parameters
    ----------
    logits, weight, ignore_index, reduction
        As `focal_loss`.
    target : Tensor of shape () or (N, d1, …)
        Class indices.
    quantile : float in (0, 1]
        The share of rows, the least confident, whose weights differ.
    confidence : {'probability', 'margin', 'entropy'}
        Largest probability, its lead over the second, or 1 − entropy / log C.
    bins : int
        Bins of the distribution function on [0, 1].
    smoothing : float
        Width of the logistic function, > 0.

    Returns
    -------
    Tensor
        Nats, as `focal_loss`. The weights have a gradient too.

    Raises
    ------
    ValueError
        For soft targets or options out of range.

    Notes
    -----
    G is taken over the batch at hand, ignored rows left out, and kept in [1/(n+1), n/(n+1)]. The
    authors' code goes on counting over all earlier batches instead.

    References
    ----------
    Zhou, Gruber, Popordanoska and Blaschko 2025, arXiv 2505.23463.

    Examples
    --------
    A single row: G is 1/2 at most, and the weight log 2.

    >>> import torch
    >>> logits = torch.log(torch.tensor([[0.25, 0.75]]))
    >>> round(aurc_loss(logits, torch.tensor([1]), bins=4, smoothing=1e-4).item(), 6)  # .693147 · .287682
    0.199406
    """
    check_reduction(reduction)
    _check(target, quantile, confidence, bins, smoothing)
    rows = arrange(logits, target, weight, ignore_index, 0.0)
    if rows.label is None or rows.valid is None:
        raise TypeError("Expected class indices.")
    s, _ = label_odds(rows.logits, rows.label)
    x = _confidence(rows, confidence)
    g = _distribution(x, rows.valid, quantile, bins, smoothing)
    return reduce_label_losses(rows, -torch.log1p(-g) * cross_entropy_curve(s), reduction)


def _confidence(rows: Rows, name: str) -> Tensor:
    odds = class_odds(rows.logits)
    if name == "entropy":
        log_q = torch.nn.functional.logsigmoid(odds).clamp(min=-1e30)
        entropy = -(torch.sigmoid(odds) * log_q).sum(1)
        return 1 - entropy / torch.log(torch.tensor(float(odds.shape[1]), device=odds.device))
    if name == "margin":
        first, second = torch.sigmoid(odds).topk(2, dim=1).values.unbind(1)
        return first - second
    return torch.sigmoid(odds.amax(1))


def _distribution(x: Tensor, valid: Tensor, quantile: float, bins: int, smoothing: float) -> Tensor:
    """Return G(x), at most G(τ), for each row."""
    if not len(x):
        return x
    weight = valid.to(x.dtype)
    n = weight.sum()
    place = (x.detach() * bins).long().clamp(0, bins - 1)
    counts = torch.zeros(bins, dtype=x.dtype, device=x.device).index_add(0, place, weight)
    centers = (torch.arange(bins, dtype=x.dtype, device=x.device) + 0.5) / bins
    # the confidence that `quantile` of the valid rows do not exceed
    ordered = torch.where(valid, x.detach(), torch.inf).sort().values
    tau = ordered.gather(0, ((quantile * n).ceil().long() - 1).clamp(min=0).unsqueeze(0))
    limited = torch.minimum(x, tau.clamp(max=1.0))
    g = (torch.sigmoid((limited.unsqueeze(1) - centers) / smoothing) * counts).sum(1) / n.clamp(min=1)
    return torch.minimum(torch.maximum(g, 1 / (n + 1)), n / (n + 1))


def _check(target: Tensor, quantile: float, confidence: str, bins: int, smoothing: float) -> None:
    if target.is_floating_point():
        raise ValueError(f"Expected class indices, got a target of {target.dtype}. Pass integers.")
    if confidence not in CONFIDENCES:
        raise ValueError(f"Expected confidence in {CONFIDENCES}, got {confidence!r}. Choose one of them.")
    if not (0 < quantile <= 1 and bins >= 1 and smoothing > 0):
        raise ValueError(
            "Expected 0 < quantile <= 1, bins >= 1 and smoothing > 0, got "
            f"{quantile}, {bins} and {smoothing}. Choose 0.5, 64 and 0.05, for example."
        )


class AURCLoss(_WeightedLoss):
    r"""`aurc_loss` as a Module.

    Parameters
    ----------
    quantile, confidence, bins, smoothing, weight, ignore_index, reduction
        As `aurc_loss`.

    Examples
    --------
    >>> import torch
    >>> loss = AURCLoss(bins=4, smoothing=1e-4)
    >>> round(loss(torch.log(torch.tensor([[0.25, 0.75]])), torch.tensor([1])).item(), 6)
    0.199406
    """

    def __init__(
        self,
        quantile: float = 0.5,
        confidence: str = "probability",
        bins: int = 64,
        smoothing: float = 0.05,
        weight: Tensor | None = None,
        ignore_index: int = -100,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(weight, reduction=reduction)
        self.quantile, self.confidence, self.bins, self.smoothing = quantile, confidence, bins, smoothing
        self.ignore_index = ignore_index

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the loss of logits (N, C, d1, …) and class indices."""
        return aurc_loss(
            logits,
            target,
            self.quantile,
            self.confidence,
            self.bins,
            self.smoothing,
            self.weight,
            self.ignore_index,
            self.reduction,
        )
