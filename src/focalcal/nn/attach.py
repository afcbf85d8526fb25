"""A trained network with its calibrator attached."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sklearn.base import clone
from torch import Tensor

from focalcal._settings import check_count
from focalcal._validate import check_input
from focalcal.calibrators import Calibrator, FocalTemperatureScaling
from focalcal.nn._batches import Unpack, logits_of
from focalcal.nn._outputs import RowStore, collect
from focalcal.nn.convert import to_module


class CalibratedModel(torch.nn.Module):
    """A model that returns calibrated log-probabilities: its logits, passed through an output layer.

    Parameters
    ----------
    model : torch.nn.Module
        A classifier that returns logits of shape (N, C, d1, …): as a tensor, as a tuple's first entry, or
        as `.logits` or ["logits"], as models of Hugging Face do.
    calibration : torch.nn.Module
        The output layer, from logits to log-probabilities: a `FocalCalibrationMap`, a `FocalTemperature`, or
        what `to_module` returns.
    calibrator : Calibrator, optional
        What the layer was made of, for its diagnostics and standard errors. `calibrate` sets it.

    Raises
    ------
    TypeError
        For a model that is no module, or returns no logits.

    Notes
    -----
    An ordinary module: state_dict, safetensors and torch.export hold model and calibration.

    Examples
    --------
    A model trained with focal loss is not calibrated even where it is optimal; with the focal calibration
    map of the same γ it gives the class posterior, without a calibration set. At (.25, .75) focal loss with
    γ = 1 is optimal for the posterior (.1240, .8760):

    >>> import torch
    >>> from focalcal.nn import CalibratedModel, FocalCalibrationMap
    >>> model = torch.nn.Identity()  # was trained with FocalLoss(gamma=1.0)
    >>> calibrated = CalibratedModel(model, FocalCalibrationMap(1.0))
    >>> calibrated(torch.log(torch.tensor([[0.25, 0.75]]))).exp()
    tensor([[0.1240, 0.8760]])
    """

    def __init__(
        self, model: torch.nn.Module, calibration: torch.nn.Module, calibrator: Calibrator | None = None
    ) -> None:
        super().__init__()
        _check_model(model)
        self.model = model
        self.calibration = calibration
        self.calibrator = calibrator

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return calibrated log-probabilities of the logits' shape, for what the model takes."""
        calibrated: Tensor = self.calibration(logits_of(self.model(*args, **kwargs)))
        return calibrated


def calibrate(
    model: torch.nn.Module,
    loader: Iterable[Any],
    calibrator: Calibrator | None = None,
    *,
    device: torch.device | str | None = None,
    unpack: Unpack | None = None,
    ignore_index: int = -100,
    memory: int = 1 << 30,
) -> CalibratedModel:
    """Fit a calibrator to a model's outputs on held-out data, and attach it.

    Parameters
    ----------
    model : torch.nn.Module
        As `CalibratedModel` takes it. It is run in eval mode; every submodule gets its mode back.
    loader : iterable of batches
        Pairs (inputs, labels), or dicts with "labels" whose other entries are passed by name. The inputs of
        a pair are passed as they are, a tuple is spread, a dict is passed by name. Labels are class
        indices of shape (N, d1, …). The data must not be those that the model was trained on.
    calibrator : Calibrator, optional
        What to fit a copy of. Default: `FocalTemperatureScaling`. With input="probs" the model's outputs
        are taken as the probabilities they were declared to be; `classes` names the columns.
    device : torch.device or str, optional
        Where inputs are sent. Default: where the model's first parameter is. The model is not moved.
    unpack : callable, optional
        From any other kind of batch to (inputs, labels).
    ignore_index : int
        Rows with this label are left out.
    memory : int
        Bytes that the scores may take, in the precision of the model's outputs (bfloat16 as float32). Of
        more than half as many a temporary file is written, and removed. Labels take 8 bytes a row besides.

    Returns
    -------
    CalibratedModel
        Of the same model, with the fitted calibrator as `.calibrator`.

    Raises
    ------
    ValueError, TypeError
        For an empty loader, labels that do not fit the logits' shape, NaN or +inf among the logits, batches
        or outputs of an unknown kind.

    Warns
    -----
    CalibrationWarning
        As the calibrator's `fit`.

    Examples
    --------
    Of four equal rows three are right, so that p becomes 3/4:

    >>> import torch
    >>> from focalcal import TemperatureScaling
    >>> batch = torch.tensor([[4.0, 0.0]] * 4), torch.tensor([0, 0, 0, 1])
    >>> calibrated = calibrate(torch.nn.Identity(), [batch], TemperatureScaling())
    >>> calibrated(torch.tensor([[4.0, 0.0]])).exp()
    tensor([[0.7500, 0.2500]])
    """
    _check_model(model)
    if calibrator is not None and not isinstance(calibrator, Calibrator):
        raise TypeError(f"Expected a calibrator of focalcal, got {type(calibrator).__name__}. Leave it out.")
    fitted = FocalTemperatureScaling() if calibrator is None else clone(calibrator)
    with RowStore(check_input(fitted.input), check_count("memory", memory)) as store:
        collect(model, loader, store, device, unpack, ignore_index)
        scores, labels = store.rows()
        classes = np.arange(scores.shape[1]) if fitted.classes is None else np.asarray(fitted.classes)
        # a wrong number of names is the calibrator's to refuse
        fitted.fit(scores, classes[labels] if len(classes) == scores.shape[1] else labels)
    return CalibratedModel(model, to_module(fitted), fitted)


def _check_model(model: object) -> None:
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"Expected model as a torch.nn.Module, got {type(model).__name__}. Wrap it in one.")
