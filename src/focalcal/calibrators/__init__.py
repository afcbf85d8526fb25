"""Calibrators: fitted maps from scores to trustworthy log-probabilities."""

from __future__ import annotations

import os

from focalcal.calibrators import artefact
from focalcal.calibrators.base import Calibrator
from focalcal.calibrators.confidence.ensemble import EnsembleTemperatureScaling
from focalcal.calibrators.confidence.mixed import MixedTemperatureScaling
from focalcal.calibrators.confidence.order_preserving import OrderPreservingCalibration
from focalcal.calibrators.confidence.spline import SplineCalibration
from focalcal.calibrators.matrix.dirichlet import DirichletCalibration
from focalcal.calibrators.matrix.focal_matrix import FocalMatrixScaling
from focalcal.calibrators.matrix.matrix import MatrixScaling
from focalcal.calibrators.matrix.structured_matrix import StructuredMatrixScaling
from focalcal.calibrators.matrix.structured_vector import StructuredVectorScaling
from focalcal.calibrators.matrix.vector import VectorScaling
from focalcal.calibrators.one_vs_rest.beta import BetaCalibration
from focalcal.calibrators.one_vs_rest.histogram import HistogramBinning
from focalcal.calibrators.one_vs_rest.isotonic import IsotonicCalibration
from focalcal.calibrators.one_vs_rest.platt import PlattScaling
from focalcal.calibrators.temperature.temperature import FocalTemperatureScaling, TemperatureScaling

__all__ = [
    "BetaCalibration",
    "Calibrator",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "FocalMatrixScaling",
    "FocalTemperatureScaling",
    "HistogramBinning",
    "IsotonicCalibration",
    "MatrixScaling",
    "MixedTemperatureScaling",
    "OrderPreservingCalibration",
    "PlattScaling",
    "SplineCalibration",
    "StructuredMatrixScaling",
    "StructuredVectorScaling",
    "TemperatureScaling",
    "VectorScaling",
    "load",
]

_FAMILIES: dict[str, type[Calibrator]] = {
    family.__name__: family
    for family in (
        TemperatureScaling,
        FocalTemperatureScaling,
        PlattScaling,
        BetaCalibration,
        HistogramBinning,
        IsotonicCalibration,
        MixedTemperatureScaling,
        EnsembleTemperatureScaling,
        SplineCalibration,
        OrderPreservingCalibration,
        FocalMatrixScaling,
        VectorScaling,
        StructuredVectorScaling,
        MatrixScaling,
        StructuredMatrixScaling,
        DirichletCalibration,
    )
}


def load(path: str | os.PathLike[str]) -> Calibrator:
    """Read a calibrator saved by `Calibrator.save`.

    Parameters
    ----------
    path : path of a JSON file

    Returns
    -------
    Calibrator
        Fitted, of the kind that was saved.

    Raises
    ------
    ValueError
        If the file is not a calibrator's, of another schema version, or damaged.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> cal = TemperatureScaling().fit([[4.0, 0.0]] * 4, [0, 0, 0, 1])
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     cal.save(pathlib.Path(folder, "cal.json"))
    ...     again = load(pathlib.Path(folder, "cal.json"))
    >>> again.temperature_ == cal.temperature_
    True
    """
    saved = artefact.read(path)
    family = _FAMILIES.get(saved["calibrator"])
    if family is None:
        raise ValueError(
            f"Expected one of {', '.join(_FAMILIES)} in {path}, got {saved['calibrator']!r}. "
            "Read it with the focalcal version that wrote it."
        )
    try:
        settings = {k: tuple(v) if isinstance(v, list) else v for k, v in saved["settings"].items()}
        calibrator = family(input=saved["input"], classes=saved["classes"], **settings)
        return calibrator._restore(saved)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Expected a {family.__name__} saved by focalcal in {path}: {error}") from error
