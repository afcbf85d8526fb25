"""Shapes, targets, weights, ignored rows, label smoothing and reductions, all as cross-entropy has them."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import NamedTuple

import torch
from torch import Tensor

#: 'none', 'mean' or 'sum'.
Reduction = str

#: A focal parameter: one number, a tensor, or a schedule that maps log q (detached, nats) to γ.
GammaLike = float | Tensor | Callable[[Tensor], Tensor]


class Rows(NamedTuple):
    """Logits and targets, one row a sample (or pixel), in float32 or float64."""

    logits: Tensor  # (n, C)
    codes: Tensor | None  # (n,) labels as given
    soft: Tensor | None  # (n, C)
    weight: Tensor | None  # (C,)
    shape: tuple[int, ...]  # of the target, or of its rows
    ignore_index: int

    @property
    def valid(self) -> Tensor | None:
        """(n,) whether a label is not ignored."""
        return None if self.codes is None else self.codes != self.ignore_index

    @property
    def label(self) -> Tensor | None:
        """(n,) labels, 0 where ignored."""
        return None if self.codes is None or self.valid is None else self.codes * self.valid

    def fold(self, values: Tensor, name: str) -> Tensor:
        """Lay γ out against the rows: (C,) stays one a class; (N, 1, d1, …) becomes (n, 1)."""
        n_classes = self.logits.shape[1]
        if values.dim() == 0 or values.shape == (n_classes,):
            return values
        expected = (*self.shape[:1], 1, *self.shape[1:])
        if tuple(values.shape) != expected:
            raise ValueError(
                f"Expected {name} of shape (), ({n_classes},) for one a class or {expected} one a sample, "
                f"got {tuple(values.shape)}. Pass {name}.unsqueeze(1) for one a sample."
            )
        return values.reshape(-1, 1)


def arrange(
    logits: Tensor, target: Tensor, weight: Tensor | None, ignore_index: int, label_smoothing: float
) -> Rows:
    """Check and flatten what a loss was given; half precision becomes float32."""
    shape = _check(logits, target, weight, label_smoothing)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    if logits.dim() == 1:
        logits, target = logits.unsqueeze(0), target.unsqueeze(0)
    if weight is not None:
        weight = weight.to(logits.dtype)
    if target.is_floating_point():
        flat = _flat(target).to(logits.dtype)
        if label_smoothing:
            flat = flat * (1 - label_smoothing) + label_smoothing / logits.shape[1]
        return Rows(_flat(logits), None, flat, weight, shape, ignore_index)
    codes = target if target.dim() == 1 else target.reshape(-1)
    return Rows(_flat(logits), codes.long(), None, weight, shape, ignore_index)


def reduce_label_losses(rows: Rows, losses: Tensor, reduction: Reduction) -> Tensor:
    """Weigh and reduce the losses (n,) of the labels."""
    label, valid = rows.label, rows.valid
    if label is None or valid is None:
        raise TypeError("Expected class indices.")
    losses = torch.where(valid, losses, 0.0)
    if rows.weight is None:
        return _reduced(losses, valid, rows.shape, reduction)
    share = rows.weight[label] * valid
    return _reduced(losses * share, share, rows.shape, reduction)


def reduce_class_losses(rows: Rows, losses: Tensor, label_smoothing: float, reduction: Reduction) -> Tensor:
    """Weigh and reduce the losses (n, C) of every class, for soft targets or label smoothing."""
    weighted = losses if rows.weight is None else losses * rows.weight
    if rows.soft is not None:
        # a class without target mass costs nothing, even where its loss is infinite
        per_row = torch.where(rows.soft == 0, 0.0, rows.soft * weighted).sum(1)
        return reduce_rows(rows, per_row, reduction)
    label, valid = rows.label, rows.valid
    if label is None or valid is None:
        raise TypeError("Expected class indices.")
    own = weighted.gather(1, label.unsqueeze(1)).squeeze(1)
    per_row = (1 - label_smoothing) * own + label_smoothing / losses.shape[1] * weighted.sum(1)
    share = valid.to(losses.dtype) if rows.weight is None else rows.weight[label] * valid
    return _reduced(torch.where(valid, per_row, 0.0), share, rows.shape, reduction)


def reduce_rows(rows: Rows, losses: Tensor, reduction: Reduction) -> Tensor:
    """Reduce the losses (n,) of rows that count alike."""
    return losses.mean() if reduction == "mean" else _reduced(losses, losses, rows.shape, reduction)


def _reduced(losses: Tensor, share: Tensor, shape: tuple[int, ...], reduction: Reduction) -> Tensor:
    if reduction == "none":
        return losses.reshape(shape)
    return losses.sum() / share.sum() if reduction == "mean" else losses.sum()


def check_reduction(reduction: str) -> None:
    """Raise for a reduction that torch does not know."""
    if reduction not in ("none", "mean", "sum"):
        raise ValueError(
            f"Expected reduction 'none', 'mean' or 'sum', got {reduction!r}. Choose one of them."
        )


def check_gamma(gamma: object, lowest: float) -> None:
    """Raise for a number γ below the lowest; tensors are not read, which would wait for the device."""
    if isinstance(gamma, Real) and not lowest <= float(gamma) < float("inf"):
        raise ValueError(f"Expected a finite gamma >= {lowest:g}, got {gamma}. Choose a larger gamma.")


def _flat(values: Tensor) -> Tensor:
    return values if values.dim() == 2 else values.movedim(1, -1).reshape(-1, values.shape[1])


def _check(logits: Tensor, target: Tensor, weight: Tensor | None, label_smoothing: float) -> tuple[int, ...]:
    """Return the shape of the target, or of the rows of a soft one."""
    size = logits.shape
    if not logits.is_floating_point() or logits.dim() == 0:
        raise ValueError(
            f"Expected floating-point logits of shape (C,) or (N, C, …), got {logits.dtype} of shape "
            f"{tuple(logits.shape)}. Pass scores before the softmax."
        )
    shape = size[:0] if len(size) == 1 else size[:1] + size[2:]
    expected = size if target.is_floating_point() else shape
    if target.shape != expected:
        raise ValueError(
            f"Expected a target of shape {tuple(expected)} for {target.dtype} and logits of shape "
            f"{tuple(logits.shape)}, got {tuple(target.shape)}. Pass class indices as integers, or "
            "probabilities of the logits' shape as floats."
        )
    n_classes = size[0 if len(size) == 1 else 1]
    if weight is not None and weight.shape != (n_classes,):
        raise ValueError(
            f"Expected weight of shape ({n_classes},), got {tuple(weight.shape)}. Pass one weight a class."
        )
    if not 0 <= label_smoothing <= 1:
        raise ValueError(
            f"Expected label_smoothing in [0, 1], got {label_smoothing}. Choose 0.1, for example."
        )
    return shape
