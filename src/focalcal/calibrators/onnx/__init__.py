"""Calibrators as ONNX graphs."""
