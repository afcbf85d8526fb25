"""Fit time and peak extra memory of TS and FTS against scikit-learn and probmetrics, in one run.

    python benchmarks/fit.py [--repeats 5] [--write benchmarks/results/fit.md]

Every case runs in a process of its own for each library, interleaved; the median of the repeats counts.
Peak extra memory is the process's high-water mark during the fit less its resident size before it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

CASES = [(10_000, 10), (50_000, 1000), (1_000_000, 10)]
METHODS = ["focalcal TS", "focalcal FTS", "scikit-learn TS", "probmetrics TS"]


def scores(n: int, n_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Over-confident float32 logits whose labels were drawn from their softmax at T = 2."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((n, n_classes), dtype=np.float32)
    logits *= 5
    labels = np.empty(n, np.int64)
    for first in range(0, n, 4096):
        block = logits[first : first + 4096]
        noisy = block / 2 + rng.gumbel(size=block.shape).astype(np.float32)
        labels[first : first + 4096] = noisy.argmax(axis=1)
    return logits, labels


def fitter(method: str):
    """Return a function that fits and returns (temperature, gamma)."""
    if method.startswith("focalcal"):
        import focalcal

        family = focalcal.TemperatureScaling if method.endswith(" TS") else focalcal.FocalTemperatureScaling

        def fit(logits, labels):
            found = family().fit(logits, labels)
            return found.temperature_, getattr(found, "gamma_", 0.0)
    elif method.startswith("scikit-learn"):
        from sklearn.calibration import _TemperatureScaling

        def fit(logits, labels):
            return 1 / float(_TemperatureScaling().fit(logits, labels).beta_), 0.0
    else:
        import torch
        from probmetrics.calibrators.temperature_scaling import TemperatureScalingCalibrator
        from probmetrics.distributions import CategoricalLogits

        def fit(logits, labels):
            found = TemperatureScalingCalibrator()
            found.fit_torch(CategoricalLogits(torch.from_numpy(logits)), torch.from_numpy(labels))
            return 1 / float(found.invtemp_), 0.0

    return fit


def resident(field: str) -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) / 1024
    raise OSError(f"{field} is not in /proc/self/status: this benchmark needs Linux")


def child(method: str, n: int, n_classes: int) -> None:
    fit = fitter(method)
    logits, labels = scores(n, n_classes)
    fit(logits[:2000].copy(), labels[:2000].copy())  # imports and first-call costs are not the fit
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    times = []
    for _ in range(5 if n * n_classes < 1e6 else 1):
        wall, cpu = time.perf_counter(), time.process_time()
        temperature, gamma = fit(logits, labels)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = (statistics.median(column) for column in zip(*times, strict=True))
    extra = resident("VmHWM") - before
    print(json.dumps({"wall": wall, "cpu": cpu, "extra": extra, "temperature": temperature, "gamma": gamma}))


def run(repeats: int) -> str:
    head = f"{platform.machine()}, {platform.python_version()}, " + ", ".join(
        f"{name} {version(name)}" for name in ("focalcal", "numpy", "scikit-learn", "probmetrics", "torch")
    )
    load = Path("/proc/loadavg").read_text().split()[0]
    lines = [f"# Fit: time and memory\n\n{head}; load average before the run {load}; medians of {repeats}.\n"]
    lines.append(
        "| rows × classes | method | wall s | CPU s | faster peer's wall / this | extra MB | T | γ |"
    )
    lines.append("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for n, n_classes in CASES:
        found: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
        for _ in range(repeats):
            for method in METHODS:
                command = [sys.executable, "-P", __file__, "--child", method, str(n), str(n_classes)]
                out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                found[method].append(json.loads(out.splitlines()[-1]))
        median = {
            method: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for method, runs in found.items()
        }
        peer = min(median[method]["wall"] for method in METHODS if not method.startswith("focalcal"))
        for method in METHODS:
            m = median[method]
            lines.append(
                f"| {n:,} × {n_classes} | {method} | {m['wall']:.4f} | {m['cpu']:.4f} | {peer / m['wall']:.2f} | "
                f"{m['extra']:.1f} | {m['temperature']:.6f} | {m['gamma']:.4f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--child", nargs=3)
    arguments = parser.parse_args()
    if arguments.child:
        method, n, n_classes = arguments.child
        child(method, int(n), int(n_classes))
        return
    table = run(arguments.repeats)
    print(table)
    if arguments.write:
        arguments.write.write_text(table)


if __name__ == "__main__":
    main()
