"""Curvature in closed form: of multinomial logistic regression, and of calibrators in (log T, γ)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from focalcal._validate import check_input
from focalcal.calibrators import FocalTemperatureScaling, TemperatureScaling
from focalcal.calibrators.objective import Objective
from focalcal.curvature.rows.logit_hessian import logit_hessian
from focalcal.rows import as_rows
from focalcal.scores import Criterion


def logistic_hessian(
    loss: Any, inputs: Tensor, target: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    r"""Return the Hessian of the mean loss of a linear classifier in its parameters.

    Parameters
    ----------
    loss : torch.nn.Module
        Cross-entropy or a loss of the focal family, without label smoothing: its class weights and
        `ignore_index` count, its `reduction` does not.
    inputs : Tensor of shape (n, d)
        One row a sample.
    target : Tensor of shape (n,)
        Class indices.
    weight : Tensor of shape (C, d)
        Of the logits z = W x + b, as in `torch.nn.Linear`.
    bias : Tensor of shape (C,), optional
        If given, the Hessian is in the bias too, after the weight.

    Returns
    -------
    Tensor of shape (P, P), float64
        P = C d, or C (d + 1) with a bias; in the order of `LossSurface` of a `torch.nn.Linear`.

    Raises
    ------
    ValueError
        For shapes that do not fit, and losses whose Hessian in the logits is not known.

    Notes
    -----
    With the Hessians :math:`H_i` of the rows' losses in their logits
    (`focalcal.curvature.rows.logit_hessian`),

    .. math:: \nabla^2 L = \frac{\sum_i H_i \otimes x_i x_i^\top}{\sum_i w_i}, \qquad
              \mathrm{tr}\, \nabla^2 L = \frac{\sum_i \mathrm{tr} H_i\, \lVert x_i \rVert^2}{\sum_i w_i} .

    It is the GGN as well. Its eigenvalues are those of ``torch.linalg.eigvalsh``; softmax does not see a
    constant added to all logits, which makes d (or d + 1) of them 0.

    Examples
    --------
    At equal probabilities of two classes and x = 2, H is ¼ (1, −1; −1, 1):

    >>> x, y = torch.tensor([[2.0]]), torch.tensor([0])
    >>> logistic_hessian(torch.nn.CrossEntropyLoss(), x, y, torch.zeros(2, 1))
    tensor([[ 1., -1.],
            [-1.,  1.]], dtype=torch.float64)
    """
    if inputs.dim() != 2 or weight.dim() != 2 or weight.shape[1] != inputs.shape[1]:
        raise ValueError(
            f"Expected inputs (n, d) and weight (C, d), got {tuple(inputs.shape)} and {tuple(weight.shape)}. "
            "Flatten the inputs to one row a sample."
        )
    x, w = inputs.detach().double(), weight.detach().double()
    z = x @ w.T if bias is None else x @ w.T + bias.detach().double()
    hessian = logit_hessian(loss, z, target)
    share, label = hessian.share, hessian.label.unsqueeze(1)
    spread = torch.diag_embed(share) - share.unsqueeze(2) * share.unsqueeze(1)
    along = (-share).scatter(1, label, 1.0)
    of_rows = hessian.slope[:, None, None] * spread + torch.einsum("n,nc,nk->nck", hessian.bend, along, along)
    if bias is not None:
        x = torch.cat([x, x.new_ones(len(x), 1)], 1)
    found = torch.einsum("nck,ni,nj->cikj", of_rows, x, x) / hessian.weight.sum()
    size = found.shape[0] * found.shape[1]
    place = torch.arange(size, device=x.device).reshape(found.shape[:2])
    # Linear has all weights before all biases
    order = place.flatten() if bias is None else torch.cat([place[:, :-1].flatten(), place[:, -1]])
    return found.reshape(size, size)[order][:, order]


@dataclass(frozen=True, eq=False)
class CalibratorCurvature:
    """The curvature of a calibration loss at fitted parameters, and what it says of them.

    Attributes
    ----------
    parameters : tuple of str
        "log_temperature", and "gamma" of `FocalTemperatureScaling`: the axes of the arrays.
    hessian : array of shape (p, p)
        Of the mean loss, in nats (or Brier score) per squared unit.
    eigenvalues : array of shape (p,)
        Ascending.
    eigenvectors : array of shape (p, p)
        Columns; the first is the direction in which the data tell least.
    covariance : array of shape (p, p)
        Of the estimates, by the sandwich formula; NaN where the Hessian is not positive definite.
    """

    parameters: tuple[str, ...]
    hessian: NDArray[np.float64]
    eigenvalues: NDArray[np.float64]
    eigenvectors: NDArray[np.float64]
    covariance: NDArray[np.float64]

    @property
    def stderr(self) -> NDArray[np.float64]:
        """Standard errors (p,) of the parameters; that of T itself is T times that of log T."""
        return np.asarray(np.sqrt(np.diag(self.covariance)))

    @property
    def correlation(self) -> float:
        """Correlation of the estimates: near ±1 the data do not tell them apart. NaN of one parameter."""
        if len(self.parameters) == 1:
            return float("nan")
        return float(self.covariance[0, 1] / self.stderr[0] / self.stderr[1])

    @property
    def condition(self) -> float:
        """Largest by smallest eigenvalue: how much longer than wide the valley of the loss is, squared."""
        return float(self.eigenvalues[-1] / self.eigenvalues[0]) if self.eigenvalues[0] > 0 else float("inf")

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        arrays = {name: getattr(self, name).tolist() for name in ("hessian", "eigenvalues", "covariance")}
        numbers = {name: getattr(self, name) for name in ("correlation", "condition")}
        return {"parameters": list(self.parameters)} | arrays | {"stderr": self.stderr.tolist()} | numbers


def calibrator_curvature(
    calibrator: TemperatureScaling | FocalTemperatureScaling, X: Any, y: Any = None, sample_weight: Any = None
) -> CalibratorCurvature:
    r"""Return the curvature of a fitted calibrator's mean loss in (log T, γ).

    Parameters
    ----------
    calibrator : fitted TemperatureScaling or FocalTemperatureScaling
        Its criterion is the loss; where that is "ece", which has no curvature, the NLL.
    X, y, sample_weight
        As in `fit`: the same rows give the calibrator's own standard errors.

    Returns
    -------
    CalibratorCurvature
        A frozen dataclass: `hessian`, `eigenvalues`, `covariance`, `stderr`, `correlation`, `condition`.

    Raises
    ------
    TypeError
        For another calibrator.
    ValueError
        If it is not fitted, or the data are not what it declares.

    Notes
    -----
    At a minimum with Hessian H and rows' gradients :math:`g_i` of weights :math:`w_i` (whose sum is W), the
    estimates' covariance is :math:`H^{-1} \bigl(\sum_i w_i^2 g_i g_i^\top\bigr) H^{-1} / W^2`. A small
    eigenvalue is a direction along which T and γ trade off: for two classes and γ > 0 they always do. Where
    the fit held γ for that reason, or at a bound, it may be 0 or negative, and the covariance is NaN.

    Examples
    --------
    Of four equal rows three are right: the loss as a function of u = log T has the curvature p (1−p) z², with
    p = 3/4 and z = log 3, at its minimum.

    >>> X, y = np.array([[4.0, 0.0]] * 4), np.array([0, 0, 0, 1])
    >>> found = calibrator_curvature(TemperatureScaling().fit(X, y), X, y)
    >>> bool(np.isclose(found.hessian[0, 0], 3 / 16 * np.log(3) ** 2))
    True
    """
    if not isinstance(calibrator, (TemperatureScaling, FocalTemperatureScaling)):
        raise TypeError(
            f"Expected a TemperatureScaling or FocalTemperatureScaling, got {type(calibrator).__name__}. The "
            "parameters of others are not log T and gamma."
        )
    check_is_fitted(calibrator, "temperature_")
    rows = as_rows(X, y, sample_weight, check_input(calibrator.input), calibrator.classes_, None)[0]
    gamma = getattr(calibrator, "gamma_", None)
    criterion: Criterion = "brier" if calibrator.criterion == "brier" else "nll"
    sums = Objective(rows).sums(float(np.log(calibrator.temperature_)), gamma, criterion)
    size = 1 if gamma is None else 2
    hessian, outer = (_symmetric(three)[:size, :size] for three in (sums.hessian, sums.outer))
    values, vectors = np.linalg.eigh(hessian)
    covariance = np.full((size, size), np.nan)
    if values[0] > 0:
        inverse = np.linalg.inv(hessian)
        covariance = inverse @ outer @ inverse
    return CalibratorCurvature(("log_temperature", "gamma")[:size], hessian, values, vectors, covariance)


def _symmetric(three: tuple[float, float, float]) -> NDArray[np.float64]:
    a, b, d = three
    return np.array([[a, b], [b, d]])
