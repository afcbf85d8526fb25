"""Commands that show what the rest is about."""

from __future__ import annotations

from typing import Annotated

import typer

from focalcal.cli.options import Classes, Json, Label, Logits, Probs, Weight, Where, selection


def explore(
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to write the page, one HTML file.")
    ],
    table: Annotated[
        str | None,
        typer.Argument(metavar="TABLE", help="Predictions to show too: a file as for focalcal evaluate."),
    ] = None,
    logits: Logits = None,
    probs: Probs = None,
    label: Label = None,
    weight: Weight = None,
    where: Where = None,
    classes: Classes = None,
    rows: Annotated[int, typer.Option(min=1, help="The most rows that the page holds.")] = 5000,
    seed: Annotated[int, typer.Option(min=0, help="Of the draw of these rows.")] = 0,
    json: Json = False,
) -> None:
    """Write an interactive page: the maps under sliders.

    It is one HTML file that needs no network. With a table it shows what T and γ do to these predictions; the
    rows drawn for that, without names, are then in the file for whoever has it.

    \b
    Examples:
      focalcal explore -o explore.html
      focalcal explore test.parquet --logits 'z*' --label y -o explore.html
    """
    from focalcal import explorer
    from focalcal.cli import console

    options = selection(logits, probs, label, weight, where, classes)
    with (
        console.collected_warnings() as notes,
        console.Progress(f"Reading {table}" if table else "Writing the page") as progress,
    ):
        held = explorer.explore_file(output, table, rows=rows, seed=seed, progress=progress.told, **options)
    if json:
        found = {"n": 0, "whole": 0} if held is None else {"n": held.n, "whole": held.whole}
        console.show_json("explore", {"output": output, **found, "notes": notes})
        return
    console.show_notes(notes)
    if held is not None:
        console.show_lines(
            f"The page holds {held.n:,} of {held.whole:,} rows: give it to nobody who may not see them"
        )
    console.show_lines(f"Wrote {output}: open it in a browser")


def figures(
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FOLDER", help="Where to write; made if it is not there.")
    ],
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", metavar="FORMAT", help="svg, pdf or png; may be repeated. Default: all three."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Draw the focal calibration map's three figures.

    The loss with its proper part and the map; the map beside temperature scaling; the map between two
    temperatures. Vector graphics for papers and slides; the same bytes in every run.

    \b
    Examples:
      focalcal figures -o figures
      focalcal figures -o figures --format png
    """
    from focalcal import figures
    from focalcal.cli import console

    written = [str(path) for path in figures(output, **({"formats": formats} if formats else {}))]
    if json:
        console.show_json("figures", {"output": output, "written": written})
        return
    console.show_lines(*(f"Wrote {path}" for path in written))


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
