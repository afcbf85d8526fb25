"""Curvature of a model's loss in its parameters; needs PyTorch."""

try:
    import torch as _torch  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "focalcal.curvature needs torch: pip install 'focalcal[torch]'", name="torch"
    ) from error

from focalcal.curvature.closed_form import CalibratorCurvature, calibrator_curvature, logistic_hessian
from focalcal.curvature.measure import measure
from focalcal.curvature.penalties.gradient_penalty import GradientNormPenalty
from focalcal.curvature.penalties.sam import SAM
from focalcal.curvature.penalties.trace_penalty import TracePenalty
from focalcal.curvature.recorder import CurvatureRecorder
from focalcal.curvature.result import Curvature, LossCurvature
from focalcal.curvature.slices import Landscape, landscape
from focalcal.curvature.spectrum.density import SpectralDensity, spectral_density
from focalcal.curvature.spectrum.eigenvalues import Eigenvalues, top_eigenvalues
from focalcal.curvature.surface.surface import LossSurface
from focalcal.curvature.trace.hutchinson import hutchinson_trace
from focalcal.curvature.trace.hutchpp import hutch_pp_trace
from focalcal.curvature.trace.structured import layer_traces, structured_trace
from focalcal.curvature.trace.xtrace import xtrace

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
