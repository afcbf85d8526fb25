"""The public names, pinned: adding or losing one is a decision, not an accident."""

import importlib
import subprocess
import sys

import pytest

import focalcal

NAMES = [
    "BetaCalibration",
    "CalibratedClassifier",
    "CalibrationWarning",
    "DirichletCalibration",
    "EnsembleTemperatureScaling",
    "Estimate",
    "Evaluation",
    "FocalMatrixScaling",
    "FocalTemperatureScaling",
    "HistogramBinning",
    "IsotonicCalibration",
    "MatrixScaling",
    "MixedTemperatureScaling",
    "OrderPreservingCalibration",
    "PlattScaling",
    "ReliabilityDisplay",
    "SplineCalibration",
    "StructuredMatrixScaling",
    "StructuredVectorScaling",
    "TemperatureScaling",
    "VectorScaling",
    "__version__",
    "accuracy",
    "binary_focal_map",
    "brier",
    "classwise_ece",
    "compare",
    "decompose",
    "ece",
    "evaluate",
    "evaluate_multilabel",
    "explore",
    "figures",
    "fit_best",
    "focal_loss",
    "focal_map",
    "focal_score",
    "inverse_focal_map",
    "kernel_ece",
    "ks_error",
    "load",
    "nll",
    "open_scores",
    "proper_focal_loss",
    "raising_threshold",
    "report",
    "sample_size",
    "selective_risk",
    "sharpness",
    "smooth_ece",
    "temperature_bounds",
    "temperature_map",
    "test_calibration",
    "to_onnx",
    "top_label_ece",
]


def test_names():
    assert sorted(focalcal.__all__) == sorted(NAMES)
    assert dir(focalcal) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_resolves_and_is_documented(name):
    found = getattr(focalcal, name)
    assert isinstance(found, str) or (callable(found) and found.__doc__)


def test_other_names_are_missing():
    with pytest.raises(AttributeError, match="module 'focalcal' has no attribute 'nothing'"):
        focalcal.nothing


def test_the_version_is_that_of_the_package():
    assert importlib.metadata.version("focalcal") == focalcal.__version__


@pytest.mark.parametrize(
    "command", ["import focalcal", "from focalcal.cli import main; main(['--help']); main(['fit', '--help'])"]
)
def test_what_starting_does_not_import(command):
    code = f"{command}\nimport sys; sys.stderr.write(' '.join(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(ran.stderr.split())
    assert "focalcal" in loaded
    assert not loaded & {
        "torch",
        "matplotlib",
        "pandas",
        "sklearn",
        "scipy",
        "numpy",
        "duckdb",
        "pyarrow",
        "polars",
    }
