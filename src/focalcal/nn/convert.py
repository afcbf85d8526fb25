"""Fitted calibrators as PyTorch modules."""

from __future__ import annotations

from functools import singledispatch

import torch
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from focalcal._validate import PROBABILITY_FLOOR
from focalcal.calibrators import (
    Calibrator,
    FocalMatrixScaling,
    FocalTemperatureScaling,
    MixedTemperatureScaling,
    TemperatureScaling,
)
from focalcal.nn.matrix import FocalMatrix
from focalcal.nn.temperature import FocalTemperature
from focalcal.nn.uniform import UniformShare


def to_module(calibrator: Calibrator) -> torch.nn.Module:
    """Return a module that does what the `transform` of a fitted calibrator does.

    Parameters
    ----------
    calibrator : Calibrator
        Fitted, of a family that PyTorch can say: temperature, focal temperature, mixed temperature and focal
        matrix scaling.

    Returns
    -------
    torch.nn.Module
        From scores of shape (C,) or (N, C, d1, …) to log-probabilities of the same shape: logits, or
        probabilities for a calibrator with input="probs". Half precisions are computed in float32.

    Raises
    ------
    TypeError
        For what is no calibrator of focalcal, or one of another family.
    sklearn.exceptions.NotFittedError
        For a calibrator that is not fitted.

    Notes
    -----
    Unlike `transform`, the module does not check the values, which would wait for the device.

    Examples
    --------
    Of four equal rows three are right, so that p becomes 3/4:

    >>> import torch
    >>> cal = TemperatureScaling().fit([[4.0, 0.0]] * 4, [0, 0, 0, 1])
    >>> to_module(cal)(torch.tensor([[4.0, 0.0]])).exp()
    tensor([[0.7500, 0.2500]])
    """
    layer = _layer(calibrator)
    return layer if calibrator.input == "logits" else torch.nn.Sequential(LogProbabilities(), layer)


class LogProbabilities(torch.nn.Module):
    """Probabilities to logits, as in calibrators with input="probs": zeros are raised to 1e−30 first."""

    def forward(self, probs: Tensor) -> Tensor:
        """Return logarithms in nats of the shape of the probabilities, float32 or float64."""
        wide = probs.float() if probs.dtype.itemsize == 2 else probs
        return wide.clamp(min=PROBABILITY_FLOOR).log()


# a family registers here how it is said in PyTorch
@singledispatch
def _layer(calibrator: object) -> torch.nn.Module:
    if isinstance(calibrator, Calibrator):
        known = ", ".join(kind.__name__ for kind in _layer.registry if kind is not object)
        raise TypeError(
            f"Expected a calibrator that PyTorch can say ({known}), got {type(calibrator).__name__}. Use its "
            "own transform, outside the model."
        )
    raise TypeError(
        f"Expected a calibrator of focalcal, got {type(calibrator).__name__}. Fit one, or focalcal.load it."
    )


@_layer.register
def _(calibrator: TemperatureScaling) -> torch.nn.Module:
    check_is_fitted(calibrator)
    return FocalTemperature(calibrator.temperature_)


@_layer.register
def _(calibrator: FocalTemperatureScaling) -> torch.nn.Module:
    check_is_fitted(calibrator)
    return FocalTemperature(calibrator.temperature_, calibrator.gamma_)


@_layer.register
def _(calibrator: MixedTemperatureScaling) -> torch.nn.Module:
    check_is_fitted(calibrator)
    plain = FocalTemperature(calibrator.temperature_)
    return torch.nn.Sequential(plain, UniformShare(calibrator.share_)) if calibrator.share_ else plain


@_layer.register
def _(calibrator: FocalMatrixScaling) -> torch.nn.Module:
    check_is_fitted(calibrator)
    return FocalMatrix(calibrator)
