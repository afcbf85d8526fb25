"""What the study's runs say together: means over seeds, paired differences, and in how many settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

from focalcal.experiments.over_seeds import OverSeeds, over_groups, over_seeds
from focalcal.experiments.recipes import Recipe
from focalcal.experiments.scaling.methods import CRITERIA

#: Measures that the claims are about, lower is better.
CLAIMED = ("nll", "brier", "ece", "classwise ece")

#: Who is compared with whom: the difference is the first one's measure less the second one's.
PAIRS: tuple[tuple[str, str], ...] = (
    *((f"FTS {criterion}", f"TS {criterion}") for criterion in CRITERIA),
    *((f"FTS {criterion}, grid", f"TS {criterion}") for criterion in CRITERIA),
    ("FTS nll", "TS + uniform"),
    ("TS + uniform", "TS nll"),
    ("SMS", "TS nll"),
    ("TS nll", "raw"),
)


@dataclass(frozen=True)
class Cell:
    """The runs of one setting, which differ in their seeds.

    Attributes
    ----------
    recipes : list of Recipe
    seconds : float
        Of training, summed.
    accuracy : OverSeeds
    values : dict
        By method and measure, each run's.
    parameters : dict
        By method and parameter, each run's.
    """

    recipes: list[Recipe]
    seconds: float
    accuracy: OverSeeds
    values: dict[str, dict[str, list[float]]]
    parameters: dict[str, dict[str, list[float]]]

    @property
    def name(self) -> tuple[str, str, str]:
        """Data set, network, and loss with what else was done."""
        one = self.recipes[0]
        done = {"trace penalty": one.penalty, "SAM": one.rho, "label noise": one.label_noise}
        return one.data, one.net, " + ".join([one.loss, *(f"{what} {v:g}" for what, v in done.items() if v)])

    def mean(self, method: str, metric: str) -> OverSeeds:
        """Return the mean of a measure."""
        return over_seeds(self.values[method][metric])

    def differences(self, method: str, rival: str, metric: str) -> list[float]:
        """Return by how much two methods differ in each run."""
        pairs = zip(self.values[method][metric], self.values[rival][metric], strict=True)
        return [one - other for one, other in pairs]

    def has(self, *methods: str) -> bool:
        """Return whether every run has these methods."""
        return all(method in self.values for method in methods)


def cells(runs: Iterable[tuple[Recipe, Mapping[str, Any]]]) -> list[Cell]:
    """Put runs together that differ in nothing but their seeds.

    Parameters
    ----------
    runs : iterable of (Recipe, dict)
        As of `study_sweep`.

    Raises
    ------
    ValueError
        If two runs of a setting have the same seed, or runs that `Cell.name` does not tell apart another
        schedule.
    """
    grouped: dict[Recipe, list[tuple[Recipe, Mapping[str, Any]]]] = {}
    for recipe, told in runs:
        grouped.setdefault(replace(recipe, seed=0), []).append((recipe, told))
    found = [_cell(held) for held in grouped.values()]
    names = [cell.name for cell in found]
    for cell in found:
        if names.count(cell.name) > 1 or len({recipe.seed for recipe in cell.recipes}) < cell.accuracy.n:
            raise ValueError(
                f"Expected runs of {', '.join(cell.name)} that differ in their seeds alone, got others. "
                "Study them in folders of their own."
            )
    return found


def _cell(held: Sequence[tuple[Recipe, Mapping[str, Any]]]) -> Cell:
    found = [told["found"] for _, told in held]
    methods = [name for name in found[0] if all(name in one for one in found)]
    return Cell(
        [recipe for recipe, _ in held],
        sum(told["run"]["seconds"] for _, told in held),
        over_seeds(told["accuracy"] for _, told in held),
        *(
            {
                method: {name: [one[method][kind][name] for one in found] for name in found[0][method][kind]}
                for method in methods
            }
            for kind in ("metrics", "parameters")
        ),
    )


@dataclass(frozen=True)
class Claim:
    """Whether one method beats another by a measure.

    Attributes
    ----------
    method, rival, metric : str
    cells : list of (tuple of str, OverSeeds)
        The difference in each setting, by data set, network and loss.
    pooled : OverSeeds
        Over all runs; its interval takes settings to be independent and runs of one to be alike.
    """

    method: str
    rival: str
    metric: str
    cells: list[tuple[tuple[str, str, str], OverSeeds]]
    pooled: OverSeeds

    @property
    def median(self) -> float:
        """The middle setting's difference, which one run that went astray does not move."""
        return median(difference.value for _, difference in self.cells)

    def count(self, side: str) -> int:
        """Return in how many settings the interval is "below" 0, "above" it or "open"."""
        return sum(difference.side == side for _, difference in self.cells)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "method": self.method,
            "rival": self.rival,
            "metric": self.metric,
            "below": self.count("below"),
            "above": self.count("above"),
            "open": self.count("open"),
            "pooled": vars(self.pooled),
            "median": self.median,
            "cells": [{"cell": list(name), "difference": vars(one)} for name, one in self.cells],
        }


def claim(held: Sequence[Cell], method: str, rival: str, metric: str) -> Claim:
    """Compare two methods over settings that all have both.

    Parameters
    ----------
    held : sequence of Cell
        At least one.
    method, rival : str
        Of `METHODS`.
    metric : str
        Of `METRICS`.
    """
    each = [cell.differences(method, rival, metric) for cell in held]
    found = [(cell.name, over_seeds(values)) for cell, values in zip(held, each, strict=True)]
    return Claim(method, rival, metric, found, over_groups(each))


def claims(held: Sequence[Cell]) -> list[Claim]:
    """Return the comparisons of `PAIRS` by each measure of `CLAIMED`, where every setting has both."""
    pairs = [pair for pair in PAIRS if held and all(cell.has(*pair) for cell in held)]
    return [claim(held, *pair, metric) for pair in pairs for metric in CLAIMED]
