"""Settings that every test shares."""

import warnings

from hypothesis import settings

from focalcal import kernels

# examples are the same in every run, and a busy machine is no failure
settings.register_profile("focalcal", deadline=None, derandomize=True)
settings.load_profile("focalcal")

# where the compiled loops were not built this is said once, here: the tests go on in NumPy
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    kernels.compiled()
