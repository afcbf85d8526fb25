"""Eigenvalues: the largest, and the density of all."""
