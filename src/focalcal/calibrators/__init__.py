"""Calibrators: fitted maps from scores to trustworthy log-probabilities."""
