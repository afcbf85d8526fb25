"""What was run, where, and how long it took, in words for a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from focalcal.experiments.pages.machine import machine
from focalcal.experiments.recipes import Recipe
from focalcal.reporting.names import shown


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


def data_name(data: str) -> str:
    """Return a data set's name; of a file its stem."""
    return shown(Path(data).stem)


def recipe_words(recipe: Recipe) -> str:
    """Say how a network was trained."""
    drops = " and ".join(map(str, recipe.drops))
    images = "all images" if recipe.rows is None else f"at most {recipe.rows:,} images of each part"
    return (
        f"{recipe.epochs} epochs of SGD at rate {recipe.rate:g}, divided by 10 after epochs {drops}; "
        f"momentum {recipe.momentum:g}, decay {recipe.decay:g}, batches of {recipe.batch_size}, the loss's "
        f"{recipe.reduction} over a batch, gradients clipped at {recipe.clip:g}, "
        f"{'crops and mirror images' if recipe.augment else 'no augmentation'}, {images}, {recipe.precision}"
    )


def _where(run: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in run["versions"].items())
    return f"{versions}, {run['device']} ({run['machine']})"
