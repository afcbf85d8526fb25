"""From a calibration set to (T, γ) with standard errors and diagnostics."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from operator import sub

import numpy as np
from scipy.optimize import brentq

from focalcal.calibrators.diagnostics import Diagnostics, Fitted
from focalcal.calibrators.objective import Objective, Survey
from focalcal.calibrators.temperature.ece_search import minimise_ece
from focalcal.calibrators.temperature.newton import (
    TOLERANCE,
    Box,
    Optimum,
    Point,
    minimise,
    newton_step,
    rounding,
)
from focalcal.rows import FEWEST_ROWS, SAMPLES
from focalcal.scores import Criterion, FitSums

#: T stays within this factor of a typical one: a tenth of the mean distance of the top logit from the mean.
_RANGE = 1e4

#: γ from which a fit starts: the loss can have two basins, one of them close to −1.
_START_GAMMAS = (-0.9, 0.0, 3.0)

#: Rows on which the basins are looked for, fewer where they hold more numbers than this; and how exactly.
_FEW_ROWS, _FEW, _ROUGH = 2048, 1 << 18, 1e-6

#: How exactly basins are compared on more rows.
_LOOSE = 1e-5

#: Numbers in the rows on which a basin is chosen, and in those that stand in for all between passes.
_STAND_IN, _MANY = SAMPLES

#: Passes over all rows before plain Newton steps take over, and how exactly the stand-in is minimised.
_MAX_PASSES, _EXACT = 8, 1e-12

#: Stop where Newton's step promises less than this: the step taken instead leaves about 5 times its square
#: (measured: 2.4e-5 became 2.7e-9 with focal temperature scaling, 4e-5 became 1e-15 with temperature alone).
_CLOSE = 1e-8

#: A basin whose γ is this close to 0 is the one that holds temperature scaling.
_NEAR = 0.75

#: With 1 − ρ² of the curvature's two directions below this, T and γ are not told apart.
_SINGULAR = 1e-3

#: Half of χ²₁'s 95 % point: how much a second parameter must lower the summed loss to be kept.
_WORTH = 1.92

#: Half of χ²₁'s 99 % point: summed loss up to which rows without an error do not ask for more confidence.
_UNNEEDED = 3.32

Gammas = tuple[float, float] | None


@dataclass(frozen=True)
class _Problem:
    """One fit: the data, what is minimised, and where the parameters may lie."""

    objective: Objective
    criterion: Criterion
    gammas: Gammas  # bounds; None for temperature alone
    centre: float  # log of a typical temperature

    @property
    def box(self) -> Box:
        low, high = self.gammas or (0.0, 0.0)
        return Box((self.centre - math.log(_RANGE), low), (self.centre + math.log(_RANGE), high))

    def minimise(self, part: Objective, tau: float, gamma: float, tolerance: float) -> Optimum:
        return minimise(lambda tau, gamma: self.sums(part, tau, gamma), (tau, gamma), self.box, tolerance)

    def sums(self, part: Objective, tau: float, gamma: float) -> FitSums:
        return part.sums(tau, gamma if self.gammas else None, self.criterion)


def fit_temperature(objective: Objective, criterion: str, gammas: Gammas) -> Fitted:
    """Fit T, and γ within `gammas` unless that is None, by the criterion "nll", "brier" or "ece"."""
    if objective.rows.kind == "probs":
        objective.check()  # logits explain themselves: a wrong one makes the sums infinite
    survey = _few(objective).survey
    if survey.misses == 0 or survey.slope >= 0 or survey.distance == 0:
        survey = objective.survey
    scale = survey.distance / survey.weight
    centre = math.log(scale / 10) if scale > 0 else 0.0
    problem = _Problem(objective, "brier" if criterion == "brier" else "nll", gammas, centre)
    if scale == 0 or survey.misses == 0 or survey.slope >= 0:
        return _without_optimum(problem, survey, criterion)
    best = _search(problem)
    identifiable = gammas is None or not _is_singular(best, objective.n_classes)
    if not identifiable:
        plain = _search(replace(problem, gammas=None))
        if (plain.loss - best.loss) * best.sums.weight <= _WORTH:
            best = plain
    point, loss = best.point, best.loss
    errors = standard_errors(best)
    if criterion == "ece":
        point, loss = minimise_ece(objective, float(point[0]), gammas)
        errors = (math.nan, math.nan)
    at_bound = [
        name
        for name, value, low, high in zip(
            ("temperature", "gamma"), point, problem.box.low, problem.box.high, strict=True
        )
        if low < high and value in (low, high)
    ]
    diagnostics = Diagnostics(
        criterion,
        loss,
        best.converged,
        best.iterations,
        tuple(at_bound),
        worse_than_chance=bool(point[0] >= problem.box.high[0]),
        identifiable=identifiable,
        unseen_classes=objective.unseen_classes(),
    )
    return _fitted(gammas, float(point[0]), float(point[1]), errors, diagnostics)


def _fitted(
    gammas: Gammas, tau: float, gamma: float, errors: tuple[float, float], diagnostics: Diagnostics
) -> Fitted:
    temperature = math.exp(tau)
    parameters, stderr = {"temperature": temperature}, {"temperature": temperature * errors[0]}
    if gammas is not None:
        parameters["gamma"], stderr["gamma"] = gamma, errors[1]
    return Fitted(parameters, stderr, diagnostics)


def _few(objective: Objective) -> Objective:
    return _stand_in(objective).part(min(_FEW_ROWS, max(_FEW_ROWS // 4, _FEW // objective.n_classes)))


def _stand_in(objective: Objective) -> Objective:
    rows = max(FEWEST_ROWS, _STAND_IN // objective.n_classes)
    return objective.part(rows) if objective.n > 4 * rows else objective


def _search(problem: _Problem) -> Optimum:
    """Find the basins on a few rows, choose among them on many, and finish on all."""
    whole = problem.objective
    few, stand_in = _few(whole), _stand_in(whole)
    plain = replace(problem, gammas=None).minimise(few, problem.centre, 0.0, _ROUGH)
    points = [plain.point] if problem.gammas is None else _basins(problem, few, plain.point)
    seen = None
    if len(points) > 1:
        point, seen = _choose(problem, points)
    else:
        point = problem.minimise(stand_in, *points[0], _ROUGH).point
    return (
        problem.minimise(whole, *point, TOLERANCE)
        if stand_in is whole
        else _finish(problem, stand_in, point, seen)
    )


def _choose(problem: _Problem, points: list[Point]) -> tuple[Point, FitSums | None]:
    """Return a point in the deepest basin: by many rows, or if these do not tell by all, with their sums."""
    whole = problem.objective
    many = whole.part(max(FEWEST_ROWS, _MANY // whole.n_classes))
    found = _distinct([problem.minimise(many, *point, _LOOSE) for point in points])
    best = min(found, key=lambda optimum: optimum.loss)
    close = [optimum.point for optimum in found if optimum.loss - best.loss <= _noise(best, optimum)]
    if len(close) == 1 or many is whole:
        return best.point, None
    looks = {point: problem.minimise(whole, *point, math.inf) for point in close}
    point = min(looks, key=lambda point: looks[point].loss)
    return point, looks[point].sums


def _noise(one: Optimum, other: Optimum) -> float:
    """Return two standard errors of the difference of two losses on the same rows, from the slopes."""
    t, g = other.point[0] - one.point[0], other.point[1] - one.point[1]
    variances = []
    for t_t, t_g, g_g in (one.sums.outer, other.sums.outer):
        variances.append(t * t * t_t + 2 * t * g * t_g + g * g * g_g)
    return 2 * math.sqrt(max(variances))


def _finish(problem: _Problem, part: Objective, start: Point, seen: FitSums | None) -> Optimum:
    """Step to the optimum on all rows, whose sums at the start may be known.

    Each pass over all rows corrects the part's loss to second order; where the corrected loss is lowest
    is the next point. That is closer than Newton's step, whose error is the third derivative: the part
    knows it to a few per cent.
    """
    whole, box = problem.objective, problem.box
    point, last, decrease = box.clip(start), math.inf, 0.0
    for iterations in range(1, _MAX_PASSES + 1):
        sums, seen = seen or problem.sums(whole, *point), None
        if sums.loss > last + rounding(last, decrease):
            break
        held = box.held(point, sums.gradient)
        step, decrease = newton_step(sums, held, point)
        exactly = max(_EXACT, 1e-4 * decrease)
        following = _minimise_corrected(problem, part, sums, point, box.around(point, step), exactly)
        if decrease < _CLOSE:
            return Optimum(following, sums, True, iterations, held, decrease)
        point, last = following, sums.loss
    return problem.minimise(whole, *start, TOLERANCE)


def _minimise_corrected(
    problem: _Problem, part: Objective, whole: FitSums, at: Point, box: Box, tolerance: float
) -> Point:
    here = problem.sums(part, *at)
    less = FitSums.of(map(sub, whole.numbers(), here.numbers()))

    def corrected(tau: float, gamma: float) -> FitSums:
        if (tau, gamma) == at:
            return whole
        there = problem.sums(part, tau, gamma)
        (t, g), (tt, tg, gg) = less.gradient, less.hessian
        x, y = tau - at[0], gamma - at[1]
        bend = tt * x + tg * y, tg * x + gg * y
        return replace(
            there,
            loss=there.loss + less.loss + x * (t + bend[0] / 2) + y * (g + bend[1] / 2),
            gradient=(there.gradient[0] + t + bend[0], there.gradient[1] + g + bend[1]),
            hessian=(there.hessian[0] + tt, there.hessian[1] + tg, there.hessian[2] + gg),
        )

    return minimise(corrected, at, box, tolerance).point


def _basins(problem: _Problem, few: Objective, plain: Point) -> list[Point]:
    """Return where the steps from several γ end on a few rows."""
    box = problem.box
    starts = dict.fromkeys(box.clip((box.low[0], gamma))[1] for gamma in _START_GAMMAS)
    found = [problem.minimise(few, plain[0] + _shift(gamma), gamma, _ROUGH) for gamma in starts]
    points = [optimum.point for optimum in _distinct(found)]
    if all(abs(gamma) > _NEAR for _, gamma in points):
        points.append(plain)  # on a few rows the basin of γ = 0 may have been lost by chance
    return points


def _shift(gamma: float) -> float:
    """Return how much higher log T must be for φ_γ to be about as confident as without it."""
    return math.log(gamma + 1 - math.log(gamma + 1) / 2) if gamma > -1 else 0.0


def _distinct(optima: list[Optimum]) -> list[Optimum]:
    kept: list[Optimum] = []
    for optimum in optima:
        if all(math.dist(optimum.point, other.point) > 0.02 for other in kept):
            kept.append(optimum)
    return kept


def _is_singular(optimum: Optimum, n_classes: int) -> bool:
    """Tell whether T and γ trade off without the loss changing."""
    if any(optimum.held):
        return n_classes == 2 and optimum.point[1] > 0
    a, b, d = optimum.sums.hessian
    return bool(1 - b * b / (a * d) < _SINGULAR) or (n_classes == 2 and optimum.point[1] > 0)


def standard_errors(optimum: Optimum) -> tuple[float, float]:
    r"""Return those of (τ, γ) by the sandwich :math:`H^{-1} (\sum w^2 g g^\top) H^{-1}`; NaN where held."""
    a, b, d = optimum.sums.hessian
    inverse = np.full((2, 2), np.nan)
    if optimum.held == (False, False) and a * d > b * b:
        inverse = np.array([[d, -b], [-b, a]]) / (a * d - b * b)
    elif optimum.held == (False, True) and a > 0:
        inverse = np.array([[1 / a, 0.0], [0.0, np.nan]])
    elif optimum.held == (True, False) and d > 0:
        inverse = np.array([[np.nan, 0.0], [0.0, 1 / d]])
    t_t, t_g, g_g = optimum.sums.outer
    variance = [float(row @ np.array([[t_t, t_g], [t_g, g_g]]) @ row) for row in inverse]
    return variance[0] ** 0.5, variance[1] ** 0.5


def _without_optimum(problem: _Problem, survey: Survey, criterion: str) -> Fitted:
    """Choose T where the likelihood has no maximum at a finite one; γ stays at 0."""
    objective, tau, separable, worse = problem.objective, problem.centre, False, False
    if survey.distance == 0:
        pass  # constant scores: any temperature gives the same
    elif survey.misses == 0:
        separable = True
        tau = _separable_temperature(problem, survey)
    else:
        worse = True
        tau = problem.box.high[0]
    loss = objective.sums(tau, None, problem.criterion).loss
    at_bound = ("temperature",) if tau in (problem.box.low[0], problem.box.high[0]) else ()
    diagnostics = Diagnostics(
        criterion,
        loss if criterion != "ece" else math.nan,
        True,
        1,
        at_bound,
        separable=separable,
        worse_than_chance=worse,
        identifiable=survey.distance > 0,
        unseen_classes=objective.unseen_classes(),
    )
    return _fitted(problem.gammas, tau, 0.0, (math.nan, math.nan), diagnostics)


def _separable_temperature(problem: _Problem, survey: Survey) -> float:
    """Return log T at which the mean NLL is log((n+2)/(n+1)), the loss of the rule of succession.

    If T < 1 would raise confidence for that, and the scores as they are explain rows without an error well
    enough, log T = 0: on real networks the errors that are missing by chance then cost much less.
    """
    tau = _laplace_temperature(problem, survey)
    if tau < 0 < problem.box.high[0]:
        whole = _stand_in(problem.objective).sums(0.0, None, "nll").loss * survey.weight
        return 0.0 if whole <= _UNNEEDED else tau
    return tau


def _laplace_temperature(problem: _Problem, survey: Survey) -> float:
    part = _stand_in(problem.objective)
    target = math.log(math.log1p(1 / (survey.weight + 1)))

    def excess(tau: float) -> float:
        return math.log(max(part.sums(tau, None, "nll").loss, 1e-300)) - target

    low, high = problem.box.low[0], problem.box.high[0]
    if excess(low) >= 0:
        return low
    return high if excess(high) <= 0 else float(brentq(excess, low, high, xtol=1e-10))
