"""Quadratic forms of the loss's curvature as functions of the parameters, to be differentiated again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

#: One for each parameter, of its shape.
Tensors = tuple[Tensor, ...]


def hessian_form(value: Tensor, tensors: Tensors) -> Callable[[Tensors], Tensor]:
    """Return the function v ↦ vᵀ H v of the Hessian H."""
    slopes = _gradients(value, tensors)

    def quadratic(v: Tensors) -> Tensor:
        along = _dot(slopes, v)
        return _dot(_gradients(along, tensors), v) if along.requires_grad else along.detach() * 0

    return quadratic


def ggn_form(value: Tensor, logits: Tensor, tensors: Tensors) -> Callable[[Tensors], Tensor]:
    """Return the function v ↦ (J v)ᵀ (∇²_z L) (J v)."""
    (slope,) = torch.autograd.grad(value, logits, create_graph=True)
    upstream = torch.zeros_like(logits, requires_grad=True)
    pulled = _gradients(logits, tensors, upstream)  # Jᵀu, linear in u: its own derivative along v is J v

    def quadratic(v: Tensors) -> Tensor:
        (pushed,) = torch.autograd.grad(_dot(pulled, v), upstream, create_graph=True)
        if not slope.requires_grad:
            return torch.zeros((), device=logits.device)
        (bent,) = torch.autograd.grad(
            slope, logits, pushed, create_graph=True, allow_unused=True, materialize_grads=True
        )
        return (pushed * bent).sum()

    return quadratic


def _gradients(of: Tensor, tensors: Tensors, upstream: Tensor | None = None) -> Tensors:
    return torch.autograd.grad(
        of, tensors, upstream, create_graph=True, allow_unused=True, materialize_grads=True
    )


def signs_like(like: Tensor, generator: torch.Generator) -> Tensor:
    """Return −1 and 1 of a tensor's shape, drawn on its device."""
    return torch.empty_like(like, requires_grad=False).bernoulli_(0.5, generator=generator) * 2 - 1


def _dot(a: Tensors, b: Tensors) -> Tensor:
    return torch.stack([(one * other).sum() for one, other in zip(a, b, strict=True)]).sum()
