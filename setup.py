"""The compiled row loops; everything else is in pyproject.toml."""

import os
from glob import glob

from setuptools import Extension, setup

SOURCES = "src/focalcal/kernels/c"

# no -ffast-math: infinities mean masked classes, and sums that must not be reordered are many
FLAGS = [
    *("-std=gnu11", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"),
    *("-g0", "-fvisibility=hidden", "-Wall", "-Wextra", "-Wno-psabi"),
]

setup(
    ext_modules=[
        Extension(
            "focalcal.kernels._rows",
            sources=sorted(glob(f"{SOURCES}/*.c")),
            depends=sorted(glob(f"{SOURCES}/*.h")),
            extra_compile_args=FLAGS + os.environ.get("FOCALCAL_CFLAGS", "").split(),
            extra_link_args=os.environ.get("FOCALCAL_LDFLAGS", "").split(),
            define_macros=[("Py_LIMITED_API", "0x030B0000")],
            py_limited_api=True,
            optional=True,  # without a compiler the NumPy loops do the work, only slower
        )
    ],
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
