"""Tables of predictions: read from parquet, CSV, npz and npy, and written with calibrated columns."""

from __future__ import annotations

from focalcal.io.sources import Scores, open_scores

__all__ = ["Scores", "open_scores"]
