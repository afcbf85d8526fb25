"""Losses and layers for training classifiers whose probabilities can be trusted; needs PyTorch."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "focalcal.nn needs torch: pip install 'focalcal[torch]'", name="torch"
    ) from error

from focalcal.nn.adafocal import AdaFocalLoss, CalFocalLoss, adafocal_loss
from focalcal.nn.attach import CalibratedModel, calibrate
from focalcal.nn.aurc import AURCLoss, aurc_loss
from focalcal.nn.binary import (
    BinaryLoss,
    binary_dual_focal_loss,
    binary_focal_loss,
    binary_inverse_focal_loss,
    binary_loss,
    binary_proper_focal_loss,
)
from focalcal.nn.brier import BrierLoss, brier_loss
from focalcal.nn.convert import to_module
from focalcal.nn.dual import DualFocalLoss, dual_focal_loss
from focalcal.nn.focal import FocalLoss, InverseFocalLoss, focal_loss, inverse_focal_loss
from focalcal.nn.maps import focal_map, inverse_focal_map
from focalcal.nn.mmce import MMCELoss, mmce_loss, mmce_penalty
from focalcal.nn.proper import ProperFocalLoss, proper_focal_loss
from focalcal.nn.schedules import FLSD53, FLSDLoss, SteppedGamma, flsd_loss
from focalcal.nn.temperature import FocalCalibrationMap, FocalTemperature

__all__ = [
    "FLSD53",
    "AURCLoss",
    "AdaFocalLoss",
    "BinaryLoss",
    "BrierLoss",
    "CalFocalLoss",
    "CalibratedModel",
    "DualFocalLoss",
    "FLSDLoss",
    "FocalCalibrationMap",
    "FocalLoss",
    "FocalTemperature",
    "InverseFocalLoss",
    "MMCELoss",
    "ProperFocalLoss",
    "SteppedGamma",
    "adafocal_loss",
    "aurc_loss",
    "binary_dual_focal_loss",
    "binary_focal_loss",
    "binary_inverse_focal_loss",
    "binary_loss",
    "binary_proper_focal_loss",
    "brier_loss",
    "calibrate",
    "dual_focal_loss",
    "flsd_loss",
    "focal_loss",
    "focal_map",
    "inverse_focal_loss",
    "inverse_focal_map",
    "mmce_loss",
    "mmce_penalty",
    "proper_focal_loss",
    "to_module",
]
