"""Graphs of batches that are kept from one pass to the next, as far as memory allows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from focalcal.curvature.surface.passes import Batch

if TYPE_CHECKING:
    from focalcal.curvature.surface.surface import LossSurface


class Kept:
    """Batches with their graphs, as many as take at most `memory` bytes."""

    def __init__(self, memory: float) -> None:
        self.memory = memory
        self._batches: dict[int, Batch] = {}
        self._bytes: dict[int, int] = {}
        self._count = -1  # of all batches, once they have been read
        self._versions: list[tuple[int, int]] = []  # of the parameters that the graphs were made with
        self._buffers: list[Tensor] = []

    def batches(self, surface: LossSurface, read: Iterable[tuple[int, Any, Any]]) -> Iterator[Batch]:
        """Yield all batches, the kept ones with what was made of them in earlier passes."""
        self._check_unchanged(surface.model)
        shared = {t.untyped_storage().data_ptr() for t in surface.model.parameters()}
        if len(self._batches) == self._count:
            for batch in list(self._batches.values()):
                yield from self._counted(batch, shared)
            return
        count = 0
        for index, inputs, target in read:
            count += 1
            yield from self._counted(self._known(Batch(surface, index, inputs, target)), shared)
        self._count = count

    def _check_unchanged(self, model: torch.nn.Module) -> None:
        """Check that the kept graphs are the model's; where hooks see what is saved torch does not look."""
        versions = [(t.data_ptr(), t._version) for t in model.parameters()]
        buffers = [buffer.clone() for buffer in model.buffers()]
        same = versions == self._versions and all(map(torch.equal, buffers, self._buffers))
        if self._batches and not same:
            raise ValueError(
                "Expected a model that stays as it is from pass to pass, got one with other parameters or "
                "buffers than those its graphs were kept with. Leave keeping(...) before you change it."
            )
        self._versions, self._buffers = versions, buffers

    def _known(self, batch: Batch) -> Batch:
        kept = self._batches.get(batch.index, batch)
        if kept is not batch and not all(map(torch.equal, _tensors(kept), _tensors(batch))):
            raise ValueError(
                "Expected the same batches in every pass, got others: the loader shuffles, or draws inputs "
                "anew. Pass one that does not, or memory=0, which keeps nothing from one pass to the next."
            )
        return kept

    def _counted(self, batch: Batch, shared: set[int]) -> Iterator[Batch]:
        """Yield a batch, count what its graphs came to hold, and forget it where that is too much."""
        yield batch
        size = sum(count for place, count in batch.held.items() if place not in shared)
        self._batches.pop(batch.index, None)
        self._bytes.pop(batch.index, None)
        if size + sum(self._bytes.values()) <= self.memory:
            self._batches[batch.index], self._bytes[batch.index] = batch, size


def _tensors(batch: Batch) -> list[Tensor]:
    return [leaf for leaf in tree_leaves((batch.inputs, batch.target)) if isinstance(leaf, Tensor)]
