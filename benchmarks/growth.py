"""How the cost of a fit and of a judgement grows with rows and with classes.

    python -P benchmarks/growth.py [--largest 100000000] [--write benchmarks/results/growth.md] [--plot docs/growth.png]

Rows from 10,000 up at 10 classes; classes from 2 to 10,000 at 20 million numbers. CPU and wall time of this
process, best of three below ten million rows. The last lines give the slope of log time over log size: 1 is
linear.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from peers import describe_machine, measured, scores

from focalcal import FocalTemperatureScaling, TemperatureScaling, evaluate

JOBS = {
    "TS fit": lambda z, y: TemperatureScaling().fit(z, y),
    "FTS fit": lambda z, y: FocalTemperatureScaling().fit(z, y),
    "evaluate": lambda z, y: evaluate(y, z, input="logits"),
}


def time_case(n: int, n_classes: int) -> dict[str, dict[str, float]]:
    z, y = scores(n, n_classes)
    found = {}
    for name, job in JOBS.items():
        runs = [measured(lambda job=job: job(z, y)) for _ in range(3 if n < 10_000_000 else 1)]
        found[name] = {key: min(run[key] for run in runs) for key in ("wall", "cpu", "extra")}
    return found


def table(rows: dict[int, dict], axis: str, numbers: dict[int, int]) -> list[str]:
    lines = [
        f"| {axis} | " + " | ".join(f"{job} CPU s (wall) | ns a number | extra MB" for job in JOBS) + " |"
    ]
    lines.append("| --- " * (1 + 3 * len(JOBS)) + "|")
    for at, found in rows.items():
        cells = [
            f"{m['cpu']:.4f} ({m['wall']:.4f}) | {m['cpu'] / numbers[at] * 1e9:.2f} | {m['extra']:.1f}"
            for m in found.values()
        ]
        lines.append(f"| {at:,} | " + " | ".join(cells) + " |")
    return lines


def plot(by_rows: dict[int, dict], by_classes: dict[int, dict], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for ax, data, label in zip(
        axes, (by_rows, by_classes), ("rows, 10 classes", "classes, 20 million numbers")
    ):
        for job in JOBS:
            ax.loglog(list(data), [found[job]["cpu"] for found in data.values()], "o-", label=job)
        ax.set(xlabel=label, ylabel="CPU seconds")
        ax.grid(alpha=0.3)
    n = np.array(list(by_rows))
    axes[0].loglog(n, 3e-8 * n, ":", color="gray", label="linear")
    axes[0].legend()
    plt.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=100_000_000)
    parser.add_argument("--write", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    time_case(2000, 10)  # imports and first-call costs
    by_rows = {}
    for n in (10**power for power in range(4, 9)):
        if n <= arguments.largest:
            by_rows[n] = time_case(n, 10)
    by_classes = {k: time_case(20_000_000 // k, k) for k in (2, 10, 31, 32, 100, 1000, 10_000)}
    lines = ["# Growth of cost\n", describe_machine(("focalcal", "numpy")) + "\n"]
    lines += table(by_rows, "rows (10 classes)", {n: 10 * n for n in by_rows})
    lines += [
        "",
        *table(by_classes, "classes (20 million numbers)", dict.fromkeys(by_classes, 20_000_000)),
        "",
    ]
    large = {n: found for n, found in by_rows.items() if n >= 1_000_000} if len(by_rows) > 3 else by_rows
    for job in JOBS:
        slope = np.polyfit(np.log(list(large)), np.log([found[job]["cpu"] for found in large.values()]), 1)[0]
        lines.append(f"- {job}: CPU time grows as rows to the power {slope:.2f} from {min(large):,} rows on")
    print("\n".join(lines))
    if arguments.write:
        arguments.write.write_text("\n".join(lines) + "\n")
    if arguments.plot:
        plot(by_rows, by_classes, arguments.plot)


if __name__ == "__main__":
    main()
