"""Squared norms of each row's own backward passes: what a sum over a batch would mix."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from focalcal.curvature.surface.passes import Batch, Swapped
from focalcal.nn._batches import called, logits_of

#: Bytes that the gradients of rows which are worked on together may take: of a ResNet-20 4 times as many took
#: half as long again, and a quarter of it a sixth.
_TOGETHER = 1 << 26

#: What torch.func raises where a model has operations that it cannot transform.
_CANNOT = (RuntimeError, NotImplementedError, TypeError, ValueError, AttributeError)


def squared_pulls(batch: Batch, cotangents: Tensor, rows: Tensor | None = None) -> Tensor:
    """Return ‖Jᵀu‖² for each row, cotangent and parameter tensor, float64 (n, m, tensors).

    Parameters
    ----------
    batch : Batch
        In eval mode: a row's logits depend on its own inputs only.
    cotangents : Tensor
        Of shape (n, m) + the shape of a row's logits.
    rows : Tensor, optional
        Indices (n,) of the rows in the batch. Default: all.
    """
    inputs = batch.inputs if rows is None else tree_map(lambda t: _taken(t, rows), batch.inputs)
    if not len(cotangents):
        shape = (*cotangents.shape[:2], len(batch.surface.parameters.tensors))
        return cotangents.new_zeros(shape, dtype=torch.float64)
    try:
        return _together(batch, inputs, cotangents)
    except _CANNOT:
        return torch.cat([_alone(batch, inputs, i, cotangents[i]) for i in range(len(cotangents))])


def _together(batch: Batch, inputs: Any, cotangents: Tensor) -> Tensor:
    """All rows at once, as far as memory allows: vectorised over rows and cotangents."""
    parameters, model = batch.surface.parameters, batch.surface.model
    values = {name: t.detach() for name, t in zip(parameters.names, parameters.tensors, strict=True)}

    def of_row(row: Any, upstream: Tensor) -> Tensor:
        single = tree_map(lambda t: t.unsqueeze(0) if isinstance(t, Tensor) else t, row)

        def logits(values: dict[str, Tensor]) -> Tensor:
            return logits_of(called(Swapped(model, values), single)).squeeze(0)

        pull = torch.func.vjp(logits, values)[1]
        found = torch.func.vmap(lambda u: pull(u)[0])(upstream)
        return torch.stack([_squared(found[name].flatten(1), 1) for name in values], 1)

    each = sum(t.numel() * t.element_size() for t in parameters.tensors) * cotangents.shape[1]
    chunk = max(1, _TOGETHER // each)
    with torch.no_grad():
        found: Tensor = torch.func.vmap(of_row, chunk_size=chunk)(inputs, cotangents)
    return found


def _alone(batch: Batch, inputs: Any, i: int, cotangents: Tensor) -> Tensor:
    """One row by itself, as the model is."""
    row = tree_map(lambda t: _taken(t, slice(i, i + 1)), inputs)
    logits = logits_of(called(batch.surface.model, row))
    found = [batch.pulled(logits, u.unsqueeze(0), retain_graph=True) for u in cotangents]
    return torch.stack([torch.stack([_squared(t.flatten(), 0) for t in one]) for one in found])[None]


def _squared(tensor: Tensor, dim: int) -> Tensor:
    # a float64 norm of float32 takes five times as long, and one row's rounding errors are 4e-7
    precision = torch.promote_types(tensor.dtype, torch.float32)
    norm: Tensor = torch.linalg.vector_norm(tensor, dim=dim, dtype=precision)
    return norm.double().square()


def _taken(value: Any, rows: Any) -> Any:
    return value[rows] if isinstance(value, Tensor) else value
