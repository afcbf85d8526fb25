"""Fit time and peak extra memory of TS and FTS against every library that fits a temperature, in one run.

    python -P benchmarks/fit.py [--repeats 3] [--cases 10000x10,50000x1000] [--write benchmarks/results/fit.md]

Every case runs in a process of its own for each library, interleaved; the median of the repeats counts (of
methods that take more than ten seconds, one run; after one of more than thirty they are left out).
Peak extra memory is the process's high-water mark during the fit less its resident size before it. A library
that is not installed, or does not reach the optimum (T within 0.1 %), is left out of the comparison.
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
from peers import FITS, describe_machine, measured, scores

#: A method that takes longer than this, in seconds, is measured once; than that, not in the cases to come.
_SLOW, _TOO_SLOW = 10, 30

CASES = "10000x10,10000x100,1000000x10,50000x1000,200000x1000"


def child(method: str, path: str) -> None:
    warnings.simplefilter("ignore")
    fit = FITS[method]()
    logits, labels = np.load(f"{path}/logits.npy"), np.load(f"{path}/labels.npy")
    fit(logits[:2000].copy(), labels[:2000].copy())  # imports and first-call costs are not the fit
    found = measured(lambda: fit(logits, labels), 5 if logits.size <= 1_000_000 else 1)
    found["temperature"], found["gamma"] = found.pop("result")
    print(json.dumps(found))


def run_case(n: int, n_classes: int, repeats: int, left_out: set[str]) -> dict[str, dict[str, float]]:
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, array in zip(("logits", "labels"), scores(n, n_classes)):
            np.save(f"{folder}/{name}.npy", array)
            del array
        for repeat in range(repeats):
            for method in FITS:
                if method in left_out or (repeat and found.get(method, [{"wall": 99}])[0]["wall"] > _SLOW):
                    continue
                command = [sys.executable, "-P", __file__, "--child", method, folder]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode == 0:
                    found.setdefault(method, []).append(json.loads(done.stdout.splitlines()[-1]))
                else:
                    print(f"{method}: {done.stderr.splitlines()[-1:]}", file=sys.stderr)
    left_out |= {method for method, runs in found.items() if runs[0]["wall"] > _TOO_SLOW}
    return {
        method: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for method, runs in found.items()
    }


def table(n: int, n_classes: int, found: dict[str, dict[str, float]]) -> list[str]:
    optimum = found["focalcal TS"]["temperature"]
    peers = {
        method: m
        for method, m in found.items()
        if method.endswith(("TS", "(float64)"))
        and not method.startswith("focalcal")
        and abs(m["temperature"] / optimum - 1) < 1e-3
    }
    wall, cpu = (min(m[key] for m in peers.values()) for key in ("wall", "cpu"))
    read, lse = found["one read (NumPy max)"], found["one torch.logsumexp"]
    lines = [
        f"\n## {n:,} × {n_classes} float32\n",
        "| | wall s | CPU s | fastest peer's wall ÷ | fastest peer's CPU ÷ | extra MB | reads | logsumexps | T | γ |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for method, m in found.items():
        own = method.startswith("focalcal")
        cells = [f"{wall / m['wall']:.1f}", f"{cpu / m['cpu']:.1f}"] if own or method in peers else ["", ""]
        fitted = [f"{m['temperature']:.6f}", f"{m['gamma']:.4f}"] if "TS" in method else ["", ""]
        lines.append(
            f"| {method} | {m['wall']:.4f} | {m['cpu']:.4f} | {cells[0]} | {cells[1]} | {m['extra']:.1f} | "
            f"{m['cpu'] / read['cpu']:.1f} | {m['cpu'] / lse['cpu']:.2f} | {fitted[0]} | {fitted[1]} |"
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
    lines = [
        "# Fit: time and memory\n",
        f"{describe_machine()}; medians of {arguments.repeats}, one process each, interleaved.\n",
        "Ratios above 1 are how many times faster than the fastest library that reaches the optimum (its "
        "*temperature scaling*, also in the rows of FTS, which fits two parameters). Reads and logsumexps are "
        "CPU time in multiples of one read of the array and of one torch.logsumexp over it.",
    ]
    left_out: set[str] = set()
    for case in arguments.cases.split(","):
        n, n_classes = map(int, case.split("x"))
        lines += table(n, n_classes, run_case(n, n_classes, arguments.repeats, left_out))
        print("\n".join(lines[-11:]), flush=True)
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
