"""The command that takes a calibrator to where there is no Python."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from focalcal.cli.options import Json


def export(
    calibrator: Annotated[str, typer.Argument(metavar="CALIBRATOR", help="A file written by focalcal fit.")],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to write the ONNX model.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="A classifier in ONNX with one output, its scores: the calibrator is appended to it.",
        ),
    ] = None,
    dtype: Annotated[
        Literal["float32", "float64"], typer.Option(help="Precision of inputs, arithmetic and outputs.")
    ] = "float32",
    json: Json = False,
) -> None:
    """Write a calibrator as an ONNX model, alone or behind a classifier.

    Any ONNX runtime then gives log_probs and probs. Needs focalcal[onnx].

    \b
    Examples:
      focalcal export cal.json -o cal.onnx
      focalcal export cal.json --model classifier.onnx -o calibrated.onnx
    """
    from focalcal.calibrators import load
    from focalcal.calibrators.onnx.export import to_onnx
    from focalcal.cli import console

    graph = to_onnx(load(calibrator), output, dtype=dtype, model=model).graph
    inputs, outputs = ([value.name for value in values] for values in (graph.input, graph.output))
    if json:
        console.show_json("export", {"output": output, "inputs": inputs, "outputs": outputs})
        return
    console.show_lines(f"Wrote {output}: from {', '.join(inputs)} to {', '.join(outputs)}")
