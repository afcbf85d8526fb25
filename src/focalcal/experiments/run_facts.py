"""What was run, where, and how long it took, in words for a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from focalcal.experiments.machine import machine
from focalcal.experiments.recipes import Recipe
from focalcal.experiments.scaling_words import data_name, recipe_words


def run_facts(profile: str, runs: Sequence[tuple[Recipe, Path]], planned: int) -> dict[str, str]:
    """Return the facts of finished runs.

    Parameters
    ----------
    profile : str
    runs : sequence of (Recipe, Path)
        With their folders, as `Sweep.done` returns them.
    planned : int
        Runs of the profile.
    """
    recipes = [recipe for recipe, _ in runs]
    told = [json.loads((folder / "run.json").read_text(encoding="utf-8")) for _, folder in runs]
    hours = sum(one["seconds"] for one in told) / 3600
    return {
        "Profile": profile,
        "Runs": f"{len(runs)} of {planned} planned",
        "Seeds": ", ".join(map(str, sorted({recipe.seed for recipe in recipes}))),
        "Data": ", ".join(dict.fromkeys(data_name(recipe.data) for recipe in recipes)),
        "Networks": ", ".join(dict.fromkeys(recipe.net for recipe in recipes)),
        "Losses": ", ".join(dict.fromkeys(recipe.loss for recipe in recipes)),
        "Training": "; or ".join(dict.fromkeys(map(recipe_words, recipes))),
        "Hours of training": f"{hours:.2f}, all runs together",
        "Versions and devices of the runs": "; ".join(sorted({_where(one) for one in told})),
    } | {f"{name}, of this page": text for name, text in machine().items()}


def _where(run: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"{versions}, {run['device']} ({run['machine']})"
