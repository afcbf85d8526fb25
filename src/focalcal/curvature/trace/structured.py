r"""The trace of the generalised Gauss–Newton matrix from the loss's known Hessian in the logits.

With :math:`H_i = \mathrm{E}\, w_i w_i^\top` the Hessian of row i in its logits, for random signs in w,

.. math:: \mathrm{tr} \sum_i J_i^\top H_i J_i = \mathrm{E} \sum_i \| J_i^\top w_i \|^2
          = \mathrm{E} \Bigl\| \sum_i J_i^\top w_i \Bigr\|^2 ,

the latter since signs of different rows are independent: backward passes, and no second derivatives. One norm
a row needs the gradients of single rows, has no cross terms, and tells how rows differ; one norm a batch is
a plain backward pass. With the C terms :math:`H_i = \sum_k \pm u_{ik} u_{ik}^\top` the rows' sum is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from focalcal._settings import check_choice, check_level
from focalcal.curvature.rows.logit_hessian import LogitHessian, check_known, logit_hessian
from focalcal.curvature.rows.moments import moments, row_means
from focalcal.curvature.rows.pulls import squared_pulls
from focalcal.curvature.surface.passes import Batch, Estimator, estimate
from focalcal.curvature.surface.surface import LossSurface
from focalcal.curvature.surface.totals import Loss
from focalcal.curvature.trace.probes import TraceEstimate, check_probes, estimated, over_probes, random_signs


def structured_trace(
    surface: LossSurface, *, sketches: int = 2, by: str | None = None, seed: int = 0, level: float = 0.95
) -> TraceEstimate:
    r"""Return the trace of the GGN, with the error that the sketches leave and that of the data.

    In eval mode, and for networks that are piecewise linear in each layer's parameters (ReLU, max-pooling,
    residual connections, BatchNorm), it is the trace of the Hessian too.

    Parameters
    ----------
    surface : LossSurface
        Of cross-entropy or a loss of the focal family, without label smoothing, on class indices.
    sketches : int
        Random sketches, at least 2; each costs one backward pass.
    by : {"rows", "batches", "classes"}, optional
        "rows" sketches each row's own gradient: the smallest error, and that of the data too. It takes memory
        for the gradients of some rows. "batches" needs no more than training does. "classes" takes C backward
        passes of each row, and is exact. Default: "rows", in train mode "batches".
    seed : int
        Of the random signs.
    level : float
        Coverage of the interval.

    Returns
    -------
    TraceEstimate
        Nats per squared unit of the parameters; n is the number of sketches.

    Raises
    ------
    ValueError
        For a loss whose Hessian in the logits is not known here, fewer than 2 sketches, another level, rows
        in train mode, where BatchNorm couples them, or "classes" of labels that are images.

    Notes
    -----
    Of a ResNet-20 and 2,000 images two row sketches took 2.3 to 2.6 times as long as a gradient, and were off
    by 1.4 %; every class took 10.4.

    Examples
    --------
    Of logits θ x at x = 1 and equal probabilities the GGN is diag(p) − ppᵀ, of trace 1/2:

    >>> model = torch.nn.Linear(1, 2, bias=False)
    >>> _ = torch.nn.init.zeros_(model.weight)
    >>> batches = [(torch.ones(2, 1), torch.zeros(2, dtype=torch.long))]
    >>> surface = LossSurface(model, torch.nn.CrossEntropyLoss(), batches)
    >>> print(structured_trace(surface, by="classes"))
    0.5000 [0.5000, 0.5000] (n=1)
    """
    return estimate(surface, structured(surface, surface.loss, sketches, by, seed, level))


def structured(
    surface: LossSurface, loss: Loss, sketches: int, by: str | None, seed: int, level: float
) -> Estimator[TraceEstimate]:
    """Estimate the trace of the GGN of one loss."""
    by = check_choice("by", by or ("rows" if surface.mode == "eval" else "batches"), tuple(_TASKS))
    _check(surface, loss, by, sketches, level)
    task: Any = _TASKS[by]
    ((found, weight),) = yield [task(loss, sketches, seed)]
    if by == "batches":
        return over_probes(found / weight, "sketches of batches", level)
    if by == "rows":
        return _of_rows(found, level)
    rows = row_means(found)
    return estimated(float(rows.means[0]), 0.0, 1, 1, "exact", level, rows.data_variance, rows.n)


def _of_rows(found: Tensor, level: float) -> TraceEstimate:
    """Return the mean of sketches of single rows, from the moments of them and of their variance."""
    rows = row_means(found[:-1, :-1])
    spread, square = float(found[0, -1]), float(found[-1, -1])
    sketches = len(rows.means)
    stderr = (spread / sketches) ** 0.5 / float(found[0, 1])
    # Satterthwaite's: rows whose sketches vary little tell little of the sum's variance
    freedom = (sketches - 1) * spread**2 / square if square > 0 else 1.0
    value, method = float(rows.means.mean()), "sketches of rows"
    return estimated(value, stderr, freedom, sketches, method, level, rows.data_variance, rows.n)


def layer_traces(
    surface: LossSurface, *, sketches: int = 2, seed: int = 0, level: float = 0.95
) -> dict[str, TraceEstimate]:
    """Return the trace of the GGN's diagonal block of each parameter tensor: they add up to the whole.

    Parameters
    ----------
    surface : LossSurface
        In eval mode, of cross-entropy or a loss of the focal family, on class indices.
    sketches : int
        Random sketches of each row, at least 2.
    seed : int
        Of the random signs.
    level : float
        Coverage of the intervals.

    Returns
    -------
    dict of str to TraceEstimate
        By the parameter's name. For piecewise linear networks they are the Hessian's blocks too.

    Raises
    ------
    ValueError
        As `structured_trace` with by="rows".

    Examples
    --------
    Of logits θ x + b at x = 2, θ = b = 0 the blocks are diag(p) − ppᵀ times 4 and 1:

    >>> model = torch.nn.Linear(1, 2)
    >>> for parameter in model.parameters():
    ...     _ = torch.nn.init.zeros_(parameter)
    >>> batches = [(2 * torch.ones(2, 1), torch.zeros(2, dtype=torch.long))]
    >>> traces = layer_traces(LossSurface(model, torch.nn.CrossEntropyLoss(), batches))
    >>> {name: round(found.value, 6) for name, found in traces.items()}
    {'weight': 2.0, 'bias': 0.5}
    """
    _check(surface, surface.loss, "rows", sketches, level)
    (found,) = surface.sums([_RowSketches(surface.loss, sketches, seed, layers=True)]).totals
    names = surface.parameters.names
    each = {}
    for i, name in enumerate(names):
        own = [0, 1, *(2 + i + len(names) * j for j in range(sketches + 1))]
        each[name] = _of_rows(found[own][:, own], level)
    return each


def _check(surface: LossSurface, loss: Loss, by: str, sketches: int, level: float) -> None:
    check_probes("sketches", sketches, check_level(level))
    check_known(loss)
    if by != "batches" and surface.mode == "train":
        raise ValueError(f'Expected by="batches" in train mode, where BatchNorm couples rows, got {by!r}.')


@dataclass(frozen=True)
class _BatchSketches:
    """Squared norms of the pulled-back sketches of whole batches (sketches,)."""

    loss: Loss
    sketches: int
    seed: int

    @property
    def cost(self) -> float:
        return 0.7 * self.sketches

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        hessian, drawn = _drawn(batch, self.loss, self.sketches, self.seed)
        join, found = batch.surface.parameters.join, []
        for signs in drawn:
            w, other = hessian.sketch(signs)
            pulled = join(batch.pulled(batch.logits, _as_logits(batch, w), retain_graph=True))
            again = pulled
            if other is not w:
                again = join(batch.pulled(batch.logits, _as_logits(batch, other), retain_graph=True))
            found.append(pulled @ again)
        return torch.stack(found), float(hessian.weight.sum())


@dataclass(frozen=True)
class _RowSketches:
    """Moments of the rows' squared norms, one of each sketch, and of their variance over sketches.

    With `layers` one of each for every parameter tensor.
    """

    loss: Loss
    sketches: int
    seed: int
    layers: bool = False

    @property
    def cost(self) -> float:
        return 1.2 * self.sketches

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        hessian, drawn = _drawn(batch, self.loss, self.sketches, self.seed)
        convex = (hessian.bend >= 0).unsqueeze(1)
        along = hessian.along()
        bent = [along * signs.gather(1, hessian.label.unsqueeze(1)) for signs in drawn]
        w = [hessian.spread(signs) + own * convex for signs, own in zip(drawn, bent, strict=True)]
        squares = squared_pulls(batch, _by_row(batch, w))  # (n, sketches, tensors)
        # of one label a row the negative term is one vector, whatever its sign
        concave = _by_row(batch, [own * ~convex for own in bent[: 1 if batch.logits.dim() == 2 else None]])
        rows = concave.flatten(1).abs().sum(1).nonzero().squeeze(1)
        squares[rows] -= squared_pulls(batch, concave[rows], rows)
        squares = squares if self.layers else squares.sum(2, keepdim=True)
        return _moments(batch, hessian, torch.cat([squares.flatten(1), squares.var(1)], 1))


@dataclass(frozen=True)
class _RowTerms:
    """Moments of the rows' exact traces."""

    loss: Loss
    sketches: int
    seed: int

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        if batch.logits.dim() != 2:
            raise ValueError(
                f'Expected logits (n, C) for by="classes", got {tuple(batch.logits.shape)}. Use by="rows".'
            )
        hessian = logit_hessian(self.loss, batch.logits, batch.target)
        terms, signs = hessian.terms()
        squares = squared_pulls(batch, terms.to(batch.logits.dtype)).sum(2)
        return _moments(batch, hessian, (squares * signs).sum(1, keepdim=True))


_TASKS = {"rows": _RowSketches, "batches": _BatchSketches, "classes": _RowTerms}


def _drawn(batch: Batch, loss: Loss, sketches: int, seed: int) -> tuple[LogitHessian, list[Tensor]]:
    """Return the Hessians of a batch's rows, and random signs for each sketch."""
    hessian = logit_hessian(loss, batch.logits, batch.target)
    generator, shape = batch.generator(seed), tuple(hessian.share.shape)
    return hessian, [random_signs(shape, generator).to(hessian.share) for _ in range(sketches)]


def _as_logits(batch: Batch, rows: Tensor) -> Tensor:
    """Return rows (n d1 …, C) in the shape of the logits (n, C, d1, …)."""
    n, c, *positions = batch.logits.shape
    return rows.reshape(n, *positions, c).movedim(-1, 1).to(batch.logits.dtype)


def _by_row(batch: Batch, sketches: list[Tensor]) -> Tensor:
    """Return sketches as the cotangents of a batch's inputs (n, m, C, d1, …)."""
    return torch.stack([_as_logits(batch, w) for w in sketches], 1)


def _moments(batch: Batch, hessian: LogitHessian, numbers: Tensor) -> tuple[Tensor, float]:
    weight = hessian.weight.reshape(len(batch.logits), -1).sum(1)
    return moments(weight, numbers), float(weight.sum())
