"""Commands that judge predictions."""

from __future__ import annotations

from typing import Annotated

import typer

from focalcal.cli.options import (
    Bins,
    By,
    Classes,
    Json,
    Label,
    Logits,
    Probs,
    Scheduler,
    Table,
    Weight,
    Where,
    selection,
)


def evaluate(
    table: Table,
    logits: Logits = None,
    probs: Probs = None,
    label: Label = None,
    calibrator: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A calibrator: judge its probabilities too, before and after."),
    ] = None,
    weight: Weight = None,
    where: Where = None,
    classes: Classes = None,
    by: By = None,
    bins: Bins = 15,
    all_metrics: Annotated[
        bool, typer.Option("--all", help="More metrics: smooth ECE, KS error, L2 ECE, mean gap, AURC.")
    ] = False,
    scheduler: Scheduler = None,
    json: Json = False,
) -> None:
    """Judge probabilities, each number with its interval.

    NLL and Brier score fall as probabilities get better. ECE is the mean gap between confidence and accuracy:
    0.05 means that they are five points apart on average.

    \b
    Examples:
      focalcal evaluate test.parquet --logits 'z*' --label y --calibrator cal.json
      focalcal evaluate calibrated.csv --probs 'p_*' --label y --json
      focalcal evaluate 'predictions/*.parquet' --logits 'z*' --label y --by language
    """
    from focalcal import jobs
    from focalcal.calibrators import load
    from focalcal.cli import console, executors

    options = selection(logits, probs, label, weight, where, classes) | {"by": by, "bins": bins}
    with (
        console.collected_warnings() as notes,
        console.Progress(f"Judging {table}") as progress,
        executors.executor(scheduler) as executor,
    ):
        options |= {"executor": executor, "progress": progress.told}
        fitted = None if calibrator is None else load(calibrator)
        metrics = "all" if all_metrics else "standard"
        found, _ = jobs.evaluate_file(table, calibrator=fitted, metrics=metrics, **options)
    if json:
        console.show_json("evaluate", {**found.to_dict(), "notes": notes})
        return
    console.show_evaluations(found.evaluations)
    if by is not None:
        console.show_segments(by, found.segments)
    console.show_notes(notes)


def report(
    table: Table,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to write the report, one HTML file.")
    ],
    logits: Logits = None,
    probs: Probs = None,
    label: Label = None,
    calibrator: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="A calibrator: show the probabilities before and after."),
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Heading of the report.")] = None,
    weight: Weight = None,
    where: Where = None,
    classes: Classes = None,
    by: By = None,
    bins: Bins = 15,
    scheduler: Scheduler = None,
    json: Json = False,
) -> None:
    """Write a report with diagrams and plain words.

    It is one HTML file that needs no network, to open, send and keep.

    \b
    Examples:
      focalcal report test.parquet --logits 'z*' --label y --calibrator cal.json -o report.html
    """
    from focalcal import jobs
    from focalcal.calibrators import load
    from focalcal.cli import console, executors

    options = selection(logits, probs, label, weight, where, classes) | {"by": by, "bins": bins}
    with (
        console.collected_warnings() as notes,
        console.Progress(f"Judging {table}") as progress,
        executors.executor(scheduler) as executor,
    ):
        options |= {"executor": executor, "progress": progress.told}
        fitted = None if calibrator is None else load(calibrator)
        found = jobs.report_file(table, output, calibrator=fitted, title=title, **options)
    if json:
        console.show_json("report", {"output": output, **found.to_dict(), "notes": notes})
        return
    console.show_notes(notes)
    console.show_lines(f"Wrote {output}: open it in a browser")


def compare(
    table: Table,
    other: Annotated[
        str, typer.Argument(metavar="OTHER", help="Another model's predictions for the same rows.")
    ],
    logits: Logits = None,
    probs: Probs = None,
    label: Label = None,
    weight: Weight = None,
    where: Where = None,
    classes: Classes = None,
    bins: Bins = 15,
    json: Json = False,
) -> None:
    """Say which of two models is better, score by score, on the same rows.

    Differences are paired: each with its interval and p-value, OTHER minus TABLE. Below 0, OTHER is better
    (of accuracy, above 0).

    \b
    Examples:
      focalcal compare a.parquet b.parquet --logits 'z*' --label y
    """
    from focalcal import jobs
    from focalcal.cli import console

    options = selection(logits, probs, label, weight, where, classes) | {"bins": bins}
    with console.collected_warnings() as notes, console.Progress(f"Comparing {table}, {other}") as progress:
        found = jobs.compare_files(table, other, progress=progress.told, **options)
    if json:
        console.show_json("compare", {**found.to_dict(), "notes": notes})
        return
    console.show_comparison(found)
    console.show_notes(notes)


def test(
    table: Table,
    logits: Logits = None,
    probs: Probs = None,
    label: Label = None,
    weight: Weight = None,
    where: Where = None,
    classes: Classes = None,
    json: Json = False,
) -> None:
    """Test whether predictions are calibrated.

    A small p-value says that calibrated predictions would hardly look like these. T-Cal finds gaps of any
    shape, KS gaps that keep one sign, Spiegelhalter over- or under-confidence on the whole. With many rows
    every model fails: look at the size of the error (focalcal evaluate) too.

    \b
    Examples:
      focalcal test test.parquet --logits 'z*' --label y
    """
    from focalcal import jobs
    from focalcal.cli import console

    options = selection(logits, probs, label, weight, where, classes)
    with console.collected_warnings() as notes, console.Progress(f"Testing {table}") as progress:
        found = jobs.tests_of_file(table, progress=progress.told, **options)
    if json:
        console.show_json("test", {"tests": [one.to_dict() for one in found], "notes": notes})
        return
    console.show_lines(*map(str, found))
    console.show_notes(notes)
