r"""Log-odds of one class, or of all, from logits: exact however confident the row is.

:math:`1-q` is summed from the other classes, never subtracted from one:
:math:`s_y = \log q_y - \log(1-q_y) = z_y - \log\sum_{j \ne y} e^{z_j}`.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

#: Stands for a class that is left out; far below every logit, and finite so that nothing becomes NaN.
_LEFT_OUT = -1e30


class _LabelOdds(torch.autograd.Function):
    r"""Log-odds of the label, and the distribution π over the other classes given that it is none of them.

    :math:`\partial s/\partial z = e_y - \pi` and
    :math:`\partial\pi_k/\partial z_j = \pi_k(\delta_{kj} - \pi_j)`: π is an output, so that the
    backward pass, written in π, can be differentiated as often as one likes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        index = label.unsqueeze(1)
        rest = logits.scatter(1, index, _LEFT_OUT)
        share = torch.softmax(rest, 1)
        # share of the largest = exp(largest - logsumexp), at least 1/K: its logarithm loses nothing
        log_rest = rest.amax(1) - share.amax(1).log()
        return logits.gather(1, index).squeeze(1) - log_rest, share

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(inputs[1], output[1])
        ctx.save_for_forward(inputs[1], output[1])
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        by_odds, by_share = gradients
        label, share = ctx.saved_tensors
        index = label.unsqueeze(1)
        found = None
        if by_odds is not None:
            column = by_odds.unsqueeze(1)
            found = (share * -column).scatter_add(1, index, column)
        if by_share is not None:
            more = share * (by_share - (share * by_share).sum(1, keepdim=True))
            found = more if found is None else found + more
        return found, None

    @staticmethod
    def jvp(ctx: Any, logits: Tensor, _: None) -> tuple[Tensor, Tensor]:
        label, share = ctx.saved_tensors
        mean = (share * logits).sum(1, keepdim=True)
        return (logits.gather(1, label.unsqueeze(1)) - mean).squeeze(1), share * (logits - mean)


# Function.apply asks for the signature at every call, which costs as much as the small tensors' arithmetic
_LabelOdds.forward.__signature__ = inspect.signature(_LabelOdds.forward)  # type: ignore[attr-defined]


class _RivalOdds(torch.autograd.Function):
    r"""As `_LabelOdds`, with the largest share among the classes below the label: π_j, 0 where there is none.

    :math:`\partial\pi_j/\partial z = \pi_j (e_j - \pi)`: one pass over the logits for both gradients.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        odds, share = _LabelOdds.forward(logits, label)
        own = logits.gather(1, label.unsqueeze(1))
        place = logits.masked_fill(logits >= own, _LEFT_OUT).argmax(1)
        column = place.unsqueeze(1)
        # the class found is not below the label where none is
        rival = torch.where(logits.gather(1, column) < own, share.gather(1, column), 0.0).squeeze(1)
        return odds, rival, share, place

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, ...]) -> None:
        _, rival, share, place = output
        ctx.mark_non_differentiable(place)
        ctx.save_for_backward(inputs[1], rival, share, place)
        ctx.save_for_forward(inputs[1], rival, share, place)
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, None]:
        by_odds, by_rival, by_share, _ = gradients
        label, rival, share, place = ctx.saved_tensors
        own = torch.zeros_like(rival) if by_odds is None else by_odds
        other = torch.zeros_like(rival) if by_rival is None else by_rival * rival
        found = share * -(own + other).unsqueeze(1)
        found = found.scatter_add(1, label.unsqueeze(1), own.unsqueeze(1))
        found = found.scatter_add(1, place.unsqueeze(1), other.unsqueeze(1))
        if by_share is not None:
            found = found + share * (by_share - (share * by_share).sum(1, keepdim=True))
        return found, None

    @staticmethod
    def jvp(ctx: Any, logits: Tensor, _: None) -> tuple[Tensor, Tensor, Tensor, None]:
        label, rival, share, place = ctx.saved_tensors
        moved = logits - (share * logits).sum(1, keepdim=True)
        by_label = moved.gather(1, label.unsqueeze(1)).squeeze(1)
        return by_label, rival * moved.gather(1, place.unsqueeze(1)).squeeze(1), share * moved, None


_RivalOdds.forward.__signature__ = inspect.signature(_RivalOdds.forward)  # type: ignore[attr-defined]


def label_odds(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's log-odds (n,) and the shares (n, C) of the other classes in 1 − q."""
    if torch.compiler.is_compiling():  # which does not trace forward-mode rules, and fuses these anyway
        index = label.unsqueeze(1)
        rest = logits.scatter(1, index, _LEFT_OUT)
        return logits.gather(1, index).squeeze(1) - rest.logsumexp(1), torch.softmax(rest, 1)
    found: tuple[Tensor, Tensor] = _LabelOdds.apply(logits, label)  # type: ignore[no-untyped-call]
    return found


def rival_odds(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's log-odds (n,) and the largest share (n,) of a class below it."""
    if torch.compiler.is_compiling():
        s, share = label_odds(logits, label)
        below = logits < logits.gather(1, label.unsqueeze(1))
        return s, (share * below).amax(1)
    found: tuple[Tensor, ...] = _RivalOdds.apply(logits, label)  # type: ignore[no-untyped-call]
    return found[0], found[1]


def class_odds(logits: Tensor) -> Tensor:
    """Return the log-odds (n, C) of every class."""
    top = logits.argmax(1, keepdim=True)
    highest = logits.gather(1, top)
    of_top = highest - logits.scatter(1, top, _LEFT_OUT).logsumexp(1, keepdim=True)
    log_q = logits - highest + logsigmoid(of_top)
    is_top = torch.zeros_like(logits, dtype=torch.bool).scatter(1, top, True)
    # every other class has q of at most one half
    log_q = torch.where(is_top, -1.0, log_q)
    return torch.where(is_top, of_top, log_q - torch.log1p(-torch.exp(log_q)))


def log_softmax(logits: Tensor) -> Tensor:
    """Return log q (n, C), exact for the top class too: −1e−30 is not rounded to 0."""
    return logsigmoid(class_odds(logits))
