"""Raw, TS and FTS on real score files, through the command line: fitted on one half, judged on the other.

    python benchmarks/real_scores.py [--data ../shared/data] [--write benchmarks/results/real_scores.md]

Each file is an npz with `logits` or `probs`, `labels` and `val_mask`. For each, `focalcal fit --where
val_mask` fits and `focalcal evaluate --where 'not val_mask'` judges, as a user would. Beside them: the
best mean NLL on the fitting rows over the grid of Komisarenko and Kull (T = .05, .10, …, 5 and eleven γ),
and the paired difference in test NLL between FTS and TS.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

import numpy as np

import focalcal
from focalcal.calibrators.objective import Objective
from focalcal.calibrators.temperature.ece_search import GRID_GAMMAS, GRID_TEMPERATURES
from focalcal.rows import as_rows

METHODS = ("ts", "fts")


def run(*arguments: str) -> dict:
    command = [sys.executable, "-m", "focalcal", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    return json.loads(done.stdout)


def grid_optimum(scores: np.ndarray, labels: np.ndarray, kind: str) -> dict[str, float]:
    """Return the lowest mean NLL of the paper's grid, with γ = 0 and over all γ."""
    rows, _ = as_rows(scores, labels, None, kind, None)
    objective = Objective(rows)
    best = {"ts": math.inf, "fts": math.inf}
    for temperature in GRID_TEMPERATURES:
        for gamma in GRID_GAMMAS:
            loss = objective.sums(math.log(temperature), gamma, "nll").loss
            best["fts"] = min(best["fts"], loss)
            if gamma == 0:
                best["ts"] = min(best["ts"], loss)
    return best


def one_file(path: Path, folder: Path) -> dict:
    with np.load(path) as file:
        kind = "logits" if "logits" in file else "probs"
        scores, labels, chosen = file[kind], file["labels"].astype(np.int64), file["val_mask"]
    found = {
        "name": path.stem,
        "n_fit": int(chosen.sum()),
        "n": int((~chosen).sum()),
        "classes": scores.shape[1],
    }
    found["grid"] = grid_optimum(scores[chosen], labels[chosen], kind)
    log_p = {}
    for method in METHODS:
        saved = folder / f"{path.stem}.{method}.json"
        run("fit", str(path), "--where", "val_mask", "--method", method, "-o", str(saved))
        judged = run("evaluate", str(path), "--where", "not val_mask", "--calibrator", str(saved))
        found["raw"], found[method] = judged["before"], judged["after"]
        found[f"{method} fit"] = json.loads(saved.read_text())
        test = focalcal.load(saved).transform(scores[~chosen])
        log_p[method] = test[np.arange(len(test)), labels[~chosen]].astype(np.float64)
    gain = log_p["ts"] - log_p["fts"]  # negative where FTS has the lower loss
    found["difference"] = (float(gain.mean()), float(gain.std(ddof=1) / math.sqrt(len(gain))))
    return found


def interval(estimate: dict, scale: float = 1.0, digits: int = 4) -> str:
    value, low, high = (estimate[key] * scale for key in ("value", "low", "high"))
    return f"{value:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def table(files: list[dict], peers: dict) -> str:
    lines = [
        "# Raw, TS and FTS on real score files",
        "",
        f"focalcal {version('focalcal')}, numpy {version('numpy')}, Python {sys.version.split()[0]}. Fitted by NLL on "
        "`val_mask`, judged on the rest; 95 % intervals in brackets. ECE: 15 equal-width bins, top label, in %. The "
        "textbook ECE counts chance as error; its interval is for the error without chance, and may lie below it.",
        "",
        "| file | n fit / test × K | method | T | γ | NLL | Brier | ECE % | fit NLL | less the grid's |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for f in files:
        for method in ("raw", *METHODS):
            m = f[method]["metrics"]
            head = (
                (f["name"], f"{f['n_fit']:,} / {f['n']:,} × {f['classes']}") if method == "raw" else ("", "")
            )
            cells = ["1", "0", *(["–"] * 2)]
            if method != "raw":
                saved = f[f"{method} fit"]
                errors = {k: "–" if v is None else f"{v:.3f}" for k, v in saved["stderr"].items()}
                p, loss = saved["parameters"], saved["diagnostics"]["loss"]
                cells = [
                    f"{p['temperature']:.4f} ± {errors['temperature']}",
                    f"{p['gamma']:.4f} ± {errors['gamma']}" if "gamma" in p else "0",
                    f"{loss:.6f}",
                    f"{loss - f['grid'][method]:+.1e}",
                ]
            scores = [interval(m["nll"]), interval(m["brier"]), interval(m["ece"], 100, 2)]
            lines.append(
                f"| {' | '.join([*head, method.upper() if method != 'raw' else method, *cells[:2], *scores, *cells[2:]])} |"
            )
    lines += ["", *differences(files, peers), "", *messages(files)]
    return "\n".join(lines) + "\n"


def differences(files: list[dict], peers: dict) -> list[str]:
    lines = [
        "## FTS against TS: test NLL, paired",
        "",
        "Negative: FTS is better. SVS and SMS are probmetrics 1.3.0's, measured on the same split (lower is better). "
        "The rows of mmlu4 are ten prompts a question, so that its standard error is too small.",
        "",
        "| file | FTS − TS | standard error | in errors | TS | FTS | SVS | SMS |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    counts = {"better": 0, "worse": 0}
    for f in files:
        mean, error = f["difference"]
        z = mean / error if error else 0.0
        counts["better"] += z < -2
        counts["worse"] += z > 2
        nll = {method: f[method]["metrics"]["nll"]["value"] for method in METHODS}
        rival = peers.get(f["name"], {})
        others = [f"{rival[key]['nll']:.4f}" if key in rival else "–" for key in ("svs", "sms")]
        lines.append(
            f"| {f['name']} | {mean:+.5f} | {error:.5f} | {z:+.1f} | {nll['ts']:.4f} | {nll['fts']:.4f} | {' | '.join(others)} |"
        )
    ratio = [
        math.log(f["fts"]["metrics"]["nll"]["value"] / f["ts"]["metrics"]["nll"]["value"]) for f in files
    ]
    ece = {m: statistics.mean(f[m]["metrics"]["ece"]["value"] for f in files) for m in ("raw", *METHODS)}
    return [
        *lines,
        "",
        f"Of {len(files)} files FTS is better than TS by more than two standard errors on {counts['better']} and worse on "
        f"{counts['worse']}; mean log-ratio of NLL, FTS to TS: {statistics.mean(ratio):+.4f}. Mean ECE: raw "
        f"{ece['raw']:.2%}, TS {ece['ts']:.2%}, FTS {ece['fts']:.2%}.",
    ]


def messages(files: list[dict]) -> list[str]:
    said = [
        f"- {f['name']}, {method.upper()}: {message}"
        for f in files
        for method in METHODS
        for message in f[f"{method} fit"]["diagnostics"]["messages"]
    ]
    return ["## What the fits said of themselves", "", *(said or ["Nothing."])]


def draw(path: Path, figure: Path) -> None:
    """Draw the test half of a file of logits, raw and after FTS fitted on the other half."""
    import matplotlib.pyplot as plt

    with np.load(path) as file:
        logits, labels, chosen = file["logits"], file["labels"].astype(np.int64), file["val_mask"]
    calibrator = focalcal.FocalTemperatureScaling().fit(logits[chosen], labels[chosen])
    canvas, axes = plt.subplots(1, 2, figsize=(9, 4.9))
    shown = {
        "before": logits[~chosen],
        "after focal temperature scaling": calibrator.transform(logits[~chosen]),
    }
    for ax, (name, scores) in zip(axes, shown.items(), strict=True):
        focalcal.ReliabilityDisplay.from_predictions(
            labels[~chosen], scores, input="logits", name=name, ax=ax
        )
    canvas.savefig(figure, dpi=120, bbox_inches="tight")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared" / "data")
    parser.add_argument("--write", type=Path)
    parser.add_argument(
        "--figure", type=Path, help="write reliability diagrams of the first file here instead"
    )
    arguments = parser.parse_args()
    paths = sorted(arguments.data.glob("*.npz"))
    paths = [p for p in paths if {"labels", "val_mask"} <= set(np.load(p).files)]
    if not paths:
        raise SystemExit(f"Expected score files in {arguments.data}, got none.")
    if arguments.figure:
        draw(paths[0], arguments.figure)
        return
    peers = arguments.data / "peer_scores.json"
    known = json.loads(peers.read_text())["scores"] if peers.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        files = [one_file(path, Path(folder)) for path in paths]
    text = table(files, known)
    print(text)
    if arguments.write:
        arguments.write.write_text(text)


if __name__ == "__main__":
    main()
