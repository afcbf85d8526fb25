"""What the study's runs say together: γ against curvature and calibration, and what else flattens."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from focalcal.experiments.geometry.study import Found
from focalcal.experiments.over_seeds import OverSeeds, over_seeds
from focalcal.experiments.profiles import FOCAL
from focalcal.experiments.recipes import Recipe

Run = tuple[Recipe, Found]
Pick = Callable[[Found], float]
Array = NDArray[np.float64]

#: Points of validation accuracy that a control may lose and still count as equally accurate.
EQUAL = 0.01

_DRAWS = 2000


def own_trace(one: Found) -> float:
    """Return the trace for the loss that was trained."""
    return float(one["own"]["trace"])


def common_trace(one: Found) -> float:
    """Return the trace for cross-entropy."""
    return float(one["common"]["trace"])


def raw_ece(one: Found) -> float:
    """Return the ECE of the softmax."""
    return float(one["raw"]["ece"])


def scaled_ece(one: Found) -> float:
    """Return the ECE after temperature scaling."""
    return float(one["scaled"]["ece"])


def gap(one: Found) -> float:
    """Return the distance of mean confidence and accuracy."""
    return abs(float(one["raw"]["gap"]))


def gamma_of(recipe: Recipe) -> float:
    """Return γ of a run of cross-entropy or focal loss."""
    return 0.0 if recipe.loss == "ce" else float(recipe.loss.removeprefix("focal-"))


def control_of(recipe: Recipe) -> tuple[str, float]:
    """Return what was done to a run besides its loss, and how strongly."""
    if recipe.penalty:
        return "trace penalty", recipe.penalty
    if recipe.rho:
        return "SAM", recipe.rho
    if recipe.decay > Recipe.decay:
        return "weight decay", recipe.decay
    return "", 0.0


@dataclass(frozen=True)
class Family:
    """Runs of one data set and network: by γ, or by the strength of a control; each has all its seeds."""

    data: str
    net: str
    by: dict[float, dict[int, Found]]  # strength to seed to what was found

    @property
    def strengths(self) -> list[float]:
        """The strengths but the first, which others are compared with."""
        return list(self.by)[1:]

    def mean(self, strength: float, pick: Pick) -> OverSeeds:
        """Return a mean over seeds."""
        return over_seeds(map(pick, self.by[strength].values()))

    def difference(self, strength: float, pick: Pick) -> OverSeeds:
        """Return the mean difference to the first strength, of runs with the same seed."""
        return over_seeds(a - b for a, b in self._pairs(strength, pick))

    def ratio(self, strength: float, pick: Pick) -> OverSeeds:
        """Return the geometric mean of the ratio to the first strength, of runs with the same seed."""
        logs = over_seeds(math.log(a / b) for a, b in self._pairs(strength, pick))
        return OverSeeds(math.exp(logs.value), math.exp(logs.low), math.exp(logs.high), logs.n)

    def correlation(self, one: Pick, other: Pick, *, within: bool = False) -> OverSeeds:
        """Return Spearman's rank correlation over all runs; with `within`, of runs of one strength.

        The interval is that of 2,000 bootstraps of seeds, and of runs within each; NaN where there is one.
        """
        runs = [(s, seed, found) for s, seeds in self.by.items() for seed, found in seeds.items()]
        strengths, seeds = (np.array([run[i] for run in runs]) for i in (0, 1))
        a, b = (np.array([pick(run[2]) for run in runs]) for pick in (one, other))
        if within:
            a, b = (_centred(values, strengths) for values in (np.log(a), b))
        value = float(_rank_correlation(a, b))
        if len(np.unique(seeds)) == 1 or math.isnan(value):
            return OverSeeds(value, math.nan, math.nan, len(runs))
        rows = _drawn(seeds)
        low, high = np.nanquantile(_rank_correlation(a[rows], b[rows]), [0.025, 0.975])
        return OverSeeds(value, float(low), float(high), len(runs))

    def _pairs(self, strength: float, pick: Pick) -> list[tuple[float, float]]:
        rivals = next(iter(self.by.values()))
        return [
            (pick(found), pick(rivals[seed])) for seed, found in self.by[strength].items() if seed in rivals
        ]


def _drawn(seeds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return rows (draws, …) of seeds that were drawn, and of runs drawn within each."""
    groups = [np.flatnonzero(seeds == seed) for seed in np.unique(seeds)]
    sizes = np.array([len(group) for group in groups])
    table = np.array([np.resize(group, sizes.max()) for group in groups])
    rng = np.random.default_rng(0)
    order = rng.integers(len(groups), size=(_DRAWS, len(groups), 1))
    within = rng.random((_DRAWS, *table.shape)) * sizes[order]
    rows: NDArray[np.int64] = table[order, within.astype(int)].reshape(_DRAWS, -1)
    return rows


def _rank_correlation(a: Array, b: Array) -> Array:
    """Return Spearman's ρ along the last axis; NaN where all values are equal."""
    first, second = (rankdata(values, axis=-1) for values in (a, b))
    first, second = (ranks - ranks.mean(axis=-1, keepdims=True) for ranks in (first, second))
    scale = np.sqrt((first**2).sum(axis=-1) * (second**2).sum(axis=-1))
    with np.errstate(invalid="ignore"):
        found: Array = (first * second).sum(axis=-1) / scale
    return found


def _centred(values: Array, strengths: Array) -> Array:
    means: Array = np.array([values[strengths == s].mean() for s in strengths])
    return values - means


def focal_families(runs: Iterable[Run], *, noisy: bool = False) -> list[Family]:
    """Return the runs that only γ and the seed tell apart, for each data set and network."""
    kept = [
        (recipe, found)
        for recipe, found in runs
        if recipe.loss in FOCAL and not control_of(recipe)[0] and bool(recipe.label_noise) == noisy
    ]
    return _families(kept, gamma_of)


def control_families(runs: Sequence[Run]) -> dict[str, list[Family]]:
    """Return, for each control, its runs by strength, with those of plain cross-entropy as strength 0."""
    of_ce = [run for run in runs if run[0].loss == "ce" and not run[0].label_noise]
    plain = [run for run in of_ce if not control_of(run[0])[0]]
    names = dict.fromkeys(control_of(recipe)[0] for recipe, _ in of_ce)
    found = {}
    for name in filter(None, names):
        own = [run for run in of_ce if control_of(run[0])[0] == name]
        places = {(recipe.data, recipe.net) for recipe, _ in own}
        rivals = [run for run in plain if (run[0].data, run[0].net) in places]
        found[name] = _families([*rivals, *own], lambda recipe: control_of(recipe)[1])
    return found


def _families(runs: Iterable[Run], strength: Callable[[Recipe], float]) -> list[Family]:
    places: dict[tuple[str, str], dict[float, dict[int, Found]]] = {}
    for recipe, found in runs:
        by = places.setdefault((recipe.data, recipe.net), {})
        by.setdefault(strength(recipe), {})[recipe.seed] = found
    return [
        Family(data, net, dict(sorted(by.items())))
        for (data, net), by in places.items()
        if len(by) > 1 and min(by) == 0
    ]


def equally_accurate(family: Family) -> float | None:
    """Return the strongest control whose mean validation accuracy is within a point of the plain runs'."""
    kept = [s for s in family.strengths if family.difference(s, _val_accuracy).value >= -EQUAL]
    return max(kept, default=None)


def _val_accuracy(one: Found) -> float:
    return float(one["val accuracy"])
