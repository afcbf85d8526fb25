"""The command line: each command calls one function of `jobs`, `io.sinks` or `demo` and shows its result."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import typer

from focalcal import __version__

app = typer.Typer(
    name="focalcal",
    help="Make a classifier's probabilities trustworthy, and see why they were not.",
    epilog="Start with:  focalcal demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Table = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help="A .parquet, .csv, .csv.gz, .npz or .npy file; or a quoted pattern 'part*.parquet'.",
    ),
]
Logits = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMNS",
        help="Columns with the logits, one a class: a quoted pattern 'z*' (z9 comes before z10), a list "
        "a,b,c, or one column of lists. For npz the array's key.",
    ),
]
Probs = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMNS", help="The same for a table that holds probabilities instead. Nothing is guessed."
    ),
]
Label = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN", help="Column with the true class: a column number from 0, or a class's name."
    ),
]
Weight = Annotated[
    str | None,
    typer.Option(metavar="COLUMN", help="Column with a weight of each row. Default: all rows alike."),
]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="SQL", help="Only rows for which this holds, e.g. 'not val_mask' or 'year >= 2020'."
    ),
]
Classes = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="The class of each column in order: a list cat,dog or a file with one a line. Default: what "
        "the * of the pattern stands for, if these names cover the labels; else 0, 1, ….",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
Bins = Annotated[int, typer.Option(min=1, help="Number of bins of the calibration errors.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"focalcal {__version__}\n")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit."),
    ] = False,
) -> None:
    pass


@app.command()
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
        Literal["fts", "ts"],
        typer.Option(help="fts: focal temperature scaling (two parameters). ts: temperature scaling (one)."),
    ] = "fts",
    criterion: Annotated[
        Literal["nll", "brier", "ece"],
        typer.Option(help="What to minimise: log-likelihood, Brier score, or the calibration error itself."),
    ] = "nll",
    weight: Weight = None,
    where: Where = None,
    classes: Classes = None,
    json: Json = False,
) -> None:
    """Fit a calibrator on a table of scores and labels.

    Use rows that the model was not trained on: the validation set.

    \b
    Examples:
      focalcal fit val.parquet --logits 'z*' --label y -o cal.json
      focalcal fit val.csv --probs 'p_*' --label species --method ts -o cal.json
      focalcal fit scores.npz --where val_mask -o cal.json
    """
    from focalcal import _console, jobs

    selection = _selection(logits, probs, label, weight, where, classes)
    with _console.collected_warnings() as notes, _console.Progress(f"Fitting on {table}"):
        calibrator, scores = jobs.fit_file(table, method=method, criterion=criterion, **selection)
        calibrator.save(output)
    if json:
        document = {"output": output, "n": scores.n, "calibrator": calibrator.to_dict(), "notes": notes}
        _console.show_json("fit", document)
        return
    _console.show_fit(calibrator, jobs.describe(scores, where))
    _console.show_notes(notes)
    _console.show_lines(f"Wrote {output}")


@app.command()
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
    from focalcal import _console
    from focalcal.calibrators import load
    from focalcal.io import sinks

    with _console.collected_warnings() as notes, _console.Progress(f"Calibrating {table}") as progress:
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
        _console.show_json("apply", document)
        return
    _console.show_notes(notes)
    added = [*result.added[:3], "…", *result.added[-2:]] if len(result.added) > 6 else result.added
    _console.show_lines(f"Wrote {output}: {result.n:,} rows, new: {', '.join(added)}")


@app.command()
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
    bins: Bins = 15,
    json: Json = False,
) -> None:
    """Judge probabilities, each number with its interval.

    NLL and Brier score fall as probabilities get better. ECE is the mean gap between confidence and accuracy:
    0.05 means that they are five points apart on average.

    \b
    Examples:
      focalcal evaluate test.parquet --logits 'z*' --label y --calibrator cal.json
      focalcal evaluate calibrated.csv --probs 'p_*' --label y --json
    """
    from focalcal import _console, jobs
    from focalcal.calibrators import load

    selection = _selection(logits, probs, label, weight, where, classes)
    with _console.collected_warnings() as notes, _console.Progress(f"Judging {table}"):
        fitted = None if calibrator is None else load(calibrator)
        evaluations, scores = jobs.evaluate_file(table, calibrator=fitted, bins=bins, **selection)
    if json:
        document = {name: evaluation.to_dict() for name, evaluation in evaluations.items()}
        _console.show_json("evaluate", {"n": scores.n, **document, "notes": notes})
        return
    _console.show_evaluations(evaluations)
    _console.show_notes(notes)


@app.command()
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
    bins: Bins = 15,
    json: Json = False,
) -> None:
    """Write a report with diagrams and plain words.

    It is one HTML file that needs no network, to open, send and keep.

    \b
    Examples:
      focalcal report test.parquet --logits 'z*' --label y --calibrator cal.json -o report.html
    """
    from focalcal import _console, jobs
    from focalcal.calibrators import load

    selection = _selection(logits, probs, label, weight, where, classes)
    with _console.collected_warnings() as notes, _console.Progress(f"Judging {table}"):
        fitted = None if calibrator is None else load(calibrator)
        evaluations = jobs.report_file(table, output, calibrator=fitted, title=title, bins=bins, **selection)
    if json:
        document = {name: evaluation.to_dict() for name, evaluation in evaluations.items()}
        _console.show_json("report", {"output": output, **document, "notes": notes})
        return
    _console.show_notes(notes)
    _console.show_lines(f"Wrote {output}: open it in a browser")


@app.command()
def demo(
    output_dir: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where to write the tables, the calibrator and the report.")
    ] = "focalcal-demo",
) -> None:
    """Show the whole job on digits; needs no file.

    Trains a small network in seconds, and then runs fit, apply, evaluate and report on its predictions.

    \b
    Examples:
      focalcal demo
    """
    from focalcal import demo as story

    story.show(output_dir)


def _selection(
    logits: str | None,
    probs: str | None,
    label: str | None,
    weight: str | None,
    where: str | None,
    classes: str | None,
) -> dict[str, Any]:
    names = None if classes is None else _class_names(classes)
    return {
        "logits": logits,
        "probs": probs,
        "label": label,
        "weight": weight,
        "where": where,
        "classes": names,
    }


def _class_names(text: str) -> Any:
    """Return the names of a comma-separated list, or of a file with one name a line."""
    import numpy as np

    from focalcal.io.columns import parse_labels

    if os.path.isfile(text):
        with open(text, encoding="utf-8-sig") as file:
            names = [line.rstrip("\r\n") for line in file if line.strip()]
    else:
        names = [name.strip() for name in text.split(",")]
    return parse_labels(np.array(names))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, 2 for a user's error, 130 for Ctrl-C."""
    if arguments is None:
        arguments = sys.argv[1:]
        signal.signal(signal.SIGTERM, _terminate)  # clean up as upon Ctrl-C
    try:
        code = app(prog_name="focalcal", args=list(arguments) or ["--help"], standalone_mode=False)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # the reader of a pipe has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        message = _message_for_user(error)
        if message is None:
            raise
        sys.stderr.write(f"focalcal: error: {message}\n")
        return 2
    return int(code or 0)


def _message_for_user(error: Exception) -> str | None:
    """Return what to tell the user, or None if the error is a bug of focalcal."""
    if hasattr(error, "format_message"):  # how typer says that the command line is wrong
        context = getattr(error, "ctx", None)
        hint = f" Try: {context.command_path} --help" if context is not None else ""
        return " ".join(error.format_message().split()) + hint
    if isinstance(error, OSError):
        return _in_flags(str(error))
    # An error raised by focalcal's own checks is meant for the user. One that surfaces from inside another
    # library, or from a failing import, is a bug.
    expected = isinstance(error, (ValueError, TypeError, ImportError)) and not isinstance(
        error, ModuleNotFoundError
    )
    return _in_flags(str(error)) if expected and _raised_by_focalcal(error) else None


def _raised_by_focalcal(error: Exception) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_globals.get("__name__", "").startswith("focalcal")


def _in_flags(message: str) -> str:
    """Say it as it is typed on the command line, in one line."""
    for keyword, flag in (('input="logits"', "--logits"), ('input="probs"', "--probs")):
        message = message.replace(keyword, flag)
    return " ".join(message.split())


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt
