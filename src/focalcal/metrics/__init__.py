"""The metrics one by one; each takes labels and scores and returns an `Estimate`."""

from focalcal.metrics.binned import classwise_ece, ece, top_label_ece
from focalcal.metrics.ks import ks_error
from focalcal.metrics.scores import accuracy, brier, nll
from focalcal.metrics.smooth import smooth_ece

__all__ = [
    "accuracy",
    "brier",
    "classwise_ece",
    "ece",
    "ks_error",
    "nll",
    "smooth_ece",
    "top_label_ece",
]
