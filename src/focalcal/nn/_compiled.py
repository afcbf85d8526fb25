"""Losses of class indices by the compiled loops: on the CPU, one pass over the logits each way.

Second derivatives, transforms, compilers, other devices and odd values (NaN, labels out of range) are left to
the formulas in torch, which the loops equal.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from focalcal import kernels
from focalcal.nn._curves import Gamma
from focalcal.nn._reduction import GammaLike, Reduction, Rows

#: Curves and reductions, as loops.h numbers them; a FOCAL curve with γ < 0 is the inverse focal one of |γ|.
FOCAL, INVERSE, DUAL, BRIER = range(4)
_REDUCTIONS = {"mean": 0, "sum": 1, "none": 2}

#: Numbers that the loops keep of a row.
_KEPT = 5


@dataclass(frozen=True)
class Steps:
    """γ as a step function of the label's probability: `gammas[b]` from `edges[b - 1]` on."""

    edges: Tensor  # (bins - 1,)
    gammas: Tensor  # (bins,)

    def steps(self, _: torch.dtype) -> Steps | None:
        """Return γ as the compiled loops take it: in float64 on the CPU, or None."""
        if not self.gammas.is_cpu:
            return None
        return Steps(self.edges.double().contiguous(), self.gammas.double().contiguous())

    def __call__(self, log_q: Tensor) -> Tensor:
        """Return γ for log-probabilities of any shape."""
        place = torch.bucketize(log_q.exp(), self.edges.to(log_q.dtype), right=True)
        return self.gammas.to(log_q.dtype)[place]


class _LeftToTorch(Exception):
    """The loops met values about which torch says what is to be said."""


def compiled_loss(
    kind: int, gamma: GammaLike, rows: Rows, reduction: Reduction, formula: Callable[[Rows], Tensor]
) -> Tensor:
    """Return the reduced loss, by the loops where they serve, else by its `formula` in torch."""
    if torch.compiler.is_compiling():
        return formula(rows)
    known = _known(gamma, rows.logits.dtype) if _serves(rows) else None
    if known is not None:
        try:
            call = (kind, known, rows, reduction, formula)  # every argument on its own would be unwrapped
            found: Tensor = _CompiledLoss.apply(rows.logits, rows.codes, call)  # type: ignore[no-untyped-call]
        except _LeftToTorch:
            _check_labels(rows)
        else:
            return found
    return formula(rows)


def _check_labels(rows: Rows) -> None:
    """Raise for labels that are no columns; torch would name an index of its own."""
    if rows.label is None:
        return
    n_classes = rows.logits.shape[1]
    wrong = rows.label[(rows.label < 0) | (rows.label >= n_classes)]
    if len(wrong):
        raise ValueError(
            f"Expected labels from 0 to {n_classes - 1}, the logits' columns, or ignore_index="
            f"{rows.ignore_index}, got {int(wrong[0])}. Check how the labels are numbered."
        )


def _known(gamma: GammaLike, dtype: torch.dtype) -> float | Steps | None:
    """Return γ as the loops take it, or None."""
    if isinstance(gamma, (int, float)):
        return float(gamma) if gamma >= 0 else None
    steps = getattr(gamma, "steps", None)
    return steps(dtype) if steps else None


def compiled_inverse(logits: Tensor, gamma: Gamma) -> Tensor | None:
    """Return log q (n, C) with φ_γ(q) = softmax(logits), or None where the loops do not serve."""
    return _inverse("inverse_rows", logits, None, gamma)


def compiled_pull(log_q: Tensor, by_log_q: Tensor, gamma: Gamma) -> Tensor | None:
    """Return its gradient in the logits (n, C) for one in log q, or None where the loops do not serve."""
    return _inverse("inverse_pull", log_q, by_log_q.contiguous(), gamma)


def _inverse(name: str, rows: Tensor, upstream: Tensor | None, gamma: Gamma) -> Tensor | None:
    if torch.compiler.is_compiling() or isinstance(gamma, Tensor) or gamma < 0 or not _plain(rows):
        return None
    if upstream is not None and not _in_memory(upstream):
        return None
    out, double = torch.empty_like(rows), rows.dtype == torch.float64
    addresses = rows.data_ptr(), 0 if upstream is None else upstream.data_ptr(), out.data_ptr()
    done = getattr(kernels.compiled(), name)(double, *rows.shape, gamma, *addresses)
    return out if done else None


def _serves(rows: Rows) -> bool:
    if not _plain(rows.logits) or rows.codes is None or not _in_memory(rows.codes):
        return False
    weight = rows.weight
    return weight is None or (_in_memory(weight) and weight.is_contiguous() and not weight.requires_grad)


def _plain(values: Tensor) -> bool:
    """Return whether the values lie in this process's memory, and nothing but autograd follows them."""
    if kernels.compiled() is None or not _in_memory(values) or not values.is_contiguous():
        return False
    return not _followed()


def _followed() -> bool:
    """Return whether forward mode, function transforms, dispatch modes or a trace follow what is done."""
    return bool(
        forward_ad._current_level >= 0
        or torch._C._is_tracing()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._functorch.peek_interpreter_stack() is not None
    )


def _in_memory(values: Tensor) -> bool:
    """Return whether the values are what lies at their address, in this process's memory."""
    if type(values) not in (Tensor, torch.nn.Parameter) or not values.is_cpu:
        return False
    # batches of vmap have no storage; a view may be negated and zeros left out until they are read
    return torch._C._has_storage(values) and not values.is_neg() and not values._is_zerotensor()


class _CompiledLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        codes: Tensor,
        call: tuple[int, float | Steps, Rows, Reduction, Callable[[Rows], Tensor]],
    ) -> Tensor:
        kind, gamma, rows, reduction, formula = call
        n, n_classes = logits.shape
        codes, weight, double = codes.contiguous(), rows.weight, logits.dtype == torch.float64
        kept = torch.empty(n * _KEPT + 1, dtype=torch.float64, device="cpu")
        out = torch.empty(rows.shape if reduction == "none" else (), dtype=logits.dtype, device="cpu")
        steps = gamma if isinstance(gamma, Steps) else None
        head = (double, n, n_classes, kind, _REDUCTIONS[reduction])
        done = kernels.compiled().loss_forward(
            *head,
            0.0 if steps else gamma,
            len(steps.edges) if steps else 0,
            logits.data_ptr(),
            codes.data_ptr(),
            0 if weight is None else weight.data_ptr(),
            rows.ignore_index,
            steps.edges.data_ptr() if steps else 0,
            steps.gammas.data_ptr() if steps else 0,
            *(kept.data_ptr(), kept.data_ptr() + 8 * _KEPT * n, out.data_ptr(), 0, 0),
        )
        if not done:
            raise _LeftToTorch
        ctx.save_for_backward(logits, codes, weight, kept)
        # without the tensors, which backward frees
        ctx.head, ctx.shape, ctx.ignore_index, ctx.formula = head, rows.shape, rows.ignore_index, formula
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        logits, codes, weight, kept = ctx.saved_tensors
        (upstream,) = gradients
        further = torch.is_grad_enabled()  # the gradient will be differentiated
        if further or _followed() or not _in_memory(upstream):
            with torch.enable_grad():
                loss = ctx.formula(Rows(logits, codes, None, weight, ctx.shape, ctx.ignore_index))
            return *torch.autograd.grad(loss, logits, upstream, create_graph=further), None, None
        found = torch.empty_like(logits)
        if upstream.dim():
            upstream = upstream.reshape(-1)
        kernels.compiled().loss_backward(
            *ctx.head,
            *(0.0, 0, logits.data_ptr(), codes.data_ptr(), 0, ctx.ignore_index, 0, 0),
            *(kept.data_ptr(), kept.data_ptr() + 8 * _KEPT * len(codes), found.data_ptr()),
            *(upstream.data_ptr(), upstream.stride(0) if upstream.dim() else 0),
        )
        return found, None, None
