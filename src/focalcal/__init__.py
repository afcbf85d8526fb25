"""Make classifiers' probabilities trustworthy, and show why they were not."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"

#: Each public name and the module that defines it; modules load when a name is first used.
_HOME = {
    "temperature_map": "maps",
    "focal_map": "maps",
    "inverse_focal_map": "maps",
    "binary_focal_map": "maps",
    "temperature_bounds": "maps",
    "raising_threshold": "maps",
    "focal_loss": "scores",
    "proper_focal_loss": "scores",
    "TemperatureScaling": "calibrators",
    "FocalTemperatureScaling": "calibrators",
    "PlattScaling": "calibrators",
    "BetaCalibration": "calibrators",
    "HistogramBinning": "calibrators",
    "IsotonicCalibration": "calibrators",
    "MixedTemperatureScaling": "calibrators",
    "EnsembleTemperatureScaling": "calibrators",
    "SplineCalibration": "calibrators",
    "OrderPreservingCalibration": "calibrators",
    "FocalMatrixScaling": "calibrators",
    "VectorScaling": "calibrators",
    "StructuredVectorScaling": "calibrators",
    "fit_best": "calibrators.selection",
    "MatrixScaling": "calibrators",
    "StructuredMatrixScaling": "calibrators",
    "DirichletCalibration": "calibrators",
    "load": "calibrators",
    "to_onnx": "calibrators.onnx.export",
    "evaluate": "verdicts.appraisal",
    "nll": "metrics",
    "brier": "metrics",
    "accuracy": "metrics",
    "ece": "metrics",
    "classwise_ece": "metrics",
    "top_label_ece": "metrics",
    "smooth_ece": "metrics",
    "ks_error": "metrics",
    "kernel_ece": "metrics",
    "focal_score": "metrics",
    "sharpness": "metrics",
    "selective_risk": "metrics",
    "decompose": "metrics.decomposition",
    "test_calibration": "verdicts.calibration_tests",
    "evaluate_multilabel": "verdicts.multilabel",
    "compare": "verdicts.comparison",
    "sample_size": "verdicts.power",
    "Estimate": "intervals.estimate",
    "Evaluation": "verdicts.evaluation",
    "ReliabilityDisplay": "plots",
    "report": "reporting",
    "explore": "explorer",
    "figures": "drawings",
    "open_scores": "io",
    "CalibratedClassifier": "integrations.sklearn",
    "CalibrationWarning": "_validate",
}

__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(f"focalcal.{_HOME[name]}"), name)
    raise AttributeError(f"module 'focalcal' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
