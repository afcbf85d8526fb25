"""The hot row loops. `reference` is the readable NumPy version that defines what is true."""
