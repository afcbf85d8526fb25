"""Commands that make and use a calibrator."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from focalcal.cli.options import (
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
from focalcal.methods import METHODS


def fit(
    table: Table,
    output: Annotated[
        str,
        typer.Option(
            "--output", "-o", metavar="FILE", help="Where to write the calibrator, a small JSON file."
        ),
    ],
    logits: Logits = None,
    probs: Probs = None,
    label: Label = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="auto: the best on rows left out. fts: focal temperature scaling (two parameters). ts: "
            f"temperature scaling (one). Or {', '.join(list(METHODS)[2:])}.",
        ),
    ] = "fts",
    criterion: Annotated[
        Literal["nll", "brier", "ece"],
        typer.Option(
            help="What fts and ts minimise: log-likelihood, Brier score, or the calibration error itself."
        ),
    ] = "nll",
    weight: Weight = None,
    where: Where = None,
    classes: Classes = None,
    scheduler: Scheduler = None,
    json: Json = False,
) -> None:
    """Fit a calibrator on a table of scores and labels.

    Use rows that the model was not trained on: the validation set.

    \b
    Examples:
      focalcal fit val.parquet --logits 'z*' --label y -o cal.json
      focalcal fit val.parquet --logits 'z*' --label y --method auto -o cal.json
      focalcal fit val.csv --probs 'p_*' --label species --method ts -o cal.json
      focalcal fit scores.npz --where val_mask --method sms -o cal.json
    """
    from focalcal import jobs
    from focalcal.cli import console, executors

    options = selection(logits, probs, label, weight, where, classes)
    with (
        console.collected_warnings() as notes,
        console.Progress(f"Fitting on {table}") as progress,
        executors.executor(scheduler) as executor,
    ):
        options |= {"executor": executor, "progress": progress.told}
        calibrator, scores = jobs.fit_file(table, method=method, criterion=criterion, **options)
        calibrator.save(output)
    if json:
        document = {
            "output": output,
            "n": calibrator.n_fit_,
            "calibrator": calibrator.to_dict(),
            "notes": notes,
        }
        console.show_json("fit", document)
        return
    console.show_fit(calibrator, jobs.describe(scores, calibrator.n_fit_))
    console.show_notes(notes)
    console.show_lines(f"Wrote {output}")


def apply(
    calibrator: Annotated[str, typer.Argument(metavar="CALIBRATOR", help="A file written by focalcal fit.")],
    table: Table,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to write: .parquet, .csv or .csv.gz; for npz and npy .npz.",
        ),
    ],
    logits: Logits = None,
    probs: Probs = None,
    where: Where = None,
    output_kind: Annotated[
        Literal["probs", "log_probs"],
        typer.Option(help="Add probabilities, or their natural logarithms (exact however small)."),
    ] = "probs",
    prefix: Annotated[
        str | None,
        typer.Option(metavar="TEXT", help="Beginning of the new columns' names. Default: p_ (or log_p_)."),
    ] = None,
    predicted: Annotated[
        str, typer.Option(metavar="NAME", help="Name of the new column with the predicted class.")
    ] = "predicted",
    json: Json = False,
) -> None:
    """Write a table with calibrated probabilities added.

    All other columns pass through unchanged, and so does the order of the rows. The output appears only when
    it is complete.

    \b
    Examples:
      focalcal apply cal.json test.parquet --logits 'z*' -o calibrated.parquet
      focalcal apply cal.json scores.npz --where 'not val_mask' -o calibrated.npz
    """
    from focalcal.calibrators import load
    from focalcal.cli import console
    from focalcal.io import sinks

    with console.collected_warnings() as notes, console.Progress(f"Calibrating {table}") as progress:
        result = sinks.apply(
            load(calibrator),
            table,
            output,
            logits=logits,
            probs=probs,
            where=where,
            output_kind=output_kind,
            prefix=prefix,
            predicted=predicted,
            progress=progress.rows,
        )
    if json:
        document = {"output": output, "n": result.n, "added": list(result.added), "notes": notes}
        console.show_json("apply", document)
        return
    console.show_notes(notes)
    added = [*result.added[:3], "…", *result.added[-2:]] if len(result.added) > 6 else result.added
    console.show_lines(f"Wrote {output}: {result.n:,} rows, new: {', '.join(added)}")
