"""Settings that every test shares."""

import warnings
from collections.abc import Iterator

import pytest
from hypothesis import settings

from browser import Browser, running
from focalcal import kernels

# examples are the same in every run, and a busy machine is no failure
settings.register_profile("focalcal", deadline=None, derandomize=True)
settings.load_profile("focalcal")

# where the compiled loops were not built this is said once, here: the tests go on in NumPy
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    kernels.compiled()


@pytest.fixture(scope="module")  # not longer: its event loop would be in the way of other tests'
def browser() -> Iterator[Browser]:
    """A headless Chromium; see `browser.Browser.open`."""
    yield from running()
