r"""The log loss as a function of (T, γ) around a calibrator, and the parameters that rows support.

Twice the effective number of rows times the loss above its minimum, :math:`2 n (\ell - \ell_{\min})`, is
about :math:`\chi^2_d` at the true parameters, d of them. The points where it is below the 95 % quantile are
the *likelihood region*: the parameters that these rows do not contradict.

A calibrator was fitted on m other rows, and its parameters err as the region's centre does. So it may lie
outside the region although nothing has changed: for m = n that happens in 17 % (T) to 22 % (T and γ) of
cases. Its p-value allows for this: it refers :math:`2 n (\ell - \ell_{\min}) / (c (1 + n/m))` to
:math:`\chi^2_d`, where :math:`c = \mathrm{tr}(H^{-1} J)/d` compares the gradients' covariance J with the
curvature H, since no temperature makes a model quite true. Measured in 150 samples each of 1,000 or 3,000
rows and fits on 1,000, where nothing had changed: it was below .05 in 2 to 5 % of them; in 12 % where the
model was far from true and the rows three times those of the fit, where 55 % lay outside the region.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicHermiteSpline
from scipy.stats import chi2

from focalcal._settings import check_level
from focalcal.calibrators.objective import SurveyRows
from focalcal.calibrators.temperature import surface
from focalcal.calibrators.temperature.newton import Box, minimise
from focalcal.calibrators.temperature.surface import Losses
from focalcal.rows import Rows
from focalcal.scores import FitSums

Array = NDArray[np.float64]

#: Numbers in the sample that is used instead of rows with more than twice as many, and its fewest rows.
_SAMPLE, _FEWEST = 1 << 19, 2048

#: Bounds of log T, as far as any typical temperature can be.
_WIDEST = math.log(1e6)


@dataclass(frozen=True)
class Place:
    """A pair of parameters and the mean log loss of the rows there."""

    temperature: float
    gamma: float
    loss: float


@dataclass(frozen=True, eq=False)
class Profile:
    """How the mean log loss of some rows depends on (T, γ).

    Attributes
    ----------
    temperature : ndarray of shape (A,)
        Rising temperatures of the curves.
    plain, plain_slope : ndarray of shape (A,)
        Mean NLL in nats at γ = 0, and its derivative in log T.
    profiled, profiled_slope : ndarray of shape (A,) or None
        The same at the best γ for each temperature; None for temperature alone.
    surface : surface.Surface or None
        The loss over (log T, γ); None for temperature alone.
    fitted : Place
        The calibrator's parameters; T = 1 where there is no calibrator.
    optimum : Place
        The best parameters for these rows.
    n, n_used : int
        Rows, and rows that were used: a sample beyond 2²⁰ numbers.
    n_effective : float
        (Σw)²/Σw² of the used rows.
    n_fit : int
        Rows that the calibrator was fitted on by log loss; 0 where it was not.
    dispersion : float
        tr(H⁻¹J)/d, 1 for a true model.
    level : float
        Coverage of the region.
    """

    temperature: Array
    plain: Array
    plain_slope: Array
    profiled: Array | None
    profiled_slope: Array | None
    surface: surface.Surface | None
    fitted: Place
    optimum: Place
    n: int
    n_used: int
    n_effective: float
    n_fit: int
    dispersion: float
    level: float = 0.95

    @property
    def parameters(self) -> int:
        """Number of parameters, d."""
        return 1 if self.surface is None else 2

    @property
    def threshold(self) -> float:
        """How much the mean loss may lie above its minimum within the region."""
        return float(chi2.ppf(self.level, self.parameters)) / (2 * self.n_effective)

    @property
    def statistic(self) -> float:
        """Twice the effective rows times the loss of the fitted parameters above the minimum."""
        return 2 * self.n_effective * max(self.fitted.loss - self.optimum.loss, 0.0)

    @property
    def inside(self) -> bool:
        """Whether the fitted parameters lie within the region."""
        return self.fitted.loss - self.optimum.loss <= self.threshold

    @property
    def p_value(self) -> float:
        """How surely the rows are unlike those of the fit, whose own error is allowed for; NaN if unknown.

        Without a calibrator it tests T = 1.
        """
        fixed = self.n_fit == 0 and (self.fitted.temperature, self.fitted.gamma) == (1.0, 0.0)
        if self.n_fit == 0 and not fixed:
            return math.nan
        error = 1.0 if fixed else 1 + self.n_effective / self.n_fit
        return float(chi2.sf(self.statistic / (self.dispersion * error), self.parameters))

    @property
    def curve(self) -> CubicHermiteSpline:
        """The loss at the best γ (or, for temperature alone, at γ = 0) as a function of log T."""
        loss, slope = self.profiled, self.profiled_slope
        if loss is None or slope is None:
            loss, slope = self.plain, self.plain_slope
        return CubicHermiteSpline(np.log(self.temperature), loss, slope)

    @property
    def interval(self) -> tuple[float, float]:
        """The temperatures within the region; an end that is not on the curve is that of the curve."""
        low, high = math.log(self.temperature[0]), math.log(self.temperature[-1])
        crossings = self.curve.solve(self.optimum.loss + self.threshold, extrapolate=False)
        centre = math.log(self.optimum.temperature)
        below, above = crossings[crossings < centre], crossings[crossings > centre]
        ends = (float(below.max()) if len(below) else low, float(above.min()) if len(above) else high)
        return math.exp(ends[0]), math.exp(ends[1])

    def to_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; a number that is not finite is None."""
        low, high = self.interval
        p_value = self.p_value
        return {
            "n": self.n,
            "n_used": self.n_used,
            "n_effective": self.n_effective,
            "n_fit": self.n_fit,
            "level": self.level,
            "fitted": vars(self.fitted),
            "optimum": vars(self.optimum),
            "temperature_interval": [low, high],
            "inside": self.inside,
            "statistic": self.statistic,
            "p_value": p_value if math.isfinite(p_value) else None,
            "temperature": self.temperature.tolist(),
            "loss": self.plain.tolist(),
            "profiled_loss": None if self.profiled is None else self.profiled.tolist(),
            "surface": None if self.surface is None else self.surface.to_dict(),
        }


def profile(rows: Rows, calibrator: Any = None, *, level: float = 0.95) -> Profile | None:
    """Evaluate the log loss of rows around a calibrator's temperature and γ.

    Parameters
    ----------
    rows : Rows
        As from `focalcal.rows.as_rows`, or the first of what ``open_scores(...).rows()`` returns.
    calibrator : TemperatureScaling or FocalTemperatureScaling, optional
        Fitted. Without one the scores are looked at as they are, T = 1.
    level : float
        Coverage of the likelihood region.

    Returns
    -------
    Profile or None
        None where the likelihood has no maximum at a finite temperature: no row is wrong, scores point away
        from the labels or are constant, a label has a logit of −inf.

    Notes
    -----
    Of more than 2²⁰ numbers a sample of half as many is used, spread evenly over the rows.

    Examples
    --------
    Of four equal rows three are right: log-odds log 3 must come from a logit of 4.

    >>> from focalcal.rows import as_rows
    >>> rows, _ = as_rows([[4.0, 0.0]] * 4, [0, 0, 0, 1], None, "logits", None)
    >>> found = profile(rows)
    >>> round(found.optimum.temperature / (4 / math.log(3)), 6), round(found.optimum.loss, 4)
    (1.0, 0.5623)
    """
    level = check_level(level)
    used = rows.sample(max(_FEWEST, _SAMPLE // rows.n_classes)) or rows.in_memory()
    survey = used.map_sum(SurveyRows(used.kind))
    if survey.misses == 0 or not (survey.slope < 0 < survey.distance < math.inf):
        return None
    losses, bounds = Losses(used), _gamma_bounds(calibrator)
    at = (0.0, 0.0 if bounds else None)
    if calibrator is not None:
        at = (math.log(calibrator.temperature_), calibrator.gamma_ if bounds else None)
    best = _optimum(losses, at, bounds)
    here, there = losses.at([at, best])
    region = chi2.ppf(level, 2) / (2 * losses.n_effective)
    plane = None if bounds is None else surface.around(losses, best, at, there, bounds, region)
    threshold = chi2.ppf(level, 1 if bounds is None else 2) / (2 * losses.n_effective)
    return Profile(
        *_curves(losses, at[0], best, there, bounds, threshold),
        plane,
        fitted=_place(at, here),
        optimum=_place(best, there),
        n=rows.n,
        n_used=used.n,
        n_effective=losses.n_effective,
        n_fit=_rows_of_fit(calibrator),
        dispersion=_dispersion(there, losses.n_effective, bounds is not None),
        level=level,
    )


def _gamma_bounds(calibrator: Any) -> tuple[float, float] | None:
    if not hasattr(calibrator, "gamma_"):
        return None
    low, high = calibrator.gamma_bounds
    return float(low), float(high)


def _rows_of_fit(calibrator: Any) -> int:
    """Return how many rows log loss was minimised on: another criterion has another optimum."""
    return int(calibrator.n_fit_) if calibrator is not None and calibrator.criterion == "nll" else 0


def _place(point: surface.Point, sums: FitSums) -> Place:
    return Place(math.exp(point[0]), point[1] or 0.0, sums.loss)


def _optimum(losses: Losses, at: surface.Point, bounds: tuple[float, float] | None) -> surface.Point:
    """Return the lowest point that Newton's steps reach from the calibrator and from several γ."""
    gammas = (0.0, 0.0) if bounds is None else bounds
    box = Box((-_WIDEST, gammas[0]), (_WIDEST, gammas[1]))

    def sums(tau: float, gamma: float) -> FitSums:
        return losses.at([(tau, None if bounds is None else gamma)])[0]

    starts = [(at[0], at[1] or 0.0)]
    if bounds is not None:  # the loss can have two basins, one of them close to γ = −1
        starts += [(at[0], 0.0), (at[0] - 1.0, max(bounds[0], -0.9))]
    found = min((minimise(sums, start, box) for start in starts), key=lambda optimum: optimum.loss)
    return found.point[0], None if bounds is None else found.point[1]


def _dispersion(sums: FitSums, n: float, both: bool) -> float:
    """Return tr(H⁻¹J)/d at the optimum; 1 where the curvature does not tell."""
    (a, b, d), (p, q, r) = sums.hessian, sums.outer
    if not both:
        return n * p / a if a > 0 and p > 0 else 1.0
    determinant = a * d - b * b
    ratio = n * (d * p - 2 * b * q + a * r) / (2 * determinant) if determinant > 0 else 1.0
    return ratio if math.isfinite(ratio) and ratio > 0 else 1.0


def _curves(
    losses: Losses,
    fitted: float,
    best: surface.Point,
    sums: FitSums,
    bounds: tuple[float, float] | None,
    threshold: float,
) -> tuple[Array, Array, Array, Array | None, Array | None]:
    """Return temperatures, and loss and slope in log T at γ = 0 and at the best γ."""
    taus = _taus(losses, fitted, best, sums, threshold)
    plain = losses.at([(tau, None) for tau in taus.tolist()])
    loss, slope = np.array([(s.loss, s.gradient[0]) for s in plain]).T
    if bounds is None:
        return np.exp(taus), loss, slope, None, None
    ridge = surface.best_gammas(losses, taus, best[1] or 0.0, bounds)
    # at the best γ the loss changes with T as if γ stood still
    best_loss, best_slope = np.array([(s.loss, s.gradient[0]) for s in ridge]).T
    return np.exp(taus), loss, slope, best_loss, best_slope


def _taus(losses: Losses, fitted: float, best: surface.Point, sums: FitSums, threshold: float) -> Array:
    """Return where to evaluate: over all that is shown, and more densely around the optimum."""
    a, b, d = sums.hessian
    curvature = max(a - b * b / d if best[1] is not None and d > 0 else a, 1e-9)
    half = min(math.sqrt(2 * threshold / curvature), 1.5)
    plain = best[0]
    if best[1] is not None:
        box = Box((-_WIDEST, 0.0), (_WIDEST, 0.0))
        plain = minimise(lambda tau, _: losses.at([(tau, None)])[0], (best[0], 0.0), box).point[0]
    shown: Sequence[float] = [fitted, plain, best[0] - 1.6 * half, best[0] + 1.6 * half]
    low, high = min(shown), max(shown)
    if max(low, -high) < math.log(20):  # T = 1, nothing done, is worth showing unless far away
        low, high = min(low, 0.0), max(high, 0.0)
    pad = 0.12 * (high - low)
    wide = np.linspace(low - pad, high + pad, 17)
    close = np.linspace(best[0] - 1.6 * half, best[0] + 1.6 * half, 9)
    return np.asarray(np.unique(np.concatenate([wide, close])))
