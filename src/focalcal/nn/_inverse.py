r"""The inverse of the focal calibration map on rows of logits, with derivatives of every order.

:math:`\ell = \log q` solves :math:`\log h_\gamma(q_j) = z_j - \tau`, :math:`\sum_j q_j = 1`. By the implicit
function theorem, with :math:`g'_j = \partial\log h_\gamma(q_j)/\partial\ell_j`,

.. math:: d\ell_j = \frac{dz_j - \partial_\gamma \log h_\gamma(q_j)\,d\gamma - d\tau}{g'_j}, \qquad
          \sum_j q_j\, d\ell_j = 0 .

Of the top class, m, :math:`g'_m` grows without end as :math:`q_m \to 1` and changes sign for γ < 0, so that
it enters as :math:`G = (1-q_m) g'_m`, which multiplies and never divides; with
:math:`b_j = q_j / ((1-q_m) g'_j)`,

.. math:: d\tau = \frac{G \sum_{j \ne m} b_j dz_j + q_m dz_m}{G \sum_{j \ne m} b_j + q_m} .
"""

from __future__ import annotations

import inspect
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from focalcal.nn._compiled import compiled_inverse, compiled_pull
from focalcal.nn._curves import Gamma, log_h, log_h_by_gamma, log_h_slope
from focalcal.nn._odds import class_odds

#: log of one half, which no class but the top one exceeds.
_HALF = -math.log(2.0)

#: Most steps of Newton's method: for the odds of the top class, and for each other class between them.
_OUTER, _INNER = 18, 8


def solve(logits: Tensor, gamma: Gamma) -> Tensor:
    """Return log q (n, C) with φ_γ(q) = softmax(logits); γ is a number or a tensor (n, 1)."""
    found = compiled_inverse(logits, gamma)
    return _nested(logits, gamma) if found is None else found


def _nested(logits: Tensor, gamma: Gamma) -> Tensor:
    """Return it by Newton's method for the others within Newton's method for the top class, safeguarded."""
    top = logits.argmax(1, keepdim=True)
    is_top = torch.zeros_like(logits, dtype=torch.bool).scatter(1, top, True)
    below = (logits - logits.gather(1, top)).clamp(min=-1e30).masked_fill(is_top, -1e30)
    odds, log_q = _start(below, gamma)  # (n, 1) log-odds against the top class; (n, C) of the others
    low, high = torch.full_like(odds, -1e30), torch.full_like(odds, math.log(max(logits.shape[1] - 1, 1)))
    noise = 8 * torch.finfo(logits.dtype).eps
    for _ in range(_OUTER):
        log_q, slope = _others(log_q, below + log_h(-odds, gamma), gamma)
        total = log_q.logsumexp(1, keepdim=True)
        excess = total - logsigmoid(odds)  # falls with the odds
        bend = (torch.exp(log_q - total) / slope).sum(1, keepdim=True) * log_h_slope(-odds, gamma)
        tolerance = noise * (1 + odds.abs())
        done = excess.abs() <= tolerance
        low, high = torch.where(excess > 0, odds, low), torch.where(excess > 0, high, odds)
        new = odds + excess / (bend + torch.sigmoid(-odds))
        inside = (new > low - tolerance) & (new < high + tolerance)
        middle = torch.where(low < -1e29, odds - 2 * (1 + odds.abs()), (low + high) / 2)
        odds = torch.where(done, odds, torch.where(inside, new, middle))
        if bool(done.all()):
            break
    log_q, _ = _others(log_q, below + log_h(-odds, gamma), gamma)
    return torch.where(is_top, logsigmoid(-odds), log_q).masked_fill(logits.isneginf(), -math.inf)


def _start(below: Tensor, gamma: Gamma) -> tuple[Tensor, Tensor]:
    """Return where Newton's method starts: 1 − p is about (1+γ) (1−q)^(1+γ) for sure rows."""
    rest = below.logsumexp(1, keepdim=True)
    if isinstance(gamma, Tensor):
        odds = (rest - gamma.clamp(min=0.0).log1p()) / (1 + gamma.clamp(min=0.0))
    else:
        odds = (rest - math.log1p(max(gamma, 0.0))) / (1 + max(gamma, 0.0))
    odds = odds.clamp(max=math.log(max(below.shape[1] - 1, 1)))
    return odds, (below + log_h(-odds, gamma)).clamp(max=_HALF)


def _others(log_q: Tensor, log_h_value: Tensor, gamma: Gamma) -> tuple[Tensor, Tensor]:
    """Return log q ≤ log ½ with log h(q) as given, from a first guess, and the slope of log h there."""
    noise = 2 * torch.finfo(log_q.dtype).eps
    for _ in range(_INNER):
        value, slope = _log_h_and_slope(log_q, gamma)
        new = (log_q + (log_h_value - value) / slope).clamp(max=_HALF)
        moved = (new - log_q).abs() > noise * (1 - new)
        log_q = new
        if not bool(moved.any()):
            break
    return log_q, _log_h_and_slope(log_q, gamma)[1]


def _log_h_and_slope(log_q: Tensor, gamma: Gamma) -> tuple[Tensor, Tensor]:
    q = torch.exp(log_q)
    rest = 1 - q
    w = 1 - gamma * q * log_q / rest
    slope = 1 + ((gamma - 1) * q + q * (1 + gamma + gamma * log_q) / w) / rest
    return log_q - gamma * torch.log1p(-q) - torch.log(w), slope


class _Linear(NamedTuple):
    """The derivatives of log q at a solution."""

    is_top: Tensor  # (n, C)
    q: Tensor  # (n, C)
    q_top: Tensor  # (n, 1)
    u_top: Tensor  # (n, 1) 1 - q of the top class
    slope: Tensor  # (n, C) g', of the top class 1 in its place
    share: Tensor  # (n, C) b, of the top class 0
    lift: Tensor  # (n, 1) G
    by_gamma: Tensor  # (n, C)

    @property
    def total(self) -> Tensor:
        """(n, 1) the denominator of dτ."""
        return self.lift * self.share.sum(1, keepdim=True) + self.q_top


def _linearise(log_q: Tensor, gamma: Gamma) -> _Linear:
    s = class_odds(log_q)
    top = log_q.argmax(1, keepdim=True)
    is_top = torch.zeros_like(log_q, dtype=torch.bool).scatter(1, top, True)
    of_top = s.gather(1, top)
    safe = torch.where(is_top, -1.0, s).clamp(min=-1e30)
    slope = torch.where(is_top, 1.0, log_h_slope(safe, gamma) / torch.sigmoid(-safe))
    log_share = torch.where(is_top, -1.0, logsigmoid(safe) - logsigmoid(-of_top))
    share = torch.where(is_top, 0.0, torch.exp(log_share) / slope)
    by_gamma = log_h_by_gamma(torch.where(is_top, of_top, safe), gamma)
    q_top, u_top = torch.sigmoid(of_top), torch.sigmoid(-of_top)
    return _Linear(is_top, torch.sigmoid(s), q_top, u_top, slope, share, log_h_slope(of_top, gamma), by_gamma)


def _pull(at: _Linear, by_log_q: Tensor) -> Tensor:
    """Return the gradient in the logits (n, C) for one in log q."""
    own = torch.where(at.is_top, 0.0, by_log_q / at.slope)
    of_top = torch.where(at.is_top, by_log_q, 0.0).sum(1, keepdim=True)
    mass = (at.lift * own.sum(1, keepdim=True) + of_top * at.u_top) / at.total
    others = own - at.share * mass
    # a constant added to the logits changes nothing: the gradient sums to 0
    return torch.where(at.is_top, -others.sum(1, keepdim=True), others)


def _push(at: _Linear, logits: Tensor) -> Tensor:
    """Return the change (n, C) of log q for a change of the logits."""
    own = torch.where(at.is_top, logits, 0.0).sum(1, keepdim=True)
    shift = (at.lift * (at.share * logits).sum(1, keepdim=True) + at.q_top * own) / at.total
    others = torch.where(at.is_top, 0.0, (logits - shift) / at.slope)
    return torch.where(at.is_top, -(at.q * others).sum(1, keepdim=True) / at.q_top, others)


class _InverseFocalMap(torch.autograd.Function):
    """log q from logits and γ (a number, or a tensor of shape () or (n, 1)).

    The backward pass is written in log q, this function's own output, so that its derivative is found by the
    same rule again.
    """

    @staticmethod
    def forward(logits: Tensor, gamma: Gamma) -> Tensor:
        return solve(logits, gamma)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Gamma], output: Tensor) -> None:
        gamma = inputs[1]
        ctx.gamma = None if isinstance(gamma, Tensor) else gamma
        saved = (output, gamma) if isinstance(gamma, Tensor) else (output,)
        ctx.save_for_backward(*saved)
        ctx.save_for_forward(*saved)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor | None]:
        log_q, *rest = ctx.saved_tensors
        gamma = rest[0] if rest else ctx.gamma
        found = None if torch.is_grad_enabled() else compiled_pull(log_q, gradients[0], gamma)
        if found is not None:
            return found, None
        at = _linearise(log_q, gamma)
        by_logits = _pull(at, gradients[0])
        if not ctx.needs_input_grad[1]:
            return by_logits, None
        by_gamma = -(by_logits * at.by_gamma).sum(1, keepdim=True)
        return by_logits, by_gamma.sum_to_size(gamma.shape) if gamma.dim() else by_gamma.sum()

    @staticmethod
    def jvp(ctx: Any, logits: Tensor | None, gamma: Tensor | None) -> Tensor:
        log_q, *rest = ctx.saved_tensors
        at = _linearise(log_q, rest[0] if rest else ctx.gamma)
        change = torch.zeros_like(log_q) if logits is None else logits
        return _push(at, change if gamma is None else change - at.by_gamma * gamma)

    @staticmethod
    def vmap(
        info: Any, in_dims: tuple[int | None, int | None], logits: Tensor, gamma: Gamma
    ) -> tuple[Tensor, int]:
        # rows are independent: a batch of tables is a longer table, whose solution is plain tensors
        size = info.batch_size
        table = _batched(logits, in_dims[0], size)
        if isinstance(gamma, Tensor):
            spread = _batched(gamma, in_dims[1], size)
            spread = spread.reshape(size, 1, 1) if spread.dim() == 1 else spread
            gamma = spread.expand(size, table.shape[1], 1).reshape(-1, 1)
        flat = _apply(table.reshape(-1, table.shape[-1]), gamma)
        return flat.reshape(table.shape), 0


_InverseFocalMap.forward.__signature__ = inspect.signature(_InverseFocalMap.forward)  # type: ignore[attr-defined]


def _apply(logits: Tensor, gamma: Gamma) -> Tensor:
    found: Tensor = _InverseFocalMap.apply(logits, gamma)  # type: ignore[no-untyped-call]
    return found


def _batched(values: Tensor, dim: int | None, size: int) -> Tensor:
    return values.expand(size, *values.shape) if dim is None else values.movedim(dim, 0)


def inverse_log_probs(logits: Tensor, gamma: Gamma) -> Tensor:
    """Return log q (n, C) such that φ_γ(q) = softmax(logits)."""
    if not isinstance(gamma, Tensor) and gamma == 0:
        return logsigmoid(class_odds(logits))
    if torch.compiler.is_compiling():  # by a compiler that is loaded by now; loading it takes seconds
        from focalcal.nn._untraced import untraced

        found: Tensor = untraced(_apply, logits, gamma)
        return found
    return _apply(logits, gamma)
