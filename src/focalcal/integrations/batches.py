"""Batches of tensors as rows in NumPy."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._validate import as_scores, check_pixels


@dataclass(frozen=True, eq=False)
class Batch:
    """The rows of a batch whose labels count."""

    scores: NDArray[Any]  # (n, K), or (n,) for two classes
    labels: NDArray[Any]  # (n,)
    cluster: NDArray[np.int64] | None  # (n,) number of the row's image in the batch; None for plain rows

    @property
    def unit(self) -> NDArray[np.int64]:
        """Number of what is independent of the others, (n,): the image, or the row itself."""
        return np.arange(len(self.labels)) if self.cluster is None else self.cluster

    def part(self, chosen: NDArray[np.bool_]) -> Batch:
        """Return some of the rows."""
        cluster = None if self.cluster is None else self.cluster[chosen]
        return Batch(self.scores[chosen], self.labels[chosen], cluster)


def as_batch(scores: Any, labels: Any, ignore_index: int) -> Batch:
    """Return tensors or arrays (N, K, d1, …) with labels (N, d1, …) as rows in NumPy, on the CPU.

    bfloat16, which NumPy does not have, becomes float32; every other precision stays.
    """
    scores, labels = as_numpy(scores), as_numpy(labels)
    if scores.ndim == 0:
        as_scores(scores, "scores")  # which says what is wrong
    check_pixels(scores.shape, labels.shape)
    cluster = None
    if scores.ndim > 2:
        cluster = np.repeat(np.arange(len(labels)), math.prod(labels.shape[1:]))
        scores, labels = np.moveaxis(scores, 1, -1).reshape(-1, scores.shape[1]), labels.reshape(-1)
    batch = Batch(scores, labels, cluster)
    kept = labels != ignore_index
    return batch if kept.all() else batch.part(kept)


def as_numpy(values: Any) -> NDArray[Any]:
    """Return an array or a tensor of any device and dtype as an array."""
    if hasattr(values, "detach"):
        values = values.detach()
        values = (values.float() if str(values.dtype) == "torch.bfloat16" else values).cpu().numpy()
    return np.asarray(values)


def stacked(batches: list[Batch]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the scores and the labels of all batches."""
    return np.concatenate([one.scores for one in batches]), np.concatenate([one.labels for one in batches])


def halves_of(batches: Iterable[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Return every other row, or every other image, and the rest."""
    halves: tuple[list[Batch], list[Batch]] = [], []
    first = 0
    for batch in batches:
        _, unit = np.unique(batch.unit, return_inverse=True)
        for parity, half in enumerate(halves):
            chosen = (first + unit) % 2 == parity
            if chosen.any():
                half.append(batch.part(chosen))
        first += int(unit.max(initial=-1)) + 1
    return halves
