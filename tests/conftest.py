"""Settings that every test shares."""

from hypothesis import settings

# examples are the same in every run, and a busy machine is no failure
settings.register_profile("focalcal", deadline=None, derandomize=True)
settings.load_profile("focalcal")
