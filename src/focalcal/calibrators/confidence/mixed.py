r"""Temperature scaling mixed with the uniform distribution."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import reduce
from operator import add
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_mixed_share, check_range, check_shape, check_temperature
from focalcal._validate import check_input
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Diagnostics, Fitted
from focalcal.calibrators.held_out import HeldOut, log_normalised, map_rows, weighted_rows
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.temperature.fitting import fit_temperature, standard_errors
from focalcal.calibrators.temperature.newton import Box, Optimum, minimise
from focalcal.engine import row_slices
from focalcal.scores import FitSums

Array = NDArray[np.float64]

#: How far log T may go above and below where fits start: wrong rows of thousands of nats raise temperature
#: scaling's T as far above the best one.
_REACH, _DEPTH = 5.0, 14.0

#: Where `glimpse` looks: fractions of temperature scaling's T, and shares.
_FRACTIONS, _SHARES = (1.0, 0.6, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4), (0.003, 0.01, 0.03, 0.1)

#: With 1 − ρ² of the curvature's two directions below this, T and λ are not told apart.
_SINGULAR = 1e-4

#: Half of χ²₁'s 95 % point: how much λ must lower the summed loss to be kept where it may mean nothing.
_WORTH = 1.92

#: Probabilities below this are raised to it, so that the squares of their inverses are numbers. λ > 0, from
#: which other starts begin, is better than one of these.
_LEAST = 1e-100


class MixedTemperatureScaling(Calibrator):
    r"""Temperature scaling mixed with the uniform distribution: p = (1 − λ) softmax(z/T) + λ/K.

    Parameters
    ----------
    share : float, optional
        λ in [0, 1), if it is given: mixed into temperature scaling as it is. By default fitted with T.
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    temperature_ : float
    share_ : float
        λ in [0, 1]: what share of the labels is any class's, whatever the logits say.
    stderr_ : dict
        Standard errors by the sandwich formula; NaN for a share that ended at 0 or 1, none for one given.
    diagnostics_ : Diagnostics
        How the fit went.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    λ = 0 is temperature scaling; with λ > 0 no probability is below λ/K or above 1 − λ + λ/K. K counts
    the row's possible classes: a masked one stays at 0.

    The NLL is minimised by Newton's method on exact derivatives in (log T, λ) within 0 ≤ λ ≤ 1, from
    three starts, since it need not be convex. With u = z/T, q the plain and p the mixed probability of
    the label, ū and V the mean and variance of u under softmax(u), and a = u_y − ū,

    .. math:: \partial_{\log T}\, q = -q a, \quad \partial^2_{\log T}\, q = q (a^2 + a - V), \quad
              \partial_\lambda\, p = 1/K - q, \quad p = (1-\lambda) q + \lambda/K.

    Where T and λ cannot be told apart, λ = 0 is returned and `diagnostics_.identifiable` is False.

    A share that is given raises no row's loss by more than −log(1 − λ), and keeps it below log(K/λ).

    References
    ----------
    Zhang, Kailkhura and Han 2020, arXiv 2003.07329, of which it is the two-parameter case; Guo et al. 2017,
    arXiv 1706.04599.

    Examples
    --------
    Every fifth label is drawn at random, however sure the logits are: one in ten is wrong.

    >>> import numpy as np
    >>> X = np.repeat([[40.0, 0.0], [4.0, 0.0]], 1000, axis=0)
    >>> wrong = 0.2 / 2 + 0.8 / (1 + np.exp(4 / 2))  # λ = .2 and T = 2 at a logit of 4
    >>> y = np.repeat([0, 1, 0, 1], [900, 100, round(1000 - 1000 * wrong), round(1000 * wrong)])
    >>> cal = MixedTemperatureScaling().fit(X, y)
    >>> round(cal.share_, 2), round(cal.temperature_, 2)
    (0.2, 2.0)
    """

    _parameter_names = ("temperature", "share")

    temperature_: float
    share_: float

    def __init__(self, *, share: float | None = None, input: str = "logits", classes: Any = None) -> None:
        self.share = share
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        if self.share is not None:
            check_mixed_share(self.share)

    def _check_parameters(self) -> None:
        check_temperature(self.temperature_)
        check_shape("share", self.share_, ())
        check_range("share", self.share_, 0, 1)

    def _estimate(self, objective: Objective) -> Fitted:
        plain = fit_temperature(objective, "nll", None)
        if self.share is not None:
            return _with_share(plain, float(self.share), objective)
        if plain.diagnostics.separable or not plain.diagnostics.identifiable:
            return _without_share(plain)
        held = weighted_rows(objective)
        tau = math.log(plain.parameters["temperature"])
        rows = _Rows(held)
        typical = min(tau, _typical(held))
        box = Box((typical - _DEPTH, 0.0), (tau + _REACH, 1.0))
        seen = glimpse(held, math.exp(tau))
        starts = [(tau, 0.0), (math.log(seen.temperature), seen.share), (typical, 0.1)]
        tries = [minimise(rows.sums, start, box) for start in starts]
        best = min(tries, key=lambda found: found.loss)
        singular = not any(best.held) and _is_singular(best)
        little = _gain(plain, best) < _WORTH and (singular or plain.diagnostics.worse_than_chance)
        if little or plain.diagnostics.loss <= best.loss + 1e-9:
            return _without_share(plain, singular=singular)
        temperature, share = math.exp(best.point[0]), best.point[1]
        errors = standard_errors(best)
        # the sharper the better, or as good: nothing but the largest score counts
        endless = rows.sums(best.point[0] - 1, share).loss <= best.loss + 1e-9
        diagnostics = Diagnostics(
            "nll",
            best.loss,
            best.converged,
            sum(found.iterations for found in tries),
            ("temperature",) if endless or best.point[0] in (box.low[0], box.high[0]) else (),
            identifiable=not singular,
            unseen_classes=plain.diagnostics.unseen_classes,
        )
        return Fitted(
            {"temperature": temperature, "share": share},
            {"temperature": temperature * errors[0], "share": errors[1]},
            diagnostics,
        )

    def _map(self, scores: NDArray[Any], *, probabilities: bool) -> NDArray[np.floating[Any]]:
        kind = check_input(self.input)
        return map_rows(scores, kind, self._recalibrate, probabilities=probabilities, filled=False)

    def _recalibrate(self, log_probs: Array) -> Array:
        scaled = log_normalised(log_probs / self.temperature_)
        possible = np.isfinite(log_probs).sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore"):
            return np.asarray(
                np.logaddexp(scaled + np.log1p(-self.share_), np.log(self.share_) - np.log(possible))
            )


@dataclass(frozen=True)
class _Rows:
    """The loss of a calibration set as a function of (log T, λ)."""

    held: HeldOut

    def sums(self, tau: float, share: float) -> FitSums:
        """Return the mean loss and its derivatives."""
        slices = row_slices(self.held.n, self.held.n_classes)
        return reduce(add, (self._sums(self.held.part(rows), tau, share) for rows in slices)).mean()

    def _sums(self, part: HeldOut, tau: float, share: float) -> FitSums:
        every = np.arange(part.n)
        u = part.log_probs / math.exp(tau)  # (b, K)
        q = np.exp(part.normalised(u))
        flat = 1 / part.n_classes if part.masked is None else 1 / (~part.masked).sum(axis=1)
        mean = (q * u).sum(axis=1)
        variance = (q * (u - mean[:, None]) ** 2).sum(axis=1)
        q_y, a = q[every, part.codes], u[every, part.codes] - mean
        p = np.maximum((1 - share) * q_y + share * flat, _LEAST)
        slope = -q_y * a  # of q in log T
        t, g = -(1 - share) * slope / p, -(flat - q_y) / p
        tt = t * t - (1 - share) * q_y * (a * a + a - variance) / p
        tg = t * g + slope / p
        w = part.weight
        sums = (w @ column for column in (-np.log(p), t, g, tt, tg, g * g))
        outer = ((w * one) @ (w * other) for one, other in ((t, t), (t, g), (g, g)))
        return FitSums.of(map(float, (part.n, w.sum(), *sums, *outer)))


class Glimpse(NamedTuple):
    """The best of a few temperatures and shares, and its mean NLL."""

    temperature: float
    share: float
    loss: float


def glimpse(held: HeldOut, temperature: float) -> Glimpse:
    """Look at shares with a few temperatures up to temperature scaling's: far from a fit, but quick."""
    possible = held.n_classes if held.masked is None else (~held.masked).sum(axis=1)
    found = []
    typical = min(temperature, math.exp(_typical(held)))
    for one in (*(fraction * temperature for fraction in _FRACTIONS), typical):
        q = np.exp(-held.losses(held.normalised(held.log_probs / one)))
        for share in _SHARES:
            loss = held.weight @ -np.log((1 - share) * q + share / possible) / held.weight.sum()
            found.append(Glimpse(one, share, float(loss)))
    return min(found, key=lambda one: one.loss)


def _typical(held: HeldOut) -> float:
    """Return log T for a row in the middle: few rows, sure and wrong, raise temperature scaling's at will."""
    distance = held.log_probs.max(axis=1) - held.log_probs.mean(axis=1)
    return math.log(max(float(np.median(distance)) / 3, 1e-100))


def _with_share(plain: Fitted, share: float, objective: Objective) -> Fitted:
    """Return temperature scaling's fit, mixed with a share that is given."""
    rows = _Rows(weighted_rows(objective))
    loss = rows.sums(math.log(plain.parameters["temperature"]), share).loss
    return Fitted(
        {**plain.parameters, "share": share},
        plain.stderr,
        replace(plain.diagnostics, loss=loss),
    )


def _without_share(plain: Fitted, *, singular: bool = False) -> Fitted:
    """Return temperature scaling's fit as the case λ = 0."""
    facts = replace(plain.diagnostics, identifiable=plain.diagnostics.identifiable and not singular)
    return Fitted({**plain.parameters, "share": 0.0}, {**plain.stderr, "share": math.nan}, facts)


def _is_singular(optimum: Optimum) -> bool:
    a, b, d = optimum.sums.hessian
    return a <= 0 or d <= 0 or 1 - b * b / (a * d) < _SINGULAR


def _gain(plain: Fitted, best: Optimum) -> float:
    """Return by how much the second parameter lowers the summed loss."""
    return (plain.diagnostics.loss - best.loss) * best.sums.weight
