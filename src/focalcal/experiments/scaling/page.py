"""The page that a reproduction of focal temperature scaling ends with."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

from focalcal.experiments.pages.run_facts import run_facts
from focalcal.experiments.pages.write import Section, write_page
from focalcal.experiments.recipes import Recipe
from focalcal.experiments.scaling.claims import Cell, Claim, cells, claims
from focalcal.experiments.scaling.sections import (
    claim_table,
    difference_figures,
    main_and_others,
    parameter_section,
    published_section,
    settings_section,
    stand_in_section,
)
from focalcal.experiments.scaling.stand_ins import stand_in_claims, study_stand_ins
from focalcal.experiments.scaling.study import study_sweep
from focalcal.experiments.scaling.words import by_pair, headline, sentence
from focalcal.experiments.sweep import Sweep
from focalcal.io.files import written_aside

_READING = (
    "A setting is a data set, a network and a loss; its runs differ in their seeds: first weights, order "
    "and augmentation. Each method is fitted on the run's validation rows and judged on its test rows. Of "
    "two methods the difference is taken run by run, on the same rows, so that it is known far better than "
    "either of the two. Its interval is Student's over seeds: it tells what another seed would change, for "
    "these test rows.",
    "Lower is better for every measure. A difference counts as lower or higher where its 95 % interval "
    "leaves out 0. Where two methods are equal, one interval in 40 lies below 0 by chance, and one in 40 "
    "above.",
    "The mean over all runs takes runs of a setting to be alike and settings to be independent, which those "
    "that share their images are only in part.",
    "FTS has one parameter more than TS. TS mixed with uniform, (1 − λ) softmax(z/T) + λ/K, has as many as "
    "FTS; SMS, structured matrix scaling of probmetrics, has many and is regularised.",
)


def fts_page(
    folder: str | os.PathLike[str],
    *,
    profile: str,
    command: str,
    among: Collection[Recipe] | None = None,
    scores: Sequence[str | os.PathLike[str]] = (),
    executor: Executor | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Judge every finished run of a sweep and write what they say: fts.html, fts.md, fts.json, fts-*.svg.

    Parameters
    ----------
    folder : path-like
        Of the `Sweep`; gets the files. What was judged before is not judged again.
    profile : str
        Named on the page.
    command : str
        How to run it again.
    among : collection of Recipe, optional
        The runs that are studied. Default: all of the sweep.
    scores : sequence of path-like
        Files as of `read_stand_in`, studied beside the runs.
    executor : concurrent.futures.Executor, optional
        Where runs and files are judged.
    progress : callable, optional
        Told (key, runs judged, runs).

    Returns
    -------
    pathlib.Path
        The page.

    Raises
    ------
    ValueError
        If no run is finished, or as `cells` does.
    """
    folder = Path(folder)
    held = cells(study_sweep(folder, among=among, executor=executor, progress=progress))
    if not held:
        raise ValueError(f"Expected a finished run in {folder}, got none. Train some first.")
    others = study_stand_ins(folder, scores, executor=executor)
    plain = claims([cell for cell in held if not _is_adafocal(cell)])
    adafocal = claims([cell for cell in held if _is_adafocal(cell)])
    files = stand_in_claims(others) if others else []
    sweep = Sweep(folder)
    facts = run_facts(profile, sweep.done(among), sweep.status(among).runs)
    sections = [
        _first_section(plain or adafocal),
        *([_adafocal_section(adafocal)] if plain and adafocal else []),
        parameter_section(held),
        settings_section(held),
        published_section(held),
        *([stand_in_section(others, files)] if files else []),
        Section("How to read it", _READING),
        Section("How to run it again", commands=[command]),
    ]
    told = {
        "facts": facts,
        "command": command,
        "claims": [one.to_dict() for one in plain],
        "on_adafocal": [one.to_dict() for one in adafocal],
        "on_others": [one.to_dict() for one in files],
        "settings": [_plain_cell(cell) for cell in held],
        "files": [{"name": name} | one for name, one in others],
    }
    with written_aside(folder / "fts.json") as aside:
        Path(aside).write_text(json.dumps(_finite(told), indent=1, allow_nan=False), encoding="utf-8")
    title = f"Focal temperature scaling against temperature scaling, {profile} profile"
    return write_page(folder / "fts.html", title, _lead(plain or adafocal, adafocal), sections, facts)


def _is_adafocal(cell: Cell) -> bool:
    return cell.recipes[0].loss == "adafocal"


def _lead(plain: Sequence[Claim], adafocal: Sequence[Claim]) -> list[str]:
    held = by_pair(plain)
    said = [headline(held["FTS nll", "TS nll", "nll"])]
    wanted = (
        ("FTS ece", "TS ece", "ece"),
        ("FTS brier", "TS brier", "brier"),
        ("FTS nll", "TS + uniform", "nll"),
        ("TS nll", "raw", "nll"),
    )
    said += [sentence(held[key]) for key in wanted]
    if plain is not adafocal and adafocal:
        said.append(f"On top of AdaFocal. {sentence(by_pair(adafocal)['FTS nll', 'TS nll', 'nll'])}")
    return said


def _first_section(found: Sequence[Claim]) -> Section:
    main, others = main_and_others(found)
    text = (
        "In how many settings focal temperature scaling (FTS) and temperature scaling (TS), fitted by the "
        "same criterion on the same rows, differ beyond the 95 % interval over seeds. AdaFocal has a part of "
        "its own."
    )
    tables = [claim_table(main, "FTS less TS"), claim_table(others, "Other comparisons", folded=True)]
    return Section(
        "Does it beat temperature scaling?", [text], tables, difference_figures(found, "difference")
    )


def _adafocal_section(found: Sequence[Claim]) -> Section:
    main, others = main_and_others(found)
    text = "AdaFocal calibrates while it trains: what is left for scaling afterwards?"
    tables = [
        claim_table(main, "FTS less TS, on top of AdaFocal"),
        claim_table(others, "Other comparisons on top of AdaFocal", folded=True),
    ]
    return Section("On top of AdaFocal", [text], tables)


def _plain_cell(cell: Cell) -> dict[str, Any]:
    data, net, loss = cell.name
    return {
        "data": data,
        "net": net,
        "loss": loss,
        "seeds": [recipe.seed for recipe in cell.recipes],
        "seconds": cell.seconds,
        "accuracy": vars(cell.accuracy),
        "values": cell.values,
        "parameters": cell.parameters,
    }


def _finite(value: Any) -> Any:
    """Return plain values in which numbers that are not finite are None, as JSON wants it."""
    if isinstance(value, dict):
        return {name: _finite(held) for name, held in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(held) for held in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
