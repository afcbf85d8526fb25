"""The command line: each command calls one function of the package and shows its result."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from focalcal import __version__
from focalcal.cli import calibrate, curvature, export, judge, reproduce, show

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


for _command in (
    *(calibrate.fit, calibrate.apply, export.export),
    *(judge.evaluate, judge.report, judge.compare, judge.test),
    *(curvature.curvature, reproduce.reproduce, show.explore, show.figures, show.demo),
):
    app.command()(_command)


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
