"""What the template shows of diagrams, classes and the profile: drawings with their captions and words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from focalcal.calibrators.temperature.profile import Place, Profile
from focalcal.intervals.estimate import Estimate
from focalcal.intervals.resample import wilson_interval
from focalcal.reporting.classes import ClassErrors, Classes, one_class
from focalcal.reporting.diagrams import close_up, reliability
from focalcal.reporting.landscape import contours, curves
from focalcal.reporting.names import shown
from focalcal.reporting.svg import number
from focalcal.reporting.tables import bin_rows, class_table, p_text
from focalcal.reporting.words import interval
from focalcal.verdicts.evaluation import Evaluation

#: Classes that have a diagram.
DRAWN = 6


def diagram(name: str, evaluation: Evaluation) -> dict[str, Any]:
    """Return the diagram of the top class, and its numbers as a table."""
    bins, ece = evaluation.bins, evaluation["ece"]
    table = bin_rows(evaluation, *wilson_interval(bins.hit_rate, bins.effective_count, ece.level))
    label = f"Reliability diagram, {shown(name)}: ECE {interval(ece)}. The bins follow as a table."
    return {
        "name": shown(name),
        "number": f"ECE {interval(ece)}",
        "svg": reliability(bins, ece.level, label),
        "table": table,
    }


def class_view(classes: Classes) -> dict[str, Any]:
    """Return the worst classes' diagrams and the table of all."""
    names = list(classes.errors)
    n = len(classes.names)
    sure = int((classes.last.low > 0).sum())
    worst = classes.order[:DRAWN] if n > 2 else classes.order[-1:]
    of = f" of “{shown(names[-1])}”" if len(names) > 1 else ""
    summary = (
        f"For {sure:,} of {n:,} classes the interval of the error{of} starts above 0. "
        + ("The largest are shown" if n > DRAWN else "All are shown")
        + ", by the lower end of the interval: a class of few rows shows a large error by chance alone."
    )
    if n == 2:
        summary = "With two classes the one mirrors the other, so one is shown."
    return {
        "summary": summary,
        "diagrams": [_of_class(classes, int(k)) for k in worst],
        "table": class_table(classes),
        "before": shown(names[0]) if len(names) > 1 else None,
        "after": shown(names[-1]),
        "by_chance": f"{n * (1 - classes.level):,.1f}".removesuffix(".0"),
        "n": f"{n:,}",
    }


def _of_class(classes: Classes, k: int) -> dict[str, Any]:
    errors = list(classes.errors.values())
    caption = f"ECE {interval(_estimate(errors[-1], k, classes.level))}"
    before = one_class(errors[0].sums, k) if len(errors) > 1 else None
    name = shown(classes.names[k])
    label = f"Reliability diagram of the class {name}: {caption}"
    bins = one_class(errors[-1].sums, k)
    svg = reliability(bins, classes.level, label, layout=close_up(bins), before=before)
    return {"name": name, "number": caption, "svg": svg}


def _estimate(errors: ClassErrors, k: int, level: float) -> Estimate:
    value, low, high = (float(column[k]) for column in (errors.value, errors.low, errors.high))
    return Estimate(value, math.nan, low, high, 0, "", level)


def profile_view(profile: Profile, artefact: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the drawings of the log loss and what they show in words."""
    low, high = profile.interval
    label = (
        f"Mean log loss against temperature. Lowest at T = {profile.optimum.temperature:.3g}; "
        f"region from {low:.3g} to {high:.3g}."
    )
    named = "the scores as they are, T = 1" if artefact is None else "the calibrator's parameters"
    return {
        "words": _region_words(profile, artefact),
        "curves": curves(profile, label),
        "contours": (
            contours(profile, f"Mean log loss over temperature and γ. {_inside(profile, artefact)}")
            if profile.surface is not None
            else None
        ),
        "fitted": named,
        "as_is": artefact is None,
        "level": f"{profile.level:.0%}",
        "method": _method(profile),
    }


def _inside(profile: Profile, artefact: Mapping[str, Any] | None) -> str:
    side = "inside" if profile.inside else "outside"
    what = "T = 1, no change of the scores, lies" if artefact is None else "The fitted parameters lie"
    return f"{what} {side} the region these rows support."


def _told(place: Place, both: bool) -> str:
    """Return parameters in words that stay on one line."""
    told = f"T = {number(place.temperature, 4)}" + (f", γ = {number(place.gamma, 3)}" if both else "")
    return told.replace(" = ", "\u00a0=\u00a0")


def _region_words(profile: Profile, artefact: Mapping[str, Any] | None) -> list[str]:
    low, high = profile.interval
    best, here = profile.optimum, profile.fitted
    both = profile.parameters == 2
    words = [
        f"{_inside(profile, artefact)} The log loss is lowest at {_told(best, both)}, where it is "
        f"{best.loss:.4f}; at {_told(here, both)} it is {here.loss:.4f}. Temperatures from "
        f"{number(low, 4)} to {number(high, 4)} are supported" + (", each with its best γ." if both else ".")
    ]
    p_value = profile.p_value
    if artefact is None:
        return words
    if math.isnan(p_value):
        words.append("The fit did not minimise the log loss, so it need not lie near its minimum.")
    elif p_value < 0.05:
        words.append(
            f"The fit's own error does not explain the distance (p = {p_text(p_value)}): these rows are "
            "unlike those of the fit."
        )
    elif not profile.inside:
        words.append(
            "That is no sign of other data: the parameters were fitted on other rows and have an error of "
            f"their own, which can explain the distance (p = {p_text(p_value)})."
        )
    return words


def _method(profile: Profile) -> str:
    counted = f"{profile.n_used:,} rows"
    if profile.n_used < profile.n:
        counted = f"a sample of {profile.n_used:,} of the {profile.n:,} rows, spread evenly"
    if abs(profile.n_effective - profile.n_used) > 0.5:
        counted += f" (with their weights worth {profile.n_effective:,.0f})"
    both = profile.parameters == 2
    lines = " The lines of the map are where it is 4, 16, 64, … times as much." if both else ""
    return (
        f"Computed on {counted}. The region is where twice the number of rows times the loss above its "
        f"minimum is below the {profile.level:.0%} quantile of χ² with {profile.parameters} "
        f"degree{'s' * both} of freedom.{lines}"
    )
