"""How each library fits a temperature, and what one process measured of itself."""

from __future__ import annotations

import importlib.machinery
import os
import platform
import sys
import time
import types
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np

Fit = Callable[[np.ndarray, np.ndarray], tuple[float, float]]


def scores(n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Over-confident float32 logits whose labels were drawn from their softmax at T = 2."""
    rng = np.random.default_rng(0)
    logits = np.empty((n, n_classes), np.float32)
    labels = np.empty(n, np.int64)
    step = max(1, (1 << 22) // n_classes)
    for first in range(0, n, step):
        block = logits[first : first + step]
        block[:] = rng.standard_normal(block.shape, dtype=np.float32) * 5
        uniform = np.maximum(rng.random(block.shape, dtype=np.float32), np.float32(1e-30))
        labels[first : first + step] = (block / 2 - np.log(-np.log(uniform) + 1e-30)).argmax(axis=1)
    return logits, labels


def _focalcal(name: str) -> Fit:
    import focalcal

    family = getattr(focalcal, name)

    def fit(logits, labels):
        found = family().fit(logits, labels)
        return found.temperature_, getattr(found, "gamma_", 0.0)

    return fit


def _sklearn() -> Fit:
    from sklearn.calibration import _TemperatureScaling

    return lambda logits, labels: (1 / float(_TemperatureScaling().fit(logits, labels).beta_), 0.0)


def _probmetrics() -> Fit:
    import torch
    from probmetrics.calibrators.temperature_scaling import TemperatureScalingCalibrator
    from probmetrics.distributions import CategoricalLogits

    def fit(logits, labels):
        found = TemperatureScalingCalibrator()
        found.fit_torch(CategoricalLogits(torch.from_numpy(logits)), torch.from_numpy(labels))
        return 1 / float(found.invtemp_), 0.0

    return fit


def _netcal() -> Fit:
    from netcal.scaling import TemperatureScaling

    def fit(logits, labels):
        wide = logits.astype(np.float64)
        wide -= wide.max(axis=1, keepdims=True)
        np.exp(wide, out=wide)
        wide /= wide.sum(axis=1, keepdims=True)
        found = TemperatureScaling()
        found.fit(wide, labels)
        return 1 / float(np.ravel(found.temperature)[0]), 0.0

    return fit


def _torch_uncertainty() -> Fit:
    if importlib.util.find_spec("torchvision") is None:
        sys.meta_path.insert(0, _NoTorchvision())
    from torch_uncertainty.post_processing import TemperatureScaler

    def fit(logits, labels):
        import torch

        scaler = TemperatureScaler(model=None)
        scaler.fit([(torch.from_numpy(logits), torch.from_numpy(labels))], progress=False)
        return float(scaler.temperature[0]), 0.0

    return fit


class _NoTorchvision:
    """Stand in for torchvision, which torch-uncertainty imports but scaling never calls."""

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torchvision":
            return importlib.machinery.ModuleSpec(name, self, is_package=True)
        return None

    def create_module(self, spec):
        module = types.ModuleType(spec.name)
        module.__path__ = []
        module.__getattr__ = lambda name: MagicMock if name[0].isupper() else MagicMock()
        return module

    def exec_module(self, module):
        pass


def _read() -> Fit:
    return lambda logits, labels: (float(logits.max()), 0.0)


def _logsumexp() -> Fit:
    import torch

    return lambda logits, labels: (float(torch.logsumexp(torch.from_numpy(logits), 1).sum()), 0.0)


#: What is timed, each in a process of its own.
FITS: dict[str, Callable[[], Fit]] = {
    "focalcal TS": lambda: _focalcal("TemperatureScaling"),
    "focalcal FTS": lambda: _focalcal("FocalTemperatureScaling"),
    "scikit-learn TS": _sklearn,
    "probmetrics TS": _probmetrics,
    "netcal TS (float64)": _netcal,
    "torch-uncertainty TS": _torch_uncertainty,
    "one read (NumPy max)": _read,
    "one torch.logsumexp": _logsumexp,
}

PACKAGES = ("focalcal", "numpy", "scikit-learn", "probmetrics", "netcal", "torch-uncertainty", "torch")


def describe_machine(packages: tuple[str, ...] = PACKAGES) -> str:
    """Return processor, cores, versions and load, for the head of a table."""
    from focalcal import kernels

    found = []
    for name in packages:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    load = Path("/proc/loadavg").read_text().split()[0]
    return (
        f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, focalcal's loops {kernels.describe()}, Python "
        f"{platform.python_version()}, {', '.join(found)}; load average before the run {load}"
    )


def resident(field: str) -> float:
    """Return a figure of this process's memory in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"{field} is not in /proc/self/status: this benchmark needs Linux")


def measured(function: Callable[[], object], repeats: int = 1) -> dict[str, object]:
    """Return wall and CPU seconds (medians), the peak of extra memory in MB, and the last result."""
    Path("/proc/self/clear_refs").write_text("5")
    before, times, result = resident("VmRSS"), [], None
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        result = function()
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = np.median(np.array(times), axis=0)
    return {"wall": wall, "cpu": cpu, "extra": resident("VmHWM") - before, "result": result}
