"""The page of `focalcal reproduce curvature`: each claim of the paper with what the runs say of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from focalcal.experiments.geometry.claims import (
    EQUAL,
    Family,
    Pick,
    Run,
    common_trace,
    control_families,
    equally_accurate,
    focal_families,
    gap,
    own_trace,
    raw_ece,
    scaled_ece,
)
from focalcal.experiments.geometry.study import ROWS, SKETCHES, predicted_ratio
from focalcal.experiments.over_seeds import OverSeeds
from focalcal.experiments.pages.run_facts import data_name
from focalcal.experiments.pages.scatter import scatter_figure
from focalcal.experiments.pages.write import Entry, Figure, Section, Table, write_page
from focalcal.experiments.profiles import NOISE

_COLUMNS: dict[str, Pick] = {
    "accuracy %": lambda one: 100 * one["accuracy"],
    "training accuracy %": lambda one: 100 * one["train"]["accuracy"],
    "ECE %": lambda one: 100 * one["raw"]["ece"],
    "confidence − accuracy %": lambda one: 100 * one["raw"]["gap"],
    "ECE % after TS": lambda one: 100 * one["scaled"]["ece"],
    "NLL after TS": lambda one: one["scaled"]["nll"],
    "own trace": own_trace,
    "own λ₁": lambda one: one["own"]["top"],
    "common trace": common_trace,
    "common λ₁": lambda one: one["common"]["top"],
}

_RATIOS: dict[str, Pick] = {name: _COLUMNS[name] for name in list(_COLUMNS)[-4:]}
_JUDGED: dict[str, Pick] = {name: _COLUMNS[name] for name in list(_COLUMNS)[:-4]}


def curvature_page(
    path: Path, runs: Sequence[Run], facts: Mapping[str, str], *, profile: str, command: str
) -> Path:
    """Write the study as a page, and the same in Markdown beside it.

    Parameters
    ----------
    path : Path
        Of the page.
    runs : sequence of (Recipe, dict)
        Finished runs with what `measured` found.
    facts : mapping of str to str
        As of `run_facts`.
    profile : str
        Named on the page.
    command : str
        What makes it again.
    """
    families, controls = focal_families(runs), control_families(runs)
    noisy = focal_families(runs, noisy=True)
    sections = [_by_gamma(families), _together(families), _divided(families)]
    sections += [_controls(controls)] if controls else []
    sections += [_noise(noisy)] if noisy else []
    sections.append(Section("How it was measured", _HOW, commands=(command,)))
    lead = [_first(families), *_claims(families, controls, noisy)]
    return write_page(
        path, f"Focal loss, curvature and calibration, {profile} profile", lead, sections, facts
    )


_HOW = (
    "Runs of one data set and network differ in what a table names and in their seed, which fixes the first "
    "weights, the order of batches and the labels that are moved; the number of epochs is the same for all. "
    f"Curvature is that of the mean loss over {ROWS} training images in eval mode: the trace of the "
    f"generalised Gauss–Newton matrix by {SKETCHES} sketches of each row, which is the Hessian's for these "
    "piecewise linear networks, and the largest eigenvalue by Lanczos's method. Own: of the loss that was "
    "trained. Common: of cross-entropy at the same weights.",
    "Calibration is that of the test images: ECE of the top class in 15 bins of equal width, before and "
    "after temperature scaling fitted by NLL on validation images. Beneath values: 95 % intervals of "
    "Student's over seeds; for correlations those of 2,000 bootstraps of seeds and of runs within each.",
)


def shown(e: OverSeeds, digits: int = 3, *, signed: bool = False) -> Entry:
    """Return a value with its interval beneath."""
    value, low, high = _numbers(e, digits, signed)
    return (value, f"{low} to {high}") if math.isfinite(e.low) else value


def _numbers(e: OverSeeds, digits: int, signed: bool) -> list[str]:
    """Return value and ends with as many decimals as the larger of value and margin has digits."""
    margin = e.high - e.value
    size = max(abs(e.value), margin) if math.isfinite(margin) else abs(e.value)
    places = digits - 1 - math.floor(math.log10(size)) if math.isfinite(size) and size > 0 else 0
    form = f"{'+' if signed else ''}z.{min(max(places, 0), 6)}f"
    ends = (e.value, e.low, e.high)
    return [format(end, form).replace("-", "−") if math.isfinite(end) else "–" for end in ends]


def _title(family: Family) -> str:
    return f"{data_name(family.data)}, {family.net}"


def _by_gamma(families: Sequence[Family]) -> Section:
    tables, figures = [], []
    for i, family in enumerate(families):
        for what, picks in (("calibration", _JUDGED), ("curvature", _RATIOS)):
            rows = [[f"{g:g}", *(shown(family.mean(g, pick)) for pick in picks.values())] for g in family.by]
            tables.append(Table(f"{_title(family)}: {what}", ["γ", *picks], rows))
        rows = [
            [
                f"{gamma:g}",
                *(shown(family.ratio(gamma, pick)) for pick in _RATIOS.values()),
                shown(family.difference(gamma, _COLUMNS["ECE %"]), signed=True),
            ]
            for gamma in family.strengths
        ]
        header = ["γ", *_RATIOS, "ECE, points apart"]
        tables.append(Table(f"{_title(family)}: ratios to γ = 0, same seed", header, rows))
        for name, pick in (("own", own_trace), ("common", common_trace)):
            points = {
                f"γ = {gamma:g}": (
                    [pick(one) for one in seeds.values()],
                    [100 * raw_ece(one) for one in seeds.values()],
                )
                for gamma, seeds in family.by.items()
            }
            words = f"{_title(family)}: the {name} trace and the ECE, a dot a run"
            drawing = scatter_figure(points, f"{name} trace", "ECE %", words, logs=(True, False))
            figures.append(Figure(f"gamma-{i + 1}-{name}", words, drawing))
    return Section("γ, curvature and calibration", (), tables, figures)


def _together(families: Sequence[Family]) -> Section:
    columns: dict[str, tuple[Pick, bool]] = {
        "with ECE": (raw_ece, False),
        "with ECE, among runs of one γ": (raw_ece, True),
        "with |confidence − accuracy|": (gap, False),
        "with ECE after TS": (scaled_ece, False),
    }
    picks = {name: _RATIOS[name] for name in _RATIOS} | {"|confidence − accuracy|": gap}
    tables = [
        Table(
            _title(family),
            ["rank correlation of", *columns],
            [
                [
                    name,
                    *(
                        ""
                        if name.startswith("|") and (other is gap or within)
                        else shown(family.correlation(pick, other, within=within), 2, signed=True)
                        for other, within in columns.values()
                    ),
                ]
                for name, pick in picks.items()
            ],
        )
        for family in families
    ]
    words = (
        "Spearman's rank correlation over all runs of a data set. Where γ changes, many things change with "
        "it; the second column asks whether, of runs with the same γ, the flatter ones have a lower ECE."
    )
    return Section("Does curvature go with calibration?", (words,), tables)


def _divided(families: Sequence[Family]) -> Section:
    picks: dict[str, Pick] = {
        "T": lambda one: one["temperature"],
        "ECE %": _COLUMNS["ECE %"],
        "ECE % after": _COLUMNS["ECE % after TS"],
        "common trace": common_trace,
        "common trace after": lambda one: one["divided"],
    }
    tables = [
        Table(
            _title(family),
            ["γ", *picks],
            [[f"{g:g}", *(shown(family.mean(g, pick)) for pick in picks.values())] for g in family.by],
        )
        for family in families
    ]
    words = (
        "Dividing the last layer's weights by the fitted temperature is temperature scaling, done in the "
        "weights. If curvature made the calibration, a better calibrated network would be a flatter one."
    )
    return Section("A counter-example: the last layer divided by T", (words,), tables)


def _controls(controls: Mapping[str, Sequence[Family]]) -> Section:
    picks = {name: _COLUMNS[name] for name in ("accuracy %", "ECE %", "ECE % after TS", "NLL after TS")}
    header = ["control", "strength", *picks, "trace, ratio", "λ₁, ratio"]
    rows: dict[str, list[list[Entry]]] = {}
    points: dict[str, tuple[list[float], list[float]]] = {}
    for name, families in controls.items():
        for family in families:
            chosen = equally_accurate(family)
            for s in family.strengths:
                mark = " (equal accuracy)" if s == chosen else ""
                cells = [shown(family.difference(s, pick), signed=True) for pick in picks.values()]
                cells += [shown(family.ratio(s, _RATIOS[f"common {what}"])) for what in ("trace", "λ₁")]
                rows.setdefault(_title(family), []).append([name, f"{s:g}{mark}", *cells])
            for s, seeds in family.by.items():
                if s or "cross-entropy" not in points:
                    at = points.setdefault(name if s else "cross-entropy", ([], []))
                    at[0].extend(common_trace(one) for one in seeds.values())
                    at[1].extend(100 * raw_ece(one) for one in seeds.values())
    label = "The trace and the ECE of cross-entropy's runs with controls, a dot a run"
    drawing = scatter_figure(points, "trace", "ECE %", label, logs=(True, False))
    words = (
        "Each control changes cross-entropy's training only; differences and ratios are to plain "
        "cross-entropy with the same seed. Equal accuracy: the strongest whose validation accuracy is at "
        f"most {100 * EQUAL:g} point below plain cross-entropy's."
    )
    tables = [Table(title, header, each) for title, each in rows.items()]
    return Section("Penalise the trace?", (words,), tables, (Figure("controls", label, drawing),))


def _noise(families: Sequence[Family]) -> Section:
    tables = []
    for family in families:
        rows = [
            [
                f"{gamma:g}",
                shown(family.ratio(gamma, own_trace)),
                f"{predicted_ratio(gamma, NOISE, 10):.2f}",
                shown(family.ratio(gamma, _RATIOS["own λ₁"])),
                shown(family.difference(gamma, _COLUMNS["accuracy %"]), signed=True),
            ]
            for gamma in family.strengths
        ]
        header = ["γ", "own trace, ratio", "predicted", "own λ₁, ratio", "accuracy, points apart"]
        tables.append(Table(f"{_title(family)}, {NOISE:.0%} of the labels moved", header, rows))
    words = (
        "At the optimum of the population focal loss is predicted to have the larger curvature where labels "
        "are noisy, of its own surface too. The prediction is for a linear network whose inputs tell the "
        "class exactly; these runs come as near as logistic regression on all rows can."
    )
    return Section("A counter-example: noisy labels", (words,), tables)


def _first(families: Sequence[Family]) -> str:
    own, common = (
        _sides([f.ratio(g, pick) for f in families for g in f.strengths])
        for pick in (own_trace, common_trace)
    )
    verdict = (
        "Focal loss flattens its own surface" if own[0] == sum(own) else "Focal loss does not always flatten"
    )
    verdict += "" if common[0] > sum(common) / 2 else ", but not that of cross-entropy"
    return (
        f"{verdict}: in {own[0]} of {sum(own)} settings of data and γ the trace for the loss that was "
        "trained lies below that of a network trained with cross-entropy, beyond its interval. The trace "
        f"of cross-entropy at the same weights is lower in {common[0]}, higher in {common[2]}, open in "
        f"{common[1]}."
    )


def _sides(ratios: Sequence[OverSeeds]) -> tuple[int, int, int]:
    below, above = sum(e.high < 1 for e in ratios), sum(e.low > 1 for e in ratios)
    return below, len(ratios) - below - above, above


def _claims(
    families: Sequence[Family], controls: Mapping[str, Sequence[Family]], noisy: Sequence[Family]
) -> list[str]:
    said = []
    for family in families:
        parts = []
        for name, pick in (("own trace", own_trace), ("common trace", common_trace), ("gap", gap)):
            parts.append(f"{name} {_plain(family.correlation(pick, raw_ece), 2)}")
        after = _plain(family.correlation(own_trace, scaled_ece), 2)
        said.append(
            f"{_title(family)}: rank correlation with ECE of {', '.join(parts)} (gap: |confidence − "
            "accuracy|); "
            f"of the own trace with the ECE after temperature scaling {after}."
        )
    for name, each in controls.items():
        for family in each:
            s = equally_accurate(family)
            if s is None:
                said.append(f"{name}: no strength left the validation accuracy within a point.")
                continue
            ece, after = (
                _plain(family.difference(s, _COLUMNS[column]), signed=True)
                for column in ("ECE %", "ECE % after TS")
            )
            said.append(
                f"{name} {s:g} ({_title(family)}, equal accuracy): "
                f"trace {_plain(family.ratio(s, common_trace))} times cross-entropy's, ECE {ece} points; "
                f"after temperature scaling {after}."
            )
    for family in noisy:
        ratios = ", ".join(f"{_plain(family.ratio(g, own_trace))} at γ = {g:g}" for g in family.strengths)
        said.append(f"Noisy labels ({_title(family)}): own trace {ratios} times cross-entropy's.")
    return said


def _plain(e: OverSeeds, digits: int = 3, *, signed: bool = False) -> str:
    value, low, high = _numbers(e, digits, signed)
    return f"{value} [{low}, {high}]"
