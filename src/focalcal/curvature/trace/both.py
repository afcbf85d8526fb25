"""The traces of the Hessian and of the GGN, by whatever of a model and a loss is known."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from scipy.stats import norm
from torch import Tensor

from focalcal.curvature.cost import Budget
from focalcal.curvature.rows.forms import RowForms
from focalcal.curvature.rows.logit_hessian import is_known
from focalcal.curvature.rows.moments import RowMeans, halves, row_means, summed_means
from focalcal.curvature.surface.passes import Estimator, HessianProduct
from focalcal.curvature.surface.surface import LossSurface
from focalcal.curvature.surface.totals import Loss
from focalcal.curvature.trace.probes import TraceEstimate, estimated, over_probes, random_signs
from focalcal.curvature.trace.structured import structured

#: Probes of one pass, and the most that are taken in all.
_TOGETHER, _MOST = 4, 1024


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
        """Return whether the probes' standard error is small enough, by the interval: few show little."""
        width = float(norm.ppf((1 + self.level) / 2))
        return (estimate.high - estimate.low) / 2 <= width * self.relative_error * abs(estimate.value)


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
    return (yield from _probed(surface, loss, ggn, curved, aim, budget))


def _sketched(surface: LossSurface, loss: Loss, aim: Aim, budget: Budget) -> Estimator[TraceEstimate]:
    count = 2
    while True:
        found: TraceEstimate = yield from structured(surface, loss, count, None, aim.seed + count, aim.level)
        if aim.reached(found) or count == _MOST or budget.until_half() < 1.5 * count:
            return found
        # a fifth more than the spread seen calls for, since that is itself an estimate
        short = (found.stderr / (aim.relative_error * abs(found.value))) ** 2 if found.value else math.inf
        count = int(min(count * max(1.2 * short, 1.5), _MOST, max(budget.until_half() / 1.2, count)))


def _probed(
    surface: LossSurface, loss: Loss, ggn: TraceEstimate | None, curved: bool, aim: Aim, budget: Budget
) -> Estimator[Traces]:
    """Probe until the Hessian's trace is exact enough."""
    generator = torch.Generator().manual_seed(aim.seed)
    device = surface.parameters.tensors[0].device
    forms: list[Tensor] = []  # moments of the rows' quadratic forms
    products: list[Tensor] = []  # where there is no forward mode: of the mean only
    for count in range(_TOGETHER, _MOST + 1, _TOGETHER):
        signs = random_signs((surface.size, _TOGETHER), generator).to(device)
        if not products:
            ((found, _),) = yield [RowForms(loss, signs, residual=curved)]
            if found.isfinite().all():
                forms.append(found)
        if len(forms) * _TOGETHER < count:
            ((found, weight),) = yield [HessianProduct(loss, signs)]
            products.append((signs * found).sum(0) / weight)
        traces = _of_products(products, ggn, aim) if products else _of_forms(forms, ggn, curved, aim)
        if aim.reached(traces.hessian) or budget.until_half() < 4 * _TOGETHER:
            break
    return traces


def _of_forms(parts: list[Tensor], ggn: TraceEstimate | None, curved: bool, aim: Aim) -> Traces:
    """Return the traces from the moments of several passes, each with probes of its own."""
    if not curved:
        own = _over_passes([row_means(found) for found in parts], aim)
        return Traces(own, own)
    gauss, residual = zip(*(halves(found) for found in parts), strict=True)
    whole = _over_passes([summed_means(found) for found in parts], aim)
    if ggn is None:
        return Traces(whole, _over_passes(list(gauss), aim))
    rest = _over_passes(list(residual), aim)
    stderr, name = math.hypot(ggn.stderr, rest.stderr), "sketches, and probes of the residual"
    spread, value = whole.data_stderr**2, ggn.value + rest.value
    return Traces(estimated(value, stderr, rest.n - 1, rest.n, name, aim.level, spread, whole.rows), ggn)


def _over_passes(passes: list[RowMeans], aim: Aim) -> TraceEstimate:
    spread = sum(rows.data_variance for rows in passes) / len(passes)
    means = torch.cat([rows.means for rows in passes])
    return over_probes(means, "Hutchinson's probes", aim.level, spread, passes[0].n)


def _of_products(products: list[Tensor], ggn: TraceEstimate | None, aim: Aim) -> Traces:
    hessian = over_probes(torch.cat(products), "Hutchinson's probes", aim.level)
    return Traces(hessian, ggn or estimated(math.nan, math.nan, 1, 0, "not found", aim.level))
