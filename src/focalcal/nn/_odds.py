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
        return logits.gather(1, index).squeeze(1) - log_rest, share.scatter(1, index, 0.0)

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


def label_odds(logits: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
    """Return the label's log-odds (n,) and the shares (n, C) of the other classes in 1 − q."""
    found: tuple[Tensor, Tensor] = _LabelOdds.apply(logits, label)  # type: ignore[no-untyped-call]
    return found


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
