"""Short names of the calibrators, apart from them so that the command line starts without NumPy."""

from __future__ import annotations

#: Each method of ``focalcal fit`` and the class that it fits.
METHODS = {
    "fts": "FocalTemperatureScaling",
    "ts": "TemperatureScaling",
    "mixed": "MixedTemperatureScaling",
    "ensemble": "EnsembleTemperatureScaling",
    "order-preserving": "OrderPreservingCalibration",
    "spline": "SplineCalibration",
    "platt": "PlattScaling",
    "beta": "BetaCalibration",
    "isotonic": "IsotonicCalibration",
    "histogram": "HistogramBinning",
    "vector": "VectorScaling",
    "svs": "StructuredVectorScaling",
    "matrix": "MatrixScaling",
    "sms": "StructuredMatrixScaling",
    "dirichlet": "DirichletCalibration",
    "focal-matrix": "FocalMatrixScaling",
}

#: Those that can minimise something else than the negative log-likelihood.
WITH_CRITERION = ("fts", "ts")
