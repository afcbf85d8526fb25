"""`measure`: the curvature of a classifier's loss in one call."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

from focalcal._settings import check_count, check_level, check_share
from focalcal.curvature.cost import Budget
from focalcal.curvature.result import Curvature, LossCurvature
from focalcal.curvature.rows.forms import RowForms
from focalcal.curvature.rows.losses import RowLosses
from focalcal.curvature.rows.moments import row_means, summed_means
from focalcal.curvature.spectrum.density import deflated_density
from focalcal.curvature.spectrum.eigenvalues import MEMORY, PulledSigns, converged, of_space, start_vector
from focalcal.curvature.spectrum.lanczos import Krylov, krylov
from focalcal.curvature.surface.passes import Batch, Estimator, Gradient, Swapped, estimate, side_by_side
from focalcal.curvature.surface.surface import LossSurface
from focalcal.curvature.surface.totals import Loss, batch_total
from focalcal.curvature.trace.both import Aim, both_traces
from focalcal.curvature.trace.piecewise_linear import curved_operation
from focalcal.curvature.trace.probes import over_probes
from focalcal.intervals.estimate import Estimate

#: Probes of the density, and products of each.
_PROBES, _STEPS = 3, 8


@dataclass(frozen=True)
class _Wanted:
    """What one measurement is after."""

    eigenvalues: int
    tolerance: float
    aim: Aim
    rho: float
    curved: bool
    class_indices: bool


def measure(
    model: torch.nn.Module,
    loss: Loss,
    loader: Iterable[Any],
    *,
    common: Loss | None = None,
    eigenvalues: int = 5,
    relative_error: float = 0.05,
    tolerance: float = 1e-4,
    budget: float = 400.0,
    rho: float = 0.05,
    memory: float = MEMORY,
    seed: int = 0,
    level: float = 0.95,
    progress: Callable[[str, int, int], None] | None = None,
    **surface: Any,
) -> Curvature:
    r"""Measure the curvature of a classifier's loss, and of cross-entropy at the same weights.

    Parameters
    ----------
    model, loss, loader :
        As of `LossSurface`: the mean loss over the loader's rows, in the model's parameters.
    common : callable, optional
        A second loss, measured in the same passes. Default: cross-entropy that ignores what `loss` ignores,
        unless `loss` is that, or the model returns one number. A focal loss shrinks itself as rows become
        sure, so that its curvature alone compares scales, not nets.
    eigenvalues : int
        How many of the largest to find.
    relative_error : float
        Standard error of the traces over probes, relative to them, at which to stop.
    tolerance : float
        Relative error of the eigenvalues at which to stop.
    budget : float
        What may be spent for one loss, in gradients of the whole data (nominal figures: one Hessian product
        is 2.7). The least that can be done takes about 15.
    rho : float
        Length of the step that sharpness is the rise along.
    memory : float
        Bytes of graphs that may be kept from one pass to the next.
    seed : int
        Of everything random: the same seed gives the same result.
    level : float
        Coverage of the intervals.
    progress : callable, optional
        Told (what, spent, budget) before each pass.
    **surface
        `parameters`, `mode`, `device`, `unpack`, `executor`, `distributed`: as of `LossSurface`.

    Returns
    -------
    Curvature
        `print` shows a table; `plot` draws the densities; `stopped` says what ended it, `notes` what to know.

    Raises
    ------
    ValueError, TypeError
        As of `LossSurface`, and for settings out of their range.

    Notes
    -----
    In turn: loss, gradient and the traces (`structured_trace` where loss and network allow, else Hutchinson's
    probes, the residual's alone where the GGN is known); sharpness; one Krylov space for the eigenvalues, and
    the density beside it (`spectral_density`). Memory: one batch's graph and `memory`, and a vector of P
    numbers for each product.

    References
    ----------
    Kimura and Naganuma 2024, arXiv 2405.00442.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Linear(4, 3)
    >>> batches = [(torch.randn(50, 4), torch.randint(3, (50,)))]
    >>> found = measure(model, torch.nn.CrossEntropyLoss(), batches)
    >>> found.common is None, found.curved_by is None, len(found.training.eigenvalues)
    (True, True, 5)
    """
    check_share("relative_error", relative_error)
    check_share("tolerance", tolerance)
    check_count("eigenvalues", eigenvalues)
    if loss is torch.nn.functional.cross_entropy:
        loss = torch.nn.CrossEntropyLoss()  # whose Hessian in the logits is known
    whole = LossSurface(model, loss, loader, seed=seed, **surface)
    curved_by, indices, classes = whole.first(_look)
    if common is None and classes > 1 and not _is_cross_entropy(loss):
        common = torch.nn.CrossEntropyLoss(ignore_index=getattr(loss, "ignore_index", -100))
    losses: list[Loss] = [loss] if common is None else [loss, common]
    spending = Budget(budget * len(losses), progress=progress)
    count = min(eigenvalues, whole.size)
    aim = Aim(relative_error, seed, check_level(level))
    wanted = _Wanted(count, tolerance, aim, rho, curved_by is not None, indices)
    with whole.keeping(memory):
        each = [_of_loss(whole, one, wanted, spending, len(losses)) for one in losses]
        found = estimate(whole, side_by_side(each), spending.charge)
    return Curvature(
        found[0],
        found[1] if len(found) > 1 else None,
        whole.size,
        found[0].loss.n,
        whole.mode,
        curved_by,
        spending.spent,
        _stopped(found, wanted, spending),
        _notes(found, whole, curved_by),
        seed,
    )


def _of_loss(
    surface: LossSurface, loss: Loss, wanted: _Wanted, budget: Budget, losses: int
) -> Estimator[LossCurvature]:
    aim = wanted.aim
    value, gradient, pulled = yield [RowLosses(loss), Gradient(loss), PulledSigns(aim.seed)]
    mean, slope = _mean_loss(value, aim.level), gradient[0] / gradient[1]
    step = slope * (wanted.rho / max(float(slope.norm()), 1e-30))
    ((raised, weight),) = yield [_ValueAt(loss, step)]
    traces = yield from both_traces(surface, loss, wanted.class_indices, wanted.curved, aim, budget)

    def enough(space: Krylov) -> bool:
        spent = len(space.values) > wanted.eigenvalues and budget.left() < 0.25 * budget.limit
        return spent or converged(wanted.eigenvalues, wanted.tolerance, space)

    start = start_vector(surface, pulled[0], aim.seed)
    space = yield from krylov(surface, loss, start, 200, enough)
    top = of_space(space, wanted.eigenvalues, wanted.tolerance)
    steps = int(min(_STEPS, max(2, budget.left() / losses / (2.7 * _PROBES))))
    beside = yield from deflated_density(surface, loss, space, _PROBES, steps, aim.seed)
    ((forms, _),) = yield [RowForms(loss, top.vectors[:, :1].double())]
    spread = summed_means(forms).data_variance if forms.isfinite().all() else float("nan")
    return LossCurvature(
        getattr(loss, "__name__", type(loss).__name__),
        mean,
        float(slope.norm()),
        traces.hessian,
        traces.ggn,
        top,
        spread**0.5,
        float(min(space.values[0], beside.density.values[0])),
        _frobenius(beside.squares, aim.level),
        float(raised) / weight - mean.value,
        beside.density,
    )


@dataclass(frozen=True)
class _ValueAt:
    """The loss at other parameters, a step (P,) away."""

    loss: Loss
    step: Tensor
    cost = 0.3

    def __call__(self, batch: Batch) -> tuple[Tensor, float]:
        parameters = batch.surface.parameters
        pieces = zip(parameters.names, parameters.tensors, parameters.split(self.step), strict=True)
        with torch.no_grad():
            moved = {name: tensor + piece for name, tensor, piece in pieces}
            logits = batch.logits_by(Swapped(batch.surface.model, moved))
            total, weight = batch_total(self.loss, logits, batch.target)
        return total.double(), weight


def _mean_loss(found: tuple[Tensor, float], level: float) -> Estimate:
    rows = row_means(found[0])
    value, stderr = float(rows.means[0]), float(rows.covariance[0, 0]) ** 0.5
    if not np.isfinite(value):
        raise ValueError(f"Expected a finite loss, got {value}. Look for NaN or inf in inputs and weights.")
    margin = stderr * float(norm.ppf((1 + level) / 2))
    return Estimate(value, stderr, value - margin, value + margin, rows.n, "normal", level)


def _frobenius(squares: np.ndarray, level: float) -> Estimate:
    """Return the root of the mean of the probes' squared norms."""
    square = over_probes(torch.as_tensor(squares), "probes beside a Krylov space", level)
    value = square.value**0.5
    return Estimate(
        value,
        square.stderr / (2 * value) if value else 0.0,
        max(square.low, 0.0) ** 0.5,
        square.high**0.5,
        square.n,
        square.method,
        level,
    )


def _is_cross_entropy(loss: Any) -> bool:
    return isinstance(loss, torch.nn.CrossEntropyLoss) and not loss.label_smoothing and loss.weight is None


def _look(batch: Batch) -> tuple[str | None, bool, int]:
    """Return what operation bends the logits, whether labels are class indices, and how many classes."""
    target, loss = batch.target, batch.surface.loss
    indices = isinstance(target, Tensor) and not target.is_floating_point()
    classes = batch.logits.shape[1] if batch.logits.dim() > 1 else 1
    if indices and classes > 1:
        kept = target[target != getattr(loss, "ignore_index", -100)]
        if kept.numel() and not 0 <= int(kept.min()) <= int(kept.max()) < classes:
            raise ValueError(
                f"Expected labels 0 to {classes - 1}, as the model returns {classes} logits, got "
                f"{int(kept.min())} to {int(kept.max())}. Pass ignore_index to the loss, or another model."
            )
    return curved_operation(batch.logits, batch.surface.parameters.tensors), indices, classes


def _stopped(found: list[LossCurvature], wanted: _Wanted, budget: Budget) -> str:
    missing = {
        "traces": not all(wanted.aim.reached(one.trace) for one in found),
        "eigenvalues": not all(one.top.converged for one in found),
    }
    if not any(missing.values()):
        return f"traces within {wanted.aim.relative_error:.2g}, eigenvalues within {wanted.tolerance:.2g}"
    short = " and ".join(name for name, is_short in missing.items() if is_short)
    return f"budget of {budget.limit:.0f} gradients before the {short} were exact enough"


def _notes(found: list[LossCurvature], surface: LossSurface, curved_by: str | None) -> tuple[str, ...]:
    notes = []
    if surface.mode == "train":
        notes.append(
            "train mode: BatchNorm couples the rows of a batch, so that other batches give another surface"
        )
    elif curved_by is None:
        notes.append("piecewise linear network: Hessian and GGN have the same trace")
    else:
        notes.append(f"not piecewise linear ({curved_by}): the traces of Hessian and GGN differ")
    if any(not np.isfinite(one.top_data_stderr) for one in found):
        notes.append(
            "no forward mode for some operation: the data's error of the largest eigenvalue is not known"
        )
    if not all(one.top.converged for one in found):
        notes.append("not all eigenvalues have converged: see .top.errors")
    return tuple(notes)
