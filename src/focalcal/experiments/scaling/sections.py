"""The parts of the page on focal temperature scaling: tables and figures of its claims, settings and nets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from focalcal.experiments.over_seeds import OverSeeds
from focalcal.experiments.pages.run_facts import data_name
from focalcal.experiments.pages.scatter import scatter_figure
from focalcal.experiments.pages.write import Entry, Figure, Section, Table
from focalcal.experiments.scaling.claims import CLAIMED, Cell, Claim
from focalcal.experiments.scaling.figures import difference_figure
from focalcal.experiments.scaling.methods import CRITERIA
from focalcal.experiments.scaling.published_tables import is_published, printed
from focalcal.experiments.scaling.words import (
    MEASURES,
    by_pair,
    entry,
    method_name,
    overall,
    pair_name,
    setting_entry,
    value,
)

#: Settings with the differences that a figure shows.
Rows = list[tuple[tuple[str, str, str], list[OverSeeds]]]

_MAIN = tuple((f"FTS {criterion}", f"TS {criterion}") for criterion in CRITERIA)

_HEADER = ("Measure, comparison", "Lower in", "Higher in", "Open in", "Mean difference")


def claim_table(found: Sequence[Claim], caption: str, *, folded: bool = False) -> Table:
    """Return a row for each claim."""
    rows: list[list[Entry]] = []
    for claim in found:
        name, _, _, unit = MEASURES[claim.metric]
        counts = [str(claim.count(side)) for side in ("below", "above", "open")]
        difference = entry(overall(claim), claim.metric, signed=True)
        named = (f"{name}{unit and ',' + unit}", pair_name(claim.method, claim.rival))
        rows.append([named, *counts, difference])
    return Table(caption, _HEADER, rows, folded)


def main_and_others(found: Sequence[Claim]) -> tuple[list[Claim], list[Claim]]:
    """Part the claims that compare FTS with TS by the same criterion from the others."""
    main = [one for one in found if (one.method, one.rival) in _MAIN]
    return main, [one for one in found if one not in main]


def difference_figures(found: Sequence[Claim], prefix: str) -> list[Figure]:
    """Return a figure for each measure: FTS less TS, full by log loss, hollow by ECE."""
    held, figures = by_pair(found), []
    for metric in CLAIMED:
        by_loss, by_ece = (held[f"FTS {c}", f"TS {c}", metric] for c in ("nll", "ece"))
        name, factor, _, unit = MEASURES[metric]
        rows = [
            (setting, [one.times(factor), other.times(factor)])
            for (setting, one), (_, other) in zip(by_loss.cells, by_ece.cells, strict=True)
        ]
        axis = f"{name}: FTS less TS{unit and ',' + unit}"
        label = f"{name} of focal temperature scaling less that of temperature scaling, setting by setting"
        caption = f"{name}: full, both fitted by log loss; hollow, both by ECE"
        file = f"{prefix}-{metric.replace(' ', '-')}"
        figures.append(Figure(file, caption, difference_figure(_headed(rows), axis, label)))
    return figures


def _headed(rows: Rows) -> list[tuple[str, list[OverSeeds]]]:
    """Put a heading, without marks, before the settings of each data set and network; files have none."""
    made: list[tuple[str, list[OverSeeds]]] = []
    last: tuple[str, str] | None = None
    for (data, net, loss), each in rows:
        if net and (data, net) != last:
            made.append((f"{data_name(data)}, {net}", []))
        last = data, net
        made.append((loss, each))
    return made


def parameter_section(held: Sequence[Cell]) -> Section:
    """Return where T and γ were fitted by log loss."""
    figures, grouped = [], dict[tuple[str, str], list[Cell]]()
    for cell in held:
        grouped.setdefault(cell.name[:2], []).append(cell)
    for i, ((data, net), each) in enumerate(grouped.items(), 1):
        fits = {cell.name[2]: cell.parameters["FTS nll"] for cell in each}
        points = {name: (fit["temperature"], fit["gamma"]) for name, fit in fits.items()}
        caption = f"{data_name(data)}, {net}: a dot is a run, a number its loss's median"
        label = f"Fitted temperature and gamma of {data_name(data)}, {net}"
        drawn = scatter_figure(points, "temperature T", "γ", label, logs=(True, False))
        figures.append(Figure(f"parameters-{i}", caption, drawn))
    rows: list[list[Entry]] = [
        [setting_entry(cell.name), str(cell.accuracy.n), f"{cell.accuracy.value:.1%}", *_parameters(cell)]
        for cell in held
    ]
    header = ("Setting", "Runs", "Accuracy", "T of TS", "T of FTS", "γ of FTS", "Uniform share")
    text = (
        "T and γ trade against each other: along a line of the plane the map hardly changes, so that runs of "
        "one setting can lie far apart and still give the same probabilities. γ = 0 is temperature scaling; "
        "−1 and 20 are the bounds of the fit."
    )
    table = Table("Medians over runs, fitted by log loss, and their range", header, rows)
    return Section("The fitted parameters", [text], [table], figures)


def _parameters(cell: Cell) -> list[Entry]:
    wanted = (
        ("TS nll", "temperature", 2),
        ("FTS nll", "temperature", 2),
        ("FTS nll", "gamma", 2),
        ("TS + uniform", "share", 4),
    )
    found: list[Entry] = []
    for method, name, digits in wanted:
        each = np.array(cell.parameters[method][name])
        middle, low, high = (f"{v:.{digits}f}" for v in (np.median(each), each.min(), each.max()))
        found.append((middle.replace("-", "−"), f"{low} to {high}".replace("-", "−")))
    return found


def settings_section(held: Sequence[Cell]) -> Section:
    """Return every measure of every method in every setting."""
    header = ("Method", *(name for name, *_ in MEASURES.values()))
    tables = [
        Table(
            f"{', '.join(setting_entry(cell.name))}: {cell.accuracy.n} runs, {cell.accuracy.value:.1%} right",
            header,
            [
                [method_name(method), *(entry(cell.mean(method, metric), metric) for metric in MEASURES)]
                for method in cell.values
            ],
            folded=True,
        )
        for cell in held
    ]
    text = (
        "Means over seeds with Student's 95 % intervals, on the test rows. Log loss in nats; calibration "
        "errors in percentage points, of the top class in 15 bins of equal mass, of every class, and of the "
        "top class in 15 bins of equal width."
    )
    return Section("Every setting", [text], tables)


def published_section(held: Sequence[Cell]) -> Section:
    """Return published calibration errors, beside those of settings with the published set-up."""
    ours = {cell.name: cell for cell in held if is_published(cell.recipes[0])}
    matched = [one for one in printed() if one.name in ours]
    rows: list[list[Entry]] = []
    for one in matched or printed():
        row: list[Entry] = [setting_entry(one.name), f"{one.before:.2f}"]
        after = f"{one.after:.2f} ({one.temperature:g})"
        rows.append([*row, after, *_ours(ours[one.name])] if matched else [*row, after])
    header = ["Setting", "Published, before", "Published, after TS (T)"]
    text = [
        "ECE in percent, 15 bins of equal width, before and after temperature scaling, whose T lowers the "
        "validation rows' ECE most. " + "; ".join(sorted({one.source for one in printed()})) + "."
    ]
    if matched:
        table = Table("Published numbers and ours", [*header, "Ours, before", "Ours, after TS", "T"], rows)
    else:
        text.append("No setting of this profile has the published set-up, so nothing stands beside them.")
        table = Table("The published numbers", header, rows, folded=True)
    return Section("Beside the published numbers", text, [table])


def _ours(cell: Cell) -> list[Entry]:
    wide = "ece, equal width"
    temperature = np.mean(cell.parameters["TS ece"]["temperature"])
    return [
        entry(cell.mean("raw", wide), wide),
        entry(cell.mean("TS ece", wide), wide),
        f"{temperature:.2f}",
    ]


def stand_in_section(found: Sequence[tuple[str, dict[str, Any]]], held: Sequence[Claim]) -> Section:
    """Return the comparisons on networks of others."""
    main, others = main_and_others(held)
    rows: list[list[Entry]] = []
    for name, one in found:
        fitted = one["found"]["FTS nll"]["parameters"]
        shares = [one["found"][method]["metrics"]["nll"] for method in ("raw", "TS nll", "FTS nll")]
        at = [f"{fitted[key]:.2f}".replace("-", "−") for key in ("temperature", "gamma")]
        row = [name, str(one["rows"]["test"]), str(one["classes"]), f"{one['accuracy']:.1%}"]
        rows.append([*row, *(value(v, "nll") for v in shares), *at])
    header = ("Scores", "Rows", "Classes", "Accuracy", "Log loss", "after TS", "after FTS", "T", "γ")
    text = (
        "Scores of networks that others trained, parted into rows to fit on and rows to judge on. There is "
        "one network of each, so the intervals are paired ones over the judged rows, taken as independent "
        "(log loss, Brier score: normal; calibration errors, here in bins of equal width and freed of what "
        "noise adds: MOVER). The mean difference is that over files, with Student's interval."
    )
    tables = [
        claim_table(main, "FTS less TS: in how many files"),
        claim_table(others, "Other comparisons on these files", folded=True),
        Table("The files", header, rows, folded=True),
    ]
    return Section("On networks of others", [text], tables, difference_figures(held, "others"))
