r"""Quadratic forms of each row's own curvature, by forward mode: no backward pass, and no sum over rows.

Along a direction v the logits of row i move by :math:`\dot z_i = J_i v` and bend by :math:`\ddot z_i`:

.. math:: v^\top \nabla^2 \ell_i\, v
          = \dot z_i^\top (\nabla_z^2 \ell_i)\, \dot z_i + \nabla_z \ell_i \cdot \ddot z_i ,

the Gauss–Newton part and the residual, which is zero where the logits are linear along v.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from focalcal.curvature.rows.logit_hessian import is_known, logit_hessian
from focalcal.curvature.rows.moments import moments
from focalcal.curvature.surface.passes import Batch, Swapped, load_forward_mode
from focalcal.curvature.surface.totals import Loss, batch_total


@dataclass(frozen=True)
class RowForms:
    """Moments of the rows' quadratic forms for vectors (P, m): m of the GGN, then m of the residual."""

    loss: Loss
    vectors: Tensor
    residual: bool = True

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        """Return the moments, NaN where the model has operations without forward mode, and the weight."""
        weight = row_weights(self.loss, batch)
        try:
            forms = torch.stack(self._forms(batch), 1)
        except (RuntimeError, NotImplementedError):
            count = self.vectors.shape[1] * (2 if self.residual else 1)
            forms = torch.full((len(weight), count), torch.nan, dtype=torch.float64, device=weight.device)
        return moments(weight, forms), float(weight.sum())

    def _forms(self, batch: Batch) -> list[Tensor]:
        names, found, bent = batch.surface.parameters.names, [], []
        for j in range(self.vectors.shape[1]):
            pieces = batch.surface.parameters.split(self.vectors[:, j])
            along = dict(zip(names, pieces, strict=True))
            logits, first, second = _taylor(batch, along, self.residual)
            at = logits.detach().requires_grad_()
            total, _ = batch_total(self.loss, at, batch.target)
            (slope,) = torch.autograd.grad(total, at, create_graph=True)
            form = torch.zeros_like(first)
            if slope.requires_grad:
                (form,) = torch.autograd.grad(slope, at, first, materialize_grads=True)
            found.append(_by_row(form * first))
            if self.residual:
                bent.append(_by_row(slope.detach() * second))
        return found + bent


def row_weights(loss: Loss, batch: Batch) -> Tensor:
    """Return what each row of a batch weighs in the mean (n,): where it is not known, the same."""
    logits = batch.logits.detach()
    if is_known(loss) and not batch.target.is_floating_point():
        return _by_row(logit_hessian(loss, logits, batch.target).weight.reshape(len(logits), -1))
    weight = batch_total(loss, logits, batch.target)[1]
    return torch.full((len(logits),), weight / len(logits), dtype=torch.float64, device=logits.device)


def _by_row(numbers: Tensor) -> Tensor:
    return numbers.detach().double().flatten(1).sum(1)


def _taylor(batch: Batch, along: Mapping[str, Tensor], second: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Return the logits with their first and second derivative along a direction."""
    surface = batch.surface
    parameters = surface.parameters
    values = {name: t.detach() for name, t in zip(parameters.names, parameters.tensors, strict=True)}

    def logits(values: dict[str, Tensor]) -> Tensor:
        return batch.logits_by(Swapped(surface.model, values))

    def first(values: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        moved: tuple[Tensor, Tensor] = _jvp(logits, values, along)
        return moved

    load_forward_mode()
    with torch.no_grad():
        if not second:
            return (*first(values), torch.zeros(()))
        (found, moved), (_, bent) = _jvp(first, values, along)
    return found, moved, bent


def _jvp(function: Any, values: Any, along: Any) -> Any:
    return torch.func.jvp(function, (values,), (along,))
