"""Validation confidences in equal-mass bins, from one process or from all ranks."""

from __future__ import annotations

import torch
from torch import Tensor, distributed

from focalcal.nn._odds import log_softmax

#: By how much rounding in half precision may lift a probability above 1.
_TOLERANCE = 0.01


def gathered(
    predictions: Tensor, target: Tensor, ignore_index: int, probabilities: bool
) -> tuple[Tensor, Tensor]:
    """Return top-label confidence and whether it is right, float64 (n,), of every rank's valid rows."""
    if target.is_floating_point() or target.shape != (predictions.shape[0], *predictions.shape[2:]):
        raise ValueError(
            f"Expected class indices of shape {(predictions.shape[0], *predictions.shape[2:])}, got "
            f"{target.dtype} of shape {tuple(target.shape)}. Pass the validation labels."
        )
    rows = predictions.detach().movedim(1, -1).reshape(-1, predictions.shape[1])
    label = target.reshape(-1)
    valid = label != ignore_index
    rows, label = rows[valid].to(_widest(rows)), label[valid]
    if len(label) and not 0 <= label.min() <= label.max() < rows.shape[1]:
        raise ValueError(
            f"Expected labels in 0..{rows.shape[1] - 1}, got {label.min()}..{label.max()}. Set ignore_index "
            "to the label of what is to be left out."
        )
    top, place = rows.max(1)
    confidence = top if probabilities else log_softmax(rows).gather(1, place.unsqueeze(1)).squeeze(1).exp()
    both = torch.stack([confidence.to(_widest(rows)), (place == label).to(_widest(rows))], 1)  # (n, 2)
    both = _from_all_ranks(both)
    if not len(both):
        raise ValueError("Expected at least one validation row, got none. Pass the validation predictions.")
    low, high = both[:, 0].min(), both[:, 0].max()
    if not (low >= 0 and high <= 1 + _TOLERANCE):  # NaN is neither
        raise ValueError(
            f"Expected confidences in [0, 1], got min={low:.6g}, max={high:.6g}. Pass logits below +inf, or "
            "probabilities with probabilities=True, without NaN."
        )
    return both[:, 0].contiguous(), both[:, 1].contiguous()


def _widest(like: Tensor) -> torch.dtype:
    return torch.float32 if like.device.type == "mps" else torch.float64


def _from_all_ranks(rows: Tensor) -> Tensor:
    """Put the rows of all ranks together, in the same order on each; they may differ in number."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return rows
    world = distributed.get_world_size()
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(world)]
    distributed.all_gather(counts, count)
    longest = int(torch.cat(counts).max())
    padded = torch.zeros(longest, rows.shape[1], dtype=rows.dtype, device=rows.device)
    padded[: len(rows)] = rows
    tables = [torch.zeros_like(padded) for _ in range(world)]
    distributed.all_gather(tables, padded)
    return torch.cat([table[: int(n)] for table, n in zip(tables, counts, strict=True)])


def equal_mass_edges(confidence: Tensor, bins: int) -> Tensor:
    """Return the bins' lower edges (bins − 1,), without the first: values that belong to the bin above.

    Rows of one confidence share a bin, so that a bin may be empty.
    """
    ordered = confidence.sort().values
    starts = torch.arange(1, bins, device=confidence.device) * len(ordered) // bins
    return ordered[starts]


def bin_gaps(confidence: Tensor, correct: Tensor, edges: Tensor) -> Tensor:
    """Return mean confidence − accuracy of each bin, 0 for an empty one."""
    place = torch.bucketize(confidence, edges.to(confidence.dtype), right=True)
    zeros = torch.zeros(len(edges) + 1, dtype=confidence.dtype, device=confidence.device)
    count = zeros.index_add(0, place, torch.ones_like(confidence))
    return zeros.index_add(0, place, confidence - correct) / count.clamp(min=1)
