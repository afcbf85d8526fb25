"""The metrics one by one; each takes labels and scores and returns an `Estimate`."""

from focalcal.metrics.binned import classwise_ece, ece, top_label_ece
from focalcal.metrics.kernel import kernel_ece
from focalcal.metrics.ks import ks_error
from focalcal.metrics.scores import accuracy, brier, focal_score, nll, sharpness
from focalcal.metrics.selective import SelectiveRisk, selective_risk
from focalcal.metrics.smooth import smooth_ece

__all__ = [
    "SelectiveRisk",
    "accuracy",
    "brier",
    "classwise_ece",
    "ece",
    "focal_score",
    "kernel_ece",
    "ks_error",
    "nll",
    "selective_risk",
    "sharpness",
    "smooth_ece",
    "top_label_ece",
]
