"""Time and memory of top-label ECE, class-wise ECE, NLL and Brier score against the fastest library for each.

    python -P benchmarks/judge.py [--repeats 3] [--cases 1000000x10,50000x1000] [--write benchmarks/results/judge.md]

Every measurement runs in a process of its own, interleaved; medians count. All take the same float32
probabilities. A library counts for a metric if its value is ours to 1 %: conventions
differ in where an edge belongs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from peers import describe_machine, measured, scores

CASES = "10000x10,1000000x10,50000x1000"
PACKAGES = ("focalcal", "numpy", "scikit-learn", "torchmetrics", "netcal", "uncertainty-calibration", "torch")


def focalcal_evaluate():
    from focalcal import evaluate

    def run(p, y):
        found = evaluate(y, p)
        return {name: found[name].value for name in ("ece", "classwise_ece", "nll", "brier")}

    return run


def focalcal_pass():
    from focalcal.sums.judging import judge

    def run(p, y):
        sums, _ = judge(y, p, None, "probs", None, bins=15, with_classes=True)
        return {
            "ece": float(sums.top.gap_sum),
            "classwise_ece": float(sums.classwise.gap_sum.mean()),
            "nll": sums.nll.mean,
            "brier": sums.brier.mean,
        }

    return run


def torchmetrics_ece():
    import torch
    from torchmetrics.functional.classification import multiclass_calibration_error as error

    return lambda p, y: {"ece": float(error(torch.from_numpy(p), torch.from_numpy(y), p.shape[1], 15))}


def torchmetrics_classwise():
    import torch
    from torchmetrics.functional.classification import binary_calibration_error as error

    def run(p, y):
        columns = [
            float(error(torch.from_numpy(np.ascontiguousarray(p[:, k])), torch.from_numpy(y == k), 15))
            for k in range(p.shape[1])
        ]
        return {"classwise_ece": float(np.mean(columns))}

    return run


def netcal_ece():
    from netcal.metrics import ECE

    return lambda p, y: {"ece": float(ECE(15).measure(p, y))}


def netcal_classwise():
    from netcal.metrics import ECE

    def run(p, y):
        return {
            "classwise_ece": float(np.mean([ECE(15).measure(p[:, k], y == k) for k in range(p.shape[1])]))
        }

    return run


def uncertainty_calibration_ece():
    import calibration

    return lambda p, y: {"ece": float(calibration.get_ece(p, y, num_bins=15))}


def sklearn_nll():
    from sklearn.metrics import log_loss

    return lambda p, y: {"nll": float(log_loss(y, p, labels=np.arange(p.shape[1])))}


def torch_nll():
    import torch

    return lambda p, y: {
        "nll": float(torch.nn.functional.nll_loss(torch.log(torch.from_numpy(p)), torch.from_numpy(y)))
    }


def sklearn_brier():
    from sklearn.metrics import brier_score_loss

    return lambda p, y: {
        "brier": float(brier_score_loss(y, p, labels=np.arange(p.shape[1]), scale_by_half=False))
    }


def probmetrics_brier():
    import torch
    from probmetrics.distributions import CategoricalDirac, CategoricalProbs
    from probmetrics.metrics import BrierLoss

    def run(p, y):
        labels = CategoricalDirac(torch.from_numpy(y), p.shape[1])
        return {
            "brier": float(BrierLoss()._compute_indiv(labels, CategoricalProbs(torch.from_numpy(p))).mean())
        }

    return run


METHODS = {
    "focalcal.evaluate (with intervals, equal-mass ECE and accuracy)": focalcal_evaluate,
    "focalcal, its one pass": focalcal_pass,
    "torchmetrics ECE": torchmetrics_ece,
    "netcal ECE": netcal_ece,
    "uncertainty-calibration ECE": uncertainty_calibration_ece,
    "torchmetrics class-wise ECE, class by class": torchmetrics_classwise,
    "netcal class-wise ECE, class by class": netcal_classwise,
    "scikit-learn NLL": sklearn_nll,
    "torch NLL": torch_nll,
    "scikit-learn Brier": sklearn_brier,
    "probmetrics Brier": probmetrics_brier,
}


def child(method: str, path: str) -> None:
    warnings.simplefilter("ignore")
    run = METHODS[method]()
    p, y = np.load(f"{path}/probs.npy"), np.load(f"{path}/labels.npy")
    run(p[:2000].copy(), y[:2000].copy())
    print(json.dumps(measured(lambda: run(p, y), 5 if p.size <= 1_000_000 else 1)))


def save_case(n: int, n_classes: int, folder: str) -> None:
    z, y = scores(n, n_classes)
    z -= z.max(axis=1, keepdims=True)
    np.exp(z, out=z)
    z /= z.sum(axis=1, keepdims=True)
    np.save(f"{folder}/probs.npy", z)
    np.save(f"{folder}/labels.npy", y)


def run_case(n: int, n_classes: int, repeats: int) -> list[str]:
    found: dict[str, list[dict]] = {}
    with tempfile.TemporaryDirectory() as folder:
        save_case(n, n_classes, folder)
        for _ in range(repeats):
            for method in METHODS:
                command = [sys.executable, "-P", __file__, "--child", method, folder]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    found.setdefault(method, []).append(json.loads(done.stdout.splitlines()[-1]))
                else:
                    print(f"{method}: {done.stderr.splitlines()[-1:]}", file=sys.stderr)
    return lines_of(n, n_classes, found)


def lines_of(n: int, n_classes: int, found: dict[str, list[dict]]) -> list[str]:
    ours = found["focalcal, its one pass"][0]["result"]
    rows = {
        method: {key: statistics.median(run[key] for run in runs) for key in ("wall", "cpu", "extra")}
        for method, runs in found.items()
    }
    agree = {
        method: all(abs(value / ours[name] - 1) < 1e-2 for name, value in runs[0]["result"].items())
        for method, runs in found.items()
    }
    best = {}
    for key in ("wall", "cpu"):
        best[key] = sum(
            min(
                rows[m][key]
                for m in rows
                if agree[m] and not m.startswith("focalcal") and name in found[m][0]["result"]
            )
            for name in ours
        )
    lines = [
        f"\n## {n:,} × {n_classes} float32\n",
        f"Fastest library for each, added up: {best['wall']:.3f} s wall, {best['cpu']:.3f} s CPU.\n",
        "| | wall s | CPU s | their sum ÷, wall | their sum ÷, CPU | extra MB | value |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method, m in rows.items():
        own = method.startswith("focalcal")
        ratio = [f"{best['wall'] / m['wall']:.1f}", f"{best['cpu'] / m['cpu']:.1f}"] if own else ["", ""]
        value = ", ".join(f"{name} {value:.6f}" for name, value in found[method][0]["result"].items())
        note = "" if agree[method] else " (differs: not counted)"
        lines.append(
            f"| {method} | {m['wall']:.4f} | {m['cpu']:.4f} | {ratio[0]} | {ratio[1]} | {m['extra']:.1f} | "
            f"{value}{note} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--cases", default=CASES)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--child", nargs=2)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
        return
    head = f"{describe_machine(PACKAGES)}; medians of {arguments.repeats}, one process each, interleaved."
    lines = ["# Judging: time and memory\n", head]
    for case in arguments.cases.split(","):
        lines += run_case(*map(int, case.split("x")), arguments.repeats)
    print("\n".join(lines))
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
