"""Slices of a loss surface: the loss along one direction, or over a plane, through a model's parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from focalcal._settings import check_choice, check_count, check_positive, optional_module
from focalcal.curvature.surface.measuring import prepared
from focalcal.curvature.surface.parameters import Parameters
from focalcal.curvature.surface.passes import Swapped
from focalcal.curvature.surface.surface import LossSurface
from focalcal.curvature.surface.totals import batch_total
from focalcal.nn._batches import called, logits_of, moved

_BINS = 15
_LABELS = {
    "loss": "loss (nats)",
    "cross_entropy": "cross-entropy (nats)",
    "accuracy": "accuracy",
    "ece": "ECE",
}


@dataclass(frozen=True, eq=False)
class Landscape:
    """Means over the data at the points of a line (m,) or of a grid (m, m), first direction first.

    Attributes
    ----------
    offsets : array of shape (m,)
        Steps along each direction; 0 is the model.
    loss : array of shape (m,) or (m, m), float64
        The loss of the surface, in nats.
    cross_entropy, accuracy, ece : arrays of the same shape, or None
        Of the same logits: mean negative log-likelihood in nats, hit rate, and the top-label ECE of 15 bins
        of equal width. None where targets are not class indices.
    """

    offsets: NDArray[np.float64]
    loss: NDArray[np.float64]
    cross_entropy: NDArray[np.float64] | None = None
    accuracy: NDArray[np.float64] | None = None
    ece: NDArray[np.float64] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists, by the names of the attributes."""
        return {name: None if value is None else value.tolist() for name, value in asdict(self).items()}

    def plot(self, ax: Any = None, *, what: str = "loss") -> Any:
        """Draw a curve, or contours; return the matplotlib Axes.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to plot; by default a new figure.
        what : {"loss", "cross_entropy", "accuracy", "ece"}
            Which of the means.

        Raises
        ------
        ImportError
            If matplotlib is not installed.
        ValueError
            For a mean that is not there.
        """
        values = getattr(self, check_choice("what", what, tuple(_LABELS)))
        if values is None:
            raise ValueError(f"Expected {what} of class indices, got other targets. Plot the loss.")
        if ax is None:
            ax = optional_module("matplotlib.pyplot", "Landscape.plot", "plot").subplots()[1]
        if values.ndim == 1:
            ax.plot(self.offsets, values, color="#2f8fd0")
            ax.set(xlabel="offset", ylabel=_LABELS[what])
        else:  # columns are the second direction
            filled = ax.contourf(self.offsets, self.offsets, values, levels=20)
            ax.figure.colorbar(filled, ax=ax, label=_LABELS[what])
            ax.plot(0, 0, "+", color="white")
            ax.set(xlabel="offset along the second direction", ylabel="offset along the first")
        return ax


def landscape(
    surface: LossSurface,
    directions: int | Sequence[Tensor] = 1,
    *,
    span: float = 1.0,
    points: int = 21,
    seed: int = 0,
) -> Landscape:
    r"""Return the loss along a direction, or over the plane of two, with what the same logits say besides.

    Parameters
    ----------
    surface : LossSurface
        The mean loss over the data, in eval mode.
    directions : {1, 2} or sequence of 1 or 2 tensors (P,)
        How many random directions, or the directions themselves, such as eigenvectors: they are taken as they
        are.
    span : float
        The largest step. Of a random direction a step of 1 is as long as the weights.
    points : int
        Steps m along each direction, odd so that 0 is among them; the model is called m or m² times a batch.
    seed : int
        Of random directions.

    Returns
    -------
    Landscape
        A frozen dataclass with `to_dict` and `plot`.

    Raises
    ------
    ValueError
        For other directions, an even number of points, a surface in train mode, an empty loader.

    Notes
    -----
    Random directions are normal, and normalised by filters: each row of a weight (output neuron or filter) is
    scaled to the norm of the model's own row; biases and the parameters of normalisation layers, all of one
    dimension, stay where they are. What is seen then does not depend on the weights' scales, which ReLU and
    BatchNorm leave free.

    The loader is read once. The model's parameters are not touched: it is called with others.

    References
    ----------
    Li et al. 2018, arXiv 1712.09913.

    Examples
    --------
    The mean squared error of θ x at x = 1 and target 0, along θ from 2:

    >>> model = torch.nn.Linear(1, 1, bias=False)
    >>> _ = torch.nn.init.constant_(model.weight, 2.0)
    >>> surface = LossSurface(model, torch.nn.MSELoss(), [(torch.ones(1, 1), torch.zeros(1, 1))])
    >>> landscape(surface, [torch.ones(1)], points=3).loss
    array([1., 4., 9.])
    """
    check_positive("span", span)
    if check_count("points", points) % 2 == 0 or points < 3:
        raise ValueError(f"Expected points odd and at least 3, the model among them, got {points}.")
    if surface.mode != "eval":
        raise ValueError('Expected a surface in eval mode, got "train". Pass LossSurface(..., mode="eval").')
    chosen = _directions(surface.parameters, directions, seed)
    offsets = np.linspace(-span, span, points)
    offsets[points // 2] = 0.0
    steps = list(product(offsets.tolist(), repeat=len(chosen)))
    sums = _sums(surface, partial(_moved_by, surface.parameters, chosen), steps)
    shape = (points,) * len(chosen)
    # every point has the same rows, and so the same weights
    loss = (sums[:, 0] / sums[:, 1]).reshape(shape)
    if not sums[0, 2]:
        return Landscape(offsets, loss)
    rows = sums[:, 2].reshape(shape)
    cross_entropy, hits = (sums[:, k].reshape(shape) / rows for k in (3, 4))
    return Landscape(offsets, loss, cross_entropy, hits, np.abs(sums[:, 5:]).sum(1).reshape(shape) / rows)


def _sums(
    surface: LossSurface,
    place: Callable[[tuple[float, ...]], dict[str, Tensor]],
    steps: list[tuple[float, ...]],
) -> NDArray[np.float64]:
    """Return the sums over the rows at each point: loss, weight, rows, cross-entropy, hits, gaps of bins."""
    sums = np.zeros((len(steps), 5 + _BINS))
    with prepared(surface.model, surface.parameters, train=False), torch.no_grad():
        for batch in surface.loader:
            inputs, target = (moved(part, surface.device) for part in surface.unpack(batch))
            for k, step in enumerate(steps):
                logits = logits_of(called(Swapped(surface.model, place(step)), inputs))
                sums[k] += _of_logits(surface.loss, logits, target)
    if not sums[0, 1] > 0:
        raise ValueError("Expected rows to measure, got none. Pass a loader that can be read again.")
    return sums


def _of_logits(loss: Any, logits: Tensor, target: Any) -> NDArray[np.float64]:
    """Return a batch's sums."""
    found = np.zeros(5 + _BINS)
    total, found[1] = batch_total(loss, logits, target)
    found[0] = float(total)
    if not isinstance(target, Tensor) or target.is_floating_point() or logits.dim() < 2:
        return found
    rows = logits.movedim(1, -1).reshape(-1, logits.shape[1]).double()
    label = target.reshape(-1)
    keep = label != getattr(loss, "ignore_index", -100)
    rows, label = rows[keep], label[keep]
    confidence, top = rows.softmax(1).max(1)
    hit = (top == label).double()
    place = ((confidence * _BINS).ceil().long() - 1).clamp(0, _BINS - 1)
    found[2:5] = len(rows), float(F.cross_entropy(rows, label, reduction="sum")), float(hit.sum())
    found[5:] = torch.bincount(place, confidence - hit, _BINS).cpu().numpy()
    return found


def _directions(parameters: Parameters, directions: int | Sequence[Tensor], seed: int) -> list[list[Tensor]]:
    """Return one or two directions as tensors of the parameters' shapes."""
    if isinstance(directions, int):
        if directions not in (1, 2):
            raise ValueError(f"Expected 1 or 2 directions, got {directions}.")
        generator = torch.Generator().manual_seed(seed)
        return [[_filter_normal(t, generator) for t in parameters.tensors] for _ in range(directions)]
    shapes = [tuple(direction.shape) for direction in directions]
    if len(shapes) not in (1, 2) or any(shape != (parameters.size,) for shape in shapes):
        raise ValueError(
            f"Expected 1 or 2 directions of shape ({parameters.size},), got shapes {shapes}. Pass one "
            "number for each scalar of the parameters, as hessian_product takes them."
        )
    return [parameters.split(direction.detach()) for direction in directions]


def _filter_normal(tensor: Tensor, generator: torch.Generator) -> Tensor:
    """Return a random direction whose rows are as long as the tensor's."""
    if tensor.dim() < 2:
        return torch.zeros_like(tensor, requires_grad=False)
    drawn = torch.randn(tensor.shape, generator=generator, dtype=torch.float64).flatten(1)
    norms = torch.linalg.vector_norm(tensor.detach().flatten(1), dim=1, keepdim=True).to(drawn)
    scale: Tensor = norms / drawn.norm(dim=1, keepdim=True)
    return (drawn * scale).reshape(tensor.shape).to(tensor)


def _moved_by(
    parameters: Parameters, directions: list[list[Tensor]], step: tuple[float, ...]
) -> dict[str, Tensor]:
    """Return the parameters some steps away, by name."""
    found = [tensor.detach() for tensor in parameters.tensors]
    for size, direction in zip(step, directions, strict=True):
        found = [tensor.add(part, alpha=size) for tensor, part in zip(found, direction, strict=True)]
    return dict(zip(parameters.names, found, strict=True))
