"""The verdict on real score files: every estimate with its interval, raw and after TS and FTS, and the changes.

    python benchmarks/verdict.py [--data ../shared/data] [--write benchmarks/results/verdict.md]

Fitted by NLL on the rows of `val_mask`, judged on the others. Rows that are not independent are judged as
clusters: the ten prompts of a question in mmlu4.
"""

from __future__ import annotations

import argparse
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

import focalcal
from focalcal import (
    FocalTemperatureScaling,
    TemperatureScaling,
    compare,
    decompose,
    evaluate,
    kernel_ece,
    top_label_ece,
)
from focalcal.verdicts import calibration_tests

PERCENT = (
    "ece",
    "ece_l2",
    "smooth_ece",
    "ks_error",
    "classwise_ece",
    "mean_gap",
    "aurc",
    "top_label",
    "kernel",
)


def load(path):
    """Return scores, labels, their kind, the rows to fit on, and which question each row asks."""
    with np.load(path) as file:
        kind = "logits" if "logits" in file else "probs"
        clusters = questions(file) if "prompt" in file.files else None
        return file[kind], file["labels"].astype(np.int64), kind, file["val_mask"], clusters


def questions(file):
    """Return which question each row asks: rows come subject by subject, and in each prompt by prompt."""
    subject, labels = file["subject"].astype(int), file["labels"]
    block = np.cumsum(np.diff(subject * 100 + file["prompt"], prepend=-1) != 0)
    number = np.arange(len(block)) - np.searchsorted(block, block)
    _, first, question = np.unique(subject * 10_000 + number, return_index=True, return_inverse=True)
    assert (labels == labels[first][question]).all()
    return question


def judged(y, scores, kind, cluster):
    found = dict(evaluate(y, scores, input=kind, metrics="all", cluster=cluster))
    found["top_label"] = top_label_ece(y, scores, input=kind)
    found["kernel"] = kernel_ece(y, scores, input=kind, of="top", max_rows=3000)
    found["isotonic"] = decompose(y, scores, input=kind).calibration
    p = {
        method: calibration_tests.test_calibration(y, scores, input=kind, method=method).p_value
        for method in calibration_tests.METHODS
    }
    return found, p


def shown(name, e):
    scale, digits = (100, 2) if name in PERCENT else (1, 4)
    ends = [f"{scale * value:.{digits}f}" for value in (e.low, e.high)]
    return f"{scale * e.value:.{digits}f} [{', '.join(ends)}]"


def p_text(p):
    return "<.0001" if p < 1e-4 else f"{p:.3f}".lstrip("0")


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


METRICS = ("ece", "ece_l2", "smooth_ece", "ks_error", "mean_gap", "classwise_ece", "top_label", "kernel")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--write", type=Path)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    scores_rows, error_rows, change_rows = [], [], []
    for path in sorted(given.data.glob("*.npz")):
        if path.name.startswith(("cifar10_images", "cifar10h")):
            continue
        scores, y, kind, fit, clusters = load(path)
        cluster = None if clusters is None else clusters[~fit]
        after = {"raw": (scores[~fit], kind)}
        for name, make in (("TS", TemperatureScaling), ("FTS", FocalTemperatureScaling)):
            after[name] = (make(input=kind).fit(scores[fit], y[fit]).transform(scores[~fit]), "logits")
        for name, (z, what) in after.items():
            found, p = judged(y[~fit], z, what, cluster)
            label = path.stem if name == "raw" else ""
            scores_rows.append(
                [label, name, *(shown(k, found[k]) for k in ("nll", "brier", "accuracy", "aurc", "isotonic"))]
            )
            error_rows.append([label, name, *(shown(k, found[k]) for k in METRICS), *map(p_text, p.values())])
            print(path.stem, name, found["ece"], flush=True)
        for one, other in (("raw", "TS"), ("TS", "FTS")):
            change = compare(
                y[~fit],
                after[one][0],
                after[other][0],
                input=(after[one][1], after[other][1]),
                cluster=cluster,
            )
            cells = [
                f"{shown(k, change[k].difference)} {p_text(change[k].p_value)}"
                for k in ("nll", "brier", "ece", "classwise_ece")
            ]
            change_rows.append([path.stem if one == "raw" else "", f"{one} → {other}", *cells])
    text = "\n\n".join(
        [
            f"# The verdict on fourteen real score files\n\n`python benchmarks/verdict.py` "
            f"(focalcal {focalcal.__version__}, NumPy {version('numpy')}). Fitted by NLL on one half, judged on "
            "the other; in brackets 95 % intervals. An error above its interval: the formula counts chance as "
            "error, the interval does not.",
            "## Errors of calibration\n\nIn percent; ECE in 15 bins, L2 debiased; kernel ECE of the top class; p: "
            "tests of calibration (T-Cal, KS, Spiegelhalter).",
            table(
                ["file", "", "ECE", "ECE, L2", "smooth ECE", "KS", "confidence − accuracy", "class-wise",
                 "top-label", "kernel", "p T-Cal", "p KS", "p Spiegelhalter"],
                error_rows,
            ),
            "## Scores\n\nAURC in percent; MCB: what isotonic regression of the top class's confidence would gain "
            "in Brier score.",
            table(["file", "", "NLL", "Brier", "accuracy", "AURC", "MCB"], scores_rows),
            "## Changes on the same rows\n\nPaired differences with interval and p-value; errors in percent, "
            "freed of what noise adds.",
            table(["file", "", "NLL", "Brier", "ECE", "class-wise ECE"], change_rows),
        ]
    )  # fmt: skip
    if given.write:
        given.write.write_text(text + "\n")
    else:
        print(text)


if __name__ == "__main__":
    main()
