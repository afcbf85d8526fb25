r"""Losses of one class as curves of its log-odds :math:`s = \log q - \log(1-q)`.

Every curve is finite with all its derivatives for every finite s: what would overflow on one side and
underflow on the other (:math:`(1-q)^\gamma` and :math:`-\log q` for γ < 0) is multiplied as a sum of
logarithms.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

#: A parameter of a curve: one number, or a tensor that broadcasts against the log-odds.
Gamma = float | Tensor

#: Log-odds beyond which −log q and 1 − q are the same float64.
_SURE = 40.0

#: Log-odds beyond which the series for 1 − ρ is as exact as float64, and before which 1 − ρ does not cancel.
_SERIES = math.log(100.0)


def entropy_ratio(s: Tensor) -> Tensor:
    r"""Return :math:`\rho = -q\log q/(1-q)`, which grows from 0 to 1."""
    c = s.clamp(-200.0, _SURE)
    return -logsigmoid(c) * torch.exp(c)


def cross_entropy_curve(s: Tensor) -> Tensor:
    r"""Return :math:`-\log q`."""
    return -logsigmoid(s)


def focal_curve(s: Tensor, gamma: Gamma) -> Tensor:
    r"""Return :math:`-(1-q)^\gamma\log q` for γ ≥ −1."""
    if not isinstance(gamma, Tensor) and gamma >= 0:  # both factors are at most finite: nothing to balance
        return -torch.exp(gamma * logsigmoid(-s)) * logsigmoid(s)
    c = s.clamp(max=_SURE)
    ratio = -logsigmoid(c) / torch.sigmoid(-c)  # -log q / (1 - q): 1 where q is 1
    return torch.exp((1 + gamma) * logsigmoid(-s)) * ratio


def inverse_focal_curve(s: Tensor, gamma: Gamma) -> Tensor:
    r"""Return :math:`-(1+q)^\gamma\log q`."""
    return -torch.exp(gamma * torch.log1p(torch.sigmoid(s))) * logsigmoid(s)


def signed_curve(s: Tensor, gamma: Tensor) -> Tensor:
    r"""Return the focal curve where γ ≥ 0, and the inverse focal curve of \|γ\| where γ < 0."""
    log_base = torch.where(gamma >= 0, logsigmoid(-s), torch.log1p(torch.sigmoid(s)))
    return -torch.exp(gamma.abs() * log_base) * logsigmoid(s)


def log_w(s: Tensor, gamma: Gamma) -> Tensor:
    r"""Return :math:`\log(1+\gamma\rho)`, without cancellation for γ ≥ −1.

    For γ < 0 it is :math:`x + (1+\gamma)(1-x)` with :math:`x = 1-\rho`, both terms positive.
    """
    if not isinstance(gamma, Tensor) and gamma >= 0:
        return torch.log1p(gamma * entropy_ratio(s))
    far = s > _SERIES
    u = torch.exp(-torch.where(far, s, _SERIES))
    series = 1 / 9 - u / 10  # x = u (1/2 - u/3 + u²/4 - …)
    for k in range(8, 1, -1):
        series = 1 / k - u * series
    near = torch.log1p(-entropy_ratio(torch.where(far, 0.0, s)))
    log_x = torch.where(far, torch.log(series) - torch.where(far, s, 0.0), near)
    if not isinstance(gamma, Tensor) and gamma == -1:
        return log_x
    lead = torch.log((1 + gamma).clamp(min=1e-30)) if isinstance(gamma, Tensor) else math.log1p(gamma)
    other = lead + torch.log(entropy_ratio(s.clamp(min=-60.0)))
    # logaddexp, whose second derivative in torch is NaN where the two are far apart
    return other - logsigmoid(other - log_x)


def log_h(s: Tensor, gamma: Gamma) -> Tensor:
    r"""Return :math:`\log h_\gamma(q)`, the focal calibration map before it is normalised."""
    return logsigmoid(s) - gamma * logsigmoid(-s) - log_w(s, gamma)


def log_h_slope(s: Tensor, gamma: Gamma) -> Tensor:
    r"""Return :math:`\partial\log h_\gamma/\partial s`, which is :math:`1-q` times that in :math:`\log q`."""
    c = s.clamp(max=_SURE)
    ratio = -logsigmoid(c) / torch.sigmoid(-c)
    weight = log_w(s, gamma)
    # (1 + γ + γ log q) / W in two parts, each bounded: the first is 0/0 where γ = −1 and q = 1, its limit 0
    bend = (1 + gamma) * torch.exp((-weight).clamp(max=80.0))
    bend = bend - gamma * ratio * torch.exp(logsigmoid(-s) - weight)
    return torch.sigmoid(-s) + torch.sigmoid(s) * (gamma - 1 + bend)


def log_h_by_gamma(s: Tensor, gamma: Gamma) -> Tensor:
    r"""Return :math:`\partial\log h_\gamma/\partial\gamma`."""
    return -logsigmoid(-s) - entropy_ratio(s) * torch.exp(-log_w(s, gamma))
