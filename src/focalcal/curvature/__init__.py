"""Curvature of a model's loss in its parameters; needs PyTorch."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "focalcal.curvature needs torch: pip install 'focalcal[torch]'", name="torch"
    ) from error

from focalcal.curvature.closed_form import CalibratorCurvature, calibrator_curvature, logistic_hessian
from focalcal.curvature.density import SpectralDensity, spectral_density
from focalcal.curvature.eigenvalues import Eigenvalues, top_eigenvalues
from focalcal.curvature.gradient_penalty import GradientNormPenalty
from focalcal.curvature.hutchinson import hutchinson_trace
from focalcal.curvature.hutchpp import hutch_pp_trace
from focalcal.curvature.measure import measure
from focalcal.curvature.recorder import CurvatureRecorder
from focalcal.curvature.result import Curvature, LossCurvature
from focalcal.curvature.sam import SAM
from focalcal.curvature.slices import Landscape, landscape
from focalcal.curvature.structured import layer_traces, structured_trace
from focalcal.curvature.surface import LossSurface
from focalcal.curvature.trace_penalty import TracePenalty
from focalcal.curvature.xtrace import xtrace

__all__ = [
    "SAM",
    "CalibratorCurvature",
    "Curvature",
    "CurvatureRecorder",
    "Eigenvalues",
    "GradientNormPenalty",
    "Landscape",
    "LossCurvature",
    "LossSurface",
    "SpectralDensity",
    "TracePenalty",
    "calibrator_curvature",
    "hutch_pp_trace",
    "hutchinson_trace",
    "landscape",
    "layer_traces",
    "logistic_hessian",
    "measure",
    "spectral_density",
    "structured_trace",
    "top_eigenvalues",
    "xtrace",
]
