r"""Temperature scaling and focal temperature scaling."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from focalcal._settings import check_choice, check_gamma, check_temperature
from focalcal._validate import check_input
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.diagnostics import Fitted
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.temperature.fitting import fit_temperature
from focalcal.maps import map_scores

_CRITERIA = ("nll", "brier", "ece")


class TemperatureScaling(Calibrator):
    r"""Divide the logits by one temperature: p = softmax(z / T).

    Parameters
    ----------
    criterion : {"nll", "brier", "ece"}
        What is minimised over the fitted rows: mean negative log-likelihood, mean Brier score, or the
        15-bin equal-mass top-label ECE (over the grid T = .05, .10, …, 5, then refined).
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    temperature_ : float
    stderr_ : dict
        Standard errors by the sandwich formula; NaN at a bound, and with criterion "ece".
    diagnostics_ : Diagnostics
        How the fit went.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    Newton's method on exact derivatives in log T; rows are read in blocks, so memory does not grow with n.
    The NLL is convex in 1/T and has one minimum unless the rows are separable.

    References
    ----------
    Guo et al. 2017, arXiv 1706.04599.

    Examples
    --------
    Of four equal rows three are right: with p = 3/4, log-odds log 3 must come from a logit of 4.

    >>> import numpy as np
    >>> X, y = np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    >>> cal = TemperatureScaling().fit(X, y)
    >>> bool(np.isclose(cal.temperature_, 4 / np.log(3)))
    True
    >>> cal.predict_proba(X[:1]).round(6)
    array([[0.75, 0.25]])
    """

    _parameter_names = ("temperature",)

    temperature_: float

    def __init__(self, *, criterion: str = "nll", input: str = "logits", classes: Any = None) -> None:
        self.criterion = criterion
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        check_choice("criterion", self.criterion, _CRITERIA)

    def _check_parameters(self) -> None:
        check_temperature(self.temperature_)

    def _estimate(self, objective: Objective) -> Fitted:
        return fit_temperature(objective, self.criterion, None)

    def _map(self, scores: NDArray[Any], *, probabilities: bool) -> NDArray[np.floating[Any]]:
        return map_scores(
            scores, check_input(self.input), self.temperature_, 0.0, probabilities=probabilities
        )


class FocalTemperatureScaling(Calibrator):
    r"""Temperature, then the focal calibration map: p = φ_γ(softmax(z / T)).

    Parameters
    ----------
    criterion : {"nll", "brier", "ece"}
        What is minimised over the fitted rows, as in `TemperatureScaling`; "ece" searches the paper's grid
        T = .05, .10, …, 5 and γ in (−1, −.75, …, .75, 1, 3, 5), refined around its best cells.
    gamma_bounds : tuple of two floats
        Range of γ, at least −1.
    input : {"logits", "probs"}
        What X holds. It is declared, never guessed.
    classes : sequence of K labels, optional
        The class of each column; needed when labels are not column numbers and not all occur.

    Attributes
    ----------
    temperature_, gamma_ : float
    stderr_ : dict
        Standard errors by the sandwich formula; NaN at a bound, and with criterion "ece".
    diagnostics_ : Diagnostics
        How the fit went.
    classes_ : ndarray of shape (K,)
    n_fit_ : int
        Rows of the fit.

    Notes
    -----
    γ = 0 is temperature scaling. Newton's method on exact derivatives in (log T, γ) from several γ, since
    the loss can have two basins. For two classes and γ > 0 a single temperature does the same to within
    .0012 in probability: where T and γ cannot be told apart and γ gains nothing, γ = 0 is returned, and
    `diagnostics_.identifiable` is False.

    References
    ----------
    Komisarenko and Kull, ECAI 2024, arXiv 2408.11598.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> z = rng.normal(size=(2000, 5)) * 2
    >>> p = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)
    >>> y = np.array([rng.choice(5, p=row) for row in p])
    >>> cal = FocalTemperatureScaling().fit(3 * z, y)  # over-confident threefold
    >>> abs(cal.temperature_ - 3) < 3 * cal.stderr_["temperature"]
    True
    """

    _parameter_names = ("temperature", "gamma")

    temperature_: float
    gamma_: float

    def __init__(
        self,
        *,
        criterion: str = "nll",
        gamma_bounds: tuple[float, float] = (-1, 20),
        input: str = "logits",
        classes: Any = None,
    ) -> None:
        self.criterion = criterion
        self.gamma_bounds = gamma_bounds
        self.input = input
        self.classes = classes

    def _check_settings(self) -> None:
        check_choice("criterion", self.criterion, _CRITERIA)
        low, high = self.gamma_bounds
        if not check_gamma(low) <= 0 <= check_gamma(high):
            raise ValueError(
                f"Expected gamma_bounds (low, high) with low <= 0 <= high, got {self.gamma_bounds}."
            )

    def _check_parameters(self) -> None:
        check_temperature(self.temperature_)
        check_gamma(self.gamma_)

    def _estimate(self, objective: Objective) -> Fitted:
        low, high = self.gamma_bounds
        return fit_temperature(objective, self.criterion, (float(low), float(high)))

    def _map(self, scores: NDArray[Any], *, probabilities: bool) -> NDArray[np.floating[Any]]:
        return map_scores(
            scores, check_input(self.input), self.temperature_, self.gamma_, probabilities=probabilities
        )
