"""The traces of the Hessian and of the GGN, by whatever of a model and a loss is known."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from focalcal.curvature.cost import Budget
from focalcal.curvature.logit_hessian import is_known
from focalcal.curvature.passes import Estimator, HessianProduct
from focalcal.curvature.probes import TraceEstimate, estimated, over_probes, random_signs
from focalcal.curvature.row_forms import RowForms
from focalcal.curvature.row_moments import row_means
from focalcal.curvature.structured import structured
from focalcal.curvature.surface import LossSurface
from focalcal.curvature.totals import Loss

#: Probes of one pass, and the most that are taken in all.
_TOGETHER, _MOST = 4, 128


class Traces(NamedTuple):
    """Both traces; one that could not be found is NaN."""

    hessian: TraceEstimate
    ggn: TraceEstimate


class Aim(NamedTuple):
    """How exact an estimate is to be."""

    relative_error: float
    seed: int
    level: float

    def reached(self, estimate: TraceEstimate) -> bool:
        """Return whether the probes' standard error is small enough."""
        return estimate.stderr <= self.relative_error * abs(estimate.value)


def both_traces(
    surface: LossSurface, loss: Loss, class_indices: bool, curved: bool, aim: Aim, budget: Budget
) -> Estimator[Traces]:
    """Estimate both traces.

    Where the loss's Hessian in the logits is known the GGN's is sketched; where the logits are piecewise
    linear it is the Hessian's too, and elsewhere the residual's is added, by Hutchinson's probes.
    """
    ggn: TraceEstimate | None = None
    if is_known(loss) and class_indices:
        ggn = yield from _sketched(surface, loss, aim, budget)
        if not curved:
            return Traces(ggn, ggn)
    return (yield from _probed(surface, loss, ggn, aim, budget))


def _sketched(surface: LossSurface, loss: Loss, aim: Aim, budget: Budget) -> Estimator[TraceEstimate]:
    found: TraceEstimate = yield from structured(surface, loss, 2, None, aim.seed, aim.level)
    if not aim.reached(found):
        wanted = math.ceil(found.n * (found.stderr / (aim.relative_error * abs(found.value))) ** 2)
        count = min(wanted, _MOST, int(budget.left() / 1.5))
        if count > 2:
            found = yield from structured(surface, loss, count, None, aim.seed + 1, aim.level)
    return found


def _probed(
    surface: LossSurface, loss: Loss, ggn: TraceEstimate | None, aim: Aim, budget: Budget
) -> Estimator[Traces]:
    """Probe until the Hessian's trace is exact enough."""
    generator = torch.Generator().manual_seed(aim.seed)
    device = surface.parameters.tensors[0].device
    parts: list[Tensor] = []
    count = 0
    while True:
        signs = random_signs((surface.size, _TOGETHER), generator).to(device)
        ((found, _),) = yield [RowForms(loss, signs)]
        if not found.isfinite().all():
            return (yield from _without_forward_mode(surface, loss, ggn, signs, aim))
        parts.append(found)
        count += _TOGETHER
        traces = _of_forms(parts, ggn, aim)
        if aim.reached(traces.hessian) or count >= _MOST or budget.left() < 4 * _TOGETHER:
            return traces


def _of_forms(parts: list[Tensor], ggn: TraceEstimate | None, aim: Aim) -> Traces:
    """Return the traces from the moments of several passes, each with probes of its own."""
    name, level = "Hutchinson's probes", aim.level
    hessian, gauss, residual = [], [], []
    for found in parts:
        m = (len(found) - 2) // 2
        both = torch.eye(len(found), dtype=found.dtype, device=found.device)[:-m]
        both[2:, 2 + m :] = torch.eye(m, dtype=found.dtype, device=found.device)  # h = GGN's part + residual
        hessian.append(row_means(both @ found @ both.T))
        means = row_means(found).means
        gauss.append(means[:m])
        residual.append(means[m:])
    spread = sum(rows.data_variance for rows in hessian) / len(hessian)
    n = hessian[0].n
    whole = over_probes(torch.cat([rows.means for rows in hessian]), name, level, spread, n)
    if ggn is None:
        own = torch.cat(gauss)
        return Traces(whole, over_probes(own, name, level))
    rest = over_probes(torch.cat(residual), name, level)
    stderr = math.hypot(ggn.stderr, rest.stderr)
    name = "sketches, and probes of the residual"
    summed: Any = (ggn.value + rest.value, stderr, rest.n - 1, rest.n, name, level, spread, n)
    return Traces(estimated(*summed), ggn)


def _without_forward_mode(
    surface: LossSurface, loss: Loss, ggn: TraceEstimate | None, signs: Tensor, aim: Aim
) -> Estimator[Traces]:
    ((found, weight),) = yield [HessianProduct(loss, signs)]
    hessian = over_probes((signs * found).sum(0) / weight, "Hutchinson's probes", aim.level)
    nothing = estimated(math.nan, math.nan, 1, 0, "not found", aim.level)
    return Traces(hessian, nothing if ggn is None else ggn)
