"""Does focal temperature scaling beat temperature scaling? Judged over seeds, run by run on the same rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax

from focalcal.calibrators import FocalTemperatureScaling, TemperatureScaling
from focalcal.calibrators.ece_search import GRID_GAMMAS, GRID_TEMPERATURES
from focalcal.experiments.over_seeds import OverSeeds, over_seeds
from focalcal.experiments.recipes import Recipe
from focalcal.maps import focal_map, temperature_map
from focalcal.metrics import brier, classwise_ece, ece, nll

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]
#: From logits to log-probabilities.
Map = Callable[[Logits], NDArray[np.float64]]

CRITERIA = ("nll", "brier", "ece")


class Scores(NamedTuple):
    """What a run left: logits (n, K) and labels (n,) of validation and test images."""

    val_logits: Logits
    val_labels: Labels
    test_logits: Logits
    test_labels: Labels


def read_scores(folder: Path) -> Scores:
    """Return the scores of a finished run."""
    with np.load(folder / "scores.npz", allow_pickle=False) as file:
        return Scores(*(file[name] for name in Scores._fields))


def _fitted(kind: Any, criterion: str) -> Callable[[Logits, Labels], Map]:
    def fit(logits: Logits, labels: Labels) -> Map:
        found = kind(criterion=criterion).fit(logits, labels)
        return lambda z: np.asarray(found.transform(z))

    return fit


def _raw(logits: Logits, labels: Labels) -> Map:
    def plain(z: Logits) -> NDArray[np.float64]:
        found: NDArray[np.float64] = log_softmax(z.astype(np.float64), axis=1)
        return found

    return plain


def _on_grid(criterion: str) -> Callable[[Logits, Labels], Map]:
    """Choose among the temperatures and γ of Komisarenko and Kull's own grid."""

    def fit(logits: Logits, labels: Labels) -> Map:
        best, chosen = math.inf, (1.0, 0.0)
        for temperature in GRID_TEMPERATURES:
            scaled = temperature_map(logits, float(temperature))
            for gamma in GRID_GAMMAS:
                value = METRICS[criterion](labels, focal_map(scaled, gamma))
                if value < best:
                    best, chosen = value, (float(temperature), gamma)
        return lambda z: np.asarray(focal_map(temperature_map(z, chosen[0]), chosen[1]))

    return fit


def mixed(logits: Logits, labels: Labels) -> Map:
    """Fit (1 − λ) softmax(z/T) + λ/K by NLL: as many parameters as focal temperature scaling has."""
    z, rows = logits.astype(np.float64), np.arange(len(labels))

    def log_probs(z: NDArray[np.float64], at: NDArray[np.float64]) -> NDArray[np.float64]:
        share = 1 / (1 + math.exp(-at[1]))
        plain = log_softmax(z / math.exp(at[0]), axis=1)
        found: NDArray[np.float64] = np.logaddexp(math.log1p(-share) + plain, math.log(share / z.shape[1]))
        return found

    def loss(at: NDArray[np.float64]) -> float:
        return -float(log_probs(z, at)[rows, labels].mean())

    bounds = [(-5.0, 5.0), (-15.0, 5.0)]
    starts = [np.array([0.0, share]) for share in (-6.0, -2.0)]
    best = min((minimize(loss, start, bounds=bounds) for start in starts), key=lambda found: found.fun)
    return lambda other: log_probs(other.astype(np.float64), best.x)


def _structured(logits: Logits, labels: Labels) -> Map:
    """Fit probmetrics' structured matrix scaling."""
    found, plain = import_module("probmetrics.calibrators").get_calibrator("sms"), _raw(logits, labels)
    found.fit(np.exp(plain(logits)), labels)
    return lambda z: np.log(np.maximum(found.predict_proba(np.exp(plain(z))), 1e-300))


#: By name: fitted on validation logits and labels.
METHODS: dict[str, Callable[[Logits, Labels], Map]] = {
    "raw": _raw,
    **{f"TS {criterion}": _fitted(TemperatureScaling, criterion) for criterion in CRITERIA},
    **{f"FTS {criterion}": _fitted(FocalTemperatureScaling, criterion) for criterion in CRITERIA},
    **{f"FTS {criterion}, grid": _on_grid(criterion) for criterion in CRITERIA},
    "TS + uniform": mixed,
    **({"SMS": _structured} if find_spec("probmetrics") else {}),
}

#: By name: of labels and log-probabilities; the ECE is the papers', in 15 bins of equal mass.
METRICS: dict[str, Callable[[Labels, Any], float]] = {
    "nll": lambda y, p: nll(y, p, input="logits").value,
    "brier": lambda y, p: brier(y, p, input="logits").value,
    "ece": lambda y, p: ece(y, p, input="logits", binning="equal-mass").value,
    "classwise ece": lambda y, p: classwise_ece(y, p, input="logits").value,
}


def judged(scores: Scores, methods: Sequence[str] = tuple(METHODS)) -> dict[str, dict[str, float]]:
    """Return each method's metrics on the test rows of one run."""
    found = {}
    for name in methods:
        calibrated = METHODS[name](scores.val_logits, scores.val_labels)(scores.test_logits)
        found[name] = {metric: of(scores.test_labels, calibrated) for metric, of in METRICS.items()}
    return found


Table = dict[str, dict[str, OverSeeds]]


def tables(runs: Iterable[tuple[Recipe, dict[str, dict[str, float]]]]) -> dict[str, tuple[Table, Table]]:
    """Return, for each data set, network and loss, the methods' metrics and their differences to TS.

    Differences are of runs with the same seed: of FTS to TS of the same criterion, of others to TS by NLL.
    """
    grouped: dict[str, dict[int, dict[str, dict[str, float]]]] = {}
    for recipe, found in runs:
        grouped.setdefault(f"{recipe.data}, {recipe.net}, {recipe.loss}", {})[recipe.seed] = found
    made = {}
    for title, by_seed in grouped.items():
        each = list(by_seed.values())
        names = [name for name in each[0] if all(name in found for found in each)]
        means = {n: {m: over_seeds(found[n][m] for found in each) for m in METRICS} for n in names}
        apart: Table = {}
        for name in names:
            rival = next((f"TS {c}" for c in CRITERIA if name.startswith(f"FTS {c}")), "TS nll")
            if name not in ("raw", rival) and rival in names:
                apart[f"{name} − {rival}"] = {
                    m: over_seeds(found[name][m] - found[rival][m] for found in each) for m in METRICS
                }
        made[title] = means, apart
    return made
