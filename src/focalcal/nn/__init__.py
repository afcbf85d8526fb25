"""Losses and layers for training classifiers whose probabilities can be trusted; needs PyTorch."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "focalcal.nn needs torch: pip install 'focalcal[torch]'", name="torch"
    ) from error

from focalcal.nn.brier import BrierLoss, brier_loss
from focalcal.nn.dual import DualFocalLoss, dual_focal_loss
from focalcal.nn.focal import FocalLoss, InverseFocalLoss, focal_loss, inverse_focal_loss
from focalcal.nn.maps import FocalCalibrationMap, focal_map, inverse_focal_map
from focalcal.nn.proper import ProperFocalLoss, proper_focal_loss
from focalcal.nn.schedules import FLSD53, FLSDLoss, SteppedGamma, flsd_loss

__all__ = [
    "FLSD53",
    "BrierLoss",
    "DualFocalLoss",
    "FLSDLoss",
    "FocalCalibrationMap",
    "FocalLoss",
    "InverseFocalLoss",
    "ProperFocalLoss",
    "SteppedGamma",
    "brier_loss",
    "dual_focal_loss",
    "flsd_loss",
    "focal_loss",
    "focal_map",
    "inverse_focal_loss",
    "inverse_focal_map",
    "proper_focal_loss",
]
