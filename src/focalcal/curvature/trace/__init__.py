"""Traces of the Hessian and of the generalised Gauss–Newton matrix."""
