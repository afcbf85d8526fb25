"""Curvature of a model's loss in its parameters; needs PyTorch."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "focalcal.curvature needs torch: pip install 'focalcal[torch]'", name="torch"
    ) from error

from focalcal.curvature.closed_form import CalibratorCurvature, calibrator_curvature, logistic_hessian
from focalcal.curvature.gradient_penalty import GradientNormPenalty
from focalcal.curvature.hutchinson import hutchinson_trace
from focalcal.curvature.recorder import CurvatureRecorder
from focalcal.curvature.sam import SAM
from focalcal.curvature.slices import Landscape, landscape
from focalcal.curvature.structured import structured_trace
from focalcal.curvature.surface import LossSurface
from focalcal.curvature.trace_penalty import TracePenalty

__all__ = [
    "SAM",
    "CalibratorCurvature",
    "CurvatureRecorder",
    "GradientNormPenalty",
    "Landscape",
    "LossSurface",
    "TracePenalty",
    "calibrator_curvature",
    "hutchinson_trace",
    "landscape",
    "logistic_hessian",
    "structured_trace",
]
