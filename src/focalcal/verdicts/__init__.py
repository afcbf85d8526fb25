"""Verdicts on predictions: everything about one set, groups of rows, two models, tests, how many rows."""
