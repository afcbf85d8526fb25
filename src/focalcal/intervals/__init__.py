"""Estimates and their intervals, from sums alone: no cost here depends on the number of rows."""
