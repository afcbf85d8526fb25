"""What a model says of a loader's batches: scores and labels in rows, in memory or in a temporary file."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from focalcal._validate import Input, check_block
from focalcal.nn._batches import Unpack, called, device_of, logits_of, moved, parts


class RowStore:
    """Scores with labels, collected block by block.

    Scores that would take more than `memory` bytes, of which joining them takes half, are written to a
    temporary file, which the system removes when it is closed, and are read from there by the page.
    """

    def __init__(self, kind: Input, memory: int) -> None:
        self._kind, self._memory = kind, memory
        self._blocks: list[NDArray[Any]] = []
        self._labels: list[NDArray[np.int64]] = []
        self._file: Any = None
        self._like: NDArray[Any] | None = None  # no rows, of the dtype and width of all
        self.n = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._blocks.clear()
        if self._file is not None:
            self._file.close()

    def add(self, scores: NDArray[Any], labels: NDArray[np.int64]) -> None:
        """Check and keep a block of scores (b, K) with labels (b,)."""
        like = scores[:0] if self._like is None else self._like
        if scores.shape[1] != like.shape[1] or scores.dtype != like.dtype:
            raise ValueError(
                f"Expected {like.shape[1]} classes in {like.dtype} in every batch, as in the first, got "
                f"{scores.shape[1]} in {scores.dtype}. Let the model return the same kind of output always."
            )
        if not len(scores):
            return
        check_block(scores, self._kind, "the model's output", self.n)
        self._like = like
        self._blocks.append(scores)
        self._labels.append(labels)
        self.n += len(scores)
        # joined, blocks in memory take as much again
        if self._file is not None or 2 * self.n * scores.shape[1] * scores.itemsize > self._memory:
            self._spill()

    def _spill(self) -> None:
        if self._file is None:
            self._file = tempfile.TemporaryFile(prefix="focalcal-")  # noqa: SIM115 - closed with the store
        for block in self._blocks:
            self._file.write(block.data)
        self._blocks.clear()

    def rows(self) -> tuple[NDArray[Any], NDArray[np.int64]]:
        """Return all scores (n, K) and labels (n,)."""
        if self._like is None:
            raise ValueError(
                "Expected rows to fit on, got none: the loader is empty or was read before, or every label "
                "is ignore_index. Pass a loader of labelled data."
            )
        labels = np.concatenate(self._labels)
        if self._file is None:
            return np.concatenate(self._blocks), labels
        self._file.flush()
        shape = (self.n, self._like.shape[1])
        return np.memmap(self._file, self._like.dtype, mode="r", shape=shape), labels


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Put a model into eval mode without gradients; give every submodule its mode back."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        # not inference_mode: what a model keeps of a forward pass must stay usable in training
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def collect(
    model: torch.nn.Module,
    loader: Iterable[Any],
    store: RowStore,
    device: torch.device | str | None,
    unpack: Unpack | None,
    ignore_index: int,
) -> None:
    """Run a model over a loader and keep its outputs with their labels."""
    device = device_of(model) if device is None else device
    with evaluating(model):
        for batch in loader:
            inputs, labels = (unpack or parts)(batch)
            scores = logits_of(called(model, moved(inputs, device)))
            store.add(*_as_rows(scores.detach(), _as_labels(labels), ignore_index))


def _as_labels(labels: Any) -> Tensor:
    try:
        return torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(
            f"Expected labels as a tensor of class indices, got {type(labels).__name__}: {error}."
        ) from error


def _as_rows(scores: Tensor, labels: Tensor, ignore_index: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return scores (N, K, d1, …) with labels (N, d1, …) as labelled rows on the CPU."""
    if scores.dim() < 2 or scores.shape[1] < 2 or labels.shape != scores.shape[:1] + scores.shape[2:]:
        raise ValueError(
            "Expected logits of shape (N, K, d1, …), K >= 2, with labels of shape (N, d1, …), got "
            f"{tuple(scores.shape)} and {tuple(labels.shape)}. Classes come second: where they come last, "
            "let the model return logits.movedim(-1, 1); of one logit z for two classes, "
            "torch.cat([torch.zeros_like(z), z], 1)."
        )
    if labels.is_floating_point() or not scores.is_floating_point():
        raise ValueError(
            f"Expected floating-point logits and labels that are integers, got {scores.dtype} and "
            f"{labels.dtype}. Pass class indices, and scores before any rounding."
        )
    labels = labels.detach().reshape(-1).to("cpu", torch.int64)
    # NumPy has no bfloat16, of which float32 loses nothing
    scores = scores.float() if scores.dtype == torch.bfloat16 else scores
    table = scores.movedim(1, -1).reshape(-1, scores.shape[1]).cpu()
    kept = labels != ignore_index
    if not kept.all():
        table, labels = table[kept], labels[kept]
    if len(labels) and not 0 <= labels.min() <= labels.max() < scores.shape[1]:
        raise ValueError(
            f"Expected labels in 0..{scores.shape[1] - 1}, the columns of the model's output, got "
            f"{labels.min()}..{labels.max()}. Pass as ignore_index the label of what is to be left out."
        )
    # copies: the batch may be a view of something larger, or written to again
    return np.array(table.numpy(), order="C"), np.array(labels.numpy())
