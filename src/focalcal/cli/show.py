"""Commands that show what the rest is about."""

from __future__ import annotations

from typing import Annotated

import typer


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
