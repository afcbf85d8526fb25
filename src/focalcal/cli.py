"""The command line: each command calls one function of `jobs`, `io.sinks` or `demo` and shows its result."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Literal

import typer

from focalcal import __version__
from focalcal._options import (
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

app = typer.Typer(
    name="focalcal",
    help="Make a classifier's probabilities trustworthy, and see why they were not.",
    epilog="Start with:  focalcal demo",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from focalcal import kernels

        sys.stdout.write(f"focalcal {__version__}, row loops: {kernels.describe()}\n")
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
    scheduler: Scheduler = None,
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
    from focalcal import _console, cluster, jobs

    options = selection(logits, probs, label, weight, where, classes)
    with (
        _console.collected_warnings() as notes,
        _console.Progress(f"Fitting on {table}") as progress,
        cluster.executor(scheduler) as executor,
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
        _console.show_json("fit", document)
        return
    _console.show_fit(calibrator, jobs.describe(scores, calibrator.n_fit_))
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
    by: By = None,
    bins: Bins = 15,
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
    from focalcal import _console, cluster, jobs
    from focalcal.calibrators import load

    options = selection(logits, probs, label, weight, where, classes) | {"by": by, "bins": bins}
    with (
        _console.collected_warnings() as notes,
        _console.Progress(f"Judging {table}") as progress,
        cluster.executor(scheduler) as executor,
    ):
        options |= {"executor": executor, "progress": progress.told}
        fitted = None if calibrator is None else load(calibrator)
        found, _ = jobs.evaluate_file(table, calibrator=fitted, **options)
    if json:
        _console.show_json("evaluate", {**found.to_dict(), "notes": notes})
        return
    _console.show_evaluations(found.evaluations)
    if by is not None:
        _console.show_segments(by, found.segments)
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
    from focalcal import _console, cluster, jobs
    from focalcal.calibrators import load

    options = selection(logits, probs, label, weight, where, classes) | {"by": by, "bins": bins}
    with (
        _console.collected_warnings() as notes,
        _console.Progress(f"Judging {table}") as progress,
        cluster.executor(scheduler) as executor,
    ):
        options |= {"executor": executor, "progress": progress.told}
        fitted = None if calibrator is None else load(calibrator)
        found = jobs.report_file(table, output, calibrator=fitted, title=title, **options)
    if json:
        _console.show_json("report", {"output": output, **found.to_dict(), "notes": notes})
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
