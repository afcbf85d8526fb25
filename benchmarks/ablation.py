"""What each part of focal matrix scaling adds: the calibrator with one part changed or left out at a time.

    python -P benchmarks/ablation.py [--data ../shared/data] [--splits 2] [--write benchmarks/results/ablation.md]

Files, splits and measures as in benchmarks/quality.py. Differences are paired: the same file and split with and
without the part; standard errors are over files, after averaging over splits.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from unittest.mock import patch

import numpy as np

import focalcal
from focalcal.calibrators import FocalMatrixScaling
from focalcal.calibrators.held_out import HeldOut
from focalcal.calibrators.matrix import last_stage as confidence
from focalcal.calibrators.matrix.first_stage import Start
from focalcal.calibrators.matrix.last_stage import Confidence
from focalcal.calibrators.matrix.mixture import Judged, Tried
from focalcal.calibrators.matrix.mixture import _kept as kept
from focalcal.calibrators.matrix.ridge import Minimum
from focalcal.calibrators.matrix.shrinkage import Basis, Shrinkage, find_basis

sys.path.insert(0, str(Path(__file__).parent))
from quality import Cell, load, rows_of, score_files
from quality_tables import table

MODULE = "focalcal.calibrators.matrix.focal_matrix"


def priced(power: float) -> Callable[[HeldOut], Basis]:
    """Return `find_basis` with eigenvalues raised to another power than ½ in the prior: 0 is plain ridge."""

    def found(held: HeldOut) -> Basis:
        basis, k = find_basis(held), held.n_classes
        price = (basis.inputs**2).sum(axis=0) ** -1  # K (mean α · α_i)^½
        alpha = (price / k) ** 2  # times the mean of α
        mean = np.sqrt(alpha.sum() / k)
        inputs = basis.inputs * np.sqrt(price / (k * mean ** (1 - 2 * power) * alpha**power))
        told = (basis.outputs**2).sum(axis=1) ** -2  # β_j / mean of β
        outputs = basis.outputs * (told ** (0.25 - power / 2))[:, None]
        return Basis(basis.centre, inputs, outputs)

    return found


def scaled(self: Shrinkage, strength: float, start: np.ndarray) -> Minimum:
    """Fit all rows with as much more λ as they are more than without a fold."""
    share = self.whole.weight.sum() / np.mean([some.weight.sum() for some in self.inside])
    return self._fit(self.whole, float(strength * share), start, self.tolerance / 10)


def one_map(judged: Judged, tried: list[Tried]) -> tuple[list[Tried], np.ndarray]:
    """Keep the matrix of the lowest loss, whole."""
    return [min(tried[:-1], key=lambda one: judged.loss(np.ones(1), [one])[0])], np.ones(1)


def matrices(judged: Judged, tried: list[Tried]) -> tuple[list[Tried], np.ndarray]:
    """Keep no vector scaling."""
    return kept(judged, tried[:-1])


def nothing_else(judged: Judged, tried: list[Tried]) -> tuple[list[Tried], np.ndarray]:
    """Keep all of 1 for vector scaling and matrices."""
    found, shares = kept(judged, tried)
    return found, shares / max(shares.sum(), 1e-9)


def stage(kind: str) -> Callable[[HeldOut], Confidence]:
    """Return a simpler last stage: nothing, a temperature, or focal temperature scaling."""

    def fitted(held: HeldOut) -> Confidence:
        slopes, gamma = np.zeros(4), 0.0
        if kind != "nothing":
            family = focalcal.TemperatureScaling if kind == "T" else focalcal.FocalTemperatureScaling
            cal = family().fit(held.scores, held.codes, held.weight)
            slopes[0], gamma = np.log(cal.temperature_), getattr(cal, "gamma_", 0.0)
        return Confidence(slopes, gamma, np.nan, np.nan, np.zeros(held.n), True, 0)

    return fitted


def sharp(held: HeldOut) -> Start:
    """Fit temperature scaling alone."""
    cal = focalcal.TemperatureScaling().fit(held.scores, held.codes, held.weight)
    return Start(cal.temperature_, 0.0, cal.diagnostics_)


def mixed(held: HeldOut) -> Start:
    """Fit a share of the uniform distribution, however little it is worth."""
    cal = focalcal.MixedTemperatureScaling().fit(held.scores, held.codes, held.weight)
    return Start(cal.temperature_, max(cal.share_, 0.5 / (held.n + 1)), cal.diagnostics_)


#: What is changed: a name, and what is put in which place.
VARIANTS: dict[str, dict[str, object]] = {
    "the whole": {},
    "no uniform distribution in the first stage": {f"{MODULE}.find_start": sharp},
    "the uniform distribution in every first stage": {f"{MODULE}.find_start": mixed},
    "no last stage": {f"{MODULE}.fit_confidence": stage("nothing")},
    "last stage: T": {f"{MODULE}.fit_confidence": stage("T")},
    "last stage: T and γ": {f"{MODULE}.fit_confidence": stage("T and γ")},
    "last stage without γ": {
        "focalcal.calibrators.matrix.last_stage._PRIOR": np.array([*confidence._PRIOR[:4], 1e12]),
    },
    "prior: plain ridge (eigenvalues to the power 0)": {
        "focalcal.calibrators.matrix.shrinkage.find_basis": priced(0.0),
    },
    "prior: whitened (to the power 1)": {"focalcal.calibrators.matrix.shrinkage.find_basis": priced(1.0)},
    "λ = 1 instead of a choice": {"penalty": 1.0},
    "λ larger for the last fit, as its rows are more": {
        "focalcal.calibrators.matrix.shrinkage.Shrinkage.last": scaled
    },
    "no mixture: the best λ alone": {"focalcal.calibrators.matrix.mixture._kept": one_map},
    "no vector scaling in the mixture": {"focalcal.calibrators.matrix.mixture._kept": matrices},
    "no temperature scaling in the mixture": {"focalcal.calibrators.matrix.mixture._kept": nothing_else},
    "no matrix, only the last stage": {"penalty": 1e9},
}


def judged(variant: str, cell: Cell) -> tuple[float, float]:
    """Return NLL and ECE on the rows that were not fitted on."""
    file = load(cell.path)
    chosen, rest = rows_of(cell, file)
    changes = dict(VARIANTS[variant])
    cal = FocalMatrixScaling(penalty=changes.pop("penalty", None), input=file.kind)
    with ExitStack() as stack, warnings.catch_warnings():
        warnings.simplefilter("ignore", focalcal.CalibrationWarning)
        for place, other in changes.items():
            stack.enter_context(patch(place, other))
        log_p = cal.fit(file.scores[chosen], file.labels[chosen]).transform(file.scores[rest])
    y = file.labels[rest]
    nll = focalcal.nll(y, log_p, input="logits").value
    return nll, focalcal.ece(y, log_p, input="logits").value


def lines_of(found: np.ndarray, names: list[str]) -> list[str]:
    """Return the table of results (variant, file, split, measure)."""
    ratio = np.log(found[..., 0] / found[:1, ..., 0]).mean(axis=2)  # (variant, file)
    gap = 100 * (found[..., 1] - found[:1, ..., 1]).mean(axis=2)
    error = np.sqrt(found.shape[1])
    rows = []
    for k, name in enumerate(names):
        rows.append(
            [
                name,
                f"{ratio[k].mean():+.4f} ± {ratio[k].std(ddof=1) / error:.4f}" if k else "0",
                f"{(ratio[k] > 0).sum()} of {len(ratio[k])}" if k else "",
                f"{100 * found[k, ..., 1].mean():.2f}",
                f"{gap[k].mean():+.2f} ± {gap[k].std(ddof=1) / error:.2f}" if k else "0",
            ]
        )
    head = ["focal matrix scaling with", "log-ratio of NLL", "files worse", "mean ECE %", "difference"]
    return table(head, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--splits", type=int, default=2)
    parser.add_argument("--files")
    parser.add_argument("--variants", type=int, help="how many of the first; by default all")
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    paths, names = score_files(options.data, options.files), list(VARIANTS)[: options.variants]
    found = np.empty((len(names), len(paths), options.splits, 2))
    for i, path in enumerate(paths):
        for split in range(options.splits):
            for k, name in enumerate(names):
                found[k, i, split] = judged(name, Cell(str(path), split))
        print(path.stem, " ".join(f"{v:.4f}" for v in found[:, i, 0, 0]), file=sys.stderr, flush=True)
    head = [
        "# What each part of focal matrix scaling adds",
        "",
        f"`python -P benchmarks/ablation.py --splits {options.splits}`: {len(paths)} files, {options.splits} "
        "splits each; log-ratios and differences are to the whole (± standard error over files), above 0 is worse.",
        "",
    ]
    text = "\n".join([*head, *lines_of(found, names)]) + "\n"
    print(text)
    if options.write:
        options.write.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
