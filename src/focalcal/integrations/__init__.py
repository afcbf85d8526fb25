"""Thin adapters to other libraries; each module imports its own library and nothing else does."""
